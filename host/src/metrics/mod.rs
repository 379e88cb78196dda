//! What the host counts, for Prometheus.
//!
//! Labels are bounded: services, kinds, outcomes, and the partitions that are
//! consumed. docs/metrics.md lists them all. What is counted of a service is in
//! `service`, what is only known when it is asked for in `page`, what the process as
//! a whole takes in `process`.

mod connections;
mod families;
mod page;
mod process;
mod service;

use std::sync::Arc;

use prometheus::{IntCounterVec, IntGaugeVec};

pub(crate) use connections::{Closed, ConnectionMetrics};
use families::Families;
pub use page::Now;
use page::Page;
use process::Process;
use service::ByService;
pub use service::{Change, InFlight, Kind, ServiceMetrics};

use crate::trace::Counts;

/// All metrics of a host.
pub struct Metrics {
    families: Families,
    by_service: Arc<ByService>,
    page: Page,
    process: Process,
    connections: IntGaugeVec,
    closed: IntCounterVec,
    /// Requests that the admin listener turned away, by why.
    pub denied: IntCounterVec,
    /// Revisions that were taken back by themselves.
    /// Spans on their way to a collector.
    pub spans: Counts,
}

impl Metrics {
    /// Registers all of them. The names are this host's own, so it cannot fail
    /// but by a mistake in this file, which a test would show.
    pub fn new() -> Result<Metrics, prometheus::Error> {
        let families = Families::default();
        let counter =
            |name: &str, help: &str, labels: &[&str]| families.counters(name, help, labels);
        let gauges = |name: &str, help: &str, labels: &[&str]| families.gauges(name, help, labels);
        let total = |name: &str, help: &str| families.total(name, help);
        families
            .time(
                "tidemill_start_time_seconds",
                "When the host started, in seconds since the Unix epoch.",
            )?
            .set(crate::now_ms() as f64 / 1000.0);
        Ok(Metrics {
            by_service: Arc::new(ByService::new(&families)?),
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
            page: Page::new(&families)?,
            process: Process::new(&families)?,
            families,
        })
    }

    /// What is counted of one service. Nothing is until something happens: a service
    /// that nobody calls takes no room here.
    pub fn service(&self, name: &str) -> ServiceMetrics {
        ServiceMetrics::new(name, self.by_service.clone())
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
        self.by_service.rolled_back(service);
    }

    /// A request was turned down that is for no service.
    pub fn refused(&self, reason: &str) {
        self.by_service.refused("", reason);
    }
}

#[cfg(test)]
mod tests {
    use super::families::Shape;
    use super::page::Now;
    use super::*;
    use crate::invocation::Failure;
    use std::time::Duration;

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
    fn a_service_that_nobody_calls_takes_no_room() {
        let metrics = Metrics::new().unwrap();
        let service = metrics.service("quiet");
        assert_eq!((service.responses(), service.failures()), (0, 0));
        assert!(!text(&metrics).contains("quiet"));
        // What can come of a call is there from the first one on.
        drop(service.begin(Kind::Request));
        let text = text(&metrics);
        for line in [
            r#"tidemill_invocations_total{kind="request",outcome="trap",service="quiet"} 0"#,
            r#"tidemill_responses_total{service="quiet",status="5xx"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains(r#"kind="event""#));
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
            .inspect(|service| service.committed(1, Duration::from_millis(2)))
            .inspect(|service| drop(service.begin(Kind::Request)))
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
        metrics.service("order").retried();
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
