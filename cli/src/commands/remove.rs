//! `tidemill remove`: takes a service off a host.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Result;
use ureq::http::Method;

use crate::api::Removed;
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
    if !args.yes && std::io::stdin().is_terminal() && !confirmed(args)? {
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

fn confirmed(args: &Args) -> Result<bool> {
    anstream::eprint!(
        "Remove {} from {}? [y/N] ",
        args.name,
        args.connection.admin
    );
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()))
}
