//! Dead letters: what becomes of events that cannot be handled, and how they are
//! sent back.

use std::thread;

use serde_json::{Value, json};
use tidemill_tests::{
    Component, Counting, Host, Kafka, Manifest, Record, Topics, eventually, in_order, unique,
};

/// The topic of a service's dead letters.
fn topic(service: &str) -> String {
    format!("{service}.dead-letter")
}

/// A header's value, as text.
fn header<'r>(record: &'r Record, name: &str) -> &'r str {
    let found = record.headers.iter().find(|(known, _)| known == name);
    let (_, value) = found.unwrap_or_else(|| panic!("no {name} in {:?}", record.headers));
    std::str::from_utf8(value.as_deref().unwrap()).unwrap()
}

/// Dead letters alone: in their topic there are also records that say which of
/// them are done with.
fn written(topics: &Topics, service: &str) -> Vec<Record> {
    let mut records = topics.read(&topic(service));
    records.retain(|record| {
        let mut names = record.headers.iter().map(|(name, _)| name);
        names.any(|name| name == "tidemill-dead-letter-error")
    });
    records
}

/// A service that fails what it is told to, on a topic of its own with four
/// partitions.
fn service(name: &str) -> Manifest {
    Manifest::new(&unique(name)).retry("backoff", "\"1ms\"")
}

fn host(kafka: &Kafka, manifest: &Manifest) -> Host {
    for topic in &manifest.topics {
        kafka.topics().create(topic, 4);
    }
    let host = Host::builder().kafka(kafka);
    host.deploy([Component::misbehave(manifest)]).ready()
}

fn rows(host: &Host, name: &str) -> Vec<String> {
    let reply = host.http().get(&format!("/{name}/rows")).expect(200);
    reply.text().lines().map(str::to_owned).collect()
}

fn handled(host: &Host, name: &str, count: usize) -> Vec<String> {
    eventually("the events are handled", || {
        let rows = rows(host, name);
        if rows.len() == count {
            Ok(rows)
        } else {
            Err(rows)
        }
    })
}

/// What `GET …/dead-letters` says when there are so many.
fn listed(host: &Host, name: &str, count: u64) -> Vec<Value> {
    eventually("there are so many dead letters", || {
        let target = format!("/v1/services/{name}/dead-letters?limit=1000");
        let list = host.admin().get(&target).expect(200).json();
        match list["total"] == count {
            true => Ok(list["letters"].as_array().unwrap().clone()),
            false => Err(list),
        }
    })
}

fn settle(host: &Host, name: &str, verb: &str, which: &Value) -> Value {
    let target = format!("/v1/services/{name}/dead-letters/{verb}");
    let answer = host.admin().post_json(&target, which.to_string());
    answer.expect(200).json()
}

#[test]
fn an_event_that_fails_too_often_becomes_a_dead_letter_and_its_partition_goes_on() {
    let kafka = Kafka::shared();
    let manifest = service("dead")
        .retry("attempts", "3")
        .limit("time", "\"100ms\"")
        .limit("memory", "\"16 MiB\"");
    let name = &manifest.name;
    let host = host(kafka, &manifest);
    let topics = kafka.topics();
    let modes = [
        ("reject", "reject", 1, "asked to be rejected"),
        ("trap", "trap", 3, "unreachable"),
        ("loop", "timeout", 3, "limits.time"),
        ("alloc", "memory", 3, "limits.memory"),
        ("retry", "retry", 3, "asked to be retried"),
    ];
    for (mode, ..) in modes {
        topics.write(name, 1, Some(b"k"), Some(b"before"), &[]);
        let trace = [("traceparent", Some(&b"00-1-2-01"[..])), ("n", None)];
        topics.write(name, 1, Some(b"\xff"), Some(mode.as_bytes()), &trace);
    }
    topics.write(name, 1, None, Some(b"last"), &[]);
    let seen = handled(&host, name, modes.len() + 1);
    assert!(
        seen.iter().all(|row| row.ends_with("attempt=1")),
        "{seen:?}"
    );
    let letters = written(&topics, name);
    assert_eq!(letters.len(), modes.len());
    let revision = host.service(name)["revision"].as_str().unwrap().to_owned();
    for (number, (letter, (mode, failure, attempts, error))) in
        letters.iter().zip(modes).enumerate()
    {
        assert_eq!(letter.key.as_deref(), Some(&b"\xff"[..]));
        assert_eq!(letter.value.as_deref(), Some(mode.as_bytes()));
        assert_eq!(
            letter.headers[0],
            ("traceparent".to_owned(), Some(b"00-1-2-01".to_vec()))
        );
        assert_eq!(letter.headers[1], ("n".to_owned(), None));
        let has = |what: &str| header(letter, &format!("tidemill-dead-letter-{what}"));
        assert_eq!((has("topic"), has("partition")), (&**name, "1"));
        assert_eq!(has("offset"), (2 * number + 1).to_string());
        assert_eq!((has("service"), has("failure")), (&**name, failure));
        assert_eq!(
            (has("revision"), has("attempts")),
            (&*revision, &*attempts.to_string())
        );
        assert!(has("error").contains(error), "{}", has("error"));
        assert!(has("time").parse::<u64>().unwrap() > 1_700_000_000_000);
    }
    assert!(host.log().contains("becomes a dead letter"));
    let label = format!("service=\"{name}\"");
    let dead = host.metric("tidemill_dead_letters_total", &[&label]);
    assert!((dead - 5.0).abs() < 0.1, "{dead}");
    let retries = host.metric("tidemill_retries_total", &[&label]);
    assert!((retries - 8.0).abs() < 0.1, "{retries}");
    // What failed has left nothing else.
    assert_eq!(host.service(name)["status"], "running");
}

#[test]
fn a_handler_says_when_to_try_again_and_a_manifest_which_failures() {
    let kafka = Kafka::shared();
    let manifest = service("picky").retry("on", "[\"retry\"]");
    let name = &manifest.name;
    let host = host(kafka, &manifest);
    let topics = kafka.topics();
    topics.write(name, 0, None, Some(b"after 300"), &[]);
    topics.write(name, 1, None, Some(b"trap"), &[]);
    let seen = handled(&host, name, 1);
    assert!(seen[0].ends_with("attempt=2"), "{seen:?}");
    assert!(host.log().contains("trying again in 300"), "{}", host.log());
    let letters = listed(&host, name, 1);
    assert_eq!(
        (&letters[0]["failure"], &letters[0]["attempts"]),
        (&json!("trap"), &json!(1))
    );
}

#[test]
fn a_dead_letter_that_cannot_be_written_stops_its_partition_and_loses_nothing() {
    let kafka = Kafka::shared();
    let manifest = service("unwritten").retry("max-backoff", "\"50ms\"");
    let name = &manifest.name;
    let host = host(kafka, &manifest);
    let topics = kafka.topics();
    // Room for a transaction's marker, and not for a letter.
    topics.configure(&topic(name), "max.message.bytes", "100");
    topics.write(name, 2, None, Some(b"before"), &[]);
    topics.write(name, 2, None, Some(b"reject"), &[]);
    topics.write(name, 2, None, Some(b"behind"), &[]);
    topics.write(name, 3, None, Some(b"elsewhere"), &[]);
    eventually("the partition stops", || {
        let shown = host.service(name);
        let partitions = shown["partitions"].as_array().unwrap();
        let stopped = partitions.iter().find(|one| one["partition"] == 2).unwrap();
        let error = stopped["error"].as_str().unwrap_or_default();
        let said = error.contains("dead letter cannot be written");
        match stopped["status"] == "blocked" && said && stopped["position"] == 1 {
            true => Ok(()),
            false => Err(shown),
        }
    });
    handled(&host, name, 2);
    topics.configure(&topic(name), "max.message.bytes", "1000000");
    let seen = handled(&host, name, 3);
    assert!(seen.iter().any(|row| row.contains("behind")), "{seen:?}");
    assert_eq!(written(&topics, name).len(), 1);
}

#[test]
fn dead_letters_are_written_once_whatever_dies() {
    const EVENTS: usize = 2_000;
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "dying", 4).with(|manifest| {
        manifest
            .setting("reject", "key-7")
            .retry("backoff", "\"1ms\"")
    });
    let mut host = counting.host();
    let poisoned = EVENTS / 100;
    for round in 0..6 {
        counting.write(EVENTS);
        // In the middle of it, or not: it has to come to the same.
        eventually("it is at it", || {
            match written(&counting.topics(), &counting.name).len() {
                letters if letters > round * poisoned => Ok(()),
                letters => Err(letters),
            }
        });
        host.kill9();
        host.restart();
    }
    host.ready();
    let healthy = (6 * (EVENTS - poisoned)) as u64;
    counting.wait_until(&host, healthy);
    let letters = eventually("all letters are there", || {
        match written(&counting.topics(), &counting.name) {
            letters if letters.len() < 6 * poisoned => Err(letters.len()),
            letters => Ok(letters),
        }
    });
    let mut origins: Vec<(String, String)> = letters
        .iter()
        .map(|letter| {
            let has = |what: &str| header(letter, &format!("tidemill-dead-letter-{what}"));
            (has("partition").to_owned(), has("offset").to_owned())
        })
        .collect();
    origins.sort();
    origins.dedup();
    assert_eq!((letters.len(), origins.len()), (6 * poisoned, 6 * poisoned));
    let counts = counting.counts(host.http());
    assert_eq!(counts.get("key-7"), None);
    for (key, counts) in counting.published() {
        in_order(&key, &counts, (6 * poisoned) as u64);
    }
}

#[test]
fn what_is_sent_back_goes_to_its_service_alone_and_once() {
    let kafka = Kafka::shared();
    let manifest = service("redriven").retry("attempts", "1");
    let name = &manifest.name;
    let host = host(kafka, &manifest);
    let mut neighbour = service("neighbour")
        .consumes(&[name])
        .setting("fixed", "yes");
    neighbour.route = format!("/{}", neighbour.name);
    host.deploy(&Component::misbehave(&neighbour));
    let topics = kafka.topics();
    for partition in 0..4 {
        for number in 0..5 {
            let value = format!("unless {number}");
            topics.write(
                name,
                partition,
                Some(b"key"),
                Some(value.as_bytes()),
                &[("h", Some(b"v"))],
            );
        }
    }
    handled(&host, &neighbour.name, 20);
    let letters = listed(&host, name, 20);

    // One, whole, before it goes.
    let id = letters[3]["id"].as_str().unwrap();
    let target = format!("/v1/services/{name}/dead-letters/{id}");
    let shown = host.admin().get(&target).expect(200).json();
    assert_eq!(shown["headers"], json!([["h", { "text": "v" }]]));
    assert_eq!(shown["key"], json!({ "text": "key" }));
    assert_eq!(
        shown["value"]["text"]
            .as_str()
            .unwrap()
            .split_once(' ')
            .unwrap()
            .0,
        "unless"
    );

    // While the fault is there they come back, with other ids.
    assert_eq!(
        settle(&host, name, "redrive", &json!({ "ids": [id] }))["settled"],
        1
    );
    let again = listed(&host, name, 20);
    assert!(again.iter().all(|letter| letter["id"] != id), "{again:?}");
    let gone = host.admin().get(&target);
    assert_eq!(gone.status, 404, "{gone:?}");

    host.deploy(&Component::misbehave(
        &manifest.clone().setting("fixed", "yes"),
    ));
    // Two at once: each event goes back once.
    let all = json!({ "all": true });
    let target = format!("/v1/services/{name}/dead-letters/redrive");
    let both = thread::scope(|scope| {
        let post = || host.admin().post_json(&target, all.to_string());
        let one = scope.spawn(post);
        (post(), one.join().unwrap())
    });
    let settled = |reply: &tidemill_tests::Reply| match reply.status {
        200 => reply.json()["settled"].as_u64().unwrap(),
        // Fenced off by the other.
        _ => 0,
    };
    assert!(settled(&both.0) + settled(&both.1) <= 20, "{both:?}");
    settle(&host, name, "redrive", &all);
    let seen = handled(&host, name, 20);
    let mut values: Vec<&str> = seen
        .iter()
        .map(|row| row.split_once("value=").unwrap().1)
        .collect();
    values.sort_unstable();
    let expected = |number: usize| format!("\"unless {number}\" attempt=1");
    assert!(
        (0..5).all(|number| values[number * 4..number * 4 + 4] == vec![expected(number); 4]),
        "{values:?}"
    );
    listed(&host, name, 0);
    // The neighbour has passed over what was not for it.
    eventually("the neighbour has read all", || {
        let shown = host.service(&neighbour.name);
        if shown["lag"] == 0 {
            Ok(())
        } else {
            Err(shown)
        }
    });
    assert_eq!(rows(&host, &neighbour.name).len(), 20);
    // The topic gives its space back.
    assert_eq!(written(&topics, name), []);
}

#[test]
fn dead_letters_are_listed_by_pages_and_dropped() {
    let kafka = Kafka::shared();
    let manifest = service("dropped");
    let name = &manifest.name;
    let host = host(kafka, &manifest);
    for number in 0..5 {
        let value = format!("reject {number}");
        kafka
            .topics()
            .write(name, 0, Some(b"\xff"), Some(value.as_bytes()), &[]);
    }
    listed(&host, name, 5);
    let page = |query: &str| {
        let target = format!("/v1/services/{name}/dead-letters?{query}");
        host.admin().get(&target).expect(200).json()
    };
    let first = page("limit=2");
    assert_eq!((&first["total"], &first["more"]), (&json!(5), &json!(true)));
    assert_eq!(first["letters"][0]["key"], json!({ "base64": "/w==" }));
    let last = first["letters"][1]["id"].as_str().unwrap();
    let second = page(&format!("after={last}"));
    assert_eq!(second["letters"].as_array().unwrap().len(), 3);
    assert_eq!(second["more"], false);

    assert_eq!(
        settle(&host, name, "drop", &json!({ "ids": [last] })),
        json!({ "settled": 1, "left": 4 })
    );
    let all = json!({ "all": true });
    for (which, status) in [
        (json!({ "ids": [last] }), 404),
        (json!({ "ids": ["x"] }), 422),
        (json!({}), 422),
        (json!({ "ids": [last], "all": true }), 422),
        (json!({ "id": [last] }), 422),
    ] {
        let target = format!("/v1/services/{name}/dead-letters/drop");
        host.admin()
            .post_json(&target, which.to_string())
            .problem(status);
    }
    assert_eq!(
        settle(&host, name, "drop", &all),
        json!({ "settled": 4, "left": 0 })
    );
    assert_eq!(
        settle(&host, name, "redrive", &all),
        json!({ "settled": 0, "left": 0 })
    );
    assert_eq!(rows(&host, name), Vec::<String>::new());
}

#[test]
fn the_embedded_broker_has_dead_letters_too() {
    let manifest = service("embedded").retry("attempts", "2");
    let name = &manifest.name;
    let host = Host::embedded([Component::misbehave(&manifest)]);
    host.topics().write(name, 0, None, Some(b"unless"), &[]);
    host.topics().write(name, 0, None, Some(b"behind"), &[]);
    handled(&host, name, 1);
    listed(&host, name, 1);
    host.deploy(&Component::misbehave(
        &manifest.clone().setting("fixed", "yes"),
    ));
    settle(&host, name, "redrive", &json!({ "all": true }));
    handled(&host, name, 2);
    listed(&host, name, 0);
}

#[test]
fn a_replay_writes_no_dead_letters() {
    let kafka = Kafka::shared();
    let manifest = service("replayed");
    let name = &manifest.name;
    let host = host(kafka, &manifest);
    for value in ["one", "reject", "two"] {
        kafka
            .topics()
            .write(name, 0, None, Some(value.as_bytes()), &[]);
    }
    handled(&host, name, 2);
    listed(&host, name, 1);
    let target = format!("/v1/services/{name}/replay");
    let _ = host.admin().post_json(&target, "{}").expect(200);
    eventually("the replay is done", || {
        let replay = host.admin().get(&target).expect(200).json();
        if replay["done"] == true {
            Ok(())
        } else {
            Err(replay)
        }
    });
    handled(&host, name, 2);
    listed(&host, name, 1);
}
