//! The span of a request, from its header to its response.

use http::header::{HOST, USER_AGENT};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, StatusCode};
use opentelemetry::trace::{SpanKind, TraceId};
use opentelemetry_semantic_conventions::attribute;

use super::context::{Context, Fields};
use super::span::{Span, short};
use super::{trace_id, tracing_on};
use crate::revision::Revision;
use crate::routes::{host_name, route};

/// What a method that HTTP does not know is called.
const OTHER: &str = "_OTHER";

/// The span of a request.
#[derive(Debug)]
pub(crate) struct Server {
    span: Span,
    /// Whether it is said already what went wrong.
    failed: bool,
    answered: bool,
}

impl Server {
    pub(crate) fn begin(parts: &Parts) -> Server {
        let span = match tracing_on() {
            Some(on) => {
                let parent = Context::incoming(&parts.headers);
                let name = span_name(&parts.method);
                Span::begin_on(on, SpanKind::Server, name, parent.as_ref(), Vec::new())
            }
            None => Span::default(),
        };
        let mut server = Server {
            span,
            failed: false,
            answered: false,
        };
        if server.span.is_recorded() {
            server.describe(parts);
        }
        server
    }

    fn describe(&mut self, parts: &Parts) {
        let span = &mut self.span;
        let method = known(&parts.method);
        span.set(attribute::HTTP_REQUEST_METHOD, method);
        if method == OTHER {
            let original = short(parts.method.as_str()).to_owned();
            span.set(attribute::HTTP_REQUEST_METHOD_ORIGINAL, original);
        }
        span.set(attribute::URL_SCHEME, "http");
        // The query is left out: it may have secrets in it.
        span.set(attribute::URL_PATH, short(parts.uri.path()).to_owned());
        span.set(attribute::NETWORK_PROTOCOL_VERSION, version(parts.version));
        let text = |name| parts.headers.get(name)?.to_str().ok();
        if let Some(agent) = text(USER_AGENT) {
            span.set(attribute::USER_AGENT_ORIGINAL, short(agent).to_owned());
        }
        let authority = parts.uri.authority().map(Authority::as_str);
        if let Some(authority) = authority.or_else(|| text(HOST)) {
            let host = host_name(authority);
            let port = authority.get(host.len() + 1..);
            let port: Option<u16> = port.and_then(|port| port.parse().ok());
            span.set(attribute::SERVER_ADDRESS, short(host).to_owned());
            if let Some(port) = port {
                span.set(attribute::SERVER_PORT, i64::from(port));
            }
        }
    }

    /// It is for this service.
    pub(crate) fn routed(&mut self, parts: &Parts, authority: &str, revision: &Revision) {
        if !self.span.is_recorded() {
            return;
        }
        let manifest = &revision.manifest;
        self.span.set(attribute::FAAS_NAME, manifest.name.clone());
        if let Some(route) = route(manifest, authority, parts.uri.path()) {
            let name = format!("{} {}", span_name(&parts.method), route.prefix);
            self.span.rename(name);
            self.span.set(attribute::HTTP_ROUTE, route.prefix.clone());
        }
    }

    /// What the invocation that answers it is below. None if tracing is off.
    pub(crate) fn context(&self) -> Option<Context> {
        self.span.context().cloned()
    }

    /// Names its trace in the log: its own, or that which it came with.
    pub(crate) fn trace_id(&self, fields: &impl Fields) -> Option<TraceId> {
        let own = self.span.context().map(Context::trace_id);
        own.or_else(|| trace_id(fields))
    }

    /// The host answers it with a problem.
    pub(crate) fn fail(&mut self, kind: &'static str, status: StatusCode) {
        // What a client does wrong is no error of the server's.
        if status.is_server_error() {
            self.span.fail(kind, "");
            self.failed = true;
        }
    }

    /// It is answered.
    pub(crate) fn end(mut self, status: StatusCode) {
        let code = i64::from(status.as_u16());
        self.span.set(attribute::HTTP_RESPONSE_STATUS_CODE, code);
        if status.is_server_error() && !self.failed {
            self.span.fail(status.as_str(), "");
        }
        self.answered = true;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.answered {
            self.span.fail("cancelled", "its client is gone");
        }
    }
}

/// The methods of RFC 9110 and PATCH; of others there are as many as clients
/// like.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::CONNECT => "CONNECT",
        Method::DELETE => "DELETE",
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::TRACE => "TRACE",
        _ => OTHER,
    }
}

fn span_name(method: &Method) -> &'static str {
    match known(method) {
        OTHER => "HTTP",
        known => known,
    }
}

fn version(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "1.0",
        http::Version::HTTP_2 => "2",
        _ => "1.1",
    }
}
