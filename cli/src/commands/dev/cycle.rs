//! One cycle: from what was saved to what serves.

use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};

use super::cargo::{self, Cancel, Diagnostic, Run};
use super::{News, profile};
use crate::api::Deployed;
use crate::client::{Client, Connection};
use crate::commands::{build, deploy};
use crate::failure::Failure;
use crate::project::Project;

/// What is to be done.
pub(super) struct Cycle {
    pub(super) service: usize,
    /// When the first change was seen.
    pub(super) since: Instant,
    /// What cargo built before, if only the manifest has changed.
    pub(super) built: Option<PathBuf>,
    pub(super) project: Project,
    pub(super) profile: Option<String>,
    pub(super) cargo: Vec<String>,
    pub(super) connection: Connection,
    pub(super) cancel: Cancel,
}

/// What came of it.
pub(super) struct Ended {
    pub(super) service: usize,
    pub(super) diagnostics: Vec<Diagnostic>,
    /// What cargo built.
    pub(super) artifact: Option<PathBuf>,
    pub(super) outcome: Outcome,
}

pub(super) enum Outcome {
    Serving(Box<Served>),
    /// After so long.
    DoesNotCompile(Duration),
    /// What is the matter, and why.
    Failed(&'static str, Error),
    Cancelled,
}

pub(super) struct Served {
    pub(super) deployed: Deployed,
    /// What cargo took, if it was needed.
    pub(super) built: Option<Duration>,
    /// All but that, from the save on.
    pub(super) rest: Duration,
}

impl Cycle {
    /// Runs it to its end.
    pub(super) fn run(&self, tell: &Sender<News>) -> Ended {
        let mut ended = Ended {
            service: self.service,
            diagnostics: Vec::new(),
            artifact: None,
            outcome: Outcome::Cancelled,
        };
        ended.outcome = match self.build(tell, &mut ended) {
            Err(outcome) => outcome,
            Ok(_) if self.cancel.is_cancelled() => Outcome::Cancelled,
            Ok((artifact, built)) => match self.deploy(&artifact) {
                Ok(deployed) => Outcome::Serving(Box::new(Served {
                    deployed,
                    built,
                    rest: self
                        .since
                        .elapsed()
                        .saturating_sub(built.unwrap_or_default()),
                })),
                Err(error) => Outcome::Failed("is not deployed", error),
            },
        };
        ended
    }

    fn build(
        &self,
        tell: &Sender<News>,
        ended: &mut Ended,
    ) -> Result<(PathBuf, Option<Duration>), Outcome> {
        if let Some(artifact) = self.built.clone().filter(|built| built.is_file()) {
            return Ok((artifact, None));
        }
        let failed = |error| Outcome::Failed("is not built", error);
        let ran = self.cargo(tell).map_err(failed)?;
        let Some(ran) = ran else {
            return Err(Outcome::Cancelled);
        };
        ended.diagnostics = ran.diagnostics;
        if !ran.worked && ended.diagnostics.iter().any(|one| one.is_error) {
            return Err(Outcome::DoesNotCompile(ran.took));
        }
        let why = |title: &str| Failure::new(title).detail(ran.words.trim()).into();
        if !ran.worked {
            return Err(failed(why("cargo does not build it")));
        }
        let built = "cargo built no component for this package";
        let artifact = ran.artifact.ok_or_else(|| failed(why(built)))?;
        ended.artifact = Some(artifact.clone());
        Ok((artifact, Some(ran.took)))
    }

    fn cargo(&self, tell: &Sender<News>) -> Result<Option<Run>> {
        let mut cargo = match &self.profile {
            Some(profile) => build::cargo(&self.project, profile),
            None => build::cargo(&self.project, profile::NAME),
        };
        if self.profile.is_none() {
            cargo.args(profile::arguments());
        }
        cargo.args(&self.cargo);
        cargo::run(cargo, &self.project.dir, &self.cancel, self.service, tell)
    }

    fn deploy(&self, artifact: &std::path::Path) -> Result<Deployed> {
        let component = build::with_manifest(&self.project, artifact)?;
        // Who develops does not wait for other hosts.
        let target = "/v1/services?alone=true";
        let (deployed, _) = deploy::deploy(&Client::new(&self.connection), target, component)?;
        Ok(deployed)
    }
}
