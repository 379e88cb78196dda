//! Working off a backlog: events a second, and what each costs.

use std::thread;
use std::time::{Duration, Instant};

use super::Scale;
use super::broker::Broker;
use super::system::{Form, Kind, System};
use crate::bare::Delivery;
use crate::meter::{cpu, memory};
use crate::report::{Column, Table};

/// The column of the events of a transaction.
const A_COMMIT: usize = 5;

/// How often is looked. Asking for a group's offsets is one small request.
const TICK: Duration = Duration::from_millis(10);
/// How long a system may take until its first commit.
const START: Duration = Duration::from_secs(60);

const COLUMNS: [Column; 8] = [
    Column::ratio("events/s", 0),
    Column::ratio("warm half/s", 0),
    Column::plain("CPU us", 2),
    Column::ratio("warm CPU us", 2),
    Column::plain("broker us", 2),
    Column::plain("a commit", 0),
    Column::plain("MB", 0),
    Column::plain("start s", 2),
];

const BASELINE: &str = "bare, in transactions as Tidemill's";
const AT_LEAST_ONCE: System = System::bare("bare, at least once", Delivery::AtLeastOnce);
const TIDEMILL: System = System::tidemill("Tidemill, exactly once", None);
const TIDEMILL_AT_LEAST_ONCE: System =
    System::tidemill("Tidemill, at least once", Some("at-least-once"));

/// What is compared for exactly once, beside Tidemill.
fn others(form: Form) -> Vec<System> {
    let bare = |name, size| System::bare(name, Delivery::Fixed(size));
    let sizes = [
        bare("bare, 1,000 a transaction", 1_000),
        bare("bare, 5,000 a transaction", 5_000),
        bare("bare, 20,000 a transaction", 20_000),
    ];
    let mut others = sizes.to_vec();
    match form {
        Form::Forward => {
            others.push(bare("bare, 100 a transaction", 100));
            others.push(System::streams("Kafka Streams", false, &[]));
        }
        Form::Count => {
            others.push(System::streams("Kafka Streams, no cache", false, &[]));
            others.push(System::streams("Kafka Streams, cache merges", true, &[]));
        }
    }
    others
}

/// Runs the measurement: a table for exactly once, one for at least once, and one
/// for Tidemill's two against each other.
pub(super) fn measure(scale: &Scale, form: Form) -> Vec<Table> {
    let what = match form {
        Form::Forward => "passed on",
        Form::Count => "counted per key",
    };
    let table =
        |title: &str, baseline: &str| Table::new(format!("{what}, {title}"), baseline, &COLUMNS);
    let mut exactly = table("exactly once", BASELINE);
    let mut at_least = table("at least once", AT_LEAST_ONCE.name);
    let mut both = table("Tidemill's two", TIDEMILL_AT_LEAST_ONCE.name);

    let broker = Broker::start();
    broker.fresh(false);
    broker.fill(scale.events, scale.keys);
    let run = |system: &System| {
        let values = turn(system, form, &broker, scale);
        let rate = values[0].unwrap_or(f64::NAN);
        eprintln!("{what}: {}: {rate:.0}/s", system.name);
        values
    };
    // The broker's first turn is not like the others.
    turn(&AT_LEAST_ONCE, form, &broker, scale);
    for _ in 0..scale.rounds {
        if scale.takes(AT_LEAST_ONCE.name) {
            at_least.add(AT_LEAST_ONCE.name, run(&AT_LEAST_ONCE));
        }
        if scale.takes(TIDEMILL_AT_LEAST_ONCE.name) {
            let values = run(&TIDEMILL_AT_LEAST_ONCE);
            at_least.add(TIDEMILL_AT_LEAST_ONCE.name, values.clone());
            both.add(TIDEMILL_AT_LEAST_ONCE.name, values);
        }
        if scale.takes(TIDEMILL.name) {
            let values = run(&TIDEMILL);
            let size = values[A_COMMIT].unwrap_or(1_000.0).max(1.0) as usize;
            exactly.add(TIDEMILL.name, values.clone());
            both.add(TIDEMILL.name, values);
            let same = System::bare(BASELINE, Delivery::Fixed(size));
            exactly.add(BASELINE, run(&same));
        }
        for system in others(form) {
            if scale.takes(system.name) {
                exactly.add(system.name, run(&system));
            }
        }
    }
    [exactly, at_least, both]
        .into_iter()
        .filter(|table| !table.turns.is_empty())
        .collect()
}

/// What was seen at one moment.
struct Sample {
    at: Instant,
    /// Events done.
    events: i64,
    cpu: Duration,
    broker: Duration,
}

/// Lets a system work off the backlog, or as much of it as it can in the time.
fn turn(system: &System, form: Form, broker: &Broker, scale: &Scale) -> Vec<Option<f64>> {
    broker.fresh(true);
    let all = i64::try_from(scale.events).unwrap();
    let began = Instant::now();
    let mut running = system.start(form, broker);
    let process = running.id();
    let progress = broker.progress(&running.group);
    let mut samples: Vec<Sample> = Vec::new();
    let mut most = 0_f64;
    loop {
        running.runs();
        let events = progress.events();
        most = most.max(memory(process));
        if events > 0 {
            samples.push(Sample {
                at: Instant::now(),
                events,
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
    let events = match system.kind {
        Kind::Bare(Delivery::Fixed(size)) => Some(size as f64),
        _ => running.service().and_then(|service| {
            let commits = service["commits"]["count"].as_f64();
            commits.map(|commits| last.events as f64 / commits)
        }),
    };
    if last.events == all {
        broker.settled(super::OUT);
        match form {
            Form::Forward => broker.check_forward(scale.events),
            Form::Count => broker.check_count(scale.events, scale.keys, system.merges()),
        }
    }

    let half = samples
        .iter()
        .find(|sample| sample.events >= last.events / 2);
    let half = half.unwrap_or(first);
    vec![
        rate(first, last),
        rate(half, last),
        each(first, last, |sample| sample.cpu),
        each(half, last, |sample| sample.cpu),
        each(half, last, |sample| sample.broker),
        events,
        Some(most),
        Some((first.at - began).as_secs_f64()),
    ]
}

/// Events a second between two moments.
fn rate(from: &Sample, to: &Sample) -> Option<f64> {
    let rate = (to.events - from.events) as f64 / (to.at - from.at).as_secs_f64();
    Some(rate).filter(|rate| rate.is_finite())
}

/// Microseconds of CPU time for an event between two moments.
fn each(from: &Sample, to: &Sample, of: fn(&Sample) -> Duration) -> Option<f64> {
    let spent = of(to).saturating_sub(of(from)).as_secs_f64() * 1e6;
    Some(spent / (to.events - from.events) as f64).filter(|each| each.is_finite())
}
