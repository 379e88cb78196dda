//! A lane: the events that must run one after another.
//!
//! For a service with state that is one shard, partition i of all its topics;
//! for one without, a single partition. A lane runs an event on top of what the
//! events before it wrote, whether that is committed yet or not, and hands its
//! effects to the committer. It reads no more while enough is on its way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use tidemill_cli::api::Status;
use tidemill_manifest::OutOfRange;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::dead_letter;
use super::group::{Done, Origin, Reply};
use super::line::{Failed, Fate, Line};
use super::policy::{self, Verdict};
use super::subscription::Astray;
use crate::dispatch;
use crate::effects::Effects;
use crate::invocation::{Event, Failure};
use crate::kafka::{Cluster, Queue, Received, Source};
use crate::revision::Revision;
use crate::service::Service;
use crate::state::{Overlay, View};
use crate::trace;

/// What a lane is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Read and run.
    Run,
    /// Run nothing new; end when everything that ran is committed.
    Drain,
}

/// What a lane works with.
pub(super) struct Ties {
    pub(super) service: Arc<Service>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) done: mpsc::UnboundedSender<Done>,
    pub(super) origin: Arc<Origin>,
    pub(super) replies: mpsc::UnboundedReceiver<Reply>,
    pub(super) orders: watch::Receiver<Order>,
    /// Changes when another revision is current.
    pub(super) swaps: watch::Receiver<u64>,
    /// Hears of partitions that have to be read from another offset.
    pub(super) astray: Arc<Astray>,
    /// Its partitions.
    pub(super) sources: Vec<Source>,
    /// Events before these offsets are run for their rows alone: what they
    /// published has been published.
    pub(super) quiet_until: BTreeMap<Source, i64>,
}

/// One lane at work.
pub(super) struct Lane {
    ties: Ties,
    line: Line,
    pending: Arc<Mutex<Overlay>>,
    /// The term in which events run. It ends when the committer's refusal is
    /// taken in, and not when the committer refuses: what runs in between runs
    /// on rows that are about to be taken back, and must not count.
    term: u32,
    /// After a failure: nothing runs before this time.
    resting_until: Option<Instant>,
    /// Whether it was told that there is nothing that is not committed.
    settled: bool,
    /// A partition whose offset does not exist: nothing comes from it by itself.
    astray: Option<Source>,
    /// The number of the deployment that the latest event ran by.
    deployment: u64,
}

/// Until something else ends it.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// How long after a trial an event is looked at again that it held.
const TRIAL_OVER: Duration = Duration::from_millis(100);

/// How long a partition is left alone whose offset does not exist.
const RECHECK: Duration = Duration::from_secs(10);

impl Lane {
    pub(super) fn new(ties: Ties) -> Lane {
        Lane {
            ties,
            line: Line::default(),
            pending: Arc::default(),
            term: 0,
            resting_until: None,
            settled: true,
            astray: None,
            deployment: 0,
        }
    }

    /// Runs until it is told to drain and has, or its committer is gone.
    pub(super) async fn run(mut self, queues: Vec<(Source, Queue)>) {
        let mut sources: Vec<_> = queues
            .iter()
            .map(|(source, queue)| (source, queue.events()))
            .collect();
        let mut turn = 0;
        loop {
            let draining = *self.ties.orders.borrow_and_update() == Order::Drain;
            if draining && self.line.is_settled() {
                return;
            }
            if self.resting_until.is_none()
                && !draining
                && let Some(source) = self.astray.take()
            {
                self.out_of_range(&source).await;
                continue;
            }
            let may_run = !draining && self.resting_until.is_none() && !self.line.is_full();
            if may_run && let Some(event) = self.line.next_again() {
                self.handle(event).await;
                while let Ok(reply) = self.ties.replies.try_recv() {
                    self.settled(reply);
                }
                continue;
            }
            let next = std::future::poll_fn(|context| {
                // Each source in turn, so that none starves the others.
                for step in 0..sources.len() {
                    let index = (turn + step) % sources.len();
                    let (source, events) = &mut sources[index];
                    if let Poll::Ready(Some(received)) = events.poll_next_unpin(context) {
                        turn = index + 1;
                        return Poll::Ready((*source, received));
                    }
                }
                Poll::Pending
            });
            let resting = self.resting_until;
            tokio::select! {
                biased;
                reply = self.ties.replies.recv() => match reply {
                    Some(reply) => self.settled(reply),
                    None => return,
                },
                (source, received) = next, if may_run => match received {
                    Received::Event(event) => self.handle(event).await,
                    Received::OutOfRange => self.out_of_range(source).await,
                    Received::Forbidden(why) => self.forbidden(source, &why),
                    Received::Failed(why) => {
                        let service = self.ties.service.name();
                        tracing::debug!(service, topic = &*source.0, partition = source.1, "reading failed: {why}");
                    }
                },
                changed = self.ties.orders.changed() => if changed.is_err() { return },
                () = sleep_until(resting), if resting.is_some() => self.resting_until = None,
                // A new revision may well be the remedy: try at once.
                Ok(()) = self.ties.swaps.changed() => {
                    self.resting_until = None;
                    self.line.forget_failures();
                }
            }
        }
    }

    /// Runs one event.
    async fn handle(&mut self, event: Event) {
        if self.settled {
            self.tell_settled(false);
        }
        if dead_letter::is_for_another(&event, self.ties.service.name()) {
            return self.hand_over(event, Effects::default(), Fate::Ran);
        }
        let view = match &self.ties.origin.shard {
            Some(shard) => View::Shard {
                tables: shard.held.tables().clone(),
                shard: shard.number(),
                pending: self.pending.clone(),
            },
            None => View::NotGranted,
        };
        let attempt = self.line.attempt(&event);
        let (revision, deployment) = self.ties.service.for_partition(event.partition);
        self.deployment = deployment;
        match dispatch::event(&self.ties.service, &revision, &event, attempt, view).await {
            Ok(effects) => self.hand_over(event, effects, Fate::Ran),
            Err(failure) => self.failed(event, &failure, &revision),
        }
    }

    /// Hands what an event came to to the committer.
    fn hand_over(&mut self, event: Event, mut effects: Effects, mut fate: Fate) {
        let source = (event.topic.clone(), event.partition);
        let offset = event.offset;
        let mut group_offset = offset + 1;
        if let Some(until) = self.ties.quiet_until.get(&source)
            && offset < *until
        {
            effects.messages.clear();
            fate = Fate::Ran;
            group_offset = *until;
        }
        trace::publish(&mut effects, &event.headers);
        let number = self.line.done(event, fate);
        if !effects.rows.is_empty() {
            self.pending.lock().write(number, &effects.rows);
        }
        // Without a committer the lane ends at its next reply.
        let _ = self.ties.done.send(Done {
            origin: self.ties.origin.clone(),
            term: self.term,
            number,
            source,
            offset,
            group_offset,
            effects,
            fate,
            ran_at: std::time::Instant::now(),
            deployment: self.deployment,
        });
    }

    fn tell_settled(&mut self, settled: bool) {
        self.settled = settled;
        for source in &self.ties.sources {
            self.ties.service.board().settled(source, settled);
        }
    }

    /// Takes in what the committer says.
    fn settled(&mut self, reply: Reply) {
        match reply {
            Reply::Committed(number) => {
                self.pending.lock().committed(number);
                let board = self.ties.service.board();
                for (source, position) in self.line.committed(number) {
                    board.committed(&source, position);
                }
                if self.line.is_empty() {
                    self.tell_settled(true);
                }
            }
            Reply::Refused(number, cause) => {
                self.term += 1;
                self.pending.lock().take_back(number);
                match self.line.take_back(number) {
                    Some((event, Fate::Ran)) => {
                        let (revision, _) = self.ties.service.for_partition(event.partition);
                        revision.tally.count(true);
                        self.failed(event, &Failure::Refused(cause), &revision);
                    }
                    Some((event, Fate::DeadLetter)) => {
                        let (revision, _) = self.ties.service.for_partition(event.partition);
                        self.not_buried(event, &cause, &revision);
                    }
                    None => {}
                }
            }
        }
    }

    /// An event has failed: what becomes of it is the policy's to say.
    fn failed(&mut self, event: Event, failure: &Failure, revision: &Revision) {
        let failures = self.line.attempt(&event);
        let retry = &revision.manifest.retry(&event.topic);
        match policy::verdict(failure, failures, retry, fastrand::f64()) {
            Verdict::Again(pause) => {
                self.ties.service.metrics.retried();
                let failed = self.line.failed(event);
                self.rest(&failed, failure, Status::Retrying, pause, revision);
            }
            Verdict::Wait(pause) => {
                let failed = self.line.postponed(event);
                self.rest(&failed, failure, Status::Retrying, pause, revision);
            }
            Verdict::DeadLetter => match self.ties.service.running().held_until(revision) {
                Some(until) => self.hold(event, failure, until, revision),
                None => self.bury(event, failure, failures, revision),
            },
            Verdict::Stop => {
                let failed = self.line.failed(event);
                self.rest(&failed, failure, Status::Blocked, FOREVER, revision);
            }
        }
    }

    /// An event would become a dead letter, by a revision that is on trial: it stays
    /// where it is until that is over, and what runs by then decides.
    fn hold(
        &mut self,
        event: Event,
        failure: &Failure,
        until: std::time::Instant,
        revision: &Revision,
    ) {
        let failed = self.line.failed(event);
        let pause = until.saturating_duration_since(std::time::Instant::now()) + TRIAL_OVER;
        self.rest(&failed, failure, Status::Blocked, pause, revision);
    }

    /// An event becomes a dead letter, and its partition goes on.
    fn bury(&mut self, event: Event, failure: &Failure, attempts: u32, revision: &Revision) {
        let service = self.ties.service.name();
        let (topic, partition, offset) = (&*event.topic, event.partition, event.offset);
        let trace_id = trace::trace_id(&event.headers).map(tracing::field::display);
        tracing::error!(
            event = "event.dead-lettered",
            service,
            revision = revision.short(),
            trace_id,
            topic,
            partition,
            offset,
            attempts,
            outcome = failure.name(),
            "event becomes a dead letter: {failure}"
        );
        let verdict = dead_letter::Verdict {
            service,
            revision: &revision.digest,
            failure,
            attempts,
            time: crate::now_ms(),
        };
        let topic = revision.manifest.dead_letter_topic().into();
        let letter = dead_letter::of_event(&event, topic, &verdict);
        let effects = Effects {
            messages: vec![letter],
            ..Effects::default()
        };
        self.hand_over(event, effects, Fate::DeadLetter);
    }

    /// A dead letter was refused: its partition stops, and tries again from time
    /// to time.
    fn not_buried(&mut self, event: Event, cause: &str, revision: &Revision) {
        let retry = &revision.manifest.retry(&event.topic);
        let failed = self.line.failed(event);
        let pause = policy::pause(failed.failures, retry, fastrand::f64());
        let why = format!("its dead letter cannot be written: {cause}");
        let failure = Failure::Refused(why);
        self.rest(&failed, &failure, Status::Blocked, pause, revision);
    }

    /// Says that an event has failed, and runs nothing for a while.
    fn rest(
        &mut self,
        failed: &Failed,
        failure: &Failure,
        status: Status,
        pause: Duration,
        revision: &Revision,
    ) {
        let service = self.ties.service.name();
        let revision = revision.short();
        let (topic, partition) = (&*failed.source.0, failed.source.1);
        let (offset, failures) = (failed.offset, failed.failures);
        let outcome = failure.name();
        let trace_id = failed.trace_id.map(tracing::field::display);
        if status == Status::Blocked {
            tracing::error!(
                event = "event.blocked",
                service,
                revision,
                trace_id,
                topic,
                partition,
                offset,
                failures,
                outcome,
                "this event stops its partition: {failure}"
            );
        } else {
            tracing::warn!(
                event = "event.failed",
                service,
                revision,
                trace_id,
                topic,
                partition,
                offset,
                failures,
                outcome,
                "event failed, trying again in {pause:.1?}: {failure}"
            );
        }
        let board = self.ties.service.board();
        let why = failure.to_string();
        board.failed(&failed.source, Some(offset), status, failures, why);
        self.resting_until = Some(Instant::now() + pause);
    }

    /// Kafka lets nobody read this topic who is who this host is. That it does
    /// again is seen by the next event.
    fn forbidden(&self, source: &Source, why: &str) {
        let service = self.ties.service.name();
        let (topic, partition) = (&*source.0, source.1);
        tracing::warn!(
            event = "partition.forbidden",
            service,
            topic,
            partition,
            "reading is forbidden, trying again: {why}"
        );
        let why = format!("reading is forbidden: {why}");
        let board = self.ties.service.board();
        board.failed(source, None, Status::Retrying, 0, why);
    }

    /// The offset to read at is not there: removed by retention, or the topic was
    /// made anew and is shorter. Of the first the manifest says what to do; the
    /// second would mix two topics in one state, and needs a person.
    async fn out_of_range(&mut self, source: &Source) {
        let service = self.ties.service.clone();
        let (topic, partition) = (&*source.0, source.1);
        let position = service.board().position(source);
        let (rest, why) = match self.may_go_on(source, position).await {
            Ok(()) => {
                self.ties.astray.tell(source.clone());
                (FOREVER, "its next event is not there any more".to_owned())
            }
            Err(why) => (RECHECK, why),
        };
        if rest == RECHECK {
            let service = service.name();
            tracing::error!(
                event = "partition.stuck",
                service,
                topic,
                partition,
                "this partition cannot go on: {why}"
            );
            self.astray = Some(source.clone());
        }
        let board = self.ties.service.board();
        board.failed(source, None, Status::Blocked, 0, why);
        self.resting_until = Some(Instant::now() + rest);
    }

    /// Whether a partition may be read from another offset, or why not.
    async fn may_go_on(&self, source: &Source, position: i64) -> Result<(), String> {
        let (cluster, asked) = (self.ties.cluster.clone(), source.clone());
        let marks =
            tokio::task::spawn_blocking(move || cluster.watermarks(&asked.0, asked.1)).await;
        let (low, high) = marks
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?;
        if position > high {
            return Err(format!(
                "the partition ends at offset {high}, before {position}, up to which it was \
                 consumed: the topic was made anew. To consume it from its beginning, pause the \
                 service and say so with `tidemill offsets`"
            ));
        }
        let revision = self.ties.service.current();
        if position < low && revision.manifest.out_of_range(&source.0) == OutOfRange::Stop {
            return Err(format!(
                "retention has removed {} events before they were consumed. To go on, pause the \
                 service and say where with `tidemill offsets`",
                low - position
            ));
        }
        Ok(())
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
