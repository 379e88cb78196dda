//! Whether the cluster answers, as far as the clients noticed, and why not.
//!
//! librdkafka tries again and again by itself, and tells each time. What is told
//! here is told once: when it begins, when it is something else, when it is over.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Notify;

/// Whether the cluster answers.
#[derive(Debug, Default)]
pub(super) struct Health {
    up: AtomicBool,
    /// It was up at least once.
    met: AtomicBool,
    /// Nobody wants to know any more.
    ending: AtomicBool,
    /// A client has lost all brokers that it knew.
    doubt: Notify,
    lost: AtomicBool,
    denial: Mutex<Option<Denial>>,
    /// Causes that were told since it answered last: some alternate.
    told: Mutex<Vec<Cause>>,
    /// Errors of clients, by librdkafka's name.
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Health {
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Errors of all clients so far, by librdkafka's name.
    pub(super) fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().clone()
    }

    /// From here on it is no news that the cluster is lost.
    pub(super) fn ending(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Why there is no connection, if the two sides do not trust each other.
    pub(super) fn denial(&self) -> Option<Denial> {
        self.denial.lock().clone()
    }

    /// The cluster answered when it was asked, or did not.
    pub(super) fn set(&self, up: bool) {
        let changed = self.up.swap(up, Ordering::Relaxed) != up;
        if !changed || self.ending.load(Ordering::Relaxed) {
            return;
        }
        if up {
            self.met.store(true, Ordering::Relaxed);
            *self.denial.lock() = None;
            self.told.lock().clear();
            tracing::info!(event = "kafka.up", "Kafka answers");
        } else if self.denial().is_none() {
            tracing::warn!(
                event = "kafka.down",
                "Kafka does not answer: events wait, what requests publish is refused, state is \
                 read from this host's disk"
            );
        }
    }

    /// An error of a client as a whole.
    pub(super) fn hear(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        if let Some(code) = code {
            let mut errors = self.errors.lock();
            *errors.entry(format!("{code:?}")).or_default() += 1;
        }
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.lost();
            self.doubt();
        }
        let mut cause = code.and_then(|code| Cause::of(code, reason));
        // A broker that goes down hangs up as well, but not on a stranger.
        if cause.is_none() && !self.met.load(Ordering::Relaxed) && is_hung_up(reason) {
            cause = Some(Cause::Protocol);
        }
        if let Some(cause) = cause {
            self.deny(cause, reason);
        }
    }

    /// One client's lost connections may mean that they were closed, and not that
    /// the cluster is gone: that is for the one who asks to find out, at once.
    fn doubt(&self) {
        if self.is_up() {
            self.doubt.notify_one();
        }
    }

    /// A client has no broker.
    pub(super) fn lost(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Whether one had none since this was last asked.
    pub(super) fn was_lost(&self) -> bool {
        self.lost.swap(false, Ordering::Relaxed)
    }

    /// Waits until somebody doubts that the cluster answers.
    pub(super) async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// Waits until the cluster has answered, or has not, for so long on end.
    pub(super) async fn stays(&self, up: bool, time: Duration) {
        const PERIOD: Duration = Duration::from_millis(100);
        let mut stayed = Duration::ZERO;
        while stayed < time {
            tokio::time::sleep(PERIOD).await;
            stayed = match self.is_up() == up {
                true => stayed + PERIOD,
                false => Duration::ZERO,
            };
        }
    }

    /// There is no connection for this cause.
    pub(super) fn deny(&self, cause: Cause, reason: &str) {
        // What follows is how long it took, different each time.
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        let reason = reason.to_owned();
        let denial = Denial { cause, reason };
        *self.denial.lock() = Some(denial.clone());
        let mut causes = self.told.lock();
        let told = causes.contains(&cause);
        if !told {
            causes.push(cause);
        }
        drop(causes);
        if !told && !self.ending.load(Ordering::Relaxed) {
            tracing::warn!(event = "kafka.denied", "no connection to Kafka: {denial}");
        }
    }
}

/// Whether the broker closed a connection at the first request on it.
fn is_hung_up(reason: &str) -> bool {
    reason.contains("Disconnected") && reason.contains("APIVERSION_QUERY")
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    cause: Cause,
    /// librdkafka's words. They hold no secret.
    reason: String,
}

impl Denial {
    /// What to do about it, without the names and addresses that librdkafka tells.
    pub fn advice(&self) -> &'static str {
        self.cause.advice()
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.advice(), self.reason)
    }
}

/// Who does not trust whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The broker does not know this user, or the password is wrong.
    Credentials,
    /// The broker wants another way to authenticate.
    Mechanism,
    /// There is no token to authenticate with.
    Token,
    /// The broker's certificate is not trusted.
    BrokerCertificate,
    /// The broker does not trust this host's certificate, or misses it.
    OwnCertificate,
    /// One side speaks TLS or asks for a password, and the other does not.
    Protocol,
}

impl Cause {
    /// What librdkafka's error means; none if it is about something else.
    fn of(code: RDKafkaErrorCode, reason: &str) -> Option<Cause> {
        let says = |words: &[&str]| {
            let reason = reason.to_ascii_lowercase();
            words.iter().any(|word| reason.contains(word))
        };
        match code {
            // These come from the keeper of tokens, in its own words.
            _ if says(&["failed to acquire sasl oauthbearer token"]) => None,
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
                let mechanism = says(&["unsupported sasl mechanism", "unsupported mechanism"]);
                Some(if mechanism {
                    Cause::Mechanism
                } else {
                    Cause::Credentials
                })
            }
            RDKafkaErrorCode::UnsupportedSASLMechanism => Some(Cause::Mechanism),
            RDKafkaErrorCode::SSL if says(&["certificate verify failed", "verify broker"]) => {
                Some(Cause::BrokerCertificate)
            }
            // An alert is what the other side said, be it after the handshake.
            _ if says(&["ssl alert", "tls alert", "tlsv1 alert", "tlsv13 alert"]) => {
                Some(Cause::OwnCertificate)
            }
            RDKafkaErrorCode::SSL => Some(Cause::Protocol),
            _ if says(&["security.protocol", "plaintext broker listener"]) => Some(Cause::Protocol),
            _ => None,
        }
    }

    fn advice(self) -> &'static str {
        match self {
            Cause::Credentials => {
                "the broker refuses this host's credentials: check sasl.username and sasl.password \
                 or the token, sasl.mechanisms, and that the broker has this user"
            }
            Cause::Mechanism => "the broker takes another SASL mechanism: check sasl.mechanisms",
            Cause::Token => {
                "there is no OAUTHBEARER token: check the sasl.oauthbearer properties and the token \
                 endpoint"
            }
            Cause::BrokerCertificate => {
                "the broker's certificate is not trusted: check that ssl.ca.location has the CA that \
                 signed it, that it has not expired, and that it is for the host name that is \
                 connected to"
            }
            Cause::OwnCertificate => {
                "the broker asks for a certificate of this host's that it trusts: check \
                 ssl.certificate.location and ssl.key.location"
            }
            Cause::Protocol => {
                "the broker speaks another protocol at this address: check security.protocol \
                 (plaintext, ssl, sasl_plaintext, sasl_ssl) and the port"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use RDKafkaErrorCode as Code;

    use super::*;

    #[test]
    fn an_error_is_told_by_what_can_be_done_about_it() {
        let table = [
            (
                Code::Authentication,
                "SASL authentication error: Authentication failed during authentication due to \
                 invalid credentials with SASL mechanism SCRAM-SHA-256",
                Some(Cause::Credentials),
            ),
            (
                Code::SSL,
                "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed",
                Some(Cause::BrokerCertificate),
            ),
            (
                Code::BrokerTransportFailure,
                "Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL \
                 alert number 42",
                Some(Cause::OwnCertificate),
            ),
            (
                Code::BrokerTransportFailure,
                "Disconnected: might be caused by incorrect security.protocol configuration",
                Some(Cause::Protocol),
            ),
            (Code::BrokerTransportFailure, "Connection refused", None),
            (Code::AllBrokersDown, "1/1 brokers are down", None),
        ];
        for (code, reason, cause) in table {
            assert_eq!(Cause::of(code, reason), cause, "{reason}");
        }
    }

    #[test]
    fn a_broker_that_hangs_up_on_a_stranger_speaks_another_protocol() {
        let reason =
            "Disconnected: connection closed by peer (after 0ms in state APIVERSION_QUERY)";
        let code = Some(Code::BrokerTransportFailure);
        let health = Health::default();
        health.hear(code, reason);
        assert_eq!(
            health.denial().map(|denial| denial.cause),
            Some(Cause::Protocol)
        );
        health.set(true);
        health.set(false);
        health.hear(code, reason);
        assert_eq!(health.denial(), None);
    }

    #[test]
    fn a_denial_is_over_when_the_cluster_answers() {
        let health = Health::default();
        health.hear(Some(Code::Authentication), "no");
        assert!(!health.is_up());
        let denial = health.denial().map(|denial| denial.to_string());
        assert!(denial.is_some_and(|denial| denial.contains("sasl.password")));
        health.set(true);
        assert_eq!(health.denial(), None);
    }
}
