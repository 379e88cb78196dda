//! From TOML text to a [`Manifest`]: a walk over the spanned tree that notes
//! every problem it meets and goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::rules::{self, Fault};
use crate::smoke::Known;
use crate::{Delivery, Grants, Http, MAX_SIZE, Manifest, ManifestError, Problem, Route};

pub(crate) type Span = Range<usize>;
pub(crate) type Value<'t> = Spanned<DeValue<'t>>;

/// Problems that are noted; what comes after so many says nothing new.
const MOST: usize = 100;

/// Every key there is, by the table it belongs in; `""` is the top level.
const KEYS: [(&str, &[&str]); 9] = [
    (
        "",
        &[
            "name",
            "description",
            "group",
            "delivery",
            "http",
            "subscribe",
            "grants",
            "limits",
            "trial",
            "smoke",
            "settings",
        ],
    ),
    ("[http]", &["routes"]),
    (
        "[[subscribe]]",
        &["topic", "start", "out-of-range", "retry"],
    ),
    (
        "[subscribe.retry]",
        &[
            "attempts",
            "backoff",
            "max-backoff",
            "jitter",
            "on",
            "on-exhausted",
        ],
    ),
    ("[grants]", &["publish", "state"]),
    ("[limits]", crate::limits::KEYS),
    ("[trial]", &["time", "failures", "calls"]),
    ("[[smoke]]", crate::smoke::KEYS),
    ("[smoke.event]", &["topic", "key", "value", "headers"]),
];

pub(crate) fn manifest(text: &str, file: &str) -> Result<Manifest, ManifestError> {
    let mut reader = Reader {
        // A byte order mark is no part of the text.
        text: text.strip_prefix('\u{feff}').unwrap_or(text),
        problems: Vec::new(),
    };
    let manifest = reader.manifest();
    match manifest {
        Some(manifest) if reader.problems.is_empty() => Ok(manifest),
        _ => Err(ManifestError::new(file, reader.problems)),
    }
}

pub(crate) struct Reader<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl<'t> Reader<'t> {
    /// None only together with a problem.
    fn manifest(&mut self) -> Option<Manifest> {
        if self.text.len() > MAX_SIZE {
            let message = format!("a manifest of {} bytes", self.text.len());
            self.problem(0..0, message, format!("the most is {MAX_SIZE} bytes"));
            return None;
        }
        let (root, errors) = DeTable::parse_recoverable(self.text);
        for error in &errors {
            self.syntax(error);
        }
        if !errors.is_empty() {
            return None;
        }
        let root = root.get_ref();
        let meant = self.check_keys(root, "");
        let lacks = |key| !root.contains_key(key) && !meant.contains(&key);
        if lacks("name") {
            self.problem(
                0..0,
                "the service has no name".to_owned(),
                "add name = \"…\" at the top of the file".to_owned(),
            );
        }
        if lacks("http") && lacks("subscribe") {
            self.problem(
                0..0,
                "a service without [http] or [[subscribe]] would never be called".to_owned(),
                "add [http] with routes = [\"/…\"], or [[subscribe]] with topic = \"…\"".to_owned(),
            );
        }

        let name = self.name(root);
        let description = self.string(root, "description").map(|(text, _)| text);
        let http = self.table(root, "http").map(|table| self.http(table));
        let group = self.group(root);
        let delivery = self.delivery(root);
        let subscribe = self.subscribe(root);
        let grants = self.table(root, "grants").map(|table| self.grants(table));
        let limits = self.table(root, "limits").map(|table| self.limits(table));
        let trial = self.table(root, "trial").map(|table| self.trial(table));
        let settings = self
            .table(root, "settings")
            .map(|table| self.settings(table));

        let grants = grants.unwrap_or_default();
        if grants.state
            && !root.contains_key("subscribe")
            && let Some(span) = key_span(root.get("grants").and_then(as_table), "state")
        {
            self.problem(
                span,
                "state without a subscription would stay empty".to_owned(),
                "only event handlers write state: add [[subscribe]], or drop this".to_owned(),
            );
        }
        let known = Known {
            routes: http.as_ref().map_or(&[], |http| &http.routes),
            subscribe: &subscribe,
            publish: &grants.publish,
            state: grants.state,
        };
        let smoke = self.smoke(root, &known);
        Some(Manifest {
            name: name?,
            description: description.unwrap_or_default(),
            http,
            group,
            delivery,
            subscribe,
            grants,
            limits: limits.unwrap_or_default(),
            trial: trial.unwrap_or_default(),
            smoke,
            settings: settings.unwrap_or_default(),
        })
    }

    fn syntax(&mut self, error: &toml::de::Error) {
        let span = error.span().unwrap_or(0..0);
        let mut message = error.message().to_owned();
        let mut help = "this is not TOML: see https://toml.io".to_owned();
        if message == "duplicate key" {
            let key = self.text.get(span.clone()).unwrap_or_default();
            message = format!("{key:?} is given twice");
            help = "keep one of the two".to_owned();
        }
        self.problem(span, message, help);
    }

    fn name(&mut self, root: &DeTable<'_>) -> Option<String> {
        let (name, span) = self.string(root, "name")?;
        match rules::check_name(&name) {
            Ok(()) => Some(name),
            Err(help) => {
                self.problem(span, format!("{name:?} cannot be a service's name"), help);
                None
            }
        }
    }

    fn group(&mut self, root: &DeTable<'_>) -> Option<String> {
        let (group, span) = self.string(root, "group")?;
        if rules::check_topic(&group).is_err() {
            self.problem(
                span,
                format!("{group:?} cannot be a consumer group's name"),
                "write 1 to 249 of a-z, A-Z, 0-9, \".\", \"_\" and \"-\"".to_owned(),
            );
            return None;
        }
        self.only_with_events(root, "group", "a consumer group");
        Some(group)
    }

    /// Notes a key that says something about events where there are none.
    fn only_with_events(&mut self, root: &DeTable<'_>, key: &str, what: &str) {
        if !root.contains_key("subscribe")
            && let Some(span) = key_span(Some(root), key)
        {
            self.problem(
                span,
                format!("{what}, but nothing to consume"),
                "add [[subscribe]] with topic = \"…\", or drop this".to_owned(),
            );
        }
    }

    fn delivery(&mut self, root: &DeTable<'_>) -> Delivery {
        self.only_with_events(root, "delivery", "a kind of delivery");
        let all = [Delivery::ExactlyOnce, Delivery::AtLeastOnce];
        let all = all.map(|delivery| (delivery.word(), delivery));
        self.choice(root, "delivery", "delivery", all[0], &all[1..])
    }

    /// One of some words, the default among them.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        path: &str,
        default: (&str, T),
        others: &[(&str, T)],
    ) -> T {
        let Some((text, span)) = self.string_at(table, key, path) else {
            return default.1;
        };
        if text == default.0 {
            return default.1;
        }
        if let Some((_, chosen)) = others.iter().find(|(word, _)| *word == text) {
            return *chosen;
        }
        let others: Vec<String> = others.iter().map(|(word, _)| format!("{word:?}")).collect();
        let help = format!(
            "write {:?} (the default) or {}",
            default.0,
            others.join(" or ")
        );
        self.problem(span, format!("{path} cannot be {text:?}"), help);
        default.1
    }

    fn http(&mut self, (table, header): (&DeTable<'_>, Span)) -> Http {
        let meant = self.check_keys(table, "[http]");
        let items = self.list(
            table,
            "routes",
            "http.routes",
            "paths, such as [\"/orders\"]",
        );
        let mut routes: Vec<Route> = Vec::new();
        match &items {
            Some(items) if items.is_empty() => {
                let span = table.get("routes").map_or(header, Spanned::span);
                self.no_routes(span);
            }
            None if !table.contains_key("routes") && !meant.contains(&"routes") => {
                self.no_routes(header)
            }
            _ => {}
        }
        for (text, span) in items.unwrap_or_default() {
            match rules::route(&text) {
                Ok(route) if routes.contains(&route) => self.twice(span, "route", &text),
                Ok(route) => routes.push(route),
                Err(fault) => self.fault(span, fault),
            }
        }
        Http { routes }
    }

    fn no_routes(&mut self, span: Span) {
        self.problem(
            span,
            "[http] without a route".to_owned(),
            "write routes = [\"/orders\"], or drop [http]".to_owned(),
        );
    }

    fn grants(&mut self, (table, _): (&DeTable<'_>, Span)) -> Grants {
        self.check_keys(table, "[grants]");
        let mut publish: Vec<String> = Vec::new();
        let what = "topics, such as [\"user_topic\"]";
        let items = self.list(table, "publish", "grants.publish", what);
        for (topic, span) in items.unwrap_or_default() {
            match rules::check_grant(&topic) {
                Ok(()) if publish.contains(&topic) => self.twice(span, "topic", &topic),
                Ok(()) => publish.push(topic),
                Err(fault) => self.fault(span, fault),
            }
        }
        let mut state = false;
        if let Some(value) = table.get("state") {
            match value.get_ref() {
                DeValue::Boolean(granted) => state = *granted,
                _ => self.wrong_type("grants.state", "true or false", value, "write state = true"),
            }
        }
        Grants { publish, state }
    }

    fn settings(&mut self, (table, _): (&DeTable<'_>, Span)) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        for (key, value) in table {
            match value.get_ref() {
                DeValue::String(text) => {
                    settings.insert(key.get_ref().to_string(), text.to_string());
                }
                _ => {
                    let source = self.text.get(value.span()).unwrap_or_default().trim();
                    let help = if source.contains(['"', '\n', '[', '{']) || source.is_empty() {
                        "settings are text: write \"…\"".to_owned()
                    } else {
                        format!("settings are text: write \"{source}\"")
                    };
                    let path = format!("settings.{}", key.get_ref());
                    self.wrong_type(&path, "a string", value, &help);
                }
            }
        }
        settings
    }

    /// A table by its key, with the place to point at for what it lacks.
    pub(crate) fn table<'v>(
        &mut self,
        root: &'v DeTable<'t>,
        key: &str,
    ) -> Option<(&'v DeTable<'t>, Span)> {
        let value = root.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some((table, value.span())),
            DeValue::Array(items) if items.iter().any(|item| as_table(item).is_some()) => {
                let message = format!("[[{key}]] is a list of tables, not one");
                self.problem(value.span(), message, format!("write [{key}], once"));
                None
            }
            _ => {
                let help = format!("write [{key}] on a line of its own, its keys below it");
                self.wrong_type(key, "a table", value, &help);
                None
            }
        }
    }

    fn string(&mut self, table: &DeTable<'_>, key: &str) -> Option<(String, Span)> {
        self.string_at(table, key, key)
    }

    pub(crate) fn string_at(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        path: &str,
    ) -> Option<(String, Span)> {
        let value = table.get(key)?;
        if let DeValue::String(text) = value.get_ref() {
            return Some((text.to_string(), value.span()));
        }
        let help = format!("write {key} = \"…\"");
        self.wrong_type(path, "a string", value, &help);
        None
    }

    /// A list of strings; none if there is none or it isn't one.
    pub(crate) fn list(
        &mut self,
        table: &DeTable<'_>,
        key: &str,
        path: &str,
        what: &str,
    ) -> Option<Vec<(String, Span)>> {
        let value = table.get(key)?;
        let items: &DeArray<'_> = match value.get_ref() {
            DeValue::Array(items) => items,
            DeValue::String(text) => {
                let help = format!("write it in brackets: {key} = [{text:?}]");
                self.wrong_type(path, &format!("a list of {what}"), value, &help);
                return None;
            }
            _ => {
                let help = format!("write {key} = [\"…\"]");
                self.wrong_type(path, &format!("a list of {what}"), value, &help);
                return None;
            }
        };
        let mut texts = Vec::new();
        for item in items {
            if let DeValue::String(text) = item.get_ref() {
                texts.push((text.to_string(), item.span()));
            } else {
                let help = "each of them is a string, in quotes";
                self.wrong_type(path, &format!("a list of {what}"), item, help);
            }
        }
        Some(texts)
    }

    /// Names the keys that a table can't have. Returns the ones that were
    /// probably meant, which aren't missing then.
    pub(crate) fn check_keys(&mut self, table: &DeTable<'_>, place: &str) -> Vec<&'static str> {
        let mut meant = Vec::new();
        let allowed: &[&'static str] = KEYS
            .iter()
            .find(|(name, _)| *name == place)
            .map_or(&[], |(_, keys)| keys);
        let shown = if place.is_empty() {
            "at the top level".to_owned()
        } else {
            format!("in {place}")
        };
        let unknown = table
            .iter()
            .filter(|(key, _)| !allowed.contains(&key.get_ref().as_ref()));
        for (key, _) in unknown {
            let name = key.get_ref();
            let keys = format!("the keys {shown} are {}", allowed.join(", "));
            let near = nearest(name, allowed).filter(|near| !table.contains_key(*near));
            meant.extend(near);
            let hint = match (near, home(name)) {
                (Some(near), _) => format!("did you mean \"{near}\"? {}", capital(&keys)),
                (None, Some(home)) if home.is_empty() => {
                    format!("\"{name}\" goes at the top of the file, above the first [table]")
                }
                (None, Some(home)) => format!("\"{name}\" goes below {home}"),
                (None, None) => keys,
            };
            let place = if place.is_empty() {
                String::new()
            } else {
                format!(" in {place}")
            };
            self.problem(key.span(), format!("unknown key {name:?}{place}"), hint);
        }
        meant
    }

    pub(crate) fn wrong_type(&mut self, path: &str, expected: &str, found: &Value<'_>, help: &str) {
        let found_type = match found.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        let message = format!("{path} has to be {expected}, but is {found_type}");
        self.problem(found.span(), message, help.to_owned());
    }

    pub(crate) fn twice(&mut self, span: Span, what: &str, text: &str) {
        let message = format!("{what} {text:?} is given twice");
        self.problem(span, message, "keep one of the two".to_owned());
    }

    pub(crate) fn fault(&mut self, span: Span, (message, help): Fault) {
        self.problem(span, message, help);
    }

    pub(crate) fn problem(&mut self, span: Span, message: String, help: String) {
        if self.problems.len() < MOST {
            self.problems
                .push(Problem::new(self.text, span, message, help));
        }
    }
}

/// The allowed key that was probably meant.
fn nearest<'k>(name: &str, allowed: &[&'k str]) -> Option<&'k str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let name = name.get(..64).unwrap_or(&name);
    allowed
        .iter()
        .map(|key| (strsim::damerau_levenshtein(name, key), *key))
        .filter(|(distance, key)| *distance <= 1 + key.len() / 4)
        .min()
        .map(|(_, key)| key)
}

/// The tables that a key belongs in, if there are not too many to be said.
fn home(name: &str) -> Option<String> {
    let homes: BTreeSet<&str> = KEYS
        .iter()
        .filter(|(_, keys)| keys.contains(&name))
        .map(|(place, _)| *place)
        .collect();
    let homes: Vec<&str> = homes.into_iter().collect();
    (1..=2).contains(&homes.len()).then(|| homes.join(" or "))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

pub(crate) fn integer(number: &toml::de::DeInteger<'_>) -> Option<i128> {
    i128::from_str_radix(number.as_str(), number.radix()).ok()
}

pub(crate) fn as_table<'v, 't>(value: &'v Value<'t>) -> Option<&'v DeTable<'t>> {
    match value.get_ref() {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

fn key_span(table: Option<&DeTable<'_>>, key: &str) -> Option<Span> {
    table?.get_key_value(key).map(|(key, _)| key.span())
}
