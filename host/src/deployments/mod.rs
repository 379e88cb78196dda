//! Deploying: from a component to what all hosts run, and the ways back.
//!
//! `record` decides what becomes of a service's record, `registry` keeps the
//! records and changes them, in the topics that `topics` follows; `content` is what
//! runs, `presence` which hosts live. `applying` makes this host run what the
//! records say, and `trial` goes back by itself. Here is what people ask for.

pub(crate) mod applying;
mod content;
mod presence;
pub mod record;
mod registry;
mod topics;
pub(crate) mod trial;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_cli::api;
use tidemill_manifest::Manifest;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::checks;
use crate::host::{DeployError, Host, micros, routes, subscribes};
use crate::kafka::KafkaError;
use crate::revision::Revision;
use record::{Deployment, Refused, Stamp};
use registry::{Committed, TRIES};

pub use content::ContentError;
pub use registry::{Registry, RegistryError};
pub use topics::Names;

/// How long a deploy waits for all hosts.
const EVERYWHERE: Duration = Duration::from_secs(30);

/// How a revision is deployed.
#[derive(Clone, Debug, Default)]
pub struct How {
    /// Only check, and say what would be.
    pub dry_run: bool,
    /// Not for all: its share of the requests in percent, and what makes them
    /// stick.
    pub weight: Option<f64>,
    /// What makes requests stick to one revision.
    pub sticky: Option<api::Sticky>,
    /// The partitions whose events it handles.
    pub partitions: Vec<i32>,
    /// Whether to answer as soon as this host runs it.
    pub alone: bool,
    /// Whether it comes from a command line that is used at each start: what was
    /// replaced meanwhile stays replaced.
    pub at_start: bool,
}

impl How {
    fn is_canary(&self) -> bool {
        self.weight.is_some() || !self.partitions.is_empty()
    }
}

/// Whom a deploy tells how far it is, if anybody.
#[derive(Clone, Debug, Default)]
pub struct Steps(Option<UnboundedSender<api::Step>>);

impl Steps {
    /// Who is told, and by what.
    pub fn told() -> (Steps, UnboundedReceiver<api::Step>) {
        let (steps, told) = mpsc::unbounded_channel();
        (Steps(Some(steps)), told)
    }

    fn say(&self, step: impl FnOnce() -> api::Step) {
        if let Some(steps) = &self.0 {
            let _ = steps.send(step());
        }
    }
}

/// A component that is in Kafka.
struct Stored<'a> {
    digest: &'a str,
    bytes: &'a Bytes,
    content: record::Content,
}

/// A change that is made: what is known before, and where it is.
struct Made {
    before: Option<Deployment>,
    next: Deployment,
    offset: i64,
}

impl Host {
    /// Deploys a component that carries its manifest.
    pub async fn deploy(
        self: &Arc<Self>,
        component: Bytes,
        how: How,
        steps: &Steps,
    ) -> Result<api::Deployed, DeployError> {
        steps.say(|| api::Step::Compiling);
        let loaded = self.revisions.of(component.clone()).await?;
        let (revision, compiled_in) = (loaded.revision, loaded.compiled_in);
        let manifest = revision.manifest.clone();
        let name = &manifest.name;
        steps.say(|| api::Step::Checking);
        self.check_routes(&manifest)?;
        let running = self.service(name).map(|service| service.running());
        let record = self.registry.record(name);
        if how.is_canary() {
            let running = running.as_ref();
            let live = running.ok_or_else(|| Refused::NothingBeside(name.clone()))?;
            check_alike(&live.live.manifest, &manifest)?;
        }
        let live = record.as_ref().map(|record| record.live.clone());
        let runs = live.as_ref() == Some(&revision.digest);
        let stays = how.at_start
            && record
                .as_ref()
                .is_some_and(|record| record.was_replaced(&revision.digest));
        let mut answer = self.deployed(&revision);
        answer.previous.clone_from(&live);
        answer.compile_us = compiled_in.map(micros);
        if stays && let Some(live) = live {
            tracing::warn!(
                event = "deploy.replaced-before",
                service = name,
                revision = revision.short(),
                "this revision was deployed before and has been replaced: it is not deployed \
                 again at a start. `tidemill deploy` or `tidemill rollback` does it"
            );
            answer.revision = live;
            return Ok(answer);
        }
        let unchanged = runs && !how.is_canary();
        let unchanged = unchanged && record.is_some_and(|record| record.canary.is_none());
        if !unchanged || how.dry_run {
            answer.created_topics = self.missing_topics(&manifest).await?;
            let live = running.as_ref().map(|running| &*running.live);
            let missing = &answer.created_topics;
            (answer.changes, answer.warnings) =
                checks::tell(live, &revision, &self.services(), missing);
            let service = self.service(name);
            answer.smoke = checks::smoke::run(service.as_deref(), &self.store, &revision).await?;
        }
        if how.dry_run {
            answer.dry_run = true;
            return Ok(answer);
        }
        // Everything was checked: from here on something is done.
        if !answer.created_topics.is_empty() {
            let created = answer.created_topics.clone();
            steps.say(|| api::Step::Topics { created });
        }
        let (created_topics, new_state) = match self.topics(&manifest).await {
            // It runs: it had its topics, and nothing is to be done.
            Err(KafkaError::Unreachable { .. }) if unchanged => (Vec::new(), false),
            topics => topics?,
        };
        answer.created_topics = created_topics;
        if unchanged {
            return Ok(answer);
        }
        if new_state {
            self.state_is_empty(name)?;
        }
        let bytes = component.len();
        steps.say(|| api::Step::Storing { bytes });
        let digest = &*revision.digest;
        let (kept, content) = tokio::join!(
            self.revisions.keep(&revision, component.clone()),
            self.registry.upload(name, digest, &component)
        );
        kept?;
        let stored = Stored {
            digest,
            bytes: &component,
            content: content?,
        };
        let trial = trial::time(&manifest);
        let made = self
            .change(name, Some(stored), |before, content, stamp| {
                self.check_routes(&manifest)?;
                let content = content.unwrap_or_default();
                if !how.is_canary() {
                    return Ok(record::deploy(
                        before,
                        &revision.digest,
                        content,
                        trial,
                        stamp,
                    ));
                }
                let share = api::Canary {
                    revision: revision.digest.clone(),
                    weight: how.weight.unwrap_or(0.0),
                    sticky: how.sticky.clone(),
                    partitions: how.partitions.clone(),
                };
                Ok(record::canary(name, before, share, content, stamp)?)
            })
            .await?;
        tracing::info!(
            event = "deploy.done",
            service = name,
            revision = revision.short(),
            "deployed"
        );
        answer.previous = made.before.as_ref().map(|before| before.live.clone());
        answer.number = made.next.number;
        answer.canary.clone_from(&made.next.canary);
        answer.trial_until = made.next.trial.as_ref().map(|trial| trial.until);
        answer.hosts = self.everywhere(name, &made, how.alone, steps).await;
        Ok(answer)
    }

    /// Goes back to the revision before, or to one in the history.
    pub async fn rollback(
        self: &Arc<Self>,
        name: &str,
        to: Option<&str>,
    ) -> Result<api::Changed, DeployError> {
        let made = self
            .change(name, None, |before, _, stamp| {
                Ok(record::rollback(name, before, to, stamp)?)
            })
            .await?;
        Ok(self.changed(name, made).await)
    }

    /// Makes the canary what runs for all.
    pub async fn promote(self: &Arc<Self>, name: &str) -> Result<api::Changed, DeployError> {
        let running = self.service(name).map(|service| service.running());
        let canary = running.as_ref().and_then(|running| running.canary.as_ref());
        let trial = canary.map_or(0, |canary| trial::time(&canary.revision.manifest));
        let made = self
            .change(name, None, |before, _, stamp| {
                Ok(record::promote(name, before, trial, stamp)?)
            })
            .await?;
        Ok(self.changed(name, made).await)
    }

    /// Goes back by itself: `failed` has failed too often since that deployment.
    async fn fall_back(self: &Arc<Self>, name: &str, failed: &str, number: u64, why: &str) {
        let made = self
            .change(name, None, |before, _, stamp| {
                let why = why.to_owned();
                Ok(record::fall_back(name, before, failed, number, why, stamp)?)
            })
            .await;
        let failed = failed.get(..12).unwrap_or(failed);
        match made {
            Ok(made) => {
                let revision = made.next.live.get(..12).unwrap_or_default();
                self.metrics.rolled_back(name);
                tracing::error!(
                    event = "deploy.rolled-back",
                    service = name,
                    revision,
                    failed,
                    "revision {failed} failed too often and is taken back: {why}"
                );
            }
            Err(DeployError::Refused(Refused::Superseded(_))) => {}
            Err(error) => {
                tracing::error!(event = "deploy.not-rolled-back", service = name, failed, %error, "this revision fails too often, and cannot be taken back");
            }
        }
    }

    /// Has a service consume nothing on any host, or consume again.
    pub async fn pause(
        self: &Arc<Self>,
        name: &str,
        paused: bool,
    ) -> Result<Option<api::Paused>, DeployError> {
        let Some(service) = self.service(name) else {
            return Ok(None);
        };
        let made = self
            .change(name, None, |before, _, stamp| {
                Ok(record::pause(name, before, paused, stamp)?)
            })
            .await?;
        self.everywhere(name, &made, false, &Steps::default()).await;
        if !paused {
            service.hurry();
        }
        let done = if paused { "paused" } else { "resumed" };
        tracing::info!(event = "service.paused", service = name, "{done}");
        let unchanged = made.before.is_some_and(|before| before.paused == paused);
        Ok(Some(api::Paused {
            name: name.to_owned(),
            paused,
            unchanged,
        }))
    }

    /// Takes a service off all hosts. Its state and its group's offsets stay, so
    /// that it goes on where it was when it is deployed again.
    pub async fn remove(self: &Arc<Self>, name: &str) -> Result<Option<api::Removed>, DeployError> {
        for _ in 0..TRIES {
            let mut turn = self.registry.begin().await?;
            let Some(record) = self.registry.record(name) else {
                return Ok(None);
            };
            let Committed::Done(offset) = turn.commit(name, None).await? else {
                continue;
            };
            drop(turn);
            let gone = self
                .registry
                .everywhere(name, 0, offset, EVERYWHERE, |_| {});
            return Ok(Some(api::Removed {
                name: name.to_owned(),
                revision: record.live,
                hosts: gone.await,
            }));
        }
        Err(RegistryError::Crowded.into())
    }

    /// What ran of a service.
    pub fn history(&self, name: &str) -> Option<api::History> {
        let record = self.registry.record(name)?;
        let now = crate::now_ms();
        let trial = record.trial.as_ref().map(|trial| trial.until);
        Some(api::History {
            name: name.to_owned(),
            before: record.before(),
            live: record.live,
            canary: record.canary,
            trial_until: trial.filter(|until| *until > now),
            entries: record.history,
        })
    }

    /// The live hosts.
    pub fn hosts(&self) -> api::Hosts {
        api::Hosts {
            host: self.registry.host().to_owned(),
            hosts: self.registry.statuses("", 0, -1),
        }
    }

    /// Changes a service's record, whoever else does at the same time: what the
    /// change is made of is what is there when it is made.
    async fn change(
        &self,
        name: &str,
        mut stored: Option<Stored<'_>>,
        change: impl Fn(
            Option<&Deployment>,
            Option<record::Content>,
            &Stamp,
        ) -> Result<Deployment, DeployError>,
    ) -> Result<Made, DeployError> {
        for _ in 0..TRIES {
            let content = stored.as_ref().map(|stored| stored.content.clone());
            let mut turn = self.registry.begin().await?;
            let before = self.registry.record(name);
            let stamp = self.registry.stamp();
            let next = change(before.as_ref(), content, &stamp)?;
            if let Committed::Done(offset) = turn.commit(name, Some(&next)).await? {
                return Ok(Made {
                    before,
                    next,
                    offset,
                });
            }
            drop(turn);
            // Who was faster may have dropped what nobody seemed to need.
            if let Some(stored) = &mut stored {
                let Stored { digest, bytes, .. } = *stored;
                stored.content = self.registry.upload(name, digest, bytes).await?;
            }
        }
        Err(RegistryError::Crowded.into())
    }

    async fn changed(&self, name: &str, made: Made) -> api::Changed {
        let steps = Steps::default();
        let hosts = self.everywhere(name, &made, false, &steps).await;
        let Made { before, next, .. } = made;
        let last = next.history.last();
        let action = last.map_or(api::Action::Rollback, |entry| entry.action);
        let previous = before.map(|before| match (&before.canary, action) {
            (Some(canary), api::Action::Withdraw) => canary.revision.clone(),
            _ => before.live,
        });
        let revision = next.live.get(..12).unwrap_or_default();
        tracing::info!(
            event = "deploy.changed",
            service = name,
            revision,
            "{action:?}"
        );
        api::Changed {
            name: name.to_owned(),
            previous: previous.unwrap_or_default(),
            action,
            hosts,
            revision: next.live,
        }
    }

    async fn everywhere(
        &self,
        name: &str,
        made: &Made,
        alone: bool,
        steps: &Steps,
    ) -> Vec<api::HostStatus> {
        let (number, offset) = (made.next.number, made.offset);
        if !alone {
            let tell = |hosts: &[api::HostStatus]| {
                let hosts = hosts.to_vec();
                steps.say(|| api::Step::Following { hosts });
            };
            return self
                .registry
                .everywhere(name, number, offset, EVERYWHERE, tell)
                .await;
        }
        self.registry.here(name, number, EVERYWHERE).await;
        self.registry.statuses(name, number, offset)
    }

    fn deployed(&self, revision: &Revision) -> api::Deployed {
        api::Deployed {
            name: revision.manifest.name.clone(),
            revision: revision.digest.clone(),
            previous: None,
            routes: routes(&revision.manifest),
            subscribes: subscribes(&revision.manifest),
            created_topics: Vec::new(),
            compile_us: None,
            url: self.url.clone(),
            number: 0,
            dry_run: false,
            canary: None,
            trial_until: None,
            hosts: Vec::new(),
            changes: Vec::new(),
            warnings: Vec::new(),
            smoke: 0,
        }
    }

    fn check_routes(&self, manifest: &Manifest) -> Result<(), DeployError> {
        match self.routes().conflict(manifest) {
            None => Ok(()),
            Some((route, owner)) => Err(DeployError::RouteTaken {
                service: manifest.name.clone(),
                route,
                owner,
            }),
        }
    }
}

/// A canary answers the same requests and consumes the same topics as what it is
/// beside: there is one routing table, and one membership in the group.
fn check_alike(live: &Manifest, canary: &Manifest) -> Result<(), DeployError> {
    let differs = if routes(live) != routes(canary) {
        "routes"
    } else if subscribes(live) != subscribes(canary) {
        "subscriptions"
    } else if live.group() != canary.group() {
        "consumer group"
    } else if live.grants.state != canary.grants.state {
        "grant of state"
    } else if live.delivery != canary.delivery {
        "delivery"
    } else {
        return Ok(());
    };
    Err(DeployError::Unlike(canary.name.clone(), differs))
}
