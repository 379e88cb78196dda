//! What the process as a whole takes, and what it is made of.

use prometheus::process_collector::ProcessCollector;
use prometheus::{Counter, IntGauge, Opts};

use super::families::Families;
use crate::{kafka, runtime};

/// Tasks and workers of the process.
pub(super) struct Process {
    tasks: IntGauge,
    queued: IntGauge,
    workers: IntGauge,
    busy: Counter,
}

/// What the prometheus crate collects, with its type.
const COLLECTED: [(&str, &str); 7] = [
    ("process_cpu_seconds_total", "counter"),
    ("process_max_fds", "gauge"),
    ("process_open_fds", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_start_time_seconds", "gauge"),
    ("process_threads", "gauge"),
    ("process_virtual_memory_bytes", "gauge"),
];

impl Process {
    pub(super) fn new(families: &Families) -> Result<Process, prometheus::Error> {
        families.collector(ProcessCollector::for_self(), &COLLECTED)?;
        let build = families.gauges(
            "tidemill_build_info",
            "1, with the versions that this host is made of.",
            &["version", "wasmtime", "librdkafka"],
        )?;
        let version = env!("CARGO_PKG_VERSION");
        let librdkafka = kafka::version();
        build
            .with_label_values(&[version, runtime::VERSION, &librdkafka])
            .set(1);
        let busy = Counter::with_opts(Opts::new(
            "tidemill_workers_busy_seconds_total",
            "Time that worker threads have spent on tasks, all together.",
        ))?;
        families.register(
            "tidemill_workers_busy_seconds_total",
            "counter",
            busy.clone(),
        )?;
        Ok(Process {
            tasks: families.gauge("tidemill_tasks", "Tasks that are alive.")?,
            queued: families.gauge(
                "tidemill_tasks_queued",
                "Tasks that wait for a worker in the common queue.",
            )?,
            workers: families.gauge("tidemill_workers", "Worker threads.")?,
            busy,
        })
    }

    pub(super) fn set(&self) {
        let Ok(handle) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let metrics = handle.metrics();
        let workers = metrics.num_workers();
        self.tasks.set(metrics.num_alive_tasks() as i64);
        self.queued.set(metrics.global_queue_depth() as i64);
        self.workers.set(workers as i64);
        let busy = (0..workers).map(|worker| metrics.worker_total_busy_duration(worker));
        let busy: f64 = busy.map(|busy| busy.as_secs_f64()).sum();
        self.busy.inc_by((busy - self.busy.get()).max(0.0));
    }
}
