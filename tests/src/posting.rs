//! Clients that publish through hosts which are killed, and remember what was
//! acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::counting::Counting;
use crate::fleet::Fleet;
use crate::wait::unique;

/// What came of a client's requests. Each had a value of its own, which all its
/// events carry.
#[derive(Debug, Default)]
pub struct Posted {
    /// Those that were answered with 200.
    pub acknowledged: BTreeSet<String>,
    /// Those that were not, or not answered.
    pub others: BTreeSet<String>,
    /// Those of which the answer said that nothing was published.
    pub nothing: BTreeSet<String>,
    /// How long the slowest answer took.
    pub slowest: Duration,
    /// How long each took.
    pub took: Vec<Duration>,
}

impl Posted {
    /// The time within which so great a share of all answers came: 0.99 is p99.
    ///
    /// # Panics
    /// If there was none.
    #[must_use]
    pub fn within(posted: &[Posted], share: f64) -> Duration {
        let mut took: Vec<Duration> = posted.iter().flat_map(|one| one.took.clone()).collect();
        took.sort_unstable();
        took[((took.len() - 1) as f64 * share) as usize]
    }
}

/// Stops the clients, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Counting {
    /// Has so many clients send requests while something else is done. Each request
    /// publishes an event to each of `topics`, to one host after the other, and is
    /// sent once, whatever comes back.
    ///
    /// # Panics
    /// If the answer is another one than 200 and 503.
    pub fn while_posting(
        &self,
        fleet: &Fleet,
        clients: usize,
        topics: &[&str],
        work: impl FnOnce(),
    ) -> Vec<Posted> {
        let stop = AtomicBool::new(false);
        let (stop, run) = (&stop, &unique("post"));
        std::thread::scope(|scope| {
            let stopping = Stop(stop);
            let client = |client: usize| {
                let client = format!("{run}-{client}");
                move || self.post(fleet, &client, topics, stop)
            };
            let clients: Vec<_> = (0..clients).map(|one| scope.spawn(client(one))).collect();
            work();
            drop(stopping);
            let posted = clients.into_iter().map(|client| client.join().unwrap());
            posted.collect()
        })
    }

    fn post(&self, fleet: &Fleet, client: &str, topics: &[&str], stop: &AtomicBool) -> Posted {
        let mut posted = Posted::default();
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let value = format!("{client}-{number}");
            let lines = topics.iter().enumerate();
            let lines = lines.map(|(line, topic)| {
                // Not all to one partition.
                format!("{topic} {client}-{} {value}\n", (number + line) % 7)
            });
            let body: String = lines.collect();
            let host = fleet.client(number % fleet.len());
            let target = format!("/{}", self.name);
            let asked = Instant::now();
            let answered = host.try_send("POST", &target, &[], body.as_bytes());
            let took = asked.elapsed();
            posted.took.push(took);
            posted.slowest = posted.slowest.max(took);
            match answered {
                Ok(reply) if reply.status == 200 => {
                    posted.acknowledged.insert(value);
                }
                other => {
                    if let Ok(reply) = other {
                        // 404: started again, and not yet with its services.
                        assert!(matches!(reply.status, 503 | 404), "{reply:?}");
                        if reply.status == 503 {
                            reply.problem(503);
                            assert!(!reply.header("retry-after").is_empty(), "{reply:?}");
                            if !reply.text().contains("outcome-unknown") {
                                posted.nothing.insert(value.clone());
                            }
                        }
                    }
                    posted.others.insert(value);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
        posted
    }

    /// Holds that every acknowledged request has all its events in these topics,
    /// each once, every other one all or none, and one that was told so none.
    ///
    /// # Panics
    /// If not.
    pub fn holds(&self, posted: &[Posted], topics: &[&str]) {
        let mut there: BTreeMap<String, usize> = BTreeMap::new();
        let different: BTreeSet<&&str> = topics.iter().collect();
        for topic in different {
            for record in self.topics().read(topic) {
                *there.entry(record.text().to_owned()).or_default() += 1;
            }
        }
        let count = |value: &String| there.get(value).copied().unwrap_or(0);
        let (mut wrong, mut in_part, mut denied) = (Vec::new(), Vec::new(), Vec::new());
        for one in posted {
            let all = topics.len();
            let acknowledged = one.acknowledged.iter();
            let counted = acknowledged.map(|value| (value, count(value)));
            wrong.extend(counted.filter(|(_, count)| *count != all));
            let others = one.others.iter();
            in_part.extend(others.filter(|value| ![0, all].contains(&count(value))));
            let nothing = one.nothing.iter();
            denied.extend(nothing.filter(|value| count(value) > 0));
        }
        assert!(
            wrong.is_empty(),
            "acknowledged, and not there once for each topic, but so often: {wrong:?}"
        );
        assert!(in_part.is_empty(), "published in part: {in_part:?}");
        assert!(
            denied.is_empty(),
            "there, though nothing was published: {denied:?}"
        );
    }
}
