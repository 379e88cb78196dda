//! The command line, as a person uses it.

mod building;
mod dev;
mod operating;

use std::process::Command;

use serde_json::Value;
use tidemill_tests::{Component, Host, Manifest, eventually, root, run, tidemill, unique};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn services_are_deployed_listed_called_and_removed() {
    let name = unique("by-cli");
    let host = Host::embedded([]);
    let file = host.folder().path().join("service.wasm");
    let component = Component::misbehave(&Manifest::new(&name));
    std::fs::write(&file, &component.0).unwrap();

    let (worked, output, error) = host.cli(&["deploy", "service.wasm", "--json"]);
    assert!(worked, "{output}{error}");
    assert_eq!(json(&output)["name"], *name);

    let (worked, output, _) = host.cli(&["services"]);
    assert!(worked && output.contains(&name), "{output}");
    let (worked, output, _) = host.cli(&["services", &name, "--json"]);
    assert!(worked);
    assert_eq!(json(&output)["name"], *name);

    let (worked, output, error) = host.cli(&["remove", &name, "--json"]);
    assert!(worked, "{output}{error}");
    assert_eq!(json(&output)["name"], *name);
    eventually("it is gone", || {
        let reply = host.http().get(&format!("/{name}/ok"));
        if reply.status == 404 {
            Ok(())
        } else {
            Err(reply)
        }
    });

    let (worked, _, error) = host.cli(&["remove", &name]);
    assert!(!worked && error.contains(&name), "{error}");
}

#[test]
fn a_deploy_that_is_refused_says_why_and_fails() {
    let host = Host::embedded([]);
    std::fs::write(host.folder().path().join("text.wasm"), "just text").unwrap();
    let (worked, _, error) = host.cli(&["deploy", "text.wasm"]);
    assert!(!worked && error.contains("component"), "{error}");
    let (worked, _, error) = host.cli(&["deploy", "missing.wasm"]);
    assert!(!worked && error.contains("missing.wasm"), "{error}");
}

#[test]
fn without_a_host_the_command_says_how_to_start_one() {
    let (worked, _, error) = run(Command::new(tidemill())
        .args(["services", "--admin", "127.0.0.1:1"])
        .current_dir(root()));
    assert!(!worked);
    assert!(error.contains("127.0.0.1:1"), "{error}");
    assert!(error.contains("tidemill serve"), "{error}");
}

#[test]
fn every_command_explains_itself() {
    for command in [
        "serve",
        "new",
        "build",
        "dev",
        "inspect",
        "deploy",
        "services",
        "logs",
        "state",
        "replay",
        "dead-letters",
        "pause",
        "resume",
        "offsets",
        "remove",
        "invoke",
    ] {
        let (worked, output, error) = run(Command::new(tidemill()).args([command, "--help"]));
        assert!(worked, "{error}");
        assert!(output.contains("Usage: "), "{command}: {output}");
    }
    let (worked, output, _) = run(Command::new(tidemill()).arg("--version"));
    assert!(worked && output.starts_with("tidemill "), "{output}");
}
