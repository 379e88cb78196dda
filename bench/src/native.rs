//! The native counterpart of a request's path: what a careful person writes by
//! hand with hyper.

use std::convert::Infallible;
use std::fs;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use uuid::Uuid;

/// Serves what `bench/guests/answer` answers, and writes its address to a file.
pub(crate) fn http(file: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let part = format!("{file}.part");
        fs::write(&part, listener.local_addr().unwrap().to_string()).unwrap();
        fs::rename(part, file).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .pipeline_flush(true)
                    .serve_connection(TokioIo::new(stream), service_fn(answer)),
            );
        }
    });
}

async fn answer(
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (content_type, status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/hello") => ("text/plain", StatusCode::OK, Bytes::from("hello")),
        (&Method::POST, "/users") => {
            let body = Limited::new(request.into_body(), 1 << 20).collect().await;
            match body.ok().and_then(|body| created(&body.to_bytes())) {
                Some(created) => ("application/json", StatusCode::OK, created),
                None => (
                    "application/json",
                    StatusCode::UNPROCESSABLE_ENTITY,
                    Bytes::new(),
                ),
            }
        }
        _ => ("text/plain", StatusCode::NOT_FOUND, Bytes::new()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(content_type),
    );
    Ok(response)
}

/// The answer to a user; none if it is not a JSON object.
fn created(body: &[u8]) -> Option<Bytes> {
    #[derive(serde::Serialize)]
    struct Created<'a> {
        message: &'static str,
        id: &'a RawValue,
    }
    let user: std::collections::BTreeMap<String, &RawValue> = serde_json::from_slice(body).ok()?;
    let made;
    let id = match user.get("id") {
        Some(id) => id,
        None => {
            made = RawValue::from_string(format!("\"{}\"", Uuid::now_v7())).unwrap();
            &*made
        }
    };
    let created = Created {
        message: "User created and sent to Kafka",
        id,
    };
    serde_json::to_vec(&created).ok().map(Bytes::from)
}
