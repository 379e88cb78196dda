//! One membership in a consumer group: the partitions that this host was given,
//! their lanes, and the committer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::committer::{Broken, Committer, Means};
use super::group::{Done, Origin, Shard};
use super::lane::{Lane, Order, Ties};
use super::ownership::{Ownership, Step, Unit};
use super::rebuild::Looked;
use super::starts::Starts;
use super::subscription::{Changelog, Run, Said, StartError, turned};
use crate::follower::Held;
use crate::kafka::{Change, Cluster, Consumer, Ends, KafkaError, Membered, Source, Trouble};
use crate::metrics::Change as Rebalance;
use crate::sabotage;

/// How long revoked partitions may take to finish what runs on them. Below the
/// time in which the broker waits for a rebalance.
const DRAIN: Duration = Duration::from_secs(20);
/// How often it is looked whether another state may be read.
const TICK: Duration = Duration::from_secs(1);
/// Every how many ticks the broker is asked whether topics are as they were.
const LOOK: u32 = 5;

/// After how many ticks without partitions it is taken for granted that there
/// are none for this host.
const IDLE: u32 = 3;

/// How a membership ended.
pub(super) enum End {
    /// It was told to.
    Stopped,
    /// It was told to consume nothing for a while.
    Paused,
    /// It cannot go on; another may.
    Again(String),
}

/// A lane at work, seen from outside.
struct Running {
    term: u64,
    sources: Vec<Source>,
    origin: Arc<Origin>,
    orders: watch::Sender<Order>,
    task: JoinHandle<()>,
}

/// A unit whose state is here.
struct Ready {
    unit: Unit,
    term: u64,
    held: Option<Held>,
}

pub(super) struct Member<'a> {
    pub(super) run: &'a Run,
    consumer: Arc<Consumer>,
    pub(super) changelog: Option<Changelog>,
    committing: JoinHandle<Result<(), Broken>>,
    done: mpsc::UnboundedSender<Done>,
    pub(super) ownership: Ownership,
    lanes: BTreeMap<Unit, Running>,
    /// Where the group was when a partition was assigned.
    starts: BTreeMap<Source, i64>,
    /// Where partitions are read on whose events are gone.
    jumped: BTreeMap<Source, i64>,
    /// The number of the deployment that each ran by last, anywhere.
    deployments: BTreeMap<Source, u64>,
    /// Partitions that nothing was read of since they were assigned.
    untouched: BTreeMap<Source, i64>,
    catching_up: JoinSet<Option<Ready>>,
    pub(super) looking: JoinSet<Result<Looked, KafkaError>>,
    /// Which member this is, as it is kept in case that it is killed.
    known_as: Option<Membered>,
    /// Ticks in the group without a partition.
    idle: u32,
    /// Nothing is begun any more.
    leaving: bool,
    changes: mpsc::UnboundedReceiver<Change>,
    ends: watch::Receiver<Ends>,
}

impl<'a> Member<'a> {
    pub(super) fn join(
        run: &'a Run,
        means: Means,
        changelog: Option<Changelog>,
    ) -> Result<Member<'a>, KafkaError> {
        let (changes, changed) = mpsc::unbounded_channel();
        let (ends, end) = watch::channel(Ends::new());
        // Partition i of all topics has to be with one host where state joins
        // them; anything else may go anywhere.
        let together = run.state && run.topics.len() > 1;
        let cluster = &run.shared.cluster;
        let consumer = Consumer::join(cluster, &run.group, &run.topics, together, changes, ends)?;
        let consumer = Arc::new(consumer);
        let (done, to_commit) = mpsc::unbounded_channel();
        let committer = Committer {
            service: run.service.clone(),
            host: run.shared.host_id.clone(),
            done: to_commit,
            means,
            consumer: consumer.clone(),
        };
        Ok(Member {
            run,
            consumer,
            changelog,
            committing: tokio::spawn(committer.run()),
            done,
            ownership: Ownership::new(&run.topics, run.state),
            lanes: BTreeMap::new(),
            starts: BTreeMap::new(),
            jumped: BTreeMap::new(),
            deployments: BTreeMap::new(),
            untouched: BTreeMap::new(),
            catching_up: JoinSet::new(),
            looking: JoinSet::new(),
            known_as: None,
            idle: 0,
            leaving: false,
            changes: changed,
            ends: end,
        })
    }

    pub(super) fn name(&self) -> &str {
        self.run.service.name()
    }

    pub(super) async fn run(
        mut self,
        stopped: &mut oneshot::Receiver<()>,
        paused: &mut watch::Receiver<bool>,
    ) -> End {
        // An assignment that is not answered yet: at once, or after a failure
        // again and again. One without partitions wants its answer as well, or
        // the group waits for it, and nothing is read of those that are kept.
        let mut unanswered: Option<Vec<Source>> = None;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks = 0u32;
        let mut said = Said::default();
        let why = loop {
            tokio::select! {
                trouble = self.consumer.serve(&self.run.shared.cluster) => {
                    if let Some(why) = self.hear(trouble) {
                        break why;
                    }
                    continue;
                }
                Some(change) = self.changes.recv() => match change {
                    Change::Assigned(sources) => {
                        self.run.service.metrics.rebalanced(Rebalance::Assigned);
                        unanswered.get_or_insert_default().extend(sources);
                    }
                    // These answer for an assignment before them, too.
                    Change::Revoked(sources) => {
                        unanswered = without(unanswered, &sources);
                        self.run.service.metrics.rebalanced(Rebalance::Revoked);
                        let steps = self.ownership.revoked(&sources);
                        self.take(steps).await;
                        self.let_go(&sources);
                    }
                    Change::Lost(sources) => {
                        unanswered = without(unanswered, &sources);
                        self.run.service.metrics.rebalanced(Rebalance::Lost);
                        let shown = shown(&sources);
                        tracing::warn!(event = "partitions.lost", service = self.name(), partitions = %shown, "partitions were lost: what ran on them and was not committed is dropped");
                        let steps = self.ownership.lost(&sources);
                        self.take(steps).await;
                        self.let_go(&sources);
                    }
                },
                Some(ready) = self.catching_up.join_next() => {
                    if let Ok(Some(ready)) = ready && let Err(error) = self.start(ready).await {
                        break error.to_string();
                    }
                    continue;
                }
                Some(looked) = self.looking.join_next() => {
                    if let Ok(Ok(looked)) = looked {
                        self.see(looked).await;
                    }
                    continue;
                }
                () = self.run.astray.told() => {
                    self.leave(true).await;
                    return End::Again("the next event of a partition is not there".to_owned());
                }
                () = self.run.look.notified() => {
                    self.look();
                    continue;
                }
                _ = tick.tick() => {
                    self.change_over();
                    self.remember();
                    self.notice_idle();
                    ticks += 1;
                    if ticks.is_multiple_of(LOOK) {
                        self.look();
                    }
                }
                Ok(()) = self.ends.changed() => {
                    let ends = self.ends.borrow_and_update().clone();
                    self.run.service.board().ends(ends);
                    continue;
                }
                broken = &mut self.committing => {
                    break match broken {
                        Ok(Err(broken)) if broken.in_doubt => {
                            format!("it is not known whether a transaction was committed: {broken}")
                        }
                        Ok(Err(broken)) => format!("transactions cannot go on: {broken}"),
                        Ok(Ok(())) | Err(_) => "the committer ended".to_owned(),
                    };
                }
                _ = &mut *stopped => {
                    self.leave(true).await;
                    return End::Stopped;
                }
                () = turned(paused, true) => {
                    self.leave(true).await;
                    return End::Paused;
                }
            }
            if let Some(sources) = unanswered.take() {
                match self.assigned(&sources).await {
                    Ok(()) => {
                        self.run.service.board().trouble(None);
                        said = Said::default();
                    }
                    Err(error) => {
                        if said.is_new(&error) {
                            tracing::warn!(event = "partitions.waiting", service = self.name(), %error, "partitions are not consumed yet, trying again");
                        }
                        self.run.service.board().trouble(Some(error.to_string()));
                        unanswered = Some(sources);
                    }
                }
            }
        };
        self.leave(false).await;
        End::Again(why)
    }

    /// Something is wrong with the consumer. Returns why it cannot go on.
    fn hear(&self, trouble: Trouble) -> Option<String> {
        match trouble {
            Trouble::Passing(why) => {
                tracing::debug!(service = self.name(), "the consumer says: {why}");
                None
            }
            Trouble::Lasting(why) => {
                tracing::warn!(
                    event = "consumer.trouble",
                    service = self.name(),
                    "the consumer says: {why}"
                );
                self.run.service.board().trouble(Some(why));
                None
            }
            Trouble::Fatal(why) => Some(why),
        }
    }

    /// Takes on partitions that were assigned. They are read from where the group
    /// is, and not before their state is here.
    async fn assigned(&mut self, sources: &[Source]) -> Result<(), StartError> {
        self.remember();
        let starts = Starts::find(self.run, &self.consumer, sources.to_vec()).await?;
        let positions = starts.positions();
        // Their queues are taken again when they are read.
        drop(self.consumer.take(&positions)?);
        self.keep(&starts.begun).await?;
        self.jumped.extend(starts.jumped);
        self.deployments.extend(starts.deployments);
        for (source, position) in positions {
            self.run.service.board().took(source.clone(), position);
            self.starts.insert(source.clone(), position);
            self.untouched.insert(source, position);
        }
        let steps = self.ownership.assigned(sources);
        self.take(steps).await;
        let shards = self.changelog.as_ref().map(|changelog| changelog.shards);
        if shards.is_some_and(|shards| sources.iter().any(|source| source.1 >= shards)) {
            self.look();
        }
        if !sources.is_empty() {
            let partitions = shown(sources);
            tracing::info!(event = "partitions.assigned", service = self.name(), %partitions, "assigned");
        }
        self.say_incomplete();
        Ok(())
    }

    /// Keeps where partitions were begun, so that "latest" means the time of the
    /// first start and not that of each.
    async fn keep(&self, begun: &BTreeMap<Source, i64>) -> Result<(), StartError> {
        if begun.is_empty() {
            return Ok(());
        }
        let (consumer, begun) = (self.consumer.clone(), begun.clone());
        let note = self.run.note();
        let kept = tokio::task::spawn_blocking(move || consumer.commit(&begun, &note, true));
        Ok(kept.await??)
    }

    /// Does what ownership asks for.
    pub(super) async fn take(&mut self, steps: Vec<Step>) {
        let mut draining = Vec::new();
        for step in steps {
            match step {
                Step::CatchUp(unit, term) => self.catch_up(unit, term),
                Step::Drain(unit, term) => {
                    if let Some(lane) = self.lanes.remove(&unit) {
                        // A lane that has ended needs no order.
                        let _ = lane.orders.send(Order::Drain);
                        draining.push((unit, term, lane));
                    }
                }
                Step::Drop(unit, _) => {
                    if let Some(mut lane) = self.lanes.remove(&unit) {
                        self.drop_lane(&lane);
                        end(&mut lane.task).await;
                    }
                }
            }
        }
        let mut deadline = tokio::time::Instant::now() + DRAIN;
        let cluster = self.leaving.then(|| self.run.shared.cluster.clone());
        let mut hopeless = std::pin::pin!(gone(cluster).fuse());
        let mut drained = Vec::new();
        for (unit, term, mut lane) in draining {
            let ended = tokio::select! {
                ended = tokio::time::timeout_at(deadline, &mut lane.task) => ended.is_ok(),
                () = &mut hopeless => {
                    deadline = tokio::time::Instant::now();
                    false
                }
            };
            if !ended {
                let partitions = shown(&lane.sources);
                tracing::warn!(event = "partitions.dropped", service = self.name(), %partitions, "what ran on these partitions was not committed in time and is dropped");
                end(&mut lane.task).await;
            }
            self.drop_lane(&lane);
            drained.extend(lane.sources);
            self.ownership.ended(&unit, term);
        }
        self.commit_last(&drained).await;
    }

    /// Nothing of a lane counts any more, and its sources are read anew.
    fn drop_lane(&mut self, lane: &Running) {
        lane.origin.disown();
        let board = self.run.service.board();
        for source in &lane.sources {
            self.untouched.remove(source);
            // A replay's positions are behind the group's.
            if let Some(start) = self.starts.get_mut(source) {
                *start = board.position(source).max(*start);
            }
        }
    }

    /// What is committed here need not be run again by the next owner. Of a
    /// transaction it is known already; and librdkafka would wait 45 s for a
    /// cluster that is away.
    async fn commit_last(&self, sources: &[Source]) {
        let once = self.run.delivery == tidemill_manifest::Delivery::ExactlyOnce;
        if once || sources.is_empty() || !self.run.shared.cluster.is_up() {
            return;
        }
        let board = self.run.service.board();
        let positions = sources.iter().filter_map(|source| {
            let position = board.position(source).max(*self.starts.get(source)?);
            (position >= 0).then(|| (source.clone(), position))
        });
        let positions: BTreeMap<Source, i64> = positions.collect();
        let (consumer, note) = (self.consumer.clone(), self.run.note());
        let committed =
            tokio::task::spawn_blocking(move || consumer.commit(&positions, &note, true));
        if let Ok(Err(error)) = committed.await {
            tracing::debug!(service = self.name(), %error, "last offsets were not committed");
        }
    }

    fn let_go(&mut self, sources: &[Source]) {
        for source in sources {
            self.run.service.board().let_go(source);
            self.starts.remove(source);
            self.untouched.remove(source);
        }
        if let Err(error) = self.consumer.let_go(sources) {
            tracing::warn!(event = "partitions.not-released", service = self.name(), %error, "partitions were not given back");
        }
        self.say_incomplete();
    }

    /// A shard whose partitions are with several hosts runs nowhere.
    fn say_incomplete(&self) {
        let board = self.run.service.board();
        for source in self.ownership.incomplete() {
            board.apart(&source);
        }
    }

    /// Brings the state of a unit up to date, in the background.
    fn catch_up(&mut self, unit: Unit, term: u64) {
        let Some(changelog) = &self.changelog else {
            let shard = unit.partition.cast_unsigned();
            let state = self.run.state();
            let held = state.map(|state| Held::alone(state.writing(), shard));
            let followed = self.followed(&unit);
            self.catching_up.spawn(async move {
                followed.await;
                Some(Ready { unit, term, held })
            });
            return;
        };
        let shard: Source = (changelog.topic.clone(), unit.partition);
        let (cluster, follower) = (
            self.run.shared.cluster.clone(),
            self.run.shared.follower.clone(),
        );
        for source in self.ownership.sources(&unit) {
            self.run.service.board().restoring(&source);
        }
        let followed = self.followed(&unit);
        self.catching_up.spawn(async move {
            followed.await;
            let until = match sabotage::is_off("catch-up") {
                true => 0,
                false => changelog_end(&cluster, &shard).await,
            };
            let held = follower.hand_over(&shard, until).await?;
            Some(Ready {
                unit,
                term,
                held: Some(held),
            })
        });
    }

    /// Waits until this host has followed to the deployment that a unit ran by last.
    fn followed(&self, unit: &Unit) -> impl Future<Output = ()> + Send + 'static {
        let sources = self.ownership.sources(unit);
        let numbers = sources
            .iter()
            .filter_map(|source| self.deployments.get(source));
        let wanted = numbers.copied().max().unwrap_or(0);
        let service = self.run.service.clone();
        if service.number() < wanted {
            for source in &sources {
                service.board().behind(source);
            }
        }
        async move {
            let mut swaps = service.swaps();
            while service.number() < wanted {
                // The sender lives as long as the service.
                let _ = swaps.changed().await;
            }
        }
    }

    /// Runs a unit whose state is here.
    async fn start(&mut self, ready: Ready) -> Result<(), StartError> {
        let Ready { unit, term, held } = ready;
        // What is not wanted any more goes back when it is dropped.
        if !self.ownership.caught_up(&unit, term) {
            return Ok(());
        }
        let shard = held.map(|held| Shard {
            held: Arc::new(held),
            changelog: self
                .changelog
                .as_ref()
                .map(|changelog| changelog.topic.clone()),
        });
        let (replies, replied) = mpsc::unbounded_channel();
        let origin = Arc::new(Origin::new(replies, shard, self.consumer.losses()));
        let sources = self.ownership.sources(&unit);
        let mut quiet_until = BTreeMap::new();
        let mut queues = Vec::new();
        for source in &sources {
            let (from, quiet) = self.begin_at(source, &origin).await?;
            if let Some(until) = quiet {
                quiet_until.insert(source.clone(), until);
            }
            queues.push((source.clone(), self.consumer.queue(source, from)?));
            if self.untouched.remove(source) != Some(from) {
                let (consumer, source) = (self.consumer.clone(), source.clone());
                tokio::task::spawn_blocking(move || consumer.seek(&source, from)).await??;
            }
            self.run.service.board().took(source.clone(), from);
        }
        if !quiet_until.is_empty() {
            let partitions = shown(&sources);
            tracing::info!(event = "partitions.replaying", service = self.name(), %partitions, "past events are run again for their rows alone");
        }
        let (orders, ordered) = watch::channel(Order::Run);
        let lane = Lane::new(Ties {
            service: self.run.service.clone(),
            cluster: self.run.shared.cluster.clone(),
            astray: self.run.astray.clone(),
            done: self.done.clone(),
            origin: origin.clone(),
            replies: replied,
            orders: ordered,
            swaps: self.run.service.swaps(),
            sources: sources.clone(),
            quiet_until,
        });
        let running = Running {
            term,
            sources,
            origin,
            orders,
            task: tokio::spawn(lane.run(queues)),
        };
        self.lanes.insert(unit, running);
        Ok(())
    }

    /// Where a source is read from, and up to where its events are run for their
    /// rows alone: those that the group has committed, and the state has not
    /// seen. That is so for a state that is rebuilt.
    async fn begin_at(
        &self,
        source: &Source,
        origin: &Origin,
    ) -> Result<(i64, Option<i64>), StartError> {
        let start = self.starts.get(source).copied().unwrap_or(0);
        let group = self.run.service.board().position(source).max(start);
        let Some(shard) = &origin.shard else {
            return Ok((group, None));
        };
        let tables = shard.held.tables();
        let seen = match tables.position(&source.0, source.1) {
            Some(position) => position,
            // The first generation begins where the service did.
            None if tables.generation() == 1 => return Ok((group, None)),
            None => {
                let (cluster, source) = (self.run.shared.cluster.clone(), source.clone());
                let asked = move || cluster.watermarks(&source.0, source.1);
                tokio::task::spawn_blocking(asked).await??.0
            }
        };
        let seen = seen.max(self.jumped.get(source).copied().unwrap_or(0));
        Ok((seen, (seen < group).then_some(group)))
    }

    /// Keeps which member this is, in case that it is killed.
    fn remember(&mut self) {
        let member = self.consumer.membered();
        if member.is_none() || member == self.known_as {
            return;
        }
        let library = &self.run.shared.library;
        if let Err(error) = library.keep_member(&self.run.group, member.clone()) {
            tracing::debug!(service = self.name(), %error, "the member's id was not kept");
        }
        self.known_as = member;
    }

    /// With more hosts than partitions some have none, and that is well.
    fn notice_idle(&mut self) {
        let without = self.starts.is_empty() && self.consumer.membership().is_some();
        self.idle = if without { self.idle + 1 } else { 0 };
        self.run.service.board().idle(self.idle >= IDLE);
    }

    /// Leaves the group. What ran is finished and committed, or, after a failure,
    /// dropped.
    async fn leave(mut self, finish: bool) {
        let units: Vec<(Unit, u64)> = self
            .lanes
            .iter()
            .map(|(unit, lane)| (unit.clone(), lane.term))
            .collect();
        let ends = units.into_iter().map(|(unit, term)| match finish {
            true => Step::Drain(unit, term),
            false => Step::Drop(unit, term),
        });
        let ends = ends.collect();
        self.leaving = true;
        self.take(ends).await;
        self.catching_up.shutdown().await;
        self.looking.shutdown().await;
        for source in self.starts.keys() {
            self.run.service.board().let_go(source);
        }
        let name = self.name().to_owned();
        let up = self.run.shared.cluster.is_up();
        self.consumer.will_leave();
        // With the lanes gone, the committer ends as well, and with it the last
        // one that holds the consumer.
        drop(self.done);
        self.committing.abort();
        if !self.committing.is_finished() {
            let _ = (&mut self.committing).await;
        }
        if let Some(consumer) = Arc::into_inner(self.consumer) {
            let left = tokio::task::spawn_blocking(move || consumer.leave()).await;
            match left {
                // Without Kafka the group has not heard of it.
                Ok(()) if !up => {}
                Ok(()) => {
                    // If it stays there, it says farewell to nobody.
                    let _ = self.run.shared.library.keep_member(&self.run.group, None);
                }
                Err(error) => {
                    tracing::error!(event = "group.not-left", service = name, %error, "the group was not left")
                }
            }
        } else {
            tracing::error!(
                event = "consumer.in-use",
                service = name,
                "the consumer is still in use"
            );
        }
    }
}

/// What cannot be committed is not waited for when the host ends: it is done again
/// at the next start.
async fn gone(cluster: Option<Arc<Cluster>>) {
    match cluster {
        Some(cluster) => cluster.gone().await,
        None => std::future::pending().await,
    }
}

/// Ends a lane's task, and waits until it is gone: it holds the consumer, which
/// must not be closed on a thread that serves others.
async fn end(task: &mut JoinHandle<()>) {
    task.abort();
    let _ = task.await;
}

/// The end of a changelog, committed or not, as soon as Kafka tells.
async fn changelog_end(cluster: &Arc<Cluster>, shard: &Source) -> i64 {
    loop {
        let (cluster, shard) = (cluster.clone(), shard.clone());
        let asked = move || cluster.watermarks(&shard.0, shard.1);
        if let Ok(Ok((_, end))) = tokio::task::spawn_blocking(asked).await {
            return end;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
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
