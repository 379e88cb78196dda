//! Invocations as lines, for who watches: each request with its answer, each event
//! with what its handler made of it. While nobody watches, one costs a load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::request::Parts;
use parking_lot::Mutex;
use serde::Serialize;
use tidemill_cli::api::Level;
use tokio::sync::watch;

use super::now;
use super::ring::{Part, Ring};
use crate::effects::Effects;
use crate::http::POSITION;
use crate::invocation::{Event, Failure};
use crate::revision::Revision;

/// Lines that wait for their readers are kept up to this many bytes.
const MOST: usize = 256 << 10;

/// The invocations of one service, as far as somebody watches.
#[derive(Default)]
pub(crate) struct Invocations {
    watchers: AtomicUsize,
    ring: Mutex<Ring>,
    /// Lines so far.
    news: watch::Sender<u64>,
}

impl Invocations {
    /// Begins to watch: with what comes from here on.
    pub(crate) fn watch(self: &Arc<Self>) -> Watch {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watch {
            news: self.news.subscribe(),
            next: self.ring.lock().end(),
            invocations: self.clone(),
        }
    }

    fn watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    /// A request has its answer.
    pub(crate) fn answered<B>(
        &self,
        revision: &Revision,
        request: &Parts,
        answer: &http::Response<B>,
        took: Duration,
    ) {
        if !self.watched() {
            return;
        }
        let status = answer.status();
        let method = request.method.as_str();
        let target = request.uri.path_and_query();
        let target = target.map_or("/", |target| target.as_str());
        let level = match status.is_server_error() {
            true => Level::Error,
            false => Level::Info,
        };
        let message = format!("{method} {target} {}", status.as_u16());
        let position = answer.headers().get(POSITION);
        let what = What::Request {
            method,
            target,
            status: status.as_u16(),
            position: position.and_then(|position| position.to_str().ok()),
        };
        self.keep(revision, level, message, took, what);
    }

    /// A handler has run for an event.
    pub(crate) fn ran(
        &self,
        revision: &Revision,
        event: &Event,
        attempt: u32,
        ran: &Result<Effects, Failure>,
        took: Duration,
    ) {
        if !self.watched() {
            return;
        }
        let (topic, partition, offset) = (&*event.topic, event.partition, event.offset);
        let (level, outcome) = match ran {
            Ok(_) => (Level::Info, "ok"),
            Err(failure) => (Level::Warn, failure.name()),
        };
        let message = format!("{topic}/{partition}@{offset} {outcome}");
        let mut published = BTreeMap::new();
        for message in ran.iter().flat_map(|effects| &effects.messages) {
            *published.entry(&*message.topic).or_default() += 1;
        }
        let what = What::Event {
            topic,
            partition,
            offset,
            attempt,
            outcome,
            published,
            rows: ran.as_ref().map_or(0, |effects| effects.rows.len()),
        };
        self.keep(revision, level, message, took, what);
    }

    fn keep(
        &self,
        revision: &Revision,
        level: Level,
        message: String,
        took: Duration,
        what: What<'_>,
    ) {
        let line = Line {
            timestamp: now(),
            level,
            event: match what {
                What::Request { .. } => "request.answered",
                What::Event { .. } => "event.ran",
            },
            message,
            service: &revision.manifest.name,
            revision: revision.short(),
            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            what,
        };
        // Such a line can always be written as JSON.
        let Ok(text) = serde_json::to_string(&line) else {
            return;
        };
        let lines = {
            let mut ring = self.ring.lock();
            ring.push(level, text.into());
            ring.trim(MOST);
            ring.end()
        };
        self.news.send_modify(|news| *news = lines);
    }
}

/// Somebody who watches, until it is dropped.
pub(crate) struct Watch {
    invocations: Arc<Invocations>,
    news: watch::Receiver<u64>,
    next: u64,
}

impl Watch {
    /// What has come since the last time.
    pub(crate) fn new_lines(&mut self, level: Level) -> Part {
        self.news.mark_unchanged();
        let part = self.invocations.ring.lock().since(self.next, level);
        self.next = part.next;
        part
    }

    /// Waits until there is something new.
    pub(crate) async fn changed(&mut self) {
        if self.news.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.invocations.watchers.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.invocations.ring.lock().trim(0);
        }
    }
}

/// A line. As all lines, it begins with its time.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: Level,
    event: &'static str,
    message: String,
    service: &'a str,
    revision: &'a str,
    duration_us: u64,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Request {
        method: &'a str,
        target: &'a str,
        status: u16,
        /// Where its events are.
        #[serde(skip_serializing_if = "Option::is_none")]
        position: Option<&'a str>,
    },
    Event {
        topic: &'a str,
        partition: i32,
        offset: i64,
        attempt: u32,
        outcome: &'static str,
        /// How many events it published, by topic.
        published: BTreeMap<&'a str, u32>,
        /// How many rows it wrote.
        rows: usize,
    },
}
