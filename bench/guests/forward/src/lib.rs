//! Passes every event on. Its counterparts are `bench/src/bare.rs` and `bench/streams`.

use tidemill::{Event, Failure, Message, Topics};

tidemill::service! { events: topics }

/// What the service consumes.
pub fn topics() -> Topics {
    Topics::new().on("bench-in", forward)
}

async fn forward(event: Event<Vec<u8>>) -> Result<(), Failure> {
    Message::new("bench-out")
        .key(event.key)
        .bytes(event.value)
        .publish()?;
    Ok(())
}
