//! Where a page ended, as text that a client hands back.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where to go on reading a list: opaque, URL-safe text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub(super) Place);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In a log: the next offset of each stream, by topic and partition.
    Log(BTreeMap<(String, u32), u64>),
    /// In a table: the last key that was read.
    Table(Vec<u8>),
}

/// Text that is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor that a page's `next` gave")]
pub struct NotACursor;

const LOG: u8 = 1;
const TABLE: u8 = 2;

impl Cursor {
    fn to_bytes(&self) -> Vec<u8> {
        match &self.0 {
            Place::Table(key) => [&[TABLE], key.as_slice()].concat(),
            Place::Log(streams) => {
                let mut out = vec![LOG];
                // Topics are few and partitions many: each topic once, then its
                // partitions, with numbers in as few bytes as they take.
                let mut topics = BTreeMap::<&str, Vec<(u32, u64)>>::new();
                for ((topic, partition), offset) in streams {
                    topics.entry(topic).or_default().push((*partition, *offset));
                }
                for (topic, partitions) in topics {
                    number(&mut out, topic.len() as u64);
                    out.extend_from_slice(topic.as_bytes());
                    number(&mut out, partitions.len() as u64);
                    for (partition, offset) in partitions {
                        number(&mut out, u64::from(partition));
                        number(&mut out, offset);
                    }
                }
                out
            }
        }
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, mut rest) = bytes.split_first()?;
        match *kind {
            TABLE => Some(Self(Place::Table(rest.to_vec()))),
            LOG => {
                let mut streams = BTreeMap::new();
                while !rest.is_empty() {
                    let length = usize::try_from(read_number(&mut rest)?).ok()?;
                    let (topic, after) = rest.split_at_checked(length)?;
                    let topic = std::str::from_utf8(topic).ok()?;
                    rest = after;
                    for _ in 0..read_number(&mut rest)? {
                        let partition = u32::try_from(read_number(&mut rest)?).ok()?;
                        let offset = read_number(&mut rest)?;
                        streams.insert((topic.to_owned(), partition), offset);
                    }
                }
                Some(Self(Place::Log(streams)))
            }
            _ => None,
        }
    }
}

/// LEB128, as WASM itself writes numbers.
fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl fmt::Display for Cursor {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }
}

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| Self::from_bytes(&bytes))
            .ok_or(NotACursor)
    }
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for Cursor {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        String::schema()
    }
}

impl utoipa::ToSchema for Cursor {}

#[cfg(test)]
mod tests {
    use super::{Cursor, Place};

    #[test]
    fn a_cursor_survives_being_text() {
        for place in [
            Place::Log([].into()),
            Place::Log(
                [
                    (("a".to_owned(), 0), 0),
                    (("a".to_owned(), u32::MAX), u64::MAX),
                    (("b".to_owned(), 7), 128),
                ]
                .into(),
            ),
            Place::Table(b"key\0\xff".to_vec()),
        ] {
            let cursor = Cursor(place);
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn anything_else_is_not_a_cursor() {
        let long = format!("AQ{}", "_".repeat(20));
        for text in ["x", "AA", "AQE", "AQNh", "+/+/", "AQ==", "é", &long] {
            assert!(text.parse::<Cursor>().is_err(), "{text}");
        }
    }
}
