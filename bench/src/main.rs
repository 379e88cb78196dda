//! Measures both hot paths of Tidemill side by side with native code that does
//! the same: `http`, a request through a warm handler against hyper, and
//! `events`, an event passed on against a bare librdkafka loop.
//!
//! The two take turns for several rounds, on one machine with the load and the
//! broker on it too. Throughput alone misleads there, so the CPU time that each
//! server spent is shown with it.

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot be made ends with the reason"
)]

mod events;
mod http;
mod load;
mod native;
mod report;

use std::env;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["http"] => http::measure(),
        ["events"] => events::measure(),
        // What the measurements start as processes of their own.
        ["native-http", address] => native::http(address),
        ["native-events", brokers, group] => native::events(brokers, group),
        _ => {
            eprintln!("usage: tidemill-bench http | events (use `make bench`)");
            std::process::exit(2);
        }
    }
}
