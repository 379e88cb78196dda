//! The systems that are compared, and how each is started.

use std::env;
use std::process::Command;

use serde_json::Value;
use tidemill_tests::{Component, Folder, Host, root, seed, target, unique};

use super::CHANGELOG;
use super::broker::Broker;
use crate::bare::Delivery;
use crate::perf::{Profile, profile};
use crate::program::Program;

/// What is done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// It is passed on.
    Forward,
    /// It is counted per key, and the new count published.
    Count,
    /// It is counted per key. Nothing is published: there is the state and its
    /// changelog.
    Tally,
    /// It is taken, and that is all.
    Nothing,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Count => "count",
            Self::Tally => "tally",
            Self::Nothing => "nothing",
        }
    }

    /// How its manifest begins, so far as a service of its own has another.
    fn head(self) -> &'static str {
        match self {
            Self::Forward => "name = \"bench-forward\"\ndescription",
            Self::Count | Self::Tally | Self::Nothing => "name = \"bench-count\"\ndescription",
        }
    }

    /// The component that does it, and what is different in its manifest.
    fn service(self) -> Component {
        let does = |does| {
            let does = format!("does = {does:?}");
            seed("bench-count").edited(&[("does = \"publish\"", &does)])
        };
        match self {
            Self::Forward => seed("bench-forward"),
            Self::Count => seed("bench-count"),
            Self::Tally => does("count"),
            Self::Nothing => does("nothing"),
        }
    }
}

/// How a count is written down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    /// What is before the key.
    prefix: &'static [u8],
    /// The count, from the value.
    count: fn(&[u8]) -> u64,
}

impl Rows {
    /// As a number in decimal, under the key alone.
    pub(super) const TEXT: Self = Self {
        prefix: b"",
        count: number,
    };
    /// Beside rows of the table there are others.
    const TIDEMILL: Self = Self {
        prefix: b"counts\0",
        count: number,
    };
    const STREAMS: Self = Self {
        prefix: b"",
        count: |value| u64::from_be_bytes(value.try_into().unwrap()),
    };

    /// The number of the key, and its count; none if this is no count.
    pub(super) fn read(self, key: &[u8], value: Option<&[u8]>) -> Option<(usize, u64)> {
        let key = key.strip_prefix(self.prefix)?.strip_prefix(b"key-")?;
        Some((number(key) as usize, (self.count)(value.unwrap())))
    }
}

/// What is written in decimal.
pub(crate) fn number(digits: &[u8]) -> u64 {
    std::str::from_utf8(digits).unwrap().parse().unwrap()
}

/// A system, with its name in the tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct System {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// What it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// The bare loop.
    Bare(Delivery),
    /// The same with its rows in a store, as Tidemill's are.
    Stored(Delivery),
    /// A host of Tidemill's, with the `delivery` of the service's manifest, or
    /// what is usual.
    Tidemill(Option<&'static str>),
    /// Kafka Streams, with its cache or without, and with settings.
    Streams(Cache, &'static [&'static str]),
}

/// Whether Kafka Streams holds updates back until it commits, so that several of a
/// key become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cache {
    On,
    Off,
}

impl System {
    pub(super) const fn bare(name: &'static str, delivery: Delivery) -> Self {
        let kind = Kind::Bare(delivery);
        Self { name, kind }
    }

    pub(super) const fn tidemill(name: &'static str, delivery: Option<&'static str>) -> Self {
        let kind = Kind::Tidemill(delivery);
        Self { name, kind }
    }

    pub(super) const fn streams(
        name: &'static str,
        cache: Cache,
        settings: &'static [&'static str],
    ) -> Self {
        let kind = Kind::Streams(cache, settings);
        Self { name, kind }
    }

    /// Starts it with nothing on its disk, as the next member of a new group.
    pub(super) fn start(&self, form: Form, broker: &Broker) -> Running {
        self.start_as(&unique(&format!("bench-{}", form.name())), form, broker)
    }

    /// Starts it with nothing on its disk, as a member of this group, which is
    /// the service's or application's name too.
    pub(super) fn start_as(&self, name: &str, form: Form, broker: &Broker) -> Running {
        let address = broker.address();
        let program = match self.kind {
            Kind::Tidemill(delivery) => {
                let delivery = delivery.map(|delivery| format!("delivery = {delivery:?}\n"));
                let own = format!(
                    "name = {name:?}\n{}description",
                    delivery.unwrap_or_default()
                );
                let service = form.service().edited(&[(form.head(), &own)]);
                let host = Host::builder()
                    .kafka(&broker.kafka)
                    .deploy([service])
                    .start();
                Program::Host(Box::new(host))
            }
            Kind::Bare(delivery) | Kind::Stored(delivery) => {
                let folder = Folder::new("bare");
                let form = match self.kind {
                    Kind::Stored(_) => "stored",
                    _ => form.name(),
                };
                let mut command = Command::new(env::current_exe().unwrap());
                command.current_dir(folder.path());
                command.args(["bare", form, &delivery.to_string(), &address, name]);
                Program::other(self.name, folder, command)
            }
            Kind::Streams(cache, settings) => {
                let folder = Folder::new("streams");
                let form = match (form, cache) {
                    (Form::Count, Cache::On) => "count-cached",
                    (form, _) => form.name(),
                };
                let mut command = Command::new(root().join("bench/streams/streams"));
                command
                    .arg("run")
                    .arg(target().join("streams"))
                    .args([form, &address, name])
                    .arg(folder.path().join("state"))
                    .args(settings)
                    // Who knows better settings can try them.
                    .args(
                        env::var("BENCH_STREAMS")
                            .iter()
                            .flat_map(|more| more.split_whitespace()),
                    );
                Program::other(self.name, folder, command)
            }
        };
        Running {
            group: name.to_owned(),
            kind: self.kind,
            program,
        }
    }
}

/// A system at work. It is killed when this is dropped.
pub(super) struct Running {
    /// Its consumer group.
    pub(super) group: String,
    kind: Kind,
    program: Program,
}

impl Running {
    /// Its process's number.
    pub(super) fn id(&mut self) -> u32 {
        self.program.process().id()
    }

    /// Samples where its time goes, if that is asked for.
    pub(super) fn profile(&mut self) -> Profile {
        let system = match self.kind {
            Kind::Tidemill(_) => "Tidemill",
            Kind::Bare(_) | Kind::Stored(_) | Kind::Streams(..) => "another",
        };
        profile(self.id(), system, "events")
    }

    /// Holds that it still runs.
    ///
    /// # Panics
    /// If it has ended; then it shows what it wrote.
    pub(super) fn runs(&mut self) {
        let ended = self.program.process().ended();
        assert!(ended.is_none(), "it ended: {ended:?}");
    }

    /// What it wrote.
    pub(super) fn output(&mut self) -> String {
        self.program.process().output()
    }

    /// Ends it as it wants to be ended.
    pub(super) fn end(mut self) {
        self.program.process().signal(tidemill_tests::Signal::TERM);
        self.program.process().wait();
    }

    /// Whether several updates of a key may become one in what it publishes.
    pub(super) fn merges(&self) -> bool {
        matches!(self.kind, Kind::Streams(Cache::On, _))
    }

    /// The topic that has its counts.
    pub(super) fn changelog(&self) -> String {
        match self.kind {
            Kind::Bare(_) | Kind::Stored(_) => CHANGELOG.to_owned(),
            Kind::Streams(..) => format!("{}-counts-changelog", self.group),
            Kind::Tidemill(_) => {
                let service = self.service().unwrap();
                let changelog = service["state"]["changelog"].as_str();
                let none = || panic!("its state is in no changelog: {service}");
                changelog.map_or_else(none, str::to_owned)
            }
        }
    }

    /// What a count is in that topic.
    pub(super) fn rows(&self) -> Rows {
        match self.kind {
            Kind::Bare(_) | Kind::Stored(_) => Rows::TEXT,
            Kind::Tidemill(_) => Rows::TIDEMILL,
            Kind::Streams(..) => Rows::STREAMS,
        }
    }

    /// What the admin API says of the service; none if this is not Tidemill, or
    /// the service is not deployed yet.
    pub(super) fn service(&self) -> Option<Value> {
        self.ask("GET", "")
    }

    /// What the admin API answers to a request about the service, if it is 200.
    pub(super) fn ask(&self, method: &str, what: &str) -> Option<Value> {
        let Program::Host(host) = &self.program else {
            return None;
        };
        let target = format!("/v1/services/{}{what}", self.group);
        let reply = host.admin().try_send(method, &target, &[], b"").ok()?;
        (reply.status == 200).then(|| reply.json())
    }
}
