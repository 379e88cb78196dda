//! Requests on whose borders or target two programs could disagree: each is
//! refused, or taken in the one way that its standard has.
//!
//! Behind each of them on its connection follows a plain request. Where the
//! first is refused nobody may take what follows for a request of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tidemill_tests::frames::{DATA_END, Frames, HEADERS_END, Outcome, fields, kind};
use tidemill_tests::{Client, Usage};

use crate::Pair;

/// All that comes back for these bytes, until the host closes the connection.
fn exchange(client: &Client, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(client.address()).unwrap();
    let patience = Some(Duration::from_secs(20));
    stream.set_read_timeout(patience).unwrap();
    // The host may have seen enough before the end.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the connection stays open: {bytes:?}")
            }
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// The statuses of the responses in what came back.
fn statuses(answer: &str) -> Vec<&str> {
    let parts = answer.split("HTTP/1.").skip(1);
    parts.map(|part| &part[2..5]).collect()
}

/// Requests that are refused, with what is wrong about them between the host
/// field and the end of the header, and their body.
const REFUSED: [(&str, &str, &str); 38] = [
    (
        "two lengths",
        "content-length: 1\r\ncontent-length: 2",
        "ab",
    ),
    ("a list of lengths", "content-length: 1, 1", "a"),
    ("a signed length", "content-length: +1", "a"),
    ("a negative length", "content-length: -1", "a"),
    ("a hexadecimal length", "content-length: 0x1", "a"),
    ("no length", "content-length: ", "a"),
    (
        "a length beyond 64 bits",
        "content-length: 18446744073709551617",
        "a",
    ),
    (
        "a coding that is none",
        "transfer-encoding: xchunked",
        "0\r\n\r\n",
    ),
    (
        "a last coding that is none",
        "transfer-encoding: chunked, identity",
        "0\r\n\r\n",
    ),
    ("identity", "transfer-encoding: identity", "0\r\n\r\n"),
    (
        "a coding with a parameter",
        "transfer-encoding: chunked;q=1",
        "0\r\n\r\n",
    ),
    (
        "a quoted coding",
        "transfer-encoding: \"chunked\"",
        "0\r\n\r\n",
    ),
    (
        "a coding behind a vertical tab",
        "transfer-encoding: \x0bchunked",
        "0\r\n\r\n",
    ),
    (
        "a space before the colon",
        "transfer-encoding : chunked",
        "0\r\n\r\n",
    ),
    ("a tab before the colon", "content-length\t: 1", "a"),
    ("a folded field", "x: a\r\n content-length: 1", "a"),
    ("a name that is folded", " x: a", ""),
    ("a line without a colon", "x", ""),
    ("a name with a space", "x y: a", ""),
    ("no name", ": a", ""),
    ("a bare carriage return", "x: a\rcontent-length: 1", "a"),
    ("a zero byte", "x: a\0b", ""),
    ("a control character", "x: a\x01b", ""),
    ("a second host", "host: b", ""),
    ("the same host twice", "host: a", ""),
    (
        "a chunk without a size",
        "transfer-encoding: chunked",
        "\r\na\r\n0\r\n\r\n",
    ),
    (
        "a chunk of size -1",
        "transfer-encoding: chunked",
        "-1\r\na\r\n0\r\n\r\n",
    ),
    (
        "a chunk of size +1",
        "transfer-encoding: chunked",
        "+1\r\na\r\n0\r\n\r\n",
    ),
    (
        "a chunk of size 0x1",
        "transfer-encoding: chunked",
        "0x1\r\na\r\n0\r\n\r\n",
    ),
    (
        "a chunk of size 1_0",
        "transfer-encoding: chunked",
        "1_0\r\na\r\n0\r\n\r\n",
    ),
    (
        "a chunk beyond 64 bits",
        "transfer-encoding: chunked",
        "10000000000000001\r\na\r\n0\r\n\r\n",
    ),
    (
        "a chunk longer than said",
        "transfer-encoding: chunked",
        "1\r\nab\r\n0\r\n\r\n",
    ),
    (
        "a size with a bare line feed",
        "transfer-encoding: chunked",
        "1\na\r\n0\r\n\r\n",
    ),
    (
        "a size with a bare carriage return",
        "transfer-encoding: chunked",
        "1\ra\r\n0\r\n\r\n",
    ),
    (
        "an extension with a line feed",
        "transfer-encoding: chunked",
        "1;a\nb\r\na\r\n0\r\n\r\n",
    ),
    (
        "chunks twice",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "0\r\n\r\n",
    ),
    (
        "chunks of chunks",
        "transfer-encoding: chunked, chunked",
        "0\r\n\r\n",
    ),
    (
        "compressed chunks",
        "transfer-encoding: gzip, chunked",
        "0\r\n\r\n",
    ),
];

#[test]
fn what_is_ambiguous_is_refused_with_all_behind_it() {
    let mut pair = Pair::start("ambiguous", |manifest| manifest);
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let admin = format!("/v1/services/{}/invoke", pair.name);
    let json = "\r\ncontent-type: application/json";
    for (client, target, kind, next) in [
        (
            pair.host.http(),
            pair.target("length"),
            "",
            pair.target("ok"),
        ),
        (pair.host.admin(), admin, json, "/healthz".to_owned()),
    ] {
        for (what, wrong, body) in REFUSED {
            let bytes = format!(
                "POST {target} HTTP/1.1\r\nhost: a{kind}\r\n{wrong}\r\n\r\n{body}\
                 GET {next} HTTP/1.1\r\nhost: a\r\n\r\n"
            );
            let bytes = bytes.replace("host: a\r\n", "host: localhost\r\n");
            let answer = exchange(client, bytes.as_bytes());
            let statuses = statuses(&answer);
            // Closing without an answer is allowed; an answer to what follows is not.
            let refused = matches!(statuses[..], [] | ["400"] | ["501"]);
            assert!(refused, "{what}: {bytes:?}: {answer}");
        }
    }
    before.is_back(&mut pair.host);
    pair.both_serve();
}

#[test]
fn a_length_beside_chunks_does_not_count_and_ends_the_connection() {
    let pair = Pair::start("both", |manifest| manifest);
    let (target, next) = (pair.target("length"), pair.target("ok"));
    for fields in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
    ] {
        let bytes = format!(
            "POST {target} HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
             GET {next} HTTP/1.1\r\nhost: a\r\n\r\n"
        );
        let answer = exchange(pair.host.http(), bytes.as_bytes());
        assert_eq!(statuses(&answer), ["200"], "{answer}");
        assert!(answer.ends_with("\r\n\r\n3"), "{answer}");
    }
}

#[test]
fn what_is_unusual_and_clear_is_answered() {
    let pair = Pair::start("clear", |manifest| manifest);
    let (length, ok) = (pair.target("length"), pair.target("ok"));
    let last = format!("GET {ok} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    for (what, request, status) in [
        (
            "an extension of a chunk",
            format!(
                "POST {length} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n1;a=\"b\"\r\na\r\n0\r\n\r\n"
            ),
            "200",
        ),
        (
            "trailers",
            format!(
                "POST {length} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\nhost: b\r\ncontent-length: 9\r\n\r\n"
            ),
            "200",
        ),
        (
            "one length, said twice",
            format!(
                "POST {length} HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na"
            ),
            "200",
        ),
        (
            "lines that end with a line feed",
            format!("GET {ok} HTTP/1.1\nhost: a\n\n"),
            "200",
        ),
        (
            "empty lines before",
            format!("\r\n\r\nGET {ok} HTTP/1.1\r\nhost: a\r\n\r\n"),
            "200",
        ),
        (
            "an upgrade to HTTP/2",
            format!(
                "GET {ok} HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
            ),
            "200",
        ),
        (
            "an upgrade to WebSocket",
            format!(
                "GET {ok} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
            ),
            "200",
        ),
        (
            "a target in absolute form",
            format!("GET http://a{ok} HTTP/1.1\r\nhost: b\r\n\r\n"),
            "200",
        ),
        (
            "the host as a whole",
            "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "404",
        ),
        (
            "a path with dots",
            format!("GET {ok}/../../docs HTTP/1.1\r\nhost: a\r\n\r\n"),
            "200",
        ),
        (
            "TRACE",
            format!("TRACE {ok} HTTP/1.1\r\nhost: a\r\n\r\n"),
            "501",
        ),
        (
            "CONNECT",
            "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n".to_owned(),
            "501",
        ),
    ] {
        let answer = exchange(pair.host.http(), format!("{request}{last}").as_bytes());
        let expected = [status, "200"];
        let behind = if status == "501" { 1 } else { 2 };
        assert_eq!(statuses(&answer), expected[..behind], "{what}: {answer}");
    }
}

#[test]
fn a_request_is_for_one_host() {
    let pair = Pair::start("for-one", |manifest| manifest);
    let echo = pair.target("echo");
    for (line, hosts, status) in [
        (format!("GET {echo} HTTP/1.1"), "", "400"),
        (format!("GET {echo} HTTP/1.1"), "host: a, b\r\n", "400"),
        (format!("GET {echo} HTTP/1.1"), "host: me@a\r\n", "400"),
        (format!("GET {echo} HTTP/1.1"), "host: a/b\r\n", "400"),
        (format!("GET {echo} HTTP/1.1"), "host: a b\r\n", "400"),
        (format!("GET http://a{echo} HTTP/1.1"), "", "400"),
        (
            format!("GET http://me@a{echo} HTTP/1.1"),
            "host: a\r\n",
            "400",
        ),
        (format!("GET {echo} HTTP/1.0"), "", "200"),
        (format!("GET {echo} HTTP/2.0"), "host: a\r\n", "400"),
        (format!("GET {echo}"), "host: a\r\n", "400"),
    ] {
        let bytes = format!("{line}\r\n{hosts}connection: close\r\n\r\n");
        let answer = exchange(pair.host.http(), bytes.as_bytes());
        // What hyper cannot read it may close without an answer.
        assert!(
            statuses(&answer) == [status] || answer.is_empty() && status == "400",
            "{bytes:?}: {answer}"
        );
    }

    // A target that names the host goes before the field, for the handler too.
    let bytes = format!("GET http://a{echo} HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n");
    let answer = exchange(pair.host.http(), bytes.as_bytes());
    assert!(answer.contains("host: a\r\n"), "{answer}");
    assert!(!answer.contains("host: b\r\n"), "{answer}");
}

#[test]
fn trailers_do_not_become_header_fields() {
    let pair = Pair::start("trailers", |manifest| manifest);
    let bytes = format!(
        "POST {} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
         1\r\na\r\n0\r\nx-trailer: 1\r\n\r\n",
        pair.target("echo")
    );
    let answer = exchange(pair.host.http(), bytes.as_bytes());
    assert_eq!(statuses(&answer), ["200"], "{answer}");
    assert!(!answer.contains("x-trailer"), "{answer}");
}

#[test]
fn a_body_is_asked_for_only_if_it_is_wanted() {
    let pair = Pair::start("expects", |manifest| manifest.limit("request", "\"1 kB\""));
    let ask = |length: usize, body: &str| {
        let bytes = format!(
            "POST {} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nexpect: 100-continue\r\n\
             content-length: {length}\r\n\r\n{body}",
            pair.target("length")
        );
        exchange(pair.host.http(), bytes.as_bytes())
    };
    assert_eq!(statuses(&ask(3, "abc")), ["100", "200"]);
    assert_eq!(statuses(&ask(2_000, "")), ["413"]);
}

#[test]
fn requests_behind_one_another_are_answered_in_order() {
    let pair = Pair::start("pipelined", |manifest| manifest);
    let target = pair.target("length");
    let mut bytes = String::new();
    for number in 1..=100 {
        let body = "x".repeat(number);
        let close = if number == 100 {
            "connection: close\r\n"
        } else {
            ""
        };
        bytes += &format!(
            "POST {target} HTTP/1.1\r\nhost: a\r\n{close}content-length: {number}\r\n\r\n{body}"
        );
    }
    let answer = exchange(pair.host.http(), bytes.as_bytes());
    let bodies: Vec<&str> = answer
        .split("HTTP/1.1 200 OK\r\n")
        .skip(1)
        .map(|one| one.rsplit_once("\r\n\r\n").unwrap().1)
        .collect();
    let expected: Vec<String> = (1..=100).map(|number| number.to_string()).collect();
    assert_eq!(bodies, expected);
}

#[test]
fn http_2_requests_say_one_thing() {
    let mut pair = Pair::start("one-thing", |manifest| manifest);
    pair.both_serve();
    let before = Usage::of(&mut pair.host);
    let path = pair.target("length");
    let base = |authority: &'static str| {
        [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", &*path),
            (":authority", authority),
        ]
    };
    let with = |field: (&'static str, &'static str)| [&base("a")[..], &[field]].concat();
    for (what, request, body, fine) in [
        ("a plain one", with(("x", "y")), "abc", true),
        ("the same host", with(("host", "a")), "", true),
        ("another host", with(("host", "b")), "", false),
        ("a user", base("me@a").to_vec(), "", false),
        ("a true length", with(("content-length", "3")), "abc", true),
        (
            "a length that is too small",
            with(("content-length", "2")),
            "abc",
            false,
        ),
        (
            "a length that is too large",
            with(("content-length", "4")),
            "abc",
            false,
        ),
        (
            "a length without a body",
            with(("content-length", "4")),
            "",
            false,
        ),
        (
            "chunks",
            with(("transfer-encoding", "chunked")),
            "0\r\n\r\n",
            false,
        ),
        ("connection", with(("connection", "close")), "", false),
        ("keep-alive", with(("keep-alive", "1")), "", false),
        (
            "proxy-connection",
            with(("proxy-connection", "a")),
            "",
            false,
        ),
        ("upgrade", with(("upgrade", "h2c")), "", false),
        ("te", with(("te", "gzip")), "", false),
        ("te for trailers", with(("te", "trailers")), "", true),
        ("upper case", with(("X-Upper", "a")), "", false),
        (
            "a line break in a value",
            with(("x", "a\r\nhost: b")),
            "",
            false,
        ),
        ("a line feed in a value", with(("x", "a\nb")), "", false),
        ("a colon in a name", with(("x: y", "a")), "", false),
        ("a second path", with((":path", "/")), "", false),
        ("an unknown pseudo-field", with((":x", "a")), "", false),
        (
            "a space in the path",
            [&base("a")[..2], &[(":path", "/a b HTTP/1.1")]].concat(),
            "",
            false,
        ),
        (
            "CONNECT",
            vec![(":method", "CONNECT"), (":authority", "a:80")],
            "",
            false,
        ),
        (
            "extended CONNECT",
            [
                &with((":protocol", "websocket"))[1..],
                &[(":method", "CONNECT")],
            ]
            .concat(),
            "",
            false,
        ),
        (
            "TRACE",
            [&[(":method", "TRACE")], &base("a")[1..]].concat(),
            "",
            false,
        ),
    ] {
        let mut frames = Frames::connect(pair.host.http().address(), &[]);
        let end = if body.is_empty() { HEADERS_END } else { 4 };
        let _ = frames.send(kind::HEADERS, end, 1, &fields(&request));
        if !body.is_empty() {
            let _ = frames.send(kind::DATA, DATA_END, 1, body.as_bytes());
        }
        let outcome = frames.outcome(1);
        // 0: the status, such as 501, is not a frequent one.
        let refused = !matches!(outcome, Outcome::Answered(200));
        assert_eq!(refused, !fine, "{what}: {outcome:?}");
        assert_ne!(outcome, Outcome::Answered(500), "{what}");
    }
    before.is_back(&mut pair.host);
    pair.both_serve();
}
