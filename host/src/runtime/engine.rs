//! The engine: one for the host, with its linker, its ticker and its cache of
//! compiled components.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tidemill_manifest::Manifest;
use wasmtime::component::Linker;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
};

use super::bindings;
use super::cache::Cache;
use super::compiler::Compiler;
use super::component::{Compiled, Component, LoadError};
use super::context::{Context, Host};
use super::memory::{BodyMemory, HostMemory};
use super::turns::Turns;

/// How often running guests are interrupted so that others get their turn, and
/// so that deadlines are seen: a loop that never yields ends this much late.
const TICK: Duration = Duration::from_micros(500);
/// How often one is looked for when none was found for a while.
const QUIET_TICK: Duration = Duration::from_millis(5);
/// Ticks that make a while.
const WHILE: u32 = 400;

/// Instances that the host can hold at once, over all services. A component of
/// a large language runtime takes several core instances for each.
const MAX_INSTANCES: u32 = 2_000;
const MAX_CORE_INSTANCES: u32 = 8_000;

/// Bytes of memory that the place of an instance keeps for the next one: of those that
/// were used, where the kernel says which (Linux 6.7), or else of the first ones.
const KEPT: usize = 512 << 10;
const KEPT_BLINDLY: usize = 64 << 10;
/// So many places keep it that nobody uses: what a host that is at rest holds for them
/// is 8 MiB at most.
const KEPT_PLACES: u32 = 16;

/// What all services of a host may use together.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of memory of all instances.
    pub memory: u64,
    /// Calls that run for long, at once: fewer than there are threads, so that
    /// short ones always find a free one.
    pub long_calls: usize,
    /// Who compiles.
    pub compiler: Compiler,
}

/// Interrupts all guests of an engine from time to time, for as long as there is
/// one.
fn tick(engine: &Engine, turns: Arc<Turns>) -> std::io::Result<()> {
    let ticked = engine.weak();
    let mut quiet = 0;
    let tick = move || {
        while let Some(engine) = ticked.upgrade() {
            engine.increment_epoch();
            drop(engine);
            quiet = match turns.was_interrupted() {
                true => 0,
                false => WHILE.min(quiet + 1),
            };
            std::thread::sleep(if quiet < WHILE { TICK } else { QUIET_TICK });
        }
    };
    let ticker = std::thread::Builder::new().name("tidemill-ticker".to_owned());
    ticker.spawn(tick).map(drop)
}

/// The engine and what every component is linked against.
pub struct Runtime {
    engine: Engine,
    linker: Linker<Context>,
    cache: Cache,
    compiler: Compiler,
    /// Compilers use all cores: one after the other.
    compiling: Mutex<()>,
    pub(super) memory: Arc<HostMemory>,
    pub(super) turns: Arc<Turns>,
}

impl Runtime {
    /// Starts the engine. Compiled components are kept in the folder `cache`,
    /// which must be writable by this user alone: what is in it is run.
    pub fn new(cache: &Path, bounds: Bounds) -> Result<Runtime, LoadError> {
        Runtime::start_with_cache(engine(), cache, bounds)
    }

    /// The same without a pool of room for instances, where none can be reserved:
    /// under valgrind.
    pub fn unpooled(cache: &Path, bounds: Bounds) -> Result<Runtime, LoadError> {
        Runtime::start_with_cache(compiling_engine(), cache, bounds)
    }

    /// A runtime for a component that is asked something and let go: it keeps no
    /// cache, and compiles fast rather than well.
    pub fn brief() -> Result<Runtime, LoadError> {
        let bounds = Bounds {
            memory: u64::MAX,
            long_calls: 1,
            compiler: Compiler::Here,
        };
        Runtime::start(brief_engine(), Cache::none(), bounds)
    }

    fn start_with_cache(
        engine: wasmtime::Result<Engine>,
        cache: &Path,
        bounds: Bounds,
    ) -> Result<Runtime, LoadError> {
        let opened = Cache::open(cache).map_err(|cause| LoadError::Cache {
            path: cache.to_owned(),
            cause,
        })?;
        Runtime::start(engine, opened, bounds)
    }

    fn start(
        engine: wasmtime::Result<Engine>,
        cache: Cache,
        bounds: Bounds,
    ) -> Result<Runtime, LoadError> {
        let engine = engine.map_err(LoadError::Engine)?;
        let linker = linker(&engine).map_err(LoadError::Engine)?;
        let turns = Turns::new(bounds.long_calls);
        tick(&engine, turns.clone()).map_err(|cause| LoadError::Engine(cause.into()))?;
        Ok(Runtime {
            engine,
            linker,
            cache,
            compiler: bounds.compiler,
            compiling: Mutex::default(),
            memory: HostMemory::new(bounds.memory),
            turns,
        })
    }

    /// Bytes that instances, and what they are to be given, have at the moment.
    pub fn memory(&self) -> u64 {
        self.memory.used()
    }

    /// Room for the body of a request, as far as it comes.
    pub(crate) fn body(&self) -> BodyMemory {
        BodyMemory::of(&self.memory)
    }

    /// Compiles a component, or takes it from the cache, and checks it against
    /// its manifest. Blocks for as long as the compiler takes. `revision` names
    /// it in the log.
    pub fn load(
        &self,
        bytes: &[u8],
        manifest: Arc<Manifest>,
        revision: &str,
    ) -> Result<Component, LoadError> {
        let (component, compiled) = self.compile(bytes)?;
        Component::check(component, compiled, self, manifest, revision)
    }

    /// Whether the compile cache has a file, as [`Compiled`] names it. Whether it is
    /// usable is found when it is used.
    pub fn has_compiled(&self, file: &str) -> bool {
        self.cache.has(file)
    }

    /// Removes from the compile cache what is old and not among those that are
    /// needed, as [`Compiled`] names them. What can't be removed does no harm.
    pub fn tidy(&self, needed: &BTreeSet<String>) {
        match self.cache.tidy(needed, SystemTime::now()) {
            Ok(0) => {}
            Ok(removed) => {
                tracing::info!(
                    event = "cache.tidied",
                    removed,
                    "compiled components that nothing needs are removed"
                );
            }
            Err(error) => {
                tracing::warn!(event = "cache.not-tidied", %error, "the compile cache can't be tidied up");
            }
        }
    }

    /// Names this engine and this version of the host: what another one has found
    /// out about a component says nothing.
    pub fn version(&self) -> String {
        let mut version = self.fingerprint();
        env!("CARGO_PKG_VERSION").hash(&mut version);
        format!("{:016x}", version.finish())
    }

    /// Everything in the engine that the compiled form of a component depends on.
    fn fingerprint(&self) -> DefaultHasher {
        let mut engine = DefaultHasher::new();
        self.engine
            .precompile_compatibility_hash()
            .hash(&mut engine);
        engine
    }

    /// As `load`, in this process and past the cache.
    pub fn load_once(&self, bytes: &[u8], manifest: Arc<Manifest>) -> Result<Component, LoadError> {
        recognise(bytes)?;
        let component = wasmtime::component::Component::new(&self.engine, bytes)
            .map_err(|cause| LoadError::NotValid(format!("{cause:#}")))?;
        Component::check(component, Compiled::default(), self, manifest, "")
    }

    fn compile(
        &self,
        bytes: &[u8],
    ) -> Result<(wasmtime::component::Component, Compiled), LoadError> {
        recognise(bytes)?;
        // The digest of the content, but for the manifest and other texts, which are
        // not compiled, and of everything in the engine that the compiled form
        // depends on.
        let name = format!(
            "{}-{:016x}.cwasm",
            hex(&Sha256::digest(tidemill_manifest::without_sections(bytes))),
            self.fingerprint().finish()
        );
        let file = self.cache.file(&name);
        let compiled = |took| Compiled { file: name, took };
        if let Some(component) = self.kept(&file) {
            return Ok((component, compiled(None)));
        }
        let _turn = self.compiling.lock();
        // Another service of the same code may have been compiled meanwhile.
        if let Some(component) = self.kept(&file) {
            return Ok((component, compiled(None)));
        }
        tracing::info!(
            event = "compile.begun",
            size = bytes.len(),
            "compiling a component"
        );
        let started = Instant::now();
        let unfinished = Cache::unfinished(&file);
        let made = self.compiler.compile(&self.engine, bytes, &unfinished);
        let renamed =
            made.and_then(|()| std::fs::rename(&unfinished, &file).map_err(LoadError::Compiler));
        if renamed.is_err() {
            let _ = std::fs::remove_file(&unfinished);
        }
        renamed?;
        // What the engine that runs has no room for is found here.
        let component = self
            .cached(&file)
            .map_err(|cause| LoadError::NotValid(format!("{cause:#}")))?;
        Ok((component, compiled(Some(started.elapsed()))))
    }

    /// What the cache has of a file, if that is usable.
    fn kept(&self, file: &Path) -> Option<wasmtime::component::Component> {
        if !file.exists() {
            return None;
        }
        match self.cached(file) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(event = "cache.unusable", file = %file.display(), %error, "cached component is not usable, compiling it again");
                let _ = std::fs::remove_file(file);
                None
            }
        }
    }

    fn cached(&self, file: &Path) -> wasmtime::Result<wasmtime::component::Component> {
        // SAFETY: the folder is this host's own, and `compile` above is the only
        // one that writes it: complete files, renamed into place.
        unsafe { wasmtime::component::Component::deserialize_file(&self.engine, file) }
    }

    pub(super) fn linker(&self) -> &Linker<Context> {
        &self.linker
    }
}

/// Says what a file is that is not a component, before the compiler says that
/// it does not understand it.
pub(crate) fn recognise(bytes: &[u8]) -> Result<(), LoadError> {
    const MODULE: &[u8] = b"\0asm\x01\0\0\0";
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
    if bytes.is_empty() {
        return Err(LoadError::NotAComponent("the file is empty".to_owned()));
    }
    if bytes.starts_with(MODULE) {
        return Err(LoadError::NotAComponent(
            "it is a core WASM module; build it for the target wasm32-wasip2, or turn it into a \
             component with `wasm-tools component new`"
                .to_owned(),
        ));
    }
    if !bytes.starts_with(&COMPONENT[..4]) {
        return Err(LoadError::NotAComponent(
            "it does not begin as a WASM file does".to_owned(),
        ));
    }
    if !bytes.starts_with(COMPONENT) {
        return Err(LoadError::NotAComponent(
            "it is of another version of the component format".to_owned(),
        ));
    }
    Ok(())
}

fn engine() -> wasmtime::Result<Engine> {
    let kept = match PoolingAllocationConfig::is_pagemap_scan_available() {
        true => KEPT,
        false => KEPT_BLINDLY,
    };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(MAX_INSTANCES)
        .total_core_instances(MAX_CORE_INSTANCES)
        .total_memories(MAX_INSTANCES)
        .total_tables(MAX_CORE_INSTANCES)
        .total_stacks(MAX_INSTANCES)
        .max_core_instances_per_component(200)
        .max_memories_per_component(8)
        .max_tables_per_component(200)
        .max_unused_warm_slots(KEPT_PLACES)
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(kept)
        .table_keep_resident(4 << 10);
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Engine::new(&config)
}

/// An engine that only compiles: it keeps no room for instances. What it makes
/// is for the one that runs.
pub(super) fn compiling_engine() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// An engine for a component or two, which need not be fast.
fn brief_engine() -> wasmtime::Result<Engine> {
    let mut config = config();
    config.cranelift_opt_level(OptLevel::None);
    Engine::new(&config)
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .wasm_component_model_async(true)
        .memory_init_cow(true);
    config
}

fn linker(engine: &Engine) -> wasmtime::Result<Linker<Context>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, |context: &mut Context| {
        wasmtime_wasi_config::WasiConfig::new(context.settings())
    })?;
    bindings::imports::Linked::add_to_linker::<_, Host>(&mut linker, |context| context)?;
    Ok(linker)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;

    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}
