//! How much the guests of a service may log: a bucket of bytes that fills up
//! again with time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Bytes a second, in the long run: half a thousand short lines.
pub(crate) const RATE: u64 = 128 << 10;
/// Bytes at once.
const BURST: u64 = 1 << 20;
/// What a line counts beside its text.
const LINE: u64 = 192;
/// How often it is said that lines are dropped.
const SAID: Duration = Duration::from_secs(10);

/// Whether a line is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// It is.
    Logged,
    /// It is not.
    Dropped,
    /// It is not, and it is time to say so.
    Say {
        /// How many were dropped so far.
        dropped: u64,
    },
}

/// What is left.
#[derive(Default)]
pub(crate) struct Quota {
    bucket: Mutex<Bucket>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Bucket {
    /// Bytes that were taken and have not filled up again.
    taken: u64,
    at: Option<Instant>,
    said: Option<Instant>,
}

impl Quota {
    /// Lines that were dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes a line of so many bytes.
    pub(crate) fn take(&self, bytes: usize, now: Instant) -> Pass {
        let mut bucket = self.bucket.lock();
        bucket.fill(now);
        let cost = bytes as u64 + LINE;
        if bucket.taken + cost <= BURST {
            bucket.taken += cost;
            return Pass::Logged;
        }
        let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        let said = bucket.said.map(|said| now.saturating_duration_since(said));
        if said.is_some_and(|since| since < SAID) {
            return Pass::Dropped;
        }
        bucket.said = Some(now);
        Pass::Say { dropped }
    }
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at.unwrap_or(now));
        let filled = since.as_micros() * u128::from(RATE) / 1_000_000;
        // Less than a byte is left for next time.
        if filled > 0 || self.at.is_none() {
            self.taken = self
                .taken
                .saturating_sub(filled.try_into().unwrap_or(u64::MAX));
            self.at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_logs_without_end_logs_a_bounded_amount() {
        let quota = Quota::default();
        let begin = Instant::now();
        let mut logged = 0;
        let mut said = 0;
        // 100 seconds, 10,000 lines of 300 bytes a second.
        for line in 0..1_000_000_u64 {
            match quota.take(300, begin + Duration::from_micros(line * 100)) {
                Pass::Logged => logged += 1,
                Pass::Dropped => {}
                Pass::Say { .. } => said += 1,
            }
        }
        let bytes = logged * (300 + LINE);
        let allowed = BURST + 100 * RATE;
        assert!(bytes <= allowed && bytes > allowed * 9 / 10, "{bytes}");
        assert_eq!(quota.dropped(), 1_000_000 - logged);
        assert!((9..=11).contains(&said), "{said}");
    }

    #[test]
    fn a_quiet_guest_may_log_a_burst_again() {
        let quota = Quota::default();
        let begin = Instant::now();
        let half = usize::try_from(BURST / 2).unwrap();
        assert_eq!(quota.take(half, begin), Pass::Logged);
        assert_eq!(quota.take(half, begin), Pass::Say { dropped: 1 });
        let later = begin + Duration::from_secs(8);
        assert_eq!(quota.take(half, later), Pass::Logged);
    }
}
