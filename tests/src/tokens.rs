//! A token endpoint (OAuth 2.0, the grant of client credentials): gives tokens
//! that are good for some seconds.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use native_tls::{Identity, TlsAcceptor};

/// The running endpoint. It ends with the tests.
#[derive(Debug)]
pub struct TokenEndpoint {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `Basic …` of who may have a token.
    known: String,
    lifetime: Duration,
    given: AtomicU32,
    refusing: AtomicBool,
    forms: Mutex<Vec<String>>,
}

impl TokenEndpoint {
    /// Starts one that knows a client, and whose tokens are good for so long.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn start(id: &str, secret: &str, lifetime: Duration) -> TokenEndpoint {
        Self::serve("http", id, secret, lifetime, |shared, stream| {
            let _ = shared.answer(stream);
        })
    }

    /// The same over TLS, with the certificate and the key of a PEM file.
    ///
    /// # Panics
    /// If there is no port, or no such file.
    #[must_use]
    pub fn start_tls(id: &str, secret: &str, lifetime: Duration, pem: &Path) -> TokenEndpoint {
        let pem = std::fs::read(pem).unwrap();
        let identity = Identity::from_pkcs8(&pem, &pem).unwrap();
        let acceptor = TlsAcceptor::new(identity).unwrap();
        Self::serve("https", id, secret, lifetime, move |shared, stream| {
            // Who does not trust it ends the handshake.
            if let Ok(stream) = acceptor.accept(stream) {
                let _ = shared.answer(stream);
            }
        })
    }

    fn serve(
        scheme: &str,
        id: &str,
        secret: &str,
        lifetime: Duration,
        answer: impl Fn(&Shared, TcpStream) + Send + 'static,
    ) -> TokenEndpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}/token", listener.local_addr().unwrap());
        let known = BASE64_STANDARD.encode(format!("{id}:{secret}"));
        let shared = Arc::new(Shared {
            known: format!("Basic {known}"),
            lifetime,
            given: AtomicU32::new(0),
            refusing: AtomicBool::new(false),
            forms: Mutex::default(),
        });
        let serving = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(&serving, stream);
            }
        });
        TokenEndpoint { url, shared }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many tokens it gave.
    #[must_use]
    pub fn given(&self) -> u32 {
        self.shared.given.load(Ordering::Relaxed)
    }

    /// The forms that it was sent.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn forms(&self) -> Vec<String> {
        self.shared.forms.lock().unwrap().clone()
    }

    /// Gives no more tokens, or gives them again.
    pub fn refuse(&self, refuse: bool) {
        self.shared.refusing.store(refuse, Ordering::Relaxed);
    }
}

impl Shared {
    fn answer(&self, stream: impl Read + Write) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream);
        let (mut known, mut length) = (false, 0);
        loop {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                if line.trim_end().is_empty() {
                    break;
                }
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                "authorization" => known = value == self.known,
                "content-length" => length = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        let mut form = vec![0; length];
        lines.read_exact(&mut form)?;
        let form = String::from_utf8_lossy(&form).into_owned();
        self.forms.lock().unwrap().push(form);
        let (status, body) = match known && !self.refusing.load(Ordering::Relaxed) {
            true => {
                self.given.fetch_add(1, Ordering::Relaxed);
                let (token, seconds) = (unsecured_token(self.lifetime), self.lifetime.as_secs());
                let body = format!(
                    "{{\"access_token\":\"{token}\",\"token_type\":\"Bearer\",\"expires_in\":{seconds}}}"
                );
                ("200 OK", body)
            }
            false => (
                "401 Unauthorized",
                r#"{"error":"invalid_client"}"#.to_owned(),
            ),
        };
        write!(
            lines.get_mut(),
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            body.len()
        )
    }
}

/// A token as Kafka takes it without knowing anybody's keys (RFC 7519, section 6).
///
/// # Panics
/// If the clock is before 1970.
#[must_use]
pub fn unsecured_token(lifetime: Duration) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_secs_f64();
    let until = now + lifetime.as_secs_f64();
    let parts = [
        r#"{"alg":"none"}"#.to_owned(),
        format!(r#"{{"sub":"tokened","iat":{now:.3},"exp":{until:.3}}}"#),
    ];
    let [head, claims] = parts.map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    format!("{head}.{claims}.")
}
