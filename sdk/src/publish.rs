//! Publishing events.

use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::problem::Problem;
use crate::sys::{self, Header};

/// Publishes `value` as JSON to `topic`, under `key`.
///
/// Nothing leaves the host while the handler runs: the event is published when
/// it succeeds, together with everything else that it did, and not at all when
/// it fails. Events with one key go to one partition and keep their order.
///
/// ```
/// # #[derive(serde::Serialize)] struct Parcel { weight: u32 }
/// # fn main() -> Result<(), tidemill::PublishError> {
/// tidemill::publish("parcels", "parcel-7", &Parcel { weight: 1200 })?;
/// # Ok(()) }
/// ```
///
/// For an event without a key, with headers, without a value or with bytes of
/// your own, see [`Message`].
///
/// # Errors
/// If the host doesn't take the message, or `value` has no JSON form. Nothing
/// was noted down then; the handler may go on without it.
pub fn publish(
    topic: &str,
    key: impl IntoKey,
    value: &(impl Serialize + ?Sized),
) -> Result<(), PublishError> {
    Message::new(topic).key(key).json(value)?.publish()
}

/// Publishes `value` as it is to `topic`, under `key`. See [`publish`].
///
/// # Errors
/// If the host doesn't take the message.
pub fn publish_bytes(
    topic: &str,
    key: impl IntoKey,
    value: impl Into<Vec<u8>>,
) -> Result<(), PublishError> {
    Message::new(topic).key(key).bytes(value).publish()
}

/// A Kafka record to publish. Without a key it goes to any partition; without a
/// value it is a tombstone.
///
/// ```
/// use tidemill::Message;
///
/// # fn main() -> Result<(), tidemill::PublishError> {
/// Message::new("parcels")
///     .key("parcel-7")
///     .json(&["lost"])?
///     .header("source", "front desk")
///     .publish()?;
/// // Forgets it: a tombstone.
/// Message::new("parcels").key("parcel-7").publish()?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a message is published by its `publish()`"]
pub struct Message {
    pub(crate) topic: String,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<Header>,
}

impl Message {
    /// A message to `topic`, which the manifest must grant (`grants.publish`).
    pub fn new(topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            key: None,
            value: None,
            headers: Vec::new(),
        }
    }

    /// Sets the key: text or bytes, or an `Option` of them.
    pub fn key(mut self, key: impl IntoKey) -> Self {
        self.key = key.into_key();
        self
    }

    /// Sets the value, to the JSON form of `value`.
    ///
    /// # Errors
    /// If it has none, such as a map whose keys are not text.
    pub fn json(mut self, value: &(impl Serialize + ?Sized)) -> Result<Self, PublishError> {
        self.value = Some(serde_json::to_vec(value).map_err(PublishError::NotJson)?);
        Ok(self)
    }

    /// Sets the value, as it is.
    pub fn bytes(mut self, value: impl Into<Vec<u8>>) -> Self {
        self.value = Some(value.into());
        self
    }

    /// Adds a header. A name may occur more than once.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), Some(value.into())));
        self
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The key's bytes, if there is a key.
    pub fn key_bytes(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The value's bytes; none for a tombstone.
    pub fn value_bytes(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    /// Names and values of the headers, in order. A value may be null.
    pub fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    /// Hands the message to the host, to be published when the handler
    /// succeeds.
    ///
    /// # Errors
    /// If the host doesn't take it.
    pub fn publish(self) -> Result<(), PublishError> {
        sys::publish(self)
    }
}

/// What can be the key of an event: text, bytes, or an `Option` of them.
pub trait IntoKey {
    /// The key's bytes; none for an event without a key.
    fn into_key(self) -> Option<Vec<u8>>;
}

macro_rules! into_key {
    ($($type:ty),*) => {$(
        impl IntoKey for $type {
            fn into_key(self) -> Option<Vec<u8>> {
                Some(self.into())
            }
        }
    )*};
}

into_key!(&str, String, &[u8], Vec<u8>);

impl IntoKey for &String {
    fn into_key(self) -> Option<Vec<u8>> {
        self.as_str().into_key()
    }
}

impl<const N: usize> IntoKey for &[u8; N] {
    fn into_key(self) -> Option<Vec<u8>> {
        Some(self.to_vec())
    }
}

impl<K: IntoKey> IntoKey for Option<K> {
    fn into_key(self) -> Option<Vec<u8>> {
        self.and_then(IntoKey::into_key)
    }
}

/// Why a message was not taken. Nothing was noted down.
///
/// As an answer to a request it is a problem document: 413 for a message that
/// is too large, 500 for the rest. As the failure of an event handler it is a
/// retry where the manifest can mend it (not granted), else a reject.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The manifest does not grant the topic; the text says what to add.
    #[error("{0}")]
    NotGranted(String),
    /// Key, value and headers together are larger than the manifest's
    /// `limits.event`; the text has both sizes in bytes.
    #[error("{0}")]
    TooLarge(String),
    /// The invocation has more effects than `limits.effects` allows.
    #[error("{0}")]
    TooMany(String),
    /// The value has no JSON form.
    #[error("The value to publish has no JSON form: {0}")]
    NotJson(#[source] serde_json::Error),
}

impl IntoResponse for PublishError {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
