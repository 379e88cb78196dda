//! A broker that is slow, gone, back, or wrong, and events that are hard.
//!
//! Whatever happens: who posts gets an answer in time and may believe it, state is
//! read, the host comes back alone, nothing that was acknowledged is missing and
//! nothing is done twice. `make chaos` runs the long form of these tests.

mod away;
mod disk;
mod network;
mod nodes;
mod odd;

use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::{Client, Counting, Deadline, Host, Posted, eventually};

/// What is said once when the cluster is lost, and once when it is back.
const LOST: &str = "Kafka does not answer";
const BACK: &str = "Kafka answers";

/// How often a text is in a host's log.
fn said(host: &Host, text: &str) -> usize {
    host.log().matches(text).count()
}

/// What `/readyz` says; none while it says that the host is ready.
fn unready(host: &Host) -> Option<String> {
    let reply = host.admin().get("/readyz");
    (reply.status != 200).then(|| reply.problem(503))
}

/// Waits until `/readyz` says that Kafka is away, and holds that everything else
/// that is seen of the host says so too.
fn says_that_kafka_is_away(host: &Host, counting: &Counting) {
    eventually("it says that it is not ready", || match unready(host) {
        Some(why) if why.contains(LOST) => Ok(()),
        other => Err(other),
    });
    let _ = host.admin().get("/healthz").expect(200);
    let service = host.service(&counting.name);
    let trouble = service["trouble"].as_str().unwrap_or_default();
    assert!(trouble.contains(LOST), "{service:#}");
    let (worked, text, _) = host.cli(&["services"]);
    assert!(worked && text.contains("starting"), "{text}");
    assert!(host.metric("tidemill_kafka_up", &[]) < 0.5);
}

/// Asks a service for its state all the time while something is done, and holds
/// that each answer is a 200 and comes at once.
fn while_reading(counting: &Counting, client: &Client, work: impl FnOnce()) {
    let done = std::sync::atomic::AtomicBool::new(false);
    let done = &done;
    thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let mut slowest = Duration::ZERO;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let asked = Instant::now();
                let reply = client.get(&format!("/{}/total", counting.name));
                slowest = slowest.max(asked.elapsed());
                assert_eq!(reply.status, 200, "{reply:?}");
                thread::sleep(Duration::from_millis(20));
            }
            slowest
        });
        let finished = Finished(done);
        work();
        drop(finished);
        let slowest = reading.join().unwrap();
        println!("the slowest read took {slowest:.1?}");
        assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    });
}

/// Says that work is done, also when it has failed.
struct Finished<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Lets trouble last for some time. It is no synchronisation: whatever is held
/// has to hold for any time.
fn lasts(short: f64, long: f64) {
    let seconds = if crate::exactly_once::long() {
        long
    } else {
        short
    };
    let over = Deadline::after(Duration::from_secs_f64(seconds));
    while !over.passed() {
        thread::sleep(Duration::from_millis(20));
    }
}

/// Holds that each client was answered in bounded time, and some with success.
fn answered_in_time(posted: &[Posted]) {
    let count = |of: fn(&Posted) -> usize| posted.iter().map(of).sum::<usize>();
    let slowest = posted.iter().map(|one| one.slowest).max().unwrap();
    println!(
        "{} requests acknowledged, {} not, of which nothing was published: {}; the slowest answer \
         took {slowest:.1?}",
        count(|one| one.acknowledged.len()),
        count(|one| one.others.len()),
        count(|one| one.nothing.len())
    );
    assert!(count(|one| one.acknowledged.len()) > 0);
    // 10 s for one event, 15 s for several.
    assert!(slowest < Duration::from_secs(18), "{slowest:?}");
}

/// Posts until it is acknowledged.
fn taken_again(client: &Client, counting: &Counting) {
    let body = format!("{} again again\n", counting.input);
    eventually("writes are taken again", || {
        let reply = client.post(&format!("/{}", counting.name), &body);
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply)
        }
    });
}
