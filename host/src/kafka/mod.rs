//! The broker's side: the one folder that names rdkafka.
//!
//! `cluster` connects, to a real broker or to the embedded one; `health` is what
//! the clients notice of it, `tokens` what they authenticate with by OAUTHBEARER;
//! `topics` sees to it that topics exist; `publisher` sends events and waits until they are
//! acknowledged, those of requests by `batches`; `transactions` commits messages and offsets together;
//! `consumer` is one service's membership in its group, and `farewell` ends one
//! that was killed; `changelog` reads state, `past` other
//! records.
//! Decisions about offsets and failures are made elsewhere (`events`), without
//! rdkafka.

mod batches;
mod changelog;
mod cluster;
mod consumer;
mod embedded;
mod farewell;
mod health;
mod past;
mod polled;
mod properties;
mod publisher;
mod raw;
mod tokens;
mod topics;
mod transactions;

pub use changelog::{ChangelogReader, Entry};
pub use cluster::{Brokers, Cluster, KafkaError, Topics, version};
pub use consumer::{Change, Consumer, End, Ends, Queue, Received, Source, Trouble};
pub use farewell::{Membered, Members};
pub use health::Denial;
pub use publisher::{Placed, PublishError, Published, Publisher};
pub use raw::{Membership, partition_of};
pub use topics::{Found, changelog};
pub use transactions::{Aborted, Batch, Outcome, Transactor};
