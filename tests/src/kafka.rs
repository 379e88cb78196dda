//! A real Kafka: one for all tests, or one of its own for a test that needs
//! fixed topics or breaks it.

use std::fmt::{Debug, Write as _};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use rustix::process::Signal;

use crate::folder::{Folder, copy, kafka_dist, root};
use crate::process::{Process, run};
use crate::proxy::Proxy;
use crate::topics::Topics;
use crate::wait::Deadline;

/// One KRaft node, ended and deleted when dropped.
#[derive(Debug)]
pub struct Kafka {
    process: Mutex<Option<Process>>,
    folder: Folder,
    port: u16,
    controller: u16,
    jvm: &'static str,
    properties: String,
}

/// Everyone may do what no access control list forbids, and log segments are
/// compacted soon after they are closed.
const PROPERTIES: &str = "\
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
log.cleaner.backoff.ms=500
";

/// What is different with three nodes. A dead one is noticed soon.
const REPLICATED: &str = "\
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=300
replica.lag.time.max.ms=3000
";

/// Short-lived: the first compiler alone starts faster.
const SHORT_LIVED: &str = "-Xms64m -Xmx400m -XX:+UseSerialGC -XX:TieredStopAtLevel=1";

impl Kafka {
    /// The one that tests share; each uses topics and groups of its own.
    ///
    /// # Panics
    /// If Java or the fetched Kafka are missing.
    pub fn shared() -> &'static Kafka {
        // Never dropped: it ends with the process.
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(Kafka::fresh)
    }

    /// A new one, in about three seconds.
    ///
    /// # Panics
    /// If Java or the fetched Kafka are missing.
    #[must_use]
    pub fn fresh() -> Kafka {
        Kafka::with(SHORT_LIVED, free_ports(), PROPERTIES)
    }

    /// A new one, and a proxy before it that breaks what it is told to. Who takes
    /// the proxy's address for Kafka's speaks to Kafka through the proxy alone.
    ///
    /// # Panics
    /// If Java or the fetched Kafka are missing.
    #[must_use]
    pub fn proxied() -> (Kafka, Proxy) {
        let [port, controller, inner] = free_ports();
        let proxy = Proxy::before(&format!("127.0.0.1:{inner}"));
        // Clients go where Kafka says that it is. So behind the proxy it has a
        // listener of its own, which says that it is where the proxy is.
        let properties = format!(
            "{PROPERTIES}\
             listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://127.0.0.1:{inner},\
             CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},PROXIED://{}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,\
             CONTROLLER:PLAINTEXT\n",
            proxy.address()
        );
        let kafka = Kafka::with(SHORT_LIVED, [port, controller], &properties);
        (kafka, proxy)
    }

    /// A new one that takes longer to be fast, and is faster then.
    ///
    /// # Panics
    /// If Java or the fetched Kafka are missing.
    #[must_use]
    pub fn for_measuring() -> Kafka {
        Kafka::with("-Xms512m -Xmx512m -XX:+UseSerialGC", free_ports(), "")
    }

    /// A new one at these ports, with further lines for its configuration.
    pub(crate) fn with_properties(ports: [u16; 2], properties: &str) -> Kafka {
        Kafka::with(SHORT_LIVED, ports, &format!("{PROPERTIES}{properties}"))
    }

    /// Three nodes of one cluster, in some seconds. Topics have a replica on each,
    /// and writing takes two. The first is the controller as well.
    ///
    /// # Panics
    /// If Java or the fetched Kafka are missing.
    #[must_use]
    pub fn three() -> [Kafka; 3] {
        let ports: [u16; 3] = free_ports();
        let [controller] = free_ports();
        let nodes = [1, 2, 3].map(|node| {
            let port = ports[node - 1];
            let mut properties = format!("{PROPERTIES}{REPLICATED}node.id={node}\n");
            if node > 1 {
                let _ = write!(
                    properties,
                    "process.roles=broker\nlisteners=PLAINTEXT://127.0.0.1:{port}\n"
                );
            }
            let kafka = Kafka::new(SHORT_LIVED, [port, controller], &properties);
            kafka.become_node(node);
            kafka
        });
        let started = nodes.each_ref().map(Kafka::launch);
        for (node, process) in nodes.iter().zip(started) {
            node.listening(process);
        }
        nodes
    }

    fn with(jvm: &'static str, ports: [u16; 2], properties: &str) -> Kafka {
        let kafka = Kafka::new(jvm, ports, properties);
        kafka.start();
        kafka
    }

    fn new(jvm: &'static str, [port, controller]: [u16; 2], properties: &str) -> Kafka {
        let folder = Folder::new("kafka");
        // Formatting the storage takes a JVM of its own: it is done once.
        copy(&template().path().join("data"), &folder.path().join("data"));
        Kafka {
            process: Mutex::new(None),
            folder,
            port,
            controller,
            jvm,
            properties: properties.to_owned(),
        }
    }

    /// Says in the formatted storage that it is that of another node.
    fn become_node(&self, node: usize) {
        let file = self.folder.path().join("data/meta.properties");
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().map(|line| match line.split_once('=') {
            Some(("node.id", _)) => format!("node.id={node}\n"),
            // 16 bytes in base64 for URLs, another for each.
            Some(("directory.id", _)) => format!("directory.id=AAAAAAAAAAAAAAAAAAAA{node}A\n"),
            _ => format!("{line}\n"),
        });
        fs::write(&file, lines.collect::<String>()).unwrap();
    }

    /// Starts it again after [`Kafka::stop`], with its data, at its address.
    pub fn start(&self) {
        self.listening(self.launch());
    }

    fn launch(&self) -> Process {
        let mut command = script();
        command
            .arg("run")
            .arg(self.folder.path())
            .arg(self.port.to_string())
            .arg(self.controller.to_string())
            .env("KAFKA_JVM", self.jvm)
            .env("KAFKA_PROPERTIES", &self.properties);
        let log = self.folder.path().join("kafka.log");
        Process::start("Kafka", command, &log)
    }

    fn listening(&self, mut process: Process) {
        // Three at once on a machine that has other things to do take their time.
        let deadline = Deadline::after(Duration::from_secs(120));
        while TcpStream::connect(self.address()).is_err() {
            assert!(
                process.ended().is_none(),
                "Kafka ended while it started:\n{}",
                process.output()
            );
            assert!(!deadline.passed(), "Kafka does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        *self.process.lock().unwrap() = Some(process);
    }

    /// Kills it, as a machine that loses power does; its data stays.
    pub fn stop(&self) {
        drop(self.process.lock().unwrap().take());
    }

    /// Has it end in order, as for an upgrade; its data stays.
    ///
    /// # Panics
    /// If it does not end.
    pub fn shut_down(&self) {
        if let Some(mut process) = self.process.lock().unwrap().take() {
            process.signal(Signal::TERM);
            process.wait();
        }
    }

    /// A copy of its data. It has been stopped.
    ///
    /// # Panics
    /// If the disk fails.
    #[must_use]
    pub fn backup(&self) -> Folder {
        let backup = Folder::new("backup");
        copy(&self.folder.path().join("data"), backup.path());
        backup
    }

    /// Takes a copy of its data for its data. It has been stopped.
    ///
    /// # Panics
    /// If the disk fails.
    pub fn restore(&self, backup: &Folder) {
        let data = self.folder.path().join("data");
        fs::remove_dir_all(&data).unwrap();
        copy(backup.path(), &data);
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A client of it.
    #[must_use]
    pub fn topics(&self) -> Topics {
        Topics::at(&self.address())
    }
}

fn script() -> Command {
    let mut command = Command::new(root().join("kafka/kafka"));
    command.env("KAFKA_DIST", kafka_dist());
    command
}

/// Storage that is formatted and empty.
fn template() -> &'static Folder {
    static TEMPLATE: OnceLock<Folder> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let (fetched, _, error) = run(script().arg("fetch"));
        assert!(fetched, "the tests need a real Kafka: {error}");
        let folder = Folder::new("kafka-template");
        let (formatted, _, error) = run(script().arg("format").arg(folder.path()));
        assert!(formatted, "Kafka's storage cannot be formatted: {error}");
        folder
    })
}

/// Ports that were free a moment ago.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
