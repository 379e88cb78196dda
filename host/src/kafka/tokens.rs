//! OAUTHBEARER tokens: fetched once for the whole host and handed to all of its
//! clients, before the one that they have expires.
//!
//! librdkafka could do it with libcurl, which is not built in: see
//! docs/decisions/0010. The properties have its names.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde::Deserialize;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

use super::cluster::{Clients, KafkaError};
use super::health::{Cause, Health};
use super::raw::{self, Native};

/// How long the token endpoint may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after a failure, and at least between two tokens.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a token is good that does not say so.
const UNSAID: Duration = Duration::from_secs(300);
/// No token is larger.
const LARGEST: u64 = 1 << 20;

/// Where tokens come from, as the properties say; they are taken out of them.
/// None if clients authenticate otherwise.
pub(super) fn source(properties: &mut BTreeMap<String, String>) -> Result<Option<Source>, String> {
    const PREFIX: &str = "sasl.oauthbearer.";
    let mechanism = ["sasl.mechanisms", "sasl.mechanism"];
    let mut mechanism = mechanism.iter().filter_map(|name| properties.get(*name));
    if !mechanism.any(|name| name.eq_ignore_ascii_case("OAUTHBEARER"))
        || properties.contains_key("enable.sasl.oauthbearer.unsecure.jwt")
    {
        return Ok(None);
    }
    let mut take = |name: &str| properties.remove(&format!("{PREFIX}{name}"));
    match take("method").as_deref() {
        Some(method) if method.eq_ignore_ascii_case("oidc") => {}
        _ => return Err(format!("OAUTHBEARER needs {PREFIX}method = oidc")),
    }
    if take("grant.type").is_some_and(|grant| grant != "client_credentials") {
        return Err(format!("{PREFIX}grant.type can only be client_credentials"));
    }
    let endpoint = take("token.endpoint.url");
    let endpoint = endpoint.ok_or_else(|| format!("{PREFIX}token.endpoint.url is missing"))?;
    let id = take("client.id").or_else(|| take("client.credentials.client.id"));
    let secret = take("client.secret").or_else(|| take("client.credentials.client.secret"));
    let scope = take("scope");
    let extensions = extensions(take("extensions").as_deref().unwrap_or_default())?;
    let origin = match endpoint.strip_prefix("file://") {
        Some(path) => Origin::File(path.to_owned()),
        None => Origin::Endpoint(Endpoint {
            agent: agent(properties.remove("https.ca.location").as_deref())?,
            id: id.clone().ok_or(format!("{PREFIX}client.id is missing"))?,
            secret: secret.ok_or(format!("{PREFIX}client.secret is missing"))?,
            url: endpoint,
            scope,
        }),
    };
    if let Some(other) = properties.keys().find(|name| name.starts_with(PREFIX)) {
        return Err(format!("{other} is not supported"));
    }
    Ok(Some(Source {
        origin,
        principal: id.unwrap_or_default(),
        extensions,
    }))
}

/// `name=value,name=value`, as names and values in turn.
fn extensions(text: &str) -> Result<Vec<CString>, String> {
    let wrong = || "sasl.oauthbearer.extensions are name=value, with commas between".to_owned();
    let pairs = text.split(',').filter(|pair| !pair.is_empty());
    let mut extensions = Vec::new();
    for pair in pairs {
        let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
        for part in [name, value] {
            extensions.push(CString::new(part.trim()).map_err(|_| wrong())?);
        }
    }
    Ok(extensions)
}

/// A client for the token endpoint, which trusts the CA in a file, or the system's.
fn agent(ca: Option<&str>) -> Result<ureq::Agent, String> {
    let roots = match ca {
        None => RootCerts::PlatformVerifier,
        Some(path) => {
            let wrong = |why: String| format!("https.ca.location {path:?} cannot be read: {why}");
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            let mut certificates = Vec::new();
            for item in ureq::tls::parse_pem(&pem) {
                if let ureq::tls::PemItem::Certificate(certificate) =
                    item.map_err(|error| wrong(error.to_string()))?
                {
                    certificates.push(certificate);
                }
            }
            RootCerts::from(certificates)
        }
    };
    let tls = TlsConfig::builder()
        .provider(TlsProvider::NativeTls)
        .root_certs(roots);
    let config = ureq::Agent::config_builder()
        .tls_config(tls.build())
        .timeout_global(Some(PATIENCE))
        // A redirect would carry the secret elsewhere.
        .max_redirects(0)
        .http_status_as_error(false);
    Ok(config.build().into())
}

/// Where tokens come from. Not `Debug`: it has the secret.
pub(super) struct Source {
    origin: Origin,
    principal: String,
    /// Names and values in turn.
    extensions: Vec<CString>,
}

enum Origin {
    /// Asked with the grant of client credentials (RFC 6749, section 4.4).
    Endpoint(Endpoint),
    /// Somebody else keeps it up to date.
    File(String),
}

struct Endpoint {
    agent: ureq::Agent,
    url: String,
    id: String,
    secret: String,
    scope: Option<String>,
}

/// A token and for how long it is good, in milliseconds since 1970.
struct Token {
    text: CString,
    principal: CString,
    until_ms: i64,
}

/// The answer of a token endpoint (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: Option<u64>,
}

/// What a token says of itself (RFC 7519, section 4.1).
#[derive(Default, Deserialize)]
struct Claims {
    sub: Option<String>,
    exp: Option<f64>,
}

impl Source {
    fn fetch(&self) -> Result<Token, String> {
        let granted = match &self.origin {
            Origin::Endpoint(endpoint) => endpoint.ask()?,
            Origin::File(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| format!("{path:?} cannot be read: {error}"))?;
                Granted {
                    access_token: text.trim().to_owned(),
                    expires_in: None,
                }
            }
        };
        let Granted {
            access_token,
            expires_in,
        } = granted;
        let claims = claims(&access_token);
        let principal = claims.sub.unwrap_or_else(|| self.principal.clone());
        let until_ms = match (claims.exp, expires_in) {
            (Some(seconds), _) => (seconds * 1000.0) as i64,
            (None, expires_in) => {
                let lasts = expires_in.map_or(UNSAID, Duration::from_secs);
                now_ms() + i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX / 2)
            }
        };
        let text = |text: String| CString::new(text).map_err(|_| "the token has a 0 in it");
        Ok(Token {
            text: text(access_token)?,
            principal: text(principal)?,
            until_ms,
        })
    }
}

impl Endpoint {
    fn ask(&self) -> Result<Granted, String> {
        let failed = |why: &dyn std::fmt::Display| format!("the token endpoint: {why}");
        let known = BASE64_STANDARD.encode(format!("{}:{}", self.id, self.secret));
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
        let asked = self
            .agent
            .post(&self.url)
            .header("authorization", format!("Basic {known}"))
            .header("accept", "application/json")
            .send_form(form);
        let mut answer = asked.map_err(|error| failed(&error))?;
        let status = answer.status();
        let body = answer.body_mut().with_config().limit(LARGEST).read_to_vec();
        let body = body.map_err(|error| failed(&error))?;
        if !status.is_success() {
            return Err(failed(&format!("it answered {status}")));
        }
        // What is wrong with it is said without repeating it.
        serde_json::from_slice(&body).map_err(|_| failed(&"it gave no access_token"))
    }
}

/// What a token says of itself; nothing if it is opaque.
fn claims(token: &str) -> Claims {
    let payload = token.split('.').nth(1);
    let payload = payload.and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
    let claims = payload.and_then(|json| serde_json::from_slice(&json).ok());
    claims.unwrap_or_default()
}

/// Keeps all clients of the host in tokens. Ends when it is dropped.
pub(super) struct Tokens {
    keeper: Arc<Keeper>,
    /// Its end wakes the thread.
    _running: mpsc::Sender<()>,
}

struct Keeper {
    source: Source,
    health: Arc<Health>,
    clients: Arc<Clients>,
    /// The token of the moment.
    token: Mutex<Option<Token>>,
}

impl Tokens {
    pub(super) fn start(
        source: Source,
        health: Arc<Health>,
        clients: Arc<Clients>,
    ) -> Result<Tokens, KafkaError> {
        let keeper = Arc::new(Keeper {
            source,
            health,
            clients,
            token: Mutex::default(),
        });
        let (running, ended) = mpsc::channel();
        let kept = keeper.clone();
        std::thread::Builder::new()
            .name("tidemill-tokens".to_owned())
            .spawn(move || {
                let mut rest = Duration::ZERO;
                while ended.recv_timeout(rest) == Err(RecvTimeoutError::Timeout) {
                    rest = kept.renew();
                }
            })
            .map_err(|error| KafkaError::Config(error.to_string()))?;
        Ok(Tokens {
            keeper,
            _running: running,
        })
    }

    /// Gives a new client the token that there is.
    pub(super) fn enrol(&self, client: &dyn Native) {
        if let Some(token) = &*self.keeper.token.lock() {
            self.keeper.give(client, token);
        }
    }
}

impl Keeper {
    /// Fetches a token and hands it out. Returns when to do so again.
    fn renew(&self) -> Duration {
        let token = match self.source.fetch() {
            Ok(token) => token,
            Err(why) => {
                self.health.deny(Cause::Token, &why);
                return PAUSE;
            }
        };
        let left = u64::try_from(token.until_ms - now_ms()).unwrap_or(0);
        let mut kept = self.token.lock();
        let token = kept.insert(token);
        let clients = self.clients.all();
        for client in &clients {
            self.give(&**client, token);
        }
        // Before the clients, of which one may be the last: its end takes time.
        drop(kept);
        // Four fifths of the way, as librdkafka does it.
        PAUSE.max(Duration::from_millis(left / 5 * 4))
    }

    fn give(&self, client: &dyn Native, token: &Token) {
        let Token {
            text,
            principal,
            until_ms,
        } = token;
        let given = raw::set_token(client, text, principal, *until_ms, &self.source.extensions);
        if let Err(why) = given {
            self.health.deny(Cause::Token, &why);
        }
    }
}

fn now_ms() -> i64 {
    crate::now_ms().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        pairs.collect()
    }

    #[test]
    fn what_librdkafka_does_not_know_is_taken_out_of_its_properties() {
        let mut all = properties(&[
            ("sasl.mechanism", "oauthbearer"),
            ("sasl.oauthbearer.method", "oidc"),
            ("sasl.oauthbearer.client.id", "me"),
            ("sasl.oauthbearer.client.secret", "hunter2"),
            ("sasl.oauthbearer.token.endpoint.url", "http://127.0.0.1:1/"),
            ("sasl.oauthbearer.extensions", "cluster=a,pool=b=c"),
        ]);
        let source = source(&mut all).unwrap().unwrap();
        assert_eq!(all, properties(&[("sasl.mechanism", "oauthbearer")]));
        let extensions = source.extensions.iter().map(|part| part.to_str().unwrap());
        let extensions: Vec<&str> = extensions.collect();
        assert_eq!(extensions, ["cluster", "a", "pool", "b=c"]);
    }

    #[test]
    fn what_is_missing_or_not_known_is_named() {
        let error = |pairs: &[(&str, &str)]| {
            let mut all = properties(pairs);
            all.insert("sasl.mechanisms".to_owned(), "OAUTHBEARER".to_owned());
            source(&mut all).err().unwrap()
        };
        assert!(error(&[]).contains("sasl.oauthbearer.method"));
        let oidc = ("sasl.oauthbearer.method", "oidc");
        assert!(error(&[oidc]).contains("token.endpoint.url"));
        let file = ("sasl.oauthbearer.token.endpoint.url", "file:///t");
        let assertion = ("sasl.oauthbearer.assertion.file", "f");
        assert!(error(&[oidc, file, assertion]).contains("assertion.file"));
    }

    #[test]
    fn other_mechanisms_are_left_to_librdkafka() {
        let mut all = properties(&[("sasl.mechanisms", "PLAIN"), ("sasl.password", "p")]);
        assert!(source(&mut all).unwrap().is_none());
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn a_token_tells_when_it_expires_and_an_opaque_one_tells_nothing() {
        let payload = BASE64_URL_SAFE_NO_PAD.encode(r#"{"sub":"me","exp":12.5}"#);
        let told = claims(&format!("head.{payload}.sign"));
        assert_eq!((told.sub.as_deref(), told.exp), (Some("me"), Some(12.5)));
        assert_eq!(claims("opaque").exp, None);
    }
}
