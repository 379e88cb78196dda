//! The test host keeps the rules of the real one (wit/, DESIGN section 2 and 3).
#![allow(missing_docs, clippy::unwrap_used)]

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde_json::json;
use tidemill::test::Host;
use tidemill::{
    Event, Failure, Json, JsonObject, Message, Problem, PublishError, RawJson, StateError, Table,
    Topics,
};

static COUNTS: Table<u64> = Table::new("counts");

fn topics() -> Topics {
    Topics::new().on("words", async |word: Event<String>| {
        let count = COUNTS.get(&word.value)?.unwrap_or(0) + 1;
        COUNTS.put(&word.value, &count)?;
        tidemill::publish("counted", &word.value, &count)?;
        match word.value.as_str() {
            "later" if word.attempt == 1 => Err(Failure::retry("not yet")),
            "never" => Err(Failure::reject("no such word")),
            _ => Ok(()),
        }
    })
}

fn word(text: &str) -> Message {
    Message::new("words").key(text).json(text).unwrap()
}

#[test]
fn what_a_failing_handler_did_is_dropped() {
    let mut host = Host::new().events(topics());
    host.deliver(word("tide")).unwrap();
    assert_eq!(
        host.deliver(word("never")),
        Err(Failure::reject("no such word"))
    );
    assert_eq!(host.deliver(word("later")), Err(Failure::retry("not yet")));
    assert_eq!(host.read(|| COUNTS.get("tide")).unwrap(), Some(1));
    assert_eq!(host.read(|| COUNTS.get("never")).unwrap(), None);
    assert_eq!(host.published("counted").len(), 1);
}

#[test]
fn a_retry_sees_its_attempt_number() {
    let mut host = Host::new().events(topics());
    let again = tidemill::test::Record::from(word("later")).attempt(2);
    host.deliver(again).unwrap();
    assert_eq!(host.published("counted")[0].json::<u64>(), 1);
}

#[test]
fn what_a_request_published_is_dropped_from_status_500_on() {
    let routes = Router::new().route(
        "/{status}",
        post(async |status: axum::extract::Path<u16>| {
            Message::new("words").key("k").bytes("v").publish().unwrap();
            StatusCode::from_u16(*status).unwrap()
        }),
    );
    let mut host = Host::new().http(routes);
    for (status, published) in [(200, 1), (409, 2), (500, 2), (503, 2), (303, 3)] {
        assert_eq!(host.post(&format!("/{status}"), "").status, status);
        assert_eq!(host.published("words").len(), published);
    }
}

#[test]
fn a_request_cannot_write() {
    let routes = Router::new().route(
        "/",
        post(async || COUNTS.put("a", &1).map_err(Problem::from)),
    );
    let mut host = Host::new().http(routes);
    let answer = host.post("/", "");
    assert_eq!(answer.status, 500);
    let problem: serde_json::Value = answer.json();
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("publish an event"),
        "{problem}"
    );
}

#[test]
fn an_event_sees_the_shard_of_its_partition_and_a_request_sees_all() {
    let mut host = Host::new().events(topics());
    for partition in [0, 2, 2] {
        host.deliver(tidemill::test::Record::from(word("tide")).at_partition(partition))
            .unwrap();
    }
    assert!(matches!(
        host.read(|| COUNTS.get("tide")),
        Err(StateError::SeveralShards(_))
    ));
    let rows = host.read(|| COUNTS.get_all("tide")).unwrap();
    let rows: Vec<_> = rows.iter().map(|row| (row.shard, row.value)).collect();
    assert_eq!(rows, [(0, 1), (2, 2)]);
}

#[test]
fn a_handler_sees_its_own_writes() {
    let topics = Topics::new().on("words", async |_: Event<RawJson>| {
        COUNTS.put("a", &1)?;
        assert_eq!(COUNTS.get("a")?, Some(1));
        COUNTS.delete("a")?;
        assert_eq!(COUNTS.get("a")?, None);
        Ok(())
    });
    Host::new().events(topics).deliver(word("x")).unwrap();
}

#[test]
fn what_is_not_granted_is_refused_and_says_what_to_add() {
    let mut host = Host::new().events(topics()).granted(&[], true);
    let failure = host.deliver(word("tide")).unwrap_err();
    assert_eq!(
        failure,
        Failure::retry("publishing to counted is not granted: add \"counted\" to grants.publish")
    );
    let mut host = Host::new().events(topics()).granted(&["counted"], false);
    let failure = host.deliver(word("tide")).unwrap_err();
    assert_eq!(
        failure,
        Failure::retry("state is not granted: set grants.state = true")
    );
}

#[test]
fn a_message_that_is_too_large_is_413_over_http_and_a_reject_of_an_event() {
    async fn large() -> Result<(), PublishError> {
        tidemill::publish_bytes("words", "k", vec![b'x'; 1024 * 1024])
    }
    let mut host = Host::new()
        .http(Router::new().route("/", post(large)))
        .events(Topics::new().on("words", async |_: Event<RawJson>| Ok(large().await?)));
    assert_eq!(host.post("/", "").status, 413);
    assert!(matches!(host.deliver(word("x")), Err(Failure::Reject(_))));
}

#[test]
fn more_effects_than_allowed_are_refused() {
    let topics = Topics::new().on("words", async |_: Event<RawJson>| {
        for index in 0..10_001u32 {
            COUNTS.put(index.to_string(), &1)?;
        }
        Ok(())
    });
    let mut host = Host::new().events(topics);
    assert!(matches!(host.deliver(word("x")), Err(Failure::Reject(_))));
}

#[test]
fn settings_come_from_the_manifest() {
    let routes = || {
        Router::new().route(
            "/",
            get(async || tidemill::setting("currency").unwrap_or_default()),
        )
    };
    assert_eq!(
        Host::new()
            .http(routes())
            .setting("currency", "EUR")
            .get("/")
            .text(),
        "EUR"
    );
    assert_eq!(Host::new().http(routes()).get("/").text(), "");
}

#[test]
fn what_was_published_can_be_delivered_once_in_order() {
    let routes = Router::new().route(
        "/",
        post(async |Json(words): Json<Vec<String>>| {
            for word in &words {
                tidemill::publish("words", word, word)?;
            }
            Ok::<_, Problem>(())
        }),
    );
    let mut host = Host::new().http(routes).events(topics());
    assert_eq!(host.post("/", json!(["a", "b", "a"])).status, 200);
    assert_eq!(host.deliver_published(), Ok(3));
    assert_eq!(host.deliver_published(), Ok(0));
    assert_eq!(host.read(|| COUNTS.get("a")).unwrap(), Some(2));
    host.post("/", json!(["never", "b"]));
    assert_eq!(
        host.deliver_published(),
        Err(Failure::reject("no such word"))
    );
    assert_eq!(
        host.deliver_published(),
        Err(Failure::reject("no such word"))
    );
}

#[test]
fn messages_carry_headers_and_may_be_tombstones() {
    let routes = Router::new().route(
        "/",
        post(async || {
            Message::new("t")
                .key(Some("k"))
                .header("source", "desk")
                .publish()?;
            Message::new("t")
                .key(None::<&str>)
                .bytes(b"\xff".as_slice())
                .publish()
        }),
    );
    let mut host = Host::new().http(routes);
    assert_eq!(host.post("/", "").status, 200);
    let published = host.published("t");
    assert_eq!(
        (
            published[0].key(),
            published[0].value(),
            published[0].header("source")
        ),
        (Some("k"), None, Some("desk"))
    );
    assert_eq!(published[1].key(), None);
}

#[test]
fn a_body_is_read_as_its_type_or_refused_in_fastapis_shape() {
    #[derive(serde::Deserialize)]
    #[allow(dead_code)]
    struct Item {
        price: u32,
    }
    #[derive(serde::Deserialize)]
    struct Basket {
        items: Vec<Item>,
    }
    let routes = Router::new().route(
        "/",
        post(async |Json(basket): Json<Basket>| basket.items.len().to_string()),
    );
    let mut host = Host::new().http(routes);
    assert_eq!(host.post("/", json!({"items": [{"price": 1}]})).text(), "1");
    assert_eq!(
        host.post("/", r#"{"items":[{"price":1},{"price":"x"}]}"#)
            .text(),
        r#"{"detail":[{"type":"value_error","loc":["body","items",1,"price"],"msg":"Value error, invalid type: string \"x\", expected u32","input":"x","ctx":{"error":{}}}]}"#
    );
    assert_eq!(
        host.post("/", r#"{"items":[{}]}"#).text(),
        r#"{"detail":[{"type":"missing","loc":["body","items",0,"price"],"msg":"Field required","input":{}}]}"#
    );
    assert_eq!(
        host.post("/", "[").text(),
        r#"{"detail":[{"type":"json_invalid","loc":["body",1],"msg":"JSON decode error","input":{},"ctx":{"error":"Expecting value"}}]}"#
    );
}

#[test]
fn an_error_of_the_handlers_own_tells_the_client_nothing() {
    let routes = Router::new().route(
        "/",
        get(async || {
            let _: u32 = "secret".parse().map_err(Problem::from)?;
            Ok::<_, Problem>(())
        }),
    );
    let answer = Host::new().http(routes).get("/");
    assert_eq!(answer.status, 500);
    assert_eq!(
        answer.text(),
        r#"{"type":"about:blank","title":"Internal Server Error","status":500,"detail":"Internal Server Error"}"#
    );
}

#[test]
fn events_are_typed_and_what_is_wrong_with_one_is_named() {
    #[derive(serde::Deserialize)]
    #[allow(dead_code)]
    struct User {
        name: String,
        tags: Vec<u32>,
    }
    let topics = Topics::new()
        .on("typed", async |_: Event<User>| Ok(()))
        .on("optional", async |user: Event<Option<User>>| {
            assert!(user.value.is_none());
            Ok(())
        })
        .on("objects", async |_: Event<JsonObject>| Ok(()))
        .on("bytes", async |event: Event<Vec<u8>>| {
            assert_eq!(event.value, b"\xff[1]");
            assert_eq!(event.key_str(), None);
            Ok(())
        })
        .on("optional-bytes", async |event: Event<Option<Vec<u8>>>| {
            assert_eq!(event.value, None);
            Ok(())
        });
    let mut host = Host::new().events(topics).partitions(1);
    let mut why = |message: Message| match host.deliver(message) {
        Err(Failure::Reject(why)) => why,
        other => panic!("{other:?}"),
    };
    let typed = |value: &[u8]| Message::new("typed").bytes(value);
    assert_eq!(
        why(typed(b"{")),
        "typed/0@0: its value is not JSON: EOF while parsing an object at line 1 column 1"
    );
    assert_eq!(
        why(typed(b"{\"name\":\"\xff\"}")),
        "typed/0@1: its value is not UTF-8 at byte 9"
    );
    assert_eq!(
        why(typed(b"{}")),
        "typed/0@2: its value is not what the handler takes: missing field `name` at line 1 column 2"
    );
    assert_eq!(
        why(typed(br#"{"name":"a","tags":[1,"b"]}"#)),
        "typed/0@3: its value is not what the handler takes: `tags[1]`: invalid type: string \"b\", expected u32 at line 1 column 25"
    );
    assert_eq!(
        why(typed(br#"{"name":"a","tags":[]} x"#)),
        "typed/0@4: its value is not JSON: trailing characters at line 1 column 24"
    );
    assert_eq!(
        why(Message::new("typed")),
        "typed/0@5: it has no value (a tombstone), and its handler takes none: `Event<Option<…>>` does"
    );
    assert_eq!(
        why(Message::new("objects").bytes("[]")),
        "objects/0@0: its value is not what the handler takes: expected an object, found an array"
    );
    assert_eq!(
        why(Message::new("other")),
        "no handler for the topic other: add `.on(\"other\", …)` to the service's topics, or take the topic out of its manifest"
    );
    assert_eq!(
        why(Message::new("bytes")),
        "bytes/0@0: it has no value (a tombstone), and its handler takes none: `Event<Option<…>>` does"
    );
    host.deliver(typed(br#"{"name":"a","tags":[1]}"#)).unwrap();
    host.deliver(Message::new("optional")).unwrap();
    host.deliver(
        Message::new("bytes")
            .key(&b"\xfe"[..])
            .bytes(&b"\xff[1]"[..]),
    )
    .unwrap();
    host.deliver(Message::new("optional-bytes")).unwrap();
}

#[test]
fn tables_are_scanned_and_paged_in_order_of_key() {
    let topics = Topics::new().on("words", async |word: Event<String>| {
        Ok(COUNTS.put(&word.value, &1)?)
    });
    let mut host = Host::new().events(topics).partitions(3);
    for text in ["b/2", "a", "b/1", "c", "b/3", "b0"] {
        host.deliver(word(text)).unwrap();
    }
    // A key in two shards counts as one on a page.
    host.deliver(tidemill::test::Record::from(word("a")).at_partition(0))
        .unwrap();
    host.deliver(tidemill::test::Record::from(word("a")).at_partition(1))
        .unwrap();
    host.read(|| {
        let keys = |rows: Vec<tidemill::Row<u64>>| {
            let mut keys: Vec<_> = rows
                .iter()
                .map(|row| row.key_str().unwrap().to_owned())
                .collect();
            keys.dedup();
            keys.join(" ")
        };
        assert_eq!(keys(COUNTS.scan().rows().unwrap()), "a b/1 b/2 b/3 b0 c");
        assert_eq!(
            keys(COUNTS.scan().prefix("b/").rows().unwrap()),
            "b/1 b/2 b/3"
        );
        assert_eq!(
            keys(COUNTS.scan().from("b/2").before("c").rows().unwrap()),
            "b/2 b/3 b0"
        );
        assert_eq!(
            keys(COUNTS.scan().reverse().limit(2).rows().unwrap()),
            "c b0"
        );
        assert!(matches!(
            COUNTS.scan().limit(0).rows(),
            Err(StateError::Invalid(_))
        ));
        let mut after = None;
        let mut pages = Vec::new();
        loop {
            let (rows, next) = COUNTS.page(after, 2).unwrap();
            pages.push(keys(rows));
            after = next.map(|cursor| cursor.to_string().parse().unwrap());
            if after.is_none() {
                break;
            }
        }
        assert_eq!(pages, ["a", "b/1 b/2", "b/3 b0", "c"]);
    });
}

#[test]
fn the_document_is_named_after_the_crate() {
    let document = Host::new()
        .http(utoipa_axum::router::OpenApiRouter::new())
        .openapi();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["title"], "test");
    assert_eq!(document["info"]["version"], "0.0.0");
}

#[test]
fn a_response_says_where_the_requests_events_are() {
    use tidemill::position::Positions;

    let routes = Router::new()
        .route(
            "/",
            post(async |Json(words): Json<Vec<String>>| {
                for word in &words {
                    tidemill::publish("words", "k", word)?;
                }
                Ok::<_, Problem>(())
            }),
        )
        .route("/none", get(async || "nothing is published"));
    let mut host = Host::new().http(routes).partitions(1);
    let position = |answer: &tidemill::test::Response| {
        let header = answer.header("tidemill-position")?;
        Some(header.parse::<Positions>().unwrap().to_string())
    };
    let answer = host.post("/", json!(["a", "b"]));
    assert_eq!(position(&answer).as_deref(), Some("words/0@1"));
    let answer = host.post("/", json!(["c"]));
    assert_eq!(position(&answer).as_deref(), Some("words/0@2"));
    assert_eq!(position(&host.get("/none")), None);
}
