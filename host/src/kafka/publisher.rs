//! Publishing: idempotent producers, acknowledged by all in-sync replicas.
//!
//! When a message times out in librdkafka, its producer takes up a new epoch and
//! sends what is behind it again under new numbers, whether or not the broker has it
//! already. So a message of a request never does: whoever waits for it gives up, and
//! it stays where it is until the broker has it, once. What nobody waits for any
//! more is bounded for each topic ([`Overdue`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as RdKafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext};
use tokio::sync::Notify;

use super::batches::{Batches, Letter};
use super::cluster::{Cluster, KafkaError, Quiet};
use super::polled::Polled;
use super::properties;
use crate::effects::Message;

/// Why an event was not published, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker will never take it: sending it again does not help.
    #[error("the event for {topic:?} was refused: {cause}")]
    Refused {
        /// The topic.
        topic: String,
        /// The broker's words.
        cause: String,
    },
    /// It never left this host.
    #[error("nothing was published: {cause}")]
    NotSent {
        /// Why.
        cause: String,
    },
    /// It may or may not have been published.
    #[error("the broker did not acknowledge the event for {topic:?} in time: {cause}")]
    Unknown {
        /// The topic.
        topic: String,
        /// librdkafka's words.
        cause: String,
    },
}

impl PublishError {
    /// Whether sending it again does not help.
    pub fn is_refusal(&self) -> bool {
        matches!(self, PublishError::Refused { .. })
    }
}

/// How long a sender waits for an acknowledgement. Longer than a broker takes to
/// hand its partitions over, shorter than clients wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a message waits for room in librdkafka's queue.
pub(super) const ROOM: Duration = Duration::from_secs(2);

/// What a topic may have of messages that nobody waits for any more, before it
/// takes no other.
const OVERDUE_MESSAGES: usize = 1_000;
const OVERDUE_BYTES: usize = 8 << 20;

/// A producer that all services of this host share.
pub struct Publisher {
    producer: Polled<Context>,
    overdue: Arc<Overdue>,
    /// What makes batches of what is published, if something does.
    batches: Option<Batches>,
}

impl Publisher {
    /// For requests' events: what was sent is written once or not at all, however
    /// late. The broker need not answer yet.
    pub fn for_requests(cluster: &Cluster) -> Result<Publisher, KafkaError> {
        // The batch is told to go. Only what cannot go then, as while its partition
        // has no leader, goes when `linger.ms` is over.
        let own = [("message.timeout.ms", "0"), ("linger.ms", "5")];
        let mut publisher = Publisher::new(cluster, "tidemill-publisher", own)?;
        publisher.batches = Some(Batches::start(publisher.producer.shared())?);
        Ok(publisher)
    }

    /// For what may be there twice but not late: rows of a shard that another host
    /// may have by then, and the host's own notes.
    pub fn for_the_host(cluster: &Cluster) -> Result<Publisher, KafkaError> {
        // Without any waiting, requests to Kafka are small and many.
        let own = [("message.timeout.ms", "10000"), ("linger.ms", "0.3")];
        Publisher::new(cluster, "tidemill-host-publisher", own)
    }

    fn new(
        cluster: &Cluster,
        client: &str,
        own: [(&str, &str); 2],
    ) -> Result<Publisher, KafkaError> {
        let overdue = Arc::new(Overdue::default());
        let context = Context {
            quiet: cluster.quiet(),
            overdue: overdue.clone(),
        };
        let common = [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("partitioner", "murmur2_random"),
            ("queue.buffering.max.kbytes", "131072"),
            // The manifest's limit is the one that counts; the broker's own is
            // asked by sending.
            ("message.max.bytes", "104857600"),
        ];
        let settings = [&common[..], &own[..]].concat();
        let producer = cluster
            .client(client, &settings, context)
            .map_err(|error| KafkaError::Config(properties::refusal(&error)))?;
        Ok(Publisher {
            producer: Polled::start(producer)?,
            overdue,
            batches: None,
        })
    }

    /// Publishes messages, side by side, and returns when each is acknowledged, has
    /// failed, or has been waited for long enough.
    pub async fn publish<'a>(
        &self,
        messages: impl ExactSizeIterator<Item = &'a Message> + Clone,
    ) -> Published {
        let receipt = Arc::new(Receipt::new(messages.len()));
        let waiting = Waiting {
            receipt: &receipt,
            messages: messages.clone(),
            overdue: &self.overdue,
        };
        for (place, message) in messages.enumerate() {
            if let Err(error) = self.send(message, place, &receipt).await {
                receipt.failed(place, error);
            }
        }
        let _ = tokio::time::timeout(PATIENCE, receipt.wait()).await;
        drop(waiting);
        receipt.take()
    }

    async fn send(
        &self,
        message: &Message,
        place: usize,
        receipt: &Arc<Receipt>,
    ) -> Result<(), PublishError> {
        if self.overdue.is_full(&message.topic) {
            let cause = format!("too much of {:?} is not acknowledged yet", message.topic);
            return Err(PublishError::NotSent { cause });
        }
        let delivery = Delivery {
            receipt: receipt.clone(),
            place,
            bytes: message.size(),
        };
        let delivery = Box::new(delivery);
        if let Some(batches) = &self.batches {
            let message = message.clone();
            batches.push(Letter { message, delivery });
            return Ok(());
        }
        let mut record = record(message, delivery);
        let deadline = tokio::time::Instant::now() + ROOM;
        loop {
            let (error, returned) = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            if !is_full(&error) || tokio::time::Instant::now() > deadline {
                return Err(classify(&message.topic, &error, false));
            }
            record = returned;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Messages that are not acknowledged yet.
    pub fn queued(&self) -> usize {
        let sent = usize::try_from(self.producer.in_flight_count()).unwrap_or_default();
        sent + self.batches.as_ref().map_or(0, Batches::len)
    }

    /// Waits until all that was published is acknowledged or has failed.
    pub fn flush(&self, timeout: Duration) {
        let until = Instant::now() + timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // More may come out of the batches meanwhile.
            let flushed = self.producer.flush(left.min(Duration::from_millis(50)));
            if self.queued() == 0 {
                return;
            }
            if let (Err(error), true) = (flushed, left.is_zero()) {
                tracing::warn!(event = "publisher.not-flushed", %error, "some events were not acknowledged before the host ended");
                return;
            }
        }
    }
}

/// Whether librdkafka has no room for a message now.
pub(super) fn is_full(error: &RdKafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
}

/// What is known of a message that failed; `sent` if librdkafka has had it. What
/// it says itself of a message that it gave up is not enough: a broker that hands
/// its partitions over appends a record and then answers that it is not the leader,
/// which counts as not written there.
pub(super) fn classify(topic: &str, error: &RdKafkaError, sent: bool) -> PublishError {
    use RDKafkaErrorCode as Code;

    let cause = error
        .rdkafka_error_code()
        .map_or_else(|| error.to_string(), |code| code.to_string());
    match error.rdkafka_error_code() {
        Some(
            Code::MessageSizeTooLarge
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::InvalidTopic
            | Code::InvalidRecord
            | Code::PolicyViolation
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicOrPartition,
        ) => PublishError::Refused {
            topic: topic.to_owned(),
            cause,
        },
        _ if !sent => PublishError::NotSent { cause },
        _ => PublishError::Unknown {
            topic: topic.to_owned(),
            cause,
        },
    }
}

/// A message in librdkafka's form.
pub(super) fn record<O: rdkafka::util::IntoOpaque>(
    message: &Message,
    opaque: O,
) -> BaseRecord<'_, [u8], [u8], O> {
    let mut record = BaseRecord::with_opaque_to(&message.topic, opaque);
    record.partition = message.partition;
    record.key = message.key.as_deref();
    record.payload = message.value.as_deref();
    if !message.headers.is_empty() {
        let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
        for (key, value) in &message.headers {
            headers = headers.insert(Header {
                key,
                value: value.as_deref(),
            });
        }
        record.headers = Some(headers);
    }
    record
}

/// Where an acknowledged message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The partition; −1 if the message has not been acknowledged.
    pub partition: i32,
    /// The offset; negative if the broker did not tell, as after a retry of what
    /// it had already.
    pub offset: i64,
}

impl Placed {
    pub(super) const UNKNOWN: Placed = Placed {
        partition: -1,
        offset: -1,
    };

    pub(super) fn of(message: &rdkafka::message::BorrowedMessage<'_>) -> Placed {
        Placed {
            partition: message.partition(),
            offset: message.offset(),
        }
    }
}

/// What became of messages that were sent together.
#[derive(Debug, Default)]
pub struct Published {
    /// Where each is.
    pub placed: Vec<Placed>,
    /// Those that failed, by place.
    pub failed: Vec<(usize, PublishError)>,
}

impl Published {
    fn place(&mut self, place: usize, placed: Placed) {
        if let Some(known) = self.placed.get_mut(place) {
            *known = placed;
        }
    }
}

/// Collects the acknowledgements of messages that were sent together.
struct Receipt {
    left: AtomicUsize,
    reports: Mutex<Reports>,
    done: Notify,
}

#[derive(Default)]
struct Reports {
    published: Published,
    /// Nobody waits any more: what is reported now was overdue.
    given_up: bool,
}

impl Receipt {
    fn new(messages: usize) -> Receipt {
        let published = Published {
            placed: vec![Placed::UNKNOWN; messages],
            failed: Vec::new(),
        };
        Receipt {
            left: AtomicUsize::new(messages),
            reports: Mutex::new(Reports {
                published,
                given_up: false,
            }),
            done: Notify::new(),
        }
    }

    fn failed(&self, place: usize, error: PublishError) {
        self.report(|published| published.failed.push((place, error)));
    }

    /// Says whether somebody still waits.
    fn report(&self, report: impl FnOnce(&mut Published)) -> bool {
        {
            let mut reports = self.reports.lock();
            if reports.given_up {
                return false;
            }
            report(&mut reports.published);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
        true
    }

    async fn wait(&self) {
        while self.left.load(Ordering::Acquire) > 0 {
            self.done.notified().await;
        }
    }

    fn take(&self) -> Published {
        std::mem::take(&mut self.reports.lock().published)
    }
}

/// Somebody who waits for messages. Once it is dropped, what is not reported yet is
/// overdue.
struct Waiting<'w, 'm, M: Iterator<Item = &'m Message> + Clone> {
    receipt: &'w Receipt,
    messages: M,
    overdue: &'w Overdue,
}

impl<'m, M: Iterator<Item = &'m Message> + Clone> Drop for Waiting<'_, 'm, M> {
    fn drop(&mut self) {
        if self.receipt.left.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut reports = self.receipt.reports.lock();
        reports.given_up = true;
        let Published { placed, failed } = &mut reports.published;
        let mut reported: Vec<bool> = placed.iter().map(|one| *one != Placed::UNKNOWN).collect();
        for (place, _) in &*failed {
            if let Some(reported) = reported.get_mut(*place) {
                *reported = true;
            }
        }
        for ((place, message), _) in self
            .messages
            .clone()
            .enumerate()
            .zip(reported)
            .filter(|(_, reported)| !reported)
        {
            self.overdue.more(&message.topic, message.size());
            failed.push((
                place,
                PublishError::Unknown {
                    topic: message.topic.to_string(),
                    cause: format!("no answer within {} s", PATIENCE.as_secs()),
                },
            ));
        }
    }
}

/// Messages that nobody waits for any more, and that librdkafka still has.
#[derive(Default)]
struct Overdue {
    topics: Mutex<HashMap<String, Held>>,
    /// Those topics that have any, so that nobody has to look most of the time.
    any: AtomicUsize,
}

#[derive(Default)]
struct Held {
    messages: usize,
    bytes: usize,
}

impl Overdue {
    fn is_full(&self, topic: &str) -> bool {
        self.any.load(Ordering::Relaxed) > 0
            && self.topics.lock().get(topic).is_some_and(|held| {
                held.messages >= OVERDUE_MESSAGES || held.bytes >= OVERDUE_BYTES
            })
    }

    fn more(&self, topic: &str, bytes: usize) {
        let mut topics = self.topics.lock();
        let held = topics.entry(topic.to_owned()).or_default();
        held.messages += 1;
        held.bytes += bytes;
        self.any.store(topics.len(), Ordering::Relaxed);
    }

    fn less(&self, topic: &str, bytes: usize) {
        let mut topics = self.topics.lock();
        if let Some(held) = topics.get_mut(topic) {
            held.messages -= 1;
            held.bytes -= bytes;
            if held.messages == 0 {
                topics.remove(topic);
            }
        }
        self.any.store(topics.len(), Ordering::Relaxed);
    }
}

/// Names a message on its way.
pub(super) struct Delivery {
    receipt: Arc<Receipt>,
    place: usize,
    bytes: usize,
}

impl Delivery {
    /// Says what became of it.
    pub(super) fn report(self, said: Result<Placed, PublishError>, topic: &str, context: &Context) {
        let place = self.place;
        let waited = self.receipt.report(|to| match said {
            Ok(placed) => to.place(place, placed),
            Err(error) => to.failed.push((place, error)),
        });
        if !waited {
            context.overdue.less(topic, self.bytes);
        }
    }
}

pub(super) struct Context {
    quiet: Quiet,
    overdue: Arc<Overdue>,
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
    type DeliveryOpaque = Box<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Box<Delivery>) {
        match result {
            Ok(message) => delivery.report(Ok(Placed::of(message)), message.topic(), self),
            Err((error, message)) => {
                let error = classify(message.topic(), error, true);
                delivery.report(Err(error), message.topic(), self);
            }
        }
    }
}
