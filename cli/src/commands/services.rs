//! `tidemill services`: what a host runs, as a list or one in detail.

mod detail;

use std::process::ExitCode;

use anyhow::Result;
use ureq::http::Method;

use crate::api::{Detail, Services, Summary};
use crate::client::{Body, Client, Connection, service_path};
use crate::show::{self, Align, BOLD};

const EXAMPLES: &str = "\
Examples:
  tidemill services                  everything that runs, a line each
  tidemill services order            one service: partitions, shards, commits, errors, manifest
  tidemill services --json | jq '.services[] | select(.status != \"running\")'

Status: running; starting (waiting for the broker, or for it to assign partitions);
retrying (an event failed and is tried again); blocked (a partition has stopped:
it needs a person); paused (`tidemill resume` ends that).
Requests, events and failures are counted since the host started.";

/// What `tidemill services` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Show this service in detail
    name: Option<String>,
    /// Print the host's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let client = Client::new(&args.connection);
    let (text, json) = if let Some(name) = &args.name {
        let path = service_path(name)?;
        let (detail, json) = client.call::<Detail>(Method::GET, &path, Body::None)?;
        (detail::render(&detail), json)
    } else {
        let (services, json) = client.call::<Services>(Method::GET, "/v1/services", Body::None)?;
        (list(&services.services), json)
    };
    if args.json {
        show::print(&format!("{json}\n"))?;
    } else {
        show::print(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn list(services: &[Summary]) -> String {
    if services.is_empty() {
        return "No service is deployed yet. A first one:\n  \
                tidemill new shop && cd shop && tidemill build && tidemill deploy\n"
            .to_owned();
    }
    let head = [
        ("NAME", Align::Left),
        ("REVISION", Align::Left),
        ("STATUS", Align::Left),
        ("ROUTES", Align::Left),
        ("CONSUMES", Align::Left),
        ("LAG", Align::Right),
        ("REQUESTS", Align::Right),
        ("EVENTS", Align::Right),
        ("FAILURES", Align::Right),
    ];
    let rows: Vec<Vec<String>> = services
        .iter()
        .map(|service| {
            vec![
                show::styled(BOLD, &show::line(&service.name, 63)),
                show::short(&service.revision),
                show::status(service.status),
                some(&service.routes),
                some(&service.subscribes),
                lag(service),
                show::count(service.requests),
                show::count(service.events),
                show::count(service.failures),
            ]
        })
        .collect();
    show::table(&head, &rows)
}

fn lag(service: &Summary) -> String {
    match service.lag {
        Some(lag) => show::count(lag),
        None if service.subscribes.is_empty() => "-".to_owned(),
        None => "?".to_owned(),
    }
}

fn some(items: &[String]) -> String {
    if items.is_empty() {
        "-".to_owned()
    } else {
        show::line(&items.join(", "), 200)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Status;

    pub(super) fn order() -> Summary {
        Summary {
            name: "order".to_owned(),
            revision: "3f2a9c01b2d4".repeat(6)[..64].to_owned(),
            description: "Orders, made from users".to_owned(),
            routes: vec!["/orders".to_owned()],
            subscribes: vec!["user_topic".to_owned()],
            status: Status::Running,
            lag: Some(1_234),
            requests: 10,
            events: 1_000,
            failures: 0,
        }
    }

    #[test]
    fn the_list_is_a_table() {
        let user = Summary {
            name: "user".to_owned(),
            revision: "ab".repeat(32),
            routes: vec!["/users".to_owned(), "/u".to_owned()],
            subscribes: Vec::new(),
            lag: None,
            ..order()
        };
        assert_eq!(
            show::plain(&list(&[order(), user])),
            "NAME   REVISION      STATUS   ROUTES      CONSUMES      LAG  REQUESTS  EVENTS  FAILURES\n\
             order  3f2a9c01b2d4  running  /orders     user_topic  1,234        10   1,000         0\n\
             user   abababababab  running  /users, /u  -               -        10   1,000         0\n"
        );
    }

    #[test]
    fn an_empty_list_says_how_to_begin() {
        assert!(list(&[]).contains("tidemill new shop"));
    }
}
