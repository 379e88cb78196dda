//! Deploying while the host runs, and what is left after it has been ended.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::{Client, Component, Host, Kafka, Manifest, eventually, seed, unique};

use crate::Pair;

#[test]
fn a_redeploy_every_200_ms_under_load_fails_no_request_and_runs_both_revisions() {
    let user = seed("user");
    let other = {
        let toml = tidemill_manifest::embedded(&user.0).unwrap().unwrap();
        user.with(&format!("{toml}\n# another revision\n"))
    };
    let host = Host::embedded([user.clone(), seed("order")]);
    let over = AtomicBool::new(false);
    let revisions = Mutex::new(BTreeMap::<String, u64>::new());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let client = Client::at(host.http().address());
                while !over.load(Ordering::Relaxed) {
                    let reply = client.post_json("/users", r#"{"name":"Ada"}"#);
                    if reply.status != 200 {
                        over.store(true, Ordering::Relaxed);
                        panic!("{reply:?}");
                    }
                    let revision = reply.header("tidemill-revision").to_owned();
                    *revisions.lock().unwrap().entry(revision).or_default() += 1;
                }
            });
        }
        let until = Instant::now() + Duration::from_secs(10);
        let mut deploys = [&other, &user].into_iter().cycle();
        while Instant::now() < until && !over.load(Ordering::Relaxed) {
            let next = Instant::now() + Duration::from_millis(200);
            host.deploy(deploys.next().unwrap());
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        over.store(true, Ordering::Relaxed);
    });
    let revisions = revisions.into_inner().unwrap();
    assert_eq!(revisions.len(), 2, "{revisions:?}");
    assert!(
        revisions.keys().all(|revision| revision.len() == 12
            && revision.bytes().all(|byte| byte.is_ascii_hexdigit())),
        "{revisions:?}"
    );
}

#[test]
fn a_call_in_flight_ends_on_the_revision_it_began_on() {
    let pair = Pair::start("inflight", |manifest| manifest);
    let slow = thread::scope(|scope| {
        let slow = scope
            .spawn(|| Client::at(pair.host.http().address()).get(&pair.target("sleep?ms=1000")));
        thread::sleep(Duration::from_millis(200));
        let next = Manifest::new(&pair.name).setting("next", "yes");
        let deployed = pair.host.deploy(&Component::misbehave(&next));
        let after = pair.host.http().get(&pair.target("setting?key=next"));
        assert_eq!((after.status, after.text()), (200, "yes"));
        let revision = deployed["revision"].as_str().unwrap();
        let previous = deployed["previous"].as_str().unwrap().to_owned();
        assert!(revision.starts_with(after.header("tidemill-revision")));
        (slow.join().unwrap(), previous)
    });
    let (reply, previous) = slow;
    assert_eq!((reply.status, reply.text()), (200, "slept"), "{reply:?}");
    assert!(previous.starts_with(reply.header("tidemill-revision")));
}

#[test]
fn a_deploy_says_what_it_did() {
    let kafka = Kafka::shared();
    let host = Host::builder().kafka(kafka).ready();
    let name = unique("first");
    let out = unique("made");
    let manifest = Manifest::new(&name).publish(&out);
    let deployed = host.deploy(&Component::misbehave(&manifest));
    assert_eq!(deployed["name"], *name);
    assert_eq!(deployed["revision"].as_str().unwrap().len(), 64);
    assert!(deployed["previous"].is_null());
    assert_eq!(deployed["routes"][0], format!("/{name}"));
    assert_eq!(deployed["subscribes"][0], *name);
    assert_eq!(deployed["url"], format!("http://{}", host.http().address()));
    let mut created: Vec<&str> = deployed["created_topics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|topic| topic.as_str().unwrap())
        .collect();
    created.sort_unstable();
    let dead_letters = format!("{name}.dead-letter");
    assert_eq!(created, [name.as_str(), &dead_letters, out.as_str()]);
    assert!(kafka.topics().partitions(&name) > 0);
    assert!(kafka.topics().partitions(&out) > 0);

    // The same again changes nothing.
    let again = host.deploy(&Component::misbehave(&manifest));
    assert_eq!(again["revision"], deployed["revision"]);
    assert_eq!(again["previous"], deployed["revision"]);
    assert_eq!(again["created_topics"].as_array().unwrap().len(), 0);
    assert!(
        again["compile_us"].is_null(),
        "it was in the cache: {again}"
    );
    // Nor is anything compiled for another manifest.
    let other = host.deploy(&Component::misbehave(&manifest.setting("other", "yes")));
    assert_ne!(other["revision"], deployed["revision"]);
    assert!(other["compile_us"].is_null(), "{other}");
}

#[test]
fn deployed_services_are_back_after_a_restart_whatever_ended_the_host() {
    let kafka = Kafka::shared();
    let names = ["one", "two", "gone"].map(unique);
    let mut host = Host::builder().kafka(kafka).ready();
    for name in &names {
        host.deploy(&Component::misbehave(&Manifest::new(name)));
    }
    let path = format!("/v1/services/{}", names[2]);
    let _ = host.admin().send("DELETE", &path, &[], b"").expect(200);
    let list = |host: &Host| {
        let list = host.admin().get("/v1/services").expect(200).json();
        let of =
            |service: &serde_json::Value| (service["name"].clone(), service["revision"].clone());
        let mut all: Vec<_> = list["services"]
            .as_array()
            .unwrap()
            .iter()
            .map(of)
            .collect();
        all.sort_by_key(|(name, _)| name.to_string());
        all
    };
    let before = list(&host);
    assert_eq!(before.len(), 2);

    assert!(host.terminate().success());
    host.restart();
    host.ready();
    assert_eq!(list(&host), before);
    host.kill9();
    host.restart();
    host.ready();
    assert_eq!(list(&host), before);
    for name in &names[..2] {
        let reply = host.http().get(&format!("/{name}/ok"));
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    assert_eq!(host.http().get(&format!("/{}/ok", names[2])).status, 404);
}

/// The embedded broker forgets its topics with the process that had it; what was
/// deployed there by hand needs them again.
#[test]
fn a_restart_on_the_embedded_broker_has_the_topics_of_what_was_deployed() {
    let mut host = Host::embedded([]);
    let name = unique("forgotten");
    host.deploy(&Component::misbehave(&Manifest::new(&name)));
    assert!(host.terminate().success());
    host.restart();
    host.ready();
    let list = host.admin().get(&format!("/v1/services/{name}"));
    let partitions = list.expect(200).json()["partitions"].clone();
    assert_eq!(partitions.as_array().map(Vec::len), Some(4), "{partitions}");
}

#[test]
fn fifty_services_on_one_host_each_answer_for_themselves() {
    let host = Host::embedded([]);
    let names: Vec<String> = (0..50).map(|_| unique("many")).collect();
    for name in &names {
        let manifest = Manifest::new(name).setting("who", name);
        host.deploy(&Component::misbehave(&manifest));
    }
    for name in &names {
        let reply = host.http().get(&format!("/{name}/setting?key=who"));
        assert_eq!((reply.status, reply.text()), (200, name.as_str()));
    }
}

#[test]
fn a_revision_that_was_replaced_is_let_go_with_its_instances() {
    let name = unique("let-go");
    // On trial, it is kept for the way back.
    let manifest = Manifest::new(&name).trial("time", "\"0s\"");
    let mut host = Host::embedded([Component::misbehave(&manifest)]);
    let process = host.process().id();
    // A compiled component is a mapped file for as long as it is there.
    let mapped = || {
        let files = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
        let files = files
            .flatten()
            .filter_map(|file| std::fs::read_link(file.path()).ok());
        let compiled = |file: &std::path::PathBuf| file.to_string_lossy().contains(".cwasm");
        files.filter(compiled).count()
    };
    for revision in 0..5 {
        let manifest = manifest.clone().setting("revision", &revision.to_string());
        host.deploy(&Component::misbehave(&manifest));
        let reply = host.http().get(&format!("/{name}/ok"));
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    eventually("one revision is left", || match mapped() {
        1 => Ok(()),
        more => Err(more),
    });
}
