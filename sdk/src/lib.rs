//! The SDK for Tidemill services.
//!
//! A service is a WASM component with one or both of two handlers: an axum
//! router for HTTP and async functions for events. [`service!`] makes the
//! component out of them:
//!
//! ```
//! use tidemill::{Event, Failure, Json, Table, Topics};
//! use utoipa_axum::{router::OpenApiRouter, routes};
//!
//! static GREETED: Table<u64> = Table::new("greeted");
//!
//! tidemill::service! { http: routes, events: topics }
//!
//! pub fn routes() -> OpenApiRouter {
//!     OpenApiRouter::new().routes(routes!(greet))
//! }
//!
//! /// Greets, and remembers whom.
//! #[utoipa::path(post, path = "/greet/{name}")]
//! async fn greet(name: axum::extract::Path<String>) -> Result<Json<String>, tidemill::Problem> {
//!     tidemill::publish("greetings", &*name, &format!("hello {}", *name))?;
//!     Ok(Json(format!("hello {}", *name)))
//! }
//!
//! pub fn topics() -> Topics {
//!     Topics::new().on("greetings", count)
//! }
//!
//! /// Counts the greetings of each name.
//! async fn count(greeting: Event<String>) -> Result<(), Failure> {
//!     let name = greeting.key_str().ok_or_else(|| Failure::reject("no name"))?;
//!     let before = GREETED.get(name)?.unwrap_or(0);
//!     Ok(GREETED.put(name, &(before + 1))?)
//! }
//! ```
//!
//! An invocation is a transaction. What a handler publishes and stores is noted
//! down by the host and committed when it succeeds: for an event together with
//! the event's offset, for a request before the response is sent. When it fails,
//! nothing of it has happened. So a handler can always be run again, and needs
//! no clean-up code.
//!
//! Built natively, as `cargo test` does, everything here runs on an in-memory
//! double of the host: see [`mod@test`].

// The macros name this crate as their users do.
#[allow(unused_extern_crates)]
extern crate self as tidemill;

mod body;
mod event;
mod json;
#[cfg(any(target_arch = "wasm32", test))]
mod logging;
#[cfg(any(all(target_arch = "wasm32", feature = "allocator"), test))]
mod memory;
mod paging;
pub mod position;
mod problem;
mod publish;
mod service;
mod settings;
mod state;
mod sys;

#[cfg(not(target_arch = "wasm32"))]
pub mod test;

pub use body::{Json, JsonObject};
pub use event::{Event, Failure, Topics};
/// Logging: `tidemill::log::warn!("…")` is a line of the host's log, with that level.
pub use log;

pub use json::{JsonError, RawJson};
pub use paging::Paging;
pub use problem::{Invalid, Problem};
pub use publish::{IntoKey, Message, PublishError, publish, publish_bytes};
pub use service::HttpService;
pub use settings::setting;
pub use state::{Cursor, Item, Log, Page, Position, Row, Scan, StateError, Table};
pub use state::{Entry, Last, Max, Merge, MergedScan, MergedTable, Sequenced, Sum};

/// The guide's examples are tests, too.
#[cfg(doctest)]
#[doc = include_str!("../../docs/sdk.md")]
struct Guide;

/// What [`service!`] expands to. Not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::service::{About, Routes};
    #[cfg(target_arch = "wasm32")]
    pub use crate::sys::bindings;
    #[cfg(target_arch = "wasm32")]
    pub use crate::sys::calls::{answer, consume, pull};
    #[cfg(target_arch = "wasm32")]
    pub use wit_bindgen;
}
