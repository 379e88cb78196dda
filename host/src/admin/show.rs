//! What the admin API says of a service.

use tidemill_cli::api::{Delivery, Detail, Status, Summary};

use crate::host::{routes, subscribes};
use crate::service::Service;

pub(super) fn summary(service: &Service) -> Summary {
    let revision = service.current();
    let manifest = &revision.manifest;
    let consumes = !manifest.subscribe.is_empty();
    let board = service.board();
    Summary {
        name: service.name().to_owned(),
        revision: revision.digest.clone(),
        description: manifest.description.clone(),
        routes: routes(manifest),
        subscribes: subscribes(manifest),
        status: if consumes {
            board.status().0
        } else {
            Status::Running
        },
        lag: board.lag().filter(|_| consumes),
        requests: service.metrics.responses(),
        events: service.metrics.events(),
        failures: service.metrics.failures(),
    }
}

pub(super) fn detail(service: &Service) -> Detail {
    let revision = service.current();
    let manifest = &revision.manifest;
    let consumes = !manifest.subscribe.is_empty();
    Detail {
        summary: summary(service),
        deployed_at: revision.deployed_at,
        size: revision.size,
        imports: revision.component.imported().to_vec(),
        exports: revision.component.exported().to_vec(),
        manifest: revision.manifest_text.clone(),
        group: consumes.then(|| manifest.group().to_owned()),
        delivery: Delivery::ExactlyOnce,
        partitions: service.board().partitions(),
        state: None,
        commits: service.metrics.commits(),
        trouble: None,
    }
}
