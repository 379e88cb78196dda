//! One service's membership in its consumer group.
//!
//! librdkafka asks what to do with partitions that it assigns or revokes. Here
//! the question is passed on as a [`Change`], and answered later by [`Consumer::
//! take`] or [`Consumer::let_go`]: a revoked partition is let go only after what
//! ran on it has been committed. Each partition has a queue of its own, which is
//! simply not read while the service has enough to do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{
    BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol, StreamConsumer,
};
use rdkafka::error::{KafkaError as RdKafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message as _};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;

use super::cluster::{Cluster, KafkaError, Quiet};
use super::farewell::Membered;
use super::raw::Membership;
use crate::invocation::Event;

/// A topic and a partition of it.
pub type Source = (Arc<str>, i32);

/// Partitions come and go.
#[derive(Debug)]
pub enum Change {
    /// These are to be consumed by this host from now on.
    Assigned(Vec<Source>),
    /// These are to be given up; others wait for them.
    Revoked(Vec<Source>),
    /// These are gone: others may consume them already.
    Lost(Vec<Source>),
}

/// What a partition's queue gave.
#[derive(Debug)]
pub enum Received {
    /// An event.
    Event(Event),
    /// The offset to read at does not exist any more, or not yet.
    OutOfRange,
    /// Reading failed for now; librdkafka tries again by itself.
    Failed(String),
    /// This host may not read the topic. Told once; librdkafka goes on trying.
    Forbidden(String),
}

/// What is wrong with a member.
#[derive(Debug)]
pub enum Trouble {
    /// It passes, or librdkafka mends it.
    Passing(String),
    /// Somebody has to mend it, at the broker.
    Lasting(String),
    /// This member can do nothing more; another may.
    Fatal(String),
}

/// A member of a consumer group.
pub struct Consumer {
    inner: Arc<StreamConsumer<Context>>,
    group: String,
    incremental: bool,
    /// Whether the broker keeps the group.
    modern: bool,
}

/// The end of a partition, as last told by the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The offset behind the last record that is committed.
    pub offset: i64,
    /// Whether all up to there has been handed out.
    pub read: bool,
}

/// Ends by topic and partition.
pub type Ends = BTreeMap<Source, End>;

impl Consumer {
    /// Joins a group. `changes` hears of partitions, `ends` of their ends, about
    /// once a second. With `together` partition i of every topic goes to the same
    /// host. Where the broker keeps the group, partitions move one by one; where
    /// it does not and they belong together, all are given up whenever one moves.
    pub fn join(
        cluster: &Cluster,
        group: &str,
        topics: &[String],
        together: bool,
        changes: mpsc::UnboundedSender<Change>,
        ends: tokio::sync::watch::Sender<Ends>,
    ) -> Result<Consumer, KafkaError> {
        let fail = |error: RdKafkaError| KafkaError::Group {
            group: group.to_owned(),
            cause: error.to_string(),
        };
        let modern = cluster.has_modern_groups();
        let mut own = vec![
            ("group.id", group),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "false"),
            // Never jump silently: the host decides, and says so.
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
            ("statistics.interval.ms", "1000"),
            ("topic.metadata.refresh.interval.ms", "30000"),
            // The default of 1,000 makes a full queue wait a second.
            ("fetch.queue.backoff.ms", "10"),
            // A fetch of idle partitions holds up a busy one for as long (decision 0017).
            ("fetch.wait.max.ms", "100"),
            // By partition, since each has a queue of its own.
            ("queued.min.messages", "20000"),
            ("queued.max.messages.kbytes", "4096"),
        ];
        own.extend(match (modern, together) {
            (true, true) => vec![
                ("group.protocol", "consumer"),
                ("group.remote.assignor", "range"),
            ],
            (true, false) => vec![("group.protocol", "consumer")],
            (false, true) => vec![
                ("partition.assignment.strategy", "range"),
                ("session.timeout.ms", "10000"),
            ],
            (false, false) => vec![
                ("partition.assignment.strategy", "cooperative-sticky"),
                ("session.timeout.ms", "10000"),
            ],
        });
        if cluster.is_embedded() {
            // The mock broker answers an empty fetch only after this time.
            own.push(("fetch.wait.max.ms", "10"));
        }
        let context = Context {
            quiet: cluster.quiet(),
            changes,
            ends,
            read_to: Mutex::default(),
            leaving: AtomicBool::new(false),
            losses: AtomicU64::new(0),
        };
        let name = format!("tidemill-{group}");
        let inner: Arc<StreamConsumer<Context>> =
            cluster.client(&name, &own, context).map_err(fail)?;
        let names: Vec<&str> = topics.iter().map(String::as_str).collect();
        inner.subscribe(&names).map_err(fail)?;
        Ok(Consumer {
            inner,
            group: group.to_owned(),
            incremental: modern || !together,
            modern,
        })
    }

    /// Serves the group: to be awaited all the time, or the broker takes this
    /// member for dead. Returns when something is wrong.
    pub async fn serve(&self, cluster: &Cluster) -> Trouble {
        match self.inner.recv().await {
            // Partitions have queues of their own before they are read.
            Ok(message) => Trouble::Passing(format!(
                "an event of {}/{} came through the wrong queue",
                message.topic(),
                message.partition()
            )),
            Err(RdKafkaError::MessageConsumptionFatal(code)) => {
                let lacks = [
                    RDKafkaErrorCode::UnsupportedVersion,
                    RDKafkaErrorCode::UnsupportedFeature,
                    RDKafkaErrorCode::UnsupportedAssignor,
                ];
                if lacks.contains(&code) {
                    cluster.no_modern_groups();
                }
                Trouble::Fatal(code.to_string())
            }
            Err(error) => match error.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::TopicAuthorizationFailed
                    | RDKafkaErrorCode::GroupAuthorizationFailed,
                ) => Trouble::Lasting(error.to_string()),
                _ => Trouble::Passing(error.to_string()),
            },
        }
    }

    /// This member in its group, if the broker has it there.
    pub fn membership(&self) -> Option<Membership> {
        Membership::of(&*self.inner)
    }

    /// What is to be remembered of this member, to end it if it is killed.
    pub fn membered(&self) -> Option<Membered> {
        let membership = self.membership()?;
        Some(Membered {
            member: membership.member(),
            modern: self.modern,
        })
    }

    /// How often partitions were lost: bumped before anybody hears of it.
    pub fn losses(&self) -> u64 {
        self.inner.context().losses.load(Ordering::Acquire)
    }

    /// Offsets that the group committed, where it has, and what is noted beside
    /// them. Blocks.
    pub fn committed(
        &self,
        sources: &[Source],
    ) -> Result<BTreeMap<Source, (i64, String)>, KafkaError> {
        if sources.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut list = TopicPartitionList::new();
        for (topic, partition) in sources {
            list.add_partition(topic, *partition);
        }
        let committed = self
            .inner
            .committed_offsets(list, super::cluster::ANSWER)
            .map_err(|error| self.fail(&error))?;
        // A part that was not told is not the same as nothing committed.
        for element in committed.elements() {
            element.error().map_err(|error| self.fail(&error))?;
        }
        let found = committed.elements().into_iter().filter_map(|element| {
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                _ => return None,
            };
            let source = sources.iter().find(|(topic, partition)| {
                **topic == *element.topic() && *partition == element.partition()
            });
            Some((source?.clone(), (offset, element.metadata().to_owned())))
        });
        Ok(found.collect())
    }

    /// Takes on partitions that were assigned, to be read from these offsets on,
    /// each through its own queue.
    pub fn take(
        &self,
        positions: &BTreeMap<Source, i64>,
    ) -> Result<Vec<(Source, Queue)>, KafkaError> {
        let list = self.list(positions)?;
        // The queues first: once they stand, nothing of these partitions comes
        // through the group's own queue.
        let mut queues = Vec::with_capacity(positions.len());
        for (source, from) in positions {
            queues.push((source.clone(), self.queue(source, *from)?));
        }
        if self.is_incremental() {
            self.inner.incremental_assign(&list)
        } else {
            self.inner.assign(&list)
        }
        .map_err(|error| self.fail(&error))?;
        Ok(queues)
    }

    /// The queue of a partition that is assigned, or is about to be, and is read from
    /// this offset on.
    pub fn queue(&self, source: &Source, from: i64) -> Result<Queue, KafkaError> {
        let (topic, partition) = source;
        let queue = self.inner.split_partition_queue(topic, *partition);
        let inner = queue.ok_or_else(|| KafkaError::Group {
            group: self.group.clone(),
            cause: format!("{topic}/{partition} has no queue"),
        })?;
        Ok(Queue {
            inner,
            topic: topic.clone(),
            from,
        })
    }

    /// Lets partitions go that were revoked or lost.
    pub fn let_go(&self, sources: &[Source]) -> Result<(), KafkaError> {
        if self.is_incremental() {
            let mut list = TopicPartitionList::new();
            for (topic, partition) in sources {
                list.add_partition(topic, *partition);
            }
            self.inner.incremental_unassign(&list)
        } else {
            self.inner.unassign()
        }
        .map_err(|error| self.fail(&error))
    }

    /// Whether this member belongs to a group whose partitions move one by one.
    fn is_incremental(&self) -> bool {
        match self.inner.rebalance_protocol() {
            RebalanceProtocol::Cooperative => true,
            RebalanceProtocol::Eager => false,
            RebalanceProtocol::None => self.incremental,
        }
    }

    /// Reads on from another offset.
    pub fn seek(&self, source: &Source, offset: i64) -> Result<(), KafkaError> {
        self.inner
            .seek(
                &source.0,
                source.1,
                Offset::Offset(offset),
                super::cluster::ANSWER,
            )
            .map_err(|error| self.fail(&error))
    }

    /// Commits offsets of the next events to run, with a note beside them, without
    /// waiting unless asked.
    pub fn commit(
        &self,
        positions: &BTreeMap<Source, i64>,
        note: &str,
        wait: bool,
    ) -> Result<(), KafkaError> {
        if positions.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for ((topic, partition), offset) in positions {
            let mut element = list.add_partition(topic, *partition);
            element
                .set_offset(Offset::Offset(*offset))
                .map_err(|error| self.fail(&error))?;
            element.set_metadata(note);
        }
        let mode = if wait {
            CommitMode::Sync
        } else {
            CommitMode::Async
        };
        self.inner
            .commit(&list, mode)
            .map_err(|error| self.fail(&error))
    }

    fn list(&self, positions: &BTreeMap<Source, i64>) -> Result<TopicPartitionList, KafkaError> {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), offset) in positions {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset))
                .map_err(|error| self.fail(&error))?;
        }
        Ok(list)
    }

    /// Nothing runs any more: from now on partitions are given back at once,
    /// whoever drops the last of this.
    pub fn will_leave(&self) {
        self.inner.context().leaving.store(true, Ordering::Release);
    }

    /// Leaves the group: others get its partitions at once. Everything that was
    /// to be committed has been. Blocks.
    pub fn leave(self) {
        self.will_leave();
        drop(self.inner);
    }

    fn fail(&self, error: &RdKafkaError) -> KafkaError {
        KafkaError::Group {
            group: self.group.clone(),
            cause: error.to_string(),
        }
    }
}

/// The events of one partition.
pub struct Queue {
    inner: StreamPartitionQueue<Context>,
    topic: Arc<str>,
    from: i64,
}

impl Queue {
    /// The events, each once and one after another; never ends.
    pub fn events(&self) -> impl Stream<Item = Received> + Send + Unpin + '_ {
        let mut order = Order(self.from);
        self.inner.stream().filter_map(move |received| {
            let received = match received {
                Ok(message) if order.has_had(message.offset()) => {
                    let (topic, partition) = (message.topic(), message.partition());
                    let offset = message.offset();
                    tracing::debug!(topic, partition, offset, "librdkafka gave an event twice");
                    None
                }
                Ok(message) => Some(Received::Event(self.event(&message))),
                Err(error) => Some(odd(&error)),
            };
            std::future::ready(received)
        })
    }

    fn event(&self, message: &rdkafka::message::BorrowedMessage<'_>) -> Event {
        let headers = message.headers().map(|headers| {
            headers
                .iter()
                .map(|header| {
                    let value = header.value.map(Bytes::copy_from_slice);
                    (header.key.to_owned(), value)
                })
                .collect()
        });
        Event {
            topic: self.topic.clone(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers: headers.unwrap_or_default(),
        }
    }
}

fn odd(error: &RdKafkaError) -> Received {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
            Received::OutOfRange
        }
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Received::Forbidden(error.to_string()),
        _ => Received::Failed(error.to_string()),
    }
}

/// The offset of the next event of a partition, or below.
///
/// librdkafka gives an event twice if it pauses its partition, as it does for each
/// rebalance, between taking the event out of the queue and noting that the
/// application has it: it fetches from there again when it goes on
/// ([decision 0021](../../../docs/decisions/0021-each-offset-once.md)).
struct Order(i64);

impl Order {
    /// Whether an event was there before. If not, it was now.
    fn has_had(&mut self, offset: i64) -> bool {
        let had = offset < self.0;
        self.0 = self.0.max(offset + 1);
        had
    }
}

/// librdkafka's callbacks for this member.
struct Context {
    quiet: Quiet,
    changes: mpsc::UnboundedSender<Change>,
    ends: tokio::sync::watch::Sender<Ends>,
    /// The ends up to which all was read.
    read_to: Mutex<BTreeMap<Source, i64>>,
    leaving: AtomicBool,
    losses: AtomicU64,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.quiet.log(level, facility, message);
    }

    fn error(&self, error: RdKafkaError, reason: &str) {
        self.quiet.client_error(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        let mut read_to = self.read_to.lock();
        let mut ends = Ends::new();
        for topic in statistics.topics.into_values() {
            let name: Arc<str> = topic.topic.into();
            for partition in topic.partitions.into_values() {
                // Read_committed ends at the last stable offset.
                let end = match partition.ls_offset {
                    stable if stable >= 0 => stable,
                    _ => partition.hi_offset,
                };
                if partition.partition < 0 || end < 0 {
                    continue;
                }
                let source = (name.clone(), partition.partition);
                // Markers of transactions and records that were compacted take
                // offsets and are no events: whether all is read is told by itself,
                // in passing, so it is kept.
                if partition.eof_offset == end {
                    read_to.insert(source.clone(), end);
                }
                let end = End {
                    offset: end,
                    read: read_to.get(&source) == Some(&end)
                        && partition.fetchq_cnt == 0
                        && (partition.app_offset == end || partition.app_offset < 0),
                };
                ends.insert(source, end);
            }
        }
        drop(read_to);
        self.ends.send_replace(ends);
    }
}

impl ConsumerContext for Context {
    /// Passes the question on. librdkafka waits for the answer, and fetches
    /// nothing new of these partitions in the meantime.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if self.leaving.load(Ordering::Acquire) {
            // Whatever ran has been committed; there is nothing to wait for.
            if let Err(error) = consumer.unassign() {
                tracing::debug!(%error, "partitions were not given back on leaving");
            }
            return;
        }
        let elements = partitions.elements();
        let sources = elements
            .iter()
            .map(|element| (Arc::from(element.topic()), element.partition()));
        let sources: Vec<Source> = sources.collect();
        let change = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Change::Assigned(sources),
            _ if consumer.assignment_lost() => {
                self.losses.fetch_add(1, Ordering::AcqRel);
                Change::Lost(sources)
            }
            _ => Change::Revoked(sources),
        };
        // Nobody listens only when the service is going away, with the member.
        let _ = self.changes.send(change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_twice_is_one_event() {
        let mut order = Order(5);
        let given = [4, 5, 6, 6, 7, 9, 8, 9, 10];
        let events = given.into_iter().filter(|offset| !order.has_had(*offset));
        assert_eq!(Vec::from_iter(events), [5, 6, 7, 9, 10]);
    }
}
