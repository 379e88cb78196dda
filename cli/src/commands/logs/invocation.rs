//! The line of an invocation, as a person reads it.

use anstyle::Style;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::api::LogLine;
use crate::show::{self, BAD, DIM, FAIR, FINE};

/// What a host tells of a request that it has answered, or of an event whose
/// handler has run.
#[derive(Deserialize)]
#[serde(untagged)]
enum Invocation {
    Request {
        method: String,
        target: String,
        status: u16,
        position: Option<String>,
    },
    Event {
        topic: String,
        partition: i64,
        offset: i64,
        attempt: u64,
        outcome: String,
        published: Map<String, Value>,
        rows: u64,
    },
}

/// A line that is about an invocation; none if it is about something else.
pub(super) fn render(line: &LogLine) -> Option<String> {
    if !matches!(
        line.event.as_deref(),
        Some("request.answered" | "event.ran")
    ) {
        return None;
    }
    let took = line.fields.get("duration_us")?.as_u64()?;
    let took = show::duration(took);
    let fields = Value::Object(line.fields.clone());
    Some(match serde_json::from_value(fields).ok()? {
        Invocation::Request {
            method,
            target,
            status,
            position,
        } => {
            let style = of_status(status);
            let published = position.map(|position| format!(" → {position}"));
            format!(
                "{} {} {style}{status}{style:#} {DIM}{took}{DIM:#}{}",
                show::line(&method, 10),
                show::escaped(&target),
                show::line(&published.unwrap_or_default(), 200),
            )
        }
        Invocation::Event {
            topic,
            partition,
            offset,
            attempt,
            outcome,
            published,
            rows,
        } => {
            let style = if outcome == "ok" { FINE } else { BAD };
            let mut notes = String::new();
            if attempt > 1 {
                notes.push_str(&format!(", attempt {attempt}"));
            }
            if rows > 0 {
                notes.push_str(&format!(", {}", show::several(rows, "row")));
            }
            for (topic, count) in &published {
                let times = count.as_u64().filter(|count| *count > 1);
                let times = times.map_or(String::new(), |count| format!(" ×{count}"));
                notes.push_str(&format!(" → {}{times}", show::line(topic, 249)));
            }
            format!(
                "{}/{partition}@{offset} {style}{}{style:#} {DIM}{took}{DIM:#}{notes}",
                show::line(&topic, 249),
                show::line(&outcome, 20),
            )
        }
    })
}

fn of_status(status: u16) -> Style {
    match status {
        500.. => BAD,
        400.. => FAIR,
        _ => FINE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(rest: &str) -> Option<String> {
        let line = format!(
            r#"{{"timestamp":"2026-11-24T13:06:41.123456Z","level":"info","message":"","duration_us":1234,{rest}}}"#
        );
        let line = serde_json::from_str(&line).expect("a line");
        render(&line).map(|text| show::plain(&text))
    }

    #[test]
    fn a_request_is_a_line() {
        let line = r#""event":"request.answered","method":"POST","target":"/users?a=\u001b","status":201,"position":"user_topic/2@41""#;
        assert_eq!(
            shown(line).as_deref(),
            Some("POST /users?a=\\u001b 201 1.23 ms → user_topic/2@41")
        );
        let line = r#""event":"request.answered","method":"GET","target":"/","status":503"#;
        assert_eq!(shown(line).as_deref(), Some("GET / 503 1.23 ms"));
    }

    #[test]
    fn an_event_is_a_line() {
        let line = r#""event":"event.ran","topic":"t","partition":1,"offset":7,"attempt":1,
            "outcome":"ok","published":{"a":1,"b":2},"rows":1"#;
        assert_eq!(
            shown(line).as_deref(),
            Some("t/1@7 ok 1.23 ms, 1 row → a → b ×2")
        );
        let line = r#""event":"event.ran","topic":"t","partition":1,"offset":7,"attempt":2,
            "outcome":"retry","published":{},"rows":0"#;
        assert_eq!(
            shown(line).as_deref(),
            Some("t/1@7 retry 1.23 ms, attempt 2")
        );
    }

    #[test]
    fn other_lines_are_not_invocations() {
        assert_eq!(shown(r#""event":"guest.line""#), None);
        assert_eq!(shown(r#""event":"event.ran""#), None);
    }
}
