//! Who may use the admin listener.
//!
//! With a token, who has it. Without one the listener is on loopback only, and
//! what has to be kept out is the web: a page in a browser on this machine can
//! send requests here. It cannot send a foreign `Host` past us by pointing its
//! own name at 127.0.0.1, and it cannot hide its `Origin`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONNECTION, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus::IntCounterVec;

use crate::http::authority::{authority, check_coding, check_method};
use crate::problem::Problem;
use crate::seldom::Seldom;

/// Where a browser says whose page a request comes from (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The address that a request came from.
#[derive(Clone, Copy)]
pub(super) struct Client(pub(super) SocketAddr);

/// What a request needs to be let in.
pub(super) struct Access {
    /// The bearer token (RFC 6750), if there is one.
    token: Option<String>,
    denied: IntCounterVec,
    said: Seldom,
}

/// Lets a request pass, or answers it.
pub(super) async fn check(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    match access.judge(&parts) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(problem) => access.deny(&problem, &parts),
    }
}

impl Access {
    pub(super) fn new(token: Option<String>, denied: IntCounterVec) -> Access {
        Access {
            token,
            denied,
            said: Seldom::every(Duration::from_secs(10)),
        }
    }

    fn deny(&self, problem: &Problem, request: &Parts) -> Response {
        self.denied.with_label_values(&[problem.kind]).inc();
        if let Some(times) = self.said.is_due() {
            let client = request.extensions.get::<Client>();
            let client = client.map(|client| client.0.to_string());
            let reason = problem.kind;
            tracing::warn!(
                event = "admin.denied",
                reason,
                client,
                times,
                "the admin API turned a request away"
            );
        }
        let mut response = problem.response(&HeaderMap::new()).into_response();
        let headers = response.headers_mut();
        if problem.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if problem.is_of_http() && request.version < Version::HTTP_2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    fn judge(&self, request: &Parts) -> Result<(), Problem> {
        let authority = authority(request)?;
        check_method(&request.method)?;
        check_coding(&request.headers)?;
        match &self.token {
            Some(token) => with_token(token, &request.headers),
            None => from_here(authority, &request.headers),
        }
    }
}

fn with_token(token: &str, headers: &HeaderMap) -> Result<(), Problem> {
    let given = headers.get(AUTHORIZATION).and_then(bearer);
    if given.is_some_and(|given| same(given, token.as_bytes())) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNAUTHORIZED,
        "token",
        "Unauthorized",
        "The admin API of this host needs its token: --admin-token-file, or TIDEMILL_ADMIN_TOKEN.",
    ))
}

/// The token in an `authorization` field. The scheme's case does not matter (RFC
/// 9110, section 11.1).
fn bearer(field: &HeaderValue) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let (scheme, token) = field.as_bytes().split_at_checked(SCHEME.len())?;
    let is_bearer = scheme.eq_ignore_ascii_case(SCHEME);
    is_bearer.then(|| token.trim_ascii())
}

fn from_here(authority: &str, headers: &HeaderMap) -> Result<(), Problem> {
    let forbidden = |detail: &str| {
        Err(Problem::new(
            StatusCode::FORBIDDEN,
            "foreign",
            "Forbidden",
            detail,
        ))
    };
    if !is_loopback(authority) {
        return forbidden("Without a token the admin API answers to localhost only.");
    }
    // What a person typed is `none`; requests without a browser have no such
    // field.
    let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    let own = matches!(site, None | Some(b"none" | b"same-origin"));
    if headers.contains_key(ORIGIN) || !own {
        return forbidden("The admin API does not answer to web pages.");
    }
    Ok(())
}

fn is_loopback(authority: &str) -> bool {
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => authority,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let address = name.parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Compares in a time that does not tell where the difference is, nor how long
/// the token is: digests are compared, which have one length.
fn same(a: &[u8], b: &[u8]) -> bool {
    use sha2::{Digest, Sha256};

    constant_time_eq::constant_time_eq_32(&Sha256::digest(a).into(), &Sha256::digest(b).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(token: Option<&str>, headers: &[(&'static str, &str)]) -> u16 {
        let opts = prometheus::Opts::new("denied", "by why");
        let denied = IntCounterVec::new(opts, &["reason"]).unwrap();
        let access = Access::new(token.map(str::to_owned), denied);
        let mut request = Request::builder().uri("/v1/services");
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "localhost");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match access.judge(&request.body(()).unwrap().into_parts().0) {
            Ok(()) => 200,
            Err(problem) => problem.status.as_u16(),
        }
    }

    #[test]
    fn with_a_token_only_who_has_it_is_let_in() {
        let given = |value| judge(Some("s3cret"), &[("authorization", value)]);
        assert_eq!(given("Bearer s3cret"), 200);
        assert_eq!(given("bearer  s3cret "), 200);
        for wrong in [
            "Bearer s3cre",
            "Bearer s3cret2",
            "Basic s3cret",
            "s3cret",
            "Bearer ",
            "Bearer",
            "",
        ] {
            assert_eq!(given(wrong), 401, "{wrong}");
        }
        assert_eq!(judge(Some("s3cret"), &[]), 401);
    }

    #[test]
    fn without_a_token_the_web_is_kept_out() {
        for host in [
            "localhost:8081",
            "127.0.0.1:8081",
            "[::1]:8081",
            "127.0.0.1",
        ] {
            assert_eq!(judge(None, &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example:8081", "127.0.0.1.evil.example", "0.0.0.0", ""] {
            assert_eq!(judge(None, &[("host", host)]), 403, "{host}");
        }
        assert_eq!(judge(None, &[("origin", "https://evil.example")]), 403);
        for site in ["cross-site", "same-site", "new-in-the-standard"] {
            assert_eq!(judge(None, &[("sec-fetch-site", site)]), 403, "{site}");
        }
        for site in ["none", "same-origin"] {
            assert_eq!(judge(None, &[("sec-fetch-site", site)]), 200, "{site}");
        }
    }
}
