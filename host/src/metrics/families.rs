//! The families of metrics: registered here, so that each is known by name, type
//! and labels, and what a removed service had can be forgotten.

use std::collections::HashMap;

use parking_lot::Mutex;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry,
};

type Result<T> = std::result::Result<T, prometheus::Error>;

/// All families of a host.
#[derive(Default)]
pub(super) struct Families {
    registry: Registry,
    known: Mutex<Vec<Known>>,
}

/// What is known of a family.
struct Known {
    #[cfg(test)]
    shape: Shape,
    /// Drops what it has of a service.
    forget: Box<dyn Fn(&str) + Send + Sync>,
}

/// A family's name, type and labels, as docs/metrics.md has them.
#[cfg(test)]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) labels: Vec<String>,
}

impl Families {
    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec> {
        let family = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.add(name, "counter", labels, family)
    }

    pub(super) fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.add(name, "gauge", labels, family)
    }

    /// Gauges of seconds, which are no whole numbers.
    pub(super) fn times(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec> {
        let family = GaugeVec::new(Opts::new(name, help), labels)?;
        self.add(name, "gauge", labels, family)
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let family = HistogramVec::new(options, labels)?;
        self.add(name, "histogram", labels, family)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        let gauge = IntGauge::new(name, help)?;
        self.register(name, "gauge", gauge.clone())?;
        Ok(gauge)
    }

    pub(super) fn total(&self, name: &str, help: &str) -> Result<IntCounter> {
        let counter = IntCounter::new(name, help)?;
        self.register(name, "counter", counter.clone())?;
        Ok(counter)
    }

    pub(super) fn time(&self, name: &str, help: &str) -> Result<Gauge> {
        let gauge = Gauge::new(name, help)?;
        self.register(name, "gauge", gauge.clone())?;
        Ok(gauge)
    }

    /// What a library collects, with types.
    pub(super) fn collector(
        &self,
        collector: impl Collector + 'static,
        collected: &[(&str, &'static str)],
    ) -> Result<()> {
        self.registry.register(Box::new(collector))?;
        for (name, kind) in collected {
            self.know(name, kind, &[], |_| {});
        }
        Ok(())
    }

    /// A single metric.
    pub(super) fn register(
        &self,
        name: &str,
        kind: &'static str,
        metric: impl Collector + 'static,
    ) -> Result<()> {
        self.registry.register(Box::new(metric))?;
        self.know(name, kind, &[], |_| {});
        Ok(())
    }

    fn add<T>(
        &self,
        name: &str,
        kind: &'static str,
        labels: &[&str],
        family: MetricVec<T>,
    ) -> Result<MetricVec<T>>
    where
        T: MetricVecBuilder + 'static,
        MetricVec<T>: Collector,
    {
        self.registry.register(Box::new(family.clone()))?;
        let of = family.clone();
        self.know(name, kind, labels, move |service| forget(&of, service));
        Ok(family)
    }

    fn know(
        &self,
        name: &str,
        kind: &'static str,
        labels: &[&str],
        forget: impl Fn(&str) + Send + Sync + 'static,
    ) {
        #[cfg(not(test))]
        let _ = (name, kind, labels);
        self.known.lock().push(Known {
            #[cfg(test)]
            shape: Shape {
                name: name.to_owned(),
                kind,
                labels: labels.iter().map(|&label| label.to_owned()).collect(),
            },
            forget: Box::new(forget),
        });
    }

    /// What all families have now.
    pub(super) fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.registry.gather()
    }

    /// A service is gone: so is what was counted of it.
    pub(super) fn forget(&self, service: &str) {
        for known in &*self.known.lock() {
            (known.forget)(service);
        }
    }

    #[cfg(test)]
    pub(super) fn shapes(&self) -> Vec<Shape> {
        let known = self.known.lock();
        let mut shapes: Vec<Shape> = known.iter().map(|known| known.shape.clone()).collect();
        shapes.sort();
        shapes
    }
}

fn forget<T: MetricVecBuilder>(family: &MetricVec<T>, service: &str)
where
    MetricVec<T>: Collector,
{
    for gathered in family.collect() {
        for metric in gathered.get_metric() {
            let labels: HashMap<&str, &str> = metric
                .get_label()
                .iter()
                .map(|label| (label.name(), label.value()))
                .collect();
            if labels.get("service") == Some(&service) {
                // It is there, or somebody else has just removed it.
                let _ = family.remove(&labels);
            }
        }
    }
}
