//! Records of the past: reading a span of a partition, outside of any group, and
//! removing its beginning.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::cluster::{ANSWER, Cluster, KafkaError, Quiet};
use super::consumer::Source;
use super::raw::{Read, Records};
use crate::invocation::Event;

/// How long to wait for transactions that are open in the span, and for a broker
/// that does not answer: somewhat longer than a transaction may last.
const PATIENCE: Duration = Duration::from_secs(15);

/// Records that are taken at once.
const BATCH: usize = 1_000;

impl Cluster {
    /// Reads the committed records of a partition from an offset on, until what
    /// comes next is at or behind `end`, the high watermark or less. Blocks.
    pub fn read_past(
        &self,
        source: &Source,
        from: i64,
        end: i64,
        mut each: impl FnMut(Event),
    ) -> Result<(), KafkaError> {
        if from >= end {
            return Ok(());
        }
        let fail = |cause: String| KafkaError::Unread {
            topic: source.0.to_string(),
            partition: source.1,
            cause,
        };
        let own = [
            // Assigning by hand wants a name; nothing is ever committed under it.
            ("group.id", "tidemill-asker"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", "read_committed"),
            ("fetch.wait.max.ms", "50"),
            ("fetch.queue.backoff.ms", "10"),
            ("queued.max.messages.kbytes", "16384"),
        ];
        let reader: Arc<BaseConsumer<Quiet>> = self
            .client("tidemill-past", &own, self.quiet())
            .map_err(|error| KafkaError::Config(error.to_string()))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&source.0, source.1, Offset::Offset(from))
            .and_then(|()| reader.assign(&list))
            .map_err(|error| fail(error.to_string()))?;
        let records = Records::of(reader);
        let records = records.ok_or_else(|| fail("no queue of records".to_owned()))?;
        let mut moved = Instant::now();
        let mut why = "its end was not reached: a transaction is open in it".to_owned();
        // Markers of transactions take offsets too: so the last record does not
        // tell that the end is reached, and not every span ends with one.
        let mut done = false;
        while !done {
            records.read(
                BATCH,
                Duration::from_millis(100),
                |_, partition, read| match read {
                    Read::Record(record) => {
                        moved = Instant::now();
                        done |= record.offset() + 1 >= end;
                        if record.offset() < end {
                            each(Event {
                                topic: source.0.clone(),
                                partition,
                                offset: record.offset(),
                                timestamp: record.timestamp(),
                                key: record.key(),
                                value: record.value(),
                                headers: record.headers(),
                            });
                        }
                    }
                    Read::End(next) => done |= next >= end,
                    Read::Failed(code) => why = code.to_string(),
                },
            );
            if !done && moved.elapsed() > PATIENCE {
                return Err(fail(why));
            }
        }
        // To close it takes 100 ms, for which nobody has to wait.
        let closing = std::thread::Builder::new().name("tidemill-past".to_owned());
        let _ = closing.spawn(move || drop(records));
        Ok(())
    }

    /// Removes the records of a partition before an offset. Blocks: to be called
    /// on a thread of tokio's that may.
    pub fn remove_past(&self, source: &Source, before: i64) -> Result<(), KafkaError> {
        let fail = |cause: String| KafkaError::Unread {
            topic: source.0.to_string(),
            partition: source.1,
            cause,
        };
        let admin: Arc<AdminClient<Quiet>> = self
            .client("tidemill-admin", &[], self.quiet())
            .map_err(|error| fail(error.to_string()))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&source.0, source.1, Offset::Offset(before))
            .map_err(|error| fail(error.to_string()))?;
        let options = AdminOptions::new().operation_timeout(Some(ANSWER));
        let removed = tokio::runtime::Handle::current()
            .block_on(admin.delete_records(&list, &options))
            .map_err(|error| fail(error.to_string()))?;
        for element in removed.elements() {
            element.error().map_err(|error| fail(error.to_string()))?;
        }
        Ok(())
    }

    /// The offsets of the first events at or after a time, in milliseconds since
    /// the Unix epoch; none where there is no such event. Blocks.
    pub fn offsets_at(
        &self,
        sources: &[Source],
        time: i64,
    ) -> Result<std::collections::BTreeMap<Source, Option<i64>>, KafkaError> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in sources {
            list.add_partition_offset(topic, *partition, Offset::Offset(time))
                .map_err(|error| self.unreachable(&error))?;
        }
        let found = self
            .asker
            .offsets_for_times(list, ANSWER)
            .map_err(|error| self.unreachable(&error))?;
        let offsets = found.elements().into_iter().map(|element| {
            element.error().map_err(|error| self.unreachable(&error))?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            Ok(((element.topic().into(), element.partition()), offset))
        });
        offsets.collect()
    }

    /// Commits offsets for a group that nobody is in. Kafka refuses it for one
    /// that has members. Blocks.
    pub fn commit_for(
        &self,
        group: &str,
        offsets: &std::collections::BTreeMap<Source, i64>,
        note: &str,
    ) -> Result<(), KafkaError> {
        let fail = |error: rdkafka::error::KafkaError| match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::StaleMemberEpoch
                | RDKafkaErrorCode::RebalanceInProgress,
            ) => KafkaError::GroupInUse(group.to_owned()),
            _ => KafkaError::Group {
                group: group.to_owned(),
                cause: error.to_string(),
            },
        };
        let own = [("group.id", group), ("enable.auto.commit", "false")];
        let client: Arc<BaseConsumer<Quiet>> = self
            .client("tidemill-asker", &own, self.quiet())
            .map_err(fail)?;
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for ((topic, partition), offset) in offsets {
            let mut element = list.add_partition(topic, *partition);
            element.set_offset(Offset::Offset(*offset)).map_err(fail)?;
            element.set_metadata(note);
        }
        client
            .commit(&list, rdkafka::consumer::CommitMode::Sync)
            .map_err(fail)
    }
}
