//! A broker that is not there: at the start, and for a while.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::{
    Api, Component, Counting, Deadline, Fault, Fleet, Kafka, Manifest, Network, eventually, unique,
};

use super::{
    BACK, LOST, answered_in_time, lasts, said, says_that_kafka_is_away, taken_again, unready,
    while_reading,
};
use crate::exactly_once::long;

#[test]
fn a_host_that_has_never_seen_its_broker_lives_says_so_and_begins_when_it_comes() {
    let (kafka, proxy) = Kafka::proxied();
    let counting = Counting::on(&kafka, "first-sight", 4);
    proxy.network(Network::Cut);
    let start = || counting.builder().broker(proxy.address()).start();
    let mut host = start();
    let _ = host.admin().get("/healthz").expect(200);
    let why = unready(&host).unwrap();
    assert!(why.contains("Kafka"), "{why}");
    let reply = host.http().post(&format!("/{}", counting.name), "x");
    assert!(reply.problem(503).contains("Nothing was published"));
    assert_eq!(reply.header("retry-after"), "5");
    let _ = host.admin().get("/v1/services").expect(503);
    // Told to end, it ends.
    assert_eq!(host.terminate().code(), Some(0), "{}", host.log());

    // Whoever asks while it begins has an answer, from before or from after.
    let host = start();
    let _ = unready(&host).unwrap();
    let begun = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in [host.http(), host.admin()] {
            let begun = &begun;
            scope.spawn(move || {
                let deadline = Deadline::usual();
                while !begun.load(Ordering::Relaxed) && !deadline.passed() {
                    let answer = answer_to_a_slow_client(client.address());
                    assert!(answer.starts_with("HTTP/1.1 "), "{answer:?}");
                }
            });
        }
        proxy.network(Network::Fine);
        host.ready();
        begun.store(true, Ordering::Relaxed);
    });
    counting.write(100);
    counting.is_exact([&host]);
    assert!(said(&host, "has never seen it") <= 1, "{}", host.log());
}

/// Sends a request in two parts, and gives the answer. Empty if there was none.
fn answer_to_a_slow_client(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").unwrap();
    thread::sleep(Duration::from_millis(50));
    let mut answer = Vec::new();
    let _ = stream
        .write_all(b"connection: close\r\n\r\n")
        .and_then(|()| stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_host_that_knows_its_broker_ends_and_begins_without_it_and_goes_on_when_it_comes() {
    let kafka = Kafka::fresh();
    let counting = Counting::on(&kafka, "known", 4);
    let mut host = counting.host();
    counting.write(100);
    counting.is_exact([&host]);
    kafka.stop();
    says_that_kafka_is_away(&host, &counting);
    let began = Instant::now();
    assert_eq!(host.terminate().code(), Some(0), "{}", host.log());
    let took = began.elapsed();
    println!("ended after {took:.1?}");
    assert!(took < Duration::from_secs(15), "{took:?}");

    // With the service that it has, and one that needs a topic.
    let later = unique("later");
    let file = host.folder().path().join("later.wasm");
    std::fs::write(&file, Component::misbehave(&Manifest::new(&later)).0).unwrap();
    let known = host.folder().path().join("deploy-0.wasm");
    let deploy = [&known, &file].map(|file| format!("--deploy={}", file.display()));
    host.restart_with(&deploy);
    eventually("it reads", || match counting.counted(host.http()) {
        Some(100) => Ok(()),
        other => Err(other),
    });
    let body = format!("{} key value\n", counting.input);
    let reply = host.http().post(&format!("/{}", counting.name), body);
    assert!(reply.problem(503).contains("Nothing was published"));
    says_that_kafka_is_away(&host, &counting);
    let _ = host.http().get(&format!("/{later}/ok")).expect(404);

    kafka.start();
    host.ready();
    let _ = host.http().get(&format!("/{later}/ok")).expect(200);
    counting.write(100);
    counting.is_exact([&host]);
}

#[test]
fn a_broker_that_is_gone_for_a_while_under_load_loses_and_doubles_nothing() {
    let kafka = Kafka::fresh();
    let counting = Counting::on(&kafka, "gone-a-while", 4);
    let fleet = counting.hosts(1);
    let client = fleet.client(0);
    let input = &*counting.input;
    let kinds = [&[input, input][..], &[input]];
    let times = if long() { 2 } else { 1 };
    for topics in &kinds[..times] {
        let posted = counting.while_posting(&fleet, 3, topics, || {
            lasts(0.5, 5.0);
            while_reading(&counting, &client, || {
                kafka.stop();
                says_that_kafka_is_away(&fleet.host(0), &counting);
                refused_at_once(&counting, &fleet);
                lasts(0.0, 60.0);
            });
            kafka.start();
            taken_again(&client, &counting);
        });
        answered_in_time(&posted);
        counting.holds(&posted, topics);
    }
    let hosts = fleet.into_hosts();
    hosts[0].ready();
    counting.is_exact(&hosts);
    // A fact is a line. That it answers is said at the beginning as well.
    for (text, expected) in [(LOST, times), (BACK, times + 1)] {
        let found = said(&hosts[0], &format!("\"{text}"));
        assert_eq!(found, expected, "{text}: {}", hosts[0].log());
    }
    let lines = hosts[0].log().lines().count();
    println!("{lines} lines of log");
    assert!(lines < 100, "{}", hosts[0].log());
}

/// When it is known that Kafka is away, nobody waits to hear so.
fn refused_at_once(counting: &Counting, fleet: &Fleet) {
    let asked = Instant::now();
    let body = format!("{} key refused-at-once\n", counting.input);
    let reply = fleet.client(0).post(&format!("/{}", counting.name), body);
    let took = asked.elapsed();
    assert!(reply.problem(503).contains("Nothing was published"));
    assert!(reply.text().contains("not-published"), "{reply:?}");
    println!("refused after {took:.1?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_broker_that_says_for_a_while_that_there_are_none_is_asked_again() {
    let (kafka, proxy) = Kafka::proxied();
    let counting = Counting::on(&kafka, "brokerless", 2);
    let host = counting.builder().broker(proxy.address()).ready();
    counting.write(100);
    counting.is_exact([&host]);
    // All clients lose their connections, and believe the first that they are told.
    proxy.order(Api::Metadata, Fault::NoBrokers, 1, 60);
    proxy.network(Network::Cut);
    lasts(0.3, 3.0);
    proxy.network(Network::Fine);
    eventually("clients are told that there are no brokers", || {
        let left = proxy.left(Api::Metadata);
        if left < 55 { Ok(()) } else { Err(left) }
    });
    lasts(2.0, 10.0);
    let _ = proxy.clear();
    taken_again(host.http(), &counting);
    host.ready();
    counting.write(100);
    counting.is_exact([&host]);
}
