//! Where partitions are begun that were assigned to this host.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_manifest::{OutOfRange, Start as Begin};

use super::note::Note;
use super::subscription::{Run, StartError};
use crate::kafka::{Consumer, Source};
use crate::service::Service;

/// Where partitions are begun.
#[derive(Debug, Default)]
pub(super) struct Starts {
    /// Where the group left them.
    pub(super) known: BTreeMap<Source, i64>,
    /// Where the manifest says, for those consumed for the first time, and those
    /// whose events are gone.
    pub(super) begun: BTreeMap<Source, i64>,
    /// Where those are read on whose events are gone: from an offset that is there.
    pub(super) jumped: BTreeMap<Source, i64>,
    /// The deployments that those that are known ran by.
    pub(super) deployments: BTreeMap<Source, u64>,
}

impl Starts {
    /// Where to begin each partition: where the group is; else where the manifest
    /// says. What another host has not finished is waited for.
    pub(super) async fn find(
        run: &Run,
        consumer: &Arc<Consumer>,
        sources: Vec<Source>,
    ) -> Result<Starts, StartError> {
        let manifest = run.service.current().manifest.clone();
        let (consumer, cluster) = (consumer.clone(), run.shared.cluster.clone());
        let service = run.service.clone();
        let astray = run.astray.take(&sources);
        let found = tokio::task::spawn_blocking(move || {
            let mut starts = Starts::default();
            for (source, (offset, note)) in consumer.committed(&sources)? {
                let deployment = Note::read(&note).deployment;
                starts.deployments.insert(source.clone(), deployment);
                starts.known.insert(source, offset);
            }
            for source in astray {
                let marks = cluster.watermarks(&source.0, source.1)?;
                starts.jump(&service, source, marks);
            }
            for source in sources {
                if starts.known.contains_key(&source) || starts.begun.contains_key(&source) {
                    continue;
                }
                let (low, high) = cluster.watermarks(&source.0, source.1)?;
                let subscribed = manifest.subscribe.iter();
                let mut one = subscribed.filter(|one| *one.topic == *source.0);
                let begin = one.next().map_or(Begin::Earliest, |one| one.start);
                let offset = match begin {
                    Begin::Earliest => low,
                    Begin::Latest => high,
                };
                starts.begun.insert(source, offset);
            }
            Ok::<_, StartError>(starts)
        });
        found.await?
    }

    pub(super) fn positions(&self) -> BTreeMap<Source, i64> {
        let both = self.known.iter().chain(&self.begun);
        both.map(|(source, offset)| (source.clone(), *offset))
            .collect()
    }

    /// The next event of a partition is gone: it is read on where the manifest
    /// says. It may be gone only for a state that is rebuilt.
    fn jump(&mut self, service: &Service, source: Source, (low, high): (i64, i64)) {
        let mut go_on = low;
        if let Some(committed) = self.known.get(&source).copied().filter(|it| *it < low) {
            let manifest = service.current().manifest.clone();
            if manifest.out_of_range(&source.0) == OutOfRange::Latest {
                go_on = high;
            }
            let lost = go_on - committed;
            let (topic, partition) = (&*source.0, source.1);
            tracing::error!(
                event = "events.missed",
                service = service.name(),
                topic,
                partition,
                committed,
                go_on,
                lost,
                "events were removed by retention before they were consumed, going on behind them"
            );
            service.metrics.lost(lost.unsigned_abs());
            self.known.remove(&source);
            self.begun.insert(source.clone(), go_on);
        }
        self.jumped.insert(source, go_on);
    }
}
