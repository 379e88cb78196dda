//! Many connections at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use tidemill_tests::{Usage, may_open};

use crate::Pair;

/// Opens a connection for each number. Some are silent, some in the middle of
/// something, some between requests.
fn connect(address: &str, numbers: Range<usize>) -> Vec<TcpStream> {
    let one = |number: usize| {
        let mut stream = TcpStream::connect(address).unwrap();
        let said: &[u8] = match number % 4 {
            0 => b"",
            1 => b"GET /not",
            2 => b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n",
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        };
        stream.write_all(said).unwrap();
        stream
    };
    numbers.map(one).collect()
}

#[test]
fn ten_thousand_idle_connections_hold_up_nobody() {
    let mut pair = Pair::start("crowd", |manifest| manifest);
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let count = may_open(10_000);
    if count < 10_000 {
        eprintln!("only {count} connections: this process may not open more files");
    }
    let address = pair.host.http().address();
    let idle: Vec<TcpStream> = thread::scope(|scope| {
        let connecting: Vec<_> = (0..8)
            .map(|part| scope.spawn(move || connect(address, part..count / 8 + part)))
            .collect();
        let parts = connecting.into_iter().map(|part| part.join().unwrap());
        parts.flatten().collect()
    });
    // New ones, as each of these clients is.
    for _ in 0..100 {
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
            pair.target("ok")
        );
        let answer = pair.host.http().raw(request.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let _ = pair.host.admin().get("/readyz").expect(200);
    drop(idle);
    before.is_back(&mut pair.host);
    pair.both_serve();
}

#[test]
fn a_client_without_a_place_waits_until_one_is_free() {
    let pair = Pair::with(&["--connections=5"], "places", |manifest| manifest);
    let connect = || {
        let mut stream = TcpStream::connect(pair.host.http().address()).unwrap();
        stream
            .write_all(b"GET /nothing HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        stream
    };
    let answered = |stream: &mut TcpStream, patience: Duration| {
        stream.set_read_timeout(Some(patience)).unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).map(|()| answer)
    };
    let mut all: Vec<TcpStream> = (0..5).map(|_| connect()).collect();
    for stream in &mut all {
        assert_eq!(
            &answered(stream, Duration::from_secs(20)).unwrap(),
            b"HTTP/1.1 404"
        );
    }
    let mut next = connect();
    assert!(answered(&mut next, Duration::from_millis(300)).is_err());
    // So do hundreds: whom the kernel has no room for is to try again after a second.
    let address = pair.host.http().address().parse().unwrap();
    let many = (0..500).map(|_| TcpStream::connect_timeout(&address, Duration::from_millis(900)));
    let many: Vec<TcpStream> = many.map(Result::unwrap).collect();
    // The admin listener has places of its own.
    let _ = pair.host.admin().get("/readyz").expect(200);
    drop(many);
    drop(all.pop());
    assert_eq!(
        &answered(&mut next, Duration::from_secs(20)).unwrap(),
        b"HTTP/1.1 404"
    );
    assert!(
        pair.host
            .log()
            .contains("all places for connections are taken")
    );
}
