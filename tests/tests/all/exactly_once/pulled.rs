//! Events that a component takes one after another within one call: what holds for
//! a call holds for each of them.

use tidemill_tests::{Counting, Kafka, eventually};

#[test]
fn each_event_of_a_call_has_all_its_time_and_counts_as_soon_as_it_is_done() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "pulled", 1)
        .with(|manifest| manifest.limit("time", "'1s'").setting("sleep", "200"));
    // Long before the host reads: they are there at once.
    counting.write(12);
    let host = counting.host();
    // Longer together than one may take; the first ones do not wait for the last.
    let some = eventually("some are counted", || match counting.counted(host.http()) {
        Some(some) if some > 0 => Ok(some),
        other => Err(other),
    });
    assert!(some < 12, "{some}");
    counting.is_exact([&host]);
    let outcome = |outcome: &str| {
        let labels = [
            &*format!("service=\"{}\"", counting.name),
            "kind=\"event\"",
            &*format!("outcome=\"{outcome}\""),
        ];
        host.metric("tidemill_invocations_total", &labels)
    };
    assert!((outcome("ok") - 12.0).abs() < 0.5, "{}", outcome("ok"));
    assert!(outcome("timeout") < 0.5, "{}", outcome("timeout"));
}

#[test]
fn an_instance_takes_no_more_events_than_it_may_have_calls() {
    let kafka = Kafka::shared();
    for reuse in ["1", "7"] {
        let counting =
            Counting::on(kafka, "reuse", 2).with(|manifest| manifest.limit("reuse", reuse));
        counting.write(100);
        let host = counting.host();
        counting.is_exact([&host]);
    }
}

#[test]
fn a_call_that_takes_too_long_fails_its_event_and_no_other() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "slow", 1).with(|manifest| {
        manifest
            .limit("time", "'300ms'")
            .setting("slow", "slow")
            .retry("attempts", "1")
    });
    let slow = |number: usize| match number % 5 {
        3 => "slow".to_owned(),
        _ => format!("key-{number}"),
    };
    let events: Vec<(String, String)> = (0..20)
        .map(|number| (slow(number), number.to_string()))
        .collect();
    counting.topics().write_keyed(&counting.input, &events);
    let host = counting.host();
    eventually("all others are counted", || {
        match counting.counted(host.http()) {
            Some(16) => Ok(()),
            other => Err(other),
        }
    });
    let letters = format!("{}.dead-letter", counting.name);
    eventually("the slow ones are dead letters", || {
        let letters = counting.topics().read(&letters);
        if letters.len() == 4 {
            Ok(())
        } else {
            Err(letters)
        }
    });
    assert!(
        counting
            .counts(host.http())
            .values()
            .all(|count| *count == 1)
    );
}

#[test]
fn there_is_no_event_in_a_request_and_nothing_is_lost_by_asking() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "asking", 1);
    let host = counting.host();
    let body = format!("{} key value\n", counting.input);
    let target = format!("/{}/next", counting.name);
    let reply = host.http().post(&target, body).expect(200);
    assert_eq!(reply.text(), "an event: false");
    let there = counting.topics().read(&counting.input);
    assert_eq!(there.len(), 1, "{there:?}");
    counting.is_exact([&host]);
}
