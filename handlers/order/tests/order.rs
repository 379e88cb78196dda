//! The order service, on the SDK's host in memory.
#![allow(missing_docs)]

use order::{routes, topics};
use serde_json::Value;
use tidemill::test::{Host, Record};
use tidemill::{Failure, Message};

fn host() -> Host {
    Host::new()
        .http(routes())
        .events(topics())
        .granted(&[], true)
}

fn user(key: &str, value: &str) -> Message {
    Message::new("user_topic").key(key).bytes(value)
}

#[test]
fn each_user_becomes_an_order() {
    let mut host = host();
    assert_eq!(host.get("/orders").text(), r#"{"orders":[]}"#);
    assert_eq!(
        host.deliver(user("7", r#"{ "id": 7, "name": "Ada" }"#)),
        Ok(())
    );
    assert_eq!(host.deliver(user("b", r#"{"name":"Bo"}"#)), Ok(()));
    assert_eq!(
        host.get("/orders").text(),
        r#"{"orders":[{"id":7,"name":"Ada"},{"name":"Bo"}]}"#
    );
    assert_eq!(host.get("/orders/7").text(), r#"{"id":7,"name":"Ada"}"#);
    assert_eq!(host.get("/orders/b").text(), r#"{"name":"Bo"}"#);
}

#[test]
fn the_same_user_again_replaces_its_order_in_place() {
    let mut host = host();
    for (key, value) in [
        ("a", r#"{"v":1}"#),
        ("b", r#"{"v":2}"#),
        ("a", r#"{"v":3}"#),
    ] {
        assert_eq!(host.deliver(user(key, value)), Ok(()));
    }
    assert_eq!(
        host.get("/orders").text(),
        r#"{"orders":[{"v":3},{"v":2}]}"#
    );
    assert_eq!(host.get("/orders/a").text(), r#"{"v":3}"#);
}

#[test]
fn a_tombstone_removes_an_order() {
    let mut host = host();
    let tombstone = || Message::new("user_topic").key("a");
    assert_eq!(host.deliver(tombstone()), Ok(()));
    assert_eq!(host.deliver(user("a", r#"{"v":1}"#)), Ok(()));
    assert_eq!(host.deliver(tombstone()), Ok(()));
    assert_eq!(host.get("/orders").text(), r#"{"orders":[]}"#);
    assert_eq!(host.get("/orders/a").status, 404);
    assert_eq!(host.deliver(user("a", r#"{"v":2}"#)), Ok(()));
    assert_eq!(host.get("/orders").text(), r#"{"orders":[{"v":2}]}"#);
}

#[test]
fn a_record_without_a_key_is_known_by_the_users_own_id() {
    let mut host = host();
    let keyless = |value: &str| Message::new("user_topic").bytes(value);
    assert_eq!(host.deliver(keyless(r#"{"id":7}"#)), Ok(()));
    assert_eq!(host.get("/orders/7").text(), r#"{"id":7}"#);
    for message in [
        keyless("{}"),
        keyless(r#"{"id":null}"#),
        keyless(r#"{"id":""}"#),
        Message::new("user_topic"),
    ] {
        match host.deliver(message) {
            Err(Failure::Reject(why)) => assert!(why.contains("without an id"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(host.deliver(user("null", "{}")), Ok(()));
    assert_eq!(host.get("/orders/null").text(), "{}");
    // Without a key to partition by, one id comes to several shards.
    assert_eq!(
        host.deliver(Record::from(keyless(r#"{"id":7}"#)).at_partition(3)),
        Ok(())
    );
    assert_eq!(host.get("/orders/7").text(), r#"{"id":7}"#);
}

#[test]
fn what_is_no_user_is_rejected() {
    let mut host = host();
    for value in ["[]", "7", "{", "\u{1}"] {
        assert!(
            matches!(host.deliver(user("a", value)), Err(Failure::Reject(_))),
            "{value}"
        );
    }
    assert_eq!(host.get("/orders").text(), r#"{"orders":[]}"#);
}

#[test]
fn orders_are_listed_page_by_page() {
    let mut host = host();
    for number in 0..120 {
        assert_eq!(
            host.deliver(user(&number.to_string(), &format!(r#"{{"n":{number}}}"#))),
            Ok(())
        );
    }
    let page: Value = host.get("/orders").json();
    assert_eq!(page["orders"].as_array().map(Vec::len), Some(100));
    let next = page["next"].as_str().unwrap_or_default();
    let rest: Value = host.get(&format!("/orders?limit=20&after={next}")).json();
    assert_eq!(rest["orders"].as_array().map(Vec::len), Some(20));
    assert_eq!(rest["orders"][0]["n"], 100);
    assert_eq!(rest.get("next"), None);
}

#[test]
fn an_unknown_order_is_a_problem_document() {
    let answer = host().get("/orders/caf%C3%A9");
    assert_eq!(answer.status, 404);
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(
        answer.text(),
        r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"There is no order café"}"#
    );
}
