//! Bodies of 100 B to 1 MB: what is sent comes back.

use super::{COLUMNS, Servers, hello, plain, rounds, time, turn};
use crate::load::Exchange;
use crate::report::{Column, Table};
use crate::servers::{Proposal, Server};

/// Few, so that the load does not need all of the memory.
const CONNECTIONS: usize = 8;
const SIZES: [usize; 5] = [100, 1_000, 10_000, 100_000, 1_000_000];

pub(super) fn measure() -> Vec<Table> {
    let mut servers = Servers::that_answer(hello())
        .and("native hyper", Server::hyper)
        .and("Tidemill", |name| Server::tidemill(name, plain(), None))
        .and("wasmtime serve, wasi:http 0.2", |name| {
            Server::wasmtime(name, Proposal::P2, "128")
        })
        .and("wasmtime serve, wasi:http 0.3", |name| {
            Server::wasmtime(name, Proposal::P3, "128")
        });
    let [rate, cpu, p50, p99] = COLUMNS;
    let columns = [rate, cpu, Column::ratio("MB/s", 1), p50, p99];
    let mut table = Table::new("Bodies both ways", "native hyper", &columns)
        .called("bodies")
        .over("B");
    eprintln!("bodies: {} rounds of {:?} each", rounds(2), time());
    for _ in 0..rounds(2) {
        for size in SIZES {
            let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let echo = Exchange::post("/echo", "application/octet-stream", &body, &body);
            for server in &mut servers.all {
                let mut values = turn(server, std::slice::from_ref(&echo), CONNECTIONS);
                let megabytes = values[0].map(|rate| rate * 2.0 * size as f64 / 1e6);
                values.insert(2, megabytes);
                table.add_at(&server.name, size as f64, values);
            }
        }
    }
    vec![table]
}
