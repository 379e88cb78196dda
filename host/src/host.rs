//! The host: what is deployed, and deploying.
//!
//! A deploy is compile, check, swap. Everything that can fail, fails before the
//! swap, with the running revision untouched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use tidemill_cli::api;
use tidemill_manifest::{Manifest, ManifestError};
use tokio::sync::Mutex;

use crate::events::{Shared, Subscription};
use crate::follower::Follower;
use crate::http::publishing::Publishing;
use crate::invocation::Failure;
use crate::kafka::{Cluster, KafkaError, Publisher};
use crate::library::{Library, LibraryError, Record};
use crate::logs::books;
use crate::metrics::{Metrics, Now};
use crate::routes::Routes;
use crate::runtime::{LoadError, Runtime, hex, recognise};
use crate::service::{Revision, Service};
use crate::slots::Slots;
use crate::state::{State, Store, StoreError};

/// Why a deploy was refused. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The component file has no manifest in it.
    #[error(
        "the component carries no manifest: build it with `tidemill build`, which puts service.toml \
         in it"
    )]
    NoManifest,
    /// The section that should hold the manifest does not.
    #[error("the component's manifest cannot be read: {0}")]
    BadSection(String),
    /// The manifest is wrong.
    #[error("{0}")]
    Manifest(ManifestError),
    /// The component is wrong.
    #[error(transparent)]
    Component(#[from] LoadError),
    /// A route that another service has.
    #[error(
        "the route {route} of {service:?} belongs to the service {owner:?} already: change one of \
         them, or remove that service"
    )]
    RouteTaken {
        /// The service that was to be deployed.
        service: String,
        /// The route.
        route: String,
        /// The service that has it.
        owner: String,
    },
    /// The component does not start.
    #[error("the component does not start: {0}")]
    Start(Failure),
    /// Its OpenAPI document is none.
    #[error("the component's OpenAPI document is not valid JSON: {0}")]
    OpenApi(serde_json::Error),
    /// Kafka does not do what is needed.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The state store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data directory failed.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// The host is shutting down.
    #[error("the host is shutting down")]
    Stopping,
    /// A task of the host's failed.
    #[error("the host failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Why a host was not made.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The data directory failed.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// A client could not be made.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
}

/// A running host.
pub struct Host {
    runtime: Runtime,
    library: Arc<Library>,
    /// The Kafka cluster.
    pub cluster: Arc<Cluster>,
    /// Publishes for requests.
    pub publishing: Publishing,
    pub(crate) shared: Shared,
    store: Arc<Store>,
    /// What is counted.
    pub metrics: Metrics,
    routes: ArcSwap<Routes>,
    /// One change at a time; also what is consumed.
    changing: Mutex<Changing>,
    /// Where the public listener can be reached, for messages.
    pub url: String,
    /// Whether everything is deployed that the host was started with.
    started: AtomicBool,
    /// Whether it has been told to stop.
    ending: AtomicBool,
}

#[derive(Default)]
struct Changing {
    subscriptions: BTreeMap<String, Subscription>,
    stopping: bool,
}

/// Where a component to load comes from.
enum Origin {
    /// A deploy: topics are created, and everything is kept.
    Deploy,
    /// The data directory, at start.
    Kept(Record),
}

impl Host {
    /// A host without services.
    pub fn new(
        runtime: Runtime,
        library: Library,
        cluster: Arc<Cluster>,
        cluster_id: &str,
        store: Store,
        metrics: Metrics,
        url: String,
    ) -> Result<Host, HostError> {
        let host_id = library.host_id()?;
        let library = Arc::new(library);
        let publisher = Arc::new(Publisher::new(&cluster)?);
        // No service is called so.
        let id = format!("tidemill.{cluster_id}.{host_id}._requests");
        let shared = Shared {
            cluster: cluster.clone(),
            cluster_id: cluster_id.into(),
            host_id: host_id.into(),
            publisher: publisher.clone(),
            library: library.clone(),
            follower: Arc::new(Follower::start(&cluster)?),
        };
        Ok(Host {
            runtime,
            library,
            publishing: Publishing::start(&cluster, publisher, id),
            cluster,
            shared,
            store: Arc::new(store),
            metrics,
            routes: ArcSwap::default(),
            changing: Mutex::default(),
            url,
            started: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        })
    }

    /// Everything is deployed that the host was started with.
    pub fn started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Whether it is.
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// The host will end: connections are not kept for further requests.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// Whether it will.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// The current routing table.
    pub fn routes(&self) -> arc_swap::Guard<Arc<Routes>> {
        self.routes.load()
    }

    /// A service by its name.
    pub fn service(&self, name: &str) -> Option<Arc<Service>> {
        self.routes.load().service(name).cloned()
    }

    /// All services, by name.
    pub fn services(&self) -> Vec<Arc<Service>> {
        self.routes.load().services().values().cloned().collect()
    }

    /// Starts the services that were deployed before. One that does not start
    /// any more is left out, with the reason in the log.
    pub async fn start_kept(self: &Arc<Self>) {
        let host = self.clone();
        let kept = tokio::task::spawn_blocking(move || host.library.deployed()).await;
        for (name, record, component) in kept.unwrap_or_default() {
            if let Err(error) = self.load(component, Origin::Kept(record)).await {
                tracing::error!(event = "service.not-started", service = name, %error, "a deployed service does not start");
            }
        }
    }

    /// Whether a service runs on this revision.
    fn runs(&self, name: &str, digest: &str) -> bool {
        let service = self.service(name);
        service.is_some_and(|service| service.current().digest == digest)
    }

    /// Deploys a component that carries its manifest.
    pub async fn deploy(
        self: &Arc<Self>,
        component: Vec<u8>,
    ) -> Result<api::Deployed, DeployError> {
        self.load(component, Origin::Deploy).await
    }

    async fn load(
        self: &Arc<Self>,
        component: Vec<u8>,
        origin: Origin,
    ) -> Result<api::Deployed, DeployError> {
        // Compiling takes long and needs no turn; the rest is one at a time.
        let host = self.clone();
        let checked = tokio::task::spawn_blocking(move || host.check(component)).await??;
        let mut changing = self.changing.lock().await;
        if changing.stopping {
            return Err(DeployError::Stopping);
        }
        let manifest = checked.manifest.clone();
        if let Some((route, owner)) = self.routes.load().conflict(&manifest) {
            let service = manifest.name.clone();
            return Err(DeployError::RouteTaken {
                service,
                route,
                owner,
            });
        }
        let openapi = describe(&checked.component).await?;
        let (created_topics, new_state) = match origin {
            Origin::Deploy => match self.topics(&manifest).await {
                // It runs: it had its topics, and nothing is to be done.
                Err(KafkaError::Unreachable { .. })
                    if self.runs(&manifest.name, &checked.digest) =>
                {
                    (Vec::new(), false)
                }
                topics => topics?,
            },
            // The embedded broker has forgotten them.
            Origin::Kept(_) if self.cluster.is_embedded() => self.topics(&manifest).await?,
            // Created at the deploy; Kafka may not answer yet.
            Origin::Kept(_) => (Vec::new(), false),
        };
        let compiled_in = checked.component.compiled_in();
        let running = self
            .routes
            .load()
            .service(&manifest.name)
            .map(|s| s.current());
        if let (Origin::Deploy, Some(running)) = (&origin, running)
            && running.digest == checked.digest
        {
            return Ok(self.deployed(&running, Some(running.digest.clone()), created_topics, None));
        }
        let record = match &origin {
            Origin::Deploy => Record {
                digest: checked.digest.clone(),
                deployed_at: crate::now_ms(),
                paused: self
                    .service(&manifest.name)
                    .is_some_and(|s| *s.paused().borrow()),
            },
            Origin::Kept(record) => record.clone(),
        };
        let revision = Arc::new(Revision {
            slots: Slots::of(&manifest.limits),
            digest: checked.digest,
            manifest: manifest.clone(),
            manifest_text: checked.manifest_text,
            component: checked.component,
            openapi,
            size: checked.bytes.len() as u64,
            deployed_at: record.deployed_at,
        });
        let paused = record.paused;
        let state = State::open(self.store.clone(), &manifest.name)?;
        let empty = state.writing().known_shards().is_empty();
        if new_state && empty || manifest.grants.state && self.cluster.is_embedded() {
            // There is nothing to wait for.
            state.writing().set_complete()?;
        }
        if let Origin::Deploy = origin {
            let (host, name) = (self.clone(), manifest.name.clone());
            let bytes = checked.bytes;
            tokio::task::spawn_blocking(move || host.library.keep(&name, &record, &bytes))
                .await??;
        }

        // From here on nothing fails any more.
        let mut services = self.routes.load().services().clone();
        let (service, previous) = match services.get(&manifest.name) {
            Some(service) => (service.clone(), Some(service.swap(revision.clone()))),
            None => {
                let metrics = self.metrics.service(&manifest.name);
                let service = Arc::new(Service::new(revision.clone(), metrics, state));
                service.pause(paused);
                services.insert(manifest.name.clone(), service.clone());
                (service, None)
            }
        };
        self.routes.store(Arc::new(Routes::of(services)));
        self.subscribe(&mut changing, &service).await;
        if previous.is_some() {
            let host = self.clone();
            tokio::task::spawn_blocking(move || host.library.tidy()).await?;
        }
        let previous = previous.map(|previous| previous.digest.clone());
        tracing::info!(
            event = "deploy.done",
            service = service.name(),
            revision = revision.short(),
            "deployed"
        );
        Ok(self.deployed(&revision, previous, created_topics, compiled_in))
    }

    fn deployed(
        &self,
        revision: &Revision,
        previous: Option<String>,
        created_topics: Vec<String>,
        compiled_in: Option<Duration>,
    ) -> api::Deployed {
        api::Deployed {
            name: revision.manifest.name.clone(),
            revision: revision.digest.clone(),
            previous,
            routes: routes(&revision.manifest),
            subscribes: subscribes(&revision.manifest),
            created_topics,
            compile_us: compiled_in.map(micros),
            url: self.url.clone(),
        }
    }

    /// Reads, compiles and checks a component. Blocks.
    fn check(&self, bytes: Vec<u8>) -> Result<Checked, DeployError> {
        let manifest_text = match tidemill_manifest::embedded(&bytes) {
            Ok(Some(text)) => text,
            // What is no component at all is told so before its manifest is missed.
            Ok(None) => {
                recognise(&bytes)?;
                return Err(DeployError::NoManifest);
            }
            Err(error) => {
                recognise(&bytes)?;
                return Err(DeployError::BadSection(error.to_string()));
            }
        };
        let manifest =
            Manifest::parse(&manifest_text, "service.toml").map_err(DeployError::Manifest)?;
        let manifest = Arc::new(manifest);
        let digest = hex(&Sha256::digest(&bytes));
        let short = digest.get(..12).unwrap_or(&digest);
        let component = self.runtime.load(&bytes, manifest.clone(), short)?;
        Ok(Checked {
            bytes,
            digest,
            manifest,
            manifest_text,
            component,
        })
    }

    /// Sees to it that the topics are there which a manifest names, and the
    /// changelog of its state. Returns what was created, and whether the changelog
    /// was.
    async fn topics(
        self: &Arc<Self>,
        manifest: &Manifest,
    ) -> Result<(Vec<String>, bool), KafkaError> {
        let mut wanted = subscribes(manifest);
        wanted.extend(manifest.grants.publish.iter().cloned());
        wanted.sort_unstable();
        wanted.dedup();
        if wanted.is_empty() {
            return Ok((Vec::new(), false));
        }
        let joined = (manifest.grants.state).then(|| subscribes(manifest));
        let (cluster, service) = (self.cluster.clone(), manifest.name.clone());
        let dead_letters = (manifest.has_dead_letters()).then(|| manifest.dead_letter_topic());
        let asked = tokio::task::spawn_blocking(move || {
            let mut created = cluster.create_missing(&wanted)?;
            if let Some(topic) = dead_letters
                && cluster.create_dead_letters(&topic)?
            {
                created.push(topic);
            }
            let mut new = false;
            if let Some(joined) = joined {
                cluster.check_equal_partitions(&joined)?;
                new = !cluster.is_embedded() && cluster.find_changelog(&service, &joined)?.new;
            }
            Ok((created, new))
        });
        asked.await.unwrap_or_else(|error| {
            Err(KafkaError::Config(format!(
                "a task of the host's failed: {error}"
            )))
        })
    }

    /// Makes what is consumed be what the current manifest says.
    async fn subscribe(&self, changing: &mut Changing, service: &Arc<Service>) {
        let manifest = service.current().manifest.clone();
        let running = changing.subscriptions.get(service.name());
        if running.is_some_and(|running| running.fits(&manifest)) {
            return;
        }
        if let Some(running) = changing.subscriptions.remove(service.name()) {
            running.stop().await;
        }
        if !manifest.subscribe.is_empty() {
            let subscription = Subscription::start(service.clone(), self.shared.clone());
            changing
                .subscriptions
                .insert(service.name().to_owned(), subscription);
        }
    }

    /// Has a service's subscription look whether topics and changelogs are as they
    /// were.
    pub async fn look(&self, name: &str) {
        if let Some(subscription) = self.changing.lock().await.subscriptions.get(name) {
            subscription.look();
        }
    }

    /// Has a service consume nothing on this host, or consume again. What runs is
    /// finished and committed before it returns nothing; events that wait after a
    /// failure are run again at once. None if there is no such service.
    pub async fn pause(
        self: &Arc<Self>,
        name: &str,
        paused: bool,
    ) -> Result<Option<api::Paused>, DeployError> {
        let changing = self.changing.lock().await;
        let Some(service) = self.service(name) else {
            return Ok(None);
        };
        let revision = service.current();
        let record = Record {
            digest: revision.digest.clone(),
            deployed_at: revision.deployed_at,
            paused,
        };
        let (host, kept) = (self.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || host.library.keep_record(&kept, &record)).await??;
        let unchanged = service.pause(paused) == paused;
        if !paused {
            service.hurry();
        }
        drop(changing);
        let done = if paused { "paused" } else { "resumed" };
        tracing::info!(event = "service.paused", service = name, "{done}");
        Ok(Some(api::Paused {
            name: name.to_owned(),
            paused,
            unchanged,
        }))
    }

    /// What only a look tells, for the metrics.
    pub fn now(&self) -> Now {
        Now {
            services: self.services(),
            kafka_up: self.cluster.is_up(),
            kafka_errors: self.cluster.errors(),
            kafka_queue: self.shared.publisher.queued(),
        }
    }

    /// Stops a service and forgets it. Its state and its group's offsets stay,
    /// so that it goes on where it was when it is deployed again.
    pub async fn remove(self: &Arc<Self>, name: &str) -> Result<Option<api::Removed>, DeployError> {
        let mut changing = self.changing.lock().await;
        let mut services = self.routes.load().services().clone();
        let Some(service) = services.remove(name) else {
            return Ok(None);
        };
        self.routes.store(Arc::new(Routes::of(services)));
        if let Some(subscription) = changing.subscriptions.remove(name) {
            subscription.stop().await;
        }
        let (host, forgotten) = (self.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || host.library.forget(&forgotten)).await??;
        let revision = service.current();
        tracing::info!(
            event = "service.removed",
            service = name,
            revision = revision.short(),
            "removed"
        );
        books().remove(name);
        self.metrics.forget(name);
        Ok(Some(api::Removed {
            name: name.to_owned(),
            revision: revision.digest.clone(),
        }))
    }

    /// Finishes what runs, commits it, and leaves all groups. Nothing can be
    /// deployed from then on.
    pub async fn stop(&self) {
        let mut changing = self.changing.lock().await;
        changing.stopping = true;
        let subscriptions = std::mem::take(&mut changing.subscriptions);
        let stopping = subscriptions.into_values().map(Subscription::stop);
        futures_util::future::join_all(stopping).await;
        // Nobody waits for what is left, and without Kafka it would take its time.
        let left = match self.cluster.is_up() {
            true => Duration::from_secs(5),
            false => Duration::ZERO,
        };
        let publisher = self.shared.publisher.clone();
        let flushed = tokio::task::spawn_blocking(move || publisher.flush(left)).await;
        if let Err(error) = flushed {
            tracing::error!(event = "host.not-flushed", %error, "the producer was not flushed");
        }
        self.cluster.ending();
        books().end();
    }
}

/// A component that passed all checks but those against other services.
struct Checked {
    bytes: Vec<u8>,
    digest: String,
    manifest: Arc<Manifest>,
    manifest_text: String,
    component: crate::runtime::Component,
}

/// Starts a first instance, and asks it for its OpenAPI document.
async fn describe(
    component: &crate::runtime::Component,
) -> Result<Option<serde_json::Value>, DeployError> {
    component.warm().await.map_err(DeployError::Start)?;
    let document = component.describe().await.map_err(DeployError::Start)?;
    document
        .map(|document| serde_json::from_str(&document).map_err(DeployError::OpenApi))
        .transpose()
}

/// A manifest's routes, as they are shown.
pub fn routes(manifest: &Manifest) -> Vec<String> {
    let routes = manifest.http.iter().flat_map(|http| &http.routes);
    routes.map(ToString::to_string).collect()
}

/// A manifest's topics.
pub fn subscribes(manifest: &Manifest) -> Vec<String> {
    let subscribed = manifest.subscribe.iter();
    subscribed.map(|one| one.topic.clone()).collect()
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
