//! Forbids a topic. Kafka's client library has no call for it, so the one request
//! that it takes is written here.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::kafka::Kafka;

/// `CreateAcls` and its oldest version that brokers still take.
const CREATE_ACLS: (i16, i16) = (30, 1);
/// A resource that is a topic, named in full.
const TOPIC: [u8; 2] = [2, 3];
/// Operations.
const ALL: u8 = 2;
const WRITE: u8 = 4;
/// Permissions.
const DENY: u8 = 2;
const ALLOW: u8 = 3;

impl Kafka {
    /// Forbids everyone to write to a topic. All else that is done with it stays
    /// allowed.
    ///
    /// # Panics
    /// If the broker refuses.
    pub fn forbid(&self, topic: &str) {
        let mut request = Vec::new();
        for number in [CREATE_ACLS.0, CREATE_ACLS.1] {
            request.extend(number.to_be_bytes());
        }
        // The correlation id, and no client id.
        request.extend(1_i32.to_be_bytes());
        request.extend((-1_i16).to_be_bytes());
        let rules = [(ALL, ALLOW), (WRITE, DENY)];
        request.extend(2_i32.to_be_bytes());
        for (operation, permission) in rules {
            request.push(TOPIC[0]);
            text(&mut request, topic);
            request.push(TOPIC[1]);
            text(&mut request, "User:*");
            text(&mut request, "*");
            request.extend([operation, permission]);
        }
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
        assert_eq!(error, 0, "{topic} is not forbidden: {answer:?}");
    }
}

fn text(request: &mut Vec<u8>, text: &str) {
    request.extend(i16::try_from(text.len()).unwrap().to_be_bytes());
    request.extend(text.as_bytes());
}
