//! A service's project on disk: its manifest, its package, where cargo builds
//! it, and where the finished component goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tidemill_manifest::Manifest;

use crate::failure::Failure;

/// The manifest's file name.
pub(crate) const MANIFEST: &str = "service.toml";

#[derive(Clone)]
pub(crate) struct Project {
    /// Where `Cargo.toml` and `service.toml` are.
    pub(crate) dir: PathBuf,
    /// `service.toml` as it is, and what it means.
    pub(crate) text: String,
    pub(crate) manifest: Manifest,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// The workspace's `Cargo.toml`.
    pub(crate) workspace: PathBuf,
    /// The packages that it is built from, as far as they are folders here: its
    /// own first.
    pub(crate) packages: Vec<PathBuf>,
    /// Whether the package makes a cdylib.
    cdylib: bool,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    manifest_path: PathBuf,
    targets: Vec<Target>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    /// Where it is, if it is a folder here.
    path: Option<PathBuf>,
    /// `dev`, `build`, or none.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Target {
    crate_types: Vec<String>,
}

impl Project {
    /// Reads the project in a directory.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let dir = dir
            .canonicalize()
            .with_context(|| format!("cannot open {}", dir.display()))?;
        let cargo_toml = dir.join("Cargo.toml");
        if !cargo_toml.is_file() {
            return Err(Failure::new(format!("{} has no Cargo.toml", dir.display()))
                .hint("name the directory of a service, or make one with `tidemill new NAME`")
                .into());
        }
        let metadata: Metadata = metadata(&dir, &["--no-deps"], Stdio::piped())?;
        let package = metadata
            .packages
            .iter()
            .find(|package| package.manifest_path == cargo_toml);
        let Some(package) = package else {
            return Err(Failure::new(format!(
                "{} is a workspace, not a package",
                cargo_toml.display()
            ))
            .hint("name the directory of one of its members")
            .into());
        };
        let (text, manifest) = read_manifest(&dir.join(MANIFEST))?;
        let cdylib = package
            .targets
            .iter()
            .flat_map(|target| &target.crate_types)
            .any(|kind| kind == "cdylib");
        Ok(Self {
            packages: folders(&metadata, &dir),
            workspace: metadata.workspace_root.join("Cargo.toml"),
            dir,
            text,
            manifest,
            target: metadata.target_directory,
            cdylib,
        })
    }

    /// Reads the manifest again.
    pub(crate) fn reread(&mut self) -> Result<()> {
        (self.text, self.manifest) = read_manifest(&self.dir.join(MANIFEST))?;
        Ok(())
    }

    /// The finished component.
    pub(crate) fn component(&self) -> PathBuf {
        self.target
            .join("tidemill")
            .join(format!("{}.wasm", self.manifest.name))
    }

    pub(crate) fn check_cdylib(&self) -> Result<()> {
        if self.cdylib {
            return Ok(());
        }
        Err(
            Failure::new("this package makes no component: its library is no cdylib")
                .hint("add to Cargo.toml:  [lib]  crate-type = [\"cdylib\", \"rlib\"]")
                .into(),
        )
    }

    /// A source file that is newer than a built file, if there is one.
    pub(crate) fn newer_source(&self, built: SystemTime) -> Option<PathBuf> {
        let mut files = vec![self.dir.join(MANIFEST), self.dir.join("Cargo.toml")];
        collect(&self.dir.join("src"), &mut files);
        files.into_iter().find(|file| {
            fs::metadata(file)
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|modified| modified > built)
        })
    }
}

/// Reads and checks a manifest file.
pub(crate) fn read_manifest(file: &Path) -> Result<(String, Manifest)> {
    let shown = shown(file);
    let text = fs::read_to_string(file).map_err(|error| {
        let failure = Failure::new(format!("cannot read the manifest {shown}: {error}"));
        if error.kind() == std::io::ErrorKind::NotFound {
            failure.hint("a service says in service.toml what it answers and consumes")
        } else {
            failure
        }
    })?;
    let manifest = Manifest::parse(&text, &shown)
        .map_err(|error| Failure::new("the manifest is not valid").detail(error.to_string()))?;
    Ok((text, manifest))
}

/// A path as a person in the current directory would write it.
pub(crate) fn shown(path: &Path) -> String {
    let here = std::env::current_dir().and_then(|here| here.canonicalize());
    let relative = here
        .ok()
        .and_then(|here| path.strip_prefix(here).ok().map(Path::to_path_buf))
        .filter(|relative| !relative.as_os_str().is_empty());
    relative.as_deref().unwrap_or(path).display().to_string()
}

/// Starts an external program that this command can't do without.
pub(crate) fn program(name: &str, dir: &Path) -> Command {
    let mut command = Command::new(name);
    command.current_dir(dir).stdin(Stdio::null());
    command
}

/// Why a program could not be started, and where it comes from.
pub(crate) fn not_started(name: &str, error: &std::io::Error) -> Failure {
    let failure = Failure::new(format!("cannot run `{name}`: {error}"));
    if error.kind() == std::io::ErrorKind::NotFound {
        failure.hint("install Rust first: https://rustup.rs")
    } else {
        failure
    }
}

/// What cargo says of a package, and of those that it is built of.
/// What it says meanwhile goes to `progress`.
pub(crate) fn metadata<T: DeserializeOwned>(
    dir: &Path,
    arguments: &[&str],
    progress: Stdio,
) -> Result<T> {
    let output = program("cargo", dir)
        .args(["metadata", "--format-version", "1"])
        .args(arguments)
        .stderr(progress)
        .output()
        .map_err(|error| not_started("cargo", &error))?;
    if !output.status.success() {
        return Err(Failure::new("cargo cannot read this package")
            .detail(String::from_utf8_lossy(&output.stderr).trim())
            .into());
    }
    serde_json::from_slice(&output.stdout).context("cargo metadata gave something unknown")
}

/// A package's folder, and those of the packages that it depends on by their path,
/// as far as the workspace tells.
fn folders(metadata: &Metadata, dir: &Path) -> Vec<PathBuf> {
    let mut folders = vec![dir.to_path_buf()];
    let mut next = 0;
    while let Some(folder) = folders.get(next) {
        let manifest = folder.join("Cargo.toml");
        let mut packages = metadata.packages.iter();
        let package = packages.find(|package| package.manifest_path == manifest);
        let dependencies = package
            .into_iter()
            .flat_map(|package| &package.dependencies);
        let paths: Vec<PathBuf> = dependencies
            .filter(|dependency| dependency.kind.as_deref() != Some("dev"))
            .filter_map(|dependency| dependency.path.clone())
            .collect();
        for path in paths {
            if !folders.contains(&path) {
                folders.push(path);
            }
        }
        next += 1;
    }
    folders
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), files),
            Ok(_) => files.push(entry.path()),
            Err(_) => {}
        }
    }
}
