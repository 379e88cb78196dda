//! The one door to the host: everything else in this crate is written against
//! these few functions. In a component they are the imports of `wit/`; natively
//! they are the double that [`crate::test`] drives.

#[cfg(target_arch = "wasm32")]
mod batch;
#[cfg(target_arch = "wasm32")]
pub mod bindings;
#[cfg(target_arch = "wasm32")]
pub(crate) mod calls;
#[cfg(target_arch = "wasm32")]
mod component;
#[cfg(target_arch = "wasm32")]
pub(crate) use component::{delete, get, get_all, publish, put, scan, setting};

#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod double;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use double::{delete, get, get_all, publish, put, scan, setting};

/// A Kafka record header.
pub(crate) type Header = (String, Option<Vec<u8>>);

/// A row as the host gives it.
pub(crate) struct RawRow {
    pub(crate) shard: u32,
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
}

/// An event as the host gives it.
#[derive(Clone, Debug)]
pub(crate) struct RawEvent {
    pub(crate) topic: String,
    pub(crate) partition: u32,
    pub(crate) offset: u64,
    pub(crate) timestamp: Option<u64>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<Header>,
    pub(crate) attempt: u32,
}
