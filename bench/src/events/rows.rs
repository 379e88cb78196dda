//! What an event costs as the state has more rows: each turn has one host, whose
//! state grows tenfold again and again, and that counts events of random keys in
//! between.

use super::backlog::Backlog;
use super::broker::Broker;
use super::system::{Form, System};
use super::work::{self, each, rate};
use super::{IN, Scale};
use crate::bare::Delivery;
use crate::report::{Column, Table};

const SYSTEM: System = System::tidemill("Tidemill", None);
/// Rows of the smallest state.
const FEWEST: usize = 1_000;
/// Bytes of an event's value: what is measured is the state.
const SIZE: usize = 20;

const COLUMNS: [Column; 3] = [
    Column::ratio("CPU us", 2),
    Column::ratio("events/s", 0),
    Column::plain("broker us", 2),
];

/// Events at one size of the state, in all that are written.
struct Stage {
    rows: usize,
    /// Where they begin and end in each partition.
    from: Vec<i64>,
    to: Vec<i64>,
}

/// Runs the measurement.
pub(super) fn measure(scale: &Scale) -> Table {
    let name = |rows| format!("Tidemill, {rows} rows");
    let title = "counted per key, by rows of the state";
    let mut table = Table::new(title, &name(FEWEST), &COLUMNS);
    let sizes: Vec<usize> = std::iter::successors(Some(FEWEST), |rows| Some(rows * 10))
        .take_while(|rows| *rows <= scale.rows)
        .collect();

    let broker = Broker::start();
    broker.fresh(false);
    // To each stage, first the new keys, then keys of all that there are.
    let mut keys = Vec::new();
    let mut bounds = Vec::new();
    let mut before = 0;
    for &rows in &sizes {
        keys.extend(before..rows);
        let from = keys.len();
        keys.extend((0..scale.events).map(|number| random(number) % rows));
        bounds.push((rows, from, keys.len()));
        before = rows;
    }
    let backlog = Backlog::new(keys.into_iter(), SIZE);
    let mut written = 0;
    let mut until = |end: usize| {
        backlog.write_part(written..end, &broker);
        written = end;
        broker.ends(IN)
    };
    let stages: Vec<Stage> = bounds
        .into_iter()
        .map(|(rows, from, to)| Stage {
            rows,
            from: until(from),
            to: until(to),
        })
        .collect();

    // The broker's first turn is not like the others.
    let bare = System::bare("nothing of it counts", Delivery::Fixed(5_000));
    work::turn(&bare, Form::Count, &backlog, &broker, scale);
    for _ in 0..scale.rounds {
        let turn = work::turn(&SYSTEM, Form::Count, &backlog, &broker, scale);
        for stage in &stages {
            let Some((first, last)) = turn.within(&stage.from, &stage.to) else {
                continue;
            };
            let spent = each(first, last, |sample| sample.cpu);
            eprintln!(
                "{title}: {}: {:.2} us",
                stage.rows,
                spent.unwrap_or(f64::NAN)
            );
            let broker = each(first, last, |sample| sample.broker);
            table.add(&name(stage.rows), vec![spent, rate(first, last), broker]);
        }
    }
    table
}

/// As if at random, and always the same (splitmix64).
fn random(number: usize) -> usize {
    let mut bits = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ (bits >> 31)) as usize
}
