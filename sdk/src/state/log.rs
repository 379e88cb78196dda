//! Logs: what was consumed, in the order in which it came.
//!
//! A row's key is its event's place: partition (4 bytes), topic, a zero byte,
//! offset (8 bytes), numbers big-endian, so that each partition of each topic is
//! one run of keys, a stream, in order of offset. Its value is the event's time
//! (milliseconds, 8 bytes big-endian) and the value as JSON.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cursor::{Cursor, Place};
use super::table::LARGEST_SCAN;
use super::{StateError, decode, encode};
use crate::event::Event;
use crate::sys;

/// A list of values in the order in which their events came, read page by page,
/// oldest first.
///
/// ```
/// use tidemill::{Event, Failure, Json, Log, Paging, Problem, RawJson};
///
/// static SEEN: Log<RawJson> = Log::new("seen");
///
/// async fn see(event: Event<RawJson>) -> Result<(), Failure> {
///     SEEN.append(&event, &event.value)?;
///     Ok(())
/// }
///
/// async fn list(page: Paging) -> Result<Json<Vec<RawJson>>, Problem> {
///     Ok(Json(SEEN.page(page.after, page.limit)?.into_values()))
/// }
/// ```
///
/// Pages merge all shards by the events' times and keep the order of offsets
/// within a partition. Going from page to page by the cursor gives every value
/// once and skips none, also while events are appended.
#[derive(Debug)]
pub struct Log<V> {
    name: &'static str,
    value: PhantomData<fn() -> V>,
}

/// The place of an event, which names it for ever. Written
/// `topic/partition@offset`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The topic.
    pub topic: String,
    /// The partition of that topic.
    pub partition: u32,
    /// The offset in that partition.
    pub offset: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}@{}", self.topic, self.partition, self.offset)
    }
}

impl Position {
    fn to_key(&self) -> Vec<u8> {
        stream_key(&self.topic, self.partition, self.offset)
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let (partition, rest) = key.split_first_chunk()?;
        let (rest, offset) = rest.split_last_chunk()?;
        let topic = rest.strip_suffix(&[0])?;
        Some(Self {
            topic: std::str::from_utf8(topic).ok()?.to_owned(),
            partition: u32::from_be_bytes(*partition),
            offset: u64::from_be_bytes(*offset),
        })
    }
}

fn stream_key(topic: &str, partition: u32, offset: u64) -> Vec<u8> {
    [
        &partition.to_be_bytes()[..],
        topic.as_bytes(),
        &[0],
        &offset.to_be_bytes(),
    ]
    .concat()
}

/// One value of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<V> {
    /// The place of its event.
    pub position: Position,
    /// The time of its event, in milliseconds since the Unix epoch; 0 if the
    /// event carried none.
    pub timestamp: u64,
    /// The value.
    pub value: V,
}

/// A page of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<V> {
    /// The values, oldest first.
    pub items: Vec<Item<V>>,
    /// Where the next page begins; none if this was the last value there is.
    pub next: Option<Cursor>,
}

impl<V> Page<V> {
    /// Only the values.
    pub fn into_values(self) -> Vec<V> {
        self.items.into_iter().map(|item| item.value).collect()
    }
}

impl<V> Log<V> {
    /// The log of this name: 1 to 64 of `a-z`, `0-9`, `-` and `_`. It shares its
    /// names with tables.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            value: PhantomData,
        }
    }

    /// Takes the value at this place out. It is fine if there is none.
    ///
    /// # Errors
    /// If state isn't granted, or this is an HTTP handler.
    pub fn remove(&self, position: &Position) -> Result<(), StateError> {
        sys::delete(self.name, &position.to_key())
    }
}

impl<V: Serialize> Log<V> {
    /// Appends a value at the place of the event, and says which that is. An
    /// event has room for one.
    ///
    /// # Errors
    /// If state isn't granted, or this is an HTTP handler.
    pub fn append<T>(&self, event: &Event<T>, value: &V) -> Result<Position, StateError> {
        let position = event.position();
        self.write(&position, event.timestamp.unwrap_or(0), value)?;
        Ok(position)
    }

    /// Puts another value in a place, which keeps its time. False if there was
    /// none: nothing is written then.
    ///
    /// # Errors
    /// If state isn't granted, or this is an HTTP handler.
    pub fn replace(&self, position: &Position, value: &V) -> Result<bool, StateError> {
        let Some(row) = sys::get(self.name, &position.to_key())? else {
            return Ok(false);
        };
        self.write(position, self.split(&row)?.0, value)?;
        Ok(true)
    }

    fn write(&self, position: &Position, timestamp: u64, value: &V) -> Result<(), StateError> {
        let mut row = timestamp.to_be_bytes().to_vec();
        encode(self.name, value, &mut row)?;
        sys::put(self.name, &position.to_key(), &row)
    }
}

impl<V> Log<V> {
    /// A row's time and JSON.
    fn split<'a>(&self, row: &'a [u8]) -> Result<(u64, &'a [u8]), StateError> {
        row.split_first_chunk()
            .map(|(timestamp, json)| (u64::from_be_bytes(*timestamp), json))
            .ok_or_else(|| self.foreign())
    }

    fn foreign(&self) -> StateError {
        StateError::Invalid(format!("{} has rows that are not a log's", self.name))
    }
}

impl<V: DeserializeOwned + 'static> Log<V> {
    /// The value at this place, if there is one.
    ///
    /// # Errors
    /// If state isn't granted, or the row is not a `V`.
    pub fn get(&self, position: &Position) -> Result<Option<Item<V>>, StateError> {
        sys::get(self.name, &position.to_key())?
            .map(|row| self.item(position.clone(), &row))
            .transpose()
    }

    /// A page of at most `limit` values (1 to 10,000; more or less is taken as
    /// the nearest), oldest first, from a cursor on or from the beginning.
    ///
    /// # Errors
    /// If state isn't granted, a row is not a `V`, or the cursor is a table's.
    pub fn page(&self, after: Option<Cursor>, limit: u32) -> Result<Page<V>, StateError> {
        let limit = limit.clamp(1, LARGEST_SCAN) as usize;
        let mut places = match after {
            None => BTreeMap::new(),
            Some(Cursor(Place::Log(places))) => places,
            Some(Cursor(Place::Table(_))) => return Err(StateError::ForeignCursor(self.name)),
        };
        let mut streams = self.streams(&places)?;
        // One more than a page over all streams, in equal parts: a page that
        // takes most of one stream reads that one again.
        let chunk = (limit + 1).div_ceil(streams.len().max(1)).max(16) as u32;
        let mut items = Vec::new();
        loop {
            let mut oldest: Option<(u64, usize)> = None;
            for (index, stream) in streams.iter_mut().enumerate() {
                if let Some(timestamp) = self.head(stream, chunk)?
                    && oldest.is_none_or(|(least, _)| timestamp < least)
                {
                    oldest = Some((timestamp, index));
                }
            }
            let Some((_, index)) = oldest else {
                return Ok(Page { items, next: None });
            };
            if items.len() == limit {
                return Ok(Page {
                    items,
                    next: Some(Cursor(Place::Log(places))),
                });
            }
            let stream = &mut streams[index];
            if let Some((offset, row)) = stream.rows.pop_front() {
                let position = Position {
                    topic: stream.topic.clone(),
                    partition: stream.partition,
                    offset,
                };
                items.push(self.item(position, &row)?);
                places.insert((stream.topic.clone(), stream.partition), offset + 1);
            }
        }
    }

    fn item(&self, position: Position, row: &[u8]) -> Result<Item<V>, StateError> {
        let (timestamp, json) = self.split(row)?;
        Ok(Item {
            position,
            timestamp,
            value: decode(self.name, json)?,
        })
    }

    /// The streams that have rows, each at its place. Found by skipping: the
    /// first row of all, the first behind that one's stream, and so on.
    fn streams(&self, places: &BTreeMap<(String, u32), u64>) -> Result<Vec<Stream>, StateError> {
        let mut streams = Vec::new();
        let mut start: Option<Vec<u8>> = None;
        while let Some(row) = sys::scan(self.name, start.as_deref(), None, 1, false)?.pop() {
            let Position {
                topic, partition, ..
            } = Position::from_key(&row.key).ok_or_else(|| self.foreign())?;
            start = Some(stream_key(&topic, partition, u64::MAX));
            let place = (topic, partition);
            let next = places.get(&place).copied().unwrap_or(0);
            streams.push(Stream {
                topic: place.0,
                partition,
                next,
                rows: VecDeque::new(),
                ended: false,
            });
        }
        Ok(streams)
    }

    /// The time of a stream's next row, after reading more if there is none at
    /// hand.
    fn head(&self, stream: &mut Stream, chunk: u32) -> Result<Option<u64>, StateError> {
        if stream.rows.is_empty() && !stream.ended {
            let start = stream_key(&stream.topic, stream.partition, stream.next);
            let end = stream_key(&stream.topic, stream.partition, u64::MAX);
            let rows = sys::scan(self.name, Some(&start), Some(&end), chunk, false)?;
            stream.ended = rows.len() < chunk as usize;
            for row in rows {
                let place = Position::from_key(&row.key).ok_or_else(|| self.foreign())?;
                stream.next = place.offset + 1;
                stream.rows.push_back((place.offset, row.value));
            }
        }
        match stream.rows.front() {
            Some((_, row)) => Ok(Some(self.split(row)?.0)),
            None => Ok(None),
        }
    }
}

/// One partition of one topic, while a page is read.
struct Stream {
    topic: String,
    partition: u32,
    /// The offset to read on from.
    next: u64,
    /// Offsets and rows that were read and not yet given.
    rows: VecDeque<(u64, Vec<u8>)>,
    /// Whether there is nothing to read behind them.
    ended: bool,
}
