//! librdkafka properties that users may pass through, and those that they may
//! not since the host's promises rest on them.

use std::collections::BTreeMap;

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

/// Properties that the host controls, with the reason.
const OURS: [(&str, &str); 17] = [
    (
        "acks",
        "a 2xx means that all in-sync replicas have the event",
    ),
    (
        "allow.auto.create.topics",
        "topics are created as the manifests name them",
    ),
    (
        "auto.offset.reset",
        "where a service starts is its manifest's `start`",
    ),
    ("bootstrap.servers", "use --kafka"),
    (
        "enable.auto.commit",
        "an offset is committed after its effects",
    ),
    (
        "enable.auto.offset.store",
        "an offset is committed after its effects",
    ),
    ("enable.idempotence", "a retry must not double an event"),
    ("enable.partition.eof", "the host relies on it being off"),
    ("group.id", "use `group` in the manifest"),
    (
        "group.instance.id",
        "hosts join and leave groups as they are",
    ),
    (
        "isolation.level",
        "events of aborted transactions must not be seen",
    ),
    ("partition.assignment.strategy", "state is sharded by it"),
    ("partitioner", "keys are partitioned as Java clients do it"),
    ("statistics.interval.ms", "lag is counted by it"),
    ("test.mock.num.brokers", "use --kafka embedded"),
    ("transactional.id", "the host names its transactions"),
    ("client.id", "the host names its clients"),
];

/// The reason why a property is not the user's to set, if there is one.
pub(super) fn refused(property: &str) -> Option<&'static str> {
    let ours = OURS.iter().find(|(name, _)| *name == property);
    ours.map(|(_, reason)| *reason)
}

/// The first property of these that is refused, as a message.
pub(super) fn check(properties: &BTreeMap<String, String>) -> Result<(), String> {
    for name in properties.keys() {
        if let Some(reason) = refused(name) {
            return Err(format!("{name} cannot be set: {reason}"));
        }
    }
    Ok(())
}

/// Why librdkafka refuses a configuration, without the value that it refuses:
/// that may be a password.
pub(super) fn refusal(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, _, name, _) => {
            format!("it has no property {name:?}")
        }
        KafkaError::ClientConfig(_, _, name, _) => {
            format!("the value of {name:?} is not one that it takes")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_promise_rests_on_is_refused_with_the_reason() {
        let set = |name: &str| check(&BTreeMap::from([(name.to_owned(), "x".to_owned())]));
        assert_eq!(
            set("enable.auto.commit").unwrap_err(),
            "enable.auto.commit cannot be set: an offset is committed after its effects"
        );
        assert!(set("security.protocol").is_ok());
        assert!(set("sasl.password").is_ok());
    }

    #[test]
    fn a_refused_value_is_not_repeated() {
        for (name, value) in [
            ("sasl.pasword", "hunter2"),
            ("security.protocol", "hunter2"),
            ("session.timeout.ms", "hunter2"),
        ] {
            let mut config = rdkafka::ClientConfig::new();
            config.set(name, value);
            let made = config.create::<rdkafka::consumer::BaseConsumer>();
            let said = refusal(&made.err().unwrap());
            assert!(said.contains(name), "{said}");
            assert!(!said.contains(value), "{said}");
        }
    }
}
