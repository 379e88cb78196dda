//! A service's subscription: its membership in the consumer group, the lanes of
//! the partitions it was assigned, and their committer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_manifest::{Manifest, Start as Begin};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::committer::Committer;
use super::group::{Done, Origin};
use super::lane::{Lane, Order, Ties};
use crate::kafka::{Change, Cluster, Consumer, Ends, KafkaError, Publisher, Source};
use crate::service::Service;
use crate::state::{Commit, StoreError, Tables};

/// How long revoked partitions may take to finish what runs on them. Below the
/// time in which the broker waits for a rebalance.
const DRAIN: Duration = Duration::from_secs(20);

/// A running subscription. It ends when it is stopped, or dropped.
pub struct Subscription {
    topics: Vec<String>,
    group: String,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Subscription {
    /// Joins the group and consumes in the background from then on.
    pub fn start(
        service: Arc<Service>,
        cluster: Arc<Cluster>,
        publisher: Arc<Publisher>,
    ) -> Result<Subscription, KafkaError> {
        let manifest = service.current().manifest.clone();
        let topics = topics(&manifest);
        let (changes, changed) = mpsc::unbounded_channel();
        let (ends, end) = watch::channel(Ends::new());
        // Partition i of all topics has to be with one host where state joins
        // them; anything else may move one by one.
        let incremental = !(manifest.grants.state && topics.len() > 1);
        let group = manifest.group().to_owned();
        let consumer = Consumer::join(&cluster, &group, &topics, incremental, changes, ends)?;
        let consumer = Arc::new(consumer);
        let tables = manifest.grants.state.then(|| service.tables.clone());
        let (done, to_commit) = mpsc::unbounded_channel();
        let committer = Committer {
            service: service.name().into(),
            done: to_commit,
            publisher,
            consumer: consumer.clone(),
            tables: tables.clone(),
            metrics: service.metrics.clone(),
        };
        let (stop, stopped) = oneshot::channel();
        let member = Member {
            service,
            cluster,
            consumer,
            tables,
            committing: tokio::spawn(committer.run()),
            done,
            lanes: Vec::new(),
        };
        Ok(Subscription {
            topics,
            group,
            stop: Some(stop),
            task: tokio::spawn(member.run(changed, end, stopped)),
        })
    }

    /// Whether a manifest wants just this subscription.
    pub fn fits(&self, manifest: &Manifest) -> bool {
        self.topics == topics(manifest) && self.group == manifest.group()
    }

    /// Finishes what runs, commits it, and leaves the group.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "a subscription did not end well");
        }
    }
}

fn topics(manifest: &Manifest) -> Vec<String> {
    let topics = manifest.subscribe.iter();
    let mut topics: Vec<String> = topics.map(|one| one.topic.clone()).collect();
    topics.sort_unstable();
    topics
}

/// Why partitions that were assigned are not consumed.
#[derive(Debug, thiserror::Error)]
enum TakeError {
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a task of the host's failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

struct Member {
    service: Arc<Service>,
    cluster: Arc<Cluster>,
    consumer: Arc<Consumer>,
    tables: Option<Arc<Tables>>,
    committing: JoinHandle<()>,
    done: mpsc::UnboundedSender<Done>,
    lanes: Vec<Running>,
}

/// Where partitions are begun.
#[derive(Debug, Default)]
struct Starts {
    /// Where they were left.
    known: BTreeMap<Source, i64>,
    /// Where the manifest says, for those consumed for the first time.
    begun: BTreeMap<Source, i64>,
}

impl Starts {
    fn positions(&self) -> BTreeMap<Source, i64> {
        let both = self.known.iter().chain(&self.begun);
        both.map(|(source, offset)| (source.clone(), *offset))
            .collect()
    }
}

/// A lane at work, seen from outside.
struct Running {
    sources: Vec<Source>,
    origin: Arc<Origin>,
    orders: watch::Sender<Order>,
    task: JoinHandle<()>,
}

impl Member {
    async fn run(
        mut self,
        mut changes: mpsc::UnboundedReceiver<Change>,
        mut ends: watch::Receiver<Ends>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        // An assignment that is not answered yet: at once, or after a failure
        // again and again. One without partitions wants its answer as well, or
        // the group waits for it, and nothing is read of those that are kept.
        let mut unanswered: Option<Vec<Source>> = None;
        loop {
            let again = unanswered.is_some();
            tokio::select! {
                why = self.consumer.serve() => {
                    let service = self.service.name();
                    tracing::debug!(service, "the consumer says: {why}");
                }
                Some(change) = changes.recv() => match change {
                    Change::Assigned(sources) => {
                        unanswered.get_or_insert_default().extend(sources);
                    }
                    // These answer for an assignment before them, too.
                    Change::Revoked(sources) => {
                        unanswered = without(unanswered, &sources);
                        self.revoked(&sources).await;
                    }
                    Change::Lost(sources) => {
                        unanswered = without(unanswered, &sources);
                        self.lost(&sources);
                    }
                },
                () = tokio::time::sleep(Duration::from_secs(1)), if again => {}
                Ok(()) = ends.changed() => {
                    self.service.board().ends(ends.borrow_and_update().clone());
                    continue;
                }
                _ = &mut stopped => break,
            }
            if let Some(sources) = &unanswered {
                match self.take(sources).await {
                    Ok(()) => {
                        unanswered = None;
                        self.service.board().trouble(None);
                    }
                    Err(error) => {
                        let service = self.service.name();
                        tracing::warn!(service, %error, "partitions are not consumed yet, trying again");
                        self.service.board().trouble(Some(error.to_string()));
                    }
                }
            }
        }
        self.leave().await;
    }

    /// Starts lanes for partitions that were assigned.
    async fn take(&mut self, sources: &[Source]) -> Result<(), TakeError> {
        let starts = self.starts(sources.to_vec()).await?;
        let queues = self.consumer.take(&starts.positions())?;
        self.keep(&starts.begun).await?;
        for (source, position) in starts.positions() {
            self.service.board().took(source, position);
        }
        // With state, partition i of every topic is one shard with one writer.
        let mut shards: BTreeMap<(i32, Option<Arc<str>>), Vec<_>> = BTreeMap::new();
        for (source, queue) in queues {
            let apart = self.tables.is_none().then(|| source.0.clone());
            let shard = shards.entry((source.1, apart)).or_default();
            shard.push((source, queue));
        }
        for queues in shards.into_values() {
            let sources: Vec<Source> = queues.iter().map(|(source, _)| source.clone()).collect();
            let (replies, replied) = mpsc::unbounded_channel();
            let origin = Arc::new(Origin::new(replies));
            let (orders, ordered) = watch::channel(Order::Run);
            let lane = Lane::new(Ties {
                service: self.service.clone(),
                cluster: self.cluster.clone(),
                consumer: self.consumer.clone(),
                done: self.done.clone(),
                origin: origin.clone(),
                replies: replied,
                orders: ordered,
                swaps: self.service.swaps(),
                tables: self.tables.clone(),
            });
            self.lanes.push(Running {
                sources,
                origin,
                orders,
                task: tokio::spawn(lane.run(queues)),
            });
        }
        if !sources.is_empty() {
            let service = self.service.name();
            tracing::info!(service, partitions = %shown(sources), "consuming");
        }
        Ok(())
    }

    /// Where to begin each partition: where this host's state is, for a service
    /// with state, so that it has every event once whatever the group committed;
    /// else where the group is; else where the manifest says.
    async fn starts(&self, sources: Vec<Source>) -> Result<Starts, TakeError> {
        let manifest = self.service.current().manifest.clone();
        let (consumer, cluster) = (self.consumer.clone(), self.cluster.clone());
        let tables = self.tables.clone();
        let found = tokio::task::spawn_blocking(move || {
            let mut starts = Starts::default();
            match tables {
                Some(tables) => {
                    for source in &sources {
                        if let Some(offset) = tables.position(&source.0, source.1)? {
                            starts.known.insert(source.clone(), offset);
                        }
                    }
                }
                None => starts.known = consumer.committed(&sources)?,
            }
            for source in sources {
                if starts.known.contains_key(&source) {
                    continue;
                }
                let (low, high) = cluster.watermarks(&source.0, source.1)?;
                let one = manifest
                    .subscribe
                    .iter()
                    .find(|one| *one.topic == *source.0);
                let begin = one.map_or(Begin::Earliest, |one| one.start);
                let offset = match begin {
                    Begin::Earliest => low,
                    Begin::Latest => high,
                };
                starts.begun.insert(source, offset);
            }
            Ok::<_, TakeError>(starts)
        });
        found.await?
    }

    /// Keeps where partitions were begun, so that "latest" means the time of the
    /// first start and not that of each.
    async fn keep(&self, begun: &BTreeMap<Source, i64>) -> Result<(), TakeError> {
        if begun.is_empty() {
            return Ok(());
        }
        if let Some(tables) = &self.tables {
            tables.commit(&Commit {
                positions: begun.clone(),
                ..Commit::default()
            })?;
        }
        let (consumer, begun) = (self.consumer.clone(), begun.clone());
        tokio::task::spawn_blocking(move || consumer.commit(&begun, true)).await??;
        Ok(())
    }

    /// Finishes what runs on these partitions, commits it, and lets them go.
    async fn revoked(&mut self, sources: &[Source]) {
        self.drain(sources).await;
        self.let_go(sources);
    }

    fn lost(&mut self, sources: &[Source]) {
        let service = self.service.name();
        tracing::warn!(service, partitions = %shown(sources), "partitions were lost: what ran on them and was not committed is dropped");
        for lane in self.lanes_of(sources) {
            lane.origin.disown();
            lane.task.abort();
        }
        self.let_go(sources);
    }

    fn let_go(&mut self, sources: &[Source]) {
        for source in sources {
            self.service.board().let_go(source);
        }
        if let Err(error) = self.consumer.let_go(sources) {
            tracing::warn!(service = self.service.name(), %error, "partitions were not given back");
        }
    }

    async fn drain(&mut self, sources: &[Source]) {
        let draining = self.lanes_of(sources);
        for lane in &draining {
            // A lane that has ended needs no order.
            let _ = lane.orders.send(Order::Drain);
        }
        let deadline = tokio::time::Instant::now() + DRAIN;
        for mut lane in draining {
            if tokio::time::timeout_at(deadline, &mut lane.task)
                .await
                .is_err()
            {
                let service = self.service.name();
                tracing::warn!(service, partitions = %shown(&lane.sources), "what ran on these partitions was not committed in time and is dropped");
                lane.origin.disown();
                lane.task.abort();
            }
        }
        // What is committed here need not be run again by the next owner. Its
        // queue is answered in order, so this is the last word on them.
        let board = self.service.board();
        let positions = sources.iter().filter_map(|source| {
            let position = board.position(source);
            (position >= 0).then(|| (source.clone(), position))
        });
        let positions: BTreeMap<Source, i64> = positions.collect();
        let consumer = self.consumer.clone();
        let committed =
            tokio::task::spawn_blocking(move || consumer.commit(&positions, true)).await;
        if let Ok(Err(error)) = committed {
            tracing::debug!(service = self.service.name(), %error, "last offsets were not committed");
        }
    }

    /// Takes out the lanes that have any of these partitions.
    fn lanes_of(&mut self, sources: &[Source]) -> Vec<Running> {
        let lanes = std::mem::take(&mut self.lanes);
        let (theirs, others) = lanes
            .into_iter()
            .partition(|lane| lane.sources.iter().any(|source| sources.contains(source)));
        self.lanes = others;
        theirs
    }

    async fn leave(mut self) {
        let lanes = self.lanes.iter();
        let sources: Vec<Source> = lanes.flat_map(|lane| lane.sources.clone()).collect();
        self.drain(&sources).await;
        for source in &sources {
            self.service.board().let_go(source);
        }
        // With the lanes gone, the committer ends as well, and with it the last
        // one that holds the consumer.
        drop(self.done);
        self.committing.abort();
        let _ = self.committing.await;
        if let Some(consumer) = Arc::into_inner(self.consumer) {
            let left = tokio::task::spawn_blocking(move || consumer.leave()).await;
            if let Err(error) = left {
                tracing::error!(service = self.service.name(), %error, "the group was not left");
            }
        } else {
            tracing::error!(
                service = self.service.name(),
                "the consumer is still in use"
            );
        }
    }
}

/// An assignment less what was taken away of it; none if nothing is left.
fn without(assigned: Option<Vec<Source>>, gone: &[Source]) -> Option<Vec<Source>> {
    let mut left = assigned?;
    left.retain(|source| !gone.contains(source));
    (!left.is_empty()).then_some(left)
}

/// `topic/0,1,2 other/0`
fn shown(sources: &[Source]) -> String {
    let mut topics: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (topic, partition) in sources {
        let numbers = topics.entry(topic).or_default();
        numbers.push(partition.to_string());
    }
    let topics = topics
        .into_iter()
        .map(|(topic, numbers)| format!("{topic}/{}", numbers.join(",")));
    topics.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_shown_by_topic() {
        let sources: [Source; 3] = [("b".into(), 0), ("a".into(), 1), ("b".into(), 2)];
        assert_eq!(shown(&sources), "a/1 b/0,2");
    }
}
