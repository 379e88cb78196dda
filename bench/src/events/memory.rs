//! Memory of a host that is far behind, beside one that is at rest.

use std::thread;
use std::time::{Duration, Instant};

use super::backlog::Backlog;
use super::broker::Broker;
use super::system::{Form, System};
use super::{SIZE, Scale};
use crate::meter::memory;
use crate::report::{Column, Table};

const TIDEMILL: System = System::tidemill("Tidemill", None);
/// How long a host without events is looked at, and one that has done all.
const REST: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(5);

const COLUMNS: [Column; 3] = [
    Column::ratio("most MB", 0),
    Column::plain("after MB", 0),
    Column::plain("s", 1),
];

/// Runs the measurement.
pub(super) fn measure(scale: &Scale) -> Table {
    let broker = Broker::start();
    let mut table = Table::new("memory", "passed on, at rest", &COLUMNS);
    for (form, what) in [
        (Form::Forward, "passed on"),
        (Form::Count, "counted per key"),
    ] {
        for events in [0, scale.events / 10, scale.events] {
            let row = match events {
                0 => format!("{what}, at rest"),
                events => format!("{what}, {events} behind"),
            };
            table.add(&row, turn(form, events, &broker, scale));
        }
    }
    table
}

fn turn(form: Form, events: usize, broker: &Broker, scale: &Scale) -> Vec<Option<f64>> {
    broker.fresh();
    Backlog::in_turn(events, scale.keys, SIZE).write(broker);
    let events = i64::try_from(events).unwrap();
    let mut host = TIDEMILL.start(form, broker);
    let process = host.id();
    let progress = broker.progress(&host.group);
    let began = Instant::now();
    let mut most = 0_f64;
    let mut look = |time: Duration| {
        let until = Instant::now() + time;
        while Instant::now() < until {
            most = most.max(memory(process));
            thread::sleep(TICK);
        }
    };
    while progress.events() < events {
        host.runs();
        assert!(began.elapsed() < Duration::from_secs(300), "it is not done");
        look(TICK * 20);
    }
    let took = began.elapsed().as_secs_f64();
    look(REST);
    vec![Some(most), Some(memory(process)), Some(took)]
}
