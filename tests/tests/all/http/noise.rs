//! Bytes that mean nothing, and such that nearly do: from a fixed seed, so that
//! what is found is found again.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use tidemill_tests::frames::{fields, frame, get, kind};
use tidemill_tests::{Dice, Usage};

use crate::Pair;

/// Streams of bytes to each listener. It is a few seconds.
const STREAMS: usize = 3_000;

/// What is made noise of.
fn originals(target: &str) -> Vec<Vec<u8>> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    let post = fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", target),
        (":authority", "localhost"),
        ("content-length", "5"),
    ]);
    vec![
        format!("GET {target} HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\n\r\n").into(),
        format!("POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello").into(),
        format!(
            "POST {target} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n\
             5;a=b\r\nhello\r\n0\r\nx: y\r\n\r\nGET http://localhost{target}?a=%20b HTTP/1.0\r\n\r\n"
        )
        .into(),
        [
            &preface[..],
            &settings,
            &frame(kind::HEADERS, 5, 1, &get(target)),
            &frame(kind::PING, 0, 0, &[1; 8]),
        ]
        .concat(),
        [
            &preface[..],
            &settings,
            &frame(kind::HEADERS, 0, 1, &post[..20]),
            &frame(kind::CONTINUATION, 4, 1, &post[20..]),
            &frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 1, 0]),
            &frame(kind::DATA, 1, 1, b"hello"),
            &frame(kind::PRIORITY, 0, 3, &[0, 0, 0, 1, 9]),
            &frame(kind::RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            &frame(kind::GOAWAY, 0, 0, &[0; 8]),
        ]
        .concat(),
    ]
}

/// Changes some bytes: another one, one less, one more, a part twice, a part left
/// out, or a byte that borders something.
fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice) {
    const BORDERS: &[u8] = b"\r\n\0 :;,/%\xff\x80\x7f0-";
    for _ in 0..=dice.throw(6) {
        let place = dice.throw(bytes.len().max(1));
        let end = (place + 1 + dice.throw(40)).min(bytes.len());
        match dice.throw(6) {
            _ if bytes.is_empty() => bytes.push(dice.throw(256) as u8),
            0 => bytes[place] = dice.throw(256) as u8,
            1 => bytes[place] = BORDERS[dice.throw(BORDERS.len())],
            2 => bytes[place] ^= 1 << dice.throw(8),
            3 => drop(bytes.drain(place..end)),
            4 => {
                let part = bytes[place..end].to_vec();
                bytes.splice(place..place, part);
            }
            _ => bytes.insert(place, BORDERS[dice.throw(BORDERS.len())]),
        }
    }
}

#[test]
fn no_bytes_harm_a_host() {
    let mut pair = Pair::start("noise", |manifest| manifest);
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let service = format!("/v1/services/{}", pair.name);
    for (address, target) in [
        (pair.host.http().address().to_owned(), pair.target("echo")),
        (pair.host.admin().address().to_owned(), service),
    ] {
        let originals = originals(&target);
        let mut dice = Dice::new(5);
        for number in 0..STREAMS {
            let mut bytes = originals[number % originals.len()].clone();
            if number % 10 == 9 {
                bytes = (0..dice.throw(500))
                    .map(|_| dice.throw(256) as u8)
                    .collect();
            }
            mutate(&mut bytes, &mut dice);
            let mut stream = TcpStream::connect(&address).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_millis(20)))
                .unwrap();
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
            let _ = stream.read(&mut [0; 64]);
            if number % 500 == 0 {
                pair.neighbour_serves();
            }
        }
    }
    before.is_back(&mut pair.host);
    pair.both_serve();
}
