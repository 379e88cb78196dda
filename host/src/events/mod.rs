//! Consuming: from a partition's events to committed effects.
//!
//! A `subscription` is one membership in a consumer group after another. A
//! `member` has the partitions that this host was given: `starts` finds where they
//! are begun, and `ownership` decides which of them it runs. It starts a `lane`
//! for each shard. A lane runs events one after another, on top of what those
//! before them wrote, and hands each one's effects to the service's `committer`.
//! The committer makes a `group` of all that is done meanwhile durable, in one
//! transaction. What the lane may commit or must run again is kept by `line`; what
//! a failure means is decided by `policy`; an event that cannot be handled becomes
//! a `dead_letter`; what is done when topics or changelogs change is in `rebuild`.
//! `dead_letter`, `group`, `line`, `note`, `ownership` and `policy` are pure.

mod committer;
pub mod dead_letter;
mod group;
mod lane;
mod line;
mod member;
mod note;
mod ownership;
pub mod policy;
mod rebuild;
mod starts;
mod subscription;
mod work;

pub use note::Note;
pub use subscription::{Shared, Subscription, delivery};
