//! What is logged: by guests with their levels, and by the host with stable names;
//! kept, shown and followed.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tidemill_tests::{Client, Host, Signal, eventually, tidemill, unique};

use crate::Pair;

/// The lines of a service that the admin API gives.
fn lines(host: &Host, name: &str, query: &str) -> Vec<Value> {
    let reply = host
        .admin()
        .get(&format!("/v1/services/{name}/logs?{query}"));
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    let lines = reply.text().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The lines that its guests wrote.
fn said(host: &Host, name: &str, query: &str) -> Vec<Value> {
    let lines = lines(host, name, query).into_iter();
    lines.filter(|line| line["event"] == "guest.line").collect()
}

/// A reader of a log that goes on.
struct Follower {
    lines: BufReader<TcpStream>,
}

impl Follower {
    fn of(admin: &Client, name: &str, query: &str) -> Follower {
        let mut stream = TcpStream::connect(admin.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        // HTTP/1.0: the body comes without chunks, up to the end.
        write!(
            stream,
            "GET /v1/services/{name}/logs?follow=true&{query} HTTP/1.0\r\nhost: localhost\r\n\r\n"
        )
        .unwrap();
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while lines.read_line(&mut head).unwrap() > 2 {}
        assert!(head.contains(" 200 "), "{head}");
        Follower { lines }
    }

    /// The next line; none at the end.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.lines.read_line(&mut line).unwrap() == 0 {
                return None;
            }
            if line != "\n" {
                return Some(serde_json::from_str(&line).unwrap());
            }
        }
    }

    /// Reads until a line has an event of that name.
    fn until(&mut self, event: &str) -> Value {
        loop {
            let line = self
                .next()
                .unwrap_or_else(|| panic!("it ended before {event}"));
            if line["event"] == event {
                return line;
            }
        }
    }
}

#[test]
fn a_guest_says_how_bad_a_line_is_and_for_what_it_was() {
    let pair = Pair::start("levels", |manifest| manifest);
    let body = concat!(
        "just text\n",
        r#"{"level":"WARN","message":"low","left":3}"#,
        "\n",
        r#"{"level":"error","msg":"gone"}"#,
    );
    let _ = pair.host.http().post(&pair.target("say"), body).expect(200);
    let shown: Vec<(String, String)> = said(&pair.host, &pair.name, "")
        .iter()
        .map(|line| {
            assert!(line["invocation"].as_str().unwrap().starts_with("request/"));
            assert_eq!(line["stream"], "stdout");
            assert_eq!(line["service"], pair.name.as_str());
            assert_eq!(line["revision"].as_str().unwrap().len(), 12);
            let text = |name: &str| line[name].as_str().unwrap().to_owned();
            (text("level"), text("message"))
        })
        .collect();
    let expected = [("info", "just text"), ("warn", "low"), ("error", "gone")];
    assert_eq!(shown, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    let worse = said(&pair.host, &pair.name, "level=warn&tail=5");
    assert_eq!(worse.len(), 2);
    assert_eq!(worse[0]["fields"]["left"], 3);
    // The neighbour's log has nothing of it.
    assert_eq!(said(&pair.host, &pair.neighbour, "").len(), 0);
    pair.both_serve();
}

#[test]
fn a_line_of_an_event_names_the_events_place() {
    let topic = unique("said");
    let pair = Pair::start("event-lines", |manifest| manifest.subscribe(&topic));
    let topics = pair.host.topics();
    topics.write_all(&topic, 0, &["say hello"]);
    eventually("the line is there", || {
        let lines = said(&pair.host, &pair.name, "");
        let place = lines.first().and_then(|line| line["invocation"].as_str());
        match place {
            Some(place) if place.starts_with(&topic) && place.ends_with("@0") => Ok(()),
            _ => Err(lines),
        }
    });
}

#[test]
fn a_guest_that_logs_without_end_is_cut_short_and_it_is_said() {
    let pair = Pair::start("flood", |manifest| manifest);
    let mut dropped = 0.0;
    while dropped == 0.0 {
        let target = pair.target("say?n=2000");
        let _ = pair.host.http().post(&target, [b'x'; 400]).expect(200);
        let labels = [pair.name.as_str()];
        dropped = pair
            .host
            .metric("tidemill_guest_lines_dropped_total", &labels);
    }
    let notes = lines(&pair.host, &pair.name, "level=warn");
    let note = notes.iter().find(|line| line["event"] == "guest.dropped");
    assert!(note.is_some(), "{notes:?}");
    // The neighbour may log as much as ever.
    let target = format!("/{}/say", pair.neighbour);
    let _ = pair.host.http().post(&target, "hello").expect(200);
    assert_eq!(said(&pair.host, &pair.neighbour, "").len(), 1);
    pair.both_serve();
}

#[test]
fn a_log_is_followed_until_its_service_is_removed() {
    let pair = Pair::start("followed", |manifest| manifest);
    let mut follower = Follower::of(pair.host.admin(), &pair.name, "");
    assert_eq!(follower.until("deploy.done")["service"], pair.name.as_str());
    for text in ["one", "two"] {
        let _ = pair.host.http().post(&pair.target("say"), text).expect(200);
        assert_eq!(follower.until("guest.line")["message"], text);
    }
    let path = format!("/v1/services/{}", pair.name);
    let _ = pair
        .host
        .admin()
        .send("DELETE", &path, &[], b"")
        .expect(200);
    follower.until("service.removed");
    assert_eq!(
        follower.until("logs.end")["message"],
        "the service was removed"
    );
    assert_eq!(follower.next(), None);
    let _ = pair.host.admin().get(&format!("{path}/logs")).expect(404);
    // Nor has it metrics any more.
    let page = pair.host.admin().get("/metrics").expect(200);
    assert!(!page.text().contains(&pair.name), "{}", page.text());
    pair.neighbour_serves();
}

#[test]
fn invocations_are_lines_for_who_follows_them() {
    let topic = unique("watched");
    let pair = Pair::start("watched", |manifest| manifest.subscribe(&topic));
    let logs = format!("/v1/services/{}/logs", pair.name);
    let unfollowed = pair.host.admin().get(&format!("{logs}?invocations=true"));
    assert_eq!(unfollowed.status, 400, "they are not kept");
    let mut plain = Follower::of(pair.host.admin(), &pair.name, "tail=0");
    let mut follower = Follower::of(pair.host.admin(), &pair.name, "tail=0&invocations=true");

    let target = pair.target("say?q=1");
    let _ = pair.host.http().post(&target, "hello").expect(200);
    // What it logged comes first.
    assert_eq!(follower.next().unwrap()["event"], "guest.line");
    let request = follower.next().unwrap();
    assert_eq!(request["event"], "request.answered");
    assert_eq!(
        (&request["method"], &request["target"], &request["status"]),
        (&"POST".into(), &target.into(), &200.into())
    );
    assert_eq!(request["service"], pair.name.as_str());
    assert!(request["duration_us"].as_u64().unwrap() > 0);

    pair.host
        .topics()
        .write_all(&topic, 0, &["say hello", "reject"]);
    let event = follower.until("event.ran");
    assert_eq!(
        (&event["offset"], &event["outcome"], &event["attempt"]),
        (&0.into(), &"ok".into(), &1.into())
    );
    let event = follower.until("event.ran");
    assert_eq!(
        (&event["offset"], &event["outcome"], &event["level"]),
        (&1.into(), &"reject".into(), &"warn".into())
    );
    // Who did not ask for them gets none.
    assert_eq!(plain.next().unwrap()["event"], "guest.line");
    assert_eq!(plain.next().unwrap()["event"], "guest.line");
    assert_eq!(plain.next().unwrap()["event"], "event.dead-lettered");
    pair.neighbour_serves();
}

#[test]
fn who_follows_does_not_hold_up_the_end_of_the_host() {
    let mut pair = Pair::start("ending", |manifest| manifest);
    let mut follower = Follower::of(pair.host.admin(), &pair.name, "tail=0");
    let status = pair.host.terminate();
    assert_eq!(status.code(), Some(0), "{}", pair.host.log());
    assert_eq!(follower.until("logs.end")["message"], "the host stops");
    assert_eq!(follower.next(), None);
}

#[test]
fn a_reader_that_reads_nothing_loses_lines_and_holds_nothing_up() {
    let pair = Pair::start("slow", |manifest| manifest);
    let mut follower = Follower::of(pair.host.admin(), &pair.name, "tail=0");
    // More than the connection's buffers and the kept lines hold. The path is in
    // the host's line about a failed request.
    let failing = format!("/{}/{}/trap", pair.name, "x".repeat(16 << 10));
    for _ in 0..800 {
        let _ = pair.host.http().get(&failing).expect(500);
    }
    let lost = follower.until("logs.lost");
    assert_eq!(lost["level"], "warn");
    assert!(lost["lost"].as_u64().unwrap() > 0, "{lost}");
    pair.both_serve();
}

#[test]
fn the_command_shows_lines_and_follows_until_the_end() {
    let pair = Pair::start("shown", |manifest| manifest);
    let text = r#"{"level":"warn","message":"low","left":3}"#;
    let _ = pair.host.http().post(&pair.target("say"), text).expect(200);
    let (ok, out, err) = pair.host.cli(&["logs", &pair.name, "--level", "warn"]);
    assert!(ok, "{err}");
    assert!(out.contains(" WARN low invocation=request/"), "{out}");
    assert!(out.trim_end().ends_with("left=3"), "{out}");
    assert!(!out.contains('\u{1b}'), "no colours into a pipe: {out:?}");
    let (ok, out, _) = pair.host.cli(&["logs", &pair.name, "--json", "--tail=1"]);
    let line: Value = serde_json::from_str(&out).unwrap();
    assert!(ok && line["message"] == "low", "{out}");

    let (ok, _, err) = pair.host.cli(&["logs", "nobody"]);
    assert!(!ok && err.contains("nobody"), "{err}");

    let mut following = Command::new(tidemill())
        .args(["logs", &pair.name, "--follow", "--tail=1"])
        .env("TIDEMILL_ADMIN", pair.host.admin().address())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(following.stdout.take().unwrap()).lines();
    assert!(out.next().unwrap().unwrap().contains("low"));
    let _ = pair
        .host
        .http()
        .post(&pair.target("say"), "more")
        .expect(200);
    assert!(out.next().unwrap().unwrap().contains("more"));
    let path = format!("/v1/services/{}", pair.name);
    let _ = pair
        .host
        .admin()
        .send("DELETE", &path, &[], b"")
        .expect(200);
    let rest: Vec<String> = out.map(Result::unwrap).collect();
    assert!(
        rest.last().unwrap().contains("the service was removed"),
        "{rest:?}"
    );
    assert_eq!(following.wait().unwrap().code(), Some(0));
}

#[test]
fn following_ends_with_ctrl_c() {
    let pair = Pair::start("interrupted", |manifest| manifest);
    let mut following = Command::new(tidemill())
        .args(["logs", &pair.name, "--follow"])
        .env("TIDEMILL_ADMIN", pair.host.admin().address())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(following.stdout.take().unwrap()).lines();
    assert!(out.next().unwrap().unwrap().contains("deployed"));
    let pid = rustix::process::Pid::from_child(&following);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    let _ = following.wait().unwrap();
    let rest: Vec<String> = out.map(Result::unwrap).collect();
    assert!(
        rest.iter().all(|line| line.contains(" tidemill: ")),
        "{rest:?}"
    );
    pair.both_serve();
}
