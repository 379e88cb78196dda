//! A group: invocations whose effects are committed together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::mpsc;

use crate::effects::Effects;
use crate::kafka::Source;
use crate::state::Commit;

/// What a lane hears about what it handed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// All up to this number are committed.
    Committed(u64),
    /// The effects of this number were refused; nothing of it or of those behind
    /// it is committed.
    Refused(u64, String),
}

/// A lane, as the committer knows it.
#[derive(Debug)]
pub(super) struct Origin {
    /// Where answers go.
    pub(super) replies: mpsc::UnboundedSender<Reply>,
    /// The term whose results may be committed: one more with each refusal. The
    /// lane counts along as it hears of them; results of earlier terms ran on
    /// something that turned out wrong.
    term: AtomicU32,
    /// Whether the lane still owns its partitions.
    owned: AtomicBool,
}

impl Origin {
    pub(super) fn new(replies: mpsc::UnboundedSender<Reply>) -> Origin {
        Origin {
            replies,
            term: AtomicU32::new(0),
            owned: AtomicBool::new(true),
        }
    }

    /// The term whose results may be committed.
    fn term(&self) -> u32 {
        self.term.load(Ordering::Acquire)
    }

    /// The partitions are gone: nothing of this lane may be committed any more.
    pub(super) fn disown(&self) {
        self.owned.store(false, Ordering::Release);
    }
}

/// An event that ran well.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) origin: Arc<Origin>,
    pub(super) term: u32,
    pub(super) number: u64,
    pub(super) source: Source,
    pub(super) offset: i64,
    pub(super) effects: Effects,
}

impl Done {
    /// Whether it may still be committed.
    pub(super) fn is_current(&self) -> bool {
        self.origin.owned.load(Ordering::Acquire) && self.term == self.origin.term()
    }
}

/// What to make durable and whom to tell.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) commit: Commit,
    pub(super) replies: Vec<(Arc<Origin>, Reply)>,
    pub(super) events: usize,
}

/// Decides what of a group is committed, when the effects of some of it (by
/// place) were refused. What a lane ran after a refused event is not: it ran on
/// results that will never be. Other lanes are not touched.
///
/// Ends the term of each lane with a refused event.
pub(super) fn settle(group: Vec<Done>, refused: &BTreeMap<usize, String>) -> Settled {
    let mut settled = Settled::default();
    // By lane: the last number that is committed, and the first refused one.
    let mut lanes: BTreeMap<*const Origin, Lane> = BTreeMap::new();
    for (place, done) in group.into_iter().enumerate() {
        let lane = lanes
            .entry(Arc::as_ptr(&done.origin))
            .or_insert_with(|| Lane {
                origin: done.origin.clone(),
                committed: None,
                refused: None,
            });
        if lane.refused.is_some() {
            continue;
        }
        if let Some(cause) = refused.get(&place) {
            lane.refused = Some((done.number, cause.clone()));
            continue;
        }
        lane.committed = Some(done.number);
        settled.events += 1;
        // Shard i belongs to partition i; a row that several events wrote is
        // written once, with its last value.
        let shard = u32::try_from(done.source.1).unwrap_or_default();
        for (row, value) in done.effects.rows {
            settled.commit.rows.insert((shard, row), value);
        }
        settled
            .commit
            .positions
            .insert(done.source, done.offset + 1);
    }
    for lane in lanes.into_values() {
        if let Some(number) = lane.committed {
            let reply = Reply::Committed(number);
            settled.replies.push((lane.origin.clone(), reply));
        }
        if let Some((number, cause)) = lane.refused {
            lane.origin.term.fetch_add(1, Ordering::AcqRel);
            let reply = Reply::Refused(number, cause);
            settled.replies.push((lane.origin, reply));
        }
    }
    settled
}

struct Lane {
    origin: Arc<Origin>,
    committed: Option<u64>,
    refused: Option<(u64, String)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn lane() -> Arc<Origin> {
        Arc::new(Origin::new(mpsc::unbounded_channel().0))
    }

    fn done(origin: &Arc<Origin>, partition: i32, number: u64, value: &'static str) -> Done {
        let row = ("t".to_owned(), Bytes::from_static(b"k"));
        let value = Some(Bytes::from_static(value.as_bytes()));
        Done {
            origin: origin.clone(),
            term: origin.term(),
            number,
            source: ("topic".into(), partition),
            offset: 100 + number as i64,
            effects: Effects {
                rows: BTreeMap::from([(row, value)]),
                ..Effects::default()
            },
        }
    }

    fn replies(settled: &Settled, to: &Arc<Origin>) -> Vec<String> {
        let theirs = settled.replies.iter().filter(|(o, _)| Arc::ptr_eq(o, to));
        theirs.map(|(_, reply)| format!("{reply:?}")).collect()
    }

    #[test]
    fn a_row_is_written_once_with_its_last_value_and_the_offset_behind_the_last_event() {
        let a = lane();
        let settled = settle(
            vec![done(&a, 3, 0, "1"), done(&a, 3, 1, "2")],
            &BTreeMap::new(),
        );
        assert_eq!(settled.events, 2);
        assert_eq!(settled.commit.rows.len(), 1);
        let ((shard, _), value) = settled.commit.rows.first_key_value().unwrap();
        assert_eq!((*shard, value.as_deref()), (3, Some(&b"2"[..])));
        assert_eq!(settled.commit.positions[&("topic".into(), 3)], 102);
        assert_eq!(replies(&settled, &a), ["Committed(1)"]);
    }

    #[test]
    fn a_refused_event_holds_back_what_ran_on_it_and_nothing_else() {
        let (a, b) = (lane(), lane());
        let group = vec![
            done(&a, 0, 0, "a0"),
            done(&b, 1, 0, "b0"),
            done(&a, 0, 1, "a1"),
            done(&a, 0, 2, "a2"),
            done(&b, 1, 1, "b1"),
        ];
        let refused = BTreeMap::from([(2, "too large".to_owned())]);
        let late = done(&a, 0, 3, "a3");
        let settled = settle(group, &refused);
        assert_eq!(settled.events, 3);
        assert_eq!(settled.commit.positions[&("topic".into(), 0)], 101);
        assert_eq!(settled.commit.positions[&("topic".into(), 1)], 102);
        assert_eq!(
            replies(&settled, &a),
            ["Committed(0)", r#"Refused(1, "too large")"#]
        );
        assert_eq!(replies(&settled, &b), ["Committed(1)"]);
        // What that lane had run meanwhile is of an ended term.
        assert!(!late.is_current());
        assert!(done(&a, 0, 1, "again").is_current());
        assert!(done(&b, 1, 2, "b2").is_current());
    }

    #[test]
    fn nothing_of_a_lane_that_lost_its_partitions_is_current() {
        let a = lane();
        let ran = done(&a, 0, 0, "a");
        assert!(ran.is_current());
        a.disown();
        assert!(!ran.is_current());
    }
}
