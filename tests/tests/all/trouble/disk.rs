//! A broker that answers, and whose disk is full or broken.

use tidemill_tests::{Api, Counting, Fault, Fleet, Kafka, Posted};

use super::{answered_in_time, lasts, taken_again, while_reading};

/// A broker's errors, by their numbers in Kafka's protocol, while it can't write.
const KAFKA_STORAGE_ERROR: i16 = 56;
const NOT_ENOUGH_REPLICAS: i16 = 19;

#[test]
fn a_broker_that_cannot_write_is_a_503_and_events_wait() {
    let (kafka, proxy) = Kafka::proxied();
    let counting = Counting::on(&kafka, "disk", 4);
    // Tried for less long than by default, so that the test takes less long.
    let host = counting
        .builder()
        .broker(proxy.address())
        .arguments(&["--kafka-property", "message.timeout.ms=2000"])
        .ready();
    let fleet = Fleet::of([host]);
    let (client, input) = (fleet.client(0), &*counting.input);
    let times = [
        (KAFKA_STORAGE_ERROR, &[input][..], 2.5),
        (NOT_ENOUGH_REPLICAS, &[input], 2.5),
        // Several are tried for 10 s, whatever a single message is.
        (KAFKA_STORAGE_ERROR, &[input, input], 0.5),
    ];
    for (code, topics, time) in times {
        let posted = counting.while_posting(&fleet, 3, topics, || {
            lasts(0.3, 3.0);
            while_reading(&counting, &client, || {
                proxy.order(Api::Produce, Fault::Answered(code), 1, u32::MAX);
                // Past the proxy: what comes of them cannot be committed.
                counting.write(100);
                let before = counting.counted(&client);
                lasts(time, 20.0);
                assert_eq!(counting.counted(&client), before);
            });
            // It is there and answers; it is what it answers that is bad.
            fleet.host(0).ready();
            proxy.clear();
            taken_again(&client, &counting);
        });
        answered_in_time(&posted);
        counting.holds(&posted, topics);
        let sum = |of: fn(&Posted) -> usize| posted.iter().map(of).sum::<usize>();
        let (nothing, failed) = (sum(|one| one.nothing.len()), sum(|one| one.others.len()));
        assert!(topics.len() > 1 || failed > 0, "error {code}: {posted:?}");
        // A broker may have kept what it answered with an error, unless it was never
        // told to commit it.
        let known = if topics.len() == 1 { 0 } else { failed };
        assert_eq!(nothing, known, "error {code}: {posted:?}");
    }
    counting.is_exact(&fleet.into_hosts());
}
