//! Who may do what on a broker: access control lists. Kafka's client library has
//! no call for them, so the two requests that it takes are written here.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::kafka::Kafka;

/// `CreateAcls` and `DeleteAcls`, and their oldest version that brokers still take.
const CREATE_ACLS: (i16, i16) = (30, 1);
const DELETE_ACLS: (i16, i16) = (31, 1);
/// The name is a prefix, or all of it.
const PREFIX: u8 = 4;
const LITERAL: u8 = 3;
/// Permissions.
const DENY: u8 = 2;
const ALLOW: u8 = 3;

/// Kinds of what is protected, by their number in Kafka's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Kafka's")]
pub enum Resource {
    Topic = 2,
    Group = 3,
    Cluster = 4,
    TransactionalId = 5,
}

/// What is done with it, by its number in Kafka's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Kafka's")]
pub enum Operation {
    All = 2,
    Read = 3,
    Write = 4,
    Create = 5,
}

/// Something that a user may, or may not, do.
#[derive(Clone, Debug)]
pub struct Rule<'a> {
    /// The user; `*` is everyone.
    pub user: &'a str,
    /// The kind of what is protected.
    pub resource: Resource,
    /// Its name; with a `*` at its end, all that begin like it.
    pub name: &'a str,
    /// What is done with it.
    pub operation: Operation,
}

impl Kafka {
    /// Forbids everyone to write to a topic. All else that is done with it stays
    /// allowed.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn forbid(&self, topic: &str) {
        self.allow_all("*", &[(Resource::Topic, topic)]);
        self.deny(&Rule {
            user: "*",
            resource: Resource::Topic,
            name: topic,
            operation: Operation::Write,
        });
    }

    /// Allows a user to do everything with these.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn allow_all(&self, user: &str, resources: &[(Resource, &str)]) {
        for &(resource, name) in resources {
            let operation = Operation::All;
            self.allow(&Rule {
                user,
                resource,
                name,
                operation,
            });
        }
    }

    /// Allows a user something: where there is any rule, what none allows is
    /// forbidden.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn allow(&self, rule: &Rule<'_>) {
        self.ask(CREATE_ACLS, &rule.bytes(ALLOW));
    }

    /// Forbids a user something.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn deny(&self, rule: &Rule<'_>) {
        self.ask(CREATE_ACLS, &rule.bytes(DENY));
    }

    /// Takes that back.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn grant(&self, rule: &Rule<'_>) {
        self.ask(DELETE_ACLS, &rule.bytes(DENY));
    }

    /// Sends one rule, and holds that the broker took it.
    fn ask(&self, (key, version): (i16, i16), rule: &[u8]) {
        let mut request = Vec::new();
        request.extend(key.to_be_bytes());
        request.extend(version.to_be_bytes());
        // The correlation id, no client id, one rule.
        request.extend(1_i32.to_be_bytes());
        request.extend((-1_i16).to_be_bytes());
        request.extend(1_i32.to_be_bytes());
        request.extend(rule);
        let mut stream = TcpStream::connect(self.address()).unwrap();
        let length = i32::try_from(request.len()).unwrap();
        stream.write_all(&length.to_be_bytes()).unwrap();
        stream.write_all(&request).unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        stream.read_exact(&mut answer).unwrap();
        // Correlation id, throttle time, how many; for each an error and its text.
        let error = i16::from_be_bytes([answer[12], answer[13]]);
        assert_eq!(error, 0, "the rule is not taken: {answer:?}");
    }
}

impl Rule<'_> {
    /// The rule, and what finds just this rule: they are written alike.
    fn bytes(&self, permission: u8) -> Vec<u8> {
        // `*` alone is Kafka's name for all.
        let (name, pattern) = match self.name.strip_suffix('*') {
            Some(prefix) if !prefix.is_empty() => (prefix, PREFIX),
            _ => (self.name, LITERAL),
        };
        let mut bytes = vec![self.resource as u8];
        text(&mut bytes, name);
        bytes.push(pattern);
        text(&mut bytes, &format!("User:{}", self.user));
        text(&mut bytes, "*");
        bytes.extend([self.operation as u8, permission]);
        bytes
    }
}

fn text(request: &mut Vec<u8>, text: &str) {
    request.extend(i16::try_from(text.len()).unwrap().to_be_bytes());
    request.extend(text.as_bytes());
}
