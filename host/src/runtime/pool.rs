//! Instances of a component that wait for their next call.

use std::collections::VecDeque;

use parking_lot::Mutex;

use super::instance::Instance;

/// The idle instances of a revision. The one that was used last is used next,
/// the one that was not used for longest is given up first.
#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<VecDeque<Instance>>,
}

impl Pool {
    pub(super) fn take(&self) -> Option<Instance> {
        self.idle.lock().pop_back()
    }

    /// Keeps an instance, unless there are so many already.
    pub(super) fn keep(&self, instance: Instance, most: usize) {
        let mut idle = self.idle.lock();
        if idle.len() < most {
            idle.push_back(instance);
        }
    }

    /// Drops an instance, so that its memory is free. False if none is idle.
    pub(super) fn give_up(&self) -> bool {
        // It is dropped when the lock is not held any more.
        let oldest = self.idle.lock().pop_front();
        oldest.is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.idle.lock().len()
    }
}
