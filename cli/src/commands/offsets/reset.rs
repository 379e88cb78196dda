//! Setting where a group goes on: what it does is shown, then it is asked for.

use std::process::ExitCode;

use anyhow::Result;
use jiff::{Timestamp, civil, tz};
use ureq::http::Method;

use super::{Args, place as partition_place};
use crate::api::{Detail, PartitionReset, Reset, ResetRequest, ResetTo, Status};
use crate::ask::{Unasked, agreed};
use crate::client::{Body, Client};
use crate::failure::Failure;
use crate::show::{self, Align, BOLD, DIM, GOOD, WARNING};

/// Where to, as it is written on the command line.
pub(super) fn place(text: &str) -> Result<ResetTo, String> {
    match text {
        "earliest" => return Ok(ResetTo::Earliest),
        "latest" => return Ok(ResetTo::Latest),
        _ => {}
    }
    if text.starts_with(['+', '-'])
        && let Ok(by) = text.parse()
    {
        return Ok(ResetTo::By(by));
    }
    if text.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(offset) = text.parse()
    {
        return Ok(ResetTo::Offset(offset));
    }
    time(text).map(ResetTo::Time).ok_or_else(|| {
        "write earliest, latest, an offset, +N, -N, or a time such as 2026-11-24 or \
         2026-11-24T06:30:00Z"
            .to_owned()
    })
}

/// A time in milliseconds since the Unix epoch; in UTC if it does not say where.
fn time(text: &str) -> Option<i64> {
    let time = text.parse::<Timestamp>().ok().or_else(|| {
        let local: civil::DateTime = text.parse().ok()?;
        tz::Offset::UTC.to_timestamp(local).ok()
    })?;
    Some(time.as_millisecond())
}

pub(super) fn run(args: &Args, to: ResetTo, client: &Client, service: &str) -> Result<ExitCode> {
    let ask = |dry_run| {
        let request = ResetRequest {
            to,
            topic: args.topic.clone(),
            partition: args.partition,
            dry_run,
        };
        let body = Body::Json(serde_json::to_vec(&request)?);
        client.call::<Reset>(Method::POST, &format!("{service}/offsets"), body)
    };
    if args.dry_run || !args.yes {
        let (plan, json) = ask(true)?;
        if args.dry_run && args.json {
            show::print(&format!("{json}\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        if args.dry_run {
            show::print(&shown(&args.name, &plan))?;
            return Ok(ExitCode::SUCCESS);
        }
        // Said before it is asked for, not after.
        is_paused(args, client, service)?;
        anstream::eprint!("{}", shown(&args.name, &plan));
        let question = format!("Set the offsets of {}?", plan.group);
        if !agreed(false, &question, Unasked::Refused)? {
            anstream::eprintln!("Nothing was set.");
            return Ok(ExitCode::FAILURE);
        }
    }
    let (reset, json) = ask(false)?;
    if args.json {
        show::print(&format!("{json}\n"))?;
    } else {
        show::print(&shown(&args.name, &reset))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn is_paused(args: &Args, client: &Client, service: &str) -> Result<()> {
    let (detail, _) = client.call::<Detail>(Method::GET, service, Body::None)?;
    if detail.summary.status == Status::Paused {
        return Ok(());
    }
    let name = &args.name;
    Err(Failure::new(format!("{name} consumes on this host"))
        .hint(format!(
            "`tidemill pause {name}` first, on every host that runs it; --dry-run shows what a \
             reset would do"
        ))
        .into())
}

/// What it does, or would do.
fn shown(name: &str, reset: &Reset) -> String {
    let head = [
        ("PARTITION", Align::Left),
        ("FROM", Align::Right),
        ("TO", Align::Right),
        ("RECORDS", Align::Left),
    ];
    let rows: Vec<Vec<String>> = reset
        .partitions
        .iter()
        .map(|partition| {
            vec![
                partition_place(&partition.topic, partition.partition),
                partition
                    .from
                    .map_or_else(|| "-".to_owned(), |from| from.to_string()),
                partition.to.to_string(),
                records(partition),
            ]
        })
        .collect();
    let name = show::line(name, 63);
    let group = show::styled(BOLD, &show::line(&reset.group, 249));
    let mut text = format!("{}\n", show::table(&head, &rows));
    if reset.state && reset.partitions.iter().any(|one| one.skipped != 0) {
        text.push_str(&format!(
            "{WARNING}warning:{WARNING:#} {name} has state, which is not changed by this. Events \
             that run again\nare counted twice; those passed over are missing from it. To make the \
             state\nanew instead: tidemill replay {name}\n"
        ));
    }
    if reset.done {
        text.push_str(&format!(
            "{} the offsets of {group}. Go on: tidemill resume {name}\n",
            show::styled(GOOD, "Set")
        ));
    } else {
        text.push_str(&format!("{DIM}Nothing was set yet.{DIM:#}\n"));
    }
    text
}

fn records(partition: &PartitionReset) -> String {
    let count = show::several(partition.skipped.unsigned_abs(), "record");
    match (partition.from, partition.skipped) {
        (None, _) => "begins there".to_owned(),
        (_, 0) => "as before".to_owned(),
        (_, 1..) => format!("{count} passed over"),
        _ => format!("{count} run again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_end_an_offset_a_distance_or_a_time() {
        let time = ResetTo::Time(1_795_501_800_000);
        for (text, expected) in [
            ("earliest", ResetTo::Earliest),
            ("latest", ResetTo::Latest),
            ("0", ResetTo::Offset(0)),
            ("41", ResetTo::Offset(41)),
            ("+5", ResetTo::By(5)),
            ("-5", ResetTo::By(-5)),
            ("2026-11-24T06:30:00Z", time),
            ("2026-11-24T07:30:00+01:00", time),
            ("2026-11-24 06:30", time),
            ("2026-11-24", ResetTo::Time(1_795_478_400_000)),
        ] {
            assert_eq!(place(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "newest",
            "--",
            "+",
            "-",
            "+-5",
            "1.5",
            "99999999999999999999",
            "yesterday",
            "2026-13-01",
        ] {
            assert!(place(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_distance_back_is_no_option() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let read = |line: &[&str]| {
            let line = ["offsets", "order"].iter().chain(line);
            let line = <Line as clap::Parser>::try_parse_from(line);
            line.map(|line| line.args.reset)
                .map_err(|error| error.kind())
        };
        for line in [&["--reset", "-5"][..], &["--reset=-5"]] {
            assert_eq!(read(line), Ok(Some(ResetTo::By(-5))));
        }
        assert_eq!(
            read(&["--dry-run"]),
            Err(clap::error::ErrorKind::MissingRequiredArgument)
        );
        assert!(read(&["--reset", "--dry-run"]).is_err());
    }

    fn reset(done: bool, state: bool) -> Reset {
        let partition = |partition, from: Option<i64>, to| PartitionReset {
            topic: "user_topic".to_owned(),
            partition,
            from,
            to,
            skipped: from.map_or(0, |from| to - from),
        };
        Reset {
            group: "order".to_owned(),
            done,
            state,
            partitions: vec![
                partition(0, Some(41), 42),
                partition(1, Some(1_300), 0),
                partition(2, Some(7), 7),
                partition(3, None, 0),
            ],
        }
    }

    #[test]
    fn a_reset_shows_what_is_passed_over_and_what_runs_again() {
        assert_eq!(
            show::plain(&shown("order", &reset(true, false))),
            "PARTITION     FROM  TO  RECORDS\n\
             user_topic/0    41  42  1 record passed over\n\
             user_topic/1  1300   0  1,300 records run again\n\
             user_topic/2     7   7  as before\n\
             user_topic/3     -   0  begins there\n\
             \n\
             Set the offsets of order. Go on: tidemill resume order\n"
        );
    }

    #[test]
    fn state_is_warned_of_where_it_would_be_wrong() {
        let text = show::plain(&shown("order", &reset(false, true)));
        assert!(text.contains("warning: order has state, which is not changed"));
        assert!(text.contains("tidemill replay order"));
        assert!(text.ends_with("Nothing was set yet.\n"));
        let mut same = reset(false, true);
        same.partitions.drain(..2);
        assert!(!shown("order", &same).contains("warning"));
    }
}
