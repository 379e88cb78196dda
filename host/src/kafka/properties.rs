//! librdkafka properties that users may pass through, and those that they may
//! not since the host's promises rest on them.

use std::collections::BTreeMap;

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
}
