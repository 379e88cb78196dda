//! A manifest's limits, in its own order and under its own names.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tidemill_manifest::Limits;

/// How much of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(crate) enum Amount {
    Bytes(u64),
    Millis(u64),
    Count(u64),
}

pub(super) fn of(limits: &Limits) -> Vec<(&'static str, Amount)> {
    let millis = |time: Duration| Amount::Millis(time.as_millis().try_into().unwrap_or(u64::MAX));
    vec![
        ("memory", Amount::Bytes(limits.memory)),
        ("memory-total", Amount::Bytes(limits.memory_total)),
        ("time", millis(limits.time)),
        ("concurrency", Amount::Count(limits.concurrency.into())),
        ("queue", Amount::Count(limits.queue.into())),
        ("queue-time", millis(limits.queue_time)),
        ("instances", Amount::Count(limits.instances.into())),
        ("reuse", Amount::Count(limits.reuse.into())),
        ("request", Amount::Bytes(limits.request)),
        ("response", Amount::Bytes(limits.response)),
        ("event", Amount::Bytes(limits.event)),
        ("effects", Amount::Count(limits.effects.into())),
        ("effects-size", Amount::Bytes(limits.effects_size)),
    ]
}

/// As a manifest would have it: in the largest unit that it is a whole number of.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SIZES: &[(u64, &str)] = &[
            (1 << 30, " GiB"),
            (1_000_000_000, " GB"),
            (1 << 20, " MiB"),
            (1_000_000, " MB"),
            (1 << 10, " KiB"),
            (1_000, " kB"),
            (1, " B"),
        ];
        const TIMES: &[(u64, &str)] = &[(60_000, "m"), (1_000, "s"), (1, "ms")];
        let (number, units) = match *self {
            Self::Bytes(bytes) => (bytes, SIZES),
            Self::Millis(millis) => (millis, TIMES),
            Self::Count(count) => return write!(f, "{count}"),
        };
        let fits = |(unit, _): &&(u64, &str)| number > 0 && number.is_multiple_of(*unit);
        let (unit, name) = units.iter().find(fits).unwrap_or(&(1, ""));
        write!(f, "{}{name}", number / unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_as_a_manifest_has_them() {
        for (amount, text) in [
            (Amount::Bytes(64 << 20), "64 MiB"),
            (Amount::Bytes(999_000), "999 kB"),
            (Amount::Bytes(1_025), "1025 B"),
            (Amount::Millis(5_000), "5s"),
            (Amount::Millis(120_000), "2m"),
            (Amount::Millis(1_500), "1500ms"),
            (Amount::Count(0), "0"),
            (Amount::Count(10_000), "10000"),
        ] {
            assert_eq!(amount.to_string(), text);
        }
    }
}
