//! What a good manifest means, and that no text whatever is more than an error.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemill_manifest::{
    Delivery, Grants, Http, Limits, MAX_SIZE, Manifest, OnExhausted, OutOfRange, Retried, Retry,
    Route, Smoke, SmokeCall, SmokeEvent, SmokeRequest, Start, Subscription, Trial, embed, embedded,
};

const EVERYTHING: &str = r#"
name = "order"
description = "Orders, made from users"
group = "orders.v2"
delivery = "at-least-once"

[http]
routes = ["/orders", "api.example.com/v1/orders", "shop.example.com/"]

[[subscribe]]
topic = "user_topic"
out-of-range = "stop"

[subscribe.retry]
attempts = 3
backoff = "1s"
max-backoff = "1m"
jitter = 0
on = ["retry", "timeout"]
on-exhausted = "stop"

[[subscribe]]
topic = "cart_topic"
start = "latest"

[grants]
publish = ["order_topic", "order.audit"]
state = true

[limits]
memory = "128 MiB"
memory-total = "2 GiB"
time = "250ms"
concurrency = 8
queue = 0
queue-time = "2s"
instances = 4
reuse = 1
request = "500 kB"
response = 2_000_000
event = "10 MiB"
effects = 100
effects-size = "64 MiB"

[trial]
time = "0s"
failures = "5%"
calls = 100

[[smoke]]
request = "POST api.example.com/v1/orders?dry=1"
headers = { Content-Type = "application/json" }
body = "{}"
status = 201
contains = "id"
publishes = 1
to = ["order_topic"]

[[smoke]]
request = "GET /orders"

[[smoke]]
event = { topic = "user_topic", key = "a", value = "{}", headers = { Kind = "new" } }
publishes = 0
to = []
rows = 1

[settings]
greeting = "hello"
"a key with spaces" = ""
"#;

#[test]
fn everything_is_read() {
    let manifest = Manifest::parse(EVERYTHING, "service.toml").expect("it is valid");
    let route = |host: Option<&str>, prefix: &str| Route {
        host: host.map(str::to_owned),
        prefix: prefix.to_owned(),
    };
    let one = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let expected = Manifest {
        name: "order".to_owned(),
        description: "Orders, made from users".to_owned(),
        http: Some(Http {
            routes: vec![
                route(None, "/orders"),
                route(Some("api.example.com"), "/v1/orders"),
                route(Some("shop.example.com"), "/"),
            ],
        }),
        group: Some("orders.v2".to_owned()),
        delivery: Delivery::AtLeastOnce,
        subscribe: vec![
            Subscription {
                topic: "user_topic".to_owned(),
                start: Start::Earliest,
                out_of_range: OutOfRange::Stop,
                retry: Retry {
                    attempts: 3,
                    backoff: Duration::from_secs(1),
                    max_backoff: Duration::from_secs(60),
                    jitter: 0,
                    on: vec![Retried::Retry, Retried::Timeout],
                    on_exhausted: OnExhausted::Stop,
                },
            },
            Subscription {
                topic: "cart_topic".to_owned(),
                start: Start::Latest,
                out_of_range: OutOfRange::Earliest,
                retry: Retry::default(),
            },
        ],
        grants: Grants {
            publish: vec!["order_topic".to_owned(), "order.audit".to_owned()],
            state: true,
        },
        limits: Limits {
            memory: 128 << 20,
            memory_total: 2 << 30,
            time: Duration::from_millis(250),
            concurrency: 8,
            queue: 0,
            queue_time: Duration::from_secs(2),
            instances: 4,
            reuse: 1,
            request: 500_000,
            response: 2_000_000,
            event: 10 << 20,
            effects: 100,
            effects_size: 64 << 20,
        },
        trial: Trial {
            time: Duration::ZERO,
            failures: "5%".parse().expect("a share"),
            calls: 100,
        },
        smoke: vec![
            Smoke {
                call: SmokeCall::Request(SmokeRequest {
                    method: "POST".to_owned(),
                    host: Some("api.example.com".to_owned()),
                    target: "/v1/orders?dry=1".to_owned(),
                    headers: one("content-type", "application/json"),
                    body: "{}".to_owned(),
                    status: Some(201),
                    contains: Some("id".to_owned()),
                }),
                publishes: Some(1),
                to: Some(BTreeSet::from(["order_topic".to_owned()])),
            },
            Smoke {
                call: SmokeCall::Request(SmokeRequest {
                    method: "GET".to_owned(),
                    host: None,
                    target: "/orders".to_owned(),
                    headers: BTreeMap::new(),
                    body: String::new(),
                    status: None,
                    contains: None,
                }),
                publishes: None,
                to: None,
            },
            Smoke {
                call: SmokeCall::Event(SmokeEvent {
                    topic: "user_topic".to_owned(),
                    key: Some("a".to_owned()),
                    value: Some("{}".to_owned()),
                    headers: one("Kind", "new"),
                    rows: Some(1),
                }),
                publishes: Some(0),
                to: Some(BTreeSet::new()),
            },
        ],
        settings: BTreeMap::from([
            ("greeting".to_owned(), "hello".to_owned()),
            ("a key with spaces".to_owned(), String::new()),
        ]),
    };
    assert_eq!(manifest, expected);
    assert_eq!(manifest.group(), "orders.v2");
}

#[test]
fn the_least_gets_safe_defaults() {
    let text = "name = \"hello\"\n[http]\nroutes = [\"/hello\"]\n";
    let manifest = Manifest::parse(text, "service.toml").expect("it is valid");
    assert_eq!(manifest.group(), "hello");
    assert_eq!(manifest.description, "");
    assert_eq!(manifest.delivery, Delivery::ExactlyOnce);
    assert_eq!(manifest.grants, Grants::default());
    assert!(!manifest.grants.state && manifest.grants.publish.is_empty());
    assert_eq!(manifest.limits, Limits::default());
    assert_eq!(manifest.trial.time, Duration::from_secs(60));
    assert_eq!(manifest.trial.failures.share(), 0.5);
    assert_eq!(manifest.trial.calls, 10);
    assert_eq!(manifest.smoke, []);
}

#[test]
fn a_limit_that_is_not_said_gives_way_to_one_that_is() {
    let text = "name = \"a\"\n[http]\nroutes = [\"/a\"]\n[limits]\n\
                memory = \"2 GiB\"\nevent = \"20 MiB\"\nconcurrency = 3\n";
    let limits = Manifest::parse(text, "service.toml").expect("it is valid");
    let limits = limits.limits;
    assert_eq!(limits.memory_total, 2 << 30);
    assert_eq!(limits.effects_size, 20 << 20);
    assert_eq!(limits.instances, 3);
}

#[test]
fn delivery_is_said_in_words() {
    for (word, delivery) in [
        ("exactly-once", Delivery::ExactlyOnce),
        ("at-least-once", Delivery::AtLeastOnce),
    ] {
        let text = format!("name = \"a\"\ndelivery = \"{word}\"\n[[subscribe]]\ntopic = \"t\"\n");
        let manifest = Manifest::parse(&text, "service.toml").expect("it is valid");
        assert_eq!(manifest.delivery, delivery);
    }
}

#[test]
fn a_manifest_travels_in_a_component() {
    let component = embed(b"\0asm\x0d\0\x01\0", EVERYTHING);
    let text = embedded(&component)
        .expect("a component")
        .expect("a manifest");
    assert_eq!(text, EVERYTHING);
}

#[test]
fn problems_come_in_the_order_of_the_file_with_their_places() {
    let text = "name = \"order\"\n[http]\nroutes = [\"/a\", \"b\"]\n[limits]\nfoo = 1\n";
    let error = Manifest::parse(text, "service.toml").expect_err("it is not valid");
    let places: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| (problem.line, problem.column))
        .collect();
    assert_eq!(places, [(3, 17), (5, 1)]);
    assert_eq!(error.file(), "service.toml");
}

#[test]
fn what_windows_editors_add_is_no_problem() {
    let text = format!("\u{feff}{}", EVERYTHING.replace('\n', "\r\n"));
    assert!(Manifest::parse(&text, "service.toml").is_ok());
    let error = Manifest::parse(
        "\u{feff}name = 1\r\n[http]\r\nroutes = [\"/\"]",
        "service.toml",
    )
    .expect_err("it is not valid");
    assert_eq!(
        error.to_string(),
        "service.toml:1:8: name has to be a string, but is a number\n \
           1 | name = 1\n   \
             |        ^\n   \
             = write name = \"…\""
    );
}

#[test]
fn hostile_text_is_an_error_and_no_more() {
    let deep = format!("a = {}", "[".repeat(100_000));
    let tables = format!("[{}a]", "a.".repeat(10_000));
    let many = "x = 1\n".repeat(10_000);
    let large = "#".repeat(MAX_SIZE + 1);
    for text in [&deep, &tables, &many, &large] {
        let error = Manifest::parse(text, "service.toml").expect_err("it is not valid");
        assert!(error.to_string().len() < 100_000);
    }
}

/// A fixed generator (xorshift), so that a failure can be repeated.
fn random(seed: &mut u64) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed as usize
}

#[test]
fn a_damaged_manifest_is_survived() {
    let mut seed = 0x5eed;
    let odd = [
        "\"",
        "[",
        "]",
        "=",
        "\n",
        "ä",
        "\u{1f600}",
        "\0",
        "\r",
        "{",
        ".",
        "9",
        "'''",
    ];
    for _ in 0..5_000 {
        let mut text = EVERYTHING.to_owned();
        for _ in 0..1 + random(&mut seed) % 4 {
            let mut at = random(&mut seed) % text.len();
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            match random(&mut seed) % 3 {
                0 => text.truncate(at),
                1 => text.insert_str(at, odd[random(&mut seed) % odd.len()]),
                _ => drop(text.remove(at)),
            }
            if text.is_empty() {
                break;
            }
        }
        if let Err(error) = Manifest::parse(&text, "service.toml") {
            assert!(!error.problems().is_empty());
            assert!(!error.to_string().is_empty());
        }
    }
}
