//! Dead letters: what an event that could not be handled becomes, and how it is
//! sent back.
//!
//! A dead letter has the event's key, value and headers as they were, and headers
//! of the host's behind them that say where it came from and why it failed. They
//! are documented in docs/dead-letters.md.

use std::sync::Arc;

use bytes::Bytes;

use crate::effects::Message;
use crate::invocation::{Event, Failure};
use crate::kafka::Source;

/// All of the host's headers on a dead letter begin with this.
const PREFIX: &str = "tidemill-dead-letter-";
/// On an event that is sent back: the service that it is
/// for. Other services pass over it.
pub const REDRIVE: &str = "tidemill-redrive-for";

const TOPIC: &str = "tidemill-dead-letter-topic";
const PARTITION: &str = "tidemill-dead-letter-partition";
const OFFSET: &str = "tidemill-dead-letter-offset";
const TIMESTAMP: &str = "tidemill-dead-letter-timestamp";
const SERVICE: &str = "tidemill-dead-letter-service";
const REVISION: &str = "tidemill-dead-letter-revision";
const FAILURE: &str = "tidemill-dead-letter-failure";
const ERROR: &str = "tidemill-dead-letter-error";
const ATTEMPTS: &str = "tidemill-dead-letter-attempts";
const TIME: &str = "tidemill-dead-letter-time";

/// On a record that is no dead letter: which of those before it in its partition
/// are done with.
const SETTLED: &str = "tidemill-dead-letter-settled";

/// The longest error that a dead letter carries, in bytes.
const LONGEST: usize = 4096;

/// Who failed an event, and how.
pub struct Verdict<'a> {
    /// The service.
    pub service: &'a str,
    /// The revision's digest.
    pub revision: &'a str,
    /// Why it failed last.
    pub failure: &'a Failure,
    /// How often it was run.
    pub attempts: u32,
    /// Milliseconds since the Unix epoch.
    pub time: u64,
}

/// What is known of a dead letter from its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Where the event came from.
    pub origin: Source,
    /// Its offset there.
    pub offset: i64,
    /// Milliseconds since the Unix epoch, if the event had a time.
    pub timestamp: Option<i64>,
    /// The revision that failed it last.
    pub revision: String,
    /// The failure's name.
    pub failure: String,
    /// Why it failed last.
    pub error: String,
    /// How often it was run.
    pub attempts: u32,
    /// When it became a dead letter, in milliseconds since the Unix epoch.
    pub time: u64,
    /// The event's own headers.
    pub headers: Vec<(String, Option<Bytes>)>,
}

/// What a record in a topic of dead letters is.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// A dead letter.
    Letter(Letter),
    /// Says that the dead letters at these offsets are done with.
    Settled(Vec<i64>),
    /// Something else, which others have put there.
    Foreign,
}

/// The dead letter that an event becomes.
pub fn of_event(event: &Event, topic: Arc<str>, verdict: &Verdict<'_>) -> Message {
    let text = |name: &str, value: String| (name.to_owned(), Some(Bytes::from(value)));
    let mut headers = own_headers(&event.headers);
    headers.extend([
        text(TOPIC, event.topic.to_string()),
        text(PARTITION, event.partition.to_string()),
        text(OFFSET, event.offset.to_string()),
    ]);
    headers.extend(
        event
            .timestamp
            .map(|time| text(TIMESTAMP, time.to_string())),
    );
    headers.extend([
        text(SERVICE, verdict.service.to_owned()),
        text(REVISION, verdict.revision.to_owned()),
        text(FAILURE, verdict.failure.name().to_owned()),
        text(ERROR, shortened(verdict.failure.to_string())),
        text(ATTEMPTS, verdict.attempts.to_string()),
        text(TIME, verdict.time.to_string()),
    ]);
    Message {
        topic,
        partition: None,
        key: event.key.clone(),
        value: event.value.clone(),
        headers,
    }
}

/// What a record in a topic of dead letters is, by its headers.
pub fn read(headers: &[(String, Option<Bytes>)]) -> Entry {
    if let Some(settled) = text(headers, SETTLED) {
        let offsets = settled.split(',').filter_map(|one| one.parse().ok());
        return Entry::Settled(offsets.collect());
    }
    let letter = || {
        Some(Letter {
            origin: (
                text(headers, TOPIC)?.into(),
                text(headers, PARTITION)?.parse().ok()?,
            ),
            offset: text(headers, OFFSET)?.parse().ok()?,
            timestamp: text(headers, TIMESTAMP).and_then(|time| time.parse().ok()),
            revision: text(headers, REVISION).unwrap_or_default(),
            failure: text(headers, FAILURE).unwrap_or_default(),
            error: text(headers, ERROR).unwrap_or_default(),
            attempts: text(headers, ATTEMPTS)?.parse().ok()?,
            time: text(headers, TIME)?.parse().ok()?,
            headers: own_headers(headers),
        })
    };
    letter().map_or(Entry::Foreign, Entry::Letter)
}

/// The event that a dead letter is sent back as: to the partition it came from,
/// for this service alone.
pub fn redriven(letter: &Letter, service: &str, event: &Event) -> Message {
    let mut headers = letter.headers.clone();
    let target = Bytes::from(service.to_owned());
    headers.push((REDRIVE.to_owned(), Some(target)));
    Message {
        topic: letter.origin.0.clone(),
        partition: Some(letter.origin.1),
        key: event.key.clone(),
        value: event.value.clone(),
        headers,
    }
}

/// The record that says that the dead letters at these offsets are done with. It
/// has to go to their partition.
pub fn settled(topic: Arc<str>, partition: i32, offsets: &[i64]) -> Message {
    let offsets: Vec<String> = offsets.iter().map(i64::to_string).collect();
    Message {
        topic,
        partition: Some(partition),
        key: None,
        value: None,
        headers: vec![(SETTLED.to_owned(), Some(Bytes::from(offsets.join(","))))],
    }
}

/// Whether an event was sent back to another service.
pub fn is_for_another(event: &Event, service: &str) -> bool {
    let target = event.headers.iter().find(|(name, _)| name == REDRIVE);
    target.is_some_and(|(_, target)| target.as_deref() != Some(service.as_bytes()))
}

/// Headers without the host's.
fn own_headers(headers: &[(String, Option<Bytes>)]) -> Vec<(String, Option<Bytes>)> {
    let own = headers
        .iter()
        .filter(|(name, _)| !name.starts_with(PREFIX) && name != REDRIVE);
    own.cloned().collect()
}

/// The last header of this name: the host's are behind the event's own.
fn text(headers: &[(String, Option<Bytes>)], name: &str) -> Option<String> {
    let found = headers.iter().rev().find(|(known, _)| known == name);
    let value = found.and_then(|(_, value)| value.as_deref())?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn shortened(mut error: String) -> String {
    if error.len() > LONGEST {
        error.truncate(error.floor_char_boundary(LONGEST - '…'.len_utf8()));
        error.push('…');
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(headers: &[(&str, &str)]) -> Event {
        let header = |(name, value): &(&str, &str)| {
            let value = Bytes::copy_from_slice(value.as_bytes());
            ((*name).to_owned(), Some(value))
        };
        Event {
            topic: "user_topic".into(),
            partition: 3,
            offset: 41,
            timestamp: Some(1_700_000_000_000),
            key: Some(Bytes::from_static(b"\xff")),
            value: None,
            headers: headers.iter().map(header).collect(),
        }
    }

    fn letter_of(event: &Event, error: &str) -> (Message, Letter) {
        let failure = Failure::Reject(error.to_owned());
        let verdict = Verdict {
            service: "order",
            revision: "abc",
            failure: &failure,
            attempts: 2,
            time: 1_700_000_000_001,
        };
        let message = of_event(event, "order.dead-letter".into(), &verdict);
        match read(&message.headers) {
            Entry::Letter(letter) => (message, letter),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_dead_letter_says_where_it_came_from_and_keeps_what_the_event_had() {
        let event = event(&[("traceparent", "00-1-2-01"), ("a", "b"), ("a", "c")]);
        let (message, letter) = letter_of(&event, "no id");
        assert_eq!((&message.key, &message.value), (&event.key, &event.value));
        assert_eq!(message.headers[..3], event.headers[..]);
        assert_eq!(letter.origin, ("user_topic".into(), 3));
        assert_eq!((letter.offset, letter.attempts), (41, 2));
        assert_eq!(letter.timestamp, event.timestamp);
        assert_eq!((&*letter.failure, &*letter.error), ("reject", "no id"));
        assert_eq!(letter.headers, event.headers);
    }

    #[test]
    fn what_is_sent_back_goes_to_its_service_alone_and_may_fail_again() {
        let original = event(&[("a", "b")]);
        let (_, letter) = letter_of(&original, "no id");
        let back = redriven(&letter, "order", &original);
        assert_eq!((&*back.topic, back.partition), ("user_topic", Some(3)));
        let again = Event {
            headers: back.headers,
            offset: 99,
            ..original.clone()
        };
        assert!(!is_for_another(&again, "order"));
        assert!(is_for_another(&again, "mail"));
        assert!(!is_for_another(&original, "mail"));
        let (_, letter) = letter_of(&again, "still no id");
        assert_eq!((letter.offset, &letter.headers), (99, &original.headers));
    }

    #[test]
    fn the_hosts_headers_are_behind_those_that_pretend_to_be() {
        let (_, letter) = letter_of(&event(&[(OFFSET, "7"), (SETTLED, "1")]), "no");
        assert_eq!((letter.offset, letter.headers.len()), (41, 0));
    }

    #[test]
    fn long_errors_are_cut_at_a_letter() {
        let (_, letter) = letter_of(&event(&[]), &"ü".repeat(5_000));
        assert!(letter.error.len() <= LONGEST && letter.error.ends_with("ü…"));
    }

    #[test]
    fn settled_letters_are_named_and_what_is_neither_is_foreign() {
        let message = settled("order.dead-letter".into(), 0, &[3, 7]);
        assert_eq!(read(&message.headers), Entry::Settled(vec![3, 7]));
        assert_eq!(read(&[]), Entry::Foreign);
        assert_eq!(read(&event(&[(TOPIC, "t")]).headers), Entry::Foreign);
    }
}
