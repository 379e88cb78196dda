//! The harness itself: what the other tests rely on.

use tidemill_tests::{Kafka, unique};

#[test]
fn a_record_is_read_as_it_was_written() {
    let kafka = Kafka::shared().topics();
    let topic = unique("records");
    kafka.create(&topic, 3);
    let first = kafka.write(&topic, 2, None, Some(b"\xff\x00"), &[("a", None)]);
    let second = kafka.write(&topic, 2, Some(b"key"), None, &[("b", Some(b"c"))]);
    assert_eq!((first, second), (0, 1));

    let records = kafka.read(&topic);
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].key, None);
    assert_eq!(records[0].value.as_deref(), Some(&b"\xff\x00"[..]));
    assert_eq!(records[0].headers, [("a".to_owned(), None)]);
    assert_eq!(records[1].key.as_deref(), Some(&b"key"[..]));
    assert_eq!(records[1].value, None);
    assert_eq!(records[1].headers, [("b".to_owned(), Some(b"c".to_vec()))]);
}

#[test]
fn a_broker_that_is_killed_comes_back_with_its_data() {
    let kafka = Kafka::fresh();
    kafka.topics().create("kept", 1);
    kafka.topics().write("kept", 0, None, Some(b"value"), &[]);
    kafka.stop();
    kafka.start();
    assert_eq!(kafka.topics().read("kept")[0].text(), "value");
}
