//! The same backlog for all systems: events that are passed on, or counted per key.

use super::backlog::Backlog;
use super::broker::Broker;
use super::system::{Cache, Form, System};
use super::work::{COLUMNS, Work};
use super::{SIZE, Scale};
use crate::bare::Delivery;
use crate::report::Table;

const BASELINE: &str = "bare, in transactions as Tidemill's";
const AT_LEAST_ONCE: System = System::bare("bare, at least once", Delivery::AtLeastOnce);
const TIDEMILL: System = System::tidemill("Tidemill, exactly once", None);
const TIDEMILL_AT_LEAST_ONCE: System =
    System::tidemill("Tidemill, at least once", Some("at-least-once"));

/// What makes Kafka Streams fastest here, of what was tried: larger batches. Longer
/// commit intervals, larger fetches and compression did not.
const TUNED: &[&str] = &["producer.linger.ms=5", "producer.batch.size=262144"];
const IN_MEMORY: &[&str] = &[
    TUNED[0],
    TUNED[1],
    "dsl.store.suppliers.class=org.apache.kafka.streams.state.BuiltInDslStoreSuppliers$InMemoryDslStoreSuppliers",
];

/// What an event costs whatever its handler does.
const TIDEMILL_NOTHING: System = System::tidemill("Tidemill, a handler that does nothing", None);

/// Kafka Streams, as it is compared.
fn streams(form: Form) -> Vec<System> {
    let streams = System::streams;
    match form {
        Form::Forward => vec![streams("Kafka Streams", Cache::Off, TUNED)],
        Form::Count => vec![
            streams("Kafka Streams, RocksDB, no cache", Cache::Off, TUNED),
            streams("Kafka Streams, in memory, no cache", Cache::Off, IN_MEMORY),
        ],
        Form::Tally => vec![
            streams("Kafka Streams, RocksDB, cache", Cache::On, TUNED),
            streams("Kafka Streams, in memory, cache", Cache::On, IN_MEMORY),
        ],
        Form::Nothing => Vec::new(),
    }
}

/// What takes part only if it is asked for by name: loops with transactions of
/// other sizes than Tidemill's, and Kafka Streams as it comes.
fn others() -> Vec<System> {
    let bare = |name, size| System::bare(name, Delivery::Fixed(size));
    vec![
        bare("bare, 100 a transaction", 100),
        bare("bare, 1,000 a transaction", 1_000),
        bare("bare, 5,000 a transaction", 5_000),
        bare("bare, 20,000 a transaction", 20_000),
        System::streams("Kafka Streams, untuned", Cache::Off, &[]),
        System::streams("Kafka Streams, untuned, cache", Cache::On, &[]),
    ]
}

/// Runs the measurement: a table for exactly once, one for at least once, and one
/// for Tidemill's two against each other.
pub(super) fn measure(scale: &Scale, form: Form) -> Vec<Table> {
    let what = match form {
        Form::Forward => "passed on",
        Form::Count => "counted per key",
        Form::Tally => "final counts",
        Form::Nothing => "nothing done",
    };
    let table =
        |title: &str, baseline: &str| Table::new(format!("{what}, {title}"), baseline, &COLUMNS);
    let mut exactly = table("exactly once", BASELINE);
    let mut at_least = table("at least once", AT_LEAST_ONCE.name);
    let mut both = table("Tidemill's two", TIDEMILL_AT_LEAST_ONCE.name);

    let broker = Broker::start();
    let work = Work {
        form,
        backlog: &Backlog::in_turn(scale.events, scale.keys, SIZE),
        parts: &[],
    };
    let nothing = Work {
        form: Form::Nothing,
        ..work
    };
    let run = |system: &System| {
        let work = match system.name {
            name if name == TIDEMILL_NOTHING.name => &nothing,
            _ => &work,
        };
        let turn = work.turn(system, &broker, scale);
        let figures = turn.figures();
        let rate = figures[1].unwrap_or(f64::NAN);
        eprintln!("{what}: {}: warm {rate:.0}/s", system.name);
        (figures, turn.a_commit)
    };
    let mut streams = streams(form);
    streams.extend(
        others()
            .into_iter()
            .filter(|system| scale.names(system.name)),
    );
    // The broker's first turn is not like the others.
    run(&System::bare(
        "nothing of it counts",
        Delivery::Fixed(5_000),
    ));
    for _ in 0..scale.rounds {
        if scale.names(AT_LEAST_ONCE.name) {
            at_least.add(AT_LEAST_ONCE.name, run(&AT_LEAST_ONCE).0);
        }
        let twice = match form {
            Form::Forward => scale.takes(TIDEMILL_AT_LEAST_ONCE.name),
            Form::Count | Form::Tally | Form::Nothing => scale.names(TIDEMILL_AT_LEAST_ONCE.name),
        };
        if twice {
            let (figures, _) = run(&TIDEMILL_AT_LEAST_ONCE);
            at_least.add(TIDEMILL_AT_LEAST_ONCE.name, figures.clone());
            both.add(TIDEMILL_AT_LEAST_ONCE.name, figures);
        }
        if scale.takes(TIDEMILL.name) {
            let (figures, a_commit) = run(&TIDEMILL);
            let size = a_commit.unwrap_or(1_000.0).max(1.0) as usize;
            exactly.add(TIDEMILL.name, figures.clone());
            both.add(TIDEMILL.name, figures);
            let same = System::bare(BASELINE, Delivery::Fixed(size));
            exactly.add(BASELINE, run(&same).0);
            if form == Form::Tally {
                exactly.add(TIDEMILL_NOTHING.name, run(&TIDEMILL_NOTHING).0);
            }
        }
        for system in streams.iter().filter(|system| scale.takes(system.name)) {
            exactly.add(system.name, run(system).0);
        }
    }
    let mut tables = vec![exactly];
    // One without what it is compared to says nothing.
    tables.extend([at_least, both].into_iter().filter(|table| {
        let mut turns = table.turns.iter();
        turns.any(|turn| turn.system == table.baseline)
    }));
    tables
}
