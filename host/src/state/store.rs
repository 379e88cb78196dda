//! The embedded store: committed rows, and the positions that they reach.
//!
//! A write batch carries the rows of many events and the offset behind the last
//! of them. Either all of it is there after a crash or none of it, so the state
//! has every event exactly once, whatever Kafka's group offsets say.
//!
//! Rows are keyed `shard, table, 0, key`, so that a shard is one range. Writes
//! reach the operating system before a commit returns (they outlive the
//! process); after a power failure the store may fall back to an earlier
//! commit, rows and positions together, and the events in between run again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use parking_lot::Mutex;

use crate::effects::RowKey;

/// The store could not read or write. Says what, for logs and errors.
#[derive(Debug, thiserror::Error)]
#[error("the state store in {path} failed: {cause}")]
pub struct StoreError {
    path: Arc<str>,
    cause: fjall::Error,
}

/// All state on this host, of one Kafka cluster.
pub struct Store {
    database: Database,
    positions: Keyspace,
    path: Arc<str>,
    open: Mutex<BTreeMap<String, Arc<Tables>>>,
}

impl Store {
    /// Opens the store in a folder of its own, which is made if it is missing.
    pub fn open(path: &Path) -> Result<Store, StoreError> {
        let name: Arc<str> = path.display().to_string().into();
        let fail = |cause| StoreError {
            path: name.clone(),
            cause,
        };
        let database = Database::builder(path)
            .cache_size(64 << 20)
            .open()
            .map_err(fail)?;
        let positions = database
            .keyspace("positions", KeyspaceCreateOptions::default)
            .map_err(fail)?;
        Ok(Store {
            database,
            positions,
            path: name,
            open: Mutex::new(BTreeMap::new()),
        })
    }

    fn fail(&self, cause: fjall::Error) -> StoreError {
        StoreError {
            path: self.path.clone(),
            cause,
        }
    }

    /// The tables of a service, made if they are missing.
    pub fn tables(&self, service: &str) -> Result<Arc<Tables>, StoreError> {
        let mut open = self.open.lock();
        if let Some(tables) = open.get(service) {
            return Ok(tables.clone());
        }
        let keyspace = self
            .database
            .keyspace(&format!("state.{service}"), KeyspaceCreateOptions::default)
            .map_err(|cause| self.fail(cause))?;
        let tables = Arc::new(Tables {
            service: service.to_owned(),
            shards: ArcSwap::from_pointee(find_shards(&keyspace).map_err(|e| self.fail(e))?),
            keyspace,
            database: self.database.clone(),
            positions: self.positions.clone(),
            path: self.path.clone(),
        });
        open.insert(service.to_owned(), tables.clone());
        Ok(tables)
    }
}

/// Which shards have rows, found by skipping from one to the next.
fn find_shards(keyspace: &Keyspace) -> Result<BTreeSet<u32>, fjall::Error> {
    let mut shards = BTreeSet::new();
    let mut next = 0u32;
    while let Some(row) = keyspace.range(next.to_be_bytes()..).next() {
        let key = row.key()?;
        let Some(shard) = key.first_chunk::<4>().copied().map(u32::from_be_bytes) else {
            break;
        };
        shards.insert(shard);
        match shard.checked_add(1) {
            Some(following) => next = following,
            None => break,
        }
    }
    Ok(shards)
}

/// What one write makes durable, together.
#[derive(Debug, Default)]
pub struct Commit {
    /// Rows by shard; none deletes the row.
    pub rows: BTreeMap<(u32, RowKey), Option<Bytes>>,
    /// By topic and partition: the offset of the next event to run.
    pub positions: BTreeMap<(Arc<str>, i32), i64>,
}

/// The tables of one service.
pub struct Tables {
    service: String,
    keyspace: Keyspace,
    database: Database,
    positions: Keyspace,
    /// Shards that have, or had, rows.
    shards: ArcSwap<BTreeSet<u32>>,
    path: Arc<str>,
}

impl Tables {
    fn fail(&self, cause: fjall::Error) -> StoreError {
        StoreError {
            path: self.path.clone(),
            cause,
        }
    }

    /// Shards that may have rows, in order.
    pub fn shards(&self) -> Arc<BTreeSet<u32>> {
        self.shards.load_full()
    }

    /// The value of a row.
    pub fn get(&self, shard: u32, table: &str, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self
            .keyspace
            .get(encode(shard, table, key))
            .map_err(|cause| self.fail(cause))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    /// Rows of a table in a shard, with keys from `start` to before `end`, from
    /// the lowest key up or the highest down.
    pub fn scan<'a>(
        &'a self,
        shard: u32,
        table: &str,
        start: Option<&[u8]>,
        end: Option<&[u8]>,
        reverse: bool,
    ) -> impl Iterator<Item = Result<(Bytes, Bytes), StoreError>> + use<'a> {
        let from = encode(shard, table, start.unwrap_or_default());
        let to = match end {
            Some(end) => encode(shard, table, end),
            None => after_table(shard, table),
        };
        let prefix = 4 + table.len() + 1;
        // An empty range is asked for where `end` is not above `start`.
        let mut rows = (from < to).then(|| self.keyspace.range(from..to));
        std::iter::from_fn(move || {
            let rows = rows.as_mut()?;
            let row = if reverse {
                rows.next_back()
            } else {
                rows.next()
            }?;
            Some(match row.into_inner() {
                Ok((key, value)) => Ok((
                    Bytes::copy_from_slice(key.get(prefix..).unwrap_or_default()),
                    Bytes::copy_from_slice(&value),
                )),
                Err(cause) => Err(self.fail(cause)),
            })
        })
    }

    /// The offset of the next event to run, if this host ever ran one.
    pub fn position(&self, topic: &str, partition: i32) -> Result<Option<i64>, StoreError> {
        let value = self
            .positions
            .get(self.position_key(topic, partition))
            .map_err(|cause| self.fail(cause))?;
        Ok(value
            .and_then(|value| value.first_chunk::<8>().copied())
            .map(i64::from_be_bytes))
    }

    /// Writes rows and positions, all or nothing.
    pub fn commit(&self, commit: &Commit) -> Result<(), StoreError> {
        let mut batch = self.database.batch();
        let mut new = BTreeSet::new();
        let shards = self.shards();
        for ((shard, (table, key)), value) in &commit.rows {
            let row = encode(*shard, table, key);
            match value {
                Some(value) => batch.insert(&self.keyspace, row, &value[..]),
                None => batch.remove(&self.keyspace, row),
            }
            if !shards.contains(shard) {
                new.insert(*shard);
            }
        }
        for ((topic, partition), offset) in &commit.positions {
            let key = self.position_key(topic, *partition);
            batch.insert(&self.positions, key, offset.to_be_bytes());
        }
        if !new.is_empty() {
            // Before the rows can be read; an empty shard more does no harm.
            new.extend(shards.iter());
            self.shards.store(Arc::new(new));
        }
        batch.commit().map_err(|cause| self.fail(cause))
    }

    fn position_key(&self, topic: &str, partition: i32) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.service.len() + topic.len() + 6);
        key.extend_from_slice(self.service.as_bytes());
        key.push(0);
        key.extend_from_slice(topic.as_bytes());
        key.push(0);
        key.extend_from_slice(&partition.to_be_bytes());
        key
    }
}

/// The stored form of a row's name. Table names have no zero byte.
fn encode(shard: u32, table: &str, key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(4 + table.len() + 1 + key.len());
    row.extend_from_slice(&shard.to_be_bytes());
    row.extend_from_slice(table.as_bytes());
    row.push(0);
    row.extend_from_slice(key);
    row
}

/// The first stored key behind all rows of a table.
fn after_table(shard: u32, table: &str) -> Vec<u8> {
    let mut row = encode(shard, table, &[]);
    if let Some(last) = row.last_mut() {
        *last = 1;
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(table: &str, key: &str) -> RowKey {
        (table.to_owned(), Bytes::copy_from_slice(key.as_bytes()))
    }

    fn keys(tables: &Tables, shard: u32, table: &str, reverse: bool) -> Vec<String> {
        tables
            .scan(shard, table, None, None, reverse)
            .map(|row| String::from_utf8(row.unwrap().0.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn rows_and_positions_are_there_after_reopening() {
        let folder = crate::testing::folder("store-reopen");
        {
            let store = Store::open(&folder).unwrap();
            let tables = store.tables("order").unwrap();
            let mut commit = Commit::default();
            commit
                .rows
                .insert((3, row("orders", "b")), Some(Bytes::from_static(b"2")));
            commit
                .rows
                .insert((3, row("orders", "a")), Some(Bytes::from_static(b"1")));
            commit
                .rows
                .insert((7, row("orders", "c")), Some(Bytes::from_static(b"3")));
            commit.positions.insert(("user_topic".into(), 3), 42);
            tables.commit(&commit).unwrap();
        }
        let store = Store::open(&folder).unwrap();
        let tables = store.tables("order").unwrap();
        assert_eq!(tables.position("user_topic", 3).unwrap(), Some(42));
        assert_eq!(tables.position("user_topic", 4).unwrap(), None);
        assert_eq!(*tables.shards(), BTreeSet::from([3, 7]));
        assert_eq!(keys(&tables, 3, "orders", false), ["a", "b"]);
        assert_eq!(keys(&tables, 3, "orders", true), ["b", "a"]);
        assert_eq!(
            tables.get(7, "orders", b"c").unwrap().as_deref(),
            Some(&b"3"[..])
        );
    }

    #[test]
    fn tables_and_services_do_not_see_each_other() {
        let store = Store::open(&crate::testing::folder("store-apart")).unwrap();
        let order = store.tables("order").unwrap();
        let other = store.tables("order-2").unwrap();
        let mut commit = Commit::default();
        for table in ["a", "ab", "b"] {
            commit
                .rows
                .insert((0, row(table, table)), Some(Bytes::from_static(b"x")));
        }
        commit.positions.insert(("t".into(), 0), 1);
        order.commit(&commit).unwrap();
        assert_eq!(keys(&order, 0, "a", false), ["a"]);
        assert_eq!(keys(&order, 0, "ab", false), ["ab"]);
        assert!(keys(&other, 0, "a", false).is_empty());
        assert_eq!(other.position("t", 0).unwrap(), None);
    }

    #[test]
    fn a_range_that_ends_before_it_starts_is_empty() {
        let store = Store::open(&crate::testing::folder("store-range")).unwrap();
        let tables = store.tables("order").unwrap();
        let range = tables.scan(0, "t", Some(b"b"), Some(b"a"), false);
        assert_eq!(range.count(), 0);
    }
}
