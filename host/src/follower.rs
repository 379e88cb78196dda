//! The follower: keeps this host's copies of all state up to date.
//!
//! One thread and one consumer for the changelogs of all services. A shard that
//! has its owner on this host is not followed; the owner writes it. A shard that
//! is about to get its owner is followed up to the end of its changelog and
//! handed over there, so that nothing is read twice or missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::kafka::{ChangelogReader, Cluster, Entry, KafkaError, Source};
use crate::sabotage;
use crate::state::rows::POSITION;
use crate::state::{Claim, Position, StoreError, Tables};

/// The most records taken from librdkafka at once.
const MOST: usize = 10_000;
/// How long a first record is waited for; and so for orders.
const WAIT: Duration = Duration::from_millis(10);
/// What is held of one shard until its position row comes: more than any
/// transaction has. What is more is an old part of a compacted changelog.
const HELD: usize = 32 << 20;
/// How often it is noted that copies are up to date.
const NOTE: Duration = Duration::from_secs(30);
/// A copy that was not up to date for as long is made anew: the broker keeps the
/// marks of deleted rows for a day (`delete.retention.ms`).
const STALE_MS: i64 = 12 * 3_600_000;

/// What the follower is told.
enum Order {
    Follow(Arc<Tables>, Arc<str>, u32),
    Leave(Arc<str>),
    HandOver(Source, i64, oneshot::Sender<Held>),
    TakeBack(Source),
}

/// The right to write a shard as its owner. Dropped, it goes back to the
/// follower, and what was still to be written under it is not.
pub struct Held {
    tables: Arc<Tables>,
    claim: Claim,
    back: Option<(mpsc::Sender<Order>, Source)>,
}

impl Held {
    /// Of a shard without changelog, which nothing follows.
    pub fn alone(tables: Arc<Tables>, shard: u32) -> Held {
        Held {
            claim: tables.claim(shard),
            tables,
            back: None,
        }
    }

    /// What is written.
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// The right itself.
    pub fn claim(&self) -> Claim {
        self.claim
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.tables.release(self.claim);
        if let Some((orders, source)) = self.back.take() {
            // The thread ends with the host only.
            let _ = orders.send(Order::TakeBack(source));
        }
    }
}

/// The thread, seen from outside. It ends with the process.
pub struct Follower {
    orders: mpsc::Sender<Order>,
}

impl Follower {
    /// Starts the thread; the broker need not answer yet.
    pub fn start(cluster: &Cluster) -> Result<Follower, KafkaError> {
        let reader = ChangelogReader::open(cluster)?;
        let (orders, ordered) = mpsc::channel();
        std::thread::Builder::new()
            .name("tidemill-follow".to_owned())
            .spawn({
                let orders = orders.clone();
                move || Work::new(reader, orders).run(&ordered)
            })
            .map_err(|error| KafkaError::Config(error.to_string()))?;
        Ok(Follower { orders })
    }

    fn order(&self, order: Order) {
        // The thread ends with the host only.
        let _ = self.orders.send(order);
    }

    /// Follows a changelog with this many shards, from where the copy is.
    pub fn follow(&self, tables: Arc<Tables>, changelog: &Arc<str>, shards: u32) {
        self.order(Order::Follow(tables, changelog.clone(), shards));
    }

    /// Follows a changelog no more.
    pub fn leave(&self, changelog: &Arc<str>) {
        self.order(Order::Leave(changelog.clone()));
    }

    /// Waits until the copy of a shard has everything before this offset of its
    /// changelog, and hands the shard over. None if it is not followed any more.
    pub async fn hand_over(&self, shard: &Source, until: i64) -> Option<Held> {
        let (held, handed) = oneshot::channel();
        self.order(Order::HandOver(shard.clone(), until, held));
        handed.await.ok()
    }
}

/// A shard that is followed.
struct Copy {
    tables: Arc<Tables>,
    shard: u32,
    /// Read, and not applied yet.
    held: Vec<(Bytes, Option<Bytes>)>,
    bytes: usize,
    /// How many of them belong to what the latest position row closes.
    closed: usize,
    position: Option<Position>,
    /// The offset behind the latest position row.
    closed_at: i64,
    /// The offset behind the latest record.
    next: i64,
    /// The end at which everything had been read; none after a further record.
    end: Option<i64>,
    /// The high watermark when reading began: what there was then.
    target: Option<i64>,
    /// Whether it has come to that since the host started.
    caught_up: bool,
    /// Its owner is on this host.
    owned: bool,
    wanted: Option<(i64, oneshot::Sender<Held>)>,
}

struct Work {
    reader: ChangelogReader,
    /// For shards to come back by.
    orders: mpsc::Sender<Order>,
    copies: BTreeMap<Source, Copy>,
    /// Records read since the host started.
    read: u64,
    noted: Instant,
}

impl Work {
    fn new(reader: ChangelogReader, orders: mpsc::Sender<Order>) -> Work {
        Work {
            reader,
            orders,
            copies: BTreeMap::new(),
            read: 0,
            noted: Instant::now(),
        }
    }

    fn run(mut self, orders: &mpsc::Receiver<Order>) {
        loop {
            while let Ok(order) = orders.try_recv() {
                self.take(order);
            }
            if self.copies.is_empty() {
                // Nothing comes from nowhere: only an order can change that.
                match orders.recv() {
                    Ok(order) => self.take(order),
                    Err(mpsc::RecvError) => return,
                }
                continue;
            }
            self.read();
            self.note();
        }
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Follow(tables, changelog, shards) => self.follow(&tables, &changelog, shards),
            Order::Leave(changelog) => {
                let left: Vec<Source> = self
                    .copies
                    .keys()
                    .filter(|(topic, _)| *topic == changelog)
                    .cloned()
                    .collect();
                for source in left {
                    if let Some(copy) = self.copies.remove(&source)
                        && !copy.owned
                    {
                        self.stop_reading(&source);
                    }
                }
            }
            Order::HandOver(source, until, held) => {
                if let Some(copy) = self.copies.get_mut(&source) {
                    copy.wanted = Some((until, held));
                    self.hand_over(&source);
                }
            }
            Order::TakeBack(source) => {
                if let Some(copy) = self.copies.get_mut(&source)
                    && copy.owned
                {
                    copy.owned = false;
                    copy.begin();
                    self.start_reading(&source);
                }
            }
        }
    }

    fn follow(&mut self, tables: &Arc<Tables>, changelog: &Arc<str>, shards: u32) {
        if let Err(error) = forget_if_stale(tables) {
            tracing::error!(event = "state.not-marked", topic = &**changelog, %error, "a copy of state cannot be told to be stale");
        }
        for shard in 0..shards {
            let source = (changelog.clone(), shard.cast_signed());
            if self.copies.contains_key(&source) {
                continue;
            }
            let mut copy = Copy {
                tables: tables.clone(),
                shard,
                held: Vec::new(),
                bytes: 0,
                closed: 0,
                position: None,
                closed_at: 0,
                next: 0,
                end: None,
                target: None,
                caught_up: false,
                owned: false,
                wanted: None,
            };
            copy.begin();
            self.copies.insert(source.clone(), copy);
            self.start_reading(&source);
        }
    }

    fn start_reading(&self, source: &Source) {
        let from = self.copies.get(source).map_or(0, |copy| copy.next);
        if let Err(error) = self.reader.follow(source, from) {
            tracing::error!(event = "changelog.not-followed", topic = &*source.0, shard = source.1, %error, "a changelog is not followed");
        }
    }

    fn stop_reading(&self, source: &Source) {
        if let Err(error) = self.reader.leave(source) {
            tracing::error!(event = "changelog.still-read", topic = &*source.0, shard = source.1, %error, "a changelog is still read");
        }
    }

    fn read(&mut self) {
        let mut lost = Vec::new();
        let mut touched: Vec<Source> = Vec::new();
        let (copies, read) = (&mut self.copies, &mut self.read);
        let mut latest: Option<(Source, bool)> = None;
        self.reader.read(MOST, WAIT, |topic, partition, entry| {
            // Records of one partition come one after another: looked up once.
            let same = latest
                .as_ref()
                .is_some_and(|((t, p), _)| *p == partition && **t == *topic);
            if !same {
                let source: Source = (topic.into(), partition);
                let known = copies.get(&source).is_some_and(|copy| !copy.owned);
                if known && !touched.contains(&source) {
                    touched.push(source.clone());
                }
                latest = Some((source, known));
            }
            let Some((source, true)) = &latest else {
                return;
            };
            let Some(copy) = copies.get_mut(source) else {
                return;
            };
            match entry {
                Entry::Record(offset, key, value) => {
                    *read += 1;
                    copy.record(offset, key, value);
                }
                Entry::End(offset) => copy.end = Some(offset),
                Entry::OutOfRange => lost.push(source.clone()),
                Entry::Failed(why) => {
                    tracing::debug!(
                        topic,
                        shard = partition,
                        "reading a changelog failed: {why}"
                    );
                }
            }
        });
        for source in touched {
            if let Some(end) = self.reader.known_end(&source)
                && let Some(copy) = self.copies.get_mut(&source)
            {
                copy.tables.set_end(copy.shard, end);
                copy.target.get_or_insert(end);
            }
            self.apply(&source);
            self.hand_over(&source);
        }
        for source in lost {
            self.begin_anew(&source);
        }
    }

    /// Writes what is held of a shard as far as it is closed by a position row;
    /// all of it at the end, or if it is more than a transaction can be.
    fn apply(&mut self, source: &Source) {
        let Some(copy) = self.copies.get_mut(source) else {
            return;
        };
        let (records, checkpoint) = match copy.end {
            Some(end) => (copy.held.len(), end.max(copy.next)),
            None if copy.bytes > HELD => (copy.held.len(), copy.next),
            None if copy.closed_at > 0 => (copy.closed, copy.closed_at),
            None => return,
        };
        let known = copy.tables.checkpoint(copy.shard);
        if records > 0 || copy.position.is_some() || known != Some(checkpoint) {
            let position = copy.position.take();
            let held = copy.held.drain(..records);
            let written = copy
                .tables
                .apply(copy.shard, held, position.as_ref(), checkpoint);
            if let Err(error) = written {
                // The rows are gone from here: they are read again.
                tracing::error!(event = "state.not-applied", topic = &*source.0, shard = source.1, %error, "state was not written, reading again");
                self.stop_reading(source);
                if let Some(copy) = self.copies.get_mut(source) {
                    copy.begin();
                }
                std::thread::sleep(Duration::from_millis(250));
                self.start_reading(source);
                return;
            }
            copy.bytes = copy.held.iter().map(size).sum();
        }
        copy.closed = 0;
        copy.closed_at = 0;
        // What may be read can end before what is there: at an open transaction.
        if copy.target.is_some_and(|target| checkpoint >= target) && !copy.caught_up {
            copy.caught_up = true;
            let tables = copy.tables.clone();
            self.completed(&tables);
        }
    }

    /// A shard has been read to its end for the first time: when all of them are,
    /// the state is complete.
    fn completed(&self, tables: &Arc<Tables>) {
        let mut theirs = self
            .copies
            .values()
            .filter(|copy| Arc::ptr_eq(&copy.tables, tables));
        if tables.is_complete() || !theirs.all(|copy| copy.caught_up) {
            return;
        }
        tracing::info!(
            event = "state.complete",
            state = tables.name(),
            rows_read = self.read,
            "the state is complete on this host"
        );
        if let Err(error) = tables.set_complete() {
            tracing::error!(event = "state.not-marked", %error, "it was not noted that state is complete");
        }
    }

    fn hand_over(&mut self, source: &Source) {
        let Some(copy) = self.copies.get_mut(source) else {
            return;
        };
        let reached = copy
            .end
            .is_some_and(|end| copy.wanted.as_ref().is_some_and(|(until, _)| end >= *until));
        let reached = reached || sabotage::is_off("catch-up") && copy.wanted.is_some();
        if !reached || copy.owned {
            return;
        }
        let Some((_, handed)) = copy.wanted.take() else {
            return;
        };
        copy.owned = true;
        let held = Held {
            claim: copy.tables.claim(copy.shard),
            tables: copy.tables.clone(),
            back: Some((self.orders.clone(), source.clone())),
        };
        self.stop_reading(source);
        // If nobody wants it any more, it comes back by itself.
        let _ = handed.send(held);
    }

    /// The changelog does not have the offset that the copy is at: it was made
    /// anew, and so is the copy.
    fn begin_anew(&mut self, source: &Source) {
        let Some(copy) = self.copies.get(source) else {
            return;
        };
        tracing::error!(
            event = "state.made-anew",
            topic = &*source.0,
            shard = source.1,
            "the changelog does not go on where this host's copy ends: the copy is made anew"
        );
        let tables = copy.tables.clone();
        if let Err(error) = tables.forget() {
            tracing::error!(event = "state.not-emptied", %error, "a copy of state was not emptied");
        }
        let theirs: Vec<Source> = self
            .copies
            .iter()
            .filter(|(_, copy)| Arc::ptr_eq(&copy.tables, &tables) && !copy.owned)
            .map(|(source, _)| source.clone())
            .collect();
        for source in theirs {
            self.stop_reading(&source);
            if let Some(copy) = self.copies.get_mut(&source) {
                copy.begin();
                copy.caught_up = false;
            }
            self.start_reading(&source);
        }
    }

    /// Notes now and then which copies are up to date.
    fn note(&mut self) {
        if self.noted.elapsed() < NOTE {
            return;
        }
        self.noted = Instant::now();
        let mut behind: Vec<*const Tables> = Vec::new();
        let mut all: BTreeMap<*const Tables, Arc<Tables>> = BTreeMap::new();
        for copy in self.copies.values() {
            let tables = Arc::as_ptr(&copy.tables);
            all.insert(tables, copy.tables.clone());
            if copy.end.is_none() && !copy.owned {
                behind.push(tables);
            }
        }
        for (tables, copy) in all {
            if behind.contains(&tables) {
                continue;
            }
            if let Err(error) = copy.set_followed_at(crate::now_ms().cast_signed()) {
                tracing::error!(event = "state.not-marked", %error, "it was not noted that state is up to date");
            }
        }
    }
}

impl Copy {
    /// Begins where the copy on disk is.
    fn begin(&mut self) {
        self.held.clear();
        self.bytes = 0;
        self.closed = 0;
        self.closed_at = 0;
        self.position = None;
        self.end = None;
        self.target = None;
        self.next = self.tables.checkpoint(self.shard).unwrap_or(0);
    }

    fn record(&mut self, offset: i64, key: Option<Bytes>, value: Option<Bytes>) {
        self.next = offset + 1;
        self.end = None;
        // Only the host writes changelogs, and always with a key.
        let Some(key) = key else { return };
        if &key[..] == POSITION {
            self.closed = self.held.len();
            self.closed_at = self.next;
            let position = value.as_deref().and_then(Position::decode);
            self.position = position.or(self.position.take());
            return;
        }
        let record = (key, value);
        self.bytes += size(&record);
        self.held.push(record);
    }
}

fn size((key, value): &(Bytes, Option<Bytes>)) -> usize {
    64 + key.len() + value.as_ref().map_or(0, Bytes::len)
}

/// Empties a copy that may have missed that rows were deleted.
fn forget_if_stale(tables: &Tables) -> Result<(), StoreError> {
    let now = crate::now_ms().cast_signed();
    match tables.followed_at()? {
        Some(time) if now - time > STALE_MS => {
            tracing::warn!(
                event = "state.stale",
                "this host's copy of a state is more than {} hours old, and made anew",
                STALE_MS / 3_600_000
            );
            tables.forget()?;
            tables.set_followed_at(now)
        }
        Some(_) => Ok(()),
        None => tables.set_followed_at(now),
    }
}
