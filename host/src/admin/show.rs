//! What the admin API says of a service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_cli::api::{
    self, Delivery, Detail, Partition, Role, Shard, StateRow, StateRows, StateTable, StateTables,
    Status, Summary,
};

use crate::events::Note;
use crate::events::delivery;
use crate::host::{Host, routes, subscribes};
use crate::kafka::{Cluster, KafkaError, changelog};
use crate::service::Service;
use crate::state::view::Range;
use crate::state::{State, StoreError, Tables, View, ViewError};

/// Rows of a table are counted up to this.
const COUNTED: usize = 100_000;
/// The most rows that are shown at once.
pub(super) const MOST: u32 = 1_000;

/// Why nothing is consumed at the moment, whatever the service's own status is.
const AWAY: &str = "Kafka does not answer: it goes on by itself when Kafka is back";

pub(super) fn summary(service: &Service, kafka_is_up: bool) -> Summary {
    let running = service.running();
    let revision = &running.live;
    let manifest = &revision.manifest;
    let consumes = !manifest.subscribe.is_empty();
    let board = service.board();
    Summary {
        name: service.name().to_owned(),
        revision: revision.digest.clone(),
        description: manifest.description.clone(),
        routes: routes(manifest),
        subscribes: subscribes(manifest),
        status: match board.status().0 {
            _ if !consumes => Status::Running,
            Status::Running if !kafka_is_up => Status::Starting,
            status => status,
        },
        lag: board.lag().filter(|_| consumes),
        requests: service.metrics.responses(),
        events: service.metrics.events(),
        failures: service.metrics.failures(),
    }
}

pub(super) async fn detail(host: &Host, service: &Arc<Service>) -> Detail {
    let running = service.running();
    let revision = &running.live;
    let manifest = &revision.manifest;
    let consumes = !manifest.subscribe.is_empty();
    let here = service.board().partitions();
    let up = host.cluster.is_up();
    // It would be waited for in vain.
    let everywhere = if consumes && up {
        let (cluster, topics) = (host.cluster.clone(), subscribes(manifest));
        let (group, known) = (manifest.group().to_owned(), here.clone());
        let asked =
            tokio::task::spawn_blocking(move || partitions(&cluster, &group, &topics, known));
        asked.await.ok().and_then(Result::ok)
    } else {
        None
    };
    let partitions = everywhere.unwrap_or(here);
    let mut summary = summary(service, up);
    if summary.status == Status::Paused {
        summary.lag = partitions.iter().map(|partition| partition.lag).sum();
    }
    Detail {
        summary,
        deployed_at: running.deployed_at,
        size: revision.known.size,
        imports: revision.known.imports.clone(),
        exports: revision.known.exports.clone(),
        manifest: tidemill_manifest::without_secrets(&revision.known.manifest),
        group: consumes.then(|| manifest.group().to_owned()),
        delivery: match delivery(manifest, &host.cluster) {
            tidemill_manifest::Delivery::ExactlyOnce => Delivery::ExactlyOnce,
            tidemill_manifest::Delivery::AtLeastOnce => Delivery::AtLeastOnce,
        },
        partitions,
        state: match service.state() {
            Some(kept) if manifest.grants.state => Some(state(host, service.name(), kept)),
            Some(_) | None => None,
        },
        commits: service.metrics.commits(),
        trouble: match consumes {
            true if !up => Some(AWAY.to_owned()),
            true => service.board().trouble_now(),
            false => None,
        },
    }
}

/// All partitions of a group's topics: what this host knows of its own, and what
/// Kafka knows of the others. Blocks.
fn partitions(
    cluster: &Cluster,
    group: &str,
    topics: &[String],
    here: Vec<Partition>,
) -> Result<Vec<Partition>, KafkaError> {
    let mut here: BTreeMap<(String, i32), Partition> = here
        .into_iter()
        .map(|partition| ((partition.topic.clone(), partition.partition), partition))
        .collect();
    let sources = cluster.sources(topics)?;
    let offsets = cluster.group_offsets(group, &sources)?;
    let mut all = Vec::with_capacity(sources.len());
    for source in sources {
        let committed = offsets.get(&source);
        let owner = committed
            .map(|(_, note)| Note::read(note).host)
            .filter(|host| !host.is_empty());
        let known = here.remove(&(source.0.to_string(), source.1));
        all.push(match known {
            Some(known) => Partition { owner, ..known },
            None => {
                let (low, high) = cluster.watermarks(&source.0, source.1)?;
                let position = committed.map_or(-1, |(offset, _)| *offset);
                Partition {
                    topic: source.0.to_string(),
                    partition: source.1,
                    owner,
                    here: false,
                    position,
                    lag: Some((high - position.max(low)).max(0).unsigned_abs()),
                    status: Status::Running,
                    attempt: 0,
                    error: None,
                }
            }
        });
    }
    Ok(all)
}

fn state(host: &Host, name: &str, state: &State) -> api::State {
    let (reading, writing) = (state.reading(), state.writing());
    let generation = writing.generation();
    let topic = (!host.cluster.is_embedded()).then(|| changelog(name, generation));
    let mut shards: BTreeMap<u32, BTreeMap<String, i64>> = BTreeMap::new();
    for shard in writing.shards().iter().chain(&writing.known_shards()) {
        shards.entry(*shard).or_default();
    }
    for ((topic, partition), offset) in writing.positions() {
        let shard = shards.entry(partition.cast_unsigned()).or_default();
        shard.insert(topic.to_string(), offset);
    }
    let replaying = reading.generation() != generation;
    let shown = shards.into_iter().map(|(shard, positions)| {
        let claimed = writing.is_claimed(shard);
        let checkpoint = writing.checkpoint(shard).unwrap_or(0);
        let behind = writing
            .end(shard)
            .map(|end| (end - checkpoint).max(0).unsigned_abs());
        Shard {
            shard,
            role: match claimed {
                true if replaying => Role::Replaying,
                true => Role::Owner,
                false if writing.is_complete() => Role::Following,
                false => Role::Restoring,
            },
            positions,
            checkpoint,
            // An owner has what it wrote.
            behind: if claimed { Some(0) } else { behind },
        }
    });
    api::State {
        changelog: topic,
        generation,
        readable: state.is_readable(),
        shards: shown.collect(),
    }
}

/// The tables of a service's state. Blocks.
pub(super) fn tables(tables: &Tables) -> Result<StateTables, StoreError> {
    let mut shown = Vec::new();
    for table in tables.names()? {
        let mut rows = 0;
        for &shard in tables.shards().iter() {
            let left = (COUNTED + 1).saturating_sub(rows);
            rows += tables
                .scan(shard, &table, None, None, false)
                .take(left)
                .count();
        }
        shown.push(StateTable {
            table,
            rows: rows.min(COUNTED) as u64,
            more: rows > COUNTED,
        });
    }
    Ok(StateTables { tables: shown })
}

/// Which rows of a table are asked for.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    prefix: Option<String>,
    start: Option<String>,
    end: Option<String>,
    limit: Option<u32>,
    #[serde(default)]
    reverse: bool,
}

/// Rows of a table, in order of key, then shard. Blocks.
pub(super) fn rows(
    tables: Arc<Tables>,
    table: &str,
    which: &Which,
) -> Result<StateRows, ViewError> {
    let limit = which.limit.unwrap_or(100);
    if limit == 0 || limit > MOST {
        let why = format!("the limit is 1 to {MOST}, not {limit}");
        return Err(ViewError::Invalid(why));
    }
    let prefix = which.prefix.as_deref().unwrap_or_default().as_bytes();
    let start = which
        .start
        .as_deref()
        .unwrap_or_default()
        .as_bytes()
        .max(prefix);
    let behind = behind(prefix);
    let ends: BTreeSet<&[u8]> = which
        .end
        .as_deref()
        .map(str::as_bytes)
        .into_iter()
        .chain(behind.as_deref())
        .collect();
    let range = Range {
        start: Some(start),
        end: ends.first().copied(),
        limit: limit + 1,
        reverse: which.reverse,
        // What a page may have.
        bytes: 256 << 20,
    };
    let mut rows = View::Shards(tables).scan(&BTreeMap::new(), table, range)?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let rows = rows.into_iter().map(|row| StateRow {
        shard: row.shard,
        key: row.key.to_vec().into(),
        value: row.value.to_vec().into(),
    });
    Ok(StateRows {
        rows: rows.collect(),
        more,
    })
}

/// The first key behind all that begin with a prefix, if there is one.
fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut behind = prefix.to_vec();
    while let Some(last) = behind.pop() {
        if let Some(next) = last.checked_add(1) {
            behind.push(next);
            return Some(behind);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_prefix_is_behind_all_that_begin_with_it() {
        assert_eq!(behind(b"ab").as_deref(), Some(&b"ac"[..]));
        assert_eq!(behind(b"a\xff").as_deref(), Some(&b"b"[..]));
        assert_eq!(behind(b"\xff\xff"), None);
        assert_eq!(behind(b""), None);
    }
}
