//! The systems that answer requests, and how each is started.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::{Component, Folder, Host, Kafka, root, target};

use crate::load::{Exchange, Load};
use crate::meter::{cpu_of_all, memory_of_all};
use crate::perf::{Profile, profile};
use crate::program::Program;

/// How long a system may take to its first answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running system. It is killed when this is dropped.
pub(crate) struct Server {
    pub(crate) name: String,
    address: SocketAddr,
    program: Program,
}

/// Which wasi:http a component is of.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proposal {
    P2,
    P3,
}

impl Proposal {
    /// The component that does the work.
    pub(crate) fn component(self) -> PathBuf {
        let name = match self {
            Self::P2 => "bench_serve_p2.wasm",
            Self::P3 => "bench_serve_p3.wasm",
        };
        target().join("guests/wasm32-wasip2/guest").join(name)
    }

    /// What it needs, and what makes it fast. Rust's library asks for `-Scli`.
    fn flags(self) -> Vec<&'static str> {
        let mut flags = vec![
            "-Scli",
            "-Opooling-allocator",
            "-Opooling-pagemap-scan=auto",
            "-Opooling-memory-keep-resident=524288",
        ];
        if let Self::P3 = self {
            flags.extend(["-Sp3", "-Wcomponent-model-async"]);
        }
        flags
    }
}

impl Server {
    /// Native hyper.
    pub(crate) fn hyper(name: &str) -> Self {
        Self::native(name, &[])
    }

    /// Native hyper that publishes with rdkafka.
    pub(crate) fn hyper_publishing(name: &str, kafka: &Kafka, linger: &str) -> Self {
        Self::native(name, &[&kafka.address(), linger])
    }

    fn native(name: &str, arguments: &[&str]) -> Self {
        let address = free();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["native-http", &address.to_string()]);
        command.args(arguments);
        Self::other(name, address, command)
    }

    /// A host with a service, on the embedded broker or on a real one.
    pub(crate) fn tidemill(name: &str, component: Component, kafka: Option<&Kafka>) -> Self {
        let address = free();
        let mut builder = Host::builder()
            .arguments(&["--http", &address.to_string()])
            .deploy([component]);
        if let Some(kafka) = kafka {
            builder = builder.kafka(kafka);
        }
        Self::host(name, address, builder.try_start())
    }

    /// A host that was started to listen there.
    pub(crate) fn host(name: &str, address: SocketAddr, host: Host) -> Self {
        Self {
            name: name.to_owned(),
            address,
            program: Program::Host(Box::new(host)),
        }
    }

    /// `wasmtime serve` with what makes it fast, and this many requests of an
    /// instance.
    pub(crate) fn wasmtime(name: &str, proposal: Proposal, reuse: &str) -> Self {
        let mut command = wasmtime();
        command
            .arg("serve")
            .args(proposal.flags())
            .args(["--max-instance-reuse-count", reuse]);
        Self::wasmtime_as(name, command, &proposal.component())
    }

    /// A command of `wasmtime serve`, with a component.
    pub(crate) fn wasmtime_as(name: &str, mut command: Command, component: &PathBuf) -> Self {
        let address = free();
        command
            .args(["--addr", &address.to_string()])
            .arg(component);
        Self::other(name, address, command)
    }

    /// FastAPI on uvicorn, with so many processes that answer.
    pub(crate) fn fastapi(name: &str, workers: &str, kafka: Option<&Kafka>) -> Self {
        let address = free();
        let uvicorn = target().join("peers/fastapi/bin/uvicorn");
        let mut command = Command::new(built(uvicorn));
        command
            .args(["app:app", "--no-access-log", "--workers", workers])
            .args(["--host", &address.ip().to_string()])
            .args(["--port", &address.port().to_string()])
            .current_dir(root().join("bench/fastapi"))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        if let Some(kafka) = kafka {
            command.env("BROKERS", kafka.address());
        }
        Self::other(name, address, command)
    }

    fn other(name: &str, address: SocketAddr, command: Command) -> Self {
        Self {
            name: name.to_owned(),
            address,
            program: Program::other(name, Folder::new("server"), command),
        }
    }

    /// Waits until it gives the answer that it has to.
    ///
    /// # Panics
    /// If it does not.
    pub(crate) fn answers(mut self, exchange: &Exchange) -> Self {
        let address = self.address;
        exchange.first_answer(address, || {
            let ended = self.program.process().ended();
            assert!(ended.is_none(), "{} ended: {ended:?}", self.name);
        });
        self
    }

    /// Connections to it, each of which has answered.
    pub(crate) fn connect(&self, connections: usize, first: &Exchange) -> Load {
        Load::connect(self.address, connections, first)
    }

    /// CPU time that it has spent.
    pub(crate) fn cpu(&mut self) -> Duration {
        cpu_of_all(self.program.process().id())
    }

    /// Samples where its time goes, if that is asked for.
    pub(crate) fn profile(&mut self, measured: &str) -> Profile {
        profile(self.program.process().id(), &self.name, measured)
    }

    /// Its resident memory, in MB.
    pub(crate) fn memory(&mut self) -> f64 {
        memory_of_all(self.program.process().id())
    }
}

impl Exchange {
    /// Waits until who listens there gives the right answer, and says when that
    /// was. Meanwhile something else is looked at.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn first_answer(&self, address: SocketAddr, mut look: impl FnMut()) -> Instant {
        let began = Instant::now();
        while !self.try_at(address) {
            look();
            assert!(began.elapsed() < PATIENCE, "no answer at {address}");
            thread::sleep(Duration::from_millis(1));
        }
        Instant::now()
    }

    /// Whether who listens there, if anybody does, gives the right answer.
    fn try_at(&self, address: SocketAddr) -> bool {
        let Ok(mut stream) = TcpStream::connect(address) else {
            return false;
        };
        let mut buffer = Vec::new();
        let mut chunk = [0; 4096];
        if stream.write_all(self.request()).is_err() {
            return false;
        }
        loop {
            match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return false,
                Ok(read) => buffer.extend_from_slice(&chunk[..read]),
            }
            if let Some(right) = self.judge(&buffer) {
                return right;
            }
        }
    }
}

/// The pinned `wasmtime`.
pub(crate) fn wasmtime() -> Command {
    Command::new(built(target().join("peers/bin/wasmtime")))
}

fn built(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} does not exist: use `make bench`, which builds it",
        path.display()
    );
    path
}

/// An address that was free a moment ago.
pub(crate) fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}
