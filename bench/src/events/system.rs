//! The systems that are compared, and how each is started.

use std::process::Command;

use serde_json::Value;
use tidemill_tests::{Folder, Host, Process, root, seed, target, unique};

use super::broker::Broker;
use crate::bare::Delivery;

/// What is done with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// It is passed on.
    Forward,
    /// It is counted per key, and the new count published.
    Count,
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Count => "count",
        }
    }
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
    /// A host of Tidemill's, with the `delivery` of the service's manifest, or
    /// what is usual.
    Tidemill(Option<&'static str>),
    /// Kafka Streams, with its cache or without, and with settings.
    Streams {
        cached: bool,
        settings: &'static [&'static str],
    },
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
        cached: bool,
        settings: &'static [&'static str],
    ) -> Self {
        let kind = Kind::Streams { cached, settings };
        Self { name, kind }
    }

    /// Whether several updates of a key may become one.
    pub(super) fn merges(&self) -> bool {
        matches!(self.kind, Kind::Streams { cached: true, .. })
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
                let usual = format!("name = \"bench-{}\"", form.name());
                let delivery = delivery.map(|delivery| format!("\ndelivery = {delivery:?}"));
                let own = format!("name = {name:?}{}", delivery.unwrap_or_default());
                let service = seed(&format!("bench-{}", form.name())).edited(&[(&usual, &own)]);
                let host = Host::builder()
                    .kafka(&broker.kafka)
                    .deploy([service])
                    .start();
                Program::Host(Box::new(host))
            }
            Kind::Bare(delivery) => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.args(["bare", form.name(), &delivery.to_string(), &address, name]);
                Program::other(self.name, Folder::new("bare"), command)
            }
            Kind::Streams { cached, settings } => {
                let folder = Folder::new("streams");
                let form = match (form, cached) {
                    (Form::Count, true) => "count-cached",
                    (form, _) => form.name(),
                };
                let mut command = Command::new(root().join("bench/streams/streams"));
                command
                    .arg("run")
                    .arg(target().join("streams"))
                    .args([form, &address, name])
                    .arg(folder.path().join("state"))
                    .args(settings);
                Program::other(self.name, folder, command)
            }
        };
        Running {
            group: name.to_owned(),
            program,
        }
    }
}

/// A system at work. It is killed when this is dropped.
pub(super) struct Running {
    /// Its consumer group.
    pub(super) group: String,
    program: Program,
}

enum Program {
    Host(Box<Host>),
    // The process ends before its folder is deleted.
    Other(
        Process,
        #[allow(dead_code, reason = "kept until then")] Folder,
    ),
}

impl Program {
    fn other(name: &str, folder: Folder, command: Command) -> Self {
        let log = folder.path().join("log");
        Self::Other(Process::start(name, command, &log), folder)
    }
}

impl Running {
    fn process(&mut self) -> &mut Process {
        match &mut self.program {
            Program::Host(host) => host.process(),
            Program::Other(process, _) => process,
        }
    }

    /// Its process's number.
    pub(super) fn id(&mut self) -> u32 {
        self.process().id()
    }

    /// Holds that it still runs.
    ///
    /// # Panics
    /// If it has ended; then it shows what it wrote.
    pub(super) fn runs(&mut self) {
        let ended = self.process().ended();
        assert!(ended.is_none(), "it ended: {ended:?}");
    }

    /// What it wrote.
    pub(super) fn output(&mut self) -> String {
        self.process().output()
    }

    /// Ends it as it wants to be ended.
    pub(super) fn end(mut self) {
        self.process().signal(tidemill_tests::Signal::TERM);
        self.process().wait();
    }

    /// What the admin API says of the service; none if this is not Tidemill, or
    /// the service is not deployed yet.
    pub(super) fn service(&self) -> Option<Value> {
        let Program::Host(host) = &self.program else {
            return None;
        };
        let target = format!("/v1/services/{}", self.group);
        let reply = host.admin().try_send("GET", &target, &[], b"").ok()?;
        (reply.status == 200).then(|| reply.json())
    }
}
