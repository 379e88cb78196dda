//! Publishing: the host's one idempotent producer, acknowledged by all in-sync
//! replicas.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError as RdKafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;

use super::cluster::{Cluster, KafkaError, Quiet};
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

/// How long a message is tried before its sender hears that it failed. Longer
/// than a broker takes to hand its partitions over, shorter than clients wait.
const MESSAGE_TIMEOUT_MS: &str = "10000";

/// How long a sender waits for room in librdkafka's queue.
const ROOM: Duration = Duration::from_secs(2);

/// The producer that all services of this host share.
pub struct Publisher {
    producer: Arc<ThreadedProducer<Context>>,
}

impl Publisher {
    /// Makes the producer; the broker need not answer yet.
    pub fn new(cluster: &Cluster) -> Result<Publisher, KafkaError> {
        let context = Context {
            quiet: cluster.quiet(),
        };
        let own = [
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("partitioner", "murmur2_random"),
            ("linger.ms", "1"),
            ("message.timeout.ms", MESSAGE_TIMEOUT_MS),
            ("queue.buffering.max.kbytes", "131072"),
            // The manifest's limit is the one that counts; the broker's own is
            // asked by sending.
            ("message.max.bytes", "104857600"),
        ];
        let producer = cluster
            .client("tidemill-publisher", &own, context)
            .map_err(|error| KafkaError::Config(properties::refusal(&error)))?;
        Ok(Publisher { producer })
    }

    /// Publishes messages, side by side, and returns when each is acknowledged
    /// or has failed.
    pub async fn publish(&self, messages: impl ExactSizeIterator<Item = &Message>) -> Published {
        let receipt = Arc::new(Receipt::new(messages.len()));
        for (place, message) in messages.enumerate() {
            if let Err(error) = self.send(message, place, &receipt).await {
                receipt.failed(place, error);
            }
        }
        receipt.wait().await
    }

    async fn send(
        &self,
        message: &Message,
        place: usize,
        receipt: &Arc<Receipt>,
    ) -> Result<(), PublishError> {
        let delivery = Delivery {
            receipt: receipt.clone(),
            place,
        };
        let mut record = record(message, Box::new(delivery));
        let deadline = tokio::time::Instant::now() + ROOM;
        loop {
            let (error, returned) = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            if !full || tokio::time::Instant::now() > deadline {
                return Err(classify(&message.topic, &error, false));
            }
            record = returned;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Messages that are not acknowledged yet.
    pub fn queued(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or_default()
    }

    /// Waits until all that was sent is acknowledged or has failed.
    pub fn flush(&self, timeout: Duration) {
        if let Err(error) = self.producer.flush(timeout) {
            tracing::warn!(event = "publisher.not-flushed", %error, "some events were not acknowledged before the host ended");
        }
    }
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

/// Collects the acknowledgements of messages that were sent together.
struct Receipt {
    left: AtomicUsize,
    reports: Mutex<Published>,
    done: Notify,
}

impl Receipt {
    fn new(messages: usize) -> Receipt {
        Receipt {
            left: AtomicUsize::new(messages),
            reports: Mutex::new(Published {
                placed: vec![Placed::UNKNOWN; messages],
                failed: Vec::new(),
            }),
            done: Notify::new(),
        }
    }

    fn failed(&self, place: usize, error: PublishError) {
        self.reports.lock().failed.push((place, error));
        self.one_less();
    }

    fn placed(&self, place: usize, placed: Placed) {
        if let Some(known) = self.reports.lock().placed.get_mut(place) {
            *known = placed;
        }
        self.one_less();
    }

    fn one_less(&self) {
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.done.notify_one();
        }
    }

    async fn wait(&self) -> Published {
        while self.left.load(Ordering::Acquire) > 0 {
            self.done.notified().await;
        }
        std::mem::take(&mut *self.reports.lock())
    }
}

/// Names a message in librdkafka's hands.
struct Delivery {
    receipt: Arc<Receipt>,
    place: usize,
}

struct Context {
    quiet: Quiet,
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
        let Delivery { receipt, place } = *delivery;
        match result {
            Ok(message) => receipt.placed(place, Placed::of(message)),
            Err((error, message)) => {
                let error = classify(message.topic(), error, true);
                receipt.failed(place, error);
            }
        }
    }
}
