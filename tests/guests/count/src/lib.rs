//! Counts events by key and publishes each new count: reads, writes, publishes.
//! Whatever is lost or done twice shows in what it published.
//!
//! Settings: `out` is the topic of the counts, and `poison`, as `KEY N`, has the
//! count N of a key be published with 2 MiB, which no broker takes.

use bindings::exports::tidemill::service::describe::Guest as Describe;
use bindings::exports::tidemill::service::events::{Event, Failure, Guest as Events};
use bindings::exports::tidemill::service::http::{Guest as Http, Request, Response};
use bindings::tidemill::service::publisher::{self, Message};
use bindings::tidemill::service::state::{self, Range};
use bindings::wasi::config::store;

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        world: "tidemill:service/service",
        generate_all,
    });
}

struct Count;

bindings::export!(Count with_types_in bindings);

/// The table: by key, the count as text.
const COUNTS: &str = "counts";

impl Describe for Count {
    fn openapi() -> String {
        r#"{"openapi":"3.1.0","info":{"title":"count","version":"1"},"paths":{}}"#.to_owned()
    }
}

impl Events for Count {
    async fn handle(event: Event) -> Result<(), Failure> {
        let key = event.key.unwrap_or_default();
        count(&key).map_err(Failure::Retry)
    }
}

fn count(key: &[u8]) -> Result<(), String> {
    let before = state::get(COUNTS, key).map_err(|error| error.to_string())?;
    let before = before.map_or(Ok(0), |count| text(&count).parse::<u64>());
    let count = before.map_err(|error| error.to_string())? + 1;
    state::put(COUNTS, key, count.to_string().as_bytes()).map_err(|error| error.to_string())?;
    let mut value = count.to_string().into_bytes();
    if setting("poison") == format!("{} {count}", text(key)) {
        value.resize(2 << 20, b' ');
    }
    publish(setting("out"), key.to_vec(), value)
}

impl Http for Count {
    async fn handle(request: Request) -> Response {
        let answered = match request.method.as_str() {
            "POST" => add(&text(&request.body)).map(|()| String::new()),
            _ => rows(),
        };
        match answered {
            Ok(body) => Response {
                status: 200,
                headers: Vec::new(),
                body: body.into_bytes(),
            },
            Err(error) => Response {
                status: 500,
                headers: Vec::new(),
                body: error.into_bytes(),
            },
        }
    }
}

/// Publishes an event for each line `TOPIC KEY VALUE`.
fn add(lines: &str) -> Result<(), String> {
    for line in lines.lines() {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default();
        publish(word().to_owned(), word().into(), word().into())?;
    }
    Ok(())
}

/// All rows, a line `KEY COUNT` each.
fn rows() -> Result<String, String> {
    let mut lines = String::new();
    let mut start = None;
    loop {
        let range = Range {
            start: start.clone(),
            end: None,
            limit: 10_000,
            reverse: false,
        };
        let rows = state::scan(COUNTS, &range).map_err(|error| error.to_string())?;
        let Some(last) = rows.last() else {
            return Ok(lines);
        };
        // The first key behind the last one.
        start = Some([&last.key[..], &[0]].concat());
        for row in rows {
            lines.push_str(&format!("{} {}\n", text(&row.key), text(&row.value)));
        }
    }
}

fn publish(topic: String, key: Vec<u8>, value: Vec<u8>) -> Result<(), String> {
    let message = Message {
        topic,
        key: Some(key),
        value: Some(value),
        headers: Vec::new(),
    };
    publisher::publish(&message).map_err(|error| error.to_string())
}

fn setting(name: &str) -> String {
    store::get(name).ok().flatten().unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
