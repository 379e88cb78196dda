//! The graph of services and topics: what a deploy makes of it that is allowed,
//! and may be a mistake.
//!
//! Of all there is only what the deployed service has a part in is told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tidemill_cli::api::Warning;
use tidemill_manifest::Manifest;

/// Circles that are told; more say nothing new.
const CIRCLES: usize = 10;

/// What may be a mistake after a deploy. `before` is the manifest that runs so
/// far, `others` are the other deployed services', and `existed` tells whether a
/// topic was there before the deploy: then somebody outside may write it.
pub fn warnings(
    before: Option<&Manifest>,
    new: &Manifest,
    others: &[&Manifest],
    existed: impl Fn(&str) -> bool,
) -> Vec<Warning> {
    let graph = Graph::of(new, others);
    let mut warnings = circles(&graph);
    warnings.extend(unwritten(&graph, before, new, existed));
    warnings.extend(unread(&graph, before, new));
    warnings
}

fn warning(kind: &str, message: String) -> Warning {
    Warning {
        kind: kind.to_owned(),
        message,
    }
}

fn circles(graph: &Graph<'_>) -> Vec<Warning> {
    let mut circles = graph.circles();
    // That requests publish what the service itself consumes is how requests come
    // to write state.
    circles.retain(|circle| circle.len() > 2 || !graph.answers_requests(NEW));
    let told = circles.iter().take(CIRCLES).map(|circle| {
        let shown = graph.shown(circle);
        let message = format!(
            "events may go round in a circle: {shown}. If handlers of events publish all of these, \
             one event becomes endlessly many. If it is not meant, take one of these topics out of \
             [grants] or [[subscribe]] of one of these services."
        );
        warning("cycle", message)
    });
    let mut warnings: Vec<Warning> = told.collect();
    if let Some(more @ 1..) = circles.len().checked_sub(CIRCLES) {
        let message = format!("and {more} more circles go through {}.", graph.name(NEW));
        warnings.push(warning("cycle", message));
    }
    warnings
}

/// Topics that are read, and written by nobody who is known.
fn unwritten(
    graph: &Graph<'_>,
    before: Option<&Manifest>,
    new: &Manifest,
    existed: impl Fn(&str) -> bool,
) -> Vec<Warning> {
    let name = &new.name;
    let lonely = |topic: &&str| !graph.writers.contains_key(*topic);
    let read = reads(new).filter(lonely).filter(|topic| !existed(topic));
    let read = read.map(|topic| {
        format!(
            "{name} subscribes to {topic:?}, which is a new topic, and no deployed service \
             publishes to it. If nobody else does, deploy the service that does, or correct the \
             topic in [[subscribe]]."
        )
    });
    // What it does not write any more, and others wait for.
    let dropped = before.map(writes).unwrap_or_default();
    let dropped = dropped.iter().map(String::as_str).filter(lonely);
    let dropped = dropped.filter_map(|topic| {
        let readers = graph.names(graph.readers.get(topic)?);
        Some(format!(
            "{name} may not publish to {topic:?} any more, and no other deployed service does; \
             still subscribed: {readers}. If it is not meant, add the topic to publish in [grants]."
        ))
    });
    let messages = read.chain(dropped);
    messages
        .map(|message| warning("unwritten", message))
        .collect()
}

/// Topics that are written, and read by nobody who is known.
fn unread(graph: &Graph<'_>, before: Option<&Manifest>, new: &Manifest) -> Vec<Warning> {
    let name = &new.name;
    let lonely = |topic: &&str| !graph.readers.contains_key(*topic);
    let granted = new.grants.publish.iter().map(String::as_str);
    let written = granted.filter(lonely).map(|topic| {
        format!(
            "{name} may publish to {topic:?}, and no deployed service subscribes to it. If nobody \
             else reads it either, deploy the service that does, or take the topic out of publish \
             in [grants]."
        )
    });
    // What it does not read any more, and others go on writing.
    let dropped = before.into_iter().flat_map(reads).filter(lonely);
    let dropped = dropped.filter_map(|topic| {
        let writers = graph.names(graph.writers.get(topic)?);
        Some(format!(
            "{name} does not subscribe to {topic:?} any more, and no other deployed service does; \
             still publishing: {writers}. If it is not meant, add the topic as a [[subscribe]]."
        ))
    });
    let messages = written.chain(dropped);
    messages.map(|message| warning("unread", message)).collect()
}

/// Topics that a service consumes.
fn reads(manifest: &Manifest) -> impl Iterator<Item = &str> {
    manifest.subscribe.iter().map(|one| one.topic.as_str())
}

/// Topics that a service, or the host for it, may write.
fn writes(manifest: &Manifest) -> Vec<String> {
    let mut topics = manifest.grants.publish.clone();
    topics.extend(
        manifest
            .has_dead_letters()
            .then(|| manifest.dead_letter_topic()),
    );
    topics
}

/// The place of the deployed service in the graph.
const NEW: usize = 0;

/// All services, by their places, and who writes and reads each topic.
struct Graph<'m> {
    services: Vec<&'m Manifest>,
    writers: BTreeMap<String, Vec<usize>>,
    readers: BTreeMap<String, Vec<usize>>,
}

impl<'m> Graph<'m> {
    fn of(new: &'m Manifest, others: &[&'m Manifest]) -> Graph<'m> {
        let others = others.iter().copied();
        // What runs so far under this name does not run then.
        let others = others.filter(|other| other.name != new.name);
        let services: Vec<&Manifest> = std::iter::once(new).chain(others).collect();
        let mut writers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        let mut readers: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (place, service) in services.iter().enumerate() {
            for topic in writes(service) {
                writers.entry(topic).or_default().push(place);
            }
            for topic in reads(service) {
                readers.entry(topic.to_owned()).or_default().push(place);
            }
        }
        Graph {
            services,
            writers,
            readers,
        }
    }

    fn name(&self, place: usize) -> &'m str {
        self.services.get(place).map_or("", |service| &service.name)
    }

    fn answers_requests(&self, place: usize) -> bool {
        let service = self.services.get(place);
        service.is_some_and(|service| service.http.is_some())
    }

    fn names(&self, places: &[usize]) -> String {
        let names: Vec<&str> = places.iter().map(|place| self.name(*place)).collect();
        names.join(", ")
    }

    /// The circles through the deployed service, each as the places from it back
    /// to it: the shortest one for every service that reads what it writes.
    fn circles(&self) -> Vec<Vec<usize>> {
        let back = self.ways_back();
        let read = self.services.first().map(|new| writes(new));
        let next: BTreeSet<usize> = read
            .into_iter()
            .flatten()
            .filter_map(|topic| self.readers.get(&topic))
            .flatten()
            .copied()
            .collect();
        let circles = next.into_iter().filter_map(|first| {
            let mut circle = vec![NEW, first];
            let mut at = first;
            while at != NEW {
                at = *back.get(&at)?;
                circle.push(at);
            }
            Some(circle)
        });
        circles.collect()
    }

    /// For each service from which events come back to the deployed one: the next
    /// service on the shortest way.
    fn ways_back(&self) -> BTreeMap<usize, usize> {
        let mut back = BTreeMap::new();
        let mut reached = VecDeque::from([NEW]);
        while let Some(at) = reached.pop_front() {
            let Some(service) = self.services.get(at) else {
                continue;
            };
            let writers = reads(service).filter_map(|topic| self.writers.get(topic));
            for &writer in writers.flatten() {
                if writer != NEW && !back.contains_key(&writer) {
                    back.insert(writer, at);
                    reached.push_back(writer);
                }
            }
        }
        back
    }

    /// `order → order_topic → user → user_topic → order`.
    fn shown(&self, circle: &[usize]) -> String {
        let mut shown = self.name(NEW).to_owned();
        for hop in circle.windows(2) {
            let &[from, to] = hop else {
                continue;
            };
            let topics = self.between(from, to);
            shown.push_str(&format!(" → {} → {}", topics.join(" and "), self.name(to)));
        }
        shown
    }

    /// The topics by which events go from one service to another.
    fn between(&self, from: usize, to: usize) -> Vec<String> {
        let (Some(from), Some(to)) = (self.services.get(from), self.services.get(to)) else {
            return Vec::new();
        };
        let mut topics = writes(from);
        topics.retain(|topic| reads(to).any(|read| read == topic));
        topics
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A service that has no dead letters, and answers requests if it has nothing
    /// else to do.
    fn service(name: &str, reads: &[&str], writes: &[&str]) -> Manifest {
        let mut text = format!("name = {name:?}\n[grants]\npublish = {writes:?}\n");
        if reads.is_empty() {
            text += &format!("[http]\nroutes = [\"/{name}\"]\n");
        }
        for topic in reads {
            text += &format!(
                "[[subscribe]]\ntopic = {topic:?}\n[subscribe.retry]\non-exhausted = \"stop\"\n"
            );
        }
        Manifest::parse(&text, "service.toml").unwrap()
    }

    fn told(warnings: &[Warning]) -> Vec<String> {
        let told = warnings.iter();
        told.map(|warning| {
            let end = warning.message.find(". ").unwrap_or(warning.message.len());
            format!("{}: {}", warning.kind, &warning.message[..end])
        })
        .collect()
    }

    const NONE: [String; 0] = [];

    #[test]
    fn a_line_of_services_is_no_reason_to_warn() {
        let user = service("user", &[], &["users"]);
        let order = service("order", &["users"], &["orders"]);
        let audit = service("audit", &["orders"], &[]);
        assert_eq!(
            told(&warnings(None, &order, &[&user, &audit], |_| false)),
            NONE
        );
    }

    #[test]
    fn a_circle_is_named_in_full() {
        let user = service("user", &["orders"], &["users", "people"]);
        let order = service("order", &["users", "people"], &["orders"]);
        let audit = service("audit", &["orders", "audits"], &["audits"]);
        assert_eq!(
            told(&warnings(None, &order, &[&user, &audit], |_| false)),
            [
                "cycle: events may go round in a circle: order → orders → user → users and people → order"
            ],
            "and not the circle of audit alone"
        );
        assert_eq!(
            told(&warnings(None, &audit, &[&user, &order], |_| false)),
            ["cycle: events may go round in a circle: audit → audits → audit"]
        );
    }

    #[test]
    fn a_service_whose_requests_publish_what_it_consumes_is_as_it_should_be() {
        let text = "name = \"event\"\n[http]\nroutes = [\"/events\"]\n[[subscribe]]\n\
                    topic = \"events\"\n[grants]\npublish = [\"events\"]\n";
        let event = Manifest::parse(text, "service.toml").unwrap();
        assert_eq!(told(&warnings(None, &event, &[], |_| false)), NONE);
    }

    #[test]
    fn a_way_over_dead_letters_is_a_circle_too() {
        let text = "name = \"order\"\n[[subscribe]]\ntopic = \"users\"\n";
        let order = Manifest::parse(text, "service.toml").unwrap();
        let rescue = service("rescue", &["order.dead-letter"], &["users"]);
        assert_eq!(
            told(&warnings(None, &rescue, &[&order], |_| false)),
            [
                "cycle: events may go round in a circle: rescue → users → order → order.dead-letter → \
                 rescue"
            ]
        );
    }

    #[test]
    fn topics_without_writer_or_reader_are_told() {
        let user = service("user", &[], &["users"]);
        let order = service("order", &["uesrs"], &["orders"]);
        let there = |topic: &str| topic == "uesrs";
        assert_eq!(
            told(&warnings(None, &order, &[&user], |_| false)),
            [
                "unwritten: order subscribes to \"uesrs\", which is a new topic, and no deployed \
                 service publishes to it",
                "unread: order may publish to \"orders\", and no deployed service subscribes to it",
            ]
        );
        // Somebody outside may write it.
        assert_eq!(told(&warnings(None, &order, &[&user], there)).len(), 1);
    }

    #[test]
    fn what_others_lose_by_a_deploy_is_told() {
        let before = service("user", &["carts"], &["users"]);
        let after = service("user", &[], &[]);
        let order = service("order", &["users"], &[]);
        let cart = service("cart", &[], &["carts"]);
        let others = [&before, &order, &cart];
        assert_eq!(
            told(&warnings(Some(&before), &after, &others, |_| true)),
            [
                "unwritten: user may not publish to \"users\" any more, and no other deployed \
                 service does; still subscribed: order",
                "unread: user does not subscribe to \"carts\" any more, and no other deployed \
                 service does; still publishing: cart",
            ]
        );
        let second = service("people", &["carts"], &["users"]);
        let others = [&before, &order, &cart, &second];
        assert_eq!(
            told(&warnings(Some(&before), &after, &others, |_| true)),
            NONE
        );
    }

    #[test]
    fn many_circles_are_counted() {
        let hub = service("hub", &["in"], &["out"]);
        let spokes: Vec<Manifest> = (0..12)
            .map(|n| service(&format!("spoke-{n}"), &["out"], &["in"]))
            .collect();
        let spokes: Vec<&Manifest> = spokes.iter().collect();
        let warnings = warnings(None, &hub, &spokes, |_| true);
        assert_eq!(warnings.len(), 11);
        assert_eq!(warnings[10].message, "and 2 more circles go through hub.");
    }

    const TOPICS: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn any_services() -> impl Strategy<Value = Vec<Manifest>> {
        let some = || proptest::sample::subsequence(&TOPICS[..], 0..=2);
        proptest::collection::vec((some(), some()), 1..7).prop_map(|all| {
            let all = all.iter().enumerate();
            all.map(|(n, (reads, writes))| service(&format!("s{n}"), reads, writes))
                .collect()
        })
    }

    /// Whether events go from each service to each other one, by any way.
    fn reachable(services: &[Manifest]) -> Vec<Vec<bool>> {
        let direct = |from: &Manifest, to: &Manifest| {
            let mut topics = from.grants.publish.iter();
            topics.any(|topic| to.subscribe.iter().any(|one| one.topic == *topic))
        };
        let mut reached: Vec<Vec<bool>> = services
            .iter()
            .map(|from| services.iter().map(|to| direct(from, to)).collect())
            .collect();
        for by in 0..services.len() {
            for from in 0..services.len() {
                for to in 0..services.len() {
                    reached[from][to] |= reached[from][by] && reached[by][to];
                }
            }
        }
        reached
    }

    proptest! {
        #[test]
        fn a_circle_is_found_exactly_where_there_is_one(services in any_services()) {
            let others: Vec<&Manifest> = services[1..].iter().collect();
            let graph = Graph::of(&services[0], &others);
            let circles = graph.circles();
            prop_assert_eq!(!circles.is_empty(), reachable(&services)[NEW][NEW]);
            for circle in circles {
                prop_assert_eq!((circle[0], circle.last()), (NEW, Some(&NEW)));
                prop_assert!(circle.windows(2).all(|hop| !graph.between(hop[0], hop[1]).is_empty()));
                // None of them twice: it is one circle, and no more.
                let places: BTreeSet<&usize> = circle[1..].iter().collect();
                prop_assert_eq!(places.len(), circle.len() - 1);
            }
        }

        #[test]
        fn each_reader_from_which_events_come_back_has_its_circle(services in any_services()) {
            let others: Vec<&Manifest> = services[1..].iter().collect();
            let graph = Graph::of(&services[0], &others);
            let seconds: Vec<usize> = graph.circles().iter().map(|circle| circle[1]).collect();
            let reached = reachable(&services);
            let expected: Vec<usize> = (0..services.len())
                .filter(|place| !graph.between(NEW, *place).is_empty())
                .filter(|place| *place == NEW || reached[*place][NEW])
                .collect();
            prop_assert_eq!(seconds, expected);
        }
    }
}
