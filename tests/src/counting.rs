//! A service that counts events by key on several hosts, and what must be true
//! of it whatever died meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::component::{Component, Manifest};
use crate::fleet::Fleet;
use crate::host::{Builder, Host};
use crate::http::Client;
use crate::kafka::Kafka;
use crate::topics::{Record, Topics};
use crate::wait::{Deadline, unique};

/// How long a host may count nothing new while it is waited for: longer than it
/// takes to have a dead host's partitions.
const STUCK: Duration = Duration::from_secs(60);

/// The service `count` of `tests/guests/count`, on a broker.
#[derive(Clone, Debug)]
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
        Counting::at(&kafka.address(), name, partitions)
    }

    /// The same on the brokers at these addresses.
    ///
    /// # Panics
    /// If a broker refuses.
    #[must_use]
    pub fn at(brokers: &str, name: &str, partitions: i32) -> Counting {
        let name = unique(name);
        let (input, output) = (format!("{name}-in"), format!("{name}-out"));
        for topic in [&input, &output] {
            Topics::at(brokers).create(topic, partitions);
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
            broker: brokers.to_owned(),
        }
    }

    /// The same, with a change to its manifest.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(Manifest) -> Manifest) -> Counting {
        self.manifest = change(self.manifest);
        self
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

    /// A host that runs it, not started.
    ///
    /// # Panics
    /// If the component was not built.
    #[must_use]
    pub fn builder(&self) -> Builder {
        Host::builder()
            .broker(&self.broker)
            .deploy([self.component()])
    }

    /// A host that runs it, and is ready.
    ///
    /// # Panics
    /// If it does not become ready.
    #[must_use]
    pub fn host(&self) -> Host {
        self.builder().ready()
    }

    /// Several hosts that run it, and are ready.
    ///
    /// # Panics
    /// If they do not become ready.
    #[must_use]
    pub fn hosts(&self, number: usize) -> Fleet {
        Fleet::of((0..number).map(|_| self.host()))
    }

    /// Events `from` to before `to`, over `keys` keys.
    #[must_use]
    pub fn events(from: usize, to: usize, keys: usize) -> Vec<(String, String)> {
        (from..to)
            .map(|number| (format!("key-{}", number % keys), number.to_string()))
            .collect()
    }

    /// Writes so many events over 100 keys.
    ///
    /// # Panics
    /// If the broker does not take them.
    pub fn write(&self, events: usize) {
        self.topics()
            .write_keyed(&self.input, &Counting::events(0, events, 100));
    }

    /// Counts by key, as a host answers. What a key has in several shards is
    /// added up.
    ///
    /// # Panics
    /// If it does not answer with 200.
    #[must_use]
    pub fn counts(&self, client: &Client) -> BTreeMap<String, u64> {
        let reply = client.get(&format!("/{}", self.name)).expect(200);
        let mut counts = BTreeMap::new();
        for line in reply.text().lines() {
            let (key, count) = line.split_once(' ').unwrap();
            *counts.entry(key.to_owned()).or_default() += count.parse::<u64>().unwrap();
        }
        counts
    }

    /// How many events a host has counted; none while it does not say.
    #[must_use]
    pub fn counted(&self, client: &Client) -> Option<u64> {
        let target = format!("/{}/total", self.name);
        let reply = client.try_send("GET", &target, &[], b"").ok()?;
        let (_, sum) = reply.text().split_once(' ')?;
        (reply.status == 200).then(|| sum.parse().unwrap())
    }

    /// How many events there are in the topics that it consumes.
    #[must_use]
    pub fn written(&self) -> u64 {
        let topics = self.topics();
        let all = self.manifest.topics.iter();
        all.map(|topic| topics.read(topic).len() as u64).sum()
    }

    /// Waits until a host has counted so many events.
    ///
    /// # Panics
    /// If it counts more, or gets no further for a minute.
    pub fn wait_until(&self, host: &Host, events: u64) {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let counted = self.counted(host.http()).unwrap_or(last);
            if counted == events {
                return;
            }
            assert!(
                counted < events,
                "{counted} counted, and there are only {events}"
            );
            if counted > last {
                (last, since) = (counted, Instant::now());
            }
            assert!(
                since.elapsed() < STUCK,
                "stuck at {counted} of {events}: {:#}\n{}",
                host.service(&self.name),
                host.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until these hosts have counted all events that there are, and holds
    /// that each was counted once: of every key the counts 1…n were published,
    /// once each and in order, and every host has n.
    ///
    /// # Panics
    /// If not.
    pub fn is_exact<'a>(&self, hosts: impl IntoIterator<Item = &'a Host>) {
        let hosts: Vec<&Host> = hosts.into_iter().collect();
        for host in &hosts {
            host.has_nothing_under_way();
        }
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for topic in &self.manifest.topics {
            for record in self.topics().read(topic) {
                *expected.entry(key(&record)).or_default() += 1;
            }
        }
        for host in &hosts {
            self.wait_until(host, expected.values().sum());
            assert_eq!(self.counts(host.http()), expected, "{}", host.log());
        }
        let published = self.published();
        for (key, count) in &expected {
            in_order(key, published.get(key).map_or(&[], Vec::as_slice), *count);
        }
        assert_eq!(published.len(), expected.len());
    }

    /// What was published, by key.
    ///
    /// # Panics
    /// If it is no counts.
    #[must_use]
    pub fn published(&self) -> BTreeMap<String, Vec<u64>> {
        let mut published: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for record in self.topics().read(&self.output) {
            let count = record.text().trim_end().parse().unwrap();
            published.entry(key(&record)).or_default().push(count);
        }
        published
    }

    /// Waits until partitions have been shared out over hosts, so that each has
    /// some.
    ///
    /// # Panics
    /// If they are not.
    pub fn wait_for_shares<'a>(&self, hosts: impl IntoIterator<Item = &'a Host> + Clone) {
        let deadline = Deadline::after(STUCK);
        loop {
            let shares: Vec<usize> = hosts
                .clone()
                .into_iter()
                .map(|host| self.here(host).len())
                .collect();
            if shares.iter().all(|share| *share > 0) {
                return;
            }
            assert!(!deadline.passed(), "{shares:?} partitions");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The partitions that a host consumes, of all its topics.
    ///
    /// # Panics
    /// If it does not say.
    #[must_use]
    pub fn here(&self, host: &Host) -> Vec<i64> {
        let service = host.service(&self.name);
        let partitions = service["partitions"].as_array().unwrap().iter();
        let here = partitions.filter(|one| one["here"] == true);
        here.map(|one| one["partition"].as_i64().unwrap()).collect()
    }
}

/// Holds that counts of a key are 1…n, once each and in order.
///
/// # Panics
/// If not, with what is where the first one is wrong.
pub fn in_order(key: &str, counts: &[u64], until: u64) {
    let wrong = counts
        .iter()
        .zip(1..)
        .position(|(count, right)| *count != right);
    if let Some(at) = wrong {
        let around = &counts[at.saturating_sub(3)..counts.len().min(at + 4)];
        panic!(
            "{key}: the {}th count published is wrong: … {around:?} …",
            at + 1
        );
    }
    assert_eq!(counts.len() as u64, until, "counts of {key} published");
}

/// A record's key as text.
///
/// # Panics
/// If it has none.
#[must_use]
pub(crate) fn key(record: &Record) -> String {
    String::from_utf8(record.key.clone().unwrap()).unwrap()
}
