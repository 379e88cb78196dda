//! How a line is written to standard error: as JSON, or for a person.

use std::fmt;

use anstyle::{AnsiColor, Style};
use serde_json::Value;
use tidemill_cli::api::Level;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::Line;

/// One flat JSON object a line.
pub(crate) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writeln!(writer, "{}", Line::of(event).json())
    }
}

/// Time of day, level, message, fields. A person at a terminal knows the date,
/// and needs no stable name.
pub(crate) struct Pretty;

impl<S, N> FormatEvent<S, N> for Pretty
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let line = Line::of(event);
        let colours = writer.has_ansi_escapes();
        let style = |style: Style| if colours { style } else { Style::new() };
        let dim = style(Style::new().dimmed());
        let level = style(colour(line.level));
        let name = line.level.name().to_uppercase();
        write!(writer, "{dim}{}{dim:#} {level}{name:>5}{level:#}", clock())?;
        if let Some(service) = &line.service {
            let bold = style(Style::new().bold());
            write!(writer, " {bold}{}{bold:#}:", tidemill_cli::clean(service))?;
        }
        // A backtrace comes last.
        let message = tidemill_cli::clean(&line.message);
        let (first, rest) = message.split_once('\n').unwrap_or((&message, ""));
        write!(writer, " {first}")?;
        for (name, value) in &line.fields {
            let value = match value {
                Value::String(text) => tidemill_cli::clean(text),
                value => value.to_string(),
            };
            write!(writer, " {dim}{name}={dim:#}{value}")?;
        }
        if !rest.is_empty() {
            write!(writer, "\n{rest}")?;
        }
        writeln!(writer)
    }
}

fn colour(level: Level) -> Style {
    let colour = match level {
        Level::Error => AnsiColor::Red,
        Level::Warn => AnsiColor::Yellow,
        Level::Info => AnsiColor::Green,
        Level::Debug | Level::Trace => AnsiColor::Blue,
    };
    Style::new().fg_color(Some(colour.into()))
}

/// The time of day in UTC, to the millisecond.
fn clock() -> String {
    let now = crate::now_ms();
    let (ms, s) = (now % 1000, now / 1000);
    let (h, m, s) = (s / 3600 % 24, s / 60 % 60, s % 60);
    format!("{h:02}:{m:02}:{s:02}.{ms:03}Z")
}
