//! Deploying any bytes whatever, up to where a first instance would be made.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tidemill_host::runtime::{Bounds, Compiler, Runtime};
use tidemill_manifest::{Manifest, embedded};

/// A deploy, up to where a first instance would be made. The manifest is the
/// component's own, or else one that would do.
pub(crate) fn deploy(bytes: &[u8]) {
    let text = match embedded(bytes) {
        Ok(Some(text)) => text,
        _ => "name = \"a\"\n[http]\nroutes = [\"/a\"]\n".to_owned(),
    };
    let Ok(manifest) = Manifest::parse(&text, "service.toml") else {
        return;
    };
    let _ = runtime().load(bytes, Arc::new(manifest), "fuzzed");
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let bounds = Bounds {
            memory: 1 << 30,
            long_calls: 1,
            compiler: Compiler::Here,
        };
        Runtime::new(&cache(), bounds).expect("the engine starts")
    })
}

/// Deletes what the deploys left.
pub(crate) fn tidy() {
    let _ = std::fs::remove_dir_all(cache());
}

fn cache() -> PathBuf {
    let name = format!("tidemill-fuzz-{}", std::process::id());
    std::env::temp_dir().join(name)
}
