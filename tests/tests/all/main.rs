//! The end-to-end tests: one executable, so that they share one broker.

#![allow(
    clippy::unwrap_used,
    clippy::result_large_err,
    reason = "a test fails by panicking, and shows the answer that it got"
)]

mod access;
mod admin;
mod checks;
mod cli;
mod components;
mod dead_letters;
mod deployments;
mod deploys;
mod documentation;
// The one that takes longest: tests begin in the order of their names.
mod endurance;
mod events;
mod exactly_once;
mod harness;
mod hostile;
mod http;
mod invocations;
mod limits;
mod logs;
mod many;
mod metrics;
mod offsets;
mod operating;
mod packaging;
mod secured;
mod seeds;
mod shutdown;
mod tracing;
mod trouble;

use tidemill_tests::{Component, Host, Manifest, unique};

/// A service that does what it is asked to, and another one beside it, on the
/// embedded broker.
struct Pair {
    host: Host,
    /// The one that is asked to misbehave.
    name: String,
    /// The one that must not notice.
    neighbour: String,
}

impl Pair {
    /// Starts both; `change` says what is special about the first one.
    fn start(name: &str, change: impl FnOnce(Manifest) -> Manifest) -> Pair {
        Pair::with(&[], name, change)
    }

    /// Starts both, with arguments to the host.
    fn with(arguments: &[&str], name: &str, change: impl FnOnce(Manifest) -> Manifest) -> Pair {
        let name = unique(name);
        let neighbour = unique("neighbour");
        let services = [
            Component::misbehave(&change(Manifest::new(&name))),
            Component::misbehave(&Manifest::new(&neighbour)),
        ];
        let host = Host::builder()
            .arguments(arguments)
            .deploy(services)
            .ready();
        Pair {
            host,
            name,
            neighbour,
        }
    }

    /// The target that asks the first one.
    fn target(&self, mode: &str) -> String {
        format!("/{}/{mode}", self.name)
    }

    /// Holds that the other one answers.
    fn neighbour_serves(&self) {
        let reply = self.host.http().get(&format!("/{}/ok", self.neighbour));
        assert_eq!((reply.status, reply.text()), (200, "ok"), "{reply:?}");
    }

    /// Holds that both answer.
    fn both_serve(&self) {
        self.neighbour_serves();
        let reply = self.host.http().get(&self.target("ok"));
        assert_eq!((reply.status, reply.text()), (200, "ok"), "{reply:?}");
    }
}
