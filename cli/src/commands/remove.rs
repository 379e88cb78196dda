//! `tidemill remove`: takes a service off a host.

use std::process::ExitCode;

use anyhow::Result;
use ureq::http::Method;

use crate::api::Removed;
use crate::ask::{Unasked, agreed};
use crate::client::{Body, Client, Connection, service_path};
use crate::show::{self, GOOD};

const EXAMPLES: &str = "\
Examples:
  tidemill remove order          asks first, on a terminal
  tidemill remove order --yes    doesn't

Calls that run finish first. The service's topics, its consumer group and what
is in them stay: deployed again, it goes on where it was.";

/// What `tidemill remove` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service
    name: String,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
    /// Print the host's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = service_path(&args.name)?;
    let question = format!("Remove {} from {}?", args.name, args.connection.admin);
    if !agreed(args.yes, &question, Unasked::Done)? {
        anstream::eprintln!("Nothing was removed.");
        return Ok(ExitCode::FAILURE);
    }
    let (removed, json) =
        Client::new(&args.connection).call::<Removed>(Method::DELETE, &path, Body::None)?;
    if args.json {
        show::print(&format!("{json}\n"))?;
    } else {
        show::print(&format!(
            "{} {}, revision {}\n",
            show::styled(GOOD, "Removed"),
            show::line(&removed.name, 63),
            show::short(&removed.revision)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
