//! The connections of a listener, counted.

use prometheus::{IntCounter, IntGauge};

/// Why a connection did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// The client took too long.
    Slow,
    /// What it sent is not HTTP/1.1.
    Malformed,
    /// It cancelled requests without end.
    Abused,
    /// Anything else: it broke off, or broke the rules of HTTP/2.
    Broken,
}

impl Closed {
    /// Their names, in order.
    pub(super) const NAMES: [&str; 4] = ["slow", "malformed", "abused", "broken"];
}

/// The connections of one listener.
#[derive(Clone)]
pub(crate) struct ConnectionMetrics {
    pub(super) open: IntGauge,
    pub(super) closed: [IntCounter; Closed::NAMES.len()],
}

impl ConnectionMetrics {
    /// A connection is open as long as what this gives is kept.
    pub(crate) fn opened(&self) -> Open {
        self.open.inc();
        Open(self.open.clone())
    }

    /// A connection did not end well.
    pub(crate) fn closed(&self, why: Closed) {
        if let Some(counter) = self.closed.get(why as usize) {
            counter.inc();
        }
    }
}

/// An open connection, counted.
pub(crate) struct Open(IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
