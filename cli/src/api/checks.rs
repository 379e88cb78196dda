//! What a deploy says of a new revision: what changes, and what may be a mistake.

use serde::{Deserialize, Serialize};

/// Something that is not as it was in the running revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it is about: `route`, `operation`, `subscription`, `group`, `delivery`,
    /// `state`, `publish`, `setting`, `limit`, `trial`, `smoke`, `import`, `export`,
    /// `openapi`, `size` or `description`.
    pub what: String,
    /// Which one: the route, the topic, the limit. Empty where there is only one.
    pub name: String,
    /// What it was; none if there was none. Empty if there is nothing to say but
    /// that it was there.
    pub before: Option<String>,
    /// What it is; none if there is none any more.
    pub after: Option<String>,
    /// Whether clients that did well with the running revision may fail with the
    /// new one.
    pub breaking: bool,
}

/// Something that is allowed, and may be a mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// `cycle`, `unwritten` or `unread`.
    pub kind: String,
    /// What it is, and what to do if it is not meant.
    pub message: String,
}
