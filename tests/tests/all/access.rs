//! What a broker forbids: what clients and operators see of it, that other
//! services go on, and that all goes on by itself when it is allowed.

use tidemill_tests::{
    Component, Counting, Door, Host, Manifest, Operation, Resource, Rule, Secured, eventually,
};

/// A host that comes in as a user, with a service and another one beside it.
struct Guarded {
    secured: &'static Secured,
    user: &'static str,
    host: Host,
    counting: Counting,
    neighbour: Counting,
}

impl Guarded {
    fn start(user: &'static str) -> Guarded {
        let secured = Secured::shared();
        let counting = Counting::on(&secured.kafka, user, 1);
        let neighbour = Counting::on(&secured.kafka, &format!("{user}-neighbour"), 1);
        let host = host(user)
            .deploy([counting.component(), neighbour.component()])
            .ready();
        Guarded {
            secured,
            user,
            host,
            counting,
            neighbour,
        }
    }

    fn denied<'a>(&self, resource: Resource, name: &'a str, operation: Operation) -> Rule<'a> {
        Rule {
            user: self.user,
            resource,
            name,
            operation,
        }
    }

    /// Forbids it, and has an event of the service and one of its neighbour
    /// consumed meanwhile.
    fn without(&self, denied: &Rule<'_>) {
        self.secured.kafka.deny(denied);
        self.counting.write(1);
        self.neighbour_goes_on();
    }

    fn neighbour_goes_on(&self) {
        let neighbour = &self.neighbour;
        neighbour.write(1);
        neighbour.wait_until(&self.host, neighbour.written());
    }

    /// Waits until the service's trouble is shown, with this in it.
    fn shows(&self, what: &str) {
        let name = &self.counting.name;
        eventually("the trouble is shown", || {
            let service = self.host.service(name);
            let partitions = service["partitions"].to_string();
            let trouble = service["trouble"].as_str().unwrap_or_default();
            match trouble.contains(what) || partitions.contains(what) {
                true => Ok(()),
                false => Err(service),
            }
        });
        // It comes and goes while the host tries.
        eventually("the command shows it", || {
            let (ok, shown, error) = self.host.cli(&["services", name]);
            match ok && shown.contains(what) {
                true => Ok(()),
                false => Err(shown + &error),
            }
        });
    }

    /// Allows it again, and holds that everything goes on by itself.
    fn mends(&self, denied: &Rule<'_>) {
        self.secured.kafka.grant(denied);
        self.counting.is_exact([&self.host]);
        let target = format!("/{}", self.counting.name);
        let line = format!("{} a 1\n", self.counting.input);
        eventually("requests are taken", || {
            let reply = self.host.http().post(&target, &line);
            if reply.status == 200 {
                Ok(())
            } else {
                Err(reply)
            }
        });
        self.counting
            .wait_until(&self.host, self.counting.written());
    }
}

fn host(user: &str) -> tidemill_tests::Builder {
    let password = format!("{user}-secret");
    let plain = [
        ("sasl.mechanisms", "PLAIN"),
        ("sasl.username", user),
        ("sasl.password", &password),
    ];
    Secured::shared().host(Door::Sasl, &plain)
}

#[test]
fn a_topic_that_must_not_be_written_refuses_its_requests_and_blocks_its_events() {
    let guarded = Guarded::start("bob");
    let counting = &guarded.counting;
    let denied = guarded.denied(Resource::Topic, &counting.output, Operation::Write);
    guarded.without(&denied);
    let target = format!("/{}", counting.name);
    let forbidden = format!("{} a 1\n", counting.output);
    let post = |lines: &str| guarded.host.http().post(&target, lines);
    let problem = post(&forbidden).problem(502);
    assert!(problem.contains("Nothing was published"), "{problem}");
    // All or none: nor is the one that would have been allowed.
    let both = format!("{} a 1\n{forbidden}", counting.input);
    assert!(post(&both).problem(502).contains("Nothing was published"));
    guarded.shows("authoriz");
    guarded.neighbour_goes_on();
    guarded.mends(&denied);
}

#[test]
fn a_topic_that_must_not_be_read_is_shown_and_read_on_when_it_may() {
    let guarded = Guarded::start("carol");
    let input = guarded.counting.input.clone();
    let denied = guarded.denied(Resource::Topic, &input, Operation::Read);
    guarded.without(&denied);
    guarded.shows("authoriz");
    guarded.mends(&denied);
}

#[test]
fn a_group_that_must_not_be_joined_is_shown_and_joined_when_it_may() {
    let guarded = Guarded::start("dave");
    let group = guarded.counting.name.clone();
    let denied = guarded.denied(Resource::Group, &group, Operation::Read);
    guarded.without(&denied);
    guarded.shows("authoriz");
    guarded.mends(&denied);
}

#[test]
fn transactions_that_are_forbidden_stop_what_needs_them_and_nothing_else() {
    let guarded = Guarded::start("erin");
    let counting = &guarded.counting;
    let id = fs_read(&guarded.host, "host-id");
    let cluster = cluster(&guarded.host);
    // Of this service alone; requests have another.
    let name = format!("tidemill.{cluster}.{id}.{}", counting.name);
    let denied = guarded.denied(Resource::TransactionalId, &name, Operation::Write);
    let requests = format!("tidemill.{cluster}.{id}._requests");
    let of_requests = guarded.denied(Resource::TransactionalId, &requests, Operation::Write);
    guarded.secured.kafka.deny(&of_requests);
    guarded.without(&denied);
    guarded.shows("authoriz");
    let target = format!("/{}", counting.name);
    let post = |lines: &str| guarded.host.http().post(&target, lines);
    let line = format!("{} a 1\n", counting.input);
    let reply = post(&format!("{line}{line}"));
    let problem = reply.problem(503);
    assert!(problem.contains("Nothing was published"), "{problem}");
    assert!(!reply.header("retry-after").is_empty(), "{reply:?}");
    // One event needs no transaction.
    let _ = post(&line).expect(200);
    guarded.secured.kafka.grant(&of_requests);
    eventually("requests have transactions", || {
        let reply = post(&format!("{line}{line}"));
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply)
        }
    });
    guarded.mends(&denied);
}

#[test]
fn topics_that_must_not_be_created_refuse_the_deploy_that_needs_them() {
    let user = "frank";
    let secured = Secured::shared();
    let denied = Rule {
        user,
        resource: Resource::Cluster,
        name: "kafka-cluster",
        operation: Operation::Create,
    };
    // A rule for a topic would do as well: what allows either allows it.
    let name = tidemill_tests::unique("created");
    let of_topic = Rule {
        resource: Resource::Topic,
        name: &format!("{name}*"),
        ..denied.clone()
    };
    secured.kafka.deny(&denied);
    secured.kafka.deny(&of_topic);
    let host = host(user).ready();
    let component = Component::misbehave(&Manifest::new(&name));
    let why = host.refuses(&component);
    assert!(
        why.contains(&name) && why.to_lowercase().contains("authoriz"),
        "{why}"
    );
    secured.kafka.grant(&denied);
    secured.kafka.grant(&of_topic);
    host.deploy(&component);
    host.ready();
}

#[test]
fn what_the_docs_name_is_all_that_a_host_must_be_allowed() {
    let user = "grace";
    let secured = Secured::shared();
    let counting = Counting::on(&secured.kafka, "least", 2);
    let state = format!("{}.state.*", counting.name);
    let dead_letters = format!("{}.dead-letter", counting.name);
    for (resource, name, operation) in [
        (Resource::Topic, &*counting.input, Operation::Read),
        // Requests publish here too.
        (Resource::Topic, &*counting.input, Operation::Write),
        (Resource::Topic, &*counting.output, Operation::Write),
        (Resource::Topic, &*state, Operation::Create),
        (Resource::Topic, &*state, Operation::Read),
        (Resource::Topic, &*state, Operation::Write),
        (Resource::Topic, &*dead_letters, Operation::Create),
        (Resource::Topic, &*dead_letters, Operation::Write),
        (Resource::Group, &*counting.name, Operation::Read),
        (Resource::TransactionalId, "tidemill.*", Operation::Write),
        // What the fleet shares.
        (Resource::Topic, "tidemill.*", Operation::Create),
        (Resource::Topic, "tidemill.*", Operation::Read),
        (Resource::Topic, "tidemill.*", Operation::Write),
    ] {
        secured.kafka.allow(&Rule {
            user,
            resource,
            name,
            operation,
        });
    }
    let host = host(user).arguments(&["--fleet", "tidemill"]);
    let mut host = host.deploy([counting.component()]).ready();
    let (target, line) = (
        format!("/{}", counting.name),
        format!("{} a 1\n", counting.input),
    );
    let _ = host.http().post(&target, &line).expect(200);
    let _ = host.http().post(&target, line.repeat(2)).expect(200);
    counting.is_exact([&host]);
    assert_eq!(host.terminate().code(), Some(0), "{}", host.log());
    host.restart();
    host.ready();
    let _ = host.http().post(&target, line.repeat(2)).expect(200);
    counting.is_exact([&host]);
    let here = counting.here(&host);
    assert_eq!(here.len(), 2, "{here:?}");
}

/// A file of the host's data directory.
fn fs_read(host: &Host, name: &str) -> String {
    let text = std::fs::read_to_string(host.data_dir().join(name)).unwrap();
    text.trim().to_owned()
}

/// The cluster's id, as the host keeps it.
fn cluster(host: &Host) -> String {
    let known: serde_json::Value = serde_json::from_str(&fs_read(host, "clusters.json")).unwrap();
    let mut ids = known.as_object().unwrap().values();
    ids.next().unwrap().as_str().unwrap().to_owned()
}
