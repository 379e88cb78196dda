//! What a host uses, to see that it all comes back.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::host::Host;
use crate::wait::eventually;

/// Open files that come and go by themselves: connections to the broker, some of
/// which a host that has just begun does not have yet.
const OTHERS: usize = 12;

/// What a host used at a time when no client had more than one connection.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    files: usize,
    connections: f64,
}

impl Usage {
    /// Takes it.
    #[must_use]
    pub fn of(host: &mut Host) -> Usage {
        let folder = format!("/proc/{}/fd", host.process().id());
        let files = fs::read_dir(folder).map_or(0, Iterator::count);
        Usage {
            files,
            connections: host.metric("tidemill_connections", &[]),
        }
    }

    /// Waits until the host uses no more than that.
    ///
    /// # Panics
    /// If it goes on using more, or has panicked.
    pub fn is_back(&self, host: &mut Host) {
        eventually("the host uses no more than before", || {
            let now = Usage::of(host);
            let back = now.connections <= self.connections && now.files <= self.files + OTHERS;
            if back { Ok(()) } else { Err((now, *self)) }
        });
        let log = host.log();
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// How many of a number of files this process may open, beside what other tests
/// need.
///
/// # Panics
/// If it cannot be allowed what it may have.
#[must_use]
pub fn may_open(wanted: usize) -> usize {
    let most = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    most.map_or(wanted, |most| {
        wanted.min(usize::try_from(most).unwrap() / 2)
    })
}
