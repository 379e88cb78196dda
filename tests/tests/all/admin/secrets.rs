//! Secrets stay secret: a host is given marked ones in every way there is, and
//! driven into errors; then nothing that it has written or said has a mark in it.

use std::fs;
use std::path::Path;
use std::process::Command;

use tidemill_tests::{
    Component, Folder, Host, Manifest, Signal, eventually, run, tidemill, unique,
};

/// What all marks begin with.
const MARK: &str = "hunter2mark";

fn is_silent(what: &str, said: &[u8]) {
    let text = String::from_utf8_lossy(said);
    if let Some(at) = text.find(MARK) {
        let from = text[..at]
            .char_indices()
            .rev()
            .nth(300)
            .map_or(0, |(at, _)| at);
        panic!(
            "{what} has a secret: {}",
            text[from..].chars().take(400).collect::<String>()
        );
    }
}

/// All files of a folder, but for the components and what is known of each, its
/// manifest among it: what is in those is not the host's to change.
fn files_are_silent(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        let component = matches!(ending, Some("wasm" | "known"));
        if path.is_dir() && !path.ends_with("cache") {
            files_are_silent(&path);
        } else if path.is_file() && !component {
            is_silent(&path.display().to_string(), &fs::read(&path).unwrap());
        }
    }
}

/// A host whose secrets are in files, with everything logged.
fn host(folder: &Folder, broker: Option<&str>, service: Component) -> Host {
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let token = file("token", &format!("{MARK}-token"));
    let properties = file(
        "properties",
        &format!("sasl.password={MARK}-sasl\nssl.keystore.password={MARK}-store\n"),
    );
    let config = file(
        "config.toml",
        &format!(
            "admin-token-file = {token:?}\nkafka-property-file = [{properties:?}]\n\
             [kafka-properties]\n\"ssl.key.password\" = \"{MARK}-key\"\n\
             \"sasl.username\" = \"shop\"\n\"debug\" = \"all\"\n"
        ),
    );
    let arguments = ["--config", &config, "--log", "trace", "--client-timeout=1"];
    let mut builder = Host::builder().arguments(&arguments).deploy([service]);
    if let Some(broker) = broker {
        let login = [
            "--kafka-property=security.protocol=sasl_plaintext",
            "--kafka-property=sasl.mechanism=PLAIN",
        ];
        builder = builder.broker(broker).arguments(&login);
    }
    builder.try_start()
}

fn service(name: &str) -> Component {
    Component::misbehave(&Manifest::new(name).setting("smtp-password", &format!("{MARK}-setting")))
}

#[test]
fn a_host_that_runs_tells_no_secret() {
    let folder = Folder::new("secrets");
    let name = unique("secrets");
    let mut host = host(&folder, None, service(&name));
    host.listen();
    host.ready();
    let right = format!("Bearer {MARK}-token");
    let admin = host.admin().clone();
    let ask = |method: &str, target: &str, body: &[u8]| {
        let kind = ("content-type", "application/wasm");
        let reply = admin.send(method, target, &[("authorization", &right), kind], body);
        is_silent(target, &reply.body);
        is_silent(target, format!("{:?}", reply.headers).as_bytes());
        reply
    };
    eventually("the service is deployed", || {
        let reply = ask("GET", &format!("/v1/services/{name}"), b"");
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply)
        }
    });
    for target in ["/v1/services", "/metrics", "/nothing"] {
        let _ = ask("GET", target, b"");
    }
    // Wrong ones, and what is no request.
    for wrong in ["Bearer {}", "Basic {}", "{}"] {
        let wrong = wrong.replace("{}", &format!("{MARK}-wrong"));
        let reply = admin.send("GET", "/v1/services", &[("authorization", &wrong)], b"");
        is_silent("a refusal", &reply.body);
    }
    let broken = format!("GET /v1 HTTP/1.1\r\nauthorization: Bearer {MARK}-x\r\nbroken\r\n\r\n");
    is_silent("a refusal", admin.raw(broken.as_bytes()).as_bytes());
    // Deploys that fail, with a secret near the mistake.
    let manifest = Manifest::new(&name).setting("token", &format!("{MARK}-bad"));
    let bad = manifest.toml().replace("[grants]", "[grant]");
    let reply = ask("POST", "/v1/services", &service(&name).with(&bad).0);
    assert_eq!(reply.status, 422, "{reply:?}");
    // Handlers that fail.
    for mode in ["trap", "setting?key=smtp-password", "loop"] {
        let _ = host.http().get(&format!("/{name}/{mode}"));
    }
    let token = folder.path().join("token").display().to_string();
    let connection = ["--admin", admin.address(), "--admin-token-file", &token];
    for shown in [
        vec!["services", "--json"],
        vec!["services", &name],
        vec!["services", &name, "--json"],
    ] {
        let (fine, out, err) = run(Command::new(tidemill()).args(shown).args(connection));
        assert!(fine, "{err}");
        is_silent("the command line", format!("{out}{err}").as_bytes());
    }
    let arguments = fs::read(format!("/proc/{}/cmdline", host.process().id())).unwrap();
    is_silent("the list of processes", &arguments);

    host.process().signal(Signal::ABORT);
    assert!(!host.process().wait().success());
    let log = host.log();
    assert!(
        log.contains("\"trace\"") && log.contains("librdkafka"),
        "not everything is logged"
    );
    is_silent("the log", log.as_bytes());
    files_are_silent(&host.data_dir());
    let cores = fs::read_dir(host.folder().path()).unwrap().flatten();
    let cores = cores.filter(|file| file.file_name().to_string_lossy().starts_with("core"));
    assert_eq!(cores.count(), 0, "a core dump");
}

#[test]
fn a_host_whose_broker_is_not_there_tells_no_secret() {
    let folder = Folder::new("secrets");
    let mut host = host(&folder, Some("127.0.0.1:1"), service(&unique("secrets")));
    eventually("it says that Kafka does not answer", || {
        let log = host.log();
        if log.contains("does not answer") {
            Ok(())
        } else {
            Err(log)
        }
    });
    host.process().signal(Signal::TERM);
    let _ = host.process().wait();
    is_silent("the log", host.log().as_bytes());
    files_are_silent(&host.data_dir());
}

#[test]
fn a_host_that_does_not_start_tells_no_secret() {
    let folder = Folder::new("secrets");
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let property = |text: &str| ["--kafka-property".to_owned(), text.replace("{}", MARK)];
    let config = |number: u32, text: &str| {
        let name = format!("{number}.toml");
        ["--config".to_owned(), file(&name, text.replace("{}", MARK))]
    };
    let wrong_lines = file("lines", format!("a=b\n{MARK}\n"));
    let all = [
        property("sasl.pasword={}"),
        property("sasl_password={}"),
        property("security.protocol={}"),
        property("session.timeout.ms={}"),
        property("ssl.key.pem={}"),
        property("ssl.certificate.pem={}"),
        property("ssl.ca.pem={}"),
        property("sasl.jaas.config={}"),
        property("sasl.oauthbearer.config={}"),
        property("group.id={}"),
        property("{}"),
        ["--kafka-property-file".to_owned(), wrong_lines],
        config(1, "kafka-properties = \"{}\""),
        config(2, "[kafka-properties]\n\"sasl.password\" = [\"{}\"]"),
        config(3, "[kafka-properties]\n\"sasl.password\" = \"{}"),
        config(4, "[kafka-properties]\n\"sasl.pasword\" = \"{}\""),
        config(5, "admin-token = {}"),
        config(6, "admin-token = \"{}\"\nadmin-token = \"{}\""),
        config(7, "partitions = \"{}\""),
        config(8, "admin-tokn = \"{}\""),
    ];
    std::thread::scope(|scope| {
        for arguments in &all {
            scope.spawn(|| does_not_tell(arguments.each_ref().map(String::as_str)));
        }
    });
}

/// Starts a host with these arguments, and holds that it says nothing secret
/// until it ends.
fn does_not_tell(arguments: [&str; 2]) {
    let login = ["--kafka-property=security.protocol=sasl_ssl", "--log=trace"];
    let mut builder = Host::builder().broker("127.0.0.1:1");
    // What is asked about must not be said twice.
    if !arguments[1].starts_with("security.protocol") {
        builder = builder.arguments(&login);
    }
    let mut host = builder.arguments(&arguments).try_start();
    // Some of these are seen only when there is a broker to log in at.
    eventually("it ends, or waits for its broker", || {
        let waits = host.log().contains("does not answer");
        let ended = host.process().ended().is_some();
        if waits || ended {
            Ok(())
        } else {
            Err(host.log())
        }
    });
    is_silent(
        &arguments.join(" ").replace(MARK, "…"),
        host.log().as_bytes(),
    );
}
