//! Tables that are merged over shards, and what `get_all` gives beside them.
#![allow(missing_docs, clippy::unwrap_used)]

use serde::{Deserialize, Serialize};
use tidemill::test::{Host, Record};
use tidemill::{
    Cursor, Event, Failure, Last, Log, Max, Merge, MergedTable, Message, Sequenced, StateError,
    Sum, Table, Topics,
};

static COUNTS: MergedTable<u64, Sum> = MergedTable::new("counts");
static ROWS: Table<u64> = Table::new("counts");
static HIGHEST: MergedTable<f64, Max> = MergedTable::new("highest");
static LATEST: MergedTable<Seen, Last> = MergedTable::new("latest");
static SEEN: Log<u64> = Log::new("seen");

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    who: String,
    at: u64,
}

impl Sequenced for Seen {
    type Sequence = u64;

    fn sequence(&self) -> u64 {
        self.at
    }
}

fn topics() -> Topics {
    Topics::new()
        .on("words", async |word: Event<String>| {
            let here = COUNTS.get(&word.value)?.unwrap_or(0);
            Ok(COUNTS.put(&word.value, &(here + 1))?)
        })
        .on("lost", async |word: Event<String>| {
            Ok(COUNTS.delete(&word.value)?)
        })
        .on("heights", async |height: Event<f64>| {
            Ok(HIGHEST.put("all", &height.value)?)
        })
        .on("visits", async |visit: Event<Seen>| {
            SEEN.append(&visit, &visit.value.at)?;
            Ok(LATEST.put("door", &visit.value)?)
        })
}

fn at(partition: u32, topic: &str, value: impl Serialize) -> Record {
    Record::from(Message::new(topic).key("k").json(&value).unwrap()).at_partition(partition)
}

/// A host where each word was counted once in each of these shards.
fn counted(words: &[(&str, &[u32])]) -> Host {
    let mut host = Host::new().events(topics());
    for (word, shards) in words {
        for shard in *shards {
            host.deliver(at(*shard, "words", word)).unwrap();
        }
    }
    host
}

#[test]
fn a_request_reads_one_value_of_all_shards() {
    let mut host = counted(&[("tide", &[0, 2, 2, 3]), ("mill", &[1])]);
    let get = |host: &mut Host, word: &'static str| host.read(|| COUNTS.get(word)).unwrap();
    assert_eq!(get(&mut host, "tide"), Some(4));
    assert_eq!(get(&mut host, "mill"), Some(1));
    assert_eq!(get(&mut host, "ebb"), None);
    assert!(matches!(
        host.read(|| ROWS.get("tide")),
        Err(StateError::SeveralShards(_))
    ));
}

#[test]
fn get_all_gives_each_shard_its_value() {
    let mut host = counted(&[("tide", &[3, 0, 3])]);
    let merged = host.read(|| COUNTS.get_all("tide")).unwrap();
    assert_eq!(merged, host.read(|| ROWS.get_all("tide")).unwrap());
    let rows: Vec<_> = merged.iter().map(|row| (row.shard, row.value)).collect();
    assert_eq!(rows, [(0, 1), (3, 2)]);
}

#[test]
fn an_event_handler_reads_and_deletes_in_its_own_shard() {
    let mut host = counted(&[("tide", &[0, 0, 1])]);
    // Had it read the sum, shard 1 would have 4 now.
    host.deliver(at(1, "words", "tide")).unwrap();
    assert_eq!(host.read(|| COUNTS.get("tide")).unwrap(), Some(4));
    host.deliver(at(0, "lost", "tide")).unwrap();
    assert_eq!(host.read(|| COUNTS.get("tide")).unwrap(), Some(2));
}

#[test]
fn a_request_cannot_write() {
    let mut host = counted(&[]);
    let refused = host.read(|| COUNTS.put("tide", &1));
    assert!(matches!(refused, Err(StateError::ReadOnly(_))));
}

#[test]
fn max_is_the_highest_of_all_shards() {
    let mut host = Host::new().events(topics());
    for (shard, height) in [(0, 1.5), (1, 7.25), (2, -3.0)] {
        host.deliver(at(shard, "heights", height)).unwrap();
    }
    assert_eq!(host.read(|| HIGHEST.get("all")).unwrap(), Some(7.25));
}

#[test]
fn last_is_what_the_values_say_and_not_the_order_of_writing() {
    let mut host = Host::new().events(topics());
    let seen = |who: &str, at| Seen {
        who: who.to_owned(),
        at,
    };
    for (shard, visit) in [
        (2, seen("Ada", 30)),
        (0, seen("Bob", 10)),
        (1, seen("Cy", 20)),
    ] {
        host.deliver(at(shard, "visits", visit)).unwrap();
    }
    let last = host.read(|| LATEST.get("door")).unwrap();
    assert_eq!(last, Some(seen("Ada", 30)));
    // Of two that are as new, that of the lower shard: always the same one.
    host.deliver(at(3, "visits", seen("Dan", 30))).unwrap();
    let last = host.read(|| LATEST.get("door")).unwrap();
    assert_eq!(last, Some(seen("Ada", 30)));
}

#[test]
fn a_merge_of_ones_own_is_a_trait() {
    struct Either;
    impl Merge<Vec<String>> for Either {
        fn merge(mut one: Vec<String>, other: Vec<String>) -> Vec<String> {
            one.extend(other);
            one.sort();
            one
        }
    }
    static TAGS: MergedTable<Vec<String>, Either> = MergedTable::new("tags");
    let topics = Topics::new().on("tags", async |tag: Event<String>| -> Result<(), Failure> {
        Ok(TAGS.put("all", &vec![tag.value.clone()])?)
    });
    let mut host = Host::new().events(topics);
    for (shard, tag) in [(0, "b"), (1, "a")] {
        host.deliver(at(shard, "tags", tag)).unwrap();
    }
    assert_eq!(host.read(|| TAGS.get("all")).unwrap().unwrap(), ["a", "b"]);
}

fn scanned(host: &mut Host, scan: impl FnOnce() -> Vec<tidemill::Entry<u64>>) -> Vec<String> {
    let entries = host.read(scan);
    entries
        .iter()
        .map(|entry| format!("{}={}", entry.key_str().unwrap(), entry.value))
        .collect()
}

#[test]
fn a_scan_counts_keys_and_not_rows() {
    let mut host = counted(&[
        ("a", &[0, 1, 2, 3]),
        ("b", &[0]),
        ("c", &[1, 1, 2]),
        ("d", &[3]),
    ]);
    let all = ["a=4", "b=1", "c=3", "d=1"];
    for limit in 1..=5 {
        let found = scanned(&mut host, || COUNTS.scan().limit(limit).entries().unwrap());
        assert_eq!(found, all[..all.len().min(limit as usize)]);
        let found = scanned(&mut host, || {
            COUNTS.scan().limit(limit).reverse().entries().unwrap()
        });
        let reversed: Vec<_> = all.iter().rev().take(limit as usize).collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), reversed);
    }
    let found = scanned(&mut host, || {
        COUNTS.scan().from("b").before("d").entries().unwrap()
    });
    assert_eq!(found, ["b=1", "c=3"]);
    let found = scanned(&mut host, || COUNTS.scan().prefix("c").entries().unwrap());
    assert_eq!(found, ["c=3"]);
    for limit in [0, 10_001] {
        let refused = host.read(|| COUNTS.scan().limit(limit).entries());
        assert!(matches!(refused, Err(StateError::Invalid(_))));
    }
}

#[test]
fn pages_give_each_key_once_with_its_merged_value() {
    let words: Vec<String> = (0..50).map(|number| format!("w{number:02}")).collect();
    let mut host = Host::new().events(topics());
    for (index, word) in words.iter().enumerate() {
        for shard in 0..=index as u32 % 4 {
            host.deliver(at(shard, "words", word)).unwrap();
        }
    }
    for limit in [1, 3, 7, 49, 50, 51] {
        let mut after: Option<Cursor> = None;
        let mut found = Vec::new();
        loop {
            let (page, next) = host.read(|| COUNTS.page(after, limit)).unwrap();
            assert!(page.len() <= limit as usize);
            found.extend(page.into_iter().map(|entry| entry.value));
            after = next;
            if after.is_none() {
                break;
            }
        }
        let expected: Vec<u64> = (0..50).map(|index| index % 4 + 1).collect();
        assert_eq!(found, expected, "in pages of {limit}");
    }
}

#[test]
fn a_cursor_of_a_log_is_refused() {
    let mut host = Host::new().events(topics());
    for at_time in 0..2 {
        let visit = Seen {
            who: "Ada".to_owned(),
            at: at_time,
        };
        host.deliver(at(0, "visits", visit)).unwrap();
    }
    let page = host.read(|| SEEN.page(None, 1)).unwrap();
    let refused = host.read(|| COUNTS.page(page.next, 1));
    assert!(matches!(refused, Err(StateError::ForeignCursor("counts"))));
}
