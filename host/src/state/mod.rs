//! State: tables of bytes to bytes in shards, on this host's disk.
//!
//! `store` keeps committed rows and, in the same atomic write, the offset that
//! they reach. `overlay` holds rows of invocations that are not committed yet.
//! `view` is what a handler sees of both.

pub mod overlay;
pub mod store;
pub mod view;

pub use overlay::Overlay;
pub use store::{Commit, Store, StoreError, Tables};
pub use view::{Row, View, ViewError};
