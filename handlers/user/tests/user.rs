//! The user service, on the SDK's host in memory.
#![allow(missing_docs)]

use serde_json::{Value, json};
use tidemill::test::Host;
use user::routes;

fn host() -> Host {
    Host::new().http(routes()).granted(&["user_topic"], false)
}

#[test]
fn a_user_is_published_as_posted_under_its_own_id() {
    let mut host = host();
    let answer = host.post("/users", r#"{ "id": "ada", "n": 1.0 }"#);
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.text(),
        r#"{"message":"User created and sent to Kafka","id":"ada"}"#
    );
    let published = host.published("user_topic");
    assert_eq!(published[0].key(), Some("ada"));
    assert_eq!(published[0].value(), Some(r#"{ "id": "ada", "n": 1.0 }"#));
}

#[test]
fn an_id_stays_what_it_is() {
    let mut host = host();
    for (id, key) in [
        ("7", "7"),
        ("1.0", "1.0"),
        ("0", "0"),
        ("false", "false"),
        (r#"{"a":1}"#, r#"{"a":1}"#),
        (r#""é""#, "é"),
    ] {
        let answer = host.post("/users", format!(r#"{{"id":{id}}}"#));
        assert_eq!(
            answer.text(),
            format!(r#"{{"message":"User created and sent to Kafka","id":{id}}}"#)
        );
        assert_eq!(
            host.published("user_topic")
                .last()
                .and_then(|user| user.key()),
            Some(key)
        );
    }
}

#[test]
fn a_user_without_an_id_gets_a_new_one() {
    let mut host = host();
    for body in [json!({}), json!({"id": null}), json!({"id": ""})] {
        let answer: Value = host.post("/users", body).json();
        let id = answer["id"].as_str().unwrap_or_default().to_owned();
        let version = uuid::Uuid::parse_str(&id).map(|id| id.get_version_num());
        assert_eq!(version, Ok(7));
        assert_eq!(
            host.published("user_topic")
                .last()
                .and_then(|user| user.key()),
            Some(&*id)
        );
    }
}

#[test]
fn what_is_no_user_is_refused_and_not_published() {
    let mut host = host();
    for body in ["", "[]", "null", "7", "{", r#"{"a":NaN}"#] {
        assert_eq!(host.post("/users", body).status, 422, "{body}");
    }
    assert_eq!(
        host.post("/users", json!({"id": "x".repeat(1025)})).status,
        422
    );
    assert_eq!(host.get("/users").status, 405);
    assert_eq!(host.get("/users").header("allow"), Some("POST"));
    assert_eq!(host.get("/users/7").status, 404);
    assert!(host.published("user_topic").is_empty());
}

#[test]
fn the_route_is_documented() {
    let document = host().openapi();
    assert_eq!(
        document["paths"]["/users"]["post"]["summary"],
        "Creates a user"
    );
}
