//! An HTTP client that takes every status as an answer, keeps its connection,
//! and a way to send what no client would send.

use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Request};

/// A client of one listener. Each has connections of its own.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
    address: String,
}

/// A response.
#[derive(Clone)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

impl Client {
    /// A client of the listener at `address`: host and port.
    #[must_use]
    pub fn at(address: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_global(Some(Duration::from_secs(60)))
            .build()
            .into();
        Self {
            agent,
            address: address.to_owned(),
        }
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request; the error if there was no answer.
    ///
    /// # Errors
    /// No answer.
    pub fn try_send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Reply, ureq::Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{target}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = if body.is_empty() {
            self.agent.run(request.body(()).unwrap())
        } else {
            self.agent.run(request.body(body).unwrap())
        };
        let (parts, mut body) = response?.into_parts();
        Ok(Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: body.with_config().limit(1 << 30).read_to_vec()?,
        })
    }

    /// Sends a request.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    pub fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.try_send(method, target, headers, body)
            .unwrap_or_else(|error| panic!("{method} {target}: no answer: {error}"))
    }

    /// `GET`.
    ///
    /// # Panics
    /// If there is no answer.
    #[must_use]
    pub fn get(&self, target: &str) -> Reply {
        self.send("GET", target, &[], b"")
    }

    /// `POST` of bytes without a content type.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Reply {
        self.send("POST", target, &[], body.as_ref())
    }

    /// `POST` of JSON.
    ///
    /// # Panics
    /// If there is no answer.
    pub fn post_json(&self, target: &str, body: impl AsRef<[u8]>) -> Reply {
        let headers = [("content-type", "application/json")];
        self.send("POST", target, &headers, body.as_ref())
    }

    /// Sends bytes as they are on a connection of its own, and gives all that
    /// comes back until the host closes or is silent for two seconds.
    ///
    /// # Panics
    /// If it cannot connect.
    #[must_use]
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .unwrap();
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut part) {
            answer.extend_from_slice(&part[..length]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Reply {
    /// A header field's value, or empty.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The body as text.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Holds the status, and gives the response back.
    ///
    /// # Panics
    /// If it is another one.
    #[must_use = "or drop it: `let _ =`"]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Holds that the response is a problem document (RFC 9457) of this status,
    /// and gives what it says.
    ///
    /// # Panics
    /// If it is not.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert!(problem["type"].is_string(), "{problem}");
        assert!(
            problem["title"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{problem}"
        );
        problem["detail"].as_str().unwrap_or_default().to_owned()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))?;
        }
        let body = String::from_utf8_lossy(&self.body);
        write!(f, "\n{}", body.chars().take(2_000).collect::<String>())
    }
}
