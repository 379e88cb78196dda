//! The invariants of ARCHITECTURE.md that can be read from the source.
//!
//! One that has to go is taken out there and here, in one commit that says why.

use std::fs;
use std::path::{Path, PathBuf};

/// The longest source file, in lines. A longer one has two subjects.
const MAX_LINES: usize = 700;

/// Decisions without I/O, each with its own tests.
const PURE: [&str; 15] = [
    "checks/changes.rs",
    "checks/graph.rs",
    "deployments/presence.rs",
    "deployments/record.rs",
    "events/dead_letter.rs",
    "events/group.rs",
    "events/line.rs",
    "events/note.rs",
    "events/ownership.rs",
    "events/policy.rs",
    "http/position.rs",
    "logs/ring.rs",
    "routes.rs",
    "state/overlay.rs",
    "state/rows.rs",
];

/// Exceptions to the workspace's lints in what ships, with the file.
const EXCEPTIONS: [&str; 3] = [
    "host/src/deployments/record.rs: clippy::cast_precision_loss",
    "sdk/src/lib.rs: unused_extern_crates",
    "sdk/src/sys/bindings.rs: missing_docs, unreachable_pub, clippy::all",
];

/// Files with code that the compiler cannot check.
const UNSAFE: [&str; 5] = [
    "host/src/kafka/embedded.rs",
    "host/src/kafka/raw.rs",
    "host/src/runtime/engine.rs",
    "host/src/runtime/slices.rs",
    "sdk/src/memory.rs",
];

/// A source file: its path below its folder, its text, and the text without
/// comments and literals.
struct Source {
    path: String,
    text: String,
    code: String,
}

impl Source {
    /// The code without its unit tests, which are at the end of a file.
    fn shipped(&self) -> &str {
        let end = self.code.find("#[cfg(test)]\nmod tests");
        &self.code[..end.unwrap_or(self.code.len())]
    }

    fn is_in(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

fn crate_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn host() -> Vec<Source> {
    let sources = sources(&crate_folder().join("src"));
    assert!(sources.len() > 20, "the host's source was not found");
    sources
}

/// All Rust files below a folder, in order of their paths.
fn sources(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{folder:?}: {e}"));
        for entry in entries {
            let path = entry.expect("a folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
                let below = path.strip_prefix(root).expect("it was found below");
                found.push(Source {
                    path: below.to_string_lossy().replace('\\', "/"),
                    code: code(&text),
                    text,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The text without comments and without what is in literals.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let raw = if word { None } else { raw_string(rest) };
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw {
            length
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        };
        rest = &rest[skipped..];
    }
    code
}

/// The length of a raw string that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let hashes = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let count = hashes.len() - hashes.trim_start_matches('#').len();
    hashes[count..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(count));
    let begin = text.len() - hashes.len() + count + 1;
    let length = text[begin..].find(&end)?;
    Some(begin + length + end.len())
}

/// The length of a literal in quotes that begins here.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (place, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return place + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Tells a character from a lifetime.
fn is_character(text: &str) -> bool {
    let mut after = text.chars().skip(1);
    after.next() == Some('\\') || after.next() == Some('\'')
}

/// The identifiers of a piece of code.
fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
        .filter(|word| !word.is_empty())
}

/// Files that name a library or one of its companions (`wasmtime_wasi`), other
/// than those of `folders`.
fn others_that_name(library: &str, folders: &[&str]) -> Vec<String> {
    let companion = format!("{library}_");
    host()
        .into_iter()
        .filter(|source| !source.is_in(folders))
        .filter(|source| {
            words(&source.code).any(|word| word == library || word.starts_with(&companion))
        })
        .map(|source| source.path)
        .collect()
}

const NONE: [String; 0] = [];

#[test]
fn wasmtime_is_named_in_runtime_alone() {
    assert_eq!(others_that_name("wasmtime", &["runtime/"]), NONE);
}

#[test]
fn rdkafka_is_named_in_kafka_alone() {
    assert_eq!(others_that_name("rdkafka", &["kafka/"]), NONE);
}

#[test]
fn fjall_is_named_in_state_alone() {
    assert_eq!(others_that_name("fjall", &["state/"]), NONE);
}

#[test]
fn opentelemetry_is_named_in_trace_alone() {
    assert_eq!(others_that_name("opentelemetry", &["trace/"]), NONE);
}

#[test]
fn connections_are_served_by_the_listeners_alone() {
    let others: Vec<String> = host()
        .into_iter()
        .filter(|source| !source.is_in(&["http/", "admin/"]))
        .filter(|source| {
            ["hyper::server", "axum::serve", "hyper_util::server"]
                .iter()
                .any(|server| source.code.contains(server))
        })
        .map(|source| source.path)
        .collect();
    assert_eq!(others, NONE);
}

#[test]
fn handlers_are_run_through_dispatch_alone() {
    // Only what has an instance can call a handler.
    let others: Vec<String> = host()
        .into_iter()
        .filter(|source| !source.is_in(&["runtime/", "dispatch.rs"]))
        .filter(|source| source.code.contains(".instance()"))
        .map(|source| source.path)
        .collect();
    assert_eq!(others, NONE);
}

#[test]
fn decisions_do_no_input_or_output() {
    let sources = host();
    for path in PURE {
        let source = sources.iter().find(|source| source.path == path);
        let code = source.unwrap_or_else(|| panic!("{path} is gone")).shipped();
        let waits = [
            "async",
            "await",
            "spawn",
            "spawn_blocking",
            "block_on",
            "sleep",
            "select",
        ];
        let clients = [
            "Cluster",
            "Consumer",
            "Publisher",
            "Queue",
            "Store",
            "Tables",
            "Library",
        ];
        for forbidden in waits.iter().chain(&clients) {
            let named = words(code).any(|word| word == *forbidden);
            assert!(!named, "{path} is to decide only, and names {forbidden}");
        }
        for forbidden in ["std::fs", "std::io", "std::net", "std::thread", "tracing::"] {
            let named = code.contains(forbidden);
            assert!(!named, "{path} is to decide only, and names {forbidden}");
        }
    }
}

#[test]
fn every_file_says_first_what_it_is_for() {
    let silent: Vec<String> = host()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    assert_eq!(silent, NONE);
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = host()
        .into_iter()
        .map(|source| (source.text.lines().count(), source.path))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert_eq!(long, NONE);
}

#[test]
fn nothing_that_ships_panics_by_itself() {
    let calls = [
        ".unwrap()",
        ".expect(",
        ".unwrap_err()",
        ".expect_err(",
        "panic!(",
        "todo!(",
        "unimplemented!(",
        "unreachable!(",
    ];
    for source in host() {
        if source.path == "testing.rs" {
            continue;
        }
        for call in calls {
            let called = source.shipped().contains(call);
            assert!(!called, "{} calls {call}", source.path);
        }
    }
}

#[test]
fn unchecked_code_is_where_it_is_known_to_be() {
    let with: Vec<String> = everything()
        .into_iter()
        .filter(|source| words(&source.code).any(|word| word == "unsafe"))
        .map(|source| source.path)
        .collect();
    assert_eq!(with, UNSAFE);
}

#[test]
fn exceptions_to_lints_are_listed() {
    let mut found = Vec::new();
    for source in everything() {
        for attribute in ["allow(", "expect("] {
            for lints in lints(&source.code, attribute) {
                found.push(format!("{}: {lints}", source.path));
            }
        }
    }
    found.sort();
    assert_eq!(found, EXCEPTIONS);
}

/// All that is delivered, with paths from the workspace's folder.
fn everything() -> Vec<Source> {
    let root = crate_folder();
    let root = root.parent().expect("the crate is in a workspace");
    let mut all = Vec::new();
    for folder in ["cli/src", "host/src", "manifest/src", "sdk/src"]
        .into_iter()
        .chain(["handlers/event", "handlers/order", "handlers/user"])
    {
        for mut source in sources(&root.join(folder)) {
            if !source.path.starts_with("tests/") {
                source.path = format!("{folder}/{}", source.path);
                all.push(source);
            }
        }
    }
    all
}

/// The lints that attributes name, one string an attribute.
fn lints(code: &str, attribute: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (place, _) in code.match_indices(attribute) {
        // `expect(` is a method as well.
        let before = code[..place].trim_end();
        if !before.ends_with('[') && !before.ends_with(',') {
            continue;
        }
        let after = &code[place + attribute.len()..];
        let inside = &after[..after.find(')').unwrap_or(after.len())];
        let names: Vec<&str> = inside
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty() && !name.starts_with("reason"))
            .collect();
        found.push(names.join(", "));
    }
    found
}

#[test]
fn comments_and_literals_are_no_code() {
    let text = r##"a("x // y\"", 'b', '\'') /* c */ // d
fn e<'f>() { r#"g"# }"##;
    assert_eq!(code(text), "a(, , )  \nfn e<'f>() {  }");
}
