//! The broker of a part, what is written to it and what is read from it.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use futures_executor::block_on;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use tidemill_tests::{Deadline, Kafka, eventually};

use super::{CHANGELOG, IN, OUT, PARTITIONS, SIZE};
use crate::meter;

const PATIENCE: Duration = Duration::from_secs(30);

/// A broker, and a client of it.
pub(super) struct Broker {
    pub(super) kafka: Kafka,
    /// The number of its process.
    pub(super) process: u32,
    admin: AdminClient<DefaultClientContext>,
    client: BaseConsumer,
}

impl Broker {
    /// Starts one.
    pub(super) fn start() -> Self {
        let kafka = Kafka::for_measuring();
        let config = config(&kafka.address());
        Self {
            process: meter::broker(),
            admin: config.create().unwrap(),
            client: config.create().unwrap(),
            kafka,
        }
    }

    /// Host and port.
    pub(super) fn address(&self) -> String {
        self.kafka.address()
    }

    /// Makes the topics to write to anew, and deletes what systems have made;
    /// what is to be read stays, if it is to be `kept`.
    pub(super) fn fresh(&self, kept: bool) {
        let old = self.topics();
        let old = old.iter().map(|(name, _)| name.as_str());
        let old: Vec<&str> = old.filter(|name| !(kept && *name == IN)).collect();
        let options = AdminOptions::new();
        if !old.is_empty() {
            block_on(self.admin.delete_topics(&old, &options)).unwrap();
        }
        eventually("the topics are gone", || {
            let left = self.topics();
            let gone = left.iter().all(|(name, _)| kept && name == IN);
            if gone { Ok(()) } else { Err(left) }
        });

        let names = if kept {
            &[OUT, CHANGELOG][..]
        } else {
            &[IN, OUT, CHANGELOG]
        };
        let new: Vec<NewTopic<'_>> = names
            .iter()
            .map(|name| {
                let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1))
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

    /// Writes the events that are to be read, the keys in turn.
    pub(super) fn fill(&self, events: usize, keys: usize) {
        let mut config = config(&self.address());
        config
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "20")
            .set("queue.buffering.max.messages", "500000")
            .set("queue.buffering.max.kbytes", "500000");
        let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
        let value = [b'x'; SIZE];
        for number in 0..events {
            while producer.in_flight_count() > 400_000 {
                thread::sleep(Duration::from_millis(1));
            }
            let key = format!("key-{}", number % keys);
            let record = BaseRecord::to(IN).key(&key).payload(&value);
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    /// A look at how far a group is.
    pub(super) fn progress(&self, group: &str) -> Progress {
        let mut asked = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
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
        for partition in 0..PARTITIONS {
            all.add_partition_offset(topic, partition, Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&all).unwrap();
        let mut ended = 0;
        let deadline = Deadline::after(Duration::from_secs(300));
        while ended < PARTITIONS {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => each(record.key().unwrap_or_default(), record.payload()),
                Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
                Some(Err(error)) => panic!("{topic}: {error}"),
                None => assert!(!deadline.passed(), "{topic} cannot be read to its end"),
            }
        }
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
                let partitions = 0..PARTITIONS;
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

    /// Holds that what was published is what the events ask for: each passed on
    /// once.
    pub(super) fn check_forward(&self, events: usize) {
        let mut records = 0;
        self.read(OUT, |key, value| {
            assert!(key.starts_with(b"key-"));
            assert_eq!(value.map(<[u8]>::len), Some(SIZE));
            records += 1;
        });
        assert_eq!(records, events, "each once");
    }

    /// Holds that what was published is what the events ask for: for each key
    /// all counts from 1 on in order, or some of them, but the last.
    pub(super) fn check_count(&self, events: usize, keys: usize, merged: bool) {
        let mut counts: HashMap<Vec<u8>, usize> = HashMap::new();
        self.read(OUT, |key, value| {
            let text = std::str::from_utf8(value.unwrap()).unwrap();
            let now: usize = text.parse().unwrap();
            let before = counts.insert(key.to_vec(), now).unwrap_or(0);
            let next = if merged {
                now > before
            } else {
                now == before + 1
            };
            assert!(next, "{now} after {before}");
        });
        for number in 0..keys.min(events) {
            let all = events / keys + usize::from(number < events % keys);
            let key = format!("key-{number}");
            assert_eq!(counts.get(key.as_bytes()), Some(&all), "{key}");
        }
    }
}

/// How far a group is.
pub(super) struct Progress {
    consumer: BaseConsumer,
    asked: TopicPartitionList,
}

impl Progress {
    /// How many events the group has committed; 0 while its coordinator starts.
    /// They and what became of them are committed together, so this is what is
    /// done, for every system alike.
    pub(super) fn events(&self) -> i64 {
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
            )) => return 0,
            Err(error) => panic!("{error}"),
        };
        let committed = committed.elements();
        committed
            .iter()
            .map(|partition| match partition.offset() {
                Offset::Offset(offset) => offset,
                _ => 0,
            })
            .sum()
    }
}

/// What every client of the broker needs.
pub(super) fn config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address);
    config
}
