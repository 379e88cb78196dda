//! Where in a trace something happens, and how the header fields of requests and
//! events say it: W3C Trace Context, level 2, and W3C Baggage.

use std::str::FromStr;

use bytes::Bytes;
use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
const BAGGAGE: &str = "baggage";

/// What must be passed on of a `tracestate`; a longer one is dropped.
const LONGEST_STATE: usize = 512;
/// What must be passed on of `baggage` (W3C Baggage, section 3.3.2); a longer one
/// is dropped.
const LONGEST_BAGGAGE: usize = 8192;

/// Header fields of a record.
pub(crate) type Headers = Vec<(String, Option<Bytes>)>;

/// Header fields that may say in which trace something happens.
pub(crate) trait Fields {
    /// All values of a field.
    fn values(&self, name: &'static str) -> impl Iterator<Item = &[u8]>;
}

impl Fields for HeaderMap {
    fn values(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.get_all(name).iter().map(|value| value.as_bytes())
    }
}

impl Fields for Headers {
    fn values(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.iter()
            .filter(move |(other, _)| other.eq_ignore_ascii_case(name))
            .filter_map(|(_, value)| value.as_deref())
    }
}

/// A place in a trace: a span of this host's, or of whoever sent a request or an
/// event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context(pub(super) SpanContext);

impl Context {
    /// What header fields say. None if they do not, or not as they should: then a
    /// trace begins.
    pub(crate) fn incoming(fields: &impl Fields) -> Option<Context> {
        let mut parents = fields.values(PARENT);
        let (trace, span, flags) = parent(parents.next()?)?;
        if parents.next().is_some() {
            return None;
        }
        let state = state(fields);
        Some(Context(SpanContext::new(trace, span, flags, true, state)))
    }

    /// Names the trace in logs.
    pub(crate) fn trace_id(&self) -> TraceId {
        self.0.trace_id()
    }

    /// Written digit by digit: each event that is published has one.
    fn parent(&self) -> Bytes {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut text[3..35], &self.0.trace_id().to_bytes());
        write_hex(&mut text[36..52], &self.0.span_id().to_bytes());
        write_hex(&mut text[53..], &[self.0.trace_flags().to_u8()]);
        Bytes::copy_from_slice(&text)
    }
}

fn write_hex(text: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (two, byte) in text.chunks_exact_mut(2).zip(bytes) {
        two.copy_from_slice(&[
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ]);
    }
}

/// The ids and flags of a `traceparent`.
fn parent(value: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    let text = std::str::from_utf8(value).ok()?;
    let (known, more) = (text.get(..55)?, text.get(55..)?);
    let mut parts = known.split('-');
    let mut part = |length: usize| {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let part = parts.next()?;
        (part.len() == length && part.bytes().all(digit)).then_some(part)
    };
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let fits = match version {
        "ff" => false,
        "00" => more.is_empty(),
        // A later version may say more behind what is known of it.
        _ => more.is_empty() || more.starts_with('-'),
    };
    let trace = TraceId::from_hex(trace).ok()?;
    let span = SpanId::from_hex(span).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    (fits && trace != TraceId::INVALID && span != SpanId::INVALID).then_some((trace, span, flags))
}

fn state(fields: &impl Fields) -> TraceState {
    let text = joined(fields, STATE, LONGEST_STATE);
    let state = text.and_then(|text| TraceState::from_str(&text).ok());
    state.unwrap_or_default()
}

/// A list that may be in several fields.
fn joined(fields: &impl Fields, name: &'static str, longest: usize) -> Option<String> {
    let mut all = String::new();
    for value in fields.values(name) {
        if !all.is_empty() {
            all.push(',');
        }
        all.push_str(std::str::from_utf8(value).ok()?);
        if all.len() > longest {
            return None;
        }
    }
    (!all.is_empty()).then_some(all)
}

/// The fields that say in which trace a message was published.
pub(super) struct Passed {
    fields: Vec<(&'static str, Bytes)>,
}

impl Passed {
    /// From a place in a trace, with the baggage that came along.
    pub(super) fn of(context: &Context, came_with: &impl Fields) -> Passed {
        let mut fields = vec![(PARENT, context.parent())];
        let state = context.0.trace_state().header();
        if !state.is_empty() {
            fields.push((STATE, state.into()));
        }
        if let Some(baggage) = joined(came_with, BAGGAGE, LONGEST_BAGGAGE) {
            fields.push((BAGGAGE, baggage.into()));
        }
        Passed { fields }
    }

    /// Adds them to a message, unless its handler has said in which trace it is.
    pub(super) fn add_to(&self, headers: &mut Headers) {
        if headers.values(PARENT).next().is_some() {
            return;
        }
        let fields = self.fields.iter();
        headers.extend(fields.map(|(name, value)| ((*name).to_owned(), Some(value.clone()))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn fields(fields: &[(&str, &str)]) -> Headers {
        let fields = fields.iter();
        fields
            .map(|(name, value)| {
                let value = Bytes::copy_from_slice(value.as_bytes());
                ((*name).to_owned(), Some(value))
            })
            .collect()
    }

    fn incoming(parent: &str) -> Option<Context> {
        Context::incoming(&fields(&[("traceparent", parent)]))
    }

    #[test]
    fn a_trace_is_read_by_the_rules_of_w3c() {
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        let context = incoming(&parent).unwrap();
        assert_eq!(context.trace_id().to_string(), TRACE);
        assert!(context.0.is_sampled() && context.0.is_remote());
        assert_eq!(context.parent(), parent);
        // Flags that nobody knows yet are not passed on.
        let context = incoming(&format!("00-{TRACE}-b7ad6b7169203331-fe")).unwrap();
        assert!(context.parent().ends_with(b"-00"));
        // A later version is read as far as it is known.
        for more in ["", "-what-comes"] {
            let later = format!("cc-{TRACE}-b7ad6b7169203331-01{more}");
            assert!(incoming(&later).is_some(), "{later}");
        }
    }

    #[test]
    fn what_is_not_by_the_rules_begins_a_trace() {
        let none = "0".repeat(32);
        let bad = [
            String::new(),
            "garbage".to_owned(),
            format!("00-{TRACE}-b7ad6b7169203331"),
            format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            format!("00-{TRACE}-b7ad6b7169203331-0"),
            format!("ff-{TRACE}-b7ad6b7169203331-01"),
            format!("0-{TRACE}-b7ad6b7169203331-001"),
            format!("00-{none}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
            format!("00_{TRACE}_b7ad6b7169203331_01"),
            format!("cc-{TRACE}-b7ad6b7169203331-01.more"),
            format!("00-{TRACE}-b7ad6b716920333é-01"),
        ];
        for parent in bad {
            assert_eq!(incoming(&parent), None, "{parent}");
        }
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        let twice = fields(&[("traceparent", &parent), ("traceparent", &parent)]);
        assert_eq!(Context::incoming(&twice), None);
    }

    #[test]
    fn state_and_baggage_are_passed_on_if_they_are_not_too_long() {
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        let long = format!("a={}", "x".repeat(600));
        let with = |state: &str| {
            let came = fields(&[
                ("Traceparent", &parent),
                ("tracestate", "a=1"),
                ("tracestate", state),
                ("baggage", "k=v"),
            ]);
            let mut headers = Headers::new();
            let context = Context::incoming(&came).unwrap();
            Passed::of(&context, &came).add_to(&mut headers);
            headers
        };
        let state_and_baggage = [
            ("traceparent", &*parent),
            ("tracestate", "a=1,b=2"),
            ("baggage", "k=v"),
        ];
        assert_eq!(with("b=2"), fields(&state_and_baggage));
        let baggage = [state_and_baggage[0], state_and_baggage[2]];
        assert_eq!(with("not a member"), fields(&baggage));
        assert_eq!(with(&long), fields(&baggage));
    }

    #[test]
    fn a_handler_that_says_in_which_trace_its_event_is_has_its_way() {
        let context = incoming(&format!("00-{TRACE}-b7ad6b7169203331-01")).unwrap();
        let own = fields(&[("traceparent", "mine")]);
        let mut headers = own.clone();
        Passed::of(&context, &own).add_to(&mut headers);
        assert_eq!(headers, own);
    }
}
