//! What the interfaces of a component are for: those that it imports, of which a
//! host offers some, and those that it exports, which its manifest has to fit.

use crate::Manifest;

/// Exported by what answers requests.
pub const HTTP: &str = "tidemill:service/http";
/// Exported by what handles events.
pub const EVENTS: &str = "tidemill:service/events";
/// The interface of a component that takes several events in one call.
pub const EVENT_LOOP: &str = "tidemill:service/event-loop";
/// Exported by what describes itself.
pub const DESCRIBE: &str = "tidemill:service/describe";

/// What an imported interface lets a component do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Import {
    /// Publish events to the topics that it is granted.
    Publisher,
    /// Read and write tables, if it is granted state.
    State,
    /// Read the manifest's settings.
    Settings,
    /// Read the time, and wait.
    Clock,
    /// Take random numbers.
    Random,
    /// Write to the log.
    Output,
    /// Nothing by itself: types, streams, and what language runtimes import by
    /// habit: files, environment and arguments are empty, whoever asks.
    Nothing,
    /// Reach the network, which no service may.
    Sockets,
    /// Something that no host has.
    Unknown,
}

impl Import {
    /// What an interface is for, by its name with or without a version.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let name = unversioned(name);
        match name {
            "tidemill:service/types" | "tidemill:service/event-source" => return Self::Nothing,
            "tidemill:service/publisher" => return Self::Publisher,
            "tidemill:service/state" => return Self::State,
            "wasi:config/store" => return Self::Settings,
            "wasi:cli/stdout" | "wasi:cli/stderr" => return Self::Output,
            _ => {}
        }
        match name.split_once('/').map(|(package, _)| package) {
            Some("wasi:clocks") => Self::Clock,
            Some("wasi:random") => Self::Random,
            Some("wasi:cli" | "wasi:filesystem" | "wasi:io") => Self::Nothing,
            Some("wasi:sockets") => Self::Sockets,
            _ => Self::Unknown,
        }
    }
}

impl Manifest {
    /// Why a component with these handlers cannot be the service that this
    /// manifest describes, if it cannot.
    #[must_use]
    pub fn mismatch(&self, http: bool, events: bool) -> Option<&'static str> {
        match (self.http.is_some(), http) {
            (true, false) => Some(
                "the manifest has [http] routes, but the component does not export tidemill:service/http",
            ),
            (false, true) => Some(
                "the component exports tidemill:service/http, but the manifest has no [http] routes",
            ),
            _ => match (!self.subscribe.is_empty(), events) {
                (true, false) => Some(
                    "the manifest subscribes to topics, but the component does not export tidemill:service/events",
                ),
                (false, true) => Some(
                    "the component exports tidemill:service/events, but the manifest subscribes to no topic",
                ),
                _ => None,
            },
        }
    }
}

/// An interface's name without its version.
#[must_use]
pub fn unversioned(name: &str) -> &str {
    name.split_once('@').map_or(name, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_is_known_by_its_name_whatever_its_version() {
        for (name, import) in [
            ("tidemill:service/publisher@0.1.0", Import::Publisher),
            ("tidemill:service/state", Import::State),
            ("wasi:config/store@0.2.0-rc.1", Import::Settings),
            ("wasi:clocks/wall-clock@0.2.6", Import::Clock),
            ("wasi:random/insecure-seed@0.2.6", Import::Random),
            ("wasi:cli/stderr@0.2.6", Import::Output),
            ("wasi:cli/environment@0.2.6", Import::Nothing),
            ("wasi:filesystem/types@0.2.6", Import::Nothing),
            ("wasi:sockets/tcp@0.2.6", Import::Sockets),
            ("wasi:http/outgoing-handler@0.2.6", Import::Unknown),
            ("wasi:clocksmith/x", Import::Unknown),
            ("tidemill:service/later@9.0.0", Import::Unknown),
            ("", Import::Unknown),
        ] {
            assert_eq!(Import::of(name), import, "{name}");
        }
    }
}
