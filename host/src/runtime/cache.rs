//! The compile cache: compiled components, by content and engine, in a folder that
//! is this host's alone, since what is in it is run. Files are complete: they are
//! renamed into place, and never written again.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How long what no deployed revision needs is kept: a component that is tried
/// again and again is compiled once.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// The name of a file that is not complete yet ends so.
const UNFINISHED: &str = "tmp";

/// A folder of compiled components.
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Opens a folder, and makes it if it is missing.
    pub(super) fn open(folder: &Path) -> io::Result<Cache> {
        fs::create_dir_all(folder)?;
        Ok(Cache {
            folder: folder.to_owned(),
        })
    }

    /// No folder: nothing is kept in it, and nothing found.
    pub(super) fn none() -> Cache {
        Cache {
            folder: PathBuf::new(),
        }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A name for a file that will be renamed to `file` when it is complete.
    pub(super) fn unfinished(file: &Path) -> PathBuf {
        file.with_extension(format!("{}.{UNFINISHED}", uuid::Uuid::new_v4()))
    }

    /// Whether a file is there. Whether it is usable is found when it is used.
    pub(super) fn has(&self, name: &str) -> bool {
        !name.is_empty() && self.file(name).is_file()
    }

    /// Removes what is old and not among those that are needed, and what was never
    /// finished: nothing is compiled yet. Says how many files.
    pub(super) fn tidy(&self, needed: &BTreeSet<String>, now: SystemTime) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_needed = name.to_str().is_some_and(|name| needed.contains(name));
            let metadata = entry.metadata()?;
            if is_needed || !metadata.is_file() {
                continue;
            }
            let kind = entry.path().extension().map(ToOwned::to_owned);
            let unfinished = kind.is_some_and(|kind| kind == UNFINISHED);
            let age = now.duration_since(metadata.modified()?);
            if unfinished || age.is_ok_and(|age| age > KEPT) {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_old_and_not_needed_or_was_never_finished_is_removed() {
        let folder = std::env::temp_dir().join(format!("tidemill-cache-{}", uuid::Uuid::new_v4()));
        let cache = Cache::open(&folder).unwrap();
        for (name, days) in [
            ("new.cwasm", 6),
            ("needed.cwasm", 100),
            ("old.cwasm", 8),
            ("killed.1234.tmp", 0),
        ] {
            let file = File::create(cache.file(name)).unwrap();
            let age = Duration::from_hours(days * 24);
            file.set_modified(SystemTime::now() - age).unwrap();
        }
        let needed = BTreeSet::from(["needed.cwasm".to_owned()]);
        assert_eq!(cache.tidy(&needed, SystemTime::now()).unwrap(), 2);
        assert!(cache.has("new.cwasm") && cache.has("needed.cwasm"));
        assert!(!cache.has("old.cwasm") && !cache.has("killed.1234.tmp") && !cache.has(""));
        fs::remove_dir_all(&folder).unwrap();
    }
}
