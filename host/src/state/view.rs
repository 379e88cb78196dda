//! What a handler sees of its service's state.
//!
//! An event handler sees one shard: its own writes on top of those that are not
//! committed yet, on top of the store. An HTTP handler sees all shards as one
//! view, committed rows only, and writes none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::overlay::{self, Overlay};
use super::rows::{RowKey, encode, within_shard};
use super::store::{StoreError, Tables};

/// The most rows that one scan returns.
pub const MAX_SCAN: u32 = 10_000;
/// The longest key in bytes. (The store's own bound is 65,536 with its prefix.)
pub const MAX_KEY: usize = 65_000;

/// A row as a handler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The shard.
    pub shard: u32,
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
}

/// Why the state refused what a handler asked for.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// No grant.
    #[error("the manifest does not grant state: add `state = true` under [grants]")]
    NotGranted,
    /// Not complete on this host yet.
    #[error("the service's state is being restored on this host")]
    Restoring,
    /// A write of an HTTP handler.
    #[error("an HTTP handler cannot write state: publish an event, and write when it is consumed")]
    ReadOnly,
    /// A key with rows in several shards.
    #[error(
        "the key has rows in {0} shards: use get-all, or a table with a merge, or publish the event \
         again under this key"
    )]
    SeveralShards(usize),
    /// Bad arguments.
    #[error("{0}")]
    Invalid(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What to scan.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// The lowest key.
    pub start: Option<&'a [u8]>,
    /// The first key that is too high.
    pub end: Option<&'a [u8]>,
    /// The most rows.
    pub limit: u32,
    /// From the highest key down.
    pub reverse: bool,
    /// The most bytes of keys and values: whoever asks has to hold them.
    pub bytes: u64,
}

/// A handler's view of the state.
#[derive(Clone, Default)]
pub enum View {
    /// The manifest does not grant state.
    #[default]
    NotGranted,
    /// All shards, but they are not here yet. Set when they are asked for.
    Restoring(Arc<AtomicBool>),
    /// All shards, to read.
    Shards(Arc<Tables>),
    /// One shard, to read and write.
    Shard {
        /// The service's committed rows.
        tables: Arc<Tables>,
        /// Which shard.
        shard: u32,
        /// Rows that are not committed yet.
        pending: Arc<Mutex<Overlay>>,
    },
}

/// The rows that the running invocation wrote.
pub type Written = BTreeMap<RowKey, Option<Bytes>>;

impl View {
    /// Whether a row may be written, and which name it has.
    pub fn writable(&self, table: &str, key: &[u8]) -> Result<RowKey, ViewError> {
        match self {
            View::NotGranted => Err(ViewError::NotGranted),
            View::Restoring(_) | View::Shards(_) => Err(ViewError::ReadOnly),
            View::Shard { .. } => {
                check(table, key)?;
                Ok(RowKey::new(table, key))
            }
        }
    }

    fn readable(&self) -> Result<(), ViewError> {
        match self {
            View::NotGranted => Err(ViewError::NotGranted),
            View::Restoring(asked) => {
                asked.store(true, Ordering::Release);
                Err(ViewError::Restoring)
            }
            View::Shards(_) | View::Shard { .. } => Ok(()),
        }
    }

    /// All rows of a key, ordered by shard.
    pub fn get_all(
        &self,
        written: &Written,
        table: &str,
        key: &[u8],
    ) -> Result<Vec<Row>, ViewError> {
        self.readable()?;
        check(table, key)?;
        let mut rows = Vec::new();
        let mut found = |shard, value: Option<Bytes>| {
            rows.extend(value.map(|value| Row {
                shard,
                key: Bytes::copy_from_slice(key),
                value,
            }));
        };
        match self {
            View::NotGranted | View::Restoring(_) => {}
            View::Shards(tables) => {
                for &shard in tables.shards().iter() {
                    found(shard, tables.get(shard, table, key)?);
                }
            }
            View::Shard { shard, .. } => found(*shard, self.get(written, table, key)?),
        }
        Ok(rows)
    }

    /// The value of a key.
    pub fn get(
        &self,
        written: &Written,
        table: &str,
        key: &[u8],
    ) -> Result<Option<Bytes>, ViewError> {
        if let View::Shard {
            tables,
            shard,
            pending,
        } = self
        {
            check(table, key)?;
            let name = encode(*shard, table, key);
            let row = within_shard(&name);
            if let Some(value) = written.get(row) {
                return Ok(value.clone());
            }
            let value = pending.lock().get(row);
            return match value {
                Some(value) => Ok(value),
                None => Ok(tables.find(&name)?),
            };
        }
        let mut rows = self.get_all(written, table, key)?;
        match rows.len() {
            0 | 1 => Ok(rows.pop().map(|row| row.value)),
            shards => Err(ViewError::SeveralShards(shards)),
        }
    }

    /// Rows in order of key, then shard; the rows of one key are never split.
    pub fn scan(
        &self,
        written: &Written,
        table: &str,
        range: Range<'_>,
    ) -> Result<Vec<Row>, ViewError> {
        self.readable()?;
        check(table, b"-")?;
        if range.limit == 0 || range.limit > MAX_SCAN {
            return Err(ViewError::Invalid(format!(
                "a scan's limit is 1 to {MAX_SCAN}, not {}",
                range.limit
            )));
        }
        let Range {
            start,
            end,
            reverse,
            ..
        } = range;
        match self {
            View::NotGranted => Err(ViewError::NotGranted),
            View::Restoring(_) => Err(ViewError::Restoring),
            View::Shards(tables) => {
                let shards = tables.shards();
                let sources = shards
                    .iter()
                    .map(|&shard| (shard, tables.scan(shard, table, start, end, reverse)));
                merge(sources, range)
            }
            View::Shard {
                tables,
                shard,
                pending,
            } => {
                let mut over = pending.lock().range(table, start, end);
                for (key, value) in overlay::range(written, table, start, end) {
                    over.insert(key, value.clone());
                }
                let committed = tables.scan(*shard, table, start, end, reverse);
                merge([(*shard, covered(committed, over, reverse))], range)
            }
        }
    }
}

/// Committed rows with pending ones laid over them, in order.
fn covered(
    committed: impl Iterator<Item = Result<(Bytes, Bytes), StoreError>>,
    over: BTreeMap<Bytes, Option<Bytes>>,
    reverse: bool,
) -> impl Iterator<Item = Result<(Bytes, Bytes), StoreError>> {
    let mut committed = committed.peekable();
    let mut over: std::collections::VecDeque<_> = if reverse {
        over.into_iter().rev().collect()
    } else {
        over.into_iter().collect()
    };
    std::iter::from_fn(move || {
        loop {
            let order = match (committed.peek(), over.front()) {
                (Some(Err(_)), _) | (Some(_), None) => return committed.next(),
                (None, None) => return None,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(Ok((below, _))), Some((above, _))) if reverse => above.cmp(below),
                (Some(Ok((below, _))), Some((above, _))) => below.cmp(above),
            };
            match order {
                std::cmp::Ordering::Less => return committed.next(),
                std::cmp::Ordering::Equal => {
                    committed.next();
                }
                std::cmp::Ordering::Greater => {}
            }
            // A deleted row covers the committed one and is not there itself.
            if let (key, Some(value)) = over.pop_front()? {
                return Some(Ok((key, value)));
            }
        }
    })
}

/// Merges sources that are in order of key each, by key, then shard.
fn merge<I>(
    sources: impl IntoIterator<Item = (u32, I)>,
    range: Range<'_>,
) -> Result<Vec<Row>, ViewError>
where
    I: Iterator<Item = Result<(Bytes, Bytes), StoreError>>,
{
    let mut heads = Vec::new();
    for (shard, mut rows) in sources {
        if let Some(row) = rows.next() {
            heads.push((shard, row?, rows));
        }
    }
    let mut merged: Vec<Row> = Vec::new();
    let mut bytes = 0;
    loop {
        let first = heads
            .iter()
            .enumerate()
            .min_by(|(_, (a_shard, (a, _), _)), (_, (b_shard, (b, _), _))| {
                let keys = if range.reverse { b.cmp(a) } else { a.cmp(b) };
                keys.then(a_shard.cmp(b_shard))
            })
            .map(|(index, _)| index);
        let Some(index) = first else { break };
        let (shard, (key, value), rows) = &mut heads[index];
        let full = merged.len() >= range.limit as usize;
        if full && merged.last().is_some_and(|last| last.key != *key) {
            break;
        }
        bytes += (key.len() + value.len()) as u64;
        if bytes > range.bytes {
            return Err(ViewError::Invalid(format!(
                "the first {} rows of this scan have more than {} bytes, all that its caller can \
                 hold: ask for fewer",
                merged.len() + 1,
                range.bytes
            )));
        }
        let next = rows.next().transpose()?;
        let row = Row {
            shard: *shard,
            key: std::mem::take(key),
            value: std::mem::take(value),
        };
        match next {
            Some(next) => heads[index].1 = next,
            None => drop(heads.swap_remove(index)),
        }
        merged.push(row);
    }
    Ok(merged)
}

fn check(table: &str, key: &[u8]) -> Result<(), ViewError> {
    let named = (1..=64).contains(&table.len())
        && table
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if !named {
        return Err(ViewError::Invalid(format!(
            "{table:?} is not a table name: 1 to 64 of a-z, 0-9, - and _"
        )));
    }
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(ViewError::Invalid(format!(
            "a key has 1 to {MAX_KEY} bytes, not {}",
            key.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Commit, Store};

    struct Fixture {
        tables: Arc<Tables>,
        _store: Store,
    }

    /// Rows `(shard, key, value)` committed in table `t`.
    fn committed(name: &str, rows: &[(u32, &str, &str)]) -> Fixture {
        let store = Store::open(&crate::testing::folder(name)).unwrap();
        let tables = store.tables("s", 1).unwrap();
        for (shard, key, value) in rows {
            let commit = Commit {
                rows: Written::from([(row(key), Some(text(value)))]),
                ..Commit::default()
            };
            tables.commit(&commit, tables.claim(*shard)).unwrap();
        }
        Fixture {
            tables,
            _store: store,
        }
    }

    fn text(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn row(key: &str) -> RowKey {
        RowKey::new("t", key.as_bytes())
    }

    fn all(limit: u32, reverse: bool) -> Range<'static> {
        Range {
            start: None,
            end: None,
            limit,
            reverse,
            bytes: 1000,
        }
    }

    fn shown(rows: Vec<Row>) -> Vec<String> {
        rows.into_iter()
            .map(|row| {
                let part = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                format!("{}/{}={}", part(&row.key), row.shard, part(&row.value))
            })
            .collect()
    }

    #[test]
    fn an_http_handler_sees_all_shards_by_key_then_shard() {
        let rows = [(1, "b", "1"), (0, "a", "2"), (0, "b", "3"), (2, "c", "4")];
        let fixture = committed("view-shards", &rows);
        let view = View::Shards(fixture.tables.clone());
        let none = Written::new();
        let scan = |limit, reverse| shown(view.scan(&none, "t", all(limit, reverse)).unwrap());
        assert_eq!(scan(10, false), ["a/0=2", "b/0=3", "b/1=1", "c/2=4"]);
        assert_eq!(scan(10, true), ["c/2=4", "b/0=3", "b/1=1", "a/0=2"]);
        // A key is never split, so the second page starts behind it.
        assert_eq!(scan(2, false), ["a/0=2", "b/0=3", "b/1=1"]);
        assert!(matches!(
            view.get(&none, "t", b"b"),
            Err(ViewError::SeveralShards(2))
        ));
        assert_eq!(view.get_all(&none, "t", b"b").unwrap().len(), 2);
        assert_eq!(view.get(&none, "t", b"a").unwrap(), Some(text("2")));
        assert!(matches!(view.writable("t", b"a"), Err(ViewError::ReadOnly)));
    }

    #[test]
    fn a_scan_of_more_than_its_caller_can_hold_is_refused() {
        let fixture = committed("view-bytes", &[(0, "a", "12"), (1, "b", "345")]);
        let view = View::Shards(fixture.tables.clone());
        let scan = |bytes| {
            let range = Range {
                bytes,
                ..all(10, false)
            };
            view.scan(&Written::new(), "t", range)
                .map(|rows| rows.len())
        };
        assert_eq!(scan(7).unwrap(), 2);
        assert!(matches!(scan(6), Err(ViewError::Invalid(_))));
    }

    #[test]
    fn an_event_handler_sees_its_own_writes_then_pending_ones_then_the_store() {
        let rows = [(0, "a", "0"), (0, "b", "0"), (0, "c", "0"), (1, "d", "0")];
        let fixture = committed("view-shard", &rows);
        let pending = Arc::new(Mutex::new(Overlay::default()));
        pending.lock().write(
            1,
            &Written::from([
                (row("b"), Some(text("1"))),
                (row("c"), None),
                (row("e"), Some(text("1"))),
            ]),
        );
        let view = View::Shard {
            tables: fixture.tables.clone(),
            shard: 0,
            pending,
        };
        let written = Written::from([
            (row("b"), None),
            (row("c"), Some(text("2"))),
            (row("f"), Some(text("2"))),
        ]);
        let scan = |limit, reverse| shown(view.scan(&written, "t", all(limit, reverse)).unwrap());
        assert_eq!(scan(10, false), ["a/0=0", "c/0=2", "e/0=1", "f/0=2"]);
        assert_eq!(scan(10, true), ["f/0=2", "e/0=1", "c/0=2", "a/0=0"]);
        assert_eq!(scan(2, false), ["a/0=0", "c/0=2"]);
        assert_eq!(view.get(&written, "t", b"b").unwrap(), None);
        assert_eq!(view.get(&written, "t", b"e").unwrap(), Some(text("1")));
        assert_eq!(view.get(&written, "t", b"d").unwrap(), None);
    }

    #[test]
    fn arguments_that_make_no_sense_are_refused_with_what_would() {
        let fixture = committed("view-check", &[]);
        let view = View::Shards(fixture.tables.clone());
        let none = Written::new();
        for (table, key) in [("", "k"), ("Orders", "k"), ("a\0b", "k"), ("t", "")] {
            let error = view.get(&none, table, key.as_bytes()).unwrap_err();
            assert!(matches!(error, ViewError::Invalid(_)), "{table:?} {key:?}");
        }
        for limit in [0, MAX_SCAN + 1] {
            assert!(matches!(
                view.scan(&none, "t", all(limit, false)),
                Err(ViewError::Invalid(_))
            ));
        }
        assert!(matches!(
            View::NotGranted.get(&none, "t", b"k"),
            Err(ViewError::NotGranted)
        ));
    }
}
