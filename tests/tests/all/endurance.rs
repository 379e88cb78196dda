//! A host under mixed load and faults, for long: what it holds ends where it
//! began, and everything counts once.
//!
//! In `make test` for seconds; `make soak` takes as many as `TIDEMILL_SOAK` says
//! and leaves samples and a plot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use plotters::prelude::*;
use serde_json::json;
use tidemill_tests::{
    Api, Client, Component, Counting, Deadline, Dice, Fault, Fleet, Host, Kafka, Manifest, Proxy,
    eventually, target, unique,
};

/// What is held at a time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Since the first one, in seconds.
    at: f64,
    values: [f64; HELD.len()],
    /// Rows that wait to be written to a file, in MiB.
    rows: f64,
}

/// What is watched: its name, its metric, and how much more of it there may be at
/// the end than at the beginning, over the share that all may differ by.
const HELD: [(&str, &str, f64); 5] = [
    ("memory, MiB", "process_resident_memory_bytes", 8.0),
    ("file descriptors", "process_open_fds", 2.0),
    ("threads", "process_threads", 2.0),
    ("tasks", "tidemill_tasks", 2.0),
    ("instances", "tidemill_instances_idle", 4.0),
];

/// How much anything may differ at the end: ±5 %.
const SHARE: f64 = 0.05;

/// Rows take more memory from minute to minute, until there are 16 MiB of them and
/// they are written to a file. Memory is looked at just after that, when there are
/// fewer than so many MiB …
const FEW_ROWS: f64 = 3.0;
/// … which is waited for, for so long.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1_200);

/// Each tenth key or so is one that its handler rejects.
const REJECTED: &str = "key-7";

struct Soak {
    counting: Counting,
    misbehave: Manifest,
    fleet: Fleet,
    kafka: Kafka,
    proxy: Proxy,
    began: Instant,
    samples: Mutex<Vec<Sample>>,
}

/// Ends what runs beside a test, also when that fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Soak {
    fn start() -> Soak {
        let (kafka, proxy) = Kafka::proxied();
        let counting = Counting::on(&kafka, "soak", 4)
            .with(|manifest| manifest.setting("reject", REJECTED).retry("attempts", "2"));
        let misbehave = Manifest::new(&unique("misbehave"))
            .limit("time", "\"100ms\"")
            .limit("memory", "\"8 MiB\"");
        let host = Host::builder()
            .broker(proxy.address())
            .deploy([counting.component(), Component::misbehave(&misbehave)])
            .ready();
        Soak {
            counting,
            misbehave,
            fleet: Fleet::of([host]),
            kafka,
            proxy,
            began: Instant::now(),
            samples: Mutex::default(),
        }
    }

    fn admin(&self) -> Client {
        self.fleet.host(0).admin().clone()
    }

    /// Clients that publish and read, clients that make handlers fail or go away in
    /// the middle, events, and everything that may happen to a broker and a service,
    /// for a time, or a little longer.
    fn load(&self, time: Duration, dice: &mut Dice) {
        let counting = &self.counting;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let stopping = Stop(&stop);
            scope.spawn(|| self.ask_for_trouble(&stop));
            scope.spawn(|| self.watch(&stop));
            let posted = counting.while_posting(&self.fleet, 3, &[&counting.input], || {
                let until = Instant::now() + time;
                let mut next = Instant::now();
                while Instant::now() < until || self.has_rows(until + WRITTEN_WITHIN) {
                    counting.write(100);
                    if Instant::now() >= next {
                        self.disturb(dice);
                        next = Instant::now() + dice.time(500, 3_000);
                    }
                    thread::sleep(Duration::from_millis(200));
                }
                self.proxy.clear();
            });
            drop(stopping);
            counting.holds(&posted, &[&counting.input]);
        });
    }

    /// Whether many rows wait to be written to a file, before this time.
    fn has_rows(&self, until: Instant) -> bool {
        let samples = self.samples.lock().unwrap();
        let many = samples.last().is_some_and(|last| last.rows > FEW_ROWS);
        long().is_some() && many && Instant::now() < until
    }

    /// Requests that end badly.
    fn ask_for_trouble(&self, stop: &AtomicBool) {
        let client = self.fleet.client(0);
        let modes = [
            "ok",
            "trap",
            "loop",
            "alloc",
            "recurse",
            "big?bytes=100000",
            "print?text=x",
        ];
        for mode in modes.iter().cycle() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let target = format!("/{}/{mode}", self.misbehave.name);
            let _ = client.try_send("GET", &target, &[], b"");
            // One whose client is gone before there is an answer.
            if let Ok(mut gone) = TcpStream::connect(client.address()) {
                let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\n\r\n");
                let _ = io::Write::write_all(&mut gone, request.as_bytes());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Something happens.
    fn disturb(&self, dice: &mut Dice) {
        let admin = self.admin();
        let name = &self.counting.name;
        let post = |what: &str, body: &serde_json::Value| {
            let target = format!("/v1/services/{name}/{what}");
            let _ = admin.try_send(
                "POST",
                &target,
                &[("content-type", "application/json")],
                body.to_string().as_bytes(),
            );
        };
        let apis = [Api::Produce, Api::EndTxn, Api::TxnOffsetCommit, Api::Fetch];
        match dice.throw(12) {
            0..4 => {
                let api = apis[dice.throw(apis.len())];
                let fault = match dice.throw(3) {
                    0 => Fault::Refused,
                    1 => Fault::AnswerLost,
                    _ => Fault::Late(dice.time(50, 500)),
                };
                self.proxy.order(api, fault, 3, 3);
            }
            4..8 => {
                let changed = self.counting.clone().with(|manifest| {
                    let revision = dice.throw(2).to_string();
                    manifest.setting("revision", &revision)
                });
                let _ = self.fleet.host(0).try_deploy(&changed.component());
            }
            8 => {
                post("pause", &json!({}));
                post("resume", &json!({}));
            }
            9 | 10 => post("dead-letters/drop", &json!({ "all": true })),
            _ => {
                // Not killed: Kafka 4.2.2 then reads its groups in part now and then,
                // and has a member of long ago that never times out.
                self.kafka.shut_down();
                self.kafka.start();
            }
        }
    }

    /// Takes samples until it is stopped.
    fn watch(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let sample = self.sample();
            self.samples.lock().unwrap().push(sample);
            thread::sleep(Duration::from_secs(1));
        }
    }

    fn sample(&self) -> Sample {
        let page = self.admin().get("/metrics").expect(200);
        let text = page.text();
        let value = |metric: &str| {
            let lines = text.lines().filter(|line| {
                let rest = line.strip_prefix(metric);
                rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
            values.sum::<f64>()
        };
        let mut values = HELD.map(|(_, metric, _)| value(metric));
        values[0] /= f64::from(1 << 20);
        Sample {
            rows: value("tidemill_state_unwritten_bytes") / f64::from(1 << 20),
            at: self.began.elapsed().as_secs_f64(),
            values,
        }
    }

    /// Waits until all is consumed and nothing is under way, and gives the least of
    /// each that is held for a while then.
    fn at_rest(&self) -> Sample {
        let host = self.fleet.host(0);
        host.has_nothing_under_way();
        let healthy = self.healthy().values().map(|events| *events as u64).sum();
        self.counting.wait_until(&host, healthy);
        drop(host);
        let rest = if long().is_some() { 30 } else { 4 };
        let deadline = Deadline::after(Duration::from_secs(rest));
        let mut least = self.sample();
        while !deadline.passed() {
            let sample = self.sample();
            self.samples.lock().unwrap().push(sample);
            for (least, value) in least.values.iter_mut().zip(sample.values) {
                *least = least.min(value);
            }
            thread::sleep(Duration::from_millis(500));
        }
        least
    }

    /// Events by key, but those that are rejected.
    fn healthy(&self) -> BTreeMap<String, usize> {
        let mut events = BTreeMap::new();
        for record in self.counting.topics().read(&self.counting.input) {
            let key = String::from_utf8(record.key.unwrap()).unwrap();
            *events.entry(key).or_default() += 1;
        }
        events.remove(REJECTED);
        events
    }

    /// Holds that each event counted once.
    fn is_exact(&self) {
        let expected = self.healthy();
        let counts = self.counting.counts(&self.fleet.client(0));
        let counts: BTreeMap<String, usize> = counts
            .into_iter()
            .map(|(key, count)| (key, usize::try_from(count).unwrap()))
            .collect();
        assert_eq!(counts, expected);
        for (key, counts) in self.counting.published() {
            tidemill_tests::in_order(&key, &counts, expected[&key] as u64);
        }
    }

    /// Writes all samples as a table and a plot.
    fn keep(&self, folder: &Path) {
        let samples = self.samples.lock().unwrap();
        let mut table = String::from("seconds,\"rows in memory, MiB\"");
        for (name, ..) in HELD {
            let _ = write!(table, ",{name:?}");
        }
        for sample in samples.iter() {
            let _ = write!(table, "\n{:.1},{}", sample.at, sample.rows);
            for value in sample.values {
                let _ = write!(table, ",{value}");
            }
        }
        fs::write(folder.join("soak.csv"), table + "\n").unwrap();
        plot(&samples, &folder.join("soak.svg")).unwrap();
    }
}

/// One panel a thing that is held, over minutes.
fn plot(samples: &[Sample], file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let size = (900, 180 * HELD.len() as u32);
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    let end = samples.last().map_or(1.0, |sample| sample.at / 60.0);
    let panels = root.split_evenly((HELD.len(), 1));
    for (number, (panel, (name, ..))) in panels.iter().zip(HELD).enumerate() {
        let most = samples.iter().map(|sample| sample.values[number]);
        let most = most.fold(1.0, f64::max) * 1.1;
        let mut chart = ChartBuilder::on(panel)
            .caption(name, ("sans-serif", 14))
            .margin(8)
            .x_label_area_size(24)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..end, 0.0..most)?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc("minutes")
            .draw()?;
        let points = samples
            .iter()
            .map(|sample| (sample.at / 60.0, sample.values[number]));
        chart.draw_series(LineSeries::new(points, &RGBColor(0x1f, 0x77, 0xb4)))?;
    }
    root.present()?;
    Ok(())
}

/// For how long, if it shall be long.
fn long() -> Option<Duration> {
    let seconds = std::env::var("TIDEMILL_SOAK").ok()?;
    Some(Duration::from_secs(seconds.parse().unwrap()))
}

#[test]
fn what_a_host_holds_under_load_and_faults_ends_where_it_began() {
    let soak = Soak::start();
    let mut dice = Dice::new(0x50a7);
    let time = long().unwrap_or(Duration::from_secs(12));
    // Caches are filled, threads and connections there are, the state has been
    // written to a file, and a broker's absence has left its backlog once: from here
    // on it counts.
    soak.load(time / 2, &mut dice);
    let begin = soak.at_rest();
    soak.load(time, &mut dice);
    let end = soak.at_rest();
    if long().is_some() {
        soak.keep(&target());
    }
    soak.is_exact();
    for (number, (name, _, more)) in HELD.into_iter().enumerate() {
        let (begin, end) = (begin.values[number], end.values[number]);
        println!("{name}: {begin:.0} at the beginning, {end:.0} at the end");
        // In seconds, memory tells nothing but a flood.
        let share = if number == 0 && long().is_none() {
            1.0
        } else {
            SHARE
        };
        assert!(
            end <= begin * (1.0 + share) + more,
            "{name}: {begin} to {end}"
        );
    }
    eventually("it is ready", || {
        let ready = soak.admin().get("/readyz");
        if ready.status == 200 {
            Ok(())
        } else {
            Err(ready)
        }
    });
}
