//! Until the first answer: of a component that is deployed, and of a process that
//! is started. Each once with a component that was never compiled, and once with
//! one that was.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::{Component, Folder, Host, Kafka, run};

use super::{hello, plain, router};
use crate::report::{Column, Table};
use crate::servers::{Proposal, Server, free, wasmtime};
use crate::{setting, takes};

const COLUMNS: [Column; 1] = [Column::ratio("ms", 1)];

pub(super) fn measure() -> Vec<Table> {
    vec![deploys(), deploys_everywhere(), starts()]
}

/// How often each is deployed: `BENCH_DEPLOYS`.
fn times() -> usize {
    setting("BENCH_DEPLOYS", 20)
}

/// From the upload of a component to a running host until its first answer.
fn deploys() -> Table {
    const CACHED: &str = "Tidemill, plain guest, compiled before";
    let title = format!("Deploy to first answer, {} times", times());
    let mut table = Table::new(title, CACHED, &COLUMNS).called("deploy");
    let address = free();
    let host = Host::builder()
        .arguments(&["--http", &address.to_string()])
        .ready();
    for component in [plain(), router()] {
        deploy(&host, [address], &component);
    }
    eprintln!("{}", table.title);
    for number in 0..times() {
        for (name, component) in [
            (CACHED, plain()),
            (
                "Tidemill, plain guest, never compiled",
                unknown(&plain(), number),
            ),
            ("Tidemill, axum router, compiled before", router()),
            (
                "Tidemill, axum router, never compiled",
                unknown(&router(), number),
            ),
        ] {
            let [took] = deploy(&host, [address], &component);
            table.add(name, vec![Some(took)]);
        }
    }
    table
}

/// The same with a real Kafka between two hosts, until each of them answers.
fn deploys_everywhere() -> Table {
    const CACHED: &str = "compiled before";
    let title = format!("Deploy to first answer, on a real Kafka, {} times", times());
    let mut table = Table::new(title, CACHED, &COLUMNS).called("deploy-kafka");
    let kafka = Kafka::for_measuring();
    let addresses = [free(), free()];
    let [asked, _other] = addresses.map(|address| {
        Host::builder()
            .kafka(&kafka)
            .arguments(&["--http", &address.to_string()])
            .ready()
    });
    deploy(&asked, addresses, &router());
    eprintln!("{}", table.title);
    for number in 0..times() {
        for (name, component) in [
            (CACHED, router()),
            ("never compiled", unknown(&router(), number)),
        ] {
            let [here, there] = deploy(&asked, addresses, &component);
            table.add(name, vec![Some(here)]);
            table.add(&format!("{name}, on another host"), vec![Some(there)]);
        }
    }
    table
}

/// Deploys a component under a name of its own, and takes it away again. How many
/// milliseconds it took until hosts answered with it.
fn deploy<const N: usize>(
    asked: &Host,
    addresses: [SocketAddr; N],
    component: &Component,
) -> [f64; N] {
    // A host name of its own, since all of them answer the same path.
    let name = tidemill_tests::unique("cold");
    let component = component.with(&format!(
        "name = {name:?}\n[http]\nroutes = [\"{name}.example/\"]\n"
    ));
    let exchange = hello().with_host(&format!("{name}.example"));
    let began = Instant::now();
    let until_answered = &|address| exchange.first_answer(address, || ()) - began;
    let took = thread::scope(|scope| {
        let answering = addresses.map(|address| scope.spawn(move || until_answered(address)));
        asked.deploy(&component);
        answering.map(|first| first.join().unwrap().as_secs_f64() * 1e3)
    });
    let target = format!("/v1/services/{name}");
    let _ = asked.admin().send("DELETE", &target, &[], b"");
    took
}

/// The component as one that no cache knows: with a section that means nothing.
fn unknown(component: &Component, number: usize) -> Component {
    let text = format!("{number} of {}", std::process::id());
    let name = "bench";
    let size = u8::try_from(1 + name.len() + text.len()).unwrap();
    assert!(size < 0x80, "a length of one byte");
    let mut bytes = component.0.clone();
    bytes.extend([0, size, u8::try_from(name.len()).unwrap()]);
    bytes.extend(name.bytes().chain(text.bytes()));
    Component(bytes)
}

/// From the start of a process until its first answer.
fn starts() -> Table {
    const BASELINE: &str = "native hyper";
    let title = format!("Start of a process to first answer, {} times", times());
    let mut table = Table::new(title, BASELINE, &COLUMNS).called("start");
    eprintln!("{}", table.title);
    let folder = Folder::new("compiled");
    let compiled = folder.path().join("serve.cwasm");
    if takes(SERVE) {
        let mut command = wasmtime();
        command
            .args(["compile", "-Opooling-allocator", "-o"])
            .args([&compiled, &Proposal::P2.component()]);
        let (done, _, error) = run(&mut command);
        assert!(done, "{error}");
    }
    let address = free();
    let mut host = Host::builder()
        .arguments(&["--http", &address.to_string()])
        .deploy([plain()])
        .ready();
    let mut number = 0;
    type Start<'a> = (&'a str, Box<dyn FnMut(&str) -> Duration + 'a>);
    let mut systems: Vec<Start<'_>> = vec![
        (BASELINE, Box::new(|name| first(|| Server::hyper(name)))),
        (
            "Tidemill, never compiled",
            Box::new(|name| {
                // The harness lends hosts what others have compiled.
                number += 1;
                let component = unknown(&plain(), number);
                first(|| Server::tidemill(name, component, None))
            }),
        ),
        (
            "Tidemill, compiled before",
            Box::new(|_| {
                host.terminate();
                let began = Instant::now();
                thread::scope(|scope| {
                    let first = scope.spawn(|| hello().first_answer(address, || ()));
                    host.restart();
                    first.join().unwrap() - began
                })
            }),
        ),
        (
            "wasmtime serve, wasi:http 0.2, never compiled",
            Box::new(|name| first(|| Server::wasmtime(name, Proposal::P2, "128"))),
        ),
        (
            "wasmtime serve, wasi:http 0.2, compiled before",
            Box::new(|name| {
                let mut command = wasmtime();
                command.args([
                    "serve",
                    "-Scli",
                    "-Opooling-allocator",
                    "--allow-precompiled",
                ]);
                first(|| Server::wasmtime_as(name, command, &compiled))
            }),
        ),
        (
            "FastAPI",
            Box::new(|name| first(|| Server::fastapi(name, "1", None))),
        ),
    ];
    systems.retain(|(name, _)| takes(name));
    for _ in 0..times() {
        for (name, start) in &mut systems {
            let took = start(name);
            table.add(name, vec![Some(took.as_secs_f64() * 1e3)]);
        }
    }
    table
}

const SERVE: &str = "wasmtime serve";

/// How long it is from the start of a server until its first answer.
fn first(start: impl FnOnce() -> Server) -> Duration {
    let began = Instant::now();
    let _server = start().answers(&hello());
    began.elapsed()
}
