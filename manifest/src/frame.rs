//! The frame of a WebAssembly file: header, section ids and sizes, which is the
//! same for modules and components. What it is given may be hostile.

use crate::SectionError;

pub(crate) const HEADER: usize = 8;
const MAGIC: &[u8] = b"\0asm";
/// Version 13, layer 1: a component. A core module has `1, 0, 0, 0`.
const COMPONENT: &[u8] = &[0x0d, 0x00, 0x01, 0x00];
const MODULE: &[u8] = &[0x01, 0x00, 0x00, 0x00];
/// The id of custom sections.
const CUSTOM: u8 = 0;

/// Whether a file begins as a component does, and else what it is.
pub(crate) fn check(file: &[u8]) -> Result<(), SectionError> {
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
pub(crate) struct Framed {
    id: u8,
    /// Where its id is.
    pub(crate) start: usize,
    /// Where its content begins.
    content: usize,
    /// Where the next section begins.
    pub(crate) end: usize,
}

impl Framed {
    /// The content after the name, if this is the custom section of that name.
    pub(crate) fn custom<'f>(&self, file: &'f [u8], called: &str) -> Option<&'f [u8]> {
        if self.id != CUSTOM {
            return None;
        }
        let content = file.get(self.content..self.end)?;
        let (length, name) = read_size(content, 0)?;
        let end = name.checked_add(length)?;
        (content.get(name..end)? == called.as_bytes()).then(|| &content[end..])
    }
}

/// The sections of a file, up to the first that doesn't fit in it.
pub(crate) struct Frames<'f> {
    file: &'f [u8],
    at: usize,
}

impl<'f> Frames<'f> {
    pub(crate) fn new(file: &'f [u8]) -> Self {
        Self { file, at: HEADER }
    }
}

impl Iterator for Frames<'_> {
    type Item = Result<Framed, SectionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let id = *self.file.get(start)?;
        let section = read_size(self.file, start + 1).and_then(|(size, content)| {
            let end = content.checked_add(size)?;
            (end <= self.file.len()).then_some(Framed {
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

/// Appends a custom section.
pub(crate) fn write_custom(output: &mut Vec<u8>, name: &str, text: &str) {
    let mut content = Vec::with_capacity(name.len() + text.len() + 8);
    write_size(&mut content, name.len());
    content.extend_from_slice(name.as_bytes());
    content.extend_from_slice(text.as_bytes());
    output.push(CUSTOM);
    write_size(output, content.len());
    output.extend_from_slice(&content);
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

/// A component with nothing in it.
#[cfg(test)]
pub(crate) fn empty() -> Vec<u8> {
    [MAGIC, COMPONENT].concat()
}

/// A module with nothing in it.
#[cfg(test)]
pub(crate) fn empty_module() -> Vec<u8> {
    [MAGIC, MODULE].concat()
}
