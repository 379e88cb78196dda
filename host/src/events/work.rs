//! What a lane does with its events: what runs next, what becomes of one that ran,
//! and what the committer says of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemill_cli::api::Status;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::dead_letter;
use super::group::{Done, Origin, Reply};
use super::line::{Failed, Fate, Line};
use super::policy::{self, Verdict};
use crate::effects::Effects;
use crate::invocation::{Event, Failure};
use crate::kafka::Source;
use crate::revision::Revision;
use crate::service::Service;
use crate::state::{Overlay, View};
use crate::trace;

/// Until something else ends it.
pub(super) const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// How long after a trial an event is looked at again that it held.
const TRIAL_OVER: Duration = Duration::from_millis(100);

/// A lane's events, from being read to being committed.
pub(super) struct Work {
    service: Arc<Service>,
    done: mpsc::UnboundedSender<Done>,
    origin: Arc<Origin>,
    /// Its partitions.
    sources: Vec<Source>,
    /// Events before these offsets are run for their rows alone: what they
    /// published has been published.
    quiet_until: BTreeMap<Source, i64>,
    pub(super) line: Line,
    pending: Arc<Mutex<Overlay>>,
    /// The term in which events run. It ends when the committer's refusal is
    /// taken in, and not when the committer refuses: what runs in between runs
    /// on rows that are about to be taken back, and must not count.
    term: u32,
    /// After a failure: nothing runs before this time.
    pub(super) resting_until: Option<Instant>,
    /// Whether it was told that there is nothing that is not committed.
    settled: bool,
    /// The number of the deployment that the latest event ran by.
    deployment: u64,
}

impl Work {
    pub(super) fn new(
        service: Arc<Service>,
        done: mpsc::UnboundedSender<Done>,
        origin: Arc<Origin>,
        sources: Vec<Source>,
        quiet_until: BTreeMap<Source, i64>,
    ) -> Work {
        Work {
            service,
            done,
            origin,
            sources,
            quiet_until,
            line: Line::default(),
            pending: Arc::default(),
            term: 0,
            resting_until: None,
            settled: true,
            deployment: 0,
        }
    }

    /// Whether the next event may run.
    pub(super) fn may_run(&self) -> bool {
        self.resting_until.is_none() && !self.line.is_full()
    }

    /// The next event, if it may run, which attempt at it this is, and by which
    /// revision it runs.
    pub(super) fn next(&mut self) -> Option<((Event, u32), Arc<Revision>)> {
        while self.may_run() {
            let event = self.line.next_again()?;
            if self.settled {
                self.tell_settled(false);
            }
            if dead_letter::is_for_another(&event, self.service.name()) {
                let now = std::time::Instant::now();
                self.hand_over(event, Effects::default(), Fate::Ran, now);
                continue;
            }
            let (revision, deployment) = self.service.for_partition(event.partition);
            self.deployment = deployment;
            let attempt = self.line.attempt(&event);
            return Some(((event, attempt), revision));
        }
        None
    }

    /// Shows the events behind the next one, as long as `see` says to go on.
    pub(super) fn ahead(&self, see: &mut dyn FnMut(&Event, u32) -> bool) {
        let service = self.service.name();
        let runs = |event: &&Event| !dead_letter::is_for_another(event, service);
        for event in self.line.ahead().take_while(runs) {
            if !see(event, self.line.attempt(event)) {
                return;
            }
        }
    }

    /// The state that its events see.
    pub(super) fn view(&self) -> View {
        match &self.origin.shard {
            Some(shard) => View::Shard {
                tables: shard.held.tables().clone(),
                shard: shard.number(),
                pending: self.pending.clone(),
            },
            None => View::NotGranted,
        }
    }

    /// An event was run.
    pub(super) fn ran(
        &mut self,
        event: Event,
        ran: Result<Effects, Failure>,
        at: std::time::Instant,
        revision: &Revision,
    ) {
        match ran {
            Ok(effects) => self.hand_over(event, effects, Fate::Ran, at),
            Err(failure) => self.failed(event, &failure, revision),
        }
    }

    /// Hands what an event came to to the committer.
    fn hand_over(
        &mut self,
        event: Event,
        mut effects: Effects,
        mut fate: Fate,
        ran_at: std::time::Instant,
    ) {
        let source = (event.topic.clone(), event.partition);
        let offset = event.offset;
        let mut group_offset = offset + 1;
        if let Some(until) = self.quiet_until.get(&source)
            && offset < *until
        {
            effects.messages.clear();
            fate = Fate::Ran;
            group_offset = *until;
        }
        trace::publish(&mut effects, &event.headers);
        let number = self.line.done(event, fate);
        if !effects.rows.is_empty() {
            self.pending.lock().write(number, &effects.rows);
        }
        // Without a committer the lane ends at its next reply.
        let _ = self.done.send(Done {
            origin: self.origin.clone(),
            term: self.term,
            number,
            source,
            offset,
            group_offset,
            effects,
            fate,
            ran_at,
            deployment: self.deployment,
        });
    }

    fn tell_settled(&mut self, settled: bool) {
        self.settled = settled;
        for source in &self.sources {
            self.service.board().settled(source, settled);
        }
    }

    /// Takes in what the committer says.
    pub(super) fn settled(&mut self, reply: Reply) {
        match reply {
            Reply::Committed(number) => {
                self.pending.lock().committed(number);
                let board = self.service.board();
                for (source, position) in self.line.committed(number) {
                    board.committed(&source, position);
                }
                if self.line.is_empty() {
                    self.tell_settled(true);
                }
            }
            Reply::Refused(number, cause) => {
                self.term += 1;
                self.pending.lock().take_back(number);
                match self.line.take_back(number) {
                    Some((event, Fate::Ran)) => {
                        let (revision, _) = self.service.for_partition(event.partition);
                        revision.tally.count(true);
                        self.failed(event, &Failure::Refused(cause), &revision);
                    }
                    Some((event, Fate::DeadLetter)) => {
                        let (revision, _) = self.service.for_partition(event.partition);
                        self.not_buried(event, &cause, &revision);
                    }
                    None => {}
                }
            }
        }
    }

    /// An event has failed: what becomes of it is the policy's to say.
    fn failed(&mut self, event: Event, failure: &Failure, revision: &Revision) {
        let failures = self.line.attempt(&event);
        let retry = &revision.manifest.retry(&event.topic);
        match policy::verdict(failure, failures, retry, fastrand::f64()) {
            Verdict::Again(pause) => {
                self.service.metrics.retried();
                let failed = self.line.failed(event);
                self.rest(&failed, failure, Status::Retrying, pause, revision);
            }
            Verdict::Wait(pause) => {
                let failed = self.line.postponed(event);
                self.rest(&failed, failure, Status::Retrying, pause, revision);
            }
            Verdict::DeadLetter => match self.service.running().held_until(revision) {
                Some(until) => self.hold(event, failure, until, revision),
                None => self.bury(event, failure, failures, revision),
            },
            Verdict::Stop => {
                let failed = self.line.failed(event);
                self.rest(&failed, failure, Status::Blocked, FOREVER, revision);
            }
        }
    }

    /// An event would become a dead letter, by a revision that is on trial: it stays
    /// where it is until that is over, and what runs by then decides.
    fn hold(
        &mut self,
        event: Event,
        failure: &Failure,
        until: std::time::Instant,
        revision: &Revision,
    ) {
        let failed = self.line.failed(event);
        let pause = until.saturating_duration_since(std::time::Instant::now()) + TRIAL_OVER;
        self.rest(&failed, failure, Status::Blocked, pause, revision);
    }

    /// An event becomes a dead letter, and its partition goes on.
    fn bury(&mut self, event: Event, failure: &Failure, attempts: u32, revision: &Revision) {
        let service = self.service.name();
        let (topic, partition, offset) = (&*event.topic, event.partition, event.offset);
        let trace_id = trace::trace_id(&event.headers).map(tracing::field::display);
        tracing::error!(
            event = "event.dead-lettered",
            service,
            revision = revision.short(),
            trace_id,
            topic,
            partition,
            offset,
            attempts,
            outcome = failure.name(),
            "event becomes a dead letter: {failure}"
        );
        let verdict = dead_letter::Verdict {
            service,
            revision: &revision.digest,
            failure,
            attempts,
            time: crate::now_ms(),
        };
        let topic = revision.manifest.dead_letter_topic().into();
        let letter = dead_letter::of_event(&event, topic, &verdict);
        let effects = Effects {
            messages: vec![letter],
            ..Effects::default()
        };
        self.hand_over(event, effects, Fate::DeadLetter, std::time::Instant::now());
    }

    /// A dead letter was refused: its partition stops, and tries again from time
    /// to time.
    fn not_buried(&mut self, event: Event, cause: &str, revision: &Revision) {
        let retry = &revision.manifest.retry(&event.topic);
        let failed = self.line.failed(event);
        let pause = policy::pause(failed.failures, retry, fastrand::f64());
        let why = format!("its dead letter cannot be written: {cause}");
        let failure = Failure::Refused(why);
        self.rest(&failed, &failure, Status::Blocked, pause, revision);
    }

    /// Says that an event has failed, and runs nothing for a while.
    fn rest(
        &mut self,
        failed: &Failed,
        failure: &Failure,
        status: Status,
        pause: Duration,
        revision: &Revision,
    ) {
        let service = self.service.name();
        let revision = revision.short();
        let (topic, partition) = (&*failed.source.0, failed.source.1);
        let (offset, failures) = (failed.offset, failed.failures);
        let outcome = failure.name();
        let trace_id = failed.trace_id.map(tracing::field::display);
        if status == Status::Blocked {
            tracing::error!(
                event = "event.blocked",
                service,
                revision,
                trace_id,
                topic,
                partition,
                offset,
                failures,
                outcome,
                "this event stops its partition: {failure}"
            );
        } else {
            tracing::warn!(
                event = "event.failed",
                service,
                revision,
                trace_id,
                topic,
                partition,
                offset,
                failures,
                outcome,
                "event failed, trying again in {pause:.1?}: {failure}"
            );
        }
        let board = self.service.board();
        let why = failure.to_string();
        board.failed(&failed.source, Some(offset), status, failures, why);
        self.resting_until = Some(Instant::now() + pause);
    }
}
