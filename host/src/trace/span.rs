//! A span: none if tracing is off, only a place in a trace if it is not sampled.

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer,
};
use opentelemetry::{KeyValue, Value};
use opentelemetry_semantic_conventions::attribute;

use super::context::Context;
use super::{Tracing, tracing_on};
use crate::invocation::Failure;

/// Longer text of clients, keys and failures is cut.
const LONGEST: usize = 256;

/// A span. One that is dropped ends then.
#[derive(Debug, Default)]
pub(super) struct Span {
    /// None: tracing is off.
    context: Option<Context>,
    /// None: it is not sampled.
    recorded: Option<Box<opentelemetry_sdk::trace::Span>>,
}

impl Span {
    /// Begins one, if tracing is on.
    pub(super) fn begin(kind: SpanKind, name: &'static str, parent: Option<&Context>) -> Span {
        match tracing_on() {
            Some(on) => Span::begin_on(on, kind, name, parent, Vec::new()),
            None => Span::default(),
        }
    }

    /// Begins one that may be linked to others.
    pub(super) fn begin_on(
        on: &Tracing,
        kind: SpanKind,
        name: &'static str,
        parent: Option<&Context>,
        links: Vec<Link>,
    ) -> Span {
        if let Some(parent) = parent.filter(|parent| on.is_decided_against(parent)) {
            return Span {
                context: Some(parent.clone()),
                recorded: None,
            };
        }
        let mut around = opentelemetry::Context::new();
        if let Some(parent) = parent {
            around = around.with_remote_span_context(parent.0.clone());
        }
        let mut builder = SpanBuilder::from_name(name).with_kind(kind);
        if !links.is_empty() {
            builder = builder.with_links(links);
        }
        let span = on.tracer.build_with_context(builder, &around);
        Span {
            context: Some(Context(span.span_context().clone())),
            recorded: span.is_recording().then(|| Box::new(span)),
        }
    }

    /// Where it is. None if tracing is off.
    pub(super) fn context(&self) -> Option<&Context> {
        self.context.as_ref()
    }

    /// Whether anybody will see what is set.
    pub(super) fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    pub(super) fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.recorded {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    pub(super) fn rename(&mut self, name: String) {
        if let Some(span) = &mut self.recorded {
            span.update_name(name);
        }
    }

    pub(super) fn link(&mut self, to: &Context) {
        if let Some(span) = &mut self.recorded {
            span.add_link(to.0.clone(), Vec::new());
        }
    }

    /// What it was for has failed.
    pub(super) fn fail(&mut self, kind: &str, why: &str) {
        if let Some(span) = &mut self.recorded {
            span.set_attribute(KeyValue::new(attribute::ERROR_TYPE, kind.to_owned()));
            span.set_status(Status::error(short(why).to_owned()));
        }
    }

    /// A call of a handler has failed.
    pub(super) fn fail_by(&mut self, failure: &Failure) {
        if self.is_recorded() {
            // What follows the first line is a trap's backtrace.
            let why = failure.to_string();
            self.fail(failure.name(), why.lines().next().unwrap_or_default());
        }
    }
}

impl Tracing {
    /// Whether it is known without asking the sampler that nothing below a place
    /// is sampled: this host was asked about it already, or heeds who was.
    fn is_decided_against(&self, parent: &Context) -> bool {
        !parent.0.is_sampled() && (self.parent_based || !parent.0.is_remote())
    }
}

/// The beginning of a text.
pub(super) fn short(text: &str) -> &str {
    let end = text.floor_char_boundary(LONGEST);
    text.get(..end).unwrap_or(text)
}
