//! Tracing by OpenTelemetry: what a request or an event led to, over services and
//! hosts. OpenTelemetry is named in this folder alone.
//!
//! It is off unless the environment names a collector (`settings`). Off, a span is
//! nothing and costs one look; a trace that a client or a producer began is still
//! passed on to the events that come of it (`context`). On, there are spans (`span`) of
//! requests (`server`), calls of handlers (`invocation`), publishing and commits
//! (`publishing`), after the semantic conventions that docs/tracing.md names. A
//! task sends them (`export`); nothing ever waits for it.
//!
//! There is one tracer in a process, as there is one log.

mod context;
mod export;
mod invocation;
mod publishing;
mod server;
mod settings;
mod span;

use std::sync::OnceLock;
use std::time::Duration;

pub(crate) use opentelemetry::trace::TraceId;
use opentelemetry::trace::{Link, SpanKind, TraceContextExt, TracerProvider};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{
    EnvResourceDetector, ResourceDetector, TelemetryResourceDetector,
};
use opentelemetry_sdk::trace::{
    Config, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider, ShouldSample,
};
use opentelemetry_semantic_conventions::{SCHEMA_URL, resource};
use parking_lot::Mutex;

pub use context::Context;
use context::Fields;
pub use export::Counts;
pub(crate) use invocation::{Invocation, Process};
pub use publishing::Trail;
pub(crate) use publishing::{Commit, publish};
pub(crate) use server::Server;
pub use settings::{Settings, TraceError};

/// The trace that header fields name, for the log.
pub(crate) fn trace_id(fields: &impl Fields) -> Option<TraceId> {
    Context::incoming(fields).map(|context| context.trace_id())
}

/// How long the end of the host may wait for the last spans to be sent.
const PATIENCE: Duration = Duration::from_millis(1500);

static TRACING: OnceLock<Tracing> = OnceLock::new();

#[derive(Debug)]
struct Tracing {
    tracer: SdkTracer,
    /// Whether what was not sampled where it came from is not sampled here.
    parent_based: bool,
    sending: Mutex<Option<export::Sending>>,
}

/// Tracing, if it is on.
fn tracing_on() -> Option<&'static Tracing> {
    TRACING.get()
}

/// Switches tracing on, for the rest of the process. Needs a runtime. `host` is
/// this host's id.
pub fn start(settings: &Settings, host: &str, counts: Counts) -> Result<(), TraceError> {
    let resource = resource_of(host);
    let (queue, sending) = export::start(settings, &resource, counts)?;
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(Linked(Config::default().sampler))
        .with_span_processor(queue)
        .build();
    let scope = InstrumentationScope::builder("tidemill")
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(SCHEMA_URL)
        .build();
    let started = TRACING.set(Tracing {
        tracer: provider.tracer_with_scope(scope),
        parent_based: settings.parent_based,
        sending: Mutex::new(Some(sending)),
    });
    if started.is_ok() {
        tracing::info!(event = "spans.on", "spans are exported by OpenTelemetry");
    }
    Ok(())
}

/// Sends what has ended, within a bound. Spans that end later are lost.
pub async fn stop() {
    let sending = tracing_on().and_then(|on| on.sending.lock().take());
    if let Some(sending) = sending {
        sending.finish(PATIENCE).await;
    }
}

/// What all spans have in common. What the environment says goes before.
fn resource_of(host: &str) -> Resource {
    let own = Resource::builder_empty()
        .with_service_name("tidemill")
        .with_attributes([
            KeyValue::new(resource::SERVICE_VERSION, env!("CARGO_PKG_VERSION")),
            KeyValue::new(resource::SERVICE_INSTANCE_ID, host.to_owned()),
        ])
        .with_detectors(&[
            Box::new(TelemetryResourceDetector) as Box<dyn ResourceDetector>,
            Box::new(EnvResourceDetector::new()),
        ]);
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => own.with_service_name(name).build(),
        _ => own.build(),
    }
}

/// Samples what begins a trace if something sampled led to it, and asks another
/// sampler about everything else.
#[derive(Clone, Debug)]
struct Linked(Box<dyn ShouldSample>);

impl ShouldSample for Linked {
    fn should_sample(
        &self,
        parent: Option<&opentelemetry::Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let begins = !parent.is_some_and(TraceContextExt::has_active_span);
        if begins && links.iter().any(|link| link.span_context.is_sampled()) {
            return SamplingResult {
                decision: SamplingDecision::RecordAndSample,
                attributes: Vec::new(),
                trace_state: Default::default(),
            };
        }
        self.0
            .should_sample(parent, trace, name, kind, attributes, links)
    }
}
