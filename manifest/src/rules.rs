//! What names, topics and routes may look like. Each rule answers with what is
//! wrong and what to write instead.

use crate::Route;

/// Paths that the host answers itself, with everything below them.
pub const RESERVED_PATHS: [&str; 3] = ["/docs", "/openapi.json", "/asyncapi.json"];

/// Behind a service's name: the topic of its dead letters.
pub(crate) const DEAD_LETTER: &str = ".dead-letter";

/// What is wrong, and what to write instead.
pub(crate) type Fault = (String, String);

/// Checks a service's name.
///
/// # Errors
/// What a name may be, and one near to this.
pub fn check_name(name: &str) -> Result<(), String> {
    const RULE: &str = "a name is 1 to 63 of a-z, 0-9 and -, and begins with a letter";
    let letter = name.starts_with(|char: char| char.is_ascii_lowercase());
    let rest = name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if letter && rest && name.len() <= 63 {
        return Ok(());
    }
    let near: String = name
        .trim()
        .chars()
        .map(|char| match char.to_ascii_lowercase() {
            '_' | ' ' | '.' => '-',
            char => char,
        })
        .skip_while(|char| !char.is_ascii_lowercase())
        .filter(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || *char == '-')
        .take(63)
        .collect();
    Err(if near.is_empty() {
        RULE.to_owned()
    } else {
        format!("{RULE}, such as \"{near}\"")
    })
}

/// Checks a topic's name by Kafka's rule.
///
/// # Errors
/// What a topic may be called.
pub fn check_topic(topic: &str) -> Result<(), String> {
    let legal = topic
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if legal && (1..=249).contains(&topic.len()) && topic != "." && topic != ".." {
        Ok(())
    } else {
        Err(
            "Kafka allows 1 to 249 of a-z, A-Z, 0-9, \".\", \"_\" and \"-\", and not \".\" or \"..\""
                .to_owned(),
        )
    }
}

/// Checks a topic that a service wants to publish to: not one by which the
/// hosts or the brokers run.
pub(crate) fn check_grant(topic: &str) -> Result<(), Fault> {
    check_topic(topic).map_err(|help| (format!("{topic:?} cannot be a topic"), help))?;
    if topic.starts_with("tidemill.") || topic.starts_with("__") {
        return Err((
            format!("{topic:?} is not a topic that a service may publish to"),
            "topics that begin with \"tidemill.\" are the hosts', those with \"__\" are Kafka's"
                .to_owned(),
        ));
    }
    if let Some(service) = topic.strip_suffix(DEAD_LETTER)
        && check_name(service).is_ok()
    {
        return Err((
            format!("{topic:?} is not a topic that a service may publish to"),
            format!(
                "it holds the dead letters of the service \"{service}\", and is written by the \
                 host alone"
            ),
        ));
    }
    if let Some(service) = changelog_of(topic) {
        return Err((
            format!("{topic:?} is not a topic that a service may publish to"),
            format!(
                "it is the changelog of the state of the service \"{service}\": changelogs are \
                 written by the host alone, from what handlers put into tables"
            ),
        ));
    }
    Ok(())
}

/// The service whose state's changelog this topic is: `<service>.state.<number>`.
fn changelog_of(topic: &str) -> Option<&str> {
    let (rest, generation) = topic.rsplit_once('.')?;
    let service = rest.strip_suffix(".state")?;
    let number = !generation.is_empty() && generation.bytes().all(|byte| byte.is_ascii_digit());
    (number && check_name(service).is_ok()).then_some(service)
}

/// Reads a route: a path prefix, with a host name before it or not.
pub(crate) fn route(text: &str) -> Result<Route, Fault> {
    let bad = |help: String| (format!("{text:?} cannot be a route"), help);
    let Some(slash) = text.find('/') else {
        return Err(bad(if text.is_empty() {
            "write a path, such as \"/orders\", or \"/\" for every path".to_owned()
        } else {
            format!("a route begins with a slash: \"/{text}\"")
        }));
    };
    let (host, path) = text.split_at(slash);
    if text.contains("://") {
        let rest = text.split_once("://").map_or("", |(_, rest)| rest);
        return Err(bad(format!(
            "a route has no scheme: write \"{}\"",
            rest.trim_end_matches('/')
        )));
    }
    let host = (!host.is_empty()).then_some(host);
    if let Some(host) = host {
        check_host(host, path).map_err(bad)?;
    }
    check_path(host.unwrap_or_default(), path).map_err(bad)?;
    let below = |reserved: &&'static str| {
        path.strip_prefix(*reserved)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(reserved) = RESERVED_PATHS.into_iter().find(below) {
        return Err((
            format!("{text:?} is taken: the host itself answers {reserved}"),
            format!(
                "choose another path; the host's own are {}",
                RESERVED_PATHS.join(", ")
            ),
        ));
    }
    Ok(Route {
        host: host.map(str::to_owned),
        prefix: path.to_owned(),
    })
}

pub(crate) fn check_host(host: &str, path: &str) -> Result<(), String> {
    if let Some((name, _)) = host.split_once(':') {
        return Err(format!(
            "a host name is matched without its port: \"{name}{path}\""
        ));
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!(
            "host names are lower case: \"{}{path}\"",
            host.to_ascii_lowercase()
        ));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    if host.len() <= 253 && host.split('.').all(label) {
        Ok(())
    } else {
        Err(format!(
            "what is before the first slash is a host name, such as \"api.example.com{path}\"; \
             for any host begin with the slash"
        ))
    }
}

fn check_path(host: &str, path: &str) -> Result<(), String> {
    if path == "/" {
        return Ok(());
    }
    if let Some(at) = path.find(['?', '#']) {
        let path = path[..at].trim_end_matches('/');
        return Err(format!(
            "a route is a path, without a query: \"{host}{}\"",
            if path.is_empty() { "/" } else { path }
        ));
    }
    let pattern =
        |segment: &str| segment.contains(['{', '}', '*', '<']) || segment.starts_with(':');
    let segments: Vec<&str> = path[1..].split('/').collect();
    if segments.iter().any(|segment| pattern(segment)) {
        let fixed: String = segments
            .iter()
            .take_while(|segment| !pattern(segment))
            .map(|segment| format!("/{segment}"))
            .collect();
        return Err(format!(
            "a route is a prefix, not a pattern: \"{host}{}\" has everything below it too",
            if fixed.is_empty() { "/" } else { &fixed }
        ));
    }
    if segments
        .iter()
        .any(|segment| ["", ".", ".."].contains(segment))
    {
        let mut clean: Vec<&str> = Vec::new();
        for segment in &segments {
            match *segment {
                "" | "." => {}
                ".." => drop(clean.pop()),
                segment => clean.push(segment),
            }
        }
        return Err(format!(
            "a route has no empty, \".\" or \"..\" segments and no slash at its end: \"{host}/{}\"",
            clean.join("/")
        ));
    }
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()+,;=:@".contains(&byte);
    if let Some(other) = path
        .chars()
        .find(|char| *char != '/' && !u8::try_from(*char).is_ok_and(plain))
    {
        return Err(format!(
            "a route is compared with the path as it is sent, and has none of the characters that \
             are percent-encoded there, nor \"%\" itself: {other:?} has to go"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "order", "my-shop-2", &"a".repeat(63)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "2fast", "-a", "Order", "my_shop", "ä", &"a".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        let near = |name| check_name(name).err().unwrap_or_default();
        assert!(near("My_Shop").ends_with("such as \"my-shop\""));
        assert!(near("2fast").ends_with("such as \"fast\""));
    }

    #[test]
    fn topics() {
        for good in ["a", "user_topic", "a.b-c", "...", &"a".repeat(249)] {
            assert_eq!(check_topic(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", &"a".repeat(250)] {
            assert!(check_topic(bad).is_err(), "{bad}");
        }
        assert!(check_grant("tidemill.deployments").is_err());
        assert!(check_grant("__consumer_offsets").is_err());
        assert!(check_grant("tidemill").is_ok());
    }

    #[test]
    fn changelogs_are_known_by_their_names() {
        assert_eq!(changelog_of("order.state.1"), Some("order"));
        assert_eq!(changelog_of("my-shop.state.12"), Some("my-shop"));
        for other in [
            "order.state",
            "order.state.",
            "order.state.x",
            "order.state.-1",
            "order.state.1.old",
            "state.1",
            ".state.1",
            "my.shop.state.1",
            "Order.state.1",
            "order_state_1",
        ] {
            assert_eq!(changelog_of(other), None, "{other}");
            assert!(check_grant(other).is_ok(), "{other}");
        }
    }

    #[test]
    fn routes() {
        for good in [
            "/",
            "/orders",
            "/v1/orders",
            "api.example.com/",
            "localhost/a",
            "/docs2",
            "/a/docs",
        ] {
            let parsed = route(good).expect(good);
            assert_eq!(parsed.to_string(), good);
        }
        for (bad, help) in [
            ("orders", "\"/orders\""),
            ("", "\"/\" for every path"),
            ("/orders/", "\"/orders\""),
            ("//", "\"/\""),
            ("/a//b/../c", "\"/a/c\""),
            ("/../..", "\"/\""),
            ("/orders?x=1", "\"/orders\""),
            ("/?x", "\"/\""),
            ("/orders/{id}", "\"/orders\" has everything"),
            ("/*", "\"/\" has everything"),
            ("/:id", "\"/\" has everything"),
            ("http://example.com/a", "\"example.com/a\""),
            ("Example.com/a", "\"example.com/a\""),
            ("example.com:80/a", "\"example.com/a\""),
            ("exa mple/a", "such as \"api.example.com/a\""),
            ("/a%20b", "'%' has to go"),
            ("/a b", "' ' has to go"),
            ("/ä", "'ä' has to go"),
            ("/docs", "choose another"),
            ("/docs/x", "choose another"),
            ("example.com/openapi.json", "choose another"),
        ] {
            let (_, said) = route(bad).expect_err(bad);
            assert!(said.contains(help), "{bad}: {said}");
        }
    }
}
