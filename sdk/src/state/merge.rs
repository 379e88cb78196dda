//! Tables whose rows are merged over shards: one value for a key that several
//! partitions write.

use std::marker::PhantomData;
use std::ops::Add;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cursor::{Cursor, Place};
use super::table::{LARGEST_SCAN, Row, Scan, Table};
use super::{StateError, decode};

/// How the values that a key has in several shards become one.
///
/// [`Sum`], [`Max`] and [`Last`] are there; others are a few lines:
///
/// ```
/// use tidemill::{Merge, MergedTable};
///
/// /// The lower of two prices.
/// struct Lowest;
///
/// impl Merge<u32> for Lowest {
///     fn merge(one: u32, other: u32) -> u32 {
///         one.min(other)
///     }
/// }
///
/// static PRICES: MergedTable<u32, Lowest> = MergedTable::new("prices");
/// ```
pub trait Merge<V> {
    /// One value of two. They come in order of shard, so the order is always the
    /// same, but a merge had better not depend on it: which shard a row is in is
    /// chance.
    fn merge(one: V, other: V) -> V;
}

/// Adds the values up: counts, totals. It overflows as `+` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum;

impl<V: Add<Output = V>> Merge<V> for Sum {
    fn merge(one: V, other: V) -> V {
        one + other
    }
}

/// Takes the highest value. Of values that cannot be compared (a `NaN`), that of
/// the lower shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Max;

impl<V: PartialOrd> Merge<V> for Max {
    fn merge(one: V, other: V) -> V {
        if other > one { other } else { one }
    }
}

/// Takes the value that was written last, by what the values themselves say: see
/// [`Sequenced`]. Of two that say the same, that of the lower shard.
///
/// The order in which shards are written is known to nobody: their partitions
/// run side by side, on several hosts. So a value has to carry a time or a
/// number, best that of the event that it was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Last;

impl<V: Sequenced> Merge<V> for Last {
    fn merge(one: V, other: V) -> V {
        if other.sequence() > one.sequence() {
            other
        } else {
            one
        }
    }
}

/// A value that says how new it is, for [`Last`].
///
/// ```
/// use tidemill::Sequenced;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Reading {
///     degrees: f64,
///     /// Milliseconds since the Unix epoch.
///     at: u64,
/// }
///
/// impl Sequenced for Reading {
///     type Sequence = u64;
///
///     fn sequence(&self) -> u64 {
///         self.at
///     }
/// }
/// ```
pub trait Sequenced {
    /// A time, a version number, or several in a tuple.
    type Sequence: PartialOrd;

    /// How new this value is; the highest is the last.
    fn sequence(&self) -> Self::Sequence;
}

/// A table of which a key may have a row in several shards, read as one value.
///
/// For values by another key than that of the events: a count by country, made
/// of users that are partitioned by id, has a row for a country in the shard of
/// each partition that has users from there.
///
/// ```
/// use tidemill::{Event, Failure, Json, MergedTable, Problem, Sum};
///
/// static BY_COUNTRY: MergedTable<u64, Sum> = MergedTable::new("by_country");
///
/// #[derive(serde::Deserialize)]
/// struct User {
///     country: String,
/// }
///
/// /// Counts in the shard of the event.
/// async fn count(user: Event<User>) -> Result<(), Failure> {
///     let country = &user.value.country;
///     let here = BY_COUNTRY.get(country)?.unwrap_or(0);
///     Ok(BY_COUNTRY.put(country, &(here + 1))?)
/// }
///
/// /// Answers with the sum over all shards.
/// async fn users_in(country: axum::extract::Path<String>) -> Result<Json<u64>, Problem> {
///     Ok(Json(BY_COUNTRY.get(&*country)?.unwrap_or(0)))
/// }
/// ```
///
/// **An event handler reads and writes the row of its own shard**, unmerged, as
/// it does with a [`Table`]: it is the only writer of that row. **A request's
/// handler reads the merged value.** The rows are those of a [`Table`] of the
/// same name, so a table that is there already can be declared with a merge at
/// any time, and its rows stay.
#[derive(Debug)]
pub struct MergedTable<V, M> {
    rows: Table<V>,
    merge: PhantomData<fn() -> M>,
}

/// A key of a [`MergedTable`] and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<V> {
    /// The key.
    pub key: Vec<u8>,
    /// The value, merged over all shards that have one.
    pub value: V,
}

impl<V> Entry<V> {
    /// The key as text; none if it isn't UTF-8.
    pub fn key_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.key).ok()
    }
}

impl<V, M> MergedTable<V, M> {
    /// The table of this name: 1 to 64 of `a-z`, `0-9`, `-` and `_`. It shares
    /// its names with tables and logs.
    pub const fn new(name: &'static str) -> Self {
        Self {
            rows: Table::new(name),
            merge: PhantomData,
        }
    }

    /// Deletes the row that a key has in this event's shard. It is fine if there
    /// is none; rows in other shards stay.
    ///
    /// # Errors
    /// If state isn't granted, or this is an HTTP handler.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<(), StateError> {
        self.rows.delete(key)
    }
}

impl<V: Serialize, M> MergedTable<V, M> {
    /// Writes the row of a key in this event's shard. This handler sees it at
    /// once, others when it is committed.
    ///
    /// # Errors
    /// If state isn't granted, this is an HTTP handler, or the key is empty or
    /// too large.
    pub fn put(&self, key: impl AsRef<[u8]>, value: &V) -> Result<(), StateError> {
        self.rows.put(key, value)
    }
}

impl<V: DeserializeOwned + 'static, M: Merge<V>> MergedTable<V, M> {
    /// The value of a key, if there is one: in a request's handler merged over
    /// all shards, in an event handler that of the event's shard.
    ///
    /// # Errors
    /// If state isn't granted, or a row is not a `V`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<V>, StateError> {
        let rows = self.rows.get_all(key)?;
        Ok(rows.into_iter().map(|row| row.value).reduce(M::merge))
    }

    /// All rows of a key as they are, in order of shard. In an event handler at
    /// most one.
    ///
    /// # Errors
    /// If state isn't granted, or a row is not a `V`.
    pub fn get_all(&self, key: impl AsRef<[u8]>) -> Result<Vec<Row<V>>, StateError> {
        self.rows.get_all(key)
    }

    /// Many keys with their merged values, in order of key. Without further ado
    /// the first 100.
    pub fn scan(&self) -> MergedScan<'_, V, M> {
        MergedScan {
            scan: self.rows.scan(),
            merge: PhantomData,
        }
    }

    /// A page of the keys in their order with their merged values, and where the
    /// next one begins, if there is more. `limit` is 1 to 9,999 keys; more or
    /// less is taken as the nearest.
    ///
    /// # Errors
    /// If state isn't granted, a row is not a `V`, or the cursor is a log's.
    pub fn page(
        &self,
        after: Option<Cursor>,
        limit: u32,
    ) -> Result<(Vec<Entry<V>>, Option<Cursor>), StateError> {
        let limit = limit.clamp(1, LARGEST_SCAN - 1);
        let mut scan = self.scan().limit(limit + 1);
        if let Some(after) = after {
            scan.scan.start = Some(self.rows.behind(after)?);
        }
        let mut entries = scan.entries()?;
        let more = entries.len() > limit as usize;
        entries.truncate(limit as usize);
        let next = entries
            .last()
            .filter(|_| more)
            .map(|entry| Cursor(Place::Table(entry.key.clone())));
        Ok((entries, next))
    }
}

/// Which keys of a table to read. Made by [`MergedTable::scan`].
#[derive(Debug)]
#[must_use = "keys are read by `entries()`"]
pub struct MergedScan<'a, V, M> {
    scan: Scan<'a, V>,
    merge: PhantomData<fn() -> M>,
}

impl<V: DeserializeOwned + 'static, M: Merge<V>> MergedScan<'_, V, M> {
    /// From this key on, including it.
    pub fn from(mut self, key: impl AsRef<[u8]>) -> Self {
        self.scan = self.scan.from(key);
        self
    }

    /// Up to this key, not including it.
    pub fn before(mut self, key: impl AsRef<[u8]>) -> Self {
        self.scan = self.scan.before(key);
        self
    }

    /// All keys that begin like this.
    pub fn prefix(mut self, prefix: impl AsRef<[u8]>) -> Self {
        self.scan = self.scan.prefix(prefix);
        self
    }

    /// The most keys, 1 to 10,000, however many rows they have.
    pub fn limit(mut self, keys: u32) -> Self {
        self.scan = self.scan.limit(keys);
        self
    }

    /// From the highest key down.
    pub fn reverse(mut self) -> Self {
        self.scan = self.scan.reverse();
        self
    }

    /// Reads the keys and their merged values.
    ///
    /// # Errors
    /// If state isn't granted, the limit is out of range, or a row is not a `V`.
    pub fn entries(self) -> Result<Vec<Entry<V>>, StateError> {
        let limit = self.scan.limit as usize;
        let name = self.scan.table.name;
        let mut scan = self.scan;
        let mut entries: Vec<Entry<V>> = Vec::new();
        loop {
            // Never part of a key's rows, so each key that comes is complete.
            let rows = scan.raw()?;
            let ended = rows.len() < scan.limit as usize;
            let mut rows = rows.into_iter().peekable();
            while let Some(row) = rows.next() {
                if entries.len() == limit {
                    return Ok(entries);
                }
                let mut value = decode(name, &row.value)?;
                while let Some(other) = rows.next_if(|other| other.key == row.key) {
                    value = M::merge(value, decode(name, &other.value)?);
                }
                entries.push(Entry {
                    key: row.key,
                    value,
                });
            }
            let Some(last) = entries.last().filter(|_| !ended && entries.len() < limit) else {
                return Ok(entries);
            };
            if scan.reverse {
                scan.end = Some(last.key.clone());
            } else {
                // The least key after this one.
                scan.start = Some([last.key.as_slice(), &[0]].concat());
            }
            let left = (limit - entries.len()) as u32;
            scan.limit = left.clamp(SHORTEST_SCAN, LARGEST_SCAN);
        }
    }
}

/// Rows to ask for at least, once a first scan has given fewer keys than wanted.
const SHORTEST_SCAN: u32 = 64;
