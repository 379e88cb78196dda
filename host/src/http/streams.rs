//! Bounds on the streams of an HTTP/2 connection that hyper lacks.
//!
//! | what a client does | then |
//! |---|---|
//! | it lets no more of a response through, by HTTP/2's flow control | the stream is reset |
//! | it cancels what it asks for, again and again (rapid reset) | the connection is closed |
//! | it asks for nothing | the connection is closed |
//!
//! hyper runs each stream as a task, through an executor: that is the place.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::Notify;

/// How many more streams a client may cancel than it lets be answered.
const CANCELLED: u32 = 500;
/// A client that takes a response more slowly is too slow, in bytes a second.
const SLOWEST: u64 = 16 << 10;
/// How many times the patience a connection may be without a stream.
const IDLE: u32 = 4;

tokio::task_local! {
    /// The size of the answer of the stream that this task runs, once there is
    /// one.
    static ANSWERED: Cell<Option<u64>>;
}

/// The request of the running stream is answered, with at least so many bytes.
pub(super) fn answered(bytes: u64) {
    // HTTP/1.1 has no such tasks.
    let _ = ANSWERED.try_with(|answered| answered.set(Some(bytes)));
}

/// Runs the streams of one connection, and watches them.
#[derive(Clone)]
pub(super) struct Streams {
    patience: Duration,
    watched: Arc<Watched>,
}

#[derive(Default)]
struct Watched {
    begun: AtomicU64,
    ended: AtomicU64,
    /// One more for each cancelled stream, one less for each answered one.
    cancelled: AtomicU32,
    abused: Notify,
}

impl Streams {
    pub(super) fn new(patience: Duration) -> Streams {
        Streams {
            patience,
            watched: Arc::default(),
        }
    }

    /// Returns when the client has cancelled too much.
    pub(super) async fn abused(&self) {
        self.watched.abused.notified().await;
    }

    /// Returns when there was no stream for long.
    pub(super) async fn idle(&self) {
        let watched = &self.watched;
        loop {
            let begun = watched.begun.load(Ordering::Relaxed);
            tokio::time::sleep(IDLE * self.patience).await;
            let ended = watched.ended.load(Ordering::Relaxed);
            if ended == begun && watched.begun.load(Ordering::Relaxed) == begun {
                return;
            }
        }
    }
}

impl<S> Executor<S> for Streams
where
    S: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: S) {
        self.watched.begun.fetch_add(1, Ordering::Relaxed);
        let running = run(stream, self.watched.clone(), self.patience);
        tokio::spawn(ANSWERED.scope(Cell::new(None), running));
    }
}

async fn run(stream: impl Future<Output = ()>, watched: Arc<Watched>, patience: Duration) {
    let ended = Ended(watched);
    let mut stream = pin!(stream);
    let sending = poll_fn(|context| match stream.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => match ANSWERED.with(Cell::get) {
            Some(bytes) => Poll::Ready(Some(bytes)),
            None => Poll::Pending,
        },
    });
    if let Some(bytes) = sending.await {
        // Dropping the stream resets it.
        let _ = tokio::time::timeout(patience + time_for(bytes), stream).await;
    }
    drop(ended);
}

/// How long the slowest client may take for a response.
fn time_for(bytes: u64) -> Duration {
    Duration::from_secs(bytes / SLOWEST)
}

/// Counts a stream when it ends, even by a panic.
struct Ended(Arc<Watched>);

impl Drop for Ended {
    fn drop(&mut self) {
        let watched = &self.0;
        watched.ended.fetch_add(1, Ordering::Relaxed);
        let answered = ANSWERED.try_with(|answered| answered.get().is_some());
        let count = |cancelled: u32| match answered {
            Ok(true) => cancelled.checked_sub(1),
            _ => Some(cancelled.saturating_add(1)),
        };
        let (least, most) = (Ordering::Relaxed, Ordering::Relaxed);
        let before = watched.cancelled.fetch_update(least, most, count);
        if before.is_ok_and(|before| before >= CANCELLED && !matches!(answered, Ok(true))) {
            watched.abused.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[test]
    fn a_large_response_may_take_longer() {
        assert_eq!(time_for(100), Duration::ZERO);
        assert_eq!(time_for(1 << 20), Duration::from_secs(64));
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_is_dropped() {
        let streams = Streams::new(Duration::from_millis(1));
        let (alive, dropped) = tokio::sync::oneshot::channel::<()>();
        streams.execute(async move {
            let _alive = alive;
            answered(100);
            pending().await
        });
        assert!(dropped.await.is_err());
    }

    #[tokio::test]
    async fn who_cancels_without_end_is_told_from_who_cancels_at_times() {
        let streams = Streams::new(Duration::from_secs(30));
        let ended = async |count: u32| {
            while streams.watched.ended.load(Ordering::Relaxed) < count.into() {
                tokio::task::yield_now().await;
            }
        };
        for _ in 0..2 * CANCELLED {
            streams.execute(async {});
            streams.execute(async { answered(0) });
        }
        ended(4 * CANCELLED).await;
        let abused = tokio::time::timeout(Duration::ZERO, streams.abused());
        assert!(abused.await.is_err());
        for _ in 0..=CANCELLED {
            streams.execute(async {});
        }
        streams.abused().await;
    }

    #[tokio::test]
    async fn a_connection_is_idle_only_without_streams() {
        let streams = Streams::new(Duration::from_millis(1));
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        streams.execute(async move {
            let _ = ended.await;
        });
        let idle = tokio::time::timeout(Duration::from_millis(50), streams.idle());
        assert!(idle.await.is_err());
        drop(end);
        streams.idle().await;
    }
}
