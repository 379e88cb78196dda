//! Accepting connections, HTTP/1.1 and HTTP/2, with a bound on everything that a
//! client can stretch.
//!
//! | what | bound | then |
//! |---|---|---|
//! | connections | 10,000 | the next ones wait to be accepted |
//! | the first bytes, a request's header, an idle connection | 30 s | closed |
//! | header | 100 fields, 64 KiB | 431 |
//! | HTTP/2 streams of a connection | 250 | the next ones wait |
//! | a client that does not read its response | 30 s | closed |
//! | a request's body | `limits.request`, 30 s | 413, 408 |
//!
//! A host that ends takes nothing on that it does not finish: HTTP/2 clients are
//! told at once (GOAWAY), those of HTTP/1.1 with the answer to their next request
//! (`Connection: close`), for which a connection is kept open a while.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use super::answer::{Version, answer};
use crate::host::Host;

/// Connections at once.
const CONNECTIONS: usize = 10_000;
/// How long a client may be silent, or read nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a host that ends waits for requests on connections that were there.
const LINGER: Duration = Duration::from_millis(500);
/// Header fields of a request.
const FIELDS: usize = 100;
/// Bytes of a request's header.
pub(super) const HEADER: usize = 64 << 10;
/// Streams of an HTTP/2 connection at once.
const STREAMS: u32 = 250;

/// Serves until told to stop, then lets what was accepted finish: returns when
/// the last connection is closed.
pub async fn run(listener: TcpListener, host: Arc<Host>, mut stopping: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The place before the connection: more clients than places wait in the
        // kernel's queue, and cost this process nothing.
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, or a client that is gone already.
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        begin(stream, place, &host, &stopping);
    }
    // Clients in the kernel's queue take themselves for connected.
    while let Some(Ok((stream, _))) = listener.accept().now_or_never()
        && let Ok(place) = places.clone().try_acquire_owned()
    {
        begin(stream, place, &host, &stopping);
    }
    drop(listener);
    // All places are free again when the last connection is closed.
    let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
    let _ = places.acquire_many(all).await;
}

/// Serves a connection in the background.
fn begin(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    host: &Arc<Host>,
    stopping: &watch::Receiver<bool>,
) {
    let (host, stopping) = (host.clone(), stopping.clone());
    tokio::spawn(async move {
        host.metrics.connections.inc();
        if let Err(error) = serve(stream, &host, stopping).await {
            tracing::trace!(%error, "a connection ended");
        }
        host.metrics.connections.dec();
        drop(place);
    });
}

type Error = Box<dyn std::error::Error + Send + Sync>;

async fn serve(
    stream: TcpStream,
    host: &Arc<Host>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let version = tokio::select! {
        version = tokio::time::timeout(PATIENCE, version(&stream)) => version??,
        () = lingered(&mut stopping) => return Ok(()),
    };
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(PATIENCE));
    let io = TokioIo::new(Box::pin(stream));
    let service = service_fn(move |request| answer(host.clone(), request, version));
    match version {
        Version::Http1 => {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_headers(FIELDS)
                // Above the bound, so that what is not far above it is answered
                // with a reason.
                .max_buf_size(2 * HEADER)
                .serve_connection(io, service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => return Ok(ended?),
                () = lingered(&mut stopping) => {}
            }
            connection.as_mut().graceful_shutdown();
            connection.await?;
        }
        Version::Http2 => {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(2 * HEADER as u32)
                .keep_alive_interval(PATIENCE)
                .keep_alive_timeout(Duration::from_secs(10))
                .serve_connection(io, service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => return Ok(ended?),
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
            Pin::as_mut(&mut connection).graceful_shutdown();
            connection.await?;
        }
    }
    Ok(())
}

/// The host ends, and requests that were on their way have arrived.
async fn lingered(stopping: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopping.wait_for(|stopping| *stopping).await;
    tokio::time::sleep(LINGER).await;
}

/// Tells HTTP/2 with prior knowledge (RFC 9113, section 3.4: the client begins
/// with `PRI * HTTP/2.0`) from HTTP/1.1, whose methods do not begin like that.
async fn version(stream: &TcpStream) -> io::Result<Version> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut first = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut first).await?;
        let (first, preface) = (&first[..count], &PREFACE[..count]);
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first != preface {
            return Ok(Version::Http1);
        }
        if count == PREFACE.len() {
            return Ok(Version::Http2);
        }
        // A part of the preface: peeking does not wait for the rest.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
