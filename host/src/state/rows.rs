//! How rows are written down: in the store and in the changelog.
//!
//! A record of the changelog has the key `table, 0, key` and the row's value, or
//! none for a row that was deleted. The store has the same behind the number of
//! the shard. The last record of each transaction in a partition is the position
//! row: it says which events the shard has seen, and on which host.

use std::borrow::Borrow;
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

/// The name of a row within a shard, as it is in the changelog. Names are in order
/// of table, then key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowKey(Bytes);

impl RowKey {
    /// Of a row in a table.
    pub fn new(table: &str, key: &[u8]) -> RowKey {
        RowKey(named(Vec::with_capacity(table.len() + 1 + key.len()), table, key).into())
    }

    /// The name behind those of all rows in a table.
    pub(super) fn after(table: &str) -> RowKey {
        RowKey(behind(named(Vec::new(), table, &[])).into())
    }

    /// Bytes of table and key.
    pub fn size(&self) -> usize {
        // All but the zero byte between them.
        self.0.len() - 1
    }

    /// As a record's key.
    pub fn record(&self) -> &Bytes {
        &self.0
    }

    /// The table's name.
    pub fn table(&self) -> &str {
        let name = self.0.split(|byte| *byte == 0).next();
        // It was a string.
        str::from_utf8(name.unwrap_or_default()).unwrap_or_default()
    }

    /// The key in the table.
    pub fn key(&self) -> Bytes {
        let begin = self.table().len() + 1;
        self.0.slice(begin.min(self.0.len())..)
    }
}

/// So that a row is found without a name of its own.
impl Borrow<[u8]> for RowKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Bytes of a shard's number.
const SHARD: usize = size_of::<u32>();

/// Makes this the name of a row in the store, by its name within the shard.
pub(super) fn store_key(name: &mut Vec<u8>, shard: u32, row: &[u8]) {
    name.clear();
    name.extend_from_slice(&shard.to_be_bytes());
    name.extend_from_slice(row);
}

/// The name of a row in the store.
pub(super) fn encode(shard: u32, table: &str, key: &[u8]) -> Vec<u8> {
    let mut name = Vec::with_capacity(SHARD + table.len() + 1 + key.len());
    name.extend_from_slice(&shard.to_be_bytes());
    named(name, table, key)
}

/// The name within the shard, by the name in the store.
pub(super) fn within_shard(name: &[u8]) -> &[u8] {
    name.get(SHARD..).unwrap_or_default()
}

/// The first name in the store behind all rows of a table in a shard.
pub(super) fn after_table(shard: u32, table: &str) -> Vec<u8> {
    behind(encode(shard, table, &[]))
}

fn named(mut name: Vec<u8>, table: &str, key: &[u8]) -> Vec<u8> {
    name.extend_from_slice(table.as_bytes());
    name.push(0);
    name.extend_from_slice(key);
    name
}

/// What is behind all names that begin with this one, which ends with a zero.
fn behind(mut table: Vec<u8>) -> Vec<u8> {
    if let Some(last) = table.last_mut() {
        *last = 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_one_name_behind_its_shard() {
        let row = RowKey::new("orders", b"k\0");
        assert_eq!(row.record()[..], b"orders\0k\0"[..]);
        assert_eq!((row.table(), &row.key()[..]), ("orders", &b"k\0"[..]));
        let name = encode(7, "orders", b"k\0");
        let mut same = vec![0; 99];
        store_key(&mut same, 7, row.record());
        assert_eq!(same, name);
        assert_eq!(within_shard(&name), row.record());
        assert!(name < after_table(7, "orders"));
        assert!(after_table(7, "orders") < encode(7, "orders1", b""));
        assert!(row < RowKey::after("orders"));
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
