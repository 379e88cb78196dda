//! `tidemill serve`: a host from its configuration to its end.

mod banner;
mod config;
mod logs;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

pub use config::Args;
use config::{Config, ConfigError};

use crate::admin::waiting::Side;
use crate::admin::{self, Access};
use crate::host::{DeployError, Host, HostError};
use crate::http::listener;
use crate::kafka::{Cluster, KafkaError};
use crate::library::{Library, LibraryError};
use crate::metrics::Metrics;
use crate::runtime::{LoadError, Runtime};
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

/// How long to wait before asking again for what needs Kafka.
const AGAIN: Duration = Duration::from_secs(1);

/// Open files that are asked for: connections, the store, Kafka.
const FILES: u64 = 65_536;

/// Runs a host until it is told to stop.
#[must_use]
pub fn run(args: Args) -> ExitCode {
    let served = Config::of(args)
        .map_err(ServeError::from)
        .and_then(|config| {
            logs::start(&config);
            let tasks = tokio::runtime::Builder::new_multi_thread()
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

async fn serve(config: Config) -> Result<(), ServeError> {
    // A connection is a file, and the usual limit is far below what is served.
    if let Err(error) = rlimit::increase_nofile_limit(FILES) {
        tracing::warn!(%error, "the limit of open files was not raised");
    }
    let stop = stop_signals()?;
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
    let id = match cluster_id(&cluster, &library).await? {
        Some(id) => id,
        None => {
            library.keep_addresses(&addresses.named())?;
            let listeners = [(&public, Side::Public), (&admin, Side::Admin)];
            let waiting = first_sight(&cluster, &library, listeners, stop.clone());
            match waiting.await? {
                Some(id) => id,
                None => return Ok(()),
            }
        }
    };
    let runtime = Runtime::new(&library.cache())?;
    let store = Store::open(&library.state(&id))?;
    let url = format!("http://{}", addresses.http);
    library.keep_addresses(&addresses.named())?;
    let host = Arc::new(Host::new(
        runtime, library, cluster, &id, store, metrics, url,
    )?);

    host.start_kept().await;
    let (stopping, told) = watch::channel(false);
    let publicly = tokio::spawn(listener::run(public, host.clone(), told.clone()));
    let access = Access {
        token: config.admin_token.clone(),
    };
    let privately = tokio::spawn(admin::run(admin, host.clone(), access, told));
    let watched = watch_cluster(host.clone(), id);
    let mut stop_first = stop.clone();
    let begun = async {
        for file in &config.deploy {
            deploy(&host, file).await?;
        }
        host.started();
        banner::print(&config, &addresses, &host);
        std::future::pending().await
    };
    let ended = tokio::select! {
        _ = stop_first.wait_for(|signals| *signals > 0) => Ok(()),
        error = watched => Err(error),
        not_begun = begun => return not_begun,
    };
    tracing::info!("stopping: finishing what runs, then leaving; a second signal ends at once");
    tokio::spawn(async move {
        let mut stop = stop;
        if stop.wait_for(|signals| *signals > 1).await.is_ok() {
            // 128 and the number of SIGINT, as shells have it.
            std::process::exit(130);
        }
    });
    stopping.send_replace(true);
    let finish = async {
        publicly.await?;
        host.stop().await;
        privately.await
    };
    match tokio::time::timeout(config.grace, finish).await {
        Ok(finished) => finished?,
        Err(_) => tracing::warn!(
            "the grace period of {:?} is over, leaving with work undone; it is done again at the next start",
            config.grace
        ),
    }
    trace::stop().await;
    tracing::info!("stopped");
    ended
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

async fn bind(address: &str) -> Result<TcpListener, ServeError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|cause| ServeError::Bind {
        address: address.to_owned(),
        cause,
    })
}

fn local(listener: &TcpListener) -> Result<String, ServeError> {
    Ok(listener.local_addr()?.to_string())
}

/// Counts the signals that ask this process to end.
fn stop_signals() -> Result<watch::Receiver<u32>, ServeError> {
    let (count, signals) = watch::channel(0);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            count.send_modify(|signals| *signals += 1);
        }
    });
    Ok(signals)
}

/// The id of the cluster, which the state on disk is kept by. If Kafka does not
/// answer, it is the one that answered there last time; none if none ever did.
async fn cluster_id(
    cluster: &Arc<Cluster>,
    library: &Library,
) -> Result<Option<String>, ServeError> {
    const EMBEDDED: &str = "embedded";
    if cluster.is_embedded() {
        library.forget_state(EMBEDDED)?;
        ask(cluster, false).await?;
        return Ok(Some(EMBEDDED.to_owned()));
    }
    let error = match ask(cluster, false).await {
        Ok(id) => {
            library.keep_cluster(cluster.servers(), &id)?;
            return Ok(Some(id));
        }
        Err(error) => error,
    };
    let known = library.cluster(cluster.servers());
    match known {
        Some(_) => tracing::warn!(%error, "serving what is here meanwhile"),
        None => tracing::warn!(%error, "waiting for it, since this host has never seen it"),
    }
    Ok(known)
}

/// Waits until a cluster answers that this host has never seen, and says meanwhile
/// on its listeners that it waits. None if the host is told to stop.
async fn first_sight(
    cluster: &Arc<Cluster>,
    library: &Library,
    listeners: [(&TcpListener, Side); 2],
    mut stop: watch::Receiver<u32>,
) -> Result<Option<String>, ServeError> {
    let (over, waiting) = watch::channel(false);
    let [public, admin] = listeners.map(|(listener, side)| {
        admin::waiting::answer(listener, side, cluster.servers(), waiting.clone())
    });
    let seen = async {
        let seen = loop {
            if let Ok(id) = ask(cluster, false).await {
                break Some(id);
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                _ = stop.wait_for(|signals| *signals > 0) => break None,
            }
        };
        over.send_replace(true);
        seen
    };
    let (seen, public, admin) = tokio::join!(seen, public, admin);
    public.and(admin)?;
    if let Some(id) = &seen {
        library.keep_cluster(cluster.servers(), id)?;
    }
    Ok(seen)
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
            Ok(_) | Err(_) => {}
        }
    }
}

/// Deploys what the host was started with; if Kafka is away, as soon as it is not.
async fn deploy(host: &Arc<Host>, file: &PathBuf) -> Result<(), ServeError> {
    let component = tokio::fs::read(file).await;
    let component = component.map_err(|cause| ServeError::Component(file.clone(), cause))?;
    let mut said = false;
    loop {
        match host.deploy(component.clone()).await {
            Ok(_) => return Ok(()),
            Err(DeployError::Kafka(error @ KafkaError::Unreachable { .. })) => {
                if !said {
                    tracing::warn!(?file, %error, "it is deployed when Kafka answers");
                    said = true;
                }
                tokio::time::sleep(AGAIN).await;
            }
            Err(cause) => return Err(ServeError::Deploy(file.clone(), cause)),
        }
    }
}
