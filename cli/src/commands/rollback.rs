//! `tidemill rollback` and `tidemill promote`: which revision runs for all.

use std::process::ExitCode;

use anyhow::Result;
use ureq::http::Method;

use super::hosts;
use crate::api::{Action, Changed, RollbackRequest};
use crate::client::{Body, Client, Connection, service_path};
use crate::show::{self, DIM, GOOD};

const BACK: &str = "\
Examples:
  tidemill rollback order                to the revision before, or from the canary
  tidemill rollback order 3f2a9c01b2d4   to this one, as `tidemill history` names it

It never goes back to a revision that was gone back from, unless it is named.
What the newer revision has committed stays: the older one has to be able to read
its rows and events.";

const PROMOTE: &str = "\
Examples:
  tidemill deploy order.wasm --weight 5%   gives a revision a share
  tidemill promote order                   gives it all";

/// What `tidemill rollback` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = BACK)]
pub struct RollbackArgs {
    /// The service
    name: String,
    /// The beginning of a revision's digest; the one before without it
    revision: Option<String>,
    /// Print the host's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// What `tidemill promote` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = PROMOTE)]
pub struct PromoteArgs {
    /// The service
    name: String,
    /// Print the host's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn rollback(args: &RollbackArgs) -> Result<ExitCode> {
    let path = format!("{}/rollback", service_path(&args.name)?);
    let request = RollbackRequest {
        revision: args.revision.clone(),
    };
    let body = Body::Json(serde_json::to_vec(&request)?);
    change(&path, body, args.json, &args.connection)
}

pub(crate) fn promote(args: &PromoteArgs) -> Result<ExitCode> {
    let path = format!("{}/promote", service_path(&args.name)?);
    change(&path, Body::None, args.json, &args.connection)
}

fn change(path: &str, body: Body, as_json: bool, connection: &Connection) -> Result<ExitCode> {
    let (changed, json) = Client::new(connection).call::<Changed>(Method::POST, path, body)?;
    if as_json {
        show::print(&format!("{json}\n"))?;
    } else {
        show::print(&render(&changed))?;
    }
    Ok(hosts::code(&changed.hosts))
}

fn render(changed: &Changed) -> String {
    let name = show::line(&changed.name, 63);
    let (now, before) = (
        show::short(&changed.revision),
        show::short(&changed.previous),
    );
    let text = match changed.action {
        Action::Withdraw => format!(
            "{} the canary {before} of {name}: revision {now} runs for all\n",
            show::styled(GOOD, "Took back")
        ),
        Action::Promote => format!(
            "{} {name}: revision {now} runs for all {}\n",
            show::styled(GOOD, "Promoted"),
            show::styled(DIM, &format!("(before: {before})"))
        ),
        _ => format!(
            "{} {name} to revision {now} {}\n",
            show::styled(GOOD, "Rolled back"),
            show::styled(DIM, &format!("(from: {before})"))
        ),
    };
    text + &hosts::render(&changed.hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_runs_now_and_what_ran() {
        let changed = |action| {
            show::plain(&render(&Changed {
                name: "order".to_owned(),
                revision: "aaaa00000001".repeat(6),
                previous: "bbbb00000002".repeat(6),
                action,
                hosts: Vec::new(),
            }))
        };
        assert_eq!(
            changed(Action::Rollback),
            "Rolled back order to revision aaaa00000001 (from: bbbb00000002)\n"
        );
        assert_eq!(
            changed(Action::Promote),
            "Promoted order: revision aaaa00000001 runs for all (before: bbbb00000002)\n"
        );
        assert_eq!(
            changed(Action::Withdraw),
            "Took back the canary bbbb00000002 of order: revision aaaa00000001 runs for all\n"
        );
    }
}
