//! What takes spans as an OpenTelemetry collector does: OTLP by HTTP, in protobuf.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::{Span as Sent, status::StatusCode};
use prost::Message;

use crate::wait::eventually;

/// How a collector answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// It takes everything.
    Ok,
    /// It reads, and says nothing more.
    Nothing,
}

/// A running collector. It ends with the tests.
#[derive(Debug)]
pub struct Collector {
    address: String,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    spans: Vec<Span>,
    /// Header fields of the requests, names in lower case.
    headers: BTreeMap<String, String>,
}

/// A span, as it came.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its name.
    pub name: String,
    /// Its kind, as `SERVER`.
    pub kind: &'static str,
    /// The trace's id, in hexadecimal digits.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// Its parent's id; empty for the first of a trace.
    pub parent: String,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// What the process says of itself.
    pub resource: BTreeMap<String, String>,
    /// The ids of spans that it is linked to.
    pub links: Vec<String>,
    /// Whether its status is an error.
    pub failed: bool,
    /// Whether it ended after it began.
    pub ended: bool,
}

impl Span {
    /// An attribute's value, or empty.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

impl Collector {
    /// Starts one.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn start(answers: Answers) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let taken: Arc<Mutex<Taken>> = Arc::default();
        thread::spawn({
            let taken = taken.clone();
            move || {
                for client in listener.incoming().flatten() {
                    let taken = taken.clone();
                    thread::spawn(move || serve(client, answers, &taken));
                }
            }
        });
        Collector { address, taken }
    }

    /// What a host is told, to send its spans here soon.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans so far.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.taken.lock().unwrap().spans.clone()
    }

    /// A header field of the requests, or empty.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        let taken = self.taken.lock().unwrap();
        taken.headers.get(name).cloned().unwrap_or_default()
    }

    /// Waits until so many spans of a name are there, and gives them in the order
    /// in which they ended.
    ///
    /// # Panics
    /// If they do not come, or more do.
    #[must_use]
    pub fn named(&self, name: &str, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans named {name}"), || {
            let all = self.spans();
            let found: Vec<Span> = all
                .iter()
                .filter(|span| span.name == name)
                .cloned()
                .collect();
            assert!(found.len() <= count, "{found:#?}");
            if found.len() == count {
                return Ok(found);
            }
            let names = all.into_iter().map(|span| span.name);
            Err(names.collect::<Vec<String>>())
        })
    }

    /// Waits for the only span of a name.
    ///
    /// # Panics
    /// If it does not come, or several do.
    #[must_use]
    pub fn one(&self, name: &str) -> Span {
        self.named(name, 1).remove(0)
    }
}

fn serve(client: TcpStream, answers: Answers, taken: &Mutex<Taken>) -> Option<()> {
    let mut writer = client.try_clone().ok()?;
    let mut reader = BufReader::new(client);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        assert!(line.starts_with("POST /v1/traces "), "{line}");
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
        reader.read_exact(&mut body).ok()?;
        if answers == Answers::Ok {
            let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
            let mut taken = taken.lock().unwrap();
            taken.headers = headers;
            taken.spans.extend(spans(request));
            drop(taken);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            writer.write_all(answer).ok()?;
        }
    }
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let resource = text(of_resource.resource.unwrap().attributes);
        for of_scope in of_resource.scope_spans {
            let of_scope = of_scope.spans.into_iter();
            spans.extend(of_scope.map(|sent| span(sent, &resource)));
        }
    }
    spans
}

fn span(sent: Sent, resource: &BTreeMap<String, String>) -> Span {
    let links = sent.links.iter();
    let kind = sent.kind().as_str_name();
    Span {
        kind: kind.trim_start_matches("SPAN_KIND_"),
        trace: hex(&sent.trace_id),
        id: hex(&sent.span_id),
        parent: hex(&sent.parent_span_id),
        links: links.map(|link| hex(&link.span_id)).collect(),
        failed: sent.status.as_ref().map(|status| status.code()) == Some(StatusCode::Error),
        ended: sent.end_time_unix_nano >= sent.start_time_unix_nano,
        attributes: text(sent.attributes),
        resource: resource.clone(),
        name: sent.name,
    }
}

fn text(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let attributes = attributes.into_iter();
    attributes
        .map(|KeyValue { key, value, .. }| (key, shown(value)))
        .collect()
}

fn shown(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(truth)) => truth.to_string(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
