//! What an event costs as the state has more rows: each turn has one host, whose
//! state grows tenfold again and again, and that counts events of random keys in
//! between.

use super::Scale;
use super::backlog::Backlog;
use super::broker::Broker;
use super::system::{Form, Kind, System};
use super::work::Work;
use crate::bare::Delivery;
use crate::report::{Column, Table};

const TIDEMILL: System = System::tidemill("Tidemill", None);
/// Its rows are in memory, and it writes one for each event.
const BARE: System = System::bare("bare", Delivery::Fixed(5_000));
/// Its rows are in the store that Tidemill has.
const STORED: System = System {
    name: "bare, rows in fjall",
    kind: Kind::Stored(Delivery::Fixed(5_000)),
};
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
    let name = |system: &System, rows| format!("{}, {rows} rows", system.name);
    let title = "counted per key, by rows of the state";
    let mut table = Table::new(title, &name(&TIDEMILL, FEWEST), &COLUMNS);
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
    for round in 0..scale.rounds {
        // What it is for is seen in one round.
        let stored = Some(STORED).filter(|_| round == 0);
        for system in [Some(BARE), stored, Some(TIDEMILL)].into_iter().flatten() {
            let turn = work.turn(&system, &broker, scale);
            let random = turn.parts.iter().skip(1).step_by(2);
            for (stretch, &rows) in random.zip(&sizes) {
                let spent = stretch.cpu();
                let name = name(&system, rows);
                eprintln!("{title}: {name}: {:.2} us", spent.unwrap_or(f64::NAN));
                let values = vec![spent, stretch.rate(), stretch.broker()];
                table.add(&name, values);
            }
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
