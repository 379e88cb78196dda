//! The host: what it runs, and how a revision comes to run.
//!
//! That is compile, check, swap. Everything that can fail, fails before the swap,
//! with the running revision untouched. What should run is said by `deployments`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use tidemill_manifest::{Manifest, ManifestError};
use tokio::sync::{Mutex, mpsc};

use crate::checks::smoke::SmokeFailed;
use crate::deployments::applying::Ahead;
use crate::deployments::record::{Deployment, Refused};
use crate::deployments::{ContentError, Names, Registry, RegistryError, trial};
use crate::events::{Shared, Subscription};
use crate::follower::Follower;
use crate::http::publishing::Publishing;
use crate::invocation::Failure;
use crate::kafka::{Cluster, KafkaError, Publisher};
use crate::library::{Library, LibraryError, Shelf};
use crate::logs::books;
use crate::metrics::{Metrics, Now};
use crate::revision::Revision;
use crate::revisions::{Revisions, cores};
use crate::routes::Routes;
use crate::runtime::{LoadError, Runtime};
use crate::service::{Running, Service};
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
    #[error("the component's sections cannot be read: {0}")]
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
    /// The change cannot be made of what is deployed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A canary that is too unlike what it is beside.
    #[error(
        "a canary of {0} has to have the {1} of the revision beside it: deploy it for all instead"
    )]
    Unlike(String, &'static str),
    /// A smoke call did not pass.
    #[error(transparent)]
    Smoke(#[from] SmokeFailed),
    /// The records of deployments cannot be read or changed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The content of a revision cannot be had.
    #[error(transparent)]
    Content(#[from] ContentError),
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
    pub(crate) shelf: Arc<Shelf>,
    /// What is deployed anywhere.
    pub(crate) registry: Arc<Registry>,
    /// What runs of it here is made by these.
    pub(crate) revisions: Arc<Revisions>,
    /// Services whose record is being applied.
    pub(crate) applying: parking_lot::Mutex<BTreeSet<String>>,
    /// The Kafka cluster.
    pub cluster: Arc<Cluster>,
    /// Publishes for requests.
    pub publishing: Publishing,
    pub(crate) shared: Shared,
    pub(crate) store: Arc<Store>,
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

impl Host {
    /// A host without services.
    pub fn new(
        runtime: Runtime,
        library: Library,
        cluster: Arc<Cluster>,
        (cluster_id, fleet): (&str, &str),
        store: Store,
        metrics: Metrics,
        url: String,
    ) -> Result<(Arc<Host>, mpsc::UnboundedReceiver<String>), HostError> {
        let host_id = library.host_id()?;
        let shelf = Arc::new(library.shelf(cluster_id, fleet)?);
        let library = Arc::new(library);
        let publisher = Arc::new(Publisher::for_the_host(&cluster)?);
        let for_requests = Publisher::for_requests(&cluster)?;
        // No service is called so.
        let id = format!("tidemill.{cluster_id}.{host_id}._requests");
        let shared = Shared {
            cluster: cluster.clone(),
            cluster_id: cluster_id.into(),
            host_id: host_id.into(),
            publisher: publisher.clone(),
            library,
            follower: Arc::new(Follower::start(&cluster)?),
        };
        let (registry, changes) = Registry::start(
            &cluster,
            publisher.clone(),
            Names::of(cluster_id, fleet),
            &shared.host_id,
            url.clone(),
            shelf.records(),
        )?;
        let host = Arc::new(Host {
            revisions: Revisions::new(runtime, shelf.clone(), registry.clone()),
            shelf,
            registry,
            applying: parking_lot::Mutex::default(),
            publishing: Publishing::start(&cluster, for_requests, id),
            cluster,
            shared,
            store: Arc::new(store),
            metrics,
            routes: ArcSwap::default(),
            changing: Mutex::default(),
            url,
            started: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        });
        Ok((host, changes))
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

    /// Starts the services that are on disk, so that they serve before Kafka tells
    /// of them. One that does not start any more is left out, with the reason in the
    /// log.
    pub async fn start_kept(self: &Arc<Self>) {
        let records = self.registry.names().into_iter();
        let records = records.filter_map(|name| Some((self.registry.record(&name)?, name)));
        let loading = records.map(|(record, name)| async {
            let running = self.running(&record, Ahead::Kept).await;
            (name, record, running)
        });
        let loading = futures_util::stream::iter(loading).buffered(cores());
        let loaded: Vec<_> = loading.collect().await;
        let mut changing = self.changing.lock().await;
        let mut routes = Routes::clone(&self.routes());
        let mut started = Vec::with_capacity(loaded.len());
        for (name, record, running) in loaded {
            let begun = match running {
                Ok(running) => self.begin(&mut routes, &name, running, &record).await,
                Err(error) => Err(error),
            };
            match begun {
                Ok(service) => started.push(service),
                Err(error) => {
                    tracing::error!(event = "service.not-started", service = name, %error, "a deployed service does not start");
                }
            }
        }
        self.routes.store(Arc::new(routes));
        for service in started {
            self.begun(&mut changing, &service).await;
        }
    }

    /// A state that was never written has nothing to wait for.
    pub(crate) fn state_is_empty(&self, name: &str) -> Result<(), DeployError> {
        let state = State::open(self.store.clone(), name)?;
        if state.writing().known_shards().is_empty() {
            state.writing().set_complete()?;
        }
        Ok(())
    }

    /// Has a service run this, whether it is new or not.
    pub(crate) async fn put(
        self: &Arc<Self>,
        name: &str,
        running: Running,
        record: &Deployment,
    ) -> Result<(), DeployError> {
        let mut changing = self.changing.lock().await;
        if changing.stopping {
            return Err(DeployError::Stopping);
        }
        let mut routes = Routes::clone(&self.routes());
        let service = self.begin(&mut routes, name, running, record).await?;
        self.routes.store(Arc::new(routes));
        self.begun(&mut changing, &service).await;
        Ok(())
    }

    /// Swaps what a service runs, and puts it in the routing table that is to come.
    /// Everything that can fail, fails before the swap.
    async fn begin(
        self: &Arc<Self>,
        routes: &mut Routes,
        name: &str,
        running: Running,
        record: &Deployment,
    ) -> Result<Arc<Service>, DeployError> {
        let manifest = running.live.manifest.clone();
        if let Some((route, owner)) = routes.conflict(&manifest) {
            let service = name.to_owned();
            return Err(DeployError::RouteTaken {
                service,
                route,
                owner,
            });
        }
        let there = routes.service(name).cloned();
        if there.is_none() && self.cluster.is_embedded() {
            // After a start the embedded broker has forgotten them.
            self.topics(&manifest).await?;
        }
        let state = match manifest.grants.state {
            true => Some(State::open(self.store.clone(), name)?),
            // It takes room in the store, and is nothing to whom it is not granted.
            false => None,
        };
        if let Some(state) = &state
            && self.cluster.is_embedded()
        {
            // There is nothing to wait for.
            state.writing().set_complete()?;
        }
        let (host, kept, record) = (self.clone(), name.to_owned(), record.clone());
        let paused = record.paused;
        let keep = move || host.shelf.keep_record(&kept, &record);
        tokio::task::spawn_blocking(keep).await??;

        // From here on nothing fails any more.
        let service = match there {
            Some(service) => {
                service.give_state(state);
                service.pause(paused);
                service.swap(running);
                service
            }
            None => {
                let metrics = self.metrics.service(name);
                let service = Arc::new(Service::new(running, metrics, state));
                service.pause(paused);
                service
            }
        };
        routes.put(&service);
        Ok(service)
    }

    /// What goes with what a service runs now.
    async fn begun(self: &Arc<Self>, changing: &mut Changing, service: &Arc<Service>) {
        self.subscribe(changing, service).await;
        trial::watch(self, service, &service.running());
        let revision = service.current();
        tracing::info!(
            event = "deploy.applied",
            service = service.name(),
            revision = revision.short(),
            "runs here"
        );
    }

    /// Lets go of code and instances that nobody has needed for so long, again and
    /// again.
    pub async fn rest(self: Arc<Self>, idle: Duration) {
        loop {
            tokio::time::sleep(idle).await;
            for service in self.services() {
                service.running().revisions().for_each(Revision::rest);
            }
        }
    }

    /// Runs a service no more, and forgets it.
    pub(crate) async fn unload(self: &Arc<Self>, name: &str) -> Result<(), DeployError> {
        let mut changing = self.changing.lock().await;
        let mut routes = Routes::clone(&self.routes());
        let Some(service) = routes.remove(name) else {
            return Ok(());
        };
        self.routes.store(Arc::new(routes));
        if let Some(subscription) = changing.subscriptions.remove(name) {
            subscription.stop().await;
        }
        let (host, forgotten) = (self.clone(), name.to_owned());
        let forget = move || host.shelf.forget(&forgotten);
        tokio::task::spawn_blocking(forget).await??;
        let revision = service.current();
        tracing::info!(
            event = "service.removed",
            service = name,
            revision = revision.short(),
            "removed"
        );
        books().remove(name);
        self.metrics.forget(name);
        Ok(())
    }

    /// Sees to it that the topics are there which a manifest names, and the
    /// changelog of its state. Returns what was created, and whether the changelog
    /// was.
    pub(crate) async fn topics(
        &self,
        manifest: &Manifest,
    ) -> Result<(Vec<String>, bool), KafkaError> {
        let wanted = topics(manifest);
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
        asked.await.unwrap_or_else(|error| Err(failed(&error)))
    }

    /// The topics that a manifest names and that are not there.
    pub(crate) async fn missing_topics(
        &self,
        manifest: &Manifest,
    ) -> Result<Vec<String>, KafkaError> {
        let joined = (manifest.grants.state).then(|| subscribes(manifest));
        let mut wanted = topics(manifest);
        wanted.extend((manifest.has_dead_letters()).then(|| manifest.dead_letter_topic()));
        let cluster = self.cluster.clone();
        let looked = tokio::task::spawn_blocking(move || {
            if let Some(joined) = joined {
                cluster.check_equal_partitions(&joined)?;
            }
            let found = cluster.partitions(&wanted)?;
            let missing = found.into_iter().filter(|(_, count)| count.is_none());
            Ok(missing.map(|(topic, _)| topic).collect())
        });
        looked.await.unwrap_or_else(|error| Err(failed(&error)))
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

    /// What only a look tells, for the metrics.
    pub fn now(&self) -> Now {
        Now {
            services: self.services(),
            kafka_up: self.cluster.is_up(),
            kafka_errors: self.cluster.errors(),
            kafka_queue: self.publishing.publisher().queued() + self.shared.publisher.queued(),
            unwritten: self.store.unwritten(),
            cached: self.store.cached(),
        }
    }

    /// Finishes what runs, commits it, and leaves all groups. Nothing can be
    /// deployed from then on.
    pub async fn stop(&self) {
        let mut changing = self.changing.lock().await;
        changing.stopping = true;
        let subscriptions = std::mem::take(&mut changing.subscriptions);
        let stopping = subscriptions.into_values().map(Subscription::stop);
        futures_util::future::join_all(stopping).await;
        self.registry.end().await;
        // Nobody waits for what is left, and without Kafka it would take its time.
        let left = match self.cluster.is_up() {
            true => Duration::from_secs(5),
            false => Duration::ZERO,
        };
        let publishers = [self.publishing.publisher(), &self.shared.publisher].map(Arc::clone);
        let flush = move || publishers.iter().for_each(|one| one.flush(left));
        if let Err(error) = tokio::task::spawn_blocking(flush).await {
            tracing::error!(event = "host.not-flushed", %error, "the producers were not flushed");
        }
        self.cluster.ending();
        books().end();
    }
}

/// A manifest's routes, as they are shown.
pub fn routes(manifest: &Manifest) -> Vec<String> {
    let routes = manifest.http.iter().flat_map(|http| &http.routes);
    routes.map(ToString::to_string).collect()
}

fn failed(error: &tokio::task::JoinError) -> KafkaError {
    KafkaError::Config(format!("a task of the host's failed: {error}"))
}

/// All topics that a manifest names.
fn topics(manifest: &Manifest) -> Vec<String> {
    let mut topics = subscribes(manifest);
    topics.extend(manifest.grants.publish.iter().cloned());
    topics.sort_unstable();
    topics.dedup();
    topics
}

/// A manifest's topics.
pub fn subscribes(manifest: &Manifest) -> Vec<String> {
    let subscribed = manifest.subscribe.iter();
    subscribed.map(|one| one.topic.clone()).collect()
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
