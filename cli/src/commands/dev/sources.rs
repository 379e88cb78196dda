//! Which files a service is built from, and hearing of their changes.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;

use anyhow::{Context, Result};
use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

use super::News;
use crate::project::Project;

/// Folders of a package that no component is built from.
const OTHERS: [&str; 5] = ["target", "tests", "benches", "examples", "node_modules"];

/// What a service is built from.
pub(super) struct Sources {
    /// The folders of its package, and of those that it depends on.
    packages: Vec<PathBuf>,
    /// The workspace's `Cargo.toml`.
    workspace: PathBuf,
    target: PathBuf,
}

impl Sources {
    pub(super) fn of(project: &Project) -> Sources {
        Sources {
            packages: project.packages.clone(),
            workspace: project.workspace.clone(),
            target: project.target.clone(),
        }
    }

    /// Whether a file is a source, other than the manifest.
    pub(super) fn has(&self, file: &Path) -> bool {
        if file == self.workspace {
            return true;
        }
        if file.starts_with(&self.target) || is_temporary(file) {
            return false;
        }
        // The innermost package: one may be inside another one's folder.
        let packages = self.packages.iter();
        let package = packages
            .filter(|package| file.starts_with(package))
            .max_by_key(|package| package.as_os_str().len());
        let Some(rest) = package.and_then(|package| file.strip_prefix(package).ok()) else {
            return false;
        };
        let mut parts = rest.components();
        let first = parts.next().map(|part| part.as_os_str().to_string_lossy());
        match (first, parts.next()) {
            (Some(name), None) => {
                name == "Cargo.toml" || name == "build.rs" || file.is_dir() && !is_other(&name)
            }
            (Some(folder), Some(_)) => !is_other(&folder),
            (None, _) => false,
        }
    }

    /// What is to be watched, and whether with all that is in it.
    fn places(&self) -> Vec<(PathBuf, RecursiveMode)> {
        let mut places: Vec<(PathBuf, RecursiveMode)> = Vec::new();
        if let Some(folder) = self.workspace.parent() {
            places.push((folder.to_path_buf(), RecursiveMode::NonRecursive));
        }
        for package in &self.packages {
            places.push((package.clone(), RecursiveMode::NonRecursive));
            for entry in fs::read_dir(package).into_iter().flatten().flatten() {
                let path = entry.path();
                let name = entry.file_name();
                let is_package = path.join("Cargo.toml").exists();
                if path.is_dir()
                    && !is_package
                    && path != self.target
                    && !is_other(&name.to_string_lossy())
                {
                    places.push((path, RecursiveMode::Recursive));
                }
            }
        }
        places
    }
}

fn is_other(folder: &str) -> bool {
    folder.starts_with('.') || OTHERS.contains(&folder)
}

/// What editors write beside a file while it is edited.
fn is_temporary(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let made_of = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    name.starts_with(['.', '#'])
        || name.ends_with(['~', '#'])
        || [".swp", ".swx", ".tmp", ".bak"]
            .iter()
            .any(|ending| name.ends_with(ending))
        // vim tries with such a file whether it may write here.
        || made_of(&name)
}

/// Hears of changes in the places that are watched.
pub(super) struct Watcher {
    watcher: RecommendedWatcher,
    places: HashSet<PathBuf>,
}

impl Watcher {
    pub(super) fn new(tell: Sender<News>) -> Result<Watcher> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            for changed in changed(event) {
                let _ = tell.send(News::Changed(changed));
            }
        });
        Ok(Watcher {
            watcher: watcher.context("files cannot be watched")?,
            places: HashSet::new(),
        })
    }

    /// Watches what is not watched yet.
    pub(super) fn watch(&mut self, sources: &Sources) -> Result<()> {
        for (place, mode) in sources.places() {
            if !self.places.contains(&place) {
                self.watcher
                    .watch(&place, mode)
                    .with_context(|| format!("cannot watch {}", place.display()))?;
                self.places.insert(place);
            }
        }
        Ok(())
    }

    /// What is deleted is not watched any more, not even when it is there again.
    pub(super) fn gone(&mut self, file: &Path) {
        if self.places.contains(file) && !file.exists() {
            self.places.remove(file);
        }
    }
}

/// The files that an event says have changed; none if it does not know them.
fn changed(event: notify::Result<Event>) -> Vec<Option<PathBuf>> {
    let Ok(event) = event else {
        return vec![None];
    };
    if event.need_rescan() {
        return vec![None];
    }
    match event.kind {
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_)) => Vec::new(),
        _ => event.paths.into_iter().map(Some).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Sources {
        Sources {
            packages: vec![
                PathBuf::from("/w/shop"),
                PathBuf::from("/w/shop/.tidemill/sdk"),
                PathBuf::from("/w/common"),
            ],
            workspace: PathBuf::from("/w/Cargo.toml"),
            target: PathBuf::from("/w/shop/build"),
        }
    }

    #[test]
    fn what_cargo_builds_a_service_from_is_a_source() {
        for file in [
            "shop/src/lib.rs",
            "shop/src/a/b.rs",
            "shop/pages/index.html",
            "shop/Cargo.toml",
            "shop/build.rs",
            "shop/.tidemill/sdk/src/lib.rs",
            "common/src/lib.rs",
            "Cargo.toml",
        ] {
            assert!(sources().has(&Path::new("/w").join(file)), "{file}");
        }
    }

    #[test]
    fn nothing_else_is() {
        for file in [
            "shop/README.md",
            "shop/Cargo.lock",
            "shop/target/a/b.d",
            "shop/build/a/b.d",
            "shop/tests/all.rs",
            "shop/.git/index",
            "shop/src/.lib.rs.swp",
            "shop/src/lib.rs~",
            "shop/src/4913",
            "other/src/lib.rs",
            "shop",
        ] {
            assert!(!sources().has(&Path::new("/w").join(file)), "{file}");
        }
    }
}
