//! The embedded broker: librdkafka's mock cluster, inside this process.
//!
//! It is in memory, keeps the latest 5 MB of a partition and has no
//! transactions: enough to start with one command, and never called durable.
//! It listens on TCP, so other clients can use it while the host runs.

use std::sync::mpsc;

use rdkafka::ClientConfig;
use rdkafka::bindings;
use rdkafka::producer::{BaseProducer, Producer};

use super::cluster::KafkaError;

/// A request to the thread that owns the mock cluster, which is not `Send`.
struct CreateTopic {
    name: String,
    partitions: i32,
    answer: mpsc::Sender<Result<(), rdkafka::error::KafkaError>>,
}

/// The running broker. It ends when this is dropped.
pub(super) struct Embedded {
    pub(super) servers: String,
    requests: mpsc::Sender<CreateTopic>,
}

impl Embedded {
    pub(super) fn start() -> Result<Embedded, KafkaError> {
        let (requests, received) = mpsc::channel::<CreateTopic>();
        let (started, start) = mpsc::channel();
        std::thread::Builder::new()
            .name("tidemill-broker".to_owned())
            .spawn(move || match client() {
                Ok(client) => {
                    let Some(cluster) = client.client().mock_cluster() else {
                        return;
                    };
                    shorten_rebalance(client.client().native_ptr());
                    let _ = started.send(Ok(cluster.bootstrap_servers()));
                    for request in received {
                        let created = cluster.create_topic(&request.name, request.partitions, 1);
                        let _ = request.answer.send(created);
                    }
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            })
            .map_err(|error| KafkaError::Embedded(error.to_string()))?;
        match start.recv() {
            Ok(Ok(servers)) => Ok(Embedded { servers, requests }),
            Ok(Err(error)) => Err(KafkaError::Embedded(error.to_string())),
            Err(_) => Err(KafkaError::Embedded("its thread ended".to_owned())),
        }
    }

    /// Creates a topic, if it is not there.
    pub(super) fn create_topic(&self, name: &str, partitions: i32) -> Result<(), KafkaError> {
        let (answer, answered) = mpsc::channel();
        let request = CreateTopic {
            name: name.to_owned(),
            partitions,
            answer,
        };
        let gone = |_| KafkaError::Embedded("its thread ended".to_owned());
        self.requests.send(request).map_err(|_| gone(()))?;
        answered
            .recv()
            .map_err(|_| gone(()))?
            .map_err(|error| KafkaError::Embedded(error.to_string()))
    }
}

/// A client that brings a mock cluster of one broker with it.
fn client() -> Result<BaseProducer, rdkafka::error::KafkaError> {
    ClientConfig::new()
        .set("test.mock.num.brokers", "1")
        .create()
}

/// By default a new group waits three seconds for further members. Here all
/// members are in this process, and a person waits for the first event.
fn shorten_rebalance(client: *mut bindings::rd_kafka_t) {
    // SAFETY: the client lives, and the mock cluster that is asked for is its
    // own, or null if it has none. Setting the delay is what the function is for,
    // and it takes the cluster's lock.
    unsafe {
        let cluster = bindings::rd_kafka_handle_mock_cluster(client);
        if !cluster.is_null() {
            bindings::rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 50);
        }
    }
}
