//! What a host is told: flags before environment before file before defaults.

use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{machine, secrets};
use crate::kafka::{Brokers, Topics};

/// Run a host: serve HTTP, consume Kafka, take deployments
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill serve                                  an embedded broker, nothing to install
  tidemill serve --kafka broker1:9092,broker2:9092
  tidemill serve --deploy target/tidemill/user.wasm
  tidemill serve --admin 0.0.0.0:8081 --admin-token-file /run/secrets/token

The embedded broker is in memory and at-least-once: for trying things out.
A configuration file has the flags' names as keys, and librdkafka's properties:
  kafka = \"broker1:9092\"
  [kafka-properties]
  \"client.rack\" = \"eu-west-1a\"")]
pub struct Args {
    /// Where services answer [default: 127.0.0.1:8080]
    #[arg(long, env = "TIDEMILL_HTTP", value_name = "ADDR")]
    http: Option<String>,

    /// Where operators ask; elsewhere than on loopback it needs a token [default: 127.0.0.1:8081]
    #[arg(long, env = "TIDEMILL_ADMIN", value_name = "ADDR")]
    admin: Option<String>,

    /// The token that the admin API asks for; others can see it in the list of processes
    #[arg(
        long,
        env = "TIDEMILL_ADMIN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        conflicts_with = "admin_token_file"
    )]
    admin_token: Option<String>,

    /// A file with the token that the admin API asks for
    #[arg(long, env = "TIDEMILL_ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,

    /// Connections that the services' listener takes at once [default: 20000]
    #[arg(long, env = "TIDEMILL_CONNECTIONS", value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    connections: Option<u64>,

    /// How long a client may be silent, or read nothing, in seconds [default: 30]
    #[arg(long, env = "TIDEMILL_CLIENT_TIMEOUT", value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    client_timeout: Option<u64>,

    /// Kafka's bootstrap servers, or `embedded` [default: embedded]
    #[arg(long, env = "TIDEMILL_KAFKA", value_name = "BROKERS")]
    kafka: Option<String>,

    /// A librdkafka property for all clients; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    kafka_property: Vec<String>,

    /// A file of librdkafka properties, a line each: where passwords belong; may be repeated
    #[arg(long, env = "TIDEMILL_KAFKA_PROPERTY_FILE", value_name = "FILE")]
    kafka_property_file: Vec<PathBuf>,

    /// Hosts of one fleet run the same services; several can share a Kafka [default: tidemill]
    #[arg(long, env = "TIDEMILL_FLEET", value_name = "NAME", value_parser = fleet)]
    fleet: Option<String>,

    /// Where deployments and state are kept [default: in the user's data directory]
    #[arg(long, env = "TIDEMILL_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Partitions of topics that the host creates [default: 4]
    #[arg(long, env = "TIDEMILL_PARTITIONS", value_name = "N",
          value_parser = clap::value_parser!(i32).range(1..=10_000))]
    partitions: Option<i32>,

    /// Replicas of topics that the host creates [default: the broker's]
    #[arg(long, env = "TIDEMILL_REPLICATION", value_name = "N",
          value_parser = clap::value_parser!(i32).range(1..=100))]
    replication: Option<i32>,

    /// Deploy these components at the start; may be repeated
    #[arg(long, value_name = "FILE")]
    deploy: Vec<PathBuf>,

    /// Memory of all instances of all services, as `4 GiB` [default: half of the machine's]
    #[arg(long, env = "TIDEMILL_MEMORY", value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,

    /// How long compiling a component may take, in seconds [default: 60]
    #[arg(long, env = "TIDEMILL_COMPILE_TIME", value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    compile_time: Option<u64>,

    /// How long what nobody calls stays in memory, in seconds [default: 300]
    #[arg(long, env = "TIDEMILL_IDLE_TIME", value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    idle_time: Option<u64>,

    /// How log lines look [default: pretty on a terminal, json otherwise]
    #[arg(long, env = "TIDEMILL_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,

    /// What is logged: a level, or directives as `info,guest=debug` [default: info]
    #[arg(long, env = "TIDEMILL_LOG", value_name = "FILTER")]
    log: Option<String>,

    /// How long a stopping host may take to finish what runs, in seconds [default: 30]
    #[arg(long, env = "TIDEMILL_GRACE", value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(0..=3600))]
    grace: Option<u64>,

    /// End when standard input does: for a host that another program starts
    #[arg(long, hide = true)]
    until_stdin_ends: bool,

    /// A configuration file [default: tidemill/config.toml in the user's configuration directory]
    #[arg(long, env = "TIDEMILL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What the libraries say of their own work is not for operators, and what h2
/// warns of is what any client can do as often as it likes.
const DEFAULT_LOG: &str = "info,fjall=warn,lsm_tree=warn,h2=error";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// The least that one instance of anything can do with.
const LEAST_MEMORY: u64 = 16 << 20;

/// What may stand before a dot in a topic's name, and in a file's.
fn fleet(text: &str) -> Result<String, String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    match text.len() {
        1..=100 if text.bytes().all(legal) => Ok(text.to_owned()),
        _ => Err("it is 1 to 100 letters, digits, - and _".to_owned()),
    }
}

fn memory(text: &str) -> Result<u64, String> {
    let bytes = tidemill_manifest::parse_size(text)?;
    match bytes {
        LEAST_MEMORY.. => Ok(bytes),
        _ => Err("it is at least 16 MiB".to_owned()),
    }
}

/// The configuration file.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    http: Option<String>,
    admin: Option<String>,
    admin_token: Option<String>,
    admin_token_file: Option<PathBuf>,
    connections: Option<u64>,
    client_timeout: Option<u64>,
    kafka: Option<String>,
    #[serde(default)]
    kafka_properties: BTreeMap<String, String>,
    #[serde(default)]
    kafka_property_file: Vec<PathBuf>,
    fleet: Option<String>,
    data_dir: Option<PathBuf>,
    partitions: Option<i32>,
    replication: Option<i32>,
    memory: Option<String>,
    compile_time: Option<u64>,
    idle_time: Option<u64>,
    #[serde(default)]
    deploy: Vec<PathBuf>,
    log_format: Option<LogFormat>,
    log: Option<String>,
    grace: Option<u64>,
}

/// What is wrong with what a host was told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("the file {0:?} cannot be read: {1}")]
    Read(PathBuf, std::io::Error),
    #[error("the file {0:?} is not valid:\n{1}")]
    Parse(PathBuf, String),
    #[error(
        "this machine has no data directory for the user: say where to keep things with --data-dir"
    )]
    NoDataDir,
    #[error(
        "the admin API on {0} could be used by others: give it a token with --admin-token-file or \
         TIDEMILL_ADMIN_TOKEN, or keep it on loopback"
    )]
    AdminWithoutToken(String),
    // It may be a password: it is not repeated.
    #[error("--kafka-property is given as NAME=VALUE")]
    Property,
    #[error("the admin token is empty")]
    EmptyToken,
    #[error("{0:?} is not an address to listen on: it has a host and a port, as 127.0.0.1:8080")]
    Address(String),
    #[error("memory in the configuration file: {0}")]
    Memory(String),
    #[error("{0} is out of range: {1}")]
    Range(&'static str, &'static str),
}

/// What a host was told, complete and checked. It has secrets, and so no `Debug`.
pub(crate) struct Config {
    pub(crate) http: String,
    pub(crate) admin: String,
    pub(crate) admin_token: Option<String>,
    pub(crate) connections: u64,
    pub(crate) client_timeout: Duration,
    pub(crate) kafka: Brokers,
    pub(crate) properties: BTreeMap<String, String>,
    pub(crate) fleet: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) topics: Topics,
    pub(crate) memory: u64,
    pub(crate) compile_time: Duration,
    pub(crate) idle_time: Duration,
    pub(crate) deploy: Vec<PathBuf>,
    pub(crate) log_format: Option<LogFormat>,
    pub(crate) log: String,
    pub(crate) grace: Duration,
    pub(crate) until_stdin_ends: bool,
}

impl Config {
    pub(crate) fn of(args: Args) -> Result<Config, ConfigError> {
        let directories = directories::ProjectDirs::from("", "", "tidemill");
        let file = match &args.config {
            Some(path) => Some(path.clone()),
            None => directories
                .as_ref()
                .map(|directories| directories.config_dir().join("config.toml"))
                .filter(|path| path.exists()),
        };
        let file = file.map(read).transpose()?.unwrap_or_default();
        let data_dir = args
            .data_dir
            .or(file.data_dir)
            .or_else(|| directories.map(|directories| directories.data_dir().to_owned()));
        let or = |flag: Option<String>, file: Option<String>, default: &str| {
            flag.or(file).unwrap_or_else(|| default.to_owned())
        };
        let told = file.memory.map(|text| memory(&text)).transpose();
        let told = told.map_err(ConfigError::Memory)?;
        let mut properties = file.kafka_properties;
        for path in file
            .kafka_property_file
            .iter()
            .chain(&args.kafka_property_file)
        {
            properties.extend(secrets::properties(path)?);
        }
        for text in &args.kafka_property {
            let (name, value) = secrets::property(text).ok_or(ConfigError::Property)?;
            properties.insert(name, value);
        }
        // Any flag goes before the file, whichever of the two it is.
        let admin_token = match (args.admin_token, args.admin_token_file) {
            (Some(token), _) => Some(token),
            (None, Some(path)) => Some(secrets::token(&path)?),
            (None, None) => match (file.admin_token, file.admin_token_file) {
                (Some(token), _) => Some(token),
                (None, path) => path.as_deref().map(secrets::token).transpose()?,
            },
        };
        let deploy = if args.deploy.is_empty() {
            file.deploy
        } else {
            args.deploy
        };
        let named = file.fleet.as_deref().map(fleet).transpose();
        let named = named.map_err(|_| ConfigError::Range("fleet", "letters, digits, - and _"))?;
        let config = Config {
            fleet: or(args.fleet, named, "tidemill"),
            http: or(args.http, file.http, "127.0.0.1:8080"),
            admin: or(args.admin, file.admin, "127.0.0.1:8081"),
            admin_token,
            connections: args.connections.or(file.connections).unwrap_or(20_000),
            client_timeout: Duration::from_secs(
                args.client_timeout.or(file.client_timeout).unwrap_or(30),
            ),
            kafka: match or(args.kafka, file.kafka, "embedded") {
                embedded if embedded == "embedded" => Brokers::Embedded,
                servers => Brokers::Servers(servers),
            },
            properties,
            data_dir: data_dir.ok_or(ConfigError::NoDataDir)?,
            topics: Topics {
                partitions: args.partitions.or(file.partitions).unwrap_or(4),
                replication: args.replication.or(file.replication).unwrap_or(-1),
            },
            memory: args
                .memory
                .or(told)
                .unwrap_or_else(|| (machine::memory() / 2).max(LEAST_MEMORY)),
            compile_time: Duration::from_secs(
                args.compile_time.or(file.compile_time).unwrap_or(60),
            ),
            idle_time: Duration::from_secs(args.idle_time.or(file.idle_time).unwrap_or(300)),
            deploy,
            log_format: args.log_format.or(file.log_format),
            log: or(args.log, file.log, DEFAULT_LOG),
            grace: Duration::from_secs(args.grace.or(file.grace).unwrap_or(30)),
            until_stdin_ends: args.until_stdin_ends,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.compile_time.is_zero() {
            return Err(ConfigError::Range("compile-time", "at least 1"));
        }
        if self.idle_time.is_zero() {
            return Err(ConfigError::Range("idle-time", "at least 1"));
        }
        if self.topics.partitions < 1 {
            return Err(ConfigError::Range("partitions", "at least 1"));
        }
        if !(1..=1_000_000).contains(&self.connections) {
            return Err(ConfigError::Range("connections", "1 to 1000000"));
        }
        if self.client_timeout.is_zero() {
            return Err(ConfigError::Range("client-timeout", "at least 1"));
        }
        addresses(&self.http)?;
        let admin = addresses(&self.admin)?;
        match &self.admin_token {
            Some(token) if token.trim().is_empty() => Err(ConfigError::EmptyToken),
            None if !admin.iter().all(IpAddr::is_loopback) => {
                Err(ConfigError::AdminWithoutToken(self.admin.clone()))
            }
            _ => Ok(()),
        }
    }
}

fn read(path: PathBuf) -> Result<File, ConfigError> {
    let text = std::fs::read_to_string(&path);
    let text = text.map_err(|cause| ConfigError::Read(path.clone(), cause))?;
    // What toml shows of the file around an error may be a password.
    toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(1, |span| {
            text.get(..span.start)
                .unwrap_or_default()
                .matches('\n')
                .count()
                + 1
        });
        let message = secrets::without_value(error.message());
        ConfigError::Parse(path, format!("line {line}: {message}"))
    })
}

fn addresses(address: &str) -> Result<Vec<IpAddr>, ConfigError> {
    let resolved = address.to_socket_addrs();
    let resolved = resolved.map_err(|_| ConfigError::Address(address.to_owned()))?;
    Ok(resolved.map(|address| address.ip()).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn config(flags: &[&str], file: &str) -> Result<Config, ConfigError> {
        let folder = crate::testing::folder(&format!("config-{:x}", {
            use std::hash::{BuildHasher, RandomState};
            RandomState::new().hash_one(flags)
        }));
        let path = folder.join("config.toml");
        std::fs::write(&path, file).unwrap();
        let mut all = vec![
            "serve",
            "--config",
            path.to_str().unwrap(),
            "--data-dir",
            "d",
        ];
        all.extend(flags);
        Config::of(Cli::try_parse_from(all).unwrap().args)
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let file = "http = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:2\"\npartitions = 8";
        let config = config(&["--http", "127.0.0.1:3"], file).unwrap();
        assert_eq!(config.http, "127.0.0.1:3");
        assert_eq!(config.admin, "127.0.0.1:2");
        assert_eq!(config.topics.partitions, 8);
        assert_eq!(config.kafka, Brokers::Embedded);
        assert_eq!(config.grace, Duration::from_secs(30));
    }

    #[test]
    fn memory_is_a_size_and_by_default_a_part_of_the_machine() {
        let memory = |flags: &[&str], file: &str| config(flags, file).map(|config| config.memory);
        assert_eq!(
            memory(&["--memory", "1 GiB"], "memory = \"2 GiB\"").unwrap(),
            1 << 30
        );
        assert_eq!(memory(&[], "memory = \"2 GiB\"").unwrap(), 2 << 30);
        assert!(memory(&[], "").unwrap() >= LEAST_MEMORY);
        assert!(memory(&[], "memory = \"1 MiB\"").is_err());
        assert!(Cli::try_parse_from(["serve", "--memory", "2 gib"]).is_err());
    }

    #[test]
    fn the_admin_api_is_on_loopback_or_has_a_token() {
        let elsewhere = ["--admin", "0.0.0.0:8081"];
        let error = config(&elsewhere, "").err().unwrap().to_string();
        assert!(error.contains("--admin-token-file"), "{error}");
        let empty = ["--admin", "0.0.0.0:8081", "--admin-token", " "];
        assert!(matches!(config(&empty, ""), Err(ConfigError::EmptyToken)));
        let with_token = ["--admin", "0.0.0.0:8081", "--admin-token", "t"];
        assert!(config(&with_token, "").is_ok());
    }

    #[test]
    fn an_error_in_the_file_names_the_line_and_shows_no_value() {
        let file = "admin-token = \"hunter2\"\nadmin-tokn = \"hunter2\"";
        let error = config(&[], file).err().unwrap().to_string();
        assert!(error.contains("line 2"), "{error}");
        assert!(error.contains("admin-tokn"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_not_shown() {
        for file in [
            "partitions = \"hunter2\"",
            "kafka-properties = \"hunter2\"",
            "log-format = \"hunter2\"",
            "admin-token = [\"hunter2\"]",
            "admin-token = hunter2",
            "admin-token = \"hunter2",
        ] {
            let error = config(&[], file).err().unwrap().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_property_without_a_value_is_refused_without_repeating_it() {
        let error = config(&["--kafka-property", "hunter2"], "").err().unwrap();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        let config = config(&["--kafka-property", "sasl.password=a=b"], "").unwrap();
        assert_eq!(config.properties["sasl.password"], "a=b");
    }
}
