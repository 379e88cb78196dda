//! A service that does on request whatever a host must survive.
//!
//! Made from the WIT contract alone and not from the SDK, so that the host is
//! also held against a component that the SDK had no hand in.
//!
//! The path after the service's route says what a request does, the value what
//! an event does. Every event that succeeds leaves a row, which `GET …/rows`
//! shows: what was handled, in which order, at which attempt.

#![allow(
    clippy::unwrap_used,
    reason = "a failure here is a trap, and meant to be"
)]

use std::collections::BTreeMap;
use std::time::Duration;

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        world: "tidemill:service/service",
        generate_all,
    });
}

use bindings::exports::tidemill::service::describe::Guest as Describe;
use bindings::exports::tidemill::service::events::{Event, Failure, Guest as Events, Later};
use bindings::exports::tidemill::service::http::{Guest as Http, Request, Response};
use bindings::tidemill::service::publisher::{self, Message};
use bindings::tidemill::service::state::{self, Range};
use bindings::wasi::config::store;

struct Misbehave;

bindings::export!(Misbehave with_types_in bindings);

/// The table of events that were handled.
const SEEN: &str = "seen";
/// The table of how many were handled, by topic and partition. Counting is not
/// idempotent: an event that is in the state twice shows.
const COUNTS: &str = "counts";

impl Describe for Misbehave {
    fn openapi() -> String {
        if let Ok(Some(mode)) = store::get("describe") {
            misbehave(&mode);
        }
        if let Ok(Some(document)) = store::get("openapi") {
            return document;
        }
        r#"{"openapi":"3.1.0","info":{"title":"misbehave","version":"1"},"paths":{}}"#.to_owned()
    }
}

impl Http for Misbehave {
    async fn handle(request: Request) -> Response {
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let query: BTreeMap<&str, &str> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let text = |name: &str| query.get(name).copied().unwrap_or_default();
        let number = |name: &str| text(name).parse::<u64>().unwrap_or(1);
        match path.rsplit('/').next().unwrap_or_default() {
            "echo" => Response {
                status: 200,
                headers: request.headers,
                body: request.body,
            },
            "length" => answer(200, request.body.len().to_string()),
            "status" => answer(number("code") as u16, "as asked"),
            "header" => Response {
                headers: vec![(text("name").to_owned(), unhex(text("value")))],
                ..answer(200, "with a header")
            },
            "headers" => Response {
                headers: (0..number("n"))
                    .map(|n| (format!("x-{n}"), vec![b'x'; number("bytes") as usize]))
                    .collect(),
                ..answer(200, "with headers")
            },
            // Fills memory that is kept as long as the instance, and goes on.
            "hold" => {
                hold(number("mib"));
                std::thread::sleep(Duration::from_millis(number("ms")));
                answer(200, "held")
            }
            "forever" => {
                std::future::pending::<()>().await;
                answer(200, "never")
            }
            "big" => answer(200, vec![b'x'; number("bytes") as usize]),
            "print" => {
                println!("{}", text("text"));
                eprintln!("{}", text("text"));
                answer(200, "printed")
            }
            // The body as it is, and so often.
            "say" => {
                for _ in 0..number("n") {
                    println!("{}", String::from_utf8_lossy(&request.body));
                }
                answer(200, "said")
            }
            "sleep" => {
                std::thread::sleep(Duration::from_millis(number("ms")));
                answer(200, "slept")
            }
            "random" => {
                let bytes = wasip2::random::random::get_random_bytes(number("bytes"));
                answer(200, bytes.len().to_string())
            }
            "handles" => {
                let handle = |_| wasip2::clocks::monotonic_clock::subscribe_duration(1);
                let handles: Vec<_> = (0..number("n")).map(handle).collect();
                answer(200, handles.len().to_string())
            }
            "setting" => answer(200, store::get(text("key")).unwrap().unwrap_or_default()),
            "put" => match state::put(SEEN, b"from a request", b"") {
                Ok(()) => answer(200, "written"),
                Err(error) => answer(409, error.to_string()),
            },
            "rows" => answer(200, rows(text("after"))),
            // Publishes, and then does what `then` says.
            "publish" => {
                for _ in 0..number("n") {
                    let message = Message {
                        topic: text("topic").to_owned(),
                        key: query.get("key").map(|key| key.as_bytes().to_vec()),
                        value: Some(match query.get("bytes") {
                            Some(bytes) => vec![b'x'; bytes.parse().unwrap()],
                            None => request.body.clone(),
                        }),
                        headers: Vec::new(),
                    };
                    if let Err(error) = publisher::publish(&message) {
                        return answer(409, error.to_string());
                    }
                }
                match text("then") {
                    "" => answer(200, "published"),
                    "error" => answer(500, "after publishing"),
                    then => {
                        misbehave(then);
                        answer(200, "published")
                    }
                }
            }
            mode => {
                misbehave(mode);
                answer(200, "ok")
            }
        }
    }
}

impl Events for Misbehave {
    async fn handle(event: Event) -> Result<(), Failure> {
        let value =
            String::from_utf8_lossy(event.value.as_deref().unwrap_or_default()).into_owned();
        let (mode, rest) = value.split_once(' ').unwrap_or((&value, ""));
        let counted = format!("{}/{}", event.topic, event.partition);
        let before = state::get(COUNTS, counted.as_bytes()).unwrap();
        let count = 1 + before.map_or(0, |count| u64::from_be_bytes(count.try_into().unwrap()));
        state::put(COUNTS, counted.as_bytes(), &count.to_be_bytes()).unwrap();
        let seen = format!(
            "{} {} {} count={count} key={} value={} attempt={}",
            event.topic,
            event.partition,
            event.offset,
            show(event.key.as_deref()),
            show(event.value.as_deref()),
            event.attempt,
        );
        let row = format!("{}/{}/{:020}", event.topic, event.partition, event.offset);
        state::put(SEEN, row.as_bytes(), seen.as_bytes()).unwrap();
        match mode {
            "retry" => return Err(Failure::Retry("asked to be retried".to_owned())),
            "reject" => return Err(Failure::Reject("asked to be rejected".to_owned())),
            // Asks for a pause, once.
            "after" if event.attempt == 1 => {
                return Err(Failure::RetryAfter(Later {
                    reason: format!("in {rest} ms"),
                    after: rest.parse().unwrap(),
                }));
            }
            // Fails before the attempt that is given.
            "until" if event.attempt < rest.parse().unwrap() => {
                return Err(Failure::Retry(format!("attempt {}", event.attempt)));
            }
            // Fails as long as the service is not deployed with other settings.
            "unless" => {
                if store::get("fixed").unwrap().is_none() {
                    return Err(Failure::Retry("not fixed yet".to_owned()));
                }
            }
            "publish" => publish_on(&event, rest),
            "hold" => hold(rest.parse().unwrap()),
            // Rows of so many bytes, until it is told that they are too many.
            "rows" => {
                let value = vec![b'x'; rest.parse().unwrap()];
                let mut count = 0_u64;
                while state::put("many", &count.to_be_bytes(), &value).is_ok() {
                    count += 1;
                }
                let error = state::put("many", b"last", &value).unwrap_err();
                return Err(Failure::Reject(format!("{count} rows, then {error}")));
            }
            "say" => println!("{rest}"),
            "publish-then-trap" => {
                publish_on(&event, rest);
                misbehave("trap");
            }
            mode => {
                if let Ok(Some(topic)) = store::get("forward") {
                    publish_on(&event, &topic);
                }
                misbehave(mode);
            }
        }
        Ok(())
    }
}

/// Publishes what an event carries to another topic.
fn publish_on(event: &Event, topic: &str) {
    publisher::publish(&Message {
        topic: topic.to_owned(),
        key: event.key.clone(),
        value: event.value.clone(),
        headers: Vec::new(),
    })
    .unwrap();
}

/// Memory that is not given back.
static HELD: std::sync::Mutex<Vec<Vec<u8>>> = std::sync::Mutex::new(Vec::new());

fn hold(mebibytes: u64) {
    let mut held = HELD.lock().unwrap();
    while (held.len() as u64) < mebibytes {
        held.push(std::hint::black_box(vec![1; 1 << 20]));
    }
}

/// The ways a call can end that are not an answer.
fn misbehave(mode: &str) {
    match mode {
        "trap" => trap(),
        "panic" => panic!("asked to panic"),
        "loop" => {
            let mut count = 0_u64;
            loop {
                count = std::hint::black_box(count.wrapping_add(1));
            }
        }
        "alloc" => {
            let mut kept: Vec<Vec<u8>> = Vec::new();
            loop {
                kept.push(std::hint::black_box(vec![1; 1 << 20]));
            }
        }
        "recurse" => {
            std::hint::black_box(recurse(u64::MAX));
        }
        _ => {}
    }
}

#[cfg(target_arch = "wasm32")]
fn trap() {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_arch = "wasm32"))]
fn trap() {
    std::process::abort()
}

fn recurse(depth: u64) -> u64 {
    if depth == 0 {
        return 0;
    }
    recurse(std::hint::black_box(depth - 1)) + std::hint::black_box(1)
}

/// Rows of handled events, one a line, as many pages as there are.
fn rows(after: &str) -> String {
    let mut lines = String::new();
    let mut start = Some(after.as_bytes().to_vec());
    loop {
        let range = Range {
            start: start.take(),
            end: None,
            limit: 10_000,
            reverse: false,
        };
        let rows = state::scan(SEEN, &range).unwrap();
        for row in &rows {
            lines.push_str(&String::from_utf8_lossy(&row.value));
            lines.push('\n');
        }
        match rows.last() {
            Some(last) if rows.len() >= 10_000 => {
                let mut next = last.key.clone();
                next.push(0);
                start = Some(next);
            }
            _ => return lines,
        }
    }
}

fn answer(status: u16, body: impl Into<Vec<u8>>) -> Response {
    Response {
        status,
        headers: vec![("content-type".to_owned(), b"text/plain".to_vec())],
        body: body.into(),
    }
}

/// Text as it is, `null`, or hexadecimal where it is not UTF-8.
fn show(bytes: Option<&[u8]>) -> String {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => "null".to_owned(),
        Some((_, Ok(text))) => format!("{text:?}"),
        Some((bytes, Err(_))) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        .collect()
}
