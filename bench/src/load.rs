//! A load generator for HTTP: a fixed number of kept connections, each with one
//! request at a time. Lean, since it shares the machine with what it measures.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// A request, and what it has to be answered with.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    request: Vec<u8>,
    /// The status it has to get; none if any will do.
    status: Option<u16>,
    /// The body it has to get; none if any will do.
    answer: Option<Vec<u8>>,
}

/// Connections to a server.
pub(crate) struct Load {
    runtime: Runtime,
    streams: Vec<TcpStream>,
    /// How many requests were answered so far.
    pub(crate) requests: usize,
}

/// How many connections are made before they are used.
const BATCH: usize = 64;
/// How long a connection may rest meanwhile. Servers close those that rest for
/// half a minute, and a machine with much to do may need longer to connect all.
const REST: Duration = Duration::from_secs(8);

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

impl Exchange {
    /// A GET that is to be answered with 200 and this body.
    pub(crate) fn get(target: &str, answer: &[u8]) -> Self {
        Self {
            request: format!("GET {target} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes(),
            status: Some(200),
            answer: Some(answer.to_vec()),
        }
    }

    /// A POST that is to be answered with 200 and this body.
    pub(crate) fn post(target: &str, content_type: &str, body: &[u8], answer: &[u8]) -> Self {
        let head = format!(
            "POST {target} HTTP/1.1\r\nhost: bench\r\ncontent-type: {content_type}\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        Self {
            request: [head.as_bytes(), body].concat(),
            status: Some(200),
            answer: Some(answer.to_vec()),
        }
    }

    /// With whatever answer.
    pub(crate) fn any(self) -> Self {
        Self {
            status: None,
            answer: None,
            ..self
        }
    }

    /// To a host of this name.
    pub(crate) fn with_host(mut self, host: &str) -> Self {
        let head = String::from_utf8(self.request).unwrap();
        self.request = head.replace("host: bench", &format!("host: {host}")).into();
        self
    }

    pub(crate) fn request(&self) -> &[u8] {
        &self.request
    }

    /// Whether a response is the right one; none if not all of it has come.
    pub(crate) fn judge(&self, bytes: &[u8]) -> Option<bool> {
        let (status, body) = response(bytes)?;
        Some(self.is_right(status, body))
    }

    fn is_right(&self, status: u16, body: &[u8]) -> bool {
        self.status.is_none_or(|right| right == status)
            && self.answer.as_ref().is_none_or(|right| right == body)
    }
}

impl Load {
    /// Connects so many times, and has each connection answer once.
    pub(crate) fn connect(address: SocketAddr, connections: usize, first: &Exchange) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut load = Self {
            runtime,
            streams: Vec::with_capacity(connections),
            requests: 0,
        };
        let mut used = Instant::now();
        // Not more at once than wait to be accepted by any of the servers: one
        // that is turned away tries again after a second.
        for batch in (0..connections).step_by(BATCH) {
            let streams = load.runtime.block_on(async {
                let mut streams = Vec::new();
                for _ in batch..connections.min(batch + BATCH) {
                    let stream = TcpStream::connect(address).await.unwrap();
                    stream.set_nodelay(true).unwrap();
                    streams.push(stream);
                }
                streams
            });
            let connected = std::mem::replace(&mut load.streams, streams);
            load.run(std::slice::from_ref(first), Duration::ZERO);
            load.streams.extend(connected);
            if used.elapsed() > REST {
                load.run(std::slice::from_ref(first), Duration::ZERO);
                used = Instant::now();
            }
        }
        load
    }

    /// Sends requests over all connections for a time, on each one exchange after
    /// the other, and waits for the answers to all of them.
    ///
    /// # Panics
    /// If an answer is wrong.
    pub(crate) fn run(&mut self, exchanges: &[Exchange], time: Duration) -> Outcome {
        let streams = std::mem::take(&mut self.streams);
        let began = Instant::now();
        let mut latencies: Vec<Duration> = Vec::new();
        self.runtime.block_on(async {
            let mut clients = JoinSet::new();
            for (number, stream) in streams.into_iter().enumerate() {
                let exchanges = exchanges.to_vec();
                clients.spawn(client(stream, exchanges, number, began, time));
            }
            while let Some(client) = clients.join_next().await {
                let (stream, own) = client.unwrap();
                self.streams.push(stream);
                latencies.extend(own);
            }
        });
        let took = began.elapsed();
        self.requests += latencies.len();
        latencies.sort_unstable();
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
        Outcome {
            rate: latencies.len() as f64 / took.as_secs_f64(),
            requests: latencies.len(),
            p50: at(0.5),
            p99: at(0.99),
        }
    }
}

/// One connection. Each begins with another exchange.
async fn client(
    mut stream: TcpStream,
    exchanges: Vec<Exchange>,
    number: usize,
    began: Instant,
    time: Duration,
) -> (TcpStream, Vec<Duration>) {
    let mut latencies = Vec::new();
    let mut buffer = Vec::with_capacity(4096);
    for exchange in exchanges.iter().cycle().skip(number % exchanges.len()) {
        let sent = Instant::now();
        stream.write_all(&exchange.request).await.unwrap();
        buffer.clear();
        let right = loop {
            let read = stream.read_buf(&mut buffer).await.unwrap();
            assert!(read > 0, "the server closed the connection");
            if let Some(right) = exchange.judge(&buffer) {
                break right;
            }
        };
        assert!(
            right,
            "a wrong answer: {}",
            String::from_utf8_lossy(&buffer[..buffer.len().min(1000)])
        );
        latencies.push(sent.elapsed());
        if began.elapsed() >= time {
            break;
        }
    }
    (stream, latencies)
}

/// Status and body of a response, once all of it has come.
fn response(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let status = bytes.get(9..12)?;
    let length = bytes[..head]
        .split(|byte| *byte == b'\n')
        .find_map(|line| {
            let (name, value) = line.split_at_checked(15)?;
            name.eq_ignore_ascii_case(b"content-length:")
                .then_some(value)
        })?;
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.trim().parse().ok();
    let length: usize = number(length)?;
    let body = bytes.get(head + 4..head + 4 + length)?;
    Some((u16::try_from(number(status)?).ok()?, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_whole_when_its_body_is() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(response(whole), Some((200, &b"hello"[..])));
        for end in 0..whole.len() {
            assert_eq!(response(&whole[..end]), None);
        }
    }

    #[test]
    fn an_answer_has_to_be_the_one_that_is_expected() {
        let exchange = Exchange::get("/", b"hello");
        assert!(exchange.is_right(200, b"hello"));
        assert!(!exchange.is_right(200, b"hell"));
        assert!(!exchange.is_right(503, b"hello"));
        assert!(exchange.any().is_right(504, b""));
    }
}
