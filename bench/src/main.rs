//! Measures both hot paths of Tidemill side by side with what others do: `http`,
//! a request through a warm handler against hyper, and `events`, from topic to
//! topic and state against bare librdkafka loops and Kafka Streams.
//!
//! The systems take turns for several rounds, on one machine with the load and
//! the broker on it too. Throughput alone misleads there, so the CPU time that
//! each of them spent is shown with it.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot be made ends with the reason"
)]

mod bare;
mod events;
mod http;
mod load;
mod meter;
mod native;
mod report;
mod services;

use std::env;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["http"] => http::measure(),
        ["events", ref parts @ ..] => events::measure(parts),
        ["services", ref parts @ ..] => services::measure(parts),
        // What the measurements start as processes of their own.
        ["native-http", address] => native::http(address),
        ["bare", form, delivery, brokers, group] => bare::run(form, delivery, brokers, group),
        _ => {
            eprintln!("usage: tidemill-bench http | events [PART...] (use `make bench`)");
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
