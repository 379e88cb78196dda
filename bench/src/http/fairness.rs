//! What a service has to bear from another one on the same host that computes
//! for ever in all its slots.

use std::thread;
use std::time::Duration;

use tidemill_tests::Host;

use super::{CONNECTIONS, WARM, hello, plain, rounds, time, turn};
use crate::load::Exchange;
use crate::report::{Column, Table};
use crate::servers::{Server, free};

/// More than the 64 slots that a service has.
const SPINNING: usize = 72;
/// After which a call of B is ended, and the next one begins.
const LIMIT: Duration = Duration::from_secs(1);
/// Until all its slots are taken.
const FILL: Duration = Duration::from_millis(200);

/// Latency is what counts here.
const COLUMNS: [Column; 3] = [
    Column::ratio("p99 ms", 2),
    Column::ratio("p50 ms", 2),
    Column::plain("requests/s", 0),
];

pub(super) fn measure() -> Vec<Table> {
    let (a, b) = (
        plain().with("name = \"a\"\n[http]\nroutes = [\"/hello\"]\n"),
        plain().with(&format!(
            "name = \"b\"\n[http]\nroutes = [\"/spin\"]\n[limits]\ntime = \"{}ms\"\n",
            LIMIT.as_millis()
        )),
    );
    let address = free();
    let host = Host::builder()
        .arguments(&["--http", &address.to_string()])
        .deploy([a, b])
        .ready();
    let mut host = Server::host("Tidemill", address, host).answers(&hello());
    eprintln!("fairness: {} rounds of {:?} each", rounds(3), time());
    [(1, "fairness-1"), (CONNECTIONS, "fairness")]
        .into_iter()
        .map(|(connections, id)| {
            let title = format!("A, at {connections} connections, beside B that spins");
            let mut table = Table::new(title, "A, alone", &COLUMNS).called(id);
            for _ in 0..rounds(3) {
                table.add("A, alone", alone(&mut host, connections));
                table.add("A, while B spins", beside_spinning(&mut host, connections));
            }
            table
        })
        .collect()
}

fn beside_spinning(host: &mut Server, connections: usize) -> Vec<Option<f64>> {
    let spin = Exchange::get("/spin", b"").any();
    let mut load = host.connect(SPINNING, &hello());
    thread::scope(|scope| {
        scope.spawn(|| load.run(&[spin], FILL + WARM + time()));
        thread::sleep(FILL);
        alone(host, connections)
    })
}

fn alone(host: &mut Server, connections: usize) -> Vec<Option<f64>> {
    let [rate, _, p50, p99] = turn(host, &[hello()], connections)[..] else {
        unreachable!("as many as there are columns")
    };
    vec![p99, p50, rate]
}
