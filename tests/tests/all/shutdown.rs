//! A host that is told to stop while everything is at work.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidemill_tests::{Counting, Host, Kafka, Signal, eventually};

use crate::Pair;

/// Requests one after another on one HTTP/1.1 connection, until the host says that
/// it closes it. Gives how many were answered.
///
/// # Panics
/// If one is not, or not with 200.
fn keep_asking(address: &str, request: &str, answered: &AtomicU32) -> u32 {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    for number in 1.. {
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = answers.read_line(&mut head).unwrap();
            assert!(read > 0, "request {number} was not answered: {head}");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.lines().next().unwrap().parse().unwrap();
        answers.read_exact(&mut vec![0; length]).unwrap();
        answered.fetch_add(1, Ordering::Relaxed);
        if head.contains("connection: close") {
            return number;
        }
    }
    unreachable!()
}

/// Requests side by side on one HTTP/2 connection, until the host takes no more.
/// Gives how many were answered.
///
/// # Panics
/// If one that was taken is not, or not with 200.
fn keep_asking_2(address: &str, target: &str, body: &str, answered: &Arc<AtomicU32>) -> u32 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (client, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
            TokioExecutor::new(),
            TokioIo::new(stream),
        )
        .await
        .unwrap();
        tokio::spawn(connection);
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let request = hyper::Request::post(format!("http://shop{target}"))
                .body(Full::from(body.to_owned()))
                .unwrap();
            asking.spawn(keep_streaming(client.clone(), request, answered.clone()));
        }
        drop(client);
        asking.join_all().await.into_iter().sum()
    })
}

async fn keep_streaming(
    mut client: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    request: hyper::Request<Full<Bytes>>,
    answered: Arc<AtomicU32>,
) -> u32 {
    let mut number = 0;
    // Ready until the host has said that it goes away.
    while client.ready().await.is_ok() {
        let response = match client.send_request(request.clone()).await {
            Ok(response) => response,
            // It was not taken: it may be sent again elsewhere.
            Err(error) if error.is_canceled() => break,
            Err(error) => panic!("a request failed: {error:?}"),
        };
        assert_eq!(response.status(), 200);
        let _ = response.into_body().collect().await.unwrap();
        answered.fetch_add(1, Ordering::Relaxed);
        number += 1;
    }
    number
}

fn stops_under_load(name: &str, signal: Signal, events: usize) {
    let counting = Counting::on(Kafka::shared(), name, 4);
    let mut first = counting.host();
    let second = counting.host();
    counting.wait_for_shares([&first, &second]);
    let topics = counting.topics();
    let address = first.http().address().to_owned();
    let target = format!("/{}", counting.name);
    let (alone, together) = (
        format!("{} a 1\n", counting.input),
        format!("{} a 1\n{} b 2\n", counting.input, counting.input),
    );
    let request = |body: &str| {
        let length = body.len();
        format!("POST {target} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}")
    };
    let answered = Arc::new(AtomicU32::new(0));
    thread::scope(|scope| {
        let (answered, address, target) = (&answered, &*address, &*target);
        let written = Counting::events(0, events, 100);
        let (topics, input) = (&topics, &counting.input);
        scope.spawn(move || topics.write_keyed(input, &written));
        let mut clients = Vec::new();
        for body in [&alone, &together] {
            for _ in 0..2 {
                let request = request(body);
                clients.push(scope.spawn(move || keep_asking(address, &request, answered)));
            }
        }
        let body = &*together;
        clients.push(scope.spawn(move || keep_asking_2(address, target, body, answered)));
        eventually("requests and events are at work", || {
            let (requests, counted) = (
                answered.load(Ordering::Relaxed),
                counting.counted(first.http()),
            );
            match requests > 100 && counted > Some(500) {
                true => Ok(()),
                false => Err((requests, counted)),
            }
        });
        let began = Instant::now();
        first.process().signal(signal);
        let status = first.process().wait();
        let ended = began.elapsed();
        assert_eq!(status.code(), Some(0), "{}", first.log());
        let left = Instant::now();
        eventually("the second host has all partitions", || {
            let here = counting.here(&second);
            if here.len() == 4 { Ok(()) } else { Err(here) }
        });
        let answered: u32 = clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum();
        println!(
            "{signal:?}: ended after {ended:.2?}, taken over {:.2?} later; {answered} requests answered",
            left.elapsed()
        );
        assert!(ended < Duration::from_secs(20), "{ended:?}");
        assert!(
            left.elapsed() < Duration::from_secs(8),
            "{:?}",
            left.elapsed()
        );
    });
    counting.is_exact([&second]);
}

#[test]
fn sigterm_under_load_fails_no_request_loses_no_event_and_hands_over_at_once() {
    stops_under_load("stops", Signal::TERM, 50_000);
}

#[test]
fn sigint_is_the_same() {
    stops_under_load("interrupted", Signal::INT, 5_000);
}

#[test]
fn a_connection_that_is_idle_hears_of_the_end_with_its_next_answer() {
    let mut pair = Pair::start("idle", |manifest| manifest);
    let mut stream = TcpStream::connect(pair.host.http().address()).unwrap();
    let request = format!("GET {} HTTP/1.1\r\nhost: a\r\n\r\n", pair.target("ok"));
    stream.write_all(request.as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    pair.host.process().signal(Signal::TERM);
    eventually("the host is stopping", || {
        let log = pair.host.log();
        if log.contains("stopping:") {
            Ok(())
        } else {
            Err(log)
        }
    });
    stream.write_all(request.as_bytes()).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.matches("HTTP/1.1 200").count(), 1, "{rest}");
    assert!(
        rest.to_ascii_lowercase().contains("connection: close"),
        "{rest}"
    );
    assert_eq!(pair.host.process().wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_a_host_at_once_with_128_and_its_number() {
    for (second, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut pair = Pair::start("twice", |manifest| manifest);
        let address = pair.host.http().address().to_owned();
        let mut slow = TcpStream::connect(address).unwrap();
        let target = pair.target("sleep?ms=20000");
        write!(slow, "GET {target} HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        eventually("the request runs", || {
            let running = pair.host.metric("tidemill_connections", &[]);
            if running > 0.0 { Ok(()) } else { Err(running) }
        });
        pair.host.process().signal(Signal::TERM);
        eventually("the host is stopping", || {
            let log = pair.host.log();
            if log.contains("stopping:") {
                Ok(())
            } else {
                Err(log)
            }
        });
        let began = Instant::now();
        pair.host.process().signal(second);
        assert_eq!(pair.host.process().wait().code(), Some(code));
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn without_a_broker_a_host_under_load_ends_long_before_its_grace_is_over() {
    let kafka = Kafka::fresh();
    let counting = Counting::on(&kafka, "gone", 4);
    let mut host: Host = counting.host();
    counting.write(20_000);
    eventually("events are at work", || {
        let counted = counting.counted(host.http());
        if counted > Some(100) {
            Ok(())
        } else {
            Err(counted)
        }
    });
    kafka.stop();
    let client = host.http().clone();
    let (target, line) = (
        format!("/{}", counting.name),
        format!("{} a 1\n", counting.input),
    );
    let posting = thread::spawn(move || client.post(&target, &line));
    eventually("the host knows", || {
        let reply = host.admin().get("/readyz");
        if reply.status == 503 {
            Ok(())
        } else {
            Err(reply)
        }
    });
    let began = Instant::now();
    assert_eq!(host.terminate().code(), Some(0), "{}", host.log());
    let took = began.elapsed();
    println!("without a broker: ended after {took:.2?}");
    assert!(took < Duration::from_secs(20), "{took:?}");
    posting.join().unwrap().problem(503);
    // Nothing is lost: all is done when both are back.
    kafka.start();
    host.restart();
    host.ready();
    counting.is_exact([&host]);
}
