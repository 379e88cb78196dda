//! The topics of the deployments, and the one thread that follows them.
//!
//! `FLEET.deployments` has the record of each service, `FLEET.components` the content
//! of revisions, `FLEET.hosts` which hosts live and how far each is. All have one
//! partition and are compacted. A fleet is called `tidemill` unless it is told else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::kafka::{ChangelogReader, Cluster, Entry, KafkaError};

/// What a fleet of hosts shares, by name.
#[derive(Clone, Debug)]
pub struct Names {
    /// The topic of the records of services, by their names.
    pub(super) deployments: Arc<str>,
    /// The topic of the content of revisions.
    pub(super) components: Arc<str>,
    /// The topic of the hosts, by their ids.
    pub(super) hosts: Arc<str>,
    /// The transactional id by which one host writes at a time.
    pub(super) writer: String,
}

impl Names {
    /// Those of a fleet on a cluster.
    pub fn of(cluster: &str, fleet: &str) -> Names {
        Names {
            deployments: format!("{fleet}.deployments").into(),
            components: format!("{fleet}.components").into(),
            hosts: format!("{fleet}.hosts").into(),
            writer: format!("{fleet}.{cluster}.deployments"),
        }
    }
}

/// Which topic something was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    Deployments,
    Hosts,
}

/// How long to wait before the next try.
const PAUSE: Duration = Duration::from_secs(1);
const READ: Duration = Duration::from_millis(100);
const BATCH: usize = 500;

/// What was read.
pub(super) enum Told {
    /// A record of a topic: its offset, key and value.
    Record(Of, i64, Bytes, Option<Bytes>),
    /// All before this offset of a topic has been read.
    End(Of, i64),
}

/// Follows the topics for as long as this value lives.
pub(super) struct Following {
    ending: Arc<AtomicBool>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
    }
}

/// Begins to follow: makes the topics if they are missing, and reads them from
/// their beginning on. `tell` hears of everything, on a thread of its own.
pub(super) fn follow(
    cluster: &Arc<Cluster>,
    names: &Names,
    tell: impl FnMut(Told) + Send + 'static,
) -> Result<Following, KafkaError> {
    let ending = Arc::new(AtomicBool::new(false));
    let follower = Follower {
        cluster: cluster.clone(),
        names: names.clone(),
        runtime: tokio::runtime::Handle::current(),
        ending: ending.clone(),
    };
    std::thread::Builder::new()
        .name("tidemill-deploy".to_owned())
        .spawn(move || follower.run(tell))
        .map_err(|error| KafkaError::Config(error.to_string()))?;
    Ok(Following { ending })
}

struct Follower {
    cluster: Arc<Cluster>,
    names: Names,
    runtime: tokio::runtime::Handle,
    ending: Arc<AtomicBool>,
}

impl Follower {
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    fn run(self, mut tell: impl FnMut(Told)) {
        // Making a topic waits as tasks do.
        let _entered = self.runtime.enter();
        let mut said = false;
        while !self.is_ending() {
            match self.read(&mut tell) {
                Ok(()) => return,
                Err(error) => {
                    if !std::mem::replace(&mut said, true) && self.cluster.is_up() {
                        tracing::warn!(event = "deployments.not-followed", %error, "deployments are not followed, trying again");
                    }
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }

    /// Reads until the end of this host, or a failure.
    fn read(&self, tell: &mut impl FnMut(Told)) -> Result<(), KafkaError> {
        let Names {
            deployments,
            components,
            hosts,
            ..
        } = &self.names;
        for topic in [deployments, components, hosts] {
            self.cluster.create_compacted(topic)?;
        }
        let reader = ChangelogReader::open(&self.cluster)?;
        for topic in [deployments, hosts] {
            reader.follow(&(topic.clone(), 0), 0)?;
        }
        let mut astray = None;
        while !self.is_ending() && astray.is_none() {
            reader.read(BATCH, READ, |topic, _, entry| {
                let of = match topic == &**deployments {
                    true => Of::Deployments,
                    false => Of::Hosts,
                };
                match entry {
                    Entry::Record(offset, Some(key), value) => {
                        tell(Told::Record(of, offset, key, value));
                    }
                    // No record of ours.
                    Entry::Record(_, None, _) => {}
                    Entry::End(end) => tell(Told::End(of, end)),
                    Entry::OutOfRange => astray = Some(topic.to_owned()),
                    Entry::Failed(why) => tracing::debug!(topic, "reading failed: {why}"),
                }
            });
        }
        match astray {
            None => Ok(()),
            // Made anew, perhaps: from the beginning again.
            Some(topic) => Err(KafkaError::Changelog {
                topic,
                cause: "it is not as long as it was".to_owned(),
            }),
        }
    }
}
