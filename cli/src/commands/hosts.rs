//! `tidemill hosts`, and how the hosts of a deployment are shown.

use std::process::ExitCode;

use anyhow::Result;
use ureq::http::Method;

use crate::api::{HostStatus, Hosts};
use crate::client::{Body, Client, Connection};
use crate::show::{self, Align, BOLD, DIM, ERROR, FINE, WARNING};

const EXAMPLES: &str = "\
Examples:
  tidemill hosts          all live hosts of the cluster, the one that is asked first
  tidemill hosts --json

A host that was silent for ten seconds is not listed.";

/// What `tidemill hosts` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print the host's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let client = Client::new(&args.connection);
    let (hosts, json) = client.call::<Hosts>(Method::GET, "/v1/hosts", Body::None)?;
    if args.json {
        show::print(&format!("{json}\n"))?;
    } else {
        let head = [
            ("HOST", Align::Left),
            ("SERVICES AT", Align::Left),
            ("", Align::Left),
        ];
        let rows = hosts.hosts.iter().map(|host| {
            let own = host.host == hosts.host;
            vec![
                show::styled(BOLD, &show::line(&host.host, 63)),
                show::line(&host.address, 80),
                show::styled(DIM, if own { "answered" } else { "" }),
            ]
        });
        show::print(&show::table(&head, &rows.collect::<Vec<_>>()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Which hosts run a deployment; nothing if there is only one and it does.
pub(super) fn render(hosts: &[HostStatus]) -> String {
    if let [only] = hosts
        && only.runs
    {
        return String::new();
    }
    let mut text = String::new();
    for host in hosts {
        let state = match (&host.error, host.runs) {
            (Some(why), _) => format!("{} {}", show::styled(ERROR, "failed"), show::clean(why)),
            (None, true) => show::styled(FINE, "runs it"),
            (None, false) => format!(
                "{} it follows when it can",
                show::styled(WARNING, "not yet:")
            ),
        };
        let name = show::line(&host.host, 63);
        let address = show::line(&host.address, 80);
        text.push_str(&format!("  host {name}  {address}  {state}\n"));
    }
    text
}

/// Success if all hosts run it.
pub(super) fn code(hosts: &[HostStatus]) -> ExitCode {
    match hosts.iter().all(|host| host.runs) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_listed_where_there_are_several_or_one_does_not_run_it() {
        let host = |name: &str, runs, error: Option<&str>| HostStatus {
            host: name.to_owned(),
            address: "http://127.0.0.1:8080".to_owned(),
            runs,
            error: error.map(str::to_owned),
        };
        assert_eq!(render(&[host("a", true, None)]), "");
        let text = render(&[
            host("a", true, None),
            host("b", false, None),
            host("c", false, Some("no memory")),
        ]);
        assert_eq!(
            show::plain(&text),
            "  host a  http://127.0.0.1:8080  runs it\n  \
               host b  http://127.0.0.1:8080  not yet: it follows when it can\n  \
               host c  http://127.0.0.1:8080  failed no memory\n"
        );
    }
}
