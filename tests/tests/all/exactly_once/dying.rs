//! Hosts and brokers that die, stand still and come back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tidemill_tests::{Counting, Dice, Fleet, Host, Kafka, Signal, eventually};

use super::long;

/// Has hosts die and start again, and now and then one leave and come back.
fn kill_some(fleet: &Fleet, dice: &mut Dice, times: usize) {
    for time in 1..=times {
        thread::sleep(dice.time(1_000, 3_000));
        let victim = dice.throw(fleet.len());
        if time % 5 == 0 {
            assert_eq!(fleet.host(victim).terminate().code(), Some(0));
        } else {
            fleet.host(victim).kill9();
        }
        thread::sleep(dice.time(0, 500));
        fleet.restart(victim);
    }
}

#[test]
fn counts_are_exact_whatever_dies() {
    let (events, parts, kills, restarts) = match long() {
        true => (200_000, 100, 60, 2),
        false => (20_000, 15, 4, 1),
    };
    let kafka = Kafka::fresh();
    let counting = Counting::on(&kafka, "chaos", 8);
    let fleet = counting.hosts(3);
    let mut dice = Dice::new(0x9e37_79b9_7f4a_7c15);
    let posted = counting.while_posting(&fleet, 2, &[&counting.input], || {
        thread::scope(|scope| {
            let writing = scope.spawn(|| {
                // Over the whole time, so that something is always under way.
                for part in 0..parts {
                    let part = events * part / parts..events * (part + 1) / parts;
                    let records = Counting::events(part.start, part.end, 1_000);
                    counting.topics().write_keyed(&counting.input, &records);
                    thread::sleep(Duration::from_millis(500));
                }
            });
            let share = kills / (restarts + 1);
            for _ in 0..restarts {
                kill_some(&fleet, &mut dice, share);
                // Its groups, transactions and topics are all there is.
                kafka.stop();
                thread::sleep(dice.time(0, 1_000));
                kafka.start();
            }
            kill_some(&fleet, &mut dice, share);
            writing.join().unwrap();
        });
    });
    let acknowledged: usize = posted.iter().map(|one| one.acknowledged.len()).sum();
    let others: usize = posted.iter().map(|one| one.others.len()).sum();
    println!("{kills} deaths, {events} events, {acknowledged} requests acknowledged, {others} not");
    assert!(acknowledged > 0);
    counting.holds(&posted, &[&counting.input]);
    counting.is_exact(&fleet.into_hosts());
}

#[test]
fn a_paused_host_commits_nothing_of_what_it_had() {
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "paused", 4);
    let mut first = counting.host();
    let second = counting.host();
    counting.wait_for_shares([&first, &second]);
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for _ in 0..20 {
                counting.write(500);
                thread::sleep(Duration::from_millis(50));
            }
        });
        eventually("it works", || match counting.counted(first.http()) {
            Some(2_000..) => Ok(()),
            other => Err(other),
        });
        // With work in hand, until others have done it: past its session's
        // time-out.
        first.process().signal(Signal::STOP);
        let stopped = Instant::now();
        writing.join().unwrap();
        counting.wait_until(&second, 10_000);
        println!("a paused host is replaced: {:.1?}", stopped.elapsed());
        first.process().signal(Signal::CONT);
    });
    counting.is_exact([&first, &second]);
    // It has a share of the work again.
    counting.wait_for_shares([&first, &second]);
    counting.write(1_000);
    counting.is_exact([&first, &second]);
}

/// Kills a host in the middle of its work. Gives when, and how many events there
/// are in all.
fn kill_at_work(counting: &Counting, victim: &mut Host) -> (Instant, u64) {
    let killed = AtomicBool::new(false);
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut written = 0;
            let mut more = 5;
            while more > 0 {
                counting.write(500);
                written += 500;
                if killed.load(Ordering::Relaxed) || written > 100_000 {
                    more -= 1;
                }
            }
            written
        });
        eventually("it works", || match counting.counted(victim.http()) {
            Some(2_000..) => Ok(()),
            other => Err(other),
        });
        victim.kill9();
        let died = Instant::now();
        killed.store(true, Ordering::Relaxed);
        (died, writing.join().unwrap())
    })
}

#[test]
fn what_a_dead_host_had_is_taken_over() {
    let counting = Counting::on(Kafka::shared(), "failover", 4);
    let mut first = counting.host();
    let second = counting.host();
    counting.wait_for_shares([&first, &second]);
    let had = counting.here(&first).len();
    let (died, events) = kill_at_work(&counting, &mut first);
    counting.wait_until(&second, events);
    let took = died.elapsed();
    println!("failover of {had} of 4 partitions without a restart: {took:.1?}");
    counting.is_exact([&second]);
}

#[test]
fn a_host_that_is_started_again_goes_on_with_what_it_had() {
    let counting = Counting::on(Kafka::shared(), "restart", 4);
    let mut first = counting.host();
    let second = counting.host();
    counting.wait_for_shares([&first, &second]);
    let (_, events) = kill_at_work(&counting, &mut first);
    first.restart();
    let up = Instant::now();
    counting.wait_until(&first, events);
    let took = up.elapsed();
    println!("failover with a restart: {took:.1?} from when the host listens");
    counting.is_exact([&first, &second]);
}

#[test]
fn at_least_once_loses_nothing() {
    let kafka = Kafka::shared();
    let counting =
        Counting::on(kafka, "least", 4).with(|manifest| manifest.delivery("at-least-once"));
    let mut host = counting.host();
    assert_eq!(host.service(&counting.name)["delivery"], "at-least-once");
    thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for _ in 0..10 {
                counting.write(500);
                thread::sleep(Duration::from_millis(50));
            }
        });
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(300));
            host.kill9();
            host.restart();
        }
        writing.join().unwrap();
    });
    let counts = eventually("each is counted at least once", || {
        match counting.counted(host.http()) {
            Some(5_000..) => Ok(counting.counts(host.http())),
            other => Err(other),
        }
    });
    assert!(counts.values().all(|count| *count >= 50), "{counts:?}");
    // Counts came in order, and the last of each key was published.
    for (key, published) in counting.published() {
        let last = published.iter().max();
        assert!(last >= Some(&50), "{key}: {published:?}");
    }
}
