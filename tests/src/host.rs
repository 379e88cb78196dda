//! A running `tidemill serve`, and what a test does with it.

use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::{fs, thread};

use rustix::process::Signal;
use serde_json::Value;

use crate::compiled;
use crate::component::Component;
use crate::folder::{Folder, tidemill};
use crate::http::{Client, Reply};
use crate::kafka::Kafka;
use crate::process::{Process, run};
use crate::topics::Topics;
use crate::wait::{Deadline, eventually};

/// How a host is started.
#[derive(Debug, Default)]
pub struct Builder {
    kafka: Option<String>,
    deploy: Vec<Component>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: Option<Folder>,
}

impl Builder {
    /// Against a real Kafka; else on the embedded broker.
    #[must_use]
    pub fn kafka(mut self, kafka: &Kafka) -> Self {
        self.kafka = Some(kafka.address());
        self
    }

    /// Against what listens at an address and speaks as Kafka does.
    #[must_use]
    pub fn broker(mut self, address: &str) -> Self {
        self.kafka = Some(address.to_owned());
        self
    }

    /// With services from the start.
    #[must_use]
    pub fn deploy(mut self, components: impl IntoIterator<Item = Component>) -> Self {
        self.deploy.extend(components);
        self
    }

    /// With further arguments to `serve`.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// With further variables in its environment.
    #[must_use]
    pub fn environment(mut self, variables: &[(&str, &str)]) -> Self {
        let variables = variables.iter();
        self.environment
            .extend(variables.map(|&(name, value)| (name.to_owned(), value.to_owned())));
        self
    }

    /// With a folder that has something in it already.
    #[must_use]
    pub fn folder(mut self, folder: Folder) -> Self {
        self.folder = Some(folder);
        self
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn start(self) -> Host {
        let mut host = self.try_start();
        host.listen();
        host
    }

    /// Starts it, and waits until it is ready: all services are deployed and
    /// consume.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn ready(self) -> Host {
        let deployed = self.deploy.clone();
        let host = self.start();
        // A test of its own holds that /readyz waits for these; the others are
        // not to fail with it.
        eventually("the services are deployed", || {
            let list = host.admin.try_send("GET", "/v1/services", &[], b"");
            let list = list.map_err(|error| error.to_string())?.json();
            match list["services"].as_array() {
                Some(all) if all.len() >= deployed.len() => Ok(()),
                _ => Err(list.to_string()),
            }
        });
        host.ready();
        compiled::keep(&deployed, &host.data_dir());
        host
    }

    /// Starts it, and does not wait for anything.
    #[must_use]
    pub fn try_start(self) -> Host {
        let folder = self.folder.unwrap_or_else(|| Folder::new("host"));
        let data = folder.path().join("data");
        let mut arguments = vec!["serve".to_owned()];
        for (flag, value) in [
            ("--http", Some("127.0.0.1:0".to_owned())),
            ("--admin", Some("127.0.0.1:0".to_owned())),
            ("--data-dir", Some(data.display().to_string())),
            ("--kafka", self.kafka),
            ("--fleet", Some(fleet())),
        ] {
            // What the test says itself counts.
            let own = self.arguments.iter().any(|argument| argument == flag);
            if let Some(value) = value.filter(|_| !own) {
                arguments.push(format!("{flag}={value}"));
            }
        }
        arguments.extend(self.arguments);
        compiled::lend(&self.deploy, &data);
        let mut deploy = Vec::new();
        for (number, component) in self.deploy.iter().enumerate() {
            let file = folder.path().join(format!("deploy-{number}.wasm"));
            fs::write(&file, &component.0).unwrap();
            deploy.push(format!("--deploy={}", file.display()));
        }
        let environment = self.environment;
        let process = spawn(&folder, arguments.iter().chain(&deploy), &environment);
        Host {
            process,
            arguments,
            environment,
            http: Client::at("127.0.0.1:1"),
            admin: Client::at("127.0.0.1:1"),
            broker: String::new(),
            folder,
        }
    }
}

/// The hosts of one test are a fleet, whatever other tests have on the same Kafka.
fn fleet() -> String {
    let thread = std::thread::current();
    // Other threads than a test's own have no name.
    let test = thread.name().unwrap_or("alone");
    let test = test.rsplit("::").next().unwrap_or(test);
    let test: String = test.chars().take(60).collect();
    format!("{test}-{}", std::process::id())
}

fn spawn<'a>(
    folder: &Folder,
    arguments: impl Iterator<Item = &'a String>,
    environment: &[(String, String)],
) -> Process {
    let _ = fs::remove_file(folder.path().join("data/addresses.json"));
    let mut command = Command::new(tidemill());
    command.args(arguments).current_dir(folder.path());
    // Nothing of the environment is to have a say in a test.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("TIDEMILL_") || text.starts_with("OTEL_") {
            command.env_remove(name);
        }
    }
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    Process::start("tidemill serve", command, &folder.path().join("host.log"))
}

/// A running host. It is killed when dropped, and its log shown if the test has
/// failed.
#[derive(Debug)]
pub struct Host {
    // First, so that it has ended when its folder is deleted.
    process: Process,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    http: Client,
    admin: Client,
    broker: String,
    folder: Folder,
}

impl Host {
    /// How to start one.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// One on the embedded broker, with services, ready.
    #[must_use]
    pub fn embedded(components: impl IntoIterator<Item = Component>) -> Host {
        Host::builder().deploy(components).ready()
    }

    /// A client of the public listener.
    #[must_use]
    pub fn http(&self) -> &Client {
        &self.http
    }

    /// A client of the admin listener.
    #[must_use]
    pub fn admin(&self) -> &Client {
        &self.admin
    }

    /// A client of the broker that the host uses.
    #[must_use]
    pub fn topics(&self) -> Topics {
        Topics::at(&self.broker)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A folder for files of the test, deleted with the host.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Waits until `GET /readyz` gives 200.
    ///
    /// # Panics
    /// If it does not.
    pub fn ready(&self) {
        eventually("the host is ready", || {
            match self.admin.try_send("GET", "/readyz", &[], b"") {
                Ok(reply) if reply.status == 200 => Ok(()),
                other => Err(other),
            }
        });
    }

    /// `POST /v1/services`, whatever comes back.
    #[must_use]
    pub fn try_deploy(&self, component: &Component) -> Reply {
        let headers = [("content-type", "application/wasm")];
        self.admin
            .send("POST", "/v1/services", &headers, &component.0)
    }

    /// Deploys, and gives what the deploy did.
    ///
    /// # Panics
    /// If it is refused.
    pub fn deploy(&self, component: &Component) -> Value {
        let reply = self.try_deploy(component);
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
        reply.json()
    }

    /// Holds that a deploy is refused by a problem document, and gives its
    /// detail.
    ///
    /// # Panics
    /// If it is not refused, or with another status than 4xx.
    #[must_use]
    pub fn refuses(&self, component: &Component) -> String {
        let reply = self.try_deploy(component);
        assert!((400..500).contains(&reply.status), "{reply:?}");
        reply.problem(reply.status)
    }

    /// `GET /v1/services/{name}`.
    ///
    /// # Panics
    /// If there is no such service.
    #[must_use]
    pub fn service(&self, name: &str) -> Value {
        self.admin
            .get(&format!("/v1/services/{name}"))
            .expect(200)
            .json()
    }

    /// Waits until all that requests published has reached Kafka: what nobody waited
    /// for any more comes late.
    ///
    /// # Panics
    /// If it does not.
    pub fn has_nothing_under_way(&self) {
        eventually("nothing is under way to Kafka", || {
            match self.metric("tidemill_kafka_queue_messages", &[]) {
                none if none < 0.5 => Ok(()),
                some => Err(some),
            }
        });
    }

    /// A metric's value, summed over all its label sets that have `labels`.
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.admin.get("/metrics").expect(200);
        page.text()
            .lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .filter(|line| labels.iter().all(|label| line.contains(label)))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// Runs `tidemill` as a client of this host. Gives whether it succeeded, and
    /// what it wrote to standard output and to standard error.
    pub fn cli(&self, arguments: &[&str]) -> (bool, String, String) {
        run(Command::new(tidemill())
            .args(arguments)
            .env("TIDEMILL_ADMIN", self.admin.address())
            .current_dir(self.folder.path()))
    }

    /// Kills it as `kill -9` does.
    pub fn kill9(&mut self) {
        self.process.kill();
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait()
    }

    /// Starts it again, with its data and without `--deploy`, after it has been
    /// ended.
    pub fn restart(&mut self) {
        assert!(self.process.ended().is_some(), "it still runs");
        self.process = spawn(&self.folder, self.arguments.iter(), &self.environment);
        self.listen();
    }

    /// The same with further arguments, from now on.
    ///
    /// # Panics
    /// If it still runs, or does not listen.
    pub fn restart_with(&mut self, arguments: &[String]) {
        self.arguments.extend_from_slice(arguments);
        self.restart();
    }

    /// Waits until it listens, and knows where.
    ///
    /// # Panics
    /// If it does not.
    pub fn listen(&mut self) {
        let file = self.data_dir().join("addresses.json");
        let deadline = Deadline::usual();
        let addresses: Value = loop {
            if let Ok(text) = fs::read(&file)
                && let Ok(addresses) = serde_json::from_slice(&text)
            {
                break addresses;
            }
            if let Some(status) = self.process.ended() {
                panic!("the host ended while it started: {status}\n{}", self.log());
            }
            assert!(
                !deadline.passed(),
                "the host does not listen:\n{}",
                self.log()
            );
            thread::sleep(std::time::Duration::from_millis(5));
        };
        let address = |name: &str| addresses[name].as_str().unwrap().to_owned();
        self.http = Client::at(&address("http"));
        self.admin = Client::at(&address("admin"));
        self.broker = address("kafka");
    }
}
