//! A system as processes: a host of Tidemill's, or any other program.

use std::process::Command;

use tidemill_tests::{Folder, Host, Process};

/// A running program. It is killed when this is dropped.
pub(crate) enum Program {
    Host(Box<Host>),
    // The process ends before its folder is deleted.
    Other(
        Process,
        #[allow(dead_code, reason = "kept until then")] Folder,
    ),
}

impl Program {
    /// Starts a program whose log is kept in a folder of its own.
    pub(crate) fn other(name: &str, folder: Folder, command: Command) -> Self {
        let log = folder.path().join("log");
        Self::Other(Process::start(name, command, &log), folder)
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        match self {
            Self::Host(host) => host.process(),
            Self::Other(process, _) => process,
        }
    }
}
