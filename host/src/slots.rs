//! The slots of a service: how many calls run at once, and how many requests
//! may wait for one, for how long.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tidemill_manifest::Limits;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::invocation::Failure;

/// The slots of one revision.
pub struct Slots {
    permits: Semaphore,
    /// Requests that wait.
    waiting: AtomicU32,
    /// Events that wait.
    events: AtomicU32,
    concurrency: u32,
    queue: u32,
    patience: Duration,
}

impl Slots {
    /// As many as a manifest allows.
    pub fn of(limits: &Limits) -> Slots {
        Slots {
            permits: Semaphore::new(limits.concurrency as usize),
            waiting: AtomicU32::new(0),
            events: AtomicU32::new(0),
            concurrency: limits.concurrency,
            queue: limits.queue,
            patience: limits.queue_time,
        }
    }

    /// A slot for a request, which may have to wait for it.
    pub async fn take(&self) -> Result<SemaphorePermit<'_>, Failure> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        let _waits = self.wait()?;
        match tokio::time::timeout(self.patience, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(Failure::Busy {
                limit: self.concurrency,
                waited: self.patience,
            }),
        }
    }

    /// A slot for an event: it waits as long as it takes, for nothing is lost by
    /// it. None if slots are not given any more, which they always are.
    pub async fn take_in_time(&self) -> Option<SemaphorePermit<'_>> {
        match self.permits.try_acquire() {
            Ok(permit) => Some(permit),
            Err(_) => {
                self.events.fetch_add(1, Ordering::Relaxed);
                let _waits = Waits(&self.events);
                self.permits.acquire().await.ok()
            }
        }
    }

    /// Whether somebody waits for a slot: who has one for more than a call gives it
    /// up.
    pub fn are_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) + self.events.load(Ordering::Relaxed) > 0
    }

    fn wait(&self) -> Result<Waits<'_>, Failure> {
        // The guard first: it takes back what it counted if there is no place.
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waits = Waits(&self.waiting);
        if before >= self.queue {
            return Err(Failure::Full { limit: self.queue });
        }
        Ok(waits)
    }
}

/// Who waits is counted until it does not any more, for whatever
/// reason.
struct Waits<'s>(&'s AtomicU32);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(queue: u32, patience: Duration) -> Slots {
        Slots::of(&Limits {
            concurrency: 1,
            queue,
            queue_time: patience,
            ..Limits::default()
        })
    }

    #[tokio::test]
    async fn as_many_wait_as_the_queue_takes_and_the_next_is_turned_away_at_once() {
        let slots = slots(1, Duration::from_secs(60));
        let held = slots.take().await.unwrap();
        let mut waiting = Box::pin(slots.take());
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        let refused = slots.take().await.unwrap_err();
        assert_eq!(refused, Failure::Full { limit: 1 });
        // One that gives up leaves its place to the next.
        drop(waiting);
        let mut next = Box::pin(slots.take());
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        drop(held);
        assert!(next.await.is_ok());
    }

    #[tokio::test]
    async fn slots_are_wanted_while_somebody_waits() {
        let slots = slots(1, Duration::from_secs(60));
        let held = slots.take().await.unwrap();
        assert!(!slots.are_wanted());
        let mut event = Box::pin(slots.take_in_time());
        assert!(futures_util::poll!(event.as_mut()).is_pending() && slots.are_wanted());
        drop(event);
        assert!(!slots.are_wanted());
        let mut request = Box::pin(slots.take());
        assert!(futures_util::poll!(request.as_mut()).is_pending() && slots.are_wanted());
        drop(held);
        assert!(request.await.is_ok() && !slots.are_wanted());
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_the_queue_time() {
        let slots = slots(1, Duration::from_millis(1));
        let _held = slots.take().await.unwrap();
        let refused = slots.take().await.unwrap_err();
        assert!(matches!(refused, Failure::Busy { limit: 1, .. }));
    }
}
