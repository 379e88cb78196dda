//! A service's dead letters: listing them, sending them back, dropping them.
//!
//! They stay in their topic. Which of them are done with is said by further
//! records in the same partition, written in the transaction that sends them back.
//! So one that was sent back is not sent back again, whatever dies in between. Two
//! who do it at once have the same transactional id, and the first is fenced off.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_cli::api;

use crate::effects::Message;
use crate::events::dead_letter::{self, Entry, Letter};
use crate::host::Host;
use crate::invocation::Event;
use crate::kafka::{Batch, Cluster, KafkaError, Outcome, Source, Transactor};
use crate::service::Service;

/// How many are done with in one call, so that it ends.
const MOST: usize = 10_000;
/// How many are sent back in one transaction, and how many bytes of them.
const BATCH: usize = 1_000;
const BATCH_BYTES: usize = 8 << 20;
/// How often a transaction is made again that was aborted.
const TRIES: u32 = 5;

/// Why dead letters cannot be shown or sent back.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// It consumes nothing.
    #[error("{0} has no dead letters: it has no [[subscribe]]")]
    NoSubscription(String),
    /// An id that is none.
    #[error("{0:?} is not a dead letter's id: that is a partition and an offset, such as 0@17")]
    Id(String),
    /// It is not there, or done with.
    #[error("there is no dead letter {0}: it was sent back or dropped, or never was")]
    None(String),
    /// Neither which nor all.
    #[error("say which dead letters, or all, and not both")]
    Which,
    /// It would be passed over by everyone.
    #[error(
        "{id} came from {topic:?}, which {service} does not subscribe to any more: drop it, or \
         subscribe to that topic again"
    )]
    Unsubscribed {
        /// The dead letter.
        id: String,
        /// Its topic.
        topic: String,
        /// The service.
        service: String,
    },
    /// Kafka refuses them.
    #[error("Kafka does not take them: {0}. {1} were done with before that")]
    Refused(String, u64),
    /// Nobody knows.
    #[error("it is not known whether the last of them were done with: list them again. {0}")]
    InDoubt(String),
    /// Kafka does not do what is needed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A task of the host's failed.
    #[error("the host failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Names a dead letter: partition and offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    partition: i32,
    offset: i64,
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.partition, self.offset)
    }
}

impl std::str::FromStr for Id {
    type Err = DeadLetterError;

    fn from_str(text: &str) -> Result<Id, DeadLetterError> {
        let parsed = text.split_once('@').and_then(|(partition, offset)| {
            let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
            (partition >= 0 && offset >= 0).then_some(Id { partition, offset })
        });
        parsed.ok_or_else(|| DeadLetterError::Id(text.to_owned()))
    }
}

/// What to do with dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// Send them back to where they came from, for this service.
    Redrive,
    /// Nothing more.
    Drop,
}

/// Some of a service's dead letters.
pub async fn list(
    host: &Host,
    service: &Service,
    after: Option<&str>,
    limit: usize,
) -> Result<api::DeadLetters, DeadLetterError> {
    let after: Option<Id> = after.map(str::parse).transpose()?;
    let topic = topic(service)?;
    let (cluster, of) = (host.cluster.clone(), topic.clone());
    let shown = tokio::task::spawn_blocking(move || {
        let open = Open::find(&cluster, &of)?;
        let behind = open
            .ids
            .iter()
            .filter(|id| after.is_none_or(|after| **id > after));
        let page: Vec<Id> = behind.clone().take(limit).copied().collect();
        let more = behind.count() > page.len();
        let letters = read(&cluster, &of, &page)?;
        let letters = letters
            .iter()
            .map(|(id, letter, event)| summary(*id, letter, event));
        Ok::<_, DeadLetterError>((open.ids.len() as u64, letters.collect(), more))
    });
    let (total, letters, more) = shown.await??;
    Ok(api::DeadLetters {
        topic: topic.to_string(),
        total,
        letters,
        more,
    })
}

/// One of them, whole.
pub async fn show(
    host: &Host,
    service: &Service,
    id: &str,
) -> Result<api::DeadLetterDetail, DeadLetterError> {
    let id: Id = id.parse()?;
    let topic = topic(service)?;
    let cluster = host.cluster.clone();
    let found = tokio::task::spawn_blocking(move || {
        let open = Open::find(&cluster, &topic)?;
        if open.ids.binary_search(&id).is_err() {
            return Err(DeadLetterError::None(id.to_string()));
        }
        let letters = read(&cluster, &topic, &[id])?;
        letters
            .into_iter()
            .next()
            .ok_or_else(|| DeadLetterError::None(id.to_string()))
    });
    let (id, letter, event) = found.await??;
    let bytes = |bytes: &bytes::Bytes| api::Bytes::from(bytes.to_vec());
    let headers = letter.headers.iter();
    Ok(api::DeadLetterDetail {
        letter: summary(id, &letter, &event),
        headers: headers
            .map(|(name, value)| (name.clone(), value.as_ref().map(bytes)))
            .collect(),
        value: event.value.as_ref().map(bytes),
    })
}

/// Sends dead letters back, or drops them.
pub async fn settle(
    host: &Host,
    service: &Service,
    which: &api::SettleRequest,
    settle: Settle,
) -> Result<api::Settled, DeadLetterError> {
    if which.all != which.ids.is_empty() {
        return Err(DeadLetterError::Which);
    }
    let wanted: Result<Vec<Id>, _> = which.ids.iter().map(|id| id.parse()).collect();
    let mut wanted = wanted?;
    wanted.sort_unstable();
    wanted.dedup();
    let topic = topic(service)?;
    let means = Means::open(host, service).await?;
    // After the means, which fence others off: what they did is seen.
    let (cluster, of) = (host.cluster.clone(), topic.clone());
    let open = tokio::task::spawn_blocking(move || Open::find(&cluster, &of)).await??;
    if let Some(gone) = wanted.iter().find(|id| open.ids.binary_search(id).is_err()) {
        return Err(DeadLetterError::None(gone.to_string()));
    }
    let chosen = if which.all { &open.ids } else { &wanted };
    let mut settled = 0;
    let mut next = &chosen[..chosen.len().min(MOST)];
    while !next.is_empty() {
        let (cluster, of) = (host.cluster.clone(), topic.clone());
        let part = next[..next.len().min(BATCH)].to_vec();
        let mut letters = tokio::task::spawn_blocking(move || read(&cluster, &of, &part)).await??;
        let mut bytes = 0;
        let fit = letters.iter().take_while(|(_, _, event)| {
            bytes += event.size();
            bytes <= BATCH_BYTES
        });
        letters.truncate(fit.count().max(1));
        let messages = messages(service, &topic, &letters, settle)?;
        means.commit(messages, settled).await?;
        settled += letters.len() as u64;
        // By id: one that is not there any more must not shift those behind it,
        // or they would be sent back twice.
        let Some((last, ..)) = letters.last() else {
            break;
        };
        next = &next[next.partition_point(|id| id <= last)..];
    }
    tracing::info!(
        event = "dead-letters.settled",
        service = service.name(),
        settled,
        "dead letters: {settle:?}"
    );
    trim(host, &topic).await;
    Ok(api::Settled {
        settled,
        left: open.ids.len() as u64 - settled,
    })
}

/// What it takes to be done with these: the events, then for each partition a
/// record that says so.
fn messages(
    service: &Service,
    topic: &Arc<str>,
    letters: &[(Id, Letter, Event)],
    settle: Settle,
) -> Result<Vec<Message>, DeadLetterError> {
    let mut messages = Vec::new();
    let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    let manifest = service.current().manifest.clone();
    for (id, letter, event) in letters {
        if settle == Settle::Redrive {
            let origin = &*letter.origin.0;
            if !manifest.subscribe.iter().any(|one| one.topic == origin) {
                return Err(DeadLetterError::Unsubscribed {
                    id: id.to_string(),
                    topic: origin.to_owned(),
                    service: service.name().to_owned(),
                });
            }
            messages.push(dead_letter::redriven(letter, service.name(), event));
        }
        offsets.entry(id.partition).or_default().push(id.offset);
    }
    let settled = offsets.into_iter();
    messages.extend(
        settled
            .map(|(partition, offsets)| dead_letter::settled(topic.clone(), partition, &offsets)),
    );
    Ok(messages)
}

/// How events are sent back: in transactions, where there are any.
enum Means<'a> {
    ExactlyOnce(Transactor),
    AtLeastOnce(&'a Host),
}

impl Means<'_> {
    async fn open<'a>(host: &'a Host, service: &Service) -> Result<Means<'a>, KafkaError> {
        if host.cluster.is_embedded() {
            return Ok(Means::AtLeastOnce(host));
        }
        // The same id on every host, so that there is one at a time.
        let id = format!(
            "tidemill.{}.dead-letters.{}",
            host.shared.cluster_id,
            service.name()
        );
        let opening = Transactor::open(&host.cluster, &id);
        match tokio::time::timeout(std::time::Duration::from_secs(15), opening).await {
            Ok(opened) => Ok(Means::ExactlyOnce(opened?)),
            Err(_) => Err(KafkaError::Unreachable {
                servers: host.cluster.servers().to_owned(),
                cause: "it did not begin a transaction in time".to_owned(),
            }),
        }
    }

    async fn commit(&self, mut messages: Vec<Message>, before: u64) -> Result<(), DeadLetterError> {
        let transactor = match self {
            Means::ExactlyOnce(transactor) => transactor,
            Means::AtLeastOnce(host) => {
                let published = host.shared.publisher.publish(messages.iter()).await;
                return match published.failed.into_iter().next() {
                    None => Ok(()),
                    Some((_, error)) => Err(DeadLetterError::Refused(error.to_string(), before)),
                };
            }
        };
        let mut cause = String::new();
        for _ in 0..TRIES {
            let batch = Batch {
                messages,
                ..Batch::default()
            };
            match transactor.commit(batch).await {
                Outcome::Committed(_) => return Ok(()),
                Outcome::Aborted(aborted) => {
                    messages = aborted.batch.messages;
                    cause = aborted.cause.unwrap_or_default();
                    if aborted.lasting || aborted.ended {
                        break;
                    }
                }
                Outcome::Ended { cause, in_doubt } if in_doubt => {
                    return Err(DeadLetterError::InDoubt(cause));
                }
                Outcome::Ended { cause: why, .. } => {
                    cause = why;
                    break;
                }
            }
        }
        Err(DeadLetterError::Refused(cause, before))
    }
}

/// The dead letters of a topic that are not done with.
struct Open {
    /// In order.
    ids: Vec<Id>,
    /// Where each partition ended when it was read.
    ends: BTreeMap<i32, i64>,
}

impl Open {
    /// Reads the whole topic. Blocks.
    fn find(cluster: &Cluster, topic: &Arc<str>) -> Result<Open, KafkaError> {
        let mut open = Open {
            ids: Vec::new(),
            ends: BTreeMap::new(),
        };
        for source in cluster.sources(&[topic.to_string()])? {
            let (low, high) = cluster.watermarks(&source.0, source.1)?;
            let mut offsets = std::collections::BTreeSet::new();
            cluster.read_past(&source, low, high, |event| {
                match dead_letter::read(&event.headers) {
                    Entry::Letter(_) => {
                        offsets.insert(event.offset);
                    }
                    Entry::Settled(settled) => {
                        for offset in settled {
                            offsets.remove(&offset);
                        }
                    }
                    Entry::Foreign => {}
                }
            })?;
            let partition = source.1;
            let ids = offsets.into_iter().map(|offset| Id { partition, offset });
            open.ids.extend(ids);
            open.ends.insert(partition, high);
        }
        open.ids.sort_unstable();
        Ok(open)
    }
}

/// Reads dead letters by their ids, which are in order. Blocks.
fn read(
    cluster: &Cluster,
    topic: &Arc<str>,
    ids: &[Id],
) -> Result<Vec<(Id, Letter, Event)>, KafkaError> {
    let mut letters = Vec::with_capacity(ids.len());
    for ids in ids.chunk_by(|one, next| one.partition == next.partition) {
        let (Some(first), Some(last)) = (ids.first(), ids.last()) else {
            continue;
        };
        let source: Source = (topic.clone(), first.partition);
        cluster.read_past(&source, first.offset, last.offset + 1, |event| {
            let id = Id {
                partition: event.partition,
                offset: event.offset,
            };
            if ids.binary_search(&id).is_ok()
                && let Entry::Letter(letter) = dead_letter::read(&event.headers)
            {
                letters.push((id, letter, event));
            }
        })?;
    }
    Ok(letters)
}

/// Gives back the space of those at the beginning that are done with. What is not
/// removed now is removed the next time.
async fn trim(host: &Host, topic: &Arc<str>) {
    if host.cluster.is_embedded() {
        return;
    }
    let (cluster, topic) = (host.cluster.clone(), topic.clone());
    let trimming = tokio::task::spawn_blocking(move || {
        let open = Open::find(&cluster, &topic)?;
        for (partition, end) in open.ends {
            let mut ids = open.ids.iter().filter(|id| id.partition == partition);
            let before = ids.next().map_or(end, |first| first.offset);
            if before > 0 {
                cluster.remove_past(&(topic.clone(), partition), before)?;
            }
        }
        Ok::<_, KafkaError>(())
    });
    if let Ok(Err(error)) = trimming.await {
        tracing::debug!(%error, "dead letters that are done with stay in their topic");
    }
}

fn topic(service: &Service) -> Result<Arc<str>, DeadLetterError> {
    let manifest = &service.current().manifest;
    if manifest.subscribe.is_empty() {
        return Err(DeadLetterError::NoSubscription(manifest.name.clone()));
    }
    Ok(manifest.dead_letter_topic().into())
}

fn summary(id: Id, letter: &Letter, event: &Event) -> api::DeadLetter {
    api::DeadLetter {
        id: id.to_string(),
        topic: letter.origin.0.to_string(),
        partition: letter.origin.1,
        offset: letter.offset,
        timestamp: letter.timestamp,
        failed_at: letter.time,
        failure: letter.failure.clone(),
        error: letter.error.clone(),
        attempts: letter.attempts,
        revision: letter.revision.clone(),
        key: event.key.as_ref().map(|key| key.to_vec().into()),
        size: event.value.as_ref().map(|value| value.len() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_partition_and_an_offset() {
        let id: Id = "3@41".parse().unwrap();
        assert_eq!((id.partition, id.offset), (3, 41));
        assert_eq!(id.to_string(), "3@41");
        for bad in ["", "41", "@41", "3@", "-1@3", "3@-1", "3@4@5", "a@b"] {
            assert!(bad.parse::<Id>().is_err(), "{bad}");
        }
    }
}
