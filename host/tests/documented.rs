//! What operators read is documented: each name in the log, each metric that the
//! dashboard and the alerts use, each alert.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    let host = Path::new(env!("CARGO_MANIFEST_DIR"));
    host.parent()
        .expect("the crate is in a workspace")
        .to_owned()
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// The text of all Rust files below a folder, by path.
fn sources(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("it can be read");
            found.insert(path, text);
        }
    }
    found
}

/// What is inside of the brackets that a text is in.
fn inside(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (1, false, false);
    for (place, char) in text.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..place];
        }
    }
    text
}

/// The text in quotes behind a mark.
fn quoted<'t>(text: &'t str, mark: &str) -> Option<&'t str> {
    let behind = &text[text.find(mark)? + mark.len()..];
    behind.split('"').next()
}

/// Names of log lines, each with its level.
fn logged() -> BTreeSet<(String, String)> {
    let mut names = BTreeSet::new();
    let mut nameless = Vec::new();
    for (path, text) in sources(&root().join("host/src")) {
        for level in ["info", "warn", "error"] {
            for (place, call) in text.match_indices(&format!("tracing::{level}!(")) {
                let line = inside(&text[place + call.len()..]);
                match quoted(line, "event = \"") {
                    Some(name) => drop(names.insert((name.to_owned(), level.to_owned()))),
                    None => nameless.push(format!("{path:?}: {}", line.trim())),
                }
            }
        }
    }
    assert!(names.len() > 30, "the host's source was not found");
    assert_eq!(
        nameless,
        Vec::<String>::new(),
        "log lines without an `event`"
    );
    names
}

/// The rows of docs/logs.md: `name` | level, level | …
fn documented() -> BTreeSet<(String, String)> {
    let page = read("docs/logs.md");
    let mut names = BTreeSet::new();
    for row in page.lines().filter_map(|line| line.strip_prefix("| `")) {
        let mut cells = row.split('|').map(str::trim);
        let (Some(name), Some(levels)) = (cells.next(), cells.next()) else {
            continue;
        };
        let name = name.trim_matches('`');
        // What a guest says has any level; it, invocations and the notes of a stream
        // are not logged by a line of the host's.
        let of_streams = ["guest.line", "request.answered", "event.ran"];
        if name.contains('.') && !of_streams.contains(&name) && !name.starts_with("logs.") {
            let levels = levels.split(',').map(str::trim);
            names.extend(levels.map(|level| (name.to_owned(), level.to_owned())));
        }
    }
    names
}

#[test]
fn every_line_of_the_log_has_a_name_that_is_documented_and_no_other_is() {
    let (logged, documented) = (logged(), documented());
    let missing: Vec<_> = logged.difference(&documented).collect();
    let gone: Vec<_> = documented.difference(&logged).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "not in docs/logs.md: {missing:?}; there, and not logged: {gone:?}"
    );
}

/// Names of metrics in a text, without what a histogram adds.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    let ours = words.filter(|word| word.starts_with("tidemill_") || word.starts_with("process_"));
    let names = ours.map(|word| {
        let suffixes = ["_bucket", "_sum", "_count"];
        let suffix = suffixes.iter().find_map(|suffix| word.strip_suffix(suffix));
        suffix.unwrap_or(word).to_owned()
    });
    names.collect()
}

#[test]
fn dashboard_and_alerts_use_metrics_that_there_are() {
    let documented = metrics(&read("docs/metrics.md"));
    for file in ["dashboard.json", "alerts.yml", "alerts.test.yml"] {
        let used = metrics(&read(&format!("monitoring/{file}")));
        assert!(!used.is_empty(), "{file} uses none");
        let unknown: Vec<_> = used.difference(&documented).collect();
        assert!(unknown.is_empty(), "{file} uses {unknown:?}");
    }
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_no_other_has() {
    let alerts = read("monitoring/alerts.yml");
    let named = |text: &str, mark: &str| -> BTreeSet<String> {
        let lines = text.lines().map(str::trim);
        lines
            .filter_map(|line| line.strip_prefix(mark))
            .map(str::to_owned)
            .collect()
    };
    let known = named(&alerts, "- alert: ");
    let sections = named(&read("docs/runbook.md"), "## ");
    assert!(!known.is_empty());
    assert_eq!(known, sections);
    let links: BTreeSet<String> = known
        .iter()
        .map(|alert| format!("docs/runbook.md#{}", alert.to_lowercase()))
        .collect();
    assert_eq!(named(&alerts, "runbook: "), links);
}

#[test]
fn the_dashboard_is_laid_out_and_every_panel_says_what_it_shows() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("monitoring/dashboard.json")).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}");
        let place = |name: &str| panel["gridPos"][name].as_u64().expect("a place");
        assert!(place("x") + place("w") <= 24, "{title} is too wide");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} is on another panel");
            }
        }
        if panel["type"] != "row" {
            let targets = panel["targets"].as_array().expect("targets");
            assert!(!targets.is_empty(), "{title} shows nothing");
            assert!(
                panel["fieldConfig"]["defaults"]["unit"].is_string(),
                "{title}: no unit"
            );
        }
    }
}
