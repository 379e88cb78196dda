//! Deployments over the admin API: deploying, going back, and what ran.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use tidemill_cli::api;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

use super::logs::{LINES, SILENCE};
use super::operate::not_valid;
use super::{accepts, is_of_type, json, no_service, refuse};
use crate::checks::smoke::SmokeFailed;
use crate::deployments::record::Refused;
use crate::deployments::{ContentError, How, RegistryError, Steps};
use crate::host::{DeployError, Host};
use crate::invocation::Failure;
use crate::kafka::KafkaError;
use crate::problem::Problem;

/// The query of a deploy.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Deploying {
    #[serde(default)]
    dry_run: bool,
    weight: Option<f64>,
    sticky: Option<String>,
    partitions: Option<String>,
    #[serde(default)]
    alone: bool,
}

impl Deploying {
    fn how(self) -> Result<How, String> {
        if let Some(weight) = self.weight
            && !(0.0..=100.0).contains(&weight)
        {
            return Err(format!(
                "weight is a share in percent, 0 to 100, and not {weight}"
            ));
        }
        let sticky = self
            .sticky
            .map(|text| text.parse::<api::Sticky>())
            .transpose()?;
        let partitions = self.partitions.unwrap_or_default();
        let numbers = partitions.split(',').filter(|text| !text.is_empty());
        let numbers: Result<Vec<i32>, String> = numbers
            .map(|text| match text.trim().parse() {
                Ok(number) if number >= 0 => Ok(number),
                _ => Err(format!("{text:?} is no partition's number")),
            })
            .collect();
        let how = How {
            dry_run: self.dry_run,
            weight: self.weight,
            sticky,
            partitions: numbers?,
            alone: self.alone,
            at_start: false,
        };
        if how.sticky.is_some() && how.weight.is_none() {
            return Err("sticky is for a weight, and there is none".to_owned());
        }
        Ok(how)
    }
}

pub(super) async fn deploy(
    State(host): State<Arc<Host>>,
    query: Result<Query<Deploying>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let how = match query
        .map_err(|error| error.body_text())
        .and_then(|Query(query)| query.how())
    {
        Ok(how) => how,
        Err(detail) => return not_valid("deploy", detail),
    };
    if !is_of_type(&headers, "application/wasm") {
        return refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "Unsupported Media Type",
            "A deploy is a component, sent as application/wasm.",
        );
    }
    let in_lines = accepts(&headers, LINES);
    let (steps, told) = Steps::told();
    // A deploy that has begun is finished, even if its client is gone.
    let deploying = tokio::spawn(async move { host.deploy(body, how, &steps).await });
    if !in_lines {
        return answer(deploying.await);
    }
    let lines = stream::unfold(Some((told, deploying)), |following| async {
        let (line, following) = next_line(following?).await;
        Some((Ok::<_, std::convert::Infallible>(line), following))
    });
    ([(header::CONTENT_TYPE, LINES)], Body::from_stream(lines)).into_response()
}

type Deployment = JoinHandle<Result<api::Deployed, DeployError>>;

/// What a deploy says next, and what there is to follow after that.
async fn next_line(
    (mut told, deploying): (UnboundedReceiver<api::Step>, Deployment),
) -> (Bytes, Option<(UnboundedReceiver<api::Step>, Deployment)>) {
    let step = match tokio::time::timeout(SILENCE, told.recv()).await {
        Err(_) => return ("\n".into(), Some((told, deploying))),
        Ok(Some(step)) => return (line(&step), Some((told, deploying))),
        // It says no more: it is done.
        Ok(None) => match deploying.await.map_err(DeployError::Task).flatten() {
            Ok(deployed) => api::Step::Done {
                deployed: Box::new(deployed),
            },
            Err(error) => api::Step::Refused {
                problem: problem(&error).document(),
            },
        },
    };
    (line(&step), None)
}

fn line(step: &api::Step) -> Bytes {
    // Strings, numbers and lists: serializing them does not fail.
    let mut line = serde_json::to_vec(step).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

pub(super) async fn remove(State(host): State<Arc<Host>>, Path(name): Path<String>) -> Response {
    let removed = name.clone();
    let removing = tokio::spawn(async move { host.remove(&removed).await });
    match removing.await {
        Ok(Ok(None)) => no_service(&name),
        removed => answer(removed),
    }
}

pub(super) async fn history(State(host): State<Arc<Host>>, Path(name): Path<String>) -> Response {
    match host.history(&name) {
        Some(history) => json(&history),
        None => no_service(&name),
    }
}

pub(super) async fn rollback(
    State(host): State<Arc<Host>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Response {
    let request = match body.is_empty() {
        true => Ok(api::RollbackRequest::default()),
        false => serde_json::from_slice(&body),
    };
    let request = match request {
        Ok(request) => request,
        Err(error) => return not_valid("rollback", error.to_string()),
    };
    let changing =
        tokio::spawn(async move { host.rollback(&name, request.revision.as_deref()).await });
    answer(changing.await)
}

pub(super) async fn promote(State(host): State<Arc<Host>>, Path(name): Path<String>) -> Response {
    let changing = tokio::spawn(async move { host.promote(&name).await });
    answer(changing.await)
}

pub(super) async fn hosts(State(host): State<Arc<Host>>) -> Response {
    json(&host.hosts())
}

fn answer<T: serde::Serialize>(
    done: Result<Result<T, DeployError>, tokio::task::JoinError>,
) -> Response {
    match done.map_err(DeployError::Task).flatten() {
        Ok(done) => json(&done),
        Err(error) => refused(&error),
    }
}

pub(super) fn refused(error: &DeployError) -> Response {
    let problem = problem(error);
    problem.response(&HeaderMap::new()).into_response()
}

/// The one table from a deploy's error to a status.
fn problem(error: &DeployError) -> Problem {
    let (status, kind, title) = match error {
        DeployError::Start(Failure::Crowded { .. }) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "crowded",
            "The host has no memory for another service",
        ),
        DeployError::NoManifest | DeployError::BadSection(_) | DeployError::Manifest(_) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "manifest",
            "The manifest is not valid",
        ),
        DeployError::Component(_) | DeployError::Start(_) | DeployError::OpenApi(_) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "component",
            "The component cannot be a service",
        ),
        DeployError::Smoke(SmokeFailed::NotPassed { .. }) => (
            StatusCode::UNPROCESSABLE_ENTITY,
            "smoke",
            "A smoke call did not pass",
        ),
        DeployError::Smoke(SmokeFailed::NotMade { .. }) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "smoke-not-made",
            "A smoke call could not be made",
        ),
        DeployError::RouteTaken { .. } => {
            (StatusCode::CONFLICT, "route-taken", "The route is taken")
        }
        DeployError::Unlike(..) => (StatusCode::CONFLICT, "canary", "No canary"),
        DeployError::Refused(Refused::NoService(_)) => {
            (StatusCode::NOT_FOUND, "no-service", "Not Found")
        }
        DeployError::Refused(Refused::Unknown { .. }) => {
            (StatusCode::NOT_FOUND, "no-revision", "No such revision")
        }
        DeployError::Refused(_) => (StatusCode::CONFLICT, "deployment", "Nothing to do"),
        DeployError::Kafka(error)
        | DeployError::Registry(RegistryError::Kafka(error))
        | DeployError::Content(ContentError::Kafka(error)) => match error {
            KafkaError::Unreachable { .. } | KafkaError::Denied { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "kafka-unreachable",
                "Kafka does not answer",
            ),
            _ => (StatusCode::CONFLICT, "topics", "The topics cannot be used"),
        },
        DeployError::Registry(_) | DeployError::Content(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "not-deployed",
            "Kafka did not take the deployment",
        ),
        DeployError::Stopping => (
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "The host is shutting down",
        ),
        DeployError::Smoke(_)
        | DeployError::Store(_)
        | DeployError::Library(_)
        | DeployError::Task(_) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "The host failed",
        ),
    };
    match error {
        // What it quotes may be a secret, and is for who deploys.
        DeployError::Manifest(_) => {
            tracing::warn!(event = "deploy.refused", error = title, "deploy refused");
        }
        _ => tracing::warn!(event = "deploy.refused", %error, "deploy refused"),
    }
    Problem::new(status, kind, title, error.to_string())
}
