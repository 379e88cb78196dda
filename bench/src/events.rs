//! An event passed on through a warm handler, against a bare librdkafka loop.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use tidemill_tests::{Folder, Host, Kafka, Process, seed};

use crate::report::{Scenario, Turn, cpu, show};

const EVENTS: i64 = 400_000;
const PARTITIONS: i32 = 4;
const KEYS: usize = 1_000;
const SIZE: usize = 200;
const ROUNDS: usize = 3;

/// Runs the measurement.
pub(crate) fn measure() {
    eprintln!("{EVENTS} events of {SIZE} B, {PARTITIONS} partitions, {KEYS} keys, {ROUNDS} rounds");
    let kafka = Kafka::for_measuring();
    for topic in ["bench-in", "bench-out"] {
        kafka.topics().create(topic, PARTITIONS);
    }
    fill(&kafka.address());
    let out = Out::of(&kafka.address());
    let mut turns = Vec::new();
    for round in 0..=ROUNDS {
        let native = native(&kafka, &out, round);
        let tidemill = tidemill(&kafka, &out, round);
        // The broker's first round is not like the others.
        if round > 0 {
            turns.extend([native, tidemill]);
        }
    }
    let scenario = Scenario {
        name: "passed on, at least once",
        turns,
    };
    show("events", "events", &[scenario]);
}

fn native(kafka: &Kafka, out: &Out, round: usize) -> Turn {
    let folder = Folder::new("native-events");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .arg("native-events")
        .arg(kafka.address())
        .arg(format!("native-{round}"));
    let before = out.count();
    let process = Process::start("bare rdkafka", command, &folder.path().join("log"));
    turn("native", process.id(), out, before)
}

fn tidemill(kafka: &Kafka, out: &Out, round: usize) -> Turn {
    // Another group reads from the beginning again.
    let group = format!("name = \"bench-forward\"\ngroup = \"tidemill-{round}\"");
    let service = seed("bench-forward").edited(&[("name = \"bench-forward\"", &group)]);
    let before = out.count();
    let mut host = Host::builder().kafka(kafka).deploy([service]).start();
    let process = host.process().id();
    turn("tidemill", process, out, before)
}

/// Watches until all events are out. The first tenth is warming up.
fn turn(system: &'static str, process: u32, out: &Out, before: i64) -> Turn {
    let wait = |count: i64| {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            let now = out.count();
            if now - before >= count {
                return now;
            }
            assert!(
                Instant::now() < deadline,
                "{system} passed on {}",
                now - before
            );
            thread::sleep(Duration::from_millis(5));
        }
    };
    let first = wait(EVENTS / 10);
    let (began, cpu_began) = (Instant::now(), cpu(process));
    let last = wait(EVENTS);
    let (took, spent) = (began.elapsed(), cpu(process) - cpu_began);
    assert_eq!(
        last - before,
        EVENTS,
        "{system}: each once, where nothing fails"
    );
    let events = (last - first) as f64;
    Turn {
        system,
        per_second: events / took.as_secs_f64(),
        cpu_us: spent.as_secs_f64() * 1e6 / events,
        p50_ms: None,
        p99_ms: None,
    }
}

/// The topic that events are passed on to.
struct Out(BaseConsumer);

impl Out {
    fn of(brokers: &str) -> Self {
        let mut config = ClientConfig::new();
        Self(config.set("bootstrap.servers", brokers).create().unwrap())
    }

    /// How many events are in it.
    fn count(&self) -> i64 {
        (0..PARTITIONS)
            .map(|partition| {
                let timeout = Duration::from_secs(10);
                let ends = self.0.fetch_watermarks("bench-out", partition, timeout);
                ends.unwrap().1
            })
            .sum()
    }
}

/// Writes the events that are to be passed on.
fn fill(brokers: &str) {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "1000000")
        .set("queue.buffering.max.kbytes", "1000000");
    let producer: ThreadedProducer<DefaultProducerContext> = config.create().unwrap();
    let value = vec![b'x'; SIZE];
    for number in 0..usize::try_from(EVENTS).unwrap() {
        let key = format!("key-{}", number % KEYS);
        let record = BaseRecord::to("bench-in").key(&key).payload(&value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(Duration::from_secs(60)).unwrap();
}
