//! A service's state on this host: which generation is read, which is written.
//!
//! They differ while a replay builds the next one: handlers of requests read the
//! old one until the new one has seen every event that the old one has.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use super::store::{Store, StoreError, Tables};

/// The most requests of one service that wait for a position at a time.
const WAITERS: usize = 1_000;

/// The state of one service.
pub struct State {
    store: Arc<Store>,
    service: String,
    reading: ArcSwap<Tables>,
    writing: ArcSwap<Tables>,
    waiters: Semaphore,
}

/// Why a position was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReached {
    /// Not in time.
    Late,
    /// Too many wait already.
    Crowded,
}

impl State {
    /// The state as it is on disk: the newest complete generation is read, the
    /// newest one written.
    pub fn open(store: Arc<Store>, service: &str) -> Result<State, StoreError> {
        let mut generations = store.generations(service);
        let newest = generations.pop().unwrap_or(1);
        let writing = store.tables(service, newest)?;
        let mut reading = writing.clone();
        for generation in generations.into_iter().rev() {
            let older = store.tables(service, generation)?;
            if !reading.is_complete() && older.is_complete() {
                reading = older;
            }
        }
        let state = State {
            store,
            service: service.to_owned(),
            reading: ArcSwap::new(reading),
            writing: ArcSwap::new(writing),
            waiters: Semaphore::new(WAITERS),
        };
        Ok(state)
    }

    /// A state without rows that may be read: for calls of a service that has none
    /// yet. Nothing is written to it.
    pub fn nothing(store: Arc<Store>) -> Result<State, StoreError> {
        // No service is called so.
        let state = State::open(store, "")?;
        if !state.is_readable() {
            state.reading().set_complete()?;
        }
        Ok(state)
    }

    /// What handlers of requests read.
    pub fn reading(&self) -> Arc<Tables> {
        self.reading.load_full()
    }

    /// What handlers of events read and write.
    pub fn writing(&self) -> Arc<Tables> {
        self.writing.load_full()
    }

    /// Whether there is anything that may be read.
    pub fn is_readable(&self) -> bool {
        self.reading.load().is_complete()
    }

    /// How far what is to be read is, for people: changelog records, over all
    /// shards that have told where they end.
    pub fn progress(&self) -> String {
        let tables = self.reading();
        let (reached, end) = tables.reached();
        match end {
            0 => "its changelog has not been found yet".to_owned(),
            end => format!("{reached} of {end} records of its changelog are read"),
        }
    }

    /// Writes another generation from now on.
    pub fn turn_to(&self, generation: u32) -> Result<Arc<Tables>, StoreError> {
        let tables = self.store.tables(&self.service, generation)?;
        self.writing.store(tables.clone());
        if !self.is_readable() {
            self.reading.store(tables.clone());
        }
        Ok(tables)
    }

    /// Reads the new generation if it is complete and has seen all events that
    /// the old one has. Returns the generation that is not used any more.
    pub fn change_over(&self) -> Option<u32> {
        let (old, new) = (self.reading(), self.writing());
        if old.generation() == new.generation() || !new.is_complete() {
            return None;
        }
        let (behind, ahead) = (old.positions(), new.positions());
        let covered = behind
            .iter()
            .all(|(source, position)| ahead.get(source).is_some_and(|ahead| ahead >= position));
        covered.then(|| {
            self.reading.store(new);
            old.generation()
        })
    }

    /// Removes generations that are not used.
    pub fn tidy(&self) -> Result<(), StoreError> {
        let used = [self.reading().generation(), self.writing().generation()];
        for generation in self.store.generations(&self.service) {
            if !used.contains(&generation) {
                self.store.remove(&self.service, generation)?;
            }
        }
        Ok(())
    }

    /// Waits until the state that is read has passed these offsets. `positions`
    /// are of topics that it is made of.
    pub async fn reach(
        &self,
        positions: &[(String, i32, i64)],
        patience: Duration,
    ) -> Result<(), NotReached> {
        let passed = |tables: &Tables| {
            positions.iter().all(|(topic, partition, offset)| {
                let position = tables.position(topic, *partition);
                position.is_some_and(|position| position > *offset)
            })
        };
        if passed(&self.reading()) {
            return Ok(());
        }
        let Ok(_waiter) = self.waiters.try_acquire() else {
            return Err(NotReached::Crowded);
        };
        let waited = async {
            loop {
                let tables = self.reading();
                let mut progress = tables.progress();
                if passed(&tables) {
                    return;
                }
                // Another generation may be read meanwhile.
                let _ = tokio::time::timeout(Duration::from_millis(500), progress.changed()).await;
            }
        };
        let waited = tokio::time::timeout(patience, waited).await;
        waited.map_err(|_| NotReached::Late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Commit;

    fn see(tables: &Tables, partition: i32, position: i64) {
        let mut commit = Commit::default();
        commit.positions.insert("t".into(), position);
        let claim = tables.claim(partition.cast_unsigned());
        tables.commit(&commit, claim).unwrap();
    }

    #[test]
    fn the_old_generation_is_read_until_the_new_one_has_seen_as_much() {
        let store = Arc::new(Store::open(&crate::testing::folder("generations")).unwrap());
        let state = State::open(store.clone(), "order").unwrap();
        let old = state.reading();
        see(&old, 0, 10);
        see(&old, 1, 5);
        old.set_complete().unwrap();
        let new = state.turn_to(2).unwrap();
        assert_eq!(state.change_over(), None);
        new.set_complete().unwrap();
        see(&new, 0, 10);
        assert_eq!(state.change_over(), None);
        see(&new, 1, 6);
        assert_eq!(state.reading().generation(), 1);
        assert_eq!(state.change_over(), Some(1));
        assert_eq!(state.reading().generation(), 2);
        state.tidy().unwrap();
        assert_eq!(store.generations("order"), [2]);
        assert_eq!(
            State::open(store, "order").unwrap().reading().generation(),
            2
        );
    }

    #[tokio::test]
    async fn a_position_is_waited_for_and_not_longer_than_that() {
        let store = Arc::new(Store::open(&crate::testing::folder("positions")).unwrap());
        let state = Arc::new(State::open(store, "order").unwrap());
        let position = [("t".to_owned(), 0, 7)];
        let soon = state.reach(&position, Duration::from_millis(5)).await;
        assert_eq!(soon, Err(NotReached::Late));
        let waiting = {
            let state = state.clone();
            tokio::spawn(async move { state.reach(&position, Duration::from_secs(60)).await })
        };
        see(&state.reading(), 0, 8);
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }
}
