//! `tidemill history`: what ran of a service, and what runs.

use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Result;
use ureq::http::Method;

use crate::api::{Action, Entry, History};
use crate::client::{Body, Client, Connection, service_path};
use crate::show::{self, Align, BOLD, DIM, FAIR, FINE};

const EXAMPLES: &str = "\
Examples:
  tidemill history order
  tidemill history order --json | jq -r '.entries[-1].revision'

The latest comes first. At most 20 deployments are remembered, and with them the
revisions that `tidemill rollback NAME REVISION` can go back to.";

/// What `tidemill history` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service
    name: String,
    /// Print the host's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = format!("{}/history", service_path(&args.name)?);
    let (history, json) =
        Client::new(&args.connection).call::<History>(Method::GET, &path, Body::None)?;
    if args.json {
        show::print(&format!("{json}\n"))?;
    } else {
        show::print(&render(&history, SystemTime::now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn render(history: &History, now: SystemTime) -> String {
    let head = [
        ("", Align::Left),
        ("REVISION", Align::Left),
        ("WHAT", Align::Left),
        ("WHEN", Align::Left),
        ("", Align::Left),
    ];
    let mut marked = Marks::of(history);
    let entries = history.entries.iter().rev();
    let rows: Vec<Vec<String>> = entries
        .map(|entry| {
            vec![
                marked.take(entry),
                show::styled(BOLD, &show::short(&entry.revision)),
                what(entry.action).to_owned(),
                show::age(entry.at, now),
                show::styled(
                    DIM,
                    &entry.why.as_deref().map(show::clean).unwrap_or_default(),
                ),
            ]
        })
        .collect();
    let mut text = show::table(&head, &rows);
    if let Some(canary) = &history.canary {
        let sticky = canary.sticky.as_ref();
        let sticky = sticky
            .map(|sticky| format!(", by {sticky}"))
            .unwrap_or_default();
        text.push_str(&format!(
            "\n{} has {}% of the requests{}{}: `tidemill promote {}` gives it all, `tidemill \
             rollback {}` none\n",
            show::short(&canary.revision),
            canary.weight,
            show::clean(&sticky),
            partitions(&canary.partitions),
            show::clean(&history.name),
            show::clean(&history.name),
        ));
    }
    text
}

/// ` and partitions 0, 3`.
pub(super) fn partitions(numbers: &[i32]) -> String {
    let shown: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    match shown.len() {
        0 => String::new(),
        1 => format!(" and partition {}", shown.concat()),
        _ => format!(" and partitions {}", shown.join(", ")),
    }
}

/// What stands before an entry, once for each revision.
struct Marks<'h> {
    live: Option<&'h str>,
    canary: Option<&'h str>,
    trial: bool,
}

impl Marks<'_> {
    fn of(history: &History) -> Marks<'_> {
        Marks {
            live: Some(&history.live),
            canary: history
                .canary
                .as_ref()
                .map(|canary| canary.revision.as_str()),
            trial: history.trial_until.is_some(),
        }
    }

    fn take(&mut self, entry: &Entry) -> String {
        let is = |wanted: Option<&str>| wanted == Some(entry.revision.as_str());
        if is(self.live) && !matches!(entry.action, Action::Canary | Action::Withdraw) {
            self.live = None;
            let mark = if self.trial { "on trial" } else { "live" };
            return show::styled(FINE, mark);
        }
        if is(self.canary) {
            self.canary = None;
            return show::styled(FAIR, "canary");
        }
        String::new()
    }
}

pub(super) fn what(action: Action) -> &'static str {
    match action {
        Action::Deploy => "deployed",
        Action::Canary => "canary",
        Action::Promote => "promoted",
        Action::Withdraw => "canary taken back",
        Action::Rollback => "rolled back to",
        Action::Automatic => "rolled back to, by itself",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Canary, Sticky};
    use std::time::Duration;

    #[test]
    fn a_history_tells_what_runs_and_what_ran() {
        let entry = |at, action, revision: &str, why: Option<&str>| Entry {
            number: at,
            at,
            action,
            revision: revision.repeat(6),
            host: "h".to_owned(),
            why: why.map(str::to_owned),
        };
        let history = History {
            name: "order".to_owned(),
            live: "aaaa00000001".repeat(6),
            canary: Some(Canary {
                revision: "cccc00000003".repeat(6),
                weight: 5.0,
                sticky: Some(Sticky::Cookie("session".to_owned())),
                partitions: vec![0, 3],
            }),
            trial_until: None,
            before: None,
            entries: vec![
                entry(1_000, Action::Deploy, "aaaa00000001", None),
                entry(60_000, Action::Deploy, "bbbb00000002", None),
                entry(
                    61_000,
                    Action::Automatic,
                    "aaaa00000001",
                    Some("6 of 10 calls failed"),
                ),
                entry(100_000, Action::Canary, "cccc00000003", None),
            ],
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(121);
        let text = show::plain(&render(&history, now));
        assert_eq!(
            text,
            "        REVISION      WHAT                       WHEN\n\
             canary  cccc00000003  canary                     21 s ago\n\
             live    aaaa00000001  rolled back to, by itself  60 s ago  6 of 10 calls failed\n\
             \u{20}       bbbb00000002  deployed                   61 s ago\n\
             \u{20}       aaaa00000001  deployed                   2 min ago\n\
             \n\
             cccc00000003 has 5% of the requests, by cookie:session and partitions 0, 3: \
             `tidemill promote order` gives it all, `tidemill rollback order` none\n"
        );
    }
}
