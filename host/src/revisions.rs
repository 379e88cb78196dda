//! The revisions of this host: from a component, or from what is kept of one, to
//! what can run.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tidemill_manifest::Manifest;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::deployments::Registry;
use crate::deployments::record::Deployment;
use crate::host::DeployError;
use crate::library::Shelf;
use crate::revision::{Known, Revision};
use crate::runtime::{BodyMemory, Component, Runtime, hex, recognise};

/// What loads revisions, and those that something runs on.
pub(crate) struct Revisions {
    runtime: Runtime,
    shelf: Arc<Shelf>,
    registry: Arc<Registry>,
    held: Mutex<BTreeMap<String, Weak<Revision>>>,
    /// Loading takes a core.
    turns: Semaphore,
}

/// A revision, and how long its component took to compile if it had to be.
pub(crate) struct Loaded {
    pub(crate) revision: Arc<Revision>,
    pub(crate) compiled_in: Option<Duration>,
}

impl Revisions {
    /// None yet.
    pub(crate) fn new(
        runtime: Runtime,
        shelf: Arc<Shelf>,
        registry: Arc<Registry>,
    ) -> Arc<Revisions> {
        Arc::new(Revisions {
            runtime,
            shelf,
            registry,
            held: Mutex::default(),
            turns: Semaphore::new(cores()),
        })
    }

    /// Room for the body of a request, as far as it comes.
    pub(crate) fn room_for_a_body(&self) -> BodyMemory {
        self.runtime.body()
    }

    /// A revision that something still runs on.
    fn held(&self, digest: &str) -> Option<Arc<Revision>> {
        self.held.lock().get(digest)?.upgrade()
    }

    fn hold(&self, revision: Revision) -> Arc<Revision> {
        let revision = Arc::new(revision);
        let mut held = self.held.lock();
        held.insert(revision.digest.clone(), Arc::downgrade(&revision));
        revision
    }

    /// Makes a component ready to run: compiled, checked, a first instance up.
    pub(crate) async fn of(self: &Arc<Self>, component: Bytes) -> Result<Loaded, DeployError> {
        let digest = hex(&Sha256::digest(&component));
        if let Some(revision) = self.held(&digest) {
            ready(&revision).await?;
            return Ok(Loaded {
                revision,
                compiled_in: None,
            });
        }
        let size = component.len() as u64;
        let (source, of) = (self.clone(), digest.clone());
        let checked = spawn_blocking(move || source.check(&component, &of)).await??;
        let openapi = describe(&checked.component, checked.openapi).await?;
        let compiled = checked.component.compiled().clone();
        let known = Known {
            manifest: checked.manifest_text,
            openapi,
            imports: checked.component.imported().to_vec(),
            exports: checked.component.exported().to_vec(),
            size,
            compiled: compiled.file,
        };
        let code = Some(checked.component);
        self.held.lock().retain(|_, held| held.strong_count() > 0);
        let revision = Revision::new(digest, checked.manifest, known, code, self.clone());
        Ok(Loaded {
            revision: self.hold(revision),
            compiled_in: compiled.took,
        })
    }

    /// A revision of a record: one that is held, else what is on disk, else what
    /// Kafka has. Its code is in memory, and a first instance up.
    pub(crate) async fn ready(
        self: &Arc<Self>,
        record: &Deployment,
        digest: &str,
    ) -> Result<Arc<Revision>, DeployError> {
        if let Some(held) = self.held(digest) {
            ready(&held).await?;
            return Ok(held);
        }
        let bytes = self.bytes(Some(record), digest).await?;
        let revision = self.of(bytes.clone()).await?.revision;
        self.keep(&revision, bytes).await?;
        Ok(revision)
    }

    /// A revision that this host has run before: its code is in the compile cache
    /// and stays there until the first call. None if it has to be made ready. Blocks.
    pub(crate) fn kept(self: &Arc<Self>, digest: &str) -> Option<Arc<Revision>> {
        if let Some(held) = self.held(digest) {
            return Some(held);
        }
        let known = self.shelf.known(digest, &self.runtime.version())?;
        let there = self.shelf.has_component(digest) && self.runtime.has_compiled(&known.compiled);
        let manifest = Manifest::parse(&known.manifest, "service.toml").ok();
        let manifest = Arc::new(manifest.filter(|_| there)?);
        let revision = Revision::new(digest.to_owned(), manifest, known, None, self.clone());
        Some(self.hold(revision))
    }

    /// The code of a revision.
    pub(crate) async fn component(
        self: &Arc<Self>,
        revision: &Revision,
    ) -> Result<Component, DeployError> {
        let _turn = self.turns.acquire().await;
        let record = self.registry.record(&revision.manifest.name);
        let bytes = self.bytes(record.as_ref(), &revision.digest).await?;
        let (source, manifest) = (self.clone(), revision.manifest.clone());
        let short = revision.short().to_owned();
        let load = move || source.runtime.load(&bytes, manifest, &short);
        let component = spawn_blocking(load).await??;
        tracing::debug!(
            service = revision.manifest.name,
            revision = revision.short(),
            "loaded"
        );
        Ok(component)
    }

    /// Keeps a revision on disk: its component, and what is known of it.
    pub(crate) async fn keep(
        self: &Arc<Self>,
        revision: &Arc<Revision>,
        component: Bytes,
    ) -> Result<(), DeployError> {
        let (source, revision) = (self.clone(), revision.clone());
        let keep = move || {
            let (shelf, version) = (&source.shelf, source.runtime.version());
            shelf.keep_component(&revision.digest, &component)?;
            if let Err(error) = shelf.keep_known(&revision.digest, &version, &revision.known) {
                // Without it the next start loads the component, as this one did.
                tracing::warn!(event = "revision.not-kept", %error, "what is known of a revision was not kept: the next start takes longer");
            }
            Ok(())
        };
        spawn_blocking(keep).await?
    }

    /// A component as it was deployed: what is on disk, else what Kafka has.
    async fn bytes(
        self: &Arc<Self>,
        record: Option<&Deployment>,
        digest: &str,
    ) -> Result<Bytes, DeployError> {
        let (source, of) = (self.clone(), digest.to_owned());
        let kept = spawn_blocking(move || source.shelf.component(&of)).await??;
        if let Some(bytes) = kept {
            return Ok(bytes.into());
        }
        let content = record.and_then(|record| record.contents.get(digest).cloned());
        let content = content.unwrap_or_default();
        let bytes = Bytes::from(self.registry.fetch(digest, &content).await?);
        let (source, of, fetched) = (self.clone(), digest.to_owned(), bytes.clone());
        spawn_blocking(move || source.shelf.keep_component(&of, &fetched)).await??;
        Ok(bytes)
    }

    /// Reads, compiles and checks a component. Blocks.
    fn check(&self, bytes: &[u8], digest: &str) -> Result<Checked, DeployError> {
        let manifest_text = match tidemill_manifest::embedded(bytes) {
            Ok(Some(text)) => text,
            // What is no component at all is told so before its manifest is missed.
            Ok(None) => {
                recognise(bytes)?;
                return Err(DeployError::NoManifest);
            }
            Err(error) => {
                recognise(bytes)?;
                return Err(DeployError::BadSection(error.to_string()));
            }
        };
        let manifest =
            Manifest::parse(&manifest_text, "service.toml").map_err(DeployError::Manifest)?;
        let manifest = Arc::new(manifest);
        let short = digest.get(..12).unwrap_or(digest);
        let component = self.runtime.load(bytes, manifest.clone(), short)?;
        let openapi = tidemill_manifest::openapi(bytes);
        let openapi = openapi.map_err(|error| DeployError::BadSection(error.to_string()))?;
        Ok(Checked {
            openapi,
            manifest,
            manifest_text,
            component,
        })
    }
}

/// Cores that this process may use: so many serve, and so many revisions are loaded
/// at once.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Has a revision's code in memory, and an instance up.
async fn ready(revision: &Revision) -> Result<(), DeployError> {
    let component = revision.component().await.map_err(DeployError::Start)?;
    component.warm().await.map_err(DeployError::Start)
}

/// A component that passed all checks but those against other services.
struct Checked {
    openapi: Option<String>,
    manifest: Arc<Manifest>,
    manifest_text: String,
    component: Component,
}

/// Starts a first instance. Its OpenAPI document is in its file, or it is asked
/// for it.
async fn describe(
    component: &Component,
    embedded: Option<String>,
) -> Result<Option<String>, DeployError> {
    component.warm().await.map_err(DeployError::Start)?;
    let document = match embedded {
        Some(document) => Some(document),
        None => component.describe().await.map_err(DeployError::Start)?,
    };
    if let Some(document) = &document {
        serde_json::from_str::<serde_json::Value>(document).map_err(DeployError::OpenApi)?;
    }
    Ok(document)
}
