//! What an invocation published, on its way to Kafka, and the commits of events.

use std::sync::Arc;

use opentelemetry::trace::{Link, SpanKind};
use opentelemetry_semantic_conventions::attribute;

use super::context::{Context, Fields, Passed};
use super::invocation::describe_message;
use super::span::Span;
use super::tracing_on;
use crate::effects::{Effects, Message};
use crate::kafka::Placed;
use crate::service::Service;

/// A commit is linked to at most so many events.
const MOST_LINKS: usize = 128;

/// Where the effects of an invocation come from, until they are committed.
#[derive(Debug, Default)]
pub struct Trail(Option<Box<From>>);

#[derive(Debug)]
struct From {
    invocation: Context,
    /// The span of the event that was handled.
    event: Option<Context>,
    sends: Vec<Send>,
}

impl Trail {
    pub(super) fn from(invocation: Option<&Context>) -> Trail {
        let from = |invocation: &Context| {
            Box::new(From {
                invocation: invocation.clone(),
                event: None,
                sends: Vec::new(),
            })
        };
        Trail(invocation.map(from))
    }

    /// They are of an event.
    pub(super) fn handled(&mut self, event: Option<&Context>) {
        if let Some(from) = &mut self.0 {
            from.event = event.cloned();
        }
    }

    /// The broker has acknowledged what was published, in this order.
    pub(crate) fn published(&mut self, placed: &[Placed]) {
        self.settle(placed, None);
    }

    /// The broker has not taken it.
    pub(crate) fn failed(&mut self, kind: &str, why: &str) {
        for mut send in self.sends() {
            send.span.fail(kind, why);
            send.settled = true;
        }
    }

    fn settle(&mut self, placed: &[Placed], commit: Option<&Context>) {
        for mut send in self.sends() {
            if send.messages == 1
                && let Some(placed) = placed.get(send.first)
            {
                send.place(*placed);
            }
            if let Some(commit) = commit {
                send.span.link(commit);
            }
            send.settled = true;
        }
    }

    fn sends(&mut self) -> Vec<Send> {
        let from = self.0.as_mut();
        from.map_or_else(Vec::new, |from| std::mem::take(&mut from.sends))
    }
}

/// What an invocation published to one topic, until it is acknowledged.
#[derive(Debug)]
struct Send {
    span: Span,
    topic: Arc<str>,
    /// The place of the first message.
    first: usize,
    messages: usize,
    settled: bool,
}

impl Send {
    fn begin(within: &Context, first: usize, message: &Message) -> Send {
        let mut span = Span::begin(SpanKind::Producer, "send", Some(within));
        span.rename(format!("send {}", message.topic));
        span.set(attribute::MESSAGING_SYSTEM, "kafka");
        span.set(attribute::MESSAGING_OPERATION_NAME, "send");
        span.set(attribute::MESSAGING_OPERATION_TYPE, "send");
        span.set(attribute::MESSAGING_DESTINATION_NAME, message.topic.clone());
        Send {
            span,
            topic: message.topic.clone(),
            first,
            messages: 0,
            settled: false,
        }
    }

    /// What there is to say when all its messages are known.
    fn describe(&mut self, first: &Message) {
        if self.messages == 1 {
            let (key, value) = (first.key.as_deref(), first.value.as_deref());
            describe_message(&mut self.span, key, value);
        } else {
            let count = i64::try_from(self.messages).unwrap_or(i64::MAX);
            self.span
                .set(attribute::MESSAGING_BATCH_MESSAGE_COUNT, count);
        }
    }

    fn place(&mut self, placed: Placed) {
        let partition = placed.partition.to_string();
        let span = &mut self.span;
        span.set(attribute::MESSAGING_DESTINATION_PARTITION_ID, partition);
        if placed.offset >= 0 {
            span.set(attribute::MESSAGING_KAFKA_OFFSET, placed.offset);
        }
    }
}

impl Drop for Send {
    fn drop(&mut self) {
        if !self.settled {
            self.span.fail("dropped", "its effects were not committed");
        }
    }
}

/// Says in what an invocation published in which trace it was, and begins a span
/// for each topic. `came_with` are the fields of the request or event that it ran
/// for: if tracing is off, their trace is passed on as it is.
pub(crate) fn publish(effects: &mut Effects, came_with: &impl Fields) {
    let Effects {
        messages, trail, ..
    } = effects;
    if messages.is_empty() {
        return;
    }
    match &mut trail.0 {
        Some(from) if from.invocation.0.is_sampled() => {
            from.sends = send(messages, &from.invocation, came_with);
        }
        Some(from) => pass_on(messages, &from.invocation, came_with),
        None => {
            if let Some(context) = Context::incoming(came_with) {
                pass_on(messages, &context, came_with);
            }
        }
    }
}

fn pass_on(messages: &mut [Message], context: &Context, came_with: &impl Fields) {
    let passed = Passed::of(context, came_with);
    for message in messages {
        passed.add_to(&mut message.headers);
    }
}

fn send(messages: &mut [Message], within: &Context, came_with: &impl Fields) -> Vec<Send> {
    // One for each topic that is granted: few, so that looking through them is
    // the fastest way.
    let mut sends: Vec<(Send, Passed)> = Vec::new();
    for (place, message) in messages.iter_mut().enumerate() {
        let known = sends
            .iter()
            .position(|(send, _)| send.topic == message.topic);
        let known = known.unwrap_or_else(|| {
            let send = Send::begin(within, place, message);
            let passed = Passed::of(send.span.context().unwrap_or(within), came_with);
            sends.push((send, passed));
            sends.len() - 1
        });
        if let Some((send, passed)) = sends.get_mut(known) {
            send.messages += 1;
            passed.add_to(&mut message.headers);
        }
    }
    let sends = sends.into_iter().map(|(mut send, _)| {
        if let Some(first) = messages.get(send.first) {
            send.describe(first);
        }
        send
    });
    sends.collect()
}

/// A commit of events, all or none. It belongs to no event alone: it begins a
/// trace, and is linked to events that are sampled.
#[derive(Debug)]
pub(crate) struct Commit(Span);

impl Commit {
    /// Of the effects of these events of a service.
    pub(crate) fn begin<'a>(
        service: &Service,
        all: impl Iterator<Item = &'a Effects> + Clone,
    ) -> Commit {
        let Some(on) = tracing_on() else {
            return Commit(Span::default());
        };
        let events = all.clone().filter_map(|effects| {
            let from = effects.trail.0.as_ref()?;
            from.event.as_ref().filter(|event| event.0.is_sampled())
        });
        let links = events.take(MOST_LINKS);
        let links: Vec<Link> = links
            .map(|event| Link::with_context(event.0.clone()))
            .collect();
        if links.is_empty() {
            return Commit(Span::default());
        }
        let mut span = Span::begin_on(on, SpanKind::Client, "commit", None, links);
        let count = i64::try_from(all.count()).unwrap_or(i64::MAX);
        span.set(attribute::MESSAGING_SYSTEM, "kafka");
        span.set(attribute::MESSAGING_OPERATION_NAME, "commit");
        span.set(attribute::MESSAGING_OPERATION_TYPE, "settle");
        let group = service.current().manifest.group().to_owned();
        span.set(attribute::MESSAGING_CONSUMER_GROUP_NAME, group);
        span.set(attribute::FAAS_NAME, service.name().to_owned());
        span.set(attribute::MESSAGING_BATCH_MESSAGE_COUNT, count);
        Commit(span)
    }

    /// All is durable: of each event the effects, and where its messages are, in
    /// order, if that is known.
    pub(crate) fn committed<'a>(self, all: impl Iterator<Item = (&'a mut Effects, &'a [Placed])>) {
        // Nothing is sampled.
        let Some(commit) = self.0.context() else {
            return;
        };
        for (effects, placed) in all {
            effects.trail.settle(placed, Some(commit));
        }
    }

    /// It is to be made again, or nobody knows.
    pub(crate) fn failed(mut self, kind: &'static str, why: &str) {
        self.0.fail(kind, why);
    }
}
