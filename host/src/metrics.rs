//! What the host counts, for Prometheus.
//!
//! Labels are bounded: services, kinds, outcomes, and the partitions that are
//! consumed. docs/metrics.md lists them all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use tidemill_cli::api::Commits;

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
    registry: Registry,
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
    memory: IntGaugeVec,
    idle: IntGaugeVec,
    lag: IntGaugeVec,
    attempts: IntGaugeVec,
    blocked: IntGaugeVec,
    state_bytes: IntGaugeVec,
    state_behind: IntGaugeVec,
    services: IntGauge,
    kafka_up: IntGauge,
    connections: IntGaugeVec,
    closed: IntCounterVec,
    /// Requests that the admin listener turned away, by why.
    pub denied: IntCounterVec,
    /// Spans on their way to a collector.
    pub spans: Counts,
}

const SECONDS: [f64; 14] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05,
    0.25, 1.0, 5.0,
];

impl Metrics {
    /// Registers all of them. The names are this host's own, so it cannot fail
    /// but by a mistake in this file, which a test would show.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauge = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let total = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let seconds = |name: &str, help: &str, labels: &[&str]| {
            let opts = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let histogram = HistogramVec::new(opts, labels)?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let started = Gauge::new(
            "tidemill_start_time_seconds",
            "When the host started, in seconds since the Unix epoch.",
        )?;
        registry.register(Box::new(started.clone()))?;
        started.set(crate::now_ms() as f64 / 1000.0);
        Ok(Metrics {
            invocations: counter(
                "tidemill_invocations_total",
                "Calls of a handler, by what they came to.",
                &["service", "kind", "outcome"],
            )?,
            durations: seconds(
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
            commit_durations: seconds(
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
            memory: gauges(
                "tidemill_memory_bytes",
                "Memory of a service's instances.",
                &["service"],
            )?,
            idle: gauges(
                "tidemill_instances_idle",
                "Instances that wait for a call.",
                &["service"],
            )?,
            lag: gauges(
                "tidemill_consumer_lag",
                "Events not yet consumed.",
                &["service", "topic", "partition"],
            )?,
            attempts: gauges(
                "tidemill_partition_failures",
                "How often the event at the head of a partition has failed.",
                &["service", "topic", "partition"],
            )?,
            blocked: gauges(
                "tidemill_partition_blocked",
                "1 if a partition is blocked by an event that keeps failing.",
                &["service", "topic", "partition"],
            )?,
            state_bytes: gauges(
                "tidemill_state_bytes",
                "Bytes of a service's state on this host's disk.",
                &["service"],
            )?,
            state_behind: gauges(
                "tidemill_state_behind",
                "Records of its changelog that this host's copy of a state lacks.",
                &["service"],
            )?,
            services: gauge("tidemill_services", "Deployed services.")?,
            kafka_up: gauge("tidemill_kafka_up", "1 if Kafka answers.")?,
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
            registry,
        })
    }

    /// The handles of one service, looked up once.
    pub fn service(&self, name: &str) -> ServiceMetrics {
        let calls = |kind: &str| Calls {
            ok: self.invocations.with_label_values(&[name, kind, "ok"]),
            failed: Failure::NAMES
                .map(|outcome| self.invocations.with_label_values(&[name, kind, outcome])),
            duration: self.durations.with_label_values(&[name, kind]),
        };
        ServiceMetrics {
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

    /// The text that Prometheus reads (exposition format 0.0.4), with what is
    /// only known when asked for.
    pub fn render(
        &self,
        services: &[std::sync::Arc<crate::service::Service>],
        kafka_up: bool,
    ) -> Result<String, prometheus::Error> {
        self.services.set(services.len() as i64);
        self.kafka_up.set(kafka_up.into());
        for gauge in [
            &self.memory,
            &self.idle,
            &self.lag,
            &self.attempts,
            &self.blocked,
            &self.state_bytes,
            &self.state_behind,
        ] {
            gauge.reset();
        }
        for service in services {
            let name = service.name();
            let idle = service.current().component.idle();
            self.idle.with_label_values(&[name]).set(idle as i64);
            let memory = service.current().component.memory();
            let memory = i64::try_from(memory).unwrap_or(i64::MAX);
            self.memory.with_label_values(&[name]).set(memory);
            if service.current().manifest.grants.state {
                let state = service.state.reading();
                let bytes = i64::try_from(state.disk_space()).unwrap_or(i64::MAX);
                self.state_bytes.with_label_values(&[name]).set(bytes);
                let behind = self.state_behind.with_label_values(&[name]);
                behind.set(state.behind());
            }
            for partition in service.board().partitions() {
                let number = partition.partition.to_string();
                let labels = [name, &partition.topic, &number];
                if let Some(lag) = partition.lag {
                    self.lag.with_label_values(&labels).set(lag as i64);
                }
                let failures = self.attempts.with_label_values(&labels);
                failures.set(partition.attempt.into());
                let blocked = partition.status == tidemill_cli::api::Status::Blocked;
                self.blocked.with_label_values(&labels).set(blocked.into());
            }
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

/// Why a connection did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The client took too long.
    Slow,
    /// What it sent is not HTTP/1.1.
    Malformed,
    /// It cancelled requests without end.
    Abused,
    /// Anything else: it broke off, or broke the rules of HTTP/2.
    Broken,
}

impl Closed {
    /// Their names, in order.
    const NAMES: [&str; 4] = ["slow", "malformed", "abused", "broken"];
}

/// The connections of one listener.
#[derive(Clone)]
pub(crate) struct ConnectionMetrics {
    open: IntGauge,
    closed: [IntCounter; Closed::NAMES.len()],
}

impl ConnectionMetrics {
    /// A connection is open as long as what this gives is kept.
    pub(crate) fn opened(&self) -> Open {
        self.open.inc();
        Open(self.open.clone())
    }

    /// A connection did not end well.
    pub(crate) fn closed(&self, why: Closed) {
        if let Some(counter) = self.closed.get(why as usize) {
            counter.inc();
        }
    }
}

/// An open connection, counted.
pub(crate) struct Open(IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// One kind of call of one service.
#[derive(Clone)]
struct Calls {
    ok: IntCounter,
    failed: [IntCounter; Failure::NAMES.len()],
    duration: Histogram,
}

/// The counters of one service.
#[derive(Clone)]
pub struct ServiceMetrics {
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
    /// A call came to its end.
    pub fn ran<T>(&self, kind: Kind, result: &Result<T, Failure>, took: Duration) {
        let calls = match kind {
            Kind::Request => &self.requests,
            Kind::Event => &self.events,
        };
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

    /// A response was made.
    pub fn responded(&self, status: http::StatusCode) {
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
    use super::*;

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
        service.responded(http::StatusCode::NOT_FOUND);
        let text = metrics.render(&[], true).unwrap();
        for line in [
            r#"tidemill_invocations_total{kind="event",outcome="ok",service="order"} 1"#,
            r#"tidemill_invocations_total{kind="event",outcome="timeout",service="order"} 1"#,
            r#"tidemill_events_committed_total{service="order"} 7"#,
            r#"tidemill_responses_total{service="order",status="4xx"} 1"#,
            r#"tidemill_limit_hits_total{limit="time",service="order"} 1"#,
            "tidemill_kafka_up 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!((service.events(), service.failures()), (7, 1));
    }
}
