//! Instances of a component that wait for their next call.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::instance::Instance;

/// The idle instances of a revision. The one that was used last is used next,
/// the one that was not used for longest is given up first.
pub(super) struct Pool<T = Instance>(Mutex<Inner<T>>);

struct Inner<T> {
    idle: VecDeque<T>,
    /// How many were idle all the time since the last rest.
    unneeded: usize,
    /// Whether any was wanted since then.
    wanted: bool,
}

impl<T> Default for Pool<T> {
    fn default() -> Pool<T> {
        Pool(Mutex::new(Inner {
            idle: VecDeque::new(),
            unneeded: 0,
            wanted: false,
        }))
    }
}

impl<T> Pool<T> {
    pub(super) fn take(&self) -> Option<T> {
        let mut inner = self.0.lock();
        inner.wanted = true;
        let taken = inner.idle.pop_back();
        inner.unneeded = inner.unneeded.min(inner.idle.len());
        taken
    }

    /// Keeps an instance, unless there are so many already.
    pub(super) fn keep(&self, instance: T, most: usize) {
        let mut inner = self.0.lock();
        if inner.idle.len() < most {
            inner.idle.push_back(instance);
        }
    }

    /// Drops an instance, so that its memory is free. False if none is idle.
    pub(super) fn give_up(&self) -> bool {
        // It is dropped when the lock is not held any more.
        let oldest = {
            let mut inner = self.0.lock();
            let oldest = inner.idle.pop_front();
            inner.unneeded = inner.unneeded.min(inner.idle.len());
            oldest
        };
        oldest.is_some()
    }

    /// Drops the instances that nobody has needed since the last time. Whether any
    /// was wanted since then.
    pub(super) fn rest(&self) -> bool {
        let (unneeded, wanted) = {
            let mut inner = self.0.lock();
            let count = inner.unneeded;
            let unneeded: Vec<T> = inner.idle.drain(..count).collect();
            inner.unneeded = inner.idle.len();
            (unneeded, std::mem::take(&mut inner.wanted))
        };
        drop(unneeded);
        wanted
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().idle.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_was_used_last_is_used_next() {
        let pool = Pool::default();
        for one in 1..=3 {
            pool.keep(one, 2);
        }
        assert_eq!(pool.len(), 2);
        assert_eq!(pool.take(), Some(2));
        assert!(pool.give_up() && !pool.give_up());
        assert_eq!(pool.take(), None);
    }

    #[test]
    fn what_nobody_has_needed_between_two_rests_is_let_go() {
        let pool = Pool::default();
        for one in 1..=3 {
            pool.keep(one, 10);
        }
        assert!(!pool.rest());
        assert_eq!(pool.len(), 3, "they came since");
        let busy = pool.take().unwrap();
        pool.keep(busy, 10);
        assert!(pool.rest());
        // Two at a time were never needed.
        assert_eq!(pool.len(), 1);
        assert!(!pool.rest());
        assert_eq!(pool.len(), 0);
        assert_eq!(pool.take(), None);
        assert!(pool.rest(), "it was wanted");
    }
}
