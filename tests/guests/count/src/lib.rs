//! Counts events by key and publishes each new count: reads, writes, publishes.
//! Whatever is lost or done twice shows in what it published.
//!
//! Settings: `out` is the topic of the counts; `by` is how much an event counts, 1
//! if it is not set. `poison`, as `KEY N`, says which count of a key the broker is
//! to refuse: it is published to the topic `poison-out`, or with 2 MiB. Events of
//! the key `reject` are rejected. `sleep` is how long an event takes, in ms; one
//! of the key `slow` takes a minute. With `trap`, a number, events at each offset that
//! is one less than a multiple of it trap.
//!
//! Requests: a `POST` publishes an event for each line `TOPIC KEY VALUE`, and to
//! `/NAME/next` asks for an event as well; `GET
//! /NAME` gives all rows, `/NAME/key/KEY` one, `/NAME/total` their number and sum.

use bindings::exports::tidemill::service::describe::Guest as Describe;
use bindings::exports::tidemill::service::event_loop::Guest as EventLoop;
use bindings::exports::tidemill::service::events::{Event, Failure, Guest as Events};
use bindings::exports::tidemill::service::http::{Guest as Http, Request, Response};
use bindings::tidemill::service::event_source::{self, Batch, PackedEvent, Turn};
use bindings::tidemill::service::publisher::{self, Message};
use bindings::tidemill::service::state::{self, Range};
use bindings::tidemill::service::types::Header;
use bindings::wasi::config::store;

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod bindings {
    wit_bindgen::generate!({
        path: "../../../wit",
        inline: "
            package tests:count;
            world count {
                include tidemill:service/service@0.1.0;
                include tidemill:service/event-puller@0.1.0;
            }
        ",
        world: "tests:count/count",
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

impl EventLoop for Count {
    async fn run() {
        let mut outcome: Option<Result<(), Failure>> = None;
        let mut events = Vec::new().into_iter();
        loop {
            match event_source::next(outcome.as_ref().map(plain)) {
                Turn::End => return,
                Turn::Next => {}
                Turn::Batch(batch) => events = unpacked(batch).into_iter(),
            }
            let event = events.next().expect("what begins was given");
            outcome = Some(<Count as Events>::handle(event).await);
        }
    }
}

fn unpacked(batch: Batch) -> Vec<Event> {
    let mut bytes = &batch.bytes[..];
    let mut part = |length: u32| {
        bytes
            .split_off(..length as usize)
            .expect("it is there")
            .to_vec()
    };
    let mut headers = batch.headers.into_iter();
    let event = |event: PackedEvent| Event {
        topic: batch.topic.clone(),
        partition: batch.partition,
        offset: event.offset,
        timestamp: event.timestamp,
        key: event.key.map(&mut part),
        value: event.value.map(&mut part),
        headers: headers
            .by_ref()
            .take(event.headers as usize)
            .map(|header| Header {
                name: String::from_utf8(part(header.name)).expect("a name is UTF-8"),
                value: header.value.map(&mut part),
            })
            .collect(),
        attempt: event.attempt,
    };
    batch.events.into_iter().map(event).collect()
}

fn plain(outcome: &Result<(), Failure>) -> Result<(), &Failure> {
    match outcome {
        Ok(()) => Ok(()),
        Err(failure) => Err(failure),
    }
}

impl Events for Count {
    async fn handle(event: Event) -> Result<(), Failure> {
        if let Ok(time) = setting("sleep").parse() {
            std::thread::sleep(std::time::Duration::from_millis(time));
        }
        let key = event.key.unwrap_or_default();
        // Waits for what never comes, and looks at nothing meanwhile.
        if !key.is_empty() && setting("slow") == text(&key) {
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
        if setting("reject") == text(&key) {
            return Err(Failure::Reject("its key is rejected".to_owned()));
        }
        if let Ok(tenth) = setting("trap").parse::<u64>() {
            assert!(
                !(event.offset + 1).is_multiple_of(tenth),
                "told to trap here"
            );
        }
        count(&key).map_err(Failure::Retry)
    }
}

fn count(key: &[u8]) -> Result<(), String> {
    let before = state::get(COUNTS, key).map_err(|error| error.to_string())?;
    let before = before.map_or(Ok(0), |count| number(&count))?;
    let by = setting("by").parse().unwrap_or(1);
    let count = before + by;
    state::put(COUNTS, key, count.to_string().as_bytes()).map_err(|error| error.to_string())?;
    let mut value = count.to_string().into_bytes();
    let mut topic = setting("out");
    if setting("poison") == format!("{} {count}", text(key)) {
        match setting("poison-out") {
            other if other.is_empty() => value.resize(2 << 20, b' '),
            other => topic = other,
        }
    }
    publish(topic, key.to_vec(), value)
}

impl Http for Count {
    async fn handle(request: Request) -> Response {
        let mut path = request.target.split('/').skip(2);
        let answered = match (request.method.as_str(), path.next(), path.next()) {
            ("POST", Some("next"), _) => {
                let added = add(&text(&request.body));
                let next = event_source::next(None);
                added.map(|()| format!("an event: {}", !matches!(next, Turn::End)))
            }
            ("POST", ..) => add(&text(&request.body)).map(|()| String::new()),
            (_, Some("key"), Some(key)) => row(key),
            (_, Some("total"), _) => total(),
            _ => rows(),
        };
        let (status, body) = match answered {
            Ok(body) => (200, body),
            Err(error) => (500, error),
        };
        Response {
            status,
            headers: Vec::new(),
            body: body.into_bytes(),
        }
    }
}

/// The count of a key; 0 if there is none.
fn row(key: &str) -> Result<String, String> {
    let count = state::get(COUNTS, key.as_bytes()).map_err(|error| error.to_string())?;
    Ok(count.map_or_else(|| "0".to_owned(), |count| text(&count)))
}

/// How many rows there are, and what they are together.
fn total() -> Result<String, String> {
    let (mut count, mut sum) = (0, 0);
    each(|_, value| {
        count += 1;
        sum += number(value)?;
        Ok(())
    })?;
    Ok(format!("{count} {sum}"))
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
    each(|key, value| {
        lines.push_str(&format!("{} {}\n", text(key), text(value)));
        Ok(())
    })?;
    Ok(lines)
}

/// Gives each row to `take`, in order. A key has one in each shard that counts it.
fn each(mut take: impl FnMut(&[u8], &[u8]) -> Result<(), String>) -> Result<(), String> {
    let mut start = None;
    loop {
        let range = Range {
            start,
            end: None,
            limit: 10_000,
            reverse: false,
        };
        let rows = state::scan(COUNTS, &range).map_err(|error| error.to_string())?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        // The first key behind the last one.
        start = Some([&last.key[..], &[0]].concat());
        for row in rows {
            take(&row.key, &row.value)?;
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

fn number(bytes: &[u8]) -> Result<u64, String> {
    text(bytes)
        .parse()
        .map_err(|error| format!("{bytes:?} is not a count: {error}"))
}

fn setting(name: &str) -> String {
    store::get(name).ok().flatten().unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
