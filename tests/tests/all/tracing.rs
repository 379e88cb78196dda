//! Traces: what a collector hears of requests and events, and what it may not
//! disturb.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use tidemill_tests::{
    Answers, Builder, Collector, Component, Host, Kafka, Manifest, Record, Span, eventually, unique,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CLIENT: &str = "b7ad6b7169203331";
const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const NOT_SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// A host that sends its spans here, at once.
fn traced(collector: &Collector) -> Builder {
    Host::builder().environment(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint()),
        (
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20hunter2",
        ),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
    ])
}

/// The values of a record's header.
fn header(record: &Record, name: &str) -> String {
    let headers = record.headers.iter().filter(|(other, _)| other == name);
    let values = headers.map(|(_, value)| String::from_utf8(value.clone().unwrap()).unwrap());
    values.collect::<Vec<String>>().join(" and ")
}

/// What is the same in all attempts to handle an event of `topic`.
fn is_processed(span: &Span, topic: &str, group: &str) {
    assert_eq!(span.kind, "CONSUMER", "{span:#?}");
    for (name, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", topic),
        ("messaging.consumer.group.name", group),
    ] {
        assert_eq!(span.get(name), value, "{name} of {span:#?}");
    }
}

fn is_invocation(span: &Span, trigger: &str) {
    assert_eq!(span.kind, "INTERNAL", "{span:#?}");
    assert_eq!(span.get("faas.name"), span.name);
    assert_eq!(span.get("faas.trigger"), trigger);
    assert_eq!(span.get("faas.version").len(), 12, "{span:#?}");
    assert!(["true", "false"].contains(&span.get("faas.coldstart")));
}

#[test]
fn a_request_and_all_events_that_come_of_it_are_one_trace() {
    let kafka = Kafka::shared();
    let collector = Collector::start(Answers::Ok);
    let (first, second) = (unique("first"), unique("second"));
    let (user, order, mail) = (unique("user"), unique("order"), unique("mail"));
    kafka.topics().create(&first, 2);
    kafka.topics().create(&second, 1);
    let none = unique("none");
    kafka.topics().create(&none, 1);
    let services = [
        Manifest::new(&user).consumes(&[&none]).publish(&first),
        Manifest::new(&order)
            .consumes(&[&first])
            .publish(&second)
            .setting("forward", &second),
        Manifest::new(&mail).consumes(&[&second]),
    ];
    let host = traced(&collector)
        .kafka(kafka)
        .deploy(services.each_ref().map(Component::misbehave))
        .ready();
    let target = format!("/{user}/publish?topic={first}&key=ada");
    let headers = [
        ("traceparent", SAMPLED),
        ("tracestate", "vendor=1"),
        ("baggage", "plan=gold"),
        ("user-agent", "tests/1"),
    ];
    let reply = host.http().send("POST", &target, &headers, b"hello");
    assert_eq!(reply.status, 200, "{reply:?}");

    // Each is below the one before it.
    let names = [
        format!("POST /{user}"),
        user.clone(),
        format!("send {first}"),
        format!("process {first}"),
        order.clone(),
        format!("send {second}"),
        format!("process {second}"),
        mail.clone(),
    ];
    let mut parent = CLIENT.to_owned();
    let spans = names.each_ref().map(|name| {
        let span = collector.one(name);
        assert_eq!(span.trace, TRACE, "{span:#?}");
        assert_eq!(span.parent, parent, "{span:#?}");
        assert!(span.ended && !span.failed, "{span:#?}");
        assert_eq!(span.resource["service.name"], "tidemill");
        parent.clone_from(&span.id);
        span
    });
    let [
        server,
        invoked,
        sent,
        processed,
        ordered,
        sent_on,
        processed_on,
        mailed,
    ] = spans;

    let port = host.http().address().rsplit(':').next().unwrap();
    assert_eq!(server.kind, "SERVER");
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", &*format!("/{user}")),
        ("http.response.status_code", "200"),
        ("url.scheme", "http"),
        ("url.path", &format!("/{user}/publish")),
        ("server.address", "127.0.0.1"),
        ("server.port", port),
        ("user_agent.original", "tests/1"),
        ("network.protocol.version", "1.1"),
        ("faas.name", &user),
    ] {
        assert_eq!(server.get(name), value, "{name} of {server:#?}");
    }
    is_invocation(&invoked, "http");
    is_invocation(&ordered, "pubsub");
    is_invocation(&mailed, "pubsub");
    is_processed(&processed, &first, &order);
    is_processed(&processed_on, &second, &mail);
    let record = &kafka.topics().read(&first)[0];
    let partition = record.partition.to_string();
    for (span, operation) in [(&sent, "send"), (&processed, "process")] {
        assert_eq!(span.get("messaging.operation.type"), operation);
        assert_eq!(span.get("messaging.destination.name"), first);
        assert_eq!(span.get("messaging.destination.partition.id"), partition);
        assert_eq!(span.get("messaging.kafka.offset"), "0");
        assert_eq!(span.get("messaging.kafka.message.key"), "ada");
        assert_eq!(span.get("messaging.message.body.size"), "5");
    }
    assert_eq!((sent.kind, sent_on.kind), ("PRODUCER", "PRODUCER"));
    assert_eq!(sent_on.get("messaging.kafka.offset"), "0");
    assert_eq!(processed.get("tidemill.attempt"), "1");
    let id = format!("{first}/{partition}@0");
    assert_eq!(ordered.get("faas.invocation_id"), id);

    // The records say it to any other consumer as well.
    let parent = format!("00-{TRACE}-{}-01", sent.id);
    assert_eq!(header(record, "traceparent"), parent);
    assert_eq!(header(record, "tracestate"), "vendor=1");
    assert_eq!(header(record, "baggage"), "plan=gold");

    // A commit is of many events, in a trace of its own.
    let commits = collector.named("commit", 2);
    let of = |event: &Span| {
        let linked = commits
            .iter()
            .filter(|commit| commit.links == [event.id.clone()]);
        let linked: Vec<&Span> = linked.collect();
        assert_eq!(linked.len(), 1, "{commits:#?}");
        assert_ne!(linked[0].trace, TRACE);
        assert_eq!(linked[0].get("messaging.operation.type"), "settle");
        linked[0].id.clone()
    };
    assert_eq!(sent_on.links, [of(&processed)]);
    of(&processed_on);
    assert_eq!(collector.header("authorization"), "Bearer hunter2");
    assert!(!host.log().contains("hunter2"), "{}", host.log());
}

#[test]
fn each_attempt_of_an_event_is_a_span_and_the_log_names_its_trace() {
    let kafka = Kafka::shared();
    let collector = Collector::start(Answers::Ok);
    let name = unique("attempts");
    kafka.topics().create(&name, 1);
    let host = traced(&collector)
        .kafka(kafka)
        .deploy([Component::misbehave(&Manifest::new(&name))])
        .ready();
    let parent: &[(&str, Option<&[u8]>)] = &[("traceparent", Some(SAMPLED.as_bytes()))];
    kafka
        .topics()
        .write(&name, 0, None, Some(b"until 3"), parent);
    let attempts = collector.named(&format!("process {name}"), 3);
    for (attempt, span) in (1..).zip(&attempts) {
        is_processed(span, &name, &name);
        assert_eq!((&*span.trace, &*span.parent), (TRACE, CLIENT));
        assert_eq!(span.get("tidemill.attempt"), attempt.to_string());
        let error = if attempt < 3 { "retry" } else { "" };
        assert_eq!(span.get("error.type"), error, "{span:#?}");
        assert_eq!(span.failed, attempt < 3);
    }
    let calls = collector.named(&name, 3);
    assert_eq!(calls[0].get("error.type"), "retry");
    assert_eq!(calls[2].get("faas.coldstart"), "false");
    let log = host.log();
    let line = log
        .lines()
        .find(|line| line.contains("event failed"))
        .unwrap();
    assert!(line.contains(TRACE), "{line}");
}

#[test]
fn a_call_that_fails_is_an_error_in_its_spans_and_the_log_names_its_trace() {
    let collector = Collector::start(Answers::Ok);
    let name = unique("fails");
    let host = traced(&collector)
        .deploy([Component::misbehave(&Manifest::new(&name))])
        .ready();
    let server = |mode: &str, status: u16| {
        let target = format!("/{name}/{mode}");
        let reply = host.http().send("PUT", &target, &[], b"");
        assert_eq!(reply.status, status, "{reply:?}");
        let found = eventually("its span is there", || {
            let all = collector.spans().into_iter();
            let mut all = all.filter(|span| {
                span.get("url.path") == format!("/{name}/{mode}").split('?').next().unwrap()
            });
            all.next().ok_or(())
        });
        assert_eq!(found.get("http.response.status_code"), status.to_string());
        found
    };
    let trapped = server("trap", 500);
    assert!(trapped.failed);
    assert_eq!(trapped.get("error.type"), "handler-failed");
    let call = eventually("the call's span is there", || {
        let mut all = collector.spans().into_iter();
        all.find(|span| span.parent == trapped.id).ok_or(())
    });
    assert!(call.failed);
    assert_eq!(call.get("error.type"), "trap");
    let log = host.log();
    let line = log
        .lines()
        .find(|line| line.contains("request failed"))
        .unwrap();
    assert!(line.contains(&trapped.trace), "{line}");
    let own = server("status?code=503", 503);
    assert_eq!(own.get("error.type"), "503");
    // What a client does wrong is no error of the server's.
    assert!(!server("put", 409).failed);
    let reply = host.http().get("/nothing/here");
    assert_eq!(reply.status, 404);
    assert!(!collector.one("GET").failed);
}

#[test]
fn a_request_whose_client_leaves_is_cancelled_in_its_span() {
    let collector = Collector::start(Answers::Ok);
    let name = unique("leaves");
    let host = traced(&collector)
        .deploy([Component::misbehave(&Manifest::new(&name))])
        .ready();
    let mut client = TcpStream::connect(host.http().address()).unwrap();
    let request = format!("GET /{name}/sleep?ms=4000 HTTP/1.1\r\nhost: h\r\n\r\n");
    client.write_all(request.as_bytes()).unwrap();
    drop(client);
    let span = collector.one(&format!("GET /{name}"));
    assert!(span.failed);
    assert_eq!(span.get("error.type"), "cancelled");
    assert_eq!(span.get("http.response.status_code"), "");
}

#[test]
fn what_is_not_sampled_has_no_spans_and_its_events_say_so() {
    let collector = Collector::start(Answers::Ok);
    let (name, topic) = (unique("sampled"), unique("topic"));
    let manifest = Manifest::new(&name).publish(&topic).subscribe(&topic);
    let host = traced(&collector)
        .environment(&[
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ])
        .deploy([Component::misbehave(&manifest)])
        .ready();
    let target = format!("/{name}/publish?topic={topic}");
    for parent in [None, Some(NOT_SAMPLED), Some(SAMPLED)] {
        let headers: Vec<_> = parent
            .map(|parent| ("traceparent", parent))
            .into_iter()
            .collect();
        let _ = host
            .http()
            .send("POST", &target, &headers, b"x")
            .expect(200);
    }
    // The last one's are all there are.
    let _ = collector.one(&format!("process {topic}"));
    let spans = collector.spans();
    let of_its_trace = |span: &Span| span.trace == TRACE || span.name == "commit";
    assert!(spans.iter().all(of_its_trace), "{spans:#?}");
    let records = host.topics().read(&topic);
    let parents: Vec<String> = records
        .iter()
        .map(|record| header(record, "traceparent"))
        .collect();
    assert!(
        parents
            .iter()
            .any(|parent| parent.ends_with("-00") && !parent.contains(TRACE))
    );
    assert!(
        parents
            .iter()
            .any(|parent| parent.ends_with("-00") && parent.contains(TRACE))
    );
    assert!(
        parents
            .iter()
            .any(|parent| parent.ends_with("-01") && parent.contains(TRACE))
    );
}

#[test]
fn a_malformed_trace_begins_another() {
    let collector = Collector::start(Answers::Ok);
    let name = unique("malformed");
    let host = traced(&collector)
        .deploy([Component::misbehave(&Manifest::new(&name))])
        .ready();
    let bad = SAMPLED.to_uppercase();
    let headers = [("traceparent", &*bad), ("tracestate", "vendor=1")];
    let target = format!("/{name}/ok");
    let _ = host.http().send("GET", &target, &headers, b"").expect(200);
    let span = collector.one(&format!("GET /{name}"));
    assert_eq!(span.parent, "");
    assert_ne!(span.trace, TRACE);
    assert_eq!(span.trace.len(), 32);
}

#[test]
fn without_a_collector_a_trace_is_passed_on_as_it_came() {
    let (name, topic, next) = (unique("passed"), unique("topic"), unique("next"));
    let manifest = Manifest::new(&name)
        .consumes(&[&topic])
        .publish(&topic)
        .publish(&next)
        .setting("forward", &next);
    let host = Host::embedded([Component::misbehave(&manifest)]);
    let target = format!("/{name}/publish?topic={topic}");
    let headers = [("traceparent", SAMPLED), ("tracestate", "vendor=1")];
    let _ = host
        .http()
        .send("POST", &target, &headers, b"x")
        .expect(200);
    eventually("the event is published on", || {
        let records = host.topics().read(&next);
        let record = records.first().ok_or(())?;
        assert_eq!(header(record, "traceparent"), SAMPLED);
        assert_eq!(header(record, "tracestate"), "vendor=1");
        Ok::<(), ()>(())
    });
}

#[test]
fn a_collector_that_is_away_or_silent_costs_spans_and_nothing_else() {
    let silent = Collector::start(Answers::Nothing);
    for endpoint in ["http://127.0.0.1:9", &silent.endpoint()] {
        let name = unique("away");
        let mut host = Host::builder()
            .environment(&[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
                (
                    "OTEL_EXPORTER_OTLP_HEADERS",
                    "authorization=Bearer%20hunter2",
                ),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "200"),
                ("OTEL_BSP_SCHEDULE_DELAY", "10"),
            ])
            .deploy([Component::misbehave(&Manifest::new(&name))])
            .ready();
        let began = Instant::now();
        for _ in 0..100 {
            let _ = host.http().get(&format!("/{name}/ok")).expect(200);
        }
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "{:?}",
            began.elapsed()
        );
        eventually("what is lost is counted", || {
            let lost = host.metric("tidemill_spans_lost_total", &[]);
            if lost >= 200.0 { Ok(()) } else { Err(lost) }
        });
        let _ = host.http().get(&format!("/{name}/ok")).expect(200);
        let began = Instant::now();
        assert_eq!(host.terminate().code(), Some(0), "{}", host.log());
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
        let log = host.log();
        assert_eq!(log.matches("does not take spans").count(), 1, "{log}");
        assert!(!log.contains("hunter2"), "{log}");
    }
}

#[test]
fn a_queue_that_is_full_loses_spans_and_counts_them() {
    let silent = Collector::start(Answers::Nothing);
    let name = unique("full");
    let host = traced(&silent)
        .environment(&[("OTEL_BSP_MAX_QUEUE_SIZE", "10")])
        .deploy([Component::misbehave(&Manifest::new(&name))])
        .ready();
    eventually("spans are lost", || {
        let _ = host.http().get(&format!("/{name}/ok")).expect(200);
        let lost = host.metric("tidemill_spans_lost_total", &[]);
        if lost > 0.0 { Ok(()) } else { Err(lost) }
    });
    let log = host.log();
    assert_eq!(log.matches("faster than the collector").count(), 1, "{log}");
}

#[test]
fn a_host_that_ends_sends_its_last_spans_before() {
    let collector = Collector::start(Answers::Ok);
    let name = unique("last");
    let mut host = traced(&collector)
        .environment(&[("OTEL_BSP_SCHEDULE_DELAY", "600000")])
        .deploy([Component::misbehave(&Manifest::new(&name))])
        .ready();
    let _ = host.http().get(&format!("/{name}/ok")).expect(200);
    assert_eq!(host.terminate().code(), Some(0), "{}", host.log());
    let names: Vec<String> = collector
        .spans()
        .into_iter()
        .map(|span| span.name)
        .collect();
    assert_eq!(names, [name.clone(), format!("GET /{name}")]);
}

#[test]
fn settings_that_cannot_be_met_are_said_at_the_start() {
    for (variable, value, said) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "always_on"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b", "is a URL"),
    ] {
        let mut host = Host::builder()
            .environment(&[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"),
                (variable, value),
            ])
            .try_start();
        assert!(!host.process().wait().success());
        let log = host.log();
        assert!(log.contains(said) && log.contains(variable), "{log}");
    }
}
