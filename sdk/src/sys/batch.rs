//! Events that came several at once, as one after another.

use std::vec::IntoIter;

use super::bindings::events::tidemill::service::event_source::{Batch, PackedEvent, PackedHeader};
use super::{Header, RawEvent};

/// What is left of a batch.
#[derive(Default)]
pub(super) struct Unpacking {
    topic: String,
    partition: u32,
    events: IntoIter<PackedEvent>,
    headers: IntoIter<PackedHeader>,
    bytes: Vec<u8>,
    /// How many of the bytes are taken.
    taken: usize,
}

impl Unpacking {
    pub(super) fn new(batch: Batch) -> Unpacking {
        Unpacking {
            topic: batch.topic,
            partition: batch.partition,
            events: batch.events.into_iter(),
            headers: batch.headers.into_iter(),
            bytes: batch.bytes,
            taken: 0,
        }
    }

    fn part(&mut self, length: u32) -> Vec<u8> {
        let end = self.taken + length as usize;
        let part = self.bytes[self.taken..end].to_vec();
        self.taken = end;
        part
    }

    fn header(&mut self) -> Option<Header> {
        let header = self.headers.next()?;
        let name = self.part(header.name);
        // The contract promises UTF-8.
        let name = String::from_utf8(name).unwrap_or_default();
        Some((name, header.value.map(|length| self.part(length))))
    }
}

impl Iterator for Unpacking {
    type Item = RawEvent;

    fn next(&mut self) -> Option<RawEvent> {
        let event = self.events.next()?;
        let event = RawEvent {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: event.offset,
            timestamp: event.timestamp,
            key: event.key.map(|length| self.part(length)),
            value: event.value.map(|length| self.part(length)),
            headers: (0..event.headers).map_while(|_| self.header()).collect(),
            attempt: event.attempt,
        };
        // A handler may need the room that a large one took.
        if self.events.len() == 0 {
            self.bytes = Vec::new();
        }
        Some(event)
    }
}
