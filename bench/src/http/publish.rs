//! A request that publishes to a real Kafka, and is answered when all replicas
//! have acknowledged the event.
//!
//! Tidemill runs its seed's user service with what is usual: one event of a
//! request is published by an idempotent producer, several would be a
//! transaction. After each turn the topic has to have as many events more as
//! requests were answered.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use tidemill_tests::{Kafka, seed};

use super::{COLUMNS, Servers, WARM, create, figures, rounds, time};
use crate::load::Exchange;
use crate::report::Table;
use crate::servers::Server;

const TOPIC: &str = "user_topic";
const PARTITIONS: i32 = 4;
/// Users that are created in turn. They are keys, and keys choose partitions.
const USERS: usize = 64;

pub(super) fn measure() -> Vec<Table> {
    let kafka = Kafka::for_measuring();
    kafka.topics().create(TOPIC, PARTITIONS);
    let users: Vec<Exchange> = (0..USERS)
        .map(|number| create(&format!("user-{number}")))
        .collect();
    let mut servers = Servers::that_answer(users[0].clone())
        .and("hyper + rdkafka, linger 0", |name| {
            Server::hyper_publishing(name, &kafka, "0")
        })
        .and("hyper + rdkafka, linger 1", |name| {
            Server::hyper_publishing(name, &kafka, "1")
        })
        .and("Tidemill", |name| {
            Server::tidemill(name, seed("user"), Some(&kafka))
        })
        .and("FastAPI + aiokafka", |name| {
            Server::fastapi(name, "1", Some(&kafka))
        })
        .and("FastAPI + aiokafka, 2 workers", |name| {
            Server::fastapi(name, "2", Some(&kafka))
        });
    let topic = Topic::of(&kafka);
    // The broker's first turn is not like the others.
    for server in servers.all.iter_mut().take(1) {
        turn(server, &users, 32, &topic);
    }
    [32, 128]
        .into_iter()
        .map(|connections| {
            let title = format!("POST that publishes, {connections} connections");
            eprintln!("{title}, {} rounds of {:?} each", rounds(5), time());
            let mut table = Table::new(title, "hyper + rdkafka, linger 1", &COLUMNS)
                .called(&format!("publish-{connections}"));
            for _ in 0..rounds(5) {
                for server in &mut servers.all {
                    let values = turn(server, &users, connections, &topic);
                    table.add(&server.name, values);
                }
            }
            table
        })
        .collect()
}

fn turn(
    server: &mut Server,
    users: &[Exchange],
    connections: usize,
    topic: &Topic,
) -> Vec<Option<f64>> {
    let events = topic.events();
    let mut load = server.connect(connections, &users[0]);
    load.run(users, WARM);
    let before = server.cpu();
    let outcome = load.run(users, time());
    let cpu = server.cpu().saturating_sub(before);
    let published = topic.events() - events;
    let answered = i64::try_from(load.requests).unwrap();
    assert_eq!(published, answered, "{}: events, requests", server.name);
    figures(&outcome, cpu)
}

/// The topic that is published to.
struct Topic(BaseConsumer);

impl Topic {
    fn of(kafka: &Kafka) -> Self {
        let client = ClientConfig::new()
            .set("bootstrap.servers", kafka.address())
            .create();
        Self(client.unwrap())
    }

    /// How many events were ever in it.
    fn events(&self) -> i64 {
        (0..PARTITIONS)
            .map(|partition| {
                let wait = Duration::from_secs(10);
                let marks = self.0.fetch_watermarks(TOPIC, partition, wait);
                marks.unwrap().1
            })
            .sum()
    }
}
