//! The native counterparts: what a careful person writes by hand with hyper and
//! with librdkafka.

use std::convert::Infallible;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use rdkafka::{ClientContext, Offset, TopicPartitionList};
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

/// Passes events on, each at least once: offsets are committed when what came
/// before them has been acknowledged.
pub(crate) fn events(brokers: &str, group: &str) {
    /// How often offsets are committed.
    const COMMIT: Duration = Duration::from_millis(100);

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("fetch.queue.backoff.ms", "10")
        .create()
        .unwrap();
    consumer.subscribe(&["bench-in"]).unwrap();
    let failed = Arc::new(AtomicBool::new(false));
    let producer: ThreadedProducer<Reports> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("linger.ms", "1")
        .set("queue.buffering.max.messages", "100000")
        .create_with_context(Reports(Arc::clone(&failed)))
        .unwrap();

    let mut next = TopicPartitionList::new();
    let mut committed = Instant::now();
    loop {
        match consumer.poll(Duration::from_millis(10)) {
            Some(Ok(event)) => {
                let mut record = BaseRecord::to("bench-out");
                if let Some(key) = event.key() {
                    record = record.key(key);
                }
                if let Some(value) = event.payload() {
                    record = record.payload(value);
                }
                while let Err((error, back)) = producer.send::<[u8], [u8]>(record) {
                    let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
                    assert_eq!(error, full, "not published");
                    record = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                let offset = Offset::Offset(event.offset() + 1);
                match next.find_partition("bench-in", event.partition()) {
                    Some(mut partition) => partition.set_offset(offset).unwrap(),
                    None => next
                        .add_partition_offset("bench-in", event.partition(), offset)
                        .unwrap(),
                }
            }
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
        if next.count() > 0 && committed.elapsed() >= COMMIT {
            use rdkafka::producer::Producer;
            while producer.in_flight_count() > 0 {
                std::thread::sleep(Duration::from_micros(100));
            }
            assert!(
                !failed.load(Ordering::Relaxed),
                "an event was not published"
            );
            consumer.commit(&next, CommitMode::Async).unwrap();
            next = TopicPartitionList::new();
            committed = Instant::now();
        }
    }
}

/// Notes whether a delivery failed.
struct Reports(Arc<AtomicBool>);

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
