//! Restoring a state: a host with nothing on its disk reads the changelog.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use super::backlog::Backlog;
use super::broker::Broker;
use super::system::{Cache, Form, Running, System};
use super::{SIZE, Scale};
use crate::meter::cpu;
use crate::report::{Column, Table};

const TIDEMILL: System = System::tidemill("Tidemill, until handlers read", None);
// It does not leave its group when it ends: the next one waits for the session.
const STREAMS: System = System::streams(
    "Kafka Streams, RocksDB",
    Cache::Off,
    &["session.timeout.ms=6000"],
);
const BASELINE: &str = "bare, into memory";
const PATIENCE: Duration = Duration::from_secs(300);

const COLUMNS: [Column; 3] = [
    Column::ratio("rows/s", 0),
    Column::plain("CPU us", 2),
    Column::plain("s from start", 2),
];

/// Runs the measurement: as many keys as there are events.
pub(super) fn measure(scale: &Scale) -> Table {
    let rows = scale.events;
    let broker = Broker::start();
    broker.fresh();
    Backlog::in_turn(rows, rows, SIZE).write(&broker);
    let mut table = Table::new(format!("{rows} rows restored"), BASELINE, &COLUMNS);

    let changelog = write(
        &TIDEMILL,
        "bench-restore",
        rows,
        &broker,
        Running::changelog,
    );
    let streams = scale.takes(STREAMS.name);
    if streams {
        write(&STREAMS, "bench-streams", rows, &broker, |_| ());
    }
    for _ in 0..scale.rounds {
        table.add(BASELINE, bare(&changelog, rows, &broker));
        table.add(TIDEMILL.name, tidemill(rows, &broker));
        if streams {
            table.add(STREAMS.name, kafka_streams(rows, &broker));
        }
    }
    table
}

/// Has a system count all events, and ends it.
fn write<T>(
    system: &System,
    name: &str,
    rows: usize,
    broker: &Broker,
    last: impl FnOnce(&Running) -> T,
) -> T {
    let mut running = system.start_as(name, Form::Count, broker);
    let progress = broker.progress(name);
    wait(&mut running, || {
        let done = progress.events() >= i64::try_from(rows).unwrap();
        done.then_some(())
    });
    let last = last(&running);
    running.end();
    last
}

/// Reads the changelog into a map, as fast as it goes.
fn bare(changelog: &str, rows: usize, broker: &Broker) -> Vec<Option<f64>> {
    let own = std::process::id();
    let (began, before) = (Instant::now(), cpu(own));
    let mut all: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
    broker.read(changelog, |key, value| {
        all.insert(key.to_vec(), value.unwrap_or_default().to_vec());
    });
    let took = began.elapsed();
    let spent = cpu(own) - before;
    // Beside the rows there is one for each partition's position.
    let positions = usize::try_from(broker.partitions).unwrap();
    let read = all.len();
    assert!((rows..=rows + positions).contains(&read), "{read} rows");
    figures(rows, took, spent, Some(began))
}

/// From when the service is deployed until its state is readable.
fn tidemill(rows: usize, broker: &Broker) -> Vec<Option<f64>> {
    let began = Instant::now();
    let mut host = TIDEMILL.start_as("bench-restore", Form::Count, broker);
    let process = host.id();
    let mut deployed = None;
    let (deployed, before) = loop {
        host.runs();
        assert!(began.elapsed() < PATIENCE, "not restored");
        if let Some(service) = host.service() {
            let deployed = *deployed.get_or_insert_with(|| (Instant::now(), cpu(process)));
            if service["state"]["readable"] == true {
                break deployed;
            }
        }
        thread::sleep(Duration::from_millis(10));
    };
    let values = figures(rows, deployed.elapsed(), cpu(process) - before, Some(began));
    host.end();
    values
}

/// From when the first store begins to be read until all run.
fn kafka_streams(rows: usize, broker: &Broker) -> Vec<Option<f64>> {
    let mut streams = STREAMS.start_as("bench-streams", Form::Count, broker);
    let process = streams.id();
    let said = |running: &mut Running, word: &str| -> Option<u64> {
        let output = running.output();
        // It may say that it runs before it has been assigned anything.
        let mut lines = output
            .lines()
            .skip_while(|line| !line.ends_with("RESTORING"));
        let line = lines.find(|line| line.ends_with(word))?;
        line.split(' ').next()?.parse().ok()
    };
    let mut wait_for = |word: &str| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            streams.runs();
            if let Some(at) = said(&mut streams, word) {
                return at;
            }
            assert!(Instant::now() < deadline, "not restored");
            thread::sleep(Duration::from_millis(5));
        }
    };
    let first = wait_for("RESTORING");
    let before = cpu(process);
    let last = wait_for("RUNNING");
    let took = Duration::from_millis(last - first);
    let values = figures(rows, took, cpu(process) - before, None);
    streams.end();
    values
}

fn figures(
    rows: usize,
    took: Duration,
    spent: Duration,
    began: Option<Instant>,
) -> Vec<Option<f64>> {
    vec![
        Some(rows as f64 / took.as_secs_f64()),
        Some(spent.as_secs_f64() * 1e6 / rows as f64),
        began.map(|began| began.elapsed().as_secs_f64()),
    ]
}

/// Asks a running system until there is an answer.
fn wait<T>(running: &mut Running, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        running.runs();
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "it takes too long");
        thread::sleep(Duration::from_millis(20));
    }
}
