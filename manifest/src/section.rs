//! What a component file carries beside its code: texts in custom sections at
//! its top level, so that one file is the whole service and other tools pass
//! them by. `docs/component-file.md` describes each.

use crate::frame::{self, Frames, HEADER};

/// A text in a component file. Where the field has a name for it, it has that
/// one; our own begin with `tidemill:`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `service.toml`, as it was written.
    Manifest,
    /// The OpenAPI document, JSON, as the component describes itself.
    OpenApi,
    /// The packages that went into the component with their versions and
    /// licences: a CycloneDX document, JSON.
    Sbom,
    /// The licences of all of it: an SPDX expression.
    Licenses,
    /// The revision of the source: a commit, with `-dirty` behind it if there
    /// were changes beside it.
    Revision,
    /// Where the source is: a URL.
    Source,
}

impl Section {
    /// All of them, in the order in which they are explained.
    pub const ALL: [Self; 6] = [
        Self::Manifest,
        Self::OpenApi,
        Self::Sbom,
        Self::Licenses,
        Self::Revision,
        Self::Source,
    ];

    /// What the custom section is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manifest => "tidemill:manifest",
            Self::OpenApi => "tidemill:openapi",
            Self::Sbom => "tidemill:sbom",
            Self::Licenses => "licenses",
            Self::Revision => "revision",
            Self::Source => "source",
        }
    }

    /// The most bytes that are read.
    #[must_use]
    pub const fn max_size(self) -> usize {
        match self {
            Self::Manifest => crate::MAX_SIZE,
            Self::OpenApi | Self::Sbom => 4 << 20,
            Self::Licenses | Self::Revision | Self::Source => 64 << 10,
        }
    }
}

/// Why a text cannot be read from a file.
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
    /// It is there more than once.
    #[error("the component has two \"{}\" sections: build it again", .0.name())]
    Twice(Section),
    /// It is larger than [`Section::max_size`].
    #[error(
        "the section \"{}\" of the component has {size} bytes; it can have {}",
        .section.name(),
        .section.max_size()
    )]
    TooLarge {
        /// Which.
        section: Section,
        /// Its bytes.
        size: usize,
    },
    /// It is not text.
    #[error("the section \"{}\" of the component is not UTF-8", .0.name())]
    NotText(Section),
}

/// Whether a file begins as a component does.
#[must_use]
pub fn is_component(file: &[u8]) -> bool {
    frame::check(file).is_ok()
}

/// A text that a component carries; none if it has no such section.
///
/// # Errors
/// The file is no component, or is damaged, or the section is no text.
pub fn section(component: &[u8], section: Section) -> Result<Option<String>, SectionError> {
    frame::check(component)?;
    let mut found = None;
    for framed in Frames::new(component) {
        let framed = framed?;
        let Some(content) = framed.custom(component, section.name()) else {
            continue;
        };
        if found.is_some() {
            return Err(SectionError::Twice(section));
        }
        let size = content.len();
        if size > section.max_size() {
            return Err(SectionError::TooLarge { section, size });
        }
        let text = std::str::from_utf8(content).map_err(|_| SectionError::NotText(section))?;
        found = Some(text.to_owned());
    }
    Ok(found)
}

/// The component with this text in it, in place of any such section it had. All
/// others stay as they are.
///
/// A file that isn't a component is changed too, but stays what it is: check
/// with [`is_component`].
#[must_use]
pub fn with_section(component: &[u8], section: Section, text: &str) -> Vec<u8> {
    let name = section.name();
    let mut output = without(component, &[section], text.len() + name.len() + 16);
    frame::write_custom(&mut output, name, text);
    output
}

/// The component with none of these texts: what is compiled, which is the same for
/// another manifest or commit.
#[must_use]
pub fn without_sections(component: &[u8]) -> Vec<u8> {
    without(component, &Section::ALL, 0)
}

/// The component without some sections, with room for `more` bytes.
fn without(component: &[u8], sections: &[Section], more: usize) -> Vec<u8> {
    let mut output = Vec::with_capacity(component.len() + more);
    output.extend_from_slice(component.get(..HEADER).unwrap_or(component));
    let mut end = HEADER;
    for framed in Frames::new(component) {
        let Ok(framed) = framed else {
            break;
        };
        let is = |section: &Section| framed.custom(component, section.name()).is_some();
        if !sections.iter().any(is) {
            output.extend_from_slice(component.get(framed.start..framed.end).unwrap_or(&[]));
        }
        end = framed.end;
    }
    // What could not be read stays as it is, for `section` to name.
    output.extend_from_slice(component.get(end..).unwrap_or(&[]));
    output
}

/// The manifest that a component carries, as TOML; none if it carries none.
///
/// # Errors
/// As [`section`].
pub fn embedded(component: &[u8]) -> Result<Option<String>, SectionError> {
    section(component, Section::Manifest)
}

/// The component with this manifest in it, in place of any it had.
#[must_use]
pub fn embed(component: &[u8], toml: &str) -> Vec<u8> {
    with_section(component, Section::Manifest, toml)
}

/// The OpenAPI document that a component carries, as JSON; none if it carries
/// none.
///
/// # Errors
/// As [`section`].
pub fn openapi(component: &[u8]) -> Result<Option<String>, SectionError> {
    section(component, Section::OpenApi)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{empty, empty_module};

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
    fn another_manifest_leaves_all_other_sections_as_they_are() {
        let mut component = empty();
        for section in Section::ALL {
            component = with_section(&component, section, section.name());
        }
        let component = embed(&component, "name = \"b\"");
        assert_eq!(embedded(&component), Ok(Some("name = \"b\"".to_owned())));
        assert_eq!(openapi(&component), Ok(Some("tidemill:openapi".to_owned())));
        for other in &Section::ALL[1..] {
            let text = section(&component, *other);
            assert_eq!(text, Ok(Some(other.name().to_owned())));
        }
    }

    #[test]
    fn without_its_texts_a_component_is_what_it_was() {
        let code = [&empty()[..], &[7, 3, 1, 2, 3], &[0, 3, 1, b'x', 9]].concat();
        let mut component = code.clone();
        for section in Section::ALL {
            component = with_section(&component, section, section.name());
        }
        assert_eq!(without_sections(&component), code);
        // What is damaged stays, and so is no other's.
        component.extend_from_slice(&[0, 9, 1]);
        assert_eq!(
            without_sections(&component),
            [&code[..], &[0, 9, 1]].concat()
        );
        assert_eq!(without_sections(b"\0as"), b"\0as");
    }

    #[test]
    fn what_is_no_component_is_named() {
        assert_eq!(embedded(b""), Err(SectionError::NotWasm));
        assert_eq!(
            embedded(b"\x7fELF\x02\x01\x01\0"),
            Err(SectionError::NotWasm)
        );
        assert_eq!(embedded(&empty_module()), Err(SectionError::Module));
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
        assert_eq!(embedded(&two), Err(SectionError::Twice(Section::Manifest)));
        let mut broken = one;
        let last = broken.len() - 1;
        broken[last] = 0xff;
        assert_eq!(
            embedded(&broken),
            Err(SectionError::NotText(Section::Manifest))
        );
        let large = embed(&empty(), &"#".repeat(crate::MAX_SIZE + 1));
        assert_eq!(
            embedded(&large),
            Err(SectionError::TooLarge {
                section: Section::Manifest,
                size: crate::MAX_SIZE + 1
            })
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
            if read.is_ok() || read == Err(SectionError::Twice(Section::Manifest)) {
                assert_eq!(embedded(&again), Ok(Some("name = \"b\"".to_owned())));
            }
        }
    }
}
