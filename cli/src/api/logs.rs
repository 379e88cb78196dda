//! Log lines, as `GET /v1/services/{name}/logs` streams them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// How bad a line is, from the mildest to the worst.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For who looks for a bug, in great detail.
    Trace,
    /// For who looks for a bug.
    Debug,
    /// What goes on.
    Info,
    /// Something is wrong, and the host or the service goes on by itself.
    Warn,
    /// Something failed, or needs a person.
    Error,
}

impl Level {
    /// Its name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// One line, of the host or of a guest: a flat JSON object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339, in UTC.
    pub timestamp: String,
    /// How bad it is.
    pub level: Level,
    /// The stable name of what happened.
    pub event: Option<String>,
    /// What happened, in words.
    pub message: String,
    /// The service that it is about.
    pub service: Option<String>,
    /// Everything else: revision, invocation, error …
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}
