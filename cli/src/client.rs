//! The admin API of a running host, over plain HTTP.

use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use serde::de::DeserializeOwned;
use ureq::http::{Method, Request, Response, StatusCode, header};

use crate::api::Problem;
use crate::failure::Failure;

const PORT: u16 = 8081;

/// The largest answer that is read.
const MOST: u64 = 256 << 20;

/// Which host a command talks to. Flatten it into a command's arguments.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Host")]
pub struct Connection {
    /// The host's admin address
    #[arg(
        long,
        value_name = "ADDR",
        global = true,
        env = "TIDEMILL_ADMIN",
        default_value = "127.0.0.1:8081"
    )]
    pub admin: Admin,
    /// The host's admin token, if it was started with one
    #[arg(
        long,
        value_name = "TOKEN",
        global = true,
        env = "TIDEMILL_ADMIN_TOKEN",
        hide_env_values = true,
        conflicts_with = "admin_token_file"
    )]
    pub admin_token: Option<String>,
    /// A file with the host's admin token
    #[arg(
        long,
        value_name = "FILE",
        env = "TIDEMILL_ADMIN_TOKEN_FILE",
        value_parser = token_in
    )]
    pub admin_token_file: Option<String>,
}

impl Connection {
    /// The token, wherever it was given.
    pub(crate) fn token(&self) -> Option<&str> {
        let token = self.admin_token.as_ref().or(self.admin_token_file.as_ref());
        token.map(String::as_str).filter(|token| !token.is_empty())
    }
}

/// The token in a file: all of it, but for white space around it.
fn token_in(path: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(path);
    text.map(|text| text.trim().to_owned())
        .map_err(|cause| format!("it cannot be read: {cause}"))
}

/// An admin address: `host:port`, or a URL of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// `host:port`.
    authority: String,
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

impl FromStr for Admin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.starts_with("https://") {
            return Err("the admin API is plain HTTP: write http://, or just host:port".to_owned());
        }
        let text = text.strip_prefix("http://").unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        let bad = || "write host:port, such as 127.0.0.1:8081".to_owned();
        if text.contains(['/', '@', '?', '#']) || text.contains(char::is_whitespace) {
            return Err(bad());
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| bad())?),
            _ => match text.parse() {
                Ok(port) => ("", port),
                Err(_) => (text, PORT),
            },
        };
        if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
            return Err(bad());
        }
        // The same variable tells a host where to listen: everywhere is here too.
        let host = match host {
            "" | "0.0.0.0" => "127.0.0.1",
            "[::]" => "[::1]",
            host => host,
        };
        Ok(Self {
            authority: format!("{host}:{port}"),
        })
    }
}

/// A body to send.
pub(crate) enum Body {
    None,
    Component(Vec<u8>),
    Json(Vec<u8>),
}

pub(crate) struct Client {
    agent: ureq::Agent,
    admin: Admin,
    token: Option<String>,
}

impl Client {
    pub(crate) fn new(connection: &Connection) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A host is local or named on purpose: HTTP_PROXY is not for it.
            .proxy(None)
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(Duration::from_secs(5)))
            // A deploy compiles; a large component takes its time.
            .timeout_global(Some(Duration::from_secs(600)))
            .build();
        Self {
            agent: config.new_agent(),
            admin: connection.admin.clone(),
            token: connection.token().map(str::to_owned),
        }
    }

    /// Sends a request; the answer is the body of a 2xx, as a value and as the
    /// JSON that came.
    pub(crate) fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<(T, String)> {
        let request = self.request(method, path);
        let (kind, bytes) = match body {
            Body::None => (None, Vec::new()),
            Body::Component(bytes) => (Some("application/wasm"), bytes),
            Body::Json(bytes) => (Some("application/json"), bytes),
        };
        let sent = match kind {
            None => self
                .agent
                .run(request.body(()).map_err(|_| self.bad_token())?),
            Some(kind) => self.agent.run(
                request
                    .header(header::CONTENT_TYPE, kind)
                    .body(bytes)
                    .map_err(|_| self.bad_token())?,
            ),
        };
        let mut response = sent.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let text = self.whole(&mut response)?;
        if status.is_success()
            && let Ok(text) = String::from_utf8(text.clone())
            && let Ok(value) = serde_json::from_str(&text)
        {
            return Ok((value, text));
        }
        Err(self.failed(status, &text).into())
    }

    /// Reads an answer of lines as they come, for as long as they come; empty
    /// ones only show that the host is there. `each` says whether to go on.
    pub(crate) fn lines(&self, path: &str, each: impl FnMut(&str) -> Result<bool>) -> Result<()> {
        let request = self.request(Method::GET, path).body(());
        self.read_lines(request.map_err(|_| self.bad_token())?, each)
    }

    /// The same, of what is done with a component.
    pub(crate) fn lines_for(
        &self,
        path: &str,
        component: Vec<u8>,
        each: impl FnMut(&str) -> Result<bool>,
    ) -> Result<()> {
        let request = self
            .request(Method::POST, path)
            .header(header::ACCEPT, "application/x-ndjson")
            .header(header::CONTENT_TYPE, "application/wasm")
            .body(component);
        self.read_lines(request.map_err(|_| self.bad_token())?, each)
    }

    fn read_lines(
        &self,
        request: Request<impl ureq::AsSendBody>,
        mut each: impl FnMut(&str) -> Result<bool>,
    ) -> Result<()> {
        let request = self
            .agent
            .configure_request(request)
            .timeout_global(None)
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .build();
        let sent = self.agent.run(request);
        let mut response = sent.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if !status.is_success() {
            let text = self.whole(&mut response)?;
            return Err(self.failed(status, &text).into());
        }
        for line in BufReader::new(response.body_mut().as_reader()).lines() {
            let line = line.map_err(|error| {
                Failure::new(format!("the connection to {} was lost", self.admin))
                    .detail(error.to_string())
            })?;
            if !line.is_empty() && !each(&line)? {
                break;
            }
        }
        Ok(())
    }

    fn request(&self, method: Method, path: &str) -> ureq::http::request::Builder {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.admin))
            .header(header::ACCEPT, "application/json, application/problem+json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request
    }

    fn whole(&self, response: &mut Response<ureq::Body>) -> Result<Vec<u8>> {
        let read = response
            .body_mut()
            .with_config()
            .limit(MOST)
            .read_to_vec()
            .map_err(|error| self.unreachable(&error))?;
        Ok(read)
    }

    /// What an answer means that is not what was asked for.
    fn failed(&self, status: StatusCode, text: &[u8]) -> Failure {
        let problem = serde_json::from_slice::<Problem>(text).ok();
        match problem {
            Some(problem) if !status.is_success() => self.refused(status.as_u16(), &problem),
            _ => self.strange(&status.to_string()),
        }
    }

    /// An answer that no host gives.
    pub(crate) fn strange(&self, answered: &str) -> Failure {
        let admin = &self.admin;
        Failure::new(format!(
            "{admin} answered {answered}, but not as a Tidemill host does"
        ))
        .hint("the admin address is another one than that of the services: see --admin")
    }

    /// A problem that a host has with what it was asked for.
    pub(crate) fn refused(&self, status: u16, problem: &Problem) -> Failure {
        let title = if problem.title.is_empty() {
            format!("the host answered {status}")
        } else {
            crate::show::line(&problem.title, 200)
        };
        let failure = Failure::new(title).detail(&problem.detail);
        match (status, &self.token) {
            (401, None) => failure
                .hint("this host wants a token: pass --admin-token, or set TIDEMILL_ADMIN_TOKEN"),
            (401 | 403, Some(_)) => failure.hint("is it the token that the host was started with?"),
            _ => failure,
        }
    }

    fn bad_token(&self) -> Failure {
        Failure::new("the admin token has characters that HTTP does not allow in a header")
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let admin = &self.admin;
        let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        match error {
            ureq::Error::Io(error) if refused(error) => self.nobody(),
            ureq::Error::ConnectionFailed => self.nobody(),
            ureq::Error::HostNotFound => {
                Failure::new(format!("there is no machine called {admin}")).hint("see --admin")
            }
            ureq::Error::Timeout(_) => Failure::new(format!("{admin} does not answer in time"))
                .hint("is it the admin address of a Tidemill host? See --admin"),
            error => {
                Failure::new(format!("the connection to {admin} failed")).detail(error.to_string())
            }
        }
    }

    fn nobody(&self) -> Failure {
        Failure::new(format!("no Tidemill host answers at {}", self.admin))
            .hint("start one with `tidemill serve`, or name it with --admin")
    }
}

/// The path of a service in the API, if it can be a service's name at all.
pub(crate) fn service_path(name: &str) -> Result<String> {
    match tidemill_manifest::check_name(name) {
        Ok(()) => Ok(format!("/v1/services/{name}")),
        Err(rule) => Err(Failure::new(format!("{name:?} cannot be a service's name"))
            .hint(rule)
            .into()),
    }
}

/// Text as a part of a path or query: all but letters, digits and `-._~` is
/// percent-encoded (RFC 3986, section 2).
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_in_every_common_form() {
        let read = |text: &str| Admin::from_str(text).map(|admin| admin.to_string());
        for (text, expected) in [
            ("127.0.0.1:8081", "127.0.0.1:8081"),
            ("http://127.0.0.1:8081/", "127.0.0.1:8081"),
            ("tidemill.internal", "tidemill.internal:8081"),
            ("9000", "127.0.0.1:9000"),
            (":9000", "127.0.0.1:9000"),
            ("0.0.0.0:9000", "127.0.0.1:9000"),
            ("[::]:9000", "[::1]:9000"),
            ("[::1]", "[::1]:8081"),
        ] {
            assert_eq!(read(text), Ok(expected.to_owned()), "{text}");
        }
        for text in [
            "https://a:1",
            "a:b",
            "a:99999",
            "::1:8081",
            "a/b",
            "user@a:1",
            "a b",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_that_cannot_be_is_not_sent() {
        assert!(service_path("order").is_ok());
        assert!(service_path("../order").is_err());
    }
}
