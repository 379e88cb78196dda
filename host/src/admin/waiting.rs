//! What both listeners answer while the host waits for a Kafka cluster that it has
//! never seen: it does not know yet which state on its disk is that cluster's.
//!
//! It lives, and is not ready; everything else is a 503.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::problem::Problem;

/// How long answers that are on their way are waited for in the end.
const FINISH: Duration = Duration::from_secs(1);

/// Which listener it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The services'.
    Public,
    /// The operators'.
    Admin,
}

/// Answers on a listener's address until `over`, or its sender, is. The listener
/// itself is not touched: connections that come later are its own.
pub async fn answer(
    listener: &TcpListener,
    side: Side,
    servers: &str,
    mut over: watch::Receiver<bool>,
) -> io::Result<()> {
    let twin = std::net::TcpListener::from(listener.as_fd().try_clone_to_owned()?);
    let twin = TcpListener::from_std(twin)?;
    let problem = Problem::never_seen(servers);
    let mut router = Router::new();
    if side == Side::Admin {
        router = router.route("/healthz", get(|| async { "ok\n" }));
    }
    let router = router.fallback(move |headers: HeaderMap| async move {
        let mut response = problem.response(&headers);
        // The next request is for who comes after this.
        let close = axum::http::HeaderValue::from_static("close");
        response
            .headers_mut()
            .insert(axum::http::header::CONNECTION, close);
        response
    });
    let mut ending = over.clone();
    let serving = axum::serve(twin, router).with_graceful_shutdown(async move {
        let _ = over.wait_for(|over| *over).await;
    });
    tokio::select! {
        served = serving.into_future() => served,
        // A client that is slow holds nobody up.
        () = async {
            let _ = ending.wait_for(|over| *over).await;
            tokio::time::sleep(FINISH).await;
        } => Ok(()),
    }
}
