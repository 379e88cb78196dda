//! The connection to a Kafka cluster: where it is, whether it answers, and the
//! settings that all clients of this host share.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::{FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;

use super::embedded::Embedded;
use super::health::{Denial, Health};
use super::properties;
use super::raw::{self, Native};
use super::tokens::{self, Tokens};

/// Which brokers to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Brokers {
    /// The one inside this process.
    Embedded,
    /// A comma-separated list of `host:port`.
    Servers(String),
}

/// How topics are made that a manifest names and the cluster lacks.
#[derive(Clone, Copy, Debug)]
pub struct Topics {
    /// Partitions, at least 1.
    pub partitions: i32,
    /// Replicas, or −1 for the broker's default.
    pub replication: i32,
}

/// The broker did not do what it was asked. Says what and what to do.
#[derive(Debug, thiserror::Error)]
pub enum KafkaError {
    /// A property is wrong or not the user's to set.
    #[error("librdkafka refuses its configuration: {0}")]
    Config(String),
    /// The embedded broker failed.
    #[error("the embedded broker failed: {0}")]
    Embedded(String),
    /// No answer.
    #[error("Kafka at {servers} does not answer: {cause}")]
    Unreachable {
        /// The bootstrap servers.
        servers: String,
        /// librdkafka's words.
        cause: String,
    },
    /// The two do not trust each other.
    #[error("no connection to Kafka at {servers}: {denial}")]
    Denied {
        /// The bootstrap servers.
        servers: String,
        /// Who does not trust whom, and what to do.
        denial: Denial,
    },
    /// A topic does not exist and cannot be made.
    #[error("the topic {topic:?} does not exist and could not be created: {cause}")]
    TopicRefused {
        /// The topic.
        topic: String,
        /// The broker's words.
        cause: String,
    },
    /// Topics of one stateful service with different partition counts.
    #[error(
        "a service with state subscribes to topics with equal numbers of partitions, so that shard \
         i can belong to partition i of each; here {0}"
    )]
    UnequalPartitions(String),
    /// A consumer could not be made or told what to do.
    #[error("the consumer group {group:?} cannot be used: {cause}")]
    Group {
        /// The group.
        group: String,
        /// librdkafka's words.
        cause: String,
    },
    /// A producer cannot make transactions.
    #[error("transactions as {id:?} are not possible: {cause}")]
    Transactions {
        /// The transactional id.
        id: String,
        /// librdkafka's words.
        cause: String,
    },
    /// A group has members, and its offsets are theirs to commit.
    #[error(
        "the consumer group {0:?} has members: offsets can be set while nothing is consumed. \
         `tidemill pause` the service first"
    )]
    GroupInUse(String),
    /// Records of the past cannot be read, or removed.
    #[error("{topic}/{partition} cannot be read: {cause}")]
    Unread {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// librdkafka's words.
        cause: String,
    },
    /// A changelog cannot be read.
    #[error("the changelog {topic:?} cannot be read: {cause}")]
    Changelog {
        /// The topic.
        topic: String,
        /// librdkafka's words.
        cause: String,
    },
}

/// The context of clients without callbacks of their own: their log lines and
/// errors go to the host's log, and to its health.
#[derive(Clone)]
pub(super) struct Quiet {
    pub(super) health: Arc<Health>,
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
        // Some reasons for a broken connection are logged alone.
        if facility == "FAIL" {
            let reason = message
                .split_once("]: ")
                .map_or(message, |(_, reason)| reason);
            let code = RDKafkaErrorCode::BrokerTransportFailure;
            self.health.hear(Some(code), reason);
        }
    }

    fn error(&self, error: rdkafka::error::KafkaError, reason: &str) {
        self.client_error(&error, reason);
    }
}

impl ConsumerContext for Quiet {}

impl Quiet {
    /// An error of a client as a whole: noted, and a reason to ask if no broker is
    /// left. librdkafka goes on trying by itself.
    pub(super) fn client_error(&self, error: &rdkafka::error::KafkaError, reason: &str) {
        tracing::debug!(target: "librdkafka", %error, "{reason}");
        self.health.hear(error.rdkafka_error_code(), reason);
    }
}

/// librdkafka's log lines are its own details; what matters of them is said by
/// the host in its own words.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", event = "kafka.client", facility, "{message}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::debug!(target: "librdkafka", facility, "{message}");
        }
        _ => tracing::trace!(target: "librdkafka", facility, "{message}"),
    }
}

/// The version of librdkafka.
pub fn version() -> String {
    rdkafka::util::get_rdkafka_version().1
}

/// A Kafka cluster.
pub struct Cluster {
    servers: String,
    embedded: Option<Embedded>,
    properties: BTreeMap<String, String>,
    pub(super) topics: Topics,
    pub(super) health: Arc<Health>,
    /// What the clients authenticate with, if it is not in their properties.
    tokens: Option<Tokens>,
    /// Asks for metadata and watermarks; belongs to no group and reads nothing.
    /// Uncommitted records count: a partition ends at its high watermark.
    pub(super) asker: Arc<BaseConsumer<Quiet>>,
    /// The servers, for clients that have forgotten them.
    again: CString,
    /// How often in a row the asker was not answered.
    failed: AtomicU32,
    /// How often it was time to look after the others.
    looks: AtomicU32,
    clients: Arc<Clients>,
    /// Whether groups are kept by the broker (KIP-848), as far as is known.
    modern_groups: AtomicBool,
}

/// The clients that there are, of any kind.
#[derive(Default)]
pub(super) struct Clients(Mutex<Vec<Weak<dyn Native>>>);

impl Clients {
    fn add<T: Native + 'static>(&self, client: &Arc<T>) {
        let client: Weak<T> = Arc::downgrade(client);
        let mut clients = self.0.lock();
        clients.retain(|client| client.strong_count() > 0);
        clients.push(client);
    }

    pub(super) fn all(&self) -> Vec<Arc<dyn Native>> {
        self.0.lock().iter().filter_map(Weak::upgrade).collect()
    }
}

/// How long an answer about metadata is waited for.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// How long a sign of life is waited for from one broker, then from another.
const SIGN: Duration = Duration::from_secs(3);
/// The same when all connections of a client have just broken. A new one takes
/// a fraction of it, if there is anybody.
const SIGN_IN_DOUBT: Duration = Duration::from_secs(2);
/// After this time without an answer the asker takes its connection for dead: as
/// long as it were kept, nobody else would be asked.
const ASKER_TIMEOUT_MS: &str = "3000";
/// The same for all other clients. librdkafka would wait for a minute.
const TIMEOUT_MS: &str = "10000";

/// How long a client may take to be answered while the cluster answers others.
const REVIVAL: Duration = Duration::from_secs(1);
/// Each so-manieth time they are asked without a reason: every 20 seconds.
const REGULAR: u32 = 10;
/// After so many questions in a row without an answer the asker is told of the
/// servers again; librdkafka keeps each telling.
const REMIND: u32 = 4;

impl Cluster {
    /// Starts the embedded broker, or gets ready to use a real one. A real one
    /// need not answer yet.
    pub fn connect(
        brokers: &Brokers,
        mut properties: BTreeMap<String, String>,
        topics: Topics,
    ) -> Result<Cluster, KafkaError> {
        properties::check(&properties).map_err(KafkaError::Config)?;
        let source = tokens::source(&mut properties).map_err(KafkaError::Config)?;
        let (embedded, servers) = match brokers {
            Brokers::Embedded => {
                let embedded = Embedded::start()?;
                let servers = embedded.servers.clone();
                (Some(embedded), servers)
            }
            Brokers::Servers(servers) => (None, servers.clone()),
        };
        let again = CString::new(servers.clone())
            .map_err(|_| KafkaError::Config("a server's name has a zero byte in it".to_owned()))?;
        let health = Arc::new(Health::default());
        let own = [
            ("isolation.level", "read_uncommitted"),
            ("socket.timeout.ms", ASKER_TIMEOUT_MS),
        ];
        let asker: BaseConsumer<Quiet> = base(&servers, &properties, "tidemill", &own)
            .create_with_context(Quiet {
                health: health.clone(),
            })
            .map_err(|error| KafkaError::Config(properties::refusal(&error)))?;
        let asker = Arc::new(asker);
        listen(&asker)?;
        let clients = Arc::new(Clients::default());
        clients.add(&asker);
        let tokens = source.map(|source| Tokens::start(source, health.clone(), clients.clone()));
        let tokens = tokens.transpose()?;
        // These are the client's to set only where the client keeps the group.
        let classic = ["session.timeout.ms", "heartbeat.interval.ms"];
        let classic = embedded.is_some()
            || properties
                .get("group.protocol")
                .is_some_and(|protocol| protocol == "classic")
            || classic.iter().any(|name| properties.contains_key(*name));
        Ok(Cluster {
            servers,
            embedded,
            modern_groups: AtomicBool::new(!classic),
            properties,
            topics,
            health,
            tokens,
            asker,
            again,
            failed: AtomicU32::new(0),
            looks: AtomicU32::new(1),
            clients,
        })
    }

    /// The bootstrap servers.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// Whether this is the embedded broker.
    pub fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// Whether the cluster answered when it was last asked.
    pub fn is_up(&self) -> bool {
        self.health.is_up()
    }

    /// Waits until the cluster has not answered for a while.
    pub async fn gone(&self) {
        self.health.stays(false, Duration::from_secs(2)).await;
    }

    /// What is wrong with the cluster, for everyone to hear; none if it answers.
    pub fn trouble(&self) -> Option<String> {
        match (self.is_up(), self.health.denial()) {
            (true, _) => None,
            (false, Some(denial)) => Some(format!("no connection to Kafka: {}", denial.advice())),
            (false, None) => Some("Kafka does not answer".to_owned()),
        }
    }

    /// Errors of all clients so far, by librdkafka's name.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.health.errors()
    }

    /// The host is ending: that the cluster is lost is no news from here on.
    pub fn ending(&self) {
        self.health.ending();
    }

    /// Whether connections are neither encrypted nor authenticated.
    pub(super) fn is_plain(&self) -> bool {
        let protocol = self.properties.get("security.protocol");
        protocol.is_none_or(|protocol| protocol.eq_ignore_ascii_case("plaintext"))
    }

    /// Whether groups are kept by the broker (KIP-848).
    pub(super) fn has_modern_groups(&self) -> bool {
        self.modern_groups.load(Ordering::Relaxed)
    }

    /// The broker is older than that.
    pub(super) fn no_modern_groups(&self) {
        if self.modern_groups.swap(false, Ordering::Relaxed) {
            tracing::info!(
                event = "kafka.older-groups",
                "the broker has no group.protocol=consumer (KIP-848): groups are kept by their members"
            );
        }
    }

    /// Waits until there is a reason to ask before it is time to.
    pub async fn doubted(&self) {
        self.health.doubted().await;
    }

    /// Asks the cluster for its id and so whether it answers. Blocks for some
    /// seconds at most; less `in_doubt`.
    pub fn ask(&self, in_doubt: bool) -> Result<String, KafkaError> {
        // A topic that cannot exist keeps the answer small; this client does
        // not create what it asks for.
        let ping = |patience| self.asker.fetch_metadata(Some("__tidemill_ping"), patience);
        let answer = match in_doubt {
            true => ping(SIGN_IN_DOUBT),
            // The first may have gone to a broker that is silent, of several.
            false => ping(SIGN).or_else(|_| ping(SIGN)),
        };
        self.drain();
        self.health.set(answer.is_ok());
        match &answer {
            Ok(_) => self.failed.store(0, Ordering::Relaxed),
            Err(_) => {
                let failed = self.failed.fetch_add(1, Ordering::Relaxed);
                if failed % REMIND == 1 {
                    raw::add_brokers(&*self.asker, &self.again);
                }
            }
        }
        answer.map_err(|error| self.unreachable(&error))?;
        self.asker
            .client()
            .fetch_cluster_id(ANSWER)
            .ok_or_else(|| KafkaError::Unreachable {
                servers: self.servers.clone(),
                cause: "it did not tell its cluster id".to_owned(),
            })
    }

    /// Has clients that have lost all brokers know them again, if they have forgotten
    /// them. Blocks for as long as it takes to ask those clients.
    ///
    /// A broker that has just started may say for a moment that there are none.
    /// librdkafka 2.12 then drops all that it knows, and asks nobody ever again
    /// (decision 0015).
    pub fn revive(&self) {
        // One may forget them without a word.
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        let regular = looks.is_multiple_of(REGULAR);
        if !self.is_up() || !(self.health.was_lost() || regular) {
            return;
        }
        // The asker has been asked.
        let asker = self.asker.native();
        let others = self.clients.all().into_iter();
        for client in others.filter(|client| client.native() != asker) {
            if !raw::is_answered(&*client, REVIVAL) {
                tracing::debug!("a client is not answered: it is told of the servers again");
                raw::add_brokers(&*client, &self.again);
                self.health.lost();
            }
        }
    }

    /// Takes in what the asker has to say. It consumes nothing, so nobody polls
    /// it, and its log lines would pile up while the cluster is away.
    fn drain(&self) {
        for _ in 0..100 {
            let _ = self.asker.poll(Duration::ZERO);
        }
    }

    pub(super) fn unreachable(&self, error: &rdkafka::error::KafkaError) -> KafkaError {
        let servers = self.servers.clone();
        match self.health.denial() {
            Some(denial) if !self.is_up() => KafkaError::Denied { servers, denial },
            _ => KafkaError::Unreachable {
                servers,
                cause: error.to_string(),
            },
        }
    }

    pub(super) fn embedded(&self) -> Option<&Embedded> {
        self.embedded.as_ref()
    }

    /// Makes a client. Its settings are those that all share, its own, and over
    /// both what the user set. What the user may not set was refused by then.
    pub(super) fn client<C: ClientContext, T: FromClientConfigAndContext<C> + Native + 'static>(
        &self,
        name: &str,
        own: &[(&str, &str)],
        context: C,
    ) -> Result<Arc<T>, rdkafka::error::KafkaError> {
        let config = base(&self.servers, &self.properties, name, own);
        let client: Arc<T> = Arc::new(config.create_with_context(context)?);
        // It hears of each later token as one of all clients.
        self.clients.add(&client);
        if let Some(tokens) = &self.tokens {
            tokens.enrol(&*client);
        }
        Ok(client)
    }

    /// The context of a client that needs no callbacks.
    pub(super) fn quiet(&self) -> Quiet {
        Quiet {
            health: self.health.clone(),
        }
    }
}

/// Has a client that reads nothing tell its errors, on a thread of its own, until
/// it is dropped.
fn listen(asker: &Arc<BaseConsumer<Quiet>>) -> Result<(), KafkaError> {
    const PERIOD: Duration = Duration::from_millis(100);
    let asker: Weak<_> = Arc::downgrade(asker);
    let listening = std::thread::Builder::new().name("tidemill-kafka".to_owned());
    let listening = listening.spawn(move || {
        while let Some(asker) = asker.upgrade() {
            // Its context hears them; what comes back here is the same again.
            let _ = asker.poll(PERIOD);
        }
    });
    listening.map_err(|error| KafkaError::Config(error.to_string()))?;
    Ok(())
}

fn base(
    servers: &str,
    properties: &BTreeMap<String, String>,
    client: &str,
    own: &[(&str, &str)],
) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("client.id", client)
        // What a transaction and a retry wait for; 100 by default.
        .set("retry.backoff.ms", "5")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.timeout.ms", TIMEOUT_MS)
        .set("socket.connection.setup.timeout.ms", TIMEOUT_MS)
        .set("socket.keepalive.enable", "true")
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    // OpenSSL that is built along does not know where this system keeps its
    // certificates; librdkafka does. Who names a place in the environment means
    // it for OpenSSL.
    if ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(std::env::var_os) == [None, None] {
        config.set("ssl.ca.location", "probe");
    }
    for (name, value) in own {
        config.set(*name, *value);
    }
    for (name, value) in properties {
        config.set(name, value);
    }
    // The crate sets the level by a call of its own, over the property.
    if config.get("log_level") == Some("0") {
        config.set_log_level(RDKafkaLogLevel::Emerg);
    }
    config
}
