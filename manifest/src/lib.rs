//! `service.toml`: what a Tidemill service is called, what it answers and
//! consumes, what it may do and how much of it.
//!
//! A [`Manifest`] that exists is valid: [`Manifest::parse`] checks everything
//! that can be checked without a component and a broker, and its error names
//! every mistake with line, column and what to write instead. The reference for
//! people is `docs/manifest.md`.
//!
//! Pure: this crate opens no file and no socket, and knows neither wasmtime nor
//! Kafka.

mod error;
mod frame;
mod interfaces;
mod limits;
mod parse;
mod rules;
mod secrets;
mod section;
mod shown;
mod smoke;
mod subscribe;
mod trial;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

pub use error::{ManifestError, Problem};
pub use interfaces::{DESCRIBE, EVENT_LOOP, EVENTS, HTTP, Import, unversioned};
pub use rules::{RESERVED_PATHS, check_name, check_topic};
pub use secrets::{is_secret, without_secrets};
pub use section::{
    Section, SectionError, embed, embedded, is_component, openapi, section, with_section,
    without_sections,
};
pub use units::{Percent, size as parse_size};

/// The largest manifest that is read, in bytes.
pub const MAX_SIZE: usize = 256 * 1024;

/// What a service is: `service.toml`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Names the service: `[a-z][a-z0-9-]{0,62}`.
    pub name: String,
    /// What it is for, in a line; empty if the manifest says nothing.
    pub description: String,
    /// The requests it answers, if it answers any.
    pub http: Option<Http>,
    /// The consumer group, where it isn't the name: see [`Manifest::group`].
    pub group: Option<String>,
    /// How the effects of its events are made durable.
    pub delivery: Delivery,
    /// The topics it consumes. No topic is there twice.
    pub subscribe: Vec<Subscription>,
    /// What it may do beyond answering.
    pub grants: Grants,
    /// How much it may use.
    pub limits: Limits,
    /// When a new revision goes back by itself.
    pub trial: Trial,
    /// What a new revision has to pass before it is live, in this order.
    pub smoke: Vec<Smoke>,
    /// What it reads through `wasi:config/store`.
    pub settings: BTreeMap<String, String>,
}

impl Manifest {
    /// Reads and checks a manifest. `file` is what errors call it.
    ///
    /// # Errors
    /// Every mistake that was found, in the order of the file.
    pub fn parse(text: &str, file: &str) -> Result<Self, ManifestError> {
        parse::manifest(text, file)
    }

    /// The consumer group: the manifest's, or else the service's name.
    #[must_use]
    pub fn group(&self) -> &str {
        self.group.as_deref().unwrap_or(&self.name)
    }

    /// What becomes of events of a topic that fail.
    #[must_use]
    pub fn retry(&self, topic: &str) -> Retry {
        let known = self.subscribe.iter().find(|one| one.topic == topic);
        known.map_or_else(Retry::default, |one| one.retry.clone())
    }

    /// Where events of a topic go on that are not there any more.
    #[must_use]
    pub fn out_of_range(&self, topic: &str) -> OutOfRange {
        let known = self.subscribe.iter().find(|one| one.topic == topic);
        known.map_or_else(OutOfRange::default, |one| one.out_of_range)
    }

    /// The topic that takes the events that it could not handle.
    #[must_use]
    pub fn dead_letter_topic(&self) -> String {
        format!("{}{}", self.name, rules::DEAD_LETTER)
    }

    /// Whether any of its events may become a dead letter.
    #[must_use]
    pub fn has_dead_letters(&self) -> bool {
        let mut subscriptions = self.subscribe.iter();
        subscriptions.any(|one| one.retry.on_exhausted == OnExhausted::DeadLetter)
    }
}

/// `[http]`: which requests a service answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http {
    /// At least one, none twice.
    pub routes: Vec<Route>,
}

/// A path prefix, of whole segments, that a service answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// Only requests to this host name (lower case, no port); none is any.
    pub host: Option<String>,
    /// Begins with `/`, and ends with one only if it is `/`.
    pub prefix: String,
}

impl Route {
    /// Whether a path, without its query, is this prefix or below it.
    #[must_use]
    pub fn is_above(&self, path: &str) -> bool {
        let prefix = self.prefix.trim_end_matches('/');
        path.strip_prefix(prefix)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// As a manifest writes it: `/orders` or `api.example.com/orders`.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}",
            self.host.as_deref().unwrap_or_default(),
            self.prefix
        )
    }
}

/// `[[subscribe]]`: a topic that a service consumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The topic.
    pub topic: String,
    /// Where a group that has no position yet begins.
    pub start: Start,
    /// Where a group goes on whose position Kafka does not have any more.
    pub out_of_range: OutOfRange,
    /// What becomes of events that fail.
    pub retry: Retry,
}

/// `out-of-range`: where a group goes on whose next event retention has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OutOfRange {
    /// At the oldest event that is left.
    #[default]
    Earliest,
    /// With the next event that comes.
    Latest,
    /// Nowhere: the partition stops, and needs a person.
    Stop,
}

/// `[subscribe.retry]`: what becomes of an event that fails. It is run again in
/// its place, and what is behind it in its partition waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often an event is run at most, the first time included.
    pub attempts: u32,
    /// The first pause; each one after it is twice as long …
    pub backoff: Duration,
    /// … up to this one.
    pub max_backoff: Duration,
    /// Up to how many percent are taken off a pause, at random.
    pub jitter: u32,
    /// Failures after which an event is run again. After others it is exhausted
    /// at once.
    pub on: Vec<Retried>,
    /// What becomes of an event that is not run again.
    pub on_exhausted: OnExhausted,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 10,
            backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(30),
            jitter: 25,
            on: vec![
                Retried::Retry,
                Retried::Trap,
                Retried::Memory,
                Retried::Timeout,
                Retried::Refused,
            ],
            on_exhausted: OnExhausted::default(),
        }
    }
}

/// A failure after which an event may be run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retried {
    /// The handler said that it may work later.
    Retry,
    /// The handler trapped.
    Trap,
    /// It needed more memory than its limit.
    Memory,
    /// It ran longer than its limit.
    Timeout,
    /// Kafka refused what it published.
    Refused,
}

/// `on-exhausted`: what becomes of an event that is not run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExhausted {
    /// It goes to the topic `<service>.dead-letter`, and its partition goes on.
    #[default]
    DeadLetter,
    /// Its partition stops, and needs a person.
    Stop,
}

/// `delivery`: how the effects of events are made durable. The embedded broker
/// has no transactions, and gives [`Delivery::AtLeastOnce`] whatever is said.
/// What requests publish does not depend on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Events, rows and offset in one Kafka transaction: each event counts once,
    /// whatever dies.
    #[default]
    ExactlyOnce,
    /// One after the other: after a crash, what was not finished is done again.
    AtLeastOnce,
}

/// Where a consumer group without a position begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the oldest event that the topic still has.
    #[default]
    Earliest,
    /// With the next event that comes.
    Latest,
}

/// `[grants]`: what a service may do beyond answering. Nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// Topics it may publish to.
    pub publish: Vec<String>,
    /// Whether it has state.
    pub state: bool,
}

/// `[limits]`: how much a service may use. Sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of one instance.
    pub memory: u64,
    /// Memory of all instances on one host; at least that of one.
    pub memory_total: u64,
    /// Wall-clock time of one invocation.
    pub time: Duration,
    /// Invocations that run at once on one host.
    pub concurrency: u32,
    /// Requests that may wait for one of those to end.
    pub queue: u32,
    /// How long such a request may wait.
    pub queue_time: Duration,
    /// Instances that are kept for the next calls.
    pub instances: u32,
    /// Invocations after which an instance is replaced; 1 is a fresh one each.
    pub reuse: u32,
    /// A request's body.
    pub request: u64,
    /// A response's body.
    pub response: u64,
    /// An event that is published, key, value and headers together, and the
    /// value of a row of state.
    pub event: u64,
    /// Events and rows that one invocation may ask for.
    pub effects: u32,
    /// What these may have in bytes, together: at least one event.
    pub effects_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            memory_total: 1 << 30,
            time: Duration::from_secs(5),
            concurrency: 64,
            queue: 1_000,
            queue_time: Duration::from_secs(1),
            instances: 64,
            reuse: 10_000,
            request: 1 << 20,
            response: 4 << 20,
            // A broker takes about 1 MB by default, with the record's framing.
            event: 999_000,
            effects: 10_000,
            effects_size: 16 << 20,
        }
    }
}

/// `[trial]`: for how long a new revision is watched, and when it goes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// From when it is live on; zero is no trial.
    pub time: Duration,
    /// The share of its invocations that fail from which it goes back.
    pub failures: Percent,
    /// Invocations that have to be there before the share means anything.
    pub calls: u32,
}

impl Default for Trial {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(60),
            failures: Percent::HALF,
            calls: 10,
        }
    }
}

/// `[[smoke]]`: an invocation that a new revision has to pass before it is live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Smoke {
    /// What the handler is called with.
    pub call: SmokeCall,
    /// How many events it has to publish; none: any number.
    pub publishes: Option<u32>,
    /// The topics that it has to publish to, all of them and no other; none: any
    /// that are granted.
    pub to: Option<BTreeSet<String>>,
}

/// What a smoke invocation calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SmokeCall {
    /// The HTTP handler.
    Request(SmokeRequest),
    /// The event handler.
    Event(SmokeEvent),
}

/// A request, and the response that it has to get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmokeRequest {
    /// Upper case.
    pub method: String,
    /// The host name, if the manifest gives one. One of the service's routes is
    /// above it and the target.
    pub host: Option<String>,
    /// Path and query.
    pub target: String,
    /// Header fields, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body; empty if the manifest gives none.
    pub body: String,
    /// The status that it has to get; none: any of 200 to 299.
    pub status: Option<u16>,
    /// What the response's body has to have in it.
    pub contains: Option<String>,
}

/// An event, and what its handler has to do with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmokeEvent {
    /// A topic that the service subscribes to.
    pub topic: String,
    /// The key, if any.
    pub key: Option<String>,
    /// The value; none is a tombstone.
    pub value: Option<String>,
    /// Record headers.
    pub headers: BTreeMap<String, String>,
    /// How many rows of state it has to write; none: any number.
    pub rows: Option<u32>,
}

/// As a manifest would say it, in a line: `GET /orders`, `event of user_topic`.
impl fmt::Display for SmokeCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(request) => {
                let host = request.host.as_deref().unwrap_or_default();
                write!(f, "{} {host}{}", request.method, request.target)
            }
            Self::Event(event) => {
                write!(f, "event of {}", event.topic)?;
                match &event.key {
                    Some(key) => write!(f, ", key {key:?}"),
                    None => Ok(()),
                }
            }
        }
    }
}
