//! The guest side: compiling, checking, instantiating and calling components.
//!
//! This is the one folder that names wasmtime. It knows nothing of HTTP
//! listeners, Kafka or deployments: it gets bytes and a manifest, and gives a
//! checked [`Component`] whose instances run one invocation at a time.

mod batch;
mod bindings;
mod cache;
mod compiler;
mod component;
mod context;
mod engine;
mod feed;
mod instance;
mod memory;
mod output;
mod pool;
mod slices;
mod turns;

pub use compiler::{Compiler, run as compile};
/// The version of wasmtime.
pub const VERSION: &str = wasmtime_environ::VERSION;

pub use component::{Compiled, Component, LoadError};
pub use engine::{Bounds, Runtime};
pub(crate) use engine::{hex, recognise};
pub use feed::{Feed, Given};
pub use instance::Instance;
pub(crate) use instance::{Called, is_hop_by_hop};
pub(crate) use memory::BodyMemory;
