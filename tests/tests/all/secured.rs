//! A Kafka that asks who one is: TLS, SASL, and what happens when it says no.

use std::fs;
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
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        secured.add_user(&user, mechanism, "scram-secret");
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
fn tokens_are_asked_for_over_tls_of_an_endpoint_that_is_trusted() {
    let secured = Secured::shared();
    let lifetime = Duration::from_secs(600);
    let pem = secured.file("broker.pem");
    let endpoint = TokenEndpoint::start_tls("tidemill", "token-secret", lifetime, &pem);
    let properties = [
        ("sasl.mechanisms", "OAUTHBEARER"),
        ("sasl.oauthbearer.method", "oidc"),
        ("sasl.oauthbearer.client.id", "tidemill"),
        ("sasl.oauthbearer.client.secret", "token-secret"),
        ("sasl.oauthbearer.token.endpoint.url", endpoint.url()),
    ];
    let ca = secured.file("ca.pem").display().to_string();
    let named = [&properties[..], &[("https.ca.location", &ca)]].concat();
    works("tls-tokens", || secured.host(Door::Sasl, &named));
    // The system's certificates are where this says.
    let system = [("SSL_CERT_FILE", &*ca)];
    works("system-tokens", || {
        secured.host(Door::Sasl, &properties).environment(&system)
    });

    let given = endpoint.given();
    let other = secured.file("other-ca.pem").display().to_string();
    let wrong = [&properties[..], &[("https.ca.location", &other)]].concat();
    let host = secured.host(Door::Sasl, &wrong).start();
    eventually("the host says what is wrong", || match not_ready(&host) {
        Ok(why) if why.contains("no OAUTHBEARER token") => Ok(()),
        other => Err(other),
    });
    assert!(host.log().contains("certificate"), "{}", host.log());
    assert_eq!(
        endpoint.given(),
        given,
        "the secret went to who is not trusted"
    );
    assert!(!host.log().contains("token-secret"), "{}", host.log());
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

#[test]
fn a_wrong_password_is_told_once_and_mends_itself_when_the_broker_learns_it() {
    let secured = Secured::shared();
    let user = unique("changed");
    secured.add_user(&user, "SCRAM-SHA-256", "first-secret");
    let scram = [
        ("sasl.mechanisms", "SCRAM-SHA-256"),
        ("sasl.username", &*user),
        ("sasl.password", "first-secret"),
    ];
    let counting = Counting::on(&secured.kafka, "changed", 1);
    let target = format!("/{}", counting.name);
    let lines = format!("{} a 1\n", counting.input);
    let mut host = secured
        .host(Door::Sasl, &scram)
        .deploy([counting.component()])
        .ready();
    let _ = host.http().post(&target, &lines).expect(200);
    counting.wait_until(&host, 1);
    assert_eq!(host.terminate().code(), Some(0));

    // From here on the host has another password than the broker.
    let config = host.folder().path().join("config.toml");
    let other = fs::read_to_string(&config).unwrap();
    fs::write(&config, other.replace("first-secret", "second-secret")).unwrap();
    host.restart();
    let ready = eventually("the host says what is wrong", || match not_ready(&host) {
        Ok(why) if why.contains("sasl.password") => Ok(why),
        other => Err(other),
    });
    eventually("reads are answered from what is here", || {
        let reply = host.http().get(&format!("{target}/key/a"));
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply)
        }
    });
    let began = Instant::now();
    let reply = host.http().post(&target, &lines);
    reply.problem(503);
    assert!(!reply.header("retry-after").is_empty(), "{reply:?}");
    assert!(began.elapsed() < Duration::from_secs(20), "bounded in time");
    let (ok, services, error) = host.cli(&["services"]);
    assert!(ok && services.contains(&counting.name), "{services}{error}");
    let refused = host.try_deploy(&Counting::on(&secured.kafka, "late", 1).component());
    refused.problem(503);
    let metrics = host.admin().get("/metrics").expect(200);

    secured.add_user(&user, "SCRAM-SHA-256", "second-secret");
    host.ready();
    // What was answered with 503 may have been published all the same.
    let before = counting.written();
    let _ = host.http().post(&target, &lines).expect(200);
    counting.wait_until(&host, before + 1);
    let log = host.log();
    for once in ["no connection to Kafka:", "nothing is consumed yet"] {
        assert_eq!(log.matches(once).count(), 1, "{log}");
    }
    for secret in ["first-secret", "second-secret"] {
        for text in [&log, &ready, metrics.text(), reply.text(), refused.text()] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn a_host_that_the_broker_has_never_let_in_says_so_and_serves_when_it_does() {
    let secured = Secured::shared();
    let user = unique("unknown");
    let scram = [
        ("sasl.mechanisms", "SCRAM-SHA-512"),
        ("sasl.username", &*user),
        ("sasl.password", "unknown-secret"),
    ];
    let counting = Counting::on(&secured.kafka, "unknown", 1);
    let host = secured
        .host(Door::Sasl, &scram)
        .deploy([counting.component()])
        .start();
    let why = eventually("the host says what is wrong", || match not_ready(&host) {
        Ok(why) if why.contains("sasl.password") => Ok(why),
        other => Err(other),
    });
    assert!(!why.contains("unknown-secret"), "{why}");
    let _ = host.admin().get("/healthz").expect(200);
    let reply = host.http().get("/");
    reply.problem(503);
    assert!(!reply.header("retry-after").is_empty(), "{reply:?}");
    secured.add_user(&user, "SCRAM-SHA-512", "unknown-secret");
    host.ready();
    eventually("its service is there", || {
        let reply = host.http().get(&format!("/{}", counting.name));
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply)
        }
    });
}

#[test]
fn a_broker_that_is_not_trusted_or_does_not_trust_is_told_with_what_to_do() {
    let secured = Secured::shared();
    let other_ca = secured.file("other-ca.pem").display().to_string();
    let table = [
        // The CA is unknown.
        (
            Door::Tls,
            vec![("ssl.ca.location", &*other_ca)],
            "ssl.ca.location",
        ),
        (Door::Expired, vec![], "expired"),
        (Door::Elsewhere, vec![], "host name"),
        // No certificate where one is wanted.
        (Door::Mutual, vec![], "ssl.certificate.location"),
        // Not TLS where it is spoken.
        (
            Door::Tls,
            vec![("security.protocol", "plaintext")],
            "security.protocol",
        ),
    ];
    for (door, properties, advice) in table {
        let host = secured.host(door, &properties).start();
        eventually("the host says what to do", || match not_ready(&host) {
            Ok(why) if why.contains(advice) => Ok(()),
            other => Err((door, advice, other)),
        });
        let log = host.log();
        assert_eq!(log.matches("no connection to Kafka:").count(), 1, "{log}");
    }
}

/// What `/readyz` says while the host is not ready.
fn not_ready(host: &Host) -> Result<String, String> {
    let reply = host.admin().get("/readyz");
    match reply.status {
        503 => Ok(reply.problem(503)),
        _ => Err(format!("{reply:?}")),
    }
}
