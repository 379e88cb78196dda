//! `tidemill pause` and `tidemill resume`: whether a service consumes on a host.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use ureq::http::Method;

use crate::api::{Detail, Paused, Status};
use crate::client::{Body, Client, Connection, service_path};
use crate::show::{self, BOLD, DIM, GOOD};

/// How often the host is asked whether it has stopped.
const POLL: Duration = Duration::from_millis(50);
/// How long it is waited for: what runs is finished and committed first.
const PATIENCE: Duration = Duration::from_secs(30);

const PAUSE: &str = "\
Examples:
  tidemill pause order

What runs is finished and committed, then the service leaves its group, on all
hosts. Requests are answered all the while. It lasts until
`tidemill resume`, over restarts and deploys.";

const RESUME: &str = "\
Examples:
  tidemill resume order

The service goes on where its group is. Events that wait after a failure are run
again at once.";

/// What `tidemill pause` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = PAUSE)]
pub struct PauseArgs {
    #[command(flatten)]
    common: Common,
}

/// What `tidemill resume` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = RESUME)]
pub struct ResumeArgs {
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The service
    name: String,
    /// Print the host's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn pause(args: &PauseArgs) -> Result<ExitCode> {
    turn(&args.common, "pause")
}

pub(crate) fn resume(args: &ResumeArgs) -> Result<ExitCode> {
    turn(&args.common, "resume")
}

fn turn(args: &Common, to: &str) -> Result<ExitCode> {
    let path = service_path(&args.name)?;
    let client = Client::new(&args.connection);
    let (paused, json) =
        client.call::<Paused>(Method::POST, &format!("{path}/{to}"), Body::None)?;
    let stopped = !paused.paused || has_stopped(&client, &path)?;
    if args.json {
        show::print(&format!("{json}\n"))?;
    } else {
        show::print(&told(&paused))?;
    }
    if !stopped {
        anstream::eprintln!("{DIM}What runs is not finished yet.{DIM:#}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until what runs is committed and the group is left.
fn has_stopped(client: &Client, path: &str) -> Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let (detail, _) = client.call::<Detail>(Method::GET, path, Body::None)?;
        if detail.summary.status == Status::Paused {
            return Ok(true);
        }
        thread::sleep(POLL);
    }
    Ok(false)
}

fn told(paused: &Paused) -> String {
    let plain = show::line(&paused.name, 63);
    let name = show::styled(BOLD, &plain);
    match (paused.paused, paused.unchanged) {
        (true, true) => format!("{name} was paused already.\n"),
        (false, true) => format!("{name} was not paused.\n"),
        (true, false) => format!(
            "{} {name} on all hosts: it consumes nothing, and answers requests.\n  \
               go on  tidemill resume {plain}\n",
            show::styled(GOOD, "Paused")
        ),
        (false, false) => format!(
            "{} {name} on all hosts: it goes on where its group is.\n",
            show::styled(GOOD, "Resumed")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_of_all_hosts() {
        let told = |paused, unchanged| {
            let paused = Paused {
                name: "order".to_owned(),
                paused,
                unchanged,
            };
            show::plain(&told(&paused))
        };
        assert_eq!(
            told(true, false),
            "Paused order on all hosts: it consumes nothing, and answers requests.\n  \
               go on  tidemill resume order\n"
        );
        assert_eq!(
            told(false, false),
            "Resumed order on all hosts: it goes on where its group is.\n"
        );
        assert_eq!(told(true, true), "order was paused already.\n");
        assert_eq!(told(false, true), "order was not paused.\n");
    }
}
