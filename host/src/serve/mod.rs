//! `tidemill serve`: a host from its configuration to its end.

mod banner;
mod config;
mod logs;
mod machine;
mod secrets;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

pub use config::Args;
use config::{Config, ConfigError};

use crate::admin;
use crate::deployments::{How, Steps};
use crate::host::{DeployError, Host, HostError};
use crate::http::connections::Limits;
use crate::http::listener;
use crate::kafka::{Cluster, KafkaError};
use crate::library::{Library, LibraryError};
use crate::metrics::Metrics;
use crate::revisions::cores;
use crate::runtime::{Bounds, Compiler, LoadError, Runtime};
use crate::state::{Store, StoreError};
use crate::trace::{self, TraceError};

/// Why a host did not start, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot listen on {address}: {cause}")]
    Bind {
        address: String,
        cause: std::io::Error,
    },
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error(transparent)]
    Runtime(#[from] LoadError),
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error("metrics cannot be counted: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("{0:?} cannot be read: {1}")]
    Component(PathBuf, std::io::Error),
    #[error("{0:?} was not deployed: {1}")]
    Deploy(PathBuf, DeployError),
    #[error(
        "another Kafka cluster answers at {servers} now ({now}) than when this host started ({then}); \
         its state belongs to that one, so the host ends"
    )]
    ClusterChanged {
        servers: String,
        then: String,
        now: String,
    },
    #[error("the host's tasks cannot run: {0}")]
    Tasks(#[from] std::io::Error),
    #[error("a task of the host's failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// How long the admin API may take to answer at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// How long to wait before asking again for what needs Kafka.
const AGAIN: Duration = Duration::from_secs(1);

/// Open files that are asked for: connections, the store, Kafka.
const FILES: u64 = 65_536;

/// Connections of the admin listener at once.
const ADMINS: u64 = 1_000;

/// Runs a host until it is told to stop.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    let served = Config::of(args)
        .map_err(ServeError::from)
        .and_then(|config| {
            logs::start(&config);
            let tasks = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(threads())
                .enable_all()
                .thread_name("tidemill")
                .build()?;
            let served = tasks.block_on(serve(config));
            // What still blocks in librdkafka must not keep the process.
            tasks.shutdown_timeout(Duration::from_secs(1));
            served
        });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", banner::error(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

/// Threads that serve: one for each core. One alone could not do anything else
/// while a handler computes.
fn threads() -> usize {
    cores().max(2)
}

async fn serve(config: Config) -> Result<(), ServeError> {
    // A connection is a file, and the usual limit is far below what is served.
    let (public_limits, admin_limits) = limits(&config);
    // A core dump has all secrets in it. Who wants one can ask a debugger.
    let most = rlimit::Resource::CORE.get_hard().unwrap_or(0);
    let _ = rlimit::Resource::CORE.set(0, most);
    let mut stop = stop_signals(config.until_stdin_ends)?;
    let tracing = trace::Settings::of_environment()?;
    let metrics = Metrics::new()?;
    let public = bind(&config.http).await?;
    let admin = bind(&config.admin).await?;
    let library = Library::open(&config.data_dir)?;
    if let Some(tracing) = &tracing {
        trace::start(tracing, &library.host_id()?, metrics.spans.clone())?;
    }
    let brokers = config.kafka.clone();
    let cluster = Cluster::connect(&brokers, config.properties.clone(), config.topics)?;
    let cluster = Arc::new(cluster);
    let addresses = Addresses {
        http: local(&public)?,
        admin: local(&admin)?,
        kafka: cluster.servers().to_owned(),
    };
    library.keep_addresses(&addresses.named())?;
    let id = tokio::select! {
        id = cluster_id(&cluster, &library, stop.clone()) => id?,
        never = admin::waiting::answer(&public, &admin, &cluster) => match never {},
    };
    let Some(id) = id else {
        return Ok(());
    };
    let bounds = Bounds {
        memory: config.memory,
        long_calls: threads() - 1,
        compiler: Compiler::Apart(config.compile_time),
    };
    let runtime = Runtime::new(&library.cache(), bounds)?;
    runtime.tidy(&library.compiled(&runtime.version()));
    let store = Store::open(&library.state(&id))?;
    let url = format!("http://{}", addresses.http);
    let (host, changes) = Host::new(
        runtime,
        library,
        cluster,
        (&id, &config.fleet),
        store,
        metrics,
        url,
    )?;
    host.start_kept().await;
    tokio::spawn(host.clone().follow(changes));
    tokio::spawn(host.clone().rest(config.idle_time));
    let (stopping, told) = watch::channel(false);
    let publicly = tokio::spawn(listener::run(
        public,
        host.clone(),
        public_limits,
        told.clone(),
    ));
    let privately = tokio::spawn(admin::run(
        admin,
        host.clone(),
        config.admin_token.clone(),
        admin_limits,
        told,
    ));
    // To the end: that Kafka is gone shortens it.
    let mut watched = tokio::spawn(watch_cluster(host.clone(), id));
    let begun = async {
        for file in &config.deploy {
            deploy(&host, file).await?;
        }
        host.started();
        banner::print(&config, &addresses, &host);
        std::future::pending().await
    };
    let ended = tokio::select! {
        _ = stop.wait_for(|stop| *stop) => Ok(()),
        error = &mut watched => Err(error?),
        not_begun = begun => return not_begun,
    };
    tracing::info!(
        event = "host.stopping",
        "stopping: finishing what runs, then leaving; a second signal ends at once"
    );
    host.end();
    stopping.send_replace(true);
    let finish = async {
        // Events need not wait for slow requests.
        let (answered, ()) = tokio::join!(publicly, host.stop());
        answered?;
        // Whoever listens to a stream of the admin API has no end to wait for.
        match tokio::time::timeout(LAST_ANSWERS, privately).await {
            Ok(ended) => ended,
            Err(_) => Ok(()),
        }
    };
    match tokio::time::timeout(config.grace, finish).await {
        Ok(finished) => finished?,
        Err(_) => tracing::warn!(
            event = "host.grace-over",
            "the grace period of {:?} is over, leaving with work undone; it is done again at the next start",
            config.grace
        ),
    }
    trace::stop().await;
    tracing::info!(event = "host.stopped", "stopped");
    ended
}

/// What the two listeners may use. Clients get no more than three quarters of
/// the files that this process may open: the store and Kafka need theirs.
fn limits(config: &Config) -> (Limits, Limits) {
    let wanted = config.connections.saturating_mul(2).max(FILES);
    let files = rlimit::increase_nofile_limit(wanted).unwrap_or_else(|error| {
        tracing::warn!(event = "host.files-limited", %error, "the limit of open files was not raised");
        1024
    });
    let public = config.connections.min(files / 8 * 6);
    if public < config.connections {
        tracing::debug!(
            files,
            connections = public,
            "fewer connections than --connections: this process may not open more files"
        );
    }
    let limits = |connections: u64| Limits {
        connections: usize::try_from(connections).unwrap_or(usize::MAX),
        patience: config.client_timeout,
    };
    (limits(public), limits(ADMINS.min(files / 8)))
}

/// Where the host can be reached.
pub(crate) struct Addresses {
    pub(crate) http: String,
    pub(crate) admin: String,
    pub(crate) kafka: String,
}

impl Addresses {
    fn named(&self) -> BTreeMap<&str, String> {
        BTreeMap::from([
            ("http", self.http.clone()),
            ("admin", self.admin.clone()),
            ("kafka", self.kafka.clone()),
        ])
    }
}

/// Listens. Connections that are not accepted yet wait in the kernel, as many as it
/// allows: by default there would be room for 128, and who comes then gets through
/// a second later.
async fn bind(address: &str) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).await;
    let bound = bound.and_then(|listener| {
        SockRef::from(&listener).listen(i32::MAX)?;
        Ok(listener)
    });
    bound.map_err(|cause| ServeError::Bind {
        address: address.to_owned(),
        cause,
    })
}

fn local(listener: &TcpListener) -> Result<String, ServeError> {
    Ok(listener.local_addr()?.to_string())
}

/// Hears the signals that ask this process to end: true from the first one on. The
/// second one ends it here and now. The end of standard input can be one too.
fn stop_signals(until_stdin_ends: bool) -> Result<watch::Receiver<bool>, ServeError> {
    let (stop, stopped) = watch::channel(false);
    if until_stdin_ends {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            stop.send_replace(true);
        });
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            let kind = tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
            };
            if stop.send_replace(true) {
                // 128 and the signal's number, as shells have it.
                std::process::exit(128 + kind.as_raw_value());
            }
        }
    });
    Ok(stopped)
}

/// The id of the cluster, which the state on disk is kept by. If Kafka does not
/// answer, it is the one that answered there last time; none if none ever did.
async fn cluster_id(
    cluster: &Arc<Cluster>,
    library: &Library,
    mut stop: watch::Receiver<bool>,
) -> Result<Option<String>, ServeError> {
    const EMBEDDED: &str = "embedded";
    if cluster.is_embedded() {
        library.forget_state(EMBEDDED)?;
        ask(cluster, false).await?;
        return Ok(Some(EMBEDDED.to_owned()));
    }
    let mut said = false;
    loop {
        match ask(cluster, false).await {
            Ok(id) => {
                library.keep_cluster(cluster.servers(), &id)?;
                return Ok(Some(id));
            }
            Err(error) => match library.cluster(cluster.servers()) {
                Some(id) => {
                    tracing::warn!(event = "kafka.absent", %error, "serving what is here meanwhile");
                    return Ok(Some(id));
                }
                None if !said => {
                    tracing::warn!(event = "kafka.awaited", %error, "waiting for it, since this host has never seen it");
                    said = true;
                }
                None => tracing::debug!(%error, "still waiting"),
            },
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        }
    }
}

async fn ask(cluster: &Arc<Cluster>, in_doubt: bool) -> Result<String, ServeError> {
    let cluster = cluster.clone();
    Ok(tokio::task::spawn_blocking(move || cluster.ask(in_doubt)).await??)
}

/// Asks now and then whether Kafka answers, and at once when that is in doubt.
/// Returns only if another cluster does.
async fn watch_cluster(host: Arc<Host>, then: String) -> ServeError {
    const PERIOD: Duration = Duration::from_secs(2);
    loop {
        let in_doubt = tokio::select! {
            () = tokio::time::sleep(PERIOD) => false,
            () = host.cluster.doubted() => true,
        };
        let answered = ask(&host.cluster, in_doubt).await;
        match answered {
            Ok(now) if now != then && !host.cluster.is_embedded() => {
                return ServeError::ClusterChanged {
                    servers: host.cluster.servers().to_owned(),
                    then,
                    now,
                };
            }
            Ok(_) => {
                let cluster = host.cluster.clone();
                // An error only if the host is ending.
                let _ = tokio::task::spawn_blocking(move || cluster.revive()).await;
            }
            Err(_) => {}
        }
    }
}

/// Deploys what the host was started with; if Kafka is away, as soon as it is not.
async fn deploy(host: &Arc<Host>, file: &PathBuf) -> Result<(), ServeError> {
    let component = tokio::fs::read(file).await;
    let component = component.map_err(|cause| ServeError::Component(file.clone(), cause))?;
    let component = bytes::Bytes::from(component);
    let mut said = false;
    loop {
        let how = How {
            at_start: true,
            alone: true,
            ..How::default()
        };
        match host.deploy(component.clone(), how, &Steps::default()).await {
            Ok(deployed) => {
                let service = deployed.name;
                for warning in deployed.warnings {
                    tracing::warn!(
                        event = "deploy.warning",
                        service,
                        kind = warning.kind,
                        "{}",
                        warning.message
                    );
                }
                return Ok(());
            }
            Err(
                error @ (DeployError::Kafka(
                    KafkaError::Unreachable { .. } | KafkaError::Denied { .. },
                )
                | DeployError::Registry(_)
                | DeployError::Content(_)),
            ) => {
                if !said {
                    tracing::warn!(event = "deploy.waiting", ?file, %error, "it is deployed when Kafka answers");
                    said = true;
                }
                tokio::time::sleep(AGAIN).await;
            }
            Err(cause) => return Err(ServeError::Deploy(file.clone(), cause)),
        }
    }
}
