//! A fresh instance for each call, beside one that is kept.

use super::{
    COLUMNS, CONNECTIONS, Servers, alternate, create, fresh, hello, plain, rounds, router,
};
use crate::report::Table;
use crate::servers::{Proposal, Server};

pub(super) fn measure() -> Vec<Table> {
    let mut text = Servers::that_answer(hello())
        .and("Tidemill, warm", |name| {
            Server::tidemill(name, plain(), None)
        })
        .and("Tidemill, fresh", |name| {
            Server::tidemill(name, fresh(&plain()), None)
        })
        .and("wasmtime serve, wasi:http 0.2, warm", |name| {
            Server::wasmtime(name, Proposal::P2, "128")
        })
        .and("wasmtime serve, wasi:http 0.2, fresh", |name| {
            Server::wasmtime(name, Proposal::P2, "1")
        })
        .and("wasmtime serve, wasi:http 0.3, fresh", |name| {
            Server::wasmtime(name, Proposal::P3, "1")
        });
    let mut json = Servers::that_answer(hello())
        .and("Tidemill, axum router, warm", |name| {
            Server::tidemill(name, router(), None)
        })
        .and("Tidemill, axum router, fresh", |name| {
            Server::tidemill(name, fresh(&router()), None)
        });

    let mut texts = Table::new(
        "GET text, a fresh instance each",
        "Tidemill, warm",
        &COLUMNS,
    )
    .called("fresh-get-text");
    alternate(&mut texts, &mut text, &[hello()], CONNECTIONS, rounds(3));
    let baseline = "Tidemill, axum router, warm";
    let mut jsons = Table::new("POST JSON, a fresh instance each", baseline, &COLUMNS)
        .called("fresh-post-json");
    let exchanges = [create("user-12345")];
    alternate(&mut jsons, &mut json, &exchanges, CONNECTIONS, rounds(3));
    vec![texts, jsons]
}
