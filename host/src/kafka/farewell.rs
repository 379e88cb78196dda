//! Farewells: a member that was killed is taken out of its group by the host that
//! it was, when that is started again.
//!
//! A broker waits for a session's time-out (KIP-848: 45 s by default) before it
//! gives a dead member's partitions to others, and a restarted host is another
//! member. librdkafka has no call to leave for a member that it is not, so the
//! two requests that it takes are written here by hand: who coordinates the group,
//! and the leave. On connections that are encrypted or ask who one is, the session
//! simply times out.
//!
//! FindCoordinator v2, LeaveGroup v2 and ConsumerGroupHeartbeat v0, as
//! <https://kafka.apache.org/protocol> has them.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cluster::Cluster;

/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// No answer is longer.
const LONGEST: usize = 1 << 20;

/// A member of a group, as it is remembered over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membered {
    /// The member's id.
    pub member: String,
    /// Whether its group is kept by the broker (KIP-848).
    pub modern: bool,
}

impl Cluster {
    /// Takes a member out of its group. Whatever goes wrong is only said in the
    /// log: then its session times out. Blocks for some seconds at most.
    pub fn bid_farewell(&self, group: &str, who: &Membered) {
        if !self.is_plain() {
            return;
        }
        match farewell(self.servers(), group, who) {
            Ok(0) => tracing::debug!(group, member = who.member, "a dead member left"),
            // UNKNOWN_MEMBER_ID: it has timed out already.
            Ok(25) => {}
            Ok(code) => tracing::debug!(group, code, "a dead member was not taken out"),
            Err(error) => tracing::debug!(group, %error, "a dead member was not taken out"),
        }
    }
}

/// Returns the broker's error code.
fn farewell(servers: &str, group: &str, who: &Membered) -> io::Result<i16> {
    let mut last = io::Error::other("no server is named");
    for server in servers.split(',') {
        let server = server.trim();
        let server = server
            .rsplit_once("://")
            .map_or(server, |(_, address)| address);
        let coordinator = match coordinator(server, group) {
            Ok(coordinator) => coordinator,
            Err(error) => {
                last = error;
                continue;
            }
        };
        return leave(&coordinator, group, who);
    }
    Err(last)
}

fn coordinator(server: &str, group: &str) -> io::Result<String> {
    let mut request = Request::new(10, 2, false);
    request.string(group);
    // 0: the coordinator of a group.
    request.bytes.push(0);
    let mut answer = request.ask(server)?;
    let _throttled = answer.i32()?;
    let code = answer.i16()?;
    if code != 0 {
        return Err(io::Error::other(format!("no coordinator: error {code}")));
    }
    let _message = answer.string()?;
    let _node = answer.i32()?;
    let host = answer.string()?;
    let port = answer.i32()?;
    Ok(format!("{host}:{port}"))
}

fn leave(coordinator: &str, group: &str, who: &Membered) -> io::Result<i16> {
    let mut request;
    if who.modern {
        request = Request::new(68, 0, true);
        request.compact(group);
        request.compact(&who.member);
        // The epoch by which a member leaves.
        request.i32(-1);
        // No instance, no rack.
        request.bytes.extend([0, 0]);
        // The rebalance time-out stays.
        request.i32(-1);
        // Topics, assignor, partitions, tagged fields: none.
        request.bytes.extend([0, 0, 0, 0]);
    } else {
        request = Request::new(13, 2, false);
        request.string(group);
        request.string(&who.member);
    }
    let mut answer = request.ask(coordinator)?;
    if who.modern {
        let _tagged_fields = answer.take(1)?;
    }
    let _throttled = answer.i32()?;
    answer.i16()
}

struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(key: i16, version: i16, flexible: bool) -> Request {
        let mut request = Request { bytes: Vec::new() };
        request.bytes.extend(key.to_be_bytes());
        request.bytes.extend(version.to_be_bytes());
        // One request a connection: any number tells it.
        request.i32(1);
        request.string("tidemill-farewell");
        if flexible {
            request.bytes.push(0);
        }
        request
    }

    fn i32(&mut self, number: i32) {
        self.bytes.extend(number.to_be_bytes());
    }

    /// Names of groups and members are far shorter than 32,767 bytes.
    fn string(&mut self, text: &str) {
        let length = i16::try_from(text.len()).unwrap_or_default();
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend(text.as_bytes());
    }

    fn compact(&mut self, text: &str) {
        let mut length = text.len() + 1;
        while length >= 0x80 {
            self.bytes.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        self.bytes.push(length as u8);
        self.bytes.extend(text.as_bytes());
    }

    fn ask(self, server: &str) -> io::Result<Answer> {
        let mut last = io::Error::other("the server has no address");
        for address in server.to_socket_addrs()? {
            let mut stream = match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => stream,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let length = u32::try_from(self.bytes.len()).unwrap_or_default();
            let framed = [&length.to_be_bytes()[..], &self.bytes].concat();
            stream.write_all(&framed)?;
            let mut length = [0; 4];
            stream.read_exact(&mut length)?;
            let length = u32::from_be_bytes(length) as usize;
            if length > LONGEST {
                return Err(io::Error::other("this is not a Kafka broker"));
            }
            let mut bytes = vec![0; length];
            stream.read_exact(&mut bytes)?;
            let mut answer = Answer { bytes, at: 0 };
            let _correlation = answer.i32()?;
            return Ok(answer);
        }
        Err(last)
    }
}

struct Answer {
    bytes: Vec<u8>,
    at: usize,
}

impl Answer {
    fn take(&mut self, count: usize) -> io::Result<&[u8]> {
        let end = self.at + count;
        let taken = self.bytes.get(self.at..end);
        self.at = end;
        taken.ok_or_else(|| io::Error::other("the answer is too short"))
    }

    fn i16(&mut self) -> io::Result<i16> {
        let bytes = self.take(2)?.first_chunk().copied();
        Ok(i16::from_be_bytes(bytes.unwrap_or_default()))
    }

    fn i32(&mut self) -> io::Result<i32> {
        let bytes = self.take(4)?.first_chunk().copied();
        Ok(i32::from_be_bytes(bytes.unwrap_or_default()))
    }

    /// Empty where it is null.
    fn string(&mut self) -> io::Result<String> {
        let length = usize::try_from(self.i16()?).unwrap_or(0);
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }
}

/// Members by their groups.
pub type Members = BTreeMap<String, Membered>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_written_as_the_protocol_has_them() {
        let mut request = Request { bytes: Vec::new() };
        request.string("ab");
        request.compact("ab");
        request.compact(&"x".repeat(200));
        assert_eq!(&request.bytes[..7], b"\0\x02ab\x03ab");
        // 201 in seven bits at a time.
        assert_eq!(&request.bytes[7..9], [0xc9, 0x01]);
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error() {
        let mut answer = Answer {
            bytes: vec![0, 5, b'a'],
            at: 0,
        };
        assert!(answer.string().is_err());
    }
}
