//! Which shards this host runs: from assigned partitions to terms.
//!
//! A unit is what has one lane: for a service with state a shard, partition i of
//! all its topics; for one without, a single partition. It is run only while all
//! of its partitions are assigned to this host, and only after its state has
//! caught up. Each time that it is taken on is a term of its own; what comes
//! from an ended term counts no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::kafka::Source;

/// What has one lane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unit {
    pub(super) partition: i32,
    /// The one topic, for a service without state.
    pub(super) topic: Option<Arc<str>>,
}

/// What is done about a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bring its state up to date, then say [`Ownership::caught_up`].
    CatchUp(Unit, u64),
    /// Run nothing new and commit what ran, then say [`Ownership::ended`].
    Drain(Unit, u64),
    /// Nothing of this term counts any more.
    Drop(Unit, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    CatchingUp,
    Owned,
    Draining,
}

/// The units of a service on this host.
#[derive(Debug)]
pub(super) struct Ownership {
    topics: Vec<Arc<str>>,
    /// Whether partitions of the same number belong together.
    joined: bool,
    assigned: BTreeSet<Source>,
    units: BTreeMap<Unit, (Phase, u64)>,
    terms: u64,
    /// Nothing is taken on.
    halted: bool,
}

impl Ownership {
    pub(super) fn new(topics: &[String], joined: bool) -> Ownership {
        Ownership {
            topics: topics.iter().map(|topic| topic.as_str().into()).collect(),
            joined,
            assigned: BTreeSet::new(),
            units: BTreeMap::new(),
            terms: 0,
            halted: false,
        }
    }

    fn unit(&self, source: &Source) -> Unit {
        Unit {
            partition: source.1,
            topic: (!self.joined).then(|| source.0.clone()),
        }
    }

    /// The partitions of a unit.
    pub(super) fn sources(&self, unit: &Unit) -> Vec<Source> {
        match &unit.topic {
            Some(topic) => vec![(topic.clone(), unit.partition)],
            None => {
                let topics = self.topics.iter();
                topics
                    .map(|topic| (topic.clone(), unit.partition))
                    .collect()
            }
        }
    }

    /// Partitions that this host has, but not all that belong to them.
    pub(super) fn incomplete(&self) -> Vec<Source> {
        let assigned = self.assigned.iter();
        assigned
            .filter(|source| !self.is_complete(&self.unit(source)))
            .cloned()
            .collect()
    }

    fn is_complete(&self, unit: &Unit) -> bool {
        let sources = self.sources(unit);
        sources.iter().all(|source| self.assigned.contains(source))
    }

    /// Partitions are this host's now.
    pub(super) fn assigned(&mut self, sources: &[Source]) -> Vec<Step> {
        self.assigned.extend(sources.iter().cloned());
        self.take_on()
    }

    fn take_on(&mut self) -> Vec<Step> {
        if self.halted {
            return Vec::new();
        }
        let units: BTreeSet<Unit> = self.assigned.iter().map(|s| self.unit(s)).collect();
        let mut steps = Vec::new();
        for unit in units {
            if !self.units.contains_key(&unit) && self.is_complete(&unit) {
                self.terms += 1;
                self.units
                    .insert(unit.clone(), (Phase::CatchingUp, self.terms));
                steps.push(Step::CatchUp(unit, self.terms));
            }
        }
        steps
    }

    /// A unit's state has caught up. Whether it is to be run now: not if that
    /// term has ended meanwhile.
    pub(super) fn caught_up(&mut self, unit: &Unit, term: u64) -> bool {
        match self.units.get_mut(unit) {
            Some((phase @ Phase::CatchingUp, current)) if *current == term => {
                *phase = Phase::Owned;
                true
            }
            _ => false,
        }
    }

    /// A term of a unit has ended: drained, or given up.
    pub(super) fn ended(&mut self, unit: &Unit, term: u64) {
        if self
            .units
            .get(unit)
            .is_some_and(|(_, current)| *current == term)
        {
            self.units.remove(unit);
        }
    }

    /// Partitions are to be given up.
    pub(super) fn revoked(&mut self, sources: &[Source]) -> Vec<Step> {
        let units = self.part_with(sources);
        self.drain(&units)
    }

    /// Partitions are gone.
    pub(super) fn lost(&mut self, sources: &[Source]) -> Vec<Step> {
        let units = self.part_with(sources);
        let lost = units.into_iter().filter_map(|unit| {
            let (_, term) = self.units.remove(&unit)?;
            Some(Step::Drop(unit, term))
        });
        lost.collect()
    }

    fn part_with(&mut self, sources: &[Source]) -> BTreeSet<Unit> {
        for source in sources {
            self.assigned.remove(source);
        }
        sources.iter().map(|source| self.unit(source)).collect()
    }

    fn drain(&mut self, units: &BTreeSet<Unit>) -> Vec<Step> {
        let mut steps = Vec::new();
        for unit in units {
            match self.units.get_mut(unit) {
                Some((phase @ Phase::Owned, term)) => {
                    *phase = Phase::Draining;
                    steps.push(Step::Drain(unit.clone(), *term));
                }
                // Nothing has run yet: there is nothing to finish.
                Some((Phase::CatchingUp, term)) => {
                    steps.push(Step::Drop(unit.clone(), *term));
                    self.units.remove(unit);
                }
                Some((Phase::Draining, _)) | None => {}
            }
        }
        steps
    }

    /// Stops all units, and takes on none until [`Ownership::resume`].
    pub(super) fn halt(&mut self) -> Vec<Step> {
        self.halted = true;
        let units = self.units.keys().cloned().collect();
        self.drain(&units)
    }

    /// Takes on units again.
    pub(super) fn resume(&mut self) -> Vec<Step> {
        self.halted = false;
        self.take_on()
    }

    pub(super) fn is_halted(&self) -> bool {
        self.halted
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(topic: &str, partition: i32) -> Source {
        (topic.into(), partition)
    }

    fn shard(partition: i32) -> Unit {
        Unit {
            partition,
            topic: None,
        }
    }

    fn join() -> Ownership {
        Ownership::new(&["a".to_owned(), "b".to_owned()], true)
    }

    #[test]
    fn a_shard_runs_when_all_its_partitions_are_here_and_its_state_is() {
        let mut ownership = join();
        assert_eq!(ownership.assigned(&[source("a", 0)]), []);
        assert_eq!(ownership.incomplete(), [source("a", 0)]);
        let steps = ownership.assigned(&[source("b", 0), source("b", 1)]);
        assert_eq!(steps, [Step::CatchUp(shard(0), 1)]);
        assert_eq!(ownership.incomplete(), [source("b", 1)]);
        assert!(ownership.caught_up(&shard(0), 1));
        assert!(!ownership.caught_up(&shard(0), 1));
    }

    #[test]
    fn a_shard_that_loses_one_partition_is_not_run_until_it_is_back() {
        let mut ownership = join();
        ownership.assigned(&[source("a", 0), source("b", 0)]);
        ownership.caught_up(&shard(0), 1);
        let steps = ownership.revoked(&[source("b", 0)]);
        assert_eq!(steps, [Step::Drain(shard(0), 1)]);
        ownership.ended(&shard(0), 1);
        let steps = ownership.assigned(&[source("b", 0)]);
        assert_eq!(steps, [Step::CatchUp(shard(0), 2)]);
    }

    #[test]
    fn what_is_revoked_before_it_has_caught_up_is_never_run() {
        let mut ownership = join();
        ownership.assigned(&[source("a", 0), source("b", 0)]);
        let steps = ownership.revoked(&[source("a", 0), source("b", 0)]);
        assert_eq!(steps, [Step::Drop(shard(0), 1)]);
        assert!(!ownership.caught_up(&shard(0), 1));
    }

    #[test]
    fn nothing_is_taken_on_while_halted() {
        let mut ownership = Ownership::new(&["a".to_owned()], false);
        assert_eq!(ownership.assigned(&[source("a", 0)]).len(), 1);
        assert_eq!(ownership.halt().len(), 1);
        assert_eq!(ownership.assigned(&[source("a", 1)]), []);
        assert_eq!(ownership.resume().len(), 2);
    }

    #[derive(Clone, Debug)]
    enum Input {
        Assign(usize, i32),
        Revoke(usize, i32),
        Lose(usize, i32),
        Answer,
        Halt,
        Resume,
    }

    fn input() -> impl Strategy<Value = Input> {
        prop_oneof![
            3 => (0..2usize, 0..3).prop_map(|(t, p)| Input::Assign(t, p)),
            2 => (0..2usize, 0..3).prop_map(|(t, p)| Input::Revoke(t, p)),
            1 => (0..2usize, 0..3).prop_map(|(t, p)| Input::Lose(t, p)),
            4 => Just(Input::Answer),
            1 => Just(Input::Halt),
            1 => Just(Input::Resume),
        ]
    }

    proptest! {
        /// Whatever comes: a unit has one running term at a time, terms only
        /// grow, and what runs has all of its partitions here.
        #[test]
        fn a_unit_has_one_term_at_a_time(inputs in prop::collection::vec(input(), 0..80), joined: bool) {
            let topics = ["a".to_owned(), "b".to_owned()];
            let mut ownership = Ownership::new(&topics, joined);
            let mut assigned: BTreeSet<Source> = BTreeSet::new();
            let mut open: Vec<Step> = Vec::new();
            let mut running: BTreeMap<Unit, (u64, bool)> = BTreeMap::new();
            let mut last = 0;
            for input in inputs {
                let steps = match input {
                    Input::Assign(t, p) => {
                        assigned.insert(source(&topics[t], p));
                        ownership.assigned(&[source(&topics[t], p)])
                    }
                    Input::Revoke(t, p) => {
                        assigned.remove(&source(&topics[t], p));
                        ownership.revoked(&[source(&topics[t], p)])
                    }
                    Input::Lose(t, p) => {
                        assigned.remove(&source(&topics[t], p));
                        ownership.lost(&[source(&topics[t], p)])
                    }
                    Input::Halt => ownership.halt(),
                    Input::Resume => ownership.resume(),
                    Input::Answer => {
                        let step = if open.is_empty() { None } else { Some(open.remove(0)) };
                        match step {
                            Some(Step::CatchUp(unit, term)) => {
                                let runs = ownership.caught_up(&unit, term);
                                if runs {
                                    prop_assert!(!running.contains_key(&unit));
                                    running.insert(unit, (term, false));
                                }
                            }
                            Some(Step::Drain(unit, term)) => {
                                // The lane may have been dropped meanwhile.
                                if running.get(&unit).is_some_and(|(t, _)| *t == term) {
                                    running.remove(&unit);
                                }
                                ownership.ended(&unit, term);
                            }
                            _ => {}
                        }
                        Vec::new()
                    }
                };
                for step in steps {
                    match &step {
                        Step::CatchUp(unit, term) => {
                            prop_assert!(*term > last);
                            last = *term;
                            prop_assert!(!running.contains_key(unit));
                            prop_assert!(!ownership.is_halted());
                        }
                        Step::Drain(unit, term) => {
                            let known = running.get_mut(unit);
                            prop_assert_eq!(known.as_ref().map(|(t, _)| *t), Some(*term));
                            if let Some((_, draining)) = known {
                                *draining = true;
                            }
                        }
                        Step::Drop(unit, term) => {
                            if running.get(unit).is_some_and(|(t, _)| t == term) {
                                running.remove(unit);
                            }
                        }
                    }
                    open.push(step);
                }
                for (unit, (_, draining)) in &running {
                    let sources = ownership.sources(unit);
                    prop_assert!(*draining || sources.iter().all(|s| assigned.contains(s)));
                }
            }
        }
    }
}
