//! The public listener: connections of clients to the services.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::answer::answer;
use super::connections::{self, Answers, Limits};
use crate::host::Host;

/// Serves until told to stop, then lets what was accepted finish.
pub async fn run(
    listener: TcpListener,
    host: Arc<Host>,
    limits: Limits,
    stopping: watch::Receiver<bool>,
) {
    let metrics = host.metrics.connections("public");
    let services = Services {
        host,
        patience: limits.patience,
    };
    connections::run(listener, services, limits, metrics, stopping).await;
}

#[derive(Clone)]
struct Services {
    host: Arc<Host>,
    patience: Duration,
}

impl Answers for Services {
    type Body = Full<Bytes>;

    fn answer(
        self,
        request: http::Request<Incoming>,
        _client: SocketAddr,
    ) -> impl Future<Output = http::Response<Full<Bytes>>> + Send + 'static {
        answer(self.host, request, self.patience)
    }
}
