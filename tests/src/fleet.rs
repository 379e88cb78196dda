//! Several hosts, some of which are killed while others are asked.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::host::Host;
use crate::http::Client;

/// Hosts that are shared between threads.
#[derive(Debug)]
pub struct Fleet(Vec<Member>);

#[derive(Debug)]
struct Member {
    host: Mutex<Host>,
    /// Where it listens changes when it is started again.
    client: Mutex<Client>,
}

impl Fleet {
    /// Of these hosts.
    #[must_use]
    pub fn of(hosts: impl IntoIterator<Item = Host>) -> Fleet {
        let member = |host: Host| Member {
            client: Mutex::new(host.http().clone()),
            host: Mutex::new(host),
        };
        Fleet(hosts.into_iter().map(member).collect())
    }

    /// How many.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A client of a host, which may be down.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn client(&self, number: usize) -> Client {
        self.0[number].client.lock().unwrap().clone()
    }

    /// A host, for as long as this is kept.
    ///
    /// # Panics
    /// If the thread that had it did.
    pub fn host(&self, number: usize) -> MutexGuard<'_, Host> {
        self.0[number].host.lock().unwrap()
    }

    /// Starts a host that has ended, with its data.
    ///
    /// # Panics
    /// If it does not listen.
    pub fn restart(&self, number: usize) {
        let mut host = self.host(number);
        host.restart();
        *self.0[number].client.lock().unwrap() = host.http().clone();
    }

    /// The hosts, when no thread has them any more.
    ///
    /// # Panics
    /// If a thread that had one did.
    #[must_use]
    pub fn into_hosts(self) -> Vec<Host> {
        let hosts = self.0.into_iter();
        hosts
            .map(|member| member.host.into_inner().unwrap())
            .collect()
    }
}

/// Numbers that look random and are the same each time (xorshift64).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that give the same numbers for the same seed, which is not 0.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number below `sides`.
    pub fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % sides as u64).unwrap_or_default()
    }

    /// A time between two, in milliseconds.
    pub fn time(&mut self, least: u64, most: u64) -> Duration {
        let span = usize::try_from(most - least).unwrap_or_default() + 1;
        Duration::from_millis(least + self.throw(span) as u64)
    }
}
