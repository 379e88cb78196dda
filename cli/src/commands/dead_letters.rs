//! `tidemill dead-letters`: the events that a service could not handle, as a list
//! or one of them whole; sends them back, or drops them.

mod letter;
mod settle;

use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Result;
use ureq::http::Method;

use crate::api::{DeadLetter, DeadLetters};
use crate::client::{Body, Client, Connection, encode, service_path};
use crate::show::{self, Align, BOLD, DIM};

/// The narrowest that the errors' column becomes on a terminal.
const ERROR: usize = 20;

const EXAMPLES: &str = "\
Examples:
  tidemill dead-letters order                      the oldest 100
  tidemill dead-letters order --after 0@117        those behind that one
  tidemill dead-letters order show 0@17            one: headers, key, value
  tidemill dead-letters order show 0@17 --raw >event.bin
  tidemill dead-letters order redrive 0@17 0@18    back to the service
  tidemill dead-letters order redrive --all
  tidemill dead-letters order drop 0@17            gone for good

An event becomes a dead letter when its handler rejects it, or has failed it as
often as [subscribe.retry] in the manifest allows. It goes to the topic
NAME.dead-letter, and its partition goes on.";

/// What `tidemill dead-letters` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, disable_help_subcommand = true, args_conflicts_with_subcommands = false)]
pub struct Args {
    /// The service
    name: String,
    /// The most to list
    #[arg(long, value_name = "N", default_value = "100",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// List those behind this one
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Print the host's answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show one whole: where it came from, why it failed, headers, key, value
    Show(letter::Args),
    /// Send some back to the topic that they came from, for this service alone
    Redrive(settle::Args),
    /// Drop some for good
    Drop(settle::Args),
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = format!("{}/dead-letters", service_path(&args.name)?);
    let client = Client::new(&args.connection);
    let place = Place {
        name: &args.name,
        path,
        client,
        json: args.json,
    };
    match &args.action {
        None => list(args, &place)?,
        Some(Action::Show(one)) => letter::run(one, &place)?,
        Some(Action::Redrive(which)) => return settle::run(settle::REDRIVE, which, &place),
        Some(Action::Drop(which)) => return settle::run(settle::DROP, which, &place),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whose dead letters, and where they are asked for.
struct Place<'a> {
    name: &'a str,
    /// Of the resource in the API.
    path: String,
    client: Client,
    json: bool,
}

impl Place<'_> {
    fn list(&self, limit: u32, after: Option<&str>) -> Result<(DeadLetters, String)> {
        let after = after.map_or_else(String::new, |id| format!("&after={}", encode(id)));
        let path = format!("{}?limit={limit}{after}", self.path);
        self.client.call(Method::GET, &path, Body::None)
    }
}

fn list(args: &Args, place: &Place<'_>) -> Result<()> {
    let (found, json) = place.list(args.limit, args.after.as_deref())?;
    if args.json {
        return Ok(show::print(&format!("{json}\n"))?);
    }
    if found.letters.is_empty() {
        return Ok(show::print(&none(&args.name, &found))?);
    }
    show::print(&table(&found.letters, show::width(), SystemTime::now()))?;
    anstream::eprintln!("{DIM}{}{DIM:#}", summary(&args.name, &found));
    Ok(())
}

fn none(name: &str, found: &DeadLetters) -> String {
    let name = show::line(name, 63);
    match found.total {
        0 => format!("{name} has no dead letters.\n"),
        total => format!(
            "There are no more: {name} has {}, all of them before that one.\n",
            show::several(total, "dead letter")
        ),
    }
}

fn table(letters: &[DeadLetter], width: Option<usize>, now: SystemTime) -> String {
    let head = [
        ("ID", Align::Left),
        ("FROM", Align::Left),
        ("KEY", Align::Left),
        ("FAILURE", Align::Left),
        ("ATTEMPTS", Align::Right),
        ("AGE", Align::Right),
        ("ERROR", Align::Left),
    ];
    // A UUID is 36 characters, and whole where there is room for it.
    let key = width.map_or(usize::MAX, |width| width.saturating_sub(84).clamp(13, 36));
    let mut rows: Vec<Vec<String>> = letters
        .iter()
        .map(|letter| {
            vec![
                show::styled(BOLD, &show::line(&letter.id, 40)),
                from(letter),
                letter.key.as_ref().map_or_else(
                    || show::styled(DIM, "(none)"),
                    |bytes| show::bytes(bytes, key),
                ),
                show::line(&letter.failure, 20),
                show::count(letter.attempts.into()),
                show::age(letter.failed_at, now),
                String::new(),
            ]
        })
        .collect();
    // The errors have what the other columns leave of the line.
    let taken = show::table(&head, &rows).lines().map(show::visible).max();
    let taken = taken.unwrap_or_default().max("ERROR".len()) - "ERROR".len();
    let error = width.map_or(usize::MAX, |width| width.saturating_sub(taken).max(ERROR));
    for (row, letter) in rows.iter_mut().zip(letters) {
        if let Some(cell) = row.last_mut() {
            *cell = show::line(&letter.error, error);
        }
    }
    show::table(&head, &rows)
}

/// Where it came from: `user_topic/2@41`.
fn from(letter: &DeadLetter) -> String {
    format!(
        "{}/{}@{}",
        show::line(&letter.topic, 249),
        letter.partition,
        letter.offset
    )
}

/// What the list is of, and how to go on.
fn summary(name: &str, found: &DeadLetters) -> String {
    let shown = found.letters.len() as u64;
    let total = show::several(found.total, "dead letter");
    let topic = show::line(&found.topic, 249);
    let all = if shown == found.total {
        format!("{total}, in {topic}, oldest first.")
    } else {
        format!(
            "{} of {total}, in {topic}, oldest first.",
            show::count(shown)
        )
    };
    match found.letters.last() {
        Some(last) if found.more => format!(
            "{all} Go on: tidemill dead-letters {name} --after {}",
            show::line(&last.id, 40)
        ),
        _ => format!(
            "{all}\nOne whole: tidemill dead-letters {name} show ID; back to the service: … redrive \
             ID or --all; for good: … drop ID or --all"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::api::Bytes;

    pub(super) fn dead_letter() -> DeadLetter {
        DeadLetter {
            id: "0@17".to_owned(),
            topic: "user_topic".to_owned(),
            partition: 2,
            offset: 41,
            timestamp: Some(1_795_501_800_000),
            failed_at: 1_795_501_860_000,
            failure: "reject".to_owned(),
            error: "no id\nat all, and a long reason for it".to_owned(),
            attempts: 1,
            revision: "3f2a9c01b2d4".repeat(6)[..64].to_owned(),
            key: Some(Bytes::Text("7".to_owned())),
            size: Some(12),
        }
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(1_795_505_460_000)
    }

    fn letters(shown: usize, total: u64, more: bool) -> DeadLetters {
        DeadLetters {
            topic: "order.dead-letter".to_owned(),
            total,
            letters: vec![dead_letter(); shown],
            more,
        }
    }

    #[test]
    fn the_list_fits_the_terminal_and_is_whole_elsewhere() {
        let keyless = DeadLetter {
            id: "0@118".to_owned(),
            key: None,
            failure: "retry".to_owned(),
            attempts: 10,
            error: "\u{1b}[2J".to_owned(),
            ..dead_letter()
        };
        let letters = [dead_letter(), keyless];
        assert_eq!(
            show::plain(&table(&letters, Some(80), now())),
            "ID     FROM             KEY     FAILURE  ATTEMPTS  AGE  ERROR\n\
             0@17   user_topic/2@41  7       reject          1  1 h  no id at all, and a lon…\n\
             0@118  user_topic/2@41  (none)  retry          10  1 h  \u{fffd}[2J\n"
        );
        for width in [80, 90, 140] {
            for line in show::plain(&table(&letters, Some(width), now())).lines() {
                assert!(line.chars().count() <= width, "{line}");
            }
        }
        let whole = show::plain(&table(&letters, None, now()));
        assert!(whole.contains("no id at all, and a long reason for it\n"));
    }

    #[test]
    fn the_end_of_the_list_says_how_to_go_on() {
        let said = summary("order", &letters(2, 1_900, true));
        assert_eq!(
            said,
            "2 of 1,900 dead letters, in order.dead-letter, oldest first. Go on: tidemill \
             dead-letters order --after 0@17"
        );
        let said = summary("order", &letters(1, 1, false));
        assert!(
            said.starts_with("1 dead letter, in order.dead-letter, oldest first.\n"),
            "{said}"
        );
        assert_eq!(
            none("order", &letters(0, 0, false)),
            "order has no dead letters.\n"
        );
        assert!(none("order", &letters(0, 3, false)).contains("order has 3 dead letters"));
    }
}
