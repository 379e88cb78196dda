//! A guest's standard output and error: each line becomes a log line of the
//! service.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// A longer line is cut into pieces, so that a guest cannot fill the memory.
const MAX_LINE: usize = 16 << 10;

/// Who writes: a service's name and the short digest of its revision.
#[derive(Clone)]
pub(super) struct Origin {
    pub(super) service: Arc<str>,
    pub(super) revision: Arc<str>,
}

/// Turns bytes into log lines.
#[derive(Clone)]
pub(super) struct GuestLog {
    origin: Origin,
    stream: &'static str,
    unfinished: Arc<Mutex<Vec<u8>>>,
}

impl GuestLog {
    pub(super) fn new(origin: Origin, stream: &'static str) -> GuestLog {
        GuestLog {
            origin,
            stream,
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
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        let Origin { service, revision } = &self.origin;
        let (service, revision) = (&**service, &**revision);
        tracing::info!(target: "guest", service, revision, stream = self.stream, "{text}");
    }
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
