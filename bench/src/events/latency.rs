//! Latency at a low rate: an event every 10 ms, until a reader has what became
//! of it.

use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use tidemill_tests::Deadline;

use super::broker::{Broker, config};
use super::system::{Cache, Form, System};
use super::{IN, OUT, PARTITIONS, SIZE, Scale};
use crate::bare::Delivery;
use crate::meter::cpu;
use crate::report::{Column, Table};

const EVERY: Duration = Duration::from_millis(10);

const COLUMNS: [Column; 4] = [
    Column::ratio("p50 ms", 2),
    Column::ratio("p99 ms", 2),
    Column::plain("most ms", 1),
    Column::plain("CPU %", 1),
];

const FLOOR: &str = "no processor";
const BASELINE: &str = "bare, exactly once";
const SYSTEMS: [System; 4] = [
    System::bare(BASELINE, Delivery::AtOnce),
    System::tidemill("Tidemill, exactly once", None),
    System::streams(
        "Kafka Streams, commit.interval.ms 10",
        Cache::Off,
        &["commit.interval.ms=10"],
    ),
    System::streams(
        "Kafka Streams, commit.interval.ms 1",
        Cache::Off,
        &["commit.interval.ms=1"],
    ),
];
/// What takes part only if it is asked for by name.
const OTHERS: [System; 2] = [
    System::tidemill("Tidemill, at least once", Some("at-least-once")),
    System::streams("Kafka Streams, commit.interval.ms 100", Cache::Off, &[]),
];

/// Runs the measurement.
pub(super) fn measure(scale: &Scale) -> Table {
    let broker = Broker::start();
    let title = "latency at 100 events/s";
    let mut table = Table::new(title, BASELINE, &COLUMNS);
    // The broker's first turn is not like the others.
    turn(Some(&SYSTEMS[0]), &broker, scale);
    for _ in 0..scale.rounds {
        if scale.takes(FLOOR) {
            table.add(FLOOR, turn(None, &broker, scale));
        }
        let usual = SYSTEMS.iter().filter(|system| scale.takes(system.name));
        let others = OTHERS.iter().filter(|system| scale.names(system.name));
        for system in usual.chain(others) {
            let values = turn(Some(system), &broker, scale);
            eprintln!("{title}: {}: {:.2} ms", system.name, values[0].unwrap());
            table.add(system.name, values);
        }
    }
    table
}

/// Sends events through a system, or straight to the reader.
fn turn(system: Option<&System>, broker: &Broker, scale: &Scale) -> Vec<Option<f64>> {
    broker.fresh();
    let mut running = system.map(|system| system.start(Form::Forward, broker));
    let process = running.as_mut().map(|running| running.id());
    let topic = if running.is_some() { OUT } else { IN };
    let (writer, reader) = (writer(broker), reader(broker, topic));
    warm(&writer, &reader);

    let before = process.map(cpu);
    let began = Instant::now();
    let pings = scale.pings;
    let sender = thread::spawn(move || {
        (0..pings)
            .map(|number| {
                let due = began + EVERY * u32::try_from(number).unwrap();
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let sent = Instant::now();
                send(&writer, number);
                sent
            })
            .collect::<Vec<Instant>>()
    });
    let mut received: Vec<Option<Instant>> = vec![None; pings];
    let mut missing = pings;
    let deadline = Deadline::after(EVERY * u32::try_from(pings).unwrap() + Duration::from_secs(20));
    while missing > 0 {
        assert!(!deadline.passed(), "{missing} events did not come");
        if let Some(number) = receive(&reader, Duration::from_millis(100)) {
            let again = received[number].replace(Instant::now());
            assert!(again.is_none(), "event {number} came again");
            missing -= 1;
        }
    }
    let share = process.zip(before).map(|(process, before)| {
        (cpu(process) - before).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0
    });
    let sent = sender.join().unwrap();
    if let Some(running) = &mut running {
        running.runs();
    }

    // The first tenth is warming up.
    let mut latencies: Vec<f64> = sent
        .iter()
        .zip(received)
        .skip(pings / 10)
        .map(|(sent, received)| (received.unwrap() - *sent).as_secs_f64() * 1e3)
        .collect();
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| Some(latencies[((latencies.len() - 1) as f64 * share) as usize]);
    vec![at(0.5), at(0.99), at(1.0), share]
}

/// Sends events until they come through, and takes all of them.
fn warm(writer: &ThreadedProducer<DefaultProducerContext>, reader: &BaseConsumer) {
    let deadline = Deadline::after(Duration::from_secs(60));
    let mut open = 0;
    // A few more than one, over all partitions.
    for number in 0.. {
        assert!(!deadline.passed(), "nothing comes through");
        send(writer, number);
        open += 1;
        while receive(reader, Duration::from_millis(50)).is_some() {
            open -= 1;
        }
        if open == 0 && number >= 20 {
            break;
        }
    }
}

fn writer(broker: &Broker) -> ThreadedProducer<DefaultProducerContext> {
    let mut config = config(&broker.address());
    config
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "0");
    config.create().unwrap()
}

fn send(writer: &ThreadedProducer<DefaultProducerContext>, number: usize) {
    let key = format!("key-{number}");
    let mut value = [b'x'; SIZE];
    value[..8].copy_from_slice(&(number as u64).to_be_bytes());
    let record = BaseRecord::to(IN).key(&key).payload(&value);
    writer.send(record).map_err(|(error, _)| error).unwrap();
}

fn reader(broker: &Broker, topic: &str) -> BaseConsumer {
    let mut config = config(&broker.address());
    config
        .set("group.id", "bench-reader")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed");
    let reader: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    reader.assign(&all).unwrap();
    reader
}

/// The number of the next event.
fn receive(reader: &BaseConsumer, wait: Duration) -> Option<usize> {
    let record = reader.poll(wait)?.unwrap();
    let number = record.payload().unwrap()[..8].try_into().unwrap();
    Some(usize::try_from(u64::from_be_bytes(number)).unwrap())
}
