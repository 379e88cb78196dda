//! Deploying to a fleet: every host follows, nothing is lost or done twice, and
//! there is a way back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidemill_tests::{
    Api, Client, Component, Counting, Fault, Fleet, Host, Kafka, Manifest, Posted, Reply,
    eventually, unique,
};

use crate::exactly_once::long;

/// The revision that answers.
fn answers(client: &Client, name: &str) -> String {
    let reply = client.get(&format!("/{name}/ok"));
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.header("tidemill-revision").to_owned()
}

fn digest(deployed: &Value) -> String {
    deployed["revision"].as_str().unwrap()[..12].to_owned()
}

/// The type of a problem document, without what all have.
fn kind(reply: &Reply, status: u16) -> String {
    let _ = reply.problem(status);
    let problem = reply.json();
    problem["type"]
        .as_str()
        .unwrap()
        .replace("urn:tidemill:problem:", "")
}

fn ask(host: &Host, path: &str, body: &Value) -> Value {
    let body = body.to_string();
    let reply = host.admin().post_json(path, &body);
    reply.expect(200).json()
}

/// A revision of the misbehaving service that differs by a setting.
fn revision(name: &str, number: u32) -> Component {
    Component::misbehave(&manifest(name).setting("revision", &number.to_string()))
}

fn manifest(name: &str) -> Manifest {
    Manifest::new(name)
}

#[test]
fn every_host_follows_and_one_that_joins_has_everything_before_it_is_ready() {
    let kafka = Kafka::shared();
    let mut hosts: Vec<Host> = (0..3)
        .map(|_| Host::builder().kafka(kafka).ready())
        .collect();
    let name = unique("follow");
    let deployed = hosts[0].deploy(&revision(&name, 1));
    let told = deployed["hosts"].as_array().unwrap();
    assert_eq!(told.len(), 3, "{deployed:#}");
    assert!(told.iter().all(|host| host["runs"] == true), "{deployed:#}");
    for host in &hosts {
        assert_eq!(answers(host.http(), &name), digest(&deployed));
    }
    let second = hosts[2].deploy(&revision(&name, 2));
    for host in &hosts {
        assert_eq!(answers(host.http(), &name), digest(&second));
    }
    // Nothing on its disk: the records and the components come from Kafka.
    let joined = Host::builder().kafka(kafka).ready();
    assert_eq!(answers(joined.http(), &name), digest(&second));
    let listed = joined.admin().get("/v1/hosts").expect(200).json();
    assert_eq!(listed["hosts"].as_array().unwrap().len(), 4, "{listed:#}");

    // One that was down hears of what was done meanwhile, a removal included.
    let away = unique("removed");
    hosts[0].deploy(&revision(&away, 1));
    assert!(hosts[1].terminate().success());
    let third = hosts[0].deploy(&revision(&name, 3));
    let path = format!("/v1/services/{away}");
    let _ = hosts[0].admin().send("DELETE", &path, &[], b"").expect(200);
    hosts[1].restart();
    hosts[1].ready();
    assert_eq!(answers(hosts[1].http(), &name), digest(&third));
    assert_eq!(hosts[1].http().get(&format!("/{away}/ok")).status, 404);
    let left = joined.http().get(&format!("/{away}/ok"));
    assert_eq!(left.status, 404, "{left:?}");
}

/// The lines of a deploy's answer.
fn steps(host: &Host, component: &Component) -> Vec<Value> {
    let headers = [
        ("content-type", "application/wasm"),
        ("accept", "application/json, application/x-ndjson;q=0.9"),
    ];
    let reply = host
        .admin()
        .send("POST", "/v1/services", &headers, &component.0)
        .expect(200);
    assert_eq!(reply.header("content-type"), "application/x-ndjson");
    let lines = reply.text().lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn a_deploy_tells_each_step_to_who_asks_for_lines() {
    let kafka = Kafka::shared();
    let hosts = [(); 2].map(|()| Host::builder().kafka(kafka).ready());
    let name = unique("steps");
    let topic = format!("{name}-in");
    let manifest = manifest(&name).subscribe(&topic);
    let told = steps(&hosts[0], &Component::misbehave(&manifest));
    let mut names: Vec<&str> = told
        .iter()
        .map(|one| one["step"].as_str().unwrap())
        .collect();
    names.dedup();
    let all = [
        "compiling",
        "checking",
        "topics",
        "storing",
        "following",
        "done",
    ];
    assert_eq!(names, all, "{told:#?}");
    let of = |step: &str| told.iter().rfind(|one| one["step"] == step).unwrap();
    let created = of("topics")["created"].as_array().unwrap();
    assert!(created.contains(&json!(topic)), "{told:#?}");
    assert!(
        of("storing")["bytes"].as_u64().unwrap() > 10_000,
        "{told:#?}"
    );
    let following = of("following")["hosts"].as_array().unwrap();
    assert_eq!(following.len(), 2, "{told:#?}");
    assert!(
        following.iter().all(|host| host["runs"] == true),
        "{told:#?}"
    );
    assert_eq!(of("done")["deployed"]["name"], *name);

    let again = steps(&hosts[1], &Component::misbehave(&manifest));
    assert_eq!(again.last().unwrap()["step"], "done", "{again:#?}");
    assert!(
        again.iter().all(|one| one["step"] != "storing"),
        "{again:#?}"
    );

    let damaged = Component(b"no component".to_vec());
    let refused = steps(&hosts[0], &damaged);
    let last = refused.last().unwrap();
    assert_eq!(last["step"], "refused");
    assert_eq!(last["problem"]["status"], 422, "{refused:#?}");
}

#[test]
fn deploys_under_load_fail_no_request_and_lose_or_double_no_event() {
    // The long form: 50 within 30 s, on a machine that has all it can do.
    let (deploys, every, clients) = match long() {
        true => (50, Duration::from_millis(580), 16),
        false => (6, Duration::from_millis(600), 4),
    };
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "noon", 8);
    let fleet = counting.hosts(3);
    let quiet = counting.while_posting(&fleet, clients, &[&counting.input], || {
        std::thread::sleep(every * 5);
    });
    let posted = counting.while_posting(&fleet, clients, &[&counting.input], || {
        let began = Instant::now();
        for number in 0..deploys {
            let due = began + every * u32::try_from(number).unwrap();
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let manifest = counting
                .manifest
                .clone()
                .setting("revision", &(number % 2).to_string());
            let deployed = fleet.host(number % 3).deploy(&Component::count(&manifest));
            let hosts = deployed["hosts"].as_array().unwrap();
            assert_eq!(hosts.len(), 3, "{deployed:#}");
            assert!(
                hosts.iter().all(|host| host["runs"] == true),
                "{deployed:#}"
            );
        }
        println!("{deploys} deploys in {:?}", began.elapsed());
    });
    for share in [0.5, 0.99, 1.0] {
        let [during, without] = [&posted, &quiet].map(|posted| Posted::within(posted, share));
        println!(
            "p{:.0}: {during:.1?}, without deploys {without:.1?}",
            share * 100.0
        );
    }
    for one in &posted {
        assert!(
            one.others.is_empty(),
            "not answered with 200: {:?}",
            one.others
        );
        assert!(!one.acknowledged.is_empty());
    }
    counting.holds(&posted, &[&counting.input]);
    counting.is_exact(&fleet.into_hosts());
}

#[test]
fn a_revision_that_traps_on_every_tenth_event_is_taken_back_by_itself_and_all_count_once() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "tenth", 4)
        .with(|manifest| manifest.trial("failures", "\"20%\"").trial("calls", "10"));
    let fleet = counting.hosts(2);
    counting.write(200);
    let good = fleet.host(0).service(&counting.name)["revision"].clone();
    let bad = counting.manifest.clone().setting("trap", "10");
    let deployed = fleet.host(1).deploy(&Component::count(&bad));
    assert!(deployed["trial_until"].is_u64(), "{deployed:#}");
    counting.write(200);
    for number in 0..2 {
        eventually("the revision before runs again", || {
            let now = fleet.host(number).service(&counting.name)["revision"].clone();
            if now == good { Ok(()) } else { Err(now) }
        });
    }
    let path = format!("/v1/services/{}/history", counting.name);
    let history = fleet.host(0).admin().get(&path).expect(200).json();
    let last = history["entries"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(last["action"], "automatic", "{history:#}");
    assert!(
        last["why"].as_str().unwrap().contains("calls failed"),
        "{history:#}"
    );
    let hosts = fleet.into_hosts();
    counting.is_exact(&hosts);
    let logs: String = hosts.iter().map(Host::log).collect();
    assert!(logs.contains("deploy.rolled-back"), "{logs}");
    assert!(!logs.contains("event.dead-lettered"), "{logs}");
}

#[test]
fn an_event_that_a_revision_on_trial_rejects_is_held_and_run_by_the_one_before() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "held", 1);
    let host = counting.host();
    counting.write(50);
    // It takes more calls than there will be to judge it.
    let rejects = |time: &str| {
        let manifest = counting.manifest.clone().setting("reject", "key-7");
        let manifest = manifest.trial("time", time).trial("calls", "100000");
        Component::count(&manifest)
    };
    host.deploy(&rejects("\"10m\""));
    counting.write(50);
    eventually("the event is held", || {
        let service = host.service(&counting.name);
        match service["status"].as_str() {
            Some("blocked") => Ok(()),
            _ => Err(service),
        }
    });
    let path = format!("/v1/services/{}/rollback", counting.name);
    let back = ask(&host, &path, &json!({}));
    assert_eq!(back["action"], "rollback", "{back:#}");
    counting.is_exact([&host]);
    assert!(!host.log().contains("event.dead-lettered"));

    // A trial that is passed ends that: then it is a dead letter as any other.
    host.deploy(&rejects("\"1s\""));
    counting.write(10);
    let letters = format!("/v1/services/{}/dead-letters", counting.name);
    eventually("the event is a dead letter", || {
        let letters = host.admin().get(&letters).expect(200).json();
        if letters["total"] == 1 {
            Ok(())
        } else {
            Err(letters)
        }
    });
}

#[test]
fn a_canary_gets_its_share_and_its_partitions_until_it_is_promoted_or_taken_back() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "canary", 2);
    // Not the empty key, which events without one are counted by.
    let counting = counting.with(|manifest| manifest.setting("reject", "nobody"));
    let host = counting.host();
    let live = host.service(&counting.name)["revision"].as_str().unwrap()[..12].to_owned();
    let by_ten = counting.manifest.clone().setting("by", "10");
    let deploy = |query: &str| {
        let headers = [("content-type", "application/wasm")];
        let target = format!("/v1/services?{query}");
        let component = Component::count(&by_ten);
        host.admin().send("POST", &target, &headers, &component.0)
    };
    let canary = deploy("weight=50&sticky=header:x-user").expect(200).json();
    let canary = digest(&canary);
    let revision_for = |user: &str| {
        let target = format!("/{}", counting.name);
        let reply = host.http().send("GET", &target, &[("x-user", user)], b"");
        reply.header("tidemill-revision").to_owned()
    };
    let users: Vec<String> = (0..40).map(|number| format!("user-{number}")).collect();
    let first: Vec<String> = users.iter().map(|user| revision_for(user)).collect();
    let again: Vec<String> = users.iter().map(|user| revision_for(user)).collect();
    assert_eq!(first, again, "each user stays with a revision");
    let seen: BTreeSet<String> = first.into_iter().collect();
    assert_eq!(seen, BTreeSet::from([live.clone(), canary.clone()]));

    // Events of one partition, by its number.
    let _ = deploy("weight=0&partitions=1").expect(200);
    counting.write(40);
    let records = counting.topics().read(&counting.input);
    let by = |partition| if partition == 1 { 10 } else { 1 };
    let expected: u64 = records.iter().map(|record| by(record.partition)).sum();
    assert!(
        expected > 40 && expected < 400,
        "both partitions have events"
    );
    eventually("both partitions are counted", || {
        let counted = counting.counted(host.http());
        if counted == Some(expected) {
            Ok(())
        } else {
            Err(counted)
        }
    });

    let promote = format!("/v1/services/{}/promote", counting.name);
    let promoted = ask(&host, &promote, &json!({}));
    assert_eq!(digest(&promoted), canary, "{promoted:#}");
    assert!(users.iter().all(|user| revision_for(user) == canary));
    let twice = host.admin().post_json(&promote, "{}");
    assert_eq!(twice.status, 409, "{twice:?}");
    let rollback = format!("/v1/services/{}/rollback", counting.name);
    let back = ask(&host, &rollback, &json!({}));
    assert_eq!(digest(&back), live, "{back:#}");
    let named = ask(&host, &rollback, &json!({ "revision": canary }));
    assert_eq!(digest(&named), canary, "{named:#}");
    let unknown = host
        .admin()
        .post_json(&rollback, json!({ "revision": "0000" }).to_string());
    assert_eq!(kind(&unknown, 404), "no-revision");

    // What is not beside anything, or too unlike it, is no canary.
    let other = by_ten.clone().subscribe(&counting.output);
    let headers = [("content-type", "application/wasm")];
    let component = Component::count(&other);
    let unlike = host
        .admin()
        .send("POST", "/v1/services?weight=5", &headers, &component.0);
    assert_eq!(kind(&unlike, 409), "canary");
    let bad = deploy("weight=101");
    assert_eq!(kind(&bad, 422), "deploy");
}

#[test]
fn deploys_at_once_end_in_one_order_on_all_hosts_and_none_is_lost_unsaid() {
    let kafka = Kafka::shared();
    let hosts: Vec<Host> = (0..3)
        .map(|_| Host::builder().kafka(kafka).ready())
        .collect();
    let name = unique("at-once");
    let fleet = Fleet::of(hosts);
    let components: Vec<Component> = (0..3).map(|number| revision(&name, number)).collect();
    std::thread::scope(|scope| {
        for (number, component) in components.iter().enumerate() {
            let fleet = &fleet;
            scope.spawn(move || {
                for _ in 0..3 {
                    fleet.host(number).deploy(component);
                }
            });
        }
    });
    let hosts = fleet.into_hosts();
    let history = |host: &Host| {
        let path = format!("/v1/services/{name}/history");
        host.admin().get(&path).expect(200).json()
    };
    let one = eventually("all hosts have one history", || {
        let histories: Vec<Value> = hosts.iter().map(history).collect();
        match histories.iter().all(|other| *other == histories[0]) {
            true => Ok(histories[0].clone()),
            false => Err(histories),
        }
    });
    let entries = one["entries"].as_array().unwrap();
    let numbers: Vec<u64> = entries
        .iter()
        .map(|entry| entry["number"].as_u64().unwrap())
        .collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{one:#}");
    // A deploy of what runs already is none; each revision was deployed once at least.
    let revisions: BTreeSet<&str> = entries
        .iter()
        .map(|entry| entry["revision"].as_str().unwrap())
        .collect();
    assert_eq!(revisions.len(), 3, "{one:#}");
    for host in &hosts {
        let live = one["live"].as_str().unwrap()[..12].to_owned();
        assert_eq!(answers(host.http(), &name), live);
    }
}

#[test]
fn a_deploy_that_was_written_and_answered_with_an_unknown_error_is_found() {
    let (_kafka, proxy) = Kafka::proxied();
    let host = Host::builder().broker(proxy.address()).ready();
    let name = unique("found");
    for number in 1..=2 {
        proxy.order(Api::EndTxn, Fault::DoneUnsaid, 1, 1);
        let deployed = host.deploy(&revision(&name, number));
        assert_eq!(proxy.left(Api::EndTxn), 0);
        assert_eq!(answers(host.http(), &name), digest(&deployed));
    }
    let path = format!("/v1/services/{name}/history");
    let history = host.admin().get(&path).expect(200).json();
    let entries = history["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{history:#}");
}

#[test]
fn a_dry_run_does_all_checks_and_changes_nothing() {
    let host = Host::embedded([]);
    let name = unique("dry");
    let try_it = |component: &Component| {
        let headers = [("content-type", "application/wasm")];
        host.admin()
            .send("POST", "/v1/services?dry-run=true", &headers, &component.0)
    };
    let looked = try_it(&revision(&name, 1)).expect(200).json();
    assert_eq!(looked["dry_run"], true, "{looked:#}");
    assert_eq!(
        looked["created_topics"],
        json!([name, format!("{name}.dead-letter")])
    );
    assert_eq!(host.http().get(&format!("/{name}/ok")).status, 404);
    let refused = try_it(&Component(b"nothing".to_vec()));
    assert_eq!(kind(&refused, 422), "component");
    let path = format!("/v1/services/{name}/history");
    assert_eq!(kind(&host.admin().get(&path), 404), "no-service");
    // What it said would be is what is done.
    let done = host.deploy(&revision(&name, 1));
    assert_eq!(done["revision"], looked["revision"]);
    assert_eq!(done["created_topics"], looked["created_topics"]);
}

/// The user service under another name: a component of ordinary size.
fn user(name: &str, note: &str) -> Component {
    tidemill_tests::seed("user").edited(&[
        ("name = \"user\"\n", &format!("# {note}\nname = {name:?}\n")),
        ("\"/users\"", &format!("\"/{name}\"")),
    ])
}

#[test]
fn the_next_request_after_a_deploy_is_answered_by_it_on_every_host() {
    let rounds = if long() { 20 } else { 4 };
    let kafka = Kafka::shared();
    let fleet = Fleet::of((0..2).map(|_| Host::builder().kafka(kafka).ready()));
    let name = unique("soon");
    let components: Vec<Component> = (0..rounds)
        .map(|number| user(&name, &number.to_string()))
        .collect();
    // Each is new to the hosts the first time, and compiled the second time.
    for turn in ["new", "known"] {
        let mut times = Vec::new();
        for component in &components {
            let began = Instant::now();
            let deployed = fleet.host(0).deploy(component);
            let mut answered = Vec::new();
            for number in 0..2 {
                let reply = fleet.client(number).get(&format!("/{name}"));
                let by = reply.header("tidemill-revision").to_owned();
                assert_eq!(by, digest(&deployed), "{reply:?}");
                answered.push(began.elapsed());
            }
            times.push(answered);
        }
        for (number, host) in ["the host that was asked", "another"].iter().enumerate() {
            let mut times: Vec<Duration> = times.iter().map(|one| one[number]).collect();
            times.sort_unstable();
            let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
            println!(
                "{turn}: from deploy to an answer of {host}: median {median:?}, most {most:?}"
            );
        }
    }
}

#[test]
fn a_host_with_an_empty_disk_runs_all_of_a_large_fleet_before_it_is_ready() {
    let services = if long() { 100 } else { 15 };
    let kafka = Kafka::shared();
    let host = Host::builder().kafka(kafka).ready();
    let fleet = unique("large");
    let names: Vec<String> = (0..services)
        .map(|number| format!("{fleet}-{number}"))
        .collect();
    for name in &names {
        let _ = host.try_deploy(&user(name, "")).expect(200);
    }
    let began = Instant::now();
    let joined = Host::builder().kafka(kafka).ready();
    println!("{services} services, ready after {:?}", began.elapsed());
    for name in &names {
        let reply = joined.http().get(&format!("/{name}"));
        assert!(!reply.header("tidemill-revision").is_empty(), "{reply:?}");
    }
    let mut joined = joined;
    assert!(joined.terminate().success());
    let began = Instant::now();
    joined.restart();
    joined.ready();
    println!(
        "{services} services, ready again after {:?}",
        began.elapsed()
    );
}

#[test]
fn a_restart_with_the_component_before_leaves_its_successor_on_trial() {
    let name = unique("on-trial");
    let revision = |number: u32| {
        let manifest = manifest(&name).setting("revision", &number.to_string());
        Component::misbehave(&manifest.trial("time", "\"10m\""))
    };
    let mut host = Host::embedded([revision(1)]);
    let second = host.deploy(&revision(2));
    assert!(host.terminate().success());
    let first = host.folder().path().join("deploy-0.wasm");
    host.restart_with(&[format!("--deploy={}", first.display())]);
    host.ready();
    assert_eq!(answers(host.http(), &name), digest(&second));
    assert!(host.log().contains("deploy.replaced-before"));
    // It is what one goes back to, all the same.
    let back = ask(&host, &format!("/v1/services/{name}/rollback"), &json!({}));
    assert_eq!(back["revision"], second["previous"]);
}
