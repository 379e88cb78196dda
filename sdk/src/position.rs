//! Read your writes, for clients of services: where the events of a request are,
//! for a later request to wait for.
//!
//! A response to a request that published has the header field
//! `tidemill-position`. A request that sends it back is answered when the state
//! that it reads has seen those events. For a client it is opaque: keep it, send
//! it. [`Positions`] is for a client that talks to several services, or publishes
//! several times, and has to keep more than one.
//!
//! Nothing here needs a host: it is for native programs as well as for
//! components.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::state::Position;

/// The header field, in responses and requests.
pub const HEADER: HeaderName = HeaderName::from_static("tidemill-position");

/// The most partitions that a header field may name.
pub const MOST: usize = 256;

/// What a client has seen of topics: an offset for each partition, at most
/// [`MOST`].
///
/// ```
/// use tidemill::position::Positions;
///
/// # fn main() -> Result<(), tidemill::position::NotAPosition> {
/// let mut seen = Positions::new();
/// // Of each response that has the field:
/// seen.merge(&"user_topic/2@41, user_topic/0@7".parse()?);
/// seen.merge(&"user_topic/2@40".parse()?);
/// // With each request:
/// assert_eq!(seen.to_string(), "user_topic/0@7, user_topic/2@41");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Positions {
    offsets: BTreeMap<(String, u32), u64>,
}

/// Text that is not what a response's `tidemill-position` says: entries of the
/// form `topic/partition@offset`, separated by commas, for at most [`MOST`]
/// partitions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a tidemill-position: {0}")]
pub struct NotAPosition(String);

impl Positions {
    /// No position: a request that sends it does not wait.
    pub const fn new() -> Self {
        Self {
            offsets: BTreeMap::new(),
        }
    }

    /// What a response's header fields say; nothing if the field isn't there.
    ///
    /// # Errors
    /// If it is there and malformed, or names too many partitions.
    pub fn of(headers: &HeaderMap) -> Result<Self, NotAPosition> {
        let mut positions = Self::new();
        for value in headers.get_all(HEADER) {
            let text = value
                .to_str()
                .map_err(|_| NotAPosition("it is not ASCII".to_owned()))?;
            positions.read(text)?;
        }
        Ok(positions)
    }

    /// The header field to send; none if there is no position, since the field
    /// can be left out then.
    pub fn to_header(&self) -> Option<HeaderValue> {
        if self.is_empty() {
            return None;
        }
        HeaderValue::from_str(&self.to_string()).ok()
    }

    /// Takes in what another response said: of each partition the highest offset
    /// stays. Where that makes more than [`MOST`] partitions, as many as
    /// necessary are given up of those that `newer` does not name: a request
    /// does not wait for them any more.
    pub fn merge(&mut self, newer: &Self) {
        for (partition, offset) in &newer.offsets {
            self.raise(partition.clone(), *offset);
        }
        let over = self.offsets.len().saturating_sub(MOST);
        let older: Vec<_> = self
            .offsets
            .keys()
            .filter(|partition| !newer.offsets.contains_key(*partition))
            .take(over)
            .cloned()
            .collect();
        for partition in older {
            self.offsets.remove(&partition);
        }
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// The positions, in order of topic and partition.
    pub fn iter(&self) -> impl Iterator<Item = Position> + '_ {
        self.offsets
            .iter()
            .map(|((topic, partition), offset)| Position {
                topic: topic.clone(),
                partition: *partition,
                offset: *offset,
            })
    }

    fn raise(&mut self, partition: (String, u32), offset: u64) {
        let known = self.offsets.entry(partition).or_insert(offset);
        *known = offset.max(*known);
    }

    fn read(&mut self, text: &str) -> Result<(), NotAPosition> {
        let entries = text.split(',').map(str::trim);
        for entry in entries.filter(|entry| !entry.is_empty()) {
            let (partition, offset) = parse(entry).ok_or_else(|| {
                NotAPosition(format!(
                    "{entry:?} is not of the form topic/partition@offset"
                ))
            })?;
            self.raise(partition, offset);
            if self.offsets.len() > MOST {
                return Err(NotAPosition(format!("it has more than {MOST} entries")));
            }
        }
        Ok(())
    }
}

/// One entry. Offsets and partitions are those of Kafka: not negative, of 63 and
/// 31 bits.
fn parse(entry: &str) -> Option<((String, u32), u64)> {
    let (source, offset) = entry.rsplit_once('@')?;
    let (topic, partition) = source.rsplit_once('/')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let named = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let valid = (1..=249).contains(&topic.len())
        && topic.bytes().all(named)
        && digits(partition)
        && digits(offset);
    let partition = partition.parse::<i32>().ok()?.cast_unsigned();
    let offset = offset.parse::<i64>().ok()?.cast_unsigned();
    valid.then(|| ((topic.to_owned(), partition), offset))
}

impl From<Position> for Positions {
    fn from(position: Position) -> Self {
        let partition = (position.topic, position.partition);
        Self {
            offsets: BTreeMap::from([(partition, position.offset)]),
        }
    }
}

/// As the header field has it.
impl fmt::Display for Positions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, position) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(out, "{comma}{position}")?;
        }
        Ok(())
    }
}

impl FromStr for Positions {
    type Err = NotAPosition;

    fn from_str(text: &str) -> Result<Self, NotAPosition> {
        let mut positions = Self::new();
        positions.read(text)?;
        Ok(positions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Positions {
        text.parse().expect("positions")
    }

    #[test]
    fn what_is_written_can_be_read() {
        let text = "a.b-c/0@7, user_topic/2@41";
        assert_eq!(of(text).to_string(), text);
        assert_eq!(of(" user_topic/2@41 ,,a.b-c/0@7,user_topic/2@3"), of(text));
        assert_eq!(of(""), Positions::new());
        let largest = format!("t/{}@{}", i32::MAX, i64::MAX);
        assert_eq!(of(&largest).to_string(), largest);
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for text in [
            "x",
            "t/0",
            "t@1",
            "/0@1",
            "t/-1@1",
            "t/0@-1",
            "t/0@+1",
            "t/0@x",
            "t t/0@1",
            "ä/0@1",
            "t/2147483648@1",
            "t/0@9223372036854775808",
        ] {
            let error = text.parse::<Positions>().expect_err(text).to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    fn partitions(topic: &str, numbers: std::ops::Range<usize>) -> String {
        let entries: Vec<String> = numbers.map(|n| format!("{topic}/{n}@{n}")).collect();
        entries.join(",")
    }

    #[test]
    fn no_more_partitions_are_named_than_a_host_takes() {
        let most = of(&partitions("b", 0..MOST));
        assert_eq!(most.iter().count(), MOST);
        let more = partitions("b", 0..MOST + 1).parse::<Positions>();
        assert!(more.expect_err("too many").to_string().contains("256"));

        let mut merged = most;
        merged.merge(&of("a/0@1, b/255@300"));
        assert_eq!(merged.iter().count(), MOST);
        let text = merged.to_string();
        assert!(text.starts_with("a/0@1, b/1@1, "), "{text}");
        assert!(text.ends_with(", b/255@300"), "{text}");
        let other = of(&partitions("c", 0..MOST));
        merged.merge(&other);
        assert_eq!(merged, other);
    }

    #[test]
    fn of_a_partition_the_highest_offset_stays() {
        let mut merged = of("a/0@5, b/0@1");
        merged.merge(&of("a/0@4, b/0@2, c/1@0"));
        assert_eq!(merged, of("a/0@5, b/0@2, c/1@0"));
        merged.merge(&Positions::new());
        assert_eq!(merged, of("a/0@5, b/0@2, c/1@0"));
    }

    #[test]
    fn header_fields_go_both_ways() {
        let mut headers = HeaderMap::new();
        assert_eq!(Positions::of(&headers), Ok(Positions::new()));
        assert_eq!(Positions::new().to_header(), None);
        let positions = of("a/0@5, b/0@1");
        headers.extend(positions.to_header().map(|value| (HEADER, value)));
        assert_eq!(Positions::of(&headers), Ok(positions));
        headers.append(HEADER, HeaderValue::from_static("b/0@2"));
        assert_eq!(Positions::of(&headers), Ok(of("a/0@5, b/0@2")));
        headers.append(HEADER, HeaderValue::from_static("b"));
        assert!(Positions::of(&headers).is_err());
    }
}
