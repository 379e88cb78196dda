//! The broker's side: the one folder that names rdkafka.
//!
//! `cluster` connects, to a real broker or to the embedded one; `topics` sees
//! to it that topics exist; `publisher` sends events and waits until they are
//! acknowledged; `consumer` is one service's membership in its group. Decisions
//! about offsets and failures are made elsewhere (`events`), without rdkafka.

mod cluster;
mod consumer;
mod embedded;
mod properties;
mod publisher;
mod topics;

pub use cluster::{Brokers, Cluster, KafkaError, Topics};
pub use consumer::{Change, Consumer, Ends, Queue, Received, Source};
pub use publisher::{PublishError, Publisher};
