//! A deployed service: its running revision behind one swap, and what is known
//! of its partitions.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use http::HeaderMap;
use parking_lot::Mutex;
use tidemill_cli::api::{Canary, Partition, Status};
use tokio::sync::watch;

use crate::deployments::record;
use crate::kafka::{End, Ends, Source};
use crate::logs::Invocations;
use crate::metrics::ServiceMetrics;
use crate::revision::Revision;
use crate::state::State;

/// What runs of a service on this host: at a time, and replaced as a whole.
pub struct Running {
    /// The deployment's number.
    pub number: u64,
    /// When the live revision was deployed, in milliseconds since the Unix epoch.
    pub deployed_at: u64,
    /// What runs for all.
    pub live: Arc<Revision>,
    /// What has a share.
    pub canary: Option<Candidate>,
    /// Until when the live revision is on trial, and what runs if it fails.
    pub trial: Option<Trial>,
}

/// A revision with a share.
pub struct Candidate {
    /// What runs.
    pub revision: Arc<Revision>,
    /// Its share.
    pub share: Canary,
}

/// The live revision is on trial.
pub struct Trial {
    /// Until then.
    pub until: Instant,
    /// Kept at hand, so that the way back takes no time.
    pub before: Option<Arc<Revision>>,
}

impl Running {
    /// One revision for all, as long as nothing else is known.
    pub fn only(live: Arc<Revision>, number: u64, deployed_at: u64) -> Running {
        Running {
            number,
            deployed_at,
            live,
            canary: None,
            trial: None,
        }
    }

    /// All revisions that are held for it.
    pub fn revisions(&self) -> impl Iterator<Item = &Revision> {
        let canary = self.canary.iter().map(|canary| &canary.revision);
        let before = self.trial.iter().filter_map(|trial| trial.before.as_ref());
        let all = std::iter::once(&self.live).chain(canary).chain(before);
        all.map(|revision| &**revision)
    }

    /// The revision for a request.
    fn for_request(&self, headers: &HeaderMap) -> &Arc<Revision> {
        let Some(canary) = &self.canary else {
            return &self.live;
        };
        let sticky = canary.share.sticky.as_ref();
        let place = match sticky.and_then(|sticky| record::sticks(sticky, headers)) {
            Some(value) => record::place(value),
            None => fastrand::f64(),
        };
        match record::takes_canary(&canary.share, place) {
            true => &canary.revision,
            false => &self.live,
        }
    }

    /// The revision for events of a partition.
    fn for_partition(&self, partition: i32) -> &Arc<Revision> {
        match &self.canary {
            Some(canary) if canary.share.partitions.contains(&partition) => &canary.revision,
            _ => &self.live,
        }
    }

    /// Until when what fails of a revision is held, and not given up: while it may
    /// still be gone back from.
    pub fn held_until(&self, revision: &Revision) -> Option<Instant> {
        if let Some(canary) = &self.canary
            && canary.revision.digest == revision.digest
        {
            return Some(Instant::now() + CANARY);
        }
        let trial = self.trial.as_ref()?;
        let live = self.live.digest == revision.digest;
        (live && trial.until > Instant::now()).then_some(trial.until)
    }
}

/// How long an event is held for a canary before it is looked at again.
const CANARY: Duration = Duration::from_secs(10);

/// A service under its name. Revisions come and go; this stays.
pub struct Service {
    name: String,
    running: ArcSwap<Running>,
    swaps: watch::Sender<u64>,
    paused: watch::Sender<bool>,
    board: Board,
    /// Counters of this service.
    pub metrics: ServiceMetrics,
    state: OnceLock<State>,
    /// For who watches its invocations.
    pub(crate) invocations: Arc<Invocations>,
}

impl Service {
    /// A service with its first revision.
    pub fn new(running: Running, metrics: ServiceMetrics, state: Option<State>) -> Service {
        Service {
            name: running.live.manifest.name.clone(),
            running: ArcSwap::from_pointee(running),
            swaps: watch::Sender::new(0),
            paused: watch::Sender::new(false),
            board: Board::default(),
            metrics,
            state: state.map(OnceLock::from).unwrap_or_default(),
            invocations: Arc::default(),
        }
    }

    /// The service's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its state on this host, if it is granted any, or was once.
    pub fn state(&self) -> Option<&State> {
        self.state.get()
    }

    /// It is granted state from now on. What it has already stays.
    pub fn give_state(&self, state: Option<State>) {
        if let Some(state) = state {
            let _ = self.state.set(state);
        }
    }

    /// Whether there is state that may be read.
    pub fn is_readable(&self) -> bool {
        self.state().is_some_and(State::is_readable)
    }

    /// How far its state is, for people.
    pub fn restored(&self) -> String {
        self.state().map(State::progress).unwrap_or_default()
    }

    /// The revision that runs for all. Whoever holds it keeps it alive: it is
    /// dropped when the last call on it ends.
    pub fn current(&self) -> Arc<Revision> {
        self.running.load().live.clone()
    }

    /// All that runs.
    pub fn running(&self) -> Arc<Running> {
        self.running.load_full()
    }

    /// The revision that a new request runs on.
    pub fn for_request(&self, headers: &HeaderMap) -> Arc<Revision> {
        self.running.load().for_request(headers).clone()
    }

    /// The revision that the next event of a partition runs on, and the number of
    /// the deployment that says so.
    pub fn for_partition(&self, partition: i32) -> (Arc<Revision>, u64) {
        let running = self.running.load();
        (running.for_partition(partition).clone(), running.number)
    }

    /// The number of the deployment that runs.
    pub fn number(&self) -> u64 {
        self.running.load().number
    }

    /// Replaces what runs, for the next invocation of each kind; those that run go
    /// on with theirs.
    pub fn swap(&self, running: Running) -> Arc<Running> {
        let before = self.running.swap(Arc::new(running));
        self.swaps.send_modify(|swaps| *swaps += 1);
        before
    }

    /// The live revision has passed its trial: what ran before is let go. Unless
    /// another deployment has come.
    pub fn trial_is_over(&self, number: u64) {
        let running = self.running();
        if running.number == number {
            let passed = Running {
                number,
                deployed_at: running.deployed_at,
                live: running.live.clone(),
                canary: None,
                trial: None,
            };
            // Nothing runs on another revision by it, so nobody hears of it.
            self.running.compare_and_swap(&running, Arc::new(passed));
        }
    }

    /// Has events that wait after a failure run again at once.
    pub fn hurry(&self) {
        self.swaps.send_modify(|swaps| *swaps += 1);
    }

    /// Whether it shall consume nothing on this host. Returns what was said before.
    pub fn pause(&self, paused: bool) -> bool {
        self.paused.send_replace(paused)
    }

    /// Hears whether it shall consume nothing on this host.
    pub fn paused(&self) -> watch::Receiver<bool> {
        self.paused.subscribe()
    }

    /// Hears of swaps, and of hurry.
    pub fn swaps(&self) -> watch::Receiver<u64> {
        self.swaps.subscribe()
    }

    /// What is known of its partitions.
    pub fn board(&self) -> &Board {
        &self.board
    }
}

/// What is known of the partitions that a service consumes on this host, for
/// people and metrics. Lanes write it; nothing is decided by it.
#[derive(Default)]
pub struct Board {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    partitions: BTreeMap<Source, Note>,
    ends: Ends,
    /// Why the service does not consume at all, if it should.
    trouble: Option<String>,
    /// Why all of it was stopped.
    halted: Option<String>,
    /// Which topic is gone.
    missing: Option<String>,
    /// Whether there is simply nothing for this host.
    idle: bool,
    /// Whether it consumes nothing since it was told so.
    paused: bool,
}

struct Note {
    position: i64,
    /// When it moved on for the last time.
    moved: Instant,
    /// Whether all that was read is committed.
    settled: bool,
    status: Status,
    attempt: u32,
    error: Option<String>,
    /// The offset of the event that failed.
    failed: Option<i64>,
}

impl Board {
    /// A partition is consumed from here on; −1 where that is not known yet.
    pub fn took(&self, source: Source, position: i64) {
        let note = Note {
            position,
            moved: Instant::now(),
            settled: true,
            status: Status::Running,
            attempt: 0,
            error: None,
            failed: None,
        };
        self.inner.lock().partitions.insert(source, note);
    }

    /// The state of a partition's shard is being brought up to date.
    pub fn restoring(&self, source: &Source) {
        self.waits(source, "its state is being restored");
    }

    /// Partitions of the same shard are with other hosts.
    pub fn apart(&self, source: &Source) {
        self.waits(
            source,
            "partitions that belong together are with several hosts",
        );
    }

    /// A later deployment has run it than this host runs yet.
    pub fn behind(&self, source: &Source) {
        self.waits(
            source,
            "a later deployment than this host's has run it: it is followed first",
        );
    }

    fn waits(&self, source: &Source, why: &str) {
        if let Some(note) = self.inner.lock().partitions.get_mut(source) {
            note.status = Status::Starting;
            note.error = Some(why.to_owned());
        }
    }

    /// A topic that it consumes is gone, or none is.
    pub fn missing(&self, why: Option<String>) {
        self.inner.lock().missing = why;
    }

    /// All partitions were stopped, or are not any more.
    pub fn halted(&self, why: Option<String>) {
        self.inner.lock().halted = why;
    }

    /// A partition is not consumed by this host any more.
    pub fn let_go(&self, source: &Source) {
        self.inner.lock().partitions.remove(source);
    }

    /// Events before this offset are committed.
    pub fn committed(&self, source: &Source, position: i64) {
        if let Some(note) = self.inner.lock().partitions.get_mut(source) {
            note.position = position;
            note.moved = Instant::now();
            // Events before the one that failed may still be on their way.
            if note.failed.is_none_or(|failed| failed < position) {
                note.status = Status::Running;
                note.attempt = 0;
                note.error = None;
                note.failed = None;
            }
        }
    }

    /// All that was read of a partition is committed, or there is something again.
    pub fn settled(&self, source: &Source, settled: bool) {
        if let Some(note) = self.inner.lock().partitions.get_mut(source) {
            note.settled = settled;
        }
    }

    /// The event at an offset failed, or the partition as a whole.
    pub fn failed(
        &self,
        source: &Source,
        offset: Option<i64>,
        status: Status,
        attempt: u32,
        error: String,
    ) {
        if let Some(note) = self.inner.lock().partitions.get_mut(source) {
            note.failed = offset;
            note.status = status;
            note.attempt = attempt;
            note.error = Some(error);
        }
    }

    /// The offset of the next event to commit; −1 if it is not known.
    pub fn position(&self, source: &Source) -> i64 {
        let inner = self.inner.lock();
        inner
            .partitions
            .get(source)
            .map_or(-1, |note| note.position)
    }

    /// The broker told where partitions end.
    pub fn ends(&self, ends: Ends) {
        self.inner.lock().ends = ends;
    }

    /// The service cannot consume, or can again.
    pub fn trouble(&self, trouble: Option<String>) {
        self.inner.lock().trouble = trouble;
    }

    /// What is wrong with the service as a whole.
    pub fn trouble_now(&self) -> Option<String> {
        let inner = self.inner.lock();
        let known = [&inner.halted, &inner.missing, &inner.trouble];
        known.into_iter().flatten().next().cloned()
    }

    /// This host is in the group, and was given no partition.
    pub fn idle(&self, idle: bool) {
        self.inner.lock().idle = idle;
    }

    /// It consumes nothing, as it was told, or does again.
    pub fn paused(&self, paused: bool) {
        self.inner.lock().paused = paused;
    }

    /// All partitions, as they are shown.
    pub fn partitions(&self) -> Vec<Partition> {
        let inner = self.inner.lock();
        let shown = inner.partitions.iter().map(|(source, note)| Partition {
            topic: source.0.to_string(),
            partition: source.1,
            owner: None,
            here: true,
            position: note.position,
            lag: lag(note, inner.ends.get(source)),
            status: note.status,
            attempt: note.attempt,
            error: note.error.clone(),
        });
        shown.collect()
    }

    /// For how long partitions have not moved on; not at all where nothing is to
    /// be consumed.
    pub fn stalls(&self) -> Vec<(Source, Duration)> {
        let inner = self.inner.lock();
        let stalls = inner.partitions.iter().map(|(source, note)| {
            let waits = lag(note, inner.ends.get(source)).is_some_and(|lag| lag > 0);
            let stalled = if waits {
                note.moved.elapsed()
            } else {
                Duration::ZERO
            };
            (source.clone(), stalled)
        });
        stalls.collect()
    }

    /// The worst of the partitions; `Starting` while there are none.
    pub fn status(&self) -> (Status, Option<String>) {
        let inner = self.inner.lock();
        let worst = inner
            .partitions
            .values()
            .max_by_key(|note| rank(note.status));
        if inner.paused {
            return (Status::Paused, None);
        }
        if let Some(why) = inner.halted.as_ref().or(inner.missing.as_ref()) {
            return (Status::Blocked, Some(why.clone()));
        }
        match (worst, &inner.trouble) {
            (_, Some(trouble)) => (Status::Starting, Some(trouble.clone())),
            (None, None) if inner.idle => (Status::Running, None),
            (None, None) => (Status::Starting, None),
            (Some(note), None) => (note.status, note.error.clone()),
        }
    }

    /// Events not yet consumed, over all partitions; none while unknown.
    pub fn lag(&self) -> Option<u64> {
        let partitions = self.partitions();
        if partitions.is_empty() {
            return self.inner.lock().idle.then_some(0);
        }
        partitions.iter().map(|partition| partition.lag).sum()
    }
}

fn lag(note: &Note, end: Option<&End>) -> Option<u64> {
    let end = end?;
    if note.position < 0 {
        return None;
    }
    // Markers of transactions take offsets, and are nothing to consume.
    if end.read && note.settled {
        return Some(0);
    }
    // An end that was told before the latest commit is behind it for a moment.
    let behind = end.offset.saturating_sub(note.position).max(0);
    Some(behind.unsigned_abs())
}

fn rank(status: Status) -> u8 {
    match status {
        Status::Running => 0,
        Status::Starting => 1,
        Status::Retrying => 2,
        Status::Blocked => 3,
        Status::Paused => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_partition_is_the_services_status_until_it_commits() {
        let board = Board::default();
        assert_eq!(board.status().0, Status::Starting);
        let sources: Vec<Source> = (0..3).map(|partition| ("t".into(), partition)).collect();
        for source in &sources {
            board.took(source.clone(), 0);
        }
        assert_eq!(board.status().0, Status::Running);
        board.failed(&sources[1], Some(7), Status::Blocked, 5, "no".to_owned());
        board.failed(&sources[2], None, Status::Retrying, 1, "later".to_owned());
        assert_eq!(board.status(), (Status::Blocked, Some("no".to_owned())));
        // What comes before the failed event does not mend it.
        board.committed(&sources[1], 7);
        assert_eq!(board.status().0, Status::Blocked);
        board.committed(&sources[1], 8);
        assert_eq!(board.status().0, Status::Retrying);
    }

    #[test]
    fn lag_is_known_when_position_and_end_are() {
        let board = Board::default();
        let source: Source = ("t".into(), 0);
        board.took(source.clone(), 3);
        assert_eq!(board.lag(), None);
        let end = |offset, read| Ends::from([(source.clone(), End { offset, read })]);
        board.ends(end(10, false));
        assert_eq!(board.lag(), Some(7));
        board.committed(&source, 12);
        assert_eq!(board.lag(), Some(0));
        // The last offset is a transaction's marker.
        board.ends(end(13, true));
        assert_eq!(board.lag(), Some(0));
        board.settled(&source, false);
        assert_eq!(board.lag(), Some(1));
    }
}
