//! Who may use the admin listener, and that neither listener answers for the
//! other, however it is asked.

use tidemill_tests::frames::{Frames, HEADERS_END, Outcome, fields, get, kind};
use tidemill_tests::{Client, Host, run, tidemill};

use crate::Pair;

/// The status of what a listener answers to a request's bytes.
fn status(client: &Client, line: &str, rest: &str) -> String {
    let bytes = format!("{line} HTTP/1.1\r\nconnection: close\r\n{rest}\r\n");
    let answer = client.raw(bytes.as_bytes());
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn no_way_of_asking_reaches_the_other_listener() {
    let pair = Pair::start("apart", |manifest| manifest);
    let (http, admin) = (pair.host.http(), pair.host.admin());
    let (public, private) = (http.address(), admin.address());
    for (client, own, other, targets) in [
        (
            http,
            public,
            private,
            ["/v1/services", "/metrics", "/healthz"].map(str::to_owned),
        ),
        (
            admin,
            private,
            public,
            [
                pair.target("ok"),
                "/docs/".to_owned(),
                "/openapi.json".to_owned(),
            ],
        ),
    ] {
        for target in &targets {
            let encoded = target.replacen('/', "/%2e/", 1);
            let letters: String = target.bytes().map(|b| format!("%{b:02x}")).collect();
            for asked in [
                target.clone(),
                format!("http://{other}{target}"),
                format!("http://{own}{target}"),
                format!("https://{other}{target}"),
                format!("/{target}"),
                format!("/.{target}"),
                format!("/x/..{target}"),
                format!("/v1/services/..{target}"),
                format!("/docs/../..{target}"),
                format!("/%2e%2e{target}"),
                format!("/;{target}"),
                format!("{target}%00"),
                encoded,
                format!("/{}", &letters[3..]),
            ] {
                for host in [other, own, "localhost", ""] {
                    let status = status(
                        client,
                        &format!("GET {asked}"),
                        &format!("host: {host}\r\n"),
                    );
                    let refused = matches!(&*status, "400" | "401" | "403" | "404" | "308");
                    assert!(refused, "{own}: {asked} for {host:?}: {status}");
                }
            }
            for authority in [other, own, "localhost"] {
                let mut frames = Frames::connect(client.address(), &[]);
                let request = [
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":path", target),
                    (":authority", authority),
                ];
                frames
                    .send(kind::HEADERS, HEADERS_END, 1, &fields(&request))
                    .unwrap();
                let outcome = frames.outcome(1);
                assert_ne!(
                    outcome,
                    Outcome::Answered(200),
                    "{own}: {target} for {authority}"
                );
            }
        }
    }
    pair.both_serve();
}

#[test]
fn a_web_page_cannot_use_the_admin_api() {
    let pair = Pair::start("rebound", |manifest| manifest);
    let admin = pair.host.admin();
    let services = "GET /v1/services";
    for (fields, expected) in [
        ("host: localhost\r\n", "200"),
        ("host: localhost\r\nsec-fetch-site: none\r\n", "200"),
        // A name of the attacker's that leads here.
        ("host: evil.example\r\n", "403"),
        ("host: localhost.evil.example\r\n", "403"),
        ("host: 127.0.0.1.evil.example:8081\r\n", "403"),
        // A page of theirs, which asks without more ado.
        ("host: localhost\r\norigin: https://evil.example\r\n", "403"),
        ("host: localhost\r\norigin: null\r\n", "403"),
        ("host: localhost\r\nsec-fetch-site: cross-site\r\n", "403"),
        ("host: localhost\r\nsec-fetch-site: same-site\r\n", "403"),
        ("host: localhost\r\nhost: evil.example\r\n", "400"),
    ] {
        assert_eq!(status(admin, services, fields), expected, "{fields}");
    }
    let absolute = "GET http://evil.example/v1/services";
    assert_eq!(status(admin, absolute, "host: localhost\r\n"), "403");
    let mut frames = Frames::connect(admin.address(), &[]);
    let request = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/v1/services"),
        (":authority", "evil.example"),
    ];
    frames
        .send(kind::HEADERS, HEADERS_END, 1, &fields(&request))
        .unwrap();
    assert_ne!(frames.outcome(1), Outcome::Answered(200));
    let mut frames = Frames::connect(admin.address(), &[]);
    frames
        .send(kind::HEADERS, HEADERS_END, 1, &get("/v1/services"))
        .unwrap();
    assert_eq!(frames.outcome(1), Outcome::Answered(200));
}

#[test]
fn a_host_does_not_start_where_others_could_use_its_admin_api() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let mut host = Host::builder().arguments(&["--admin", address]).try_start();
        assert!(!host.process().wait().success());
        let log = host.log();
        assert!(log.contains("--admin-token-file"), "{log}");
    }
    let token = ["--admin", "0.0.0.0:0", "--admin-token", "t"];
    let mut host = Host::builder().arguments(&token).start();
    let port = host
        .admin()
        .address()
        .rsplit_once(':')
        .unwrap()
        .1
        .to_owned();
    let here = Client::at(&format!("127.0.0.1:{port}"));
    here.get("/v1/services").problem(401);
    assert!(host.terminate().success());
}

#[test]
fn failed_tokens_are_logged_now_and_then_and_counted_all() {
    let folder = tidemill_tests::Folder::new("token");
    let file = folder.path().join("token");
    std::fs::write(&file, "the-right-one\n").unwrap();
    let file = file.display().to_string();
    let host = Host::builder()
        .arguments(&["--admin-token-file", &file])
        .start();
    let admin = host.admin();
    let with = |token: &str| {
        let value = format!("Bearer {token}");
        admin.send("GET", "/metrics", &[("authorization", &value)], b"")
    };
    for number in 0..200 {
        with(&format!("wrong-{number}")).problem(401);
    }
    let metrics = with("the-right-one").expect(200);
    assert!(
        metrics
            .text()
            .contains("tidemill_admin_denied_total{reason=\"token\"} 200")
    );
    let log = host.log();
    let said = log.matches("turned a request away").count();
    assert!((1..10).contains(&said), "{said} lines");
    assert!(log.contains("127.0.0.1:"), "{log}");
    assert!(
        !log.contains("wrong-") && !log.contains("the-right-one"),
        "{log}"
    );

    // The command line reads it from a file as well.
    let (fine, shown, said) = run(std::process::Command::new(tidemill()).args([
        "services",
        "--json",
        "--admin",
        admin.address(),
        "--admin-token-file",
        &file,
    ]));
    assert!(fine, "{said}");
    assert!(shown.contains("services"), "{shown}");
}
