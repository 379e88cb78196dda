//! Tables: values by key.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cursor::{Cursor, Place};
use super::{StateError, decode, encode};
use crate::sys::{self, RawRow};

/// A table of values by key, kept by the host and ordered by key. Values are
/// stored as JSON.
///
/// ```
/// use tidemill::{Event, Failure, Table};
///
/// static STOCK: Table<u32> = Table::new("stock");
///
/// async fn sold(item: Event<String>) -> Result<(), Failure> {
///     let left = STOCK.get(&item.value)?.unwrap_or(0);
///     STOCK.put(&item.value, &left.saturating_sub(1))?;
///     Ok(())
/// }
/// ```
///
/// State is sharded as the subscribed topics are. An event handler reads and
/// writes the shard of its event's partition, and is the only one that does. An
/// HTTP handler reads all shards as one and writes none. So a key that two
/// partitions write has two rows over HTTP: [`get_all`](Self::get_all) gives
/// both, and a [`MergedTable`](crate::MergedTable) makes one value of them.
#[derive(Debug)]
pub struct Table<V> {
    pub(super) name: &'static str,
    value: PhantomData<fn() -> V>,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<V> {
    /// The shard it is in.
    pub shard: u32,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: V,
}

impl<V> Row<V> {
    /// The key as text; none if it isn't UTF-8.
    pub fn key_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.key).ok()
    }
}

impl<V> Table<V> {
    /// The table of this name: 1 to 64 of `a-z`, `0-9`, `-` and `_`.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            value: PhantomData,
        }
    }

    /// Deletes the row of a key. It is fine if there is none.
    ///
    /// # Errors
    /// If state isn't granted, or this is an HTTP handler.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), StateError> {
        sys::delete(self.name, key.as_ref())
    }
}

impl<V: Serialize> Table<V> {
    /// Writes the row of a key. This handler sees it at once, others when it is
    /// committed.
    ///
    /// # Errors
    /// If state isn't granted, this is an HTTP handler, or the key is empty or
    /// larger than 64 KiB.
    pub fn put(&self, key: impl AsRef<[u8]>, value: &V) -> Result<(), StateError> {
        let mut bytes = Vec::new();
        encode(self.name, value, &mut bytes)?;
        sys::put(self.name, key.as_ref(), &bytes)
    }
}

impl<V: DeserializeOwned + 'static> Table<V> {
    /// The value of a key, if there is one.
    ///
    /// # Errors
    /// If state isn't granted, the key has rows in several shards, or the row is
    /// not a `V`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<V>, StateError> {
        sys::get(self.name, key.as_ref())?
            .map(|value| decode(self.name, &value))
            .transpose()
    }

    /// All rows of a key, in order of shard. In an event handler at most one.
    ///
    /// # Errors
    /// If state isn't granted, or a row is not a `V`.
    pub fn get_all(&self, key: impl AsRef<[u8]>) -> Result<Vec<Row<V>>, StateError> {
        self.rows(sys::get_all(self.name, key.as_ref())?)
    }

    /// Many rows, in order of key, then shard. Without further ado the first
    /// 100.
    ///
    /// ```
    /// # use tidemill::Table;
    /// static STOCK: Table<u32> = Table::new("stock");
    /// # fn main() -> Result<(), tidemill::StateError> {
    /// let screws = STOCK.scan().prefix("screw/").limit(1000).rows()?;
    /// # Ok(()) }
    /// ```
    pub fn scan(&self) -> Scan<'_, V> {
        Scan {
            table: self,
            start: None,
            end: None,
            limit: 100,
            reverse: false,
        }
    }

    /// A page of the rows in order of key, and where the next one begins, if
    /// there is more.
    ///
    /// # Errors
    /// If state isn't granted, a row is not a `V`, or the cursor is a log's.
    pub fn page(
        &self,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<(Vec<Row<V>>, Option<Cursor>), StateError> {
        let limit = limit.clamp(1, LARGEST_SCAN - 1);
        let start = after.map(|after| self.behind(after)).transpose()?;
        let mut rows = sys::scan(self.name, start.as_deref(), None, limit + 1, false)?;
        // The host never splits the rows of one key, and neither does a page.
        let mut cut = rows.len().min(limit as usize);
        while cut > 0 && cut < rows.len() && rows[cut].key == rows[cut - 1].key {
            cut += 1;
        }
        let more = cut < rows.len();
        rows.truncate(cut);
        let next = rows
            .last()
            .filter(|_| more)
            .map(|row| Cursor(Place::Table(row.key.clone())));
        Ok((self.rows(rows)?, next))
    }

    /// The least key behind that of a cursor.
    pub(super) fn behind(&self, after: Cursor) -> Result<Vec<u8>, StateError> {
        match after {
            Cursor(Place::Table(mut key)) => {
                key.push(0);
                Ok(key)
            }
            Cursor(Place::Log(_)) => Err(StateError::ForeignCursor(self.name)),
        }
    }

    fn rows(&self, rows: Vec<RawRow>) -> Result<Vec<Row<V>>, StateError> {
        rows.into_iter()
            .map(|row| {
                Ok(Row {
                    shard: row.shard,
                    value: decode(self.name, &row.value)?,
                    key: row.key,
                })
            })
            .collect()
    }
}

/// The most rows that the host gives at once.
pub(super) const LARGEST_SCAN: u32 = 10_000;

/// Which rows of a table to read. Made by [`Table::scan`].
#[derive(Debug)]
#[must_use = "rows are read by `rows()`"]
pub struct Scan<'a, V> {
    pub(super) table: &'a Table<V>,
    pub(super) start: Option<Vec<u8>>,
    pub(super) end: Option<Vec<u8>>,
    pub(super) limit: u32,
    pub(super) reverse: bool,
}

impl<V: DeserializeOwned + 'static> Scan<'_, V> {
    /// From this key on, including it.
    pub fn from(mut self, key: impl AsRef<[u8]>) -> Self {
        self.start = Some(key.as_ref().to_vec());
        self
    }

    /// Up to this key, not including it.
    pub fn before(mut self, key: impl AsRef<[u8]>) -> Self {
        self.end = Some(key.as_ref().to_vec());
        self
    }

    /// All keys that begin like this.
    pub fn prefix(mut self, prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        self.start = Some(prefix.to_vec());
        // The least key that is after all of them: the last byte that can be
        // raised, raised.
        self.end = prefix
            .iter()
            .rposition(|byte| *byte != 0xff)
            .map(|last| [&prefix[..last], &[prefix[last] + 1]].concat());
        self
    }

    /// The most rows, 1 to 10,000. Rows of one key are not split: the last may
    /// exceed it.
    pub fn limit(mut self, rows: u32) -> Self {
        self.limit = rows;
        self
    }

    /// From the highest key down.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Reads the rows.
    ///
    /// # Errors
    /// If state isn't granted, the limit is out of range, or a row is not a `V`.
    pub fn rows(self) -> Result<Vec<Row<V>>, StateError> {
        self.table.rows(self.raw()?)
    }

    /// The rows as the host gives them.
    pub(super) fn raw(&self) -> Result<Vec<RawRow>, StateError> {
        sys::scan(
            self.table.name,
            self.start.as_deref(),
            self.end.as_deref(),
            self.limit,
            self.reverse,
        )
    }
}
