//! Three brokers, of which one or two are killed.

use tidemill_tests::{Counting, Fleet, Kafka, Topics, eventually};

use super::{answered_in_time, lasts, said, taken_again, while_reading};
use crate::exactly_once::long;

/// Which node keeps a group, or a transaction: by Java's hash of its name, the
/// leader of a partition of the topic where they are kept.
fn coordinator(topics: &Topics, kept_in: &str, name: &str) -> usize {
    let leaders = topics.leaders(kept_in);
    let hash = name.encode_utf16().fold(0_i32, |hash, c| {
        hash.wrapping_mul(31).wrapping_add(c.into())
    });
    let partition = usize::try_from(hash & i32::MAX).unwrap() % leaders.len();
    usize::try_from(leaders[partition].unwrap()).unwrap()
}

/// Where the brokers are.
fn servers(nodes: &[Kafka]) -> String {
    let addresses: Vec<String> = nodes.iter().map(Kafka::address).collect();
    addresses.join(",")
}

fn wait_for_replicas(topics: &Topics, counting: &Counting, replicas: usize) {
    for topic in ["__consumer_offsets", "__transaction_state", &counting.input] {
        eventually("replicas are in sync", || match topics.in_sync(topic) {
            found if found == replicas => Ok(()),
            found => Err((topic.to_owned(), found)),
        });
    }
}

#[test]
#[ignore = "three brokers on two cores: make chaos"]
fn of_three_brokers_one_may_die_and_with_two_dead_nothing_is_lost() {
    let nodes = Kafka::three();
    let all = servers(&nodes);
    // The first one, which is the controller, stays.
    let counting = Counting::at(&all, "nodes", 4);
    let fleet: Fleet = counting.hosts(2);
    let (client, input) = (fleet.client(0), &*counting.input);
    counting.write(100);
    counting.wait_until(&fleet.host(0), 100);
    let topics = Topics::at(&nodes[0].address());
    wait_for_replicas(&topics, &counting, 3);
    let keeper = coordinator(&topics, "__consumer_offsets", &counting.name);
    let first = if keeper == 3 { 2 } else { 1 };
    let turns = if long() { 6 } else { 1 };
    for turn in 0..turns {
        let victim = 1 + (first - 1 + turn) % 2;
        println!("node {} dies, node {keeper} keeps the group", victim + 1);
        let posted = counting.while_posting(&fleet, 3, &[input, input], || {
            while_reading(&counting, &client, || {
                nodes[victim].stop();
                wait_for_replicas(&topics, &counting, 2);
                for host in 0..fleet.len() {
                    taken_again(&fleet.client(host), &counting);
                }
                lasts(1.0, 30.0);
            });
            nodes[victim].start();
            wait_for_replicas(&topics, &counting, 3);
        });
        answered_in_time(&posted);
        counting.holds(&posted, &[input, input]);
    }
    // One that is left is no cluster that is lost.
    for host in 0..fleet.len() {
        fleet.host(host).ready();
        let lost = said(&fleet.host(host), super::LOST);
        assert_eq!(lost, 0, "{}", fleet.host(host).log());
    }
    println!("two nodes die");
    let posted = counting.while_posting(&fleet, 3, &[input], || {
        while_reading(&counting, &client, || {
            nodes[1].stop();
            nodes[2].stop();
            // Below min.insync.replicas: no broker takes anything.
            eventually("writes are refused", || {
                let body = format!("{input} key value\n");
                match client.post(&format!("/{}", counting.name), body).status {
                    503 => Ok(()),
                    other => Err(other),
                }
            });
            lasts(1.0, 30.0);
        });
        nodes[1].start();
        for host in 0..fleet.len() {
            taken_again(&fleet.client(host), &counting);
        }
        nodes[2].start();
    });
    answered_in_time(&posted);
    counting.holds(&posted, &[input]);
    let hosts = fleet.into_hosts();
    for host in &hosts {
        host.ready();
    }
    counting.is_exact(&hosts);
}
