//! The committer of a service: makes effects durable, group after group.
//!
//! A group is what has been done when the one before it is committed: a slow
//! broker makes larger groups, a fast one shorter waits. The order is what
//! at-least-once needs: events acknowledged by all in-sync replicas, then rows
//! and offsets in one write of the store, then the offsets at the broker.
//! Whatever is interrupted in between is done again, with the same effects, or
//! after a restart by running the events again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::group::{Done, Settled, settle};
use crate::kafka::{Consumer, PublishError, Publisher};
use crate::metrics::ServiceMetrics;
use crate::state::Tables;

/// A group has at most this many events …
const MAX_EVENTS: usize = 10_000;
/// … and this many bytes of effects, but for a single event.
const MAX_BYTES: usize = 16 << 20;

/// How long to wait before trying again what the broker or the disk refused.
const PAUSE: Duration = Duration::from_millis(250);

/// Commits what a service's lanes hand over.
pub(super) struct Committer {
    pub(super) service: Arc<str>,
    pub(super) done: mpsc::UnboundedReceiver<Done>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) consumer: Arc<Consumer>,
    /// None for a service without state.
    pub(super) tables: Option<Arc<Tables>>,
    pub(super) metrics: ServiceMetrics,
}

impl Committer {
    /// Runs until all lanes are gone.
    pub(super) async fn run(mut self) {
        while let Some(first) = self.done.recv().await {
            let mut bytes = first.effects.size();
            let mut group = vec![first];
            while group.len() < MAX_EVENTS && bytes < MAX_BYTES {
                let Ok(next) = self.done.try_recv() else {
                    break;
                };
                bytes += next.effects.size();
                group.push(next);
            }
            self.commit(group).await;
        }
    }

    async fn commit(&self, mut group: Vec<Done>) {
        let started = Instant::now();
        group.retain(Done::is_current);
        let refused = self.publish(&group).await;
        // Partitions may have been lost while the broker was waited for.
        let (mut kept, mut kept_refused) = (Vec::with_capacity(group.len()), BTreeMap::new());
        for (place, done) in group.into_iter().enumerate() {
            if !done.is_current() {
                continue;
            }
            if let Some(cause) = refused.get(&place) {
                kept_refused.insert(kept.len(), cause.clone());
            }
            kept.push(done);
        }
        let Settled {
            commit,
            replies,
            events,
        } = settle(kept, &kept_refused);
        if let Some(tables) = &self.tables {
            while let Err(error) = tables.commit(&commit) {
                tracing::error!(service = &*self.service, %error, "state was not written, trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
        // The store's offsets are the ones that count for a service with state,
        // and for one without, an older offset only means running events again.
        if let Err(error) = self.consumer.commit(&commit.positions, false) {
            tracing::debug!(service = &*self.service, %error, "offsets were not committed");
        }
        if events > 0 {
            self.metrics.committed(events, started.elapsed());
        }
        for (origin, reply) in replies {
            // A lane that has ended needs no answer.
            let _ = origin.replies.send(reply);
        }
    }

    /// Publishes the events of a group. Returns those that the broker refuses,
    /// by the place of who published them; everything else is acknowledged, or
    /// belongs to lanes that have lost their partitions meanwhile.
    async fn publish(&self, group: &[Done]) -> BTreeMap<usize, String> {
        let mut refused = BTreeMap::new();
        let mut left: Vec<(usize, usize)> = group
            .iter()
            .enumerate()
            .flat_map(|(place, done)| (0..done.effects.messages.len()).map(move |m| (place, m)))
            .collect();
        let mut published = 0;
        while !left.is_empty() {
            let messages = left
                .iter()
                .map(|(place, message)| &group[*place].effects.messages[*message]);
            let failed = self.publisher.publish(messages).await;
            published += left.len() - failed.len();
            let mut again = Vec::new();
            for (index, error) in failed {
                let (place, message) = left[index];
                match error {
                    PublishError::Refused { .. } => {
                        refused.insert(place, error.to_string());
                    }
                    PublishError::NotSent { .. } | PublishError::Unknown { .. } => {
                        if group[place].is_current() {
                            tracing::debug!(service = &*self.service, %error, "publishing again");
                            again.push((place, message));
                        }
                    }
                }
            }
            again.sort_unstable();
            left = again;
            if !left.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        self.metrics.published(published);
        refused
    }
}
