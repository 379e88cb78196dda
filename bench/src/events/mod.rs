//! Events: from topic to topic and state, on one real Kafka.
//!
//! Each part starts a broker of its own and lets the systems take turns, round
//! by round. A turn has new processes, a new consumer group and new topics to
//! write to. What it published is checked before its figures count.

mod broker;
mod latency;
mod memory;
mod restore;
mod system;
mod throughput;

use std::env;
use std::time::Duration;

use crate::report::{Table, show};
use crate::setting;
use system::Form;

/// The topic that events are read from.
pub(crate) const IN: &str = "bench-in";
/// The topic that they are passed on to, or their counts.
pub(crate) const OUT: &str = "bench-out";
/// The changelog of the bare loop.
pub(crate) const CHANGELOG: &str = "bench-changelog";

const PARTITIONS: i32 = 4;
/// Bytes of an event's value.
const SIZE: usize = 200;
const PARTS: [&str; 5] = ["stateless", "count", "latency", "memory", "restore"];

/// How much is measured, each by a variable of the environment.
struct Scale {
    /// Events of a backlog, and rows of a state: `BENCH_EVENTS`.
    events: usize,
    /// Keys of the events: `BENCH_KEYS`.
    keys: usize,
    /// How often each system takes a turn: `BENCH_ROUNDS`.
    rounds: usize,
    /// The longest that a turn goes on with a backlog: `BENCH_SECONDS`.
    longest: Duration,
    /// Events of a turn that measures latency: `BENCH_PINGS`.
    pings: usize,
    /// Systems to leave out all others but: words of their names, divided by
    /// commas: `BENCH_SYSTEMS`.
    systems: Vec<String>,
}

impl Scale {
    fn from_env() -> Self {
        let systems = env::var("BENCH_SYSTEMS").unwrap_or_default();
        Self {
            events: setting("BENCH_EVENTS", 1_000_000),
            keys: setting("BENCH_KEYS", 1_000),
            rounds: setting("BENCH_ROUNDS", 3),
            longest: Duration::from_secs(setting("BENCH_SECONDS", 15) as u64),
            pings: setting("BENCH_PINGS", 1_000),
            systems: systems
                .split(',')
                .map(|word| word.trim().to_lowercase())
                .filter(|word| !word.is_empty())
                .collect(),
        }
    }

    /// Whether a system takes part.
    fn takes(&self, system: &str) -> bool {
        let system = system.to_lowercase();
        self.systems.is_empty() || self.systems.iter().any(|word| system.contains(word))
    }
}

/// Runs the parts that are named, or all.
pub(crate) fn measure(parts: &[&str]) {
    let parts = if parts.is_empty() { &PARTS[..] } else { parts };
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(part)) {
        eprintln!("there is no part {unknown:?}; there are {PARTS:?}");
        std::process::exit(2);
    }
    let scale = Scale::from_env();
    eprintln!(
        "{} events of {SIZE} B, {PARTITIONS} partitions, {} keys, {} rounds",
        scale.events, scale.keys, scale.rounds
    );
    let tables: Vec<Table> = parts
        .iter()
        .flat_map(|part| match *part {
            "stateless" => throughput::measure(&scale, Form::Forward),
            "count" => throughput::measure(&scale, Form::Count),
            "latency" => vec![latency::measure(&scale)],
            "memory" => vec![memory::measure(&scale)],
            _ => vec![restore::measure(&scale)],
        })
        .collect();
    show("events", &tables);
}
