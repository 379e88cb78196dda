//! What a lane runs next, and what it ran that is not committed yet.
//!
//! Events of a lane keep their order whatever fails. An event that has run gets
//! a number; commits come back as "all up to this number", failures as "this
//! number and all behind it run again".

use std::collections::VecDeque;

use crate::invocation::Event;
use crate::kafka::Source;
use crate::trace::{TraceId, trace_id};

/// The events of one lane that are under way.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// To run before anything else is read, in order: again, or for the first time.
    again: VecDeque<Event>,
    /// Done with, waiting for their commit, by number.
    done: VecDeque<(u64, Event, Fate)>,
    next: u64,
    bytes: usize,
    failing: Option<Failing>,
}

/// What was made of an event that waits for its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It ran well, or was passed over.
    Ran,
    /// It is a dead letter.
    DeadLetter,
}

/// The event that failed last, and how often.
#[derive(Debug)]
struct Failing {
    partition: i32,
    offset: i64,
    topic: std::sync::Arc<str>,
    failures: u32,
}

impl Failing {
    fn is(&self, event: &Event) -> bool {
        self.offset == event.offset
            && self.partition == event.partition
            && self.topic == event.topic
    }
}

/// An event that has failed: which one, and how often by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) source: Source,
    pub(super) offset: i64,
    pub(super) failures: u32,
    /// The trace that it came with.
    pub(super) trace_id: Option<TraceId>,
}

/// A lane holds no more than this many events that are not committed.
pub(super) const MAX_EVENTS: usize = 20_000;
/// Nor more than this many bytes of them, but for a single event.
pub(super) const MAX_BYTES: usize = 8 << 20;
/// Room for so many events is kept when there are none: what a backlog took is not
/// held for ever.
const KEPT: usize = 1024;

impl Line {
    /// Whether nothing new may be read until something is committed.
    pub(super) fn is_full(&self) -> bool {
        self.done.len() >= MAX_EVENTS || self.bytes >= MAX_BYTES
    }

    /// Whether everything that is done with is committed.
    pub(super) fn is_settled(&self) -> bool {
        self.done.is_empty()
    }

    /// Whether there is nothing to commit, nor to run again.
    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty() && self.again.is_empty()
    }

    /// The event to run again next.
    pub(super) fn next_again(&mut self) -> Option<Event> {
        self.again.pop_front()
    }

    /// The events that are to run, in order.
    pub(super) fn ahead(&self) -> impl Iterator<Item = &Event> {
        self.again.iter()
    }

    /// An event was read, and is to run behind those that were before it.
    pub(super) fn later(&mut self, event: Event) {
        self.again.push_back(event);
    }

    /// The event that was taken last is not to run yet.
    pub(super) fn put_back(&mut self, event: Event) {
        self.again.push_front(event);
    }

    /// Which attempt this event is in, from 1.
    pub(super) fn attempt(&self, event: &Event) -> u32 {
        match &self.failing {
            Some(failing) if failing.is(event) => failing.failures.saturating_add(1),
            _ => 1,
        }
    }

    /// An event is done with. Returns its number.
    pub(super) fn done(&mut self, event: Event, fate: Fate) -> u64 {
        let number = self.next;
        self.next += 1;
        self.bytes += event.size();
        self.done.push_back((number, event, fate));
        number
    }

    /// An event could not be run, and that was not its fault: it stays where it
    /// is.
    pub(super) fn postponed(&mut self, event: Event) -> Failed {
        let failed = Failed {
            source: (event.topic.clone(), event.partition),
            offset: event.offset,
            failures: self.attempt(&event) - 1,
            trace_id: trace_id(&event.headers),
        };
        self.again.push_front(event);
        failed
    }

    /// What failed may go better now: it begins with its first attempt again.
    pub(super) fn forget_failures(&mut self) {
        self.failing = None;
    }

    /// An event failed: it stays where it is.
    pub(super) fn failed(&mut self, event: Event) -> Failed {
        let failures = self.attempt(&event);
        self.failing = Some(Failing {
            partition: event.partition,
            offset: event.offset,
            topic: event.topic.clone(),
            failures,
        });
        let failed = Failed {
            source: (event.topic.clone(), event.partition),
            offset: event.offset,
            failures,
            trace_id: trace_id(&event.headers),
        };
        self.again.push_front(event);
        failed
    }

    /// All up to `number` are committed. Returns, for each partition that they
    /// came from, the offset of the next event to commit.
    pub(super) fn committed(&mut self, number: u64) -> Vec<(Source, i64)> {
        let mut positions: Vec<(Source, i64)> = Vec::new();
        while self
            .done
            .front()
            .is_some_and(|(first, ..)| *first <= number)
        {
            let Some((_, event, _)) = self.done.pop_front() else {
                break;
            };
            self.bytes -= event.size();
            if self
                .failing
                .as_ref()
                .is_some_and(|failing| failing.is(&event))
            {
                self.failing = None;
            }
            let position = event.offset + 1;
            let known = positions.iter_mut().find(|((topic, partition), _)| {
                *partition == event.partition && *topic == event.topic
            });
            match known {
                Some((_, known)) => *known = position,
                None => positions.push(((event.topic, event.partition), position)),
            }
        }
        if self.done.is_empty() {
            self.done.shrink_to(KEPT);
        }
        positions
    }

    /// The effects of `number` cannot be committed: it has failed, and those
    /// behind it ran on its results. These run again; it is given back. None if it
    /// is not waiting for a commit.
    pub(super) fn take_back(&mut self, number: u64) -> Option<(Event, Fate)> {
        let mut failed = None;
        while self.done.back().is_some_and(|(last, ..)| *last >= number) {
            let Some((_, event, fate)) = self.done.pop_back() else {
                break;
            };
            self.bytes -= event.size();
            if let Some((later, _)) = failed.replace((event, fate)) {
                self.again.push_front(later);
            }
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(offset: i64) -> Event {
        Event {
            topic: "t".into(),
            partition: 0,
            offset,
            timestamp: None,
            key: None,
            value: Some(vec![0; 10].into()),
            headers: Vec::new(),
        }
    }

    fn ran(line: &mut Line, event: Event) -> u64 {
        line.done(event, Fate::Ran)
    }

    fn run(line: &mut Line, offsets: std::ops::Range<i64>) {
        for offset in offsets {
            ran(line, event(offset));
        }
    }

    /// The offset that failed, and how often.
    fn taken_back(line: &mut Line, number: u64) -> Option<(i64, u32)> {
        let (event, _) = line.take_back(number)?;
        let failed = line.failed(event);
        Some((failed.offset, failed.failures))
    }

    fn again(line: &mut Line) -> Vec<i64> {
        std::iter::from_fn(|| line.next_again())
            .map(|event| event.offset)
            .collect()
    }

    #[test]
    fn a_failed_event_is_the_next_to_run() {
        let mut line = Line::default();
        assert_eq!(line.attempt(&event(5)), 1);
        assert_eq!(line.failed(event(5)).failures, 1);
        let next = line.next_again().unwrap();
        assert_eq!((next.offset, line.attempt(&next)), (5, 2));
        assert_eq!(line.failed(next).failures, 2);
        assert_eq!(line.attempt(&event(6)), 1);
    }

    #[test]
    fn what_ran_on_a_wrong_result_runs_again_in_order() {
        let mut line = Line::default();
        run(&mut line, 10..15);
        assert_eq!(line.committed(1), [(("t".into(), 0), 12)]);
        assert_eq!(taken_back(&mut line, 3), Some((13, 1)));
        // 12 (number 2) is still on its way.
        assert!(!line.is_settled());
        assert_eq!(again(&mut line), [13, 14]);
        assert_eq!(line.committed(2), [(("t".into(), 0), 13)]);
        assert!(line.is_settled());
    }

    #[test]
    fn events_that_wait_already_stay_behind_those_taken_back() {
        let mut line = Line::default();
        run(&mut line, 0..3);
        line.failed(event(3));
        assert_eq!(taken_back(&mut line, 1), Some((1, 1)));
        assert_eq!(again(&mut line), [1, 2, 3]);
    }

    #[test]
    fn an_event_whose_effects_are_refused_again_and_again_counts_its_failures() {
        let mut line = Line::default();
        for failures in 1..4 {
            let number = ran(&mut line, event(7));
            assert_eq!(taken_back(&mut line, number), Some((7, failures)));
            assert_eq!(again(&mut line), [7]);
        }
        let number = ran(&mut line, event(7));
        line.committed(number);
        assert_eq!(line.attempt(&event(7)), 1);
    }

    #[test]
    fn a_dead_letter_that_is_taken_back_is_known_as_one() {
        let mut line = Line::default();
        line.failed(event(7));
        let event = line.next_again().unwrap();
        let number = line.done(event, Fate::DeadLetter);
        let (event, fate) = line.take_back(number).unwrap();
        assert_eq!((fate, line.attempt(&event)), (Fate::DeadLetter, 2));
        line.forget_failures();
        assert_eq!(line.attempt(&event), 1);
    }

    #[test]
    fn a_failure_that_comes_twice_is_one() {
        let mut line = Line::default();
        run(&mut line, 0..2);
        assert_eq!(taken_back(&mut line, 0), Some((0, 1)));
        assert_eq!(taken_back(&mut line, 0), None);
        assert_eq!(again(&mut line), [0, 1]);
    }

    #[test]
    fn a_line_is_full_by_events_or_bytes() {
        let mut line = Line::default();
        run(&mut line, 0..MAX_EVENTS as i64);
        assert!(line.is_full());
        line.committed(0);
        assert!(!line.is_full());
        let mut large = event(0);
        large.value = Some(vec![0; MAX_BYTES].into());
        let number = ran(&mut line, large);
        assert!(line.is_full());
        line.committed(number);
        assert!(!line.is_full() && line.bytes == 0);
        assert!(line.done.capacity() <= KEPT);
    }

    #[test]
    fn each_partition_of_a_lane_has_its_own_position() {
        let mut line = Line::default();
        let other = Event {
            topic: "u".into(),
            ..event(70)
        };
        ran(&mut line, event(3));
        ran(&mut line, other);
        let number = ran(&mut line, event(4));
        let positions = line.committed(number);
        assert_eq!(positions, [(("t".into(), 0), 5), (("u".into(), 0), 71)]);
    }

    /// Whatever comes in which order, each offset is committed once, in order.
    #[test]
    fn every_event_is_committed_once_and_in_order() {
        for seed in 0..200u64 {
            let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut chance = |of: u64| {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % of
            };
            let (mut line, mut read, mut committed) = (Line::default(), 0, Vec::new());
            while committed.len() < 50 {
                match chance(6) {
                    0..=2 => {
                        let event = line.next_again().unwrap_or_else(|| {
                            read += 1;
                            event(read - 1)
                        });
                        if chance(4) == 0 {
                            line.failed(event);
                        } else {
                            ran(&mut line, event);
                        }
                    }
                    3 if !line.is_settled() => {
                        let first = line.done[0].0;
                        let number = first + chance(line.done.len() as u64);
                        let waiting = line.done.len();
                        let [(_, position)] = line.committed(number)[..] else {
                            panic!("one partition has one position");
                        };
                        let before = committed.len() as i64;
                        let count = (waiting - line.done.len()) as i64;
                        committed.extend(before..before + count);
                        assert_eq!(position, committed.last().unwrap() + 1);
                    }
                    4 if !line.is_settled() => {
                        let first = line.done[0].0;
                        let number = first + chance(line.done.len() as u64);
                        taken_back(&mut line, number);
                    }
                    _ => {}
                }
            }
        }
    }
}
