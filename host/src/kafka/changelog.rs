//! Changelogs: reading them, from any offset on, outside of any group.
//!
//! One consumer for all changelogs of the host. It reads committed records only,
//! and says when it has come to a partition's end, at which offset: markers of
//! transactions take offsets too, so the last record does not tell.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::cluster::{Cluster, KafkaError, Quiet};
use super::consumer::Source;
use super::properties;
use super::raw::{Read, Records};

/// What a changelog gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record: its offset, key and value.
    Record(i64, Option<Bytes>, Option<Bytes>),
    /// Everything before this offset has been read, and nothing is behind it that
    /// is committed.
    End(i64),
    /// The offset to read at does not exist (any more).
    OutOfRange,
    /// Reading failed for now; librdkafka tries again by itself.
    Failed(String),
}

/// Reads changelogs.
pub struct ChangelogReader {
    records: Records<Quiet>,
}

impl ChangelogReader {
    /// Makes the consumer; the broker need not answer yet.
    pub fn open(cluster: &Cluster) -> Result<ChangelogReader, KafkaError> {
        let own = [
            // Assigning by hand wants a name; nothing is ever committed under it.
            ("group.id", "tidemill-changelogs"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
            // An end is told only with the answer to a fetch that found nothing.
            ("fetch.wait.max.ms", "50"),
            ("fetch.queue.backoff.ms", "10"),
            ("queued.max.messages.kbytes", "32768"),
            ("topic.metadata.refresh.interval.ms", "30000"),
            // It is read as a queue, past the crate's callbacks, and what it says of
            // lost connections would go to standard error as it is. Others say it.
            ("log_level", "0"),
        ];
        let consumer: Arc<BaseConsumer<Quiet>> = cluster
            .client("tidemill-changelogs", &own, cluster.quiet())
            .map_err(|error| KafkaError::Config(properties::refusal(&error)))?;
        let records = Records::of(consumer);
        let records =
            records.ok_or_else(|| KafkaError::Config("no queue of records".to_owned()))?;
        Ok(ChangelogReader { records })
    }

    /// Reads this partition too, from an offset on.
    pub fn follow(&self, source: &Source, from: i64) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        let from = match from {
            0 => Offset::Beginning,
            from => Offset::Offset(from),
        };
        list.add_partition_offset(&source.0, source.1, from)
            .and_then(|()| self.records.consumer().incremental_assign(&list))
            .map_err(|error| fail(source, &error))
    }

    /// Reads this partition no more.
    pub fn leave(&self, source: &Source) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&source.0, source.1);
        self.records
            .consumer()
            .incremental_unassign(&list)
            .map_err(|error| fail(source, &error))
    }

    /// The partition's high watermark, as the broker told it with the records.
    pub fn known_end(&self, source: &Source) -> Option<i64> {
        self.records.known_end(&source.0, source.1)
    }

    /// Waits for a first entry and gives up to `most` that are there, each with
    /// its topic and partition. Blocks.
    pub fn read(&self, most: usize, wait: Duration, mut each: impl FnMut(&str, i32, Entry)) {
        self.records.read(most, wait, |topic, partition, read| {
            let entry = match read {
                Read::Record(record) => {
                    Entry::Record(record.offset(), record.key(), record.value())
                }
                Read::End(offset) => Entry::End(offset),
                Read::Failed(
                    RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                ) => Entry::OutOfRange,
                Read::Failed(code) => Entry::Failed(code.to_string()),
            };
            each(topic, partition, entry);
        });
    }
}

fn fail(source: &Source, error: &rdkafka::error::KafkaError) -> KafkaError {
    KafkaError::Changelog {
        topic: source.0.to_string(),
        cause: error.to_string(),
    }
}
