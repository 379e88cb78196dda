//! Requests that fail on their way to the broker, and effects that it refuses.

use std::thread;
use std::time::Duration;

use tidemill_tests::{Api, Counting, Fault, Kafka, Manifest, in_order};

use super::{long, partitions, shows};

/// All that a host asks of a broker while it consumes, and whether it does so only
/// when it begins.
const REQUESTS: [(Api, bool); 10] = [
    (Api::Produce, false),
    (Api::AddPartitionsToTxn, false),
    (Api::AddOffsetsToTxn, false),
    (Api::TxnOffsetCommit, false),
    (Api::EndTxn, false),
    (Api::Fetch, false),
    (Api::ConsumerGroupHeartbeat, false),
    (Api::InitProducerId, true),
    (Api::OffsetFetch, true),
    (Api::FindCoordinator, true),
];

#[test]
fn any_request_of_a_transaction_may_fail_or_lose_its_answer() {
    let (kafka, proxy) = Kafka::proxied();
    let counting = Counting::on(&kafka, "faults", 4);
    let through = || counting.builder().broker(proxy.address()).ready();
    let (mut first, second) = (through(), through());
    counting.wait_for_shares([&first, &second]);
    let mut written = 0;
    for round in 1..=if long() { 5 } else { 1 } {
        for (api, at_start) in REQUESTS {
            for fault in [Fault::Refused, Fault::AnswerLost] {
                // There are few of those that belong to a beginning.
                let every = if at_start { 1 } else { round };
                proxy.order(api, fault, every, 2);
                if at_start {
                    first.kill9();
                    first.restart();
                }
                while proxy.left(api) > 0 {
                    counting.write(50);
                    written += 50;
                    assert!(written < 1_000_000, "{api:?} is never {fault:?}");
                    thread::sleep(Duration::from_millis(20));
                }
                counting.wait_until(&second, written);
            }
        }
    }
    let met = proxy.clear();
    println!("{met} requests failed, {written} events");
    counting.is_exact([&first, &second]);
}

#[test]
fn requests_that_come_late_do_no_harm() {
    let (kafka, proxy) = Kafka::proxied();
    let counting = Counting::on(&kafka, "late", 4);
    let through = || counting.builder().broker(proxy.address()).ready();
    let (first, second) = (through(), through());
    counting.wait_for_shares([&first, &second]);
    // Longer than a session and a transaction may last: what comes then is of a
    // member that the group has replaced, and of a transaction that was ended.
    let late = Fault::Late(Duration::from_secs(12));
    let requests = [Api::EndTxn, Api::TxnOffsetCommit, Api::Produce];
    for api in requests.into_iter().take(if long() { 3 } else { 1 }) {
        proxy.order(api, late, 1, 1);
        while proxy.left(api) > 0 {
            counting.write(100);
            thread::sleep(Duration::from_millis(20));
        }
        counting.write(100);
        counting.is_exact([&first, &second]);
    }
}

#[test]
fn a_host_whose_transactions_are_fenced_begins_anew_and_repeats_nothing() {
    let counting = Counting::on(Kafka::shared(), "fenced", 4);
    let hosts = [counting.host(), counting.host()];
    counting.wait_for_shares(&hosts);
    let topics = counting.topics();
    let cluster = topics.transaction().cluster();
    // Who commits is known by its id.
    counting.write(100);
    counting.is_exact(&hosts);
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for _ in 0..if long() { 400 } else { 40 } {
                counting.write(100);
                thread::sleep(Duration::from_millis(50));
            }
        });
        while !writing.is_finished() {
            for host in &hosts {
                let service = host.service(&counting.name);
                let mut own = partitions(&service).iter().filter(|p| p["here"] == true);
                if let Some(id) = own.find_map(|partition| partition["owner"].as_str()) {
                    let id = format!("tidemill.{cluster}.{id}.{}", counting.name);
                    // As a second host with a copy of its data directory would.
                    drop(topics.transaction_as(&id));
                }
                thread::sleep(Duration::from_millis(700));
            }
        }
    });
    counting.is_exact(&hosts);
}

/// Holds that the event whose effect the broker refuses waits, with what is behind
/// it in its partition, and nothing else does.
fn only_it_waits(counting: &Counting, mended: &Manifest, because: &str) {
    let host = counting.host();
    counting.write(400);
    let blocked = |service: &serde_json::Value| {
        let mut blocked = partitions(service).iter();
        blocked.find(|one| one["status"] == "blocked").cloned()
    };
    let service = shows(counting, &host, "a partition is blocked", |service| {
        blocked(service).is_some()
    });
    let it = blocked(&service).unwrap();
    let error = it["error"].as_str().unwrap();
    assert!(error.contains(because), "{error}");
    shows(counting, &host, "the others are consumed", |service| {
        let others = partitions(service).iter();
        let mut others = others.filter(|one| one["partition"] != it["partition"]);
        others.all(|one| one["status"] == "running" && one["lag"] == 0)
    });
    // What is before it is committed, it and what is behind it are not.
    let committed = counting.counts(host.http());
    assert_eq!(committed["key-3"], 1);
    let published = counting.published();
    for (key, count) in &committed {
        in_order(key, &published[key], *count);
    }
    // The remedy is another revision.
    host.deploy(&tidemill_tests::Component::count(mended));
    counting.is_exact([&host]);
}

#[test]
fn an_effect_that_is_too_large_fails_its_event_and_no_other() {
    let counting = Counting::on(Kafka::shared(), "large", 4);
    let mended = counting.manifest.clone();
    let counting = counting.with(|manifest| {
        manifest
            .setting("poison", "key-3 2")
            .retry("attempts", "3")
            .retry("on-exhausted", "\"stop\"")
            .limit("event", "\"4 MiB\"")
    });
    only_it_waits(&counting, &mended, "too large");
}

#[test]
fn an_effect_that_is_forbidden_fails_its_event_and_no_other() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "forbidden", 4);
    let mended = counting.manifest.clone();
    let forbidden = format!("{}-forbidden", counting.name);
    kafka.topics().create(&forbidden, 1);
    kafka.forbid(&forbidden);
    let counting = counting.with(|manifest| {
        manifest
            .setting("poison", "key-3 2")
            .retry("attempts", "3")
            .retry("on-exhausted", "\"stop\"")
            .setting("poison-out", &forbidden)
            .publish(&forbidden)
    });
    only_it_waits(&counting, &mended, "uthoriz");
}
