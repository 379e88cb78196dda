//! The Tidemill host: it bridges HTTP and Kafka to services that are WASM
//! components. ARCHITECTURE.md says how the parts fit.

pub mod admin;
pub mod checks;
pub mod dead_letters;
pub mod deployments;
pub mod describe;
pub mod dispatch;
pub mod effects;
pub mod events;
pub mod follower;
pub mod host;
pub mod http;
pub mod invocation;
pub mod kafka;
pub mod library;
pub mod limits;
pub(crate) mod logs;
pub mod metrics;
pub mod offsets;
pub mod problem;
pub mod replay;
pub mod revision;
pub(crate) mod revisions;
pub mod routes;
pub mod runtime;
mod sabotage;
mod seldom;
pub mod serve;
pub mod service;
pub mod slots;
pub mod state;
pub mod trace;

/// Milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // A clock before 1970 is one that nobody set.
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod testing;
