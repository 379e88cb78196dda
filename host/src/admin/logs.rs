//! The log of a service: its latest lines, and those that come, as newline
//! delimited JSON.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;
use tidemill_cli::api::Level;
use tokio::sync::watch;

use super::{no_service, refuse};
use crate::host::Host;
use crate::logs::{Book, News, Text, Watch, books};

/// The most lines of the past that are asked for.
const MOST: usize = 100_000;

/// When nothing happens an empty line is sent, so that a reader that is gone is
/// noticed.
pub(super) const SILENCE: Duration = Duration::from_secs(15);
/// The type of an answer in lines.
pub(super) const LINES: &str = "application/x-ndjson";

/// Which lines are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    tail: Option<usize>,
    level: Option<Level>,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    invocations: bool,
}

pub(super) async fn lines(
    State(host): State<Arc<Host>>,
    Path(name): Path<String>,
    which: Result<Query<Which>, QueryRejection>,
) -> Response {
    let which = match which {
        Ok(Query(which)) => which,
        Err(error) => {
            let detail = error.body_text();
            return refuse(StatusCode::BAD_REQUEST, "parameters", "Bad Request", detail);
        }
    };
    let Some(service) = host.service(&name) else {
        return no_service(&name);
    };
    if which.invocations && !which.follow {
        let detail = "Invocations are not kept: invocations=true goes with follow=true.";
        return refuse(StatusCode::BAD_REQUEST, "parameters", "Bad Request", detail);
    }
    let book = books().book(&name);
    let level = which.level.unwrap_or(Level::Trace);
    // Before the tail is taken, so that nothing is missed in between.
    let news = book.news();
    let past = book.tail(which.tail.unwrap_or(100).min(MOST), level);
    let body = if which.follow {
        let follower = Follower {
            book,
            level,
            news,
            watch: which.invocations.then(|| service.invocations.watch()),
            next: past.next,
            past: past.lines,
            ended: false,
        };
        Body::from_stream(stream::unfold(follower, |mut follower| async move {
            let text = follower.next().await?;
            Some((Ok::<_, std::convert::Infallible>(text), follower))
        }))
    } else {
        Body::from(joined(&past.lines))
    };
    ([(header::CONTENT_TYPE, LINES)], body).into_response()
}

fn joined(lines: &[Text]) -> Bytes {
    let mut text = String::with_capacity(lines.iter().map(|line| line.len() + 1).sum());
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text.into()
}

/// A reader that is told what is new whenever it takes more. One that takes
/// nothing holds nothing up: its lines are dropped when they are old.
struct Follower {
    book: Arc<Book>,
    level: Level,
    news: watch::Receiver<News>,
    /// For invocations, if they are asked for.
    watch: Option<Watch>,
    past: Vec<Text>,
    next: u64,
    ended: bool,
}

impl Follower {
    /// The next piece; none when there will be no more.
    async fn next(&mut self) -> Option<Bytes> {
        let past = std::mem::take(&mut self.past);
        if !past.is_empty() {
            return Some(joined(&past));
        }
        while !self.ended {
            let news = *self.news.borrow_and_update();
            let mut lines = self.new_lines();
            if let Some(why) = news.end {
                lines.push(self.note("logs.end", Level::Info, why, None));
                self.ended = true;
            }
            if !lines.is_empty() {
                return Some(joined(&lines));
            }
            if tokio::time::timeout(SILENCE, self.changed()).await.is_err() {
                return Some("\n".into());
            }
        }
        None
    }

    /// What is new. What an invocation logged comes before it: its own line is
    /// taken first, and all lines begin with their time.
    fn new_lines(&mut self) -> Vec<Text> {
        let invocations = self.watch.as_mut().map(|watch| watch.new_lines(self.level));
        let invocations = invocations.unwrap_or_default();
        let part = self.book.since(self.next, self.level);
        self.next = part.next;
        let lost = part.lost + invocations.lost;
        let mut lines = part.lines;
        if !invocations.lines.is_empty() {
            lines.extend(invocations.lines);
            lines.sort_by(|one, other| time(one).cmp(time(other)));
        }
        if lost > 0 {
            lines.insert(0, self.lost(lost));
        }
        lines
    }

    async fn changed(&mut self) {
        match &mut self.watch {
            Some(watch) => tokio::select! {
                _ = self.news.changed() => {}
                () = watch.changed() => {}
            },
            None => drop(self.news.changed().await),
        }
    }

    fn lost(&self, lost: u64) -> Text {
        let why = format!("{lost} lines are lost: they were not read fast enough");
        self.note("logs.lost", Level::Warn, &why, Some(lost))
    }

    /// A line of the stream's own.
    fn note(&self, event: &str, level: Level, message: &str, lost: Option<u64>) -> Text {
        let mut note = json!({
            "timestamp": crate::logs::now(),
            "level": level,
            "event": event,
            "message": message,
        });
        if let Some(lost) = lost {
            note["lost"] = lost.into();
        }
        note.to_string().into()
    }
}

/// When a line was written: what it begins with, to the microsecond.
fn time(line: &str) -> &str {
    let length = r#"{"timestamp":"2026-11-24T13:06:41.123456"#.len();
    line.get(..length).unwrap_or(line)
}
