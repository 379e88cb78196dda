//! A broker that answers, and whose disk is full or broken.

use std::time::Duration;

use tidemill_tests::{Api, Counting, Fault, Fleet, Kafka};

use super::{answered_in_time, lasts, taken_again, while_reading};

/// A broker's errors, by their numbers in Kafka's protocol, while it can't write.
const KAFKA_STORAGE_ERROR: i16 = 56;
const NOT_ENOUGH_REPLICAS: i16 = 19;

#[test]
fn a_broker_that_cannot_write_is_a_503_and_nothing_was_published() {
    let (kafka, proxy) = Kafka::proxied();
    let counting = Counting::on(&kafka, "disk", 4);
    // Tried for less long than by default, so that the test takes less long.
    let host = counting
        .builder()
        .broker(proxy.address())
        .arguments(&["--kafka-property", "message.timeout.ms=3000"])
        .ready();
    let fleet = Fleet::of([host]);
    let (client, input) = (fleet.client(0), &*counting.input);
    for code in [KAFKA_STORAGE_ERROR, NOT_ENOUGH_REPLICAS] {
        for topics in [&[input][..], &[input, input][..]] {
            let posted = counting.while_posting(&fleet, 3, topics, || {
                lasts(0.3, 3.0);
                while_reading(&counting, &client, || {
                    proxy.order(Api::Produce, Fault::Answered(code), 1, u32::MAX);
                    lasts(4.0, 20.0);
                });
                // It is asked, and says so; it is what it says that is bad.
                fleet.host(0).ready();
                proxy.clear();
                taken_again(&client, &counting);
            });
            answered_in_time(&posted);
            counting.holds(&posted, topics);
            let nothing = posted.iter().map(|one| one.nothing.len()).sum::<usize>();
            assert!(nothing > 0, "error {code}: {posted:?}");
        }
    }
    counting.write(100);
    counting.is_exact(&fleet.into_hosts());
}

#[test]
fn events_wait_while_a_broker_cannot_write_and_go_on_by_themselves() {
    let (kafka, proxy) = Kafka::proxied();
    let counting = Counting::on(&kafka, "disk-events", 4);
    let host = counting.builder().broker(proxy.address()).ready();
    counting.write(200);
    counting.is_exact([&host]);
    let storage = Fault::Answered(KAFKA_STORAGE_ERROR);
    proxy.order(Api::Produce, storage, 1, u32::MAX);
    counting.write(200);
    while_reading(&counting, host.http(), || lasts(2.0, 30.0));
    assert_eq!(counting.counted(host.http()), Some(200));
    assert!(proxy.clear() > 0);
    counting.write(200);
    counting.is_exact([&host]);
    assert_eq!(host.service(&counting.name)["status"], "running");
    std::hint::black_box(Duration::ZERO);
}
