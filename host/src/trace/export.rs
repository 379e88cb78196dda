//! Ended spans, on their way to a collector: OTLP over HTTP.
//!
//! Nothing waits for it. Spans wait in a queue, and are lost when it is full or
//! the collector does not take them; how many is counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_openssl::client::legacy::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use openssl::ssl::{SslConnector, SslConnectorBuilder, SslMethod};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use prometheus::IntCounter;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::settings::{Settings, TraceError};

/// How long a connection to the collector may take.
const CONNECT: Duration = Duration::from_secs(5);
/// What is read of a collector's answer.
const ANSWER: usize = 1 << 20;

/// How many spans there were.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Taken by the collector.
    pub exported: IntCounter,
    /// Thrown away.
    pub lost: IntCounter,
}

/// The host's end of the queue.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    counts: Counts,
    full: AtomicBool,
}

/// The task that sends what is in the queue.
#[derive(Debug)]
pub(super) struct Sending {
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
    counts: Counts,
}

/// Starts sending. Needs a runtime.
pub(super) fn start(
    settings: &Settings,
    resource: &Resource,
    counts: Counts,
) -> Result<(Queue, Sending), TraceError> {
    let mut exporter = OtlpExporter::builder()
        .with_http()
        .with_http_client(Collector::new(settings)?)
        .build()
        // What it says has the endpoint in it, which may have a password.
        .map_err(|_| TraceError::Endpoint)?;
    exporter.set_resource(resource);
    let (spans, ended) = mpsc::channel(settings.queue);
    let (closing, closed) = watch::channel(false);
    let batches = Batches {
        ended,
        closed,
        exporter,
        counts: counts.clone(),
        delay: settings.delay,
        most: settings.batch,
        failing: false,
    };
    let queue = Queue {
        spans,
        counts: counts.clone(),
        full: AtomicBool::new(false),
    };
    let task = tokio::spawn(batches.run());
    let sending = Sending {
        closing,
        task,
        counts,
    };
    Ok((queue, sending))
}

impl Sending {
    /// Sends what is left, for as long as it may take.
    pub(super) async fn finish(self, patience: Duration) {
        self.closing.send_replace(true);
        let finished = tokio::time::timeout(patience, self.task).await;
        let lost = self.counts.lost.get();
        if finished.is_err() {
            tracing::warn!(
                event = "spans.unsent",
                lost,
                "the collector did not take the last spans in time"
            );
        }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_ok() {
            return;
        }
        self.counts.lost.inc();
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                event = "spans.overflow",
                "spans end faster than the collector takes them, and are lost; \
                 tidemill_spans_lost_total counts them"
            );
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Spans on their way from the queue to the collector.
struct Batches {
    ended: mpsc::Receiver<SpanData>,
    closed: watch::Receiver<bool>,
    exporter: OtlpExporter,
    counts: Counts,
    delay: Duration,
    most: usize,
    failing: bool,
}

impl Batches {
    /// Runs until it is closed and all that was in the queue is sent.
    async fn run(mut self) {
        loop {
            let batch = self.next().await;
            if batch.is_empty() {
                return;
            }
            self.send(batch).await;
        }
    }

    /// The next spans to send together: as many as may be, or those that came
    /// while the first of them waited.
    async fn next(&mut self) -> Vec<SpanData> {
        let mut batch = Vec::new();
        let mut until = None;
        while batch.len() < self.most {
            let room = self.most - batch.len();
            let closing = *self.closed.borrow_and_update();
            if closing {
                self.ended.close();
            }
            tokio::select! {
                came = self.ended.recv_many(&mut batch, room) => if came == 0 { break },
                () = wait_until(until), if until.is_some() => break,
                Ok(()) = self.closed.changed(), if !closing => {}
            }
            until = until.or_else(|| Some(Instant::now() + self.delay));
        }
        batch
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        match self.exporter.export(batch).await {
            Ok(()) => {
                self.counts.exported.inc_by(spans);
                if std::mem::take(&mut self.failing) {
                    let lost = self.counts.lost.get();
                    tracing::info!(
                        event = "spans.taken",
                        lost,
                        "the collector takes spans again"
                    );
                }
            }
            Err(error) => {
                self.counts.lost.inc_by(spans);
                if !std::mem::replace(&mut self.failing, true) {
                    let why = cause(&error);
                    tracing::warn!(
                        event = "spans.lost",
                        "the collector does not take spans, they are lost: {why}"
                    );
                }
            }
        }
    }
}

async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn cause(error: &OTelSdkError) -> String {
    match error {
        OTelSdkError::InternalFailure(why) => why.clone(),
        other => other.to_string(),
    }
}

/// The client that asks the collector.
#[derive(Debug)]
struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

impl Collector {
    fn new(settings: &Settings) -> Result<Collector, TraceError> {
        let tls = |error: openssl::error::ErrorStack| TraceError::Tls(error.to_string());
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT));
        http.set_nodelay(true);
        let mut ssl = SslConnector::builder(SslMethod::tls()).map_err(tls)?;
        if settings.tls {
            trust(&mut ssl, settings.certificates.as_deref()).map_err(tls)?;
        }
        let connector = HttpsConnector::with_connector(http, ssl).map_err(tls)?;
        Ok(Collector {
            client: Client::builder(TokioExecutor::new()).build(connector),
            timeout: settings.timeout,
        })
    }
}

/// Trusts the certificates of a file, or else those that the machine trusts. The
/// OpenSSL that is built along does not know where these are.
fn trust(
    ssl: &mut SslConnectorBuilder,
    certificates: Option<&str>,
) -> Result<(), openssl::error::ErrorStack> {
    if let Some(file) = certificates {
        return ssl.set_ca_file(file);
    }
    match openssl_probe::probe().cert_file {
        Some(file) => ssl.set_ca_file(file),
        None => Ok(()),
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let asked = self.client.request(request.map(Full::new));
        let answered = async {
            let (parts, body) = asked.await?.into_parts();
            let body = Limited::new(body, ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>(http::Response::from_parts(parts, body))
        };
        tokio::time::timeout(self.timeout, answered).await?
    }
}
