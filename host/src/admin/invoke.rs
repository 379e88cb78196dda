//! Invocations by hand: a handler runs once, and its effects are shown instead
//! of committed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tidemill_cli::api;

use crate::dispatch;
use crate::effects::Effects;
use crate::host::{micros, subscribes};
use crate::invocation::{Event, Failure, Request, Response};
use crate::service::Service;
use crate::state::{RowKey, View};

/// Runs it. An error is about the invocation itself, not about what came of it.
pub(super) async fn run(
    service: &Arc<Service>,
    invocation: api::Invoke,
) -> Result<api::Invoked, String> {
    let revision = service.current();
    let started = Instant::now();
    let ran = match invocation {
        api::Invoke::Request(request) => {
            if revision.manifest.http.is_none() {
                return Err(format!("{} handles no requests", service.name()));
            }
            let request = to_request(request)?;
            let ran = dispatch::request(service, &revision, request).await;
            ran.map(|(response, effects)| (Some(response), effects))
        }
        api::Invoke::Event(event) => {
            if revision.manifest.subscribe.is_empty() {
                return Err(format!("{} handles no events", service.name()));
            }
            let topics = subscribes(&revision.manifest);
            if !topics.contains(&event.topic) {
                return Err(format!(
                    "{} does not subscribe to {:?}, but to: {}",
                    service.name(),
                    event.topic,
                    topics.join(", ")
                ));
            }
            let view = match service.state() {
                Some(state) if revision.manifest.grants.state => View::Shard {
                    tables: state.reading(),
                    shard: event.partition,
                    pending: Arc::default(),
                },
                Some(_) | None => View::NotGranted,
            };
            let event = to_event(event)?;
            let ran = dispatch::event(service, &revision, &event, 1, view).await;
            ran.map(|effects| (None, effects))
        }
    };
    let took = micros(started.elapsed());
    let (outcome, error, response, effects) = match ran {
        Ok((response, effects)) => ("ok", None, response, effects),
        Err(failure) => {
            let why = match &failure {
                Failure::Retry(why) | Failure::RetryAfter(why, _) | Failure::Reject(why) => {
                    why.clone()
                }
                other => other.to_string(),
            };
            (failure.name(), Some(why), None, Effects::default())
        }
    };
    Ok(api::Invoked {
        revision: revision.digest.clone(),
        outcome: outcome.to_owned(),
        error,
        duration_us: took,
        response: response.map(shown),
        published: effects.messages.into_iter().map(message).collect(),
        written: rows(effects.rows),
    })
}

fn to_request(request: api::Request) -> Result<Request, String> {
    if !request.target.starts_with('/') {
        return Err(format!(
            "the path {:?} does not begin with /",
            request.target
        ));
    }
    let body = request.body.map(api::Bytes::decode).transpose()?;
    Ok(Request {
        number: crate::invocation::next_number(),
        method: request.method,
        target: request.target,
        authority: "localhost".to_owned(),
        headers: request
            .headers
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.into_bytes()))
            .collect(),
        body: body.unwrap_or_default(),
        trace: None,
    })
}

fn to_event(event: api::Event) -> Result<Event, String> {
    let bytes = |shown: Option<api::Bytes>| {
        let bytes = shown.map(api::Bytes::decode).transpose()?;
        Ok::<_, String>(bytes.map(Bytes::from))
    };
    let number = |what: &str| format!("the {what} is too large");
    let headers = event.headers.into_iter();
    Ok(Event {
        topic: event.topic.into(),
        partition: event
            .partition
            .try_into()
            .map_err(|_| number("partition"))?,
        offset: event.offset.try_into().map_err(|_| number("offset"))?,
        timestamp: crate::now_ms().try_into().ok(),
        key: bytes(event.key)?,
        value: bytes(event.value)?,
        headers: headers
            .map(|(name, value)| Ok((name, Some(value.decode()?.into()))))
            .collect::<Result<_, String>>()?,
    })
}

fn shown(response: Response) -> api::Response {
    let headers = response.headers.iter();
    api::Response {
        status: response.status.as_u16(),
        headers: headers
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes());
                (name.to_string(), value.into_owned())
            })
            .collect(),
        body: to_shown(response.body),
    }
}

fn message(message: crate::effects::Message) -> api::Message {
    let headers = message.headers.into_iter();
    api::Message {
        topic: message.topic.to_string(),
        key: message.key.map(to_shown),
        value: message.value.map(to_shown),
        headers: headers
            .map(|(name, value)| (name, value.map(to_shown)))
            .collect(),
    }
}

fn rows(rows: BTreeMap<RowKey, Option<Bytes>>) -> Vec<api::Row> {
    let rows = rows.into_iter();
    rows.map(|(row, value)| api::Row {
        table: row.table().to_owned(),
        key: to_shown(row.key()),
        value: value.map(to_shown),
    })
    .collect()
}

fn to_shown(bytes: Bytes) -> api::Bytes {
    Vec::from(bytes).into()
}
