//! A broker that is away.

use std::time::{Duration, Instant};

use tidemill_tests::{Host, Kafka, eventually, seed};

#[test]
fn without_a_broker_reads_are_answered_and_writes_are_503_until_it_is_back() {
    let kafka = Kafka::fresh();
    let mut host = Host::builder()
        .kafka(&kafka)
        .deploy(["user", "order"].map(seed))
        .ready();
    let orders = |host: &Host| {
        let page = host.http().get("/orders").expect(200).json();
        page["orders"].as_array().unwrap().len()
    };
    let ordered = |host: &Host, count| {
        eventually("the user is ordered", || {
            let got = orders(host);
            if got == count { Ok(()) } else { Err(got) }
        });
    };
    let _ = host
        .http()
        .post_json("/users", r#"{"id":"u-1"}"#)
        .expect(200);
    ordered(&host, 1);

    kafka.stop();
    let began = Instant::now();
    host.http()
        .post_json("/users", r#"{"id":"u-2"}"#)
        .problem(503);
    assert!(began.elapsed() < Duration::from_secs(15), "bounded in time");
    assert_eq!(orders(&host), 1);
    let _ = host.admin().get("/healthz").expect(200);
    eventually("the host is not ready", || {
        let reply = host.admin().get("/readyz");
        if reply.status == 503 {
            Ok(())
        } else {
            Err(reply)
        }
    });

    // A host that starts meanwhile answers reads, from its own disk.
    host.kill9();
    host.restart();
    eventually("it reads", || {
        let reply = host.http().get("/orders/u-1");
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply)
        }
    });
    host.http()
        .post_json("/users", r#"{"id":"u-3"}"#)
        .problem(503);

    kafka.start();
    host.ready();
    eventually("writes are taken", || {
        let reply = host.http().post_json("/users", r#"{"id":"u-4"}"#);
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply)
        }
    });
    eventually("it is ordered", || {
        let reply = host.http().get("/orders/u-4");
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply)
        }
    });
    let page = host.http().get("/orders").expect(200).json();
    let ids: Vec<&str> = page["orders"]
        .as_array()
        .unwrap()
        .iter()
        .map(|order| order["id"].as_str().unwrap())
        .collect();
    let mut once = ids.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), ids.len(), "none twice: {ids:?}");
}

#[test]
fn without_a_broker_a_host_still_ends_soon_and_with_0() {
    let kafka = Kafka::fresh();
    let mut host = Host::builder()
        .kafka(&kafka)
        .deploy(["user", "order"].map(seed))
        .ready();
    kafka.stop();
    // Its client has seen by then that the broker is gone.
    host.http().post_json("/users", "{}").problem(503);
    let began = Instant::now();
    assert_eq!(host.terminate().code(), Some(0), "{}", host.log());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}
