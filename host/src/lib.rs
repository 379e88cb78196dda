//! The Tidemill host: it bridges HTTP and Kafka to services that are WASM
//! components. ARCHITECTURE.md says how the parts fit.

pub mod effects;
pub mod invocation;
pub mod kafka;
pub mod runtime;
pub mod state;

#[cfg(test)]
mod testing;
