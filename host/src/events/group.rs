//! A group: invocations whose effects are committed together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::line::Fate;
use crate::effects::{Effects, Message};
use crate::follower::Held;
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

/// The shard that a lane writes.
#[derive(Clone)]
pub(super) struct Shard {
    /// The right to write it, for this term of ownership.
    pub(super) held: Arc<Held>,
    /// Where its rows go as well; nowhere on the embedded broker.
    pub(super) changelog: Option<Arc<str>>,
}

impl Shard {
    pub(super) fn number(&self) -> u32 {
        self.held.claim().shard
    }
}

/// A lane, as the committer knows it. There is a new one for each term of
/// ownership.
pub(super) struct Origin {
    /// Where answers go.
    pub(super) replies: mpsc::UnboundedSender<Reply>,
    /// None for a service without state.
    pub(super) shard: Option<Shard>,
    /// How often this member had lost partitions when the lane began.
    pub(super) losses: u64,
    /// The term whose results may be committed: one more with each refusal. The
    /// lane counts along as it hears of them; results of earlier terms ran on
    /// something that turned out wrong.
    term: AtomicU32,
    /// By term: the number whose refusal ended it.
    refusals: Mutex<Vec<u64>>,
    /// Whether the lane still owns its partitions.
    owned: AtomicBool,
}

impl Origin {
    pub(super) fn new(
        replies: mpsc::UnboundedSender<Reply>,
        shard: Option<Shard>,
        losses: u64,
    ) -> Origin {
        Origin {
            replies,
            shard,
            losses,
            term: AtomicU32::new(0),
            refusals: Mutex::default(),
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

    /// Whether a result is right: none before it in this lane was refused after
    /// it had run.
    fn is_right(&self, term: u32, number: u64) -> bool {
        let since = usize::try_from(term).unwrap_or(usize::MAX);
        term == self.term()
            || self
                .refusals
                .lock()
                .iter()
                .skip(since)
                .all(|refused| number < *refused)
    }

    /// The effects of this number were refused.
    fn refuse(&self, number: u64, cause: String) {
        let mut refusals = self.refusals.lock();
        refusals.push(number);
        self.term.fetch_add(1, Ordering::AcqRel);
        drop(refusals);
        self.tell(Reply::Refused(number, cause));
    }

    fn tell(&self, reply: Reply) {
        // A lane that has ended needs no answer.
        let _ = self.replies.send(reply);
    }
}

/// An event that ran well.
pub(super) struct Done {
    pub(super) origin: Arc<Origin>,
    pub(super) term: u32,
    pub(super) number: u64,
    pub(super) source: Source,
    pub(super) offset: i64,
    /// The offset to commit to the group with it: of the event behind it, or, of
    /// an event that is replayed, where the group is already.
    pub(super) group_offset: i64,
    pub(super) effects: Effects,
    /// What was made of the event.
    pub(super) fate: Fate,
    /// When its call had ended.
    pub(super) ran_at: Instant,
    /// The number of the deployment that it ran by.
    pub(super) deployment: u64,
}

impl Done {
    /// Whether another one is of the same lane and partition.
    fn is_beside(&self, other: &Done) -> bool {
        Arc::ptr_eq(&self.origin, &other.origin) && self.source == other.source
    }

    /// Whether it may still be committed.
    pub(super) fn is_current(&self) -> bool {
        self.origin.owned.load(Ordering::Acquire) && self.origin.is_right(self.term, self.number)
    }
}

/// Takes out of a group what was refused (by place), and what its lanes ran after
/// it: that ran on results that will never be. Other lanes are not touched.
///
/// Ends the term of each lane with a refused event, and tells it.
pub(super) fn refuse(group: Vec<Done>, refused: &BTreeMap<usize, String>) -> Vec<Done> {
    let mut ended: BTreeSet<*const Origin> = BTreeSet::new();
    let mut kept = Vec::with_capacity(group.len());
    let mut told = Vec::new();
    for (place, done) in group.into_iter().enumerate() {
        let lane = Arc::as_ptr(&done.origin);
        if ended.contains(&lane) {
            continue;
        }
        match refused.get(&place) {
            Some(cause) => {
                ended.insert(lane);
                told.push((done.origin, done.number, cause.clone()));
            }
            None => kept.push(done),
        }
    }
    for (origin, number, cause) in told {
        origin.refuse(number, cause);
    }
    kept
}

/// What a group comes to.
#[derive(Default)]
pub(super) struct Sum {
    /// Rows and positions by the lane that wrote them. A row that several events
    /// wrote is there once, with its last value.
    pub(super) shards: Vec<(Shard, Commit)>,
    /// What to commit to the consumer group.
    pub(super) offsets: BTreeMap<Source, i64>,
    /// The highest number of a deployment that any of it ran by.
    pub(super) deployment: u64,
}

/// Adds up a group.
pub(super) fn sum(group: &[Done]) -> Sum {
    let mut sum = Sum::default();
    let mut lanes: BTreeMap<*const Origin, usize> = BTreeMap::new();
    for (place, done) in group.iter().enumerate() {
        // Lanes run several events at once: only the last of these says how far.
        let next = group.get(place + 1);
        let is_last = next.is_none_or(|next| !done.is_beside(next));
        if is_last {
            sum.offsets.insert(done.source.clone(), done.group_offset);
        }
        sum.deployment = sum.deployment.max(done.deployment);
        let Some(shard) = &done.origin.shard else {
            continue;
        };
        let lane = *lanes.entry(Arc::as_ptr(&done.origin)).or_insert_with(|| {
            sum.shards.push((shard.clone(), Commit::default()));
            sum.shards.len() - 1
        });
        let Some((_, commit)) = sum.shards.get_mut(lane) else {
            continue;
        };
        for (row, value) in &done.effects.rows {
            commit.rows.insert(row.clone(), value.clone());
        }
        if is_last {
            let position = done.offset + 1;
            commit.positions.insert(done.source.0.clone(), position);
        }
    }
    sum
}

/// Which messages of a group are whose: for each event, where its own end.
pub(super) struct Shares(Vec<usize>);

impl Shares {
    /// Takes what a group published, so that nothing of it is copied.
    pub(super) fn take(group: &mut [Done]) -> (Vec<Message>, Shares) {
        let mut messages = Vec::new();
        let ends = group.iter_mut().map(|done| {
            messages.append(&mut done.effects.messages);
            messages.len()
        });
        let shares = Shares(ends.collect());
        (messages, shares)
    }

    /// Gives it back.
    pub(super) fn give_back(&self, group: &mut [Done], messages: Vec<Message>) {
        let mut messages = messages.into_iter();
        let mut given = 0;
        for (done, end) in group.iter_mut().zip(&self.0) {
            done.effects.messages = messages.by_ref().take(end - given).collect();
            given = *end;
        }
    }

    /// The place of the event that published a message.
    pub(super) fn owner(&self, message: usize) -> Option<usize> {
        let place = self.0.partition_point(|end| *end <= message);
        (place < self.0.len()).then_some(place)
    }

    /// Of what there is of each message, in order, what is of each event.
    pub(super) fn of_each<'a, T>(&'a self, all: &'a [T]) -> impl Iterator<Item = &'a [T]> {
        let begins = std::iter::once(&0).chain(&self.0);
        let ranges = begins.zip(&self.0);
        ranges.map(|(begin, end)| all.get(*begin..*end).unwrap_or_default())
    }
}

/// Tells the lanes of a group that it is committed.
pub(super) fn tell_committed(group: &[Done]) {
    let mut lanes: BTreeMap<*const Origin, &Done> = BTreeMap::new();
    for done in group {
        lanes.insert(Arc::as_ptr(&done.origin), done);
    }
    for done in lanes.into_values() {
        done.origin.tell(Reply::Committed(done.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    use crate::state::RowKey;

    struct Lane {
        origin: Arc<Origin>,
        replies: mpsc::UnboundedReceiver<Reply>,
    }

    fn lane(shard: Option<Shard>) -> Lane {
        let (told, replies) = mpsc::unbounded_channel();
        let origin = Arc::new(Origin::new(told, shard, 0));
        Lane { origin, replies }
    }

    impl Lane {
        fn done(&self, partition: i32, number: u64, value: &'static str) -> Done {
            let row = RowKey::new("t", b"k");
            let value = Some(Bytes::from_static(value.as_bytes()));
            let offset = 100 + number.cast_signed();
            Done {
                origin: self.origin.clone(),
                term: self.origin.term(),
                number,
                source: ("topic".into(), partition),
                offset,
                group_offset: offset + 1,
                effects: Effects {
                    rows: BTreeMap::from([(row, value)]),
                    ..Effects::default()
                },
                fate: Fate::Ran,
                ran_at: Instant::now(),
                deployment: number,
            }
        }

        fn heard(&mut self) -> Vec<String> {
            let heard = std::iter::from_fn(|| self.replies.try_recv().ok());
            heard.map(|reply| format!("{reply:?}")).collect()
        }
    }

    #[test]
    fn a_row_is_written_once_with_its_last_value_and_the_offset_behind_the_last_event() {
        let store = crate::state::Store::open(&crate::testing::folder("group")).unwrap();
        let tables = store.tables("s", 1).unwrap();
        let mut a = lane(Some(Shard {
            held: Arc::new(Held::alone(tables, 3)),
            changelog: None,
        }));
        let group = [a.done(3, 0, "1"), a.done(3, 1, "2")];
        let sum = sum(&group);
        assert_eq!(sum.shards.len(), 1);
        let commit = &sum.shards[0].1;
        assert_eq!(commit.rows.len(), 1);
        let (_, value) = commit.rows.first_key_value().unwrap();
        assert_eq!(value.as_deref(), Some(&b"2"[..]));
        assert_eq!(commit.positions["topic"], 102);
        assert_eq!(sum.offsets[&("topic".into(), 3)], 102);
        assert_eq!(sum.deployment, 1);
        tell_committed(&group);
        assert_eq!(a.heard(), ["Committed(1)"]);
    }

    #[test]
    fn a_refused_event_takes_with_it_what_ran_on_it_and_nothing_else() {
        let (mut a, mut b) = (lane(None), lane(None));
        let group = vec![
            a.done(0, 0, "a0"),
            b.done(1, 0, "b0"),
            a.done(0, 1, "a1"),
            a.done(0, 2, "a2"),
            b.done(1, 1, "b1"),
        ];
        let late = a.done(0, 3, "a3");
        let kept = refuse(group, &BTreeMap::from([(2, "too large".to_owned())]));
        let sum = sum(&kept);
        assert_eq!(kept.len(), 3);
        assert_eq!(sum.offsets[&("topic".into(), 0)], 101);
        assert_eq!(sum.offsets[&("topic".into(), 1)], 102);
        tell_committed(&kept);
        let told = [r#"Refused(1, "too large")"#, "Committed(0)"];
        assert_eq!(a.heard(), told);
        assert_eq!(b.heard(), ["Committed(1)"]);
        // What that lane had run meanwhile is of an ended term.
        assert!(!late.is_current());
        // What it had run before stays right, unless it is refused as well.
        assert!(kept[0].is_current());
        let again = a.done(0, 4, "again");
        refuse(kept, &BTreeMap::from([(0, "too large".to_owned())]));
        assert!(!again.is_current());
        assert!(a.done(0, 1, "again").is_current());
        assert!(b.done(1, 2, "b2").is_current());
    }

    #[test]
    fn what_a_group_published_is_taken_and_given_back_to_whose_it_was() {
        let a = lane(None);
        let published = [0, 2, 0, 1];
        let mut group = Vec::from_iter((0..4).map(|number| a.done(0, number, "a")));
        let mut offset = 0;
        for (done, messages) in group.iter_mut().zip(published) {
            for _ in 0..messages {
                offset += 1;
                done.effects.messages.push(Message {
                    topic: "t".into(),
                    partition: Some(offset),
                    key: None,
                    value: None,
                    headers: Vec::new(),
                });
            }
        }
        let numbers = |messages: &[Message]| {
            let numbers = messages.iter().map(|message| message.partition.unwrap());
            Vec::from_iter(numbers)
        };
        let (messages, shares) = Shares::take(&mut group);
        assert_eq!(numbers(&messages), [1, 2, 3]);
        assert!(group.iter().all(|done| done.effects.messages.is_empty()));
        let owners = (0..4).map(|message| shares.owner(message));
        assert_eq!(Vec::from_iter(owners), [Some(1), Some(1), Some(3), None]);
        let each = shares.of_each(&messages).map(numbers);
        assert_eq!(Vec::from_iter(each), [vec![], vec![1, 2], vec![], vec![3]]);
        // What is not there is nobody's.
        assert_eq!(shares.of_each(&messages[..2]).flatten().count(), 2);
        shares.give_back(&mut group, messages);
        let back = group.iter().map(|done| numbers(&done.effects.messages));
        assert_eq!(Vec::from_iter(back), [vec![], vec![1, 2], vec![], vec![3]]);
    }

    #[test]
    fn nothing_of_a_lane_that_lost_its_partitions_is_current() {
        let a = lane(None);
        let ran = a.done(0, 0, "a");
        assert!(ran.is_current());
        a.origin.disown();
        assert!(!ran.is_current());
    }
}
