//! A revision: what is known of it, and its code, which is in memory while it is
//! called.
//!
//! What is known is enough to show it, to route to it and to subscribe for it. So a
//! host starts with revisions whose code is in its compile cache, loads each at its
//! first call, and lets go of what nobody has called for a while. A deploy has its
//! revision in memory before it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use tidemill_manifest::Manifest;
use tokio::sync::Mutex;

use crate::invocation::Failure;
use crate::revisions::Revisions;
use crate::runtime::Component;
use crate::slots::Slots;

/// An immutable pair of component and manifest, compiled and checked. There is
/// no way to make one that has not passed all checks (`revisions`).
pub struct Revision {
    /// SHA-256 of the component file, its manifest in it, as 64 digits.
    pub digest: String,
    /// What the service is.
    pub manifest: Arc<Manifest>,
    /// What the component file told.
    pub known: Known,
    /// How many calls run at once, and how many wait.
    pub slots: Slots,
    /// How its calls ended on this host.
    pub tally: Tally,
    code: ArcSwapOption<Component>,
    /// Held by who loads the code.
    loading: Mutex<()>,
    source: Arc<Revisions>,
}

/// What a component file told when it was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The manifest as it was written.
    pub manifest: String,
    /// The OpenAPI document, JSON, if the component has one.
    pub openapi: Option<String>,
    /// Interfaces that it imports.
    pub imports: Vec<String>,
    /// Interfaces that it exports.
    pub exports: Vec<String>,
    /// Size of the file in bytes.
    pub size: u64,
    /// The file of the compile cache that its code is in.
    pub compiled: String,
}

impl Known {
    /// The OpenAPI document, if the component has one.
    pub fn document(&self) -> Option<serde_json::Value> {
        // It was read before it was kept.
        serde_json::from_str(self.openapi.as_deref()?).ok()
    }
}

impl Revision {
    /// One whose code is in memory, or can be had from `source`.
    pub(crate) fn new(
        digest: String,
        manifest: Arc<Manifest>,
        known: Known,
        code: Option<Component>,
        source: Arc<Revisions>,
    ) -> Revision {
        Revision {
            slots: Slots::of(&manifest.limits),
            digest,
            manifest,
            known,
            tally: Tally::default(),
            code: ArcSwapOption::new(code.map(Arc::new)),
            loading: Mutex::default(),
            source,
        }
    }

    /// The first twelve digits of the digest: enough for people.
    pub fn short(&self) -> &str {
        self.digest.get(..12).unwrap_or(&self.digest)
    }

    /// Its code, which is loaded first if it is not in memory. Who holds it keeps it
    /// there.
    ///
    /// # Errors
    /// It cannot be loaded at the moment: the host's failure, and not the handler's.
    pub async fn component(&self) -> Result<Arc<Component>, Failure> {
        match self.code.load_full() {
            Some(component) => Ok(component),
            None => self.load().await,
        }
    }

    /// Its code, if it is in memory.
    pub fn in_memory(&self) -> Option<Arc<Component>> {
        self.code.load_full()
    }

    async fn load(&self) -> Result<Arc<Component>, Failure> {
        let _turn = self.loading.lock().await;
        if let Some(component) = self.code.load_full() {
            return Ok(component);
        }
        let loaded = self.source.component(self).await.map_err(|error| {
            let (service, revision) = (&*self.manifest.name, self.short());
            tracing::error!(event = "revision.not-loaded", service, revision, %error, "the code of a revision cannot be loaded");
            Failure::Instantiate(error.to_string())
        })?;
        let component = Arc::new(loaded);
        self.code.store(Some(component.clone()));
        Ok(component)
    }

    /// Lets go of what nobody has needed since the last time: idle instances, and
    /// the code as well if it was not called at all.
    pub fn rest(&self) {
        let Some(component) = self.code.load_full() else {
            return;
        };
        // The revision has one, and so has this.
        let idle = !component.rest() && Arc::strong_count(&component) == 2;
        if idle && component.idle() == 0 {
            self.code.store(None);
        }
    }
}

/// How many calls of a revision ended, and how many failed by its own fault.
#[derive(Debug, Default)]
pub struct Tally {
    ended: AtomicU64,
    failed: AtomicU64,
}

impl Tally {
    /// A call has ended.
    pub fn count(&self, failed: bool) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        if failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many ended, and how many of them failed.
    pub fn read(&self) -> (u64, u64) {
        let failed = self.failed.load(Ordering::Relaxed);
        (self.ended.load(Ordering::Relaxed), failed)
    }
}
