//! A request through a warm handler: text, and JSON that is read and validated.

use super::{COLUMNS, CONNECTIONS, Servers, alternate, create, hello, plain, rounds, router};
use crate::report::Table;
use crate::servers::{Proposal, Server};

/// Requests of an instance of `wasmtime serve`.
const REUSE: &str = "128";

pub(super) fn measure() -> Vec<Table> {
    let mut servers = Servers::that_answer(hello())
        .and("native hyper", Server::hyper)
        .and("Tidemill", |name| Server::tidemill(name, plain(), None))
        .and("Tidemill, axum router", |name| {
            Server::tidemill(name, router(), None)
        })
        .and("wasmtime serve, wasi:http 0.2", |name| {
            Server::wasmtime(name, Proposal::P2, REUSE)
        })
        .and("wasmtime serve, wasi:http 0.3", |name| {
            Server::wasmtime(name, Proposal::P3, REUSE)
        })
        .and("FastAPI", |name| Server::fastapi(name, "1", None))
        .and("FastAPI, 2 workers", |name| {
            Server::fastapi(name, "2", None)
        });
    let exchanges = [("GET text", hello()), ("POST JSON", create("user-12345"))];
    exchanges
        .into_iter()
        .map(|(title, exchange)| {
            let mut table = Table::new(title, "native hyper", &COLUMNS);
            alternate(
                &mut table,
                &mut servers,
                &[exchange],
                CONNECTIONS,
                rounds(5),
            );
            table
        })
        .collect()
}
