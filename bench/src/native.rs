//! The native counterpart of a request's path: what a careful person writes by
//! hand with hyper, and with rdkafka where it publishes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bench_work::Answer;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tokio::net::TcpListener;

/// What a body may be at most, as Tidemill has it.
const LARGEST: usize = 1 << 20;

/// Serves what `bench/guests/work` answers. With a broker's address and a value
/// for `linger.ms`, users are published before they are answered.
pub(crate) fn http(address: &str, kafka: Option<(&str, &str)>) {
    let address: SocketAddr = address.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let producer = kafka.map(|(brokers, linger)| producer(brokers, linger));
        let listener = TcpListener::bind(address).await.unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let producer = producer.clone();
            let service = service_fn(move |request| serve(request, producer.clone()));
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .pipeline_flush(true)
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
}

fn producer(brokers: &str, linger: &str) -> FutureProducer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", linger)
        .create()
        .unwrap()
}

async fn serve(
    request: Request<Incoming>,
    producer: Option<FutureProducer>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = if head.method == Method::POST {
        match Limited::new(body, LARGEST).collect().await {
            Ok(body) => Vec::from(body.to_bytes()),
            Err(_) => return Ok(empty(StatusCode::PAYLOAD_TOO_LARGE)),
        }
    } else {
        Vec::new()
    };
    let path = head.uri.path();
    Ok(match producer {
        Some(producer) if path == "/users" => publish(&body, &producer).await,
        _ => response(bench_work::answer(head.method.as_str(), path, body)),
    })
}

async fn publish(body: &[u8], producer: &FutureProducer) -> Response<Full<Bytes>> {
    let Some(user) = bench_work::user(body) else {
        return empty(StatusCode::UNPROCESSABLE_ENTITY);
    };
    let key = user.key();
    let record = FutureRecord::to("user_topic").key(&key).payload(body);
    match producer.send(record, Duration::from_secs(5)).await {
        Ok(_) => response(user.answer()),
        Err(_) => empty(StatusCode::SERVICE_UNAVAILABLE),
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let body = match answer.body {
        std::borrow::Cow::Borrowed(body) => Bytes::from_static(body),
        std::borrow::Cow::Owned(body) => Bytes::from(body),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
    let content_type = HeaderValue::from_static(answer.content_type);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}
