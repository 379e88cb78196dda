//! What is said at most now and then, however often it happens: a client is not
//! to fill the host's log.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Lets something through at most once in a time.
pub(crate) struct Seldom {
    every: Duration,
    last: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    pub(crate) fn every(every: Duration) -> Seldom {
        Seldom {
            every,
            last: Mutex::new((None, 0)),
        }
    }

    /// How often it has happened since it was let through last, this time
    /// included, if it is to be let through now.
    pub(crate) fn is_due(&self) -> Option<u64> {
        let mut last = self.last.lock();
        let (at, count) = &mut *last;
        *count += 1;
        if at.is_some_and(|at| at.elapsed() < self.every) {
            return None;
        }
        *at = Some(Instant::now());
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_out_is_counted() {
        let seldom = Seldom::every(Duration::from_secs(3600));
        assert_eq!(seldom.is_due(), Some(1));
        assert_eq!(seldom.is_due(), None);
        assert_eq!(seldom.is_due(), None);
        seldom.last.lock().0 = None;
        assert_eq!(seldom.is_due(), Some(3));
    }
}
