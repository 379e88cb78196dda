//! What operators do with a service's events: dead letters, pausing, offsets.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use tidemill_cli::api;

use super::deploy::refused;
use super::show::MOST;
use super::{failed, json, no_service, refuse, unreachable};
use crate::dead_letters::{self, DeadLetterError, Settle};
use crate::host::Host;
use crate::kafka::KafkaError;
use crate::offsets::{self, OffsetsError};
use crate::service::Service;

/// Which dead letters to list.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    after: Option<String>,
    limit: Option<u32>,
}

pub(super) async fn dead_letters(
    State(host): State<Arc<Host>>,
    Path(name): Path<String>,
    page: Result<Query<Page>, QueryRejection>,
) -> Response {
    let Query(page) = match page {
        Ok(page) => page,
        Err(error) => return bad_parameters(error.body_text()),
    };
    let limit = page.limit.unwrap_or(100);
    if limit == 0 || limit > MOST {
        return bad_parameters(format!("the limit is 1 to {MOST}, not {limit}"));
    }
    let Some(service) = host.service(&name) else {
        return no_service(&name);
    };
    letters(dead_letters::list(&host, &service, page.after.as_deref(), limit as usize).await)
}

pub(super) async fn dead_letter(
    State(host): State<Arc<Host>>,
    Path((name, id)): Path<(String, String)>,
) -> Response {
    match host.service(&name) {
        Some(service) => letters(dead_letters::show(&host, &service, &id).await),
        None => no_service(&name),
    }
}

pub(super) async fn redrive(
    State(host): State<Arc<Host>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    settle(host, &name, &body, Settle::Redrive).await
}

pub(super) async fn drop_letters(
    State(host): State<Arc<Host>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    settle(host, &name, &body, Settle::Drop).await
}

async fn settle(host: Arc<Host>, name: &str, body: &[u8], how: Settle) -> Response {
    let request: api::SettleRequest = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return not_valid("dead-letters", error.to_string()),
    };
    let Some(service) = host.service(name) else {
        return no_service(name);
    };
    // What has begun is finished, even if its client is gone.
    let settling =
        tokio::spawn(async move { dead_letters::settle(&host, &service, &request, how).await });
    match settling.await {
        Ok(settled) => letters(settled),
        Err(error) => failed(error.to_string()),
    }
}

/// The one table from a dead letter's error to a status.
fn letters<T: serde::Serialize>(result: Result<T, DeadLetterError>) -> Response {
    let error = match result {
        Ok(value) => return json(&value),
        Err(error) => error,
    };
    let status = match &error {
        DeadLetterError::Id(_) | DeadLetterError::Which => {
            return not_valid("dead-letters", error.to_string());
        }
        DeadLetterError::NoSubscription(_) | DeadLetterError::None(_) => StatusCode::NOT_FOUND,
        DeadLetterError::Unsubscribed { .. } | DeadLetterError::Refused(..) => StatusCode::CONFLICT,
        DeadLetterError::Kafka(error) => return of_kafka(error),
        DeadLetterError::InDoubt(_) => StatusCode::SERVICE_UNAVAILABLE,
        DeadLetterError::Task(_) => return failed(error.to_string()),
    };
    refuse(status, "dead-letters", "Dead letters", error.to_string())
}

pub(super) async fn pause(State(host): State<Arc<Host>>, Path(name): Path<String>) -> Response {
    set_paused(&host, &name, true).await
}

pub(super) async fn resume(State(host): State<Arc<Host>>, Path(name): Path<String>) -> Response {
    set_paused(&host, &name, false).await
}

async fn set_paused(host: &Arc<Host>, name: &str, paused: bool) -> Response {
    if host
        .service(name)
        .is_some_and(|service| !subscribes(&service))
    {
        let detail = format!("{name} consumes nothing: it has no [[subscribe]].");
        return refuse(StatusCode::CONFLICT, "pause", "Nothing to pause", detail);
    }
    match host.pause(name, paused).await {
        Ok(Some(paused)) => json(&paused),
        Ok(None) => no_service(name),
        Err(error) => refused(&error),
    }
}

fn subscribes(service: &Service) -> bool {
    !service.current().manifest.subscribe.is_empty()
}

pub(super) async fn offsets(State(host): State<Arc<Host>>, Path(name): Path<String>) -> Response {
    match host.service(&name) {
        Some(service) => shown(offsets::show(&host, &service).await),
        None => no_service(&name),
    }
}

pub(super) async fn reset(
    State(host): State<Arc<Host>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    let request = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => return not_valid("offsets", error.to_string()),
    };
    match host.service(&name) {
        Some(service) => shown(offsets::reset(&host, &service, request).await),
        None => no_service(&name),
    }
}

/// The one table from an error about offsets to a status.
fn shown<T: serde::Serialize>(result: Result<T, OffsetsError>) -> Response {
    let error = match result {
        Ok(value) => return json(&value),
        Err(error) => error,
    };
    let status = match &error {
        OffsetsError::NoSubscription(_) | OffsetsError::NotConsumed(..) => StatusCode::NOT_FOUND,
        OffsetsError::Running(_) | OffsetsError::Embedded => StatusCode::CONFLICT,
        OffsetsError::Behind(_) | OffsetsError::Changelog(..) => StatusCode::SERVICE_UNAVAILABLE,
        OffsetsError::Kafka(error) => return of_kafka(error),
        OffsetsError::Task(_) => return failed(error.to_string()),
    };
    refuse(status, "offsets", "Offsets", error.to_string())
}

fn of_kafka(error: &KafkaError) -> Response {
    match error {
        KafkaError::Unreachable { .. } | KafkaError::Denied { .. } | KafkaError::Unread { .. } => {
            unreachable(error)
        }
        _ => refuse(
            StatusCode::CONFLICT,
            "kafka",
            "Kafka refuses",
            error.to_string(),
        ),
    }
}

fn bad_parameters(detail: impl Into<String>) -> Response {
    refuse(StatusCode::BAD_REQUEST, "parameters", "Bad Request", detail)
}

pub(super) fn not_valid(kind: &'static str, detail: impl Into<String>) -> Response {
    refuse(StatusCode::UNPROCESSABLE_ENTITY, kind, "Not valid", detail)
}
