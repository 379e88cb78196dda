//! Requests. Each scenario is a module: it starts its systems, and lets them take
//! turns round by round. Every answer is checked.

mod bodies;
mod coldstart;
mod connections;
mod fairness;
mod fresh;
mod publish;
mod requests;

use std::time::Duration;

use tidemill_tests::{Component, seed};

use crate::load::{Exchange, Outcome};
use crate::report::{Column, Table, show};
use crate::servers::Server;
use crate::{setting, takes};

/// Connections, where nothing else is said.
const CONNECTIONS: usize = 32;
/// How long is loaded before a turn counts.
const WARM: Duration = Duration::from_millis(300);

const COLUMNS: [Column; 4] = [
    Column::ratio("requests/s", 0),
    Column::ratio("CPU us", 1),
    Column::plain("p50 ms", 2),
    Column::plain("p99 ms", 2),
];

/// Runs a scenario, if there is one of that name.
pub(crate) fn measure(scenario: &str) -> bool {
    let measure = match scenario {
        "requests" => requests::measure,
        "publish" => publish::measure,
        "fresh" => fresh::measure,
        "bodies" => bodies::measure,
        "connections" => connections::measure,
        "fairness" => fairness::measure,
        "coldstart" => coldstart::measure,
        _ => return false,
    };
    // Connections are files, here and in what is started.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    show(scenario, &measure());
    true
}

/// How often each system takes a turn: `BENCH_ROUNDS`.
fn rounds(usual: usize) -> usize {
    setting("BENCH_ROUNDS", usual)
}

/// How long a turn is: `BENCH_TURN`, in milliseconds.
fn time() -> Duration {
    Duration::from_millis(setting("BENCH_TURN", 1000) as u64)
}

/// Systems that are started if they take part, and have answered.
struct Servers {
    first: Exchange,
    all: Vec<Server>,
}

impl Servers {
    /// None yet; each will have to give this answer before it counts as started.
    fn that_answer(first: Exchange) -> Self {
        let all = Vec::new();
        Self { first, all }
    }

    fn and(mut self, name: &str, start: impl FnOnce(&str) -> Server) -> Self {
        if takes(name) {
            let server = start(name).answers(&self.first);
            self.all.push(server);
        }
        self
    }
}

/// A turn of a system: its load is warmed up, and counts.
fn turn(server: &mut Server, exchanges: &[Exchange], connections: usize) -> Vec<Option<f64>> {
    let mut load = server.connect(connections, &exchanges[0]);
    load.run(exchanges, WARM);
    let before = server.cpu();
    let outcome = load.run(exchanges, time());
    figures(&outcome, server.cpu().saturating_sub(before))
}

/// As `COLUMNS` wants them.
fn figures(outcome: &Outcome, cpu: Duration) -> Vec<Option<f64>> {
    let ms = |time: Duration| Some(time.as_secs_f64() * 1e3);
    vec![
        Some(outcome.rate),
        Some(cpu.as_secs_f64() * 1e6 / outcome.requests as f64),
        ms(outcome.p50),
        ms(outcome.p99),
    ]
}

/// Lets systems take turns with the same exchanges.
fn alternate(
    table: &mut Table,
    servers: &mut Servers,
    exchanges: &[Exchange],
    connections: usize,
    rounds: usize,
) {
    eprintln!("{}: {rounds} rounds of {:?} each", table.title, time());
    for _ in 0..rounds {
        for server in &mut servers.all {
            let _profile = server.profile(&table.title);
            let values = turn(server, exchanges, connections);
            table.add(&server.name, values);
        }
    }
}

fn hello() -> Exchange {
    Exchange::get("/hello", b"hello")
}

/// Creates a user of some 200 bytes.
fn create(id: &str) -> Exchange {
    let body = format!(
        r#"{{"id":"{id}","name":"Ada Lovelace","email":"ada@example.com","about":"{}"}}"#,
        "x".repeat(100)
    );
    let answer = format!(r#"{{"message":"User created and sent to Kafka","id":"{id}"}}"#);
    Exchange::post(
        "/users",
        "application/json",
        body.as_bytes(),
        answer.as_bytes(),
    )
}

/// The guest with nothing between it and the contract.
fn plain() -> Component {
    seed("bench-plain")
}

/// The guest with the SDK's router.
fn router() -> Component {
    seed("bench-answer")
}

/// A component whose instances take one call each.
fn fresh(component: &Component) -> Component {
    component.edited(&[("[http]", "[limits]\nreuse = 1\n\n[http]")])
}
