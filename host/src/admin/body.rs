//! The bodies of the admin API's requests: read whole, up to a size, in a time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;

use crate::http::connections::broken_off;
use crate::problem::Problem;

/// How large a body may be, and how long it may take to arrive.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    pub(super) bytes: usize,
    pub(super) time: Duration,
}

/// Reads a request's body before anything is made of it.
pub(super) async fn read(State(bound): State<Bound>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match collect(parts.version, body, bound).await {
        Ok(body) => next.run(Request::from_parts(parts, body.into())).await,
        Err(problem) => problem.response(&HeaderMap::new()).into_response(),
    }
}

async fn collect(version: Version, body: Body, bound: Bound) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request-too-large",
            "Content Too Large",
            format!("This resource takes at most {} bytes.", bound.bytes),
        )
    };
    if body.size_hint().lower() > bound.bytes as u64 {
        return Err(too_large());
    }
    let limited = Limited::new(body, bound.bytes);
    match tokio::time::timeout(bound.time, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(broken_off(version).await),
        Err(_) => Err(Problem::slow_body(bound.time.as_secs())),
    }
}
