//! The admin API's bodies: what the command line sends and what a host answers.
//!
//! One set of types for both sides, so that they cannot drift. Times are
//! milliseconds since the Unix epoch, durations microseconds, sizes bytes.

mod checks;
mod deployments;
mod logs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

pub use checks::{Change, Warning};
pub use deployments::{
    Action, Canary, Changed, Entry, History, HostStatus, Hosts, RollbackRequest, Step, Sticky,
};
pub use logs::{Level, LogLine};

/// Bytes in JSON: text where they are UTF-8, base64 (RFC 4648, section 4) else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bytes {
    /// The bytes are valid UTF-8.
    Text(String),
    /// Anything else.
    Base64(String),
}

impl Bytes {
    /// The bytes themselves.
    ///
    /// # Errors
    /// The text is not base64.
    pub fn decode(self) -> Result<Vec<u8>, String> {
        match self {
            Self::Text(text) => Ok(text.into_bytes()),
            Self::Base64(text) => BASE64
                .decode(text)
                .map_err(|error| format!("not base64 (RFC 4648, section 4): {error}")),
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(
            |error| Self::Base64(BASE64.encode(error.as_bytes())),
            Self::Text,
        )
    }
}

/// `GET /v1/services`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Services {
    /// All deployed services, by name.
    pub services: Vec<Summary>,
}

/// One line of the list of services.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// The service's name.
    pub name: String,
    /// The digest of the running revision: 64 hexadecimal digits of SHA-256.
    pub revision: String,
    /// The manifest's description, or empty.
    pub description: String,
    /// Path prefixes it answers, each with its host name before it if it has one.
    pub routes: Vec<String>,
    /// Topics it consumes.
    pub subscribes: Vec<String>,
    /// What it does now.
    pub status: Status,
    /// Events not yet consumed, over all partitions; none while unknown.
    pub lag: Option<u64>,
    /// Requests answered since the host started.
    pub requests: u64,
    /// Events consumed since the host started.
    pub events: u64,
    /// Invocations that failed since the host started.
    pub failures: u64,
}

/// What a service does now; the worst of its partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Serving, and consuming if it subscribes.
    Running,
    /// Waiting for the broker to assign partitions.
    Starting,
    /// An event failed and is being tried again.
    Retrying,
    /// A partition has stopped and needs a person.
    Blocked,
    /// It was told not to consume.
    Paused,
}

/// `GET /v1/services/{name}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Detail {
    /// The line of the list.
    #[serde(flatten)]
    pub summary: Summary,
    /// When this revision was deployed.
    pub deployed_at: u64,
    /// Size of the component.
    pub size: u64,
    /// Interfaces the component imports.
    pub imports: Vec<String>,
    /// Interfaces the component exports.
    pub exports: Vec<String>,
    /// The manifest, as TOML.
    pub manifest: String,
    /// The consumer group, if it subscribes.
    pub group: Option<String>,
    /// How effects of events are made durable.
    pub delivery: Delivery,
    /// All partitions of the topics it subscribes to; while Kafka does not
    /// answer, those that this host consumes.
    pub partitions: Vec<Partition>,
    /// Its state, if it has any.
    pub state: Option<State>,
    /// Its commits on this host since it started; none before the first.
    pub commits: Option<Commits>,
    /// What is wrong with it as a whole, if anything.
    pub trouble: Option<String>,
}

/// How the effects of events are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Delivery {
    /// Events, rows and offset in one Kafka transaction.
    ExactlyOnce,
    /// One after the other: after a crash some are made again.
    AtLeastOnce,
}

/// A partition of a topic that a service subscribes to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Partition {
    /// The topic.
    pub topic: String,
    /// The partition's number.
    pub partition: i32,
    /// The host that committed to it last, by its id; none before the first
    /// commit and while Kafka does not answer.
    pub owner: Option<String>,
    /// Whether this host consumes it.
    pub here: bool,
    /// The offset of the next event to commit; −1 while unknown.
    pub position: i64,
    /// Events between that and the partition's end; none while unknown. Of a
    /// partition that another host consumes, markers of transactions count too.
    pub lag: Option<u64>,
    /// What it does now, as far as this host knows.
    pub status: Status,
    /// Which attempt the event at its head is in; 0 if it has not failed.
    pub attempt: u32,
    /// Why it failed last.
    pub error: Option<String>,
}

/// The state of a service, as this host has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The changelog topic; none on the embedded broker, which needs none.
    pub changelog: Option<String>,
    /// The changelog's generation: one more with each replay, from 1.
    pub generation: u32,
    /// Whether handlers read it: it has been complete once.
    pub readable: bool,
    /// Its shards, by number.
    pub shards: Vec<Shard>,
}

/// The part of a service's state that belongs to one partition of its topics.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shard {
    /// The shard's number.
    pub shard: u32,
    /// What this host is to it.
    pub role: Role,
    /// By topic: the offset of the first event that is not in it.
    pub positions: std::collections::BTreeMap<String, i64>,
    /// The changelog offset that this host's copy has reached.
    pub checkpoint: i64,
    /// Records between that and the changelog's end; none while unknown. Markers
    /// of transactions count as well.
    pub behind: Option<u64>,
}

/// What a host is to a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It reads the changelog for the first time, or from the beginning.
    Restoring,
    /// It keeps a copy.
    Following,
    /// It runs the shard's events and is its only writer.
    Owner,
    /// It runs past events again to rebuild it.
    Replaying,
}

/// The commits of a service on one host.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Commits {
    /// How many.
    pub count: u64,
    /// How many were aborted, and made again.
    pub aborted: u64,
    /// The time that half of the latest 1,000 took at most.
    pub p50_us: u64,
    /// The time that 99 % of the latest 1,000 took at most.
    pub p99_us: u64,
}

/// `GET /v1/services/{name}/state`: the tables.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StateTables {
    /// All tables that have rows, by name.
    pub tables: Vec<StateTable>,
}

/// One table of a service's state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StateTable {
    /// The table's name.
    pub table: String,
    /// Its rows over all shards, counted up to 100,000.
    pub rows: u64,
    /// Whether there are more rows than were counted.
    pub more: bool,
}

/// `GET /v1/services/{name}/state/{table}`: rows, by key, then shard.
///
/// Parameters: `prefix` (of keys, as text), `start` and `end` (keys, as text; the
/// end is not included), `limit` (1 to 1,000; 100 by default), `reverse`
/// (`true`: from the highest key down).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StateRows {
    /// The rows.
    pub rows: Vec<StateRow>,
    /// Whether there are more.
    pub more: bool,
}

/// One row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StateRow {
    /// The shard.
    pub shard: u32,
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
}

/// `POST /v1/services/{name}/replay`: what is asked for.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplayRequest {
    /// Go on although retention has removed events from a topic's beginning.
    #[serde(default)]
    pub partial: bool,
}

/// `POST` and `GET /v1/services/{name}/replay`: how far the latest replay is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replay {
    /// The generation that is being built, or was built last.
    pub generation: u32,
    /// The changelog of that generation.
    pub changelog: String,
    /// Whether all shards have changed over and handlers read the new state.
    pub done: bool,
    /// Events run again so far, over all shards, as far as this host knows.
    pub replayed: u64,
    /// Events to run again in all, over all shards.
    pub total: u64,
    /// What stops it, if anything.
    pub trouble: Option<String>,
}

/// `GET /v1/services/{name}/dead-letters`: events that the service could not
/// handle, oldest first.
///
/// Parameters: `limit` (1 to 1,000; 100 by default), `after` (an id: those behind
/// it).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetters {
    /// The topic that they are in.
    pub topic: String,
    /// How many there are in all.
    pub total: u64,
    /// Some of them.
    pub letters: Vec<DeadLetter>,
    /// Whether there are more behind these.
    pub more: bool,
}

/// An event that a service could not handle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Names it: partition and offset in the topic of dead letters, `0@17`.
    pub id: String,
    /// The topic that it came from.
    pub topic: String,
    /// Its partition there.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The event's time, in milliseconds since the Unix epoch, if it had one.
    pub timestamp: Option<i64>,
    /// When it became a dead letter, in milliseconds since the Unix epoch.
    pub failed_at: u64,
    /// What it came to last: `retry`, `reject`, `trap`, `memory`, `timeout` or
    /// `refused`.
    pub failure: String,
    /// Why, as the handler or the host said; 4 KiB at most.
    pub error: String,
    /// How often it was run.
    pub attempts: u32,
    /// The revision that failed it last.
    pub revision: String,
    /// The event's key, if any.
    pub key: Option<Bytes>,
    /// Bytes of the event's value; none where it is a tombstone.
    pub size: Option<u64>,
}

/// `GET /v1/services/{name}/dead-letters/{id}`: one of them, whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeadLetterDetail {
    /// The line of the list.
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// The event's own headers.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// The event's value; none is a tombstone.
    pub value: Option<Bytes>,
}

/// `POST /v1/services/{name}/dead-letters/redrive` and `…/drop`: which ones.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettleRequest {
    /// These; an error if one of them is not there.
    #[serde(default)]
    pub ids: Vec<String>,
    /// All that there are.
    #[serde(default)]
    pub all: bool,
}

/// What became of dead letters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settled {
    /// How many were sent back, or dropped. A call does at most 10,000.
    pub settled: u64,
    /// How many dead letters are left.
    pub left: u64,
}

/// `POST /v1/services/{name}/pause` and `…/resume`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Paused {
    /// The service's name.
    pub name: String,
    /// Whether it is paused now, on all hosts.
    pub paused: bool,
    /// Whether that is what it was before.
    pub unchanged: bool,
}

/// `GET /v1/services/{name}/offsets`: where its group is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offsets {
    /// The consumer group.
    pub group: String,
    /// All partitions of the topics that it subscribes to.
    pub partitions: Vec<PartitionOffsets>,
}

/// Where a group is in a partition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartitionOffsets {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the first record that is left.
    pub start: i64,
    /// The offset behind the last record.
    pub end: i64,
    /// The offset of the next event, as committed; none before the first commit.
    pub committed: Option<i64>,
    /// The host that committed it, by its id.
    pub owner: Option<String>,
}

/// `POST /v1/services/{name}/offsets`: where its group shall go on. Nobody may be
/// in the group: pause the service on every host that runs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResetRequest {
    /// Where to.
    pub to: ResetTo,
    /// Only partitions of this topic; by default of all that it subscribes to.
    #[serde(default)]
    pub topic: Option<String>,
    /// Only this partition.
    #[serde(default)]
    pub partition: Option<i32>,
    /// Tell what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Where a group shall go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResetTo {
    /// At the first event that is left.
    Earliest,
    /// Behind the last event.
    Latest,
    /// At this offset.
    Offset(i64),
    /// So many events further on, or back.
    By(i64),
    /// At the first event of this time or later, in milliseconds since the Unix
    /// epoch.
    Time(i64),
}

/// What a reset of offsets does, or would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reset {
    /// The consumer group.
    pub group: String,
    /// Whether it was done.
    pub done: bool,
    /// Whether the service has state, which is not changed by it: events that run
    /// again are counted twice, those passed over are missing from it.
    pub state: bool,
    /// The partitions, whether their offsets change or not.
    pub partitions: Vec<PartitionReset>,
}

/// What a reset does to a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionReset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the next event before; none if nothing was committed.
    pub from: Option<i64>,
    /// The offset of the next event now.
    pub to: i64,
    /// Records that are passed over (positive) or run again (negative).
    pub skipped: i64,
}

/// `POST /v1/services`: what a deploy did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Deployed {
    /// The service's name.
    pub name: String,
    /// The revision that runs now.
    pub revision: String,
    /// The revision that ran before; the same digest if nothing changed.
    pub previous: Option<String>,
    /// Path prefixes it answers.
    pub routes: Vec<String>,
    /// Topics it consumes.
    pub subscribes: Vec<String>,
    /// Topics that did not exist and were created.
    pub created_topics: Vec<String>,
    /// Time the compiler took; none if the component was in the cache.
    pub compile_us: Option<u64>,
    /// Where the service's routes are served: `http://127.0.0.1:8080`.
    pub url: String,
    /// The deployment's number, which rises with each; 0 if nothing was deployed.
    #[serde(default)]
    pub number: u64,
    /// Whether it was only looked what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// The share that this revision has; none if it runs for all.
    #[serde(default)]
    pub canary: Option<Canary>,
    /// Until when it is on trial, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub trial_until: Option<u64>,
    /// The live hosts, and whether they run it.
    #[serde(default)]
    pub hosts: Vec<HostStatus>,
    /// What is not as it was in the revision that ran before.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// What may be a mistake.
    #[serde(default)]
    pub warnings: Vec<Warning>,
    /// How many smoke calls it has passed.
    #[serde(default)]
    pub smoke: usize,
}

/// `DELETE /v1/services/{name}`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Removed {
    /// The service's name.
    pub name: String,
    /// The revision that ran.
    pub revision: String,
    /// The live hosts, and whether it is gone from them.
    #[serde(default)]
    pub hosts: Vec<HostStatus>,
}

/// `POST /v1/services/{name}/invoke`: run a handler once, by hand.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Invoke {
    /// Call the HTTP handler.
    Request(Request),
    /// Call the event handler.
    Event(Event),
}

/// A request made by hand.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Upper case.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// Header fields.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body, if any.
    #[serde(default)]
    pub body: Option<Bytes>,
}

/// An event made by hand.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// One of the topics that the service subscribes to.
    pub topic: String,
    /// Default 0: also the shard whose state the handler sees.
    #[serde(default)]
    pub partition: u32,
    /// Default 0.
    #[serde(default)]
    pub offset: u64,
    /// Null or missing: no key.
    #[serde(default)]
    pub key: Option<Bytes>,
    /// Null or missing: a tombstone.
    #[serde(default)]
    pub value: Option<Bytes>,
    /// Record headers.
    #[serde(default)]
    pub headers: Vec<(String, Bytes)>,
}

/// What came of an invocation by hand. Its effects were not committed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Invoked {
    /// The revision that ran.
    pub revision: String,
    /// `ok`, `retry`, `reject`, `trap`, `timeout`, `memory` or `invalid`.
    pub outcome: String,
    /// What went wrong, unless the outcome is `ok`.
    pub error: Option<String>,
    /// How long the call took.
    pub duration_us: u64,
    /// The response, for a request that was answered.
    pub response: Option<Response>,
    /// Events that would have been published, in order.
    pub published: Vec<Message>,
    /// Rows that would have been written, one a key, in order of table and key.
    pub written: Vec<Row>,
}

/// A response of a handler.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// An event that a handler published.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// Where to.
    pub topic: String,
    /// The key, if any.
    pub key: Option<Bytes>,
    /// The value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Record headers.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// A row that a handler wrote.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The table.
    pub table: String,
    /// The key.
    pub key: Bytes,
    /// The value; none where the row was deleted.
    pub value: Option<Bytes>,
}

/// An error of the admin API: a problem document (RFC 9457).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// Names the kind of problem: `about:blank` or `urn:tidemill:problem:…`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened and what to do.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_text_stay_text() {
        let json = |bytes: &[u8]| {
            serde_json::to_string(&Bytes::from(bytes.to_vec())).expect("it serialises")
        };
        assert_eq!(json("ä".as_bytes()), r#"{"text":"ä"}"#);
        assert_eq!(json(&[0xff, 0]), r#"{"base64":"/wA="}"#);
    }

    #[test]
    fn bytes_come_back() {
        for bytes in [&b""[..], b"text", &[0xff, 0xfe, 0]] {
            assert_eq!(Bytes::from(bytes.to_vec()).decode(), Ok(bytes.to_vec()));
        }
        assert!(Bytes::Base64("?".to_owned()).decode().is_err());
    }
}
