//! A network that delays, is slow, cuts and swallows.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::{
    Api, Component, Counting, Fault, Fleet, Kafka, Manifest, Network, eventually, unique,
};

use super::{
    LOST, answered_in_time, lasts, said, says_that_kafka_is_away, taken_again, while_reading,
};

/// Kafka's code for a partition with too few replicas in sync.
const NOT_ENOUGH_REPLICAS: i16 = 19;

#[test]
fn a_bad_network_loses_and_doubles_nothing() {
    let (kafka, proxy) = Kafka::proxied();
    let counting = Counting::on(&kafka, "network", 4);
    let through = || counting.builder().broker(proxy.address()).ready();
    let fleet = Fleet::of([through(), through()]);
    let (client, input) = (fleet.client(0), &*counting.input);
    let bad = [
        Network::Late(Duration::from_millis(200)),
        Network::Slow(20_000),
        Network::Cut,
        Network::Silent,
    ];
    for (network, topics) in bad
        .into_iter()
        .zip([&[input][..], &[input, input]].repeat(2))
    {
        println!("{network:?}");
        let posted = counting.while_posting(&fleet, 3, topics, || {
            // On a busy machine as well, some are acknowledged before or after.
            lasts(1.0, 3.0);
            while_reading(&counting, &client, || {
                proxy.network(network);
                lasts(2.0, 30.0);
                proxy.network(Network::Fine);
            });
            for host in 0..fleet.len() {
                taken_again(&fleet.client(host), &counting);
            }
            lasts(0.5, 3.0);
        });
        answered_in_time(&posted);
        counting.holds(&posted, topics);
    }
    let hosts = fleet.into_hosts();
    for host in &hosts {
        host.ready();
    }
    counting.write(100);
    counting.is_exact(&hosts);
}

#[test]
fn what_nobody_waits_for_any_more_is_there_once_when_the_network_is_back() {
    let (kafka, proxy) = Kafka::proxied();
    let counting = Counting::on(&kafka, "overdue", 4);
    let fleet = Fleet::of([counting.builder().broker(proxy.address()).ready()]);
    let topics = [&*counting.input];
    let posted = counting.while_posting(&fleet, 24, &topics, || {
        lasts(0.3, 3.0);
        proxy.network(Network::Silent);
        // Longer than anybody waits, so that each client is told.
        lasts(11.0, 30.0);
        proxy.network(Network::Fine);
        taken_again(&fleet.client(0), &counting);
    });
    answered_in_time(&posted);
    let mut unknown: BTreeSet<String> = BTreeSet::new();
    for one in &posted {
        unknown.extend(one.others.difference(&one.nothing).cloned());
    }
    assert!(unknown.len() >= 12, "{unknown:?}");
    eventually("what was sent is there, late", || {
        let records = counting.topics().read(&counting.input);
        let there: BTreeSet<String> = records.iter().map(|one| one.text().to_owned()).collect();
        let missing: Vec<_> = unknown.difference(&there).collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(format!("{missing:?}"))
        }
    });
    // And nothing twice.
    counting.holds(&posted, &topics);
    counting.is_exact(&fleet.into_hosts());
}

#[test]
fn a_topic_that_takes_nothing_holds_up_no_other() {
    let (kafka, proxy) = Kafka::proxied();
    let mut counting = Counting::on(&kafka, "stuck", 1);
    let stuck = format!("{}-stuck", counting.name);
    kafka.topics().create(&stuck, 1);
    counting.manifest = counting.manifest.publish(&stuck);
    let host = counting.builder().broker(proxy.address()).ready();
    proxy.order_for(&stuck, Api::Produce, Fault::Answered(NOT_ENOUGH_REPLICAS));
    let target = format!("/{}", counting.name);
    // As much as a topic may have overdue: 8 MiB.
    let large = "x".repeat(900 << 10);
    thread::scope(|scope| {
        for number in 0..10 {
            let (host, stuck, large, target) = (&host, &stuck, &large, &target);
            scope.spawn(move || {
                let body = format!("{stuck} key {number}-{large}\n");
                let reply = host.http().post(target, body);
                reply.problem(503);
                assert!(reply.text().contains("outcome-unknown"), "{reply:?}");
            });
        }
    });
    let asked = Instant::now();
    let reply = host.http().post(&target, format!("{stuck} key not-sent\n"));
    assert!(reply.text().contains("not-published"), "{reply:?}");
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
    taken_again(host.http(), &counting);

    let _ = proxy.clear();
    eventually("it takes events again", || {
        let reply = host.http().post(&target, format!("{stuck} key again\n"));
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply)
        }
    });
    let records = kafka.topics().read(&stuck);
    let mut there: Vec<&str> = records.iter().map(|one| &one.text()[..1]).collect();
    there.sort_unstable();
    let each: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!(there[..10], each);
    assert!(records.iter().all(|one| one.text() != "not-sent"));
}

#[test]
fn a_silent_broker_holds_up_nothing_but_what_needs_it() {
    let (kafka, proxy) = Kafka::proxied();
    let counting = Counting::on(&kafka, "silent", 4);
    let other = unique("beside");
    let beside = Manifest::new(&other).delivery("at-least-once");
    let mut host = counting
        .builder()
        .broker(proxy.address())
        .deploy([Component::misbehave(&beside)])
        .ready();
    let topics = counting.topics();
    let work = || {
        counting.write(100);
        topics.write(&other, 0, None, Some(b"event"), &[]);
    };
    work();
    counting.is_exact([&host]);
    proxy.network(Network::Silent);
    // Written past the proxy, some of it read already.
    work();
    let (service, topic) = (format!("/{}", counting.name), &counting.input);
    let within = |what: &str, most: u64, asked: Instant| {
        let took = asked.elapsed();
        println!("{what}: {took:.1?}");
        assert!(took < Duration::from_secs(most), "{what}: {took:?}");
    };
    // Not known yet: it is sent, and nobody knows whether it arrived.
    let asked = Instant::now();
    let reply = host.http().post(&service, format!("{topic} key lost\n"));
    reply.problem(503);
    within("the first request that publishes", 18, asked);
    says_that_kafka_is_away(&host, &counting);
    let asked = Instant::now();
    let reply = host
        .http()
        .post(&service, format!("{topic} key not-sent\n"));
    assert!(reply.text().contains("not-published"), "{reply:?}");
    within("the next one", 3, asked);
    let asked = Instant::now();
    let _ = host.http().get(&format!("/{other}/ok")).expect(200);
    assert!(counting.counted(host.http()).is_some());
    for page in ["/healthz", "/metrics", "/v1/services"] {
        let _ = host.admin().get(page).expect(200);
    }
    let _ = host.service(&counting.name);
    within("reads and the admin API", 5, asked);
    let asked = Instant::now();
    let new = Component::misbehave(&Manifest::new(&unique("new")));
    host.try_deploy(&new).problem(503);
    within("a deploy", 20, asked);
    let asked = Instant::now();
    let (worked, _, said_so) = host.cli(&["remove", &other]);
    // All hosts would have to hear of it.
    assert!(!worked && said_so.contains("does not answer"), "{said_so}");
    within("a removal", 20, asked);
    assert_eq!(said(&host, LOST), 1, "{}", host.log());
    assert!(host.log().lines().count() < 60, "{}", host.log());
    let asked = Instant::now();
    assert_eq!(host.terminate().code(), Some(0), "{}", host.log());
    within("the end", 40, asked);

    proxy.network(Network::Fine);
    host.restart();
    host.ready();
    counting.is_exact([&host]);
    let events = counting.topics().read(topic);
    assert!(events.iter().all(|event| event.text() != "not-sent"));
}
