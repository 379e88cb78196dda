//! What requests publish: all or none, and where it can be read.

use std::time::Instant;

use tidemill_tests::{Api, Client, Counting, Dice, Fault, Fleet, Kafka, Reply, eventually};

use super::long;

#[test]
fn events_of_one_request_are_published_all_or_none() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "all", 4);
    let extra = format!("{}-extra", counting.name);
    kafka.topics().create(&extra, 2);
    let counting = counting.with(|manifest| manifest.publish(&extra));
    let fleet = counting.hosts(2);
    let input = &*counting.input;
    let topics = [input, &extra, input, &extra, input];
    let mut dice = Dice::new(0x1234_5678_9abc_def1);
    let posted = counting.while_posting(&fleet, 4, &topics, || {
        for _ in 0..if long() { 40 } else { 4 } {
            std::thread::sleep(dice.time(300, 900));
            let victim = dice.throw(fleet.len());
            fleet.host(victim).kill9();
            fleet.restart(victim);
        }
    });
    let acknowledged: usize = posted.iter().map(|one| one.acknowledged.len()).sum();
    let others: usize = posted.iter().map(|one| one.others.len()).sum();
    println!("{acknowledged} requests acknowledged, {others} not");
    assert!(acknowledged > 0);
    counting.holds(&posted, &topics);
    counting.is_exact(&fleet.into_hosts());
}

#[test]
fn a_request_with_a_refused_event_publishes_nothing_and_harms_no_other() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "refused", 4);
    let forbidden = format!("{}-forbidden", counting.name);
    let small = format!("{}-small", counting.name);
    kafka.topics().create(&forbidden, 1);
    kafka.forbid(&forbidden);
    kafka
        .topics()
        // Room for a transaction's marker, which has 78 bytes, and for no more.
        .create_with(&small, 1, &[("max.message.bytes", "80")]);
    let long = "x".repeat(100);
    let counting = counting.with(|manifest| manifest.publish(&forbidden).publish(&small));
    let fleet = counting.hosts(1);
    let (target, input) = (format!("/{}", counting.name), counting.input.clone());
    let client = fleet.client(0);
    let posted = counting.while_posting(&fleet, 4, &[&input, &input], || {
        for number in 0..10 {
            for refusing in [&forbidden, &small] {
                let body =
                    format!("{input} a bad\n{input} b bad\n{refusing} c bad-{number}-{long}\n");
                let reply = client.post(&target, body);
                reply.problem(502);
                let kind = reply.json()["type"].as_str().unwrap().to_owned();
                assert!(kind.ends_with("publish-refused"), "{kind}");
            }
        }
    });
    // Those that shared transactions with them noticed nothing.
    assert!(posted.iter().all(|one| one.others.is_empty()), "{posted:?}");
    counting.holds(&posted, &[&input, &input]);
    let events = counting.topics().read(&input);
    assert!(events.iter().all(|event| event.text() != "bad"));
    counting.is_exact(&fleet.into_hosts());
}

#[test]
fn a_commit_that_was_done_and_answered_with_an_unknown_error_is_not_repeated() {
    let (kafka, proxy) = Kafka::proxied();
    let counting = Counting::on(&kafka, "unknown", 4);
    let fleet = Fleet::of([counting.builder().broker(proxy.address()).ready()]);
    counting.wait_for_shares([&*fleet.host(0)]);
    let input = &*counting.input;
    let posted = counting.while_posting(&fleet, 4, &[input, input], || {
        for _ in 0..if long() { 20 } else { 4 } {
            proxy.order(Api::EndTxn, Fault::DoneUnsaid, 3, 2);
            eventually("commits were answered so", || {
                match proxy.left(Api::EndTxn) {
                    0 => Ok(()),
                    left => Err(left),
                }
            });
        }
    });
    assert!(posted.iter().any(|one| !one.acknowledged.is_empty()));
    counting.holds(&posted, &[input, input]);
    counting.is_exact(&fleet.into_hosts());
}

const POSITION: &str = "tidemill-position";

fn post(counting: &Counting, client: &Client, body: &str) -> String {
    let reply = client.post(&format!("/{}", counting.name), body);
    let position = reply.expect(200).header(POSITION).to_owned();
    assert!(!position.is_empty());
    position
}

fn read(counting: &Counting, client: &Client, key: &str, position: &str) -> Reply {
    let target = format!("/{}/key/{key}", counting.name);
    client.send("GET", &target, &[(POSITION, position)], b"")
}

#[test]
fn a_read_with_a_position_sees_what_was_published_whichever_host_answers() {
    let counting = Counting::on(Kafka::shared(), "position", 4);
    let fleet = counting.hosts(2);
    let input = &counting.input;
    let began = Instant::now();
    let reads = if long() { 2_000 } else { 200 };
    for number in 1..=reads {
        let (writer, reader) = (fleet.client(number % 2), fleet.client((number + 1) % 2));
        let body = format!("{input} mine {number}\n{input} yours {number}\n");
        let position = post(&counting, &writer, &body);
        for key in ["mine", "yours"] {
            let reply = read(&counting, &reader, key, &position).expect(200);
            assert_eq!(reply.text(), number.to_string(), "{key}, {position}");
        }
    }
    println!(
        "a write and two reads of it: {:.1?}",
        began.elapsed() / u32::try_from(reads).unwrap()
    );
}

#[test]
fn a_position_that_is_not_reached_is_504_and_one_that_is_none_is_400() {
    let counting = Counting::on(Kafka::shared(), "beyond", 4);
    let host = counting.host();
    let client = host.http();
    let position = post(&counting, client, &format!("{} mine 1", counting.input));
    let began = Instant::now();
    let beyond = format!("{position}, {}/0@1000000", counting.input);
    let reply = read(&counting, client, "mine", &beyond);
    println!(
        "a position that is not reached: 504 after {:.1?}",
        began.elapsed()
    );
    reply.problem(504);
    let kind = reply.json()["type"].as_str().unwrap().to_owned();
    assert!(kind.ends_with("position-not-reached"), "{kind}");
    for malformed in ["x", "topic/0", "topic/x@1", "topic/0@-1", "topic/-1@0"] {
        let said = read(&counting, client, "mine", malformed).problem(400);
        assert!(said.contains(malformed), "{said}");
    }
    // What the service does not consume does not concern it.
    let other = format!("{position},another_topic/0@1000000");
    let reply = read(&counting, client, "mine", &other).expect(200);
    assert_eq!(reply.text(), "1");
}
