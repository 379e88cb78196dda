//! Operators' hands on a service's group: pausing it, and setting where it goes
//! on; and what happens when that offset is gone.

use serde_json::{Value, json};
use tidemill_tests::{Counting, Host, Kafka, Reply, eventually};

fn post(host: &Host, name: &str, what: &str, body: &Value) -> Reply {
    let target = format!("/v1/services/{name}/{what}");
    host.admin().post_json(&target, body.to_string())
}

fn pause(host: &Host, name: &str) {
    let _ = post(host, name, "pause", &json!({})).expect(200);
    eventually("it is paused, and out of its group", || {
        let shown = host.service(name);
        let here = shown["partitions"].as_array().unwrap().iter();
        match shown["status"] == "paused" && here.clone().all(|one| one["here"] == false) {
            true => Ok(()),
            false => Err(shown),
        }
    });
}

fn resume(host: &Host, name: &str) {
    let _ = post(host, name, "resume", &json!({})).expect(200);
}

/// Sets offsets, and gives what was done in each partition: from, to, skipped.
fn reset(host: &Host, name: &str, request: &Value) -> Vec<(i64, i64, i64)> {
    let done = post(host, name, "offsets", request).expect(200).json();
    let partitions = done["partitions"].as_array().unwrap().iter();
    let number = |one: &Value, key: &str| one[key].as_i64().unwrap();
    partitions
        .map(|one| {
            (
                number(one, "from"),
                number(one, "to"),
                number(one, "skipped"),
            )
        })
        .collect()
}

fn total(counting: &Counting, host: &Host) -> u64 {
    counting.counts(host.http()).values().sum()
}

#[test]
fn a_paused_service_consumes_nothing_and_answers_until_it_is_resumed() {
    let counting = Counting::on(Kafka::shared(), "paused", 4);
    let name = &counting.name;
    let mut host = counting.host();
    counting.write(200);
    counting.is_exact([&host]);
    pause(&host, name);
    let answer = post(&host, name, "pause", &json!({})).expect(200).json();
    assert_eq!(
        answer,
        json!({ "name": name, "paused": true, "unchanged": true })
    );
    counting.write(200);
    // A deploy and a restart leave it as it is.
    host.deploy(
        &counting
            .clone()
            .with(|manifest| manifest.setting("x", "y"))
            .component(),
    );
    host.terminate();
    host.restart();
    host.ready();
    let shown = host.service(name);
    assert_eq!(
        (&shown["status"], &shown["lag"]),
        (&json!("paused"), &json!(200))
    );
    assert_eq!(total(&counting, &host), 200);
    resume(&host, name);
    counting.is_exact([&host]);
    assert_eq!(host.service(name)["status"], "running");
}

#[test]
fn a_pause_is_of_all_hosts_and_lasts_over_their_restarts() {
    let counting = Counting::on(Kafka::shared(), "shared", 4);
    let mut hosts = [counting.host(), counting.host()];
    counting.wait_for_shares(&hosts);
    pause(&hosts[0], &counting.name);
    eventually("the other host has left the group too", || {
        let service = hosts[1].service(&counting.name);
        match service["status"].as_str() {
            Some("paused") => Ok(()),
            _ => Err(service),
        }
    });
    counting.write(400);
    assert!(hosts[1].terminate().success());
    hosts[1].restart();
    hosts[1].ready();
    assert_eq!(counting.counted(hosts[1].http()), Some(0));
    resume(&hosts[1], &counting.name);
    counting.wait_for_shares(&hosts);
    counting.is_exact(&hosts);
    // What is consumed cannot be moved.
    let before = json!({ "to": "latest" });
    let said = post(&hosts[0], &counting.name, "offsets", &before).problem(409);
    assert!(said.contains("tidemill pause"), "{said}");
}

#[test]
fn a_group_goes_on_where_it_is_told_to() {
    let counting = Counting::on(Kafka::shared(), "told", 2);
    let name = &counting.name;
    let host = counting.host();
    counting.write(100);
    counting.is_exact([&host]);
    let to = |to: Value| json!({ "to": to });
    // Not while it is consumed.
    let said = post(&host, name, "offsets", &to(json!("earliest"))).problem(409);
    assert!(said.contains("tidemill pause"), "{said}");
    pause(&host, name);

    // A dry run changes nothing.
    let shown = || {
        host.admin()
            .get(&format!("/v1/services/{name}/offsets"))
            .expect(200)
            .json()
    };
    let before = shown();
    let ends: Vec<i64> = before["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["committed"].as_i64().unwrap())
        .collect();
    let dry = post(
        &host,
        name,
        "offsets",
        &json!({ "to": "earliest", "dry_run": true }),
    )
    .expect(200)
    .json();
    assert_eq!((&dry["done"], &dry["state"]), (&json!(false), &json!(true)));
    assert_eq!(dry["partitions"][0]["to"], 0);
    assert_eq!(dry["partitions"][0]["skipped"], -ends[0]);
    assert_eq!(shown(), before);

    // Back: what is run again counts again, since the state is as it is.
    let done = reset(&host, name, &to(json!("earliest")));
    assert_eq!(done, [(ends[0], 0, -ends[0]), (ends[1], 0, -ends[1])]);
    resume(&host, name);
    eventually("all are counted again", || match total(&counting, &host) {
        200 => Ok(()),
        total => Err(total),
    });

    // On: what is passed over is never counted.
    pause(&host, name);
    counting.write(100);
    reset(&host, name, &to(json!("latest")));
    resume(&host, name);
    counting.write(100);
    eventually("only the last are counted", || {
        match total(&counting, &host) {
            300 => Ok(()),
            total => Err(total),
        }
    });

    // One partition, by number and by offset; both bounded by what there is.
    pause(&host, name);
    let one = |to: Value| json!({ "to": to, "topic": counting.input, "partition": 1 });
    let now = reset(&host, name, &one(json!({ "by": -7 })));
    assert_eq!(now[0].2, -7, "{now:?}");
    let far = reset(&host, name, &one(json!({ "offset": 1_000_000 })));
    assert_eq!(far[0].1 - far[0].0, 7, "{far:?}");
    let year_2000 = json!({ "time": 946_684_800_000_i64 });
    assert_eq!(reset(&host, name, &one(year_2000))[0].1, 0);
    let year_2100 = json!({ "time": 4_102_444_800_000_i64 });
    assert_eq!(reset(&host, name, &one(year_2100))[0].1, far[0].1);
    resume(&host, name);
    counting.write(100);
    eventually("it goes on", || match total(&counting, &host) {
        400 => Ok(()),
        total => Err(total),
    });

    for (request, status) in [
        (json!({}), 422),
        (json!({ "to": "middle" }), 422),
        (json!({ "to": "latest", "partitions": 1 }), 422),
        (json!({ "to": "latest", "topic": "other" }), 404),
        (json!({ "to": "latest", "partition": 2 }), 404),
    ] {
        post(&host, name, "offsets", &request).problem(status);
    }
}

#[test]
fn a_partition_that_has_stopped_goes_on_behind_its_event_when_it_is_told_to() {
    let counting = Counting::on(Kafka::shared(), "stopped", 1).with(|manifest| {
        manifest
            .setting("reject", "key-5")
            .retry("on-exhausted", "\"stop\"")
    });
    let name = &counting.name;
    let host = counting.host();
    counting.write(20);
    eventually("it stops at the sixth event", || {
        let shown = host.service(name);
        match shown["status"] == "blocked" && shown["partitions"][0]["position"] == 5 {
            true => Ok(()),
            false => Err(shown),
        }
    });
    // Resuming tries it again.
    let tries = || host.log().matches("this event stops its partition").count();
    let before = tries();
    resume(&host, name);
    eventually("it is tried again", || {
        if tries() > before {
            Ok(())
        } else {
            Err(tries())
        }
    });
    pause(&host, name);
    assert_eq!(
        reset(&host, name, &json!({ "to": { "by": 1 } })),
        [(5, 6, 1)]
    );
    resume(&host, name);
    eventually("the others are counted", || match total(&counting, &host) {
        19 => Ok(()),
        total => Err(total),
    });
}

/// Has retention remove the first 60 of 100 events while nothing is consumed, when
/// 20 were, and goes on.
fn after_retention(policy: &str) -> (Counting, Host) {
    let counting = Counting::on(Kafka::shared(), policy, 1)
        .with(|manifest| manifest.subscription("out-of-range", &format!("{policy:?}")));
    let host = counting.host();
    counting.write(20);
    counting.is_exact([&host]);
    pause(&host, &counting.name);
    counting.write(80);
    let topics = counting.topics();
    // Markers of transactions: what was read is behind as many offsets.
    topics.remove_before(&counting.input, 0, 60);
    resume(&host, &counting.name);
    (counting, host)
}

fn lost(counting: &Counting, host: &Host) -> f64 {
    host.metric(
        "tidemill_events_lost_total",
        &[&format!("service=\"{}\"", counting.name)],
    )
}

#[test]
fn a_group_whose_events_are_gone_goes_on_at_the_first_that_is_left() {
    let (counting, host) = after_retention("earliest");
    counting.wait_until(&host, 20 + 40);
    assert!((lost(&counting, &host) - 40.0).abs() < 0.1);
    assert!(host.log().contains("removed by retention"));
}

#[test]
fn a_group_whose_events_are_gone_goes_on_with_the_next_one_if_it_is_to() {
    let (counting, host) = after_retention("latest");
    eventually("it has jumped", || {
        let shown = host.service(&counting.name);
        let lost = lost(&counting, &host);
        if shown["lag"] == 0 && lost > 0.0 {
            Ok(())
        } else {
            Err((shown, lost))
        }
    });
    assert!((lost(&counting, &host) - 80.0).abs() < 0.1);
    counting.write(10);
    counting.wait_until(&host, 20 + 10);
}

#[test]
fn a_group_whose_events_are_gone_stops_if_it_is_to_until_it_is_told_where_to_go_on() {
    let (counting, host) = after_retention("stop");
    let name = &counting.name;
    eventually("it stops", || {
        let shown = host.service(name);
        let error = shown["partitions"][0]["error"].as_str().unwrap_or_default();
        match shown["status"] == "blocked" && error.contains("tidemill offsets") {
            true => Ok(()),
            false => Err(shown),
        }
    });
    assert_eq!(total(&counting, &host), 20);
    pause(&host, name);
    reset(&host, name, &json!({ "to": "earliest" }));
    resume(&host, name);
    counting.wait_until(&host, 20 + 40);
}
