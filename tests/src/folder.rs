//! Where things are, and folders that vanish with the test that made them.

use std::path::{Path, PathBuf};
use std::{env, fs};

use crate::wait::unique;

/// The repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Cargo's target folder, in which this executable is.
///
/// # Panics
/// If the executable is not where cargo puts it.
#[must_use]
pub fn target() -> PathBuf {
    let executable = env::current_exe().unwrap();
    // TARGET/release/deps/NAME for a test, TARGET/release/NAME else.
    let profile = executable
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .unwrap();
    profile.parent().unwrap().to_owned()
}

/// The built `tidemill`: `TIDEMILL_BIN`, or beside the tests.
///
/// # Panics
/// If it was not built.
#[must_use]
pub fn tidemill() -> PathBuf {
    let path = from_env("TIDEMILL_BIN").unwrap_or_else(|| target().join("release/tidemill"));
    assert!(
        path.exists(),
        "{} does not exist: run the tests by `make test`, which builds it, or set TIDEMILL_BIN",
        path.display()
    );
    path
}

/// The folder of built components: `TIDEMILL_COMPONENTS`, or beside the tests.
#[must_use]
pub fn components() -> PathBuf {
    from_env("TIDEMILL_COMPONENTS").unwrap_or_else(|| target().join("tidemill"))
}

/// The Python environment that has `requests`.
#[must_use]
pub fn venv() -> PathBuf {
    from_env("TIDEMILL_VENV").unwrap_or_else(|| target().join("venv"))
}

/// The program h2spec, if it could be fetched: `TIDEMILL_H2SPEC`, or beside the
/// tests.
#[must_use]
pub fn h2spec() -> Option<PathBuf> {
    let path = from_env("TIDEMILL_H2SPEC").unwrap_or_else(|| target().join("h2spec/h2spec"));
    path.exists().then_some(path)
}

/// The fetched Kafka.
pub(crate) fn kafka_dist() -> PathBuf {
    from_env("KAFKA_DIST").unwrap_or_else(|| target().join("kafka/dist"))
}

fn from_env(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// A folder that is deleted when it is dropped, unless the test has failed.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes one.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let all = target().join("tmp/tidemill-tests");
        sweep(&all);
        let path = all.join(unique(name));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Makes one at the same place in each run, for one test alone: what cargo has
    /// built of a project there is used by the next run.
    ///
    /// # Panics
    /// If the disk fails.
    #[must_use]
    pub fn at_its_place(name: &str) -> Self {
        let path = target().join("tmp/tidemill-tests").join(name);
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept: {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Deletes what earlier runs left: folders of processes that are no more.
fn sweep(all: &Path) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        for entry in fs::read_dir(all).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let process = name.rsplit('-').nth(1).unwrap_or_default();
            if !Path::new("/proc").join(process).exists() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    });
}

/// Copies a folder with all that is in it.
///
/// # Panics
/// If the disk fails.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}
