//! Whose turn it is: calls that have run for some slices share all cores
//! but one, and are kept off the threads that serve.
//!
//! A long call runs on a thread of its own, and only while it has a turn. It gives
//! it up at the end of each slice, and whenever it waits for something. Turns go
//! round the services that want one, however many calls of each want it, so that a
//! service that loops in all its slots slows another one's long calls as one call
//! would.
//!
//! A core that is left for short calls is not always free, for Kafka's clients and
//! the kernel want one too; and what wakes up may have to wait until a long call's
//! slice is over. So turns rest for a while after each slice when many requests
//! come.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::slices;
use crate::invocation;

/// Requests in a millisecond, for each core, that are many: what they take is some
/// tenth of it.
const MANY: f64 = 2.0;
/// How long a turn rests then.
const REST: Duration = Duration::from_millis(2);
/// A turn that was used for less need not rest: its call has ended or waits, and
/// was long only because the machine had something else to do.
const USED: Duration = Duration::from_micros(250);

/// How often a call is interrupted before it counts as one that runs for long. One
/// that does not is interrupted once or twice where the machine is busy.
const LONG: u32 = 8;
/// The same where calls of its service have been long of late: each of them is on a
/// thread that serves until then.
const LONG_AGAIN: u32 = 2;
/// For so long that is remembered.
const OF_LATE: Duration = Duration::from_secs(10);

/// Whether calls of a service run for long, as they did of late.
#[derive(Default)]
pub(super) struct Habit(Mutex<Option<Instant>>);

impl Habit {
    /// Whether a call that was interrupted so often counts as a long one.
    pub(super) fn is_long(&self, interrupted: u32, now: Instant) -> bool {
        let mut last = self.0.lock();
        let of_late = last.is_some_and(|last| now.saturating_duration_since(last) < OF_LATE);
        let long = interrupted >= LONG;
        if long {
            *last = Some(now);
        }
        long || of_late && interrupted >= LONG_AGAIN
    }
}

/// Who waits, in which order: services take turns, calls of one are served as
/// they came.
struct Line<W> {
    /// Turns that nobody has.
    free: usize,
    services: VecDeque<(Arc<str>, VecDeque<W>)>,
}

impl<W> Line<W> {
    fn new(turns: usize) -> Line<W> {
        Line {
            free: turns,
            services: VecDeque::new(),
        }
    }

    /// Takes a turn that nobody has, if there is one. Then nobody waits either.
    fn take(&mut self) -> bool {
        let taken = self.free > 0;
        self.free -= usize::from(taken);
        taken
    }

    fn wait(&mut self, service: &Arc<str>, waiter: W) {
        let known = self.services.iter_mut().find(|(name, _)| name == service);
        match known {
            Some((_, waiters)) => waiters.push_back(waiter),
            None => self
                .services
                .push_back((service.clone(), VecDeque::from([waiter]))),
        }
    }

    /// A turn has ended: who gets it. If nobody does, it is free.
    fn pass(&mut self) -> Option<W> {
        while let Some((service, mut waiters)) = self.services.pop_front() {
            let Some(waiter) = waiters.pop_front() else {
                continue;
            };
            if !waiters.is_empty() {
                self.services.push_back((service, waiters));
            }
            return Some(waiter);
        }
        self.free += 1;
        None
    }
}

/// The turns of a host.
pub(super) struct Turns {
    line: Mutex<Line<oneshot::Sender<Turn>>>,
    /// Requests in a millisecond that are many.
    many: f64,
    /// Whether a guest was interrupted since somebody asked.
    interrupted: AtomicBool,
}

impl Turns {
    /// So many at once, at least one.
    pub(super) fn new(turns: usize) -> Arc<Turns> {
        let turns = turns.max(1);
        Arc::new(Turns {
            line: Mutex::new(Line::new(turns)),
            many: MANY * (turns + 1) as f64,
            interrupted: AtomicBool::new(false),
        })
    }

    /// A guest was interrupted.
    pub(super) fn interrupted(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    /// Whether one was, since the last time.
    pub(super) fn was_interrupted(&self) -> bool {
        self.interrupted.swap(false, Ordering::Relaxed)
    }

    /// Waits for a turn. Whoever stops waiting is passed over.
    pub(super) async fn take(self: Arc<Turns>, service: Arc<str>) -> Option<Turn> {
        let waiting = {
            let mut line = self.line.lock();
            if line.take() {
                None
            } else {
                let (sender, receiver) = oneshot::channel();
                line.wait(&service, sender);
                Some(receiver)
            }
        };
        match waiting {
            None => Some(Turn::of(self)),
            // The line is not dropped while somebody waits in it.
            Some(receiver) => receiver.await.ok(),
        }
    }

    fn pass(self: Arc<Turns>) {
        loop {
            let Some(next) = self.line.lock().pass() else {
                return;
            };
            let Err(mut missed) = next.send(Turn::of(self.clone())) else {
                return;
            };
            // That one does not wait any more: its turn is the next one's.
            missed.of = None;
        }
    }
}

/// The right to run for a slice. It goes to the next one when it is dropped.
pub(super) struct Turn {
    of: Option<Arc<Turns>>,
    /// When it was given, and the number of the last request by then.
    began: (Instant, u64),
}

impl Turn {
    fn of(turns: Arc<Turns>) -> Turn {
        Turn {
            of: Some(turns),
            began: (Instant::now(), invocation::last_number()),
        }
    }

    /// Whether it was used, and many requests came meanwhile.
    fn has_to_rest(&self) -> bool {
        let (at, number) = self.began;
        let (used, requests) = (at.elapsed(), invocation::last_number());
        let came = requests.saturating_sub(number) as f64;
        let many = self.of.as_ref().map_or(f64::MAX, |turns| turns.many);
        used >= USED && came > many * used.as_secs_f64() * 1e3
    }

    /// Gives it to the next one, soon.
    fn end(self) {
        if self.has_to_rest() {
            tokio::spawn(async move {
                tokio::time::sleep(REST).await;
                drop(self);
            });
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.of.take() {
            turns.pass();
        }
    }
}

/// What a call that runs for long has to do with turns.
#[derive(Clone, Default)]
pub(super) struct Held(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Whether the call that runs is a long one: nearly all never are.
    long: AtomicBool,
    turn: Mutex<Option<Turn>>,
    /// When the invocation that runs has to end.
    deadline: Mutex<Option<Instant>>,
}

impl Held {
    /// An invocation begins, as a short one.
    pub(super) fn begin(&self, deadline: Instant) {
        self.0.long.store(false, Ordering::Relaxed);
        *self.0.deadline.lock() = Some(deadline);
    }

    /// When the invocation that runs has to end; later, if another has begun in the
    /// same call meanwhile.
    pub(super) fn deadline(&self) -> Option<Instant> {
        *self.0.deadline.lock()
    }

    /// Whether the call that runs is a long one.
    pub(super) fn is_long(&self) -> bool {
        self.0.long.load(Ordering::Relaxed)
    }

    /// Gets the next turn. The one that it may have is given up meanwhile, when
    /// the call is seen to wait.
    pub(super) fn next(
        &self,
        turns: Arc<Turns>,
        service: Arc<str>,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.0.long.store(true, Ordering::Relaxed);
        let held = self.0.clone();
        async move {
            let turn = turns.take(service).await;
            let before = std::mem::replace(&mut *held.turn.lock(), turn);
            drop(before);
        }
    }

    /// Lets a call run until it waits or ends; then its turn is another's.
    ///
    /// A long one blocks its thread for a slice. So it gets one that nothing else
    /// waits for: connections and timers are looked after by those that serve.
    pub(super) fn run<T>(&self, poll: impl FnOnce() -> Poll<T>) -> Poll<T> {
        let polled = match self.is_long() {
            false => poll(),
            true => tokio::task::block_in_place(|| slices::standing_back(poll)),
        };
        // It may have become one.
        if self.is_long() {
            self.give_up();
        }
        polled
    }

    fn give_up(&self) {
        let turn = self.0.turn.lock().take();
        if let Some(turn) = turn {
            turn.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn a_call_is_known_sooner_as_a_long_one_where_others_were() {
        let (habit, now) = (Habit::default(), Instant::now());
        let long = |interrupted| habit.is_long(interrupted, now);
        assert!(!long(LONG_AGAIN) && !long(LONG - 1));
        assert!(long(LONG));
        assert!(long(LONG_AGAIN) && !long(LONG_AGAIN - 1));
        assert!(!habit.is_long(LONG_AGAIN, now + OF_LATE));
    }

    #[test]
    fn services_take_turns_however_many_of_their_calls_wait() {
        let mut line = Line::new(1);
        assert!(line.take() && !line.take());
        for call in ["a1", "a2", "a3"] {
            line.wait(&name("a"), call);
        }
        line.wait(&name("b"), "b1");
        line.wait(&name("c"), "c1");
        let order: Vec<&str> = std::iter::from_fn(|| line.pass()).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "a3"]);
        assert!(line.take(), "the last one left it free");
    }

    #[test]
    fn one_that_comes_back_is_behind_the_other_services() {
        let mut line = Line::new(1);
        line.wait(&name("a"), "a1");
        line.wait(&name("b"), "b1");
        let mut order = Vec::new();
        for _ in 0..6 {
            let next: &str = line.pass().unwrap();
            order.push(next);
            line.wait(&name(&next[..1]), next);
        }
        assert_eq!(order, ["a1", "b1", "a1", "b1", "a1", "b1"]);
    }

    #[tokio::test]
    async fn a_turn_goes_to_the_next_one_that_still_waits() {
        let turns = Turns::new(1);
        let first = turns.clone().take(name("a")).await;
        let mut gone = Box::pin(turns.clone().take(name("b")));
        let mut next = Box::pin(turns.clone().take(name("c")));
        assert!(futures_util::poll!(gone.as_mut()).is_pending());
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        drop(gone);
        drop(first);
        let second = next.await;
        assert!(second.is_some());
        // One that was given and never looked at is not lost.
        let mut unseen = Box::pin(turns.clone().take(name("d")));
        assert!(futures_util::poll!(unseen.as_mut()).is_pending());
        drop(second);
        drop(unseen);
        assert!(turns.take(name("e")).await.is_some());
    }

    #[tokio::test]
    async fn a_turn_that_was_used_rests_when_many_requests_came() {
        let many_requests = || {
            for _ in 0..100_000 {
                invocation::next_number();
            }
        };
        let turns = Turns::new(1);
        let turn = turns.clone().take(name("a")).await;
        many_requests();
        turn.unwrap().end();
        let turn = turns.clone().take(name("a")).await;
        std::thread::sleep(USED);
        many_requests();
        turn.unwrap().end();
        let mut next = Box::pin(turns.take(name("b")));
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        assert!(next.await.is_some());
    }

    #[tokio::test]
    async fn a_call_that_asks_for_its_next_turn_lets_others_go_first() {
        let turns = Turns::new(1);
        let (one, other) = (Held::default(), Held::default());
        one.next(turns.clone(), name("a")).await;
        let mut theirs = Box::pin(other.next(turns.clone(), name("b")));
        assert!(futures_util::poll!(theirs.as_mut()).is_pending());
        let mut ours = Box::pin(one.next(turns.clone(), name("a")));
        assert!(futures_util::poll!(ours.as_mut()).is_pending());
        one.give_up();
        assert!(futures_util::poll!(ours.as_mut()).is_pending());
        theirs.await;
        other.give_up();
        ours.await;
    }
}
