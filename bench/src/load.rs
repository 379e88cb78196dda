//! A load generator for HTTP: a fixed number of kept connections, each with one
//! request at a time. Lean, since it shares the machine with what it measures.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Whether a body is the one that is expected.
pub(crate) type Check = fn(&[u8]) -> bool;

/// What came of a load.
pub(crate) struct Outcome {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Requests in all.
    pub(crate) requests: usize,
    /// Median of the latency.
    pub(crate) p50: Duration,
    /// 99th percentile of the latency.
    pub(crate) p99: Duration,
}

/// Sends `request` over and over for a time. Every answer must be 200 with a
/// body that `good` takes.
pub(crate) fn run(
    address: &str,
    request: &[u8],
    good: Check,
    connections: usize,
    time: Duration,
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let began = Instant::now();
    let mut latencies: Vec<Duration> = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..connections {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let request = request.to_vec();
            tasks.spawn(async move {
                let mut latencies = Vec::with_capacity(1 << 16);
                let mut buffer = Vec::with_capacity(4096);
                while began.elapsed() < time {
                    let sent = Instant::now();
                    stream.write_all(&request).await.unwrap();
                    buffer.clear();
                    let body = loop {
                        let read = stream.read_buf(&mut buffer).await.unwrap();
                        assert!(read > 0, "the server closed the connection");
                        if let Some(body) = body(&buffer) {
                            break body;
                        }
                    };
                    assert!(
                        buffer.starts_with(b"HTTP/1.1 200") && good(body),
                        "{}",
                        String::from_utf8_lossy(&buffer)
                    );
                    latencies.push(sent.elapsed());
                }
                latencies
            });
        }
        tasks.join_all().await.into_iter().flatten().collect()
    });
    let took = began.elapsed();
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
    Outcome {
        rate: latencies.len() as f64 / took.as_secs_f64(),
        requests: latencies.len(),
        p50: at(0.5),
        p99: at(0.99),
    }
}

/// The body of a response, once all of it has come.
fn body(response: &[u8]) -> Option<&[u8]> {
    let head = response.windows(4).position(|four| four == b"\r\n\r\n")?;
    let length = response[..head]
        .split(|byte| *byte == b'\n')
        .find_map(|line| {
            let (name, value) = line.split_at_checked(15)?;
            name.eq_ignore_ascii_case(b"content-length:")
                .then_some(value)
        })?;
    let length: usize = std::str::from_utf8(length).ok()?.trim().parse().ok()?;
    response.get(head + 4..head + 4 + length)
}
