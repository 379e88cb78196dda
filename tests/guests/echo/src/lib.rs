//! Publishes each event as it came, by the SDK: key, value and headers, and where it
//! came from in one more header, before them. A header that is null becomes one that
//! says so.
//!
//! Settings: `in` is the topic that it consumes, `out` the one that it publishes to.

use axum::Router;
use tidemill::{Event, Failure, Message, Topics, setting};

tidemill::service! { http: Router::new, events: topics }

/// What the service consumes.
pub fn topics() -> Topics {
    Topics::new().on(setting("in").unwrap_or_default(), echo)
}

async fn echo(event: Event<Option<Vec<u8>>>) -> Result<(), Failure> {
    let mut message = Message::new(setting("out").unwrap_or_default())
        .key(event.key.clone())
        .header("from", event.idempotency_key());
    if let Some(value) = &event.value {
        message = message.bytes(value.clone());
    }
    for (name, value) in &event.headers {
        message = match value {
            Some(value) => message.header(name, value.clone()),
            None => message.header(format!("{name} is null"), ""),
        };
    }
    message.publish()?;
    Ok(())
}
