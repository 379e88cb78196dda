//! A guest's standard output and error: each line becomes a log line of the
//! service. A line that is a JSON object with a `level` has that level; what a
//! guest may log is bounded.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::{Map, Value};
use tidemill_cli::api::Level;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::invocation::Identity;
use crate::logs::{Book, Pass, RATE};

/// A longer line is cut into pieces, so that a guest cannot fill the memory.
const MAX_LINE: usize = 16 << 10;

/// Who writes: a service's name and the short digest of its revision.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) service: Arc<str>,
    pub(super) revision: Arc<str>,
    pub(super) book: Arc<Book>,
}

/// Turns bytes into log lines.
#[derive(Clone)]
pub(super) struct GuestLog {
    origin: Origin,
    stream: &'static str,
    identity: Arc<Mutex<Identity>>,
    unfinished: Arc<Mutex<Vec<u8>>>,
}

impl GuestLog {
    pub(super) fn new(
        origin: Origin,
        stream: &'static str,
        identity: Arc<Mutex<Identity>>,
    ) -> GuestLog {
        GuestLog {
            origin,
            stream,
            identity,
            unfinished: Arc::default(),
        }
    }

    fn take(&self, bytes: &[u8]) {
        let mut line = self.unfinished.lock();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(MAX_LINE) {
                line.extend_from_slice(part);
                if line.last() == Some(&b'\n') || line.len() >= MAX_LINE {
                    self.log(&line);
                    line.clear();
                }
            }
        }
    }

    fn log(&self, line: &[u8]) {
        match self.origin.book.quota.take(line.len(), Instant::now()) {
            Pass::Logged => self.write(&Said::of(String::from_utf8_lossy(line).trim_end())),
            Pass::Dropped => {}
            Pass::Say { dropped } => {
                let service = &*self.origin.service;
                tracing::warn!(
                    event = "guest.dropped",
                    service,
                    dropped,
                    "it logs more than is taken ({RATE} bytes a second): lines are dropped"
                );
            }
        }
    }

    fn write(&self, said: &Said) {
        let (service, revision) = (&*self.origin.service, &*self.origin.revision);
        let (stream, fields, text) = (self.stream, said.fields.as_deref(), &*said.text);
        let invocation = self.identity.lock().clone();
        // tracing wants to know a level when it is compiled.
        macro_rules! say {
            ($level:ident) => {
                tracing::$level!(target: "guest", event = "guest.line", service, revision, stream, %invocation, fields, "{text}")
            };
        }
        match said.level {
            Level::Error => say!(error),
            Level::Warn => say!(warn),
            Level::Info => say!(info),
            Level::Debug => say!(debug),
            Level::Trace => say!(trace),
        }
    }
}

/// What a line of a guest says.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    level: Level,
    text: String,
    /// More that came with it, as JSON.
    fields: Option<String>,
}

impl Said {
    fn of(line: &str) -> Said {
        Said::read(line).unwrap_or_else(|| Said {
            level: Level::Info,
            text: line.to_owned(),
            fields: None,
        })
    }

    /// Reads a JSON object that has a level, if it is one.
    fn read(line: &str) -> Option<Said> {
        if !line.starts_with('{') {
            return None;
        }
        let said: Map<String, Value> = serde_json::from_str(line).ok()?;
        let level = level(said.get("level")?.as_str()?)?;
        let text = |name: &'static str| Some((name, said.get(name)?.as_str()?.to_owned()));
        let (name, text) = text("message").or_else(|| text("msg")).unwrap_or_default();
        let others = said.into_iter();
        let fields: Map<String, Value> = others
            .filter(|(other, _)| other != "level" && other != name)
            .collect();
        Some(Said {
            level,
            text,
            fields: (!fields.is_empty()).then(|| Value::Object(fields).to_string()),
        })
    }
}

/// A level by the names that logging libraries give it.
fn level(name: &str) -> Option<Level> {
    Some(match name.to_ascii_lowercase().as_str() {
        "trace" => Level::Trace,
        "debug" => Level::Debug,
        "info" | "notice" => Level::Info,
        "warn" | "warning" => Level::Warn,
        "error" | "critical" | "fatal" | "panic" => Level::Error,
        _ => return None,
    })
}

impl Drop for GuestLog {
    /// What a guest wrote without an end of line, before it was dropped.
    fn drop(&mut self) {
        if Arc::strong_count(&self.unfinished) == 1 {
            let line = std::mem::take(&mut *self.unfinished.lock());
            if !line.is_empty() {
                self.log(&line);
            }
        }
    }
}

impl IsTerminal for GuestLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestLog {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for GuestLog {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestLog {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.take(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

impl AsyncWrite for GuestLog {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(level: Level, text: &str, fields: Option<&str>) -> Said {
        Said {
            level,
            text: text.to_owned(),
            fields: fields.map(str::to_owned),
        }
    }

    #[test]
    fn a_json_object_with_a_level_has_that_level() {
        for (line, expected) in [
            (
                r#"{"level":"warn","message":"low","why":"rain","left":3}"#,
                said(Level::Warn, "low", Some(r#"{"why":"rain","left":3}"#)),
            ),
            (
                r#"{"msg":"gone","level":"ERROR"}"#,
                said(Level::Error, "gone", None),
            ),
            (r#"{"level":"Warning"}"#, said(Level::Warn, "", None)),
        ] {
            assert_eq!(Said::of(line), expected, "{line}");
        }
    }

    #[test]
    fn everything_else_is_text() {
        for line in [
            "",
            "hello",
            "{",
            "{}",
            r#"{"level":30,"msg":"a number"}"#,
            r#"{"level":"loud"}"#,
            r#"["level"]"#,
            "warn: not JSON",
        ] {
            assert_eq!(Said::of(line), said(Level::Info, line, None), "{line}");
        }
    }
}
