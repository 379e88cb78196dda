//! Events: what a handler of a topic takes, and how it can fail.

use std::any::{Any, TypeId};
use std::error::Error;
use std::pin::Pin;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::de::value::UnitDeserializer;

use crate::publish::PublishError;
use crate::state::{Position, StateError};
use crate::sys::{Header, RawEvent};

/// One event: a Kafka record, with its value as a `T`.
///
/// `T` says what the handler takes:
///
/// | `T` | a value | no value (a tombstone) |
/// |---|---|---|
/// | any type that serde reads | read as JSON, or the event is rejected | rejected |
/// | [`RawJson`](crate::RawJson), [`JsonObject`](crate::JsonObject) | JSON as it was written | rejected |
/// | `Vec<u8>` | the bytes, whatever they are | rejected |
/// | `Option` of any of these | the same (but JSON's `null` is none as well) | `None` |
#[derive(Clone, Debug)]
pub struct Event<T> {
    /// The topic it was read from.
    pub topic: String,
    /// The partition of that topic.
    pub partition: u32,
    /// The offset in that partition.
    pub offset: u64,
    /// Milliseconds since the Unix epoch, if the record carries a time.
    pub timestamp: Option<u64>,
    /// The key, if there is one. See [`key_str`](Self::key_str).
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: T,
    /// Names and values of the headers, in order. A value may be null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// 1 the first time the event is run, 2 on the first retry, and so on.
    pub attempt: u32,
}

impl<T> Event<T> {
    /// The key as text; none if there is no key, or one that is not UTF-8.
    pub fn key_str(&self) -> Option<&str> {
        std::str::from_utf8(self.key.as_deref()?).ok()
    }

    /// The value of the first header of this name; none if there is no such
    /// header or its value is null.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let (_, value) = self.headers.iter().find(|(other, _)| other == name)?;
        value.as_deref()
    }

    /// The event's place, which names it for ever.
    pub fn position(&self) -> Position {
        Position {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
        }
    }

    /// Text that is the same whenever this event is run, and of no other event:
    /// `topic/partition@offset`. For calls that must not happen twice.
    pub fn idempotency_key(&self) -> String {
        self.position().to_string()
    }

    /// The same event with another value.
    pub fn map<U>(self, into: impl FnOnce(T) -> U) -> Event<U> {
        Event {
            topic: self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp: self.timestamp,
            key: self.key,
            value: into(self.value),
            headers: self.headers,
            attempt: self.attempt,
        }
    }
}

/// Why an event could not be handled. Nothing of what the handler published or
/// stored happens then.
///
/// `?` makes one of any error: a [`Retry`](Self::Retry), but for what the SDK
/// knows will never work. For your own: [`Failure::retry`],
/// [`Failure::retry_after`], [`Failure::reject`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It may work later: the event is run again, in its place, after a pause
    /// that grows from 100 ms to 30 s, and at most ten times in all (unless
    /// `[subscribe.retry]` says otherwise). Events behind it in its partition
    /// wait.
    Retry(String),
    /// The same, after a pause that the handler names: an hour at most.
    RetryAfter(String, Duration),
    /// It will never work: the event becomes a dead letter at once.
    Reject(String),
}

impl Failure {
    /// It may work later.
    pub fn retry(why: impl Into<String>) -> Self {
        Self::Retry(why.into())
    }

    /// It may work after a pause, such as the one that a `retry-after` asks for.
    pub fn retry_after(why: impl Into<String>, pause: Duration) -> Self {
        Self::RetryAfter(why.into(), pause)
    }

    /// It will never work.
    pub fn reject(why: impl Into<String>) -> Self {
        Self::Reject(why.into())
    }

    /// Why.
    pub fn reason(&self) -> &str {
        match self {
            Self::Retry(why) | Self::RetryAfter(why, _) | Self::Reject(why) => why,
        }
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut why = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            why = format!("{why}: {cause}");
            source = cause.source();
        }
        let any: &dyn Any = &error;
        let never = match (any.downcast_ref(), any.downcast_ref()) {
            // A grant can be added, and then the event goes through.
            (Some(publish), _) => !matches!(publish, PublishError::NotGranted(_)),
            (_, Some(state)) => !matches!(
                state,
                StateError::NotGranted(_) | StateError::Unavailable(_)
            ),
            _ => false,
        };
        if never {
            Self::Reject(why)
        } else {
            Self::Retry(why)
        }
    }
}

type Outcome = Result<(), Failure>;
type Running = Pin<Box<dyn Future<Output = Outcome>>>;
type Handler = Box<dyn Fn(RawEvent) -> Running>;

/// Which function handles the events of which topic.
///
/// ```
/// use tidemill::{Event, Failure, Topics};
///
/// #[derive(serde::Deserialize)]
/// struct Parcel {
///     weight: u32,
/// }
///
/// async fn weigh(parcel: Event<Parcel>) -> Result<(), Failure> {
///     if parcel.value.weight == 0 {
///         return Err(Failure::reject("a parcel without weight"));
///     }
///     Ok(())
/// }
///
/// pub fn topics() -> Topics {
///     Topics::new().on("parcels", weigh)
/// }
/// ```
///
/// The manifest subscribes to the same topics (`[[subscribe]]`).
#[derive(Default)]
#[must_use]
pub struct Topics {
    handlers: Vec<(String, Handler)>,
}

impl Topics {
    /// No topic yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Events of `topic` go to `handler`, an async function of one
    /// [`Event<T>`](Event). An event whose value is not a `T` is rejected, with
    /// what is wrong; the handler isn't called then.
    ///
    /// # Panics
    /// If the topic has a handler already.
    pub fn on<T, H, F>(mut self, topic: impl Into<String>, handler: H) -> Self
    where
        T: DeserializeOwned + 'static,
        H: Fn(Event<T>) -> F + 'static,
        F: Future<Output = Outcome> + 'static,
    {
        let topic = topic.into();
        assert!(
            self.find(&topic).is_none(),
            "two handlers for the topic {topic}"
        );
        let handler: Handler = Box::new(move |event| match typed(event) {
            Ok(event) => Box::pin(handler(event)),
            Err(failure) => Box::pin(std::future::ready(Err(failure))),
        });
        self.handlers.push((topic, handler));
        self
    }

    /// The topics that have a handler.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.handlers.iter().map(|(topic, _)| topic.as_str())
    }

    fn find(&self, topic: &str) -> Option<&Handler> {
        self.handlers
            .iter()
            .find(|(other, _)| other == topic)
            .map(|(_, handler)| handler)
    }

    pub(crate) async fn handle(&self, event: RawEvent) -> Outcome {
        match self.find(&event.topic) {
            Some(handler) => handler(event).await,
            None => Err(Failure::Reject(format!(
                "no handler for the topic {}: add `.on(\"{0}\", …)` to the service's topics, \
                 or take the topic out of its manifest",
                event.topic
            ))),
        }
    }
}

fn typed<T: DeserializeOwned + 'static>(event: RawEvent) -> Result<Event<T>, Failure> {
    let value = decode(event.value).map_err(|why| {
        Failure::Reject(format!(
            "{}/{}@{}: {why}",
            event.topic, event.partition, event.offset
        ))
    })?;
    let headers: Vec<Header> = event.headers;
    Ok(Event {
        topic: event.topic,
        partition: event.partition,
        offset: event.offset,
        timestamp: event.timestamp,
        key: event.key,
        value,
        headers,
        attempt: event.attempt,
    })
}

fn decode<T: DeserializeOwned + 'static>(value: Option<Vec<u8>>) -> Result<T, String> {
    // Bytes are taken as they are, not as a JSON array of numbers.
    let wanted = TypeId::of::<T>();
    if wanted == TypeId::of::<Option<Vec<u8>>>() {
        return cast(value);
    }
    let Some(bytes) = value else {
        // Serde's "nothing": an `Option` is none, any other type refuses it.
        let nothing = UnitDeserializer::<serde::de::value::Error>::new();
        return T::deserialize(nothing).map_err(|_| {
            "it has no value (a tombstone), and its handler takes none: \
                          `Event<Option<…>>` does"
                .to_owned()
        });
    };
    if wanted == TypeId::of::<Vec<u8>>() {
        return cast(bytes);
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| format!("its value is not UTF-8 at byte {}", error.valid_up_to()))?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let why = error.into_inner();
        match path.as_str() {
            _ if why.is_syntax() || why.is_eof() => format!("its value is not JSON: {why}"),
            "." => format!("its value is not what the handler takes: {why}"),
            path => format!("its value is not what the handler takes: `{path}`: {why}"),
        }
    })?;
    reader
        .end()
        .map_err(|why| format!("its value is not JSON: {why}"))?;
    Ok(value)
}

/// `value` as a `B`, which the caller knows it to be.
fn cast<A: 'static, B: 'static>(value: A) -> Result<B, String> {
    let mut value = Some(value);
    let any: &mut dyn Any = &mut value;
    any.downcast_mut::<Option<B>>()
        .and_then(Option::take)
        .ok_or_else(|| "its value is of another type".to_owned())
}
