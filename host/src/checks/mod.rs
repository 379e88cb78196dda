//! What a deploy checks and says before the swap, beyond what a component must be
//! to run at all.
//!
//! `changes` tells what is not as it was, `graph` what may be a mistake between
//! services; both decide nothing and do no I/O. `smoke` makes the calls that a
//! manifest asks for, and can refuse the deploy.

pub mod changes;
pub mod graph;
pub mod smoke;

use std::sync::Arc;

use tidemill_cli::api::{Change, Warning};
use tidemill_manifest::Manifest;

use crate::service::{Revision, Service};
use changes::Side;

/// What is to be said of a revision that takes the place of another one, or of
/// none: what changes, and what may be a mistake among all services. `created` are
/// the topics that are new with it.
pub fn tell(
    before: Option<&Revision>,
    new: &Revision,
    services: &[Arc<Service>],
    created: &[String],
) -> (Vec<Change>, Vec<Warning>) {
    let changes = before.map(|before| changes::between(&side(before), &side(new)));
    let services: Vec<Arc<Revision>> = services.iter().map(|service| service.current()).collect();
    let services: Vec<&Manifest> = services.iter().map(|running| &*running.manifest).collect();
    let existed = |topic: &str| !created.iter().any(|new| new == topic);
    let before = before.map(|before| &*before.manifest);
    let warnings = graph::warnings(before, &new.manifest, &services, existed);
    (changes.unwrap_or_default(), warnings)
}

fn side(revision: &Revision) -> Side<'_> {
    Side {
        manifest: &revision.manifest,
        imports: revision.component.imported(),
        exports: revision.component.exported(),
        size: revision.size,
        openapi: revision.openapi.as_ref(),
    }
}
