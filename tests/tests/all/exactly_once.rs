//! Exactly once: what is counted is exact, whatever dies.

use std::time::{Duration, Instant};

use tidemill_tests::{Counting, Host, Kafka, Signal, eventually};

/// Whether the long form is run: `make chaos`.
fn long() -> bool {
    std::env::var("TIDEMILL_CHAOS").is_ok_and(|form| form == "long")
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Kills hosts and starts them again for as long as `until` says.
fn kill_some(hosts: &mut [Host], dice: &mut Dice, mut until: impl FnMut(usize) -> bool) -> usize {
    let mut kills = 0;
    while until(kills) {
        std::thread::sleep(Duration::from_millis(1000 + dice.throw(2000)));
        let victim = usize::try_from(dice.throw(hosts.len() as u64)).unwrap();
        hosts[victim].kill9();
        std::thread::sleep(Duration::from_millis(dice.throw(500)));
        hosts[victim].restart();
        kills += 1;
    }
    kills
}

#[test]
fn counts_are_exact_whatever_dies() {
    let (events, kills) = if long() { (200_000, 40) } else { (20_000, 4) };
    let kafka = Kafka::fresh();
    let counting = Counting::on(&kafka, "chaos", 8);
    let mut hosts: Vec<Host> = (0..3).map(|_| counting.host(&kafka)).collect();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            // Over the whole time, so that something is always under way.
            let parts = 20;
            for part in 0..parts {
                let part = events * part / parts..events * (part + 1) / parts;
                let records = Counting::events(part.start, part.end, 1_000);
                counting.topics().write_keyed(&counting.input, &records);
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        kill_some(&mut hosts, &mut dice, |done| done < kills / 2);
        // Its groups, transactions and topics are all it has.
        kafka.stop();
        std::thread::sleep(Duration::from_millis(500));
        kafka.start();
        kill_some(&mut hosts, &mut dice, |done| done < kills / 2);
        writing.join().unwrap();
    });
    for host in &hosts {
        counting.wait_until(host, events as u64);
    }
    counting.is_exact(&hosts);
}

#[test]
fn a_paused_host_commits_nothing_of_what_it_had() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "paused", 4);
    let mut first = counting.host(kafka);
    let second = counting.host(kafka);
    eventually("both have partitions", || {
        let here = |host: &Host| {
            let service = host.service(&counting.name);
            let partitions = service["partitions"].as_array().unwrap().clone();
            partitions.iter().filter(|one| one["here"] == true).count()
        };
        match (here(&first), here(&second)) {
            (2, 2) => Ok(()),
            other => Err(other),
        }
    });
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for part in 0..20 {
                let records = Counting::events(part * 500, (part + 1) * 500, 100);
                counting.topics().write_keyed(&counting.input, &records);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        std::thread::sleep(Duration::from_millis(400));
        // With work in hand, past its session's time-out.
        first.process().signal(Signal::STOP);
        writing.join().unwrap();
        counting.wait_until(&second, 10_000);
        first.process().signal(Signal::CONT);
    });
    counting.wait_until(&first, 10_000);
    // It has a share of the work again.
    counting
        .topics()
        .write_keyed(&counting.input, &Counting::events(0, 1_000, 100));
    counting.wait_until(&first, 11_000);
    counting.is_exact([&first, &second]);
    eventually("it has joined again", || {
        let service = first.service(&counting.name);
        let mut partitions = service["partitions"].as_array().unwrap().iter();
        match partitions.any(|one| one["here"] == true) {
            true => Ok(()),
            false => Err(service),
        }
    });
}

#[test]
fn what_a_dead_host_had_is_taken_over_and_a_restarted_one_goes_on_at_once() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "failover", 4);
    let mut first = counting.host(kafka);
    let second = counting.host(kafka);
    let topics = counting.topics();
    let mut events = 0;
    let mut write = |count: usize| {
        topics.write_keyed(&counting.input, &Counting::events(0, count, 100));
        events += count as u64;
        events
    };
    counting.wait_until(&second, write(1_000));
    // With a restart.
    first.kill9();
    let all = write(1_000);
    first.restart();
    let up = Instant::now();
    counting.wait_until(&first, all);
    println!(
        "failover with a restart: {:.1?} from the listening host",
        up.elapsed()
    );
    // Without one.
    first.kill9();
    let died = Instant::now();
    counting.wait_until(&second, write(1_000));
    println!("failover without a restart: {:.1?}", died.elapsed());
    counting.is_exact([&second]);
}

#[test]
fn one_bad_effect_fails_its_event_and_no_other() {
    let kafka = Kafka::shared();
    let mut counting = Counting::on(kafka, "poison", 4);
    counting.manifest = counting
        .manifest
        .clone()
        .setting("poison", "key-3 2")
        .limit("event", "\"4 MiB\"");
    let host = counting.host(kafka);
    counting
        .topics()
        .write_keyed(&counting.input, &Counting::events(0, 400, 100));
    let service = eventually("its partition is blocked", || {
        let service = host.service(&counting.name);
        let partitions = service["partitions"].as_array().unwrap();
        let blocked = |one: &&serde_json::Value| one["status"] == "blocked";
        match partitions.iter().filter(blocked).count() {
            1 => Ok(service),
            _ => Err(service),
        }
    });
    let partitions = service["partitions"].as_array().unwrap();
    let blocked = partitions
        .iter()
        .find(|one| one["status"] == "blocked")
        .unwrap();
    let error = blocked["error"].as_str().unwrap();
    assert!(error.contains("too large"), "{error}");
    for other in partitions.iter().filter(|one| *one != blocked) {
        eventually("the others are consumed", || {
            let service = host.service(&counting.name);
            let partitions = service["partitions"].as_array().unwrap();
            let now = partitions
                .iter()
                .find(|one| one["partition"] == other["partition"]);
            match now.is_some_and(|one| one["lag"] == 0) {
                true => Ok(()),
                false => Err(service),
            }
        });
    }
    // What is before it is committed, it and what is behind it are not.
    let counts = counting.counts(&host);
    assert_eq!(counts["key-3"], 1);
    // The remedy is another revision.
    let mended = counting.manifest.clone().setting("poison", "");
    host.deploy(&tidemill_tests::Component::count(&mended));
    counting.wait_until(&host, 400);
    counting.is_exact([&host]);
}

#[test]
fn at_least_once_loses_nothing() {
    let kafka = Kafka::shared();
    let mut counting = Counting::on(kafka, "least", 4);
    counting.manifest = counting.manifest.clone().delivery("at-least-once");
    let mut host = counting.host(kafka);
    assert_eq!(host.service(&counting.name)["delivery"], "at-least-once");
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for part in 0..10 {
                let records = Counting::events(part * 500, (part + 1) * 500, 100);
                counting.topics().write_keyed(&counting.input, &records);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(300));
            host.kill9();
            host.restart();
        }
        writing.join().unwrap();
    });
    eventually("all are counted at least once", || {
        let all: u64 = counting.counts(&host).values().sum();
        if all >= 5_000 { Ok(()) } else { Err(all) }
    });
}
