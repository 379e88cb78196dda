//! Many services on one host: how soon it is ready, what each of them takes while
//! it does nothing, and what an event of one costs beside all the others.
//!
//! All services run the same code under another manifest, so the compiler runs
//! once; a host keeps each of them apart all the same. Memory of the compiled
//! code is what is resident of the files of the compile cache; all else that is
//! resident counts to the services.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::{Component, Host, Kafka, eventually, seed};

use crate::meter::cpu;
use crate::report::{Column, Table, show};
use crate::setting;

/// How long a host is left alone before it is looked at, and then watched.
const REST: Duration = Duration::from_secs(1);
const WATCH: Duration = Duration::from_secs(4);

const START: [Column; 8] = [
    Column::ratio("ready ms", 0),
    Column::plain("its CPU ms", 0),
    Column::plain("RSS MB", 1),
    Column::plain("KB a service", 1),
    Column::plain("CPU ms/s", 1),
    Column::plain("first ms", 2),
    Column::plain("next ms", 2),
    Column::plain("called KB", 1),
];

const EVENTS: [Column; 2] = [Column::ratio("CPU us", 2), Column::plain("events/s", 0)];

/// Runs the measurement, or only some of its parts: `requests`, `subscribed`,
/// `events`.
pub(crate) fn measure(parts: &[&str]) {
    let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    let most = setting("BENCH_SERVICES", 1_000);
    let rounds = setting("BENCH_ROUNDS", 2);
    let mut tables = Vec::new();
    if wanted("requests") {
        let counts = [1, 10, 100, 1_000].map(|count: usize| count.min(most));
        let host = Host::builder().ready();
        tables.push(starts(
            "for requests alone",
            host,
            answering,
            &counts,
            rounds,
        ));
    }
    if wanted("subscribed") {
        let kafka = Kafka::for_measuring();
        let counts = [1, 10, 100].map(|count: usize| count.min(most));
        let host = Host::builder().kafka(&kafka).ready();
        tables.push(starts("subscribed", host, consuming, &counts, rounds));
    }
    if wanted("events") {
        tables.push(events(most, rounds));
    }
    show("services", &tables);
}

/// A service with a route of its own, and nothing else.
fn answering(number: usize) -> Component {
    seed("bench-answer").edited(&[
        (
            "name = \"bench-answer\"",
            &format!("name = \"answer-{number}\""),
        ),
        ("routes = [\"/\"]", &format!("routes = [\"/s{number}\"]")),
    ])
}

/// A service with a topic and a group of its own.
fn consuming(number: usize) -> Component {
    seed("bench-forward").edited(&[
        (
            "name = \"bench-forward\"",
            &format!("name = \"forward-{number}\""),
        ),
        ("topic = \"bench-in\"", &format!("topic = \"in-{number}\"")),
    ])
}

/// Starts a host again and again, with ever more services in its compile cache.
fn starts(
    what: &str,
    mut host: Host,
    service: fn(usize) -> Component,
    counts: &[usize],
    rounds: usize,
) -> Table {
    let title = format!("start with services {what}");
    let mut table = Table::new(title, "1 of them", &START);
    let (mut deployed, mut alone) = (0, None);
    for &count in counts {
        let began = Instant::now();
        let new = count - deployed;
        while deployed < count {
            host.deploy(&service(deployed));
            deployed += 1;
        }
        let took = began.elapsed();
        eprintln!("{count} services {what}: {new} deployed in {took:?}");
        for _ in 0..rounds {
            let turn = start(&mut host, count);
            // What the host takes with one is not the others'.
            let one: &Turn = alone.get_or_insert_with(|| turn.clone());
            let each = |all: u64, one: u64| {
                let others = count.checked_sub(1).filter(|others| *others > 0)?;
                Some((all as f64 - one as f64) / 1024.0 / others as f64)
            };
            table.add(
                &format!("{count} of them"),
                vec![
                    ms(turn.ready),
                    ms(turn.spent),
                    Some(turn.resident as f64 / 1_048_576.0),
                    each(turn.beyond, one.beyond),
                    Some(turn.rest.as_secs_f64() * 1e3 / WATCH.as_secs_f64()),
                    turn.first.and_then(ms),
                    turn.next.and_then(ms),
                    each(turn.called, one.called),
                ],
            );
        }
    }
    table
}

/// One start of a host.
#[derive(Clone)]
struct Turn {
    /// Until it said that it was ready.
    ready: Duration,
    /// The CPU time that it took until then.
    spent: Duration,
    /// Resident bytes, and those of them that are no compiled code, at rest.
    resident: u64,
    beyond: u64,
    /// The latter, after each service was called.
    called: u64,
    /// CPU time while nothing is asked of it.
    rest: Duration,
    /// Medians of the first call of each service, and of the next one.
    first: Option<Duration>,
    next: Option<Duration>,
}

fn start(host: &mut Host, services: usize) -> Turn {
    assert!(host.terminate().success());
    let began = Instant::now();
    host.restart();
    while !is_ready(host) {
        thread::sleep(Duration::from_millis(1));
    }
    let ready = began.elapsed();
    let process = host.process().id();
    let spent = cpu(process);
    let list = host.admin().get("/v1/services").expect(200).json();
    assert_eq!(list["services"].as_array().map(Vec::len), Some(services));
    thread::sleep(REST);
    let (resident, code) = resident(process);
    let before = cpu(process);
    thread::sleep(WATCH);
    let rest = cpu(process) - before;
    let round = || call(host, services);
    let (first, next) = (round(), round());
    let (all, compiled) = self::resident(process);
    Turn {
        ready,
        spent,
        resident,
        beyond: resident - code,
        called: all - compiled,
        rest,
        first,
        next,
    }
}

fn is_ready(host: &Host) -> bool {
    let reply = host.admin().try_send("GET", "/readyz", &[], b"");
    reply.is_ok_and(|reply| reply.status == 200)
}

/// Calls each service that answers requests; the median of the times.
fn call(host: &Host, services: usize) -> Option<Duration> {
    let mut times: Vec<Duration> = Vec::new();
    for number in 0..services {
        let began = Instant::now();
        let reply = host.http().get(&format!("/s{number}/hello"));
        if reply.header("tidemill-revision").is_empty() {
            return None;
        }
        times.push(began.elapsed());
    }
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// Resident bytes of a process, and those of them that are of compiled components.
fn resident(process: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let (mut all, mut code, mut compiled) = (0, 0, false);
    for line in text.lines() {
        match line.strip_prefix("Rss:") {
            Some(size) => {
                let size = size.trim().trim_end_matches(" kB");
                let size = size.parse::<u64>().unwrap() * 1024;
                all += size;
                code += if compiled { size } else { 0 };
            }
            // A mapping begins with its addresses, and ends with its file.
            None if line
                .split(' ')
                .next()
                .is_some_and(|word| word.contains('-')) =>
            {
                compiled = line.ends_with(".cwasm");
            }
            None => {}
        }
    }
    (all, code)
}

fn ms(time: Duration) -> Option<f64> {
    Some(time.as_secs_f64() * 1e3)
}

/// What an event of one service costs the host, beside others that do nothing.
fn events(most: usize, rounds: usize) -> Table {
    let all = setting("BENCH_EVENTS", 200_000);
    let kafka = Kafka::for_measuring();
    let host = Host::builder().kafka(&kafka).ready();
    let mut table = Table::new("an event beside other services", "alone", &EVENTS);
    // The one that works has the number 0.
    host.deploy(&consuming(0));
    let mut host = host;
    let mut deployed = (0, 0);
    for (requests, subscribed) in [(0, 0), (100, 0), (most, 0), (most, 99)] {
        while deployed.0 < requests {
            host.deploy(&answering(deployed.0));
            deployed.0 += 1;
        }
        while deployed.1 < subscribed {
            deployed.1 += 1;
            host.deploy(&consuming(deployed.1));
        }
        let row = match (requests, subscribed) {
            (0, 0) => "alone".to_owned(),
            (requests, 0) => format!("beside {requests}"),
            (requests, subscribed) => format!("beside {requests}, {subscribed} subscribed"),
        };
        eprintln!("{row}");
        for _ in 0..rounds {
            let values = work(&mut host, &kafka, all);
            eprintln!("  {values:?}");
            table.add(&row, values);
        }
    }
    table
}

/// Lets the service that works handle so many events; what it takes at rest is not
/// theirs.
fn work(host: &mut Host, kafka: &Kafka, events: usize) -> Vec<Option<f64>> {
    const PART: usize = 20_000;
    let process = host.process().id();
    let topics = kafka.topics();
    let committed = || -> i64 {
        let partitions = 0..topics.partitions("in-0");
        let each =
            partitions.filter_map(|partition| topics.committed("forward-0", "in-0", partition));
        each.sum()
    };
    thread::sleep(REST);
    let before = cpu(process);
    thread::sleep(WATCH);
    let rest = (cpu(process) - before).as_secs_f64() / WATCH.as_secs_f64();

    // It works when there is enough to do.
    let paused = |what: &str| {
        let path = format!("/v1/services/forward-0/{what}");
        let _ = host.admin().post(&path, "").expect(200);
    };
    paused("pause");
    let done = committed();
    let value = "x".repeat(200);
    for part in 0..events.div_ceil(PART) {
        let records: Vec<(String, String)> = (0..PART.min(events - part * PART))
            .map(|number| (format!("key-{}", number % 1_000), value.clone()))
            .collect();
        topics.write_keyed("in-0", &records);
    }
    let before = cpu(process);
    let began = Instant::now();
    paused("resume");
    let wanted = done + i64::try_from(events).unwrap();
    eventually("all events are handled", || {
        let now = committed();
        if now >= wanted { Ok(()) } else { Err(now) }
    });
    let took = began.elapsed().as_secs_f64();
    let spent = (cpu(process) - before).as_secs_f64() - rest * took;
    vec![
        Some(spent * 1e6 / events as f64),
        Some(events as f64 / took),
    ]
}
