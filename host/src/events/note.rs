//! What is noted beside a committed offset: which host committed it, and the number
//! of the deployment that its events ran by.
//!
//! No host runs a partition on an older deployment than that: it waits until it has
//! followed. Otherwise a rebalance in the middle of a roll-out would run events by
//! the new revision, then by the old one, then by the new one again.

use std::fmt;

/// A note, as it is written beside an offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// The host's id.
    pub host: String,
    /// The deployment's number; 0 if it is not known.
    pub deployment: u64,
}

impl Note {
    /// Reads one; whatever else somebody has noted there is a note of nobody's.
    pub fn read(text: &str) -> Note {
        let (host, deployment) = text.split_once(' ').unwrap_or((text, ""));
        Note {
            host: host.to_owned(),
            deployment: deployment.parse().unwrap_or(0),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.host, self.deployment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written_and_others_are_nobodys() {
        let note = Note {
            host: "h1".to_owned(),
            deployment: 1_764_000_000_000,
        };
        assert_eq!(Note::read(&note.to_string()), note);
        assert_eq!(Note::read("h1").deployment, 0);
        assert_eq!(Note::read("h1 x").deployment, 0);
        assert_eq!(Note::read(""), Note::default());
    }
}
