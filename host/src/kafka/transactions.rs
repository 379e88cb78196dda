//! Transactions: messages and offsets that are committed all or none.
//!
//! librdkafka's calls for them block, so a transactor is a thread with a producer
//! of its own. It does one transaction after another and says what became of
//! each; whether to make it again is for others to decide (`events`, `requests`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as RdKafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::ProducerContext;
use rdkafka::{ClientContext, Offset, TopicPartitionList};
use tokio::sync::{mpsc, oneshot};

use super::cluster::{Cluster, KafkaError, Quiet};
use super::consumer::Source;
use super::health::Health;
use super::polled::Polled;
use super::properties;
use super::publisher::{Placed, PublishError, classify, record};
use super::raw::{self, Call, Membership, TransactionError};
use crate::effects::Message;

/// How long an open transaction may last before its coordinator aborts it, in
/// milliseconds; a dead host's holds up readers for as long.
const TRANSACTION_MS: &str = "10000";

/// How long one call may take before it is made again.
const CALL: Duration = Duration::from_secs(5);

/// How long a transaction may take while Kafka answers. Its coordinator aborts it
/// long before.
const PATIENCE: Duration = Duration::from_secs(20);

/// Messages and offsets to commit together.
#[derive(Debug, Default)]
pub struct Batch {
    /// What to publish, in this order in each partition.
    pub messages: Vec<Message>,
    /// What to publish behind it.
    pub rows: Vec<Message>,
    /// Offsets of next events, with what is noted beside them, for the group of
    /// this membership.
    pub offsets: Option<(Membership, BTreeMap<Source, i64>, Arc<str>)>,
}

/// What became of a transaction.
#[derive(Debug)]
pub enum Outcome {
    /// All of it is durable. Where each message is, in order, then each row.
    Committed(Vec<Placed>),
    /// Nothing of it is.
    Aborted(Aborted),
    /// The transactor can do nothing more.
    Ended {
        /// Why.
        cause: String,
        /// Whether it may have been committed.
        in_doubt: bool,
    },
}

/// Why a transaction was aborted.
#[derive(Debug, Default)]
pub struct Aborted {
    /// Messages that the broker will never take, by place.
    pub refused: Vec<(usize, PublishError)>,
    /// What went wrong besides.
    pub cause: Option<String>,
    /// Whether the same again would meet the same.
    pub lasting: bool,
    /// Whether the transactor can do nothing more.
    pub ended: bool,
    /// What was to be committed.
    pub batch: Batch,
}

/// A producer with transactions, on a thread of its own. The thread ends when
/// this is dropped.
pub struct Transactor {
    batches: mpsc::UnboundedSender<(Batch, oneshot::Sender<Outcome>)>,
    pace: Arc<Mutex<Pace>>,
    ending: Arc<AtomicBool>,
    health: Arc<Health>,
}

impl Transactor {
    /// Makes the producer, and ends or completes what one of the same id left
    /// undone. Waits for the broker as long as it takes.
    pub async fn open(cluster: &Cluster, id: &str) -> Result<Transactor, KafkaError> {
        let context = Context {
            quiet: cluster.quiet(),
            deliveries: Arc::default(),
        };
        let deliveries = context.deliveries.clone();
        let own = [
            ("transactional.id", id),
            ("transaction.timeout.ms", TRANSACTION_MS),
            ("message.timeout.ms", TRANSACTION_MS),
            ("partitioner", "murmur2_random"),
            // The group is the batch: what is in it need not wait for more.
            ("linger.ms", "0"),
            ("batch.size", "1000000"),
            ("batch.num.messages", "20000"),
            ("queue.buffering.max.messages", "1000000"),
            ("queue.buffering.max.kbytes", "131072"),
            ("message.max.bytes", "104857600"),
            ("topic.metadata.propagation.max.ms", "5000"),
        ];
        let producer = cluster
            .client(&format!("{id}-transactions"), &own, context)
            .map_err(|error| KafkaError::Config(properties::refusal(&error)))?;
        let producer = Polled::start(producer)?;
        let (batches, mut received) = mpsc::unbounded_channel::<(Batch, oneshot::Sender<_>)>();
        let ending = Arc::new(AtomicBool::new(false));
        let pace = Arc::new(Mutex::new(Pace::default()));
        let work = Work {
            producer,
            deliveries,
            pace: pace.clone(),
            ending: ending.clone(),
        };
        let (started, start) = oneshot::channel();
        let run = move || {
            let initiated = work.init();
            let failed = initiated.is_err();
            if started.send(initiated).is_err() || failed {
                return;
            }
            while let Some((batch, answer)) = received.blocking_recv() {
                let mut outcome = work.transact(&batch);
                let ended = match &mut outcome {
                    Outcome::Committed(_) => false,
                    Outcome::Aborted(aborted) => {
                        aborted.batch = batch;
                        aborted.ended
                    }
                    Outcome::Ended { .. } => true,
                };
                // Who asked may have stopped waiting; what is done is done.
                let _ = answer.send(outcome);
                if ended {
                    return;
                }
            }
        };
        let transactor = Transactor {
            batches,
            pace,
            ending,
            health: cluster.health.clone(),
        };
        std::thread::Builder::new()
            .name("tidemill-commit".to_owned())
            .spawn(run)
            .map_err(|error| KafkaError::Config(error.to_string()))?;
        match start.await {
            Ok(Ok(())) => Ok(transactor),
            Ok(Err(error)) => Err(KafkaError::Transactions {
                id: id.to_owned(),
                cause: error.cause,
            }),
            Err(_) => Err(KafkaError::Transactions {
                id: id.to_owned(),
                cause: "its thread ended".to_owned(),
            }),
        }
    }

    /// How long it is better to wait before the next batch.
    pub fn rest(&self) -> Duration {
        self.pace.lock().rest()
    }

    /// Commits a batch, or says why not.
    ///
    /// librdkafka 2.12 may wait for ever for a coordinator that it has forgotten
    /// (decision 0015). Its thread is left behind then: the next transactor of the
    /// same id takes its transaction and its right to make any.
    pub async fn commit(&self, batch: Batch) -> Outcome {
        let gone = || Outcome::Ended {
            cause: "the transactor has ended".to_owned(),
            in_doubt: false,
        };
        let (answer, answered) = oneshot::channel();
        if self.batches.send((batch, answer)).is_err() {
            return gone();
        }
        tokio::select! {
            outcome = answered => outcome.unwrap_or_else(|_| gone()),
            () = self.health.stays(true, PATIENCE) => Outcome::Ended {
                cause: format!(
                    "it has not come to an end for {} s, though Kafka answers",
                    PATIENCE.as_secs()
                ),
                in_doubt: true,
            },
        }
    }
}

impl Drop for Transactor {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
    }
}

/// The thread's side.
struct Work {
    producer: Polled<Context>,
    deliveries: Arc<Deliveries>,
    pace: Arc<Mutex<Pace>>,
    ending: Arc<AtomicBool>,
}

impl Work {
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// Makes a call again and again while it can be.
    fn call(&self, call: Call) -> Result<(), TransactionError> {
        loop {
            match raw::call(&*self.producer, call, CALL) {
                Err(error) if error.retriable && !error.fatal && !error.abort => {
                    tracing::debug!(?call, %error, "asking Kafka again");
                    if self.is_ending() {
                        return Err(error);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                result => return result,
            }
        }
    }

    fn init(&self) -> Result<(), TransactionError> {
        self.call(Call::Init)
    }

    fn transact(&self, batch: &Batch) -> Outcome {
        if let Err(error) = self.call(Call::Begin) {
            return Outcome::Ended {
                cause: error.cause,
                in_doubt: false,
            };
        }
        let total = batch.messages.len() + batch.rows.len();
        self.deliveries.wait_for(total);
        let mut all_sent = true;
        for (place, message) in batch.messages.iter().chain(&batch.rows).enumerate() {
            if let Err(error) = self.send(place, message) {
                self.deliveries.failed(place, error);
                all_sent = false;
                // The rest would only be thrown away.
                self.deliveries.wait_for_less(total - place - 1);
                break;
            }
        }
        let offsets = self.offsets(batch);
        // After a failure the transaction can only be aborted, which ends the
        // messages that are still on their way; by themselves they may take as
        // long as a message may.
        let failed = offsets.is_err() || self.deliveries.wait(true);
        if let Err(error) = offsets {
            return self.abort(Some(error));
        }
        if !all_sent || self.deliveries.has_refused() {
            return self.abort(None);
        }
        if failed {
            // Nothing is committed with reports of failure, and this tells why.
            return match self.call(Call::Commit) {
                Err(error) => self.abort(Some(error)),
                Ok(()) => Outcome::Ended {
                    cause: "a transaction was committed without all of its messages".to_owned(),
                    in_doubt: true,
                },
            };
        }
        match self.call(Call::Commit) {
            Ok(()) => {
                let Reports { placed, first, .. } = self.deliveries.take();
                self.pace.lock().committed(first);
                Outcome::Committed(placed)
            }
            // An error of the broker may follow a commit (decision 0016). Only that
            // the abort was taken says that there was none.
            Err(error) if error.abort && !error.fatal => match self.abort(Some(error)) {
                Outcome::Aborted(Aborted {
                    ended: true, cause, ..
                }) => Outcome::Ended {
                    cause: cause.unwrap_or_default(),
                    in_doubt: true,
                },
                aborted => aborted,
            },
            Err(error) => Outcome::Ended {
                cause: error.cause,
                in_doubt: true,
            },
        }
    }

    fn send(&self, place: usize, message: &Message) -> Result<(), PublishError> {
        let mut record = record(message, place);
        // Nearly always there is room: the time is looked at when there is none.
        let mut deadline = None;
        loop {
            let (error, returned) = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            let now = Instant::now();
            if !full || now > *deadline.get_or_insert(now + CALL) {
                return Err(classify(&message.topic, &error, false));
            }
            record = returned;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn offsets(&self, batch: &Batch) -> Result<(), TransactionError> {
        let Some((membership, offsets, note)) = &batch.offsets else {
            return Ok(());
        };
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for ((topic, partition), offset) in offsets {
            let mut element = list.add_partition(topic, *partition);
            // An offset is never negative here.
            let _ = element.set_offset(Offset::Offset(*offset));
            element.set_metadata(&**note);
        }
        loop {
            match membership.send_offsets(&*self.producer, &list, CALL) {
                // After a time-out librdkafka goes on by itself; calling again
                // waits for it.
                Err(error) if error.retriable && !error.fatal && !error.abort => {
                    if self.is_ending() {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }

    /// Aborts the transaction so that another can follow it. Otherwise the
    /// producer has to go, and the next of the same id aborts it on the broker.
    fn aborted_in_order(&self, error: Option<&TransactionError>) -> bool {
        // An answer that is missing may come after the abort, and then librdkafka
        // ends the process (decision 0012).
        let answered = match error {
            Some(error) => !is_silence(error.code),
            None => !self.deliveries.has_lost(),
        };
        if !answered {
            return false;
        }
        // The broker has nothing to abort if it took no partition, and librdkafka
        // takes its word for that as fatal. What was to be aborted is so either way.
        if let Err(error) = self.call(Call::Abort) {
            tracing::debug!(%error, "a transaction was not aborted in order");
            return false;
        }
        // The reports of what was thrown away have to be in before the next begins.
        self.deliveries.wait(false);
        true
    }

    fn abort(&self, error: Option<TransactionError>) -> Outcome {
        if let Some(error) = error.as_ref().filter(|error| error.fatal) {
            return Outcome::Ended {
                cause: error.cause.clone(),
                in_doubt: false,
            };
        }
        let ended = !self.aborted_in_order(error.as_ref());
        let (refused, others): (Vec<_>, Vec<_>) = self
            .deliveries
            .take()
            .failed
            .into_iter()
            .partition(|(_, error)| error.is_refusal());
        let lasting = error.as_ref().is_some_and(|error| is_lasting(error.code));
        let cause = error.map(|error| error.cause);
        let told = refused.first().or_else(|| others.first());
        let cause = cause.or_else(|| told.map(|(_, error)| error.to_string()));
        Outcome::Aborted(Aborted {
            lasting: lasting || !refused.is_empty(),
            refused,
            cause,
            ended,
            batch: Batch::default(),
        })
    }
}

/// Whether this is an error because nobody answered in time. (What librdkafka
/// calls an erroneous state comes after an answer.)
fn is_silence(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;

    matches!(
        code,
        Code::AllBrokersDown
            | Code::BrokerTransportFailure
            | Code::Inconsistent
            | Code::MessageTimedOut
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::TimedOutQueue
    )
}

/// Whether the same transaction would meet this error again.
fn is_lasting(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;

    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidTopic
            | Code::MessageSizeTooLarge
            | Code::InvalidRecord
            | Code::PolicyViolation
            | Code::OperationNotAttempted
    )
}

/// When the next transaction should begin.
///
/// A coordinator answers a commit before it has written it to all partitions, and
/// refuses the next transaction until it has. librdkafka 2.12 then waits 20 ms,
/// whatever `retry.backoff.ms` says, in which events gather, so that the next one
/// begins at once and is refused as well. So it is learned how long the broker
/// takes: a millisecond more after each refusal, a little less after each
/// transaction without.
#[derive(Debug, Default)]
struct Pace {
    committed: Option<Instant>,
    gap: Duration,
}

/// librdkafka's wait, by which a refusal is told.
const REFUSED: Duration = Duration::from_millis(20);
/// What a refusal adds.
const MORE: Duration = Duration::from_millis(1);
/// What a transaction without one takes off: so that one in two hundred is refused.
const LESS: Duration = Duration::from_micros(5);
/// More than half of librdkafka's wait would gain nothing.
const LONGEST: Duration = Duration::from_millis(10);

impl Pace {
    /// A transaction was committed; its first report took so long.
    fn committed(&mut self, first: Option<Duration>) {
        self.gap = match first {
            Some(first) if first >= REFUSED => (self.gap + MORE).min(LONGEST),
            _ => self.gap.saturating_sub(LESS),
        };
        self.committed = Some(Instant::now());
    }

    fn rest(&self) -> Duration {
        let since = self.committed.map(|committed| committed.elapsed());
        since.map_or(Duration::ZERO, |since| self.gap.saturating_sub(since))
    }
}

/// Collects delivery reports of the running transaction.
#[derive(Default)]
struct Deliveries {
    reports: Mutex<Reports>,
    done: Condvar,
}

#[derive(Default)]
struct Reports {
    left: usize,
    begun: Option<Instant>,
    /// How long the first report took.
    first: Option<Duration>,
    placed: Vec<Placed>,
    failed: Vec<(usize, PublishError)>,
}

impl Deliveries {
    fn wait_for(&self, messages: usize) {
        let mut reports = self.reports.lock();
        reports.left = messages;
        reports.begun = Some(Instant::now());
        reports.first = None;
        reports.placed = vec![Placed::UNKNOWN; messages];
        reports.failed = Vec::new();
    }

    fn wait_for_less(&self, messages: usize) {
        self.reports.lock().left -= messages;
    }

    fn failed(&self, place: usize, error: PublishError) {
        let mut reports = self.reports.lock();
        reports.failed.push((place, error));
        self.one_less(&mut reports);
        self.done.notify_one();
    }

    fn placed(&self, place: usize, placed: Placed) {
        let mut reports = self.reports.lock();
        if let Some(known) = reports.placed.get_mut(place) {
            *known = placed;
        }
        if reports.first.is_none() {
            reports.first = reports.begun.map(|begun| begun.elapsed());
        }
        self.one_less(&mut reports);
    }

    fn one_less(&self, reports: &mut Reports) {
        reports.left = reports.left.saturating_sub(1);
        if reports.left == 0 {
            self.done.notify_one();
        }
    }

    /// Waits until every message is delivered or has failed, which librdkafka
    /// sees to in bounded time; or, if that is enough, until one has failed.
    /// Returns whether one has.
    fn wait(&self, until_failure: bool) -> bool {
        let mut reports = self.reports.lock();
        self.done.wait_while(&mut reports, |reports| {
            reports.left > 0 && (!until_failure || reports.failed.is_empty())
        });
        !reports.failed.is_empty()
    }

    /// Whether the broker will never take one of the messages.
    fn has_refused(&self) -> bool {
        let reports = self.reports.lock();
        reports.failed.iter().any(|(_, error)| error.is_refusal())
    }

    /// Whether one failed otherwise.
    fn has_lost(&self) -> bool {
        let reports = self.reports.lock();
        reports.failed.iter().any(|(_, error)| !error.is_refusal())
    }

    fn take(&self) -> Reports {
        std::mem::take(&mut *self.reports.lock())
    }
}

struct Context {
    quiet: Quiet,
    deliveries: Arc<Deliveries>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.quiet.log(level, facility, message);
    }

    fn error(&self, error: RdKafkaError, reason: &str) {
        self.quiet.client_error(&error, reason);
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, place: usize) {
        match result {
            Ok(message) => self.deliveries.placed(place, Placed::of(message)),
            Err((error, message)) => {
                let error = classify(message.topic(), error, true);
                self.deliveries.failed(place, error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_told_from_answers_and_what_follows_them() {
        use RDKafkaErrorCode as Code;

        for code in [
            Code::IllegalGeneration,
            Code::TopicAuthorizationFailed,
            Code::InvalidTransactionalState,
        ] {
            assert!(!is_silence(code), "{code:?}");
        }
        for code in [
            Code::Inconsistent,
            Code::OperationTimedOut,
            Code::BrokerTransportFailure,
            Code::RequestTimedOut,
        ] {
            assert!(is_silence(code), "{code:?}");
        }
    }

    #[test]
    fn a_refusal_makes_the_next_transaction_wait_and_none_less_so() {
        let mut pace = Pace::default();
        pace.committed(Some(Duration::from_millis(3)));
        assert_eq!(pace.rest(), Duration::ZERO);
        for _ in 0..3 {
            pace.committed(Some(Duration::from_millis(22)));
        }
        assert_eq!(pace.gap, Duration::from_millis(3));
        pace.committed(Some(Duration::from_millis(3)));
        assert_eq!(pace.gap, Duration::from_micros(2995));
        for _ in 0..100 {
            pace.committed(Some(Duration::from_secs(1)));
        }
        assert_eq!(pace.gap, LONGEST);
    }
}
