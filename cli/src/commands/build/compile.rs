//! Compiling a service with cargo, so that the same source gives the same bytes
//! wherever it is.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::TARGET;
use super::flags::{self, Prefix};
use crate::failure::Failure;
use crate::project::{self, Project, program};

/// What cargo made.
pub(super) struct Compiled {
    /// The component's file.
    pub(super) artifact: PathBuf,
    /// The ids of the packages that were compiled for the target: all that can be
    /// in the component.
    pub(super) packages: HashSet<String>,
}

/// Makes sure that Rust's standard library for the target is there.
pub(crate) fn ensure_target(dir: &Path) -> Result<()> {
    let output = program("rustc", dir)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()
        .map_err(|error| project::not_started("rustc", &error))?;
    let libdir = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && Path::new(libdir.trim()).is_dir() {
        return Ok(());
    }
    anstream::eprintln!("Adding the target {TARGET}: rustup target add {TARGET}");
    let added = program("rustup", dir)
        .args(["target", "add", TARGET])
        .stdout(Stdio::null())
        .status();
    match added {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Failure::new(format!(
            "Rust's target {TARGET} is not installed, and adding it failed"
        ))
        .hint(format!(
            "run `rustup target add {TARGET}`; without rustup, take the target from where your Rust comes from"
        ))
        .into()),
    }
}

/// One line of `cargo build --message-format=json`.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    #[serde(default)]
    manifest_path: PathBuf,
    target: Option<MessageTarget>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct MessageTarget {
    crate_types: Vec<String>,
}

/// Cargo building a project, without what it is to say and how.
pub(crate) fn cargo(project: &Project, profile: &str) -> Command {
    let mut cargo = program("cargo", &project.dir);
    cargo
        .args(["build", "--lib", "--target", TARGET, "--profile", profile])
        .stdout(Stdio::piped());
    cargo
}

/// Runs cargo, with its progress and its errors on standard error.
pub(super) fn compile(
    project: &Project,
    profile: &str,
    more: &[String],
    prefixes: &[Prefix],
) -> Result<Compiled> {
    let mut cargo = cargo(project, profile)
        .arg("--message-format=json-render-diagnostics")
        .args(more)
        .envs(flags::variables(&project.dir, prefixes))
        .spawn()
        .map_err(|error| project::not_started("cargo", &error))?;
    let (mut artifact, mut packages) = (None, HashSet::new());
    if let Some(output) = cargo.stdout.take() {
        for line in BufReader::new(output).lines() {
            let line = line.context("cannot read what cargo says")?;
            let Some(made) = Made::of(&line, &project.dir) else {
                continue;
            };
            artifact = made.component.or(artifact);
            packages.insert(made.package);
        }
    }
    let status = cargo.wait().context("cannot wait for cargo")?;
    if !status.success() {
        return Err(Failure::new("the service does not compile: cargo's errors are above").into());
    }
    let artifact =
        artifact.ok_or_else(|| Failure::new("cargo built no component for this package"))?;
    Ok(Compiled { artifact, packages })
}

/// The component that a message of cargo's names, if it is of the package in a
/// directory.
pub(crate) fn component_of(line: &str, dir: &Path) -> Option<PathBuf> {
    Made::of(line, dir)?.component
}

/// What a message of cargo's says that was made for the target.
#[derive(Debug, PartialEq, Eq)]
struct Made {
    package: String,
    /// The component, if it is the one of the package in a directory.
    component: Option<PathBuf>,
}

impl Made {
    fn of(line: &str, dir: &Path) -> Option<Self> {
        let message: Message = serde_json::from_str(line).ok()?;
        // Build scripts and macros are made for this machine, beside it.
        let for_target = |file: &PathBuf| file.iter().any(|part| part == TARGET);
        if message.reason != "compiler-artifact" || !message.filenames.iter().any(for_target) {
            return None;
        }
        let mut kinds = message.target.iter().flat_map(|target| &target.crate_types);
        let ours =
            message.manifest_path == dir.join("Cargo.toml") && kinds.any(|kind| kind == "cdylib");
        let mut files = message.filenames.into_iter();
        Some(Self {
            package: message.package_id,
            component: files
                .find(|file| ours && file.extension().is_some_and(|ending| ending == "wasm")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_component_is_the_packages_own_cdylib() {
        let made = |path: &str, kind: &str, folder: &str| {
            let message = format!(
                r#"{{"reason":"compiler-artifact","package_id":"{path}#1","manifest_path":"{path}/Cargo.toml",
                "target":{{"crate_types":["{kind}","rlib"]}},
                "filenames":["/t/{folder}/libuser.rlib","/t/{folder}/user.wasm"]}}"#
            );
            Made::of(&message, Path::new("/w/user"))
        };
        let component = made("/w/user", "cdylib", TARGET).and_then(|made| made.component);
        assert_eq!(component, Some(PathBuf::from("/t/wasm32-wasip2/user.wasm")));
        for (path, kind) in [("/w/other", "cdylib"), ("/w/user", "rlib")] {
            let part = Made {
                package: format!("{path}#1"),
                component: None,
            };
            assert_eq!(made(path, kind, TARGET), Some(part));
        }
        assert_eq!(made("/w/macros", "proc-macro", "release"), None);
        let finished = r#"{"reason":"build-finished","success":true}"#;
        assert_eq!(Made::of(finished, Path::new("/w/user")), None);
        assert_eq!(Made::of("not JSON", Path::new("/w/user")), None);
    }
}
