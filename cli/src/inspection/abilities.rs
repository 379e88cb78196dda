//! What a component could do if it were deployed with its manifest, in sentences.
//! Imports and grants decide it together: a host gives nothing that is not both.

use serde::Serialize;
use tidemill_manifest::{Delivery, EVENTS, HTTP, Import, Manifest, OutOfRange, Start, unversioned};

/// Each sentence goes on from "it can".
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Abilities {
    /// What it could do, and nothing else.
    pub(crate) can: Vec<String>,
    /// What it is granted and does not ask for.
    pub(crate) unused: Vec<String>,
    /// Why no host would take it; nothing if one would.
    pub(crate) refused: Vec<String>,
}

impl Abilities {
    pub(super) fn of(manifest: &Manifest, imports: &[String], exports: &[String]) -> Self {
        let exported = |interface| exports.iter().any(|name| unversioned(name) == interface);
        let (http, events) = (exported(HTTP), exported(EVENTS));
        let mut can = Vec::new();
        if http {
            can.extend(answers(manifest));
        }
        if events {
            can.extend(consumes(manifest));
        }
        let mut unused = Vec::new();
        for (import, sentence) in granted(manifest) {
            if imports.iter().any(|name| Import::of(name) == import) {
                can.push(sentence);
            } else {
                unused.push(sentence);
            }
        }
        for (import, sentence) in [
            (Import::Clock, "read the clock"),
            (Import::Random, "take random numbers"),
            (Import::Output, "write to its log"),
        ] {
            if imports.iter().any(|name| Import::of(name) == import) {
                can.push(sentence.to_owned());
            }
        }
        let mismatch = manifest.mismatch(http, events).map(str::to_owned);
        let refused = mismatch.into_iter().chain(refused(manifest, imports));
        Self {
            can,
            unused,
            refused: refused.collect(),
        }
    }
}

fn answers(manifest: &Manifest) -> Option<String> {
    let routes = &manifest.http.as_ref()?.routes;
    let routes: Vec<String> = routes.iter().map(ToString::to_string).collect();
    Some(format!("answer {}, and all below", listed(&routes)))
}

/// A sentence for each topic.
fn consumes(manifest: &Manifest) -> impl Iterator<Item = String> {
    let delivery = match manifest.delivery {
        Delivery::ExactlyOnce => "exactly once",
        Delivery::AtLeastOnce => "at least once",
    };
    let group = manifest.group();
    manifest.subscribe.iter().map(move |one| {
        let start = match one.start {
            Start::Earliest => "from the oldest on",
            Start::Latest => "from the next one on",
        };
        let gap = match one.out_of_range {
            OutOfRange::Earliest => "",
            OutOfRange::Latest => ", skipping to the next one at a gap",
            OutOfRange::Stop => ", stopping at a gap",
        };
        let topic = &one.topic;
        format!("handle {topic} {delivery}, {start}{gap}, in the group {group}")
    })
}

/// What the manifest grants, and what has to be imported for it.
fn granted(manifest: &Manifest) -> Vec<(Import, String)> {
    let mut granted = Vec::new();
    let publish = &manifest.grants.publish;
    if !publish.is_empty() {
        let sentence = format!("publish to {}", listed(publish));
        granted.push((Import::Publisher, sentence));
    }
    if manifest.grants.state {
        granted.push((Import::State, "read and write its own state".to_owned()));
    }
    let settings: Vec<&String> = manifest.settings.keys().collect();
    if !settings.is_empty() {
        let sentence = format!("read its settings {}", listed(&settings));
        granted.push((Import::Settings, sentence));
    }
    granted
}

fn refused(manifest: &Manifest, imports: &[String]) -> impl Iterator<Item = String> {
    imports.iter().filter_map(|name| match Import::of(name) {
        Import::State if !manifest.grants.state => Some(format!(
            "it imports {name}: add `state = true` under [grants]"
        )),
        Import::Sockets => Some(format!("it imports {name}: no service has the network")),
        Import::Unknown => Some(format!("it imports {name}, which no host has")),
        _ => None,
    })
}

/// `a`, `a and b`, `a, b and c`.
fn listed<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
    match items.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn abilities(manifest: &str, imports: &[&str], exports: &[&str]) -> Abilities {
        let manifest = Manifest::parse(manifest, "service.toml").expect("it is valid");
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let (imports, exports): (Vec<String>, Vec<String>) = (owned(imports), owned(exports));
        Abilities::of(&manifest, &imports, &exports)
    }

    const BOTH: &str = "name = \"a\"\n[http]\nroutes = [\"/a\", \"x.example/b\"]\n\
        [[subscribe]]\ntopic = \"t\"\n[[subscribe]]\ntopic = \"u\"\nstart = \"latest\"\n\
        out-of-range = \"stop\"\n\
        [grants]\npublish = [\"p\", \"q\", \"r\"]\nstate = true\n[settings]\ncolour = \"red\"\n";

    #[test]
    fn a_component_can_do_what_it_asks_for_and_is_granted() {
        let imports = [
            "tidemill:service/types@0.1.0",
            "tidemill:service/publisher@0.1.0",
            "tidemill:service/state@0.1.0",
            "wasi:config/store@0.2.0-rc.1",
            "wasi:clocks/wall-clock@0.2.6",
            "wasi:random/random@0.2.6",
            "wasi:cli/stderr@0.2.6",
            "wasi:cli/environment@0.2.6",
            "wasi:filesystem/preopens@0.2.6",
        ];
        let exports = [
            "tidemill:service/http@0.1.0",
            "tidemill:service/events@0.1.0",
        ];
        let abilities = abilities(BOTH, &imports, &exports);
        assert_eq!(
            abilities.can,
            [
                "answer /a and x.example/b, and all below",
                "handle t exactly once, from the oldest on, in the group a",
                "handle u exactly once, from the next one on, stopping at a gap, in the group a",
                "publish to p, q and r",
                "read and write its own state",
                "read its settings colour",
                "read the clock",
                "take random numbers",
                "write to its log",
            ]
        );
        assert!(abilities.unused.is_empty() && abilities.refused.is_empty());
    }

    #[test]
    fn what_is_granted_and_not_asked_for_is_told_apart() {
        let exports = ["tidemill:service/http", "tidemill:service/events"];
        let abilities = abilities(BOTH, &[], &exports);
        assert_eq!(
            abilities.unused,
            [
                "publish to p, q and r",
                "read and write its own state",
                "read its settings colour"
            ]
        );
        assert_eq!(abilities.can.len(), 3);
    }

    #[test]
    fn what_no_host_would_take_is_named() {
        let manifest = "name = \"a\"\n[http]\nroutes = [\"/\"]\n";
        let imports = [
            "tidemill:service/state",
            "wasi:sockets/tcp@0.2.6",
            "wasi:http/outgoing-handler@0.2.6",
        ];
        assert_eq!(
            abilities(manifest, &imports, &[]).refused,
            [
                "the manifest has [http] routes, but the component does not export \
                 tidemill:service/http",
                "it imports tidemill:service/state: add `state = true` under [grants]",
                "it imports wasi:sockets/tcp@0.2.6: no service has the network",
                "it imports wasi:http/outgoing-handler@0.2.6, which no host has",
            ]
        );
    }
}
