//! A real Kafka that asks who one is: TLS and SASL, each at a door of its own,
//! with certificates made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::access::Resource;
use crate::folder::{Folder, kafka_dist};
use crate::host::{Builder, Host};
use crate::kafka::Kafka;
use crate::process::run;

/// One node with several doors to it. Tests speak to it through the one without
/// a lock, `kafka`.
#[derive(Debug)]
pub struct Secured {
    /// The node.
    pub kafka: Kafka,
    folder: Folder,
    ports: [u16; DOORS.len()],
}

/// Where hosts come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// TLS; everyone may come in.
    Tls,
    /// TLS; a certificate of the client's is wanted.
    Mutual,
    /// TLS, then SASL: SCRAM, PLAIN, OAUTHBEARER.
    Sasl,
    /// TLS, with a certificate that has expired.
    Expired,
    /// TLS, with a certificate for another host.
    Elsewhere,
}

const DOORS: [(Door, &str, &str); 5] = [
    (Door::Tls, "TLS", "SSL"),
    (Door::Mutual, "MUTUAL", "SSL"),
    (Door::Sasl, "SASL", "SASL_SSL"),
    (Door::Expired, "EXPIRED", "SSL"),
    (Door::Elsewhere, "ELSEWHERE", "SSL"),
];

/// Users that PLAIN knows from the start, each for one test.
const USERS: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];
/// One more, who may do nothing.
const STRANGER: &str = "grace";

const EVERYTHING: [(Resource, &str); 4] = [
    (Resource::Topic, "*"),
    (Resource::Group, "*"),
    (Resource::TransactionalId, "*"),
    (Resource::Cluster, "kafka-cluster"),
];

impl Secured {
    /// The one that tests share; each uses topics, groups and users of its own.
    ///
    /// # Panics
    /// If Java or the fetched Kafka are missing.
    pub fn shared() -> &'static Secured {
        static SHARED: OnceLock<Secured> = OnceLock::new();
        SHARED.get_or_init(Secured::start)
    }

    fn start() -> Secured {
        let folder = Folder::new("secured");
        certificates(folder.path());
        let ports = crate::kafka::free_ports();
        let own: [u16; 2] = crate::kafka::free_ports();
        let kafka = Kafka::with_properties(own, &properties(folder.path(), own, ports));
        // From here on who is not named here may do nothing.
        let named = ["ANONYMOUS", "CN=client", "tokened"].into_iter();
        for user in named.chain(USERS) {
            kafka.allow_all(user, &EVERYTHING);
        }
        Secured {
            kafka,
            folder,
            ports,
        }
    }

    /// Host and port of a door.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn address(&self, door: Door) -> String {
        let place = DOORS.iter().position(|(one, ..)| *one == door);
        format!("127.0.0.1:{}", self.ports[place.unwrap()])
    }

    /// A file of certificates or keys.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A host that comes in by a door, with these properties beside the CA to
    /// trust. They are in a configuration file, as passwords should be.
    ///
    /// # Panics
    /// If the file cannot be written.
    #[must_use]
    pub fn host(&self, door: Door, properties: &[(&str, &str)]) -> Builder {
        let protocol = match door {
            Door::Sasl => "sasl_ssl",
            _ => "ssl",
        };
        let ca = self.file("ca.pem").display().to_string();
        let own = [("security.protocol", protocol), ("ssl.ca.location", &ca)];
        let folder = Folder::new("configured");
        let mut config = "[kafka-properties]\n".to_owned();
        for (name, value) in own.iter().filter(|(name, _)| {
            // What a test says itself counts.
            !properties.iter().any(|(other, _)| other == name)
        }) {
            config += &format!("{name:?} = {value:?}\n");
        }
        for (name, value) in properties {
            config += &format!("{name:?} = {value:?}\n");
        }
        let file = folder.path().join("config.toml");
        fs::write(&file, config).unwrap();
        Host::builder()
            .broker(&self.address(door))
            .arguments(&["--config", &file.display().to_string()])
            .folder(folder)
    }

    /// Gives a SCRAM user, who may do everything, a password, as an operator does it:
    /// by `kafka-configs`.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn add_user(&self, user: &str, mechanism: &str, password: &str) {
        let credentials = format!("{mechanism}=[password={password}]");
        let jars = kafka_dist().join("libs/*");
        let (added, told, error) = run(Command::new("java")
            .args(["-XX:TieredStopAtLevel=1", "-cp"])
            .arg(jars)
            .args(["kafka.admin.ConfigCommand", "--alter"])
            .args(["--bootstrap-server", &self.kafka.address()])
            .args(["--entity-type", "users", "--entity-name", user])
            .args(["--add-config", &credentials]));
        assert!(added, "{user} is not added: {told}{error}");
        self.kafka.allow_all(user, &EVERYTHING);
    }
}

fn properties(folder: &Path, [port, controller]: [u16; 2], ports: [u16; DOORS.len()]) -> String {
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{port}");
    let mut protocols = "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned();
    for ((_, name, protocol), port) in DOORS.iter().zip(ports) {
        listeners += &format!(",{name}://127.0.0.1:{port}");
        protocols += &format!(",{name}:{protocol}");
    }
    let users = USERS.iter().chain([&STRANGER]);
    let users: String = users
        .map(|user| format!(" user_{user}=\"{user}-secret\""))
        .collect();
    let file = |name: &str| folder.join(name).display().to_string();
    let module = "org.apache.kafka.common.security";
    format!(
        "listeners={listeners},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners={listeners}\n\
         listener.security.protocol.map={protocols}\n\
         ssl.keystore.type=PEM\n\
         ssl.keystore.location={broker}\n\
         ssl.truststore.type=PEM\n\
         ssl.truststore.location={ca}\n\
         listener.name.expired.ssl.keystore.location={expired}\n\
         listener.name.elsewhere.ssl.keystore.location={elsewhere}\n\
         listener.name.mutual.ssl.client.auth=required\n\
         listener.name.sasl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER\n\
         listener.name.sasl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required{users};\n\
         listener.name.sasl.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
         listener.name.sasl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
         listener.name.sasl.oauthbearer.sasl.jaas.config=\
         {module}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";\n\
         listener.name.sasl.oauthbearer.connections.max.reauth.ms=600000\n",
        broker = file("broker.pem"),
        ca = file("ca.pem"),
        expired = file("expired.pem"),
        elsewhere = file("elsewhere.pem"),
    )
}

/// Makes a CA and what it signs, each with its key in one PEM file, as Kafka and
/// librdkafka take them; and another CA that signs nothing.
fn certificates(folder: &Path) {
    let ca = authority("Tidemill's tests");
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("ca.pem", &ca.0);
    write("other-ca.pem", &authority("Somebody else").0);
    let here = ["localhost", "127.0.0.1"];
    let sign = |name: &str, hosts: &[&str], expired: bool| {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &ca.1).unwrap();
        write(
            &format!("{name}.pem"),
            &format!("{}{}", key.serialize_pem(), certificate.pem()),
        );
    };
    sign("broker", &here, false);
    sign("expired", &here, true);
    sign("elsewhere", &["kafka.example.com"], false);
    sign("client", &[], false);
}

fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), Issuer::new(params, key))
}
