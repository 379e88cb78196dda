//! Requests' events, sent in batches: those of a moment together, and the next ones
//! when these are acknowledged.
//!
//! librdkafka gathers events for `linger.ms`, and an idempotent producer of it sends
//! nothing to a partition that has five on their way. What is waiting by then keeps
//! its thread looking, over and over, until they are acknowledged. So it is given
//! events when it can send them, and told when that is all
//! ([decision 0019](../../../docs/decisions/0019-batches-of-requests-events.md)).

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::producer::{BaseProducer, Producer};

use super::cluster::KafkaError;
use super::publisher::{Context, Delivery, ROOM, classify, is_full, record};
use super::raw;
use crate::effects::Message;

/// How long a batch waits for the one before, if many of that are not acknowledged
/// yet: longer than a broker takes.
const LONG: Duration = Duration::from_millis(20);
/// And if it is few, or some of those before were waited for in vain: then that is
/// no reason to hold up others.
const SHORT: Duration = Duration::from_millis(1);
/// Up to so many are few.
const FEW: i32 = 16;

/// An event that waits to be sent.
pub(super) struct Letter {
    pub(super) message: Message,
    pub(super) delivery: Box<Delivery>,
}

/// Makes batches of what is pushed, and sends them by a thread of its own, which ends
/// after this is dropped.
pub(super) struct Batches(Arc<Line<Letter>>);

impl Batches {
    pub(super) fn start(producer: Arc<BaseProducer<Context>>) -> Result<Batches, KafkaError> {
        let line = Arc::new(Line::default());
        let ours = line.clone();
        std::thread::Builder::new()
            .name("tidemill-sender".to_owned())
            .spawn(move || run(&line, &producer))
            .map_err(|error| KafkaError::Config(error.to_string()))?;
        Ok(Batches(ours))
    }

    pub(super) fn push(&self, letter: Letter) {
        self.0.push(letter);
    }

    /// How many librdkafka does not have yet.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn run(line: &Line<Letter>, producer: &BaseProducer<Context>) {
    let mut full = None;
    while let Some(batch) = line.next() {
        // Of earlier batches: it was waited for already, and may be stuck.
        let left = producer.in_flight_count();
        for letter in batch {
            send(producer, letter, &mut full);
        }
        line.sent();
        let many = producer.in_flight_count() > FEW;
        let wait = if many && left == 0 { LONG } else { SHORT };
        raw::flush(producer, wait);
    }
}

/// Gives an event to librdkafka. While its queue is full, since `full`, that takes
/// until there is room, or fails.
fn send(producer: &BaseProducer<Context>, letter: Letter, full: &mut Option<Instant>) {
    let Letter { message, delivery } = letter;
    let mut record = record(&message, delivery);
    loop {
        let (error, returned) = match producer.send(record) {
            Ok(()) => {
                *full = None;
                return;
            }
            Err(failed) => failed,
        };
        let mut waits = || full.get_or_insert_with(Instant::now).elapsed() < ROOM;
        if !is_full(&error) || !waits() {
            let error = classify(&message.topic, &error, false);
            let delivery = returned.delivery_opaque;
            return delivery.report(Err(error), &message.topic, producer.context());
        }
        record = returned;
        raw::flush(producer, LONG);
    }
}

/// What waits for somebody who takes all of it at once.
struct Line<T> {
    waiting: Mutex<Waiting<T>>,
    some: Condvar,
}

struct Waiting<T> {
    line: Vec<T>,
    /// Taken, but not sent.
    taken: usize,
    ended: bool,
}

impl<T> Default for Line<T> {
    fn default() -> Line<T> {
        Line {
            waiting: Mutex::new(Waiting {
                line: Vec::new(),
                taken: 0,
                ended: false,
            }),
            some: Condvar::new(),
        }
    }
}

impl<T> Line<T> {
    fn push(&self, one: T) {
        let mut waiting = self.waiting.lock();
        waiting.line.push(one);
        let first = waiting.line.len() == 1;
        drop(waiting);
        if first {
            self.some.notify_one();
        }
    }

    /// All that waits, as soon as there is some; none at the end.
    fn next(&self) -> Option<Vec<T>> {
        let mut waiting = self.waiting.lock();
        while waiting.line.is_empty() {
            if waiting.ended {
                return None;
            }
            self.some.wait(&mut waiting);
        }
        waiting.taken = waiting.line.len();
        Some(std::mem::take(&mut waiting.line))
    }

    /// What was taken is sent.
    fn sent(&self) {
        self.waiting.lock().taken = 0;
    }

    fn len(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.line.len() + waiting.taken
    }

    fn end(&self) {
        self.waiting.lock().ended = true;
        self.some.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_meanwhile_is_taken_at_once_and_counts_until_it_is_sent() {
        let line = Arc::new(Line::default());
        let theirs = line.clone();
        let taking = std::thread::spawn(move || theirs.next());
        line.push(1);
        assert_eq!(taking.join().unwrap(), Some(vec![1]));
        line.push(2);
        line.push(3);
        assert_eq!(line.len(), 3);
        line.sent();
        assert_eq!(line.len(), 2);
        assert_eq!(line.next(), Some(vec![2, 3]));
    }

    #[test]
    fn what_waits_at_the_end_is_taken_before_it() {
        let line = Arc::new(Line::default());
        line.push(1);
        line.end();
        assert_eq!(line.next(), Some(vec![1]));
        assert_eq!(line.next(), None);
        let waiting = Arc::new(Line::<u8>::default());
        let theirs = waiting.clone();
        let taking = std::thread::spawn(move || theirs.next());
        waiting.end();
        assert_eq!(taking.join().unwrap(), None);
    }
}
