//! From a request to a response: route, read, run, commit, answer.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, request::Parts};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};

use super::authority::{authority, check_coding, check_method};
use super::connections::{HEADER, broken_off};
use super::docs;
use super::position::{self, POSITION, Positions};
use crate::dispatch;
use crate::effects::Effects;
use crate::host::Host;
use crate::invocation::{Failure, Identity, Request, Response, next_number};
use crate::limits::Limit;
use crate::problem::Problem;
use crate::revision::Revision;
use crate::runtime::{BodyMemory, is_hop_by_hop};
use crate::service::Service;
use crate::state::NotReached;
use crate::trace::{self, Server, TraceId};

/// How long a request waits until the state is where its position is.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names the revision that answered.
const REVISION: HeaderName = HeaderName::from_static("tidemill-revision");

pub(super) type Answer = http::Response<Full<Bytes>>;

/// Answers a request, whatever it is. Its body has to arrive within `patience`.
pub(super) async fn answer(
    host: Arc<Host>,
    request: http::Request<Incoming>,
    patience: Duration,
) -> Answer {
    let (parts, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let mut span = Server::begin(&parts);
    let answered = try_answer(&host, &parts, body, patience, &mut span).await;
    let answer = answered.unwrap_or_else(|problem| {
        host.metrics.refused(problem.kind);
        refuse(&problem, &parts, has_body, &mut span)
    });
    span.end(answer.status());
    answer
}

/// Turns a request down. A client error is found before the whole body is read,
/// and what is left of it is in the way of the connection's next request.
fn refuse(problem: &Problem, parts: &Parts, has_body: bool, span: &mut Server) -> Answer {
    span.fail(problem.kind, problem.status);
    let mut response = problem.response(&parts.headers);
    let unread = has_body && problem.status.is_client_error();
    if (unread || problem.is_of_http()) && parts.version < http::Version::HTTP_2 {
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn try_answer(
    host: &Arc<Host>,
    parts: &Parts,
    body: Incoming,
    patience: Duration,
    span: &mut Server,
) -> Result<Answer, Problem> {
    let path = parts.uri.path();
    let authority = authority(parts)?;
    check_method(&parts.method)?;
    check_coding(&parts.headers)?;
    if let Some(page) = docs::page(host, &parts.method, path)? {
        return Ok(page);
    }
    if header_size(&parts.headers) > HEADER {
        return Err(Problem::header_too_large(HEADER));
    }
    let found = host.routes().find(authority, path).cloned();
    let service = found.ok_or_else(|| Problem::no_route(path))?;
    let revision = service.for_request(&parts.headers);
    let has_body = !body.is_end_stream();
    span.routed(parts, authority, &revision);
    let started = Instant::now();
    let body = match has_body {
        true => {
            let limit = revision.manifest.limits.request;
            let room = host.revisions.room_for_a_body();
            Some(Box::pin(read(parts, body, limit, patience, room)))
        }
        false => None,
    };
    let answered = serve(host, &service, &revision, parts, authority, body, span).await;
    let mut response = answered.unwrap_or_else(|problem| {
        service.metrics.refused(problem.kind);
        refuse(&problem, parts, has_body, span)
    });
    let took = started.elapsed();
    service.metrics.responded(response.status(), took);
    let invocations = &service.invocations;
    invocations.answered(&revision, parts, &response, took);
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
    authority: &str,
    body: Option<impl Future<Output = Result<(Vec<u8>, BodyMemory), Problem>> + Unpin>,
    span: &Server,
) -> Result<Answer, Problem> {
    // What it takes is counted until the call has ended.
    let (body, _room) = match body {
        Some(body) => {
            let body = body.await.inspect_err(|problem| match problem.status {
                StatusCode::PAYLOAD_TOO_LARGE => service.metrics.hit(Limit::Request),
                StatusCode::SERVICE_UNAVAILABLE => service.metrics.hit(Limit::HostMemory),
                _ => {}
            });
            let (body, room) = body?;
            (body, Some(room))
        }
        None => (Vec::new(), None),
    };
    if parts.headers.contains_key(POSITION) {
        Box::pin(reach(service, revision, &parts.headers)).await?;
    }
    let target = parts.uri.path_and_query();
    let number = next_number();
    let request = Request {
        number,
        method: parts.method.as_str().to_owned(),
        target: target.map_or("/", |target| target.as_str()).to_owned(),
        authority: authority.to_owned(),
        headers: end_to_end(&parts.headers, authority),
        body,
        trace: span.context(),
    };
    match dispatch::request(service, revision, request).await {
        Ok((response, mut effects)) => {
            trace::publish(&mut effects, &parts.headers);
            let trace_id = || span.trace_id(&parts.headers);
            // What most requests do not need is not a part of every one.
            let position = match effects.messages.is_empty() {
                true => None,
                false => Box::pin(commit(host, service, revision, effects, trace_id)).await?,
            };
            let mut answer = respond(response, parts.method == Method::HEAD);
            if let Some(position) = position {
                answer.headers_mut().insert(POSITION, position);
            }
            Ok(answer)
        }
        Err(failure) => {
            let trace_id = span.trace_id(&parts.headers);
            log_failure(service, revision, parts, number, &failure, trace_id);
            Err(Problem::of_failure(&failure))
        }
    }
}

/// Waits until the state that is read has seen what the request says it must
/// have. Topics that the service does not consume do not concern it.
async fn reach(service: &Service, revision: &Revision, headers: &HeaderMap) -> Result<(), Problem> {
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
    let reached = match service.state() {
        Some(state) => state.reach(&theirs, PATIENCE).await,
        None => Err(NotReached::Late),
    };
    match reached {
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

async fn read(
    parts: &Parts,
    body: Incoming,
    limit: u64,
    patience: Duration,
    room: BodyMemory,
) -> Result<(Vec<u8>, BodyMemory), Problem> {
    let too_large = || Problem::request_too_large(limit);
    if body.size_hint().lower() > limit {
        return Err(too_large());
    }
    let body = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    let whole = tokio::time::timeout(patience, collect(body, room)).await;
    match whole.map_err(|_| Problem::slow_body(patience.as_secs()))? {
        Ok(whole) => whole.ok_or_else(Problem::crowded),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(broken_off(parts.version).await),
    }
}

/// All of a body, or none if there is no room for it. Then it is read all the same:
/// a client that still sends may not see an answer.
async fn collect(
    mut body: Limited<Incoming>,
    room: BodyMemory,
) -> Result<Option<(Vec<u8>, BodyMemory)>, Box<dyn Error + Send + Sync>> {
    let mut kept = Some((Vec::new(), room));
    while let Some(frame) = body.frame().await {
        // Trailers are for nobody.
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        let Some((whole, room)) = &mut kept else {
            continue;
        };
        match room.more(data.len()) {
            false => kept = None,
            // Most come at once.
            true if whole.is_empty() => *whole = data.into(),
            true => whole.extend_from_slice(&data),
        }
    }
    Ok(kept)
}

/// The header fields that are for the handler, and not for the connection
/// (RFC 9110, section 7.6.1). The host field says what the request is for, even
/// if its target said otherwise.
fn end_to_end(headers: &HeaderMap, authority: &str) -> Vec<(String, Vec<u8>)> {
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
    kept.map(|(name, value)| {
        let value = match name {
            name if name == HOST => authority.as_bytes(),
            _ => value.as_bytes(),
        };
        (name.as_str().to_owned(), value.to_vec())
    })
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
    let topics: Vec<Arc<str>> = messages
        .iter()
        .map(|message| message.topic.clone())
        .collect();
    let started = Instant::now();
    match host.publishing.publish(messages).await {
        Ok(placed) => {
            service.metrics.acknowledged(started.elapsed());
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
                tracing::warn!(event = "request.not-published", service = service.name(), revision = revision.short(), trace_id, outcome = problem.kind, %error, "a request's events were not published");
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
    number: u64,
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
        event = "request.failed",
        service,
        revision,
        trace_id,
        method,
        path,
        outcome,
        invocation = %Identity::Request(number),
        "request failed: {failure}"
    );
}
