//! What hosts compiled of the components that they start with, kept for all tests
//! and their runs: compiling it anew for each host took a sixth of all CPU time.
//! What is deployed to a host that runs is compiled by it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::component::Component;
use crate::folder::target;
use crate::wait::unique;

/// What is older may be of a component that is no more.
const KEPT: Duration = Duration::from_hours(24);

/// Gives a host what is kept of components. It is the host's own then, to do with as
/// it likes.
pub(crate) fn lend(components: &[Component], data: &Path) {
    let cache = data.join("cache");
    fs::create_dir_all(&cache).unwrap();
    copy_all(components, &kept(), &cache);
}

/// Keeps what a host has compiled of components.
pub(crate) fn keep(components: &[Component], data: &Path) {
    copy_all(components, &data.join("cache"), &kept());
}

fn kept() -> PathBuf {
    let folder = target().join("compiled");
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let used = entry.metadata().and_then(|metadata| metadata.modified());
            let age = used.map(|used| SystemTime::now().duration_since(used));
            if age.is_ok_and(|age| age.is_ok_and(|age| age > KEPT)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    });
    folder
}

/// Copies what is not there yet. It is complete as soon as it has its name.
fn copy_all(components: &[Component], from: &Path, to: &Path) {
    let codes = components.iter().map(|component| {
        let code = tidemill_manifest::without_sections(&component.0);
        let digest = Sha256::digest(code);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        hex
    });
    let codes: Vec<String> = codes.collect();
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let wanted = text.ends_with(".cwasm") && codes.iter().any(|code| text.starts_with(code));
        if wanted && !to.join(&name).exists() {
            let unfinished = to.join(unique("copy"));
            fs::copy(entry.path(), &unfinished).unwrap();
            fs::rename(&unfinished, to.join(&name)).unwrap();
        }
    }
}
