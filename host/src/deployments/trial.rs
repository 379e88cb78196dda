//! Trials: a revision that fails too often is taken back.
//!
//! Each host judges by what it sees, and the first that has seen enough goes back
//! for all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidemill_manifest::{Manifest, Percent};

use crate::host::Host;
use crate::revision::Revision;
use crate::service::{Running, Service};

/// How often it is looked.
const TICK: Duration = Duration::from_millis(50);

/// For how long a revision is tried out, in milliseconds.
pub(super) fn time(manifest: &Manifest) -> u64 {
    u64::try_from(manifest.trial.time.as_millis()).unwrap_or(u64::MAX)
}

/// A judgement on a revision.
struct Judge {
    revision: Arc<Revision>,
    ended: u64,
    failed: u64,
}

impl Judge {
    /// Judges by what ends from now on.
    fn of(revision: &Arc<Revision>) -> Judge {
        let (ended, failed) = revision.tally.read();
        Judge {
            revision: revision.clone(),
            ended,
            failed,
        }
    }

    /// Why it has to go, if it has.
    fn verdict(&self) -> Option<String> {
        let (ended, failed) = self.revision.tally.read();
        let (ended, failed) = (ended - self.ended, failed - self.failed);
        let trial = &self.revision.manifest.trial;
        exceeds(ended, failed, trial.failures, trial.calls).then(|| {
            format!(
                "{failed} of {ended} calls failed on this host; [trial] allows {}",
                trial.failures
            )
        })
    }
}

/// Whether so many failed calls are too many.
fn exceeds(ended: u64, failed: u64, share: Percent, calls: u32) -> bool {
    ended >= u64::from(calls) && failed * 100 >= ended * u64::from(share.number())
}

/// Watches what a service runs, as long as that may still be taken back.
pub(crate) fn watch(host: &Arc<Host>, service: &Arc<Service>, running: &Running) {
    let judged = match (&running.canary, &running.trial) {
        (Some(canary), _) => &canary.revision,
        (None, Some(_)) => &running.live,
        (None, None) => return,
    };
    let judge = Judge::of(judged);
    // A canary has no end of its own.
    let until = match &running.canary {
        Some(_) => None,
        None => running.trial.as_ref().map(|trial| trial.until),
    };
    tokio::spawn(follow(
        host.clone(),
        service.clone(),
        running.number,
        judge,
        until,
    ));
}

async fn follow(
    host: Arc<Host>,
    service: Arc<Service>,
    number: u64,
    judge: Judge,
    until: Option<Instant>,
) {
    let name = service.name();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if service.number() != number || host.is_ending() {
            return;
        }
        if let Some(why) = judge.verdict() {
            host.fall_back(name, &judge.revision.digest, number, &why)
                .await;
            // If it is still there, Kafka could not be asked.
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            let revision = judge.revision.short();
            tracing::info!(
                event = "deploy.passed",
                service = name,
                revision,
                "this revision has passed its trial"
            );
            service.trial_is_over(number);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_from_a_number_of_calls_on() {
        let half: Percent = "50%".parse().unwrap();
        assert!(!exceeds(9, 9, half, 10));
        assert!(!exceeds(10, 4, half, 10));
        assert!(exceeds(10, 5, half, 10));
        assert!(exceeds(1_000_000, 500_000, half, 10));
        assert!(!exceeds(0, 0, "1%".parse().unwrap(), 1));
    }
}
