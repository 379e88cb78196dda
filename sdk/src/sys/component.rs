//! The imports of a component.

use super::bindings::imports::tidemill::service::{publisher, state, types};
use super::bindings::imports::wasi::config::store;
use super::{Header, RawRow};
use crate::publish::{Message, PublishError};
use crate::state::StateError;

pub(crate) fn publish(message: Message) -> Result<(), PublishError> {
    let message = publisher::Message {
        topic: message.topic,
        key: message.key,
        value: message.value,
        headers: message.headers.into_iter().map(header).collect(),
    };
    publisher::publish(&message).map_err(|error| match error {
        publisher::Error::NotGranted(text) => PublishError::NotGranted(text),
        publisher::Error::TooLarge(text) => PublishError::TooLarge(text),
        publisher::Error::TooMany(text) => PublishError::TooMany(text),
    })
}

fn header((name, value): Header) -> types::Header {
    types::Header { name, value }
}

pub(crate) fn get(table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
    state::get(table, key).map_err(state_error)
}

pub(crate) fn get_all(table: &str, key: &[u8]) -> Result<Vec<RawRow>, StateError> {
    state::get_all(table, key).map(rows).map_err(state_error)
}

pub(crate) fn put(table: &str, key: &[u8], value: &[u8]) -> Result<(), StateError> {
    state::put(table, key, value).map_err(state_error)
}

pub(crate) fn delete(table: &str, key: &[u8]) -> Result<(), StateError> {
    state::delete(table, key).map_err(state_error)
}

pub(crate) fn scan(
    table: &str,
    start: Option<&[u8]>,
    end: Option<&[u8]>,
    limit: u32,
    reverse: bool,
) -> Result<Vec<RawRow>, StateError> {
    let range = state::Range {
        start: start.map(<[u8]>::to_vec),
        end: end.map(<[u8]>::to_vec),
        limit,
        reverse,
    };
    state::scan(table, &range).map(rows).map_err(state_error)
}

pub(crate) fn setting(key: &str) -> Option<String> {
    // Settings come from the manifest, which is read before a handler runs:
    // neither of the interface's errors can happen.
    store::get(key).ok().flatten()
}

fn rows(rows: Vec<state::Row>) -> Vec<RawRow> {
    rows.into_iter()
        .map(|row| RawRow {
            shard: row.shard,
            key: row.key,
            value: row.value,
        })
        .collect()
}

fn state_error(error: state::Error) -> StateError {
    match error {
        state::Error::NotGranted(text) => StateError::NotGranted(text),
        state::Error::ReadOnly(text) => StateError::ReadOnly(text),
        state::Error::SeveralShards(text) => StateError::SeveralShards(text),
        state::Error::Invalid(text) => StateError::Invalid(text),
        state::Error::TooMany(text) => StateError::TooMany(text),
        state::Error::Unavailable(text) => StateError::Unavailable(text),
    }
}
