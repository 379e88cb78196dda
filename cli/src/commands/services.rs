//! `tidemill services`: what a host runs, as a list or one in detail.

use std::process::ExitCode;

use anyhow::Result;
use ureq::http::Method;

use crate::api::{Detail, Partition, Services, Status, Summary};
use crate::client::{Body, Client, Connection, service_path};
use crate::show::{self, Align, BOLD, DIM, ERROR};

const EXAMPLES: &str = "\
Examples:
  tidemill services                  everything that runs, a line each
  tidemill services order            one service: partitions, errors, manifest
  tidemill services --json | jq '.services[] | select(.status != \"running\")'

Status: running; starting (waiting for the broker to assign partitions);
retrying (an event failed and is tried again); blocked (an event keeps failing,
or a partition cannot go on: it needs a person).
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
        (detailed(&detail), json)
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

fn detailed(detail: &Detail) -> String {
    let summary = &detail.summary;
    let mut text = format!(
        "{} {}",
        show::styled(BOLD, &show::line(&summary.name, 63)),
        show::status(summary.status)
    );
    if !summary.description.is_empty() {
        text.push_str(&format!("  {}", show::line(&summary.description, 100)));
    }
    text.push('\n');
    let mut fields = vec![
        ("revision", show::clean(&summary.revision)),
        (
            "deployed",
            format!(
                "{}, {}",
                show::time(detail.deployed_at),
                show::size(detail.size)
            ),
        ),
    ];
    if !summary.routes.is_empty() {
        fields.push(("answers", some(&summary.routes)));
    }
    if !summary.subscribes.is_empty() {
        fields.push(("consumes", some(&summary.subscribes)));
    }
    if let Some(group) = &detail.group {
        fields.push(("group", show::line(group, 249)));
    }
    if !summary.subscribes.is_empty() {
        fields.push(("lag", lag(summary)));
    }
    fields.push((
        "since start",
        format!(
            "{} requests, {} events, {} failures",
            show::count(summary.requests),
            show::count(summary.events),
            show::count(summary.failures)
        ),
    ));
    fields.push(("imports", interfaces(&detail.imports)));
    fields.push(("exports", interfaces(&detail.exports)));
    text.push_str(&show::fields(&fields));
    if !summary.subscribes.is_empty() {
        text.push('\n');
        text.push_str(&partitions(&detail.partitions, summary.status));
    }
    text.push_str(&format!("\n{DIM}service.toml{DIM:#}\n"));
    for line in detail.manifest.trim_end().lines() {
        text.push_str(&format!("  {}\n", show::clean(line)));
    }
    text
}

fn partitions(partitions: &[Partition], status: Status) -> String {
    if partitions.is_empty() && status == Status::Starting {
        return "Waiting for the broker to assign partitions.\n".to_owned();
    }
    if partitions.is_empty() {
        return "This host has no partition of it: the broker assigns them, and other hosts of \
                the group may have all of them.\n"
            .to_owned();
    }
    let head = [
        ("PARTITION", Align::Left),
        ("STATUS", Align::Left),
        ("POSITION", Align::Right),
        ("LAG", Align::Right),
        ("ATTEMPT", Align::Right),
    ];
    let rows: Vec<Vec<String>> = partitions
        .iter()
        .map(|partition| {
            vec![
                place(partition),
                show::status(partition.status),
                partition.position.to_string(),
                partition.lag.map_or_else(|| "?".to_owned(), show::count),
                match partition.attempt {
                    0 => "-".to_owned(),
                    attempt => show::count(attempt.into()),
                },
            ]
        })
        .collect();
    let mut text = show::table(&head, &rows);
    for partition in partitions {
        if let Some(error) = &partition.error {
            text.push_str(&format!(
                "\n{ERROR}{} at offset {}{ERROR:#}, attempt {}:\n",
                place(partition),
                partition.position,
                partition.attempt
            ));
            for line in error.lines() {
                text.push_str(&format!("  {}\n", show::clean(line)));
            }
        }
    }
    text
}

fn place(partition: &Partition) -> String {
    format!(
        "{}/{}",
        show::line(&partition.topic, 249),
        partition.partition
    )
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

/// Interfaces, a line for each package: `wasi:cli@0.2.6  exit, stdin`.
fn interfaces(names: &[String]) -> String {
    if names.is_empty() {
        return "-".to_owned();
    }
    let mut packages: Vec<(String, Vec<&str>)> = Vec::new();
    for name in names {
        let (path, version) = name.split_once('@').unwrap_or((name, ""));
        let (package, interface) = path.split_once('/').unwrap_or((path, ""));
        let package = if version.is_empty() {
            package.to_owned()
        } else {
            format!("{package}@{version}")
        };
        match packages.iter_mut().find(|(known, _)| *known == package) {
            Some((_, interfaces)) => interfaces.push(interface),
            None => packages.push((package, vec![interface])),
        }
    }
    let lines: Vec<String> = packages
        .iter()
        .map(|(package, interfaces)| format!("{package}  {}", interfaces.join(", ")))
        .collect();
    show::clean(&lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Summary {
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

    #[test]
    fn a_detail_shows_partitions_and_their_errors() {
        let detail = Detail {
            summary: order(),
            deployed_at: 1_795_501_800_000,
            size: 417_000,
            imports: ["a:b/c@1.0.0", "d:e/f@1.0.0", "a:b/g@1.0.0"]
                .map(str::to_owned)
                .to_vec(),
            exports: Vec::new(),
            manifest: "name = \"order\"\n".to_owned(),
            group: Some("order".to_owned()),
            partitions: vec![
                Partition {
                    topic: "user_topic".to_owned(),
                    partition: 0,
                    position: 41,
                    lag: Some(0),
                    status: Status::Running,
                    attempt: 0,
                    error: None,
                },
                Partition {
                    topic: "user_topic".to_owned(),
                    partition: 1,
                    position: 7,
                    lag: None,
                    status: Status::Blocked,
                    attempt: 12,
                    error: Some("no such field\nline two".to_owned()),
                },
            ],
        };
        assert_eq!(
            show::plain(&detailed(&detail)),
            format!(
                "order running  Orders, made from users\n  \
                   revision     {}\n  \
                   deployed     2026-11-24 06:30:00 UTC, 417 kB\n  \
                   answers      /orders\n  \
                   consumes     user_topic\n  \
                   group        order\n  \
                   lag          1,234\n  \
                   since start  10 requests, 1,000 events, 0 failures\n  \
                   imports      a:b@1.0.0  c, g\n  \
                   \u{20}            d:e@1.0.0  f\n  \
                   exports      -\n\
                 \n\
                 PARTITION     STATUS   POSITION  LAG  ATTEMPT\n\
                 user_topic/0  running        41    0        -\n\
                 user_topic/1  blocked         7    ?       12\n\
                 \n\
                 user_topic/1 at offset 7, attempt 12:\n  \
                   no such field\n  \
                   line two\n\
                 \n\
                 service.toml\n  \
                   name = \"order\"\n",
                order().revision
            )
        );
    }
}
