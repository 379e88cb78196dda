//! Counts events per key, and publishes each new count. With other settings
//! (`does`) it publishes none of them, or counts nothing: then it shows what an
//! event costs whatever is done with it. Its counterparts are `bench/src/bare.rs`
//! and `bench/streams`.

use std::sync::LazyLock;

use tidemill::{Event, Failure, Message, Table, Topics, setting};

static COUNTS: Table<u64> = Table::new("counts");
static DOES: LazyLock<Does> = LazyLock::new(|| match setting("does").as_deref() {
    Some("nothing") => Does::Nothing,
    Some("count") => Does::Count,
    _ => Does::Publish,
});

#[derive(PartialEq)]
enum Does {
    Nothing,
    Count,
    Publish,
}

tidemill::service! { events: topics }

/// What the service consumes.
pub fn topics() -> Topics {
    Topics::new().on("bench-in", count)
}

async fn count(event: Event<Vec<u8>>) -> Result<(), Failure> {
    if *DOES == Does::Nothing {
        return Ok(());
    }
    let key = event.key.unwrap_or_default();
    let count = COUNTS.get(&key)?.unwrap_or(0) + 1;
    COUNTS.put(&key, &count)?;
    if *DOES == Does::Publish {
        Message::new("bench-out")
            .key(key)
            .bytes(count.to_string())
            .publish()?;
    }
    Ok(())
}
