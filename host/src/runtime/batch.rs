//! Events packed for a guest, several at once (`wit/pulling.wit`).

use std::collections::VecDeque;
use std::sync::Arc;

use super::bindings::imports::tidemill::service::event_source::{Batch, PackedEvent, PackedHeader};
use crate::invocation::Event;

/// A batch has no more bytes than this, but for a single event. What is copied ahead
/// is copied again if it does not get to run.
const BYTES: usize = 64 << 10;

/// The events that a guest was given and that have not begun.
#[derive(Debug, Default)]
pub(super) struct Hand {
    topic: Arc<str>,
    partition: i32,
    offsets: VecDeque<i64>,
}

impl Hand {
    /// Whether this is the next of them: then it has begun.
    pub(super) fn begins(&mut self, event: &Event) -> bool {
        let next = self.offsets.pop_front();
        next == Some(event.offset) && self.partition == event.partition && self.topic == event.topic
    }
}

/// A batch in the making.
pub(super) struct Packing {
    batch: Batch,
    hand: Hand,
    /// How many events it may have.
    most: usize,
}

impl Packing {
    /// One that begins with this event.
    pub(super) fn new(first: &Event, attempt: u32, most: u32) -> Packing {
        let mut packing = Packing {
            batch: Batch {
                topic: first.topic.to_string(),
                partition: first.partition.try_into().unwrap_or_default(),
                events: Vec::new(),
                headers: Vec::new(),
                bytes: Vec::with_capacity(first.size()),
            },
            hand: Hand {
                topic: first.topic.clone(),
                partition: first.partition,
                offsets: VecDeque::new(),
            },
            most: most as usize,
        };
        packing.push(first, attempt);
        packing
    }

    /// Adds the event behind those that it has. False if it does not belong there.
    pub(super) fn add(&mut self, event: &Event, attempt: u32) -> bool {
        let belongs = self.batch.events.len() < self.most
            && self.batch.bytes.len() + event.size() <= BYTES
            && self.hand.partition == event.partition
            && self.hand.topic == event.topic;
        if belongs {
            self.push(event, attempt);
            self.hand.offsets.push_back(event.offset);
        }
        belongs
    }

    fn push(&mut self, event: &Event, attempt: u32) {
        let batch = &mut self.batch;
        let mut add = |part: &[u8]| {
            batch.bytes.extend_from_slice(part);
            // Nothing in Kafka is larger than 2 GiB.
            u32::try_from(part.len()).unwrap_or(u32::MAX)
        };
        let key = event.key.as_deref().map(&mut add);
        let value = event.value.as_deref().map(&mut add);
        batch
            .headers
            .extend(event.headers.iter().map(|(name, value)| PackedHeader {
                name: add(name.as_bytes()),
                value: value.as_deref().map(&mut add),
            }));
        batch.events.push(PackedEvent {
            offset: event.offset.try_into().unwrap_or_default(),
            timestamp: event.timestamp.and_then(|time| time.try_into().ok()),
            key,
            value,
            headers: u32::try_from(event.headers.len()).unwrap_or(u32::MAX),
            attempt,
        });
    }

    /// The batch, and what a guest has of it besides the first event.
    pub(super) fn done(self) -> (Batch, Hand) {
        (self.batch, self.hand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(offset: i64, value: usize) -> Event {
        Event {
            topic: "t".into(),
            partition: 3,
            offset,
            timestamp: Some(7),
            key: None,
            value: Some(vec![b'v'; value].into()),
            headers: Vec::new(),
        }
    }

    #[test]
    fn parts_are_one_after_another() {
        let first = Event {
            key: Some("key".into()),
            headers: vec![("a".to_owned(), Some("x".into())), ("bc".to_owned(), None)],
            ..event(5, 2)
        };
        let mut packing = Packing::new(&first, 2, 8);
        let tombstone = Event {
            value: None,
            headers: vec![("d".to_owned(), Some("".into()))],
            ..event(9, 0)
        };
        assert!(packing.add(&tombstone, 1));
        let (batch, mut hand) = packing.done();
        assert_eq!(batch.bytes, b"keyvvaxbcd");
        let events = batch.events.iter();
        let events: Vec<_> = events
            .map(|one| (one.offset, one.key, one.value, one.headers, one.attempt))
            .collect();
        let expected = [(5, Some(3), Some(2), 2, 2), (9, None, None, 1, 1)];
        assert_eq!(events, expected);
        let headers = batch.headers.iter().map(|one| (one.name, one.value));
        let headers: Vec<_> = headers.collect();
        assert_eq!(headers, [(1, Some(1)), (2, None), (1, Some(0))]);
        assert!(hand.begins(&tombstone));
        assert!(!hand.begins(&tombstone));
    }

    #[test]
    fn a_batch_is_of_one_partition_and_no_larger_than_it_may_be() {
        let elsewhere = Event {
            partition: 4,
            ..event(2, 1)
        };
        let mut packing = Packing::new(&event(1, 2 * BYTES), 1, 2);
        assert!(!packing.add(&event(2, 1), 1));
        packing = Packing::new(&event(1, 1), 1, 2);
        assert!(!packing.add(&elsewhere, 1));
        assert!(!packing.add(&event(2, BYTES), 1));
        assert!(packing.add(&event(2, 1), 1));
        assert!(!packing.add(&event(3, 1), 1));
        let (batch, mut hand) = packing.done();
        assert_eq!(batch.events.len(), 2);
        assert!(!hand.begins(&elsewhere));
    }
}
