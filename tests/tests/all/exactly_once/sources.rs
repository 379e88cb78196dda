//! Topics of all kinds: two of them, with gaps, that grow, and that are deleted.

use std::thread;
use std::time::Duration;

use serde_json::Value;
use tidemill_tests::{Counting, Host, Kafka, eventually};

use super::restoring::{replay, replayed};
use super::{partitions, shows};

#[test]
fn events_of_two_topics_with_one_key_meet_in_one_shard() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "join", 4);
    let payments = format!("{}-payments", counting.name);
    kafka.topics().create(&payments, 4);
    let counting = counting.with(|manifest| manifest.subscribe(&payments));
    let mut hosts = [counting.host(), counting.host()];
    counting.wait_for_shares(&hosts);
    for host in &hosts {
        // Partition i of both, or of none.
        let of = |topic: &str, service: &Value| -> Vec<Value> {
            let all = partitions(service).iter();
            let here = all.filter(|one| one["here"] == true && one["topic"] == topic);
            here.map(|one| one["partition"].clone()).collect()
        };
        shows(&counting, host, "it has whole shards", |service| {
            let users = of(&counting.input, service);
            !users.is_empty() && users == of(&payments, service)
        });
    }
    thread::scope(|scope| {
        for topic in [&counting.input, &payments] {
            let counting = &counting;
            scope.spawn(move || {
                for part in 0..30 {
                    let records = Counting::events(part * 200, (part + 1) * 200, 100);
                    counting.topics().write_keyed(topic, &records);
                    thread::sleep(Duration::from_millis(50));
                }
            });
        }
        for host in &mut hosts {
            thread::sleep(Duration::from_millis(500));
            host.kill9();
            host.restart();
        }
    });
    counting.is_exact(&hosts);
}

#[test]
fn topics_with_different_partition_counts_are_refused_with_the_way_out() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "unequal", 4);
    let payments = format!("{}-payments", counting.name);
    kafka.topics().create(&payments, 3);
    let counting = counting.with(|manifest| manifest.subscribe(&payments));
    let host = Host::builder().kafka(kafka).start();
    let said = host.refuses(&counting.component());
    for part in [
        &*format!("{} has 4", counting.input),
        &*format!("{payments} has 3"),
    ] {
        assert!(said.contains(part), "{said}");
    }
    let list = host.admin().get("/v1/services").expect(200).json();
    assert_eq!(list["services"].as_array().unwrap().len(), 0);
    // The way out.
    kafka.topics().grow(&payments, 4);
    host.deploy(&counting.component());
    counting.write(100);
    counting.is_exact([&host]);
}

#[test]
fn a_topic_that_grows_stops_its_service_until_it_is_replayed() {
    let counting = Counting::on(Kafka::shared(), "grows", 4);
    let hosts = [counting.host(), counting.host()];
    counting.wait_for_shares(&hosts);
    counting.write(400);
    counting.is_exact(&hosts);
    counting.topics().grow(&counting.input, 6);
    for host in &hosts {
        let service = shows(&counting, host, "it has stopped", |service| {
            service["status"] == "blocked"
        });
        let trouble = service["trouble"].as_str().unwrap();
        let remedy = format!("tidemill replay {}", counting.name);
        assert!(trouble.contains(&remedy), "{trouble}");
    }
    counting.write(400);
    for host in &hosts {
        shows(&counting, host, "there is something to do", |service| {
            let lags = partitions(service).iter().map(|one| one["lag"].as_u64());
            lags.sum::<Option<u64>>() == Some(400)
        });
        // It is not done, and what is there is read.
        assert_eq!(counting.counted(host.http()), Some(400));
    }
    let started = replay(&counting, &hosts[0]);
    assert_eq!(started["generation"], 2, "{started}");
    for host in &hosts {
        replayed(&counting, host, 2);
        counting.wait_until(host, 800);
        shows(&counting, host, "all is well", |service| {
            service["status"] == "running" && service["trouble"] == Value::Null
        });
    }
    is_exact_by_shard(&counting);
    counting.write(400);
    for host in &hosts {
        counting.wait_until(host, 1_200);
    }
    is_exact_by_shard(&counting);
}

/// Holds that each event was counted and published once, where a key is in
/// several partitions and so is counted in several shards.
fn is_exact_by_shard(counting: &Counting) {
    let mut events = std::collections::BTreeMap::new();
    for record in counting.topics().read(&counting.input) {
        let key = String::from_utf8(record.key.unwrap()).unwrap();
        let key = (key, record.partition);
        *events.entry(key).or_insert(0) += 1;
    }
    let mut expected: Vec<(String, u64)> = Vec::new();
    for ((key, _), count) in events {
        expected.extend((1..=count).map(|count| (key.clone(), count)));
    }
    let published = counting.published().into_iter();
    let mut published: Vec<(String, u64)> = published
        .flat_map(|(key, counts)| counts.into_iter().map(move |count| (key.clone(), count)))
        .collect();
    expected.sort();
    published.sort();
    assert_eq!(published, expected);
}

#[test]
fn a_deleted_topic_is_said_and_harms_no_other_service() {
    let kafka = Kafka::shared();
    let (gone, other) = (
        Counting::on(kafka, "gone", 4),
        Counting::on(kafka, "neighbour", 4),
    );
    let host = Host::builder()
        .kafka(kafka)
        .deploy([gone.component(), other.component()])
        .ready();
    for counting in [&gone, &other] {
        counting.write(400);
        counting.is_exact([&host]);
    }
    kafka.topics().delete(&gone.input);
    shows(&gone, &host, "it says what is wrong", |service| {
        let partitions = partitions(service).iter().map(|one| &one["error"]);
        let mut said = partitions.chain([&service["trouble"]]);
        service["status"] != "running"
            && said.any(|said| {
                let said = said.as_str();
                said.is_some_and(|said| said.contains(&gone.input))
            })
    });
    // What it counted is read, and the other one goes on.
    assert_eq!(gone.counted(host.http()), Some(400));
    other.write(400);
    other.is_exact([&host]);
    assert_eq!(host.service(&other.name)["status"], "running");
    let _ = host.admin().get("/healthz").expect(200);
    // The same with a host that starts after that.
    let mut host = host;
    host.kill9();
    host.restart();
    other.write(400);
    other.is_exact([&host]);
    assert_eq!(gone.counted(host.http()), Some(400));
}

#[test]
fn offsets_that_are_missing_are_no_events() {
    let kafka = Kafka::shared();
    let mut counting = Counting::on(kafka, "gaps", 2);
    let compacted = format!("{}-compacted", counting.name);
    kafka.topics().create_with(
        &compacted,
        2,
        &[
            ("cleanup.policy", "compact"),
            ("segment.ms", "100"),
            ("min.cleanable.dirty.ratio", "0.01"),
        ],
    );
    counting.manifest = counting.manifest.consumes(&[&compacted]);
    counting.input.clone_from(&compacted);
    let topics = counting.topics();
    let transaction = topics.transaction();
    // Markers at the end of transactions, and events of aborted ones.
    let write = |parts: usize| {
        for part in 0..parts {
            for (key, value) in Counting::events(part * 30, part * 30 + 30, 20) {
                transaction.write(&compacted, None, key.as_bytes(), value.as_bytes());
            }
            match part % 3 {
                1 => transaction.abort(),
                _ => transaction.commit(),
            }
            thread::sleep(Duration::from_millis(110));
        }
    };
    write(9);
    // Events that are gone, since there are later ones with their keys.
    eventually("it is compacted", || {
        // The segment that is written to is not.
        write(1);
        match topics.read(&compacted).len() {
            left @ 0..150 => Ok(left),
            left => Err(left),
        }
    });
    // From here on it keeps what it has.
    topics.configure(&compacted, "cleanup.policy", "delete");
    let hosts = [counting.host(), counting.host()];
    counting.is_exact(&hosts);
    write(6);
    counting.is_exact(&hosts);
    for host in &hosts {
        // The last offsets are markers; of what others consume they count as lag.
        shows(&counting, host, "there is nothing left to do", |service| {
            partitions(service)
                .iter()
                .all(|one| one["here"] == false || one["lag"] == 0)
        });
    }
    // What is committed is behind them as well: nothing is read again.
    let mut hosts = hosts;
    for host in &mut hosts {
        host.kill9();
        host.restart();
    }
    write(2);
    counting.is_exact(&hosts);
}
