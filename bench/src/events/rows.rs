//! What an event costs as the state has more rows: each turn has one host, whose
//! state grows tenfold again and again, and that counts events of random keys in
//! between.

use super::Scale;
use super::backlog::Backlog;
use super::broker::Broker;
use super::system::{Form, System};
use super::work::Work;
use crate::bare::Delivery;
use crate::report::{Column, Table};

const TIDEMILL: System = System::tidemill("Tidemill", None);
/// Rows of the smallest state.
const FEWEST: usize = 1_000;
/// Bytes of an event's value: what is measured is the state.
const SIZE: usize = 20;

const COLUMNS: [Column; 3] = [
    Column::ratio("CPU us", 2),
    Column::ratio("events/s", 0),
    Column::plain("broker us", 2),
];

/// Runs the measurement.
pub(super) fn measure(scale: &Scale) -> Table {
    let name = |rows| format!("Tidemill, {rows} rows");
    let title = "counted per key, by rows of the state";
    let mut table = Table::new(title, &name(FEWEST), &COLUMNS);
    let sizes: Vec<usize> = std::iter::successors(Some(FEWEST), |rows| Some(rows * 10))
        .take_while(|rows| *rows <= scale.rows)
        .collect();

    // To each size, first the new keys, then keys of all that there are.
    let mut keys = Vec::new();
    let mut parts = Vec::new();
    let mut before = 0;
    for &rows in &sizes {
        keys.extend(before..rows);
        parts.push(keys.len());
        keys.extend((0..scale.events).map(|number| random(number) % rows));
        parts.push(keys.len());
        before = rows;
    }
    parts.pop();
    let work = Work {
        form: Form::Count,
        backlog: &Backlog::new(keys.into_iter(), SIZE),
        parts: &parts,
    };

    let broker = Broker::start();
    // The broker's first turn is not like the others.
    let bare = System::bare("nothing of it counts", Delivery::Fixed(5_000));
    work.turn(&bare, &broker, scale);
    for _ in 0..scale.rounds {
        let turn = work.turn(&TIDEMILL, &broker, scale);
        let random = turn.parts.iter().skip(1).step_by(2);
        for (stretch, &rows) in random.zip(&sizes) {
            let spent = stretch.cpu();
            eprintln!("{title}: {rows}: {:.2} us", spent.unwrap_or(f64::NAN));
            let values = vec![spent, stretch.rate(), stretch.broker()];
            table.add(&name(rows), values);
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
