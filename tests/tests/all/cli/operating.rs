//! The commands for dead letters, pauses and offsets.

use serde_json::Value;
use tidemill_tests::{Component, Host, Kafka, Manifest, eventually, unique};

use super::json;

/// Runs a command that has to succeed.
fn cli(host: &Host, arguments: &[&str]) -> String {
    let (worked, output, error) = host.cli(arguments);
    assert!(worked, "{arguments:?}\n{output}{error}");
    output
}

/// Runs a command that has to fail, and gives what it says.
fn refused(host: &Host, arguments: &[&str]) -> String {
    let (worked, output, error) = host.cli(arguments);
    assert!(!worked, "{arguments:?}\n{output}{error}");
    error
}

/// The ids of a service's dead letters, when there are so many.
fn dead_letters(host: &Host, name: &str, count: usize) -> Vec<String> {
    eventually("there are dead letters", || {
        let list = json(&cli(host, &["dead-letters", name, "--json"]));
        let letters = list["letters"].as_array().unwrap();
        let ids = letters.iter().map(|one| one["id"].as_str().unwrap());
        let ids: Vec<String> = ids.map(str::to_owned).collect();
        if ids.len() == count {
            Ok(ids)
        } else {
            Err(list)
        }
    })
}

fn status(host: &Host, name: &str) -> Value {
    json(&cli(host, &["services", name, "--json"]))["status"].clone()
}

fn handled(host: &Host, name: &str, count: usize) -> Vec<String> {
    eventually("the events are handled", || {
        let reply = host.http().get(&format!("/{name}/rows")).expect(200);
        let rows: Vec<String> = reply.text().lines().map(str::to_owned).collect();
        if rows.len() == count {
            Ok(rows)
        } else {
            Err(rows)
        }
    })
}

#[test]
fn dead_letters_are_listed_and_shown_without_steering_the_terminal() {
    let name = unique("letters");
    let host = Host::embedded([Component::misbehave(&Manifest::new(&name))]);
    let none = cli(&host, &["dead-letters", &name]);
    assert_eq!(none, format!("{name} has no dead letters.\n"));

    let value = b"reject \x1b]0;owned\x07";
    let headers = [("source", Some(&b"desk"[..]))];
    let topics = host.topics();
    topics.write(&name, 1, Some(b"seven"), Some(value), &headers);
    let first = &dead_letters(&host, &name, 1)[0];
    topics.write(&name, 1, None, Some(b"reject \xff"), &[]);
    let both = dead_letters(&host, &name, 2);
    assert_eq!(&both[0], first, "the oldest is first");

    let list = cli(&host, &["dead-letter", &name, "--limit", "1"]);
    let line = list.lines().nth(1).unwrap();
    for part in [first, &format!("{name}/1@0"), "seven", "reject"] {
        assert!(line.contains(part), "{part:?} is not in {list}");
    }
    let behind = cli(&host, &["dead-letters", &name, "--after", first]);
    assert!(behind.contains(&both[1]) && !behind.contains("seven"));

    let show = |arguments: &[&str]| {
        let mut all = vec!["dead-letters", &name, "show"];
        all.extend(arguments);
        host.cli(&all)
    };
    let (worked, shown, _) = show(&[first]);
    assert!(worked && shown.contains("source: desk"), "{shown}");
    assert!(shown.contains("reject \\u001b]0;owned\\u0007\n"), "{shown}");
    assert!(!shown.contains('\x1b'), "{shown:?}");
    let (_, raw, _) = show(&[first, "--raw"]);
    assert_eq!(raw.as_bytes(), value);
    let (_, hex, _) = show(&[&both[1]]);
    assert!(hex.contains("72 65 6a 65 63 74 20 ff"), "{hex}");
    let (_, whole, _) = show(&[first, "--json"]);
    assert_eq!(json(&whole)["headers"][0][1]["text"], "desk");
    let (worked, _, error) = show(&["0@999"]);
    assert!(!worked && error.contains("there is no dead letter 0@999"));
}

#[test]
fn dead_letters_are_sent_back_and_dropped() {
    let name = unique("back");
    let component = Component::misbehave(&Manifest::new(&name));
    let host = Host::embedded([component.clone()]);
    // Rejected the second time too: sent back, it is a new dead letter.
    for _ in 0..2 {
        host.topics()
            .write(&name, 0, Some(b"key"), Some(b"reject"), &[]);
    }
    let old = dead_letters(&host, &name, 2);
    let said = cli(&host, &["dead-letters", &name, "redrive", &old[0]]);
    assert!(said.starts_with("Sent back 1 dead letter"), "{said}");
    let new = eventually("it is a dead letter again", || {
        let now = dead_letters(&host, &name, 2);
        if now[0] == old[1] { Ok(now) } else { Err(now) }
    });
    let said = refused(&host, &["dead-letters", &name, "redrive", &old[0]]);
    assert!(said.contains(&old[0]), "{said}");

    // Nobody can be asked here.
    let said = refused(&host, &["dead-letters", &name, "drop", &new[0]]);
    assert!(said.contains("--yes"), "{said}");
    assert_eq!(dead_letters(&host, &name, 2), new);
    let dropping = ["dead-letters", &name, "drop", "--all", "--yes", "--json"];
    let settled = json(&cli(&host, &dropping));
    assert_eq!(
        (&settled["settled"], &settled["left"]),
        (&2.into(), &0.into())
    );
    assert!(dead_letters(&host, &name, 0).is_empty());
    let again = cli(&host, &["dead-letters", &name, "redrive", "--all"]);
    assert_eq!(again, format!("{name} has no dead letters.\n"));
}

#[test]
fn a_paused_service_consumes_nothing_and_answers_until_it_is_resumed() {
    let name = unique("paused");
    let host = Host::embedded([Component::misbehave(&Manifest::new(&name))]);
    let said = cli(&host, &["pause", &name]);
    assert!(said.starts_with(&format!("Paused {name} on ")), "{said}");
    // The command has waited until it is so.
    assert_eq!(status(&host, &name), "paused");
    assert!(cli(&host, &["services"]).contains("paused"));
    host.topics().write(&name, 0, None, Some(b"event"), &[]);
    assert!(cli(&host, &["pause", &name]).contains("was paused already"));
    assert_eq!(handled(&host, &name, 0), [""; 0]);
    cli(&host, &["resume", &name]);
    handled(&host, &name, 1);
}

#[test]
fn an_event_that_stops_its_partition_is_passed_over_by_an_offset() {
    let name = unique("poison");
    let manifest = Manifest::new(&name).retry("on-exhausted", "\"stop\"");
    let component = Component::misbehave(&manifest);
    let kafka = Kafka::shared();
    let topics = kafka.topics();
    topics.create(&name, 1);
    topics.write_all(&name, 0, &["first", "reject", "last"]);
    let host = Host::builder().kafka(kafka).deploy([component]).ready();
    eventually("it is blocked", || match status(&host, &name) {
        status if status == "blocked" => Ok(()),
        status => Err(status),
    });
    eventually("what is before it is committed", || {
        match topics.committed(&name, &name, 0) {
            Some(1) => Ok(()),
            other => Err(other),
        }
    });
    let shown = cli(&host, &["offsets", &name]);
    let line = shown.lines().last().unwrap();
    let columns: Vec<&str> = line.split_whitespace().take(5).collect();
    assert_eq!(columns, [&*format!("{name}/0"), "0", "1", "3", "2"]);

    let place = ["--topic", &name, "--partition", "0"];
    let reset = |to: &[&str]| {
        let arguments = [&["offsets", &name, "--reset"][..], to, &place].concat();
        host.cli(&arguments)
    };
    let (worked, plan, _) = reset(&["+1", "--dry-run"]);
    assert!(worked && plan.contains("1 record passed over"), "{plan}");
    assert!(plan.contains("has state, which is not changed"), "{plan}");
    let (worked, _, error) = reset(&["+1", "--yes"]);
    assert!(!worked && error.contains("tidemill pause"), "{error}");
    cli(&host, &["pause", &name]);
    let (worked, _, error) = reset(&["+1"]);
    assert!(!worked && error.contains("--yes"), "{error}");
    let (_, back, _) = reset(&["-5", "--dry-run", "--json"]);
    assert_eq!(json(&back)["partitions"][0]["skipped"], -1);
    let (_, back, _) = reset(&["2000-01-01", "--dry-run", "--json"]);
    assert_eq!(json(&back)["partitions"][0]["to"], 0);
    assert_eq!(topics.committed(&name, &name, 0), Some(1));

    let (worked, said, error) = reset(&["+1", "--yes"]);
    assert!(worked, "{said}{error}");
    assert_eq!(topics.committed(&name, &name, 0), Some(2));
    cli(&host, &["resume", &name]);
    let rows = handled(&host, &name, 2);
    assert!(rows[1].contains("value=\"last\""), "{rows:?}");
}

#[test]
fn dead_letters_of_a_real_kafka_are_sent_back_to_a_revision_that_takes_them() {
    let name = unique("mended");
    let kafka = Kafka::shared();
    kafka.topics().create(&name, 1);
    let manifest = Manifest::new(&name);
    let broken = Component::misbehave(&manifest.clone().retry("on", "[]"));
    let host = Host::builder().kafka(kafka).deploy([broken]).ready();
    let unless = ["unless 1", "unless 2", "fine", "unless 3"];
    kafka.topics().write_all(&name, 0, &unless);
    dead_letters(&host, &name, 3);
    handled(&host, &name, 1);
    host.deploy(&Component::misbehave(&manifest.setting("fixed", "yes")));
    let said = cli(&host, &["dead-letters", &name, "redrive", "--all"]);
    assert!(said.contains("3 dead letters"), "{said}");
    assert!(said.contains("None is left"), "{said}");
    let rows = handled(&host, &name, 4);
    let values: Vec<&str> = rows
        .iter()
        .map(|row| row.split_once("value=").unwrap().1)
        .collect();
    let first = "attempt=1";
    assert_eq!(
        values,
        [
            format!("\"fine\" {first}"),
            format!("\"unless 1\" {first}"),
            format!("\"unless 2\" {first}"),
            format!("\"unless 3\" {first}"),
        ]
    );
    assert!(dead_letters(&host, &name, 0).is_empty());
}
