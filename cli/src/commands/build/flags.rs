//! Flags for rustc that make a build the same wherever it is done: paths of this
//! machine do not go into what is built. They join those that the user has, and
//! take the place of none.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use toml::Table;

use super::TARGET;

/// Cargo's variable for flags that may have spaces in them, which goes before all
/// others.
const ENCODED: &str = "CARGO_ENCODED_RUSTFLAGS";
const PLAIN: &str = "RUSTFLAGS";
/// These join what cargo's configuration has under the same key.
const BUILD: &str = "CARGO_BUILD_RUSTFLAGS";
const OF_TARGET: &str = "CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS";

/// A folder, and what paths in it begin with instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    from: PathBuf,
    to: String,
}

impl Prefix {
    pub(super) fn new(from: &Path, to: &str) -> Self {
        Self {
            from: from.to_owned(),
            to: to.to_owned(),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.from.display(), self.to)
    }
}

/// The variables for a cargo that builds in a directory.
pub(super) fn variables(dir: &Path, prefixes: &[Prefix]) -> Vec<(&'static str, String)> {
    let flags: Vec<String> = prefixes
        .iter()
        .map(|prefix| format!("--remap-path-prefix={prefix}"))
        .collect();
    let get = |name: &str| std::env::var(name).ok();
    joined(&flags, get, || of_target_are_configured(dir))
}

/// Cargo takes flags from one place only: `CARGO_ENCODED_RUSTFLAGS`, `RUSTFLAGS`,
/// `target.….rustflags`, `build.rustflags`, the first that is there.
fn joined(
    flags: &[String],
    get: impl Fn(&str) -> Option<String>,
    of_target_are_configured: impl Fn() -> bool,
) -> Vec<(&'static str, String)> {
    const UNIT: &str = "\u{1f}";
    if let Some(theirs) = get(ENCODED) {
        let theirs = Some(theirs).filter(|theirs| !theirs.is_empty());
        let all: Vec<String> = theirs.into_iter().chain(flags.to_vec()).collect();
        return vec![(ENCODED, all.join(UNIT))];
    }
    if let Some(theirs) = get(PLAIN).filter(|theirs| !theirs.trim().is_empty()) {
        let theirs = theirs.split_whitespace().map(str::to_owned);
        let all: Vec<String> = theirs.chain(flags.to_vec()).collect();
        return vec![(ENCODED, all.join(UNIT))];
    }
    // These are split at spaces: a folder with one in its name stays as it is.
    let flags = flags
        .iter()
        .filter(|flag| !flag.contains(char::is_whitespace));
    let ours = flags.map(String::as_str).collect::<Vec<_>>().join(" ");
    let with_theirs = |name| match get(name) {
        Some(theirs) => (name, format!("{theirs} {ours}")),
        None => (name, ours.clone()),
    };
    if get(OF_TARGET).is_some() || of_target_are_configured() {
        vec![with_theirs(OF_TARGET)]
    } else {
        vec![with_theirs(BUILD)]
    }
}

/// Whether cargo's configuration for a directory has flags for the target.
fn of_target_are_configured(dir: &Path) -> bool {
    let folders = dir.ancestors().map(|dir| dir.join(".cargo"));
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    folders
        .chain(home)
        .flat_map(|folder| [folder.join("config.toml"), folder.join("config")])
        .filter_map(|file| fs::read_to_string(file).ok()?.parse().ok())
        .any(|config| has_flags(&config))
}

fn has_flags(config: &Table) -> bool {
    let target = config.get("target").and_then(|targets| targets.get(TARGET));
    target.is_some_and(|target| target.get("rustflags").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(theirs: &[(&str, &str)], configured: bool) -> Vec<(&'static str, String)> {
        let flags = ["-a=/x y".to_owned(), "-b=/z".to_owned()];
        let get = |name: &str| {
            let found = theirs.iter().find(|(one, _)| *one == name);
            found.map(|(_, flags)| (*flags).to_owned())
        };
        joined(&flags, get, || configured)
    }

    #[test]
    fn flags_join_those_that_are_there_in_the_place_that_counts() {
        let one = |name, flags: &str| vec![(name, flags.to_owned())];
        assert_eq!(variables(&[], false), one(BUILD, "-b=/z"));
        assert_eq!(variables(&[], true), one(OF_TARGET, "-b=/z"));
        assert_eq!(variables(&[(BUILD, "-c")], false), one(BUILD, "-c -b=/z"));
        assert_eq!(
            variables(&[(OF_TARGET, "-c"), (BUILD, "-d")], false),
            one(OF_TARGET, "-c -b=/z")
        );
        let plain = [(PLAIN, " -c  -d "), (BUILD, "-e")];
        let encoded = "-c\u{1f}-d\u{1f}-a=/x y\u{1f}-b=/z";
        assert_eq!(variables(&plain, true), one(ENCODED, encoded));
        let both = [(PLAIN, "-e"), (ENCODED, "-c\u{1f}-d")];
        assert_eq!(variables(&both, true), one(ENCODED, encoded));
        let none = [(ENCODED, ""), (PLAIN, "-e")];
        assert_eq!(variables(&none, true), one(ENCODED, "-a=/x y\u{1f}-b=/z"));
    }

    #[test]
    fn flags_for_the_target_are_found_in_the_configuration() {
        let has = |text: &str| has_flags(&text.parse().expect("TOML"));
        assert!(has("[target.wasm32-wasip2]\nrustflags = [\"-c\"]"));
        assert!(!has("[target.wasm32-wasip2]\nrunner = \"x\""));
        assert!(!has(
            "[target.x86_64-unknown-linux-gnu]\nrustflags = \"-c\""
        ));
        assert!(!has("[build]\nrustflags = \"-c\""));
    }
}
