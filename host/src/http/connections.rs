//! Serving connections, HTTP/1.1 and HTTP/2, with a bound on everything that a
//! client can stretch. Both listeners are served by this; what is answered is
//! theirs.
//!
//! A host that ends takes nothing on that it does not finish: HTTP/2 clients are
//! told at once (GOAWAY), those of HTTP/1.1 with the answer to their next request
//! (`Connection: close`), for which a connection is kept open a while.
//!
//! docs/http.md lists the bounds. Those that hyper lacks for HTTP/2 are in
//! `streams`.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderValue;
use http::header::CONNECTION;
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutStream;

use super::streams::{self, Streams};
use crate::metrics::{Closed, ConnectionMetrics};
use crate::problem::Problem;
use crate::seldom::Seldom;

/// Header fields of an HTTP/1.1 request.
const FIELDS: usize = 100;
/// Bytes of a request's header.
pub(super) const HEADER: usize = 64 << 10;
/// Streams of an HTTP/2 connection at once.
const STREAMS: u32 = 250;
/// How long a host that ends waits for requests on connections that were there.
const LINGER: Duration = Duration::from_millis(500);

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What a listener's clients can stretch, and how far.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// How long a client may be silent, or read nothing.
    pub patience: Duration,
}

/// What answers the requests of a listener.
pub(crate) trait Answers: Clone + Send + Sync + 'static {
    /// The body of an answer.
    type Body: Body<Data = Bytes, Error: Into<Error>> + Send + 'static;

    /// Answers a request of a client, whatever it is.
    fn answer(
        self,
        request: http::Request<Incoming>,
        client: SocketAddr,
    ) -> impl Future<Output = http::Response<Self::Body>> + Send + 'static;
}

/// Serves until told to stop, then lets what was accepted finish: returns when
/// the last connection is closed.
pub(crate) async fn run(
    listener: TcpListener,
    answers: impl Answers,
    limits: Limits,
    metrics: ConnectionMetrics,
    mut stopping: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let full = Seldom::every(Duration::from_secs(60));
    loop {
        // The place before the connection: more clients than places wait in the
        // kernel's queue, and cost this process nothing.
        if places.available_permits() == 0 && full.is_due().is_some() {
            tracing::warn!(
                event = "connections.full",
                connections = limits.connections,
                "all places for connections are taken: further clients wait"
            );
        }
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => break,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or a client that is gone already.
                tracing::debug!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let connection = serve(stream, client, answers.clone(), limits, stopping.clone());
        begin(connection, place, &metrics);
    }
    // Clients in the kernel's queue take themselves for connected.
    while let Some(Ok((stream, client))) = listener.accept().now_or_never()
        && let Ok(place) = places.clone().try_acquire_owned()
    {
        let connection = serve(stream, client, answers.clone(), limits, stopping.clone());
        begin(connection, place, &metrics);
    }
    drop(listener);
    // All places are free again when the last connection is closed.
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let _ = places.acquire_many(all).await;
}

/// Serves a connection in the background.
fn begin(
    connection: impl Future<Output = Result<(), Error>> + Send + 'static,
    place: OwnedSemaphorePermit,
    metrics: &ConnectionMetrics,
) {
    let metrics = metrics.clone();
    tokio::spawn(async move {
        let _open = metrics.opened();
        if let Err(error) = connection.await {
            tracing::trace!(%error, "a connection ended");
            metrics.closed(why(&*error));
        }
        drop(place);
    });
}

/// The host ends, and requests that were on their way have arrived.
async fn lingered(stopping: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stopping.wait_for(|stopping| *stopping).await;
    tokio::time::sleep(LINGER).await;
}

async fn serve(
    stream: TcpStream,
    client: SocketAddr,
    answers: impl Answers,
    limits: Limits,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let version = tokio::select! {
        version = tokio::time::timeout(limits.patience, version(&stream)) => version??,
        () = lingered(&mut stopping) => return Ok(()),
    };
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.patience));
    let io = TokioIo::new(Box::pin(stream));
    let ending = stopping.clone();
    let service = service_fn(move |request| {
        // In a place of its own: hyper moves what it is given about, and this is
        // several kilobytes.
        let answering = Box::pin(answers.clone().answer(request, client));
        let ending = ending.clone();
        async move {
            let mut answer = answering.await;
            if version == Version::Http1 && *ending.borrow() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            streams::answered(answer.body().size_hint().lower());
            Ok::<_, Infallible>(answer)
        }
    });
    match version {
        Version::Http1 => {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.patience)
                .max_headers(FIELDS)
                // Above the bound, so that what is not far above it is answered
                // with a reason.
                .max_buf_size(2 * HEADER)
                .serve_connection(io, service);
            let mut connection = pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => return Ok(ended?),
                () = lingered(&mut stopping) => {}
            }
            connection.as_mut().graceful_shutdown();
            connection.await?;
        }
        Version::Http2 => {
            let streams = Streams::new(limits.patience);
            let connection = http2::Builder::new(streams.clone())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .max_header_list_size(2 * HEADER as u32)
                .keep_alive_interval(limits.patience)
                .keep_alive_timeout(limits.patience / 3)
                .serve_connection(io, service);
            let mut connection = pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => return Ok(ended?),
                () = streams.abused() => return Err(Box::new(Abused)),
                () = streams.idle() => {}
                _ = stopping.wait_for(|stopping| *stopping) => {}
            }
            Pin::as_mut(&mut connection).graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended?,
                () = streams.abused() => return Err(Box::new(Abused)),
            }
        }
    }
    Ok(())
}

/// What to answer to a request whose body broke off. In HTTP/2 that has reset its
/// stream, or is about to, and an answer could overtake it: this waits for the
/// stream's end, which ends what waits.
pub(crate) async fn broken_off(version: http::Version) -> Problem {
    if version == http::Version::HTTP_2 {
        std::future::pending::<()>().await;
    }
    Problem::malformed("The request's body broke off.")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Tells HTTP/2 with prior knowledge (RFC 9113, section 3.4: the client begins
/// with `PRI * HTTP/2.0`) from HTTP/1.1, whose methods do not begin like that.
async fn version(stream: &TcpStream) -> io::Result<Version> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut first = [0; PREFACE.len()];
    let mut pause = Duration::from_millis(5);
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
        // A part of the preface: peeking does not wait for the rest. Many who
        // send no more are not to keep the host busy.
        if stream.ready(Interest::READABLE).await?.is_read_closed() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(Duration::from_secs(1));
    }
}

/// A client opened and cancelled streams without end.
#[derive(Debug, thiserror::Error)]
#[error("the client cancels what it asks for")]
struct Abused;

/// What a connection's error counts as.
fn why(error: &(dyn std::error::Error + 'static)) -> Closed {
    if error.is::<Abused>() {
        return Closed::Abused;
    }
    let mut source = Some(error);
    while let Some(error) = source {
        let slow = error.is::<tokio::time::error::Elapsed>()
            || error.downcast_ref().is_some_and(hyper::Error::is_timeout)
            || error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
        if slow {
            return Closed::Slow;
        }
        if error.downcast_ref().is_some_and(hyper::Error::is_parse) {
            return Closed::Malformed;
        }
        source = error.source();
    }
    Closed::Broken
}
