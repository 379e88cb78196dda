//! The embedded store: this host's copy of committed rows, and how far it is.
//!
//! A write batch carries rows, the offsets behind the events that wrote them, and
//! the offset of the changelog that the copy has reached. Either all of it is
//! there after a crash or none of it.
//!
//! A shard is written by its owner, or from its changelog by the follower, never
//! by both: see [`Claim`]. Writes reach the operating system before a commit
//! returns (they outlive the process); after a power failure the store may fall
//! back to an earlier commit as a whole, and reads on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::rows::{Position, RowKey, after_table, encode, store_key};

/// The store could not read or write. Says what, for logs and errors.
#[derive(Debug, thiserror::Error)]
#[error("the state store in {path} failed: {cause}")]
pub struct StoreError {
    path: Arc<str>,
    cause: fjall::Error,
}

/// How much of one state may be in the journal alone. In memory each row takes two
/// to three times what it has.
const UNWRITTEN: u64 = 16 << 20;
/// The same of all marks: nearly all of these are written over again and again.
const UNWRITTEN_MARKS: u64 = 1 << 20;

/// All state on this host, of one Kafka cluster.
pub struct Store {
    database: Database,
    marks: Keyspace,
    path: Arc<str>,
    open: Mutex<BTreeMap<(String, u32), Arc<Tables>>>,
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
        let marks = database.keyspace("marks", || options(UNWRITTEN_MARKS));
        let marks = marks.map_err(fail)?;
        Ok(Store {
            database,
            marks,
            path: name,
            open: Mutex::default(),
        })
    }

    fn fail(&self, cause: fjall::Error) -> StoreError {
        StoreError {
            path: self.path.clone(),
            cause,
        }
    }

    /// Bytes of all rows that are in memory, and in no file yet.
    pub fn unwritten(&self) -> u64 {
        self.database.write_buffer_size()
    }

    /// Bytes of what was read from files and is kept in memory.
    pub fn cached(&self) -> u64 {
        self.database.cache_size()
    }

    /// The generations of a service's state that are here, oldest first.
    pub fn generations(&self, service: &str) -> Vec<u32> {
        let prefix = format!("state.{service}.");
        let names = self.database.list_keyspace_names();
        let generations = names
            .iter()
            .filter_map(|name| name.strip_prefix(&*prefix)?.parse().ok());
        let mut generations: Vec<u32> = generations.collect();
        generations.sort_unstable();
        generations
    }

    /// The tables of a generation of a service's state, made if they are missing.
    pub fn tables(&self, service: &str, generation: u32) -> Result<Arc<Tables>, StoreError> {
        let mut open = self.open.lock();
        let name = (service.to_owned(), generation);
        if let Some(tables) = open.get(&name) {
            return Ok(tables.clone());
        }
        let space = format!("state.{service}.{generation}");
        let fail = |cause| self.fail(cause);
        let keyspace = self.database.keyspace(&space, || options(UNWRITTEN));
        let keyspace = keyspace.map_err(fail)?;
        let mut tables = Tables {
            generation,
            shards: ArcSwap::from_pointee(find_shards(&keyspace).map_err(fail)?),
            keyspace,
            database: self.database.clone(),
            marks: self.marks.clone(),
            prefix: format!("{space}\0"),
            writers: Mutex::default(),
            known: RwLock::default(),
            complete: AtomicBool::new(false),
            progress: watch::Sender::new(()),
            path: self.path.clone(),
        };
        tables.recall()?;
        let tables = Arc::new(tables);
        open.insert(name, tables.clone());
        Ok(tables)
    }

    /// Removes a generation of a service's state.
    pub fn remove(&self, service: &str, generation: u32) -> Result<(), StoreError> {
        let tables = self.tables(service, generation)?;
        self.open.lock().remove(&(service.to_owned(), generation));
        tables.forget()?;
        self.database
            .delete_keyspace(tables.keyspace.clone())
            .map_err(|cause| self.fail(cause))
    }
}

fn options(unwritten: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(unwritten)
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

/// What one write of a shard makes durable, together.
#[derive(Debug, Default)]
pub struct Commit {
    /// None deletes the row.
    pub rows: BTreeMap<RowKey, Option<Bytes>>,
    /// By topic: the offset of the next event to run.
    pub positions: BTreeMap<Arc<str>, i64>,
    /// The offset of the changelog behind what is written here, where it is known.
    pub checkpoint: Option<i64>,
}

/// The right to write a shard as its owner. It ends when it is released, and
/// with it whatever was still to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The shard.
    pub shard: u32,
    term: u64,
}

/// How far a copy is.
#[derive(Debug, Default)]
struct Known {
    positions: BTreeMap<(Arc<str>, i32), i64>,
    checkpoints: BTreeMap<u32, i64>,
    ends: BTreeMap<u32, i64>,
}

/// Who may write a shard, other than the follower.
#[derive(Debug, Default)]
struct Writers {
    owners: BTreeMap<u32, u64>,
    terms: u64,
}

/// The tables of one generation of one service's state.
pub struct Tables {
    generation: u32,
    keyspace: Keyspace,
    database: Database,
    marks: Keyspace,
    /// Names this generation among the marks.
    prefix: String,
    /// Shards that have, or had, rows.
    shards: ArcSwap<BTreeSet<u32>>,
    /// Held while something is written.
    writers: Mutex<Writers>,
    known: RwLock<Known>,
    complete: AtomicBool,
    progress: watch::Sender<()>,
    path: Arc<str>,
}

impl Tables {
    fn fail(&self, cause: fjall::Error) -> StoreError {
        StoreError {
            path: self.path.clone(),
            cause,
        }
    }

    /// Reads the marks that are on disk.
    fn recall(&mut self) -> Result<(), StoreError> {
        let mut known = Known::default();
        let mut complete = false;
        for mark in self.marks.prefix(&self.prefix) {
            let (name, value) = mark.into_inner().map_err(|cause| self.fail(cause))?;
            let name = name.get(self.prefix.len()..).unwrap_or_default();
            let value = value.first_chunk::<8>().copied().map(i64::from_be_bytes);
            let (Some((kind, name)), Some(value)) = (name.split_first(), value) else {
                continue;
            };
            let number = name.first_chunk::<4>().copied().map(u32::from_be_bytes);
            match (kind, number) {
                (b'c', Some(shard)) => {
                    known.checkpoints.insert(shard, value);
                }
                (b'p', Some(partition)) => {
                    let topic = String::from_utf8_lossy(name.get(4..).unwrap_or_default());
                    let partition = partition.cast_signed();
                    known.positions.insert((topic.into(), partition), value);
                }
                (b'r', _) => complete = true,
                _ => {}
            }
        }
        self.known = RwLock::new(known);
        self.complete = AtomicBool::new(complete);
        Ok(())
    }

    /// The service and the generation, for the log.
    pub fn name(&self) -> &str {
        let name = self.prefix.trim_end_matches('\0');
        name.strip_prefix("state.").unwrap_or(name)
    }

    /// The generation of the state, from 1.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Shards that may have rows, in order.
    pub fn shards(&self) -> Arc<BTreeSet<u32>> {
        self.shards.load_full()
    }

    /// Whether it has been complete once, and so may be read.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// It is complete now, and stays so over restarts.
    pub fn set_complete(&self) -> Result<(), StoreError> {
        self.complete.store(true, Ordering::Release);
        self.progress.send_replace(());
        self.mark(b'r', &[], crate::now_ms().cast_signed())
    }

    /// When it was last known to be up to date, in milliseconds since the Unix
    /// epoch.
    pub fn followed_at(&self) -> Result<Option<i64>, StoreError> {
        let mark = self.marks.get(self.mark_name(b's', &[]));
        let mark = mark.map_err(|cause| self.fail(cause))?;
        Ok(mark.and_then(|value| value.first_chunk::<8>().copied().map(i64::from_be_bytes)))
    }

    /// It is up to date at this time.
    pub fn set_followed_at(&self, time: i64) -> Result<(), StoreError> {
        self.mark(b's', &[], time)
    }

    fn mark(&self, kind: u8, name: &[u8], value: i64) -> Result<(), StoreError> {
        self.marks
            .insert(self.mark_name(kind, name), value.to_be_bytes())
            .map_err(|cause| self.fail(cause))
    }

    fn mark_name(&self, kind: u8, name: &[u8]) -> Vec<u8> {
        let mut mark = Vec::with_capacity(self.prefix.len() + 1 + name.len());
        mark.extend_from_slice(self.prefix.as_bytes());
        mark.push(kind);
        mark.extend_from_slice(name);
        mark
    }

    /// Hears when anything was written.
    pub fn progress(&self) -> watch::Receiver<()> {
        self.progress.subscribe()
    }

    /// The offset of the next event to run, if it is known.
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        let known = self.known.read();
        let mut positions = known.positions.iter();
        let found = positions.find(|((t, p), _)| *p == partition && **t == *topic);
        found.map(|(_, position)| *position)
    }

    /// All such offsets.
    pub fn positions(&self) -> BTreeMap<(Arc<str>, i32), i64> {
        self.known.read().positions.clone()
    }

    /// Those of one shard, by topic.
    pub fn positions_of(&self, shard: u32) -> BTreeMap<String, i64> {
        let known = self.known.read();
        let positions = known.positions.iter();
        positions
            .filter(|((_, partition), _)| partition.cast_unsigned() == shard)
            .map(|((topic, _), position)| (topic.to_string(), *position))
            .collect()
    }

    /// The offset of the changelog that the copy of a shard has reached.
    pub fn checkpoint(&self, shard: u32) -> Option<i64> {
        self.known.read().checkpoints.get(&shard).copied()
    }

    /// The end of a shard's changelog, as last seen.
    pub fn end(&self, shard: u32) -> Option<i64> {
        self.known.read().ends.get(&shard).copied()
    }

    /// A shard's changelog ends here.
    pub fn set_end(&self, shard: u32, end: i64) {
        self.known.write().ends.insert(shard, end);
    }

    /// Shards whose changelogs are known here.
    pub fn known_shards(&self) -> BTreeSet<u32> {
        let known = self.known.read();
        let shards = known.checkpoints.keys().chain(known.ends.keys());
        shards.copied().collect()
    }

    /// Bytes on disk.
    pub fn disk_space(&self) -> u64 {
        self.keyspace.disk_space()
    }

    /// Records of the changelog that this copy lacks, over the shards that have no
    /// owner here.
    pub fn behind(&self) -> i64 {
        let owners = self.writers.lock().owners.clone();
        let known = self.known.read();
        let followed = known
            .ends
            .iter()
            .filter(|(shard, _)| !owners.contains_key(shard));
        let behind = followed.map(|(shard, end)| {
            let reached = known.checkpoints.get(shard).copied().unwrap_or(0);
            (end - reached).max(0)
        });
        behind.sum()
    }

    /// Offsets reached, and ends, added up over the shards whose ends are known.
    pub fn reached(&self) -> (i64, i64) {
        let known = self.known.read();
        let shards = known.ends.iter().map(|(shard, end)| {
            let reached = known.checkpoints.get(shard).copied().unwrap_or(0);
            (reached.min(*end), *end)
        });
        shards.fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    }

    /// Takes a shard from the follower.
    pub fn claim(&self, shard: u32) -> Claim {
        let mut writers = self.writers.lock();
        writers.terms += 1;
        let term = writers.terms;
        writers.owners.insert(shard, term);
        Claim { shard, term }
    }

    /// Gives it back. What was to be written under the claim is not any more.
    pub fn release(&self, claim: Claim) {
        let mut writers = self.writers.lock();
        if writers.owners.get(&claim.shard) == Some(&claim.term) {
            writers.owners.remove(&claim.shard);
        }
    }

    /// Whether a shard has an owner on this host.
    pub fn is_claimed(&self, shard: u32) -> bool {
        self.writers.lock().owners.contains_key(&shard)
    }

    /// The value of a row.
    pub fn get(&self, shard: u32, table: &str, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.find(&encode(shard, table, key))
    }

    /// The value of a row, by its name in the store.
    pub(super) fn find(&self, name: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.keyspace.get(name).map_err(|cause| self.fail(cause))?;
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

    /// The names of tables that have rows.
    pub fn names(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut names = BTreeSet::new();
        for &shard in self.shards().iter() {
            let end = shard.checked_add(1).map(u32::to_be_bytes);
            let mut from = shard.to_be_bytes().to_vec();
            while let Some(row) = self.keyspace.range(from.clone()..).next() {
                let key = row.key().map_err(|cause| self.fail(cause))?;
                if end.is_some_and(|end| key[..] >= end[..]) {
                    break;
                }
                let name = key.get(4..).unwrap_or_default();
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                let name = String::from_utf8_lossy(name).into_owned();
                from = after_table(shard, &name);
                names.insert(name);
            }
        }
        Ok(names)
    }

    /// Writes rows and marks of a shard as its owner, all or nothing. If the claim
    /// has ended, nothing: the follower reads it from the changelog.
    pub fn commit(&self, commit: &Commit, claim: Claim) -> Result<(), StoreError> {
        let writers = self.writers.lock();
        let shard = claim.shard;
        if writers.owners.get(&shard) != Some(&claim.term) {
            return Ok(());
        }
        let rows = commit.rows.iter();
        let rows = rows.map(|(row, value)| (&row.record()[..], value.as_deref()));
        let positions = commit.positions.iter();
        let positions = positions.map(|(topic, offset)| (topic.clone(), *offset));
        self.write(shard, rows, positions.collect(), commit.checkpoint)
    }

    /// Writes what the changelog of a shard has. Returns whether it was written:
    /// it is not if the shard has an owner here.
    pub fn apply(
        &self,
        shard: u32,
        records: impl Iterator<Item = (Bytes, Option<Bytes>)>,
        position: Option<&Position>,
        checkpoint: i64,
    ) -> Result<bool, StoreError> {
        let writers = self.writers.lock();
        if writers.owners.contains_key(&shard) {
            return Ok(false);
        }
        let positions = position
            .into_iter()
            .flat_map(|position| &position.positions);
        let positions = positions.map(|(topic, offset)| (Arc::from(&**topic), *offset));
        self.write(shard, records, positions.collect(), Some(checkpoint))?;
        Ok(true)
    }

    /// Writes rows, by their names within the shard, and how far it is.
    fn write<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        shard: u32,
        rows: impl Iterator<Item = (K, Option<V>)>,
        positions: BTreeMap<Arc<str>, i64>,
        checkpoint: Option<i64>,
    ) -> Result<(), StoreError> {
        let mut batch = self.database.batch();
        let mut name = Vec::new();
        let mut rows = rows.peekable();
        let has_rows = rows.peek().is_some();
        for (row, value) in rows {
            store_key(&mut name, shard, row.as_ref());
            match value {
                Some(value) => batch.insert(&self.keyspace, &name[..], value.as_ref()),
                None => batch.remove(&self.keyspace, &name[..]),
            }
        }
        for (topic, offset) in &positions {
            let mut name = shard.to_be_bytes().to_vec();
            name.extend_from_slice(topic.as_bytes());
            let name = self.mark_name(b'p', &name);
            batch.insert(&self.marks, name, offset.to_be_bytes());
        }
        if let Some(offset) = checkpoint {
            let name = self.mark_name(b'c', &shard.to_be_bytes());
            batch.insert(&self.marks, name, offset.to_be_bytes());
        }
        let shards = self.shards();
        if has_rows && !shards.contains(&shard) {
            // Before the rows can be read; an empty shard more does no harm.
            let shards = shards.iter().copied().chain([shard]);
            self.shards.store(Arc::new(shards.collect()));
        }
        batch.commit().map_err(|cause| self.fail(cause))?;
        let mut known = self.known.write();
        let positions = positions.into_iter();
        let positions = positions.map(|(topic, offset)| ((topic, shard.cast_signed()), offset));
        known.positions.extend(positions);
        known
            .checkpoints
            .extend(checkpoint.map(|offset| (shard, offset)));
        drop(known);
        self.progress.send_replace(());
        Ok(())
    }

    /// Empties it: it is not complete any more, and begins at nothing.
    pub fn forget(&self) -> Result<(), StoreError> {
        let _writing = self.writers.lock();
        self.complete.store(false, Ordering::Release);
        // The marks first: rows without marks are read again.
        for mark in self.marks.prefix(&self.prefix) {
            let name = mark.key().map_err(|cause| self.fail(cause))?;
            self.marks.remove(name).map_err(|cause| self.fail(cause))?;
        }
        *self.known.write() = Known::default();
        self.keyspace.clear().map_err(|cause| self.fail(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(tables: &Tables, shard: u32, table: &str, reverse: bool) -> Vec<String> {
        tables
            .scan(shard, table, None, None, reverse)
            .map(|row| String::from_utf8(row.unwrap().0.to_vec()).unwrap())
            .collect()
    }

    fn commit(rows: &[(&str, &str)]) -> Commit {
        let rows = rows.iter().map(|(table, key)| {
            let value = Some(Bytes::from_static(b"x"));
            (RowKey::new(table, key.as_bytes()), value)
        });
        Commit {
            rows: rows.collect(),
            ..Commit::default()
        }
    }

    #[test]
    fn rows_and_marks_are_there_after_reopening() {
        let folder = crate::testing::folder("store-reopen");
        {
            let store = Store::open(&folder).unwrap();
            let tables = store.tables("order", 1).unwrap();
            let mut three = commit(&[("orders", "b"), ("orders", "a")]);
            three.positions.insert("user_topic".into(), 42);
            three.checkpoint = Some(99);
            tables.commit(&three, tables.claim(3)).unwrap();
            let seven = commit(&[("orders", "c")]);
            tables.commit(&seven, tables.claim(7)).unwrap();
            tables.set_complete().unwrap();
        }
        let store = Store::open(&folder).unwrap();
        assert_eq!(store.generations("order"), [1]);
        let tables = store.tables("order", 1).unwrap();
        assert!(tables.is_complete());
        assert_eq!(tables.position("user_topic", 3), Some(42));
        assert_eq!(tables.position("user_topic", 4), None);
        assert_eq!(tables.checkpoint(3), Some(99));
        assert_eq!(*tables.shards(), BTreeSet::from([3, 7]));
        assert_eq!(keys(&tables, 3, "orders", false), ["a", "b"]);
        assert_eq!(keys(&tables, 3, "orders", true), ["b", "a"]);
        let found = tables.get(7, "orders", b"c").unwrap();
        assert_eq!(found.as_deref(), Some(&b"x"[..]));
        tables.forget().unwrap();
        assert!(!tables.is_complete());
        assert_eq!(tables.position("user_topic", 3), None);
        assert!(keys(&tables, 3, "orders", false).is_empty());
    }

    #[test]
    fn tables_services_and_generations_do_not_see_each_other() {
        let store = Store::open(&crate::testing::folder("store-apart")).unwrap();
        let order = store.tables("order", 1).unwrap();
        let mut all = commit(&[("a", "a"), ("ab", "ab"), ("b", "b")]);
        all.positions.insert("t".into(), 1);
        order.commit(&all, order.claim(0)).unwrap();
        assert_eq!(keys(&order, 0, "a", false), ["a"]);
        assert_eq!(keys(&order, 0, "ab", false), ["ab"]);
        let names = order.names().unwrap();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "ab", "b"]);
        for (service, generation) in [("order-2", 1), ("order", 2), ("order", 11)] {
            let other = store.tables(service, generation).unwrap();
            assert!(keys(&other, 0, "a", false).is_empty());
            assert_eq!(other.position("t", 0), None);
        }
        assert_eq!(store.generations("order"), [1, 2, 11]);
        store.remove("order", 1).unwrap();
        assert_eq!(store.generations("order"), [2, 11]);
    }

    #[test]
    fn a_shard_is_written_by_its_owner_or_from_its_changelog() {
        let store = Store::open(&crate::testing::folder("store-claims")).unwrap();
        let tables = store.tables("order", 1).unwrap();
        let record = |key: &'static str| {
            let row = RowKey::new("t", key.as_bytes());
            [(row.record().clone(), Some(Bytes::from_static(b"x")))].into_iter()
        };
        assert!(tables.apply(0, record("followed"), None, 1).unwrap());
        let claim = tables.claim(0);
        assert!(!tables.apply(0, record("late"), None, 2).unwrap());
        tables.commit(&commit(&[("t", "owned")]), claim).unwrap();
        tables.release(claim);
        // The owner's last commit comes too late, and is left to the changelog.
        let late = commit(&[("t", "too-late")]);
        tables.commit(&late, claim).unwrap();
        let next = tables.claim(0);
        tables.commit(&late, claim).unwrap();
        tables.release(next);
        assert!(tables.apply(0, record("again"), None, 3).unwrap());
        assert_eq!(keys(&tables, 0, "t", false), ["again", "followed", "owned"]);
        assert_eq!(tables.checkpoint(0), Some(3));
    }

    #[test]
    fn a_range_that_ends_before_it_starts_is_empty() {
        let store = Store::open(&crate::testing::folder("store-range")).unwrap();
        let tables = store.tables("order", 1).unwrap();
        let range = tables.scan(0, "t", Some(b"b"), Some(b"a"), false);
        assert_eq!(range.count(), 0);
    }
}
