//! Starting and ending a host.

use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::{Client, Component, Host, Kafka, Manifest, eventually, unique};

use crate::Pair;

#[test]
fn sigterm_lets_what_runs_finish_and_leaves_with_0() {
    let mut pair = Pair::start("ends", |manifest| manifest);
    let target = pair.target("sleep?ms=1000");
    let address = pair.host.http().address().to_owned();
    let slow = thread::spawn(move || Client::at(&address).get(&target));
    thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    let status = pair.host.terminate();
    assert_eq!(status.code(), Some(0), "{}", pair.host.log());
    assert!(began.elapsed() < Duration::from_secs(10));
    let reply = slow.join().unwrap();
    assert_eq!((reply.status, reply.text()), (200, "slept"), "{reply:?}");
}

#[test]
fn a_service_whose_host_left_is_taken_over_at_once() {
    let kafka = Kafka::shared();
    let name = unique("handed-over");
    kafka.topics().create(&name, 4);
    let service = || Component::misbehave(&Manifest::new(&name));
    let mut first = Host::builder().kafka(kafka).deploy([service()]).ready();
    kafka.topics().write(&name, 0, None, Some(b"first"), &[]);
    eventually("the first host consumes", || {
        let committed = kafka.topics().committed(&name, &name, 0);
        if committed == Some(1) {
            Ok(())
        } else {
            Err(committed)
        }
    });
    assert_eq!(first.terminate().code(), Some(0));

    // The group was left: nobody waits for the first one's session to end.
    let began = Instant::now();
    let _second = Host::builder().kafka(kafka).deploy([service()]).ready();
    kafka.topics().write(&name, 0, None, Some(b"second"), &[]);
    eventually("the second host consumes", || {
        let committed = kafka.topics().committed(&name, &name, 0);
        if committed == Some(2) {
            Ok(())
        } else {
            Err(committed)
        }
    });
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn an_address_that_is_taken_is_said_with_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--http", "--admin"] {
        let mut host = Host::builder().arguments(&[flag, &address]).try_start();
        let status = host.process().wait();
        assert!(!status.success());
        assert!(host.log().contains(&address), "{}", host.log());
    }
}

#[test]
fn two_hosts_do_not_share_a_data_directory() {
    let first = Host::embedded([]);
    let folder = first.data_dir().display().to_string();
    let mut second = Host::builder()
        .arguments(&["--data-dir", &folder])
        .try_start();
    let status = second.process().wait();
    assert!(!status.success());
    assert!(second.log().contains(&folder), "{}", second.log());
    let _ = first.admin().get("/healthz").expect(200);
}

#[test]
fn the_embedded_broker_says_that_it_is_not_durable() {
    let host = Host::embedded([]);
    let log = host.log().to_lowercase();
    assert!(log.contains("embedded"), "{log}");
}

#[test]
fn a_host_is_ready_only_when_what_it_was_started_with_is_deployed() {
    let names = ["one", "two", "three"].map(unique);
    let services = names
        .each_ref()
        .map(|name| Component::misbehave(&Manifest::new(name)));
    let host = Host::builder().deploy(services).start();
    host.ready();
    for name in &names {
        let reply = host.http().get(&format!("/{name}/ok"));
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}
