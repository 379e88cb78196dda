//! `[[smoke]]`: invocations that a new revision has to pass before it is live.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::parse::{Reader, Span, Value};
use crate::rules::{self, Fault};
use crate::{Route, Smoke, SmokeCall, SmokeEvent, SmokeRequest, Subscription};

/// The keys of the table.
pub(crate) const KEYS: &[&str] = &[
    "request",
    "headers",
    "body",
    "status",
    "contains",
    "event",
    "rows",
    "publishes",
    "to",
];

/// Keys that say something about a request alone, and about an event alone.
const OF_REQUESTS: [&str; 4] = ["headers", "body", "status", "contains"];
const OF_EVENTS: [&str; 1] = ["rows"];

/// More are a test suite, which every deploy would wait for.
const MOST: usize = 16;

const EFFECTS: std::ops::RangeInclusive<u32> = 0..=1_000_000;
const REQUEST: &str = "request = \"GET /orders\"";
const EVENT: &str = "event = { topic = \"user_topic\", key = \"7\", value = \"{}\" }";

/// What the rest of the manifest says, as far as smoke invocations need it.
pub(crate) struct Known<'m> {
    pub(crate) routes: &'m [Route],
    pub(crate) subscribe: &'m [Subscription],
    pub(crate) publish: &'m [String],
    pub(crate) state: bool,
}

impl Reader<'_> {
    pub(crate) fn smoke(&mut self, root: &DeTable<'_>, known: &Known<'_>) -> Vec<Smoke> {
        let Some(value) = root.get("smoke") else {
            return Vec::new();
        };
        let help = format!("write a table for each invocation: [[smoke]], below it {REQUEST}");
        let DeValue::Array(items) = value.get_ref() else {
            if let DeValue::Table(_) = value.get_ref() {
                let message = "[smoke] is one table, not a list of them".to_owned();
                self.problem(value.span(), message, "write [[smoke]]".to_owned());
            } else {
                self.wrong_type("smoke", "a list of tables", value, &help);
            }
            return Vec::new();
        };
        if let Some(item) = items.get(MOST) {
            let message = format!("{} smoke invocations", items.len());
            let help = format!("the most is {MOST}: every deploy waits for them");
            self.problem(item.span(), message, help);
        }
        let mut smoke = Vec::new();
        for item in items.iter().take(MOST) {
            let DeValue::Table(table) = item.get_ref() else {
                self.wrong_type("smoke", "a list of tables", item, &help);
                continue;
            };
            smoke.extend(self.one_smoke(root, (table, item.span()), known));
        }
        smoke
    }

    /// None only together with a problem.
    fn one_smoke(
        &mut self,
        root: &DeTable<'_>,
        (table, header): (&DeTable<'_>, Span),
        known: &Known<'_>,
    ) -> Option<Smoke> {
        let meant = self.check_keys(table, "[[smoke]]");
        let publishes = self.smoke_count(table, "publishes");
        let to = self.topics_to(table, known, publishes);
        let call = match (table.get("request"), table.get("event")) {
            (Some(_), None) => {
                self.not_with(table, &OF_EVENTS, "an event", "a request");
                self.smoke_request(root, table, known)
                    .map(SmokeCall::Request)
            }
            (None, Some(event)) => {
                self.not_with(table, &OF_REQUESTS, "a request", "an event");
                self.smoke_event(root, table, event, known)
                    .map(SmokeCall::Event)
            }
            (Some(_), Some(event)) => {
                let message = "[[smoke]] with a request and an event".to_owned();
                let help = "each is an invocation of its own: write two [[smoke]]";
                self.problem(event.span(), message, help.to_owned());
                None
            }
            (None, None) => {
                if !meant.contains(&"request") && !meant.contains(&"event") {
                    let message = "[[smoke]] without a request or an event".to_owned();
                    self.problem(header, message, format!("add {REQUEST}, or {EVENT}"));
                }
                None
            }
        };
        Some(Smoke {
            call: call?,
            publishes,
            to,
        })
    }

    fn smoke_request(
        &mut self,
        root: &DeTable<'_>,
        table: &DeTable<'_>,
        known: &Known<'_>,
    ) -> Option<SmokeRequest> {
        let status = table.contains_key("status").then(|| {
            let status = self.count(table, "status", "smoke.status", 200..=599, 200);
            u16::try_from(status).unwrap_or(200)
        });
        let headers = self.headers(table, "smoke.headers");
        let mut fields = BTreeMap::new();
        for (name, (value, span)) in headers {
            if !name.bytes().all(is_token) || name.is_empty() {
                let message = format!("{name:?} cannot be the name of a header field");
                let help = "it is letters, digits and \"-\", such as content-type".to_owned();
                self.problem(span, message, help);
            } else if value.chars().any(|char| char.is_control() && char != '\t') {
                let message = format!("the header field {name:?} has a control character");
                let help = "a value is one line of text".to_owned();
                self.problem(span, message, help);
            } else if fields.insert(name.to_ascii_lowercase(), value).is_some() {
                self.twice(span, "header field", &name);
            }
        }
        let text = |reader: &mut Self, key, path| {
            let found = reader.string_at(table, key, path);
            found.map(|(text, _)| text)
        };
        let body = text(self, "body", "smoke.body").unwrap_or_default();
        let contains = text(self, "contains", "smoke.contains");
        let (line, span) = self.string_at(table, "request", "smoke.request")?;
        let read = request_line(&line).and_then(|read| {
            // Routes that could not be read have been told of.
            let unread = known.routes.is_empty() && root.contains_key("http");
            if !unread {
                answers(known.routes, &read)?;
            }
            Ok(read)
        });
        let Line {
            method,
            host,
            target,
        } = match read {
            Ok(read) => read,
            Err(fault) => {
                self.fault(span, fault);
                return None;
            }
        };
        Some(SmokeRequest {
            method: method.to_owned(),
            host: host.map(str::to_owned),
            target: target.to_owned(),
            headers: fields,
            body,
            status,
            contains,
        })
    }

    fn smoke_event(
        &mut self,
        root: &DeTable<'_>,
        table: &DeTable<'_>,
        event: &Value<'_>,
        known: &Known<'_>,
    ) -> Option<SmokeEvent> {
        let rows = self.smoke_count(table, "rows");
        if rows.is_some()
            && !known.state
            && let Some(value) = table.get("rows")
        {
            let message = "rows, but the service has no state".to_owned();
            let help = "write state = true below [grants], or drop this".to_owned();
            self.problem(value.span(), message, help);
        }
        let DeValue::Table(fields) = event.get_ref() else {
            self.wrong_type("smoke.event", "a table", event, &format!("write {EVENT}"));
            return None;
        };
        let meant = self.check_keys(fields, "[smoke.event]");
        if !fields.contains_key("topic") && !meant.contains(&"topic") {
            let message = "smoke.event without a topic".to_owned();
            let help = "add topic = \"…\", one that the service subscribes to".to_owned();
            self.problem(event.span(), message, help);
        }
        let headers = self.headers(fields, "smoke.event.headers");
        let text = |reader: &mut Self, key, path| {
            let found = reader.string_at(fields, key, path);
            found.map(|(text, _)| text)
        };
        let key = text(self, "key", "smoke.event.key");
        let value = text(self, "value", "smoke.event.value");
        let (topic, span) = self.string_at(fields, "topic", "smoke.event.topic")?;
        let topics: Vec<&str> = known.subscribe.iter().map(|one| &*one.topic).collect();
        let unread = topics.is_empty() && root.contains_key("subscribe");
        if !unread && !topics.contains(&topic.as_str()) {
            let help = match topics.as_slice() {
                [] => "it has no [[subscribe]]: add one, or write a request".to_owned(),
                topics => format!("it subscribes to {}", topics.join(", ")),
            };
            let message = format!("the service does not subscribe to {topic:?}");
            self.problem(span, message, help);
        }
        let headers = headers.into_iter();
        Some(SmokeEvent {
            topic,
            key,
            value,
            headers: headers.map(|(name, (value, _))| (name, value)).collect(),
            rows,
        })
    }

    /// The topics that have to be published to, which have to be granted and
    /// can't be more than what is published.
    fn topics_to(
        &mut self,
        table: &DeTable<'_>,
        known: &Known<'_>,
        publishes: Option<u32>,
    ) -> Option<BTreeSet<String>> {
        let items = self.list(table, "to", "smoke.to", "topics, such as [\"order_topic\"]")?;
        let mut to = BTreeSet::new();
        for (topic, span) in items {
            if !known.publish.contains(&topic) {
                let message = format!("the service may not publish to {topic:?}");
                let help = "add it to publish below [grants], or drop it here".to_owned();
                self.problem(span, message, help);
            } else if !to.insert(topic.clone()) {
                self.twice(span, "topic", &topic);
            }
        }
        let span = table.get("to").map(Spanned::span);
        if let (Some(publishes), Some(span)) = (publishes, span)
            && (to.len() > publishes as usize || to.is_empty() && publishes > 0)
        {
            let message = format!(
                "smoke.to has {} topics, and smoke.publishes is {publishes}",
                to.len()
            );
            let help = "each of them gets at least one event: change to, or publishes".to_owned();
            self.problem(span, message, help);
        }
        Some(to)
    }

    fn smoke_count(&mut self, table: &DeTable<'_>, key: &str) -> Option<u32> {
        let path = format!("smoke.{key}");
        table
            .contains_key(key)
            .then(|| self.count(table, key, &path, EFFECTS, 1))
    }

    /// Notes keys that are about the other kind of invocation.
    fn not_with(&mut self, table: &DeTable<'_>, keys: &[&str], about: &str, is: &str) {
        for key in keys {
            let Some(value) = table.get(*key) else {
                continue;
            };
            let help = match *key {
                "headers" => "headers of an event go into it: event = { headers = { … } }",
                _ => "drop it, or write a [[smoke]] of its own",
            };
            let message = format!("{key:?} is about {about}, but this is {is}");
            self.problem(value.span(), message, help.to_owned());
        }
    }

    /// A table of texts, each with its place.
    fn headers(&mut self, table: &DeTable<'_>, path: &str) -> BTreeMap<String, (String, Span)> {
        const HELP: &str = "write headers = { content-type = \"application/json\" }";
        let mut headers = BTreeMap::new();
        let Some(value) = table.get("headers") else {
            return headers;
        };
        let DeValue::Table(fields) = value.get_ref() else {
            self.wrong_type(path, "a table", value, HELP);
            return headers;
        };
        for (name, value) in fields {
            match value.get_ref() {
                DeValue::String(text) => {
                    let name = name.get_ref().to_string();
                    headers.insert(name, (text.to_string(), value.span()));
                }
                _ => {
                    let path = format!("{path}.{}", name.get_ref());
                    self.wrong_type(&path, "a string", value, HELP);
                }
            }
        }
        headers
    }
}

/// `GET /orders`, or `GET api.example.com/orders`.
#[derive(Debug, PartialEq, Eq)]
struct Line<'t> {
    method: &'t str,
    host: Option<&'t str>,
    target: &'t str,
}

fn request_line(text: &str) -> Result<Line<'_>, Fault> {
    let bad = |help: String| (format!("{text:?} cannot be a request"), help);
    let (method, rest) = match *text.split_ascii_whitespace().collect::<Vec<_>>() {
        [method, rest] => (method, rest),
        [one] if one.contains('/') => {
            return Err(bad(format!("write the method before it: \"GET {one}\"")));
        }
        _ => {
            let help = "write a method and a path, such as \"GET /orders\"";
            return Err(bad(help.to_owned()));
        }
    };
    if !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        let method = method.to_ascii_uppercase();
        let help = if method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            format!("methods are upper case: \"{method} {rest}\"")
        } else {
            "write a method such as GET or POST".to_owned()
        };
        return Err(bad(help));
    }
    let Some(slash) = rest.find('/') else {
        return Err(bad(format!(
            "a path begins with a slash: \"{method} /{rest}\""
        )));
    };
    let (host, target) = rest.split_at(slash);
    if let Some((_, rest)) = rest.split_once("://") {
        return Err(bad(format!(
            "write it without the scheme: \"{method} {rest}\""
        )));
    }
    let host = (!host.is_empty()).then_some(host);
    if let Some(host) = host {
        rules::check_host(host, target).map_err(bad)?;
    }
    let plain = |char: char| char.is_ascii_graphic() && char != '#';
    if let Some(other) = target.chars().find(|char| !plain(*char)) {
        return Err(bad(format!(
            "path and query are written as they are sent: {other:?} has to be percent-encoded"
        )));
    }
    Ok(Line {
        method,
        host,
        target,
    })
}

/// Whether the host would give such a request to the service.
fn answers(routes: &[Route], line: &Line<'_>) -> Result<(), Fault> {
    let Line {
        method,
        host,
        target,
    } = line;
    let path = target.split_once('?').map_or(*target, |(path, _)| path);
    let message = format!(
        "no route of the service answers \"{}{target}\"",
        host.unwrap_or_default()
    );
    let above: Vec<&Route> = routes.iter().filter(|route| route.is_above(path)).collect();
    let fits = |route: &&Route| route.host.is_none() || route.host.as_deref() == *host;
    if above.iter().any(fits) {
        return Ok(());
    }
    let help = match (above.first(), routes) {
        (Some(route), _) => format!(
            "its route {route} is for one host name: write \"{method} {}{target}\"",
            route.host.as_deref().unwrap_or_default()
        ),
        (None, []) => "it has no [http]: add it with routes, or write an event".to_owned(),
        (None, routes) => {
            let routes: Vec<String> = routes.iter().map(ToString::to_string).collect();
            format!("it answers {}", routes.join(", "))
        }
    };
    Err((message, help))
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_method_and_a_target() {
        let line = |method, host, target| Line {
            method,
            host,
            target,
        };
        for (text, read) in [
            ("GET /orders", line("GET", None, "/orders")),
            ("GET  /", line("GET", None, "/")),
            ("POST /a%20b?x=1&y", line("POST", None, "/a%20b?x=1&y")),
            (
                "GET api.example.com/orders",
                line("GET", Some("api.example.com"), "/orders"),
            ),
        ] {
            assert_eq!(request_line(text), Ok(read), "{text}");
        }
        for (text, help) in [
            ("", "such as \"GET /orders\""),
            ("/orders", "\"GET /orders\""),
            ("GET", "such as \"GET /orders\""),
            ("GET /a b", "such as \"GET /orders\""),
            ("get /orders", "\"GET /orders\""),
            ("G3T /orders", "such as GET"),
            ("GET orders", "\"GET /orders\""),
            ("GET http://a.example/x", "\"GET a.example/x\""),
            ("GET a.example:80/x", "without its port"),
            ("GET /ä", "'ä' has to be percent-encoded"),
            ("GET /a#b", "'#' has to be percent-encoded"),
        ] {
            let (_, said) = request_line(text).expect_err(text);
            assert!(said.contains(help), "{text}: {said}");
        }
    }

    #[test]
    fn a_request_is_for_a_route_of_the_service() {
        let routes: Vec<Route> = ["/orders", "api.example.com/v1"]
            .map(|route| rules::route(route).expect(route))
            .into();
        let ask = |text| answers(&routes, &request_line(text).expect(text));
        for good in [
            "GET /orders",
            "GET /orders/7?x=/y",
            "GET any.example.com/orders",
            "GET api.example.com/v1/x",
        ] {
            assert_eq!(ask(good), Ok(()), "{good}");
        }
        for (bad, help) in [
            ("GET /orders2", "it answers /orders, api.example.com/v1"),
            ("GET /", "it answers"),
            ("GET /v1/x", "write \"GET api.example.com/v1/x\""),
            (
                "GET other.example.com/v1",
                "write \"GET api.example.com/v1\"",
            ),
        ] {
            let (_, said) = ask(bad).expect_err(bad);
            assert!(said.contains(help), "{bad}: {said}");
        }
    }
}
