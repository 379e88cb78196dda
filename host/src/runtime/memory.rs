//! What instances may take of the host's memory: each of them, all of a service,
//! all of the host.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::pool::Pool;
use crate::limits::Limit;

/// Bytes that may be used, by several at once.
pub(super) struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget {
            limit,
            used: AtomicU64::new(0),
        }
    }

    fn take(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|all| *all <= self.limit);
        self.used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
            .is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Acquire)
    }
}

/// Which part of the host's memory the bodies of requests may take, so that there is
/// some left to answer them.
const BODIES: u64 = 4;

/// The memory of all instances of the host, and of what they are to be given.
pub(super) struct HostMemory {
    budget: Budget,
    bodies: Budget,
    /// Where idle instances are, which are given up first.
    pools: Mutex<Vec<Weak<Pool>>>,
}

impl HostMemory {
    pub(super) fn new(limit: u64) -> Arc<HostMemory> {
        Arc::new(HostMemory {
            budget: Budget::new(limit),
            bodies: Budget::new(limit / BODIES),
            pools: Mutex::default(),
        })
    }

    pub(super) fn used(&self) -> u64 {
        self.budget.used()
    }

    /// A pool whose idle instances may be given up.
    pub(super) fn join(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    /// Gives up an idle instance, of the service that has most of them. False if
    /// there is none.
    pub(super) fn reclaim(&self) -> bool {
        let pools: Vec<Arc<Pool>> = self.pools.lock().iter().filter_map(Weak::upgrade).collect();
        let fullest = pools.iter().max_by_key(|pool| pool.len());
        fullest.is_some_and(|pool| pool.give_up())
    }

    fn take(&self, bytes: u64) -> bool {
        while !self.budget.take(bytes) {
            if !self.reclaim() {
                return false;
            }
        }
        true
    }
}

/// What the body of a request takes of the host's memory, until it is dropped.
pub(crate) struct BodyMemory {
    host: Arc<HostMemory>,
    used: u64,
}

impl BodyMemory {
    pub(super) fn of(host: &Arc<HostMemory>) -> BodyMemory {
        BodyMemory {
            host: host.clone(),
            used: 0,
        }
    }

    /// More of it has come. False if there is no room for it.
    pub(crate) fn more(&mut self, bytes: usize) -> bool {
        let bytes = bytes as u64;
        if !self.host.bodies.take(bytes) {
            return false;
        }
        if !self.host.take(bytes) {
            self.host.bodies.give_back(bytes);
            return false;
        }
        self.used += bytes;
        true
    }
}

impl Drop for BodyMemory {
    fn drop(&mut self) {
        self.host.bodies.give_back(self.used);
        self.host.budget.give_back(self.used);
    }
}

/// The memory of a revision's instances.
pub(super) struct ServiceMemory {
    budget: Budget,
    host: Arc<HostMemory>,
    /// Not held: its idle instances hold this, and would keep each other for ever
    /// when their revision is gone.
    pool: Weak<Pool>,
}

impl ServiceMemory {
    pub(super) fn new(limit: u64, host: Arc<HostMemory>, pool: &Arc<Pool>) -> Arc<ServiceMemory> {
        host.join(pool);
        Arc::new(ServiceMemory {
            budget: Budget::new(limit),
            host,
            pool: Arc::downgrade(pool),
        })
    }

    pub(super) fn used(&self) -> u64 {
        self.budget.used()
    }

    pub(super) fn host(&self) -> &HostMemory {
        &self.host
    }

    fn take(&self, bytes: u64) -> Result<(), Limit> {
        while !self.budget.take(bytes) {
            let pool = self.pool.upgrade();
            if !pool.is_some_and(|pool| pool.give_up()) {
                return Err(Limit::MemoryTotal);
            }
        }
        if self.host.take(bytes) {
            return Ok(());
        }
        self.budget.give_back(bytes);
        Err(Limit::HostMemory)
    }

    fn give_back(&self, bytes: u64) {
        self.budget.give_back(bytes);
        self.host.budget.give_back(bytes);
    }

    /// The most that one instance can have, were it alone.
    fn most_of_one(&self, limit: u64) -> u64 {
        limit.min(self.budget.limit).min(self.host.budget.limit)
    }
}

/// Why an instance did not get memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It wants more than it could ever have, which is so many bytes.
    Own(u64),
    /// Others have it at the moment.
    Crowded(Limit),
}

/// Holds all memories and tables of an instance, together, below its limit, and
/// counts them to those of its service and host until it is dropped.
pub(super) struct MemoryLimit {
    limit: u64,
    used: u64,
    /// What was allowed last, for the case that it is not there after all.
    last: u64,
    service: Arc<ServiceMemory>,
    /// Why growth was refused since the call began.
    pub(super) refused: Option<Refused>,
}

impl MemoryLimit {
    pub(super) fn new(limit: u64, service: Arc<ServiceMemory>) -> MemoryLimit {
        MemoryLimit {
            limit,
            used: 0,
            last: 0,
            service,
            refused: None,
        }
    }

    /// Takes in that something grows, from and to so many pieces of a size.
    fn grow(&mut self, from: usize, to: usize, maximum: Option<usize>, piece: u64) -> bool {
        self.last = 0;
        // What the memory or table itself forbids fails without being counted.
        if maximum.is_some_and(|maximum| to > maximum) {
            return false;
        }
        let more = (to.saturating_sub(from) as u64).saturating_mul(piece);
        let wanted = self.used.saturating_add(more);
        let most = self.service.most_of_one(self.limit);
        if wanted > most {
            self.refused = Some(Refused::Own(most));
            return false;
        }
        if let Err(limit) = self.service.take(more) {
            self.refused = Some(Refused::Crowded(limit));
            return false;
        }
        self.used = wanted;
        self.last = more;
        true
    }

    /// What was allowed did not happen: the machine itself had no more.
    fn take_back(&mut self) {
        self.used -= self.last;
        self.service.give_back(self.last);
        self.last = 0;
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        self.service.give_back(self.used);
    }
}

/// Bytes that an element of a table takes in the host.
const ELEMENT: u64 = 16;

impl wasmtime::ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired, maximum, 1))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(current, desired, maximum, ELEMENT))
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        self.take_back();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(limit: u64, host: &Arc<HostMemory>) -> Arc<ServiceMemory> {
        ServiceMemory::new(limit, host.clone(), &Arc::default())
    }

    #[test]
    fn an_instance_is_held_by_its_own_limit_then_its_services_then_the_hosts() {
        let host = HostMemory::new(100);
        let (a, b) = (service(60, &host), service(60, &host));
        let mut first = MemoryLimit::new(40, a.clone());
        assert!(first.grow(0, 40, None, 1));
        assert!(!first.grow(40, 41, None, 1));
        assert_eq!(first.refused, Some(Refused::Own(40)));
        let mut second = MemoryLimit::new(40, a.clone());
        assert!(!second.grow(0, 30, None, 1));
        assert_eq!(second.refused, Some(Refused::Crowded(Limit::MemoryTotal)));
        assert!(second.grow(0, 20, None, 1));
        let mut third = MemoryLimit::new(60, b.clone());
        assert!(third.grow(0, 40, None, 1));
        assert!(!third.grow(40, 41, None, 1));
        assert_eq!(third.refused, Some(Refused::Crowded(Limit::HostMemory)));
        assert_eq!((a.used(), b.used(), host.used()), (60, 40, 100));
        drop((first, second, third));
        assert_eq!((a.used(), b.used(), host.used()), (0, 0, 0));
    }

    #[test]
    fn more_than_the_host_could_ever_give_is_no_matter_of_waiting() {
        let host = HostMemory::new(100);
        let mut alone = MemoryLimit::new(1000, service(1000, &host));
        assert!(!alone.grow(0, 101, None, 1));
        assert_eq!(alone.refused, Some(Refused::Own(100)));
    }

    #[test]
    fn bodies_have_a_part_of_the_hosts_memory() {
        let host = HostMemory::new(100);
        let (mut one, mut other) = (BodyMemory::of(&host), BodyMemory::of(&host));
        assert!(one.more(20) && other.more(5));
        assert!(!one.more(1), "a quarter is theirs");
        assert_eq!(host.used(), 25);
        drop(one);
        let mut instance = MemoryLimit::new(95, service(95, &host));
        assert!(instance.grow(0, 95, None, 1));
        assert!(!other.more(1), "the rest is taken");
        drop((instance, other));
        assert_eq!(host.used(), 0);
        assert!(BodyMemory::of(&host).more(25));
    }

    #[test]
    fn what_was_not_there_after_all_is_not_counted() {
        let host = HostMemory::new(100);
        let mut limit = MemoryLimit::new(100, service(100, &host));
        assert!(limit.grow(0, 50, None, 1));
        limit.take_back();
        assert_eq!((limit.used, host.used()), (0, 0));
        assert!(!limit.grow(0, 101, None, 1));
        limit.take_back();
        assert_eq!((limit.used, host.used()), (0, 0));
        assert!(!limit.grow(0, 50, Some(10), 1), "its own maximum");
        assert_eq!(host.used(), 0);
    }
}
