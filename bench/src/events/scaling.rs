//! What an event costs as there are more partitions, or as values are larger.

use super::backlog::Backlog;
use super::broker::Broker;
use super::system::{Form, System};
use super::work::{COLUMNS, Work};
use super::{SIZE, Scale};
use crate::bare::Delivery;
use crate::report::Table;

const TIDEMILL: System = System::tidemill("Tidemill", None);
const PARTITIONS: [i32; 4] = [1, 4, 16, 64];
/// Bytes of a value. A broker takes records of 1 MiB, and a host events of
/// 999,000 bytes, unless they are told else.
const VALUES: [usize; 5] = [100, 1_000, 10_000, 100_000, 990_000];
/// Bytes of a backlog, at most.
const BYTES: usize = 100_000_000;

/// Events are passed on from topics with few partitions to ones with as many.
pub(super) fn partitions(scale: &Scale) -> Table {
    let name = |partitions| format!("Tidemill, {partitions} partitions");
    let title = "passed on, by partitions";
    let mut table = Table::new(title, &name(PARTITIONS[0]), &COLUMNS);
    let backlog = Backlog::in_turn(scale.events, scale.keys, SIZE);
    let work = forward(&backlog);
    for _ in 0..scale.rounds {
        // One that deletes the topics of earlier rounds is slow for minutes.
        let mut broker = Broker::start();
        warm(&broker, scale);
        for partitions in PARTITIONS {
            broker.partitions = partitions;
            let figures = work.turn(&TIDEMILL, &broker, scale).figures();
            let each = figures[2].unwrap_or(f64::NAN);
            eprintln!("{title}: {partitions}: {each:.2} us");
            table.add(&name(partitions), figures);
        }
    }
    table
}

/// Events are passed on whose values are small or large: a table for each size.
pub(super) fn values(scale: &Scale) -> Vec<Table> {
    let broker = Broker::start();
    warm(&broker, scale);
    VALUES
        .iter()
        .map(|&size| {
            let baseline = "bare, in transactions as Tidemill's";
            let title = format!("passed on, values of {size} bytes");
            let mut table = Table::new(&title, baseline, &COLUMNS);
            let events = scale.events.min(BYTES / size);
            let backlog = Backlog::in_turn(events, scale.keys, size);
            let work = forward(&backlog);
            for _ in 0..scale.rounds {
                let turn = work.turn(&TIDEMILL, &broker, scale);
                table.add(TIDEMILL.name, turn.figures());
                let size = turn.a_commit.unwrap_or(1_000.0).max(1.0) as usize;
                let bare = System::bare(baseline, Delivery::Fixed(size));
                let turn = work.turn(&bare, &broker, scale);
                table.add(baseline, turn.figures());
                eprintln!("{title}");
            }
            table
        })
        .collect()
}

fn forward(backlog: &Backlog) -> Work<'_> {
    Work {
        form: Form::Forward,
        backlog,
        parts: &[],
    }
}

/// The broker's first turn is not like the others.
fn warm(broker: &Broker, scale: &Scale) {
    let bare = System::bare("nothing of it counts", Delivery::Fixed(5_000));
    let backlog = Backlog::in_turn(scale.events, scale.keys, SIZE);
    forward(&backlog).turn(&bare, broker, scale);
}
