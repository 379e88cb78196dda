//! Clients that leave, at every point.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use tidemill_tests::frames::{Frames, HEADERS_END, frame, get, kind};
use tidemill_tests::{Client, Usage, eventually};

use crate::Pair;

fn send(pair: &Pair, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(pair.host.http().address()).unwrap();
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    stream
}

/// Waits until a service has this many slots again.
fn has_slots(pair: &Pair, slots: usize) {
    eventually("all slots are free", || {
        std::thread::scope(|scope| {
            let address = pair.host.http().address();
            let ask = || Client::at(address).get(&pair.target("sleep?ms=300"));
            let asked: Vec<_> = (0..slots).map(|_| scope.spawn(ask)).collect();
            let statuses = asked.into_iter().map(|one| one.join().unwrap().status);
            let statuses: Vec<u16> = statuses.collect();
            if statuses.iter().all(|status| *status == 200) {
                Ok(())
            } else {
                Err(statuses)
            }
        })
    });
}

#[test]
fn a_handler_whose_client_is_gone_is_stopped() {
    let mut pair = Pair::start("gone", |manifest| {
        manifest.limit("concurrency", "2").limit("time", "\"60s\"")
    });
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let running = |pair: &Pair| {
        // With both slots taken there is none for a third one.
        eventually("the handlers run", || {
            let reply = pair.host.http().get(&pair.target("ok"));
            if reply.status == 503 {
                Ok(())
            } else {
                Err(reply)
            }
        });
    };
    let target = pair.target("sleep?ms=50000");

    // It closes the connection.
    let held: Vec<TcpStream> = (0..2).map(|_| send(&pair, &target)).collect();
    running(&pair);
    drop(held);
    has_slots(&pair, 2);

    // It closes its half alone: nobody can tell that from leaving.
    let held: Vec<TcpStream> = (0..2).map(|_| send(&pair, &target)).collect();
    running(&pair);
    for mut stream in held {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert_eq!(answer, "");
    }
    has_slots(&pair, 2);

    // It resets the streams, and keeps the connection.
    let mut frames = Frames::connect(pair.host.http().address(), &[]);
    for stream in [1, 3] {
        frames
            .send(kind::HEADERS, HEADERS_END, stream, &get(&target))
            .unwrap();
    }
    running(&pair);
    for stream in [1, 3] {
        frames
            .send(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])
            .unwrap();
    }
    has_slots(&pair, 2);
    drop(frames);
    before.is_back(&mut pair.host);
    pair.both_serve();
}

#[test]
fn a_client_that_closes_its_half_is_answered_or_given_up() {
    let mut pair = Pair::start("half-closed", |manifest| manifest);
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    for _ in 0..50 {
        let mut stream = send(&pair, "/nothing-there");
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        let answered = answer.starts_with("HTTP/1.1 404");
        assert!(answered || answer.is_empty(), "{answer}");
    }
    before.is_back(&mut pair.host);
}

#[test]
fn clients_that_leave_at_any_byte_leave_nothing_behind() {
    let mut pair = Pair::start("any-byte", |manifest| manifest);
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let body = "x".repeat(100);
    let plain = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{body}",
        pair.target("echo")
    );
    let mut framed = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    framed.extend(frame(kind::SETTINGS, 0, 0, &[]));
    framed.extend(frame(kind::HEADERS, 4, 1, &get(&pair.target("echo"))));
    framed.extend(frame(kind::DATA, 1, 1, body.as_bytes()));
    for client in [pair.host.http(), pair.host.admin()] {
        for bytes in [plain.as_bytes(), &framed] {
            for end in 0..=bytes.len() {
                let mut stream = TcpStream::connect(client.address()).unwrap();
                stream.write_all(&bytes[..end]).unwrap();
            }
        }
    }
    // In the middle of a response.
    for _ in 0..20 {
        let mut stream = send(&pair, &pair.target("big?bytes=4000000"));
        let mut first = [0; 1000];
        stream.read_exact(&mut first).unwrap();
    }
    before.is_back(&mut pair.host);
    pair.both_serve();
}
