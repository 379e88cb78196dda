//! What `packaging/` says of the host, held against the host.
//!
//! The files' own grammar is checked by `make packaging`; here it is enough that an
//! argument begins with `--`, and that a key is on the line of its value.

use std::fs;
use std::process::Command;

use tidemill_tests::{Folder, Host, Kafka, root, run, tidemill};

const COMPOSE: &str = "compose.yaml";
const KUBERNETES: &str = "kubernetes/statefulset.yaml";
const SYSTEMD: &str = "systemd/tidemill.service";
const DOCKERFILE: &str = "docker/Dockerfile";

/// A file's lines, without comments.
fn lines(file: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("packaging").join(file)).unwrap();
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

/// The arguments that a file has the host started with.
fn arguments(file: &str) -> Vec<String> {
    let lines = lines(file);
    let words = lines.iter().filter_map(|line| {
        let item = line
            .strip_prefix("- ")
            .filter(|item| item.starts_with("--"));
        item.or_else(|| line.strip_prefix("ExecStart="))
    });
    let words = words.flat_map(str::split_whitespace);
    let found: Vec<String> = words
        .filter(|word| word.starts_with("--"))
        .map(str::to_owned)
        .collect();
    assert!(!found.is_empty(), "{file} has no arguments");
    found
}

/// What is behind a key, on each of its lines.
fn values(file: &str, key: &str) -> Vec<String> {
    let lines = lines(file);
    let values = lines.iter().filter_map(|line| {
        let line = line.trim_start_matches("- ");
        let value = line.strip_prefix(key)?.trim_start_matches([':', '=', ' ']);
        Some(value.trim_matches('"').to_owned())
    });
    values.collect()
}

/// The number at a key that a file has once.
fn number(file: &str, key: &str) -> u64 {
    let values = values(file, key);
    let [value] = values.as_slice() else {
        panic!("{file} has {key} {} times", values.len());
    };
    value.trim_end_matches('s').parse().unwrap()
}

/// `tidemill serve --help`.
fn help() -> String {
    let (shown, help, error) = run(Command::new(tidemill()).args(["serve", "--help"]));
    assert!(shown, "{error}");
    help
}

/// The default that the help gives for an option.
fn default(help: &str, option: &str) -> String {
    let from = help.split_once(&format!("{option} <")).unwrap().1;
    let from = from.split_once("[default: ").unwrap().1;
    from.split_once(']').unwrap().0.to_owned()
}

#[test]
fn every_option_and_variable_in_packaging_exists() {
    let help = help();
    for file in [COMPOSE, KUBERNETES, SYSTEMD] {
        for argument in arguments(file) {
            let option = argument.split('=').next().unwrap();
            assert!(help.contains(&format!("{option} <")), "{file}: {argument}");
        }
    }
    for file in [COMPOSE, KUBERNETES, SYSTEMD, DOCKERFILE] {
        let text = lines(file).join("\n");
        let names = text.split(|c: char| !c.is_ascii_uppercase() && c != '_');
        for name in names.filter(|name| name.starts_with("TIDEMILL_")) {
            assert!(help.contains(&format!("[env: {name}=")), "{file}: {name}");
        }
    }
}

#[test]
fn packaging_has_the_default_ports() {
    let help = help();
    let port = |option| {
        default(&help, option)
            .rsplit(':')
            .next()
            .unwrap()
            .to_owned()
    };
    let (http, admin) = (port("--http"), port("--admin"));
    for file in [COMPOSE, KUBERNETES] {
        for (option, port) in [("--http", &http), ("--admin", &admin)] {
            let expected = format!("{option}=0.0.0.0:{port}");
            assert!(arguments(file).contains(&expected), "{file}: {expected}");
        }
    }
    assert_eq!(values(KUBERNETES, "containerPort"), [&*http, &*admin]);
    assert_eq!(values(DOCKERFILE, "EXPOSE"), [format!("{http} {admin}")]);
    let mapped = [
        format!("- \"{http}:{http}\""),
        format!("- \"127.0.0.1:{admin}:{admin}\""),
    ];
    for line in mapped {
        assert!(lines(COMPOSE).contains(&line), "{line}");
    }
}

#[test]
fn nobody_kills_a_host_within_its_grace_period() {
    let grace: u64 = default(&help(), "--grace").parse().unwrap();
    let before = number(KUBERNETES, "seconds");
    assert!(number(KUBERNETES, "terminationGracePeriodSeconds") > before + grace);
    assert!(number(SYSTEMD, "TimeoutStopSec") > grace);
    // Kafka, and then the host.
    let periods = values(COMPOSE, "stop_grace_period");
    assert_eq!(periods.len(), 2);
    for period in periods {
        let seconds: u64 = period.trim_end_matches('s').parse().unwrap();
        assert!(seconds > grace, "{period}");
    }
}

/// Starts a host with a file's arguments, but for where it listens and keeps things,
/// and holds that it is probed without a token and operated with it.
fn serves_as_in(file: &str) {
    let folder = Folder::new("packaging");
    let here = folder.path().to_owned();
    fs::create_dir(here.join("secrets")).unwrap();
    fs::write(here.join("secrets/kafka.properties"), "").unwrap();
    for token in ["admin-token", "secrets/admin-token"] {
        fs::write(here.join(token), "secret-of-the-test\n").unwrap();
    }
    for file in ["kubernetes/kafka.properties", "systemd/config.toml"] {
        let from = root().join("packaging").join(file);
        fs::copy(&from, here.join(from.file_name().unwrap())).unwrap();
    }
    let own = ["--http=", "--admin=", "--kafka=", "--data-dir="];
    let arguments = arguments(file);
    let given = arguments
        .iter()
        .filter(|argument| !own.iter().any(|option| argument.starts_with(option)))
        .map(|argument| {
            let (option, path) = argument.split_once('=').unwrap();
            let places = ["/etc/tidemill/", "/run/secrets/", "%d/"];
            let path = places.iter().find_map(|place| path.strip_prefix(place));
            format!("{option}={}", here.join(path.unwrap()).display())
        });
    let given: Vec<String> = given.collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let builder = Host::builder().folder(folder).kafka(Kafka::shared());
    let mut host = builder.arguments(&given).start();
    host.ready();
    assert_eq!(host.admin().get("/healthz").status, 200);
    host.admin().get("/v1/services").problem(401);
    // The health check of Compose.
    let (healthy, _, error) = run(Command::new(tidemill())
        .arg("services")
        .env("TIDEMILL_ADMIN", host.admin().address())
        .env("TIDEMILL_ADMIN_TOKEN_FILE", here.join("admin-token")));
    assert!(healthy, "{error}");
    assert!(host.terminate().success());
}

#[test]
fn a_host_serves_with_the_arguments_of_compose() {
    serves_as_in(COMPOSE);
}

#[test]
fn a_host_serves_with_the_arguments_of_kubernetes() {
    serves_as_in(KUBERNETES);
}

#[test]
fn a_host_serves_with_the_arguments_of_systemd() {
    serves_as_in(SYSTEMD);
}
