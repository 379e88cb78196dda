//! The host's log: one fact a line, on standard error, and for services kept in
//! memory as well.

use std::io::IsTerminal;

use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, registry};

use super::config::{Config, LogFormat};
use crate::logs::{Json, Keeper, Pretty};

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
    let written = fmt::layer().with_writer(std::io::stderr);
    let written = match format {
        LogFormat::Pretty => {
            let colours = terminal && std::env::var_os("NO_COLOR").is_none();
            written.with_ansi(colours).event_format(Pretty).boxed()
        }
        LogFormat::Json => written.event_format(Json).boxed(),
    };
    let log = registry().with(filter).with(written).with(Keeper);
    // Fails only where a log is there already.
    let _ = log.try_init();
}
