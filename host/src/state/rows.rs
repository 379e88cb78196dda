//! How rows are written down: in the store and in the changelog.
//!
//! A record of the changelog has the key `table, 0, key` and the row's value, or
//! none for a row that was deleted. The store has the same behind the number of
//! the shard. The last record of each transaction in a partition is the position
//! row: it says which events the shard has seen, and on which host.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The position row's key. No table's name has a zero byte, or is empty.
pub const POSITION: &[u8] = b"\0position";

/// The position row's value, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// By topic: the offset of the first event of the shard's partition that has
    /// not been seen.
    pub positions: BTreeMap<String, i64>,
    /// The host that wrote it.
    #[serde(default)]
    pub host: String,
}

impl Position {
    /// As a record's value.
    pub fn encode(&self) -> Bytes {
        // Strings and numbers always have a form in JSON.
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// From a record's value.
    pub fn decode(value: &[u8]) -> Option<Position> {
        serde_json::from_slice(value).ok()
    }
}

/// The name of a row in the changelog.
pub fn record_key(table: &str, key: &[u8]) -> Bytes {
    let mut name = Vec::with_capacity(table.len() + 1 + key.len());
    name.extend_from_slice(table.as_bytes());
    name.push(0);
    name.extend_from_slice(key);
    name.into()
}

/// The name of a row in the store, by its name in the changelog.
pub(super) fn store_key(shard: u32, record: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(4 + record.len());
    name.extend_from_slice(&shard.to_be_bytes());
    name.extend_from_slice(record);
    name
}

/// The name of a row in the store.
pub(super) fn encode(shard: u32, table: &str, key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(4 + table.len() + 1 + key.len());
    name.extend_from_slice(&shard.to_be_bytes());
    name.extend_from_slice(table.as_bytes());
    name.push(0);
    name.extend_from_slice(key);
    name
}

/// The first name in the store behind all rows of a table in a shard.
pub(super) fn after_table(shard: u32, table: &str) -> Vec<u8> {
    let mut name = encode(shard, table, &[]);
    if let Some(last) = name.last_mut() {
        *last = 1;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_one_name_behind_its_shard() {
        let record = record_key("orders", b"k");
        assert_eq!(&record[..], b"orders\0k");
        assert_eq!(store_key(7, &record), encode(7, "orders", b"k"));
        assert!(store_key(7, &record) < after_table(7, "orders"));
        assert!(after_table(7, "orders") < encode(7, "orders1", b""));
    }

    #[test]
    fn a_position_is_read_as_it_was_written() {
        let position = Position {
            positions: BTreeMap::from([("user_topic".to_owned(), 42)]),
            host: "h".to_owned(),
        };
        assert_eq!(Position::decode(&position.encode()), Some(position));
        assert_eq!(Position::decode(b"x"), None);
    }
}
