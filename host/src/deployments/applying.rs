//! What this host does about the records: it loads what should run, and swaps it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};

use super::record::Deployment;
use crate::host::{DeployError, Host};
use crate::invocation::Failure;
use crate::kafka::KafkaError;
use crate::revision::Revision;
use crate::revisions::cores;
use crate::service::{Candidate, Running, Trial};

/// How long to wait before what Kafka did not give is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// How far a revision has to be before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ahead {
    /// In memory, with a first instance up.
    Ready,
    /// That this host has run it before will do.
    Kept,
}

impl Host {
    /// Applies what changes, for as long as this host lives.
    pub async fn follow(self: Arc<Self>, mut changes: mpsc::UnboundedReceiver<String>) {
        // Compiling takes a core.
        let turns = Arc::new(Semaphore::new(cores()));
        while let Some(name) = changes.recv().await {
            if !self.applying.lock().insert(name.clone()) {
                continue;
            }
            let (host, turns) = (self.clone(), turns.clone());
            tokio::spawn(async move { host.apply_latest(&name, &turns).await });
        }
    }

    /// Applies a service's record until it is the latest.
    async fn apply_latest(self: &Arc<Self>, name: &str, turns: &Semaphore) {
        let mut said = false;
        loop {
            let number = self.registry.record(name).map(|record| record.number);
            let turn = turns.acquire().await;
            let applied = self.apply(name).await;
            // Who waits for Kafka keeps no other waiting.
            drop(turn);
            match applied {
                Ok(()) => self.registry.applied(name, number.unwrap_or(0), None),
                Err(DeployError::Stopping) => return,
                Err(error) if is_passing(&error) => {
                    if !std::mem::replace(&mut said, true) {
                        tracing::warn!(event = "deploy.delayed", service = name, %error, "a deployment does not run here yet, trying again");
                    }
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
                Err(error) => {
                    tracing::error!(event = "deploy.failed-here", service = name, %error, "a deployment cannot run on this host: what ran before goes on");
                    let why = error.to_string();
                    self.registry.applied(name, number.unwrap_or(0), Some(why));
                }
            }
            // Together, so that no change falls between the two.
            let mut applying = self.applying.lock();
            let latest = self.registry.record(name).map(|record| record.number);
            if latest == number {
                applying.remove(name);
                return;
            }
        }
    }

    /// Makes what runs here be what the record says.
    pub(crate) async fn apply(self: &Arc<Self>, name: &str) -> Result<(), DeployError> {
        let Some(record) = self.registry.record(name) else {
            return self.unload(name).await;
        };
        let running = self.service(name).map(|service| service.running());
        let replaces = running.is_some();
        if running.is_some_and(|running| running.number == record.number) {
            return Ok(());
        }
        let running = self.running(&record, Ahead::Ready).await?;
        self.put(name, running, &record).await?;
        if replaces {
            let (host, needed) = (self.clone(), self.needed());
            tokio::task::spawn_blocking(move || host.shelf.tidy(&needed)).await?;
        }
        Ok(())
    }

    /// What a record says that runs.
    pub(crate) async fn running(
        self: &Arc<Self>,
        record: &Deployment,
        ahead: Ahead,
    ) -> Result<Running, DeployError> {
        let live = self.revision(record, &record.live, ahead).await?;
        let canary = match &record.canary {
            None => None,
            Some(share) => Some(Candidate {
                revision: self.revision(record, &share.revision, ahead).await?,
                share: share.clone(),
            }),
        };
        Ok(Running {
            number: record.number,
            deployed_at: record.since,
            live,
            canary,
            trial: self.trial(record, ahead).await,
        })
    }

    /// The trial that a record tells of, if it is not over.
    async fn trial(self: &Arc<Self>, record: &Deployment, ahead: Ahead) -> Option<Trial> {
        let trial = record.trial.as_ref()?;
        let left = Duration::from_millis(trial.until.checked_sub(crate::now_ms())?);
        // The way back takes longer without it, and is there all the same.
        let before = self.revision(record, &trial.before, ahead).await.ok();
        Some(Trial {
            until: Instant::now() + left,
            before,
        })
    }

    /// A revision by its digest.
    async fn revision(
        self: &Arc<Self>,
        record: &Deployment,
        digest: &str,
        ahead: Ahead,
    ) -> Result<Arc<Revision>, DeployError> {
        if ahead == Ahead::Kept {
            let (revisions, kept) = (self.revisions.clone(), digest.to_owned());
            let kept = tokio::task::spawn_blocking(move || revisions.kept(&kept)).await?;
            if let Some(kept) = kept {
                return Ok(kept);
            }
        }
        self.revisions.ready(record, digest).await
    }

    /// The digests of what is kept on disk: what runs, and what may at once. Where
    /// the disk is all there is, whatever is in a history.
    fn needed(&self) -> BTreeSet<String> {
        self.registry.needed(self.cluster.is_embedded())
    }
}

/// Whether it may go better later.
fn is_passing(error: &DeployError) -> bool {
    match error {
        DeployError::Kafka(error) | DeployError::Content(super::ContentError::Kafka(error)) => {
            !matches!(
                error,
                KafkaError::Config(_) | KafkaError::UnequalPartitions(_)
            )
        }
        // The service that has the route may be about to let it go, and others may
        // need less memory.
        DeployError::RouteTaken { .. }
        | DeployError::Start(Failure::Crowded { .. } | Failure::Instantiate(_)) => true,
        _ => false,
    }
}
