//! A Kafka client: makes topics, writes odd events, reads what others wrote.

use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientContext, Offset, TopicPartitionList};

use std::sync::{Mutex, OnceLock};

use crate::wait::{Deadline, eventually};

const PATIENCE: Duration = Duration::from_secs(10);

/// A client of the broker at an address.
pub struct Topics {
    address: String,
    producer: OnceLock<BaseProducer<Delivered>>,
}

/// A record, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The partition it was read from.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The key; none where it is null.
    pub key: Option<Vec<u8>>,
    /// The value; none where it is null.
    pub value: Option<Vec<u8>>,
    /// Header fields.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    /// The value as text.
    ///
    /// # Panics
    /// If it is null or no text.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(self.value.as_deref().unwrap()).unwrap()
    }
}

impl Topics {
    /// A client of the broker at `address`.
    #[must_use]
    pub fn at(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            producer: OnceLock::new(),
        }
    }

    /// Where the broker is.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Makes a topic. Only on a real Kafka.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn create(&self, topic: &str, partitions: i32) {
        self.create_with(topic, partitions, &[]);
    }

    /// Makes a topic with configuration of its own. Only on a real Kafka.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn create_with(&self, topic: &str, partitions: i32, config: &[(&str, &str)]) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        for (key, value) in config {
            new = new.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let made = futures_executor::block_on(admin.create_topics(&[new], &options)).unwrap();
        for result in made {
            result.unwrap_or_else(|(topic, code)| panic!("{topic} is not made: {code}"));
        }
        eventually("the topic has leaders", || {
            let got = self.partitions(topic);
            if got == partitions { Ok(()) } else { Err(got) }
        });
    }

    /// Changes the configuration of a topic.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn configure(&self, topic: &str, key: &str, value: &str) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(key, value);
        let options = AdminOptions::new();
        let changed = futures_executor::block_on(admin.alter_configs(&[change], &options)).unwrap();
        for result in changed {
            result.unwrap_or_else(|(_, code)| panic!("{topic} is not changed: {code}"));
        }
    }

    /// Removes the records of a partition before an offset, as retention does.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn remove_before(&self, topic: &str, partition: i32, offset: i64) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let mut before = TopicPartitionList::new();
        before
            .add_partition_offset(topic, partition, Offset::Offset(offset))
            .unwrap();
        let options = AdminOptions::new();
        let removed = futures_executor::block_on(admin.delete_records(&before, &options)).unwrap();
        for element in removed.elements() {
            element.error().unwrap();
        }
    }

    /// Writes many records to a partition, in order, without a key.
    ///
    /// # Panics
    /// If the broker does not take them.
    pub fn write_all(&self, topic: &str, partition: i32, values: &[&str]) {
        let mut config = self.config();
        config.set("enable.idempotence", "true");
        let producer: BaseProducer = config.create().unwrap();
        for value in values {
            let record = BaseRecord::<(), str>::to(topic).partition(partition);
            let sent = producer.send(record.payload(*value));
            sent.map_err(|(error, _)| error).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    /// Writes many records, in order, each to the partition of its key, as Java
    /// clients choose it. Broken connections are mended meanwhile.
    ///
    /// # Panics
    /// If the broker does not take them.
    pub fn write_keyed(&self, topic: &str, records: &[(String, String)]) {
        let mut config = self.config();
        config
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.messages", "1000000")
            .set("message.timeout.ms", "120000");
        let producer: BaseProducer = config.create().unwrap();
        for (key, value) in records {
            let record = BaseRecord::to(topic).key(key.as_str());
            let sent = producer.send(record.payload(value.as_str()));
            sent.map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(120)).unwrap();
    }

    /// Writes many records to a partition in one producer's batches, compressed.
    /// Each has a key, a value and a time in milliseconds; 0 is now.
    ///
    /// # Panics
    /// If the broker does not take them.
    pub fn write_compressed(
        &self,
        topic: &str,
        partition: i32,
        codec: &str,
        records: &[(String, String, i64)],
    ) {
        let mut config = self.config();
        config
            .set("compression.type", codec)
            .set("linger.ms", "50")
            .set("enable.idempotence", "true");
        let producer: BaseProducer = config.create().unwrap();
        for (key, value, time) in records {
            let record = BaseRecord::to(topic).partition(partition).timestamp(*time);
            let sent = producer.send(record.key(key.as_str()).payload(value.as_str()));
            sent.map_err(|(error, _)| error).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    /// Gives a topic more partitions.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn grow(&self, topic: &str, partitions: usize) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let grown = [NewPartitions::new(topic, partitions)];
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let made = admin.create_partitions(&grown, &options);
        for result in futures_executor::block_on(made).unwrap() {
            result.unwrap_or_else(|(_, code)| panic!("{topic} does not grow: {code}"));
        }
    }

    /// Deletes a topic.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn delete(&self, topic: &str) {
        let admin: AdminClient<DefaultClientContext> = self.config().create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let deleted = futures_executor::block_on(admin.delete_topics(&[topic], &options)).unwrap();
        for result in deleted {
            result.unwrap_or_else(|(_, code)| panic!("{topic} is not deleted: {code}"));
        }
    }

    /// Which node of the cluster leads each partition of a topic; none while it has
    /// no leader.
    ///
    /// # Panics
    /// If the broker does not say.
    #[must_use]
    pub fn leaders(&self, topic: &str) -> Vec<Option<i32>> {
        let metadata = self.metadata(topic);
        let partitions = metadata.topics()[0].partitions().iter();
        partitions
            .map(|one| Some(one.leader()).filter(|leader| *leader >= 0))
            .collect()
    }

    /// The fewest replicas in sync that a partition of a topic has.
    ///
    /// # Panics
    /// If the broker does not say.
    #[must_use]
    pub fn in_sync(&self, topic: &str) -> usize {
        let metadata = self.metadata(topic);
        let partitions = metadata.topics()[0].partitions().iter();
        partitions.map(|one| one.isr().len()).min().unwrap()
    }

    fn metadata(&self, topic: &str) -> Metadata {
        let consumer: BaseConsumer = self.config().create().unwrap();
        consumer.fetch_metadata(Some(topic), PATIENCE).unwrap()
    }

    /// How many partitions a topic has; 0 if there is no such topic.
    #[must_use]
    pub fn partitions(&self, topic: &str) -> i32 {
        let metadata = self.metadata(topic);
        let partitions = metadata.topics()[0].partitions();
        let ready = partitions.iter().all(|partition| partition.leader() >= 0);
        if ready {
            i32::try_from(partitions.len()).unwrap()
        } else {
            0
        }
    }

    /// Writes a record to a partition and gives its offset.
    ///
    /// # Panics
    /// If the broker does not take it.
    pub fn write(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> i64 {
        let written = self.try_write(topic, partition, key, value, headers);
        written.unwrap_or_else(|error| panic!("{topic}: {error}"))
    }

    /// Writes a record to a partition and gives its offset.
    ///
    /// # Errors
    /// The broker does not take it.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn try_write(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<i64, KafkaError> {
        let producer = self.producer.get_or_init(|| {
            let mut config = self.config();
            config
                .set("acks", "all")
                .set("linger.ms", "0")
                // The broker is to say what is too large.
                .set("message.max.bytes", "100000000");
            config.create_with_context(Delivered::default()).unwrap()
        });
        let mut all = OwnedHeaders::new();
        for (key, value) in headers {
            all = all.insert(Header { key, value: *value });
        }
        let mut record = BaseRecord::<[u8], [u8]>::to(topic)
            .partition(partition)
            .headers(all);
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(value) = value {
            record = record.payload(value);
        }
        producer.send(record).map_err(|(error, _)| error)?;
        let deadline = Deadline::usual();
        loop {
            // A poll takes all of its time, and a flush 100 ms.
            producer.poll(Duration::from_millis(1));
            if let Some(delivered) = producer.context().0.lock().unwrap().take() {
                return delivered;
            }
            assert!(!deadline.passed(), "{topic}: no answer");
        }
    }

    /// Everything that is in a topic, committed or not part of a transaction,
    /// by partition and offset. Transactions that are open are waited for: what is
    /// behind them is in the topic too, and nobody may read it yet.
    ///
    /// # Panics
    /// If the broker cannot be read within some seconds.
    #[must_use]
    pub fn read(&self, topic: &str) -> Vec<Record> {
        let mut config = self.config();
        config
            .set("group.id", "tests")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "10")
            .set("isolation.level", "read_committed");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut all = TopicPartitionList::new();
        let ends = self.ends(topic);
        let partitions = i32::try_from(ends.len()).unwrap();
        for (partition, end) in (0..).zip(ends) {
            eventually("transactions have ended", || {
                // For such a consumer the end is that of what it may read.
                let (_, may) = consumer
                    .fetch_watermarks(topic, partition, PATIENCE)
                    .unwrap();
                match may >= end {
                    true => Ok(()),
                    false => Err((topic.to_owned(), partition, may, end)),
                }
            });
            all.add_partition_offset(topic, partition, Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&all).unwrap();
        let mut records = Vec::new();
        let mut ended = 0;
        let deadline = Deadline::usual();
        while ended < partitions {
            assert!(!deadline.passed(), "{topic} cannot be read to its end");
            match consumer.poll(Duration::from_millis(10)) {
                Some(Ok(message)) => records.push(Record {
                    partition: message.partition(),
                    offset: message.offset(),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers: message
                        .headers()
                        .into_iter()
                        .flat_map(Headers::iter)
                        .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                        .collect(),
                }),
                Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
                Some(Err(error)) => panic!("{topic}: {error}"),
                None => {}
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    /// The offset behind the last record of each partition, committed or not.
    fn ends(&self, topic: &str) -> Vec<i64> {
        let mut config = self.config();
        config.set("isolation.level", "read_uncommitted");
        let consumer: BaseConsumer = config.create().unwrap();
        let end = |partition| {
            let ends = consumer.fetch_watermarks(topic, partition, PATIENCE);
            ends.unwrap().1
        };
        (0..self.partitions(topic)).map(end).collect()
    }

    /// The offset that a group has committed for a partition, if it has.
    #[must_use]
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let consumer: BaseConsumer = self.config().set("group.id", group).create().unwrap();
        let mut asked = TopicPartitionList::new();
        asked.add_partition(topic, partition);
        let committed = consumer.committed_offsets(asked, PATIENCE).unwrap();
        match committed.elements()[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }
}

/// Keeps the delivery report of one record.
#[derive(Default)]
struct Delivered(Mutex<Option<Result<i64, KafkaError>>>);

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        *self.0.lock().unwrap() = Some(match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        });
    }
}
