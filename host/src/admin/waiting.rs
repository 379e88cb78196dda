//! What both listeners answer while Kafka has never been reached: the host cannot
//! serve yet, and says why.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::kafka::Cluster;
use crate::problem::Problem;

/// A Kafka that answers sooner is not worth an answer: clients wait that long.
const SOON: Duration = Duration::from_secs(1);
/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at once, on each listener.
const CONNECTIONS: usize = 100;

/// Which listener a client came by.
#[derive(Clone, Copy)]
enum Side {
    Public,
    Admin,
}

/// Answers on both listeners until it is dropped. Clients that were let in by then
/// have their answer still.
pub async fn answer(
    public: &TcpListener,
    admin: &TcpListener,
    cluster: &Arc<Cluster>,
) -> Infallible {
    tokio::time::sleep(SOON).await;
    tokio::select! {
        never = listen(public, Side::Public, cluster) => never,
        never = listen(admin, Side::Admin, cluster) => never,
    }
}

async fn listen(listener: &TcpListener, side: Side, cluster: &Arc<Cluster>) -> Infallible {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = places.clone().acquire_owned().await;
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let cluster = cluster.clone();
        let service = service_fn(move |request| {
            let response = respond(&request, side, &cluster);
            std::future::ready(Ok::<_, Infallible>(response))
        });
        tokio::spawn(async move {
            let _place = place;
            // One answer a connection: the next one may be another's to give.
            let connection = http1::Builder::new()
                .keep_alive(false)
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = tokio::time::timeout(PATIENCE, connection).await {
                tracing::trace!(%error, "a connection ended");
            }
        });
    }
}

fn respond(request: &Request<Incoming>, side: Side, cluster: &Cluster) -> Response<Full<Bytes>> {
    match (side, request.uri().path()) {
        (Side::Admin, "/healthz") => Response::new(Full::from("ok\n")),
        (Side::Admin, "/readyz") => {
            let trouble = cluster.trouble();
            let trouble = trouble.unwrap_or_else(|| "the host is still starting".to_owned());
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let problem = Problem::new(status, "not-ready", "Not ready", trouble);
            problem.response(&HeaderMap::new())
        }
        _ => Problem::starting().response(request.headers()),
    }
}
