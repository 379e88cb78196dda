//! Exactly once, on a real Kafka: what is counted is exact, whatever dies.
//!
//! `make chaos` runs the long form of these tests.

mod dying;
mod faults;
mod publishing;
mod pulled;
mod restoring;
mod sources;

use serde_json::Value;
use tidemill_tests::{Counting, Host, eventually};

/// Whether the long form is run.
pub(crate) fn long() -> bool {
    std::env::var("TIDEMILL_CHAOS").is_ok_and(|form| form == "long")
}

/// The partitions of what a host says of a service.
pub(crate) fn partitions(service: &Value) -> &[Value] {
    service["partitions"].as_array().unwrap()
}

/// Waits until what a host says of a service is so.
pub(crate) fn shows(
    counting: &Counting,
    host: &Host,
    what: &str,
    is: impl Fn(&Value) -> bool,
) -> Value {
    eventually(what, || {
        let service = host.service(&counting.name);
        if is(&service) {
            Ok(service)
        } else {
            Err(service)
        }
    })
}
