//! Topics: whether they exist, how many partitions they have, making them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError as RdKafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::cluster::{ANSWER, Cluster, KafkaError, Quiet};
use super::consumer::Source;

/// How long a topic may take to be made, and then to be seen.
const MADE: Duration = Duration::from_secs(15);

impl Cluster {
    /// The partition counts of these topics; none for those that do not exist.
    /// Blocks.
    pub fn partitions(
        &self,
        topics: &[String],
    ) -> Result<BTreeMap<String, Option<i32>>, KafkaError> {
        topics
            .iter()
            .map(|topic| Ok((topic.clone(), self.partitions_of(topic)?)))
            .collect()
    }

    fn partitions_of(&self, topic: &str) -> Result<Option<i32>, KafkaError> {
        let metadata = self
            .asker
            .fetch_metadata(Some(topic), ANSWER)
            .map_err(|error| self.unreachable(&error))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
            return Ok(None);
        };
        let code = found.error().map(RDKafkaErrorCode::from);
        match code {
            None => Ok(i32::try_from(found.partitions().len())
                .ok()
                .filter(|partitions| *partitions > 0)),
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::LeaderNotAvailable,
            ) => Ok(None),
            Some(code) => Err(KafkaError::TopicRefused {
                topic: topic.to_owned(),
                cause: code.to_string(),
            }),
        }
    }

    /// All partitions of these topics. Blocks.
    pub fn sources(&self, topics: &[String]) -> Result<Vec<Source>, KafkaError> {
        let counts = self.partitions(topics)?;
        let sources = counts.into_iter().flat_map(|(topic, count)| {
            let topic: Arc<str> = topic.into();
            (0..count.unwrap_or(0)).map(move |partition| (topic.clone(), partition))
        });
        Ok(sources.collect())
    }

    /// Creates those of these topics that are missing, and returns their names.
    /// When it returns, all of them can be used. Blocks: to be called on a thread
    /// of tokio's that may.
    pub fn create_missing(&self, topics: &[String]) -> Result<Vec<String>, KafkaError> {
        let found = self.partitions(topics)?;
        let missing = found
            .into_iter()
            .filter(|(_, partitions)| partitions.is_none());
        let missing: Vec<String> = missing.map(|(topic, _)| topic).collect();
        for topic in &missing {
            match self.embedded() {
                Some(embedded) => embedded.create_topic(topic, self.topics.partitions)?,
                None => {
                    self.create(topic, self.topics.partitions, &[])?;
                }
            }
            self.wait_for(topic)?;
        }
        Ok(missing)
    }

    /// Creates a changelog: compacted, so that it keeps the last value of each
    /// row. Returns whether it is new. Blocks, as [`Cluster::create_missing`].
    pub fn create_changelog(&self, topic: &str, partitions: i32) -> Result<bool, KafkaError> {
        let compacted = [
            ("cleanup.policy", "compact"),
            // Rows are as large as effects may be.
            ("max.message.bytes", "10485760"),
        ];
        let new = self.create(topic, partitions, &compacted)?;
        self.wait_for(topic)?;
        Ok(new)
    }

    /// Creates a compacted topic of one partition, if it is not there: for what all
    /// hosts have to know. Blocks, as [`Cluster::create_missing`].
    pub fn create_compacted(&self, topic: &str) -> Result<(), KafkaError> {
        if self.partitions_of(topic)?.is_some() {
            return Ok(());
        }
        let compacted = [
            ("cleanup.policy", "compact"),
            // A host that was down for so long still hears of what was removed.
            ("delete.retention.ms", "2592000000"),
            // What is not compacted yet is read at each start.
            ("segment.ms", "3600000"),
        ];
        self.create(topic, 1, &compacted)?;
        self.wait_for(topic)
    }

    /// Creates a topic for dead letters, if it is not there: they are kept until
    /// somebody has looked at them. Returns whether it is new. Blocks, as
    /// [`Cluster::create_missing`].
    pub fn create_dead_letters(&self, topic: &str) -> Result<bool, KafkaError> {
        if self.partitions_of(topic)?.is_some() {
            return Ok(false);
        }
        if let Some(embedded) = self.embedded() {
            embedded.create_topic(topic, 1)?;
        } else {
            let kept = [
                ("cleanup.policy", "delete"),
                ("retention.ms", "-1"),
                ("retention.bytes", "-1"),
                // As large as any event, and a little larger.
                ("max.message.bytes", "104857600"),
            ];
            self.create(topic, 1, &kept)?;
        }
        self.wait_for(topic)?;
        Ok(true)
    }

    /// The newest generation of a service's changelog and its partitions, if it
    /// has any. Blocks.
    pub fn newest_changelog(&self, service: &str) -> Result<Option<(u32, i32)>, KafkaError> {
        let metadata = self
            .asker
            .fetch_metadata(None, ANSWER)
            .map_err(|error| self.unreachable(&error))?;
        let generations = metadata.topics().iter().filter_map(|topic| {
            let generation = changelog_generation(service, topic.name())?;
            let partitions = i32::try_from(topic.partitions().len()).ok()?;
            (partitions > 0).then_some((generation, partitions))
        });
        Ok(generations.max())
    }

    /// The newest changelog of a service, made if there is none: with as many
    /// partitions as the topics that it subscribes to. Blocks, as
    /// [`Cluster::create_missing`].
    pub fn find_changelog(&self, service: &str, topics: &[String]) -> Result<Found, KafkaError> {
        if let Some((generation, shards)) = self.newest_changelog(service)? {
            return Ok(Found {
                generation,
                shards,
                new: false,
            });
        }
        let shards = self.check_equal_partitions(topics)?.unwrap_or(1);
        let counts = self.partitions(topics)?;
        if let Some((topic, _)) = counts.iter().find(|(_, count)| count.is_none()) {
            return Err(KafkaError::TopicRefused {
                topic: topic.clone(),
                cause: "it was there when the service was deployed: make it again".to_owned(),
            });
        }
        let new = self.create_changelog(&changelog(service, 1), shards)?;
        Ok(Found {
            generation: 1,
            shards,
            new,
        })
    }

    fn create(
        &self,
        topic: &str,
        partitions: i32,
        config: &[(&str, &str)],
    ) -> Result<bool, KafkaError> {
        let refused = |cause: String| KafkaError::TopicRefused {
            topic: topic.to_owned(),
            cause,
        };
        let admin: Arc<AdminClient<Quiet>> = self
            .client("tidemill-admin", &[], self.quiet())
            .map_err(|error| refused(error.to_string()))?;
        let mut new = NewTopic::new(
            topic,
            partitions,
            TopicReplication::Fixed(self.topics.replication),
        );
        for (name, value) in config {
            new = new.set(name, value);
        }
        let options = AdminOptions::new()
            .operation_timeout(Some(MADE))
            .request_timeout(Some(MADE));
        let results = tokio::runtime::Handle::current()
            .block_on(admin.create_topics([&new], &options))
            .map_err(|error| self.unreachable(&error))?;
        let mut new = true;
        for result in results {
            match result {
                Ok(_) => {}
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => new = false,
                Err((_, code @ RDKafkaErrorCode::RequestTimedOut)) => {
                    return Err(self.unreachable(&RdKafkaError::AdminOp(code)));
                }
                Err((_, code)) => return Err(refused(code.to_string())),
            }
        }
        Ok(new)
    }

    /// A topic that was just made is not known to every broker at once.
    fn wait_for(&self, topic: &str) -> Result<(), KafkaError> {
        let deadline = Instant::now() + MADE;
        while self.partitions_of(topic)?.is_none() {
            if Instant::now() > deadline {
                return Err(KafkaError::Unreachable {
                    servers: self.servers().to_owned(),
                    cause: format!("it made the topic {topic:?}, and does not list it"),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Checks that the topics of a stateful service can be sharded alike. Returns
    /// how many partitions each has; none if none exists. Blocks.
    pub fn check_equal_partitions(&self, topics: &[String]) -> Result<Option<i32>, KafkaError> {
        let counts: BTreeMap<String, i32> = self
            .partitions(topics)?
            .into_iter()
            .filter_map(|(topic, count)| Some((topic, count?)))
            .collect();
        let mut different: Vec<i32> = counts.values().copied().collect();
        different.sort_unstable();
        different.dedup();
        if different.len() <= 1 {
            return Ok(different.pop());
        }
        let shown: Vec<String> = counts
            .iter()
            .map(|(topic, count)| format!("{topic} has {count}"))
            .collect();
        Err(KafkaError::UnequalPartitions(shown.join(", ")))
    }

    /// Where groups are by partition, and what was noted there. Blocks.
    pub fn group_offsets(
        &self,
        group: &str,
        sources: &[Source],
    ) -> Result<BTreeMap<Source, (i64, String)>, KafkaError> {
        let fail = |error: rdkafka::error::KafkaError| self.unreachable(&error);
        let asker: Arc<BaseConsumer<Quiet>> = self
            .client("tidemill-asker", &[("group.id", group)], self.quiet())
            .map_err(fail)?;
        let mut list = TopicPartitionList::new();
        for (topic, partition) in sources {
            list.add_partition(topic, *partition);
        }
        let committed = asker.committed_offsets(list, ANSWER).map_err(fail)?;
        let elements = committed.elements().into_iter().filter_map(|element| {
            let Offset::Offset(offset) = element.offset() else {
                return None;
            };
            let source = (Arc::from(element.topic()), element.partition());
            Some((source, (offset, element.metadata().to_owned())))
        });
        Ok(elements.collect())
    }

    /// The first and the next offset of a partition, committed or not. Blocks.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), KafkaError> {
        self.asker
            .fetch_watermarks(topic, partition, ANSWER)
            .map_err(|error| self.unreachable(&error))
    }
}

/// A service's changelog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its generation, from 1.
    pub generation: u32,
    /// Its partitions.
    pub shards: i32,
    /// Whether it was made just now, and so has nothing in it.
    pub new: bool,
}

/// The changelog of a generation of a service's state.
pub fn changelog(service: &str, generation: u32) -> String {
    format!("{service}.state.{generation}")
}

/// Which generation of a service's changelog a topic is, if it is one.
fn changelog_generation(service: &str, topic: &str) -> Option<u32> {
    let generation = topic.strip_prefix(service)?.strip_prefix(".state.")?;
    let number = generation.parse().ok()?;
    // Written in one way only.
    (number > 0 && changelog(service, number) == topic).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changelog_is_told_by_its_name() {
        assert_eq!(changelog_generation("order", "order.state.12"), Some(12));
        for other in [
            "order.state.0",
            "order.state.01",
            "order.state.x",
            "order.state.",
            "order2.state.1",
            "order",
        ] {
            assert_eq!(changelog_generation("order", other), None, "{other}");
        }
    }
}
