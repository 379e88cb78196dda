//! `tidemill dev`: watches services, and has a host run what is saved.
//!
//! One loop hears all the news: files that changed, builds that ended, lines of
//! the log, Ctrl-C. It alone decides and prints. What takes time (cargo, the host,
//! reading logs) has threads of its own that send it news.

mod cargo;
mod cycle;
mod host;
mod profile;
mod screen;
mod sources;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};

use crate::api::LogLine;
use crate::client::{Client, Connection, service_path};
use crate::commands::{build, changes, deploy};
use crate::failure::Failure;
use crate::project::{self, MANIFEST, Project};

use cargo::Cancel;
use cycle::{Cycle, Ended, Outcome};
use host::Host;
use screen::Screen;
use sources::{Sources, Watcher};

const EXAMPLES: &str = "\
Examples:
  tidemill dev                             the service in this directory
  tidemill dev handlers/user handlers/order
                                           several services on one host
  tidemill dev --kafka 127.0.0.1:9092      on a real Kafka
  tidemill dev -- --features audit         what follows -- goes to cargo

Saves are built and deployed as they come. What does not compile, or is refused,
changes nothing: the revision before serves on. If no host answers at the admin
address, one is started, and stopped at the end.";

/// What `tidemill dev` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The services' directories: Cargo.toml and service.toml are in each
    #[arg(value_name = "DIR", default_value = ".")]
    dirs: Vec<PathBuf>,
    /// The cargo profile to build with [default: one for short builds]
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Where services answer, if a host is started [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http: Option<String>,
    /// Kafka's bootstrap servers, if a host is started [default: an embedded broker]
    #[arg(long, value_name = "BROKERS")]
    kafka: Option<String>,
    /// A file of librdkafka properties, if a host is started; may be repeated
    #[arg(long, value_name = "FILE")]
    kafka_property_file: Vec<PathBuf>,
    /// More arguments for `cargo build`
    #[arg(last = true, value_name = "CARGO ARGS")]
    cargo: Vec<String>,
    #[command(flatten)]
    connection: Connection,
}

/// What the loop hears of.
enum News {
    /// A file has changed; none where it is not known which.
    Changed(Option<PathBuf>),
    /// A cycle is at its end.
    Ended(Box<Ended>),
    /// Cargo says how far it is.
    Cargo(usize, String),
    /// A line of the log of a service.
    Line(usize, Box<LogLine>),
    /// The log of a service cannot be read, or can again.
    Follows(usize, bool),
    /// What the host that was started says about itself.
    Host(Box<LogLine>),
    /// That host is gone, with its last words.
    HostEnded(String),
    /// Ctrl-C, or SIGTERM.
    Interrupted,
}

/// No more changes for so long, and a build begins …
const QUIET: Duration = Duration::from_millis(30);
/// … or so long after the first one, if they never stop.
const PATIENCE: Duration = Duration::from_millis(300);

/// The exit code for a second Ctrl-C: 128 and the signal's number, as shells have it.
const INTERRUPTED: i32 = 130;

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let (tell, news) = channel();
    listen_for_signals(tell.clone());
    let mut projects = Vec::new();
    for dir in &args.dirs {
        let project = Project::open(dir)?;
        project.check_cdylib()?;
        projects.push(project);
    }
    let Some(first) = projects.first() else {
        return Ok(ExitCode::SUCCESS);
    };
    build::ensure_target(&first.dir)?;
    let wanted = host::Wanted {
        connection: &args.connection,
        http: args.http.as_deref(),
        kafka: args.kafka.as_deref(),
        properties: &args.kafka_property_file,
        dir: first.target.join("tidemill").join("dev"),
    };
    let Some(host) = Host::find(&wanted, &tell, &news)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let ended = Dev::new(args, projects, host, tell).and_then(|mut dev| {
        let ended = dev.run(&news);
        dev.end();
        ended
    });
    ended.map(|()| ExitCode::SUCCESS)
}

/// A service that is watched.
struct Service {
    project: Project,
    sources: Sources,
    /// The revision that serves, as far as is known.
    serving: Option<String>,
    /// What cargo built last, for a change of the manifest alone.
    artifact: Option<PathBuf>,
    /// What has changed since the last cycle began.
    dirty: Option<Dirty>,
    /// Warnings that were shown, of the compiler and of deploys.
    shown: HashSet<String>,
    /// Routes and topics that were shown.
    places: Option<(Vec<String>, Vec<String>)>,
    /// Digests that were deployed from here.
    ours: HashSet<String>,
    /// Under which name its log is followed.
    followed: Option<String>,
}

/// What has changed.
struct Dirty {
    /// When it was saved.
    since: Instant,
    /// Which file, for people.
    file: Option<PathBuf>,
    manifest_only: bool,
    /// Whether dependencies may be others now.
    cargo_toml: bool,
}

struct Active {
    service: usize,
    cancel: Cancel,
}

struct Dev<'a> {
    args: &'a Args,
    host: Host,
    services: Vec<Service>,
    watcher: Watcher,
    active: Option<Active>,
    screen: Screen,
    tell: Sender<News>,
}

impl<'a> Dev<'a> {
    fn new(
        args: &'a Args,
        projects: Vec<Project>,
        host: Host,
        tell: Sender<News>,
    ) -> Result<Dev<'a>> {
        let mut watcher = Watcher::new(tell.clone())?;
        let client = Client::new(&host.connection);
        let mut services = Vec::new();
        for project in projects {
            let sources = Sources::of(&project);
            watcher.watch(&sources)?;
            services.push(Service {
                serving: host::serving(&client, &project.manifest.name),
                dirty: Some(Dirty {
                    since: Instant::now(),
                    file: None,
                    manifest_only: false,
                    cargo_toml: false,
                }),
                project,
                sources,
                artifact: None,
                shown: HashSet::new(),
                places: None,
                ours: HashSet::new(),
                followed: None,
            });
        }
        let names = services.iter().map(|one| &*one.project.manifest.name);
        let screen = Screen::new(names);
        let projects: Vec<&Project> = services.iter().map(|one| &one.project).collect();
        screen.header(&host, &projects)?;
        Ok(Dev {
            args,
            host,
            services,
            watcher,
            active: None,
            screen,
            tell,
        })
    }

    /// Hears all news, until Ctrl-C.
    fn run(&mut self, news: &Receiver<News>) -> Result<()> {
        // Changes come in bursts: when the latest came.
        let mut changed: Option<Instant> = None;
        loop {
            let wait = match changed {
                Some(latest) => self.wait(latest),
                None => Duration::from_secs(3600),
            };
            if changed.is_some() && wait.is_zero() {
                changed = None;
                self.cancel_what_is_old();
            }
            if changed.is_none() {
                self.begin_next()?;
            }
            match news.recv_timeout(wait.max(Duration::from_millis(1))) {
                Ok(News::Changed(file)) => {
                    if self.note(file.as_deref()) {
                        changed = Some(Instant::now());
                    }
                }
                Ok(News::Interrupted) => return Ok(()),
                Ok(other) => {
                    if !self.hear(other)? {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    /// How long further changes are waited for.
    fn wait(&self, latest: Instant) -> Duration {
        let dirty = self.services.iter().filter_map(|one| one.dirty.as_ref());
        let first = dirty.map(|dirty| dirty.since).min().unwrap_or(latest);
        let until = (latest + QUIET).min(first + PATIENCE);
        until.saturating_duration_since(Instant::now())
    }

    /// Whose source a file is, and what that means for it. Says whether it is
    /// anybody's.
    fn note(&mut self, file: Option<&Path>) -> bool {
        let mut any = false;
        if let Some(file) = file {
            self.watcher.gone(file);
        }
        for service in &mut self.services {
            let manifest = service.project.dir.join(MANIFEST);
            let (manifest_only, cargo_toml) = match file {
                Some(file) if file == manifest => (true, false),
                Some(file) if service.sources.has(file) => (false, file.ends_with("Cargo.toml")),
                Some(_) => continue,
                None => (false, true),
            };
            any = true;
            let dirty = service.dirty.get_or_insert(Dirty {
                since: Instant::now(),
                file: file.map(Path::to_path_buf),
                manifest_only: true,
                cargo_toml: false,
            });
            // Editors write a file beside it, and rename that.
            if dirty.file.as_ref().is_some_and(|known| !known.exists()) {
                dirty.file = file.map(Path::to_path_buf);
            }
            dirty.manifest_only &= manifest_only;
            dirty.cargo_toml |= cargo_toml;
        }
        any
    }

    /// A build of what has changed meanwhile is of no use.
    fn cancel_what_is_old(&mut self) {
        if let Some(active) = &self.active
            && let Some(service) = self.services.get(active.service)
            && service.dirty.is_some()
        {
            active.cancel.cancel();
        }
    }

    /// Begins a cycle, if none runs and something has changed.
    fn begin_next(&mut self) -> Result<()> {
        if self.active.is_some() {
            return Ok(());
        }
        let next = self.services.iter().position(|one| one.dirty.is_some());
        let Some((number, service)) =
            next.and_then(|next| Some((next, self.services.get_mut(next)?)))
        else {
            return Ok(());
        };
        let Some(dirty) = service.dirty.take() else {
            return Ok(());
        };
        // Until it builds again, what was built before is of an old source.
        let built = service.artifact.clone().filter(|_| dirty.manifest_only);
        service.artifact.clone_from(&built);
        if let Err(error) = service.take_in(&dirty, &mut self.watcher) {
            return self.screen.failed(number, service, &error, "is not built");
        }
        self.screen.begins(number, &dirty, &service.project)?;
        let cancel = Cancel::default();
        let cycle = Cycle {
            service: number,
            since: dirty.since,
            built,
            project: service.project.clone(),
            profile: self.args.profile.clone(),
            cargo: self.args.cargo.clone(),
            connection: self.host.connection.clone(),
            cancel: cancel.clone(),
        };
        let tell = self.tell.clone();
        thread::spawn(move || {
            let ended = cycle.run(&tell);
            let _ = tell.send(News::Ended(Box::new(ended)));
        });
        self.active = Some(Active {
            service: number,
            cancel,
        });
        Ok(())
    }

    /// Takes in other news. Says whether to go on.
    fn hear(&mut self, news: News) -> Result<bool> {
        match news {
            News::Ended(ended) => {
                self.active = None;
                self.ended(*ended)?;
            }
            News::Cargo(number, line) => self.screen.cargo(number, &line)?,
            News::Line(number, line) => {
                let ours = self.services.get(number).is_some_and(|one| one.made(&line));
                if !ours {
                    self.screen.line(number, &line)?;
                }
            }
            News::Follows(number, follows) => {
                let gone = "its log cannot be read: is the host gone?";
                let what = if follows {
                    "its log is read again"
                } else {
                    gone
                };
                self.screen.note(number, what)?;
            }
            News::Host(line) => self.screen.host(&line)?,
            News::HostEnded(words) => {
                return Err(Failure::new("the host has ended by itself")
                    .detail(words)
                    .into());
            }
            News::Changed(_) | News::Interrupted => {}
        }
        Ok(self.screen.is_read())
    }

    fn ended(&mut self, ended: Ended) -> Result<()> {
        let number = ended.service;
        let Some(service) = self.services.get_mut(number) else {
            return Ok(());
        };
        for diagnostic in &ended.diagnostics {
            // A warning comes with each build; it is said once.
            if diagnostic.is_error || service.shown.insert(diagnostic.rendered.clone()) {
                self.screen.diagnostic(diagnostic)?;
            }
        }
        if let Some(artifact) = ended.artifact {
            service.artifact = Some(artifact);
        }
        match ended.outcome {
            Outcome::Cancelled => Ok(()),
            Outcome::Failed(what, error) => self.screen.failed(number, service, &error, what),
            Outcome::DoesNotCompile(took) => self.screen.does_not_compile(number, service, took),
            Outcome::Serving(served) => {
                let before = service.serving.replace(served.deployed.revision.clone());
                service.ours.insert(served.deployed.revision.clone());
                // Where it is reached is said when that is news.
                let places = (
                    served.deployed.routes.clone(),
                    served.deployed.subscribes.clone(),
                );
                let mut more = match service.places.as_ref() == Some(&places) {
                    true => String::new(),
                    false => deploy::facts(&served.deployed),
                };
                service.places = Some(places);
                let warnings = served.deployed.warnings.iter();
                let warnings = warnings.filter(|one| service.shown.insert(one.message.clone()));
                more.push_str(&changes::show_warnings(warnings));
                let new = before.as_ref() != service.serving.as_ref();
                self.screen.serving(number, &served, new, &more)?;
                self.follow(number)
            }
        }
    }

    /// Has the log of a service read, under the name that it has now.
    fn follow(&mut self, number: usize) -> Result<()> {
        let Some(service) = self.services.get_mut(number) else {
            return Ok(());
        };
        let name = &service.project.manifest.name;
        if service.followed.as_ref() == Some(name) {
            return Ok(());
        }
        service.followed = Some(name.clone());
        // Of a host that was here before there may be old lines.
        let tail = if self.host.is_ours() { 100 } else { 0 };
        let path = service_path(name)?;
        let client = Client::new(&self.host.connection);
        let tell = self.tell.clone();
        thread::spawn(move || read_log(&client, &path, tail, number, &tell));
        Ok(())
    }

    /// Ends what runs, and the host if it was started here.
    fn end(&mut self) {
        if let Some(active) = &self.active {
            active.cancel.cancel();
        }
        self.screen.ends(self.host.is_ours());
        self.host.stop();
    }
}

impl Service {
    /// Reads again what has changed, so that a build is of what is saved.
    fn take_in(&mut self, dirty: &Dirty, watcher: &mut Watcher) -> Result<()> {
        if dirty.cargo_toml {
            let project = Project::open(&self.project.dir)?;
            project.check_cdylib()?;
            self.project = project;
            self.sources = Sources::of(&self.project);
        } else {
            self.project.reread()?;
        }
        // New folders, too.
        watcher.watch(&self.sources)
    }

    /// Whether a line only says that a deploy of this command is done.
    fn made(&self, line: &LogLine) -> bool {
        let revision = line.fields.get("revision").and_then(|value| value.as_str());
        line.event.as_deref() == Some("deploy.done")
            && revision.is_some_and(|short| self.ours.iter().any(|ours| ours.starts_with(short)))
    }
}

/// Sends the lines of a service's log, and of its invocations, for as long as
/// somebody listens.
fn read_log(client: &Client, path: &str, mut tail: u32, number: usize, tell: &Sender<News>) {
    const AGAIN: Duration = Duration::from_millis(500);
    let mut lost = false;
    loop {
        let path = format!("{path}/logs?tail={tail}&follow=true&invocations=true");
        let read = client.lines(&path, |line| {
            if std::mem::take(&mut lost) {
                let _ = tell.send(News::Follows(number, true));
            }
            let Ok(line) = serde_json::from_str(line) else {
                return Ok(true);
            };
            Ok(tell.send(News::Line(number, Box::new(line))).is_ok())
        });
        tail = 0;
        if read.is_err() && !std::mem::replace(&mut lost, true) {
            let _ = tell.send(News::Follows(number, false));
        }
        thread::sleep(AGAIN);
    }
}

/// Sends Ctrl-C, SIGTERM and SIGHUP as news. The second one ends this process at
/// once; a host that it started ends with it.
fn listen_for_signals(tell: Sender<News>) {
    thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context("signals cannot be listened for")?;
        let _inside = runtime.enter();
        let told = Arc::new(AtomicBool::new(false));
        for kind in [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ] {
            let mut signals = signal(kind)?;
            let (told, tell) = (told.clone(), tell.clone());
            runtime.spawn(async move {
                while signals.recv().await.is_some() {
                    if told.swap(true, Ordering::Relaxed) {
                        std::process::exit(INTERRUPTED);
                    }
                    let _ = tell.send(News::Interrupted);
                }
            });
        }
        runtime.block_on(std::future::pending())
    });
}

/// A path as a person writes it, for what is shown.
fn shown(path: &Path) -> String {
    project::shown(path)
}
