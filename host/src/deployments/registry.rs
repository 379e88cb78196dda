//! The records of all services: what this host knows of them, and the one way to
//! change them.
//!
//! On a real Kafka the topic has the truth. A compacted topic cannot compare and
//! set, so all writers share a transactional id: who begins fences the one before,
//! reads to the end, looks whether the record is still what it takes it for, and
//! commits. As long as nobody else has begun, what this host wrote last is the end.
//! On the embedded broker the data directory has the truth, and one host writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_cli::api::HostStatus;
use tokio::sync::{mpsc, watch};

use super::content::{self, ContentError};
use super::presence::{EVERY, Hosts, Presence};
use super::record::{Content, Deployment, Stamp};
use super::topics::{Following, Names, Of, Told, follow};
use crate::effects::Message;
use crate::kafka::{Batch, Cluster, KafkaError, Outcome, Publisher, Transactor};

/// How long Kafka may take to begin a turn.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often a turn is begun again that somebody else took over.
pub(super) const TRIES: u32 = 50;

/// Why a record was not changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Kafka cannot be asked.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// Kafka did not take it.
    #[error("the deployment was not written to Kafka: {0}. Nothing has changed")]
    NotWritten(String),
    /// Kafka has not answered, and it may be there or not.
    #[error(
        "it is not known whether the deployment was written: Kafka has not answered in time. \
         `tidemill history` tells it when Kafka is back"
    )]
    InDoubt,
    /// Others are at it all the time.
    #[error("other hosts deploy at the same time again and again: try again")]
    Crowded,
}

/// What became of a commit.
#[derive(Debug)]
pub enum Committed {
    /// It is what all hosts will run: the record's offset.
    Done(i64),
    /// Another host has begun a turn meanwhile: nothing was written.
    Overtaken,
}

/// All records, as far as this host has read them.
pub struct Registry {
    cluster: Arc<Cluster>,
    publisher: Arc<Publisher>,
    names: Names,
    host: String,
    address: String,
    known: Mutex<Known>,
    /// Bumped whenever something is known anew: read, applied, heard.
    news: watch::Sender<u64>,
    /// Who has it may write; with what, where others may write as well.
    writer: tokio::sync::Mutex<Option<Transactor>>,
    /// Services whose record has changed.
    changed: mpsc::UnboundedSender<String>,
    following: Mutex<Option<Following>>,
}

#[derive(Default)]
struct Known {
    records: BTreeMap<String, Kept>,
    /// All records before this offset have been read.
    read_to: i64,
    /// Whether the end was reached once.
    caught_up: bool,
    /// Records that were read and are not applied yet: name by offset.
    pending: BTreeMap<i64, String>,
    failed: BTreeMap<String, (u64, String)>,
    hosts: Hosts,
}

/// A service's record, and where it was read; −1 where it comes from the disk.
struct Kept {
    offset: i64,
    /// None once it was removed.
    deployment: Option<Deployment>,
}

impl Registry {
    /// Begins with what is on disk, and follows the topics from then on, if there
    /// are any. Names of services whose record has changed come out of the other
    /// end.
    pub fn start(
        cluster: &Arc<Cluster>,
        publisher: Arc<Publisher>,
        names: Names,
        host: &str,
        address: String,
        kept: BTreeMap<String, Deployment>,
    ) -> Result<(Arc<Registry>, mpsc::UnboundedReceiver<String>), KafkaError> {
        let (changed, changes) = mpsc::unbounded_channel();
        let records = kept.into_iter().map(|(name, deployment)| {
            let known = Kept {
                offset: -1,
                deployment: Some(deployment),
            };
            (name, known)
        });
        let known = Known {
            records: records.collect(),
            caught_up: cluster.is_embedded(),
            ..Known::default()
        };
        let registry = Arc::new(Registry {
            cluster: cluster.clone(),
            publisher,
            names,
            host: host.to_owned(),
            address,
            known: Mutex::new(known),
            news: watch::Sender::new(0),
            writer: tokio::sync::Mutex::default(),
            changed,
            following: Mutex::default(),
        });
        if !cluster.is_embedded() {
            let told = Arc::downgrade(&registry);
            let following = follow(cluster, &registry.names, move |what| {
                if let Some(registry) = told.upgrade() {
                    registry.hear(what);
                }
            })?;
            *registry.following.lock() = Some(following);
            tokio::spawn(say(Arc::downgrade(&registry), registry.news.subscribe()));
        }
        Ok((registry, changes))
    }

    /// This host's id.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A service's record.
    pub fn record(&self, name: &str) -> Option<Deployment> {
        let known = self.known.lock();
        known.records.get(name)?.deployment.clone()
    }

    /// The services that are deployed.
    pub fn names(&self) -> Vec<String> {
        let known = self.known.lock();
        let deployed = known.records.iter();
        let deployed = deployed.filter(|(_, record)| record.deployment.is_some());
        deployed.map(|(name, _)| name.clone()).collect()
    }

    /// When, and by whom, a change is made now.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            now: crate::now_ms(),
            host: self.host.clone(),
            change: uuid::Uuid::new_v4().simple().to_string(),
        }
    }

    /// Whether all that was deployed anywhere is known here and applied, once.
    pub fn is_caught_up(&self) -> bool {
        let known = self.known.lock();
        known.caught_up && known.pending.is_empty()
    }

    /// Something was read.
    fn hear(&self, told: Told) {
        match told {
            Told::Record(Of::Deployments, offset, key, value) => {
                let Ok(name) = String::from_utf8(key.to_vec()) else {
                    return;
                };
                let deployment = value
                    .map(|value| serde_json::from_slice(&value))
                    .transpose();
                match deployment {
                    Ok(deployment) => self.learn(name, offset, deployment),
                    Err(error) => {
                        tracing::error!(event = "deployment.not-read", service = name, %error, "the record of a deployment is not one of this version's: the service stays as it is");
                    }
                }
                let mut known = self.known.lock();
                known.read_to = known.read_to.max(offset + 1);
                drop(known);
            }
            Told::End(Of::Deployments, end) => {
                let mut known = self.known.lock();
                known.read_to = known.read_to.max(end);
                if !std::mem::replace(&mut known.caught_up, true) {
                    self.compare(&mut known);
                }
            }
            Told::Record(_, _, key, value) => {
                let host = String::from_utf8_lossy(&key).into_owned();
                let said = value.and_then(|value| serde_json::from_slice(&value).ok());
                self.known.lock().hosts.hear(host, said, crate::now_ms());
            }
            Told::End(..) => return,
        }
        self.news.send_modify(|news| *news += 1);
    }

    /// A record is known, by reading or by writing it.
    fn learn(&self, name: String, offset: i64, deployment: Option<Deployment>) {
        let mut known = self.known.lock();
        let before = known.records.get(&name);
        if before.is_some_and(|before| before.offset >= offset) {
            return;
        }
        known.pending.retain(|_, pending| *pending != name);
        known.pending.insert(offset, name.clone());
        let record = Kept { offset, deployment };
        known.records.insert(name.clone(), record);
        known.read_to = known.read_to.max(offset + 1);
        drop(known);
        // Nobody listens any more when the host ends.
        let _ = self.changed.send(name);
    }

    /// The topic was read for the first time: what is on disk and not in it was
    /// removed while this host was down.
    fn compare(&self, known: &mut Known) {
        let (there, gone): (Vec<_>, Vec<_>) = known
            .records
            .iter()
            .partition(|(_, record)| record.offset >= 0);
        let gone: Vec<String> = gone.into_iter().map(|(name, _)| name.clone()).collect();
        if there.is_empty() {
            if !gone.is_empty() {
                tracing::error!(
                    event = "deployments.empty",
                    "the topic of the deployments is empty: what this host has on disk goes on, here alone. Was the topic deleted? Deploy again"
                );
            }
            return;
        }
        for name in gone {
            if let Some(record) = known.records.get_mut(&name) {
                record.deployment = None;
            }
            let _ = self.changed.send(name);
        }
    }

    /// A service runs as its record has it, or cannot.
    pub fn applied(&self, name: &str, number: u64, failed: Option<String>) {
        let mut known = self.known.lock();
        let current = known.records.get(name);
        let current = current.and_then(|record| record.deployment.as_ref());
        if current.is_none_or(|current| current.number == number) {
            known.pending.retain(|_, pending| pending != name);
        }
        match failed {
            Some(why) => known.failed.insert(name.to_owned(), (number, why)),
            None => known.failed.remove(name),
        };
        drop(known);
        self.news.send_modify(|news| *news += 1);
    }

    /// Waits until everything that was read is applied.
    async fn settled(&self) {
        self.until(|known| known.pending.is_empty()).await;
    }

    /// Reads the records to their end, uncommitted ones included: those of a writer
    /// that was fenced are read as nothing.
    async fn read_to_end(&self) -> Result<(), KafkaError> {
        let (cluster, topic) = (self.cluster.clone(), self.names.deployments.clone());
        let end = tokio::task::spawn_blocking(move || cluster.watermarks(&topic, 0)).await;
        let (_, end) = end.map_err(|error| KafkaError::Config(error.to_string()))??;
        self.until(|known| known.read_to >= end).await;
        Ok(())
    }

    async fn until(&self, is: impl Fn(&Known) -> bool) {
        let mut news = self.news.subscribe();
        while !is(&self.known.lock()) {
            // The sender lives as long as this value.
            let _ = news.changed().await;
        }
    }

    /// Begins a turn: nobody else changes anything until it is dropped, or its
    /// commit says that somebody has; and what is known is all there is, and what
    /// this host runs.
    pub async fn begin(&self) -> Result<Turn<'_>, RegistryError> {
        if !self.cluster.is_embedded() && !self.cluster.is_up() {
            return Err(self.unreachable("it has not answered for a while").into());
        }
        // Who has the turn waits for Kafka in bounded time.
        let mut writer = self.writer.lock().await;
        if !self.cluster.is_embedded() && writer.is_none() {
            let began = async {
                let transactor = Transactor::open(&self.cluster, &self.names.writer).await?;
                self.read_to_end().await?;
                Ok::<_, KafkaError>(transactor)
            };
            let began = tokio::time::timeout(PATIENCE, began).await;
            *writer = Some(began.unwrap_or_else(|_| {
                Err(self.unreachable("the deployments were not read to their end in time"))
            })?);
        }
        let settled = tokio::time::timeout(PATIENCE, self.settled()).await;
        settled.map_err(|_| self.unreachable("deployments before this one wait for it"))?;
        Ok(Turn {
            registry: self,
            writer,
        })
    }

    fn unreachable(&self, cause: &str) -> KafkaError {
        KafkaError::Unreachable {
            servers: self.cluster.servers().to_owned(),
            cause: cause.to_owned(),
        }
    }

    /// Writes content that is not there yet.
    pub async fn upload(
        &self,
        name: &str,
        digest: &str,
        bytes: &bytes::Bytes,
    ) -> Result<Content, ContentError> {
        let size = bytes.len() as u64;
        if self.cluster.is_embedded() {
            return Ok(Content {
                size,
                chunks: Vec::new(),
            });
        }
        let known = self.record(name);
        if let Some(content) = known.and_then(|mut known| known.contents.remove(digest)) {
            return Ok(content);
        }
        content::write(&self.publisher, &self.names.components, digest, bytes).await
    }

    /// Fetches content.
    pub async fn fetch(&self, digest: &str, content: &Content) -> Result<Vec<u8>, ContentError> {
        let (cluster, digest, content) = (self.cluster.clone(), digest.to_owned(), content.clone());
        let topic = self.names.components.clone();
        let read = move || content::read(&cluster, &topic, &digest, &content);
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| KafkaError::Config(error.to_string()))?
    }

    /// What live hosts make of a deployment, this one first.
    pub fn statuses(&self, name: &str, number: u64, offset: i64) -> Vec<HostStatus> {
        let known = self.known.lock();
        let mut others = known.hosts.statuses(name, number, offset);
        let own = self.presence(&known);
        drop(known);
        let mut hosts = Hosts::default();
        hosts.hear(self.host.clone(), Some(own), 0);
        let mut statuses = hosts.statuses(name, number, offset);
        others.retain(|status| status.host != self.host);
        statuses.extend(others);
        statuses
    }

    /// Waits until every live host runs a deployment, or has failed to, or the time
    /// is over.
    pub async fn everywhere(
        &self,
        name: &str,
        number: u64,
        offset: i64,
        patience: Duration,
        mut tell: impl FnMut(&[HostStatus]),
    ) -> Vec<HostStatus> {
        let mut news = self.news.subscribe();
        let deadline = tokio::time::Instant::now() + patience;
        let mut told = Vec::new();
        loop {
            let statuses = self.statuses(name, number, offset);
            if statuses != told {
                tell(&statuses);
                told.clone_from(&statuses);
            }
            let done = |status: &HostStatus| status.runs || status.error.is_some();
            if statuses.iter().all(done) {
                return statuses;
            }
            // Who falls silent is not waited for: so it is looked now and then.
            let next = deadline.min(tokio::time::Instant::now() + Duration::from_millis(500));
            let _ = tokio::time::timeout_at(next, news.changed()).await;
            if tokio::time::Instant::now() >= deadline {
                return self.statuses(name, number, offset);
            }
        }
    }

    fn presence(&self, known: &Known) -> Presence {
        let first = known.pending.keys().next().copied();
        Presence {
            address: self.address.clone(),
            at: crate::now_ms(),
            applied: first.unwrap_or(known.read_to),
            failed: known.failed.clone(),
        }
    }

    /// Tells the others that this host ends.
    pub async fn end(&self) {
        self.following.lock().take();
        if !self.cluster.is_embedded() && self.cluster.is_up() {
            let ended = self.word(None);
            let said = self.publisher.publish(std::iter::once(&ended));
            let _ = tokio::time::timeout(Duration::from_secs(1), said).await;
        }
    }

    fn word(&self, said: Option<&Presence>) -> Message {
        Message {
            topic: self.names.hosts.clone(),
            partition: Some(0),
            key: Some(self.host.clone().into()),
            value: said
                .and_then(|said| serde_json::to_vec(said).ok())
                .map(Into::into),
            headers: Vec::new(),
        }
    }
}

/// Says that this host lives, and how far it is, for as long as there is one.
async fn say(registry: std::sync::Weak<Registry>, mut news: watch::Receiver<u64>) {
    /// News come in crowds.
    const GATHER: Duration = Duration::from_millis(5);
    let mut last = Presence::default();
    let mut due = tokio::time::Instant::now();
    loop {
        {
            let Some(registry) = registry.upgrade() else {
                return;
            };
            if registry.following.lock().is_none() {
                return;
            }
            let said = registry.presence(&registry.known.lock());
            let new = (said.applied, &said.failed) != (last.applied, &last.failed);
            if new || tokio::time::Instant::now() >= due {
                due = tokio::time::Instant::now() + EVERY;
                if registry.cluster.is_up() {
                    let word = registry.word(Some(&said));
                    let published = registry.publisher.publish(std::iter::once(&word)).await;
                    // What was not heard is said again.
                    if published.failed.is_empty() {
                        last = said;
                    }
                }
            }
        }
        tokio::select! {
            changed = news.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(GATHER).await;
            }
            () = tokio::time::sleep_until(due) => {}
        }
    }
}

/// The right to change records.
pub struct Turn<'r> {
    registry: &'r Registry,
    writer: tokio::sync::MutexGuard<'r, Option<Transactor>>,
}

impl Turn<'_> {
    /// Replaces a service's record, or removes it. When it returns, all hosts will
    /// run what it says, or nothing has changed.
    pub async fn commit(
        &mut self,
        name: &str,
        next: Option<&Deployment>,
    ) -> Result<Committed, RegistryError> {
        let registry = self.registry;
        let before = registry.record(name);
        let Some(transactor) = &*self.writer else {
            let offset = {
                let mut known = registry.known.lock();
                known.read_to += 1;
                known.read_to - 1
            };
            registry.learn(name.to_owned(), offset, next.cloned());
            return Ok(Committed::Done(offset));
        };
        let messages = messages(&registry.names, name, before.as_ref(), next)?;
        let batch = Batch {
            messages,
            ..Batch::default()
        };
        let committing = tokio::time::timeout(PATIENCE, transactor.commit(batch));
        let Ok(outcome) = committing.await else {
            // The next turn ends what this one has left.
            *self.writer = None;
            return Err(RegistryError::InDoubt);
        };
        let in_doubt = match outcome {
            Outcome::Committed(placed) => {
                let offset = placed.first().map_or(-1, |placed| placed.offset);
                if offset >= 0 {
                    registry.learn(name.to_owned(), offset, next.cloned());
                    return Ok(Committed::Done(offset));
                }
                // It is there; where, is found by reading.
                true
            }
            Outcome::Aborted(aborted) => {
                if aborted.ended {
                    *self.writer = None;
                }
                let cause = aborted.cause.unwrap_or_default();
                return Err(RegistryError::NotWritten(cause));
            }
            Outcome::Ended { cause, in_doubt } => {
                tracing::debug!(%cause, "another host changes deployments");
                in_doubt
            }
        };
        *self.writer = None;
        if in_doubt {
            let looking = tokio::time::timeout(PATIENCE, self.look(name, next));
            match looking.await {
                Ok(Ok(Some(offset))) => return Ok(Committed::Done(offset)),
                Ok(Ok(None)) => {}
                Ok(Err(_)) | Err(_) => return Err(RegistryError::InDoubt),
            }
        }
        Ok(Committed::Overtaken)
    }

    /// Whether a record was written after all: where.
    async fn look(
        &mut self,
        name: &str,
        next: Option<&Deployment>,
    ) -> Result<Option<i64>, RegistryError> {
        let registry = self.registry;
        let transactor = Transactor::open(&registry.cluster, &registry.names.writer).await?;
        registry.read_to_end().await?;
        *self.writer = Some(transactor);
        let known = registry.known.lock();
        let record = known.records.get(name);
        let found = record.filter(|record| match (&record.deployment, next) {
            (Some(there), Some(next)) => there.change == next.change,
            (None, None) => true,
            _ => false,
        });
        Ok(found.map(|record| record.offset))
    }
}

/// What it takes to replace a record: itself, and the end of content that nobody
/// needs any more.
fn messages(
    names: &Names,
    name: &str,
    before: Option<&Deployment>,
    next: Option<&Deployment>,
) -> Result<Vec<Message>, RegistryError> {
    let value = next.map(serde_json::to_vec).transpose();
    let value = value.map_err(|error| RegistryError::NotWritten(error.to_string()))?;
    let mut messages = vec![Message {
        topic: names.deployments.clone(),
        partition: Some(0),
        key: Some(name.to_owned().into()),
        value: value.map(Into::into),
        headers: Vec::new(),
    }];
    let Some(before) = before else {
        return Ok(messages);
    };
    let dropped = match next {
        Some(next) => next.dropped(before),
        None => before
            .contents
            .iter()
            .map(|(digest, content)| (digest.as_str(), content))
            .collect(),
    };
    for (digest, content) in dropped {
        messages.extend(content::forget(&names.components, digest, content));
    }
    Ok(messages)
}

impl Registry {
    /// The digests of the content that runs, or is next on the way back; of all
    /// that is in a history with `all`.
    pub fn needed(&self, all: bool) -> BTreeSet<String> {
        let known = self.known.lock();
        let deployments = known.records.values();
        let deployments = deployments.filter_map(|record| record.deployment.as_ref());
        let mut needed = BTreeSet::new();
        for deployment in deployments {
            needed.extend(deployment.running().map(str::to_owned));
            needed.extend(deployment.before());
            if all {
                needed.extend(deployment.contents.keys().cloned());
            }
        }
        needed
    }

    /// Waits until this host runs a deployment, or has failed to, or the time is
    /// over.
    pub async fn here(&self, name: &str, number: u64, patience: Duration) {
        let applied = self.until(|known| {
            let record = known.records.get(name);
            let newer = record
                .and_then(|record| record.deployment.as_ref())
                .is_none_or(|deployment| deployment.number > number);
            newer || !known.pending.values().any(|pending| pending == name)
        });
        let _ = tokio::time::timeout(patience, applied).await;
    }
}
