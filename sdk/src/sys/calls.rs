//! The exports of a component: from the contract's records to what the SDK's
//! users write, and back.

use super::RawEvent;
use super::batch::Unpacking;
use super::bindings::{events, http};
use crate::event::{Failure, Topics};
use crate::service::{self, Routes};
use events::tidemill::service::event_source::{self, Turn};
use events::tidemill::service::types as event;
use http::exports::tidemill::service::http as wire;

/// Answers one request.
pub async fn answer(routes: &Routes, request: wire::Request) -> wire::Response {
    crate::logging::start();
    let request = service::Request {
        method: request.method,
        target: request.target,
        authority: request.authority,
        headers: request.headers,
        body: request.body.into(),
    };
    let response = service::answer(routes, request).await;
    wire::Response {
        status: response.status,
        headers: response.headers,
        body: response.body.into(),
    }
}

/// Handles events for as long as there are some.
pub async fn pull(topics: &Topics) {
    let mut outcome: Option<Result<(), event::Failure>> = None;
    let mut batch = Unpacking::default();
    loop {
        match event_source::next(outcome.as_ref().map(plain)) {
            Turn::End => return,
            Turn::Next => {}
            Turn::Batch(next) => batch = Unpacking::new(next),
        }
        // The host does not begin an event that it has not given.
        let Some(event) = batch.next() else { return };
        outcome = Some(handle(topics, event).await);
    }
}

fn plain(outcome: &Result<(), event::Failure>) -> Result<(), &event::Failure> {
    match outcome {
        Ok(()) => Ok(()),
        Err(failure) => Err(failure),
    }
}

/// Handles one event.
pub async fn consume(topics: &Topics, event: event::Event) -> Result<(), event::Failure> {
    let headers = event.headers.into_iter();
    let event = RawEvent {
        topic: event.topic,
        partition: event.partition,
        offset: event.offset,
        timestamp: event.timestamp,
        key: event.key,
        value: event.value,
        headers: headers.map(|header| (header.name, header.value)).collect(),
        attempt: event.attempt,
    };
    handle(topics, event).await
}

async fn handle(topics: &Topics, event: RawEvent) -> Result<(), event::Failure> {
    crate::logging::start();
    topics.handle(event).await.map_err(|failure| match failure {
        Failure::Retry(why) => event::Failure::Retry(why),
        Failure::RetryAfter(reason, pause) => event::Failure::RetryAfter(event::Later {
            reason,
            after: pause.as_millis().try_into().unwrap_or(u64::MAX),
        }),
        Failure::Reject(why) => event::Failure::Reject(why),
    })
}
