//! Events: from topic to topic and state, on one real Kafka.
//!
//! Each part starts a broker of its own and lets the systems take turns, round
//! by round. A turn has new processes, a new consumer group and new topics to
//! write to. What it published is checked before its figures count.

mod backlog;
mod broker;
mod latency;
mod memory;
mod replay;
mod restore;
mod rows;
mod scaling;
mod system;
mod throughput;
mod work;

use std::env;
use std::time::{Duration, Instant};

use crate::report::{Table, show};
use crate::setting;
use system::Form;
pub(crate) use system::number;

/// The topic that events are read from.
pub(crate) const IN: &str = "bench-in";
/// The topic that they are passed on to, or their counts.
pub(crate) const OUT: &str = "bench-out";
/// The changelog of the bare loop.
pub(crate) const CHANGELOG: &str = "bench-changelog";

const PARTITIONS: i32 = 4;
/// Bytes of an event's value.
const SIZE: usize = 200;

/// A part of the measurement, and how much it does unless the environment says
/// otherwise.
struct Part {
    name: &'static str,
    /// Events of a backlog.
    events: usize,
    rounds: usize,
    measure: fn(&Scale) -> Vec<Table>,
}

const PARTS: [Part; 10] = [
    part("stateless", 700_000, 3, |scale| {
        throughput::measure(scale, Form::Forward)
    }),
    part("count", 700_000, 3, |scale| {
        throughput::measure(scale, Form::Count)
    }),
    part("final", 700_000, 3, |scale| {
        throughput::measure(scale, Form::Tally)
    }),
    part("latency", 0, 3, |scale| vec![latency::measure(scale)]),
    part("partitions", 300_000, 3, |scale| {
        vec![scaling::partitions(scale)]
    }),
    part("rows", 60_000, 2, |scale| vec![rows::measure(scale)]),
    part("values", 200_000, 1, scaling::values),
    part("replay", 2_000_000, 1, |scale| vec![replay::measure(scale)]),
    part("restore", 500_000, 1, |scale| vec![restore::measure(scale)]),
    part("memory", 500_000, 1, |scale| vec![memory::measure(scale)]),
];

const fn part(
    name: &'static str,
    events: usize,
    rounds: usize,
    measure: fn(&Scale) -> Vec<Table>,
) -> Part {
    Part {
        name,
        events,
        rounds,
        measure,
    }
}

/// How much is measured, each by a variable of the environment.
struct Scale {
    /// Events of a backlog, and rows that are restored: `BENCH_EVENTS`.
    events: usize,
    /// Keys of the events: `BENCH_KEYS`.
    keys: usize,
    /// Rows of the largest state: `BENCH_ROWS`.
    rows: usize,
    /// Events of a turn that measures latency: `BENCH_PINGS`.
    pings: usize,
    /// How often each system takes a turn: `BENCH_ROUNDS`.
    rounds: usize,
    /// The longest that a turn goes on with a backlog: `BENCH_SECONDS`.
    longest: Duration,
    /// Systems to leave out all others but: words of their names, divided by
    /// commas: `BENCH_SYSTEMS`.
    systems: Vec<String>,
}

impl Scale {
    fn of(part: &Part) -> Self {
        let systems = env::var("BENCH_SYSTEMS").unwrap_or_default();
        Self {
            events: setting("BENCH_EVENTS", part.events),
            keys: setting("BENCH_KEYS", 1_000),
            rows: setting("BENCH_ROWS", 1_000_000),
            pings: setting("BENCH_PINGS", 300),
            rounds: setting("BENCH_ROUNDS", part.rounds),
            longest: Duration::from_secs(setting("BENCH_SECONDS", 30) as u64),
            systems: systems
                .split(',')
                .map(|word| word.trim().to_lowercase())
                .filter(|word| !word.is_empty())
                .collect(),
        }
    }

    /// Whether a system takes part.
    fn takes(&self, system: &str) -> bool {
        self.systems.is_empty() || self.names(system)
    }

    /// Whether a system is asked for by name.
    fn names(&self, system: &str) -> bool {
        let system = system.to_lowercase();
        self.systems.iter().any(|word| system.contains(word))
    }
}

/// Runs the parts that are named, or all.
pub(crate) fn measure(names: &[&str]) {
    let known = |name: &&str| PARTS.iter().any(|part| part.name == *name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        let known = PARTS.map(|part| part.name);
        eprintln!("there is no part {unknown:?}; there are {known:?}");
        std::process::exit(2);
    }
    for part in &PARTS {
        if !names.is_empty() && !names.contains(&part.name) {
            continue;
        }
        let scale = Scale::of(part);
        let began = Instant::now();
        eprintln!("{}: {} rounds", part.name, scale.rounds);
        let tables = (part.measure)(&scale);
        show(&format!("events-{}", part.name), &tables);
        eprintln!("{}: {} s", part.name, began.elapsed().as_secs());
    }
}
