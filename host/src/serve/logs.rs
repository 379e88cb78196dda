//! The host's log: one fact a line, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use super::config::{Config, LogFormat};

/// Starts logging. A second call in one process does nothing.
pub(super) fn start(config: &Config) {
    let terminal = std::io::stderr().is_terminal();
    let format = config.log_format.unwrap_or(if terminal {
        LogFormat::Pretty
    } else {
        LogFormat::Json
    });
    let filter = EnvFilter::try_new(&config.log).unwrap_or_else(|error| {
        eprintln!(
            "the log filter {:?} is not valid ({error}): using info",
            config.log
        );
        EnvFilter::new("info")
    });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // Fails only where a log is there already.
    let _ = match format {
        LogFormat::Pretty => builder
            .compact()
            .with_ansi(terminal && std::env::var_os("NO_COLOR").is_none())
            .with_target(false)
            .with_timer(Clock)
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// The time of day in UTC, to the millisecond: a person at a terminal knows the
/// date.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let now = crate::now_ms();
        let (ms, s) = (now % 1000, now / 1000);
        let (h, m, s) = (s / 3600 % 24, s / 60 % 60, s % 60);
        write!(writer, "{h:02}:{m:02}:{s:02}.{ms:03}Z")
    }
}
