//! One to ten thousand kept connections, all of them in use.

use super::{COLUMNS, Servers, hello, plain, rounds, time, turn};
use crate::report::{Column, Table};
use crate::servers::Server;
use tidemill_tests::Component;

const CONNECTIONS: [usize; 5] = [1, 10, 100, 1_000, 10_000];

pub(super) fn measure() -> Vec<Table> {
    let mut servers = Servers::that_answer(hello())
        .and("native hyper", Server::hyper)
        .and("Tidemill", |name| Server::tidemill(name, patient(), None));
    let [rate, cpu, p50, p99] = COLUMNS;
    let columns = [rate, cpu, p50, p99, Column::plain("MB", 0)];
    let mut table = Table::new("GET text over many connections", "native hyper", &columns)
        .called("connections")
        .over("connections");
    eprintln!("connections: {} rounds of {:?} each", rounds(2), time());
    for _ in 0..rounds(2) {
        for connections in CONNECTIONS {
            for server in &mut servers.all {
                let mut values = turn(server, &[hello()], connections);
                // What it has taken stays with it for a while.
                values.push(Some(server.memory()));
                table.add_at(&server.name, connections as f64, values);
            }
        }
    }
    vec![table]
}

/// The plain guest as a service for which all of these clients may wait: by default
/// those behind a thousand are turned away.
fn patient() -> Component {
    plain().edited(&[("[http]", "[limits]\nqueue = 10000\n\n[http]")])
}
