//! Replay: a service's state is made anew from its topics.
//!
//! The next generation of the changelog is created, with as many partitions as
//! the topics have now. That it is there is all that hosts need to know: the owner
//! of each shard stops it at a committed offset, runs the past events up to there
//! again for their rows alone, and goes on with the new generation. Requests are
//! answered from the old one until the new one has seen as much. So any host may
//! die at any point: whoever has the shard next finds the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_cli::api;

use crate::host::{Host, subscribes};
use crate::kafka::{KafkaError, Source, changelog};
use crate::service::Service;
use crate::state::State;

/// Why a replay does not begin.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// There is nothing to rebuild.
    #[error("{0} has no state: it has no `state = true` under [grants]")]
    NoState(String),
    /// The embedded broker.
    #[error(
        "the embedded broker keeps no changelogs, and not all events: a state can be rebuilt on a \
         real Kafka"
    )]
    Embedded,
    /// The one before has not ended.
    #[error(
        "a replay of {0} into generation {1} is under way: `tidemill replay {0} --watch` shows it"
    )]
    UnderWay(String, u32),
    /// Events are missing.
    #[error(
        "retention has removed the first {2} events of {0}/{1}: a state that is rebuilt would lack \
         what they made. To go on with what is left, say --partial"
    )]
    Removed(String, i32, i64),
    /// Kafka does not do what is needed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A task of the host's failed.
    #[error("the host failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Begins a replay. With `partial`, although events are missing.
pub async fn begin(
    host: &Arc<Host>,
    service: &Arc<Service>,
    partial: bool,
) -> Result<api::Replay, ReplayError> {
    let state = check(host, service)?;
    let name = service.name().to_owned();
    let reading = state.reading().generation();
    let writing = state.writing().generation();
    if reading != writing {
        return Err(ReplayError::UnderWay(name, writing));
    }
    let topics = subscribes(&service.current().manifest);
    let cluster = host.cluster.clone();
    let created = tokio::task::spawn_blocking(move || {
        let partitions = cluster.check_equal_partitions(&topics)?.unwrap_or(1);
        if !partial {
            for (topic, partition) in cluster.sources(&topics)? {
                let (low, _) = cluster.watermarks(&topic, partition)?;
                if low > 0 {
                    return Err(ReplayError::Removed(topic.to_string(), partition, low));
                }
            }
        }
        let newest = cluster.newest_changelog(&name)?;
        let generation = newest.map_or(1, |(generation, _)| generation + 1);
        cluster.create_changelog(&changelog(&name, generation), partitions)?;
        Ok(generation)
    });
    let generation = created.await??;
    tracing::info!(
        event = "replay.begun",
        service = service.name(),
        generation,
        "the state is rebuilt"
    );
    host.look(service.name()).await;
    progress(host, service).await
}

/// How far the latest replay is.
pub async fn progress(
    host: &Arc<Host>,
    service: &Arc<Service>,
) -> Result<api::Replay, ReplayError> {
    let state = check(host, service)?;
    let manifest = service.current().manifest.clone();
    let (name, topics) = (service.name().to_owned(), subscribes(&manifest));
    let (cluster, group) = (host.cluster.clone(), manifest.group().to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        let newest = cluster
            .newest_changelog(&name)?
            .map_or(1, |(newest, _)| newest);
        let sources = cluster.sources(&topics)?;
        let offsets = cluster.group_offsets(&group, &sources)?;
        // From the first event that is left to where the group is.
        let mut spans: BTreeMap<Source, (i64, i64)> = BTreeMap::new();
        for (source, (offset, _)) in offsets {
            let (low, _) = cluster.watermarks(&source.0, source.1)?;
            spans.insert(source, (low, offset));
        }
        Ok::<_, KafkaError>((newest, spans))
    });
    let (newest, spans) = asked.await??;
    let (reading, writing) = (state.reading(), state.writing());
    let seen = if writing.generation() == newest {
        writing.positions()
    } else {
        BTreeMap::new()
    };
    let (mut replayed, mut total) = (0, 0);
    for (source, (low, end)) in &spans {
        let position = seen.get(source).copied().unwrap_or(*low);
        replayed += (position.min(*end) - low).max(0).unsigned_abs();
        total += (end - low).max(0).unsigned_abs();
    }
    Ok(api::Replay {
        generation: newest,
        changelog: changelog(service.name(), newest),
        done: reading.generation() >= newest,
        replayed,
        total,
        // What was in the way before the replay is no trouble of it.
        trouble: (writing.generation() == newest)
            .then(|| service.board().trouble_now())
            .flatten(),
    })
}

fn check<'s>(host: &Host, service: &'s Service) -> Result<&'s State, ReplayError> {
    let granted = service.current().manifest.grants.state;
    let Some(state) = service.state().filter(|_| granted) else {
        return Err(ReplayError::NoState(service.name().to_owned()));
    };
    if host.cluster.is_embedded() {
        return Err(ReplayError::Embedded);
    }
    Ok(state)
}
