//! What is counted of one service: made when something happens, so that a service
//! that nobody calls takes no room.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use tidemill_cli::api::Commits;

use super::families::Families;
use crate::invocation::Failure;
use crate::limits::{Hits, Limit};

/// How many commits are remembered, for their times.
const LATEST: usize = 1_000;

/// What was invoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The HTTP handler.
    Request,
    /// The event handler.
    Event,
}

/// From a call in a warm instance to one at its limit.
const SHORT: [f64; 14] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05,
    0.25, 1.0, 5.0,
];
/// What waits for Kafka.
const LONG: [f64; 13] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.25, 1.0, 5.0, 30.0,
];

/// The families that have each service as a label.
pub(super) struct ByService {
    requests: HistogramVec,
    refused: IntCounterVec,
    running: IntGaugeVec,
    waiting: IntGaugeVec,
    publishing: HistogramVec,
    transactions: HistogramVec,
    commit_waits: HistogramVec,
    rebalances: IntCounterVec,
    invocations: IntCounterVec,
    durations: HistogramVec,
    published: IntCounterVec,
    committed: IntCounterVec,
    commit_durations: HistogramVec,
    aborted: IntCounterVec,
    retries: IntCounterVec,
    dead_letters: IntCounterVec,
    lost: IntCounterVec,
    responses: IntCounterVec,
    limits: IntCounterVec,
    rollbacks: IntCounterVec,
}

impl ByService {
    pub(super) fn new(families: &Families) -> Result<ByService, prometheus::Error> {
        let counter =
            |name: &str, help: &str, labels: &[&str]| families.counters(name, help, labels);
        let gauges = |name: &str, help: &str, labels: &[&str]| families.gauges(name, help, labels);
        let short = |name: &str, help: &str, labels: &[&str]| {
            families.histograms(name, help, labels, &SHORT)
        };
        let long = |name: &str, help: &str, labels: &[&str]| {
            families.histograms(name, help, labels, &LONG)
        };
        Ok(ByService {
            requests: short(
                "tidemill_request_duration_seconds",
                "Time from a request's head to its answer, with reading, waiting and publishing.",
                &["service"],
            )?,
            refused: counter(
                "tidemill_requests_refused_total",
                "Requests that the host answered with a problem document, by its kind.",
                &["service", "reason"],
            )?,
            running: gauges(
                "tidemill_invocations_running",
                "Calls that run, each in an instance of its own.",
                &["service", "kind"],
            )?,
            waiting: gauges(
                "tidemill_invocations_waiting",
                "Calls that wait for a slot or an instance.",
                &["service", "kind"],
            )?,
            publishing: long(
                "tidemill_publish_duration_seconds",
                "Time until the events of a request are acknowledged.",
                &["service"],
            )?,
            transactions: long(
                "tidemill_transaction_duration_seconds",
                "Time of a transaction of consumed events, from its begin to its commit.",
                &["service"],
            )?,
            commit_waits: long(
                "tidemill_commit_wait_seconds",
                "Time from the end of a group's first call to the group's commit.",
                &["service"],
            )?,
            rebalances: counter(
                "tidemill_rebalances_total",
                "Changes of what this host consumes, by what happened to partitions.",
                &["service", "change"],
            )?,
            invocations: counter(
                "tidemill_invocations_total",
                "Calls of a handler, by what they came to.",
                &["service", "kind", "outcome"],
            )?,
            durations: short(
                "tidemill_invocation_duration_seconds",
                "Time of a call, with the wait for a slot.",
                &["service", "kind"],
            )?,
            published: counter(
                "tidemill_events_published_total",
                "Events that handlers published and the broker acknowledged.",
                &["service"],
            )?,
            committed: counter(
                "tidemill_events_committed_total",
                "Events consumed, with their effects durable.",
                &["service"],
            )?,
            commit_durations: long(
                "tidemill_commit_duration_seconds",
                "Time to make the effects of a group of events durable.",
                &["service"],
            )?,
            aborted: counter(
                "tidemill_transactions_aborted_total",
                "Transactions of consumed events that were aborted, and made again.",
                &["service"],
            )?,
            retries: counter(
                "tidemill_retries_total",
                "Events that failed and are run again.",
                &["service"],
            )?,
            dead_letters: counter(
                "tidemill_dead_letters_total",
                "Events that became dead letters.",
                &["service"],
            )?,
            lost: counter(
                "tidemill_events_lost_total",
                "Events that retention removed before they were consumed.",
                &["service"],
            )?,
            responses: counter(
                "tidemill_responses_total",
                "Responses sent, by class of status.",
                &["service", "status"],
            )?,
            limits: counter(
                "tidemill_limit_hits_total",
                "How often a call was held by a limit.",
                &["service", "limit"],
            )?,
            rollbacks: counter(
                "tidemill_rollbacks_total",
                "Revisions that this host took back because they failed too often.",
                &["service"],
            )?,
        })
    }

    /// A revision of a service was taken back.
    pub(super) fn rolled_back(&self, service: &str) {
        self.rollbacks.with_label_values(&[service]).inc();
    }

    /// A request was turned down, of a service or of none.
    pub(super) fn refused(&self, service: &str, reason: &str) {
        self.refused.with_label_values(&[service, reason]).inc();
    }

    fn calls(&self, name: &str, kind: &str) -> Calls {
        Calls {
            ok: self.invocations.with_label_values(&[name, kind, "ok"]),
            failed: Failure::NAMES
                .map(|outcome| self.invocations.with_label_values(&[name, kind, outcome])),
            duration: self.durations.with_label_values(&[name, kind]),
            running: self.running.with_label_values(&[name, kind]),
            waiting: self.waiting.with_label_values(&[name, kind]),
        }
    }
}

/// What happened to partitions of a service, by [`Change`].
const CHANGES: [&str; 3] = ["assigned", "revoked", "lost"];

/// What happened to partitions of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This host has them from now on.
    Assigned,
    /// It gives them back.
    Revoked,
    /// It has lost them.
    Lost,
}

/// One kind of call of one service.
struct Calls {
    ok: IntCounter,
    failed: [IntCounter; Failure::NAMES.len()],
    duration: Histogram,
    running: IntGauge,
    waiting: IntGauge,
}

/// A call, from its coming in to its end: it waits, then it runs.
pub struct InFlight<'m> {
    calls: &'m Calls,
    runs: bool,
}

impl InFlight<'_> {
    /// It has an instance.
    pub fn runs(&mut self) {
        self.runs = true;
        self.calls.waiting.dec();
        self.calls.running.inc();
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        match self.runs {
            true => self.calls.running.dec(),
            false => self.calls.waiting.dec(),
        }
    }
}

/// What is counted of requests.
struct Requests {
    calls: Calls,
    answered: Histogram,
    publishing: Histogram,
    responses: [IntCounter; 4],
}

/// What is counted of events.
struct Events {
    calls: Calls,
    transaction: Histogram,
    commit_wait: Histogram,
    rebalances: [IntCounter; CHANGES.len()],
    committed: IntCounter,
    commit_duration: Histogram,
    aborted: IntCounter,
    retries: IntCounter,
    dead_letters: IntCounter,
    lost: IntCounter,
    latest: Mutex<VecDeque<Duration>>,
}

/// What is counted of both.
struct Both {
    published: IntCounter,
    limits: [IntCounter; Limit::ALL.len()],
}

/// The counters of one service, each looked up once, when it is needed first.
pub struct ServiceMetrics {
    name: Box<str>,
    families: Arc<ByService>,
    requests: OnceLock<Box<Requests>>,
    events: OnceLock<Box<Events>>,
    both: OnceLock<Box<Both>>,
}

impl ServiceMetrics {
    pub(super) fn new(name: &str, families: Arc<ByService>) -> ServiceMetrics {
        ServiceMetrics {
            name: name.into(),
            families,
            requests: OnceLock::new(),
            events: OnceLock::new(),
            both: OnceLock::new(),
        }
    }

    fn requests(&self) -> &Requests {
        self.requests.get_or_init(|| {
            let (of, name) = (&self.families, &*self.name);
            let responses = ["2xx", "3xx", "4xx", "5xx"];
            Box::new(Requests {
                calls: of.calls(name, "request"),
                answered: of.requests.with_label_values(&[name]),
                publishing: of.publishing.with_label_values(&[name]),
                responses: responses.map(|class| of.responses.with_label_values(&[name, class])),
            })
        })
    }

    fn events_of(&self) -> &Events {
        self.events.get_or_init(|| {
            let (of, name) = (&self.families, &*self.name);
            let changed = |change| of.rebalances.with_label_values(&[name, change]);
            Box::new(Events {
                calls: of.calls(name, "event"),
                transaction: of.transactions.with_label_values(&[name]),
                commit_wait: of.commit_waits.with_label_values(&[name]),
                rebalances: CHANGES.map(changed),
                committed: of.committed.with_label_values(&[name]),
                commit_duration: of.commit_durations.with_label_values(&[name]),
                aborted: of.aborted.with_label_values(&[name]),
                retries: of.retries.with_label_values(&[name]),
                dead_letters: of.dead_letters.with_label_values(&[name]),
                lost: of.lost.with_label_values(&[name]),
                latest: Mutex::default(),
            })
        })
    }

    fn both(&self) -> &Both {
        self.both.get_or_init(|| {
            let (of, name) = (&self.families, &*self.name);
            let limit = |limit: Limit| of.limits.with_label_values(&[name, limit.name()]);
            // An alert sees a counter rise only if it was there before.
            of.rollbacks.with_label_values(&[name]);
            Box::new(Both {
                published: of.published.with_label_values(&[name]),
                limits: Limit::ALL.map(limit),
            })
        })
    }

    fn calls(&self, kind: Kind) -> &Calls {
        self.both();
        match kind {
            Kind::Request => &self.requests().calls,
            Kind::Event => &self.events_of().calls,
        }
    }

    /// A call came in.
    pub fn begin(&self, kind: Kind) -> InFlight<'_> {
        let calls = self.calls(kind);
        calls.waiting.inc();
        InFlight { calls, runs: false }
    }

    /// A call came to its end.
    pub fn ran<T>(&self, kind: Kind, result: &Result<T, Failure>, took: Duration) {
        let calls = self.calls(kind);
        match result {
            Ok(_) => calls.ok.inc(),
            Err(failure) => {
                if let Some(limit) = failure.limit() {
                    self.hit(limit);
                }
                let names = Failure::NAMES.iter().zip(&calls.failed);
                for (_, counter) in names.filter(|(name, _)| **name == failure.name()) {
                    counter.inc();
                }
            }
        }
        calls.duration.observe(took.as_secs_f64());
    }

    /// A limit was hit.
    pub fn hit(&self, limit: Limit) {
        if let Some(counter) = self.both().limits.get(limit as usize) {
            counter.inc();
        }
    }

    /// Limits were hit by a call that went on.
    pub fn hits(&self, hits: Hits) {
        for limit in hits.iter() {
            self.hit(limit);
        }
    }

    /// Events of handlers were acknowledged.
    pub fn published(&self, events: usize) {
        self.both().published.inc_by(events as u64);
    }

    /// Events were consumed for good.
    pub fn committed(&self, events: usize, took: Duration) {
        let counted = self.events_of();
        counted.committed.inc_by(events as u64);
        counted.commit_duration.observe(took.as_secs_f64());
        let mut latest = counted.latest.lock();
        if latest.len() == LATEST {
            latest.pop_front();
        }
        latest.push_back(took);
    }

    /// An event failed, and is run again.
    pub fn retried(&self) {
        self.events_of().retries.inc();
    }

    /// Events became dead letters.
    pub fn dead_letters(&self, events: usize) {
        self.events_of().dead_letters.inc_by(events as u64);
    }

    /// Events were gone before they were consumed.
    pub fn lost(&self, events: u64) {
        self.events_of().lost.inc_by(events);
    }

    /// A transaction was aborted.
    pub fn aborted(&self) {
        self.events_of().aborted.inc();
    }

    /// What is known of the commits so far.
    pub fn commits(&self) -> Option<Commits> {
        let counted = self.events.get()?;
        let mut latest: Vec<Duration> = counted.latest.lock().iter().copied().collect();
        latest.sort_unstable();
        let share = |percent: usize| {
            let place = (latest.len() * percent).div_ceil(100).saturating_sub(1);
            latest.get(place).map(|took| crate::host::micros(*took))
        };
        Some(Commits {
            count: counted.commit_duration.get_sample_count(),
            aborted: counted.aborted.get(),
            p50_us: share(50)?,
            p99_us: share(99)?,
        })
    }

    /// The events of a request are acknowledged.
    pub fn acknowledged(&self, took: Duration) {
        self.requests().publishing.observe(took.as_secs_f64());
    }

    /// A transaction of consumed events is committed.
    pub fn transacted(&self, took: Duration) {
        self.events_of().transaction.observe(took.as_secs_f64());
    }

    /// A group is committed whose first call ended so long ago.
    pub fn waited(&self, took: Duration) {
        self.events_of().commit_wait.observe(took.as_secs_f64());
    }

    /// What this host consumes has changed.
    pub fn rebalanced(&self, change: Change) {
        if let Some(counter) = self.events_of().rebalances.get(change as usize) {
            counter.inc();
        }
    }

    /// A request was turned down.
    pub fn refused(&self, reason: &str) {
        self.families.refused(&self.name, reason);
    }

    /// A response was made.
    pub fn responded(&self, status: http::StatusCode, took: Duration) {
        let counted = self.requests();
        counted.answered.observe(took.as_secs_f64());
        let class = usize::from(status.as_u16() / 100).saturating_sub(2);
        if let Some(counter) = counted.responses.get(class) {
            counter.inc();
        }
    }

    /// Responses made so far.
    pub fn responses(&self) -> u64 {
        let counted = self.requests.get().into_iter();
        counted
            .flat_map(|requests| &requests.responses)
            .map(IntCounter::get)
            .sum()
    }

    /// Events committed so far.
    pub fn events(&self) -> u64 {
        self.events.get().map_or(0, |events| events.committed.get())
    }

    /// Invocations that failed so far.
    pub fn failures(&self) -> u64 {
        let requests = self.requests.get().map(|requests| &requests.calls);
        let events = self.events.get().map(|events| &events.calls);
        let both = requests.into_iter().chain(events);
        both.flat_map(|calls| &calls.failed)
            .map(IntCounter::get)
            .sum()
    }
}
