//! A guard that noise cannot trip: the instructions that a request and an event
//! take, counted by valgrind's callgrind and held against `baseline.json`.
//!
//!   guard check       count, and fail where a path takes over 5 % more
//!   guard record      count, and write the baseline
//!
//! The host runs in this process, with one thread for its tasks. Each path is run
//! twice, once for longer, and the difference in that thread's instructions is
//! divided by the difference in calls: starting cancels out, and other threads
//! (the client, librdkafka, the ticker) do not count. A request comes over a
//! connection, as in production; an event is given to the dispatcher, which is all
//! of its path but for Kafka's client. There is no pool of instances, for which
//! valgrind has no room: what is kept warm is the same.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot be made ends with the reason"
)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidemill_host::deployments::{How, Steps};
use tidemill_host::dispatch;
use tidemill_host::effects::Effects;
use tidemill_host::host::Host;
use tidemill_host::http::connections::Limits;
use tidemill_host::http::listener;
use tidemill_host::invocation::{Event, Failure};
use tidemill_host::kafka::{Brokers, Cluster, Topics};
use tidemill_host::library::Library;
use tidemill_host::metrics::Metrics;
use tidemill_host::runtime::{Bounds, Compiler, Runtime};
use tidemill_host::state::{Store, View};

// As in production.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What is run: a path, and the component that it goes through.
const PATHS: [(&str, &str); 4] = [
    ("request, text", "bench-plain"),
    ("request, JSON through the SDK's router", "bench-answer"),
    ("request that publishes", "user"),
    ("event, passed on", "bench-forward"),
];
/// Calls of the shorter and of the longer run.
const CALLS: [u64; 2] = [500, 2500];
/// How much more a path may take.
const MORE: f64 = 0.05;

const GET: &str = "GET /hello HTTP/1.1\r\nhost: guard\r\n\r\n";
const USER: &str = r#"{"id":"user-12345","name":"Ada Lovelace","email":"ada@example.com"}"#;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        // Cargo adds the word.
        ["check"] | ["check", "--bench"] => check(),
        ["record"] | ["record", "--bench"] => record(),
        ["run", component, path, calls] => {
            run(Path::new(component), path, calls.parse().unwrap());
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: guard check | record (use `make guard`)");
            ExitCode::from(2)
        }
    }
}

fn baseline() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/guard/baseline.json")
}

fn check() -> ExitCode {
    let before: BTreeMap<String, u64> =
        serde_json::from_str(&std::fs::read_to_string(baseline()).unwrap()).unwrap();
    let mut within = true;
    println!("{:<42} {:>9} {:>9}", "instructions", "now", "baseline");
    for (path, now) in count() {
        let Some(known) = before.get(path) else {
            println!("{path:<42} {now:>9}         - : `make guard-record` records it");
            within = false;
            continue;
        };
        let more = now as f64 / *known as f64 - 1.0;
        println!("{path:<42} {now:>9} {known:>9}  {:+.1} %", more * 100.0);
        within &= more <= MORE;
    }
    if within {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "guard: a path takes over {:.0} % more instructions than recorded in \
         bench/guard/baseline.json: mend it, or run `make guard-record` and say why in the commit",
        MORE * 100.0
    );
    ExitCode::FAILURE
}

fn record() -> ExitCode {
    let counted: BTreeMap<&str, u64> = count().into_iter().collect();
    let text = serde_json::to_string_pretty(&counted).unwrap();
    std::fs::write(baseline(), text + "\n").unwrap();
    for (path, now) in counted {
        println!("{path:<42} {now:>9}");
    }
    ExitCode::SUCCESS
}

/// Instructions of a call, by path.
fn count() -> Vec<(&'static str, u64)> {
    let components = PathBuf::from(std::env::var_os("TIDEMILL_COMPONENTS").unwrap());
    let folder = components.parent().unwrap().join("guard");
    let _ = std::fs::remove_dir_all(&folder);
    let one = |(path, component): (&'static str, &str)| {
        let component = components.join(format!("{component}.wasm"));
        // Compiled beforehand, so that both runs find it in their cache; under
        // valgrind, which is another processor to the compiler.
        command(&folder, valgrind("none"), &component, path, 1);
        let [fewer, more] = CALLS.map(|calls| counted(&folder, &component, path, calls));
        (path, (more - fewer) / (CALLS[1] - CALLS[0]))
    };
    PATHS.map(one).to_vec()
}

/// This program under a tool of valgrind's.
fn valgrind(tool: &str) -> Command {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .arg(format!("--tool={tool}"))
        // What wasmtime has compiled is code that was data before.
        .arg("--smc-check=all-non-file");
    valgrind
}

/// Runs a path under callgrind: instructions of the thread that has most, which
/// is the one with the host's tasks.
fn counted(folder: &Path, component: &Path, path: &str, calls: u64) -> u64 {
    let out = folder.join("counts");
    let _ = std::fs::remove_dir_all(&out);
    std::fs::create_dir_all(&out).unwrap();
    let mut callgrind = valgrind("callgrind");
    callgrind
        .arg("--separate-threads=yes")
        .arg(format!("--callgrind-out-file={}/of", out.display()));
    command(folder, callgrind, component, path, calls);
    let of_thread = |entry: std::io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let totals = text
            .lines()
            .find_map(|line| line.strip_prefix("totals: "))?;
        totals.trim().parse::<u64>().ok()
    };
    let threads = std::fs::read_dir(&out).unwrap().filter_map(of_thread);
    threads.max().unwrap()
}

fn command(folder: &Path, mut command: Command, component: &Path, path: &str, calls: u64) {
    let log = folder.join("log");
    std::fs::create_dir_all(folder).unwrap();
    let ran = command
        .arg(std::env::current_exe().unwrap())
        .arg("run")
        .arg(component)
        .args([path, &calls.to_string()])
        // A host each: all of them want the same route.
        .env(
            "TIDEMILL_GUARD",
            folder.join(component.file_stem().unwrap()),
        )
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .status();
    let ran = ran.unwrap();
    let log = || std::fs::read_to_string(&log).unwrap_or_default();
    assert!(ran.success(), "{path}: {ran}\n{}", log());
}

/// Goes a path so often.
fn run(component: &Path, path: &str, calls: u64) {
    let data = PathBuf::from(std::env::var_os("TIDEMILL_GUARD").unwrap());
    let tasks = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let component = std::fs::read(component).unwrap();
    let path = path.to_owned();
    // On the worker, as everything else is.
    let ran = tasks.spawn(async move {
        let host = host(&data);
        // What is deployed is there from the run before: then nothing changes.
        host.start_kept().await;
        let how = How {
            alone: true,
            ..How::default()
        };
        let nobody = Steps::default();
        let deployed = host.deploy(Bytes::from(component), how, &nobody).await;
        let deployed = deployed.unwrap();
        while host.service(&deployed.name).is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        match &*path {
            "request, text" => requests(host, GET.to_owned(), calls).await,
            "event, passed on" => events(&host, &deployed.name, calls).await,
            _ => {
                let length = USER.len();
                let post = format!(
                    "POST /users HTTP/1.1\r\nhost: guard\r\ncontent-type: application/json\r\n\
                     content-length: {length}\r\n\r\n{USER}"
                );
                requests(host, post, calls).await;
            }
        }
    });
    tasks.block_on(ran).unwrap();
    // Not in order: what is counted has been.
    std::process::exit(0);
}

fn host(data: &Path) -> Arc<Host> {
    let topics = Topics {
        partitions: 1,
        replication: 1,
    };
    let cluster = Cluster::connect(&Brokers::Embedded, BTreeMap::new(), topics).unwrap();
    // Nothing is published before it has answered once.
    let _ = cluster.ask(false).unwrap();
    let library = Library::open(data).unwrap();
    library.forget_state("guard").unwrap();
    let bounds = Bounds {
        memory: 1 << 30,
        long_calls: 1,
        compiler: Compiler::Here,
    };
    let runtime = Runtime::unpooled(&library.cache(), bounds).unwrap();
    let store = Store::open(&library.state("guard")).unwrap();
    let metrics = Metrics::new().unwrap();
    let names = ("guard", "guard");
    let made = Host::new(
        runtime,
        library,
        Arc::new(cluster),
        names,
        store,
        metrics,
        String::new(),
    );
    let (host, changes) = made.unwrap();
    tokio::spawn(host.clone().follow(changes));
    host
}

/// Sends a request over and over on one connection.
async fn requests(host: Arc<Host>, request: String, calls: u64) {
    let bound = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = bound.local_addr().unwrap();
    let (_stop, told) = tokio::sync::watch::channel(false);
    let limits = Limits {
        connections: 10,
        patience: Duration::from_secs(60),
    };
    tokio::spawn(listener::run(bound, host, limits, told));
    let client = tokio::task::spawn_blocking(move || client(address, &request, calls));
    client.await.unwrap();
}

fn client(address: SocketAddr, request: &str, calls: u64) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut answer = [0; 4096];
    for _ in 0..calls {
        stream.write_all(request.as_bytes()).unwrap();
        // Small answers come in one piece.
        let length = stream.read(&mut answer).unwrap();
        let answer = &answer[..length];
        assert!(
            answer.starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(answer)
        );
    }
}

/// Has events handled, as many in a row as a lane reads at once.
async fn events(host: &Host, service: &str, calls: u64) {
    let service = host.service(service).unwrap();
    let revision = service.current();
    let run = Arc::new(AtomicU64::new(0));
    loop {
        let some = (calls - run.load(Ordering::Relaxed)).min(64);
        if some == 0 {
            return;
        }
        let lane = Lane {
            left: some - 1,
            run: run.clone(),
        };
        let first = (event(some), 1);
        dispatch::events(&service, &revision, first, Box::new(lane)).await;
    }
}

fn event(offset: u64) -> Event {
    Event {
        topic: "bench-in".into(),
        partition: 0,
        offset: i64::try_from(offset).unwrap(),
        timestamp: Some(1_700_000_000_000),
        key: Some(Bytes::from_static(b"key-123")),
        value: Some(Bytes::from(vec![b'v'; 200])),
        headers: Vec::new(),
    }
}

/// Gives events, and counts those that were passed on.
struct Lane {
    left: u64,
    run: Arc<AtomicU64>,
}

impl dispatch::Source for Lane {
    fn next(&mut self) -> Option<(Event, u32)> {
        self.left = self.left.checked_sub(1)?;
        Some((event(self.left), 1))
    }

    fn ahead(&self, see: &mut dyn FnMut(&Event, u32) -> bool) {
        (0..self.left).rev().all(|left| see(&event(left), 1));
    }

    fn view(&self) -> View {
        View::NotGranted
    }

    fn ran(&mut self, _: Event, ran: Result<Effects, Failure>, _: Instant) {
        assert_eq!(ran.unwrap().messages.len(), 1);
        self.run.fetch_add(1, Ordering::Relaxed);
    }
}
