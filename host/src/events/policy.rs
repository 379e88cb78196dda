//! What happens to an event that failed: the one table.
//!
//! Until there are dead letters, every failure ends in the same place: the event
//! is run again, where it is, and what is behind it in its partition waits.

use std::time::Duration;

use tidemill_cli::api::Status;

use crate::invocation::Failure;

/// The first pause.
pub const BASE: Duration = Duration::from_millis(100);
/// The longest pause.
pub const CAP: Duration = Duration::from_secs(30);
/// From this many failures on a partition is called blocked.
pub const BLOCKED: u32 = 5;

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// How long to wait before the event is run again.
    pub pause: Duration,
    /// What to call the partition meanwhile.
    pub status: Status,
}

/// Decides about an event that has failed `failures` times in a row. `jitter`,
/// from 0 to 1, spreads retries of many partitions: up to a quarter is taken off
/// the pause.
pub fn verdict(failure: &Failure, failures: u32, jitter: f64) -> Verdict {
    let doublings = failures.saturating_sub(1).min(20);
    let pause = BASE.saturating_mul(1 << doublings).min(CAP);
    let pause = pause.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 4.0);
    let hopeless = matches!(failure, Failure::Reject(_));
    let status = if hopeless || failures >= BLOCKED {
        Status::Blocked
    } else {
        Status::Retrying
    };
    Verdict { pause, status }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap() {
        let failure = Failure::Retry("later".to_owned());
        let pause = |failures| verdict(&failure, failures, 0.0).pause;
        assert_eq!(pause(1), Duration::from_millis(100));
        assert_eq!(pause(2), Duration::from_millis(200));
        assert_eq!(pause(5), Duration::from_millis(1600));
        assert_eq!(pause(10), CAP);
        assert_eq!(pause(u32::MAX), CAP);
    }

    #[test]
    fn jitter_shortens_by_a_quarter_at_most() {
        let failure = Failure::Retry("later".to_owned());
        let pause = |jitter| verdict(&failure, 1, jitter).pause;
        assert_eq!(pause(1.0), Duration::from_millis(75));
        assert_eq!(pause(7.0), Duration::from_millis(75));
    }

    #[test]
    fn a_partition_is_blocked_by_a_rejected_event_at_once_and_by_others_in_time() {
        let retry = Failure::Retry("later".to_owned());
        let reject = Failure::Reject("never".to_owned());
        assert_eq!(verdict(&retry, BLOCKED - 1, 0.0).status, Status::Retrying);
        assert_eq!(verdict(&retry, BLOCKED, 0.0).status, Status::Blocked);
        assert_eq!(verdict(&reject, 1, 0.0).status, Status::Blocked);
    }
}
