//! Counts events per key, and publishes each new count or, with
//! `publish = "none"` under `[settings]`, none of them. Its counterparts are
//! `bench/src/bare.rs` and `bench/streams`.

use std::sync::LazyLock;

use tidemill::{Event, Failure, Message, Table, Topics, setting};

static COUNTS: Table<u64> = Table::new("counts");
static PUBLISHES: LazyLock<bool> = LazyLock::new(|| setting("publish").as_deref() != Some("none"));

tidemill::service! { events: topics }

/// What the service consumes.
pub fn topics() -> Topics {
    Topics::new().on("bench-in", count)
}

async fn count(event: Event<Vec<u8>>) -> Result<(), Failure> {
    let key = event.key.unwrap_or_default();
    let count = COUNTS.get(&key)?.unwrap_or(0) + 1;
    COUNTS.put(&key, &count)?;
    if *PUBLISHES {
        Message::new("bench-out")
            .key(key)
            .bytes(count.to_string())
            .publish()?;
    }
    Ok(())
}
