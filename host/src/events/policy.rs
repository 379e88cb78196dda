//! What happens to an event that failed: the one table.
//!
//! It is run again in its place, or it becomes a dead letter, or its partition
//! stops. It is never passed over.

use std::time::Duration;

use tidemill_manifest::{OnExhausted, Retried, Retry};

use crate::invocation::Failure;

/// The longest pause that a handler may ask for.
pub const LONGEST: Duration = Duration::from_secs(3600);
/// How long a failure is waited out that is the host's own.
pub const HOSTS_OWN: Duration = Duration::from_secs(1);

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The event is run again after a pause.
    Again(Duration),
    /// The event is run again after a pause, and this was no attempt.
    Wait(Duration),
    /// The event goes to the dead letters.
    DeadLetter,
    /// The partition stops until a person does something.
    Stop,
}

/// Decides about an event that has failed `failures` times. `jitter`, from 0 to
/// 1, spreads the retries of many partitions.
pub fn verdict(failure: &Failure, failures: u32, retry: &Retry, jitter: f64) -> Verdict {
    let Some(kind) = kind(failure) else {
        return Verdict::Wait(HOSTS_OWN);
    };
    let may_retry = kind.is_some_and(|kind| retry.on.contains(&kind));
    if may_retry && failures < retry.attempts {
        return Verdict::Again(match failure {
            Failure::RetryAfter(_, pause) => (*pause).min(LONGEST),
            _ => pause(failures, retry, jitter),
        });
    }
    match retry.on_exhausted {
        OnExhausted::DeadLetter => Verdict::DeadLetter,
        OnExhausted::Stop => Verdict::Stop,
    }
}

/// The pause after so many failures.
pub fn pause(failures: u32, retry: &Retry, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    let pause = retry.backoff.saturating_mul(1 << doublings);
    let off = jitter.clamp(0.0, 1.0) * f64::from(retry.jitter) / 100.0;
    pause.min(retry.max_backoff).mul_f64(1.0 - off)
}

/// Which kind of failure it is to a manifest: none of them if it is never tried
/// again, nothing at all if it is the host's own and says nothing of the event.
fn kind(failure: &Failure) -> Option<Option<Retried>> {
    match failure {
        Failure::Retry(_) | Failure::RetryAfter(..) => Some(Some(Retried::Retry)),
        Failure::Trap(_) => Some(Some(Retried::Trap)),
        Failure::Memory { .. } => Some(Some(Retried::Memory)),
        Failure::Timeout { .. } => Some(Some(Retried::Timeout)),
        Failure::Refused(_) => Some(Some(Retried::Refused)),
        Failure::Reject(_) | Failure::Invalid(_) | Failure::ResponseTooLarge { .. } => Some(None),
        Failure::Busy { .. }
        | Failure::Full { .. }
        | Failure::Crowded { .. }
        | Failure::Restoring(_)
        | Failure::Instantiate(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later() -> Failure {
        Failure::Retry("later".to_owned())
    }

    fn after(failures: u32) -> Verdict {
        verdict(&later(), failures, &Retry::default(), 0.0)
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let again = |millis| Verdict::Again(Duration::from_millis(millis));
        assert_eq!(after(1), again(100));
        assert_eq!(after(2), again(200));
        assert_eq!(after(5), again(1600));
        let patient = Retry {
            attempts: u32::MAX,
            ..Retry::default()
        };
        let longest = Verdict::Again(patient.max_backoff);
        assert_eq!(verdict(&later(), 10, &patient, 0.0), longest);
        assert_eq!(verdict(&later(), u32::MAX - 1, &patient, 0.0), longest);
    }

    #[test]
    fn jitter_shortens_by_as_much_as_the_manifest_says() {
        let retry = Retry::default();
        assert_eq!(pause(1, &retry, 1.0), Duration::from_millis(75));
        assert_eq!(pause(1, &retry, 7.0), Duration::from_millis(75));
        let steady = Retry { jitter: 0, ..retry };
        assert_eq!(pause(1, &steady, 1.0), Duration::from_millis(100));
    }

    #[test]
    fn the_last_attempt_is_followed_by_a_dead_letter_or_a_stop() {
        assert_eq!(after(9), Verdict::Again(Duration::from_millis(25_600)));
        assert_eq!(after(10), Verdict::DeadLetter);
        let stop = Retry {
            attempts: 1,
            on_exhausted: OnExhausted::Stop,
            ..Retry::default()
        };
        assert_eq!(verdict(&later(), 1, &stop, 0.0), Verdict::Stop);
    }

    #[test]
    fn what_is_rejected_or_not_listed_is_not_tried_again() {
        let reject = Failure::Reject("never".to_owned());
        let retry = Retry::default();
        assert_eq!(verdict(&reject, 1, &retry, 0.0), Verdict::DeadLetter);
        let trap = Failure::Trap("unreachable".to_owned());
        assert!(matches!(verdict(&trap, 1, &retry, 0.0), Verdict::Again(_)));
        let picky = Retry {
            on: vec![Retried::Timeout],
            ..retry
        };
        assert_eq!(verdict(&trap, 1, &picky, 0.0), Verdict::DeadLetter);
    }

    #[test]
    fn a_handler_names_its_pause_up_to_an_hour() {
        let after = |secs| Failure::RetryAfter("limited".to_owned(), Duration::from_secs(secs));
        let retry = Retry::default();
        let minute = Verdict::Again(Duration::from_secs(60));
        assert_eq!(verdict(&after(60), 3, &retry, 1.0), minute);
        assert_eq!(
            verdict(&after(u64::MAX), 3, &retry, 1.0),
            Verdict::Again(LONGEST)
        );
        assert_eq!(verdict(&after(60), 10, &retry, 1.0), Verdict::DeadLetter);
    }

    #[test]
    fn what_is_the_hosts_fault_is_no_attempt() {
        let full = Failure::Instantiate("no memory".to_owned());
        let retry = Retry::default();
        assert_eq!(verdict(&full, 999, &retry, 0.0), Verdict::Wait(HOSTS_OWN));
    }
}
