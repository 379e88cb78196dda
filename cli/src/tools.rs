//! What the client's commands cannot do without a runtime for components, and
//! are given by the program that has one.

use anyhow::Result;
use tidemill_manifest::Manifest;

/// Functions of the host's, for commands that need no host.
#[derive(Clone, Copy, Debug)]
pub struct Tools {
    /// Holds a component against its manifest and asks it for its OpenAPI
    /// document; none if it does not describe itself.
    pub describe: fn(&[u8], &Manifest) -> Result<Option<String>>,
}
