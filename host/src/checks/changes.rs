//! What changes from one revision of a service to the next, as it is told to who
//! deploys it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tidemill_cli::api::Change;
use tidemill_manifest::{Manifest, Route, Start, Subscription, is_secret};

/// Characters of a setting's value that are shown.
const VALUE: usize = 60;
/// Stands for a value that is not for everyone.
const HIDDEN: &str = "…";

/// Methods that a path of an OpenAPI document may have (3.2, section 4.9).
const METHODS: [&str; 9] = [
    "get", "put", "post", "delete", "options", "head", "patch", "trace", "query",
];

/// A revision, as far as it is compared.
#[derive(Clone, Copy, Debug)]
pub struct Side<'r> {
    /// What the service is.
    pub manifest: &'r Manifest,
    /// Interfaces that the component imports, with their versions.
    pub imports: &'r [String],
    /// Interfaces that it exports.
    pub exports: &'r [String],
    /// Size of the component in bytes.
    pub size: u64,
    /// Its OpenAPI document, if it has one.
    pub openapi: Option<&'r Value>,
}

/// All changes from one revision to another, in the order in which they matter.
/// None if they do the same.
pub fn between(before: &Side<'_>, after: &Side<'_>) -> Vec<Change> {
    let (old, new) = (before.manifest, after.manifest);
    let mut changes = routes(old, new);
    changes.extend(operations(before.openapi, after.openapi));
    changes.extend(subscriptions(&old.subscribe, &new.subscribe));
    if !old.subscribe.is_empty() && !new.subscribe.is_empty() {
        changes.extend(one("group", old.group(), new.group()));
        changes.extend(one("delivery", old.delivery.word(), new.delivery.word()));
    }
    changes.extend(compare("state", &state(old), &state(new)));
    let publish = |manifest: &Manifest| present(&manifest.grants.publish);
    changes.extend(compare("publish", &publish(old), &publish(new)));
    changes.extend(settings(&old.settings, &new.settings));
    let limits = |manifest: &Manifest| named(manifest.limits.shown());
    changes.extend(compare("limit", &limits(old), &limits(new)));
    let trial = |manifest: &Manifest| named(manifest.trial.shown());
    changes.extend(compare("trial", &trial(old), &trial(new)));
    changes.extend(interfaces("import", before.imports, after.imports));
    changes.extend(interfaces("export", before.exports, after.exports));
    // As it is shown: a few bytes more or less say nothing.
    let (was, is) = (
        tidemill_cli::size(before.size),
        tidemill_cli::size(after.size),
    );
    changes.extend(one("size", &was, &is));
    changes.extend(one("description", &old.description, &new.description));
    changes
}

/// Values by name.
type Named = BTreeMap<String, String>;

fn named<const N: usize>(fields: [(&'static str, String); N]) -> Named {
    let fields = fields.into_iter();
    fields.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Names of which nothing is to be said but that they are there.
fn present(names: &[String]) -> Named {
    names
        .iter()
        .map(|name| (name.clone(), String::new()))
        .collect()
}

fn change(what: &str, name: &str, before: Option<String>, after: Option<String>) -> Change {
    Change {
        what: what.to_owned(),
        name: name.to_owned(),
        before,
        after,
        breaking: false,
    }
}

/// Something that there is one of. Empty is none.
fn one(what: &str, before: &str, after: &str) -> Option<Change> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    (before != after).then(|| change(what, "", some(before), some(after)))
}

/// What is gone, has come, or has another value, by name.
fn compare(what: &str, before: &Named, after: &Named) -> Vec<Change> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let pairs = names
        .into_iter()
        .map(|name| (name, before.get(name), after.get(name)));
    pairs
        .filter(|(_, before, after)| before != after)
        .map(|(name, before, after)| change(what, name, before.cloned(), after.cloned()))
        .collect()
}

fn routes(old: &Manifest, new: &Manifest) -> Vec<Change> {
    let of = |manifest: &Manifest| -> BTreeMap<String, Route> {
        let routes = manifest.http.iter().flat_map(|http| &http.routes);
        routes
            .map(|route| (route.to_string(), route.clone()))
            .collect()
    };
    let (old, new) = (of(old), of(new));
    let names = |routes: &BTreeMap<String, Route>| {
        let names = routes.keys().cloned().collect::<Vec<_>>();
        present(&names)
    };
    let mut changes = compare("route", &names(&old), &names(&new));
    for change in &mut changes {
        // What another route answers is answered still.
        let gone = old.get(&change.name).filter(|_| change.after.is_none());
        change.breaking = gone.is_some_and(|gone| !new.values().any(|route| answers(route, gone)));
    }
    changes
}

/// Whether a route answers everything that another one did.
fn answers(route: &Route, gone: &Route) -> bool {
    (route.host.is_none() || route.host == gone.host) && route.is_above(&gone.prefix)
}

/// Operations of the documents. Without a document nothing is known of them.
fn operations(before: Option<&Value>, after: Option<&Value>) -> Vec<Change> {
    let (old, new) = match (before, after) {
        (None, None) => return Vec::new(),
        (Some(old), Some(new)) => (operations_of(old), operations_of(new)),
        (old, new) => {
            let size = |document: &Value| match operations_of(document).len() {
                1 => "1 operation".to_owned(),
                many => format!("{many} operations"),
            };
            return vec![change("openapi", "", old.map(size), new.map(size))];
        }
    };
    let only = |these: &BTreeMap<String, Operation>, those: &BTreeMap<String, Operation>| {
        let these = these.iter().filter(|(key, _)| !those.contains_key(*key));
        these.map(|(_, operation)| operation.clone()).collect()
    };
    let (gone, come): (Vec<Operation>, Vec<Operation>) = (only(&old, &new), only(&new, &old));
    let gone = gone.into_iter().map(|Operation { name, summary }| Change {
        breaking: true,
        ..change("operation", &name, Some(summary), None)
    });
    let come = come
        .into_iter()
        .map(|Operation { name, summary }| change("operation", &name, None, Some(summary)));
    gone.chain(come).collect()
}

/// `GET /orders/{id}`, and what it does.
#[derive(Clone)]
struct Operation {
    name: String,
    summary: String,
}

/// By method and path. What parameters in the path are called is nothing to a
/// client.
fn operations_of(document: &Value) -> BTreeMap<String, Operation> {
    let mut operations = BTreeMap::new();
    let paths = document.get("paths").and_then(Value::as_object);
    for (path, item) in paths.into_iter().flatten() {
        for method in METHODS {
            let Some(operation) = item.get(method) else {
                continue;
            };
            let method = method.to_ascii_uppercase();
            let text = |key| operation.get(key).and_then(Value::as_str);
            let summary = text("summary").or_else(|| text("operationId"));
            let operation = Operation {
                name: format!("{method} {path}"),
                summary: cut(summary.unwrap_or_default()),
            };
            operations.insert(format!("{method} {}", without_names(path)), operation);
        }
    }
    operations
}

/// `/orders/{id}` as `/orders/{}`.
fn without_names(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut inside = false;
    for char in path.chars() {
        match char {
            '{' => inside = true,
            '}' => inside = false,
            _ if inside => continue,
            _ => {}
        }
        plain.push(char);
    }
    plain
}

fn subscriptions(old: &[Subscription], new: &[Subscription]) -> Vec<Change> {
    let topics = |subscriptions: &[Subscription]| -> Named {
        let topics = subscriptions.iter();
        topics
            .map(|one| (one.topic.clone(), begins(one.start)))
            .collect()
    };
    let (before, after) = (topics(old), topics(new));
    let mut changes = compare("subscription", &before, &after);
    // What is in both is compared below, key by key.
    changes.retain(|change| change.before.is_none() || change.after.is_none());
    let options = |these: &[Subscription], those: &Named| -> Named {
        let kept = these.iter().filter(|one| those.contains_key(&one.topic));
        kept.flat_map(options_of).collect()
    };
    changes.extend(compare(
        "subscription",
        &options(old, &after),
        &options(new, &before),
    ));
    changes
}

fn begins(start: Start) -> String {
    match start {
        Start::Earliest => "from the oldest event on",
        Start::Latest => "from the next event on",
    }
    .to_owned()
}

fn options_of(one: &Subscription) -> Vec<(String, String)> {
    let retry = one.retry.shown().into_iter();
    let retry = retry.map(|(key, value)| (format!("retry.{key}"), value));
    [
        ("start".to_owned(), one.start.word().to_owned()),
        (
            "out-of-range".to_owned(),
            one.out_of_range.word().to_owned(),
        ),
    ]
    .into_iter()
    .chain(retry)
    .map(|(key, value)| (format!("{} {key}", one.topic), value))
    .collect()
}

fn state(manifest: &Manifest) -> Named {
    let granted = manifest
        .grants
        .state
        .then(|| (String::new(), String::new()));
    granted.into_iter().collect()
}

/// Compared as they are, and shown as far as they are for everyone.
fn settings(old: &Named, new: &Named) -> Vec<Change> {
    let mut changes = compare("setting", old, new);
    for change in &mut changes {
        let secret = is_secret(&change.name);
        for value in [&mut change.before, &mut change.after]
            .into_iter()
            .flatten()
        {
            *value = if secret {
                HIDDEN.to_owned()
            } else {
                cut(value)
            };
        }
    }
    changes
}

/// Interfaces that have gone or come, and packages that are there in another
/// version.
fn interfaces(what: &str, before: &[String], after: &[String]) -> Vec<Change> {
    let (old, new) = (versions(before), versions(after));
    let mut packages = BTreeMap::new();
    let mut changes = compare(what, &old, &new);
    changes.retain(|change| match (&change.before, &change.after) {
        (Some(before), Some(after)) => {
            let package = change.name.split('/').next().unwrap_or_default();
            packages.insert(package.to_owned(), (before.clone(), after.clone()));
            false
        }
        _ => true,
    });
    let packages = packages.into_iter();
    changes.extend(
        packages.map(|(name, (before, after))| change(what, &name, Some(before), Some(after))),
    );
    changes
}

/// Each interface's version; empty if it has none.
fn versions(interfaces: &[String]) -> Named {
    let mut versions = Named::new();
    for interface in interfaces {
        let (name, version) = interface.split_once('@').unwrap_or((interface, ""));
        let known = versions.entry(name.to_owned()).or_default();
        if !known.is_empty() {
            known.push_str(", ");
        }
        known.push_str(version);
    }
    versions
}

/// The beginning of a text of any length.
fn cut(text: &str) -> String {
    if text.chars().count() <= VALUE {
        return text.to_owned();
    }
    text.chars().take(VALUE - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const HEAD: &str = "name = \"order\"\n";

    fn manifest(text: &str) -> Manifest {
        Manifest::parse(&format!("{HEAD}{text}"), "service.toml").unwrap()
    }

    fn side(manifest: &Manifest) -> Side<'_> {
        Side {
            manifest,
            imports: &[],
            exports: &[],
            size: 1,
            openapi: None,
        }
    }

    /// Each change as a line: mark, what, name, values, and `!` if it breaks.
    fn lines(changes: &[Change]) -> Vec<String> {
        let line = |change: &Change| {
            let Change {
                what,
                name,
                before,
                after,
                breaking,
            } = change;
            let values = match (before, after) {
                (None, Some(after)) => format!("+ {what} {name}: {after}"),
                (Some(before), None) => format!("- {what} {name}: {before}"),
                (before, after) => format!(
                    "~ {what} {name}: {} > {}",
                    before.as_deref().unwrap_or("none"),
                    after.as_deref().unwrap_or("none")
                ),
            };
            format!("{values}{}", if *breaking { " !" } else { "" })
        };
        changes.iter().map(line).collect()
    }

    fn told(before: &str, after: &str) -> Vec<String> {
        let (before, after) = (manifest(before), manifest(after));
        lines(&between(&side(&before), &side(&after)))
    }

    #[test]
    fn what_a_manifest_changes_is_told_key_by_key() {
        let before = "description = \"Orders\"\n[http]\nroutes = [\"/orders\", \"/old\"]\n\
                      [[subscribe]]\ntopic = \"users\"\n[[subscribe]]\ntopic = \"carts\"\n\
                      [grants]\npublish = [\"a\", \"b\"]\n\
                      [limits]\nmemory = \"64 MiB\"\n";
        let after = "group = \"o2\"\ndelivery = \"at-least-once\"\n\
                     [http]\nroutes = [\"/orders\", \"/new\"]\n\
                     [[subscribe]]\ntopic = \"users\"\nout-of-range = \"stop\"\n\
                     [subscribe.retry]\nattempts = 3\non = []\n\
                     [[subscribe]]\ntopic = \"prices\"\nstart = \"latest\"\n\
                     [grants]\npublish = [\"b\", \"c\"]\nstate = true\n\
                     [limits]\nmemory = \"96 MiB\"\ntime = \"1s\"\n[trial]\ntime = \"0s\"\n";
        assert_eq!(
            told(before, after),
            [
                "+ route /new: ",
                "- route /old:  !",
                "- subscription carts: from the oldest event on",
                "+ subscription prices: from the next event on",
                "~ subscription users out-of-range: earliest > stop",
                "~ subscription users retry.attempts: 10 > 3",
                "~ subscription users retry.on: [retry, trap, memory, timeout, refused] > []",
                "~ group : order > o2",
                "~ delivery : exactly-once > at-least-once",
                "+ state : ",
                "- publish a: ",
                "+ publish c: ",
                "~ limit memory: 64 MiB > 96 MiB",
                "~ limit time: 5s > 1s",
                "~ trial time: 1m > 0s",
                "- description : Orders",
            ]
        );
    }

    #[test]
    fn a_route_that_another_one_answers_still_is_no_loss() {
        let routes = |routes: &str| format!("[http]\nroutes = [{routes}]\n");
        let gone = |before: &str, after: &str| told(&routes(before), &routes(after));
        let b = r#""/a", "/a/b", "x.example/a""#;
        assert_eq!(
            gone(b, r#""/a""#),
            ["- route /a/b: ", "- route x.example/a: "]
        );
        assert_eq!(
            gone(b, r#""/a/b", "x.example/a""#),
            ["- route /a:  !"],
            "only some of it is answered"
        );
        assert_eq!(gone(r#""/ab", "/a""#, r#""/a""#), ["- route /ab:  !"]);
    }

    #[test]
    fn a_secret_is_never_told_but_that_it_changed_is() {
        let settings = |text: &str| format!("[http]\nroutes = [\"/a\"]\n[settings]\n{text}");
        let long = "x".repeat(100);
        let told = told(
            &settings(&format!(
                "colour = \"red\"\nold-token = \"one\"\npassword = \"two\"\nlong = \"{long}a\"\n"
            )),
            &settings(&format!(
                "colour = \"blue\"\nnew-token = \"three\"\npassword = \"four\"\nlong = \"{long}b\"\n"
            )),
        );
        let x = "x".repeat(59);
        assert_eq!(
            told,
            [
                "~ setting colour: red > blue",
                &format!("~ setting long: {x}… > {x}…"),
                "+ setting new-token: …",
                "- setting old-token: …",
                "~ setting password: … > …",
            ]
        );
    }

    #[test]
    fn what_the_component_changes_is_told() {
        let manifest = manifest("[http]\nroutes = [\"/a\"]\n");
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let old: Vec<String> = list(&["wasi:io/poll@0.2.3", "wasi:io/streams@0.2.3", "a:b/c"]);
        let new: Vec<String> =
            list(&["wasi:io/poll@0.2.6", "wasi:io/streams@0.2.6", "a:b/d@1.0.0"]);
        let before = Side {
            imports: &old,
            exports: &new[2..],
            size: 417_000,
            ..side(&manifest)
        };
        let after = Side {
            imports: &new,
            size: 420_000,
            ..side(&manifest)
        };
        assert_eq!(
            lines(&between(&before, &after)),
            [
                "- import a:b/c: ",
                "+ import a:b/d: 1.0.0",
                "~ import wasi:io: 0.2.3 > 0.2.6",
                "- export a:b/d: 1.0.0",
                "~ size : 417 kB > 420 kB",
            ]
        );
    }

    #[test]
    fn an_operation_that_is_gone_breaks_its_clients() {
        let manifest = manifest("[http]\nroutes = [\"/a\"]\n");
        let old = json!({"paths": {
            "/a/{id}": {"get": {"summary": "One"}, "delete": {"operationId": "drop"}, "summary": "x"},
            "/b": {"get": {}},
        }});
        let new = json!({"paths": {
            "/a/{number}": {"get": {"summary": "Another text"}},
            "/b": {"get": {}, "post": {"summary": "Make one"}},
        }});
        let with = |openapi| Side {
            openapi,
            ..side(&manifest)
        };
        let told = |before, after| lines(&between(&with(before), &with(after)));
        assert_eq!(
            told(Some(&old), Some(&new)),
            [
                "- operation DELETE /a/{id}: drop !",
                "+ operation POST /b: Make one"
            ]
        );
        assert_eq!(told(Some(&old), None), ["- openapi : 3 operations"]);
        assert_eq!(told(None, Some(&json!([1]))), ["+ openapi : 0 operations"]);
    }

    fn any_manifest() -> impl Strategy<Value = Manifest> {
        let some =
            |names: &'static [&'static str]| proptest::sample::subsequence(names, 0..=names.len());
        (
            some(&["/orders", "/orders/v2", "x.example/orders", "/b"]),
            some(&["users", "carts", "prices"]),
            proptest::sample::select(vec!["earliest", "latest"]),
            some(&["out", "audit"]),
            some(&["colour", "api-key", "size"]),
            (1..4u32, 1..3u32, any::<bool>()),
        )
            .prop_map(
                |(routes, topics, start, publish, settings, (time, value, state))| {
                    let mut text = format!(
                        "[http]\nroutes = {:?}\n",
                        [&["/always"], &routes[..]].concat()
                    );
                    for topic in &topics {
                        text += &format!("[[subscribe]]\ntopic = {topic:?}\nstart = {start:?}\n");
                    }
                    let state = state && !topics.is_empty();
                    text += &format!("[grants]\npublish = {publish:?}\nstate = {state}\n");
                    text += &format!("[limits]\ntime = \"{time}s\"\n[settings]\n");
                    for name in settings {
                        text += &format!("{name} = \"{value}\"\n");
                    }
                    manifest(&text)
                },
            )
    }

    proptest! {
        #[test]
        fn there_are_changes_if_there_is_a_difference_and_the_way_back_is_the_opposite(
            (old, new) in (any_manifest(), any_manifest()),
        ) {
            let there = between(&side(&old), &side(&new));
            prop_assert_eq!(there.is_empty(), old == new);
            let back = between(&side(&new), &side(&old));
            let sorted = |changes: Vec<Change>, turned: bool| {
                let mut all: Vec<_> = changes
                    .into_iter()
                    .map(|change| {
                        let values = match turned {
                            true => (change.after, change.before),
                            false => (change.before, change.after),
                        };
                        (change.what, change.name, values)
                    })
                    .collect();
                all.sort();
                all
            };
            prop_assert_eq!(sorted(there, false), sorted(back, true));
        }
    }
}
