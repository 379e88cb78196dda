//! Measures both hot paths of Tidemill side by side with what others do: `http`,
//! requests against hyper, `wasmtime serve` and FastAPI, and `events`, from topic
//! to topic and state against bare librdkafka loops and Kafka Streams. What came
//! of it becomes a page: `report`.
//!
//! The systems take turns for several rounds, on one machine with the load and
//! the broker on it too. Throughput alone misleads there, so the CPU time that
//! each of them spent is shown with it.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot be made ends with the reason"
)]

mod bare;
mod circumstances;
mod events;
mod goals;
mod http;
mod load;
mod meter;
mod native;
mod page;
mod perf;
mod plot;
mod program;
mod report;
mod servers;
mod services;

use std::env;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["events", ref parts @ ..] => events::measure(parts),
        ["report"] => page::write(),
        [scenario] if http::measure(scenario) => {}
        ["services", ref parts @ ..] => services::measure(parts),
        // What the measurements start as processes of their own.
        ["native-http", address] => native::http(address, None),
        ["native-http", address, brokers, linger] => native::http(address, Some((brokers, linger))),
        ["bare", form, delivery, brokers, group] => bare::run(form, delivery, brokers, group),
        _ => {
            eprintln!(
                "usage: tidemill-bench SCENARIO | events [PART...] | report (use `make bench`)"
            );
            std::process::exit(2);
        }
    }
}

/// A number that the environment may set.
fn setting(name: &str, usual: usize) -> usize {
    let set = env::var(name).ok().filter(|value| !value.is_empty());
    set.map_or(usual, |value| match value.parse() {
        Ok(number) => number,
        Err(_) => panic!("{name} is no number: {value:?}"),
    })
}

/// Whether a system takes part: all do, unless `BENCH_SYSTEMS` has words of the
/// names of those that do, divided by commas.
fn takes(system: &str) -> bool {
    let words = env::var("BENCH_SYSTEMS").unwrap_or_default().to_lowercase();
    let system = system.to_lowercase();
    let mut words = words
        .split(',')
        .map(str::trim)
        .filter(|w| !w.is_empty())
        .peekable();
    words.peek().is_none() || words.any(|word| system.contains(word))
}
