//! A Kafka that asks who one is: TLS, SASL, and what happens when it says no.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::{
    Builder, Counting, Door, Host, Secured, TokenEndpoint, eventually, unique, unsecured_token,
};

const PLAIN: [(&str, &str); 3] = [
    ("sasl.mechanisms", "PLAIN"),
    ("sasl.username", "alice"),
    ("sasl.password", "alice-secret"),
];

/// Holds that everything works there that needs Kafka: deploy, publish one event
/// and several in a transaction, consume exactly once with state, start again.
fn works(name: &str, builder: impl Fn() -> Builder) -> Host {
    let counting = Counting::on(&Secured::shared().kafka, name, 2);
    let mut host = builder().ready();
    let deployed = host.deploy(&counting.component());
    assert_eq!(deployed["name"], counting.name.as_str());
    host.ready();
    let target = format!("/{}", counting.name);
    let post = |host: &Host, lines: &str| {
        let _ = host.http().post(&target, lines).expect(200);
    };
    let input = &counting.input;
    post(&host, &format!("{input} a 1\n"));
    post(&host, &format!("{input} a 2\n{input} b 3\n"));
    counting.is_exact([&host]);
    assert_eq!(host.terminate().code(), Some(0), "{}", host.log());
    host.restart();
    host.ready();
    post(&host, &format!("{input} a 4\n{input} c 5\n"));
    counting.is_exact([&host]);
    let (ok, services, error) = host.cli(&["services"]);
    assert!(ok && services.contains(&counting.name), "{services}{error}");
    host
}

#[test]
fn everything_works_over_tls() {
    let secured = Secured::shared();
    works("tls", || secured.host(Door::Tls, &[]));
}

#[test]
fn everything_works_over_mutual_tls() {
    let secured = Secured::shared();
    let own = secured.file("client.pem").display().to_string();
    let certificate = [
        ("ssl.certificate.location", &*own),
        ("ssl.key.location", &own),
    ];
    works("mutual", || secured.host(Door::Mutual, &certificate));
}

#[test]
fn everything_works_with_plain() {
    works("plain", || Secured::shared().host(Door::Sasl, &PLAIN));
}

#[test]
fn everything_works_with_scram() {
    let secured = Secured::shared();
    let user = unique("scram");
    secured.add_user(&user, "scram-secret");
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let scram = [
            ("sasl.mechanisms", mechanism),
            ("sasl.username", &user),
            ("sasl.password", "scram-secret"),
        ];
        let host = works("scram", || secured.host(Door::Sasl, &scram));
        assert!(!host.log().contains("scram-secret"), "{}", host.log());
    }
}

#[test]
fn everything_works_with_tokens_that_are_renewed() {
    let secured = Secured::shared();
    let endpoint = TokenEndpoint::start("tidemill", "token-secret", Duration::from_secs(4));
    let properties = [
        ("sasl.mechanisms", "OAUTHBEARER"),
        ("sasl.oauthbearer.method", "oidc"),
        ("sasl.oauthbearer.client.id", "tidemill"),
        ("sasl.oauthbearer.client.secret", "token-secret"),
        ("sasl.oauthbearer.scope", "kafka write"),
        ("sasl.oauthbearer.extensions", "logicalCluster=a,pool=b"),
        ("sasl.oauthbearer.token.endpoint.url", endpoint.url()),
    ];
    let host = works("tokens", || secured.host(Door::Sasl, &properties));
    let form = endpoint.forms().pop().unwrap();
    assert_eq!(form, "grant_type=client_credentials&scope=kafka+write");
    // The broker asks for a new token when one has expired: who stays connected
    // for three lifetimes has renewed it.
    let before = endpoint.given();
    eventually("three more tokens are fetched", || {
        let given = endpoint.given();
        if given >= before + 3 {
            Ok(())
        } else {
            Err(given)
        }
    });
    let _ = host.admin().get("/readyz").expect(200);

    // An endpoint that says no is told, and forgiven.
    endpoint.refuse(true);
    eventually("the host says that it has no token", || {
        let log = host.log();
        if log.contains("no OAUTHBEARER token") {
            Ok(())
        } else {
            Err(log)
        }
    });
    eventually("the host is not ready", || not_ready(&host));
    endpoint.refuse(false);
    host.ready();
    let log = host.log();
    assert!(!log.contains("token-secret"), "{log}");
    assert_eq!(log.matches("no OAUTHBEARER token").count(), 1, "{log}");
}

#[test]
fn a_token_comes_from_a_file_that_others_write() {
    let secured = Secured::shared();
    let file = secured.file("token");
    let write = || fs::write(&file, unsecured_token(Duration::from_secs(3600))).unwrap();
    let url = format!("file://{}", file.display());
    let properties = [
        ("sasl.mechanisms", "OAUTHBEARER"),
        ("sasl.oauthbearer.method", "oidc"),
        ("sasl.oauthbearer.token.endpoint.url", &*url),
    ];
    // It is not there yet when the host starts.
    let host = secured.host(Door::Sasl, &properties).try_start();
    eventually("the missing file is named", || {
        let log = host.log();
        if log.contains("/token") {
            Ok(())
        } else {
            Err(log)
        }
    });
    write();
    eventually("the host serves", || match host.log() {
        log if log.contains("Kafka answers") => Ok(()),
        log => Err(log),
    });
}

/// What `/readyz` says while the host is not ready.
fn not_ready(host: &Host) -> Result<String, String> {
    let reply = host.admin().get("/readyz");
    match reply.status {
        503 => Ok(reply.problem(503)),
        _ => Err(format!("{reply:?}")),
    }
}
