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

use serde_json::Value;
use tidemill_cli::api::{Change, Warning};
use tidemill_manifest::Manifest;

use crate::revision::Revision;
use crate::service::Service;
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
    let document = |revision: &Revision| revision.known.document();
    let changes = before.map(|before| {
        let (was, is) = (document(before), document(new));
        changes::between(&side(before, was.as_ref()), &side(new, is.as_ref()))
    });
    let services: Vec<Arc<Revision>> = services.iter().map(|service| service.current()).collect();
    let services: Vec<&Manifest> = services.iter().map(|running| &*running.manifest).collect();
    let existed = |topic: &str| !created.iter().any(|new| new == topic);
    let before = before.map(|before| &*before.manifest);
    let warnings = graph::warnings(before, &new.manifest, &services, existed);
    (changes.unwrap_or_default(), warnings)
}

fn side<'r>(revision: &'r Revision, openapi: Option<&'r Value>) -> Side<'r> {
    Side {
        manifest: &revision.manifest,
        imports: &revision.known.imports,
        exports: &revision.known.exports,
        size: revision.known.size,
        openapi,
    }
}
