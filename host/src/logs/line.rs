//! One line of the log, read from a tracing event.

use std::fmt::{Debug, Write};

use serde_json::Value;
use tidemill_cli::api::Level;
use tracing::field::{Field, Visit};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

/// A line: what happened, and about what.
pub(crate) struct Line {
    pub(crate) level: Level,
    /// The stable name of what happened; libraries give none.
    pub(super) event: Option<String>,
    pub(super) message: String,
    pub(super) service: Option<String>,
    pub(super) fields: Vec<(&'static str, Value)>,
    target: &'static str,
}

impl Line {
    pub(crate) fn of(event: &tracing::Event<'_>) -> Line {
        let metadata = event.metadata();
        let mut line = Line {
            level: level(*metadata.level()),
            event: None,
            message: String::new(),
            service: None,
            fields: Vec::new(),
            target: metadata.target(),
        };
        event.record(&mut line);
        line
    }

    /// The line as one flat JSON object.
    pub(crate) fn json(&self) -> String {
        let time = now();
        let mut text = String::with_capacity(256);
        let mut put = |name: &str, value: &Value| {
            let comma = if text.is_empty() { '{' } else { ',' };
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}{}:{value}", Value::from(name));
        };
        put("timestamp", &time.into());
        put("level", &self.level.name().into());
        match &self.event {
            Some(event) => put("event", &event.as_str().into()),
            None => put("target", &self.target.into()),
        }
        put("message", &self.message.as_str().into());
        if let Some(service) = &self.service {
            put("service", &service.as_str().into());
        }
        for (name, value) in &self.fields {
            put(name, value);
        }
        text.push('}');
        text
    }

    fn put(&mut self, field: &Field, value: Value) {
        let text = match &value {
            Value::String(text) => Some(text),
            _ => None,
        };
        match (field.name(), text) {
            ("message", Some(text)) => self.message.clone_from(text),
            ("event", Some(text)) => self.event = Some(text.clone()),
            ("service", Some(text)) => self.service = Some(text.clone()),
            // What a guest gave with its line, which is JSON already.
            ("fields", Some(text)) => {
                let fields = serde_json::from_str(text).unwrap_or(value);
                self.fields.push(("fields", fields));
            }
            // What the bridge from the crate `log` says of itself.
            (name, _) if name.starts_with("log.") => {}
            (name, _) => self.fields.push((name, value)),
        }
    }
}

/// The time as RFC 3339 has it, in UTC.
pub(crate) fn now() -> String {
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    time
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

fn level(level: tracing::Level) -> Level {
    match level {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::TRACE => Level::Trace,
    }
}
