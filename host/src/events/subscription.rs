//! A service's subscription: one membership in its consumer group after another.
//!
//! A membership ends when the subscription is stopped, or when it cannot go on:
//! then nothing is taken from memory, and the next one begins with what Kafka
//! has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_manifest::{Delivery, Manifest};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;

use super::committer::Means;
use super::member::{End, Member};
use super::note::Note;
use crate::follower::Follower;
use crate::kafka::{Cluster, Found, KafkaError, Publisher, Source, Transactor, changelog};
use crate::library::Library;
use crate::service::Service;
use crate::state::{State, StoreError};

/// How long to wait before the next try: at first, and at most.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(5);

/// What all subscriptions of a host share.
#[derive(Clone)]
pub struct Shared {
    /// The Kafka cluster.
    pub cluster: Arc<Cluster>,
    /// Its id.
    pub cluster_id: Arc<str>,
    /// This host's id.
    pub host_id: Arc<str>,
    /// The producer without transactions, for what may be there twice.
    pub publisher: Arc<Publisher>,
    /// The data directory.
    pub library: Arc<Library>,
    /// What keeps copies of state.
    pub follower: Arc<Follower>,
}

/// A running subscription. It ends when it is stopped, or dropped.
pub struct Subscription {
    topics: Vec<String>,
    group: String,
    state: bool,
    delivery: Delivery,
    stop: Option<oneshot::Sender<()>>,
    look: Arc<Notify>,
    task: JoinHandle<()>,
}

/// Why a membership did not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a task of the host's failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// The last error that was logged of what is tried again and again: the same is
/// not said twice.
#[derive(Debug, Default)]
pub(super) struct Said(Option<String>);

impl Said {
    pub(super) fn is_new(&mut self, error: &StartError) -> bool {
        let error = error.to_string();
        let new = self.0.as_ref() != Some(&error);
        self.0 = Some(error);
        new
    }
}

/// The changelog that a service's state is kept in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changelog {
    pub(super) topic: Arc<str>,
    pub(super) generation: u32,
    pub(super) shards: i32,
}

impl Subscription {
    /// Joins the group and consumes in the background from then on.
    pub fn start(service: Arc<Service>, shared: Shared) -> Subscription {
        let manifest = service.current().manifest.clone();
        let topics = topics(&manifest);
        let group = manifest.group().to_owned();
        let delivery = delivery(&manifest, &shared.cluster);
        let (stop, stopped) = oneshot::channel();
        let look = Arc::new(Notify::new());
        let run = Run {
            service,
            shared,
            topics: topics.clone(),
            group: group.clone(),
            state: manifest.grants.state,
            delivery,
            look: look.clone(),
            astray: Arc::default(),
        };
        Subscription {
            topics,
            group,
            state: manifest.grants.state,
            delivery: manifest.delivery,
            stop: Some(stop),
            look,
            task: tokio::spawn(run.run(stopped)),
        }
    }

    /// Whether a manifest wants just this subscription.
    pub fn fits(&self, manifest: &Manifest) -> bool {
        self.topics == topics(manifest)
            && self.group == manifest.group()
            && self.state == manifest.grants.state
            && self.delivery == manifest.delivery
    }

    /// Has it look now whether topics and changelogs are as they were.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Finishes what runs, commits it, and leaves the group.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Err(error) = (&mut self.task).await {
            tracing::error!(event = "subscription.failed", %error, "a subscription did not end well");
        }
    }
}

/// Waits until a service is paused, or is not any more.
pub(super) async fn turned(paused: &mut watch::Receiver<bool>, to: bool) {
    // The sender lives as long as the service.
    let _ = paused.wait_for(|paused| *paused == to).await;
}

/// The topics of a manifest, in order.
fn topics(manifest: &Manifest) -> Vec<String> {
    let topics = manifest.subscribe.iter();
    let mut topics: Vec<String> = topics.map(|one| one.topic.clone()).collect();
    topics.sort_unstable();
    topics
}

/// What a service gets: the embedded broker has no transactions.
pub fn delivery(manifest: &Manifest, cluster: &Cluster) -> Delivery {
    match cluster.is_embedded() {
        true => Delivery::AtLeastOnce,
        false => manifest.delivery,
    }
}

/// Partitions whose next event is not there: librdkafka does not read them again
/// before they are assigned again.
#[derive(Default)]
pub(super) struct Astray {
    sources: Mutex<BTreeSet<Source>>,
    told: Notify,
}

impl Astray {
    pub(super) fn tell(&self, source: Source) {
        self.sources.lock().insert(source);
        self.told.notify_one();
    }

    /// Waits until there is one.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }

    /// Those of which was told, once.
    pub(super) fn take(&self, assigned: &[Source]) -> BTreeSet<Source> {
        let mut sources = self.sources.lock();
        assigned
            .iter()
            .filter_map(|source| sources.take(source))
            .collect()
    }
}

/// One subscription at work.
pub(super) struct Run {
    pub(super) service: Arc<Service>,
    pub(super) shared: Shared,
    pub(super) topics: Vec<String>,
    pub(super) group: String,
    pub(super) state: bool,
    pub(super) delivery: Delivery,
    pub(super) look: Arc<Notify>,
    pub(super) astray: Arc<Astray>,
}

impl Run {
    async fn run(self, mut stopped: oneshot::Receiver<()>) {
        let service = self.service.name();
        let board = self.service.board();
        let mut paused = self.service.paused();
        let mut pause = PAUSE;
        let mut said = Said::default();
        loop {
            if *paused.borrow_and_update() {
                board.paused(true);
                tokio::select! {
                    () = self.wait_paused(&mut paused) => board.paused(false),
                    _ = &mut stopped => break,
                }
            }
            let began = tokio::select! {
                began = self.begin() => began,
                () = turned(&mut paused, true) => continue,
                _ = &mut stopped => break,
            };
            match began {
                Ok(member) => {
                    board.trouble(None);
                    said = Said::default();
                    match member.run(&mut stopped, &mut paused).await {
                        End::Stopped => break,
                        End::Paused => continue,
                        End::Again(why) => {
                            tracing::warn!(
                                event = "subscription.anew",
                                service,
                                "taking up everything anew from Kafka: {why}"
                            );
                            board.trouble(Some(why));
                            pause = PAUSE;
                        }
                    }
                }
                Err(error) => {
                    if said.is_new(&error) {
                        tracing::warn!(event = "subscription.waiting", service, %error, "nothing is consumed yet, trying again");
                    }
                    board.trouble(Some(error.to_string()));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST),
                _ = &mut stopped => break,
            }
        }
        if let Some(state) = self.state() {
            let generation = state.writing().generation();
            let topic: Arc<str> = changelog(service, generation).into();
            self.shared.follower.leave(&topic);
        }
    }

    /// Its state, if it has any.
    pub(super) fn state(&self) -> Option<&State> {
        self.service.state().filter(|_| self.state)
    }

    /// What is noted beside offsets that are committed now.
    pub(super) fn note(&self) -> String {
        let note = Note {
            host: self.shared.host_id.to_string(),
            deployment: self.service.number(),
        };
        note.to_string()
    }

    /// Waits until the service is resumed. Its state is followed meanwhile.
    async fn wait_paused(&self, paused: &mut watch::Receiver<bool>) {
        if self.state {
            while let Err(error) = self.changelog().await {
                tracing::debug!(service = self.service.name(), %error, "the state is not followed yet");
                tokio::select! {
                    () = tokio::time::sleep(LONGEST) => {}
                    () = turned(paused, false) => return,
                }
            }
        }
        turned(paused, false).await;
    }

    /// Begins a membership: what a predecessor left undone is ended first, then
    /// the state is found, then the group is joined.
    async fn begin(&self) -> Result<Member<'_>, StartError> {
        let changelog = self.changelog().await?;
        self.dead_letters().await?;
        self.bid_farewell().await?;
        let means = match self.delivery {
            Delivery::ExactlyOnce => {
                let Shared {
                    cluster_id,
                    host_id,
                    ..
                } = &self.shared;
                let service = self.service.name();
                let id = format!("tidemill.{cluster_id}.{host_id}.{service}");
                Means::ExactlyOnce(Transactor::open(&self.shared.cluster, &id).await?)
            }
            Delivery::AtLeastOnce => Means::AtLeastOnce(self.shared.publisher.clone()),
        };
        Ok(Member::join(self, means, changelog)?)
    }

    /// Sees to it that there is a topic for dead letters: it is made at the deploy,
    /// and may be gone since, or the manifest be from before there were any.
    async fn dead_letters(&self) -> Result<(), StartError> {
        let manifest = self.service.current().manifest.clone();
        if manifest.has_dead_letters() {
            let (cluster, topic) = (self.shared.cluster.clone(), manifest.dead_letter_topic());
            tokio::task::spawn_blocking(move || cluster.create_dead_letters(&topic)).await??;
        }
        Ok(())
    }

    /// Takes out of the group what this host was in it before it was killed.
    async fn bid_farewell(&self) -> Result<(), StartError> {
        let Some(dead) = self.shared.library.member(&self.group) else {
            return Ok(());
        };
        let (cluster, group) = (self.shared.cluster.clone(), self.group.clone());
        let farewell = tokio::task::spawn_blocking(move || cluster.bid_farewell(&group, &dead));
        Ok(farewell.await?)
    }

    /// Finds the newest changelog, made if there is none, and follows it. None where
    /// there is nothing to follow.
    async fn changelog(&self) -> Result<Option<Changelog>, StartError> {
        let Some(state) = self.state() else {
            return Ok(None);
        };
        let cluster = &self.shared.cluster;
        if cluster.is_embedded() {
            // One host, and topics that end with it: there is nothing to follow.
            state.writing().set_complete()?;
            return Ok(None);
        }
        let (asked, service, topics) = (
            cluster.clone(),
            self.service.name().to_owned(),
            self.topics.clone(),
        );
        let find = move || asked.find_changelog(&service, &topics);
        let Found {
            generation,
            shards,
            new,
        } = tokio::task::spawn_blocking(find).await??;
        if new {
            // Nothing is in it yet.
            let tables = state.turn_to(generation)?;
            if !tables.known_shards().is_empty() {
                tracing::error!(
                    event = "changelog.gone",
                    service = self.service.name(),
                    "the changelog of its state is gone, and with it the state: `tidemill replay` \
                     makes it anew from its topics"
                );
                tables.forget()?;
            }
            tables.set_complete()?;
        }
        Ok(Some(self.turn_to(state, generation, shards)?))
    }

    /// Writes and follows this generation of the state from now on.
    pub(super) fn turn_to(
        &self,
        state: &State,
        generation: u32,
        shards: i32,
    ) -> Result<Changelog, StoreError> {
        let tables = state.turn_to(generation)?;
        let topic: Arc<str> = changelog(self.service.name(), generation).into();
        let follower = &self.shared.follower;
        follower.follow(tables, &topic, shards.unsigned_abs());
        Ok(Changelog {
            topic,
            generation,
            shards,
        })
    }
}
