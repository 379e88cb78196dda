//! A producer's transaction, which a test leaves open as long as it likes.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::topics::Topics;
use crate::wait::unique;

const PATIENCE: Duration = Duration::from_secs(60);

/// A transactional producer, with a transaction open.
pub struct Transaction {
    producer: BaseProducer,
}

impl Topics {
    /// Opens a transaction.
    ///
    /// # Panics
    /// If the broker refuses.
    #[must_use]
    pub fn transaction(&self) -> Transaction {
        self.transaction_as(&unique("tests"))
    }

    /// Opens a transaction under this name. Whoever had the name before is fenced:
    /// what it had open is aborted, and it can commit nothing more.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn transaction_as(&self, id: &str) -> Transaction {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.address())
            .set("transactional.id", id)
            .set("transaction.timeout.ms", "300000")
            .set("message.timeout.ms", "300000")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "1000000");
        let producer: BaseProducer = config.create().unwrap();
        producer.init_transactions(PATIENCE).unwrap();
        producer.begin_transaction().unwrap();
        Transaction { producer }
    }
}

impl Transaction {
    /// The id of the cluster.
    ///
    /// # Panics
    /// If the broker does not say.
    #[must_use]
    pub fn cluster(&self) -> String {
        let client = self.producer.client();
        client.fetch_cluster_id(PATIENCE).unwrap()
    }

    /// Writes a record: to a partition, or to the one of its key.
    ///
    /// # Panics
    /// If the client refuses.
    pub fn write(&self, topic: &str, partition: Option<i32>, key: &[u8], value: &[u8]) {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).key(key).payload(value);
        record.partition = partition;
        while let Err((error, again)) = self.producer.send(record) {
            assert_eq!(
                error.rdkafka_error_code(),
                Some(RDKafkaErrorCode::QueueFull),
                "{topic}: {error}"
            );
            self.producer.poll(Duration::from_millis(10));
            record = again;
        }
    }

    /// Waits until the broker has all that was written.
    ///
    /// # Panics
    /// If it does not take it.
    pub fn flush(&self) {
        self.producer.flush(PATIENCE).unwrap();
    }

    /// Commits what was written, and opens the next transaction.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn commit(&self) {
        self.flush();
        self.producer.commit_transaction(PATIENCE).unwrap();
        self.producer.begin_transaction().unwrap();
    }

    /// Has what was written be as if it never was, and opens the next transaction.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn abort(&self) {
        self.flush();
        self.producer.abort_transaction(PATIENCE).unwrap();
        self.producer.begin_transaction().unwrap();
    }
}
