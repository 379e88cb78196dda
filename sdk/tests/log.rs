//! A log gives every value once, oldest first, however it is paged.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeSet;

use tidemill::test::{Host, Record};
use tidemill::{Cursor, Event, Log, Message, Position, RawJson, Topics};

static SEEN: Log<RawJson> = Log::new("seen");

fn topics() -> Topics {
    let keep = async |event: Event<RawJson>| {
        SEEN.append(&event, &event.value)?;
        Ok(())
    };
    Topics::new().on("a", keep).on("b", keep)
}

/// A generator of numbers that is the same on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// Delivers an event to a random stream, at a time that may go back.
fn append(host: &mut Host, dice: &mut Dice, value: usize, time: u64) -> String {
    let topic = if dice.below(3) == 0 { "b" } else { "a" };
    let message = Message::new(topic).json(&value).unwrap();
    let record = Record::from(message)
        .at_partition(dice.below(4) as u32)
        .at_time(1000 + time * 10 - dice.below(30));
    host.deliver(record).unwrap();
    value.to_string()
}

fn page(
    host: &mut Host,
    after: Option<Cursor>,
    limit: u32,
) -> (Vec<(Position, u64, String)>, Option<Cursor>) {
    let page = host.read(|| SEEN.page(after, limit)).unwrap();
    let items = page
        .items
        .into_iter()
        .map(|item| (item.position, item.timestamp, item.value.to_string()))
        .collect();
    // Over the wire and back.
    let next = page.next.map(|cursor| cursor.to_string().parse().unwrap());
    (items, next)
}

#[test]
fn all_pages_together_are_the_whole_log_in_order() {
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut host = Host::new().events(topics());
        let count = dice.below(200) as usize;
        let all: BTreeSet<String> = (0..count)
            .map(|value| append(&mut host, &mut dice, value, value as u64))
            .collect();

        let (whole, next) = page(&mut host, None, 1000);
        assert!(next.is_none());
        assert_eq!(
            whole
                .iter()
                .map(|(_, _, value)| value.clone())
                .collect::<BTreeSet<_>>(),
            all
        );
        assert_eq!(whole.len(), count);
        for (index, (position, _, _)) in whole.iter().enumerate() {
            assert!(
                whole[..index].iter().all(|(before, _, _)| {
                    (&before.topic, before.partition) != (&position.topic, position.partition)
                        || before.offset < position.offset
                }),
                "out of order in its stream: {position}"
            );
        }

        let limit = 1 + dice.below(40) as u32;
        let mut paged = Vec::new();
        let mut after = None;
        loop {
            let (items, next) = page(&mut host, after, limit);
            assert!(next.is_none() || items.len() == limit as usize);
            assert!(next.is_none() || !items.is_empty());
            paged.extend(items);
            after = next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(paged, whole);
    }
}

#[test]
fn nothing_is_skipped_or_repeated_while_events_are_appended() {
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut host = Host::new().events(topics());
        let mut all: BTreeSet<String> = (0..50)
            .map(|value| append(&mut host, &mut dice, value, value as u64))
            .collect();
        let mut seen = Vec::new();
        let mut after = None;
        let mut value = 50;
        loop {
            let (items, next) = page(&mut host, after, 7);
            seen.extend(items.into_iter().map(|(_, _, value)| value));
            after = next;
            if after.is_none() {
                break;
            }
            // Also on streams that pages have left behind, at times long past.
            for _ in 0..dice.below(8) {
                let time = dice.below(value as u64).max(3);
                all.insert(append(&mut host, &mut dice, value, time));
                value += 1;
            }
        }
        assert_eq!(seen.len(), all.len());
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), all);
    }
}

#[test]
fn next_is_given_only_when_there_is_more() {
    let mut host = Host::new().events(topics());
    assert_eq!(page(&mut host, None, 10), (Vec::new(), None));
    for value in 0..10 {
        host.deliver(Message::new("a").json(&value).unwrap())
            .unwrap();
    }
    assert!(page(&mut host, None, 10).1.is_none());
    let (items, next) = page(&mut host, None, 9);
    assert_eq!(items.len(), 9);
    let (items, next) = page(&mut host, next, 9);
    assert_eq!((items.len(), next), (1, None));
}

#[test]
fn a_value_can_be_replaced_in_its_place_and_removed() {
    let topics = Topics::new().on("a", async |event: Event<RawJson>| {
        let first = Position {
            topic: "a".to_owned(),
            partition: 0,
            offset: 0,
        };
        match event.value.as_str() {
            "\"replace\"" => assert!(SEEN.replace(&first, &event.value)?),
            "\"remove\"" => {
                SEEN.remove(&first)?;
                assert!(!SEEN.replace(&first, &event.value)?);
            }
            _ => assert_eq!(SEEN.append(&event, &event.value)?, event.position()),
        }
        Ok(())
    });
    let mut host = Host::new().events(topics).partitions(1);
    let mut values = |value: &str| {
        host.deliver(Message::new("a").json(value).unwrap())
            .unwrap();
        host.read(|| SEEN.page(None, 10))
            .unwrap()
            .into_values()
            .iter()
            .map(RawJson::text)
            .collect::<Vec<_>>()
    };
    assert_eq!(values("one"), ["one"]);
    assert_eq!(values("two"), ["one", "two"]);
    assert_eq!(values("replace"), ["replace", "two"]);
    assert_eq!(values("remove"), ["two"]);
}

#[test]
fn a_cursor_of_a_table_is_refused() {
    let answer = SEEN.page(Some("AmE".parse().unwrap()), 10);
    assert!(matches!(
        answer,
        Err(tidemill::StateError::ForeignCursor("seen"))
    ));
}
