//! The manifest inside a component: a custom section at its top level, so that
//! one file is the whole service and other tools pass it by.
//!
//! Reads only the frame of the file (header, section ids and sizes), which is
//! the same for all of WebAssembly. What it is given may be hostile.

/// Names the custom section that carries the manifest, as TOML.
pub const SECTION: &str = "tidemill:manifest";

const MAGIC: &[u8] = b"\0asm";
/// Version 13, layer 1: a component. A core module has `1, 0, 0, 0`.
const COMPONENT: &[u8] = &[0x0d, 0x00, 0x01, 0x00];
const MODULE: &[u8] = &[0x01, 0x00, 0x00, 0x00];
const HEADER: usize = 8;

/// Why a file has no manifest to read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionError {
    /// It doesn't begin as a WebAssembly file does.
    #[error(
        "this is not a WebAssembly component: it does not begin with \"\\0asm\". \
         `tidemill build` makes one"
    )]
    NotWasm,
    /// It is a module of core WebAssembly.
    #[error(
        "this is a core WebAssembly module, not a component: build it for the target \
         wasm32-wasip2, as `tidemill build` does"
    )]
    Module,
    /// It is a component of a version that isn't known.
    #[error("this is a WebAssembly component of an unknown version ({0:02x?})")]
    Version([u8; 4]),
    /// The file ends early, or its frame is broken.
    #[error("the component is damaged at byte {0}: is the file complete?")]
    Damaged(usize),
    /// There is more than one manifest.
    #[error("the component has two \"tidemill:manifest\" sections: build it again")]
    Twice,
    /// The manifest is larger than [`MAX_SIZE`](crate::MAX_SIZE).
    #[error("the manifest in the component has {0} bytes, more than a manifest can have")]
    TooLarge(usize),
    /// The manifest is not text.
    #[error("the manifest in the component is not UTF-8")]
    NotText,
}

/// Whether a file begins as a component does.
#[must_use]
pub fn is_component(file: &[u8]) -> bool {
    check(file).is_ok()
}

/// The manifest that a component carries, as TOML; none if it carries none.
///
/// # Errors
/// The file is no component, or is damaged, or its manifest is no text.
pub fn embedded(component: &[u8]) -> Result<Option<String>, SectionError> {
    check(component)?;
    let mut found = None;
    for section in Sections::new(component) {
        let section = section?;
        let Some(content) = section.manifest(component) else {
            continue;
        };
        if found.is_some() {
            return Err(SectionError::Twice);
        }
        if content.len() > crate::MAX_SIZE {
            return Err(SectionError::TooLarge(content.len()));
        }
        let text = std::str::from_utf8(content).map_err(|_| SectionError::NotText)?;
        found = Some(text.to_owned());
    }
    Ok(found)
}

/// The component with this manifest in it, in place of any it had.
///
/// A file that isn't a component is changed too, but stays what it is: check
/// with [`is_component`].
#[must_use]
pub fn embed(component: &[u8], toml: &str) -> Vec<u8> {
    let mut output = Vec::with_capacity(component.len() + toml.len() + SECTION.len() + 16);
    output.extend_from_slice(component.get(..HEADER).unwrap_or(component));
    let mut end = HEADER;
    for section in Sections::new(component) {
        let Ok(section) = section else {
            break;
        };
        if section.manifest(component).is_none() {
            output.extend_from_slice(component.get(section.start..section.end).unwrap_or(&[]));
        }
        end = section.end;
    }
    // What could not be read stays as it is, for `embedded` to name.
    output.extend_from_slice(component.get(end..).unwrap_or(&[]));

    let mut content = Vec::with_capacity(SECTION.len() + toml.len() + 8);
    write_size(&mut content, SECTION.len());
    content.extend_from_slice(SECTION.as_bytes());
    content.extend_from_slice(toml.as_bytes());
    output.push(0);
    write_size(&mut output, content.len());
    output.extend_from_slice(&content);
    output
}

fn check(file: &[u8]) -> Result<(), SectionError> {
    let (Some(magic), Some(version)) = (file.get(..4), file.get(4..HEADER)) else {
        return Err(SectionError::NotWasm);
    };
    match version {
        _ if magic != MAGIC => Err(SectionError::NotWasm),
        COMPONENT => Ok(()),
        MODULE => Err(SectionError::Module),
        version => {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(version);
            Err(SectionError::Version(bytes))
        }
    }
}

/// One section at the top level of a file.
struct Section {
    id: u8,
    /// Where its id is.
    start: usize,
    /// Where its content begins.
    content: usize,
    /// Where the next section begins.
    end: usize,
}

impl Section {
    /// The content after the name, if this is the manifest's section.
    fn manifest<'f>(&self, file: &'f [u8]) -> Option<&'f [u8]> {
        if self.id != 0 {
            return None;
        }
        let content = file.get(self.content..self.end)?;
        let (length, name) = read_size(content, 0)?;
        let end = name.checked_add(length)?;
        (content.get(name..end)? == SECTION.as_bytes()).then(|| &content[end..])
    }
}

/// The sections of a file, up to the first that doesn't fit in it.
struct Sections<'f> {
    file: &'f [u8],
    at: usize,
}

impl<'f> Sections<'f> {
    fn new(file: &'f [u8]) -> Self {
        Self { file, at: HEADER }
    }
}

impl Iterator for Sections<'_> {
    type Item = Result<Section, SectionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let id = *self.file.get(start)?;
        let section = read_size(self.file, start + 1).and_then(|(size, content)| {
            let end = content.checked_add(size)?;
            (end <= self.file.len()).then_some(Section {
                id,
                start,
                content,
                end,
            })
        });
        self.at = section
            .as_ref()
            .map_or(self.file.len(), |section| section.end);
        Some(section.ok_or(SectionError::Damaged(start)))
    }
}

/// A LEB128 `u32` at a place, and where what follows it begins.
fn read_size(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let mut value: u64 = 0;
    for (index, byte) in bytes.get(at..)?.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let value = usize::try_from(u32::try_from(value).ok()?).ok()?;
            return Some((value, at + index + 1));
        }
    }
    None
}

fn write_size(output: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        if value == 0 {
            output.push(byte);
            return;
        }
        output.push(byte | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Vec<u8> {
        [MAGIC, COMPONENT].concat()
    }

    #[test]
    fn a_manifest_comes_back() {
        let component = embed(&empty(), "name = \"a\"");
        assert_eq!(embedded(&component), Ok(Some("name = \"a\"".to_owned())));
    }

    #[test]
    fn a_second_manifest_replaces_the_first_and_leaves_the_rest() {
        let mut component = empty();
        component.extend_from_slice(&[7, 3, 1, 2, 3]);
        let other = [0, 3, 1, b'x', 9];
        let mut component = embed(&component, &"#".repeat(300));
        component.extend_from_slice(&other);
        let component = embed(&component, "name = \"b\"");
        assert_eq!(embedded(&component), Ok(Some("name = \"b\"".to_owned())));
        let kept: Vec<u8> = component[HEADER..HEADER + 10].to_vec();
        assert_eq!(kept, [[7, 3, 1, 2, 3], other].concat());
        assert_eq!(component, embed(&component, "name = \"b\""), "no growth");
    }

    #[test]
    fn what_is_no_component_is_named() {
        assert_eq!(embedded(b""), Err(SectionError::NotWasm));
        assert_eq!(
            embedded(b"\x7fELF\x02\x01\x01\0"),
            Err(SectionError::NotWasm)
        );
        let module = [MAGIC, MODULE].concat();
        assert_eq!(embedded(&module), Err(SectionError::Module));
        let strange = b"\0asm\x0e\0\x01\0";
        assert_eq!(embedded(strange), Err(SectionError::Version([14, 0, 1, 0])));
        assert_eq!(embedded(&empty()), Ok(None));
    }

    #[test]
    fn a_damaged_component_is_named() {
        let whole = embed(&empty(), "name = \"a\"");
        for cut in HEADER + 1..whole.len() {
            assert_eq!(
                embedded(&whole[..cut]),
                Err(SectionError::Damaged(HEADER)),
                "cut at {cut}"
            );
        }
        let huge = [&empty()[..], &[0, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
        assert_eq!(embedded(&huge), Err(SectionError::Damaged(HEADER)));
        let endless = [&empty()[..], &[0, 0x80, 0x80, 0x80, 0x80, 0x80, 0]].concat();
        assert_eq!(embedded(&endless), Err(SectionError::Damaged(HEADER)));
    }

    #[test]
    fn two_manifests_or_no_text_are_refused() {
        let one = embed(&empty(), "name = \"a\"");
        let two = [&one[..], &one[HEADER..]].concat();
        assert_eq!(embedded(&two), Err(SectionError::Twice));
        let mut broken = one;
        let last = broken.len() - 1;
        broken[last] = 0xff;
        assert_eq!(embedded(&broken), Err(SectionError::NotText));
        let large = embed(&empty(), &"#".repeat(crate::MAX_SIZE + 1));
        assert_eq!(
            embedded(&large),
            Err(SectionError::TooLarge(crate::MAX_SIZE + 1))
        );
    }

    /// A fixed generator (xorshift), so that a failure can be repeated.
    fn random(seed: &mut u64) -> u64 {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        *seed
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut seed = 0x5eed;
        let whole = embed(&embed(&empty(), &"a".repeat(200)), "name = \"a\"");
        for round in 0..20_000 {
            let mut bytes = if round % 2 == 0 {
                whole.clone()
            } else {
                let mut bytes = empty();
                let length = random(&mut seed) % 64;
                bytes.extend((0..length).map(|_| random(&mut seed) as u8));
                bytes
            };
            for _ in 0..random(&mut seed) % 4 {
                let at = random(&mut seed) as usize % bytes.len();
                bytes[at] = random(&mut seed) as u8;
            }
            let read = embedded(&bytes);
            let again = embed(&bytes, "name = \"b\"");
            if read.is_ok() || read == Err(SectionError::Twice) {
                assert_eq!(embedded(&again), Ok(Some("name = \"b\"".to_owned())));
            }
        }
    }
}
