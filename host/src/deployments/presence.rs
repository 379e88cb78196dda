//! Which hosts live, and how far each is with the deployments. Each says so every
//! few seconds, and when something has changed; who says nothing is not waited
//! for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidemill_cli::api::HostStatus;

/// How often a host says that it lives.
pub(super) const EVERY: Duration = Duration::from_secs(3);
/// After how long without a word it is taken for dead.
const SILENT: Duration = Duration::from_secs(10);

/// What a host says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Presence {
    /// Where its public listener is.
    pub(super) address: String,
    /// When it said so, in milliseconds since the Unix epoch.
    pub(super) at: u64,
    /// All records before this offset of the deployments are what it runs, but for
    /// those that failed.
    pub(super) applied: i64,
    /// Services whose deployment it cannot run: its number, and why.
    #[serde(default)]
    pub(super) failed: BTreeMap<String, (u64, String)>,
}

impl Presence {
    /// What it makes of a deployment: a number, in the record at an offset.
    fn status(&self, host: &str, name: &str, number: u64, offset: i64) -> HostStatus {
        let failed = self
            .failed
            .get(name)
            .filter(|(failed, _)| *failed == number);
        HostStatus {
            host: host.to_owned(),
            address: self.address.clone(),
            runs: self.applied > offset && failed.is_none(),
            error: failed.map(|(_, why)| why.clone()),
        }
    }
}

/// The hosts that were heard of.
#[derive(Default)]
pub(super) struct Hosts {
    heard: BTreeMap<String, (Presence, Instant)>,
}

impl Hosts {
    /// A host has said something, or that it ends.
    pub(super) fn hear(&mut self, host: String, said: Option<Presence>, now_ms: u64) {
        let Some(said) = said else {
            self.heard.remove(&host);
            return;
        };
        // At the start old words are read. They are as old as they say, if clocks
        // are right; a word from the future is new.
        let age = Duration::from_millis(now_ms.saturating_sub(said.at));
        let Some(at) = Instant::now().checked_sub(age) else {
            return;
        };
        self.heard.insert(host, (said, at));
    }

    /// What live hosts make of a deployment.
    pub(super) fn statuses(&self, name: &str, number: u64, offset: i64) -> Vec<HostStatus> {
        let live = self
            .heard
            .iter()
            .filter(|(_, (_, at))| at.elapsed() < SILENT);
        live.map(|(host, (said, _))| said.status(host, name, number, offset))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(at: u64, applied: i64) -> Option<Presence> {
        Some(Presence {
            address: "a".to_owned(),
            at,
            applied,
            failed: BTreeMap::from([("broken".to_owned(), (7, "no".to_owned()))]),
        })
    }

    #[test]
    fn a_host_runs_what_is_before_where_it_is_but_for_what_failed() {
        let mut hosts = Hosts::default();
        hosts.hear("h".to_owned(), said(1_000, 5), 1_000);
        let runs = |name: &str, number, offset| {
            let status = hosts.statuses(name, number, offset).pop().unwrap();
            (status.runs, status.error)
        };
        assert_eq!(runs("s", 1, 4), (true, None));
        assert_eq!(runs("s", 1, 5), (false, None));
        assert_eq!(runs("broken", 7, 4), (false, Some("no".to_owned())));
        assert_eq!(runs("broken", 8, 4), (true, None));
    }

    #[test]
    fn a_host_that_ended_or_fell_silent_is_not_waited_for() {
        let mut hosts = Hosts::default();
        hosts.hear("old".to_owned(), said(1_000, 5), 1_000 + 10_000);
        hosts.hear("new".to_owned(), said(1_000, 5), 1_000 + 9_000);
        hosts.hear("ended".to_owned(), said(1_000, 5), 1_000);
        hosts.hear("ended".to_owned(), None, 1_000);
        let live = hosts.statuses("s", 1, 1);
        assert_eq!(live.len(), 1);
        assert_eq!(live[0].host, "new");
    }
}
