//! Each limit of docs/limits.md: what happens when it is hit, and that it is
//! counted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::{Client, Component, Host, Manifest, eventually, may_open, unique};

use crate::Pair;

/// How often a service hit a limit.
fn hits(host: &Host, service: &str, limit: &str) -> f64 {
    let service = format!("service={service:?}");
    let limit = format!("limit={limit:?}");
    host.metric("tidemill_limit_hits_total", &[&service, &limit])
}

/// Holds that a service has hit a limit.
fn has_hit(pair: &Pair, limit: &str) {
    assert!(hits(&pair.host, &pair.name, limit) > 0.0, "{limit}");
    assert!(hits(&pair.host, &pair.neighbour, limit) == 0.0, "{limit}");
}

/// Bytes of memory of a service's instances.
fn memory(host: &Host, service: &str) -> f64 {
    host.metric("tidemill_memory_bytes", &[&format!("service={service:?}")])
}

/// Calls that run meanwhile, until they are waited for.
fn calling<'s, 'e>(
    scope: &'s thread::Scope<'s, 'e>,
    pair: &'s Pair,
    mode: &'s str,
    count: usize,
) -> Vec<thread::ScopedJoinHandle<'s, u16>> {
    let call = || Client::at(pair.host.http().address()).get(&pair.target(mode));
    (0..count)
        .map(|_| scope.spawn(move || call().status))
        .collect()
}

#[test]
fn more_than_an_instance_may_have_is_500_and_counted() {
    let pair = Pair::start("memory", |manifest| manifest.limit("memory", "\"16 MiB\""));
    pair.host
        .http()
        .get(&pair.target("hold?mib=32"))
        .problem(500);
    has_hit(&pair, "memory");
    pair.both_serve();
}

#[test]
fn more_than_a_services_instances_may_have_is_503_and_comes_back() {
    let pair = Pair::start("total", |manifest| {
        manifest
            .limit("memory", "\"64 MiB\"")
            .limit("memory-total", "\"64 MiB\"")
    });
    thread::scope(|scope| {
        let first = calling(scope, &pair, "hold?mib=40&ms=4000", 1);
        eventually("the first has its memory", || {
            match memory(&pair.host, &pair.name) {
                bytes if bytes > 40e6 => Ok(()),
                bytes => Err(bytes),
            }
        });
        let refused = pair.host.http().get(&pair.target("hold?mib=40"));
        refused.problem(503);
        assert_ne!(refused.header("retry-after"), "", "{refused:?}");
        pair.neighbour_serves();
        for call in first {
            assert_eq!(call.join().unwrap(), 200);
        }
    });
    has_hit(&pair, "memory-total");
    let again = pair.host.http().get(&pair.target("hold?mib=40"));
    assert_eq!(again.status, 200, "the idle one is used, or given up");
    pair.both_serve();
}

/// A host whose services have 96 MiB together.
fn small() -> Pair {
    let (name, neighbour) = (unique("holds"), unique("wants"));
    let host = Host::builder()
        .arguments(&["--memory", "96 MiB"])
        .deploy([&name, &neighbour].map(|name| Component::misbehave(&Manifest::new(name))))
        .ready();
    Pair {
        host,
        name,
        neighbour,
    }
}

#[test]
fn idle_instances_of_others_are_given_up_first() {
    let pair = small();
    for _ in 0..3 {
        for service in [&pair.name, &pair.neighbour] {
            let reply = pair.host.http().get(&format!("/{service}/hold?mib=50"));
            assert_eq!(reply.text(), "held", "{reply:?}");
        }
        assert!(memory(&pair.host, "") <= 96.0 * 1024.0 * 1024.0);
    }
    assert_eq!(hits(&pair.host, &pair.name, "host-memory"), 0.0);
}

#[test]
fn on_a_full_host_a_request_is_503_and_an_event_waits_without_an_attempt() {
    let pair = small();
    thread::scope(|scope| {
        let full = calling(scope, &pair, "hold?mib=50&ms=4000", 1);
        eventually("the memory is taken", || {
            match memory(&pair.host, &pair.name) {
                bytes if bytes > 50e6 => Ok(()),
                bytes => Err(bytes),
            }
        });
        let target = format!("/{}/hold?mib=50", pair.neighbour);
        let refused = pair.host.http().get(&target);
        refused.problem(503);
        assert_ne!(refused.header("retry-after"), "", "{refused:?}");
        pair.host
            .topics()
            .write_all(&pair.neighbour, 0, &["hold 50"]);
        eventually("the event is held by the limit", || {
            match hits(&pair.host, &pair.neighbour, "host-memory") {
                hits if hits >= 2.0 => Ok(()),
                hits => Err(hits),
            }
        });
        for call in full {
            assert_eq!(call.join().unwrap(), 200);
        }
    });
    let rows = format!("/{}/rows", pair.neighbour);
    eventually("the event is handled, at its first attempt", || {
        let rows = pair.host.http().get(&rows);
        let text = rows.text();
        match text.contains("hold 50") && text.contains("attempt=1") {
            true => Ok(()),
            false => Err(text.to_owned()),
        }
    });
}

/// A request whose body is a MiB, but for its last byte.
fn all_but_a_byte(pair: &Pair) -> TcpStream {
    let mut stream = TcpStream::connect(pair.host.http().address()).unwrap();
    let target = pair.target("ok");
    write!(
        stream,
        "POST {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {MIB}\r\n\r\n"
    )
    .unwrap();
    stream.write_all(&vec![b'x'; MIB - 1]).unwrap();
    stream
}

const MIB: usize = 1 << 20;

#[test]
fn bodies_of_all_requests_have_a_part_of_the_hosts_memory() {
    let pair = small();
    let posted = || {
        let target = format!("/{}/ok", pair.neighbour);
        let body = vec![b'x'; MIB];
        pair.host.http().send("POST", &target, &[], &body)
    };
    assert_eq!(posted().status, 200);
    // A quarter of 96 MiB, when they have all arrived. What is posted meanwhile may
    // take the room of one of them, which is refused then: another comes for it.
    let mut waiting: Vec<TcpStream> = (0..24).map(|_| all_but_a_byte(&pair)).collect();
    let refused = eventually("there is no room for another", || match posted() {
        reply if reply.status == 503 => Ok(reply),
        reply => {
            waiting.push(all_but_a_byte(&pair));
            Err(reply)
        }
    });
    assert!(refused.text().contains("crowded"), "{refused:?}");
    assert_ne!(refused.header("retry-after"), "", "{refused:?}");
    assert!(hits(&pair.host, &pair.neighbour, "host-memory") > 0.0);
    // What has no body is answered, and who was there first is, too.
    pair.neighbour_serves();
    let finished = waiting.into_iter().map(|mut stream| {
        let mut answer = String::new();
        // Fails where one was refused and closed.
        let sent = stream.write_all(b"x");
        let read = sent.and_then(|()| stream.read_to_string(&mut answer));
        read.map_or_else(|error| error.to_string(), |_| answer)
    });
    let finished: Vec<String> = finished.collect();
    let answered = finished.iter().filter(|it| it.starts_with("HTTP/1.1 200"));
    assert!(answered.count() >= 20, "{finished:?}");
    assert_eq!(posted().status, 200);
}

#[test]
fn more_instances_than_a_host_has_room_for_are_503_and_come_back() {
    let pair = Pair::start("instances", |manifest| {
        manifest
            .limit("concurrency", "10000")
            .limit("memory-total", "\"64 GiB\"")
            .limit("time", "\"60s\"")
    });
    // They sleep until their clients leave.
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        pair.target("sleep?ms=59000")
    );
    let calls = may_open(2_100);
    assert_eq!(calls, 2_100, "this process may not open enough files");
    let began = Instant::now();
    let mut sleeping: Vec<TcpStream> = (0..calls)
        .map(|_| {
            let mut stream = TcpStream::connect(pair.host.http().address()).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    println!("all called after {:.1?}", began.elapsed());
    let mut refused = Vec::new();
    eventually("some are refused", || {
        refused.extend(sleeping.extract_if(.., |stream| stream.peek(&mut [0]).is_ok()));
        match refused.len() {
            50.. => Ok(()),
            few => Err(few),
        }
    });
    assert!(sleeping.len() >= 1900, "{} sleep", sleeping.len());
    for mut stream in refused {
        let mut answer = String::new();
        stream.set_nonblocking(false).unwrap();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains("crowded"), "{answer}");
        assert!(answer.contains("retry-after: "), "{answer}");
    }
    drop(sleeping);
    eventually("there is room again", || {
        match pair.host.http().get(&pair.target("ok")) {
            reply if reply.status == 200 => Ok(()),
            reply => Err(reply),
        }
    });
    has_hit(&pair, "host-instances");
    pair.both_serve();
}

#[test]
fn random_bytes_and_handles_without_end_end_the_call_alone() {
    let pair = Pair::start("greedy", |manifest| manifest);
    for (most, more) in [
        ("random?bytes=1048576", "random?bytes=1048577"),
        // Each is a timer as well, which is another one.
        ("handles?n=4900", "handles?n=5100"),
    ] {
        let _ = pair.host.http().get(&pair.target(most)).expect(200);
        pair.host.http().get(&pair.target(more)).problem(500);
        pair.both_serve();
    }
}

#[test]
fn what_an_instance_held_is_free_when_it_is_gone() {
    let pair = Pair::start("returns", |manifest| {
        manifest
            .limit("memory", "\"64 MiB\"")
            .limit("time", "\"500ms\"")
    });
    let before = memory(&pair.host, &pair.name);
    for mode in ["alloc", "loop", "trap", "hold?mib=32&ms=5000"] {
        let _ = pair.host.http().get(&pair.target(mode));
        pair.both_serve();
        let after = memory(&pair.host, &pair.name);
        assert!(after <= before.max(8e6), "{mode}: {before} then {after}");
    }
}

#[test]
fn one_more_than_may_wait_is_turned_away_at_once() {
    let pair = Pair::start("full", |manifest| {
        manifest
            .limit("concurrency", "1")
            .limit("queue", "1")
            .limit("queue-time", "\"60s\"")
    });
    thread::scope(|scope| {
        let calls = calling(scope, &pair, "sleep?ms=2000", 3);
        let mut statuses: Vec<u16> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 200, 503]);
    });
    has_hit(&pair, "queue");
    pair.both_serve();
}

#[test]
fn one_that_waited_its_time_is_turned_away() {
    let pair = Pair::start("late", |manifest| {
        manifest
            .limit("concurrency", "1")
            .limit("queue-time", "\"50ms\"")
    });
    thread::scope(|scope| {
        let calls = calling(scope, &pair, "sleep?ms=2000", 2);
        let mut statuses: Vec<u16> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 503]);
    });
    has_hit(&pair, "queue-time");
    pair.both_serve();
}

#[test]
fn only_so_many_instances_are_kept() {
    let pair = Pair::start("kept", |manifest| manifest.limit("instances", "1"));
    thread::scope(|scope| {
        for call in calling(scope, &pair, "sleep?ms=300", 4) {
            assert_eq!(call.join().unwrap(), 200);
        }
    });
    let service = format!("service={:?}", pair.name);
    let idle = pair.host.metric("tidemill_instances_idle", &[&service]);
    assert_eq!(idle, 1.0);
}

#[test]
fn an_instance_is_replaced_after_so_many_calls() {
    let pair = Pair::start("reused", |manifest| manifest.limit("reuse", "3"));
    let held = |expected: std::ops::Range<f64>| {
        let has = memory(&pair.host, &pair.name);
        assert!(expected.contains(&has), "{has}");
    };
    let call = |mode: &str| pair.host.http().get(&pair.target(mode)).expect(200);
    let _ = call("hold?mib=20");
    held(20e6..40e6);
    let _ = (call("ok"), call("ok"));
    held(0.0..8e6);
    pair.both_serve();
}

#[test]
fn a_component_that_is_too_large_is_413_before_it_is_sent() {
    let host = Host::embedded([]);
    let answer = host.admin().raw(
        format!(
            "POST /v1/services HTTP/1.1\r\nhost: {}\r\ncontent-type: application/wasm\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n",
            host.admin().address(),
            (256 << 20) + 1
        )
        .as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("at most 268435456 bytes"), "{answer}");
}

#[test]
fn sizes_beyond_their_limits_are_refused_and_counted() {
    let topic = unique("sizes");
    let pair = Pair::start("sizes", |manifest| {
        manifest
            .publish(&topic)
            .limit("request", "\"1 kB\"")
            .limit("response", "\"1 kB\"")
            .limit("event", "\"1 kB\"")
            .limit("effects", "100")
            .limit("effects-size", "\"10 kB\"")
    });
    let post = |mode: &str, body: &str| pair.host.http().post(&pair.target(mode), body);
    post("echo", &"x".repeat(1001)).problem(413);
    post("big?bytes=1001", "").problem(502);
    for (mode, word) in [
        ("bytes=1001", "limits.event"),
        ("n=101", "limits.effects "),
        ("n=20&bytes=900", "limits.effects-size"),
    ] {
        let reply = post(&format!("publish?topic={topic}&{mode}"), "").expect(409);
        assert!(reply.text().contains(word), "{reply:?}");
    }
    for limit in ["request", "response", "event", "effects", "effects-size"] {
        has_hit(&pair, limit);
    }
    pair.both_serve();
}

#[test]
fn a_loop_on_every_slot_ends_within_its_time() {
    let pair = Pair::start("spins", |manifest| {
        manifest.limit("time", "\"1s\"").limit("concurrency", "16")
    });
    let mut latest = Duration::ZERO;
    thread::scope(|scope| {
        let calls: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| {
                    let began = Instant::now();
                    let client = Client::at(pair.host.http().address());
                    client.get(&pair.target("loop")).problem(504);
                    began.elapsed()
                })
            })
            .collect();
        for call in calls {
            latest = latest.max(call.join().unwrap());
        }
    });
    println!("limits.time of 1 s, 16 loops: the last one ended after {latest:?}");
    assert!(latest < Duration::from_secs(5), "{latest:?}");
    has_hit(&pair, "time");
    pair.both_serve();
}
