//! Events: what reaches a handler, and what happens when it fails.

use std::thread;
use std::time::Duration;

use serde_json::Value;
use tidemill_tests::{Component, Host, Kafka, Manifest, Topics, eventually, unique};

/// A service that consumes a topic of its own, of four partitions on a real
/// Kafka.
struct Consumer {
    host: Host,
    topics: Topics,
    manifest: Manifest,
}

impl Consumer {
    fn start(name: &str, change: impl FnOnce(Manifest) -> Manifest) -> Consumer {
        let manifest = change(Manifest::new(&unique(name)));
        let kafka = Kafka::shared();
        for topic in &manifest.topics {
            kafka.topics().create(topic, 4);
        }
        let host = Host::builder()
            .kafka(kafka)
            .deploy([Component::misbehave(&manifest)])
            .ready();
        Consumer {
            host,
            topics: kafka.topics(),
            manifest,
        }
    }

    fn write(&self, partition: i32, value: &str) -> i64 {
        self.topics.write(
            &self.manifest.name,
            partition,
            Some(b"key"),
            Some(value.as_bytes()),
            &[],
        )
    }

    /// What was handled, a line an event.
    fn rows(&self) -> Vec<String> {
        rows(&self.host, &self.manifest.name)
    }

    fn handled(&self, count: usize) -> Vec<String> {
        eventually("the events are handled", || {
            let rows = self.rows();
            if rows.len() == count {
                Ok(rows)
            } else {
                Err(rows)
            }
        })
    }

    /// What `GET /v1/services/NAME` says of a partition.
    fn partition(&self, partition: i32) -> Value {
        let service = self.host.service(&self.manifest.name);
        let partitions = service["partitions"].as_array().unwrap();
        partitions
            .iter()
            .find(|one| one["partition"] == partition)
            .unwrap_or_else(|| panic!("{service}"))
            .clone()
    }
}

fn rows(host: &Host, name: &str) -> Vec<String> {
    let reply = host.http().get(&format!("/{name}/rows")).expect(200);
    reply.text().lines().map(str::to_owned).collect()
}

#[test]
fn an_event_reaches_the_handler_as_it_is() {
    let consumer = Consumer::start("as-it-is", |manifest| manifest);
    let topic = &consumer.manifest.name;
    let write = |key: Option<&[u8]>, value: Option<&[u8]>| {
        consumer
            .topics
            .write(topic, 1, key, value, &[("h", Some(b"\xff")), ("n", None)]);
    };
    write(Some(b"key"), Some(b"value"));
    write(None, Some(b"value"));
    write(Some(b"key"), None);
    write(None, None);
    write(Some(b"\xff\xfe"), Some(b"\x00\x80"));
    write(Some(b""), Some(b""));
    let rows = consumer.handled(6);
    let seen: Vec<&str> = rows
        .iter()
        .map(|row| row.split_once("key=").unwrap().1)
        .collect();
    assert_eq!(
        seen,
        [
            r#""key" value="value" attempt=1"#,
            r#"null value="value" attempt=1"#,
            r#""key" value=null attempt=1"#,
            "null value=null attempt=1",
            "fffe value=0080 attempt=1",
            r#""" value="" attempt=1"#,
        ]
    );
    assert!(rows[0].starts_with(&format!("{topic} 1 0 ")), "{rows:?}");
}

#[test]
fn the_embedded_broker_hands_on_odd_events_too() {
    let name = unique("odd");
    let host = Host::embedded([Component::misbehave(&Manifest::new(&name))]);
    let topics = host.topics();
    topics.write(&name, 0, None, None, &[]);
    topics.write(&name, 0, Some(b"\xff"), Some(b"\x80"), &[]);
    eventually("both are handled", || {
        let rows = rows(&host, &name);
        match &rows[..] {
            [one, two]
                if one.contains("key=null value=null") && two.contains("key=ff value=80") =>
            {
                Ok(())
            }
            _ => Err(rows),
        }
    });
}

#[test]
fn an_event_that_fails_is_run_again_in_its_place_until_it_succeeds() {
    let consumer = Consumer::start("again", |manifest| manifest);
    consumer.write(0, "first");
    consumer.write(0, "until 3");
    consumer.write(0, "last");
    let rows = consumer.handled(3);
    assert!(rows[0].ends_with("attempt=1"), "{rows:?}");
    assert!(rows[1].ends_with("attempt=3"), "{rows:?}");
    assert!(rows[2].ends_with("attempt=1"), "{rows:?}");
}

#[test]
fn an_event_that_keeps_failing_stops_only_its_partition_if_it_is_to_and_is_shown() {
    let consumer = Consumer::start("blocked", |manifest| {
        manifest
            .retry("attempts", "2")
            .retry("on-exhausted", "\"stop\"")
            .limit("time", "\"200ms\"")
            .limit("memory", "\"16 MiB\"")
    });
    let name = &consumer.manifest.name;
    // A way to fail on each partition but the last.
    for (partition, (mode, error)) in [
        ("reject", "asked to be rejected"),
        ("trap", "trap"),
        ("loop", "limits.time"),
    ]
    .into_iter()
    .enumerate()
    {
        let partition = i32::try_from(partition).unwrap();
        consumer.write(partition, "before");
        let at = consumer.write(partition, mode);
        consumer.write(partition, "behind");
        eventually("the partition is shown as blocked", || {
            let shown = consumer.partition(partition);
            let said = shown["error"].as_str().unwrap_or_default();
            if shown["status"] == "blocked" && said.contains(error) && shown["lag"] == 2 {
                assert_eq!(shown["position"], at, "{shown}");
                Ok(())
            } else {
                Err(shown)
            }
        });
    }
    for number in 0..10 {
        consumer.write(3, &format!("free {number}"));
    }
    let rows = consumer.handled(3 + 10);
    assert!(!rows.iter().any(|row| row.contains("behind")), "{rows:?}");

    // Everywhere that a person looks.
    let list = consumer.host.admin().get("/v1/services").expect(200).json();
    assert_eq!(list["services"][0]["status"], "blocked", "{list}");
    let (worked, text, _) = consumer.host.cli(&["services", name]);
    assert!(worked && text.contains("blocked"), "{text}");
    assert!(text.contains("asked to be rejected"), "{text}");
    let blocked = consumer.host.metric(
        "tidemill_partition_blocked",
        &[&format!("service=\"{name}\"")],
    );
    assert!((blocked - 3.0).abs() < 0.1, "{blocked}");
    assert!(consumer.host.log().contains("asked to be rejected"));
}

#[test]
fn deploying_a_handler_that_works_frees_a_blocked_partition() {
    let consumer = Consumer::start("freed", |manifest| manifest);
    consumer.write(2, "unless");
    consumer.write(2, "behind");
    eventually("it fails", || {
        let shown = consumer.partition(2);
        if shown["attempt"].as_u64() >= Some(2) {
            Ok(())
        } else {
            Err(shown)
        }
    });
    let fixed = consumer.manifest.clone().setting("fixed", "yes");
    consumer.host.deploy(&Component::misbehave(&fixed));
    let rows = consumer.handled(2);
    assert!(rows[0].contains("unless"), "in order: {rows:?}");
    eventually("nothing is blocked", || {
        let shown = consumer.partition(2);
        if shown["status"] == "running" && shown["lag"] == 0 && shown["error"].is_null() {
            Ok(())
        } else {
            Err(shown)
        }
    });
}

#[test]
fn an_event_handler_that_fails_leaves_other_services_serving() {
    let consumer = Consumer::start("bad", |manifest| {
        manifest
            .limit("time", "\"200ms\"")
            .limit("memory", "\"16 MiB\"")
    });
    let neighbour = unique("good");
    consumer.topics.create(&neighbour, 1);
    consumer
        .host
        .deploy(&Component::misbehave(&Manifest::new(&neighbour)));
    for (partition, mode) in ["trap", "loop", "alloc", "recurse"].into_iter().enumerate() {
        consumer.write(i32::try_from(partition).unwrap(), mode);
    }
    for number in 0..20 {
        let value = format!("event {number}");
        consumer
            .topics
            .write(&neighbour, 0, None, Some(value.as_bytes()), &[]);
    }
    eventually("the other's events are handled", || {
        match rows(&consumer.host, &neighbour).len() {
            20 => Ok(()),
            other => Err(other),
        }
    });
    let reply = consumer.host.http().get(&format!("/{neighbour}/ok"));
    assert_eq!(reply.status, 200, "{reply:?}");
    // Requests to the service itself too: it is its events that fail.
    let reply = consumer
        .host
        .http()
        .get(&format!("/{}/ok", consumer.manifest.name));
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[test]
fn what_an_event_published_is_dropped_when_it_fails_and_sent_when_it_succeeds() {
    let topic = unique("out");
    let consumer = Consumer::start("effects", |manifest| manifest.publish(&topic));
    consumer.write(0, &format!("publish-then-trap {topic}"));
    consumer.write(1, &format!("publish {topic}"));
    eventually("one fails and one succeeds", || {
        let failed = consumer.partition(0);
        if failed["attempt"].as_u64() >= Some(2) && consumer.rows().len() == 1 {
            Ok(())
        } else {
            Err(failed)
        }
    });
    let records = consumer.topics.read(&topic);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!(records[0].text(), format!("publish {topic}"));
    assert_eq!(records[0].key.as_deref(), Some(&b"key"[..]));
}

#[test]
fn events_of_a_partition_are_handled_in_order_and_committed() {
    let topic = unique("forwarded");
    let consumer = Consumer::start("order", |manifest| {
        manifest.publish(&topic).setting("forward", &topic)
    });
    for number in 0..200 {
        consumer.topics.write(
            &consumer.manifest.name,
            number % 4,
            Some(format!("partition {}", number % 4).as_bytes()),
            Some(format!("{number:03}").as_bytes()),
            &[],
        );
    }
    consumer.handled(200);
    let records = consumer.topics.read(&topic);
    assert_eq!(records.len(), 200);
    for partition in 0..4 {
        let key = format!("partition {partition}");
        let values: Vec<&str> = records
            .iter()
            .filter(|record| record.key.as_deref() == Some(key.as_bytes()))
            .map(tidemill_tests::Record::text)
            .collect();
        assert_eq!(values.len(), 50);
        assert!(values.is_sorted(), "{values:?}");
    }
    eventually("the group has committed all of it", || {
        let committed: Vec<_> = (0..4)
            .map(|partition| {
                let name = &consumer.manifest.name;
                consumer.topics.committed(name, name, partition)
            })
            .collect();
        if committed == [Some(50); 4] {
            Ok(())
        } else {
            Err(committed)
        }
    });
}

#[test]
fn events_that_come_while_a_service_is_away_are_handled_when_it_is_back_once() {
    let consumer = Consumer::start("away", |manifest| manifest);
    let neighbour = unique("stays");
    consumer.topics.create(&neighbour, 1);
    consumer
        .host
        .deploy(&Component::misbehave(&Manifest::new(&neighbour)));
    consumer.write(0, "before");
    consumer.handled(1);

    let path = format!("/v1/services/{}", consumer.manifest.name);
    let _ = consumer
        .host
        .admin()
        .send("DELETE", &path, &[], b"")
        .expect(200);
    consumer.write(0, "meanwhile");
    consumer
        .topics
        .write(&neighbour, 0, None, Some(b"goes on"), &[]);
    eventually("the other goes on", || {
        match rows(&consumer.host, &neighbour).len() {
            1 => Ok(()),
            other => Err(other),
        }
    });

    consumer
        .host
        .deploy(&Component::misbehave(&consumer.manifest));
    let rows = consumer.handled(2);
    assert!(rows[0].contains("before"), "{rows:?}");
    assert!(rows[1].contains("meanwhile"), "{rows:?}");
}

#[test]
fn after_kill_9_each_event_is_in_the_state_once_and_in_order() {
    let mut consumer = Consumer::start("killed", |manifest| manifest);
    for round in 0..2 {
        for number in 0..100 {
            consumer.write(number % 4, &format!("{round} {number}"));
        }
        // Somewhere in the middle.
        thread::sleep(Duration::from_millis(30 * round));
        consumer.host.kill9();
        consumer.host.restart();
    }
    for row in consumer.handled(200) {
        let mut words = row.split(' ');
        let offset: u64 = words.nth(2).unwrap().parse().unwrap();
        assert_eq!(words.next().unwrap(), format!("count={}", offset + 1));
    }
}

/// The broker refuses what one event published, while those behind it have run
/// on its results already.
#[test]
fn an_event_whose_output_is_refused_takes_what_ran_on_it_back_and_nothing_is_lost() {
    const HALF: usize = 5_000;
    let narrow = unique("narrow");
    let kafka = Kafka::shared();
    kafka
        .topics()
        // Room for a transaction's marker, which has 78 bytes, and for no more.
        .create_with(&narrow, 1, &[("max.message.bytes", "80")]);
    let mut consumer = Consumer::start("refused", |manifest| manifest.publish(&narrow));
    let topic = consumer.manifest.name.clone();
    let refused = format!("publish {narrow}");
    let mut events = vec!["ok"; HALF];
    events.push(&refused);
    events.extend(["ok"; HALF]);
    consumer.topics.write_all(&topic, 1, &events);
    let blocked = |consumer: &Consumer| {
        eventually("the event that is refused blocks", || {
            let shown = consumer.partition(1);
            let tried = shown["attempt"].as_u64() >= Some(4);
            if tried && shown["position"] == HALF {
                Ok(())
            } else {
                Err(shown)
            }
        });
        let rows = consumer.rows();
        assert_eq!(rows.len(), HALF, "nothing behind it is committed");
    };
    blocked(&consumer);
    consumer.host.kill9();
    consumer.host.restart();
    consumer.host.ready();
    blocked(&consumer);

    consumer
        .topics
        .configure(&narrow, "max.message.bytes", "1000000");
    let rows = consumer.handled(2 * HALF + 1);
    for (offset, row) in rows.iter().enumerate() {
        let expected = format!("{topic} 1 {offset} count={} ", offset + 1);
        assert!(row.starts_with(&expected), "{expected}: {row}");
    }
    assert_eq!(kafka.topics().read(&narrow).len(), 1);
}

/// Where each partition of a topic is consumed, by the hosts' own words.
fn owners(hosts: &[&Host], service: &str) -> Vec<usize> {
    let partitions = |host: &&Host| {
        let shown = host.service(service)["partitions"].clone();
        let shown = shown.as_array().cloned().unwrap_or_default();
        shown.iter().filter(|one| one["here"] == true).count()
    };
    hosts.iter().map(partitions).collect()
}

/// The rows of both hosts: each has those of the partitions that it consumed.
fn rows_of(hosts: &[&Host], service: &str) -> Vec<String> {
    let mut all: Vec<String> = hosts.iter().flat_map(|host| rows(host, service)).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn a_second_host_takes_some_partitions_and_gives_them_back_when_it_leaves() {
    let consumer = Consumer::start("shared", |manifest| manifest);
    let name = &consumer.manifest.name;
    let write = |from: usize| {
        for number in from..from + 8 {
            consumer.write(i32::try_from(number % 4).unwrap(), &number.to_string());
        }
    };
    let first = &consumer.host;
    write(0);
    consumer.handled(8);

    let mut second = Host::builder()
        .kafka(Kafka::shared())
        .deploy([Component::misbehave(&consumer.manifest)])
        .ready();
    let split = |expected: &[usize], hosts: &[&Host]| {
        eventually("the partitions are shared", || {
            let got = owners(hosts, name);
            if got == expected { Ok(()) } else { Err(got) }
        });
    };
    split(&[2, 2], &[first, &second]);
    write(8);
    eventually("both consume", || {
        let rows = rows_of(&[first, &second], name);
        if rows.len() == 16 { Ok(()) } else { Err(rows) }
    });

    assert!(second.terminate().success());
    split(&[4], &[first]);
    write(16);
    // The first one has no rows of what the second consumed, and so runs it
    // again: in its own state, too, each event is there once.
    let rows = consumer.handled(24);
    assert!(
        rows.iter().all(|row| row.ends_with("attempt=1")),
        "{rows:?}"
    );
}
