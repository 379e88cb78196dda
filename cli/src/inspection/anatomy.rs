//! What a component file is made of: what it imports and exports, and what takes
//! its bytes.

use std::collections::BTreeMap;

use serde::Serialize;
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

/// What takes bytes of a file.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Piece {
    /// `code`, `data`, `names`, `types and the rest`, or what a section is called.
    pub(crate) name: String,
    pub(crate) size: u64,
}

pub(super) struct Anatomy {
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
    pub(super) pieces: Vec<Piece>,
}

impl Anatomy {
    /// Takes a component apart, and sees whether it is valid.
    pub(super) fn of(component: &[u8]) -> Result<Self, String> {
        Validator::new_with_features(WasmFeatures::all())
            .validate_all(component)
            .map_err(|error| error.to_string())?;
        Self::read(component).map_err(|error| error.to_string())
    }

    fn read(component: &[u8]) -> wasmparser::Result<Self> {
        let (mut imports, mut exports) = (Vec::new(), Vec::new());
        let mut sizes = BTreeMap::new();
        // How many files there are around what is read: the whole, modules in it.
        let mut depth = 0;
        for payload in Parser::new(0).parse_all(component) {
            let mut count = |name: &str, size: usize| {
                *sizes.entry(name.to_owned()).or_insert(0) += size as u64;
            };
            match payload? {
                Payload::Version { .. } => depth += 1,
                Payload::End(_) => depth -= 1,
                Payload::ComponentImportSection(section) if depth == 1 => {
                    for import in section {
                        imports.push(import?.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 1 => {
                    for export in section {
                        exports.push(export?.name.name.to_owned());
                    }
                }
                Payload::CodeSectionStart { range, .. } => count("code", range.len()),
                Payload::DataSection(section) => count("data", section.range().len()),
                Payload::CustomSection(section) => {
                    let own = depth == 1 && section.name() != "component-name";
                    let name = if own { section.name() } else { "names" };
                    count(name, section.range().len());
                }
                _ => {}
            }
        }
        Ok(Self {
            imports,
            exports,
            pieces: pieces(sizes, component.len() as u64),
        })
    }
}

/// The largest first, and last what holds it together.
fn pieces(sizes: BTreeMap<String, u64>, all: u64) -> Vec<Piece> {
    let known: u64 = sizes.values().sum();
    let mut pieces: Vec<Piece> = sizes
        .into_iter()
        .map(|(name, size)| Piece { name, size })
        .collect();
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.size));
    pieces.push(Piece {
        name: "types and the rest".to_owned(),
        size: all.saturating_sub(known),
    });
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component with a custom section, and a module that has code in it.
    fn component() -> Vec<u8> {
        let custom = |name: &str, size: usize| {
            let mut section = vec![0, u8::try_from(name.len() + 1 + size).expect("short")];
            section.push(u8::try_from(name.len()).expect("short"));
            section.extend_from_slice(name.as_bytes());
            section.resize(section.len() + size, b'x');
            section
        };
        // One function that does nothing.
        let parts = [&[1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 10, 4, 1, 2, 0, 0x0b][..]];
        let module = [b"\0asm\x01\0\0\0", parts[0], &custom("name-of", 9)[..]].concat();
        let nested = [
            &[1, u8::try_from(module.len()).expect("short")],
            &module[..],
        ]
        .concat();
        [b"\0asm\x0d\0\x01\0", &nested[..], &custom("note", 50)[..]].concat()
    }

    #[test]
    fn each_byte_is_counted_once_the_largest_piece_first() {
        let component = component();
        let anatomy = Anatomy::of(&component).expect("it is valid");
        let names: Vec<&str> = anatomy.pieces.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["note", "names", "code", "types and the rest"]);
        let all: u64 = anatomy.pieces.iter().map(|piece| piece.size).sum();
        assert_eq!(all, component.len() as u64);
        assert_eq!(anatomy.pieces[2].size, 4);
        assert!(anatomy.imports.is_empty() && anatomy.exports.is_empty());
    }

    #[test]
    fn what_is_damaged_inside_is_found() {
        let mut component = component();
        let code = component
            .iter()
            .position(|byte| *byte == 0x0b)
            .expect("an end");
        component[code] = 0xff;
        assert!(Anatomy::of(&component).is_err());
    }
}
