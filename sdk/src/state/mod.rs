//! State: typed tables, tables that are merged over shards, and logs of what was
//! consumed.

mod cursor;
mod log;
mod merge;
mod table;

pub use cursor::Cursor;
pub use log::{Item, Log, Page, Position};
pub use merge::{Entry, Last, Max, Merge, MergedScan, MergedTable, Sequenced, Sum};
pub use table::{Row, Scan, Table};

use std::any::{Any, TypeId};

use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::json::RawJson;
use crate::problem::Problem;

/// Why state could not be read or written.
///
/// As an answer to a request it is a problem document: 422 for a cursor of
/// another list, 503 if the store failed, 500 for the rest. As the failure of an
/// event handler it is a retry where that can help (not granted, unavailable),
/// else a reject.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The manifest does not grant state; the text says what to add.
    #[error("{0}")]
    NotGranted(String),
    /// A write from an HTTP handler: publish an event instead, and write when it
    /// is consumed.
    #[error("{0}")]
    ReadOnly(String),
    /// The key has a row in several shards: use `get_all`, declare the table with
    /// a merge ([`MergedTable`]), or publish what it is made of again under this
    /// key and keep it there.
    #[error("{0}")]
    SeveralShards(String),
    /// A table name that is not 1 to 64 of `a-z`, `0-9`, `-` and `_`, an empty
    /// key, a key over 64 KiB, a value over `limits.event`, a limit out of
    /// range.
    #[error("{0}")]
    Invalid(String),
    /// The invocation has more effects than `limits.effects` allows.
    #[error("{0}")]
    TooMany(String),
    /// The host's store failed.
    #[error("{0}")]
    Unavailable(String),
    /// The cursor is of another table or log.
    #[error("the cursor belongs to another list than {0}")]
    ForeignCursor(&'static str),
    /// The value has no JSON form.
    #[error("a value for the table {table} has no JSON form: {source}")]
    Encode {
        /// The table.
        table: &'static str,
        /// What serde says.
        source: serde_json::Error,
    },
    /// A row is not what this revision of the service takes it for.
    #[error("a row of the table {table} can't be read: {source}")]
    Decode {
        /// The table.
        table: &'static str,
        /// What serde says.
        source: serde_json::Error,
    },
}

impl IntoResponse for StateError {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}

fn encode<V: Serialize>(
    table: &'static str,
    value: &V,
    out: &mut Vec<u8>,
) -> Result<(), StateError> {
    serde_json::to_writer(out, value).map_err(|source| StateError::Encode { table, source })
}

fn decode<V: DeserializeOwned + 'static>(
    table: &'static str,
    bytes: &[u8],
) -> Result<V, StateError> {
    // What was stored as raw JSON is compact already.
    let value = if TypeId::of::<V>() == TypeId::of::<RawJson>() {
        RawJson::from_stored(bytes).map(|json| {
            let mut json = Some(json);
            let any: &mut dyn Any = &mut json;
            any.downcast_mut::<Option<V>>().and_then(Option::take)
        })
    } else {
        serde_json::from_slice(bytes).map(Some)
    };
    match value {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(StateError::Invalid(format!(
            "a row of {table} is of another type"
        ))),
        Err(source) => Err(StateError::Decode { table, source }),
    }
}
