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
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer};

use super::cluster::KafkaError;
use super::publisher::{Context, Delivery, classify, record};
use super::raw;
use crate::effects::Message;

/// How long a batch waits for the one before, if many of that are not acknowledged
/// yet: longer than a broker takes, shorter than anyone would notice when one of
/// several brokers does not answer.
const LONG: Duration = Duration::from_millis(20);
/// And if it is few: then they are hardly in each other's way.
const SHORT: Duration = Duration::from_millis(1);
/// Up to so many are few.
const FEW: i32 = 16;
/// How long an event waits for room in librdkafka's queue.
const ROOM: Duration = Duration::from_secs(2);

/// An event that waits to be sent.
pub(super) struct Letter {
    pub(super) message: Message,
    pub(super) delivery: Box<Delivery>,
}

/// Those that wait. A thread of their own sends them, and ends after this is dropped.
pub(super) struct Batches(Arc<Line>);

#[derive(Default)]
struct Line {
    waiting: Mutex<Waiting>,
    some: Condvar,
}

#[derive(Default)]
struct Waiting {
    letters: Vec<Letter>,
    /// Taken, but librdkafka may not have them all.
    taken: usize,
    ended: bool,
}

impl Batches {
    pub(super) fn start(producer: Arc<BaseProducer<Context>>) -> Result<Batches, KafkaError> {
        let line = Arc::new(Line::default());
        let ours = line.clone();
        std::thread::Builder::new()
            .name("tidemill-sender".to_owned())
            .spawn(move || line.run(&producer))
            .map_err(|error| KafkaError::Config(error.to_string()))?;
        Ok(Batches(ours))
    }

    pub(super) fn push(&self, letter: Letter) {
        let mut waiting = self.0.waiting.lock();
        waiting.letters.push(letter);
        let first = waiting.letters.len() == 1;
        drop(waiting);
        if first {
            self.0.some.notify_one();
        }
    }

    /// How many librdkafka does not have yet.
    pub(super) fn len(&self) -> usize {
        let waiting = self.0.waiting.lock();
        waiting.letters.len() + waiting.taken
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        self.0.waiting.lock().ended = true;
        self.0.some.notify_one();
    }
}

impl Line {
    fn run(&self, producer: &BaseProducer<Context>) {
        let mut full = None;
        while let Some(batch) = self.next() {
            for letter in batch {
                send(producer, letter, &mut full);
            }
            self.sent();
            let many = producer.in_flight_count() > FEW;
            raw::flush(producer, if many { LONG } else { SHORT });
        }
    }

    /// All that wait, as soon as there are some; none at the end.
    fn next(&self) -> Option<Vec<Letter>> {
        let mut waiting = self.waiting.lock();
        while waiting.letters.is_empty() {
            if waiting.ended {
                return None;
            }
            self.some.wait(&mut waiting);
        }
        waiting.taken = waiting.letters.len();
        Some(std::mem::take(&mut waiting.letters))
    }

    fn sent(&self) {
        self.waiting.lock().taken = 0;
    }
}

/// Gives an event to librdkafka. While its queue is full that takes until there is
/// room, and from `full` on for as long as an event may wait.
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
        let waits = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
            && full.get_or_insert_with(Instant::now).elapsed() < ROOM;
        if !waits {
            let error = classify(&message.topic, &error, false);
            let delivery = returned.delivery_opaque;
            return delivery.report(Err(error), &message.topic, producer.context());
        }
        record = returned;
        raw::flush(producer, LONG);
    }
}
