//! Whom a request is for and where it ends, where HTTP has several ways to say
//! so.
//!
//! Programs before and behind this host must come to the same answer, or one of
//! them lets pass what the other would not: so what is ambiguous is refused.

use http::header::{HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Version};

use crate::problem::Problem;

/// The host name, and port if there is one, that a request is for; empty if it
/// does not say.
///
/// HTTP/1.1 must name it in one host field (RFC 9112, section 3.2). A target in
/// absolute form goes before that field (section 3.2.2); in HTTP/2 both must say
/// the same (RFC 9113, section 8.3.1).
pub(crate) fn authority(parts: &Parts) -> Result<&str, Problem> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    if another.is_some() {
        return Err(Problem::malformed("The request has several host fields."));
    }
    let host = match host.map(HeaderValue::to_str) {
        Some(Ok(host)) => Some(host),
        Some(Err(_)) => return Err(not_a_name()),
        None if parts.version == Version::HTTP_11 => {
            return Err(Problem::malformed("The request has no host field."));
        }
        None => None,
    };
    let target = parts.uri.authority().map(|authority| authority.as_str());
    if let (Some(target), Some(host)) = (target, host)
        && parts.version == Version::HTTP_2
        && !target.eq_ignore_ascii_case(host)
    {
        return Err(Problem::malformed(
            "The request's host field and its :authority differ.",
        ));
    }
    for named in [target, host].into_iter().flatten() {
        if !is_host_and_port(named) {
            return Err(not_a_name());
        }
    }
    Ok(target.or(host).unwrap_or_default())
}

fn not_a_name() -> Problem {
    Problem::malformed("The request is for something that is not a host name.")
}

/// Whether a text has only what host names, addresses and ports are made of (RFC
/// 3986, section 3.2.2): no user, no path, no list.
fn is_host_and_port(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~%:[]".contains(&byte);
    text.bytes().all(allowed)
}

/// Refuses what only proxies and no services do.
pub(crate) fn check_method(method: &Method) -> Result<(), Problem> {
    if method == Method::CONNECT || method == Method::TRACE {
        return Err(Problem::not_implemented(format!(
            "This host does not do {method}."
        )));
    }
    Ok(())
}

/// Refuses a body that is coded otherwise than in chunks: a handler would get
/// it coded, and not be told (RFC 9112, section 6.1).
pub(crate) fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let known = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if known(coding) => Ok(()),
        _ => Err(Problem::not_implemented(
            "This host knows no transfer-encoding other than chunked.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(version: Version, uri: &str, hosts: &[&str]) -> Parts {
        let mut request = http::Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn of(version: Version, uri: &str, hosts: &[&str]) -> Result<String, u16> {
        let parts = parts(version, uri, hosts);
        let found = authority(&parts);
        found
            .map(str::to_owned)
            .map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn http_1_1_names_one_host() {
        let of = |uri, hosts: &[&str]| of(Version::HTTP_11, uri, hosts);
        assert_eq!(
            of("/", &["shop.example:8080"]),
            Ok("shop.example:8080".to_owned())
        );
        assert_eq!(of("/", &["[::1]:80"]), Ok("[::1]:80".to_owned()));
        assert_eq!(of("/", &[""]), Ok(String::new()));
        assert_eq!(of("/", &[]), Err(400));
        assert_eq!(of("http://a/", &[]), Err(400));
        assert_eq!(of("/", &["a", "a"]), Err(400));
        assert_eq!(of("/", &["a", "b"]), Err(400));
        assert_eq!(of("http://a/", &["b"]), Ok("a".to_owned()));
        assert_eq!(of("http://me@a/", &["a"]), Err(400));
        for host in ["a,b", "a b", "a/b", "me@a", "a?b", "a#b", "a\\b", "<a>"] {
            assert_eq!(of("/", &[host]), Err(400), "{host}");
        }
    }

    #[test]
    fn http_2_says_one_thing() {
        let of = |uri, hosts: &[&str]| of(Version::HTTP_2, uri, hosts);
        assert_eq!(of("http://a/", &[]), Ok("a".to_owned()));
        assert_eq!(of("http://a/", &["A"]), Ok("a".to_owned()));
        assert_eq!(of("http://a/", &["b"]), Err(400));
        assert_eq!(of("/", &["b"]), Ok("b".to_owned()));
        assert_eq!(of("/", &[]), Ok(String::new()));
    }

    #[test]
    fn http_1_0_need_not_say() {
        assert_eq!(of(Version::HTTP_10, "/", &[]), Ok(String::new()));
    }
}
