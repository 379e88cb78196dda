//! Counts events per key and publishes each new count. Its counterparts are
//! `bench/src/bare.rs` and `bench/streams`.

use tidemill::{Event, Failure, Message, Table, Topics};

static COUNTS: Table<u64> = Table::new("counts");

tidemill::service! { events: topics }

/// What the service consumes.
pub fn topics() -> Topics {
    Topics::new().on("bench-in", count)
}

async fn count(event: Event<Vec<u8>>) -> Result<(), Failure> {
    let key = event.key.unwrap_or_default();
    let count = COUNTS.get(&key)?.unwrap_or(0) + 1;
    COUNTS.put(&key, &count)?;
    Message::new("bench-out")
        .key(key)
        .bytes(count.to_string())
        .publish()?;
    Ok(())
}
