//! Records of the crate `log`, as lines that the host reads: JSON with a level.
//!
//! The crate `tracing` gives its events to `log` if its feature `log` is on and no
//! subscriber is set, so both facades end here.

use log::kv::{Error, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use serde_json::{Map, json};

/// Has `log` write to the host's log. The setting `log-level` says how much of
/// it: `info` if there is none.
#[cfg(target_arch = "wasm32")]
pub(crate) fn start() {
    static START: std::sync::Once = std::sync::Once::new();
    START.call_once(|| {
        let level = crate::setting("log-level").and_then(|level| level.parse().ok());
        // A service that has a logger of its own keeps it.
        if log::set_logger(&Lines).is_ok() {
            log::set_max_level(level.unwrap_or(LevelFilter::Info));
        }
    });
}

struct Lines;

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            println!("{}", line(record));
        }
    }

    fn flush(&self) {}
}

/// A record on one line.
fn line(record: &Record<'_>) -> serde_json::Value {
    let mut line = json!({
        "level": record.level().as_str().to_ascii_lowercase(),
        "message": record.args().to_string(),
        "target": record.target(),
    });
    let mut fields = Fields(Map::new());
    // What cannot be read is left out.
    let _ = record.key_values().visit(&mut fields);
    for (name, value) in fields.0 {
        // The record's own come first.
        if line.get(&name).is_none() {
            line[name] = value;
        }
    }
    line
}

struct Fields(Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let value = if let Some(number) = value.to_i64() {
            number.into()
        } else if let Some(number) = value.to_u64() {
            number.into()
        } else if let Some(number) = value.to_f64() {
            number.into()
        } else if let Some(yes) = value.to_bool() {
            yes.into()
        } else {
            value.to_string().into()
        };
        self.0.insert(key.to_string(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_with_its_level_and_fields() {
        let fields = [
            ("left", Value::from(3)),
            ("why", Value::from("it \"rains\"")),
        ];
        let record = Record::builder()
            .level(log::Level::Warn)
            .target("order::stock")
            .args(format_args!("low\non paper"))
            .key_values(&fields)
            .build();
        assert_eq!(
            line(&record).to_string(),
            r#"{"level":"warn","message":"low\non paper","target":"order::stock","left":3,"why":"it \"rains\""}"#
        );
        assert!(!Lines.enabled(&Metadata::builder().level(log::Level::Error).build()));
        log::set_max_level(LevelFilter::Info);
        assert!(Lines.enabled(&Metadata::builder().level(log::Level::Info).build()));
    }
}
