//! Rust types of the WIT contract, made by wasmtime's `bindgen!`.
//!
//! Each export is a world of its own, since each is optional. Only the types of
//! these are used. Calls go through typed functions, since `call_async` traps a guest that
//! waits for nothing, and returns only when the guest's task has come to rest.

/// Imports that the host implements: publisher, state and where events come from.
pub(super) mod imports {
    wasmtime::component::bindgen!({
        path: "../wit",
        inline: "
            package tidemill:host;
            world linked {
                import tidemill:service/publisher@0.1.0;
                import tidemill:service/state@0.1.0;
                import tidemill:service/event-source@0.1.0;
            }
        ",
        world: "tidemill:host/linked",
    });
}

/// The HTTP handler.
pub(super) mod http {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "http-handler",
    });
}

/// The event handler. Its types are those of the imports.
pub(super) mod events {
    pub(in super::super) use super::imports::tidemill::service::types::{Event, Failure, Header};
}
