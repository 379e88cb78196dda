//! `tidemill offsets`: where a service's group is in its topics, and setting where
//! it goes on.

mod reset;

use std::process::ExitCode;

use anyhow::Result;
use ureq::http::Method;

use crate::api::{Offsets, PartitionOffsets, ResetTo};
use crate::client::{Body, Client, Connection, service_path};
use crate::show::{self, Align, BOLD, DIM};

const EXAMPLES: &str = "\
Examples:
  tidemill offsets order
  tidemill offsets order --reset earliest --dry-run
  tidemill offsets order --reset 2026-11-24T06:30:00Z
  tidemill offsets order --reset +1 --topic user_topic --partition 2

The last one passes over the event at which a partition has stopped. To set
offsets, pause the service on every host that runs it, and resume it after that.

Where to:
  earliest    the first record that is left
  latest      behind the last one
  41          this offset
  +5, -5      so many records further on, or back
  2026-11-24  the first event of this time or later: a date, or RFC 3339; UTC
              where it has no offset";

/// What `tidemill offsets` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service
    name: String,
    /// Set where its group goes on
    #[arg(long, value_name = "WHERE", value_parser = reset::place, allow_hyphen_values = true)]
    reset: Option<ResetTo>,
    /// Only partitions of this topic
    #[arg(long, requires = "reset")]
    topic: Option<String>,
    /// Only this partition
    #[arg(long, value_name = "N", requires = "reset",
          value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Show what it would do, and do nothing
    #[arg(long, requires = "reset")]
    dry_run: bool,
    /// Don't ask
    #[arg(long, short, requires = "reset")]
    yes: bool,
    /// Print the host's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let service = service_path(&args.name)?;
    let path = format!("{service}/offsets");
    let client = Client::new(&args.connection);
    if let Some(to) = args.reset {
        return reset::run(args, to, &client, &service);
    }
    let (offsets, json) = client.call::<Offsets>(Method::GET, &path, Body::None)?;
    if args.json {
        show::print(&format!("{json}\n"))?;
    } else {
        show::print(&shown(&offsets))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(offsets: &Offsets) -> String {
    let head = [
        ("PARTITION", Align::Left),
        ("START", Align::Right),
        ("COMMITTED", Align::Right),
        ("END", Align::Right),
        ("LAG", Align::Right),
        ("OWNER", Align::Left),
    ];
    let rows: Vec<Vec<String>> = offsets
        .partitions
        .iter()
        .map(|partition| {
            vec![
                place(&partition.topic, partition.partition),
                partition.start.to_string(),
                partition
                    .committed
                    .map_or_else(|| "-".to_owned(), |offset| offset.to_string()),
                partition.end.to_string(),
                lag(partition),
                partition
                    .owner
                    .as_deref()
                    .filter(|owner| !owner.is_empty())
                    .map_or_else(|| "-".to_owned(), show::short),
            ]
        })
        .collect();
    format!(
        "{DIM}group{DIM:#} {}\n\n{}",
        show::styled(BOLD, &show::line(&offsets.group, 249)),
        show::table(&head, &rows)
    )
}

fn place(topic: &str, partition: i32) -> String {
    format!("{}/{partition}", show::line(topic, 249))
}

/// Records behind what is committed; markers of transactions count.
fn lag(partition: &PartitionOffsets) -> String {
    let from = partition.committed.unwrap_or(partition.start);
    match u64::try_from(partition.end - from) {
        Ok(lag) => show::count(lag),
        Err(_) => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_shown_by_partition() {
        let partition = |partition, committed, owner: Option<&str>| PartitionOffsets {
            topic: "user_topic".to_owned(),
            partition,
            start: 10,
            end: 1_300,
            committed,
            owner: owner.map(str::to_owned),
        };
        let offsets = Offsets {
            group: "order".to_owned(),
            partitions: vec![
                partition(0, Some(41), Some("0f1e2d3c4b5a69788796a5b4c3d2e1f0")),
                partition(1, None, None),
                partition(2, Some(1_301), Some("")),
            ],
        };
        assert_eq!(
            show::plain(&shown(&offsets)),
            "group order\n\
             \n\
             PARTITION     START  COMMITTED   END    LAG  OWNER\n\
             user_topic/0     10         41  1300  1,259  0f1e2d3c4b5a\n\
             user_topic/1     10          -  1300  1,290  -\n\
             user_topic/2     10       1301  1300      ?  -\n"
        );
    }
}
