//! Too much, and too slowly: each bound of docs/http.md, from the side of a
//! client that tries to pass it. The service beside goes on, and all that was
//! used is given back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tidemill_tests::frames::{
    DATA_END, END_HEADERS, Frames, HEADERS_END, Outcome, fields, frame, get, kind,
};
use tidemill_tests::{Client, Usage, eventually};

use crate::Pair;

/// A host that has patience for a second only.
fn impatient(name: &str) -> Pair {
    Pair::with(&["--client-timeout=1"], name, |manifest| {
        manifest
            .limit("response", "\"64 MB\"")
            .limit("memory", "\"256 MB\"")
    })
}

fn connect(client: &Client) -> TcpStream {
    let stream = TcpStream::connect(client.address()).unwrap();
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).unwrap();
    stream.set_write_timeout(patience).unwrap();
    stream
}

/// All that comes until the connection is closed.
fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("the connection stays open")
        }
        _ => String::from_utf8_lossy(&answer).into_owned(),
    }
}

fn closed(pair: &Pair, listener: &str, reason: &str) -> f64 {
    let labels = [
        &*format!("listener=\"{listener}\""),
        &*format!("reason=\"{reason}\""),
    ];
    pair.host
        .metric("tidemill_connections_closed_total", &labels)
}

#[test]
fn connections_without_a_whole_header_are_closed() {
    let mut pair = impatient("half-a-header");
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let mut held = Vec::new();
    for part in [
        "",
        "GET",
        "PRI * HT",
        "GET / HTTP/1.1\r\nhos",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n",
        "GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    ] {
        for client in [pair.host.http(), pair.host.admin()] {
            for _ in 0..10 {
                let mut stream = connect(client);
                stream.write_all(part.as_bytes()).unwrap();
                held.push(stream);
            }
        }
    }
    pair.both_serve();
    // The clients hold on; it is the host that closes.
    before.is_back(&mut pair.host);
    for listener in ["public", "admin"] {
        assert!(closed(&pair, listener, "slow") >= 50.0, "{listener}");
    }
    drop(held);
    pair.both_serve();
}

#[test]
fn a_header_that_comes_a_byte_at_a_time_is_not_waited_for() {
    let pair = impatient("drip");
    for client in [pair.host.http(), pair.host.admin()] {
        let mut stream = connect(client);
        stream.write_all(b"GET / HTTP/1.1\r\nx: ").unwrap();
        eventually("the connection is closed", || {
            stream.write_all(b"y").map_or(Ok(()), |()| Err("open"))
        });
    }
    pair.both_serve();
}

#[test]
fn a_body_that_does_not_come_is_408() {
    let mut pair = impatient("slow-body");
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let invoke = format!("/v1/services/{}/invoke", pair.name);
    for (client, target) in [
        (pair.host.http(), pair.target("length")),
        (pair.host.admin(), invoke),
    ] {
        for body in [
            "content-length: 100\r\n\r\nabc",
            "transfer-encoding: chunked\r\n\r\n3\r\nab",
        ] {
            let mut stream = connect(client);
            let request = format!("POST {target} HTTP/1.1\r\nhost: localhost\r\n{body}");
            stream.write_all(request.as_bytes()).unwrap();
            let answer = rest(&mut stream);
            assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
            assert!(
                answer.contains("urn:tidemill:problem:slow-body"),
                "{answer}"
            );
        }
    }
    before.is_back(&mut pair.host);
    pair.both_serve();
}

#[test]
fn a_client_that_does_not_read_its_response_is_given_up() {
    let mut pair = impatient("unread");
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let target = pair.target("big?bytes=20000000");

    let mut plain = connect(pair.host.http());
    write!(plain, "GET {target} HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();

    // HTTP/2's own flow control: no window at all, and every ping is answered, so
    // that the connection is alive. A response of this size may take two seconds
    // more.
    let mut alive = Frames::connect(pair.host.http().address(), &[(4, 0)]);
    let target = pair.target("big?bytes=40000");
    alive
        .send(kind::HEADERS, HEADERS_END, 1, &get(&target))
        .unwrap();
    let mut reset = false;
    while let Some(frame) = alive.receive() {
        match frame.kind {
            kind::PING if frame.flags == 0 => alive.send(kind::PING, 1, 0, &frame.payload).unwrap(),
            kind::RST_STREAM => {
                reset = true;
                break;
            }
            _ => {}
        }
    }
    assert!(reset, "the stream is not reset");
    drop(alive);
    before.is_back(&mut pair.host);
    pair.both_serve();
    drop(plain);
}

#[test]
fn an_http_2_connection_that_asks_for_nothing_is_closed() {
    let mut pair = impatient("asks-nothing");
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let mut frames = Frames::connect(pair.host.http().address(), &[]);
    let mut told = false;
    while let Some(frame) = frames.receive() {
        if frame.kind == kind::PING
            && frame.flags == 0
            && frames.send(kind::PING, 1, 0, &frame.payload).is_err()
        {
            break;
        }
        told |= frame.kind == kind::GOAWAY;
    }
    assert!(told, "it was closed without GOAWAY");
    before.is_back(&mut pair.host);
}

#[test]
fn too_many_header_fields_are_431() {
    let pair = Pair::start("many-fields", |manifest| manifest);
    let request = |target: &str, fields: usize| {
        let fields = "x: y\r\n".repeat(fields);
        format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{fields}\r\n")
    };
    for (client, target) in [
        (pair.host.http(), pair.target("ok")),
        (pair.host.admin(), "/healthz".to_owned()),
    ] {
        let answer = client.raw(request(&target, 98).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let answer = client.raw(request(&target, 99).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        let answer = client.raw(request(&target, 100_000).as_bytes());
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
            "{answer}"
        );
    }
    pair.both_serve();
}

#[test]
fn a_header_without_end_is_refused_in_http_2() {
    let mut pair = Pair::start("continued", |manifest| manifest);
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let many = fields(&[("x-field", &*"x".repeat(1_000)); 16]);
    for client in [pair.host.http(), pair.host.admin()] {
        for part in [&many[..], b""] {
            let mut frames = Frames::connect(client.address(), &[]);
            frames.send(kind::HEADERS, 0, 1, &get("/")).unwrap();
            let sent = (0..100_000)
                .take_while(|_| frames.send(kind::CONTINUATION, 0, 1, part).is_ok())
                .count();
            assert!(sent < 100_000, "it is all taken");
        }
    }
    before.is_back(&mut pair.host);
    pair.both_serve();
}

#[test]
fn header_fields_of_more_than_64_kib_are_refused_in_http_2() {
    let pair = Pair::start("large-fields", |manifest| manifest);
    let ask = |size: usize| {
        let mut frames = Frames::connect(pair.host.http().address(), &[]);
        let value = "x".repeat(8_000);
        let mut block = get(&pair.target("ok"));
        for _ in 0..size / value.len() {
            block.extend(fields(&[("x-field", &value)]));
        }
        let mut parts = block.chunks(16_000).peekable();
        let mut number = kind::HEADERS;
        let mut sent = true;
        while let Some(part) = parts.next() {
            let end = if parts.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            // END_STREAM is not a flag of CONTINUATION.
            let flags = if number == kind::HEADERS {
                end | DATA_END
            } else {
                end
            };
            sent &= frames.send(number, flags, 1, part).is_ok();
            number = kind::CONTINUATION;
        }
        if sent {
            frames.outcome(1)
        } else {
            Outcome::Closed
        }
    };
    assert_eq!(ask(56_000), Outcome::Answered(200));
    for size in [72_000, 120_000, 200_000, 2_000_000] {
        let outcome = ask(size);
        assert!(
            !matches!(outcome, Outcome::Answered(200)),
            "{size}: {outcome:?}"
        );
    }
    pair.both_serve();
}

#[test]
fn streams_that_are_opened_and_reset_cost_a_connection_at_most() {
    let mut pair = Pair::start("rapid-reset", |manifest| manifest.limit("concurrency", "4"));
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    for (client, target) in [
        (pair.host.http(), pair.target("sleep?ms=1000")),
        (pair.host.http(), pair.target("loop")),
        (pair.host.admin(), format!("/v1/services/{}", pair.name)),
    ] {
        let mut frames = Frames::connect(client.address(), &[]);
        let request = get(&target);
        let taken = (0..50_000u32).take_while(|number| {
            let stream = 2 * number + 1;
            let both = [
                frame(kind::HEADERS, HEADERS_END, stream, &request),
                frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            ];
            frames.send_bytes(&both.concat()).is_ok()
        });
        let taken = taken.count();
        assert!(taken < 50_000, "{target}: it goes on");
        pair.neighbour_serves();
    }
    before.is_back(&mut pair.host);
    pair.both_serve();
}

#[test]
fn streams_that_run_for_a_while_and_are_reset_cost_a_connection_at_most() {
    let mut pair = Pair::start("slow-reset", |manifest| manifest.limit("concurrency", "4"));
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let mut frames = Frames::connect(pair.host.http().address(), &[]);
    let request = get(&pair.target("sleep?ms=2000"));
    let mut taken = 0;
    // Each stream is surely accepted before it is reset: the ping behind it is
    // answered.
    'streams: for number in 0..5_000u32 {
        let stream = 2 * number + 1;
        let both = [
            frame(kind::HEADERS, HEADERS_END, stream, &request),
            frame(kind::PING, 0, 0, &[7; 8]),
        ];
        if frames.send_bytes(&both.concat()).is_err() {
            break;
        }
        loop {
            match frames.receive() {
                Some(frame) if frame.kind == kind::PING => break,
                Some(frame) if frame.kind != kind::GOAWAY => {}
                _ => break 'streams,
            }
        }
        if frames
            .send(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])
            .is_err()
        {
            break;
        }
        taken += 1;
    }
    assert!((100..5_000).contains(&taken), "{taken}");
    pair.neighbour_serves();
    before.is_back(&mut pair.host);
    pair.both_serve();
    assert!(closed(&pair, "public", "abused") > 0.0);
}

#[test]
fn frames_that_ask_for_nothing_harm_nobody() {
    let mut pair = Pair::start("empty-frames", |manifest| manifest);
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let open = frame(kind::HEADERS, END_HEADERS, 1, &get(&pair.target("length")));
    for flood in [
        frame(kind::PING, 0, 0, &[0; 8]),
        frame(kind::SETTINGS, 0, 0, &[]),
        frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]),
        frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 1]),
        frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
        [open.clone(), frame(kind::DATA, 0, 1, &[])].concat(),
        // A kind that nobody knows.
        frame(0x77, 0, 0, &[0; 100]),
    ] {
        for client in [pair.host.http(), pair.host.admin()] {
            let mut frames = Frames::connect(client.address(), &[]);
            let many = flood.repeat(1_000);
            for _ in 0..20 {
                if frames.send_bytes(&many).is_err() {
                    break;
                }
            }
            pair.neighbour_serves();
        }
    }
    before.is_back(&mut pair.host);
    pair.both_serve();
}
