//! The host that services are deployed on: one that runs, or one that is started
//! here and ends with this command.

use std::io::{BufRead, BufReader, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result};
use serde::Deserialize;
use ureq::http::Method;

use super::News;
use crate::api::{Detail, LogLine, Services};
use crate::client::{Body, Client, Connection, service_path};
use crate::failure::Failure;

/// Which host is wanted.
pub(super) struct Wanted<'a> {
    pub(super) connection: &'a Connection,
    pub(super) http: Option<&'a str>,
    pub(super) kafka: Option<&'a str>,
    pub(super) properties: &'a [PathBuf],
    /// Where one that is started keeps its data.
    pub(super) dir: PathBuf,
}

/// The host that is used.
pub(super) struct Host {
    pub(super) connection: Connection,
    started: Option<Started>,
}

/// One that was started here.
struct Started {
    child: Child,
    /// Where services answer.
    http: String,
    kafka: Option<String>,
}

/// Where a host listens, as it writes it into its data directory.
#[derive(Deserialize)]
struct Addresses {
    http: String,
    admin: String,
}

/// How often it is looked whether a host that starts is there.
const LOOK: Duration = Duration::from_millis(20);
/// How long a host may take to end.
const END: Duration = Duration::from_secs(10);

impl Host {
    /// Takes the host that answers, or starts one. None if Ctrl-C came first.
    pub(super) fn find(
        wanted: &Wanted<'_>,
        tell: &Sender<News>,
        news: &Receiver<News>,
    ) -> Result<Option<Host>> {
        let admin = wanted.connection.admin.to_string();
        if !admin.ends_with(":0") && answers(&admin)? {
            services(wanted.connection)?;
            return Ok(Some(Host {
                connection: wanted.connection.clone(),
                started: None,
            }));
        }
        if !is_here(&admin) {
            return Err(Failure::new(format!("no Tidemill host answers at {admin}"))
                .hint("a host is only started on this machine: see --admin")
                .into());
        }
        let dir = free(&wanted.dir);
        let child = start(wanted, &dir, &admin, tell)?;
        let mut host = Host {
            connection: wanted.connection.clone(),
            started: Some(Started {
                child,
                http: String::new(),
                kafka: wanted.kafka.map(str::to_owned),
            }),
        };
        match host.wait(&dir, news) {
            Ok(true) => Ok(Some(host)),
            Ok(false) => {
                host.stop();
                Ok(None)
            }
            Err(error) => {
                host.stop();
                Err(error)
            }
        }
    }

    /// Waits until a host that was started takes deployments. False if Ctrl-C came
    /// first.
    fn wait(&mut self, dir: &Path, news: &Receiver<News>) -> Result<bool> {
        loop {
            match news.recv_timeout(LOOK) {
                Ok(News::Interrupted) => return Ok(false),
                Ok(News::Host(line)) => super::screen::print_host(&line)?,
                Ok(News::HostEnded(words)) => return Err(not_started(&words).into()),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
            }
            let Ok(text) = fs::read(dir.join("addresses.json")) else {
                continue;
            };
            let Ok(addresses) = serde_json::from_slice::<Addresses>(&text) else {
                continue;
            };
            if let Some(started) = &mut self.started {
                started.http = addresses.http;
            }
            if let Ok(admin) = addresses.admin.parse() {
                self.connection.admin = admin;
            }
            // While it waits for Kafka it answers everything with 503.
            if services(&self.connection).is_ok() {
                return Ok(true);
            }
        }
    }

    /// Whether it was started here.
    pub(super) fn is_ours(&self) -> bool {
        self.started.is_some()
    }

    /// Where services answer, if that is known.
    pub(super) fn http(&self) -> Option<&str> {
        self.started.as_ref().map(|started| &*started.http)
    }

    /// The broker of a host that was started, unless it is embedded.
    pub(super) fn kafka(&self) -> Option<&str> {
        self.started.as_ref()?.kafka.as_deref()
    }

    /// Ends the host if it was started here, and waits for its end.
    pub(super) fn stop(&mut self) {
        let Some(mut started) = self.started.take() else {
            return;
        };
        // The end of its input is what it ends at.
        drop(started.child.stdin.take());
        let began = Instant::now();
        while began.elapsed() < END {
            if !matches!(started.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(LOOK);
        }
        let _ = started.child.kill();
        let _ = started.child.wait();
    }
}

/// The revision of a service that serves now.
pub(super) fn serving(client: &Client, name: &str) -> Option<String> {
    let path = service_path(name).ok()?;
    let asked = client.call::<Detail>(Method::GET, &path, Body::None);
    asked.ok().map(|(detail, _)| detail.summary.revision)
}

fn services(connection: &Connection) -> Result<()> {
    let client = Client::new(connection);
    client.call::<Services>(Method::GET, "/v1/services", Body::None)?;
    Ok(())
}

/// Whether anybody listens there.
fn answers(address: &str) -> Result<bool> {
    let resolved = address
        .to_socket_addrs()
        .with_context(|| format!("there is no machine called {address}"))?;
    let mut resolved = resolved;
    Ok(
        resolved
            .any(|address| TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok()),
    )
}

/// Whether an address is this machine's alone.
fn is_here(address: &str) -> bool {
    address
        .to_socket_addrs()
        .is_ok_and(|mut resolved| resolved.all(|address| address.ip().is_loopback()))
}

/// Starts a host. It is this very program; it ends when its input does, so that it
/// never outlives this command, and Ctrl-C is not for it.
fn start(wanted: &Wanted<'_>, dir: &Path, admin: &str, tell: &Sender<News>) -> Result<Child> {
    empty(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut command = Command::new(program);
    command
        .args(["serve", "--until-stdin-ends", "--log-format", "json"])
        .args(["--grace", "5", "--admin", admin, "--data-dir"])
        .arg(dir);
    for (option, value) in [("--http", wanted.http), ("--kafka", wanted.kafka)] {
        if let Some(value) = value {
            command.args([option, value]);
        }
    }
    for file in wanted.properties {
        command.arg("--kafka-property-file").arg(file);
    }
    if let Some(token) = wanted.connection.token() {
        command.env("TIDEMILL_ADMIN_TOKEN", token);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot start a host")?;
    if let Some(stderr) = child.stderr.take() {
        let tell = tell.clone();
        thread::spawn(move || listen(stderr, &tell));
    }
    Ok(child)
}

/// The folder, or one beside it if another host has it.
fn free(dir: &Path) -> PathBuf {
    let others = (2..).map(|number: u32| dir.with_file_name(format!("dev-{number}")));
    let mut dirs = std::iter::once(dir.to_path_buf()).chain(others);
    let free = dirs.find(|dir| {
        let lock = fs::File::open(dir.join("lock"));
        lock.map_or(true, |lock| lock.try_lock().is_ok())
    });
    free.unwrap_or_else(|| dir.to_path_buf())
}

/// A host begins with nothing but what it compiled before: what was deployed in an
/// earlier session is not to serve in this one.
fn empty(dir: &Path) -> std::io::Result<()> {
    fs::create_dir_all(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == "cache" {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// Tells what a host logs, and its end. What it logs about services is read where
/// their logs are.
fn listen(stderr: impl Read, tell: &Sender<News>) {
    let mut words = String::new();
    for text in BufReader::new(stderr).lines().map_while(Result::ok) {
        match serde_json::from_str::<LogLine>(&text) {
            Ok(line) if line.service.is_none() => {
                let _ = tell.send(News::Host(Box::new(line)));
            }
            Ok(_) => {}
            // Why it does not start.
            Err(_) => {
                words.push_str(text.trim_start_matches("error: "));
                words.push('\n');
            }
        }
    }
    let _ = tell.send(News::HostEnded(words.trim().to_owned()));
}

fn not_started(words: &str) -> Failure {
    let failure = Failure::new("the host does not start").detail(words);
    if words.contains("cannot listen on") {
        return failure.hint("say with --http where services are to answer, and with --admin where it is to be operated");
    }
    failure
}
