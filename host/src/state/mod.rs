//! State: tables of bytes to bytes in shards, on this host's disk.
//!
//! `store` keeps committed rows and, in the same atomic write, how far they are.
//! `rows` says how rows are written down, here and in the changelog. `overlay`
//! holds rows of invocations that are not committed yet. `view` is what a handler
//! sees of both. `generations` tells which of several states is read.

pub mod generations;
pub mod overlay;
pub mod rows;
pub mod store;
pub mod view;

pub use generations::{NotReached, State};
pub use overlay::Overlay;
pub use rows::{Position, RowKey};
pub use store::{Claim, Commit, Store, StoreError, Tables};
pub use view::{Row, View, ViewError};
