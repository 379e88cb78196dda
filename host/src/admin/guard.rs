//! Who may use the admin listener.
//!
//! With a token, who has it. Without one the listener is on loopback only, and
//! what has to be kept out is the web: a page in a browser on this machine can
//! send requests here. It cannot send a foreign `Host` past us by pointing its
//! own name at 127.0.0.1, and it cannot hide its `Origin`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::problem::Problem;

/// What a request needs to be let in.
pub struct Access {
    /// The bearer token (RFC 6750), if there is one.
    pub token: Option<String>,
}

/// Lets a request pass, or answers it.
pub(super) async fn check(
    State(access): State<Arc<Access>>,
    request: Request,
    next: Next,
) -> Response {
    match access.judge(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            let unauthorized = problem.status == StatusCode::UNAUTHORIZED;
            let mut response = problem.response(&HeaderMap::new()).into_response();
            if unauthorized {
                let bearer = header::HeaderValue::from_static("Bearer");
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, bearer);
            }
            response
        }
    }
}

impl Access {
    fn judge(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        if let Some(token) = &self.token {
            let given = text(header::AUTHORIZATION).and_then(|given| given.strip_prefix("Bearer "));
            if given.is_some_and(|given| same(given.trim().as_bytes(), token.as_bytes())) {
                return Ok(());
            }
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "token",
                "Unauthorized",
                "The admin API of this host needs its token: --admin-token, or TIDEMILL_ADMIN_TOKEN.",
            ));
        }
        let forbidden = |detail: &str| {
            Err(Problem::new(
                StatusCode::FORBIDDEN,
                "foreign",
                "Forbidden",
                detail,
            ))
        };
        if !text(header::HOST).is_none_or(is_loopback) {
            return forbidden("Without a token the admin API answers to localhost only.");
        }
        if text(header::ORIGIN).is_some() {
            return forbidden("The admin API does not answer to web pages.");
        }
        Ok(())
    }
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

/// Compares in a time that does not tell where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    use sha2::{Digest, Sha256};

    // Digests have one length, and a difference in them tells nothing of where
    // the texts differ.
    let (a, b) = (Sha256::digest(a), Sha256::digest(b));
    a.iter().zip(&b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(token: Option<&str>, headers: &[(&'static str, &str)]) -> u16 {
        let access = Access {
            token: token.map(str::to_owned),
        };
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        match access.judge(&headers) {
            Ok(()) => 200,
            Err(problem) => problem.status.as_u16(),
        }
    }

    #[test]
    fn with_a_token_only_who_has_it_is_let_in() {
        let given = |value| judge(Some("s3cret"), &[("authorization", value)]);
        assert_eq!(given("Bearer s3cret"), 200);
        for wrong in [
            "Bearer s3cre",
            "Bearer s3cret2",
            "Basic s3cret",
            "s3cret",
            "Bearer ",
        ] {
            assert_eq!(given(wrong), 401, "{wrong}");
        }
        assert_eq!(judge(Some("s3cret"), &[("host", "localhost")]), 401);
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
        let page = [("host", "localhost"), ("origin", "https://evil.example")];
        assert_eq!(judge(None, &page), 403);
    }
}
