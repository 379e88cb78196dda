//! The one door: requests, events and invocations by hand all go through here.
//!
//! It owns the permit, the deadline, what became of the call, and its metrics.
//! What it gives back are effects for the caller to commit, or a failure after
//! which there are none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::effects::Effects;
use crate::invocation::{Event, Failure, Request, Response};
use crate::metrics::Kind;
use crate::service::{Revision, Service};
use crate::state::View;

/// How long a request waits for a free slot before it is turned away.
const QUEUE: Duration = Duration::from_secs(1);

/// Runs the HTTP handler for a request.
///
/// From status 500 on the handler has failed, and what it published is dropped.
pub async fn request(
    service: &Service,
    revision: &Arc<Revision>,
    request: Request,
) -> Result<(Response, Effects), Failure> {
    let started = Instant::now();
    let ran = run_request(service, revision, request).await;
    service.metrics.ran(Kind::Request, &ran, started.elapsed());
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
) -> Result<(Response, Effects), Failure> {
    let limits = &revision.manifest.limits;
    let _permit = match revision.permits.try_acquire() {
        Ok(permit) => permit,
        Err(_) => {
            let busy = Failure::Busy {
                limit: limits.concurrency,
            };
            match tokio::time::timeout(QUEUE, revision.permits.acquire()).await {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) | Err(_) => return Err(busy),
            }
        }
    };
    // Set when the handler asks for state that is not here yet.
    let missed = Arc::new(AtomicBool::new(false));
    let view = match revision.manifest.grants.state {
        true if service.state.is_readable() => View::Shards(service.state.reading()),
        true => View::Restoring(missed.clone()),
        false => View::NotGranted,
    };
    let instance = revision.component.instance().await?;
    let (ran, instance) = instance
        .request(request, view, limits.time, limits.response)
        .await;
    if let Some(instance) = instance {
        revision.component.give_back(instance);
    }
    if missed.load(Ordering::Acquire) {
        // Whatever it made of it: it did not have what it needs.
        return Err(Failure::Restoring(service.state.progress()));
    }
    ran
}

/// Runs the event handler for an event.
///
/// An event waits for a free slot as long as it takes: it is not lost by it.
pub async fn event(
    service: &Service,
    revision: &Arc<Revision>,
    event: &Event,
    attempt: u32,
    view: View,
) -> Result<Effects, Failure> {
    let started = Instant::now();
    let ran = run_event(revision, event, attempt, view).await;
    service.metrics.ran(Kind::Event, &ran, started.elapsed());
    ran
}

async fn run_event(
    revision: &Arc<Revision>,
    event: &Event,
    attempt: u32,
    view: View,
) -> Result<Effects, Failure> {
    let limits = &revision.manifest.limits;
    // The semaphore is never closed.
    let _permit = revision.permits.acquire().await;
    let instance = revision.component.instance().await?;
    let (ran, instance) = instance.event(event, attempt, view, limits.time).await;
    if let Some(instance) = instance {
        revision.component.give_back(instance);
    }
    ran.map(|((), effects)| effects)
}
