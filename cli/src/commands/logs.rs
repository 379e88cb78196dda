//! `tidemill logs`: what a service and the host about it have logged, and what
//! they log from now on.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Map, Value};

use crate::api::{Level, LogLine};
use crate::client::{Client, Connection, service_path};
use crate::failure::Failure;
use crate::show::{self, BOLD, DIM, ERROR, GOOD, WARNING};

pub(crate) mod invocation;

const EXAMPLES: &str = "\
Examples:
  tidemill logs order                         the latest 100 lines
  tidemill logs order --follow                and those that come, until Ctrl-C
  tidemill logs order --follow --invocations  and each request and event
  tidemill logs order --level warn --tail 20  the latest 20 warnings and errors
  tidemill logs order --json | jq 'select(.event == \"event.failed\")'

A host keeps the latest lines of each service in memory: those that its guests
write, and its own about the service, which begin with `tidemill:`. Lines of
other hosts are with them.";

/// What `tidemill logs` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service
    name: String,
    /// Go on with lines as they come
    #[arg(long, short)]
    follow: bool,
    /// With each request and event that its handlers get, as they come
    #[arg(long, short, requires = "follow")]
    invocations: bool,
    /// Show lines of this level and of worse ones
    #[arg(long, value_name = "LEVEL", default_value = "trace")]
    level: Level,
    /// Begin with so many of the latest lines
    #[arg(long, value_name = "N", default_value_t = 100)]
    tail: u32,
    /// Print lines as JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = format!(
        "{}/logs?tail={}&level={}&follow={}&invocations={}",
        service_path(&args.name)?,
        args.tail,
        args.level.name(),
        args.follow,
        args.invocations
    );
    let client = Client::new(&args.connection);
    let mut ended = !args.follow;
    client.lines(&path, |line| {
        let Ok(read) = serde_json::from_str::<LogLine>(line) else {
            return Err(Failure::new("the host sent a line that is no log line")
                .detail(show::line(line, 200))
                .into());
        };
        ended |= read.event.as_deref() == Some("logs.end");
        let text = match args.json {
            true => format!("{line}\n"),
            false => render(&read),
        };
        let read_on = show::print_on(&text)?;
        ended |= !read_on;
        Ok(read_on)
    })?;
    if ended {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::new("the host is gone")
        .hint("what it logged last is where its standard error goes")
        .into())
}

/// A line for a person.
fn render(line: &LogLine) -> String {
    format!(
        "{DIM}{}{DIM:#} {}\n",
        show::line(&time(&line.timestamp), 30),
        said(line)
    )
}

/// Its level and all after it.
pub(crate) fn said(line: &LogLine) -> String {
    if let Some(invocation) = invocation::render(line) {
        return invocation;
    }
    let level = match line.level {
        Level::Error => ERROR,
        Level::Warn => WARNING,
        Level::Info => GOOD,
        Level::Debug | Level::Trace => DIM,
    };
    let name = line.level.name().to_uppercase();
    let mut text = format!("{level}{name:>5}{level:#} ");
    let guest = line.event.as_deref() == Some("guest.line");
    if !guest {
        text.push_str(&show::styled(BOLD, "tidemill: "));
    }
    // A backtrace comes last.
    let message = show::clean(&line.message);
    let (first, rest) = message.split_once('\n').unwrap_or((&message, ""));
    text.push_str(first);
    for (name, value) in &line.fields {
        match (name.as_str(), value) {
            // Of every line of a guest; `--json` has them.
            ("revision" | "stream", _) if guest => {}
            ("fields", Value::Object(fields)) => text.push_str(&pairs(fields)),
            (name, value) => text.push_str(&pair(name, value)),
        }
    }
    if !rest.is_empty() {
        text.push('\n');
        text.push_str(rest);
    }
    text
}

fn pairs(fields: &Map<String, Value>) -> String {
    let pairs = fields.iter().map(|(name, value)| pair(name, value));
    pairs.collect()
}

fn pair(name: &str, value: &Value) -> String {
    let value = match value {
        Value::String(text) => show::clean(text),
        value => value.to_string(),
    };
    format!(" {DIM}{}={DIM:#}{value}", show::line(name, 60))
}

/// `2026-11-24T13:06:41.123456Z` to the millisecond, with a space.
fn time(timestamp: &str) -> String {
    match timestamp.split_once('T') {
        Some((date, time)) => format!("{date} {}Z", time.get(..12).unwrap_or(time)),
        None => timestamp.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> String {
        show::plain(&render(&serde_json::from_str(line).expect("a line")))
    }

    #[test]
    fn a_guests_line_is_what_it_said_and_for_which_invocation() {
        let line = r#"{"timestamp":"2026-11-24T13:06:41.123456Z","level":"warn","event":"guest.line",
            "message":"low","service":"order","revision":"abc","stream":"stdout",
            "invocation":"user_topic/2@41","fields":{"left":3,"why":"\u001b[31m"}}"#;
        assert_eq!(
            shown(line),
            "2026-11-24 13:06:41.123Z  WARN low invocation=user_topic/2@41 left=3 why=\u{fffd}[31m\n"
        );
    }

    #[test]
    fn a_line_of_the_host_is_told_from_those_of_guests() {
        let line = r#"{"timestamp":"2026-11-24T13:06:41.123456Z","level":"info","event":"deploy.done",
            "message":"deployed\n  with care","service":"order","revision":"abc"}"#;
        assert_eq!(
            shown(line),
            "2026-11-24 13:06:41.123Z  INFO tidemill: deployed revision=abc\n  with care\n"
        );
    }
}
