//! The limits that can be hit while a host runs, by the names that metrics and
//! docs/limits.md give them.

/// A limit of a service's manifest, or of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Limit {
    /// `limits.memory`.
    Memory,
    /// `limits.memory-total`.
    MemoryTotal,
    /// `serve --memory`.
    HostMemory,
    /// Instances that the host can hold at once.
    HostInstances,
    /// `limits.time`.
    Time,
    /// `limits.queue`.
    Queue,
    /// `limits.queue-time`.
    QueueTime,
    /// `limits.request`.
    Request,
    /// `limits.response`.
    Response,
    /// `limits.event`.
    Event,
    /// `limits.effects`.
    Effects,
    /// `limits.effects-size`.
    EffectsSize,
}

impl Limit {
    /// All of them, in the order of their numbers.
    pub const ALL: [Limit; 12] = [
        Limit::Memory,
        Limit::MemoryTotal,
        Limit::HostMemory,
        Limit::HostInstances,
        Limit::Time,
        Limit::Queue,
        Limit::QueueTime,
        Limit::Request,
        Limit::Response,
        Limit::Event,
        Limit::Effects,
        Limit::EffectsSize,
    ];

    /// The name that metrics have for it.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Memory => "memory",
            Limit::MemoryTotal => "memory-total",
            Limit::HostMemory => "host-memory",
            Limit::HostInstances => "host-instances",
            Limit::Time => "time",
            Limit::Queue => "queue",
            Limit::QueueTime => "queue-time",
            Limit::Request => "request",
            Limit::Response => "response",
            Limit::Event => "event",
            Limit::Effects => "effects",
            Limit::EffectsSize => "effects-size",
        }
    }
}

/// The limits that one call was held by and went on: each counts once a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits(u16);

impl Hits {
    /// Notes one down.
    pub fn note(&mut self, limit: Limit) {
        self.0 |= 1 << limit as u8;
    }

    /// Those that were noted down.
    pub fn iter(self) -> impl Iterator<Item = Limit> {
        Limit::ALL
            .into_iter()
            .filter(move |limit| self.0 & (1 << *limit as u8) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_hit_twice_in_a_call_counts_once() {
        let mut hits = Hits::default();
        assert_eq!(hits.iter().count(), 0);
        for limit in [Limit::EffectsSize, Limit::Memory, Limit::Memory] {
            hits.note(limit);
        }
        let noted: Vec<Limit> = hits.iter().collect();
        assert_eq!(noted, [Limit::Memory, Limit::EffectsSize]);
    }

    #[test]
    fn limits_are_in_the_order_of_their_numbers() {
        for (number, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, number, "{}", limit.name());
        }
    }
}
