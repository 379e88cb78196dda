//! The bare loops over librdkafka: what a careful person writes by hand to pass
//! events on, or to count them per key, exactly once or at least once.
//!
//! A count is kept in memory and written to a changelog, as one would for a
//! restart: each one where all are published, else the last of a transaction.
//! Reading it back is not part of it. Nor is a second member of the group: these
//! loops are for measuring what the work costs.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use crate::events::{CHANGELOG, IN, OUT, number};

/// How often offsets are committed where each event comes at least once.
const COMMIT: Duration = Duration::from_millis(100);
/// How long a transaction of a fixed size waits for events that don't come.
const PATIENCE: Duration = Duration::from_millis(100);
/// The most events of a transaction that does not wait.
const LARGEST: usize = 1_000;
const BROKER: Duration = Duration::from_secs(30);

/// How a loop commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Offsets after acknowledgements.
    AtLeastOnce,
    /// In transactions, each as soon as there is no more to read.
    AtOnce,
    /// In transactions of so many events.
    Fixed(usize),
}

/// As an argument of the process.
impl Display for Delivery {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeastOnce => f.write_str("at-least-once"),
            Self::AtOnce => f.write_str("at-once"),
            Self::Fixed(size) => size.fmt(f),
        }
    }
}

impl Delivery {
    fn parse(argument: &str) -> Self {
        match argument {
            "at-least-once" => Self::AtLeastOnce,
            "at-once" => Self::AtOnce,
            size => Self::Fixed(size.parse().unwrap()),
        }
    }
}

/// What becomes of an event.
enum Form {
    /// It is passed on.
    Forward,
    /// It is counted under its key, and the count published.
    Count(HashMap<Vec<u8>, u64>),
    /// It is counted under its key. With each count, whether the changelog lacks
    /// it.
    Tally {
        counts: HashMap<Vec<u8>, (u64, bool)>,
        /// What the changelog lacks, with the partition.
        changed: Vec<(i32, Vec<u8>)>,
    },
    /// It is counted under its key in a store, and the count published. The
    /// changelog and the store get the last count of a transaction.
    Stored {
        database: fjall::Database,
        counts: fjall::Keyspace,
        /// Of this transaction, with the partition.
        changed: HashMap<Vec<u8>, (i32, u64)>,
    },
}

/// Runs a loop until the process is ended. `form` is `forward`, `count`, `tally` or
/// `stored`, `delivery` a [`Delivery`].
pub(crate) fn run(form: &str, delivery: &str, brokers: &str, group: &str) {
    let delivery = Delivery::parse(delivery);
    let form = match form {
        "forward" => Form::Forward,
        "count" => Form::Count(HashMap::new()),
        "tally" => Form::Tally {
            counts: HashMap::new(),
            changed: Vec::new(),
        },
        "stored" => {
            let database = fjall::Database::builder("store").open().unwrap();
            let options = fjall::KeyspaceCreateOptions::default;
            Form::Stored {
                counts: database.keyspace("counts", options).unwrap(),
                database,
                changed: HashMap::new(),
            }
        }
        _ => panic!("there is no form {form:?}"),
    };
    let mut bare = Bare::new(form, delivery, brokers, group);
    match delivery {
        Delivery::AtLeastOnce => bare.at_least_once(),
        Delivery::AtOnce => bare.exactly_once(LARGEST, Duration::ZERO),
        Delivery::Fixed(size) => bare.exactly_once(size, PATIENCE),
    }
}

struct Bare {
    consumer: BaseConsumer,
    producer: ThreadedProducer<Reports>,
    failed: Arc<AtomicBool>,
    form: Form,
    /// By partition: the offset to commit.
    next: BTreeMap<i32, i64>,
}

impl Bare {
    fn new(form: Form, delivery: Delivery, brokers: &str, group: &str) -> Self {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            // A full queue is looked at again after a second, unless told.
            .set("fetch.queue.backoff.ms", "10");
        let consumer: BaseConsumer = config.create().unwrap();
        consumer.subscribe(&[IN]).unwrap();

        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random");
        if delivery == Delivery::AtLeastOnce {
            config.set("linger.ms", "1");
        } else {
            config
                .set("transactional.id", group)
                .set("linger.ms", "0")
                // What it waits where the transaction before is being ended.
                .set("retry.backoff.ms", "5");
        }
        let failed = Arc::new(AtomicBool::new(false));
        let reports = Reports(Arc::clone(&failed));
        let producer: ThreadedProducer<Reports> = config.create_with_context(reports).unwrap();
        if delivery != Delivery::AtLeastOnce {
            producer.init_transactions(BROKER).unwrap();
        }
        Self {
            consumer,
            producer,
            failed,
            form,
            next: BTreeMap::new(),
        }
    }

    /// Transactions of `size` events, or of fewer where none came for `patience`.
    fn exactly_once(&mut self, size: usize, patience: Duration) -> ! {
        let mut events = 0;
        loop {
            let wait = if events == 0 { BROKER } else { patience };
            let came = self.event(wait, events == 0);
            events += usize::from(came);
            if events == size || (!came && events > 0) {
                self.delivered();
                let group = self.consumer.group_metadata().unwrap();
                let offsets = self.offsets();
                self.producer
                    .send_offsets_to_transaction(&offsets, &group, BROKER)
                    .unwrap();
                self.producer.commit_transaction(BROKER).unwrap();
                events = 0;
            }
        }
    }

    /// Offsets are committed when what came before them has been acknowledged.
    fn at_least_once(&mut self) -> ! {
        let mut committed = Instant::now();
        loop {
            let came = self.event(Duration::from_millis(10), false);
            if !self.next.is_empty() && (!came || committed.elapsed() >= COMMIT) {
                self.delivered();
                let offsets = self.offsets();
                self.consumer.commit(&offsets, CommitMode::Async).unwrap();
                committed = Instant::now();
            }
        }
    }

    /// Takes an event, if one comes in time, and sends what becomes of it, as the
    /// first of a transaction if it is to `begin` one.
    fn event(&mut self, wait: Duration, begin: bool) -> bool {
        let Some(event) = self.consumer.poll(wait) else {
            return false;
        };
        let event = event.unwrap();
        if begin {
            self.producer.begin_transaction().unwrap();
        }
        let key = event.key().unwrap_or_default();
        match &mut self.form {
            Form::Forward => {
                let value = event.payload().unwrap_or_default();
                send(&self.producer, BaseRecord::to(OUT).key(key).payload(value));
            }
            Form::Count(counts) => {
                let count = entry(counts, key);
                *count += 1;
                let count = count.to_string();
                let value = count.as_bytes();
                send(&self.producer, BaseRecord::to(OUT).key(key).payload(value));
                let row = BaseRecord::to(CHANGELOG).partition(event.partition());
                send(&self.producer, row.key(key).payload(value));
            }
            Form::Tally { counts, changed } => {
                let (count, lacks) = entry(counts, key);
                *count += 1;
                if !std::mem::replace(lacks, true) {
                    changed.push((event.partition(), key.to_vec()));
                }
            }
            Form::Stored {
                counts, changed, ..
            } => {
                if !changed.contains_key(key) {
                    let stored = counts.get(key).unwrap();
                    let stored = stored.map_or(0, |count| number(&count));
                    changed.insert(key.to_vec(), (event.partition(), stored));
                }
                let (_, count) = changed.get_mut(key).unwrap();
                *count += 1;
                let count = count.to_string();
                let record = BaseRecord::to(OUT).key(key).payload(count.as_bytes());
                send(&self.producer, record);
            }
        }
        self.next.insert(event.partition(), event.offset() + 1);
        true
    }

    /// Sends the rows that the changelog lacks, and waits until everything that
    /// was sent has been acknowledged. Otherwise librdkafka's commit waits for
    /// reports in steps of 100 ms.
    fn delivered(&mut self) {
        if let Form::Tally { counts, changed } = &mut self.form {
            for (partition, key) in changed.drain(..) {
                let (count, lacks) = entry(counts, &key);
                *lacks = false;
                let value = count.to_string();
                let row = BaseRecord::to(CHANGELOG).partition(partition);
                let row = row.key(&key[..]).payload(value.as_bytes());
                send(&self.producer, row);
            }
        }
        if let Form::Stored {
            database,
            counts,
            changed,
        } = &mut self.form
        {
            let mut batch = database.batch();
            for (key, (partition, count)) in changed.drain() {
                let value = count.to_string();
                let row = BaseRecord::to(CHANGELOG).partition(partition);
                let row = row.key(&key[..]).payload(value.as_bytes());
                send(&self.producer, row);
                batch.insert(counts, key, value);
            }
            batch.commit().unwrap();
        }
        while self.producer.in_flight_count() > 0 {
            thread::sleep(Duration::from_micros(50));
        }
        assert!(!self.failed.load(Ordering::Relaxed), "not published");
    }

    /// The offsets to commit, once.
    fn offsets(&mut self) -> TopicPartitionList {
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in std::mem::take(&mut self.next) {
            offsets
                .add_partition_offset(IN, partition, Offset::Offset(next))
                .unwrap();
        }
        offsets
    }
}

/// What is under a key, made if it is new.
fn entry<'a, V: Default>(counts: &'a mut HashMap<Vec<u8>, V>, key: &[u8]) -> &'a mut V {
    if !counts.contains_key(key) {
        counts.insert(key.to_vec(), V::default());
    }
    counts.get_mut(key).unwrap()
}

/// Sends a record, after those before it where there are too many.
fn send(producer: &ThreadedProducer<Reports>, mut record: BaseRecord<'_, [u8], [u8]>) {
    while let Err((error, back)) = producer.send(record) {
        let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
        assert_eq!(error, full, "not published");
        record = back;
        thread::sleep(Duration::from_millis(1));
    }
}

/// Notes whether a delivery failed.
struct Reports(Arc<AtomicBool>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
