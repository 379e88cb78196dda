//! What `/metrics` says of what was done.

use tidemill_tests::{Component, Host, Kafka, Manifest, eventually, unique};

use crate::Pair;

#[test]
fn each_request_is_counted_once_where_it_belongs() {
    let pair = Pair::start("counted", |manifest| manifest);
    let host = &pair.host;
    for _ in 0..3 {
        let _ = host.http().get(&pair.target("ok")).expect(200);
    }
    let _ = host.http().get(&pair.target("trap")).expect(500);
    let _ = host.http().get("/nowhere").expect(404);
    let named = format!("service=\"{}\"", pair.name);
    let of = |name: &str, label: &str| host.metric(name, &[&named, label]);
    assert_eq!(of("tidemill_request_duration_seconds_count", ""), 4.0);
    assert_eq!(of("tidemill_responses_total", "2xx"), 3.0);
    assert_eq!(of("tidemill_requests_refused_total", "handler-failed"), 1.0);
    assert_eq!(of("tidemill_invocations_running", ""), 0.0);
    assert_eq!(of("tidemill_invocations_waiting", ""), 0.0);
    let unrouted = ["service=\"\"", "no-route"];
    assert_eq!(
        host.metric("tidemill_requests_refused_total", &unrouted),
        1.0
    );
    let neighbour = format!("service=\"{}\"", pair.neighbour);
    assert_eq!(host.metric("tidemill_responses_total", &[&neighbour]), 0.0);
}

#[test]
fn what_runs_and_what_waits_is_seen() {
    let pair = Pair::start("seen", |manifest| manifest.limit("concurrency", "1"));
    let named = format!("service=\"{}\"", pair.name);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                pair.host
                    .http()
                    .get(&pair.target("sleep?ms=600"))
                    .expect(200)
            });
        }
        eventually("one runs and one waits", || {
            let of = |name: &str| pair.host.metric(name, &[&named]);
            let now = [
                of("tidemill_invocations_running"),
                of("tidemill_invocations_waiting"),
            ];
            if now == [1.0, 1.0] { Ok(()) } else { Err(now) }
        });
    });
}

#[test]
fn the_host_says_what_it_is_made_of_and_what_it_takes() {
    let host = Host::embedded([]);
    let versions = ["version=\"0.", "wasmtime=\"4", "librdkafka=\"2."];
    assert_eq!(host.metric("tidemill_build_info", &versions), 1.0);
    for name in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_threads",
        "tidemill_tasks",
        "tidemill_workers",
        "tidemill_workers_busy_seconds_total",
        "tidemill_start_time_seconds",
    ] {
        assert!(host.metric(name, &[]) > 0.0, "{name}");
    }
    assert!(host.metric("tidemill_log_lines_total", &["info"]) > 0.0);
}

#[test]
fn a_transaction_of_events_is_timed_from_begin_to_commit() {
    let kafka = Kafka::shared();
    let name = unique("timed");
    let host = Host::builder()
        .kafka(kafka)
        .deploy([Component::misbehave(&Manifest::new(&name))])
        .ready();
    host.topics().write_all(&name, 0, &["ok"]);
    let of = |metric: &str| host.metric(metric, &[&format!("service=\"{name}\"")]);
    eventually("the event is committed", || {
        let count = of("tidemill_events_committed_total");
        if count == 1.0 { Ok(()) } else { Err(count) }
    });
    for metric in [
        "tidemill_transaction_duration_seconds",
        "tidemill_commit_wait_seconds",
        "tidemill_commit_duration_seconds",
    ] {
        assert_eq!(of(&format!("{metric}_count")), 1.0, "{metric}");
        assert!(of(&format!("{metric}_sum")) > 0.0, "{metric}");
    }
    assert!(of("tidemill_rebalances_total") >= 1.0);
    assert_eq!(of("tidemill_state_readable"), 1.0);
    eventually("nothing stands still", || {
        let stalled = of("tidemill_partition_stalled_seconds");
        if stalled == 0.0 { Ok(()) } else { Err(stalled) }
    });
}
