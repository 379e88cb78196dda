//! The one door: requests, events and invocations by hand all go through here.
//!
//! It owns the permit, the deadline, what became of the call, and its metrics.
//! What it gives back are effects for the caller to commit, or a failure after
//! which there are none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::effects::Effects;
use crate::invocation::{Event, Failure, Request, Response};
use crate::limits::Hits;
use crate::metrics::{InFlight, Kind};
use crate::revision::Revision;
use crate::runtime::{Called, Component, Feed, Given};
use crate::service::Service;
use crate::state::View;
use crate::trace;

/// How often an event looks whether there is room for it again.
const LOOK: Duration = Duration::from_millis(50);

/// Runs the HTTP handler for a request.
///
/// From status 500 on the handler has failed, and what it published is dropped.
pub async fn request(
    service: &Service,
    revision: &Arc<Revision>,
    request: Request,
) -> Result<(Response, Effects), Failure> {
    let started = Instant::now();
    let mut in_flight = service.metrics.begin(Kind::Request);
    let ran = run_request(service, revision, request, &mut in_flight).await;
    drop(in_flight);
    service.metrics.ran(Kind::Request, &ran, started.elapsed());
    let failed = match &ran {
        Ok((response, _)) => response.status.is_server_error(),
        Err(failure) => failure.is_the_handlers(),
    };
    revision.tally.count(failed);
    let (response, mut effects) = ran?;
    if response.status.is_server_error() {
        effects = Effects::default();
    }
    Ok((response, effects))
}

async fn run_request(
    service: &Service,
    revision: &Arc<Revision>,
    request: Request,
    in_flight: &mut InFlight<'_>,
) -> Result<(Response, Effects), Failure> {
    let limits = &revision.manifest.limits;
    let _slot = revision.slots.take().await?;
    // Set when the handler asks for state that is not here yet.
    let missed = Arc::new(AtomicBool::new(false));
    let view = match service.state() {
        _ if !revision.manifest.grants.state => View::NotGranted,
        Some(state) if state.is_readable() => View::Shards(state.reading()),
        Some(_) | None => View::Restoring(missed.clone()),
    };
    let component = revision.component().await?;
    let instance = component.instance().await?;
    in_flight.runs();
    let within = request.trace.as_ref();
    let mut span = trace::Invocation::of_request(within, revision, instance.calls() == 0);
    let ran = instance
        .request(request, view, limits.time, limits.response)
        .await;
    let mut ran = settle(service, &component, ran);
    if missed.load(Ordering::Acquire) {
        // Whatever it made of it: it did not have what it needs.
        ran = Err(Failure::Restoring(service.restored()));
    }
    if let Ok((response, _)) = &ran
        && response.status.is_server_error()
    {
        span.fail(response.status);
    }
    span.end(&mut ran);
    ran
}

/// Runs the event handler for an event.
///
/// An event waits for a free slot and for memory as long as it takes: it is not
/// lost by it, and it is no attempt.
pub async fn event(
    service: &Service,
    revision: &Arc<Revision>,
    event: &Event,
    attempt: u32,
    view: View,
) -> Result<Effects, Failure> {
    let started = Instant::now();
    let span = trace::Process::begin(revision, event, attempt);
    let mut waits = false;
    loop {
        let view = view.clone();
        let mut in_flight = service.metrics.begin(Kind::Event);
        let ran = run_event(
            service,
            revision,
            event,
            attempt,
            view,
            &span,
            &mut in_flight,
        );
        let mut ran = ran.await;
        drop(in_flight);
        let Err(Failure::Crowded { limit }) = &ran else {
            count(service, revision, (event, attempt), &ran, started.elapsed());
            span.end(&mut ran);
            return ran;
        };
        if !std::mem::replace(&mut waits, true) {
            service.metrics.hit(*limit);
            let (service, limit) = (service.name(), limit.name());
            tracing::warn!(
                event = "event.waiting",
                service,
                limit,
                "an event waits for memory or an instance"
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn run_event(
    service: &Service,
    revision: &Arc<Revision>,
    event: &Event,
    attempt: u32,
    view: View,
    span: &trace::Process,
    in_flight: &mut InFlight<'_>,
) -> Result<Effects, Failure> {
    let limits = &revision.manifest.limits;
    let _slot = revision.slots.take_in_time().await;
    let component = revision.component().await?;
    let instance = component.instance().await?;
    in_flight.runs();
    let span = span.invocation(revision, event, instance.calls() == 0);
    let ran = instance.event(event, attempt, view, limits.time).await;
    let mut ran = settle(service, &component, ran);
    span.end(&mut ran);
    ran.map(|((), effects)| effects)
}

/// The events of a lane, one after another.
pub trait Source: Send {
    /// The next event, and which attempt at it this is; none if this revision is not
    /// to run one now.
    fn next(&mut self) -> Option<(Event, u32)>;

    /// Shows the events that will be next, as long as `see` says to go on.
    fn ahead(&self, see: &mut dyn FnMut(&Event, u32) -> bool);

    /// The state that they see.
    fn view(&self) -> View;

    /// What became of an event, and when.
    fn ran(&mut self, event: Event, ran: Result<Effects, Failure>, at: Instant);
}

/// Runs the event handler for an event, and then for those that the source has, for
/// as long as it has some: in one call, if the component can do that.
pub async fn events(
    service: &Arc<Service>,
    revision: &Arc<Revision>,
    first: (Event, u32),
    source: Box<dyn Source>,
) {
    let door = Arc::new(Mutex::new(Door {
        service: service.clone(),
        revision: revision.clone(),
        source,
        first: Some(first),
        runs: None,
        cold: false,
        crowded: false,
    }));
    pull(service, revision, &door).await;
    let left = {
        let mut door = door.lock();
        let view = door.source.view();
        door.first.take().map(|first| (first, view))
    };
    if let Some(((event, attempt), view)) = left {
        let ran = self::event(service, revision, &event, attempt, view).await;
        door.lock().source.ran(event, ran, Instant::now());
    }
}

/// What cannot be done in this way is left for a call of its own.
async fn pull(service: &Service, revision: &Revision, door: &Arc<Mutex<Door>>) {
    // What goes wrong here goes wrong there again, and is told.
    let Ok(component) = revision.component().await else {
        return;
    };
    if !component.pulls() {
        return;
    }
    let mut in_flight = service.metrics.begin(Kind::Event);
    let _slot = revision.slots.take_in_time().await;
    let Ok(instance) = component.instance().await else {
        return;
    };
    in_flight.runs();
    door.lock().cold = instance.calls() == 0;
    let limits = &revision.manifest.limits;
    let pulled = instance.pull(door.clone(), limits.time, limits.reuse).await;
    if let Err(failure) = pulled.ended {
        // Told already, if it was while an event ran.
        tracing::debug!(service = service.name(), "its event-loop ended: {failure}");
    }
    if let Some(instance) = pulled.instance {
        component.give_back(instance);
    }
}

/// The door for events that a guest pulls.
struct Door {
    service: Arc<Service>,
    revision: Arc<Revision>,
    source: Box<dyn Source>,
    /// The event to run before those of the source.
    first: Option<(Event, u32)>,
    runs: Option<Running>,
    /// Whether the instance is new.
    cold: bool,
    /// Whether an event found no memory: it has to wait, and all others with it.
    crowded: bool,
}

/// An event that runs.
struct Running {
    event: Event,
    attempt: u32,
    started: Instant,
    process: trace::Process,
    invocation: trace::Invocation,
}

impl Feed for Door {
    fn next(&mut self, now: Instant) -> Option<Given<'_>> {
        if self.crowded {
            return None;
        }
        let next = match self.first.take() {
            Some(first) => Some(first),
            None if self.revision.slots.are_wanted() => None,
            None => self.source.next(),
        };
        let (event, attempt) = next?;
        let view = self.source.view();
        let process = trace::Process::begin(&self.revision, &event, attempt);
        let cold = std::mem::take(&mut self.cold);
        let invocation = process.invocation(&self.revision, &event, cold);
        let running = self.runs.insert(Running {
            event,
            attempt,
            started: now,
            process,
            invocation,
        });
        Some(Given {
            event: &running.event,
            attempt,
            view,
        })
    }

    fn ahead(&self, see: &mut dyn FnMut(&Event, u32) -> bool) {
        // Somebody waits: this one is the last.
        if !self.revision.slots.are_wanted() {
            self.source.ahead(see);
        }
    }

    fn ended(&mut self, ran: Result<Effects, Failure>, hits: Hits, now: Instant) {
        let Some(running) = self.runs.take() else {
            return;
        };
        let Running { event, attempt, .. } = running;
        self.service.metrics.hits(hits);
        let mut ran = ran.map(|effects| ((), effects));
        running.invocation.end(&mut ran);
        let mut ran = ran.map(|((), effects)| effects);
        if matches!(ran, Err(Failure::Crowded { .. })) {
            self.crowded = true;
            self.first = Some((event, attempt));
            return;
        }
        let took = now.saturating_duration_since(running.started);
        count(&self.service, &self.revision, (&event, attempt), &ran, took);
        running.process.end(&mut ran);
        self.source.ran(event, ran, now);
    }
}

/// Counts an event that was run.
fn count(
    service: &Service,
    revision: &Revision,
    (event, attempt): (&Event, u32),
    ran: &Result<Effects, Failure>,
    took: Duration,
) {
    service.metrics.ran(Kind::Event, ran, took);
    let failed = ran.as_ref().is_err_and(Failure::is_the_handlers);
    revision.tally.count(failed);
    service.invocations.ran(revision, event, attempt, ran, took);
}

/// A call has ended: counts the limits that it hit, and keeps its instance.
fn settle<T>(
    service: &Service,
    component: &Component,
    called: Called<T>,
) -> Result<(T, Effects), Failure> {
    service.metrics.hits(called.hits);
    if let Some(instance) = called.instance {
        component.give_back(instance);
    }
    called.result
}
