//! The shapes that go through the one door: requests, events, what came back.
//!
//! Nothing here knows about wasmtime, hyper or librdkafka: the runtime lifts
//! these into a guest, listeners and consumers make them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::effects::record_size;
use crate::limits::Limit;

/// Which invocation a log line belongs to.
#[derive(Clone, Debug, Default)]
pub enum Identity {
    /// None: a component that starts or describes itself.
    #[default]
    Start,
    /// The request of that number.
    Request(u64),
    /// The event at topic, partition and offset.
    Event(Arc<str>, i32, i64),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Start => f.write_str("start"),
            Identity::Request(number) => write!(f, "request/{number}"),
            Identity::Event(topic, partition, offset) => write!(f, "{topic}/{partition}@{offset}"),
        }
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// A number that no other request to this process has.
pub fn next_number() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The number of the latest request, 0 before the first.
pub fn last_number() -> u64 {
    NEXT.load(Ordering::Relaxed) - 1
}

/// A request to an HTTP handler. Whole, limited and routed.
#[derive(Clone, Debug)]
pub struct Request {
    /// Tells it from others in the log.
    pub number: u64,
    /// Upper case, as sent.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// The `host` header or `:authority`.
    pub authority: String,
    /// End-to-end header fields, names in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The whole body.
    pub body: Vec<u8>,
    /// The span that it is in, if there are spans.
    pub trace: Option<crate::trace::Context>,
}

/// A response of an HTTP handler, checked: the status is 200 to 599, the
/// headers are such as HTTP allows and none of them is the host's own.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: http::StatusCode,
    /// Header fields.
    pub headers: http::HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Two pointers with lengths, and an allocation.
const HEADER: usize = 96;

/// An event for an event handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The topic it was read from.
    pub topic: Arc<str>,
    /// The partition, not negative.
    pub partition: i32,
    /// The offset in the partition, not negative.
    pub offset: i64,
    /// Milliseconds since the Unix epoch, if the record has a time.
    pub timestamp: Option<i64>,
    /// The key, if any.
    pub key: Option<Bytes>,
    /// The value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Record headers.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl Event {
    /// What it takes of this host's memory, about: key, value and headers, and what
    /// each header needs besides. In Kafka one takes as few as three bytes.
    pub fn size(&self) -> usize {
        record_size(&self.key, &self.value, &self.headers) + HEADER * self.headers.len()
    }
}

/// Why an invocation did not succeed. Its effects are gone.
///
/// There is one table from this to an HTTP status (`http::problem`) and one to
/// what happens to an event (`events::policy`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The handler said that it may work later.
    #[error("{0}")]
    Retry(String),
    /// The same, and when to try again.
    #[error("{0}")]
    RetryAfter(String, Duration),
    /// The handler said that it will never work.
    #[error("{0}")]
    Reject(String),
    /// Kafka will never take what an event asked for.
    #[error("{0}")]
    Refused(String),
    /// The guest trapped.
    #[error("the handler trapped: {0}")]
    Trap(String),
    /// The guest ran into its memory limit and trapped.
    #[error("the handler needs more memory than limits.memory allows ({limit} bytes)")]
    Memory {
        /// The limit in bytes.
        limit: u64,
    },
    /// The guest ran longer than its limit.
    #[error("the handler ran longer than limits.time allows ({limit:?})")]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// No slot came free in time.
    #[error("all {limit} slots of limits.concurrency were busy for {waited:?} (limits.queue-time)")]
    Busy {
        /// The slots.
        limit: u32,
        /// How long it waited.
        waited: Duration,
    },
    /// No slot is free, and as many as may wait for one do.
    #[error("all slots of limits.concurrency are busy, and {limit} requests wait (limits.queue)")]
    Full {
        /// The limit.
        limit: u32,
    },
    /// Others have the memory, or the instances, that it needs.
    #[error("there is no memory or instance left for it at the moment ({})", limit.name())]
    Crowded {
        /// Which bound was hit.
        limit: Limit,
    },
    /// The state has not been complete on this host yet.
    #[error("the service's state is being restored on this host: {0}")]
    Restoring(String),
    /// The handler's answer is not a response.
    #[error("the handler's response is not valid: {0}")]
    Invalid(String),
    /// The handler's answer is larger than its limit.
    #[error("the handler's response has {size} bytes; limits.response allows {limit}")]
    ResponseTooLarge {
        /// The body's size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: u64,
    },
    /// No instance could be made: the host is out of a resource.
    #[error("no instance of the component could be made: {0}")]
    Instantiate(String),
}

impl Failure {
    /// A short name for metrics, logs and `tidemill invoke`.
    pub fn name(&self) -> &'static str {
        match self {
            Failure::Retry(_) | Failure::RetryAfter(..) => "retry",
            Failure::Reject(_) => "reject",
            Failure::Refused(_) => "refused",
            Failure::Trap(_) => "trap",
            Failure::Memory { .. } => "memory",
            Failure::Timeout { .. } => "timeout",
            Failure::Busy { .. } | Failure::Full { .. } => "busy",
            Failure::Crowded { .. } => "crowded",
            Failure::Restoring(_) => "restoring",
            Failure::Invalid(_) | Failure::ResponseTooLarge { .. } => "invalid",
            Failure::Instantiate(_) => "instantiate",
        }
    }

    /// Whether another revision might have done better.
    pub fn is_the_handlers(&self) -> bool {
        match self {
            Failure::Retry(_)
            | Failure::RetryAfter(..)
            | Failure::Reject(_)
            | Failure::Refused(_)
            | Failure::Trap(_)
            | Failure::Memory { .. }
            | Failure::Timeout { .. }
            | Failure::Invalid(_)
            | Failure::ResponseTooLarge { .. } => true,
            Failure::Busy { .. }
            | Failure::Full { .. }
            | Failure::Crowded { .. }
            | Failure::Restoring(_)
            | Failure::Instantiate(_) => false,
        }
    }

    /// The limit that it came to.
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Failure::Memory { .. } => Some(Limit::Memory),
            Failure::Timeout { .. } => Some(Limit::Time),
            Failure::Busy { .. } => Some(Limit::QueueTime),
            Failure::Full { .. } => Some(Limit::Queue),
            Failure::ResponseTooLarge { .. } => Some(Limit::Response),
            Failure::Crowded { limit } => Some(*limit),
            _ => None,
        }
    }

    /// What a call comes to, for metrics that are registered before it happens.
    pub const NAMES: [&'static str; 10] = [
        "retry",
        "reject",
        "trap",
        "memory",
        "timeout",
        "busy",
        "crowded",
        "restoring",
        "invalid",
        "instantiate",
    ];
}
