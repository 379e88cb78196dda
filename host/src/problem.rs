//! Problem documents (RFC 9457): what a client sees when the host, and not a
//! handler, answers. The one table from a failure to an HTTP status is here.

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use tidemill_cli::api;

use crate::http::publishing::NotPublished;
use crate::invocation::Failure;

/// A problem to tell a client of. It never holds what a trap said, a secret, or
/// a path of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The last part of `urn:tidemill:problem:…`.
    pub kind: &'static str,
    /// The HTTP status.
    pub status: StatusCode,
    /// The kind in words.
    pub title: &'static str,
    /// What happened and what to do.
    pub detail: String,
    /// For 503: when to try again, in seconds.
    pub retry_after: Option<u32>,
    /// For 405: the methods that are allowed.
    pub allow: Option<&'static str>,
}

impl Problem {
    /// A problem without advice on retries.
    pub fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Problem {
        Problem {
            kind,
            status,
            title,
            detail: detail.into(),
            retry_after: None,
            allow: None,
        }
    }

    fn again_after(mut self, seconds: u32) -> Problem {
        self.retry_after = Some(seconds);
        self
    }

    /// No service has this path.
    pub fn no_route(path: &str) -> Problem {
        Problem::new(
            StatusCode::NOT_FOUND,
            "no-route",
            "Not Found",
            format!("No deployed service answers {path}. /docs lists what there is."),
        )
    }

    /// The host has never reached Kafka, and serves nothing before.
    pub fn starting() -> Problem {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "starting",
            "Service Unavailable",
            "The host has just been started, and Kafka does not answer it yet. Nothing was \
             published. GET /readyz on its admin listener says why.",
        )
        .again_after(5)
    }

    /// The host's own resource does not know this method.
    pub fn method(allow: &'static str) -> Problem {
        let mut problem = Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method",
            "Method Not Allowed",
            format!("This can be asked with {allow} only."),
        );
        problem.allow = Some(allow);
        problem
    }

    /// Something of HTTP that this host does not do.
    pub fn not_implemented(detail: impl Into<String>) -> Problem {
        Problem::new(
            StatusCode::NOT_IMPLEMENTED,
            "not-implemented",
            "Not Implemented",
            detail,
        )
    }

    /// A request body that is too large.
    pub fn request_too_large(limit: u64) -> Problem {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "request-too-large",
            "Content Too Large",
            format!("The service takes request bodies of at most {limit} bytes."),
        )
    }

    /// Header fields that are too large together (RFC 6585, section 5).
    pub fn header_too_large(limit: usize) -> Problem {
        Problem::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "header-too-large",
            "Request Header Fields Too Large",
            format!("The host takes at most {limit} bytes of header fields."),
        )
    }

    /// The memory of the service or of the host is with other calls.
    pub fn crowded() -> Problem {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "crowded",
            "Service Unavailable",
            "The host has no memory for another call at the moment. Nothing was published.",
        )
        .again_after(1)
    }

    /// A body that came too slowly.
    pub fn slow_body(seconds: u64) -> Problem {
        Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "slow-body",
            "Request Timeout",
            format!("The request's body did not arrive within {seconds} seconds."),
        )
    }

    /// A request that HTTP does not allow.
    pub fn malformed(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "malformed", "Bad Request", detail)
    }

    /// Whether the request is not as HTTP, or this host's HTTP, has it. Then
    /// nothing more is taken from its connection: what follows may be part of it.
    pub fn is_of_http(&self) -> bool {
        matches!(self.kind, "malformed" | "not-implemented")
    }

    /// What a request's failed invocation means to its client.
    pub fn of_failure(failure: &Failure) -> Problem {
        match failure {
            Failure::Busy { .. } | Failure::Full { .. } => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "Service Unavailable",
                "The service has no free slot at the moment. Nothing was published.",
            )
            .again_after(1),
            Failure::Crowded { .. } => Problem::crowded(),
            Failure::Restoring(progress) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "state-restoring",
                "Service Unavailable",
                format!(
                    "The service's state is being restored on this host: {progress}. Nothing was \
                     published."
                ),
            )
            .again_after(1),
            Failure::Instantiate(_) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no-instance",
                "Service Unavailable",
                "The host cannot start another instance at the moment. Nothing was published.",
            )
            .again_after(1),
            Failure::Timeout { .. } => Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "handler-timeout",
                "Gateway Timeout",
                "The service's handler took longer than it is allowed to. Nothing was published.",
            ),
            Failure::Invalid(_) | Failure::ResponseTooLarge { .. } => Problem::new(
                StatusCode::BAD_GATEWAY,
                "invalid-response",
                "Bad Gateway",
                "The service's handler gave an answer that is not a valid response. Nothing was \
                 published.",
            ),
            Failure::Trap(_)
            | Failure::Memory { .. }
            | Failure::Retry(_)
            | Failure::RetryAfter(..)
            | Failure::Reject(_)
            | Failure::Refused(_) => Problem::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "handler-failed",
                "Internal Server Error",
                "The service's handler failed. Nothing was published; the host's log says why.",
            ),
        }
    }

    /// What it means to a client that its request's events are not all there.
    pub fn of_publishing(error: &NotPublished) -> Problem {
        match error {
            NotPublished::Unknown(_) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "outcome-unknown",
                "Service Unavailable",
                "Kafka did not acknowledge everything that this request published: some or all of \
                 it may have been published nevertheless.",
            )
            .again_after(5),
            NotPublished::Unavailable(_) => Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "not-published",
                "Service Unavailable",
                "Kafka takes no events at the moment. Nothing was published.",
            )
            .again_after(5),
            NotPublished::Refused(_) => Problem::new(
                StatusCode::BAD_GATEWAY,
                "publish-refused",
                "Bad Gateway",
                "Kafka refused what this request published. Nothing was published; the host's log \
                 says why.",
            ),
        }
    }

    /// The state did not come as far as a request wants to see it.
    pub fn position_not_reached(seconds: u64) -> Problem {
        Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "position-not-reached",
            "Gateway Timeout",
            format!(
                "The service's state has not reached the position of the request's \
                 tidemill-position within {seconds} seconds. The same request may see it later; \
                 without that field it is answered from what is there."
            ),
        )
        .again_after(1)
    }

    /// Too many requests wait for the state to come further.
    pub fn too_many_wait() -> Problem {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too-many-wait",
            "Service Unavailable",
            "Too many requests wait for the service's state to reach their position.",
        )
        .again_after(1)
    }

    /// The document's content.
    pub fn document(&self) -> api::Problem {
        api::Problem {
            kind: format!("urn:tidemill:problem:{}", self.kind),
            title: self.title.to_owned(),
            status: self.status.as_u16(),
            detail: self.detail.clone(),
        }
    }

    /// The response: a page for a browser, a problem document for all others.
    pub fn response(&self, request: &HeaderMap) -> Response<Full<Bytes>> {
        let (content_type, body) = if prefers_html(request) {
            ("text/html; charset=utf-8", self.page().into())
        } else {
            // Strings and a number: serializing them does not fail.
            let body = serde_json::to_vec(&self.document()).unwrap_or_default();
            ("application/problem+json", body)
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }

    fn page(&self) -> String {
        include_str!("problem.html")
            .replace("{status}", self.status.as_str())
            .replace("{title}", &escape(self.title))
            .replace("{detail}", &escape(&self.detail))
    }
}

/// Whether a browser asks: it names HTML before anything that is JSON.
fn prefers_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| {
        let first = accept.split(',').map(str::trim).find(|kind| {
            kind.starts_with("text/html") || kind.contains("json") || kind.starts_with("*/*")
        });
        first.is_some_and(|kind| kind.starts_with("text/html"))
    })
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::Limit;

    #[test]
    fn each_failure_has_its_status_and_says_that_nothing_was_published() {
        let text = || "secret of the handler".to_owned();
        let table = [
            (Failure::Retry(text()), 500),
            (Failure::Reject(text()), 500),
            (Failure::Trap(text()), 500),
            (Failure::Memory { limit: 1 }, 500),
            (
                Failure::Timeout {
                    limit: Duration::ZERO,
                },
                504,
            ),
            (
                Failure::Busy {
                    limit: 1,
                    waited: Duration::ZERO,
                },
                503,
            ),
            (Failure::Full { limit: 1 }, 503),
            (
                Failure::Crowded {
                    limit: Limit::HostMemory,
                },
                503,
            ),
            (Failure::Restoring("1 of 2".to_owned()), 503),
            (Failure::Invalid(text()), 502),
            (Failure::ResponseTooLarge { size: 2, limit: 1 }, 502),
            (Failure::Instantiate(text()), 503),
        ];
        for (failure, status) in table {
            let problem = Problem::of_failure(&failure);
            assert_eq!(problem.status.as_u16(), status, "{failure:?}");
            assert!(problem.detail.contains("Nothing was published"));
            assert!(!problem.detail.contains("secret"));
            assert_eq!(problem.retry_after.is_some(), status == 503);
        }
    }

    #[test]
    fn a_failed_publish_says_whether_the_outcome_is_known() {
        let kind = |error: NotPublished| Problem::of_publishing(&error).kind;
        let cause = String::new;
        assert_eq!(kind(NotPublished::Unknown(cause())), "outcome-unknown");
        assert_eq!(kind(NotPublished::Unavailable(cause())), "not-published");
        assert_eq!(kind(NotPublished::Refused(cause())), "publish-refused");
    }

    #[test]
    fn a_browser_gets_a_page_and_everyone_else_a_document() {
        let content_type = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            let response = Problem::no_route("/<x>").response(&headers);
            response.headers()[CONTENT_TYPE]
                .to_str()
                .unwrap()
                .to_owned()
        };
        let html = "text/html; charset=utf-8";
        assert_eq!(
            content_type("text/html,application/xhtml+xml,*/*;q=0.8"),
            html
        );
        for accept in ["*/*", "application/json", "application/json, text/html"] {
            assert_eq!(content_type(accept), "application/problem+json");
        }
    }

    #[test]
    fn a_page_escapes_what_the_client_sent() {
        let page = Problem::no_route("/<script>alert(1)</script>").page();
        assert!(page.contains("/&lt;script&gt;") && !page.contains("<script>"));
    }
}
