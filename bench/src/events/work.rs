//! Working off a backlog: events a second, and what each costs.

use std::thread;
use std::time::{Duration, Instant};

use super::Scale;
use super::backlog::{Backlog, Hidden};
use super::broker::{Broker, Progress};
use super::system::{Form, Kind, Running, System};
use crate::bare::Delivery;
use crate::meter::{cpu, memory};
use crate::report::Column;

/// How often is looked. Asking for a group's offsets is one small request.
const TICK: Duration = Duration::from_millis(10);
/// How long a system may take until its first commits.
const START: Duration = Duration::from_secs(60);

/// What is shown of it.
pub(super) const COLUMNS: [Column; 8] = [
    Column::ratio("events/s", 0),
    Column::ratio("warm/s", 0),
    Column::ratio("CPU us", 2),
    Column::plain("warm CPU us", 2),
    Column::plain("broker us", 2),
    Column::plain("a commit", 0),
    Column::plain("MB", 0),
    Column::plain("start s", 2),
];

/// A system's turn at a backlog.
pub(super) struct Turn {
    pub(super) parts: Vec<Stretch>,
    /// Events of a transaction, where that is known.
    pub(super) a_commit: Option<f64>,
    /// The most resident memory that was seen, in MB.
    most: f64,
    /// Until the first commit.
    start: Duration,
}

/// What was seen of a system from when it saw a part of the backlog until it had
/// done it, or had no more time.
pub(super) struct Stretch(Vec<Sample>);

/// What was seen at one moment.
struct Sample {
    at: Instant,
    /// Events done.
    events: i64,
    cpu: Duration,
    broker: Duration,
}

/// What a turn is about, but for the system.
pub(super) struct Work<'a> {
    pub(super) form: Form,
    pub(super) backlog: &'a Backlog,
    /// Where parts of it end that are worked off one after another, but the last.
    pub(super) parts: &'a [usize],
}

impl Work<'_> {
    /// Lets a system work off the backlog, or as much of it as it can in the time.
    /// Checks what came of it, if it has done all.
    ///
    /// The system starts with a few events. When it has committed them, it gets to
    /// see all others of the first part at once. So what it costs to start is not
    /// in the figures, and nothing has been done before they begin.
    pub(super) fn turn(&self, system: &System, broker: &Broker, scale: &Scale) -> Turn {
        broker.fresh();
        let began = Instant::now();
        let mut running = system.start(self.form, broker);
        let progress = broker.progress(&running.group);
        let mut written = self.backlog.write_first(broker);
        let first = i64::try_from(written).unwrap();
        let ready = || {
            while progress.events() < first {
                assert!(began.elapsed() < START, "{}: no commit", system.name);
                thread::sleep(TICK);
            }
            began.elapsed()
        };
        let mut turn = Turn {
            parts: Vec::new(),
            a_commit: None,
            most: 0.0,
            start: Duration::ZERO,
        };
        let mut commits = None;
        let mut done = first;
        for end in self.parts.iter().copied().chain([self.backlog.events()]) {
            let hidden = if turn.parts.is_empty() {
                // Both take their time.
                let (hidden, start) = thread::scope(|scope| {
                    let ready = scope.spawn(ready);
                    let hidden = self.backlog.hide(written..end, broker);
                    (hidden, ready.join().unwrap())
                });
                commits = committed(&running);
                turn.start = start;
                hidden
            } else {
                self.backlog.hide(written..end, broker)
            };
            written = end;
            let stretch = Stretch::of(
                &mut running,
                hidden,
                &progress,
                broker,
                scale,
                &mut turn.most,
            );
            let last = stretch.last().events;
            turn.parts.push(stretch);
            done += last;
            if done < i64::try_from(end).unwrap() {
                break;
            }
        }
        turn.a_commit = match system.kind {
            Kind::Bare(Delivery::Fixed(size)) => Some(size as f64),
            _ => commits
                .zip(committed(&running))
                .map(|(before, after)| (done - first) as f64 / (after - before)),
        };
        if done == i64::try_from(self.backlog.events()).unwrap() {
            self.backlog.check(self.form, &running, broker);
        } else {
            eprintln!("{}: {done} events in the time, not checked", system.name);
        }
        turn
    }
}

/// How often Tidemill has committed.
fn committed(running: &Running) -> Option<f64> {
    running.service()?["commits"]["count"].as_f64()
}

impl Stretch {
    /// Shows a system events, and looks until it has done them. Notes the most
    /// memory that it has.
    fn of(
        running: &mut Running,
        hidden: Hidden,
        progress: &Progress,
        broker: &Broker,
        scale: &Scale,
        most: &mut f64,
    ) -> Self {
        let process = running.id();
        let mut samples = vec![Sample {
            at: Instant::now(),
            events: 0,
            cpu: cpu(process),
            broker: cpu(broker.process),
        }];
        let _profile = running.profile();
        let shown = hidden.show();
        loop {
            running.runs();
            *most = most.max(memory(process));
            let at = Instant::now();
            let events = shown.done(&progress.offsets());
            let spent = at - samples[0].at;
            samples.push(Sample {
                at,
                events,
                cpu: cpu(process),
                broker: cpu(broker.process),
            });
            if events >= shown.events || spent > scale.longest {
                return Self(samples);
            }
            thread::sleep(TICK);
        }
    }

    fn first(&self) -> &Sample {
        self.0.first().unwrap()
    }

    fn last(&self) -> &Sample {
        self.0.last().unwrap()
    }

    /// When so much of what was done at the end was done.
    fn at(&self, share: f64) -> &Sample {
        let events = self.last().events as f64 * share;
        let mut samples = self.0.iter();
        let sample = samples.find(|sample| sample.events as f64 >= events);
        sample.unwrap_or(self.last())
    }

    /// Events a second.
    pub(super) fn rate(&self) -> Option<f64> {
        rate(self.first(), self.last())
    }

    /// CPU time for an event, in microseconds.
    pub(super) fn cpu(&self) -> Option<f64> {
        each(self.first(), self.last(), |sample| sample.cpu)
    }

    /// The broker's CPU time for an event, in microseconds.
    pub(super) fn broker(&self) -> Option<f64> {
        each(self.first(), self.last(), |sample| sample.broker)
    }
}

impl Turn {
    /// Its figures for the first part, in order of [`COLUMNS`].
    pub(super) fn figures(&self) -> Vec<Option<f64>> {
        let stretch = &self.parts[0];
        // A system may have done more than it has committed, until near the end.
        let (half, near) = (stretch.at(0.5), stretch.at(0.95));
        vec![
            stretch.rate(),
            rate(half, near),
            stretch.cpu(),
            each(half, near, |sample| sample.cpu),
            stretch.broker(),
            self.a_commit,
            Some(self.most),
            Some(self.start.as_secs_f64()),
        ]
    }
}

/// Events a second between two moments.
fn rate(from: &Sample, to: &Sample) -> Option<f64> {
    let rate = (to.events - from.events) as f64 / (to.at - from.at).as_secs_f64();
    Some(rate).filter(|rate| rate.is_finite())
}

/// Microseconds of CPU time for an event between two moments.
fn each(from: &Sample, to: &Sample, of: fn(&Sample) -> Duration) -> Option<f64> {
    let spent = of(to).saturating_sub(of(from)).as_secs_f64() * 1e6;
    Some(spent / (to.events - from.events) as f64).filter(|each| each.is_finite())
}
