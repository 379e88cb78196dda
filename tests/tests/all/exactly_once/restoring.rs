//! State that comes from its changelog, or from its topics once more.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tidemill_tests::{Component, Counting, Host, Kafka, eventually};

use super::long;

#[test]
fn a_host_with_an_empty_disk_restores_before_it_serves() {
    const SHARDS: i32 = 4;
    let rows = if long() { 1_000_000 } else { 100_000 };
    let kafka = Kafka::shared();
    let counting = Counting::on(kafka, "restore", SHARDS).with(|manifest| {
        manifest
            .limit("time", "\"1m\"")
            .limit("memory", "\"1 GiB\"")
    });
    let changelog = format!("{}.state.1", counting.name);
    let topics = counting.topics();
    topics.create_with(&changelog, SHARDS, &[("cleanup.policy", "compact")]);
    let transaction = topics.transaction();
    for row in 0..rows {
        let key = format!("counts\0key-{row}");
        transaction.write(&changelog, Some(row % SHARDS), key.as_bytes(), b"1");
    }
    let position = format!(
        r#"{{"positions":{{"{}":0}},"host":"another"}}"#,
        counting.input
    );
    for shard in 0..SHARDS {
        transaction.write(&changelog, Some(shard), b"\0position", position.as_bytes());
    }
    // All of it is there, and nothing of it may be read yet.
    transaction.flush();
    let host = counting.builder().start();
    let target = format!("/{}/total", counting.name);
    let said = eventually("it restores, and says how far it is", || {
        let reply = host.http().get(&target);
        if reply.status == 404 {
            // It is being deployed.
            return Err(reply);
        }
        let said = reply.problem(503);
        let kind = reply.json()["type"].as_str().unwrap().to_owned();
        assert!(kind.ends_with("state-restoring"), "{kind}");
        match said.contains(|c: char| c.is_ascii_digit()) {
            true => Ok(said),
            false => Err(reply),
        }
    });
    println!("{said}");
    // No event is run before it is there.
    topics.write(&counting.input, 2, Some(b"key-2"), None, &[]);
    host.http().get(&target).problem(503);

    transaction.commit();
    let committed = Instant::now();
    let reply = eventually("it has restored", || match host.http().get(&target) {
        reply if reply.status == 503 => Err(reply),
        reply => Ok(reply.expect(200)),
    });
    let took = committed.elapsed();
    // All of it, and perhaps the event.
    let (all, sum) = reply.text().split_once(' ').unwrap();
    let sum: i32 = sum.parse().unwrap();
    assert_eq!(all, rows.to_string());
    assert!((rows..=rows + 1).contains(&sum), "{sum}");
    let speed = f64::from(rows) / took.as_secs_f64();
    println!("{rows} rows restored in {took:.2?}: {speed:.0} rows/s");

    // It goes on from what it restored.
    counting.wait_until(&host, u64::try_from(rows).unwrap() + 1);
    assert_eq!(counting.published()["key-2"], [2]);
}

#[test]
fn a_host_that_comes_later_has_what_the_others_counted() {
    let counting = Counting::on(Kafka::shared(), "later", 4);
    let first = counting.host();
    counting.write(2_000);
    counting.is_exact([&first]);
    let mut second = counting.host();
    counting.is_exact([&first, &second]);
    // And one that lost its disk has it again.
    second.kill9();
    std::fs::remove_dir_all(second.data_dir()).unwrap();
    drop(second);
    let third = counting.host();
    counting.write(2_000);
    counting.is_exact([&first, &third]);
}

/// Begins a replay, and gives what the host says.
pub(super) fn replay(counting: &Counting, host: &Host) -> Value {
    let path = format!("/v1/services/{}/replay", counting.name);
    let reply = host.admin().post_json(&path, "{}");
    assert!((200..300).contains(&reply.status), "{reply:?}");
    reply.json()
}

/// Waits until a host has changed over to what was replayed.
pub(super) fn replayed(counting: &Counting, host: &Host, generation: u64) {
    let path = format!("/v1/services/{}/replay", counting.name);
    eventually("it is replayed", || {
        let replay = host.admin().get(&path).expect(200).json();
        if replay["done"] == true && replay["generation"] == generation {
            assert_eq!(replay["replayed"], replay["total"], "{replay}");
            Ok(())
        } else {
            Err((replay, host.service(&counting.name)))
        }
    });
}

#[test]
fn a_replay_makes_the_state_anew_and_publishes_nothing() {
    let counting = Counting::on(Kafka::shared(), "replay", 4);
    let right = counting.manifest.clone();
    // The first revision counts wrongly.
    let counting = counting.with(|manifest| manifest.setting("by", "10"));
    let hosts = [counting.host(), counting.host()];
    counting.wait_for_shares(&hosts);
    let (before, behind) = if long() {
        (200_000, 20_000)
    } else {
        (20_000, 1_000)
    };
    counting.write(before);
    for host in &hosts {
        counting.wait_until(host, before as u64 * 10);
    }
    let published = counting.published();
    let all = |published: &std::collections::BTreeMap<String, Vec<u64>>| {
        published.values().map(Vec::len).sum::<usize>()
    };
    assert_eq!(all(&published), before);

    // The second one is right, and what the first one counted is mended.
    for host in &hosts {
        host.deploy(&Component::count(&right));
    }
    let began = Instant::now();
    let started = replay(&counting, &hosts[0]);
    assert_eq!(started["generation"], 2, "{started}");
    let changelog = started["changelog"].as_str().unwrap().to_owned();
    thread::scope(|scope| {
        let reading = scope.spawn(|| {
            // Reads go on, from the old state or from the whole new one.
            let mut reads = 0;
            loop {
                for host in &hosts {
                    let counted = counting.counted(host.http()).expect("it reads");
                    assert!(counted >= before as u64, "{counted}");
                    reads += 1;
                    if counted == (before + behind) as u64 {
                        return reads;
                    }
                }
                assert!(began.elapsed() < Duration::from_secs(60), "it is replayed");
                thread::sleep(Duration::from_millis(1));
            }
        });
        for host in &hosts {
            replayed(&counting, host, 2);
        }
        let took = began.elapsed();
        println!(
            "{before} events replayed in {took:.2?}: {:.0}/s",
            before as f64 / took.as_secs_f64()
        );
        counting.write(behind);
        println!("{} reads meanwhile", reading.join().unwrap());
    });
    let now = counting.published();
    assert_eq!(all(&now), before + behind, "published again");
    for (key, counts) in &now {
        let (old, new) = counts.split_at(before / 100);
        assert_eq!(old, published[key]);
        let first = before as u64 / 100 + 1;
        let next: Vec<u64> = (first..first + behind as u64 / 100).collect();
        assert_eq!(new, next, "the counts of {key}");
    }
    for host in &hosts {
        counting.wait_until(host, (before + behind) as u64);
        let service = host.service(&counting.name);
        assert_eq!(service["state"]["generation"], 2, "{service}");
    }
    assert!(!counting.topics().read(&changelog).is_empty());
    // A host that comes now takes the new one.
    let later = counting.host();
    counting.wait_until(&later, (before + behind) as u64);
}

#[test]
fn a_replay_goes_on_when_its_hosts_die() {
    let counting = Counting::on(Kafka::shared(), "replay-dies", 4);
    let mut hosts = [counting.host(), counting.host()];
    counting.write(20_000);
    counting.is_exact(&hosts);
    let _ = replay(&counting, &hosts[0]);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20 {
                counting.write(200);
                thread::sleep(Duration::from_millis(50));
            }
        });
        for host in &mut hosts {
            thread::sleep(Duration::from_millis(700));
            host.kill9();
            host.restart();
        }
    });
    for host in &hosts {
        replayed(&counting, host, 2);
    }
    counting.is_exact(&hosts);
}
