//! The three services of the FastAPI and Kafka system that Tidemill replaces.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{Value, json};
use tidemill_tests::{Component, Host, Kafka, eventually, root, run, seed, venv};

fn seeds() -> [Component; 3] {
    ["user", "order", "event"].map(seed)
}

fn on_kafka(kafka: &Kafka) -> Host {
    Host::builder().kafka(kafka).deploy(seeds()).ready()
}

/// All pages of a list, in order.
fn pages(host: &Host, target: &str, list: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut next = format!("{target}?limit={limit}");
    loop {
        let page = host.http().get(&next).expect(200).json();
        let items = page[list].as_array().unwrap();
        assert!(items.len() <= limit, "a page of {}", items.len());
        all.extend(items.iter().cloned());
        match page.get("next") {
            None | Some(Value::Null) => return all,
            Some(cursor) => {
                assert!(!items.is_empty(), "an empty page with a next one: {page}");
                let cursor = match cursor {
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                next = format!("{target}?limit={limit}&after={cursor}");
            }
        }
    }
}

/// How often each user is among the orders, by its own id or else its name.
fn ordered(host: &Host) -> BTreeMap<String, usize> {
    let mut users = BTreeMap::new();
    for order in pages(host, "/orders", "orders", 100) {
        let user = order["id"].as_str().or(order["name"].as_str());
        let user = user.unwrap_or_else(|| panic!("{order}"));
        *users.entry(user.to_owned()).or_default() += 1;
    }
    users
}

fn the_four_requests(host: &Host) {
    let http = host.http();

    let reply = http.post_json("/events", r#"{"kind":"click",  "at": 1e400}"#);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(
        reply.text(),
        r#"{"message":"Event created and sent to Kafka"}"#
    );
    eventually("the event is shown, every digit as it was posted", || {
        let reply = http.get("/events").expect(200);
        if reply.text() == r#"{"events":[{"kind":"click","at":1e400}]}"# {
            Ok(())
        } else {
            Err(reply)
        }
    });

    let reply = http.post_json("/users", r#"{"name":"Ada"}"#).expect(200);
    assert_eq!(
        reply.json()["message"],
        "User created and sent to Kafka",
        "{reply:?}"
    );
    let made = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(made.len(), 36, "a UUID: {made}");
    assert_eq!(made.as_bytes()[14], b'7', "a UUIDv7: {made}");

    let reply = http
        .post_json("/users", r#"{"id":"u-1","name":"Grace"}"#)
        .expect(200);
    assert_eq!(
        reply.json(),
        json!({"message": "User created and sent to Kafka", "id": "u-1"})
    );
    eventually("both are ordered", || {
        let ids = ordered(host);
        if ids == BTreeMap::from([("Ada".to_owned(), 1), ("u-1".to_owned(), 1)]) {
            Ok(())
        } else {
            Err(ids)
        }
    });
    for (id, user) in [
        ("u-1", r#"{"id":"u-1","name":"Grace"}"#),
        (&made, r#"{"name":"Ada"}"#),
    ] {
        let order = http.get(&format!("/orders/{id}")).expect(200);
        assert_eq!(order.text(), user, "as it was posted");
    }
    http.get("/orders/nobody").problem(404);
}

#[test]
fn the_four_requests_work_on_the_embedded_broker() {
    the_four_requests(&Host::embedded(seeds()));
}

#[test]
fn the_four_requests_work_on_a_real_kafka() {
    let kafka = Kafka::fresh();
    the_four_requests(&on_kafka(&kafka));

    let users = kafka.topics().read("user_topic");
    let grace = users
        .iter()
        .find(|record| record.key.as_deref() == Some(b"u-1"))
        .unwrap_or_else(|| panic!("keyed by the user's id: {users:?}"));
    assert_eq!(grace.text(), r#"{"id":"u-1","name":"Grace"}"#);
    let events = kafka.topics().read("event_topic");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].text(), r#"{"kind":"click",  "at": 1e400}"#);
}

#[test]
fn pythons_requests_gets_what_fastapi_gave() {
    let host = Host::embedded(seeds());
    let (passed, output, error) = run(Command::new(venv().join("bin/python"))
        .arg(root().join("tests/seed_requests.py"))
        .arg(format!("http://{}", host.http().address())));
    assert!(passed, "{output}\n{error}");
}

/// `POST`s 1,000 users from 16 connections, and holds that each is among the
/// orders once.
fn a_thousand_users(host: &Host) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let client = tidemill_tests::Client::at(host.http().address());
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 1_000 {
                        return;
                    }
                    let _ = client
                        .post_json("/users", format!(r#"{{"id":"u-{number}"}}"#))
                        .expect(200);
                }
            });
        }
    });
    let all: BTreeMap<String, usize> = (0..1_000)
        .map(|number| (format!("u-{number}"), 1))
        .collect();
    eventually("each user is ordered, once", || {
        let ids = ordered(host);
        if ids == all {
            Ok(())
        } else {
            let twice: Vec<_> = ids.iter().filter(|(_, times)| **times > 1).collect();
            Err(format!("{} orders, several times: {twice:?}", ids.len()))
        }
    });
}

#[test]
fn a_thousand_users_from_16_connections_are_each_ordered_once_on_the_embedded_broker() {
    a_thousand_users(&Host::embedded(seeds()));
}

#[test]
fn a_thousand_users_from_16_connections_are_each_ordered_once_on_a_real_kafka() {
    let kafka = Kafka::fresh();
    a_thousand_users(&on_kafka(&kafka));
}

#[test]
fn after_kill_9_every_acknowledged_user_is_ordered_once() {
    let kafka = Kafka::fresh();
    let mut host = on_kafka(&kafka);
    let acknowledged = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    for kills in 1..=2 {
        let address = host.http().address().to_owned();
        let killed = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let client = tidemill_tests::Client::at(&address);
                    while !killed.load(Ordering::Relaxed) {
                        let id = format!("u-{}", next.fetch_add(1, Ordering::Relaxed));
                        let body = format!(r#"{{"id":"{id}"}}"#);
                        let headers = [("content-type", "application/json")];
                        match client.try_send("POST", "/users", &headers, body.as_bytes()) {
                            Ok(reply) if reply.status == 200 => {
                                acknowledged.lock().unwrap().push(id);
                            }
                            Ok(reply) => panic!("{reply:?}"),
                            Err(_) => {}
                        }
                    }
                });
            }
            eventually("some hundred users are acknowledged", || {
                let count = acknowledged.lock().unwrap().len();
                if count >= 400 * kills {
                    Ok(())
                } else {
                    Err(count)
                }
            });
            host.kill9();
            killed.store(true, Ordering::Relaxed);
        });
        host.restart();
        host.ready();
    }
    let acknowledged = acknowledged.into_inner().unwrap();
    eventually("every acknowledged user is ordered", || {
        let ids = ordered(&host);
        let missing: Vec<_> = acknowledged
            .iter()
            .filter(|id| !ids.contains_key(*id))
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing.len())
        }
    });
    let twice: Vec<_> = ordered(&host)
        .into_iter()
        .filter(|(_, times)| *times > 1)
        .collect();
    assert!(twice.is_empty(), "ordered more than once: {twice:?}");
}

#[test]
fn a_body_that_is_no_json_object_is_422_in_fastapis_shape() {
    let host = Host::embedded(seeds());
    for target in ["/users", "/events"] {
        for body in ["", "[]", "1", "\"a\"", "null", "{", r#"{"a":NaN}"#] {
            let reply = host.http().post_json(target, body);
            assert_eq!(reply.status, 422, "{target} {body:?}: {reply:?}");
            assert_eq!(reply.header("content-type"), "application/json");
            let answer = reply.json();
            let detail = &answer["detail"][0];
            assert_eq!(detail["loc"][0], "body", "{body:?}: {answer}");
            assert!(detail["msg"].is_string(), "{body:?}: {answer}");
            assert!(detail["type"].is_string(), "{body:?}: {answer}");
        }
    }
    assert!(ordered(&host).is_empty());
}

#[test]
fn a_wrong_method_is_405_with_allow_and_an_unknown_path_404() {
    let host = Host::embedded(seeds());
    let reply = host.http().send("DELETE", "/users", &[], b"");
    assert_eq!(reply.status, 405, "{reply:?}");
    assert!(reply.header("allow").contains("POST"), "{reply:?}");
    let reply = host.http().send("POST", "/orders", &[], b"");
    assert_eq!(reply.status, 405, "{reply:?}");
    assert!(reply.header("allow").contains("GET"), "{reply:?}");
    for target in ["/", "/nothing", "/usersx", "/users/u-1/nothing"] {
        let reply = host.http().get(target);
        assert_eq!(reply.status, 404, "{target}: {reply:?}");
    }
}

#[test]
fn lists_are_paged_and_bad_paging_is_422() {
    let host = Host::embedded(seeds());
    for number in 0..25 {
        let _ = host
            .http()
            .post_json("/events", format!(r#"{{"number":{number}}}"#))
            .expect(200);
    }
    eventually("all events are there", || {
        match pages(&host, "/events", "events", 10).len() {
            25 => Ok(()),
            other => Err(other),
        }
    });
    // One page has no next one.
    let all = host.http().get("/events").expect(200).json();
    assert_eq!(all["events"].as_array().unwrap().len(), 25);
    assert!(all.get("next").is_none_or(Value::is_null), "{all}");
    let mut numbers: Vec<i64> = pages(&host, "/events", "events", 10)
        .iter()
        .map(|event| event["number"].as_i64().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(
        numbers,
        (0..25).collect::<Vec<_>>(),
        "none twice, none missing"
    );

    for query in ["limit=0", "limit=1001", "limit=x", "limit=-1"] {
        let reply = host.http().get(&format!("/events?{query}"));
        assert_eq!(reply.status, 422, "{query}: {reply:?}");
    }
}

#[test]
fn user_and_order_service_stop_and_start_alone() {
    let kafka = Kafka::fresh();
    let host = on_kafka(&kafka);
    let _ = host
        .http()
        .post_json("/users", r#"{"id":"u-1"}"#)
        .expect(200);

    // Without the order service users are still made.
    let _ = host
        .admin()
        .send("DELETE", "/v1/services/order", &[], b"")
        .expect(200);
    assert_eq!(host.http().get("/orders").status, 404);
    let _ = host
        .http()
        .post_json("/users", r#"{"id":"u-2"}"#)
        .expect(200);

    // Without the user service orders are still read, and the ones made
    // meanwhile are caught up with.
    host.deploy(&seed("order"));
    let _ = host
        .admin()
        .send("DELETE", "/v1/services/user", &[], b"")
        .expect(200);
    assert_eq!(host.http().post_json("/users", "{}").status, 404);
    eventually("both users are ordered, once", || {
        let ids = ordered(&host);
        if ids == BTreeMap::from([("u-1".to_owned(), 1), ("u-2".to_owned(), 1)]) {
            Ok(())
        } else {
            Err(ids)
        }
    });
}

#[test]
fn the_documentation_has_every_service() {
    let host = Host::embedded(seeds());
    let document = host.http().get("/openapi.json").expect(200).json();
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3.1"),
        "{document}"
    );
    for path in ["/users", "/orders", "/orders/{id}", "/events"] {
        assert!(document["paths"][path].is_object(), "{path}: {document}");
    }
    let page = host.http().get("/docs/").expect(200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.text().contains("swagger-ui"), "{page:?}");
}
