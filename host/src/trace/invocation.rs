//! The spans of a call of a handler, and of an event's way through one.

use opentelemetry::trace::SpanKind;
use opentelemetry_semantic_conventions::attribute;

use super::context::Context;
use super::publishing::Trail;
use super::span::{Span, short};
use super::tracing_on;
use crate::effects::Effects;
use crate::invocation::{Event, Failure};
use crate::revision::Revision;

/// How often an event has been run, from 1: the conventions have no name for it.
const ATTEMPT: &str = "tidemill.attempt";

/// An attempt to handle an event, with the wait for a slot.
///
/// It is below whoever published the event, and not only linked to it: an event
/// is handled by itself, so it is a part of what led to it, and one trace shows
/// all of that.
#[derive(Debug)]
pub(crate) struct Process(Span);

impl Process {
    pub(crate) fn begin(revision: &Revision, event: &Event, attempt: u32) -> Process {
        let Some(on) = tracing_on() else {
            return Process(Span::default());
        };
        let parent = Context::incoming(&event.headers);
        let kind = SpanKind::Consumer;
        let span = Span::begin_on(on, kind, "process", parent.as_ref(), Vec::new());
        let mut process = Process(span);
        if process.0.is_recorded() {
            process.describe(revision, event, attempt);
        }
        process
    }

    fn describe(&mut self, revision: &Revision, event: &Event, attempt: u32) {
        let span = &mut self.0;
        let manifest = &revision.manifest;
        span.rename(format!("process {}", event.topic));
        span.set(attribute::MESSAGING_SYSTEM, "kafka");
        span.set(attribute::MESSAGING_OPERATION_NAME, "process");
        span.set(attribute::MESSAGING_OPERATION_TYPE, "process");
        span.set(attribute::MESSAGING_DESTINATION_NAME, event.topic.clone());
        let partition = event.partition.to_string();
        span.set(attribute::MESSAGING_DESTINATION_PARTITION_ID, partition);
        span.set(attribute::MESSAGING_KAFKA_OFFSET, event.offset);
        let group = manifest.group().to_owned();
        span.set(attribute::MESSAGING_CONSUMER_GROUP_NAME, group);
        describe_message(span, event.key.as_deref(), event.value.as_deref());
        span.set(attribute::FAAS_NAME, manifest.name.clone());
        span.set(ATTEMPT, i64::from(attempt));
    }

    /// The call of the handler.
    pub(crate) fn invocation(&self, revision: &Revision, event: &Event, cold: bool) -> Invocation {
        let mut invocation = Invocation::begin(self.0.context(), "pubsub", revision, cold);
        if invocation.0.is_recorded() {
            let id = format!("{}/{}@{}", event.topic, event.partition, event.offset);
            invocation.0.set(attribute::FAAS_INVOCATION_ID, id);
        }
        invocation
    }

    pub(crate) fn end(mut self, ran: &mut Result<Effects, Failure>) {
        match ran {
            Ok(effects) => effects.trail.handled(self.0.context()),
            Err(failure) => self.0.fail_by(failure),
        }
    }
}

/// A call of a handler.
#[derive(Debug)]
pub(crate) struct Invocation(Span);

impl Invocation {
    /// A call for a request, below a span of the host's; alone if there is none.
    pub(crate) fn of_request(within: Option<&Context>, revision: &Revision, cold: bool) -> Self {
        Invocation::begin(within, "http", revision, cold)
    }

    fn begin(
        within: Option<&Context>,
        trigger: &'static str,
        revision: &Revision,
        cold: bool,
    ) -> Invocation {
        let mut span = Span::begin(SpanKind::Internal, "invocation", within);
        if span.is_recorded() {
            let name = &revision.manifest.name;
            span.rename(name.clone());
            span.set(attribute::FAAS_NAME, name.clone());
            span.set(attribute::FAAS_TRIGGER, trigger);
            span.set(attribute::FAAS_VERSION, revision.short().to_owned());
            span.set(attribute::FAAS_COLDSTART, cold);
        }
        Invocation(span)
    }

    /// The handler answered with a status that says it has failed.
    pub(crate) fn fail(&mut self, status: http::StatusCode) {
        self.0.fail(status.as_str(), "");
    }

    /// What it came to. Its effects carry on from where it is.
    pub(crate) fn end<T>(mut self, ran: &mut Result<(T, Effects), Failure>) {
        match ran {
            Ok((_, effects)) => {
                // Nobody asks where an unsampled one was that publishes nothing.
                if self.0.is_recorded() || !effects.messages.is_empty() {
                    effects.trail = Trail::from(self.0.context());
                }
            }
            Err(failure) => self.0.fail_by(failure),
        }
    }
}

/// Key and value of a record, as far as they are shown.
pub(super) fn describe_message(span: &mut Span, key: Option<&[u8]>, value: Option<&[u8]>) {
    // A key without a form as text is left out, as the conventions ask.
    if let Some(key) = key.and_then(|key| std::str::from_utf8(key).ok()) {
        span.set(
            attribute::MESSAGING_KAFKA_MESSAGE_KEY,
            short(key).to_owned(),
        );
    }
    match value {
        Some(value) => {
            let size = i64::try_from(value.len()).unwrap_or(i64::MAX);
            span.set(attribute::MESSAGING_MESSAGE_BODY_SIZE, size);
        }
        None => span.set(attribute::MESSAGING_KAFKA_MESSAGE_TOMBSTONE, true),
    }
}
