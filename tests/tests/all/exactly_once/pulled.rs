//! Events that a component takes one after another within one call: what holds for
//! a call holds for each of them.

use tidemill_tests::{Component, Counting, Host, Kafka, Manifest, eventually, unique};

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

#[test]
fn events_reach_a_handler_as_they_came_several_in_a_call_or_one() {
    let kafka = Kafka::shared();
    let topics = kafka.topics();
    for reuse in ["1", "1000"] {
        let name = unique("echo");
        let out = format!("{name}-out");
        topics.create(&name, 1);
        topics.create(&out, 1);
        let mut expected = Vec::new();
        let mut write =
            |key: Option<&[u8]>, value: Option<&[u8]>, headers: &[_]| {
                let offset = topics.write(&name, 0, key, value, headers);
                let from = format!("{name}/0@{offset}").into_bytes();
                let mut seen = vec![("from".to_owned(), Some(from))];
                seen.extend(headers.iter().map(
                    |(name, value): &(&str, Option<&[u8]>)| match value {
                        Some(value) => ((*name).to_owned(), Some(value.to_vec())),
                        None => (format!("{name} is null"), Some(Vec::new())),
                    },
                ));
                expected.push((key.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec), seen));
            };
        let large = vec![b'x'; 200_000];
        let twice: [(&str, Option<&[u8]>); 4] = [
            ("twice", Some(b"a")),
            ("null", None),
            ("twice", Some(b"")),
            ("\u{e9}", Some(&large[..1000])),
        ];
        write(Some(b"key"), Some(b"value"), &twice);
        write(None, None, &[]);
        write(Some(b"\xff\x00"), None, &twice[1..2]);
        write(None, Some(b""), &[]);
        write(Some(b""), Some(&large), &twice);
        for number in 0..70_usize {
            write(
                Some(&large[..number]),
                Some(&large[..7 * number]),
                &twice[..number % 5],
            );
        }
        let manifest = Manifest::new(&name)
            .setting("in", &name)
            .setting("out", &out)
            .publish(&out)
            .limit("reuse", reuse);
        let _host = Host::builder()
            .kafka(kafka)
            .deploy([Component::echo(&manifest)])
            .ready();
        let there = eventually("all have gone through", || {
            let there = topics.read(&out);
            if there.len() >= expected.len() {
                Ok(there)
            } else {
                Err(there.len())
            }
        });
        let there = there.into_iter();
        let there: Vec<_> = there.map(|one| (one.key, one.value, one.headers)).collect();
        for (there, expected) in there.iter().zip(&expected) {
            assert_eq!(there, expected);
        }
        assert_eq!(there.len(), expected.len());
    }
}
