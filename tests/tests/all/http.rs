//! The public listener: HTTP/1.1 and HTTP/2, and what no client should send.

mod conformance;
mod crowds;
mod floods;
mod leaving;
mod noise;
mod smuggling;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidemill_tests::{Component, Host, Manifest, unique};

use crate::Pair;

#[test]
fn http_2_with_prior_knowledge_is_served() {
    let pair = Pair::start("h2", |manifest| manifest);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(pair.host.http().address())
            .await
            .unwrap();
        let (client, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
            TokioExecutor::new(),
            TokioIo::new(stream),
        )
        .await
        .unwrap();
        tokio::spawn(connection);
        // Many at once on the one connection.
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..50 {
            let mut client = client.clone();
            let request = hyper::Request::post(format!("http://shop{}", pair.target("echo")))
                .header("x-number", number)
                .body(Full::from(format!("body {number}")))
                .unwrap();
            calls.spawn(async move {
                let response = client.send_request(request).await.unwrap();
                assert_eq!(response.version(), hyper::Version::HTTP_2);
                assert_eq!(response.status(), 200);
                assert_eq!(response.headers()["x-number"], number.to_string());
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, format!("body {number}"));
            });
        }
        while let Some(call) = calls.join_next().await {
            call.unwrap();
        }
    });
}

#[test]
fn a_connection_is_kept_and_may_be_pipelined() {
    let pair = Pair::start("keep", |manifest| manifest);
    let one = format!("GET {} HTTP/1.1\r\nhost: a\r\n\r\n", pair.target("ok"));
    let last = format!(
        "GET {} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        pair.target("ok")
    );
    let answers = pair.host.http().raw(format!("{one}{one}{last}").as_bytes());
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 3, "{answers}");
}

#[test]
fn a_request_larger_than_the_limit_is_413() {
    let pair = Pair::start("large", |manifest| manifest.limit("request", "\"1 kB\""));
    let http = pair.host.http();
    assert_eq!(
        http.post(&pair.target("length"), vec![b'x'; 1_000]).text(),
        "1000"
    );

    // Announced: answered before any of the body has come.
    let answer = http.raw(
        format!(
            "POST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\n\r\n",
            pair.target("length")
        )
        .as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");

    // Not announced: counted as it comes.
    let chunk = format!("400\r\n{}\r\n", "x".repeat(0x400));
    let answer = http.raw(
        format!(
            "POST {} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{chunk}0\r\n\r\n",
            pair.target("length")
        )
        .as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    pair.both_serve();
}

#[test]
fn header_fields_of_more_than_64_kib_are_431() {
    let pair = Pair::start("fields", |manifest| manifest);
    let http = pair.host.http();
    let value = "x".repeat(40 << 10);
    let one = http.send("GET", &pair.target("ok"), &[("x-one", &value)], b"");
    assert_eq!(one.status, 200, "{one:?}");
    let fields = [("x-one", &*value), ("x-two", &*value)];
    let both = http.send("GET", &pair.target("ok"), &fields, b"");
    assert!(both.problem(431).contains("65536"));
    pair.both_serve();
}

#[test]
fn what_is_no_http_is_400_and_harms_nobody() {
    let pair = Pair::start("broken", |manifest| manifest);
    let path = pair.target("ok");
    let long = "x".repeat(1 << 20);
    for (bytes, statuses) in [
        (
            "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03".to_owned(),
            &["400"][..],
        ),
        ("NONSENSE\r\n\r\n".to_owned(), &["400"]),
        (
            format!("GET {path} HTTP/1.1\r\nbad header\r\n\r\n"),
            &["400"],
        ),
        (
            format!("GET {path} HTTP/9.9\r\nhost: a\r\n\r\n"),
            &["400", "505"],
        ),
        (
            format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"),
            &["414", "431", "400"],
        ),
        (
            format!("GET {path} HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"),
            &["431"],
        ),
        (
            format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n"),
            &["400"],
        ),
        (
            format!(
                "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"
            ),
            &["400"],
        ),
    ] {
        let answer = pair.host.http().raw(bytes.as_bytes());
        let shown: String = bytes.chars().take(80).collect();
        // Closing without an answer is allowed; another answer is not.
        if !answer.is_empty() {
            let status = answer.split(' ').nth(1).unwrap_or_default();
            assert!(statuses.contains(&status), "{shown:?}: {answer}");
        }
        pair.both_serve();
    }
}

#[test]
fn a_client_that_sends_nothing_more_holds_up_nobody() {
    let pair = Pair::start("slow", |manifest| manifest);
    // Half a header, and half a body, on many connections.
    let mut held = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(pair.host.http().address()).unwrap();
        let part = if number % 2 == 0 {
            format!("GET {} HTTP/1.1\r\nhos", pair.target("ok"))
        } else {
            format!(
                "POST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nabc",
                pair.target("length")
            )
        };
        stream.write_all(part.as_bytes()).unwrap();
        held.push(stream);
    }
    let began = Instant::now();
    pair.both_serve();
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_client_that_leaves_frees_what_it_used() {
    let pair = Pair::start("leave", |manifest| {
        manifest.limit("concurrency", "2").limit("time", "\"2s\"")
    });
    for _ in 0..20 {
        let mut stream = TcpStream::connect(pair.host.http().address()).unwrap();
        let request = format!(
            "GET {}?ms=1500 HTTP/1.1\r\nhost: a\r\n\r\n",
            pair.target("sleep")
        );
        stream.write_all(request.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    pair.neighbour_serves();
    tidemill_tests::eventually("the service answers again", || {
        let reply = pair.host.http().get(&pair.target("ok"));
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply)
        }
    });
}

#[test]
fn the_longest_prefix_answers() {
    let [short, long, named] = ["short", "long", "named"].map(unique);
    let route = |name: &str, route: String| {
        let mut manifest = Manifest::new(name).setting("who", name);
        manifest.route = route;
        Component::misbehave(&manifest)
    };
    let host = Host::embedded([
        route(&short, "/a".to_owned()),
        route(&long, "/a/b".to_owned()),
        route(&named, "shop.example/a".to_owned()),
    ]);
    let who = |host_name: &str, path: &str| {
        let reply = host.http().send(
            "GET",
            &format!("{path}/setting?key=who"),
            &[("host", host_name)],
            b"",
        );
        (reply.status, reply.text().to_owned())
    };
    assert_eq!(who("any", "/a"), (200, short.clone()));
    assert_eq!(who("any", "/a/b"), (200, long.clone()));
    assert_eq!(who("any", "/a/b/c"), (200, long));
    assert_eq!(who("any", "/a/bc"), (200, short), "whole segments");
    assert_eq!(who("shop.example", "/a"), (200, named.clone()));
    assert_eq!(who("SHOP.example:8080", "/a"), (200, named));
    assert_eq!(who("any", "/ab").0, 404);
}

#[test]
fn a_head_request_has_no_body_and_hop_by_hop_fields_stay_out() {
    let pair = Pair::start("fields", |manifest| manifest);
    let mut stream = TcpStream::connect(pair.host.http().address()).unwrap();
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: a\r\nconnection: close, x-hop\r\nx-hop: 1\r\nx-end: 2\r\n\
         keep-alive: 3\r\nte: trailers\r\ncontent-length: 2\r\n\r\nhi",
        pair.target("echo")
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let lower = answer.to_lowercase();
    assert!(lower.contains("x-end: 2"), "{answer}");
    for hop in ["x-hop:", "keep-alive:", "te:"] {
        assert!(!lower.contains(&format!("\n{hop}")), "{hop} {answer}");
    }
    assert!(answer.ends_with("\r\n\r\nhi"), "{answer}");

    let reply = pair.host.http().send("HEAD", &pair.target("ok"), &[], b"");
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    pair.both_serve();
}
