//! Consuming: from a partition's events to committed effects.
//!
//! A `subscription` is a service's membership in its group; it starts a `lane`
//! for what it is assigned. A lane runs events one after another, on top of what
//! those before them wrote, and hands each one's effects to the service's
//! `committer`. The committer makes a `group` of all that is done meanwhile
//! durable: events acknowledged, then rows and offsets in one write, then the
//! offsets at the broker. What the lane may commit or must run again is kept by
//! `line`; what a failure means is decided by `policy`. Both are pure.

mod committer;
mod group;
mod lane;
mod line;
pub mod policy;
mod subscription;

pub use subscription::Subscription;
