//! What the end-to-end tests need: a real Kafka, hosts, clients and components.
//!
//! Tests run against the built `tidemill` and never against the host's crate:
//! what they hold is what a user sees. They run in parallel, wait for conditions
//! and not for time, and never retry. Whatever they start ends with them, also
//! when they are killed.
//!
//! Everything here panics with a message when the environment is not as needed:
//! a test that cannot run has failed.

#![allow(
    clippy::unwrap_used,
    clippy::result_large_err,
    reason = "a harness fails its test by panicking, and shows the answer that it got"
)]

mod access;
mod collector;
mod compiled;
mod component;
mod core;
mod counting;
mod fleet;
mod folder;
pub mod frames;
mod host;
mod http;
mod kafka;
mod posting;
mod process;
mod proxy;
mod secured;
mod tokens;
mod topics;
mod transaction;
mod usage;
mod wait;
mod wire;

pub use crate::core::CoreHttp;
pub use access::{Operation, Resource, Rule};
pub use collector::{Answers, Collector, Span};
pub use component::{Component, Manifest, seed};
pub use counting::{Counting, in_order};
pub use fleet::{Dice, Fleet};
pub use folder::{Folder, components, copy, h2spec, root, target, tidemill, venv};
pub use host::{Builder, Host};
pub use http::{Client, Reply};
pub use kafka::Kafka;
pub use posting::Posted;
pub use process::{Process, builds_soon, run};
pub use proxy::{Api, Fault, Network, Proxy};
pub use rustix::process::Signal;
pub use secured::{Door, Secured};
pub use tokens::{TokenEndpoint, unsecured_token};
pub use topics::{Record, Topics};
pub use transaction::Transaction;
pub use usage::{Usage, may_open};
pub use wait::{Deadline, eventually, unique};
