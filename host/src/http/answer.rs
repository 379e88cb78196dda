//! From a request to a response: route, read, run, commit, answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, request::Parts};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};

use super::docs;
use super::listener::HEADER;
use super::position::{self, POSITION, Positions};
use crate::dispatch;
use crate::effects::Effects;
use crate::host::Host;
use crate::invocation::{Failure, Request, Response};
use crate::problem::Problem;
use crate::runtime::is_hop_by_hop;
use crate::service::{Revision, Service};
use crate::state::NotReached;
use crate::trace::{self, Server, TraceId};

/// The HTTP version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// How long a request's body may take to arrive.
const BODY: Duration = Duration::from_secs(30);

/// How long a request waits until the state is where its position is.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names the revision that answered.
const REVISION: HeaderName = HeaderName::from_static("tidemill-revision");

pub(super) type Answer = http::Response<Full<Bytes>>;

/// Answers a request, whatever it is.
pub(super) async fn answer(
    host: Arc<Host>,
    request: http::Request<Incoming>,
    version: Version,
) -> Result<Answer, Infallible> {
    let (parts, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let mut span = Server::begin(&parts);
    let answered = try_answer(&host, &parts, body, version, &mut span).await;
    let answer = answered.unwrap_or_else(|problem| refuse(&problem, &parts, has_body, &mut span));
    span.end(answer.status());
    Ok(answer)
}

/// Turns a request down. A client error is found before the whole body is read,
/// and what is left of it is in the way of the connection's next request.
fn refuse(problem: &Problem, parts: &Parts, has_body: bool, span: &mut Server) -> Answer {
    span.fail(problem.kind, problem.status);
    let mut response = problem.response(&parts.headers);
    if has_body && problem.status.is_client_error() && parts.version < http::Version::HTTP_2 {
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn try_answer(
    host: &Arc<Host>,
    parts: &Parts,
    body: Incoming,
    version: Version,
    span: &mut Server,
) -> Result<Answer, Problem> {
    let path = parts.uri.path();
    if let Some(page) = docs::page(host, &parts.method, path)? {
        return Ok(page);
    }
    if header_size(&parts.headers) > HEADER {
        return Err(Problem::header_too_large(HEADER));
    }
    let authority = authority(parts, version)?;
    let found = host.routes().find(authority, path).cloned();
    let service = found.ok_or_else(|| Problem::no_route(path))?;
    let revision = service.current();
    let has_body = !body.is_end_stream();
    span.routed(parts, authority, &revision);
    let answered = serve(host, &service, &revision, parts, body, authority, span).await;
    let mut response = answered.unwrap_or_else(|problem| refuse(&problem, parts, has_body, span));
    service.metrics.responded(response.status());
    if let Ok(revision) = HeaderValue::from_str(revision.short()) {
        response.headers_mut().insert(REVISION, revision);
    }
    Ok(response)
}

async fn serve(
    host: &Host,
    service: &Service,
    revision: &Arc<Revision>,
    parts: &Parts,
    body: Incoming,
    authority: &str,
    span: &Server,
) -> Result<Answer, Problem> {
    let body = read(body, revision.manifest.limits.request).await?;
    reach(service, revision, &parts.headers).await?;
    let target = parts.uri.path_and_query();
    let request = Request {
        method: parts.method.as_str().to_owned(),
        target: target.map_or("/", |target| target.as_str()).to_owned(),
        authority: authority.to_owned(),
        headers: end_to_end(&parts.headers),
        body,
        trace: span.context(),
    };
    match dispatch::request(service, revision, request).await {
        Ok((response, mut effects)) => {
            trace::publish(&mut effects, &parts.headers);
            let trace_id = || span.trace_id(&parts.headers);
            let position = commit(host, service, revision, effects, trace_id).await?;
            let mut answer = respond(response, parts.method == Method::HEAD);
            if let Some(position) = position {
                answer.headers_mut().insert(POSITION, position);
            }
            Ok(answer)
        }
        Err(failure) => {
            let trace_id = span.trace_id(&parts.headers);
            log_failure(service, revision, parts, &failure, trace_id);
            Err(Problem::of_failure(&failure))
        }
    }
}

/// Waits until the state that is read has seen what the request says it must
/// have. Topics that the service does not consume do not concern it.
async fn reach(service: &Service, revision: &Revision, headers: &HeaderMap) -> Result<(), Problem> {
    if !headers.contains_key(POSITION) {
        return Ok(());
    }
    let wanted = position::read(headers).map_err(Problem::malformed)?;
    if !revision.manifest.grants.state {
        return Ok(());
    }
    let subscribed = &revision.manifest.subscribe;
    let theirs = wanted
        .into_iter()
        .filter(|((topic, _), _)| subscribed.iter().any(|one| one.topic == *topic));
    let theirs: Vec<_> = theirs
        .map(|((topic, partition), offset)| (topic, partition, offset))
        .collect();
    match service.state.reach(&theirs, PATIENCE).await {
        Ok(()) => Ok(()),
        Err(NotReached::Late) => Err(Problem::position_not_reached(PATIENCE.as_secs())),
        Err(NotReached::Crowded) => Err(Problem::too_many_wait()),
    }
}

/// Bytes of a request's header fields, as HTTP/2 counts them but for its fixed
/// part (RFC 9113, section 6.5.2).
fn header_size(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

/// The host name that a request is for. HTTP/1.1 must name one, and only one
/// (RFC 9112, section 3.2).
fn authority(parts: &Parts, version: Version) -> Result<&str, Problem> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(Problem::malformed("The request has several host fields."));
    }
    if let Some(authority) = parts.uri.authority() {
        return Ok(authority.as_str());
    }
    let needed = version == Version::Http1 && parts.version == http::Version::HTTP_11;
    match host.map(HeaderValue::to_str) {
        Some(Ok(host)) => Ok(host),
        Some(Err(_)) => Err(Problem::malformed("The host field is not a host name.")),
        None if needed => Err(Problem::malformed("The request has no host field.")),
        None => Ok(""),
    }
}

async fn read(body: Incoming, limit: u64) -> Result<Vec<u8>, Problem> {
    if body.is_end_stream() {
        return Ok(Vec::new());
    }
    let too_large = || Problem::request_too_large(limit);
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let limited = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    match tokio::time::timeout(BODY, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::malformed("The request's body broke off.")),
        Err(_) => Err(Problem::slow_body(BODY.as_secs())),
    }
}

/// The header fields that are for the handler, and not for the connection
/// (RFC 9110, section 7.6.1).
fn end_to_end(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let kept = headers.iter().filter(|(name, _)| {
        !is_hop_by_hop(name.as_str()) && !named.iter().any(|named| named == name.as_str())
    });
    kept.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

/// Publishes what a handler published. Only then is there an answer, with where
/// it is.
async fn commit(
    host: &Host,
    service: &Service,
    revision: &Revision,
    effects: Effects,
    trace_id: impl FnOnce() -> Option<TraceId>,
) -> Result<Option<HeaderValue>, Problem> {
    let Effects {
        messages,
        mut trail,
        ..
    } = effects;
    if messages.is_empty() {
        return Ok(None);
    }
    let topics: Vec<Arc<str>> = messages
        .iter()
        .map(|message| message.topic.clone())
        .collect();
    match host.publishing.publish(messages).await {
        Ok(placed) => {
            service.metrics.published(placed.len());
            trail.published(&placed);
            let mut positions = Positions::new();
            for (topic, placed) in topics.iter().zip(placed) {
                let offset = match placed.offset {
                    known if known >= 0 => Some(known),
                    _ => last(host, topic, placed.partition).await,
                };
                if let Some(offset) = offset {
                    let source = (topic.to_string(), placed.partition);
                    let known = positions.entry(source).or_insert(offset);
                    *known = offset.max(*known);
                }
            }
            Ok(position::write(&positions))
        }
        Err(error) => {
            let problem = Problem::of_publishing(&error);
            trail.failed(problem.kind, &error.to_string());
            // That Kafka is away is said once, and not for each request.
            if host.cluster.is_up() {
                let trace_id = trace_id().map(tracing::field::display);
                tracing::warn!(service = service.name(), revision = revision.short(), trace_id, outcome = problem.kind, %error, "a request's events were not published");
            }
            Err(problem)
        }
    }
}

/// The last offset of a partition, for an event whose own the broker did not
/// tell: it is there by then.
async fn last(host: &Host, topic: &Arc<str>, partition: i32) -> Option<i64> {
    let (cluster, topic) = (host.cluster.clone(), topic.clone());
    let asked = tokio::task::spawn_blocking(move || cluster.watermarks(&topic, partition));
    let (_, end) = asked.await.ok()?.ok()?;
    Some(end - 1)
}

fn respond(response: Response, head: bool) -> Answer {
    let length = response.body.len();
    let mut answer = http::Response::new(Full::new(response.body));
    *answer.status_mut() = response.status;
    *answer.headers_mut() = response.headers;
    if length > 0 && !head {
        let headers = answer.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    answer
}

fn log_failure(
    service: &Service,
    revision: &Revision,
    parts: &Parts,
    failure: &Failure,
    trace_id: Option<TraceId>,
) {
    // The follower says so itself, and not for each request.
    if matches!(failure, Failure::Restoring(_)) {
        return;
    }
    let (service, revision) = (service.name(), revision.short());
    let (method, path) = (parts.method.as_str(), parts.uri.path());
    let outcome = failure.name();
    let trace_id = trace_id.map(tracing::field::display);
    tracing::error!(
        service,
        revision,
        trace_id,
        method,
        path,
        outcome,
        "request failed: {failure}"
    );
}
