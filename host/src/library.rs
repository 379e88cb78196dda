//! The data directory: what is deployed, kept so that a restart serves before
//! Kafka answers.
//!
//! ```text
//! lock                      held while a host runs
//! host-id                   names this host to Kafka and to others
//! addresses.json            where the running host listens
//! clusters.json             bootstrap servers → cluster id, as last seen
//! members.json              which member of each group this host is
//! services/NAME.json        which component runs, and since when
//! components/DIGEST.wasm    what was deployed
//! cache/                    compiled components
//! state/CLUSTER/            the state store of one Kafka cluster
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::kafka::{Membered, Members};

/// What is kept of a deployed service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The component's digest.
    pub digest: String,
    /// Milliseconds since the Unix epoch.
    pub deployed_at: u64,
    /// Whether the service consumes nothing on this host until it is resumed.
    #[serde(default)]
    pub paused: bool,
}

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
        for folder in [
            root.to_owned(),
            root.join("services"),
            root.join("components"),
        ] {
            make_folder(&folder)?;
        }
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

    /// The folder of the state store of a cluster.
    pub fn state(&self, cluster: &str) -> PathBuf {
        // Cluster ids are base64 for URLs; anything else is spelled out.
        let safe = cluster
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let name = if safe && !cluster.is_empty() {
            cluster.to_owned()
        } else {
            format!("x{}", crate::runtime::hex(cluster.as_bytes()))
        };
        self.root.join("state").join(name)
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

    /// Everything that is deployed: names, records and components. What cannot
    /// be read is left out and said in the log; it harms no other service.
    pub fn deployed(&self) -> Vec<(String, Record, Vec<u8>)> {
        let mut deployed = Vec::new();
        for (name, record) in self.records() {
            let read = record.and_then(|record| {
                let component = read(&self.component(&record.digest))?;
                Ok((record, component))
            });
            match read {
                Ok((record, component)) => deployed.push((name, record, component)),
                Err(error) => {
                    tracing::error!(event = "service.left-out", service = name, %error, "a deployed service is left out");
                }
            }
        }
        deployed
    }

    /// The records of all services, by name.
    fn records(&self) -> BTreeMap<String, Result<Record, LibraryError>> {
        let entries = fs::read_dir(self.root.join("services"));
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
            Some((name, record))
        });
        named.collect()
    }

    /// Keeps a deployed service: its component first, then the record that names
    /// it, each complete or not there.
    pub fn keep(&self, name: &str, record: &Record, component: &[u8]) -> Result<(), LibraryError> {
        let path = self.component(&record.digest);
        if !path.exists() {
            write(&path, component)?;
        }
        self.keep_record(name, record)
    }

    /// Keeps something else of a service whose component is kept already.
    pub fn keep_record(&self, name: &str, record: &Record) -> Result<(), LibraryError> {
        self.write_json(&format!("services/{name}.json"), record)
    }

    /// Forgets a service, and components that no service runs.
    pub fn forget(&self, name: &str) -> Result<(), LibraryError> {
        let path = self.record(name);
        fs::remove_file(&path).map_err(|cause| LibraryError::File {
            path,
            what: "removed",
            cause,
        })?;
        self.tidy();
        Ok(())
    }

    /// Removes components that no service runs. What cannot be removed stays,
    /// and does no harm; nothing is removed while a record cannot be read, since
    /// it may name anything.
    pub fn tidy(&self) {
        let records: Result<Vec<Record>, _> = self.records().into_values().collect();
        let (Ok(records), Ok(entries)) = (records, fs::read_dir(self.root.join("components")))
        else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let digest = path.file_stem().and_then(|stem| stem.to_str());
            if !records.iter().any(|record| Some(&*record.digest) == digest) {
                let _ = fs::remove_file(path);
            }
        }
    }

    fn record(&self, name: &str) -> PathBuf {
        self.root.join("services").join(format!("{name}.json"))
    }

    fn component(&self, digest: &str) -> PathBuf {
        self.root.join("components").join(format!("{digest}.wasm"))
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), LibraryError> {
        let path = self.root.join(name);
        let text = serde_json::to_vec_pretty(value).map_err(|cause| LibraryError::File {
            path: path.clone(),
            what: "written",
            cause: cause.into(),
        })?;
        write(&path, &text)
    }
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
    let unfinished = path.with_extension(format!("{}.tmp", uuid::Uuid::new_v4()));
    let written = File::create(&unfinished)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
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

    fn record(digest: &str) -> Record {
        Record {
            digest: digest.to_owned(),
            deployed_at: 1,
            paused: false,
        }
    }

    #[test]
    fn what_was_deployed_is_there_again_and_what_was_replaced_is_gone() {
        let folder = crate::testing::folder("library");
        {
            let library = Library::open(&folder).unwrap();
            library.keep("user", &record("aa"), b"one").unwrap();
            library.keep("order", &record("bb"), b"two").unwrap();
            library.keep("user", &record("cc"), b"three").unwrap();
            library.tidy();
        }
        let library = Library::open(&folder).unwrap();
        let deployed = library.deployed();
        assert_eq!(
            deployed,
            [
                ("order".to_owned(), record("bb"), b"two".to_vec()),
                ("user".to_owned(), record("cc"), b"three".to_vec()),
            ]
        );
        assert!(!folder.join("components/aa.wasm").exists());
        library.forget("user").unwrap();
        assert_eq!(library.deployed().len(), 1);
        assert!(!folder.join("components/cc.wasm").exists());
    }

    #[test]
    fn a_broken_record_harms_no_other_service() {
        let folder = crate::testing::folder("library-broken");
        let library = Library::open(&folder).unwrap();
        library.keep("user", &record("aa"), b"one").unwrap();
        library.keep("order", &record("bb"), b"two").unwrap();
        fs::write(folder.join("services/order.json"), "{").unwrap();
        assert_eq!(library.deployed().len(), 1);
        // Nor is its component taken for one that nobody needs.
        library.tidy();
        assert!(folder.join("components/bb.wasm").exists());
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
