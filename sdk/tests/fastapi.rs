//! What the SDK answers to bad requests, held byte for byte against what FastAPI
//! answered (tests/fastapi/record.py records it).
#![allow(missing_docs, clippy::unwrap_used)]

use axum::Router;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tidemill::test::Host;
use tidemill::{Json, JsonObject, Paging};

#[derive(Deserialize)]
struct Recorded {
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    kind: String,
    method: String,
    target: String,
    body: Option<String>,
    body_hex: Option<String>,
    status: u16,
    r#type: String,
    response: String,
    allow: Option<String>,
}

impl Row {
    fn body(&self) -> Vec<u8> {
        match (&self.body, &self.body_hex) {
            (Some(text), _) => text.clone().into_bytes(),
            (_, Some(hex)) => (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect(),
            _ => Vec::new(),
        }
    }

    fn name(&self) -> String {
        format!("{} {} {:.80?}", self.method, self.target, self.body)
    }
}

fn recorded(kind: &str) -> impl Iterator<Item = Row> {
    let recorded: Recorded = serde_json::from_str(include_str!("fastapi/responses.json")).unwrap();
    let rows: Vec<Row> = recorded
        .rows
        .into_iter()
        .filter(|row| row.kind == kind)
        .collect();
    assert!(!rows.is_empty());
    rows.into_iter()
}

#[derive(Serialize)]
struct Posted {
    user: JsonObject,
}

#[derive(Serialize)]
struct Listed {
    limit: u32,
    after: Option<String>,
}

fn host() -> Host {
    let routes = Router::new()
        .route(
            "/users",
            post(async |user: JsonObject| Json(Posted { user })),
        )
        .route(
            "/events",
            get(async |page: Paging| {
                Json(Listed {
                    limit: page.limit,
                    after: page.after.map(|cursor| cursor.to_string()),
                })
            }),
        );
    Host::new().http(routes)
}

#[test]
fn answers_are_fastapis_byte_for_byte() {
    let mut host = host();
    let mut wrong = Vec::new();
    for row in recorded("same") {
        let answer = host.request(&row.method, &row.target, row.body());
        let same = answer.status == row.status
            && answer.header("content-type") == Some(&row.r#type)
            && answer.text() == row.response;
        if !same {
            wrong.push(format!(
                "{}\n  theirs {} {:.200}\n  ours   {} {:.200}",
                row.name(),
                row.status,
                row.response,
                answer.status,
                answer.text()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unknown_paths_and_methods_are_problem_documents_with_fastapis_detail() {
    let mut host = host();
    for row in recorded("problem") {
        let answer = host.request(&row.method, &row.target, row.body());
        assert_eq!(answer.status, row.status, "{}", row.name());
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json")
        );
        let theirs: serde_json::Value = serde_json::from_str(&row.response).unwrap();
        let ours: serde_json::Value = answer.json();
        assert_eq!(ours["detail"], theirs["detail"]);
        assert_eq!(ours["status"], row.status);
        assert_eq!(ours["type"], "about:blank");
        assert_eq!(ours["title"], theirs["detail"]);
        // Where FastAPI answers GET, axum answers HEAD, too.
        assert_eq!(
            answer
                .header("allow")
                .map(|methods| methods.replace(",HEAD", "")),
            row.allow
        );
    }
}

/// NaN, infinities and halves of surrogate pairs, on which FastAPI fails only
/// when it answers (500), are not JSON here. Numbers keep their spelling.
#[test]
fn answers_differ_where_fastapi_breaks_or_rewrites_numbers() {
    let ours = [
        (
            r#"{"a":NaN}"#,
            422,
            r#"{"detail":[{"type":"json_invalid","loc":["body",5],"msg":"JSON decode error","input":{},"ctx":{"error":"Expecting value"}}]}"#,
        ),
        (
            r#"{"a":Infinity}"#,
            422,
            r#"{"detail":[{"type":"json_invalid","loc":["body",5],"msg":"JSON decode error","input":{},"ctx":{"error":"Expecting value"}}]}"#,
        ),
        (
            r#"{"a":-Infinity}"#,
            422,
            r#"{"detail":[{"type":"json_invalid","loc":["body",5],"msg":"JSON decode error","input":{},"ctx":{"error":"Expecting value"}}]}"#,
        ),
        (
            "NaN",
            422,
            r#"{"detail":[{"type":"json_invalid","loc":["body",0],"msg":"JSON decode error","input":{},"ctx":{"error":"Expecting value"}}]}"#,
        ),
        (
            r#"{"a":"\ud800"}"#,
            422,
            r#"{"detail":[{"type":"json_invalid","loc":["body",7],"msg":"JSON decode error","input":{},"ctx":{"error":"Invalid \\uXXXX escape"}}]}"#,
        ),
        (r#"{"a":1e999}"#, 200, r#"{"user":{"a":1e999}}"#),
        (
            "1.50",
            422,
            r#"{"detail":[{"type":"dict_type","loc":["body"],"msg":"Input should be a valid dictionary","input":1.50}]}"#,
        ),
        (
            "-0",
            422,
            r#"{"detail":[{"type":"dict_type","loc":["body"],"msg":"Input should be a valid dictionary","input":-0}]}"#,
        ),
        (r#"{"a":1e5}"#, 200, r#"{"user":{"a":1e5}}"#),
    ];
    let mut host = host();
    for (row, (body, status, response)) in recorded("different").zip(ours) {
        assert_eq!(row.body.as_deref(), Some(body));
        let answer = host.post("/users", body);
        assert_eq!((answer.status, answer.text()), (status, response));
        assert!(
            answer.status != row.status || answer.text() != row.response,
            "no difference: {body}"
        );
    }
}

#[test]
fn a_cursor_that_no_page_gave_is_refused_in_the_same_shape() {
    let mut host = host();
    assert_eq!(
        host.get("/events?after=").text(),
        r#"{"limit":100,"after":null}"#
    );
    let answer = host.get("/events?limit=0&after=x");
    assert_eq!(answer.status, 422);
    assert_eq!(
        answer.text(),
        r#"{"detail":[{"type":"greater_than_equal","loc":["query","limit"],"msg":"Input should be greater than or equal to 1","input":"0","ctx":{"ge":1}},{"type":"value_error","loc":["query","after"],"msg":"Value error, not a cursor that a page's `next` gave","input":"x","ctx":{"error":{}}}]}"#
    );
}

#[test]
fn a_body_too_large_to_quote_is_not_quoted() {
    let answer = host().post("/users", format!("[{}1]", "1,".repeat(200_000)));
    assert_eq!(answer.status, 422);
    assert!(
        answer
            .text()
            .ends_with(r#""msg":"Input should be a valid dictionary","input":null}]}"#)
    );
}
