//! A component that has passed all checks that can be made before it runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemill_manifest::{DESCRIBE, EVENT_LOOP, EVENTS, HTTP, Import, Manifest, unversioned};
use wasmtime::component::{ComponentExportIndex, InstancePre};
use wasmtime_wasi_config::WasiConfigVariables;

use super::context::{Context, Grants};
use super::engine::Runtime;
use super::instance::Instance;
use super::memory::ServiceMemory;
use super::output::Origin;
use super::pool::Pool;
use super::turns::{Habit, Turns};
use crate::invocation::Failure;
use crate::limits::Limit;
use crate::logs::books;

/// Why a component cannot be a service. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not a component at all.
    #[error("this is not a WASM component: {0}")]
    NotAComponent(String),
    /// The compiler refused it.
    #[error("the component is not valid: {0}")]
    NotValid(String),
    /// The compiler did not come to an end in time.
    #[error(
        "compiling the component takes longer than the host allows ({0:?}): make it smaller, or \
         start the host with a higher --compile-time"
    )]
    CompileTime(Duration),
    /// The compiler failed, and not because of what it was given, or because of
    /// what it was given broke it.
    #[error("the compiler failed: {0}")]
    Compiler(std::io::Error),
    /// It imports what its manifest does not grant.
    #[error("the component imports {import}, which its manifest does not grant: {hint}")]
    NotGranted {
        /// The import's name.
        import: String,
        /// What to do.
        hint: &'static str,
    },
    /// It imports what no host has.
    #[error(
        "the component imports {import}, which Tidemill does not offer; it offers the imports of \
         the world tidemill:service/service (wit/worlds.wit) and WASI 0.2 without sockets"
    )]
    UnknownImport {
        /// The import's name.
        import: String,
    },
    /// An import that the host has under this name, with other types.
    #[error("an import has other types than the host offers: {0}")]
    ImportType(String),
    /// It exports no handler.
    #[error(
        "the component exports neither tidemill:service/http nor tidemill:service/events, so it is \
         no service; it exports {exports}"
    )]
    NoHandler {
        /// What it exports.
        exports: String,
    },
    /// Manifest and exports do not go together.
    #[error("{0}")]
    Mismatch(&'static str),
    /// The compile cache's folder cannot be made.
    #[error("the compile cache {path:?} cannot be made: {cause}")]
    Cache {
        /// The folder.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The engine does not start on this machine.
    #[error("the WASM engine does not start: {0:#}")]
    Engine(wasmtime::Error),
}

/// A compiled, checked and linked component with its idle instances.
pub struct Component {
    pre: InstancePre<Context>,
    exports: Exports,
    pub(super) manifest: Arc<Manifest>,
    pub(super) grants: Arc<Grants>,
    pub(super) settings: Arc<WasiConfigVariables>,
    pub(super) origin: Origin,
    pub(super) memory: Arc<ServiceMemory>,
    pub(super) turns: Arc<Turns>,
    pub(super) habit: Arc<Habit>,
    pool: Arc<Pool>,
    imported: Vec<String>,
    exported: Vec<String>,
    compiled: Compiled,
}

/// Where the compiled code of a component is.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The name of the file in the compile cache; empty if it is in none.
    pub file: String,
    /// How long the compiler took; none if the code came from the cache.
    pub took: Option<Duration>,
}

/// Which handlers a component has, and where.
#[derive(Clone, Copy)]
pub(super) struct Exports {
    pub(super) http: Option<ComponentExportIndex>,
    pub(super) events: Option<ComponentExportIndex>,
    pub(super) describe: Option<ComponentExportIndex>,
    /// The loop that takes several events in one call.
    pub(super) run: Option<ComponentExportIndex>,
}

impl Component {
    pub(super) fn check(
        component: wasmtime::component::Component,
        compiled: Compiled,
        runtime: &Runtime,
        manifest: Arc<Manifest>,
        revision: &str,
    ) -> Result<Component, LoadError> {
        let ty = component.component_type();
        let engine = component.engine();
        let imported: Vec<String> = ty
            .imports(engine)
            .map(|(name, _)| name.to_owned())
            .collect();
        let exported: Vec<String> = ty
            .exports(engine)
            .map(|(name, _)| name.to_owned())
            .collect();

        check_imports(&imported, &manifest)?;
        let pre = runtime
            .linker()
            .instantiate_pre(&component)
            .map_err(|cause| LoadError::ImportType(format!("{cause:#}")))?;
        let exports = check_exports(&pre, &exported)?;
        let mismatch = manifest.mismatch(exports.http.is_some(), exports.events.is_some());
        if let Some(mismatch) = mismatch {
            return Err(LoadError::Mismatch(mismatch));
        }

        let mut settings = WasiConfigVariables::new();
        for (key, value) in &manifest.settings {
            settings.insert(key.clone(), value.clone());
        }
        let pool = Arc::new(Pool::default());
        let total = manifest.limits.memory_total;
        Ok(Component {
            pre,
            exports,
            grants: Arc::new(Grants::of(&manifest)),
            settings: Arc::new(settings),
            origin: Origin {
                service: manifest.name.as_str().into(),
                revision: revision.into(),
                book: books().book(&manifest.name),
            },
            manifest,
            memory: ServiceMemory::new(total, runtime.memory.clone(), &pool),
            turns: runtime.turns.clone(),
            habit: Arc::default(),
            pool,
            imported,
            exported,
            compiled,
        })
    }

    /// An instance to run one invocation: an idle one, or a new one.
    pub async fn instance(&self) -> Result<Instance, Failure> {
        if let Some(instance) = self.pool.take() {
            return Ok(instance);
        }
        loop {
            // In a place of its own, so that a call that finds one idle is smaller.
            let made = Box::pin(Instance::new(self, &self.pre, self.exports)).await;
            let full = Failure::Crowded {
                limit: Limit::HostInstances,
            };
            // Idle ones of others are in the way.
            if made.as_ref().err() != Some(&full) || !self.memory.host().reclaim() {
                return made;
            }
        }
    }

    /// Takes an instance back whose call came to its end, unless it has served
    /// its time or enough others are idle.
    pub fn give_back(&self, instance: Instance) {
        if instance.calls() >= self.manifest.limits.reuse {
            return;
        }
        self.pool
            .keep(instance, self.manifest.limits.instances as usize);
    }

    /// Drops the instances that nobody has needed since the last time. Whether the
    /// component was called since then.
    pub fn rest(&self) -> bool {
        self.pool.rest()
    }

    /// Whether its instances take several events in one call.
    pub fn pulls(&self) -> bool {
        self.exports.run.is_some() && self.manifest.limits.reuse > 1
    }

    /// How many instances are idle.
    pub fn idle(&self) -> usize {
        self.pool.len()
    }

    /// Bytes of memory that its instances have.
    pub fn memory(&self) -> u64 {
        self.memory.used()
    }

    /// Makes one instance ahead of the first call, and so shows that it can be
    /// made and that its exports have the types that they should.
    pub async fn warm(&self) -> Result<(), Failure> {
        let instance = self.instance().await?;
        self.give_back(instance);
        Ok(())
    }

    /// The OpenAPI document, if the component has one.
    pub async fn describe(&self) -> Result<Option<String>, Failure> {
        if self.exports.describe.is_none() {
            return Ok(None);
        }
        let mut instance = self.instance().await?;
        let limits = &self.manifest.limits;
        let document = instance.describe(limits.time).await?;
        self.give_back(instance);
        if document.len() as u64 > limits.response {
            return Err(Failure::ResponseTooLarge {
                size: document.len(),
                limit: limits.response,
            });
        }
        Ok(Some(document))
    }

    /// Interfaces it imports.
    pub fn imported(&self) -> &[String] {
        &self.imported
    }

    /// Interfaces it exports.
    pub fn exported(&self) -> &[String] {
        &self.exported
    }

    /// Where its compiled code is.
    pub fn compiled(&self) -> &Compiled {
        &self.compiled
    }
}

/// Names that a message lists.
const SHOWN: usize = 20;

/// Holds imports against grants. Files, environment and arguments are harmless:
/// a handler gets none of them, and language runtimes import them by habit.
fn check_imports(imports: &[String], manifest: &Manifest) -> Result<(), LoadError> {
    for import in imports {
        let not_granted = |hint| {
            Err(LoadError::NotGranted {
                import: import.clone(),
                hint,
            })
        };
        match Import::of(import) {
            Import::State if !manifest.grants.state => {
                return not_granted("add `state = true` under [grants], if it should have state");
            }
            Import::Sockets => {
                return not_granted("services reach the network through Kafka and HTTP alone");
            }
            Import::Unknown => {
                return Err(LoadError::UnknownImport {
                    import: import.clone(),
                });
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_exports(pre: &InstancePre<Context>, exported: &[String]) -> Result<Exports, LoadError> {
    let component = pre.component();
    let find = |interface: &'static str, function: &str| {
        let name = exported
            .iter()
            .find(|name| unversioned(name) == interface)?;
        let interface = component.get_export_index(None, name)?;
        component.get_export_index(Some(&interface), function)
    };
    let exports = Exports {
        http: find(HTTP, "handle"),
        events: find(EVENTS, "handle"),
        describe: find(DESCRIBE, "openapi"),
        run: find(EVENT_LOOP, "run"),
    };
    if exports.http.is_none() && exports.events.is_none() {
        let exports = match exported.len() {
            0 => "nothing".to_owned(),
            all @ 0..=SHOWN => exported[..all].join(", "),
            all => format!("{} and {} more", exported[..SHOWN].join(", "), all - SHOWN),
        };
        return Err(LoadError::NoHandler { exports });
    }
    Ok(exports)
}
