//! The committer of a service: makes effects durable, group after group.
//!
//! A group is what has been done when the one before it is committed: a slow
//! broker makes larger groups, a fast one shorter waits. Where very much is done it
//! waits a little for more, since a larger group costs less for each event.
//!
//! Exactly once: published events, rows and offsets are one transaction. If it is
//! aborted, the same effects go into the next, as long as the terms hold in which
//! they came about. If nobody knows what became of it, the committer ends, and
//! with it everything that this host has in memory of the service.
//!
//! At least once: events and rows are acknowledged first, then offsets committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::group::{Done, Shard, Shares, Sum, refuse, sum, tell_committed};
use super::line::{self, Fate};
use super::note::Note;
use crate::effects::Message;
use crate::kafka::{
    Aborted, Batch, Consumer, Outcome, Placed, PublishError, Publisher, Transactor,
};
use crate::sabotage;
use crate::service::Service;
use crate::state::rows::POSITION;
use crate::state::{Commit, Position};
use crate::trace;

/// A group has at most this many events …
const MAX_EVENTS: usize = 20_000;
/// … and this many bytes of effects, but for a single event.
const MAX_BYTES: usize = 16 << 20;

/// A group of this many events waits for more, until it has half of what a single
/// lane may hold, which goes on meanwhile …
const MUCH: usize = 2_000;
const ENOUGH: usize = line::MAX_EVENTS / 2;
/// … for so long, and while so many come from look to look.
const GATHER: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(5);
const COMING: usize = 500;

/// How long to wait before trying again: at first, and at most.
const PAUSE: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_millis(250);

/// A store's write of more rows than this is not for a thread that serves others.
const FEW_ROWS: usize = 256;

/// How effects are made durable.
pub(super) enum Means {
    /// In transactions.
    ExactlyOnce(Transactor),
    /// One after the other.
    AtLeastOnce(Arc<Publisher>),
}

/// Commits what a service's lanes hand over.
pub(super) struct Committer {
    pub(super) service: Arc<Service>,
    /// This host's id, noted beside offsets and in changelogs.
    pub(super) host: Arc<str>,
    pub(super) done: mpsc::UnboundedReceiver<Done>,
    pub(super) means: Means,
    pub(super) consumer: Arc<Consumer>,
}

/// What became of a group is not known, or nothing can be committed any more.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub(super) struct Broken {
    pub(super) cause: String,
    pub(super) in_doubt: bool,
}

impl Committer {
    /// Runs until all lanes are gone, or it cannot go on.
    pub(super) async fn run(mut self) -> Result<(), Broken> {
        while let Some(first) = self.done.recv().await {
            if let Means::ExactlyOnce(transactor) = &self.means {
                let rest = transactor.rest();
                if !rest.is_zero() {
                    tokio::time::sleep(rest).await;
                }
            }
            self.gather().await;
            let mut bytes = first.effects.size();
            let mut group = vec![first];
            while group.len() < MAX_EVENTS && bytes < MAX_BYTES {
                let Ok(next) = self.done.try_recv() else {
                    break;
                };
                bytes += next.effects.size();
                group.push(next);
            }
            match &self.means {
                Means::ExactlyOnce(transactor) => self.transact(transactor, group).await?,
                Means::AtLeastOnce(publisher) => self.publish(publisher, group).await,
            }
        }
        Ok(())
    }

    /// Waits for more where much is done already and more is coming.
    async fn gather(&self) {
        let begun = Instant::now();
        let mut seen = self.done.len();
        while (MUCH..ENOUGH).contains(&seen) && begun.elapsed() < GATHER {
            tokio::time::sleep(LOOK).await;
            let there = self.done.len();
            if there < seen + COMING {
                return;
            }
            seen = there;
        }
    }

    /// Only results of terms that hold are committed.
    fn retain_current(&self, group: &mut Vec<Done>) {
        if sabotage::is_off("terms") {
            return;
        }
        let losses = self.consumer.losses();
        group.retain(|done| done.origin.losses == losses && done.is_current());
    }

    /// Commits a group in transactions: one, if nothing is in the way.
    async fn transact(&self, transactor: &Transactor, group: Vec<Done>) -> Result<(), Broken> {
        let mut waiting: VecDeque<Done> = group.into();
        let mut most = usize::MAX;
        let mut pause = PAUSE;
        while !waiting.is_empty() {
            let started = Instant::now();
            let mut part: Vec<Done> = waiting.drain(..most.min(waiting.len())).collect();
            // Whatever ended a term ends this membership as well, or comes after
            // it: offsets of a later one are never sent with results of before.
            let membership = self.consumer.membership();
            self.retain_current(&mut part);
            if part.is_empty() {
                continue;
            }
            let Some(membership) = membership else {
                put_back(&mut waiting, part);
                tokio::time::sleep(PAUSE * 10).await;
                continue;
            };
            let sum = sum(&part);
            let span = self.span(&part);
            let (messages, shares) = Shares::take(&mut part);
            let published = messages.len();
            let (rows, position_rows) = self.rows(&sum);
            let first_position = published + rows.len() - position_rows.len();
            let batch = Batch {
                messages,
                rows,
                offsets: Some((membership, sum.offsets.clone(), self.note(sum.deployment))),
            };
            let begun = Instant::now();
            match transactor.commit(batch).await {
                Outcome::Committed(placed) => {
                    self.service.metrics.transacted(begun.elapsed());
                    let placed_of = shares.of_each(&placed);
                    let effects = part.iter_mut().map(|done| &mut done.effects);
                    span.committed(effects.zip(placed_of));
                    let ends = placed.get(first_position..).unwrap_or_default();
                    self.keep(sum, &position_rows, ends).await;
                    self.count(&part, published, started);
                    tell_committed(&part);
                    (most, pause) = (most.saturating_mul(2), PAUSE);
                }
                Outcome::Aborted(mut aborted) => {
                    self.service.metrics.aborted();
                    span.failed("aborted", aborted.cause.as_deref().unwrap_or_default());
                    let taken = std::mem::take(&mut aborted.batch.messages);
                    shares.give_back(&mut part, taken);
                    let why = self.why(&aborted, &shares);
                    if !why.is_empty() {
                        part = refuse(part, &why);
                    } else if aborted.lasting && part.len() == 1 {
                        let cause = aborted.cause.clone().unwrap_or_default();
                        part = refuse(part, &BTreeMap::from([(0, cause)]));
                    } else if aborted.lasting {
                        // One of them is at fault, and nobody says which.
                        most = part.len() / 2;
                    } else {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST);
                    }
                    put_back(&mut waiting, part);
                    if aborted.ended {
                        let cause = aborted.cause.unwrap_or_default();
                        let in_doubt = false;
                        return Err(Broken { cause, in_doubt });
                    }
                }
                Outcome::Ended { cause, in_doubt } => {
                    span.failed("ended", &cause);
                    return Err(Broken { cause, in_doubt });
                }
            }
        }
        Ok(())
    }

    /// The span of a commit of these.
    fn span(&self, group: &[Done]) -> trace::Commit {
        let effects = group.iter().map(|done| &done.effects);
        trace::Commit::begin(&self.service, effects)
    }

    /// Which events of a group were refused, by place, and why.
    fn why(&self, aborted: &Aborted, shares: &Shares) -> BTreeMap<usize, String> {
        let service = self.service.name();
        if let Some(cause) = &aborted.cause {
            tracing::debug!(service, "a transaction was aborted: {cause}");
        }
        if sabotage::is_off("refusals") {
            return BTreeMap::new();
        }
        let refused = aborted.refused.iter().filter_map(|(message, error)| {
            // A row that the broker refuses has no event that is named: the group
            // is halved until it is one.
            Some((shares.owner(*message)?, error.to_string()))
        });
        refused.collect()
    }

    /// Rows of a group in the changelog, those that say its positions last, and
    /// of which shards these are.
    fn rows(&self, sum: &Sum) -> (Vec<Message>, Vec<u32>) {
        let mut rows = Vec::new();
        let mut positions = Vec::new();
        let mut shards = Vec::new();
        for (shard, commit) in &sum.shards {
            let Some(changelog) = &shard.changelog else {
                continue;
            };
            let row = |key, value| Message {
                topic: changelog.clone(),
                partition: Some(shard.number().cast_signed()),
                key: Some(key),
                value,
                headers: Vec::new(),
            };
            for (name, value) in &commit.rows {
                rows.push(row(name.record().clone(), value.clone()));
            }
            let position = self.position(shard, commit);
            positions.push(row(POSITION.into(), Some(position.encode())));
            shards.push(shard.number());
        }
        rows.append(&mut positions);
        (rows, shards)
    }

    /// How far a shard is with this commit, over all its topics.
    fn position(&self, shard: &Shard, commit: &Commit) -> Position {
        let mut positions = shard.held.tables().positions_of(shard.number());
        let new = commit.positions.iter();
        positions.extend(new.map(|(topic, offset)| (topic.to_string(), *offset)));
        Position {
            positions,
            host: self.host.to_string(),
        }
    }

    /// What is noted beside offsets.
    fn note(&self, deployment: u64) -> Arc<str> {
        let host = self.host.to_string();
        Note { host, deployment }.to_string().into()
    }

    /// Writes what is committed to this host's copy of the state. `ends` says
    /// where in their changelogs the position rows of these shards are.
    async fn keep(&self, sum: Sum, shards: &[u32], ends: &[Placed]) {
        let mut checkpoints: BTreeMap<u32, i64> = BTreeMap::new();
        for (shard, end) in shards.iter().zip(ends) {
            // One that came without an offset leaves the checkpoint where it was:
            // applying again in order is harmless.
            if end.offset >= 0 {
                checkpoints.insert(*shard, end.offset + 1);
            }
        }
        for (shard, mut commit) in sum.shards {
            commit.checkpoint = checkpoints.get(&shard.number()).copied();
            let few = commit.rows.len() <= FEW_ROWS;
            let commit = Arc::new(commit);
            loop {
                let written = if few {
                    shard.held.tables().commit(&commit, shard.held.claim())
                } else {
                    let (shard, commit) = (shard.clone(), commit.clone());
                    let write = move || shard.held.tables().commit(&commit, shard.held.claim());
                    match tokio::task::spawn_blocking(write).await {
                        Ok(written) => written,
                        // The host is ending; the changelog has it.
                        Err(_) => return,
                    }
                };
                let Err(error) = written else { break };
                let service = self.service.name();
                tracing::error!(event = "state.not-written", service, %error, "state was not written, trying again");
                tokio::time::sleep(LONGEST).await;
            }
        }
    }

    fn count(&self, group: &[Done], published: usize, started: Instant) {
        let metrics = &self.service.metrics;
        let dead = group.iter().filter(|done| done.fate == Fate::DeadLetter);
        let dead = dead.count();
        metrics.published(published - dead.min(published));
        metrics.dead_letters(dead);
        metrics.committed(group.len(), started.elapsed());
        if let Some(first) = group.first() {
            metrics.waited(first.ran_at.elapsed());
        }
    }

    /// Makes a group durable one thing after the other.
    async fn publish(&self, publisher: &Publisher, mut group: Vec<Done>) {
        let started = Instant::now();
        self.retain_current(&mut group);
        let published = group.iter().map(|done| done.effects.messages.len());
        let published: usize = published.sum();
        let span = self.span(&group);
        let refused = self.send(publisher, &group).await;
        group = refuse(group, &refused);
        // Partitions may have been lost while the broker was waited for.
        self.retain_current(&mut group);
        if group.is_empty() {
            return;
        }
        let sum = sum(&group);
        let offsets = sum.offsets.clone();
        let note = self.note(sum.deployment);
        let (rows, shards) = self.rows(&sum);
        let mut ends = Vec::new();
        while !rows.is_empty() {
            let published = publisher.publish(rows.iter()).await;
            if published.failed.is_empty() {
                ends = published.placed;
                break;
            }
            self.retain_current(&mut group);
            if group.is_empty() {
                return;
            }
            if let Some((_, error)) = published.failed.first() {
                let service = self.service.name();
                tracing::warn!(event = "changelog.not-written", service, %error, "rows were not written to the changelog, trying again");
            }
            tokio::time::sleep(LONGEST).await;
        }
        let first_position = ends.len().saturating_sub(shards.len());
        let ends = ends.get(first_position..).unwrap_or_default();
        self.keep(sum, &shards, ends).await;
        if let Err(error) = self.consumer.commit(&offsets, &note, false) {
            tracing::debug!(service = self.service.name(), %error, "offsets were not committed");
        }
        let effects = group.iter_mut().map(|done| &mut done.effects);
        span.committed(effects.map(|effects| (effects, &[][..])));
        self.count(&group, published - refused.len(), started);
        tell_committed(&group);
    }

    /// Publishes the events of a group. Returns those that the broker refuses,
    /// by the place of who published them; everything else is acknowledged, or
    /// belongs to lanes that have lost their partitions meanwhile.
    async fn send(&self, publisher: &Publisher, group: &[Done]) -> BTreeMap<usize, String> {
        let mut refused = BTreeMap::new();
        let all = group.iter().enumerate().flat_map(|(owner, done)| {
            let messages = done.effects.messages.iter();
            messages.map(move |message| (owner, message))
        });
        let mut left: Vec<(usize, &Message)> = all.collect();
        while !left.is_empty() {
            let sent: Vec<&Message> = left.iter().map(|(_, message)| *message).collect();
            let failed = publisher.publish(sent.into_iter()).await.failed;
            let mut again = BTreeMap::new();
            for (place, error) in failed {
                let Some((owner, message)) = left.get(place) else {
                    continue;
                };
                if let PublishError::Refused { .. } = error {
                    refused.insert(*owner, error.to_string());
                } else if group.get(*owner).is_some_and(Done::is_current) {
                    tracing::debug!(service = self.service.name(), %error, "publishing again");
                    again.insert(place, (*owner, *message));
                }
            }
            left = again.into_values().collect();
            if !left.is_empty() {
                tokio::time::sleep(LONGEST).await;
            }
        }
        refused
    }
}

fn put_back(waiting: &mut VecDeque<Done>, part: Vec<Done>) {
    for done in part.into_iter().rev() {
        waiting.push_front(done);
    }
}
