//! A request through a warm handler, against the same on hyper.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tidemill_tests::{Folder, Host, Process, eventually, seed};

use crate::load::{self, Check, Outcome};
use crate::meter::cpu;
use crate::report::{Column, Table, show};
use crate::setting;

const CONNECTIONS: usize = 32;
const WARM: Duration = Duration::from_secs(1);
const TURN: Duration = Duration::from_secs(3);

const COLUMNS: [Column; 4] = [
    Column::ratio("requests/s", 0),
    Column::ratio("CPU us", 1),
    Column::plain("p50 ms", 2),
    Column::plain("p99 ms", 2),
];

const GET: &[u8] = b"GET /hello HTTP/1.1\r\nhost: bench\r\n\r\n";

/// Runs the measurement.
pub(crate) fn measure() {
    let rounds = setting("BENCH_ROUNDS", 5);
    let (_folder, native, native_address) = native();
    let mut host = Host::embedded([seed("bench-answer")]);
    let tidemill_address = host.http().address().to_owned();
    let tidemill = host.process().id();

    let body = format!(
        r#"{{"id":"user-12345","name":"Ada Lovelace","email":"ada@example.com","about":"{}"}}"#,
        "x".repeat(100)
    );
    let post = format!(
        "POST /users HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let systems = [
        ("native", native.id(), native_address),
        ("tidemill", tidemill, tidemill_address),
    ];
    let scenarios: [(&str, &[u8], Check); 2] = [
        ("GET text", GET, |body| body == b"hello"),
        ("POST JSON", post.as_bytes(), |body| {
            body == br#"{"message":"User created and sent to Kafka","id":"user-12345"}"#
        }),
    ];
    let tables = scenarios.map(|(name, request, good)| {
        eprintln!("{name}, {CONNECTIONS} connections, {rounds} rounds of {TURN:?} each");
        let mut table = Table::new(name, "native", &COLUMNS);
        for _ in 0..rounds {
            for (system, process, address) in &systems {
                load::run(address, request, good, CONNECTIONS, WARM);
                let before = cpu(*process);
                let outcome = load::run(address, request, good, CONNECTIONS, TURN);
                table.add(system, turn(&outcome, cpu(*process) - before));
            }
        }
        table
    });
    show("http", &tables);
}

fn turn(outcome: &Outcome, cpu: Duration) -> Vec<Option<f64>> {
    let ms = |time: Duration| Some(time.as_secs_f64() * 1e3);
    vec![
        Some(outcome.rate),
        Some(cpu.as_secs_f64() * 1e6 / outcome.requests as f64),
        ms(outcome.p50),
        ms(outcome.p99),
    ]
}

/// Starts the native server.
fn native() -> (Folder, Process, String) {
    let folder = Folder::new("native-http");
    let file: PathBuf = folder.path().join("address");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("native-http").arg(&file);
    let process = Process::start("native hyper", command, &folder.path().join("log"));
    let address = eventually("the native server listens", || fs::read_to_string(&file));
    (folder, process, address)
}
