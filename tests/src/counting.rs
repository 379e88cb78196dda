//! A service that counts events by key on several hosts, and what must be true
//! of it whatever died meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::component::{Component, Manifest};
use crate::host::Host;
use crate::kafka::Kafka;
use crate::topics::{Record, Topics};
use crate::wait::{Deadline, unique};

/// The service `count` of `tests/guests/count`, on a broker.
#[derive(Debug)]
pub struct Counting {
    /// The service, and its route.
    pub name: String,
    /// The topic that it consumes.
    pub input: String,
    /// The topic of counts.
    pub output: String,
    /// Its manifest.
    pub manifest: Manifest,
    broker: String,
}

impl Counting {
    /// Its topics are made, and nothing is started.
    ///
    /// # Panics
    /// If the broker refuses.
    #[must_use]
    pub fn on(kafka: &Kafka, name: &str, partitions: i32) -> Counting {
        let name = unique(name);
        let (input, output) = (format!("{name}-in"), format!("{name}-out"));
        for topic in [&input, &output] {
            kafka.topics().create(topic, partitions);
        }
        let manifest = Manifest::new(&name)
            .consumes(&[&input])
            .publish(&output)
            .publish(&input)
            .setting("out", &output);
        Counting {
            name,
            input,
            output,
            manifest,
            broker: kafka.address(),
        }
    }

    /// The component.
    ///
    /// # Panics
    /// If it was not built.
    #[must_use]
    pub fn component(&self) -> Component {
        Component::count(&self.manifest)
    }

    /// A client of its broker.
    #[must_use]
    pub fn topics(&self) -> Topics {
        Topics::at(&self.broker)
    }

    /// A host that runs it, and is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn host(&self, kafka: &Kafka) -> Host {
        Host::builder()
            .kafka(kafka)
            .deploy([self.component()])
            .ready()
    }

    /// Events `from` to before `to`, over `keys` keys.
    #[must_use]
    pub fn events(from: usize, to: usize, keys: usize) -> Vec<(String, String)> {
        (from..to)
            .map(|number| (format!("key-{}", number % keys), number.to_string()))
            .collect()
    }

    /// Counts by key, as a host answers.
    ///
    /// # Panics
    /// If it does not answer with 200.
    #[must_use]
    pub fn counts(&self, host: &Host) -> BTreeMap<String, u64> {
        let reply = host.http().get(&format!("/{}", self.name)).expect(200);
        let lines = reply.text().lines();
        let counts = lines.map(|line| {
            let (key, count) = line.split_once(' ').unwrap();
            (key.to_owned(), count.parse().unwrap())
        });
        counts.collect()
    }

    /// Waits until a host has counted so many events.
    ///
    /// # Panics
    /// If it counts more, or gets no further for a minute.
    pub fn wait_until(&self, host: &Host, events: u64) {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let reply = host
                .http()
                .try_send("GET", &format!("/{}", self.name), &[], b"");
            let counted = match &reply {
                Ok(reply) if reply.status == 200 => {
                    let counts = reply.text().lines().filter_map(|line| line.split_once(' '));
                    counts.map(|(_, count)| count.parse::<u64>().unwrap()).sum()
                }
                _ => last,
            };
            if counted == events {
                return;
            }
            assert!(counted < events, "{counted} counted of {events}");
            if counted > last {
                (last, since) = (counted, Instant::now());
            }
            assert!(
                since.elapsed() < Duration::from_secs(60),
                "stuck at {counted} of {events}: {:#}\n{}",
                host.service(&self.name),
                host.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Holds that each of these events was counted once: of every key the counts
    /// 1…n were published, once each and in order, and every host has n.
    ///
    /// # Panics
    /// If not.
    pub fn is_exact<'a>(&self, hosts: impl IntoIterator<Item = &'a Host>) {
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for record in self.topics().read(&self.input) {
            *expected.entry(key(&record)).or_default() += 1;
        }
        let mut published: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for record in self.topics().read(&self.output) {
            let count = record.text().trim_end().parse().unwrap();
            published.entry(key(&record)).or_default().push(count);
        }
        for (key, count) in &expected {
            let all: Vec<u64> = (1..=*count).collect();
            assert_eq!(published.get(key), Some(&all), "the counts of {key}");
        }
        assert_eq!(published.len(), expected.len());
        for host in hosts {
            let deadline = Deadline::usual();
            // One that follows may be a moment behind.
            while self.counts(host) != expected && !deadline.passed() {
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(self.counts(host), expected, "{}", host.log());
        }
    }
}

fn key(record: &Record) -> String {
    String::from_utf8(record.key.clone().unwrap()).unwrap()
}
