//! Events that are hard: large, with many headers, compressed, of any time, among
//! aborted ones, in topics that are made anew or go back.

use std::fs;

use tidemill_tests::{Component, Counting, Host, Kafka, Manifest, eventually, unique};

use super::taken_again;
use crate::exactly_once::{partitions, shows};

/// What a batch of one event has that is not its value, with a key of three bytes:
/// the batch's head (61), lengths, time and offset, the key, no headers.
const AROUND_A_VALUE: usize = 75;
/// The largest batch that a broker takes unless it is told otherwise.
const LARGEST_BATCH: usize = 1_048_588;

#[test]
fn events_as_large_as_the_broker_takes_are_counted_once_in_bounded_memory() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "large-events", 2);
    let raised = format!("{}-raised", counting.name);
    let limit = [("max.message.bytes", "20000000")];
    kafka.topics().create_with(&raised, 2, &limit);
    let counting = counting.with(|manifest| manifest.subscribe(&raised));
    let mut host = counting.host();
    let (topics, input) = (counting.topics(), &counting.input);
    // A key of three bytes, another in each partition.
    let write = |topic: &str, partition, value: &[u8], headers: &[(&str, Option<&[u8]>)]| {
        let key = format!("on{partition}");
        topics.try_write(topic, partition, Some(key.as_bytes()), Some(value), headers)
    };
    // To the byte.
    let largest = vec![b'x'; LARGEST_BATCH - AROUND_A_VALUE];
    write(input, 0, &largest, &[]).unwrap();
    let too_large = [&largest[..], b"x"].concat();
    write(input, 0, &too_large, &[]).unwrap_err();
    // As many headers as fit: few that are long, and many of three bytes each.
    let long: Vec<(&str, Option<&[u8]>)> = vec![("name", Some(&largest[..10_000])); 104];
    write(input, 1, b"long headers", &long).unwrap();
    let short: Vec<(&str, Option<&[u8]>)> = vec![("h", None); 349_000];
    write(input, 1, b"many headers", &short).unwrap();
    counting.is_exact([&host]);

    let before = memory(&mut host, "VmRSS");
    for number in 0..16 {
        write(&raised, number % 2, &vec![b'x'; 6 << 20], &[]).unwrap();
    }
    for _ in 0..12 {
        write(input, 1, b"many headers", &short).unwrap();
    }
    counting.is_exact([&host]);
    let grown = memory(&mut host, "VmHWM").saturating_sub(before) >> 20;
    println!("{grown} MiB more");
    assert!(grown < 400, "{grown} MiB");
}

/// What a host takes, or took at most, in bytes.
fn memory(host: &mut Host, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.process().id())).unwrap();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse::<u64>().unwrap() << 10
}

/// Now, a moment after the beginning of time, and far in the future, in ms.
const TIMES: [i64; 4] = [0, 1, 4_102_444_800_000, 253_402_300_800_000];

/// What a topic needs to take events of any time, and to keep those of 1970.
const ANY_TIME: [(&str, &str); 2] = [
    ("message.timestamp.after.max.ms", "9223372036854775807"),
    ("retention.ms", "-1"),
];

#[test]
fn compressed_events_of_any_time_among_aborted_ones_are_counted_once() {
    let kafka = Kafka::shared();
    let mut counting = Counting::on(kafka, "odd", 2);
    let input = format!("{}-any-time", counting.name);
    kafka.topics().create_with(&input, 2, &ANY_TIME);
    counting.manifest = counting.manifest.consumes(&[&input]);
    counting.input.clone_from(&input);
    let topics = counting.topics();
    let transaction = topics.transaction();
    let write = || {
        for codec in ["gzip", "snappy", "lz4", "zstd"] {
            for (number, time) in (0..).zip(TIMES) {
                let records: Vec<(String, String, i64)> = Counting::events(0, 100, 30)
                    .into_iter()
                    .map(|(key, value)| {
                        (format!("{key}-of-{}", number % 2), value.repeat(50), time)
                    })
                    .collect();
                topics.write_compressed(&input, number % 2, codec, &records);
                transaction.write(&input, Some(number % 2), b"aborted", b"aborted");
                transaction.abort();
            }
            transaction.write(&input, Some(0), b"committed", b"committed");
            transaction.commit();
        }
        // Nothing but markers at the end.
        transaction.write(&input, Some(1), b"aborted", b"aborted");
        transaction.abort();
    };
    write();
    // The first ones are gone before anybody came.
    topics.remove_before(&input, 0, 150);
    let mut host = counting.host();
    counting.is_exact([&host]);
    assert!(!counting.counts(host.http()).contains_key("aborted"));
    write();
    shows(&counting, &host, "there is nothing left to do", |service| {
        let mut all = partitions(service).iter();
        all.all(|one| one["lag"] == 0 && one["status"] == "running")
    });
    // What was removed is counted.
    let counted = counting.counted(host.http()).unwrap();
    host.kill9();
    host.restart();
    eventually("it reads", || match counting.counted(host.http()) {
        Some(found) if found == counted => Ok(()),
        found => Err(found),
    });
}

#[test]
fn a_poison_pill_among_hard_events_is_run_again_in_its_place() {
    let kafka = Kafka::shared();
    let name = unique("pills");
    let topics = kafka.topics();
    topics.create_with(&name, 4, &ANY_TIME);
    // One that fails twice, and what is before and behind it: in a compressed
    // batch, of odd times; among aborted events; with a value of null and a key
    // that is no text behind it; with headers as large as it may be.
    let events = |values: [&str; 3], time| {
        let events = values.map(|value| ("key".to_owned(), value.to_owned(), time));
        events.to_vec()
    };
    let pill = ["before", "until 3", "behind"];
    topics.write_compressed(&name, 0, "zstd", &events(pill, 1));
    topics.write_compressed(&name, 0, "lz4", &events(pill, TIMES[3]));
    let transaction = topics.transaction();
    for value in pill {
        transaction.write(&name, Some(1), b"key", b"aborted");
        transaction.abort();
        transaction.write(&name, Some(1), b"key", value.as_bytes());
        transaction.commit();
    }
    topics.write(&name, 2, Some(b"\xff\x00"), Some(b"until 3"), &[]);
    topics.write(&name, 2, Some(b"\xff\x00"), None, &[]);
    topics.write(&name, 2, None, None, &[]);
    let large = vec![b'x'; 1_000_000];
    let headers = [("large", Some(&large[..])), ("null", None)];
    for value in pill {
        topics.write(&name, 3, None, Some(value.as_bytes()), &headers);
    }
    let host = Host::builder()
        .kafka(kafka)
        .deploy([Component::misbehave(&Manifest::new(&name))])
        .ready();
    let rows = eventually("all are handled", || {
        let reply = host.http().get(&format!("/{name}/rows")).expect(200);
        let rows: Vec<String> = reply.text().lines().map(str::to_owned).collect();
        if rows.len() == 6 + 3 + 3 + 3 {
            Ok(rows)
        } else {
            Err(rows)
        }
    });
    for row in &rows {
        let expected = if row.contains("until 3") { 3 } else { 1 };
        assert!(row.ends_with(&format!("attempt={expected}")), "{row}");
    }
    // Each once, in order.
    for partition in 0..4 {
        let own = format!("{name} {partition} ");
        let own: Vec<&String> = rows.iter().filter(|row| row.starts_with(&own)).collect();
        for (count, row) in (1..).zip(&own) {
            assert!(row.contains(&format!(" count={count} ")), "{own:?}");
        }
    }
}

#[test]
fn a_topic_that_is_made_anew_is_not_taken_for_the_old_one() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "anew", 1);
    let mut host = counting.host();
    let topics = counting.topics();
    counting.write(400);
    counting.is_exact([&host]);
    topics.delete(&counting.input);
    shows(&counting, &host, "it says that it is gone", |service| {
        service["status"] != "running"
    });
    topics.create(&counting.input, 1);
    counting.write(100);
    let blocked = |host: &Host| {
        shows(
            &counting,
            host,
            "it says that it is another one",
            |service| {
                let error = partitions(service)
                    .iter()
                    .find_map(|one| one["error"].as_str());
                service["status"] == "blocked" && error.is_some_and(|why| why.contains("made anew"))
            },
        );
        assert_eq!(counting.counted(host.http()), Some(400));
    };
    blocked(&host);
    host.kill9();
    host.restart();
    blocked(&host);
    // The way out that it names.
    let other = Counting::on(kafka, "anew-again", 1);
    let other = other.with(|manifest| manifest.consumes(&[&counting.input]));
    host.deploy(&other.component());
    other.wait_until(&host, 100);
}

#[test]
#[ignore = "starts a broker three times: make chaos"]
fn a_broker_that_goes_back_to_a_backup_stops_a_service_until_it_is_started_again() {
    let kafka = Kafka::fresh();
    let counting = Counting::on(&kafka, "backup", 4);
    let mut host = counting.host();
    counting.write(200);
    counting.is_exact([&host]);
    kafka.stop();
    let backup = kafka.backup();
    kafka.start();
    host.ready();
    counting.write(200);
    counting.is_exact([&host]);
    kafka.stop();
    kafka.restore(&backup);
    kafka.start();
    host.ready();
    // What it has counted is not there any more: nothing is mixed into it.
    shows(&counting, &host, "it says so", |service| {
        service["status"] == "blocked"
    });
    assert_eq!(counting.counted(host.http()), Some(400));
    host.kill9();
    host.restart();
    // Events, offsets and changelog are as they were, and so is what is counted.
    eventually("it follows", || match counting.counted(host.http()) {
        Some(200) => Ok(()),
        other => Err((other, host.service(&counting.name))),
    });
    taken_again(host.http(), &counting);
    counting.write(200);
    counting.is_exact([&host]);
}
