//! The broker of a part, its topics, and what is read from them.

use std::time::Duration;

use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use tidemill_tests::{Deadline, Kafka, eventually};

use super::{CHANGELOG, IN, OUT, PARTITIONS};
use crate::meter;

pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A broker, and a client of it.
pub(super) struct Broker {
    pub(super) kafka: Kafka,
    /// The number of its process.
    pub(super) process: u32,
    /// How many each topic has that is made from now on.
    pub(super) partitions: i32,
    admin: AdminClient<DefaultClientContext>,
    client: BaseConsumer,
}

impl Broker {
    /// Starts one.
    pub(super) fn start() -> Self {
        let kafka = Kafka::for_measuring();
        let mut config = config(&kafka.address());
        // A topic ends where it ends, whatever is committed.
        config.set("isolation.level", "read_uncommitted");
        Self {
            process: meter::broker(),
            partitions: PARTITIONS,
            admin: config.create().unwrap(),
            client: config.create().unwrap(),
            kafka,
        }
    }

    /// Host and port.
    pub(super) fn address(&self) -> String {
        self.kafka.address()
    }

    /// Makes all topics anew, and deletes what systems have made.
    pub(super) fn fresh(&self) {
        self.fresh_but(&[]);
    }

    /// The same, but for some topics that stay as they are.
    pub(super) fn fresh_but(&self, kept: &[&str]) {
        let old = self.topics();
        let old = old.iter().map(|(name, _)| name.as_str());
        let old: Vec<&str> = old.filter(|name| !kept.contains(name)).collect();
        let options = AdminOptions::new();
        if !old.is_empty() {
            block_on(self.admin.delete_topics(&old, &options)).unwrap();
        }
        eventually("the topics are gone", || {
            let left = self.topics();
            let gone = left.iter().all(|(name, _)| kept.contains(&name.as_str()));
            if gone { Ok(()) } else { Err(left) }
        });

        let names = [IN, OUT, CHANGELOG].into_iter();
        let names: Vec<&str> = names.filter(|name| !kept.contains(name)).collect();
        let new: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                let topic = NewTopic::new(name, self.partitions, TopicReplication::Fixed(1))
                    .set("file.delete.delay.ms", "1000");
                if *name == CHANGELOG {
                    topic.set("cleanup.policy", "compact")
                } else {
                    topic
                }
            })
            .collect();
        for made in block_on(self.admin.create_topics(&new, &options)).unwrap() {
            made.unwrap();
        }
        eventually("the topics are there", || {
            let all = self.topics();
            let there = |name: &&str| all.contains(&((*name).to_owned(), true));
            if names.iter().all(there) {
                Ok(())
            } else {
                Err(all)
            }
        });
    }

    /// All topics but Kafka's own, and whether each has leaders.
    fn topics(&self) -> Vec<(String, bool)> {
        let metadata = self.client.fetch_metadata(None, PATIENCE).unwrap();
        let topics = metadata.topics().iter();
        topics
            .filter(|topic| !topic.name().starts_with("__"))
            .map(|topic| {
                let partitions = topic.partitions();
                let led = partitions.iter().all(|partition| partition.leader() >= 0);
                (topic.name().to_owned(), led && !partitions.is_empty())
            })
            .collect()
    }

    /// A look at how far a group is.
    pub(super) fn progress(&self, group: &str) -> Progress {
        let mut asked = TopicPartitionList::new();
        for partition in 0..self.partitions {
            asked.add_partition(IN, partition);
        }
        let mut config = config(&self.address());
        // With read_committed it would wait while offsets are being committed,
        // which is always.
        config
            .set("group.id", group)
            .set("isolation.level", "read_uncommitted");
        Progress {
            consumer: config.create().unwrap(),
            asked,
        }
    }

    /// Reads a topic to its end, committed records only, by partition in order.
    pub(super) fn read(&self, topic: &str, mut each: impl FnMut(&[u8], Option<&[u8]>)) {
        let mut config = config(&self.address());
        config
            .set("group.id", "bench-reader")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .set("fetch.queue.backoff.ms", "10")
            // How long the broker thinks about whether an end is one.
            .set("fetch.wait.max.ms", "10");
        let consumer: BaseConsumer = config.create().unwrap();
        let mut all = TopicPartitionList::new();
        for partition in 0..self.partitions {
            all.add_partition_offset(topic, partition, Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&all).unwrap();
        let mut ended = 0;
        let deadline = Deadline::after(Duration::from_secs(300));
        while ended < self.partitions {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => each(record.key().unwrap_or_default(), record.payload()),
                Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
                Some(Err(error)) => panic!("{topic}: {error}"),
                None => assert!(!deadline.passed(), "{topic} cannot be read to its end"),
            }
        }
    }

    /// Where a topic's partitions end.
    pub(super) fn ends(&self, topic: &str) -> Vec<i64> {
        let end = |partition| {
            let ends = self.client.fetch_watermarks(topic, partition, PATIENCE);
            ends.unwrap().1
        };
        (0..self.partitions).map(end).collect()
    }

    /// Waits until everything that was written to a topic is committed.
    pub(super) fn settled(&self, topic: &str) {
        let mut config = config(&self.address());
        config.set("isolation.level", "read_committed");
        let committed: BaseConsumer = config.create().unwrap();
        config.set("isolation.level", "read_uncommitted");
        let written: BaseConsumer = config.create().unwrap();
        eventually("everything is committed", || {
            let end = |consumer: &BaseConsumer, partition| {
                let ends = consumer.fetch_watermarks(topic, partition, PATIENCE);
                ends.unwrap().1
            };
            let ends = |consumer| {
                let partitions = 0..self.partitions;
                partitions
                    .map(|partition| end(consumer, partition))
                    .collect::<Vec<i64>>()
            };
            let (stable, last) = (ends(&committed), ends(&written));
            if stable == last {
                Ok(())
            } else {
                Err((stable, last))
            }
        });
    }
}

/// How far a group is.
pub(super) struct Progress {
    consumer: BaseConsumer,
    asked: TopicPartitionList,
}

impl Progress {
    /// How many events the group has committed.
    pub(super) fn events(&self) -> i64 {
        self.offsets().iter().sum()
    }

    /// How many it has committed of each partition; none while its coordinator
    /// starts. They and what became of them are committed together, so this is
    /// what is done, for every system alike.
    pub(super) fn offsets(&self) -> Vec<i64> {
        use RDKafkaErrorCode::{
            CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator,
        };
        let committed = self
            .consumer
            .committed_offsets(self.asked.clone(), PATIENCE);
        let committed = match committed {
            Ok(committed) => committed,
            Err(KafkaError::MetadataFetch(
                CoordinatorLoadInProgress | CoordinatorNotAvailable | NotCoordinator,
            )) => return vec![0; self.asked.count()],
            Err(error) => panic!("{error}"),
        };
        let committed = committed.elements();
        committed
            .iter()
            .map(|partition| match partition.offset() {
                Offset::Offset(offset) => offset,
                _ => 0,
            })
            .collect()
    }
}

/// What every client of the broker needs.
pub(super) fn config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    config
}
