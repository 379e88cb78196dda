//! What a handler can do wrong while it answers a request, and what becomes of
//! what it published.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::{Client, unique};

use crate::Pair;

#[test]
fn a_trap_is_500_and_tells_the_client_nothing_of_the_guest() {
    let pair = Pair::start("trap", |manifest| manifest);
    for mode in ["trap", "panic", "recurse"] {
        let reply = pair.host.http().get(&pair.target(mode));
        reply.problem(500);
        for secret in [
            "wasm",
            "unreachable",
            "misbehave",
            "backtrace",
            "asked to panic",
        ] {
            assert!(!reply.text().contains(secret), "{mode}: {reply:?}");
        }
        pair.both_serve();
    }
    assert!(
        pair.host.log().contains("asked to panic"),
        "it is in the log"
    );
}

#[test]
fn a_handler_that_allocates_without_end_is_500() {
    let pair = Pair::start("alloc", |manifest| manifest.limit("memory", "\"16 MiB\""));
    pair.host.http().get(&pair.target("alloc")).problem(500);
    pair.both_serve();
}

#[test]
fn a_handler_that_does_not_end_is_504_in_time() {
    let pair = Pair::start("loop", |manifest| manifest.limit("time", "\"300ms\""));
    for mode in ["loop", "sleep?ms=60000"] {
        let began = Instant::now();
        pair.host.http().get(&pair.target(mode)).problem(504);
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(290), "{mode}: {took:?}");
        assert!(took < Duration::from_secs(10), "{mode}: {took:?}");
        pair.both_serve();
    }
}

#[test]
fn endless_loops_on_every_slot_leave_other_services_serving() {
    let pair = Pair::start("spin", |manifest| {
        manifest.limit("time", "\"5s\"").limit("concurrency", "8")
    });
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let client = Client::at(pair.host.http().address());
                let reply = client.get(&pair.target("loop"));
                stopped.store(true, Ordering::Relaxed);
                reply.problem(504);
            });
        }
        thread::sleep(Duration::from_millis(200));
        for _ in 0..10 {
            pair.neighbour_serves();
        }
        assert!(!stopped.load(Ordering::Relaxed), "answered while they spin");
    });
    pair.both_serve();
}

#[test]
fn more_requests_than_the_queue_takes_are_503() {
    let pair = Pair::start("queue", |manifest| {
        manifest.limit("time", "\"1s\"").limit("concurrency", "1")
    });
    let statuses: Vec<u16> = thread::scope(|scope| {
        let calls: Vec<_> = (0..100)
            .map(|_| {
                scope.spawn(|| {
                    let client = Client::at(pair.host.http().address());
                    let reply = client.get(&pair.target("sleep?ms=500"));
                    if reply.status != 200 {
                        reply.problem(503);
                        assert_ne!(reply.header("retry-after"), "", "{reply:?}");
                    }
                    reply.status
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(100));
        pair.neighbour_serves();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(statuses.contains(&503), "{statuses:?}");
    pair.both_serve();
}

#[test]
fn a_response_that_http_does_not_allow_is_502() {
    let pair = Pair::start("invalid", |manifest| manifest.limit("response", "\"1 kB\""));
    for mode in [
        "status?code=0",
        "status?code=99",
        "status?code=101",
        "status?code=600",
        "status?code=1000",
        "header?name=&value=61",
        "header?name=a%20b:c&value=61",
        "header?name=ok&value=610d0a62",
        "header?name=ok&value=00",
        "big?bytes=1001",
    ] {
        pair.host.http().get(&pair.target(mode)).problem(502);
    }
    for mode in ["status?code=200", "status?code=599", "big?bytes=1000"] {
        let reply = pair.host.http().get(&pair.target(mode));
        assert!(matches!(reply.status, 200 | 599), "{mode}: {reply:?}");
    }
    pair.both_serve();
}

#[test]
fn the_hosts_own_fields_cannot_be_forged() {
    let pair = Pair::start("forge", |manifest| manifest);
    // content-length: 3, by the guest, on a longer body.
    let reply = pair
        .host
        .http()
        .get(&pair.target("header?name=content-length&value=33"));
    assert_eq!((reply.status, reply.text()), (200, "with a header"));
    let reply = pair
        .host
        .http()
        .get(&pair.target("header?name=transfer-encoding&value=6368756e6b6564"));
    assert_eq!((reply.status, reply.text()), (200, "with a header"));
    pair.both_serve();
}

#[test]
fn what_a_request_published_is_there_before_its_answer() {
    let topic = unique("published");
    let pair = Pair::start("publish", |manifest| manifest.publish(&topic));
    let target = pair.target(&format!("publish?topic={topic}&key=k&n=1"));
    for number in 1..=20 {
        let body = format!("event {number}");
        let _ = pair.host.http().post(&target, &body).expect(200);
        let records = pair.host.topics().read(&topic);
        assert_eq!(records.len(), number);
        assert!(records.iter().any(|record| record.text() == body));
        assert_eq!(records[0].key.as_deref(), Some(&b"k"[..]));
    }
}

#[test]
fn a_call_that_fails_publishes_nothing() {
    let topic = unique("nothing");
    let pair = Pair::start("fails", |manifest| {
        manifest
            .publish(&topic)
            .limit("time", "\"300ms\"")
            .limit("memory", "\"16 MiB\"")
    });
    for (then, status) in [
        ("trap", 500),
        ("panic", 500),
        ("alloc", 500),
        ("loop", 504),
        ("error", 500),
    ] {
        let target = pair.target(&format!("publish?topic={topic}&n=3&then={then}"));
        let reply = pair.host.http().post(&target, "lost");
        assert_eq!(reply.status, status, "{then}: {reply:?}");
    }
    let target = pair.target(&format!("publish?topic={topic}&n=1"));
    let _ = pair.host.http().post(&target, "kept").expect(200);
    let records = pair.host.topics().read(&topic);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].text(), "kept");
}

#[test]
fn effects_beyond_grants_and_limits_are_refused_with_what_to_do() {
    let topic = unique("granted");
    let pair = Pair::start("grants", |manifest| {
        manifest
            .publish(&topic)
            .limit("event", "\"1 kB\"")
            .limit("effects", "10")
    });
    let refused = |mode: String| {
        let reply = pair.host.http().post(&pair.target(&mode), "x").expect(409);
        reply.text().to_owned()
    };
    let said = refused("publish?topic=other&n=1".to_owned());
    assert!(said.contains("other") && said.contains("publish"), "{said}");
    let said = refused(format!("publish?topic={topic}&n=1&bytes=1001"));
    assert!(said.contains("1000") || said.contains("1 kB"), "{said}");
    refused(format!("publish?topic={topic}&n=11"));
    let said = refused("put".to_owned());
    assert!(said.contains("publish"), "a way out: {said}");
    pair.both_serve();
}

#[test]
fn what_a_guest_prints_is_logged_with_its_service() {
    let pair = Pair::start("print", |manifest| manifest);
    let text = unique("printed");
    let target = pair.target(&format!("print?text={text}"));
    let _ = pair.host.http().get(&target).expect(200);
    tidemill_tests::eventually("both lines are in the log", || {
        let log = pair.host.log();
        let lines: Vec<String> = log
            .lines()
            .filter(|line| line.contains(&text))
            .map(str::to_owned)
            .collect();
        if lines.len() == 2 && lines.iter().all(|line| line.contains(&pair.name)) {
            Ok(())
        } else {
            Err(lines)
        }
    });
}
