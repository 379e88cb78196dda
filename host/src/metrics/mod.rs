//! What the host counts, for Prometheus.
//!
//! Labels are bounded: services, kinds, outcomes, and the partitions that are
//! consumed. docs/metrics.md lists them all. What is only known when it is asked
//! for is in `page`, what the process as a whole takes in `process`.

mod connections;
mod families;
mod page;
mod process;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use tidemill_cli::api::Commits;

pub(crate) use connections::{Closed, ConnectionMetrics};
use families::Families;
pub use page::Now;
use page::Page;
use process::Process;

use crate::invocation::Failure;
use crate::limits::{Hits, Limit};
use crate::trace::Counts;

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

/// All metrics of a host.
pub struct Metrics {
    families: Families,
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
    page: Page,
    process: Process,
    limits: IntCounterVec,
    connections: IntGaugeVec,
    closed: IntCounterVec,
    /// Requests that the admin listener turned away, by why.
    pub denied: IntCounterVec,
    /// Revisions that were taken back by themselves.
    rollbacks: IntCounterVec,
    /// Spans on their way to a collector.
    pub spans: Counts,
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

impl Metrics {
    /// Registers all of them. The names are this host's own, so it cannot fail
    /// but by a mistake in this file, which a test would show.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let families = Families::default();
        let counter =
            |name: &str, help: &str, labels: &[&str]| families.counters(name, help, labels);
        let gauges = |name: &str, help: &str, labels: &[&str]| families.gauges(name, help, labels);
        let total = |name: &str, help: &str| families.total(name, help);
        let short = |name: &str, help: &str, labels: &[&str]| {
            families.histograms(name, help, labels, &SHORT)
        };
        let long = |name: &str, help: &str, labels: &[&str]| {
            families.histograms(name, help, labels, &LONG)
        };
        families
            .time(
                "tidemill_start_time_seconds",
                "When the host started, in seconds since the Unix epoch.",
            )?
            .set(crate::now_ms() as f64 / 1000.0);
        Ok(Metrics {
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
            connections: gauges(
                "tidemill_connections",
                "Open connections of a listener.",
                &["listener"],
            )?,
            closed: counter(
                "tidemill_connections_closed_total",
                "Connections that did not end well, by why.",
                &["listener", "reason"],
            )?,
            rollbacks: counter(
                "tidemill_rollbacks_total",
                "Revisions that this host took back because they failed too often.",
                &["service"],
            )?,
            denied: counter(
                "tidemill_admin_denied_total",
                "Requests that the admin listener turned away, by why.",
                &["reason"],
            )?,
            spans: Counts {
                exported: total(
                    "tidemill_spans_exported_total",
                    "Spans that the collector took.",
                )?,
                lost: total(
                    "tidemill_spans_lost_total",
                    "Spans that the collector did not take, or not fast enough.",
                )?,
            },
            page: Page::new(&families)?,
            process: Process::new(&families)?,
            families,
        })
    }

    /// The handles of one service, looked up once.
    pub fn service(&self, name: &str) -> ServiceMetrics {
        let calls = |kind: &str| Calls {
            ok: self.invocations.with_label_values(&[name, kind, "ok"]),
            failed: Failure::NAMES
                .map(|outcome| self.invocations.with_label_values(&[name, kind, outcome])),
            duration: self.durations.with_label_values(&[name, kind]),
            running: self.running.with_label_values(&[name, kind]),
            waiting: self.waiting.with_label_values(&[name, kind]),
        };
        ServiceMetrics {
            name: name.into(),
            answered: self.requests.with_label_values(&[name]),
            refused: self.refused.clone(),
            publishing: self.publishing.with_label_values(&[name]),
            transaction: self.transactions.with_label_values(&[name]),
            commit_wait: self.commit_waits.with_label_values(&[name]),
            rebalances: CHANGES.map(|change| self.rebalances.with_label_values(&[name, change])),
            requests: calls("request"),
            events: calls("event"),
            published: self.published.with_label_values(&[name]),
            committed: self.committed.with_label_values(&[name]),
            commit_duration: self.commit_durations.with_label_values(&[name]),
            aborted: self.aborted.with_label_values(&[name]),
            retries: self.retries.with_label_values(&[name]),
            dead_letters: self.dead_letters.with_label_values(&[name]),
            lost: self.lost.with_label_values(&[name]),
            latest: Arc::default(),
            responses: ["2xx", "3xx", "4xx", "5xx"]
                .map(|class| self.responses.with_label_values(&[name, class])),
            limits: Limit::ALL.map(|limit| self.limits.with_label_values(&[name, limit.name()])),
        }
    }

    /// The handles of one listener, looked up once.
    pub(crate) fn connections(&self, listener: &str) -> ConnectionMetrics {
        ConnectionMetrics {
            open: self.connections.with_label_values(&[listener]),
            closed: Closed::NAMES.map(|reason| self.closed.with_label_values(&[listener, reason])),
        }
    }

    /// A service is gone: so is what was counted of it.
    pub fn forget(&self, service: &str) {
        self.families.forget(service);
    }

    /// A revision of a service was taken back.
    pub fn rolled_back(&self, service: &str) {
        self.rollbacks.with_label_values(&[service]).inc();
    }

    /// A request was turned down that is for no service.
    pub fn refused(&self, reason: &str) {
        self.refused.with_label_values(&["", reason]).inc();
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
#[derive(Clone)]
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

/// The counters of one service.
#[derive(Clone)]
pub struct ServiceMetrics {
    name: Arc<str>,
    answered: Histogram,
    refused: IntCounterVec,
    publishing: Histogram,
    transaction: Histogram,
    commit_wait: Histogram,
    rebalances: [IntCounter; CHANGES.len()],
    requests: Calls,
    events: Calls,
    published: IntCounter,
    committed: IntCounter,
    commit_duration: Histogram,
    aborted: IntCounter,
    retries: IntCounter,
    dead_letters: IntCounter,
    lost: IntCounter,
    latest: Arc<Mutex<VecDeque<Duration>>>,
    responses: [IntCounter; 4],
    limits: [IntCounter; Limit::ALL.len()],
}

impl ServiceMetrics {
    fn calls(&self, kind: Kind) -> &Calls {
        match kind {
            Kind::Request => &self.requests,
            Kind::Event => &self.events,
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
        if let Some(counter) = self.limits.get(limit as usize) {
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
        self.published.inc_by(events as u64);
    }

    /// Events were consumed for good.
    pub fn committed(&self, events: usize, took: Duration) {
        self.committed.inc_by(events as u64);
        self.commit_duration.observe(took.as_secs_f64());
        let mut latest = self.latest.lock();
        if latest.len() == LATEST {
            latest.pop_front();
        }
        latest.push_back(took);
    }

    /// An event failed, and is run again.
    pub fn retried(&self) {
        self.retries.inc();
    }

    /// Events became dead letters.
    pub fn dead_letters(&self, events: usize) {
        self.dead_letters.inc_by(events as u64);
    }

    /// Events were gone before they were consumed.
    pub fn lost(&self, events: u64) {
        self.lost.inc_by(events);
    }

    /// A transaction was aborted.
    pub fn aborted(&self) {
        self.aborted.inc();
    }

    /// What is known of the commits so far.
    pub fn commits(&self) -> Option<Commits> {
        let mut latest: Vec<Duration> = self.latest.lock().iter().copied().collect();
        latest.sort_unstable();
        let share = |percent: usize| {
            let place = (latest.len() * percent).div_ceil(100).saturating_sub(1);
            latest.get(place).map(|took| crate::host::micros(*took))
        };
        Some(Commits {
            count: self.commit_duration.get_sample_count(),
            aborted: self.aborted.get(),
            p50_us: share(50)?,
            p99_us: share(99)?,
        })
    }

    /// The events of a request are acknowledged.
    pub fn acknowledged(&self, took: Duration) {
        self.publishing.observe(took.as_secs_f64());
    }

    /// A transaction of consumed events is committed.
    pub fn transacted(&self, took: Duration) {
        self.transaction.observe(took.as_secs_f64());
    }

    /// A group is committed whose first call ended so long ago.
    pub fn waited(&self, took: Duration) {
        self.commit_wait.observe(took.as_secs_f64());
    }

    /// What this host consumes has changed.
    pub fn rebalanced(&self, change: Change) {
        if let Some(counter) = self.rebalances.get(change as usize) {
            counter.inc();
        }
    }

    /// A request was turned down.
    pub fn refused(&self, reason: &str) {
        self.refused.with_label_values(&[&*self.name, reason]).inc();
    }

    /// A response was made.
    pub fn responded(&self, status: http::StatusCode, took: Duration) {
        self.answered.observe(took.as_secs_f64());
        let class = usize::from(status.as_u16() / 100).saturating_sub(2);
        if let Some(counter) = self.responses.get(class) {
            counter.inc();
        }
    }

    /// Responses made so far.
    pub fn responses(&self) -> u64 {
        self.responses.iter().map(IntCounter::get).sum()
    }

    /// Events committed so far.
    pub fn events(&self) -> u64 {
        self.committed.get()
    }

    /// Invocations that failed so far.
    pub fn failures(&self) -> u64 {
        let both = [&self.requests, &self.events];
        both.iter()
            .flat_map(|calls| &calls.failed)
            .map(IntCounter::get)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::families::Shape;
    use super::page::Now;
    use super::*;

    fn text(metrics: &Metrics) -> String {
        metrics.render(&Now::default()).unwrap()
    }

    #[test]
    fn what_was_counted_is_in_the_text() {
        let metrics = Metrics::new().unwrap();
        let service = metrics.service("order");
        let timeout = Failure::Timeout {
            limit: Duration::from_secs(1),
        };
        service.ran(Kind::Event, &Ok(()), Duration::from_micros(3));
        service.ran(Kind::Event, &Err::<(), _>(timeout), Duration::from_secs(1));
        service.committed(7, Duration::from_millis(2));
        service.responded(http::StatusCode::NOT_FOUND, Duration::from_millis(1));
        service.refused("busy");
        let mut one = service.begin(Kind::Request);
        let _two = service.begin(Kind::Request);
        one.runs();
        let text = text(&metrics);
        for line in [
            r#"tidemill_invocations_total{kind="event",outcome="ok",service="order"} 1"#,
            r#"tidemill_invocations_total{kind="event",outcome="timeout",service="order"} 1"#,
            r#"tidemill_events_committed_total{service="order"} 7"#,
            r#"tidemill_responses_total{service="order",status="4xx"} 1"#,
            r#"tidemill_limit_hits_total{limit="time",service="order"} 1"#,
            r#"tidemill_request_duration_seconds_count{service="order"} 1"#,
            r#"tidemill_requests_refused_total{reason="busy",service="order"} 1"#,
            r#"tidemill_invocations_running{kind="request",service="order"} 1"#,
            r#"tidemill_invocations_waiting{kind="request",service="order"} 1"#,
            "tidemill_kafka_up 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!((service.events(), service.failures()), (7, 1));
    }

    #[test]
    fn a_removed_service_has_no_metrics_and_the_others_keep_theirs() {
        let metrics = Metrics::new().unwrap();
        for name in ["order", "user"] {
            let service = metrics.service(name);
            service.committed(7, Duration::from_millis(2));
            service.refused("busy");
        }
        let of = |name: &str| {
            let label = format!("service=\"{name}\"");
            text(&metrics)
                .lines()
                .filter(|line| line.contains(&label))
                .count()
        };
        let before = of("user");
        assert_eq!(of("order"), before);
        metrics.forget("order");
        assert_eq!((of("order"), of("user")), (0, before));
    }

    /// A row of docs/metrics.md: `name` | type | `label`, `label` | …
    fn documented(row: &str) -> Option<Shape> {
        let mut cells = row.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.trim_matches('`').to_owned();
        let kind = ["counter", "gauge", "histogram"];
        let kind = kind
            .into_iter()
            .find(|&kind| Some(kind) == cells.clone().next())?;
        let labels = cells
            .nth(1)?
            .split(',')
            .map(|label| label.trim().trim_matches('`'));
        Some(Shape {
            name,
            kind,
            labels: labels
                .filter(|&label| label != "none")
                .map(str::to_owned)
                .collect(),
        })
    }

    #[test]
    fn every_metric_is_documented_and_nothing_else() {
        let page = include_str!("../../../docs/metrics.md");
        let documented: Vec<Shape> = page.lines().filter_map(documented).collect();
        let counted = Metrics::new().unwrap().families.shapes();
        for shape in &counted {
            let rows = documented.iter().filter(|row| *row == shape).count();
            assert_eq!(rows, 1, "rows of docs/metrics.md for {shape:?}");
        }
        for row in &documented {
            assert!(counted.contains(row), "{row:?} is not counted");
        }
    }

    #[test]
    fn the_page_of_a_hundred_services_is_soon_made() {
        let metrics = Metrics::new().unwrap();
        let services: Vec<ServiceMetrics> = (0..100)
            .map(|number| metrics.service(&format!("service-{number}")))
            .collect();
        let begun = std::time::Instant::now();
        let page = text(&metrics);
        println!("{} bytes in {:?}", page.len(), begun.elapsed());
        assert!(page.len() < 4 << 20, "{}", page.len());
        assert!(begun.elapsed() < Duration::from_secs(1));
        drop(services);
    }

    #[test]
    fn everything_in_the_text_is_of_a_known_family() {
        let metrics = Metrics::new().unwrap();
        let _service = metrics.service("order");
        let known = metrics.families.shapes();
        for line in text(&metrics).lines() {
            let Some(rest) = line.strip_prefix("# TYPE ") else {
                continue;
            };
            let name = rest.split(' ').next().unwrap();
            assert!(known.iter().any(|shape| shape.name == name), "{name}");
        }
    }
}
