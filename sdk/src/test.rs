//! A host in memory, to test a service with plain `cargo test`.
//!
//! ```
//! use tidemill::test::Host;
//! use tidemill::{Event, Failure, Message, Table, Topics};
//!
//! static SEEN: Table<u32> = Table::new("seen");
//!
//! fn topics() -> Topics {
//!     Topics::new().on("parcels", async |parcel: Event<String>| {
//!         let seen = SEEN.get(&parcel.value)?.unwrap_or(0);
//!         SEEN.put(&parcel.value, &(seen + 1))?;
//!         Ok(())
//!     })
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut host = Host::new().events(topics());
//! host.deliver(Message::new("parcels").key("7").json("heavy")?).unwrap();
//! assert_eq!(host.read(|| SEEN.get("heavy"))?, Some(1));
//! # Ok(()) }
//! ```
//!
//! It keeps the rules of the real one. An invocation is a transaction: what a
//! failing handler did is dropped, as is what a request did that is answered
//! with a status of 500 or more. Events write the shard of their partition;
//! requests read all shards and write none. Nothing is granted or forbidden
//! unless [`Host::granted`] says so.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::event::{Failure, Topics};
use crate::position::{self, Positions};
use crate::publish::Message;
use crate::service::{self, About, HttpService, Routes};
use crate::state::Position;
use crate::sys::RawEvent;
use crate::sys::double::{Grants, View, World, within};

/// A service on a host in memory, with the topics that it publishes to.
pub struct Host {
    world: World,
    routes: Option<Routes>,
    topics: Option<Topics>,
    partitions: u32,
    /// Of each topic and partition, the offset that comes next.
    ends: BTreeMap<(String, u32), u64>,
    /// Everything published, in order.
    published: Vec<Record>,
    /// How much of it `deliver_published` has dealt with.
    delivered: BTreeSet<(String, u32, u64)>,
    spread: u32,
    clock: u64,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// A host without a service. Its topics have 4 partitions.
    pub fn new() -> Self {
        Self {
            world: World::default(),
            routes: None,
            topics: None,
            partitions: 4,
            ends: BTreeMap::new(),
            published: Vec::new(),
            delivered: BTreeSet::new(),
            spread: 0,
            clock: 1_700_000_000_000,
        }
    }

    /// The service's routes.
    #[must_use]
    pub fn http(mut self, routes: impl HttpService) -> Self {
        self.routes = Some(Routes::new(routes));
        self
    }

    /// The service's topics.
    #[must_use]
    pub fn events(mut self, topics: Topics) -> Self {
        self.topics = Some(topics);
        self
    }

    /// Sets a key of the manifest's `[settings]`.
    #[must_use]
    pub fn setting(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.world.settings.insert(key.into(), value.into());
        self
    }

    /// Grants only this, as the manifest's `[grants]` does: topics to publish
    /// to, and whether there is state.
    #[must_use]
    pub fn granted(mut self, publish: &[&str], state: bool) -> Self {
        self.world.grants = Some(Grants {
            publish: publish.iter().map(|topic| (*topic).to_owned()).collect(),
            state,
        });
        self
    }

    /// How many partitions every topic has, at least 1.
    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions.max(1);
        self
    }

    /// `GET` of a path and query.
    ///
    /// # Panics
    /// If the service has no routes.
    pub fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, "")
    }

    /// `POST` to a path: of a `serde_json::json!`, of text or of bytes.
    ///
    /// # Panics
    /// If the service has no routes.
    pub fn post(&mut self, target: &str, body: impl Into<Body>) -> Response {
        self.request("POST", target, body)
    }

    /// Any request.
    ///
    /// # Panics
    /// If the service has no routes.
    pub fn request(&mut self, method: &str, target: &str, body: impl Into<Body>) -> Response {
        let routes = self
            .routes
            .as_ref()
            .expect("a service with routes: Host::new().http(routes())");
        let body = body.into();
        let mut headers = Vec::new();
        if !body.0.is_empty() {
            headers.push(("content-type".to_owned(), b"application/json".to_vec()));
        }
        let request = service::Request {
            method: method.to_owned(),
            target: target.to_owned(),
            authority: "localhost".to_owned(),
            headers,
            body: body.0,
        };
        self.world.view = View::Http;
        let answer = within(&mut self.world, || run(service::answer(routes, request)));
        let mut headers = answer.headers;
        if answer.status < 500 {
            let positions = self.commit();
            headers.extend(positions.to_header().map(|value| {
                let name = position::HEADER.as_str().to_owned();
                (name, value.as_bytes().to_vec())
            }));
        } else {
            self.world.roll_back();
        }
        Response {
            status: answer.status,
            headers,
            body: answer.body,
        }
    }

    /// Gives the service one event: a [`Message`] or a [`Record`]. A place that
    /// a record leaves open is made: the partition from the key (or in turn),
    /// the next offset there, the next millisecond.
    ///
    /// # Errors
    /// With what the handler says. Nothing of what it did has happened then.
    ///
    /// # Panics
    /// If the service has no topics.
    pub fn deliver(&mut self, record: impl Into<Record>) -> Result<(), Failure> {
        let record = self.place(record.into());
        self.run_event(&record)
    }

    /// Gives the service what it published itself to topics that it handles and
    /// has not been given yet, in order, until nothing is left. Says how many
    /// events that were.
    ///
    /// # Errors
    /// With the first failure; the event that failed is delivered again the next
    /// time, in its place.
    ///
    /// # Panics
    /// If the service has no topics.
    pub fn deliver_published(&mut self) -> Result<usize, Failure> {
        let handled: BTreeSet<String> = self.handlers().names().map(str::to_owned).collect();
        let mut count = 0;
        loop {
            let waiting = self.published.iter().find(|record| {
                handled.contains(&record.topic) && !self.delivered.contains(&record.place())
            });
            let Some(record) = waiting.cloned() else {
                return Ok(count);
            };
            self.run_event(&record)?;
            self.delivered.insert(record.place());
            count += 1;
        }
    }

    /// What was published to a topic, in order.
    pub fn published(&self, topic: &str) -> Vec<Record> {
        self.published
            .iter()
            .filter(|record| record.topic == topic)
            .cloned()
            .collect()
    }

    /// Calls `read` as a request's handler: it sees the state of all shards.
    pub fn read<T>(&mut self, read: impl FnOnce() -> T) -> T {
        self.world.view = View::Http;
        let result = within(&mut self.world, read);
        self.world.roll_back();
        result
    }

    /// The OpenAPI document of the routes.
    ///
    /// # Panics
    /// If the service has no routes.
    pub fn openapi(&self) -> serde_json::Value {
        let routes = self
            .routes
            .as_ref()
            .expect("a service with routes: Host::new().http(routes())");
        let about = About {
            name: "test",
            version: "0.0.0",
            description: "",
        };
        serde_json::from_str(&routes.openapi(&about)).expect("a document in JSON")
    }

    fn handlers(&self) -> &Topics {
        self.topics
            .as_ref()
            .expect("a service with topics: Host::new().events(topics())")
    }

    fn run_event(&mut self, record: &Record) -> Result<(), Failure> {
        let (_, partition, offset) = record.place();
        let event = RawEvent {
            topic: record.topic.clone(),
            partition,
            offset,
            timestamp: record.timestamp,
            key: record.key.clone(),
            value: record.value.clone(),
            headers: record.headers.clone(),
            attempt: record.attempt,
        };
        let topics = self
            .topics
            .as_ref()
            .expect("a service with topics: Host::new().events(topics())");
        self.world.view = View::Event { shard: partition };
        let outcome = within(&mut self.world, || run(topics.handle(event)));
        match outcome {
            Ok(()) => drop(self.commit()),
            Err(_) => self.world.roll_back(),
        }
        outcome
    }

    /// Publishes what the invocation asked for, and says where it is.
    fn commit(&mut self) -> Positions {
        let mut positions = Positions::new();
        for message in self.world.commit() {
            let record = self.place(message.into());
            let (topic, partition, offset) = record.place();
            positions.merge(&Positions::from(Position {
                topic,
                partition,
                offset,
            }));
            self.published.push(record);
        }
        positions
    }

    /// Fills in what Kafka would.
    fn place(&mut self, mut record: Record) -> Record {
        let partition = record.partition.unwrap_or_else(|| match &record.key {
            Some(key) => (murmur2(key) & 0x7fff_ffff) % self.partitions,
            None => {
                self.spread += 1;
                (self.spread - 1) % self.partitions
            }
        });
        let end = self
            .ends
            .entry((record.topic.clone(), partition))
            .or_default();
        let offset = record.offset.unwrap_or(*end);
        *end = (*end).max(offset + 1);
        record.partition = Some(partition);
        record.offset = Some(offset);
        if record.timestamp.is_none() {
            self.clock += 1;
            record.timestamp = Some(self.clock);
        }
        record
    }
}

/// Runs a handler. It never has to wait: everything is in memory.
fn run<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    // A handler may yield; one that waits for something that the host doesn't
    // give would do so for ever.
    for _ in 0..1_000_000 {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
    }
    panic!("the handler waits for something that the test host doesn't give");
}

/// The hash by which Kafka's Java clients spread keys over partitions.
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let mut chunks = key.chunks_exact(4);
    for chunk in &mut chunks {
        let mut part = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        part = (part ^ (part >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ part;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

/// A Kafka record: what was published, or what to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Record {
    topic: String,
    partition: Option<u32>,
    offset: Option<u64>,
    timestamp: Option<u64>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    attempt: u32,
}

impl From<Message> for Record {
    fn from(message: Message) -> Self {
        Self {
            topic: message.topic,
            partition: None,
            offset: None,
            timestamp: None,
            key: message.key,
            value: message.value,
            headers: message.headers,
            attempt: 1,
        }
    }
}

impl Record {
    /// Sets the partition.
    pub fn at_partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Sets the offset.
    pub fn at_offset(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Sets the time, in milliseconds since the Unix epoch.
    pub fn at_time(mut self, timestamp: u64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Sets which attempt this is, from 1.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The key as text; none if there is none.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn key(&self) -> Option<&str> {
        text(self.key.as_deref())
    }

    /// The value as text; none if there is none.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn value(&self) -> Option<&str> {
        text(self.value.as_deref())
    }

    /// The value, read as JSON.
    ///
    /// # Panics
    /// If there is none, or none that is a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(self.value.as_deref().expect("a value")).expect("JSON of this type")
    }

    /// The value of a header as text; none if there is no such header.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(other, _)| other == name)?;
        text(value.as_deref())
    }

    fn place(&self) -> (String, u32, u64) {
        (
            self.topic.clone(),
            self.partition.unwrap_or(0),
            self.offset.unwrap_or(0),
        )
    }
}

fn text(bytes: Option<&[u8]>) -> Option<&str> {
    bytes.map(|bytes| std::str::from_utf8(bytes).expect("text in UTF-8"))
}

/// The body of a request.
#[derive(Clone, Debug)]
pub struct Body(Bytes);

impl From<serde_json::Value> for Body {
    fn from(json: serde_json::Value) -> Self {
        Self(json.to_string().into())
    }
}

impl From<&str> for Body {
    fn from(text: &str) -> Self {
        Self(text.to_owned().into())
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

/// What a request was answered with.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Bytes,
}

impl Response {
    /// The body as text.
    ///
    /// # Panics
    /// If it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text in UTF-8")
    }

    /// The body, read as JSON.
    ///
    /// # Panics
    /// If it is not JSON of a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).expect("JSON of this type")
    }

    /// The body.
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// The first header of this name (in lower case), as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(other, _)| other == name)?;
        std::str::from_utf8(value).ok()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_are_spread_as_java_clients_spread_them() {
        // From Kafka's own test of its hash.
        for (key, hash) in [
            (&b"21"[..], -973_932_308_i32),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (
                b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            (b"abc", 479_470_107),
        ] {
            assert_eq!(super::murmur2(key) as i32, hash);
        }
    }
}
