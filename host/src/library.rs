//! The data directory: what is deployed, kept so that a restart serves before
//! Kafka answers.
//!
//! ```text
//! lock                      held while a host runs
//! host-id                   names this host to Kafka and to others
//! addresses.json            where the running host listens
//! clusters.json             bootstrap servers → cluster id, as last seen
//! members.json              which member of each group this host is
//! deployments/CLUSTER/FLEET/  what is deployed on a Kafka cluster, by a fleet:
//!   NAME.json               a service's record, as Kafka has it
//!   DIGEST.wasm             a revision
//!   DIGEST.VERSION.known    what a version of the host has found out about it
//! cache/                    compiled components
//! state/CLUSTER/            the state store of one Kafka cluster
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::deployments::record::Deployment;
use crate::kafka::{Membered, Members};
use crate::revision::Known;
use crate::runtime::hex;

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// Another process has it.
    #[error(
        "the data directory {0:?} is in use by another host: stop that one, or give this one its own with --data-dir"
    )]
    InUse(PathBuf),
    /// A file could not be read or written.
    #[error("{path:?} cannot be {what}: {cause}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// `read`, `written`, …
        what: &'static str,
        /// Why.
        cause: io::Error,
    },
}

/// The data directory of a running host, locked.
pub struct Library {
    root: PathBuf,
    /// Held while a file is changed that several write.
    writing: Mutex<()>,
    _lock: File,
}

impl Library {
    /// Opens the directory, makes what is missing, and locks it.
    pub fn open(root: &Path) -> Result<Library, LibraryError> {
        make_folder(root)?;
        let path = root.join("lock");
        let lock = File::create(&path).map_err(|cause| LibraryError::File {
            path: path.clone(),
            what: "made",
            cause,
        })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(LibraryError::InUse(root.to_owned())),
            Err(fs::TryLockError::Error(cause)) => {
                return Err(LibraryError::File {
                    path,
                    what: "locked",
                    cause,
                });
            }
        }
        Ok(Library {
            root: root.to_owned(),
            writing: Mutex::new(()),
            _lock: lock,
        })
    }

    /// This host's id: made once, and kept with the directory, so that a host
    /// that is started again ends what it left undone.
    pub fn host_id(&self) -> Result<String, LibraryError> {
        let path = self.root.join("host-id");
        if path.exists() {
            let id = String::from_utf8(read(&path)?).unwrap_or_default();
            let id = id.trim();
            if !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                return Ok(id.to_owned());
            }
        }
        let mut id = uuid::Uuid::new_v4().simple().to_string();
        id.truncate(12);
        write(&path, id.as_bytes())?;
        Ok(id)
    }

    /// The folder of compiled components.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// What revisions need of it, as this version of the host knows them, whatever
    /// cluster or fleet they are of.
    pub fn compiled(&self, version: &str) -> BTreeSet<String> {
        let folders = |of: PathBuf| {
            let entries = fs::read_dir(of).into_iter().flatten().flatten();
            entries.map(|entry| entry.path())
        };
        let ending = format!(".{version}.known");
        folders(self.root.join("deployments"))
            .flat_map(folders)
            .flat_map(folders)
            .filter(|path| path.to_string_lossy().ends_with(&ending))
            .filter_map(|path| serde_json::from_slice::<Known>(&fs::read(path).ok()?).ok())
            .map(|known| known.compiled)
            .collect()
    }

    /// The folder of the state store of a cluster.
    pub fn state(&self, cluster: &str) -> PathBuf {
        self.root.join("state").join(folder_of(cluster))
    }

    /// Empties the state of the embedded broker: its topics are gone with the
    /// process that had them, and the state was made of them.
    pub fn forget_state(&self, cluster: &str) -> Result<(), LibraryError> {
        let path = self.state(cluster);
        match fs::remove_dir_all(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(LibraryError::File {
                path,
                what: "emptied",
                cause,
            }),
            _ => Ok(()),
        }
    }

    /// The cluster that answered at these servers last time.
    pub fn cluster(&self, servers: &str) -> Option<String> {
        self.clusters().remove(servers)
    }

    /// Keeps which cluster answers at these servers.
    pub fn keep_cluster(&self, servers: &str, cluster: &str) -> Result<(), LibraryError> {
        let mut clusters = self.clusters();
        clusters.insert(servers.to_owned(), cluster.to_owned());
        self.write_json("clusters.json", &clusters)
    }

    fn clusters(&self) -> BTreeMap<String, String> {
        let text = fs::read(self.root.join("clusters.json"));
        let known = text
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        known.unwrap_or_default()
    }

    /// Which member of a group this host was when it ended, if that did not leave.
    pub fn member(&self, group: &str) -> Option<Membered> {
        self.members().remove(group)
    }

    /// Keeps which member of a group this host is; none once it has left.
    pub fn keep_member(&self, group: &str, member: Option<Membered>) -> Result<(), LibraryError> {
        let _writing = self.writing.lock();
        let mut members = self.members();
        match member {
            Some(member) => members.insert(group.to_owned(), member),
            None => members.remove(group),
        };
        self.write_json("members.json", &members)
    }

    fn members(&self) -> Members {
        let text = fs::read(self.root.join("members.json"));
        let known = text
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok());
        known.unwrap_or_default()
    }

    /// Keeps where the host listens, for scripts and tests.
    pub fn keep_addresses(&self, addresses: &BTreeMap<&str, String>) -> Result<(), LibraryError> {
        self.write_json("addresses.json", addresses)
    }

    /// What is deployed on a cluster, by a fleet.
    pub fn shelf(&self, cluster: &str, fleet: &str) -> Result<Shelf, LibraryError> {
        let cluster = self.root.join("deployments").join(folder_of(cluster));
        let folder = cluster.join(folder_of(fleet));
        make_folder(&folder)?;
        Ok(Shelf { folder })
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), LibraryError> {
        let path = self.root.join(name);
        write(&path, &to_json(&path, value)?)
    }
}

/// What is deployed on one cluster: records and components.
pub struct Shelf {
    folder: PathBuf,
}

impl Shelf {
    /// All records, by service. What cannot be read is left out
    /// and said in the log; it harms no other service.
    pub fn records(&self) -> BTreeMap<String, Deployment> {
        let entries = fs::read_dir(&self.folder);
        let paths = entries.into_iter().flatten().flatten().map(|e| e.path());
        let records = paths.filter(|path| path.extension().is_some_and(|e| e == "json"));
        let named = records.filter_map(|path| {
            let name = path.file_stem()?.to_str()?.to_owned();
            let record = read(&path).and_then(|text| {
                serde_json::from_slice(&text).map_err(|cause| LibraryError::File {
                    path,
                    what: "read",
                    cause: cause.into(),
                })
            });
            match record {
                Ok(record) => Some((name, record)),
                Err(error) => {
                    tracing::error!(event = "service.left-out", service = name, %error, "a deployed service is left out");
                    None
                }
            }
        });
        named.collect()
    }

    /// Keeps what is deployed of a service. What is there already is left as it is:
    /// a start reads all records again, and changes none.
    pub fn keep_record(&self, name: &str, record: &Deployment) -> Result<(), LibraryError> {
        let path = self.record_path(name);
        let text = to_json(&path, record)?;
        match fs::read(&path) {
            Ok(there) if there == text => Ok(()),
            Ok(_) | Err(_) => write(&path, &text),
        }
    }

    /// What this version of the host has found out about a revision. None if it has
    /// not yet.
    pub fn known(&self, digest: &str, version: &str) -> Option<Known> {
        let text = fs::read(self.known_path(digest, version)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Keeps what was found out. After a power failure it may be lost, and is found
    /// out again.
    pub fn keep_known(
        &self,
        digest: &str,
        version: &str,
        known: &Known,
    ) -> Result<(), LibraryError> {
        let path = self.known_path(digest, version);
        let text = to_json(&path, known)?;
        replace(&path, &text, |_| Ok(()))
    }

    /// Whether a component is here.
    pub fn has_component(&self, digest: &str) -> bool {
        self.component_path(digest).is_file()
    }

    /// Forgets a service.
    pub fn forget(&self, name: &str) -> Result<(), LibraryError> {
        let path = self.record_path(name);
        match fs::remove_file(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(LibraryError::File {
                path,
                what: "removed",
                cause,
            }),
            _ => Ok(()),
        }
    }

    /// A component, if it is here as it was kept.
    pub fn component(&self, digest: &str) -> Result<Option<Vec<u8>>, LibraryError> {
        let path = self.component_path(digest);
        match fs::read(&path) {
            Ok(bytes) if hex(&Sha256::digest(&bytes)) == digest => Ok(Some(bytes)),
            Ok(_) => {
                tracing::error!(
                    event = "component.damaged",
                    ?path,
                    "a component is not what it was when it was kept: it is removed"
                );
                let _ = fs::remove_file(path);
                Ok(None)
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(LibraryError::File {
                path,
                what: "read",
                cause,
            }),
        }
    }

    /// Keeps a component, complete or not at all.
    pub fn keep_component(&self, digest: &str, bytes: &[u8]) -> Result<(), LibraryError> {
        let path = self.component_path(digest);
        if path.exists() {
            return Ok(());
        }
        write(&path, bytes)
    }

    /// Removes components that are not needed and were not kept just now: a deploy
    /// keeps its component before its record says so. What cannot be removed stays,
    /// and does no harm.
    pub fn tidy(&self, needed: &BTreeSet<String>) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            if !matches!(ending, Some("wasm" | "known")) {
                continue;
            }
            let stem = path.file_stem().and_then(|stem| stem.to_str());
            let digest = stem.and_then(|stem| stem.split('.').next());
            if digest.is_some_and(|digest| needed.contains(digest)) {
                continue;
            }
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| modified.elapsed().ok());
            if age.is_some_and(|age| age > YOUNG) {
                let _ = fs::remove_file(path);
            }
        }
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    fn component_path(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{digest}.wasm"))
    }

    fn known_path(&self, digest: &str, version: &str) -> PathBuf {
        self.folder.join(format!("{digest}.{version}.known"))
    }
}

/// For how long a component stays that no record names.
const YOUNG: Duration = Duration::from_secs(600);

/// A folder's name for a cluster. Cluster ids are base64 for URLs; anything else is
/// spelled out.
fn folder_of(cluster: &str) -> String {
    let safe = cluster
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if safe && !cluster.is_empty() {
        cluster.to_owned()
    } else {
        format!("x{}", crate::runtime::hex(cluster.as_bytes()))
    }
}

fn to_json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, LibraryError> {
    serde_json::to_vec_pretty(value).map_err(|cause| LibraryError::File {
        path: path.to_owned(),
        what: "written",
        cause: cause.into(),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, LibraryError> {
    fs::read(path).map_err(|cause| LibraryError::File {
        path: path.to_owned(),
        what: "read",
        cause,
    })
}

/// Makes a folder that only this user can enter: components that are run and
/// state that is private lie in it.
fn make_folder(path: &Path) -> Result<(), LibraryError> {
    use std::os::unix::fs::DirBuilderExt;

    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.map_err(|cause| LibraryError::File {
        path: path.to_owned(),
        what: "made",
        cause,
    })
}

/// Writes a file so that it is there completely or not at all, whatever dies.
fn write(path: &Path, content: &[u8]) -> Result<(), LibraryError> {
    replace(path, content, File::sync_all)
}

/// The same, as far as `settle` has the disk settle it.
fn replace(
    path: &Path,
    content: &[u8],
    settle: impl FnOnce(&File) -> io::Result<()>,
) -> Result<(), LibraryError> {
    let unfinished = path.with_extension(format!("{}.tmp", uuid::Uuid::new_v4()));
    let written = File::create(&unfinished)
        .and_then(|mut file| {
            file.write_all(content)?;
            settle(&file)
        })
        .and_then(|()| fs::rename(&unfinished, path));
    written.map_err(|cause| LibraryError::File {
        path: path.to_owned(),
        what: "written",
        cause,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployments::record::{self, Content, Stamp};

    fn record(digest: &str) -> Deployment {
        let stamp = Stamp {
            now: 1,
            host: "h".to_owned(),
            change: "c".to_owned(),
        };
        record::deploy(None, digest, Content::default(), 0, &stamp)
    }

    fn digest(content: &[u8]) -> String {
        hex(&Sha256::digest(content))
    }

    fn known() -> Known {
        Known {
            manifest: "name = \"user\"".into(),
            openapi: Some("{}".into()),
            imports: vec!["wasi:io/poll@0.2.0".into()],
            exports: Vec::new(),
            size: 7,
            compiled: "aa.cwasm".into(),
        }
    }

    #[test]
    fn what_was_deployed_is_there_again_by_cluster() {
        let folder = crate::testing::folder("library");
        {
            let library = Library::open(&folder).unwrap();
            let shelf = library.shelf("k", "f").unwrap();
            shelf.keep_record("user", &record("aa")).unwrap();
            shelf.keep_record("order", &record("bb")).unwrap();
            shelf.keep_record("user", &record("cc")).unwrap();
            shelf.keep_component(&digest(b"three"), b"three").unwrap();
            let other = library.shelf("k", "other").unwrap();
            other.keep_record("user", &record("dd")).unwrap();
        }
        let library = Library::open(&folder).unwrap();
        let shelf = library.shelf("k", "f").unwrap();
        let deployed = shelf.records();
        let live = deployed
            .iter()
            .map(|(name, one)| (name.as_str(), one.live.as_str()));
        let live: Vec<(&str, &str)> = live.collect();
        assert_eq!(live, [("order", "bb"), ("user", "cc")]);
        let component = |content| shelf.component(&digest(content)).unwrap();
        assert_eq!(component(b"three").as_deref(), Some(&b"three"[..]));
        assert_eq!(component(b"other"), None);
        shelf.forget("user").unwrap();
        shelf.forget("user").unwrap();
        assert_eq!(shelf.records().len(), 1);
        assert_eq!(library.shelf("k", "other").unwrap().records().len(), 1);
        assert!(library.shelf("none", "f").unwrap().records().is_empty());
    }

    #[test]
    fn a_broken_record_harms_no_other_service() {
        let folder = crate::testing::folder("library-broken");
        let shelf = Library::open(&folder).unwrap().shelf("k", "f").unwrap();
        shelf.keep_record("user", &record("aa")).unwrap();
        shelf.keep_record("order", &record("bb")).unwrap();
        fs::write(folder.join("deployments/k/f/order.json"), "{").unwrap();
        assert_eq!(shelf.records().len(), 1);
    }

    #[test]
    fn components_that_nothing_needs_are_removed_once_they_are_old() {
        let library = Library::open(&crate::testing::folder("library-tidy")).unwrap();
        let shelf = library.shelf("k", "f").unwrap();
        for digest in ["old", "needed", "young"] {
            shelf.keep_component(digest, b"x").unwrap();
        }
        let long_ago = std::time::SystemTime::now() - 2 * YOUNG;
        for digest in ["old", "needed"] {
            shelf.keep_known(digest, "1", &known()).unwrap();
            for path in [shelf.component_path(digest), shelf.known_path(digest, "1")] {
                let file = File::options().append(true).open(path).unwrap();
                file.set_modified(long_ago).unwrap();
            }
        }
        shelf.keep_record("user", &record("old")).unwrap();
        shelf.tidy(&BTreeSet::from(["needed".to_owned()]));
        let left = |digest| shelf.has_component(digest);
        assert!(!left("old") && left("needed") && left("young"));
        let left = |digest| shelf.known(digest, "1").is_some();
        assert!(!left("old") && left("needed"));
        assert_eq!(shelf.records().len(), 1);
    }

    #[test]
    fn a_record_that_is_there_already_is_not_written_again() {
        let folder = crate::testing::folder("library-same");
        let shelf = Library::open(&folder).unwrap().shelf("k", "f").unwrap();
        shelf.keep_record("user", &record("aa")).unwrap();
        let file = || {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(shelf.record_path("user")).unwrap().ino()
        };
        let before = file();
        shelf.keep_record("user", &record("aa")).unwrap();
        assert_eq!(file(), before);
        shelf.keep_record("user", &record("bb")).unwrap();
        assert_eq!(shelf.records()["user"].live, "bb");
    }

    #[test]
    fn what_was_found_out_is_known_to_the_same_version_alone() {
        let folder = crate::testing::folder("library-known");
        let shelf = Library::open(&folder).unwrap().shelf("k", "f").unwrap();
        shelf.keep_known("aa", "1", &known()).unwrap();
        assert_eq!(shelf.known("aa", "1"), Some(known()));
        assert_eq!(shelf.known("aa", "2"), None);
        assert_eq!(shelf.known("bb", "1"), None);
        fs::write(shelf.known_path("aa", "1"), "{").unwrap();
        assert_eq!(shelf.known("aa", "1"), None);
        // It is no record of a service.
        assert!(shelf.records().is_empty());
    }

    #[test]
    fn a_component_that_is_damaged_is_as_one_that_is_gone() {
        let folder = crate::testing::folder("library-damaged");
        let shelf = Library::open(&folder).unwrap().shelf("k", "f").unwrap();
        let digest = digest(b"whole");
        shelf.keep_component(&digest, b"whole").unwrap();
        fs::write(shelf.component_path(&digest), b"who").unwrap();
        assert_eq!(shelf.component(&digest).unwrap(), None);
        shelf.keep_component(&digest, b"whole").unwrap();
        assert!(shelf.component(&digest).unwrap().is_some());
    }

    #[test]
    fn a_directory_has_one_host_at_a_time() {
        let folder = crate::testing::folder("library-lock");
        let first = Library::open(&folder).unwrap();
        assert!(matches!(
            Library::open(&folder),
            Err(LibraryError::InUse(_))
        ));
        drop(first);
        Library::open(&folder).unwrap();
    }

    #[test]
    fn a_clusters_state_has_a_folder_of_its_own() {
        let library = Library::open(&crate::testing::folder("library-clusters")).unwrap();
        library
            .keep_cluster("a:9092", "4L6g3nShT-eMCtK--X86sw")
            .unwrap();
        library.keep_cluster("b:9092", "other").unwrap();
        assert_eq!(
            library.cluster("a:9092").as_deref(),
            Some("4L6g3nShT-eMCtK--X86sw")
        );
        assert_ne!(library.state("../x"), library.state(".."));
        assert!(
            library
                .state("../x")
                .starts_with(library.root.join("state"))
        );
    }
}
