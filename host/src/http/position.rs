//! `tidemill-position`: where a request's events are, for a later request to wait
//! for. Opaque to clients: `topic/partition@offset`, separated by commas.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header field, in requests and responses.
pub(crate) const POSITION: HeaderName = HeaderName::from_static("tidemill-position");

/// The most entries that a request may send, and a response has.
const MOST: usize = 256;

/// Offsets by topic and partition.
pub(super) type Positions = BTreeMap<(String, i32), i64>;

/// What a request wants to see. Its field may be there several times.
pub(super) fn read(headers: &HeaderMap) -> Result<Positions, String> {
    let mut positions = Positions::new();
    for value in headers.get_all(POSITION) {
        let text = value.to_str().map_err(|_| wrong("it is not ASCII"))?;
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let (source, offset) = parse(entry).ok_or_else(|| {
                wrong(&format!(
                    "{entry:?} is not of the form topic/partition@offset"
                ))
            })?;
            let known = positions.entry(source).or_insert(offset);
            *known = offset.max(*known);
            if positions.len() > MOST {
                return Err(wrong(&format!("it has more than {MOST} entries")));
            }
        }
    }
    Ok(positions)
}

fn wrong(why: &str) -> String {
    format!("The field tidemill-position is not as a response had it: {why}.")
}

fn parse(entry: &str) -> Option<((String, i32), i64)> {
    let (source, offset) = entry.rsplit_once('@')?;
    let (topic, partition) = source.rsplit_once('/')?;
    let (partition, offset): (i32, i64) = (partition.parse().ok()?, offset.parse().ok()?);
    let valid = !topic.is_empty() && topic.len() <= 249 && partition >= 0 && offset >= 0;
    valid.then(|| ((topic.to_owned(), partition), offset))
}

/// The field of a response.
pub(super) fn write(positions: &Positions) -> Option<HeaderValue> {
    let entries = positions.iter().take(MOST);
    let entries: Vec<String> = entries
        .map(|((topic, partition), offset)| format!("{topic}/{partition}@{offset}"))
        .collect();
    (!entries.is_empty())
        .then(|| HeaderValue::from_str(&entries.join(", ")).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Positions, String> {
        let mut headers = HeaderMap::new();
        headers.insert(POSITION, HeaderValue::from_str(text).unwrap());
        read(&headers)
    }

    #[test]
    fn what_was_written_is_read_with_the_highest_offset_of_a_partition() {
        let positions = of("user_topic/2@41, a.b-c/0@7,user_topic/2@40").unwrap();
        assert_eq!(positions[&("user_topic".to_owned(), 2)], 41);
        let written = write(&positions).unwrap();
        assert_eq!(written, "a.b-c/0@7, user_topic/2@41");
        assert_eq!(of(written.to_str().unwrap()).unwrap(), positions);
        assert_eq!(write(&Positions::new()), None);
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for text in ["x", "t/0", "t@1", "/0@1", "t/-1@1", "t/0@-1", "t/0@x"] {
            let error = of(text).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
        let many: Vec<String> = (0..300).map(|p| format!("t/{p}@1")).collect();
        assert!(of(&many.join(",")).unwrap_err().contains("256"));
    }
}
