//! Working off a backlog: events a second, and what each costs.

use std::thread;
use std::time::{Duration, Instant};

use super::Scale;
use super::backlog::Backlog;
use super::broker::Broker;
use super::system::{Form, Kind, System};
use crate::bare::Delivery;
use crate::meter::{cpu, memory};
use crate::report::Column;

/// How often is looked. Asking for a group's offsets is one small request.
const TICK: Duration = Duration::from_millis(10);
/// How long a system may take until its first commit.
const START: Duration = Duration::from_secs(60);

/// What is shown of it.
pub(super) const COLUMNS: [Column; 8] = [
    Column::ratio("events/s", 0),
    Column::ratio("warm half/s", 0),
    Column::plain("CPU us", 2),
    Column::ratio("warm CPU us", 2),
    Column::plain("broker us", 2),
    Column::plain("a commit", 0),
    Column::plain("MB", 0),
    Column::plain("start s", 2),
];

/// A system's turn at a backlog.
pub(super) struct Turn {
    /// From its first commit on.
    samples: Vec<Sample>,
    /// Events of a transaction, where that is known.
    pub(super) a_commit: Option<f64>,
    /// The most resident memory that was seen, in MB.
    most: f64,
    /// Until the first commit.
    start: Duration,
}

/// What was seen at one moment.
pub(super) struct Sample {
    pub(super) at: Instant,
    /// Events done, by partition.
    pub(super) offsets: Vec<i64>,
    pub(super) cpu: Duration,
    pub(super) broker: Duration,
}

/// Lets a system work off the backlog, which is written already, or as much of it
/// as it can in the time. Checks what came of it, if it has done all.
pub(super) fn turn(
    system: &System,
    form: Form,
    backlog: &Backlog,
    broker: &Broker,
    scale: &Scale,
) -> Turn {
    broker.fresh(true);
    let all = i64::try_from(backlog.events()).unwrap();
    let began = Instant::now();
    let mut running = system.start(form, broker);
    let process = running.id();
    let progress = broker.progress(&running.group);
    let mut samples: Vec<Sample> = Vec::new();
    let mut most = 0_f64;
    loop {
        running.runs();
        let offsets = progress.offsets();
        let events: i64 = offsets.iter().sum();
        most = most.max(memory(process));
        if events > 0 {
            samples.push(Sample {
                at: Instant::now(),
                offsets,
                cpu: cpu(process),
                broker: cpu(broker.process),
            });
        } else {
            assert!(began.elapsed() < START, "{}: no commit", system.name);
        }
        let spent = samples
            .first()
            .map_or(Duration::ZERO, |first| first.at.elapsed());
        if events >= all || spent > scale.longest {
            break;
        }
        thread::sleep(TICK);
    }
    let (first, last) = (samples.first().unwrap(), samples.last().unwrap());
    let done = last.events();
    let a_commit = match system.kind {
        Kind::Bare(Delivery::Fixed(size)) => Some(size as f64),
        _ => running.service().and_then(|service| {
            let commits = service["commits"]["count"].as_f64();
            commits.map(|commits| done as f64 / commits)
        }),
    };
    if done == all {
        backlog.check(form, &running, broker);
    } else {
        eprintln!("{}: {done} events in the time, not checked", system.name);
    }
    Turn {
        start: first.at - began,
        samples,
        a_commit,
        most,
    }
}

impl Turn {
    /// Its figures, in order of [`COLUMNS`].
    pub(super) fn figures(&self) -> Vec<Option<f64>> {
        let (first, last) = (self.samples.first().unwrap(), self.samples.last().unwrap());
        let mut samples = self.samples.iter();
        let half = samples.find(|sample| sample.events() >= last.events() / 2);
        let half = half.unwrap_or(first);
        vec![
            rate(first, last),
            rate(half, last),
            each(first, last, |sample| sample.cpu),
            each(half, last, |sample| sample.cpu),
            each(half, last, |sample| sample.broker),
            self.a_commit,
            Some(self.most),
            Some(self.start.as_secs_f64()),
        ]
    }

    /// The first and the last moment at which each partition was within bounds.
    pub(super) fn within(&self, from: &[i64], to: &[i64]) -> Option<(&Sample, &Sample)> {
        let reached =
            |sample: &&Sample| sample.offsets.iter().zip(from).all(|(at, from)| at >= from);
        let inside = |sample: &&Sample| sample.offsets.iter().zip(to).all(|(at, to)| at <= to);
        let first = self.samples.iter().find(reached)?;
        let last = self.samples.iter().rev().find(inside)?;
        (first.at < last.at).then_some((first, last))
    }
}

impl Sample {
    pub(super) fn events(&self) -> i64 {
        self.offsets.iter().sum()
    }
}

/// Events a second between two moments.
pub(super) fn rate(from: &Sample, to: &Sample) -> Option<f64> {
    let rate = (to.events() - from.events()) as f64 / (to.at - from.at).as_secs_f64();
    Some(rate).filter(|rate| rate.is_finite())
}

/// Microseconds of CPU time for an event between two moments.
pub(super) fn each(from: &Sample, to: &Sample, of: fn(&Sample) -> Duration) -> Option<f64> {
    let spent = of(to).saturating_sub(of(from)).as_secs_f64() * 1e6;
    Some(spent / (to.events() - from.events()) as f64).filter(|each| each.is_finite())
}
