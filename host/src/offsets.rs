//! Where a service's group is in its topics, and setting it.
//!
//! Offsets are set while nobody is in the group: Kafka refuses it otherwise. For a
//! service with state the shards' positions are written to its changelog after
//! that, since a shard goes on where its state is. If this host dies in between,
//! the group goes on as if nothing had been set, and it can be set again.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_cli::api;

use crate::effects::Message;
use crate::events::Note;
use crate::host::{Host, subscribes};
use crate::kafka::{Cluster, KafkaError, Source, changelog};
use crate::service::Service;
use crate::state::rows::POSITION;
use crate::state::{Position, State};

/// How long the copy of the state may take to reach the changelog's end.
const CATCH_UP: std::time::Duration = std::time::Duration::from_secs(15);

/// Why offsets cannot be shown or set.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    /// It consumes nothing.
    #[error("{0} has no offsets: it has no [[subscribe]]")]
    NoSubscription(String),
    /// A topic or partition that is not consumed.
    #[error("{0} does not consume {1}")]
    NotConsumed(String, String),
    /// It is consumed.
    #[error("{0} consumes on this host: `tidemill pause {0}` first, on every host that runs it")]
    Running(String),
    /// The embedded broker.
    #[error("the embedded broker's offsets end with it: they can be set on a real Kafka")]
    Embedded,
    /// The state is not here.
    #[error("the state of {0} is not up to date on this host: try again")]
    Behind(String),
    /// A row was not written.
    #[error(
        "the offsets are set, but the changelog {0} did not take the positions that belong to \
         them: do the same again. {1}"
    )]
    Changelog(String, String),
    /// Kafka does not do what is needed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// A task of the host's failed.
    #[error("the host failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Where the group is.
pub async fn show(host: &Host, service: &Service) -> Result<api::Offsets, OffsetsError> {
    let manifest = service.current().manifest.clone();
    let group = manifest.group().to_owned();
    let topics = topics(service)?;
    let (cluster, of) = (host.cluster.clone(), group.clone());
    let spans = tokio::task::spawn_blocking(move || spans(&cluster, &of, &topics)).await??;
    let partitions = spans
        .into_iter()
        .map(|(source, span)| api::PartitionOffsets {
            topic: source.0.to_string(),
            partition: source.1,
            start: span.start,
            end: span.end,
            committed: span.committed,
            owner: span.owner,
        });
    Ok(api::Offsets {
        group,
        partitions: partitions.collect(),
    })
}

/// Sets where the group goes on, or says what that would do.
pub async fn reset(
    host: &Host,
    service: &Arc<Service>,
    request: api::ResetRequest,
) -> Result<api::Reset, OffsetsError> {
    let name = service.name();
    let manifest = service.current().manifest.clone();
    let group = manifest.group().to_owned();
    let mut topics = topics(service)?;
    if let Some(topic) = &request.topic {
        topics.retain(|known| known == topic);
    }
    let (cluster, of, asked) = (host.cluster.clone(), group.clone(), request.clone());
    let planned = tokio::task::spawn_blocking(move || {
        let mut spans = spans(&cluster, &of, &topics)?;
        spans.retain(|(_, partition), _| asked.partition.is_none_or(|only| only == *partition));
        let times = match asked.to {
            api::ResetTo::Time(time) => {
                let sources: Vec<Source> = spans.keys().cloned().collect();
                cluster.offsets_at(&sources, time)?
            }
            _ => BTreeMap::new(),
        };
        let planned = spans.into_iter().map(|(source, span)| {
            let time = times.get(&source).copied().flatten();
            let to = span.target(asked.to, time);
            (source, span.committed, to)
        });
        Ok::<_, KafkaError>(planned.collect::<Vec<_>>())
    });
    let planned = planned.await??;
    if planned.is_empty() {
        let topic = request.topic.as_deref().unwrap_or("any such partition");
        let asked = match request.partition {
            Some(partition) => format!("{topic}/{partition}"),
            None => topic.to_owned(),
        };
        return Err(OffsetsError::NotConsumed(name.to_owned(), asked));
    }
    let partitions = planned
        .iter()
        .map(|(source, from, to)| api::PartitionReset {
            topic: source.0.to_string(),
            partition: source.1,
            from: *from,
            to: *to,
            skipped: from.map_or(0, |from| to - from),
        });
    let reset = api::Reset {
        group: group.clone(),
        done: !request.dry_run,
        state: manifest.grants.state,
        partitions: partitions.collect(),
    };
    if request.dry_run {
        return Ok(reset);
    }
    if host.cluster.is_embedded() {
        return Err(OffsetsError::Embedded);
    }
    if !*service.paused().borrow() {
        return Err(OffsetsError::Running(name.to_owned()));
    }
    let targets: BTreeMap<Source, i64> = planned
        .into_iter()
        .map(|(source, _, to)| (source, to))
        .collect();
    let (cluster, of) = (host.cluster.clone(), targets.clone());
    let note = Note {
        host: host.shared.host_id.to_string(),
        deployment: service.number(),
    };
    let note = note.to_string();
    tokio::task::spawn_blocking(move || cluster.commit_for(&group, &of, &note)).await??;
    if let Some(state) = service.state()
        && manifest.grants.state
    {
        move_state(host, service.name(), state, &targets).await?;
    }
    tracing::warn!(
        event = "offsets.reset",
        service = name,
        "the offsets of its group were set by hand"
    );
    Ok(reset)
}

/// Writes the positions of shards to their changelog.
async fn move_state(
    host: &Host,
    name: &str,
    state: &State,
    targets: &BTreeMap<Source, i64>,
) -> Result<(), OffsetsError> {
    let tables = state.writing();
    let topic: Arc<str> = changelog(name, tables.generation()).into();
    let mut shards: BTreeMap<i32, BTreeMap<String, i64>> = BTreeMap::new();
    for ((of, partition), offset) in targets {
        let moved = shards.entry(*partition).or_default();
        moved.insert(of.to_string(), *offset);
    }
    let mut rows = Vec::new();
    for (shard, moved) in shards {
        // Nobody writes it, since nobody is in the group; but the copy here may
        // lack the latest of what was written.
        let source = (topic.clone(), shard);
        let (cluster, asked) = (host.cluster.clone(), source.clone());
        let asked = move || cluster.watermarks(&asked.0, asked.1);
        let (_, end) = tokio::task::spawn_blocking(asked).await??;
        let handing = host.shared.follower.hand_over(&source, end);
        let held = match tokio::time::timeout(CATCH_UP, handing).await {
            Ok(Some(held)) => held,
            _ => return Err(OffsetsError::Behind(name.to_owned())),
        };
        let mut positions = tables.positions_of(shard.unsigned_abs());
        positions.extend(moved);
        let position = Position {
            positions,
            host: host.shared.host_id.to_string(),
        };
        rows.push(Message {
            topic: topic.clone(),
            partition: Some(shard),
            key: Some(POSITION.into()),
            value: Some(position.encode()),
            headers: Vec::new(),
        });
        // From here on the copy follows again.
        drop(held);
    }
    let published = host.shared.publisher.publish(rows.iter()).await;
    match published.failed.into_iter().next() {
        None => Ok(()),
        Some((_, error)) => Err(OffsetsError::Changelog(
            topic.to_string(),
            error.to_string(),
        )),
    }
}

/// What there is of a partition, and where the group is in it.
struct Span {
    start: i64,
    end: i64,
    committed: Option<i64>,
    owner: Option<String>,
}

impl Span {
    /// Where the group shall go on. `time` is the offset of the time that was
    /// asked for, if there is an event of that time or later.
    fn target(&self, to: api::ResetTo, time: Option<i64>) -> i64 {
        let wanted = match to {
            api::ResetTo::Earliest => self.start,
            api::ResetTo::Latest => self.end,
            api::ResetTo::Offset(offset) => offset,
            api::ResetTo::By(events) => self.committed.unwrap_or(self.start).saturating_add(events),
            api::ResetTo::Time(_) => time.unwrap_or(self.end),
        };
        wanted.clamp(self.start, self.end)
    }
}

/// All partitions of these topics. Blocks.
fn spans(
    cluster: &Cluster,
    group: &str,
    topics: &[String],
) -> Result<BTreeMap<Source, Span>, KafkaError> {
    let sources = cluster.sources(topics)?;
    let mut offsets = cluster.group_offsets(group, &sources)?;
    let spans = sources.into_iter().map(|source| {
        let (start, end) = cluster.watermarks(&source.0, source.1)?;
        let (committed, owner) = offsets.remove(&source).unzip();
        Ok((
            source,
            Span {
                start,
                end,
                committed,
                owner,
            },
        ))
    });
    spans.collect()
}

fn topics(service: &Service) -> Result<Vec<String>, OffsetsError> {
    let topics = subscribes(&service.current().manifest);
    if topics.is_empty() {
        return Err(OffsetsError::NoSubscription(service.name().to_owned()));
    }
    Ok(topics)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::ResetTo;

    #[test]
    fn a_group_goes_on_within_what_there_is() {
        let span = |committed| Span {
            start: 10,
            end: 50,
            committed,
            owner: None,
        };
        let at = |to| span(Some(20)).target(to, None);
        assert_eq!(at(ResetTo::Earliest), 10);
        assert_eq!(at(ResetTo::Latest), 50);
        assert_eq!(at(ResetTo::Offset(30)), 30);
        assert_eq!(at(ResetTo::Offset(3)), 10);
        assert_eq!(at(ResetTo::By(-5)), 15);
        assert_eq!(at(ResetTo::By(i64::MAX)), 50);
        assert_eq!(span(None).target(ResetTo::By(5), None), 15);
        assert_eq!(at(ResetTo::Time(0)), 50);
        assert_eq!(span(None).target(ResetTo::Time(0), Some(33)), 33);
    }
}
