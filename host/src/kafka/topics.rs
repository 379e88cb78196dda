//! Topics: whether they exist, how many partitions they have, making them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;

use super::cluster::{ANSWER, Cluster, KafkaError, Quiet};

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
                None => self.create(topic)?,
            }
            self.wait_for(topic)?;
        }
        Ok(missing)
    }

    fn create(&self, topic: &str) -> Result<(), KafkaError> {
        let refused = |cause: String| KafkaError::TopicRefused {
            topic: topic.to_owned(),
            cause,
        };
        let admin: AdminClient<Quiet> = self
            .config("tidemill-admin", &[])
            .create_with_context(Quiet {
                health: self.health.clone(),
            })
            .map_err(|error| refused(error.to_string()))?;
        let new = NewTopic::new(
            topic,
            self.topics.partitions,
            TopicReplication::Fixed(self.topics.replication),
        );
        let options = AdminOptions::new().operation_timeout(Some(ANSWER));
        let results = tokio::runtime::Handle::current()
            .block_on(admin.create_topics([&new], &options))
            .map_err(|error| refused(error.to_string()))?;
        for result in results {
            match result {
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(refused(code.to_string())),
            }
        }
        Ok(())
    }

    /// A topic that was just made is not known to every broker at once.
    fn wait_for(&self, topic: &str) -> Result<(), KafkaError> {
        let deadline = Instant::now() + ANSWER;
        while self.partitions_of(topic)?.is_none() {
            if Instant::now() > deadline {
                return Err(KafkaError::TopicRefused {
                    topic: topic.to_owned(),
                    cause: "the broker made it, but does not list it".to_owned(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Checks that the topics of a stateful service can be sharded alike.
    /// Blocks.
    pub fn check_equal_partitions(&self, topics: &[String]) -> Result<(), KafkaError> {
        let counts: BTreeMap<String, i32> = self
            .partitions(topics)?
            .into_iter()
            .filter_map(|(topic, count)| Some((topic, count?)))
            .collect();
        let mut different: Vec<i32> = counts.values().copied().collect();
        different.sort_unstable();
        different.dedup();
        if different.len() <= 1 {
            return Ok(());
        }
        let shown: Vec<String> = counts
            .iter()
            .map(|(topic, count)| format!("{topic} has {count}"))
            .collect();
        Err(KafkaError::UnequalPartitions(shown.join(", ")))
    }

    /// The first and the next offset of a partition. Blocks.
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), KafkaError> {
        self.asker
            .fetch_watermarks(topic, partition, ANSWER)
            .map_err(|error| self.unreachable(&error))
    }
}
