//! Many services on one host: each is loaded at its first call after a start, and
//! let go when nobody calls it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use tidemill_tests::{Component, Host, Kafka, Manifest, eventually, seed, unique};

/// How many services have their compiled code in memory: each holds its file open.
fn in_memory(host: &mut Host) -> usize {
    let files = fs::read_dir(format!("/proc/{}/fd", host.process().id())).unwrap();
    let files = files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok());
    let compiled = |file: &PathBuf| file.to_string_lossy().contains(".cwasm");
    files.filter(compiled).count()
}

/// The seed's user service under a name and a route of its own.
fn user(name: &str) -> Component {
    seed("user").edited(&[
        ("name = \"user\"", &format!("name = {name:?}")),
        ("\"/users\"", &format!("\"/{name}\"")),
    ])
}

/// The revision that answers.
fn revision(host: &Host, name: &str) -> String {
    let reply = host.http().get(&format!("/{name}/nothing-here"));
    assert!(reply.status < 500, "{reply:?}");
    reply.header("tidemill-revision").to_owned()
}

fn files(host: &Host, folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![host.data_dir().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_hundred_services_answer_after_a_restart_and_each_is_loaded_by_its_first_call() {
    let mut host = Host::embedded([]);
    let names: Vec<String> = (0..100).map(|_| unique("many")).collect();
    let deployed: Vec<String> = names
        .iter()
        .map(|name| {
            let deployed = host.deploy(&user(name));
            deployed["revision"].as_str().unwrap()[..12].to_owned()
        })
        .collect();
    assert!(host.terminate().success());
    host.restart();
    host.ready();

    // All that can be asked of them is known without their code.
    let list = host.admin().get("/v1/services").expect(200).json();
    let list = list["services"].as_array().unwrap();
    let listed: BTreeSet<&str> = list
        .iter()
        .map(|service| service["name"].as_str().unwrap())
        .collect();
    assert_eq!(listed, names.iter().map(String::as_str).collect());
    let detail = host.service(&names[7]);
    assert!(
        !detail["imports"].as_array().unwrap().is_empty(),
        "{detail}"
    );
    let document = host.http().get("/openapi.json").expect(200).json();
    assert!(!document["paths"].as_object().unwrap().is_empty());
    let _ = host.admin().get("/metrics").expect(200);
    assert_eq!(in_memory(&mut host), 0);

    assert_eq!(revision(&host, &names[7]), deployed[7]);
    assert_eq!(in_memory(&mut host), 1);
    for (name, deployed) in names.iter().zip(&deployed) {
        assert_eq!(revision(&host, name), *deployed);
    }
    assert_eq!(in_memory(&mut host), names.len());
}

#[test]
fn what_nobody_calls_is_let_go_and_the_next_call_loads_it_again() {
    let names = ["quiet", "busy"].map(unique);
    let mut host = Host::builder()
        .arguments(&["--idle-time=1"])
        .deploy(names.each_ref().map(|name| user(name)))
        .ready();
    eventually("the one that nobody calls is let go", || {
        revision(&host, &names[1]);
        match in_memory(&mut host) {
            1 => Ok(()),
            more => Err(more),
        }
    });
    let before = host.service(&names[0])["revision"].clone();
    assert!(
        before
            .as_str()
            .unwrap()
            .starts_with(&revision(&host, &names[0]))
    );
    assert_eq!(in_memory(&mut host), 2);
    let other = seed("user").edited(&[
        (
            "name = \"user\"",
            &format!("name = {:?}\ndescription = \"\"", names[0]),
        ),
        (
            "description = \"Takes users over HTTP and publishes them\"\n",
            "",
        ),
        ("\"/users\"", &format!("\"/{}\"", names[0])),
    ]);
    host.deploy(&other);
    eventually(
        "it is let go with the revision before",
        || match in_memory(&mut host) {
            0 => Ok(()),
            more => Err(more),
        },
    );
    // The way back is to a revision that is in memory no more.
    let path = format!("/v1/services/{}/rollback", names[0]);
    let _ = host.admin().post_json(&path, "{}").expect(200);
    assert!(
        before
            .as_str()
            .unwrap()
            .starts_with(&revision(&host, &names[0]))
    );
}

#[test]
fn a_broken_file_of_the_compile_cache_is_made_anew_and_harms_no_other_service() {
    let services = ["user", "order", "event"];
    let mut host = Host::embedded(services.map(seed));
    assert!(host.terminate().success());
    let compiled = files(&host, "cache", "cwasm");
    assert_eq!(compiled.len(), services.len());
    fs::write(&compiled[0], b"no code at all").unwrap();
    let code = fs::read(&compiled[1]).unwrap();
    fs::write(&compiled[1], &code[..code.len() / 2]).unwrap();
    host.restart();
    host.ready();
    for path in ["/users/7", "/orders", "/events"] {
        let reply = host.http().get(path);
        assert!(reply.status < 500, "{reply:?}");
        assert!(!reply.header("tidemill-revision").is_empty(), "{reply:?}");
    }
    let log = host.log();
    assert_eq!(log.matches("cache.unusable").count(), 2, "{log}");

    // What is gone is compiled before the host is ready.
    assert!(host.terminate().success());
    fs::remove_file(&files(&host, "cache", "cwasm")[0]).unwrap();
    host.restart();
    host.ready();
    assert_eq!(files(&host, "cache", "cwasm").len(), services.len());
    assert_eq!(in_memory(&mut host), 1);
}

#[test]
fn a_component_that_is_damaged_on_disk_is_fetched_from_kafka_by_its_first_call() {
    let kafka = Kafka::shared();
    let name = unique("damaged");
    let mut host = Host::builder().kafka(kafka).ready();
    let manifest = Manifest::new(&name).setting("who", &name);
    host.deploy(&Component::misbehave(&manifest));
    let deployed = revision(&host, &name);
    assert!(host.terminate().success());
    let components = files(&host, "deployments", "wasm");
    assert_eq!(components.len(), 1);
    fs::write(&components[0], b"\0asm").unwrap();
    host.restart();
    host.ready();
    let reply = host.http().get(&format!("/{name}/setting?key=who"));
    assert_eq!((reply.status, reply.text()), (200, name.as_str()));
    assert_eq!(revision(&host, &name), deployed);
    assert!(host.log().contains("component.damaged"), "{}", host.log());
}

#[test]
fn a_subscribed_service_consumes_after_a_restart_without_being_called() {
    let kafka = Kafka::shared();
    let name = unique("woken");
    let mut host = Host::builder().kafka(kafka).ready();
    host.deploy(&Component::misbehave(&Manifest::new(&name)));
    assert!(host.terminate().success());
    host.restart();
    host.ready();
    assert_eq!(in_memory(&mut host), 0);
    kafka.topics().write_all(&name, 0, &["ok"]);
    eventually("the event is handled", || {
        let service = host.service(&name);
        match service["events"].as_u64() {
            Some(1..) => Ok(()),
            _ => Err(service),
        }
    });
    assert_eq!(in_memory(&mut host), 1);
}
