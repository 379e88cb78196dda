//! A host that is far behind: a new service reads everything that is there, and
//! then its state is made anew from the same events.

use std::thread;
use std::time::{Duration, Instant};

use super::Scale;
use super::backlog::Backlog;
use super::broker::Broker;
use super::system::{Form, Running, System};
use crate::meter::{cpu, memory};
use crate::report::{Column, Table};

const TIDEMILL: System = System::tidemill("Tidemill", None);
const BASELINE: &str = "bare, read only";
/// Bytes of an event's value.
const SIZE: usize = 20;
const PATIENCE: Duration = Duration::from_secs(300);
const TICK: Duration = Duration::from_millis(10);

const COLUMNS: [Column; 4] = [
    Column::ratio("events/s", 0),
    Column::plain("CPU us", 2),
    Column::plain("most MB", 0),
    Column::plain("s", 1),
];

/// Runs the measurement.
pub(super) fn measure(scale: &Scale) -> Table {
    let broker = Broker::start();
    broker.fresh();
    let backlog = Backlog::in_turn(scale.events, scale.keys, SIZE);
    backlog.write(&broker);
    let title = format!("{} events from far behind", scale.events);
    let mut table = Table::new(title, BASELINE, &COLUMNS);
    for _ in 0..scale.rounds {
        table.add(BASELINE, bare(&backlog, &broker));
        broker.fresh_but(&[super::IN]);
        let mut host = TIDEMILL.start(Form::Tally, &broker);
        let progress = broker.progress(&host.group);
        let events = i64::try_from(backlog.events()).unwrap();
        let new = follow(&mut host, &backlog, |_| progress.events() >= events);
        table.add("a new service, from the earliest", new);
        backlog.check_counts(&host.changelog(), host.rows(), true, &broker);

        let begun = host.ask("POST", "/replay").unwrap();
        let again = follow(&mut host, &backlog, |host| {
            let replay = host.ask("GET", "/replay");
            replay.is_some_and(|replay| replay["done"] == true)
        });
        table.add("a replay of its state", again);
        let changelog = begun["changelog"].as_str().unwrap();
        assert_eq!(host.changelog(), changelog);
        backlog.check_counts(changelog, host.rows(), true, &broker);
    }
    table
}

/// Looks at a host until it is done.
fn follow(
    host: &mut Running,
    backlog: &Backlog,
    done: impl Fn(&Running) -> bool,
) -> Vec<Option<f64>> {
    let process = host.id();
    let (began, before) = (Instant::now(), cpu(process));
    let mut most = 0_f64;
    let mut ticks = 0_u32;
    // Being asked costs the host something as well.
    while !ticks.is_multiple_of(10) || !done(host) {
        host.runs();
        assert!(began.elapsed() < PATIENCE, "it is not done");
        most = most.max(memory(process));
        thread::sleep(TICK);
        ticks += 1;
    }
    figures(backlog, began.elapsed(), cpu(process) - before, Some(most))
}

/// Reads all of it, as fast as it goes.
fn bare(backlog: &Backlog, broker: &Broker) -> Vec<Option<f64>> {
    let own = std::process::id();
    let (began, before) = (Instant::now(), cpu(own));
    let mut events = 0;
    broker.read(super::IN, |_, _| events += 1);
    assert_eq!(events, backlog.events());
    figures(backlog, began.elapsed(), cpu(own) - before, None)
}

fn figures(
    backlog: &Backlog,
    took: Duration,
    spent: Duration,
    most: Option<f64>,
) -> Vec<Option<f64>> {
    let events = backlog.events() as f64;
    vec![
        Some(events / took.as_secs_f64()),
        Some(spent.as_secs_f64() * 1e6 / events),
        most,
        Some(took.as_secs_f64()),
    ]
}
