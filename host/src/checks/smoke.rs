//! Smoke calls: what a manifest wants a new revision to do before it is live.
//!
//! They go through `dispatch` as every call does, on the new revision, and read
//! the state that the service has. What they publish and write is looked at and
//! dropped. They are counted nowhere: the service that they are calls of is made
//! for them, with metrics that nobody reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_manifest::{Smoke, SmokeCall, SmokeEvent, SmokeRequest};

use crate::dispatch;
use crate::effects::Effects;
use crate::invocation::{Event, Failure, Request, Response, next_number};
use crate::kafka;
use crate::metrics::Metrics;
use crate::revision::Revision;
use crate::service::{Running, Service};
use crate::state::{State, Store, StoreError, Tables, View};

/// How long a call may wait for memory, besides the time that it may run.
const PATIENCE: Duration = Duration::from_secs(10);

/// Characters of a response's body that are shown.
const BODY: usize = 300;

/// Why a revision has not passed. Nothing was changed by it.
#[derive(Debug, thiserror::Error)]
pub enum SmokeFailed {
    /// A call came to something else than its manifest says.
    #[error("smoke call {number} of {all} ({call}) did not pass: expected {expected}, got {got}")]
    NotPassed {
        /// Which one, from 1.
        number: usize,
        /// Of how many.
        all: usize,
        /// What was called.
        call: String,
        /// What the manifest says.
        expected: String,
        /// What came of it.
        got: String,
    },
    /// This host cannot make the call at the moment; the revision may be good.
    #[error("smoke call {number} of {all} ({call}) could not be made: {why}")]
    NotMade {
        /// Which one, from 1.
        number: usize,
        /// Of how many.
        all: usize,
        /// What was to be called.
        call: String,
        /// Why.
        why: String,
    },
    /// The state store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Metrics that nobody reads could not be made.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
}

/// Makes the calls of the revision's manifest, one after another, and says how
/// many there were. `service` is what is deployed under its name, if anything is.
///
/// # Errors
/// The first call that did not pass, or could not be made.
pub async fn run(
    service: Option<&Service>,
    store: &Arc<Store>,
    revision: &Arc<Revision>,
) -> Result<usize, SmokeFailed> {
    let calls = &revision.manifest.smoke;
    if calls.is_empty() {
        return Ok(0);
    }
    let state = state(service, store, &revision.manifest.name)?;
    let metrics = Metrics::new()?.service(&revision.manifest.name);
    let stand = Service::new(Running::only(revision.clone(), 0, 0), metrics, Some(state));
    let patience = revision.manifest.limits.time + PATIENCE;
    for (number, smoke) in calls.iter().enumerate() {
        let (number, all, call) = (number + 1, calls.len(), smoke.call.to_string());
        let made = tokio::time::timeout(patience, make(&stand, revision, &smoke.call)).await;
        let why = match made {
            Ok(Err(failure)) if !failure.is_the_handlers() => failure.to_string(),
            Ok(ran) => match judge(smoke, &ran) {
                Ok(()) => continue,
                Err(Unlike { expected, got }) => {
                    return Err(SmokeFailed::NotPassed {
                        number,
                        all,
                        call,
                        expected,
                        got,
                    });
                }
            },
            Err(_) => "the host has no memory or instance left for it".to_owned(),
        };
        return Err(SmokeFailed::NotMade {
            number,
            all,
            call,
            why,
        });
    }
    Ok(calls.len())
}

/// The state that the calls read: the service's own, and none where there is
/// none yet. What a deployed service has is not there before it is complete.
fn state(service: Option<&Service>, store: &Arc<Store>, name: &str) -> Result<State, StoreError> {
    let has_state = |service: &Service| service.current().manifest.grants.state;
    if !store.generations(name).is_empty() {
        let state = State::open(store.clone(), name)?;
        if state.is_readable() || service.is_some_and(has_state) {
            return Ok(state);
        }
    }
    State::nothing(store.clone())
}

/// What came of a call; without a response if it was for an event.
type Ran = Result<(Option<Response>, Effects), Failure>;

async fn make(stand: &Service, revision: &Arc<Revision>, call: &SmokeCall) -> Ran {
    match call {
        SmokeCall::Request(wanted) => {
            let ran = dispatch::request(stand, revision, request(wanted)).await;
            ran.map(|(response, effects)| (Some(response), effects))
        }
        SmokeCall::Event(wanted) => {
            let tables = stand.state().map(State::reading);
            let key = wanted.key.as_deref();
            let number = tables.as_ref().map_or(0, |tables| partition(tables, key));
            let event = event(wanted, number);
            let view = match tables {
                _ if !revision.manifest.grants.state => View::NotGranted,
                Some(tables) if stand.is_readable() => View::Shard {
                    tables,
                    shard: event.partition.cast_unsigned(),
                    pending: Arc::default(),
                },
                Some(_) | None => return Err(Failure::Restoring(stand.restored())),
            };
            let ran = dispatch::event(stand, revision, &event, 1, view).await;
            ran.map(|effects| (None, effects))
        }
    }
}

fn request(wanted: &SmokeRequest) -> Request {
    let headers = wanted.headers.iter();
    Request {
        number: next_number(),
        method: wanted.method.clone(),
        target: wanted.target.clone(),
        authority: wanted.host.clone().unwrap_or("localhost".to_owned()),
        headers: headers
            .map(|(name, value)| (name.clone(), value.clone().into_bytes()))
            .collect(),
        body: wanted.body.clone().into_bytes(),
        trace: None,
    }
}

fn event(wanted: &SmokeEvent, partition: i32) -> Event {
    let bytes = |text: &String| Bytes::from(text.clone());
    let headers = wanted.headers.iter();
    Event {
        topic: wanted.topic.as_str().into(),
        partition,
        offset: 0,
        timestamp: crate::now_ms().try_into().ok(),
        key: wanted.key.as_ref().map(bytes),
        value: wanted.value.as_ref().map(bytes),
        headers: headers
            .map(|(name, value)| (name.clone(), Some(bytes(value))))
            .collect(),
    }
}

/// The partition that an event of this key would be in, and so its shard, as far
/// as the state tells how many there are.
fn partition(tables: &Tables, key: Option<&str>) -> i32 {
    let shards = tables.known_shards().into_iter().map(u32::cast_signed);
    let positions = tables.positions().into_keys().map(|(_, number)| number);
    let last = shards.chain(positions).max().unwrap_or_default();
    key.map_or(0, |key| {
        kafka::partition_of(key.as_bytes(), last.saturating_add(1))
    })
}

/// What is not as the manifest says.
#[derive(Debug, PartialEq, Eq)]
struct Unlike {
    expected: String,
    got: String,
}

/// Holds what came of a call against what its manifest says.
fn judge(smoke: &Smoke, ran: &Ran) -> Result<(), Unlike> {
    let (response, effects) = match ran {
        Ok((response, effects)) => (response, effects),
        Err(failure) => {
            return Err(Unlike {
                expected: "a handler that succeeds".to_owned(),
                got: format!("{}: {failure}", failure.name()),
            });
        }
    };
    let rows = match &smoke.call {
        SmokeCall::Request(wanted) => {
            if let Some(response) = response {
                judge_response(wanted, response)?;
            }
            None
        }
        SmokeCall::Event(wanted) => wanted.rows,
    };
    let messages = &effects.messages;
    if let Some(wanted) = smoke.publishes
        && wanted as usize != messages.len()
    {
        let mut got = several(messages.len(), "event");
        if !messages.is_empty() {
            got.push_str(&format!(" ({})", by_topic(effects)));
        }
        let expected = format!("{} to be published", several(wanted as usize, "event"));
        return Err(Unlike { expected, got });
    }
    if let Some(wanted) = &smoke.to {
        let got: BTreeSet<&str> = messages.iter().map(|message| &*message.topic).collect();
        let wanted: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
        if wanted != got {
            let (expected, got) = (events_to(&wanted), events_to(&got));
            return Err(Unlike { expected, got });
        }
    }
    if let Some(wanted) = rows
        && wanted as usize != effects.rows.len()
    {
        let expected = format!("{} to be written", several(wanted as usize, "row"));
        let got = several(effects.rows.len(), "row");
        return Err(Unlike { expected, got });
    }
    Ok(())
}

fn judge_response(wanted: &SmokeRequest, response: &Response) -> Result<(), Unlike> {
    let fits = match wanted.status {
        Some(status) => response.status.as_u16() == status,
        None => response.status.is_success(),
    };
    let expected = if !fits {
        match wanted.status {
            Some(status) => format!("the status {status}"),
            None => "a status of 200 to 299".to_owned(),
        }
    } else if let Some(text) = &wanted.contains
        && !has(&response.body, text.as_bytes())
    {
        format!("a response with {text:?} in its body")
    } else {
        return Ok(());
    };
    let got = format!("{} with {}", response.status, shown(&response.body));
    Err(Unlike { expected, got })
}

fn has(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|part| part == text)
}

/// A body, shortened, on one line.
fn shown(body: &[u8]) -> String {
    let size = body.len();
    if size == 0 {
        return "no body".to_owned();
    }
    // Of a character that is four bytes long, one may be cut.
    let (head, cut) = match body.get(..4 * BODY) {
        Some(head) => (head, head.len() < size),
        None => (body, false),
    };
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if cut && error.error_len().is_none() => {
            let whole = head.get(..error.valid_up_to()).unwrap_or_default();
            std::str::from_utf8(whole).unwrap_or_default()
        }
        Err(_) => return format!("a body of {size} bytes that are no text"),
    };
    let short: String = text.chars().take(BODY).collect();
    let more = match short.len() < size {
        true => format!(" … ({size} bytes)"),
        false => String::new(),
    };
    let line = tidemill_cli::clean(&short).replace(['\n', '\t'], " ");
    format!("the body: {line}{more}")
}

fn several(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        many => format!("{many} {what}s"),
    }
}

fn by_topic(effects: &Effects) -> String {
    let mut topics: BTreeMap<&str, usize> = BTreeMap::new();
    for message in &effects.messages {
        *topics.entry(&message.topic).or_default() += 1;
    }
    let topics = topics.into_iter();
    let topics: Vec<String> = topics
        .map(|(topic, events)| format!("{events} to {topic}"))
        .collect();
    topics.join(", ")
}

fn events_to(topics: &BTreeSet<&str>) -> String {
    if topics.is_empty() {
        return "no events".to_owned();
    }
    let topics: Vec<&str> = topics.iter().copied().collect();
    format!("events to {}", topics.join(" and "))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use tidemill_manifest::Manifest;

    use super::*;
    use crate::effects::Message;
    use crate::state::RowKey;

    /// The smoke call of a manifest that has this one.
    fn smoke(text: &str) -> Smoke {
        let text = format!(
            "name = \"a\"\n[http]\nroutes = [\"/\"]\n[[subscribe]]\ntopic = \"t\"\n\
             [grants]\nstate = true\npublish = [\"out\", \"audit\"]\n[[smoke]]\n{text}"
        );
        let mut manifest = Manifest::parse(&text, "service.toml").unwrap();
        manifest.smoke.remove(0)
    }

    fn answered(status: u16, body: &[u8]) -> Ran {
        let response = Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body),
        };
        Ok((Some(response), Effects::default()))
    }

    fn effects(topics: &[&str], rows: usize) -> Ran {
        let messages = topics.iter().map(|topic| Message {
            topic: (*topic).into(),
            partition: None,
            key: None,
            value: None,
            headers: Vec::new(),
        });
        let rows = (0..rows).map(|row| (RowKey::new("seen", &[row as u8]), None));
        let effects = Effects {
            messages: messages.collect(),
            rows: rows.collect(),
            ..Effects::default()
        };
        Ok((None, effects))
    }

    /// What did not fit, `expected < got`; empty if all did.
    fn judged(call: &str, ran: &Ran) -> String {
        match judge(&smoke(call), ran) {
            Ok(()) => String::new(),
            Err(Unlike { expected, got }) => format!("{expected} < {got}"),
        }
    }

    #[test]
    fn a_request_has_to_get_the_status_that_is_said_or_else_a_good_one() {
        let any = "request = \"GET /\"\n";
        for good in [200, 204, 299] {
            assert_eq!(judged(any, &answered(good, b"")), "");
        }
        assert_eq!(
            judged(any, &answered(302, b"")),
            "a status of 200 to 299 < 302 Found with no body"
        );
        let missing = "request = \"GET /\"\nstatus = 404\n";
        assert_eq!(judged(missing, &answered(404, b"")), "");
        assert_eq!(
            judged(missing, &answered(200, b"all\n\"right\"")),
            "the status 404 < 200 OK with the body: all \"right\""
        );
    }

    #[test]
    fn a_body_has_to_contain_what_is_said() {
        let contains = "request = \"GET /\"\ncontains = \"\\\"id\\\"\"\n";
        assert_eq!(judged(contains, &answered(200, b"{\"id\":1}")), "");
        assert_eq!(
            judged(contains, &answered(200, b"\xff\xfe")),
            "a response with \"\\\"id\\\"\" in its body < 200 OK with a body of 2 bytes that are no text"
        );
    }

    #[test]
    fn a_failure_never_passes() {
        let event = "event = { topic = \"t\" }\n";
        let request = "request = \"GET /\"\nstatus = 500\n";
        for call in [event, request] {
            assert_eq!(
                judged(call, &Err(Failure::Retry("later".to_owned()))),
                "a handler that succeeds < retry: later"
            );
        }
        assert_eq!(judged(event, &effects(&["out"], 3)), "");
    }

    #[test]
    fn effects_have_to_be_those_that_are_said() {
        let event = |more: &str| format!("event = {{ topic = \"t\" }}\n{more}");
        for (more, ran, told) in [
            ("publishes = 2", effects(&["out", "audit"], 0), ""),
            (
                "publishes = 1",
                effects(&["out", "audit", "out"], 0),
                "1 event to be published < 3 events (1 to audit, 2 to out)",
            ),
            (
                "publishes = 1",
                effects(&[], 0),
                "1 event to be published < 0 events",
            ),
            (
                "to = [\"out\", \"audit\"]",
                effects(&["audit", "out", "out"], 0),
                "",
            ),
            (
                "to = [\"out\"]",
                effects(&["audit", "out"], 0),
                "events to out < events to audit and out",
            ),
            ("to = []", effects(&["out"], 0), "no events < events to out"),
            ("rows = 2", effects(&[], 2), ""),
            ("rows = 1", effects(&[], 0), "1 row to be written < 0 rows"),
        ] {
            assert_eq!(judged(&event(more), &ran), told, "{more}");
        }
    }

    #[test]
    fn a_long_body_is_shortened_between_characters() {
        assert_eq!(shown(b"short\x1b[31m"), "the body: short\u{fffd}[31m");
        let whole = "ä".repeat(BODY);
        assert_eq!(shown(whole.as_bytes()), format!("the body: {whole}"));
        let long = format!("a{}", "😀".repeat(5_000));
        let cut = format!("a{}", "😀".repeat(BODY - 1));
        assert_eq!(
            shown(long.as_bytes()),
            format!("the body: {cut} … (20001 bytes)")
        );
        assert_eq!(
            shown(&[b'a', 0xff].repeat(9_000)),
            "a body of 18000 bytes that are no text"
        );
    }

    #[test]
    fn an_event_is_of_the_partition_that_its_key_has() {
        let store = Arc::new(Store::open(&crate::testing::folder("smoke")).unwrap());
        let state = State::nothing(store).unwrap();
        assert!(state.is_readable());
        let tables = state.reading();
        assert_eq!(partition(&tables, Some("21")), 0);
        for shard in 0..6 {
            tables.set_end(shard, 1);
        }
        assert_eq!(partition(&tables, None), 0);
        // As Java's clients have it.
        assert_eq!(
            partition(&tables, Some("21")),
            (0x7fff_ffff & -973_932_308_i32) % 6
        );
    }
}
