//! HTTP/2 frame by frame (RFC 9113): a client that does what no client should.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Kinds of frames.
#[allow(missing_docs, reason = "the names are those of RFC 9113, section 6")]
pub mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

/// The flag ACK.
pub const ACK: u8 = 1;
/// The flag END_HEADERS.
pub const END_HEADERS: u8 = 4;
/// The flags of HEADERS that are a whole request.
pub const HEADERS_END: u8 = END_HEADERS | DATA_END;
/// The flag END_STREAM.
pub const DATA_END: u8 = 1;

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which kind.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

/// A connection.
#[derive(Debug)]
pub struct Frames(TcpStream);

impl Frames {
    /// Connects, with prior knowledge and these settings.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn connect(address: &str, settings: &[(u16, u32)]) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        for timeout in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            timeout(&stream, Some(Duration::from_secs(20))).unwrap();
        }
        // Small frames are not to wait for one another.
        stream.set_nodelay(true).unwrap();
        let mut frames = Self(stream);
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        frames
            .0
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .unwrap();
        frames.send(kind::SETTINGS, 0, 0, &settings).unwrap();
        frames
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The host does not take it.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.0.write_all(&frame(kind, flags, stream, payload))
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The host does not take them.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    /// The next frame, or none if the connection is closed.
    ///
    /// # Panics
    /// If nothing comes for long.
    pub fn receive(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let [a, b, c, kind, flags, d, e, f, g] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.read(&mut payload)?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([d, e, f, g]),
            payload,
        })
    }

    fn read(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.0.read_exact(bytes) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("the host neither answers nor closes the connection")
            }
            Err(_) => None,
        }
    }

    /// What comes of a stream: the status of its response if that is among the
    /// usual ones, or that it or the connection was ended with an error.
    ///
    /// # Panics
    /// If nothing comes for long.
    pub fn outcome(&mut self, stream: u32) -> Outcome {
        while let Some(frame) = self.receive() {
            match frame.kind {
                kind::HEADERS if frame.stream == stream => {
                    return Outcome::Answered(status(&frame.payload));
                }
                kind::RST_STREAM if frame.stream == stream => return Outcome::Reset,
                kind::GOAWAY => return Outcome::Closed,
                _ => {}
            }
        }
        Outcome::Closed
    }
}

/// What came of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status; 0 if it is not in HPACK's static table.
    Answered(u16),
    /// The stream was reset.
    Reset,
    /// The connection was closed.
    Closed,
}

/// A frame's bytes.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Header fields as HPACK has them (RFC 7541): each a literal, never indexed.
#[must_use]
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The fields of a GET.
#[must_use]
pub fn get(target: &str) -> Vec<u8> {
    fields(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", target),
        (":authority", "localhost"),
    ])
}

/// An integer with a prefix of seven bits (section 5.1).
fn integer(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        block.push(value as u8);
        return;
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push((value % 128 + 128) as u8);
        value /= 128;
    }
    block.push(value as u8);
}

/// The status, if the block begins with one of the static table.
fn status(block: &[u8]) -> u16 {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // Behind updates of the table's size.
    let first = block.iter().find(|byte| *byte & 0xe0 != 0x20);
    let index = usize::from(first.copied().unwrap_or_default()).wrapping_sub(0x88);
    STATIC.get(index).copied().unwrap_or_default()
}
