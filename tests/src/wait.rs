//! Waiting for conditions, and names that no other test has.

use std::fmt::Debug;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a condition may take to come true. Long, since it is only spent
/// when a test fails, and machines that run tests are slow at times.
const PATIENCE: Duration = Duration::from_secs(120);

/// A point in time until which something is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// As long as any condition may take.
    #[must_use]
    pub fn usual() -> Self {
        Self::after(PATIENCE)
    }

    /// After a time.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// Whether it is over.
    #[must_use]
    pub fn passed(&self) -> bool {
        Instant::now() >= self.0
    }
}

/// Asks until the answer is `Ok`, and panics with the last other answer when
/// that takes too long.
///
/// # Panics
/// When the time is over.
pub fn eventually<T, E: Debug>(what: &str, mut ask: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Deadline::usual();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if deadline.passed() => {
                panic!("waited {PATIENCE:?} in vain: {what}; last: {last:#?}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A name that no other test of this run has, and that is a service's name, a
/// topic and a path segment.
#[must_use]
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{name}-{}-{number}", std::process::id())
}
