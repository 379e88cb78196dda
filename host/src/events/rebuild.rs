//! When topics or changelogs are not as they were: a new generation of the state
//! is turned to, and topics that have grown stop the service.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::member::Member;
use crate::kafka::changelog;

/// What the broker said of topics and changelogs.
pub(super) struct Looked {
    partitions: BTreeMap<String, Option<i32>>,
    next: Option<i32>,
}

impl Member<'_> {
    /// Asks the broker, in the background, whether topics and changelogs are as
    /// they were.
    pub(super) fn look(&mut self) {
        if !self.looking.is_empty() {
            return;
        }
        let (cluster, topics) = (self.run.shared.cluster.clone(), self.run.topics.clone());
        let known = self.changelog.as_ref().map(|known| known.generation);
        let next = known.map(|known| changelog(self.run.service.name(), known + 1));
        self.looking.spawn_blocking(move || {
            let partitions = cluster.partitions(&topics)?;
            let next = match next {
                Some(next) => cluster.partitions(&[next])?.into_values().next(),
                None => None,
            };
            Ok(Looked {
                partitions,
                next: next.flatten(),
            })
        });
    }

    /// Takes in what it said: a new generation is turned to; without one, topics
    /// that have not as many partitions as the state has shards stop the service
    /// before the first event in the wrong shard.
    pub(super) async fn see(&mut self, looked: Looked) {
        let missing = looked.partitions.iter().find(|(_, count)| count.is_none());
        let missing = missing.map(|(topic, _)| {
            format!(
                "the topic {topic:?} does not exist any more: nothing comes from it until it is \
                 made again"
            )
        });
        self.run.service.board().missing(missing);
        let run = self.run;
        let (Some(known), Some(state)) = (self.changelog.clone(), run.state()) else {
            return;
        };
        if let Some(shards) = looked.next {
            let generation = known.generation + 1;
            tracing::info!(
                event = "state.turning",
                service = self.name(),
                generation,
                "turning to a new generation of the state"
            );
            let steps = self.ownership.halt();
            self.take(steps).await;
            match run.turn_to(state, generation, shards) {
                Ok(changelog) => self.changelog = Some(changelog),
                Err(error) => {
                    tracing::error!(event = "state.not-kept", service = self.name(), %error, "the new generation cannot be kept");
                    self.run.service.board().trouble(Some(error.to_string()));
                    return;
                }
            }
            self.run.service.board().halted(None);
            let steps = self.ownership.resume();
            self.take(steps).await;
            // There may be one more.
            self.look();
            return;
        }
        let name = self.name().to_owned();
        let unlike = looked.partitions.iter().find_map(|(topic, partitions)| {
            let partitions = (*partitions)?;
            (partitions != known.shards).then(|| {
                format!(
                    "{topic} has {partitions} partitions, and the state of {name} {} shards: keys are \
                     in other partitions now than their rows. Nothing is consumed until the state \
                     is rebuilt: tidemill replay {name}",
                    known.shards
                )
            })
        });
        match unlike {
            Some(why) => {
                if !self.ownership.is_halted() {
                    tracing::error!(event = "service.halted", service = name, "{why}");
                    let steps = self.ownership.halt();
                    self.take(steps).await;
                }
                self.run.service.board().halted(Some(why));
            }
            None if self.ownership.is_halted() => {
                self.run.service.board().halted(None);
                let steps = self.ownership.resume();
                self.take(steps).await;
            }
            None => {}
        }
    }

    /// Reads the new generation of the state once it has seen as much as the old.
    pub(super) fn change_over(&self) {
        if self.changelog.is_none() {
            return;
        }
        let Some(state) = self.run.state() else {
            return;
        };
        let Some(old) = state.change_over() else {
            return;
        };
        let generation = state.reading().generation();
        tracing::info!(
            event = "state.turned",
            service = self.name(),
            generation,
            "the new generation of the state is read"
        );
        let topic: Arc<str> = changelog(self.name(), old).into();
        self.run.shared.follower.leave(&topic);
        if let Err(error) = state.tidy() {
            tracing::warn!(event = "state.old-kept", service = self.name(), %error, "an old generation of the state was not removed");
        }
    }
}
