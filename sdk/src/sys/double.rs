//! The host in memory, for tests: what it keeps, and what a handler sees of it.
//! The rules are the contract's (`wit/`).

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::RawRow;
use crate::publish::{Message, PublishError};
use crate::state::StateError;

/// The manifest's default for `limits.event`, in bytes.
const LARGEST_EVENT: usize = 999_000;
/// The manifest's default for `limits.effects`.
const MOST_EFFECTS: usize = 10_000;
const LARGEST_KEY: usize = 64 * 1024;
const LARGEST_SCAN: u32 = 10_000;

/// What a handler may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum View {
    /// Called by hand, outside of any invocation: as an event of partition 0.
    #[default]
    Bare,
    /// Reads all shards, writes none.
    Http,
    /// Reads and writes one shard.
    Event { shard: u32 },
}

/// What names a row of a table: the key, then the shard.
type Name = (Vec<u8>, u32);
/// The rows of one table.
type Rows = BTreeMap<Name, Vec<u8>>;

/// All that the host keeps for one service.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) view: View,
    pub(crate) settings: BTreeMap<String, String>,
    /// What the manifest grants; none: everything.
    pub(crate) grants: Option<Grants>,
    /// What the invocation wants to publish.
    pub(crate) pending: Vec<Message>,
    tables: BTreeMap<String, Rows>,
    /// Of each write of the invocation, the table, the row, and what was there
    /// before.
    undo: Vec<(String, Name, Option<Vec<u8>>)>,
}

#[derive(Debug, Default)]
pub(crate) struct Grants {
    pub(crate) publish: Vec<String>,
    pub(crate) state: bool,
}

impl World {
    /// Makes what the invocation wrote stay, and gives what it published.
    pub(crate) fn commit(&mut self) -> Vec<Message> {
        self.undo.clear();
        std::mem::take(&mut self.pending)
    }

    /// Drops everything that the invocation did.
    pub(crate) fn roll_back(&mut self) {
        self.pending.clear();
        for (table, key, before) in std::mem::take(&mut self.undo).into_iter().rev() {
            let rows = self.tables.entry(table).or_default();
            match before {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
    }

    fn count_effect(&self) -> Result<(), String> {
        if self.pending.len() + self.undo.len() < MOST_EFFECTS {
            return Ok(());
        }
        Err(format!(
            "more than {MOST_EFFECTS} effects in one invocation (limits.effects)"
        ))
    }

    fn publish(&mut self, message: Message) -> Result<(), PublishError> {
        if let Some(grants) = &self.grants
            && !grants.publish.contains(&message.topic)
        {
            return Err(PublishError::NotGranted(format!(
                "publishing to {0} is not granted: add \"{0}\" to grants.publish",
                message.topic
            )));
        }
        let headers: usize = message
            .headers()
            .map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len))
            .sum();
        let size = message.key.as_ref().map_or(0, Vec::len)
            + message.value.as_ref().map_or(0, Vec::len)
            + headers;
        if size > LARGEST_EVENT {
            return Err(PublishError::TooLarge(format!(
                "a message of {size} bytes is larger than limits.event, {LARGEST_EVENT} bytes"
            )));
        }
        self.count_effect().map_err(PublishError::TooMany)?;
        self.pending.push(message);
        Ok(())
    }

    /// The rows of a table that this invocation sees.
    fn rows(&self, table: &str, key: Option<&[u8]>) -> Result<Option<&Rows>, StateError> {
        if self.grants.as_ref().is_some_and(|grants| !grants.state) {
            return Err(StateError::NotGranted(
                "state is not granted: set grants.state = true".to_owned(),
            ));
        }
        let valid = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        if table.is_empty() || table.len() > 64 || !table.bytes().all(valid) {
            return Err(StateError::Invalid(format!(
                "{table:?} is no name of a table: 1 to 64 of a-z, 0-9, - and _"
            )));
        }
        match key {
            Some([]) => Err(StateError::Invalid("a key must not be empty".to_owned())),
            Some(key) if key.len() > LARGEST_KEY => Err(StateError::Invalid(format!(
                "a key of {} bytes is larger than {LARGEST_KEY} bytes",
                key.len()
            ))),
            _ => Ok(self.tables.get(table)),
        }
    }

    fn sees(&self, shard: u32) -> bool {
        match self.view {
            View::Event { shard: own } => shard == own,
            View::Bare | View::Http => true,
        }
    }

    fn get_all(&self, table: &str, key: &[u8]) -> Result<Vec<RawRow>, StateError> {
        let Some(rows) = self.rows(table, Some(key))? else {
            return Ok(Vec::new());
        };
        Ok(rows
            .range((key.to_vec(), 0)..=(key.to_vec(), u32::MAX))
            .filter(|((_, shard), _)| self.sees(*shard))
            .map(|((key, shard), value)| RawRow {
                shard: *shard,
                key: key.clone(),
                value: value.clone(),
            })
            .collect())
    }

    fn write(&mut self, table: &str, key: &[u8], value: Option<&[u8]>) -> Result<(), StateError> {
        self.rows(table, Some(key))?;
        let shard = match self.view {
            View::Http => {
                return Err(StateError::ReadOnly(format!(
                    "an HTTP handler can't write to the table {table}: \
                     publish an event, and write when it is consumed"
                )));
            }
            View::Event { shard } => shard,
            View::Bare => 0,
        };
        if value.is_some_and(|value| value.len() > LARGEST_EVENT) {
            return Err(StateError::Invalid(format!(
                "a value larger than limits.event, {LARGEST_EVENT} bytes"
            )));
        }
        self.count_effect().map_err(StateError::TooMany)?;
        let rows = self.tables.entry(table.to_owned()).or_default();
        let key = (key.to_vec(), shard);
        let before = match value {
            Some(value) => rows.insert(key.clone(), value.to_vec()),
            None => rows.remove(&key),
        };
        self.undo.push((table.to_owned(), key, before));
        Ok(())
    }

    fn scan(
        &self,
        table: &str,
        start: Option<&[u8]>,
        end: Option<&[u8]>,
        limit: u32,
        reverse: bool,
    ) -> Result<Vec<RawRow>, StateError> {
        let rows = self.rows(table, None)?;
        if !(1..=LARGEST_SCAN).contains(&limit) {
            return Err(StateError::Invalid(format!(
                "a limit of {limit} is not between 1 and {LARGEST_SCAN}"
            )));
        }
        let mut seen: Vec<_> = rows
            .into_iter()
            .flatten()
            .filter(|((key, shard), _)| {
                self.sees(*shard)
                    && start.is_none_or(|start| key.as_slice() >= start)
                    && end.is_none_or(|end| key.as_slice() < end)
            })
            .collect();
        if reverse {
            // Keys from the highest down, the shards of a key still upwards.
            seen.sort_by(|((a, s), _), ((b, t), _)| b.cmp(a).then(s.cmp(t)));
        }
        let mut found: Vec<RawRow> = Vec::new();
        for ((key, shard), value) in seen {
            if found.len() >= limit as usize && found.last().is_some_and(|last| last.key != *key) {
                break;
            }
            found.push(RawRow {
                shard: *shard,
                key: key.clone(),
                value: value.clone(),
            });
        }
        Ok(found)
    }
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

/// Runs `call` with `world` as the host, on this thread.
pub(crate) fn within<T>(world: &mut World, call: impl FnOnce() -> T) -> T {
    /// Puts the worlds back also if `call` panics, as a failing test does.
    struct Swapped<'a>(&'a mut World);

    impl Drop for Swapped<'_> {
        fn drop(&mut self) {
            WORLD.with_borrow_mut(|current| std::mem::swap(current, self.0));
        }
    }

    WORLD.with_borrow_mut(|current| std::mem::swap(current, world));
    let _swapped = Swapped(world);
    call()
}

pub(crate) fn publish(message: Message) -> Result<(), PublishError> {
    WORLD.with_borrow_mut(|world| world.publish(message))
}

pub(crate) fn get(table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
    let mut rows = get_all(table, key)?;
    if rows.len() > 1 {
        let shards: Vec<_> = rows.iter().map(|row| row.shard).collect();
        return Err(StateError::SeveralShards(format!(
            "a key of the table {table} has rows in the shards {shards:?}: use get_all, a table \
             with a merge (MergedTable), or publish what it is made of under this key"
        )));
    }
    Ok(rows.pop().map(|row| row.value))
}

pub(crate) fn get_all(table: &str, key: &[u8]) -> Result<Vec<RawRow>, StateError> {
    WORLD.with_borrow(|world| world.get_all(table, key))
}

pub(crate) fn put(table: &str, key: &[u8], value: &[u8]) -> Result<(), StateError> {
    WORLD.with_borrow_mut(|world| world.write(table, key, Some(value)))
}

pub(crate) fn delete(table: &str, key: &[u8]) -> Result<(), StateError> {
    WORLD.with_borrow_mut(|world| world.write(table, key, None))
}

pub(crate) fn scan(
    table: &str,
    start: Option<&[u8]>,
    end: Option<&[u8]>,
    limit: u32,
    reverse: bool,
) -> Result<Vec<RawRow>, StateError> {
    WORLD.with_borrow(|world| world.scan(table, start, end, limit, reverse))
}

pub(crate) fn setting(key: &str) -> Option<String> {
    WORLD.with_borrow(|world| world.settings.get(key).cloned())
}
