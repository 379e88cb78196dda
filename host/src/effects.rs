//! What an invocation asked for: events to publish and rows to write.
//!
//! Effects are only noted down while a handler runs. Whoever ran it commits
//! them, once, or drops them: then it is as if the handler had never run.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::state::RowKey;
use crate::trace::Trail;

/// An event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The topic, which the manifest grants.
    pub topic: std::sync::Arc<str>,
    /// The partition; none: by the key, as Java clients do it (murmur2), and any
    /// if there is no key.
    pub partition: Option<i32>,
    /// The key, if any.
    pub key: Option<Bytes>,
    /// The value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Record headers.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl Message {
    /// Bytes of key, value and headers.
    pub fn size(&self) -> usize {
        record_size(&self.key, &self.value, &self.headers)
    }
}

/// Bytes of a Kafka record's key, value and headers.
pub(crate) fn record_size(
    key: &Option<Bytes>,
    value: &Option<Bytes>,
    headers: &[(String, Option<Bytes>)],
) -> usize {
    let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers = headers.iter().map(|(name, value)| name.len() + len(value));
    len(key) + len(value) + headers.sum::<usize>()
}

/// Bytes of a row's table, key and value.
pub(crate) fn row_size(row: &RowKey, value: &Option<Bytes>) -> usize {
    row.size() + value.as_ref().map_or(0, Bytes::len)
}

/// What one invocation asked for.
#[derive(Debug, Default)]
pub struct Effects {
    /// Events to publish, in the order in which they were published.
    pub messages: Vec<Message>,
    /// Rows to write, each with its last value; none deletes the row.
    pub rows: BTreeMap<RowKey, Option<Bytes>>,
    /// How often the handler asked for something, written over or not.
    pub count: usize,
    /// Bytes of all that, about.
    pub asked: usize,
    /// In which trace it asked.
    pub trail: Trail,
}

impl Effects {
    /// Bytes that a commit has to carry, about.
    pub fn size(&self) -> usize {
        let rows = self.rows.iter().map(|(row, value)| row_size(row, value));
        self.messages.iter().map(Message::size).sum::<usize>() + rows.sum::<usize>()
    }

    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.rows.is_empty()
    }
}
