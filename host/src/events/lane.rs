//! A lane: the events that must run one after another.
//!
//! For a service with state that is one shard, partition i of all its topics;
//! for one without, a single partition. A lane runs an event on top of what the
//! events before it wrote, whether that is committed yet or not, and hands its
//! effects to the committer. It reads no more while enough is on its way.
//!
//! Here is what it waits for; `work` is what it does with events.

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

use super::group::{Done, Origin, Reply};
use super::subscription::Astray;
use super::work::{FOREVER, Work};
use crate::dispatch;
use crate::effects::Effects;
use crate::invocation::{Event, Failure};
use crate::kafka::{Cluster, Queue, Received, Source};
use crate::revision::Revision;
use crate::service::Service;
use crate::state::View;

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
    service: Arc<Service>,
    cluster: Arc<Cluster>,
    replies: mpsc::UnboundedReceiver<Reply>,
    orders: watch::Receiver<Order>,
    swaps: watch::Receiver<u64>,
    hears_of_astray: Arc<Astray>,
    work: Arc<Mutex<Work>>,
    /// What came behind the events that are read: their turn is first.
    odd: Option<(Source, Received)>,
    /// A partition whose offset does not exist: nothing comes from it by itself.
    astray: Option<Source>,
}

/// So many events, and bytes of them, are read at once if they are there.
const MOST: usize = 64;
const MOST_BYTES: usize = 1 << 20;

/// How long a partition is left alone whose offset does not exist.
const RECHECK: Duration = Duration::from_secs(10);

impl Lane {
    pub(super) fn new(ties: Ties) -> Lane {
        let Ties { service, done, .. } = ties;
        let work = Work::new(
            service.clone(),
            done,
            ties.origin,
            ties.sources,
            ties.quiet_until,
        );
        Lane {
            service,
            cluster: ties.cluster,
            replies: ties.replies,
            orders: ties.orders,
            swaps: ties.swaps,
            hears_of_astray: ties.astray,
            work: Arc::new(Mutex::new(work)),
            odd: None,
            astray: None,
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
            let draining = *self.orders.borrow_and_update() == Order::Drain;
            let (settled, may_run, resting) = {
                let work = self.work.lock();
                (work.line.is_settled(), work.may_run(), work.resting_until)
            };
            if draining && settled {
                return;
            }
            if resting.is_none()
                && !draining
                && let Some(source) = self.astray.take()
            {
                self.out_of_range(&source).await;
                continue;
            }
            let may_run = may_run && !draining;
            if may_run {
                if self.run_what_is_read().await {
                    while let Ok(reply) = self.replies.try_recv() {
                        self.work.lock().settled(reply);
                    }
                    // As many as are read at once are enough for one turn.
                    tokio::task::yield_now().await;
                    continue;
                }
                if let Some((source, odd)) = self.odd.take() {
                    self.take_in(&source, odd).await;
                    continue;
                }
            }
            let work = &self.work;
            let read = std::future::poll_fn(|context| {
                // Each source in turn, so that none starves the others.
                for step in 0..sources.len() {
                    let index = (turn + step) % sources.len();
                    let (source, events) = &mut sources[index];
                    let (mut read, mut bytes) = (0, 0);
                    while read < MOST && bytes < MOST_BYTES {
                        match events.poll_next_unpin(context) {
                            Poll::Ready(Some(Received::Event(event))) => {
                                read += 1;
                                bytes += event.size();
                                work.lock().line.later(event);
                            }
                            Poll::Ready(Some(odd)) => {
                                turn = index + 1;
                                return Poll::Ready(Some(((*source).clone(), odd)));
                            }
                            Poll::Ready(None) | Poll::Pending => break,
                        }
                    }
                    if read > 0 {
                        turn = index + 1;
                        return Poll::Ready(None);
                    }
                }
                Poll::Pending
            });
            tokio::select! {
                biased;
                reply = self.replies.recv() => match reply {
                    Some(reply) => work.lock().settled(reply),
                    None => return,
                },
                odd = read, if may_run => self.odd = odd,
                changed = self.orders.changed() => if changed.is_err() { return },
                () = sleep_until(resting), if resting.is_some() => work.lock().resting_until = None,
                // A new revision may well be the remedy: try at once.
                Ok(()) = self.swaps.changed() => {
                    let mut work = work.lock();
                    work.resting_until = None;
                    work.line.forget_failures();
                }
            }
        }
    }

    /// Runs the events that are read. False if there are none.
    async fn run_what_is_read(&self) -> bool {
        let next = self.work.lock().next();
        let Some((first, revision)) = next else {
            return false;
        };
        let reading = Reading {
            work: self.work.clone(),
            orders: self.orders.clone(),
            revision: revision.clone(),
        };
        dispatch::events(&self.service, &revision, first, Box::new(reading)).await;
        true
    }

    /// Takes in what is no event.
    async fn take_in(&mut self, source: &Source, odd: Received) {
        match odd {
            Received::Event(event) => self.work.lock().line.later(event),
            Received::OutOfRange => self.out_of_range(source).await,
            Received::Forbidden(why) => self.forbidden(source, &why),
            Received::Failed(why) => {
                let service = self.service.name();
                tracing::debug!(
                    service,
                    topic = &*source.0,
                    partition = source.1,
                    "reading failed: {why}"
                );
            }
        }
    }

    /// Kafka lets nobody read this topic who is who this host is. That it does
    /// again is seen by the next event.
    fn forbidden(&self, source: &Source, why: &str) {
        let service = self.service.name();
        let (topic, partition) = (&*source.0, source.1);
        tracing::warn!(
            event = "partition.forbidden",
            service,
            topic,
            partition,
            "reading is forbidden, trying again: {why}"
        );
        let why = format!("reading is forbidden: {why}");
        let board = self.service.board();
        board.failed(source, None, Status::Retrying, 0, why);
    }

    /// The offset to read at is not there: removed by retention, or the topic was
    /// made anew and is shorter. Of the first the manifest says what to do; the
    /// second would mix two topics in one state, and needs a person.
    async fn out_of_range(&mut self, source: &Source) {
        let service = self.service.clone();
        let (topic, partition) = (&*source.0, source.1);
        let position = service.board().position(source);
        let (rest, why) = match self.may_go_on(source, position).await {
            Ok(()) => {
                self.hears_of_astray.tell(source.clone());
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
        let board = self.service.board();
        board.failed(source, None, Status::Blocked, 0, why);
        self.work.lock().resting_until = Some(Instant::now() + rest);
    }

    /// Whether a partition may be read from another offset, or why not.
    async fn may_go_on(&self, source: &Source, position: i64) -> Result<(), String> {
        let (cluster, asked) = (self.cluster.clone(), source.clone());
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
        let revision = self.service.current();
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

/// The events of a lane that are read, for one revision.
struct Reading {
    work: Arc<Mutex<Work>>,
    orders: watch::Receiver<Order>,
    revision: Arc<Revision>,
}

impl dispatch::Source for Reading {
    fn next(&mut self) -> Option<(Event, u32)> {
        if *self.orders.borrow() == Order::Drain {
            return None;
        }
        let mut work = self.work.lock();
        let (next, revision) = work.next()?;
        if Arc::ptr_eq(&revision, &self.revision) {
            return Some(next);
        }
        work.line.put_back(next.0);
        None
    }

    fn ahead(&self, see: &mut dyn FnMut(&Event, u32) -> bool) {
        self.work.lock().ahead(see);
    }

    fn view(&self) -> View {
        self.work.lock().view()
    }

    fn ran(&mut self, event: Event, ran: Result<Effects, Failure>, at: std::time::Instant) {
        self.work.lock().ran(event, ran, at, &self.revision);
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
