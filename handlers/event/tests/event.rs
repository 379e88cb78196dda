//! The event service, on the SDK's host in memory.
#![allow(missing_docs)]

use event::{routes, topics};
use serde_json::Value;
use tidemill::test::Host;
use tidemill::{Failure, Message};

fn host() -> Host {
    Host::new()
        .http(routes())
        .events(topics())
        .granted(&["event_topic"], true)
}

#[test]
fn what_is_posted_is_listed_once_it_was_consumed() {
    let mut host = host();
    let answer = host.post(
        "/events",
        r#"{ "type" : "signed-up", "n": 1.0, "é": "\u00e9" }"#,
    );
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.text(),
        r#"{"message":"Event created and sent to Kafka"}"#
    );
    assert_eq!(host.get("/events").text(), r#"{"events":[]}"#);
    assert_eq!(
        host.published("event_topic")[0].value(),
        Some(r#"{ "type" : "signed-up", "n": 1.0, "é": "\u00e9" }"#)
    );
    assert_eq!(host.deliver_published(), Ok(1));
    assert_eq!(
        host.get("/events").text(),
        r#"{"events":[{"type":"signed-up","n":1.0,"é":"é"}]}"#
    );
}

#[test]
fn events_are_listed_page_by_page_oldest_first() {
    let mut host = host();
    for number in 0..250 {
        assert_eq!(
            host.post("/events", format!(r#"{{"n":{number}}}"#)).status,
            200
        );
    }
    assert_eq!(host.deliver_published(), Ok(250));
    let mut seen = Vec::new();
    let mut target = "/events?limit=99".to_owned();
    loop {
        let page: Value = host.get(&target).json();
        seen.extend(
            page["events"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|event| event["n"].clone()),
        );
        match page["next"].as_str() {
            Some(next) => target = format!("/events?limit=99&after={next}"),
            None => break,
        }
    }
    assert_eq!(Value::from(seen), (0..250).collect::<Value>());
    assert_eq!(
        host.get("/events").json::<Value>()["events"]
            .as_array()
            .map(Vec::len),
        Some(100)
    );
}

#[test]
fn what_is_no_event_is_refused() {
    let mut host = host();
    assert_eq!(host.post("/events", "[]").status, 422);
    assert_eq!(host.get("/events?limit=0").status, 422);
    assert_eq!(host.get("/events?after=nonsense").status, 422);
    assert_eq!(host.request("PUT", "/events", "{}").status, 405);
    assert!(host.published("event_topic").is_empty());
}

#[test]
fn what_others_put_on_the_topic_is_kept_if_it_is_json() {
    let mut host = host();
    assert_eq!(
        host.deliver(Message::new("event_topic").bytes("[1, 2]")),
        Ok(())
    );
    for message in [
        Message::new("event_topic"),
        Message::new("event_topic").bytes("x"),
        Message::new("event_topic").bytes(&b"\xff"[..]),
    ] {
        assert!(matches!(host.deliver(message), Err(Failure::Reject(_))));
    }
    assert_eq!(host.get("/events").text(), r#"{"events":[[1,2]]}"#);
}

#[test]
fn the_routes_are_documented() {
    let document = host().openapi();
    assert_eq!(
        document["paths"]["/events"]["post"]["summary"],
        "Publishes an event"
    );
    assert_eq!(
        document["paths"]["/events"]["get"]["parameters"][0]["name"],
        "limit"
    );
}
