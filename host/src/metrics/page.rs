//! What is only known when it is asked for, and the text that Prometheus reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{Encoder, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, TextEncoder};
use tidemill_cli::api::Status;

use super::Metrics;
use super::families::Families;
use crate::logs;
use crate::service::Service;

/// Gauges that are set, and counters that are counted on, for each page.
pub(super) struct Page {
    /// One page is made at a time: gauges are emptied before they are set.
    turn: Mutex<()>,
    idle: IntGaugeVec,
    memory: IntGaugeVec,
    lag: IntGaugeVec,
    stalled: GaugeVec,
    attempts: IntGaugeVec,
    blocked: IntGaugeVec,
    paused: IntGaugeVec,
    state_bytes: IntGaugeVec,
    state_behind: IntGaugeVec,
    state_readable: IntGaugeVec,
    dropped: IntCounterVec,
    logged: IntCounterVec,
    services: IntGauge,
    kafka_up: IntGauge,
    kafka_queue: IntGauge,
    kafka_errors: IntCounterVec,
    unwritten: IntGauge,
    cached: IntGauge,
}

/// What a page is made of.
#[derive(Default)]
pub struct Now {
    /// All that are deployed.
    pub services: Vec<Arc<Service>>,
    /// Whether Kafka answers.
    pub kafka_up: bool,
    /// Errors of its clients so far, by librdkafka's name.
    pub kafka_errors: BTreeMap<String, u64>,
    /// Events of requests that are not acknowledged yet.
    pub kafka_queue: usize,
    /// Bytes of state in memory that are in no file yet.
    pub unwritten: u64,
    /// Bytes of state that was read from files and is kept in memory.
    pub cached: u64,
}

impl Page {
    pub(super) fn new(families: &Families) -> Result<Page, prometheus::Error> {
        let counter =
            |name: &str, help: &str, labels: &[&str]| families.counters(name, help, labels);
        let gauges = |name: &str, help: &str, labels: &[&str]| families.gauges(name, help, labels);
        let partition = ["service", "topic", "partition"];
        Ok(Page {
            turn: Mutex::default(),
            idle: gauges(
                "tidemill_instances_idle",
                "Instances that wait for a call.",
                &["service"],
            )?,
            memory: gauges(
                "tidemill_memory_bytes",
                "Memory of a service's instances.",
                &["service"],
            )?,
            lag: gauges(
                "tidemill_consumer_lag",
                "Events not yet consumed.",
                &partition,
            )?,
            stalled: families.times(
                "tidemill_partition_stalled_seconds",
                "Time since a partition with events to consume has moved on.",
                &partition,
            )?,
            attempts: gauges(
                "tidemill_partition_failures",
                "How often the event at the head of a partition has failed.",
                &partition,
            )?,
            blocked: gauges(
                "tidemill_partition_blocked",
                "1 if a partition is blocked by an event that keeps failing.",
                &partition,
            )?,
            paused: gauges(
                "tidemill_service_paused",
                "1 if somebody has paused the service's events.",
                &["service"],
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
            state_readable: gauges(
                "tidemill_state_readable",
                "1 if the state has been complete on this host, 0 while it is restored.",
                &["service"],
            )?,
            dropped: counter(
                "tidemill_guest_lines_dropped_total",
                "Log lines of guests that were dropped, since there were too many.",
                &["service"],
            )?,
            logged: counter(
                "tidemill_log_lines_total",
                "Lines of the log, by level.",
                &["level"],
            )?,
            services: families.gauge("tidemill_services", "Deployed services.")?,
            kafka_up: families.gauge("tidemill_kafka_up", "1 if Kafka answers.")?,
            kafka_queue: families.gauge(
                "tidemill_kafka_queue_messages",
                "Events of requests that are not acknowledged yet.",
            )?,
            kafka_errors: counter(
                "tidemill_kafka_errors_total",
                "Errors of Kafka's clients, by librdkafka's name.",
                &["error"],
            )?,
            unwritten: families.gauge(
                "tidemill_state_unwritten_bytes",
                "Bytes of all state that are in memory and in no file yet.",
            )?,
            cached: families.gauge(
                "tidemill_state_cache_bytes",
                "Bytes of all state that were read from files and are kept in memory.",
            )?,
        })
    }

    fn set(&self, now: &Now) {
        self.services.set(now.services.len() as i64);
        self.kafka_up.set(now.kafka_up.into());
        self.kafka_queue.set(whole(now.kafka_queue as u64));
        self.unwritten.set(whole(now.unwritten));
        self.cached.set(whole(now.cached));
        for (error, count) in &now.kafka_errors {
            count_on(&self.kafka_errors, error, *count);
        }
        for (level, count) in logs::counted() {
            count_on(&self.logged, level.name(), count);
        }
        for gauge in [
            &self.idle,
            &self.memory,
            &self.lag,
            &self.attempts,
            &self.blocked,
            &self.paused,
            &self.state_bytes,
            &self.state_behind,
            &self.state_readable,
        ] {
            gauge.reset();
        }
        self.stalled.reset();
        for service in &now.services {
            self.set_service(service);
            self.set_partitions(service);
        }
    }

    fn set_service(&self, service: &Service) {
        let name = &[service.name()];
        let revision = service.current();
        // What is not in memory has no instances.
        let component = revision.in_memory();
        let component = component.as_ref();
        let idle = component.map_or(0, |component| component.idle() as u64);
        self.idle.with_label_values(name).set(whole(idle));
        let memory = component.map_or(0, |component| component.memory());
        self.memory.with_label_values(name).set(whole(memory));
        count_on(
            &self.dropped,
            service.name(),
            logs::books().dropped(service.name()),
        );
        if !revision.manifest.subscribe.is_empty() {
            let paused = service.board().status().0 == Status::Paused;
            self.paused.with_label_values(name).set(paused.into());
        }
        if revision.manifest.grants.state
            && let Some(granted) = service.state()
        {
            let state = granted.reading();
            let bytes = whole(state.disk_space());
            self.state_bytes.with_label_values(name).set(bytes);
            let behind = self.state_behind.with_label_values(name);
            behind.set(state.behind());
            let readable = self.state_readable.with_label_values(name);
            readable.set(granted.is_readable().into());
        }
    }

    fn set_partitions(&self, service: &Service) {
        let name = service.name();
        for partition in service.board().partitions() {
            let number = partition.partition.to_string();
            let labels = [name, &partition.topic, &number];
            if let Some(lag) = partition.lag {
                self.lag.with_label_values(&labels).set(whole(lag));
            }
            let failures = self.attempts.with_label_values(&labels);
            failures.set(partition.attempt.into());
            let blocked = partition.status == Status::Blocked;
            self.blocked.with_label_values(&labels).set(blocked.into());
        }
        for ((topic, partition), stalled) in service.board().stalls() {
            let labels = [name, &topic, &partition.to_string()];
            let gauge = self.stalled.with_label_values(&labels);
            gauge.set(stalled.as_secs_f64());
        }
    }
}

/// Sets a counter that is counted elsewhere.
fn count_on(counters: &IntCounterVec, label: &str, count: u64) {
    let counter = counters.with_label_values(&[label]);
    counter.inc_by(count.saturating_sub(counter.get()));
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

impl Metrics {
    /// The text that Prometheus reads (exposition format 0.0.4).
    pub fn render(&self, now: &Now) -> Result<String, prometheus::Error> {
        let _turn = self.page.turn.lock();
        self.page.set(now);
        self.process.set();
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.families.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}
