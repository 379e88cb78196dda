//! Helpers of unit tests.

use std::path::PathBuf;

/// An empty folder of a test's own, under the build's temporary folder.
pub(crate) fn folder(name: &str) -> PathBuf {
    let unique = format!("tidemill-{name}-{}", std::process::id());
    let folder = std::env::temp_dir().join(unique);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
    folder
}
