//! What is to be read, and what has to become of it.

use std::ops::Range;
use std::thread;
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use tidemill_tests::unique;

use super::broker::{Broker, PATIENCE, config};
use super::system::{Form, Rows, Running};
use super::{IN, OUT};

/// Bytes of values that are under way to the broker at most.
const UNDER_WAY: usize = 80_000_000;
/// How long is waited where there is no room.
const ROOM: Duration = Duration::from_millis(1);
/// Events that a system begins with, at most.
const FIRST: usize = 500;

type Writer = ThreadedProducer<DefaultProducerContext>;

/// Events to be read: keys with numbers, and values of one size.
pub(super) struct Backlog {
    /// The number of each event's key, in order.
    keys: Vec<u32>,
    /// Bytes of a value.
    size: usize,
}

impl Backlog {
    /// Events with these keys.
    pub(super) fn new(keys: impl Iterator<Item = usize>, size: usize) -> Self {
        let keys = keys.map(|key| u32::try_from(key).unwrap()).collect();
        Self { keys, size }
    }

    /// So many events, each key in its turn.
    pub(super) fn in_turn(events: usize, keys: usize, size: usize) -> Self {
        Self::new((0..events).map(|number| number % keys), size)
    }

    /// How many they are.
    pub(super) fn events(&self) -> usize {
        self.keys.len()
    }

    /// Writes all of them.
    pub(super) fn write(&self, broker: &Broker) {
        self.send(&writer(broker, None), 0..self.events());
    }

    /// Writes the first events for a start, so that a system has something to
    /// begin with. Returns how many they are.
    pub(super) fn write_first(&self, broker: &Broker) -> usize {
        let first = FIRST.min(self.events() / 50).max(1);
        self.send(&writer(broker, None), 0..first);
        first
    }

    /// Writes some of them in a transaction that stays open: nobody sees them until
    /// it is committed, and then all of them at once.
    pub(super) fn hide(&self, part: Range<usize>, broker: &Broker) -> Hidden {
        let writer = writer(broker, Some(&unique("bench-writer")));
        writer.init_transactions(PATIENCE).unwrap();
        writer.begin_transaction().unwrap();
        let events = part.len();
        self.send(&writer, part);
        Hidden {
            writer,
            events: i64::try_from(events).unwrap(),
            ends: broker.ends(IN),
        }
    }

    fn send(&self, writer: &Writer, part: Range<usize>) {
        let most = i32::try_from(UNDER_WAY / self.size.max(200)).unwrap();
        let value = vec![b'x'; self.size];
        for key in &self.keys[part] {
            while writer.in_flight_count() > most {
                thread::sleep(ROOM);
            }
            let key = format!("key-{key}");
            let mut record = BaseRecord::to(IN).key(&key).payload(&value);
            while let Err((error, back)) = writer.send(record) {
                let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
                assert_eq!(error, full, "not written");
                record = back;
                thread::sleep(ROOM);
            }
        }
        writer.flush(PATIENCE).unwrap();
    }

    /// Holds that what a system has made of all of them is what they ask for.
    pub(super) fn check(&self, form: Form, system: &Running, broker: &Broker) {
        match form {
            Form::Forward => self.check_forwarded(broker),
            Form::Count => self.check_counts(OUT, Rows::TEXT, system.merges(), broker),
            Form::Tally => self.check_counts(&system.changelog(), system.rows(), true, broker),
            Form::Nothing => {}
        }
    }

    /// Each was passed on once.
    fn check_forwarded(&self, broker: &Broker) {
        broker.settled(OUT);
        let mut records = 0;
        broker.read(OUT, |key, value| {
            assert!(key.starts_with(b"key-"));
            assert_eq!(value.map(<[u8]>::len), Some(self.size));
            records += 1;
        });
        assert_eq!(records, self.events(), "each once");
    }

    /// For each key there are all counts from 1 on in order, or, `merged`, some of
    /// them, but the last.
    pub(super) fn check_counts(&self, topic: &str, rows: Rows, merged: bool, broker: &Broker) {
        let mut left = self.counts();
        let all = left.clone();
        broker.settled(topic);
        broker.read(topic, |key, value| {
            let Some((key, now)) = rows.read(key, value) else {
                return;
            };
            let before = all[key] - left[key];
            let next = if merged {
                now > before
            } else {
                now == before + 1
            };
            assert!(next, "key-{key}: {now} after {before}");
            assert!(now <= all[key], "key-{key}: {now} of {}", all[key]);
            left[key] = all[key] - now;
        });
        let missing = left.iter().enumerate().find(|(_, left)| **left > 0);
        assert_eq!(missing, None, "the last count of a key is not there");
    }

    /// How many events each key has.
    fn counts(&self) -> Vec<u64> {
        let last = self.keys.iter().max();
        let mut counts = vec![0; last.map_or(0, |last| *last as usize + 1)];
        for key in &self.keys {
            counts[*key as usize] += 1;
        }
        counts
    }
}

/// Events that are written and that nobody sees.
pub(super) struct Hidden {
    writer: Writer,
    events: i64,
    ends: Vec<i64>,
}

/// Events that somebody works at.
pub(super) struct Shown {
    pub(super) events: i64,
    ends: Vec<i64>,
}

impl Hidden {
    /// Has everyone see them.
    pub(super) fn show(self) -> Shown {
        self.writer.commit_transaction(PATIENCE).unwrap();
        Shown {
            events: self.events,
            ends: self.ends,
        }
    }
}

impl Shown {
    /// How many of them a group has done that is at these offsets. What ends the
    /// transaction comes behind them; some systems count it as done, others don't.
    pub(super) fn done(&self, offsets: &[i64]) -> i64 {
        let left = self
            .ends
            .iter()
            .zip(offsets)
            .map(|(end, offset)| end - offset);
        (self.events - left.map(|left| left.max(0)).sum::<i64>()).max(0)
    }
}

/// A client that writes events, in a transaction if it has an id for that.
fn writer(broker: &Broker, transactional: Option<&str>) -> Writer {
    let mut config = config(&broker.address());
    config
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "500000")
        .set("queue.buffering.max.kbytes", "500000");
    if let Some(id) = transactional {
        config
            .set("transactional.id", id)
            // The most that a broker allows, unless it is told else.
            .set("transaction.timeout.ms", "900000");
    }
    config.create().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_transaction_is_no_event() {
        // Two partitions, 10 events in each, and before them what ended another
        // transaction.
        let shown = Shown {
            events: 20,
            ends: vec![31, 41],
        };
        assert_eq!(shown.done(&[20, 30]), 0);
        assert_eq!(shown.done(&[21, 36]), 5);
        assert_eq!(shown.done(&[31, 41]), 20);
        assert_eq!(shown.done(&[32, 42]), 20);
    }

    #[test]
    fn keys_are_counted() {
        assert_eq!(Backlog::in_turn(5, 3, 1).counts(), [2, 2, 1]);
        assert_eq!(Backlog::in_turn(0, 3, 1).counts(), [0; 0]);
    }
}
