//! The admin listener: deployments, invocations by hand, metrics and health.
//!
//! It is for operators alone: on loopback, or behind a token.

mod body;
mod deploy;
mod guard;
mod invoke;
mod logs;
mod operate;
mod show;
pub mod waiting;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use tidemill_cli::api;
use tokio::net::TcpListener;
use tokio::sync::watch;

use body::Bound;
use guard::{Access, Client};

use crate::host::Host;
use crate::http::connections::{self, Answers, Limits};
use crate::invocation::Failure;
use crate::kafka::KafkaError;
use crate::problem::Problem;
use crate::replay::{self, ReplayError};
use crate::state::{Tables, ViewError};

/// The largest component that can be deployed, in bytes.
const MAX_COMPONENT: usize = 256 << 20;

/// How long a component may take to arrive.
const UPLOAD: Duration = Duration::from_secs(600);
/// The largest body of anything else, in bytes.
const MAX_BODY: usize = 16 << 20;

/// Serves until told to stop, then lets what was accepted finish.
pub async fn run(
    listener: TcpListener,
    host: Arc<Host>,
    token: Option<String>,
    limits: Limits,
    stopping: watch::Receiver<bool>,
) {
    let metrics = host.metrics.connections("admin");
    let access = Access::new(token, host.metrics.denied.clone());
    let router = router(host, Arc::new(access), limits.patience);
    connections::run(listener, Api(router), limits, metrics, stopping).await;
}

/// What the admin listener answers with.
#[derive(Clone)]
struct Api(Router);

impl Answers for Api {
    type Body = Body;

    fn answer(
        self,
        mut request: axum::http::Request<Incoming>,
        client: SocketAddr,
    ) -> impl Future<Output = Response> + Send + 'static {
        request.extensions_mut().insert(Client(client));
        let answering = TowerToHyperService::new(self.0).call(request);
        async move {
            match answering.await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        }
    }
}

fn router(host: Arc<Host>, access: Arc<Access>, patience: Duration) -> Router {
    // What axum would bound by itself is bounded in `body`.
    let component = Bound {
        bytes: MAX_COMPONENT,
        time: UPLOAD,
    };
    let other = Bound {
        bytes: MAX_BODY,
        time: patience,
    };
    let deploying = post(deploy::deploy).layer(from_fn_with_state(component, body::read));
    let others = Router::new()
        .route("/v1/services/{name}", get(service).delete(deploy::remove))
        .route("/v1/services/{name}/history", get(deploy::history))
        .route("/v1/services/{name}/rollback", post(deploy::rollback))
        .route("/v1/services/{name}/promote", post(deploy::promote))
        .route("/v1/hosts", get(deploy::hosts))
        .route("/v1/services/{name}/invoke", post(run_by_hand))
        .route("/v1/services/{name}/logs", get(logs::lines))
        .route("/v1/services/{name}/state", get(state))
        .route("/v1/services/{name}/state/{table}", get(rows))
        .route("/v1/services/{name}/replay", get(replayed).post(replay))
        .route(
            "/v1/services/{name}/dead-letters",
            get(operate::dead_letters),
        )
        .route(
            "/v1/services/{name}/dead-letters/redrive",
            post(operate::redrive),
        )
        .route(
            "/v1/services/{name}/dead-letters/drop",
            post(operate::drop_letters),
        )
        .route(
            "/v1/services/{name}/dead-letters/{id}",
            get(operate::dead_letter),
        )
        .route("/v1/services/{name}/pause", post(operate::pause))
        .route("/v1/services/{name}/resume", post(operate::resume))
        .route(
            "/v1/services/{name}/offsets",
            get(operate::offsets).post(operate::reset),
        )
        .route("/metrics", get(metrics))
        .route("/v1/openapi.json", get(openapi))
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(other, body::read));
    Router::new()
        .route(
            "/v1/services",
            get(services).fallback(no_such_method).merge(deploying),
        )
        .merge(others)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(access, guard::check))
        // Probes carry no token; they tell nothing but whether.
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .fallback(|| async {
            refuse(
                StatusCode::NOT_FOUND,
                "no-route",
                "Not Found",
                "The admin API has no such resource. Services are on the public listener.",
            )
        })
        .with_state(host)
}

/// The API itself, for tools.
async fn openapi() -> Response {
    let document = include_str!("openapi.json");
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

async fn no_such_method() -> Response {
    refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        "method",
        "Method Not Allowed",
        "This resource does not know that method.",
    )
}

fn refuse(
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    detail: impl Into<String>,
) -> Response {
    let problem = Problem::new(status, kind, title, detail);
    problem.response(&HeaderMap::new()).into_response()
}

fn no_service(name: &str) -> Response {
    refuse(
        StatusCode::NOT_FOUND,
        "no-service",
        "Not Found",
        format!("No service {name:?} is deployed. `tidemill services` lists those that are."),
    )
}

fn json(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal Server Error",
            error.to_string(),
        ),
    }
}

async fn services(State(host): State<Arc<Host>>) -> Response {
    let services = host.services();
    json(&api::Services {
        services: services
            .iter()
            .map(|service| show::summary(service, host.cluster.is_up()))
            .collect(),
    })
}

async fn service(State(host): State<Arc<Host>>, Path(name): Path<String>) -> Response {
    match host.service(&name) {
        Some(service) => json(&show::detail(&host, &service).await),
        None => no_service(&name),
    }
}

async fn run_by_hand(
    State(host): State<Arc<Host>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !is_of_type(&headers, "application/json") {
        return refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "Unsupported Media Type",
            "An invocation is sent as application/json.",
        );
    }
    let Some(service) = host.service(&name) else {
        return no_service(&name);
    };
    let invocation = match serde_json::from_slice(&body) {
        Ok(invocation) => invocation,
        Err(error) => {
            return refuse(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invocation",
                "The invocation is not valid",
                error.to_string(),
            );
        }
    };
    match invoke::run(&service, invocation).await {
        Ok(invoked) => json(&invoked),
        Err(detail) => refuse(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invocation",
            "The invocation is not valid",
            detail,
        ),
    }
}

/// The service and the state that is read, or why not.
fn readable(host: &Host, name: &str) -> Result<Arc<Tables>, Box<Response>> {
    let service = host.service(name).ok_or_else(|| no_service(name))?;
    let granted = service.current().manifest.grants.state;
    let Some(state) = service.state().filter(|_| granted) else {
        let detail = format!("{name} has no state.");
        return Err(refuse(StatusCode::NOT_FOUND, "no-state", "Not Found", detail).into());
    };
    if !state.is_readable() {
        let problem = Problem::of_failure(&Failure::Restoring(state.progress()));
        return Err(problem.response(&HeaderMap::new()).into_response().into());
    }
    Ok(state.reading())
}

async fn state(State(host): State<Arc<Host>>, Path(name): Path<String>) -> Response {
    let tables = match readable(&host, &name) {
        Ok(tables) => tables,
        Err(refused) => return *refused,
    };
    let shown = tokio::task::spawn_blocking(move || show::tables(&tables));
    match shown.await {
        Ok(Ok(tables)) => json(&tables),
        Ok(Err(error)) => failed(error.to_string()),
        Err(error) => failed(error.to_string()),
    }
}

async fn rows(
    State(host): State<Arc<Host>>,
    Path((name, table)): Path<(String, String)>,
    which: Result<Query<show::Which>, QueryRejection>,
) -> Response {
    let Query(which) = match which {
        Ok(which) => which,
        Err(error) => {
            let detail = error.body_text();
            return refuse(StatusCode::BAD_REQUEST, "parameters", "Bad Request", detail);
        }
    };
    let tables = match readable(&host, &name) {
        Ok(tables) => tables,
        Err(refused) => return *refused,
    };
    let shown = tokio::task::spawn_blocking(move || show::rows(tables, &table, &which));
    match shown.await {
        Ok(Ok(rows)) => json(&rows),
        Ok(Err(ViewError::Invalid(why))) => {
            refuse(StatusCode::BAD_REQUEST, "parameters", "Bad Request", why)
        }
        Ok(Err(error)) => failed(error.to_string()),
        Err(error) => failed(error.to_string()),
    }
}

async fn replay(State(host): State<Arc<Host>>, Path(name): Path<String>, body: Bytes) -> Response {
    let request: api::ReplayRequest = match &body[..] {
        b"" => api::ReplayRequest::default(),
        body => match serde_json::from_slice(body) {
            Ok(request) => request,
            Err(error) => {
                let detail = error.to_string();
                return refuse(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "replay",
                    "Not valid",
                    detail,
                );
            }
        },
    };
    match host.service(&name) {
        Some(service) => shown(replay::begin(&host, &service, request.partial).await),
        None => no_service(&name),
    }
}

async fn replayed(State(host): State<Arc<Host>>, Path(name): Path<String>) -> Response {
    match host.service(&name) {
        Some(service) => shown(replay::progress(&host, &service).await),
        None => no_service(&name),
    }
}

fn shown(replay: Result<api::Replay, ReplayError>) -> Response {
    let error = match replay {
        Ok(replay) => return json(&replay),
        Err(error) => error,
    };
    let (status, kind, title) = match &error {
        ReplayError::Kafka(
            error @ (KafkaError::Unreachable { .. } | KafkaError::Denied { .. }),
        ) => return unreachable(error),
        ReplayError::Task(_) => return failed(error.to_string()),
        ReplayError::NoState(_)
        | ReplayError::Embedded
        | ReplayError::UnderWay(..)
        | ReplayError::Removed(..)
        | ReplayError::Kafka(_) => (StatusCode::CONFLICT, "replay", "The state is not rebuilt"),
    };
    refuse(status, kind, title, error.to_string())
}

fn unreachable(error: &KafkaError) -> Response {
    refuse(
        StatusCode::SERVICE_UNAVAILABLE,
        "kafka-unreachable",
        "Kafka does not answer",
        error.to_string(),
    )
}

fn failed(detail: String) -> Response {
    refuse(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "Internal Server Error",
        detail,
    )
}

async fn metrics(State(host): State<Arc<Host>>) -> Response {
    match host.metrics.render(&host.now()) {
        Ok(text) => {
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Internal Server Error",
            error.to_string(),
        ),
    }
}

/// Ready means: what is deployed can do all it is there for.
async fn ready(State(host): State<Arc<Host>>) -> Response {
    let mut missing = Vec::new();
    if !host.is_started() {
        missing.push("the host is still starting".to_owned());
    }
    if !host.registry.is_caught_up() {
        missing.push("what is deployed is not known or not loaded yet".to_owned());
    }
    missing.extend(host.cluster.trouble());
    for service in host.services() {
        let consumes = !service.current().manifest.subscribe.is_empty();
        let state = service.current().manifest.grants.state;
        if state && !service.is_readable() {
            let (name, progress) = (service.name(), service.restored());
            missing.push(format!("the state of {name} is being restored: {progress}"));
        } else if consumes && service.board().status().0 == api::Status::Starting {
            missing.push(format!("{} does not consume yet", service.name()));
        }
    }
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    refuse(
        StatusCode::SERVICE_UNAVAILABLE,
        "not-ready",
        "Not ready",
        missing.join("; "),
    )
}

/// Whether a request asks for an answer of a type by its name.
fn accepts(headers: &HeaderMap, wanted: &str) -> bool {
    let accepted = headers.get_all(header::ACCEPT).into_iter();
    let mut kinds = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kinds.any(|kind| kind.eq_ignore_ascii_case(wanted))
}

/// Whether a request's body is of a type, whatever parameters it has.
fn is_of_type(headers: &HeaderMap, wanted: &str) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case(wanted)
}
