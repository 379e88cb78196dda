//! One dead letter, whole.

use std::io::{IsTerminal, Write};

use anyhow::Result;
use ureq::http::Method;

use super::{Place, from};
use crate::api::{Bytes, DeadLetterDetail};
use crate::client::{Body, encode};
use crate::failure::Failure;
use crate::show::{self, BOLD, DIM};
use crate::value::{self, View};

/// Characters of a key or header on a line.
const LINE: usize = 4_096;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which one, as the list has it: 0@17
    id: String,
    /// How the value is shown
    #[arg(long = "as", value_name = "VIEW", value_enum, default_value_t)]
    view: View,
    /// Write the value alone, its bytes as they are, for a pipe or a file
    #[arg(long, conflicts_with_all = ["view", "json"])]
    raw: bool,
}

pub(super) fn run(args: &Args, place: &Place<'_>) -> Result<()> {
    if args.raw && std::io::stdout().is_terminal() {
        return Err(
            Failure::new("--raw writes bytes as they are, which may steer a terminal")
                .hint("send them to a file or through a pipe, or see them with --as hex")
                .into(),
        );
    }
    let path = format!("{}/{}", place.path, encode(&args.id));
    let (letter, json) = place
        .client
        .call::<DeadLetterDetail>(Method::GET, &path, Body::None)?;
    if place.json {
        return Ok(show::print(&format!("{json}\n"))?);
    }
    let value = letter.value.clone().map(bytes).transpose()?;
    if args.raw {
        return raw(value.as_deref());
    }
    let mut text = head(&letter);
    match value {
        None => text.push_str(&format!("\n{DIM}no value: a tombstone{DIM:#}\n")),
        Some(value) if value.is_empty() => {
            text.push_str(&format!("\n{DIM}an empty value{DIM:#}\n"))
        }
        Some(value) => {
            text.push('\n');
            text.push_str(&value::render(&value, args.view)?);
        }
    }
    Ok(show::print(&text)?)
}

fn bytes(bytes: Bytes) -> Result<Vec<u8>, Failure> {
    let broken = |why: String| Failure::new("the host's answer is broken").detail(why);
    bytes.decode().map_err(broken)
}

fn raw(value: Option<&[u8]>) -> Result<()> {
    let Some(value) = value else {
        anstream::eprintln!("{DIM}It has no value: it is a tombstone.{DIM:#}");
        return Ok(());
    };
    let mut output = std::io::stdout().lock();
    match output.write_all(value).and_then(|()| output.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// All but the value.
fn head(detail: &DeadLetterDetail) -> String {
    let letter = &detail.letter;
    let mut fields = vec![("from", from(letter))];
    if let Some(time) = letter.timestamp.and_then(|time| u64::try_from(time).ok()) {
        fields.push(("time", show::time(time)));
    }
    fields.extend([
        ("failed", show::time(letter.failed_at)),
        ("attempts", show::count(letter.attempts.into())),
        ("revision", show::clean(&letter.revision)),
        ("error", show::clean(&letter.error)),
    ]);
    let key = letter.key.as_ref();
    fields.push(("key", key.map_or_else(|| "(none)".to_owned(), line)));
    fields.push((
        "value",
        letter.size.map_or_else(|| "(none)".to_owned(), show::size),
    ));
    let mut text = format!(
        "{} {}\n{}",
        show::styled(BOLD, &show::line(&letter.id, 40)),
        show::line(&letter.failure, 20),
        show::fields(&fields)
    );
    if !detail.headers.is_empty() {
        text.push_str(&format!("\n{DIM}headers{DIM:#}\n"));
    }
    for (name, value) in &detail.headers {
        let value = value.as_ref().map_or_else(|| "(none)".to_owned(), line);
        text.push_str(&format!("  {}: {value}\n", show::line(name, 249)));
    }
    text
}

fn line(bytes: &Bytes) -> String {
    show::bytes(bytes, LINE)
}

#[cfg(test)]
mod tests {
    use super::super::tests::dead_letter;
    use super::*;

    #[test]
    fn a_dead_letter_says_where_it_came_from_and_why_it_failed() {
        let detail = DeadLetterDetail {
            letter: dead_letter(),
            headers: vec![
                (
                    "source".to_owned(),
                    Some(Bytes::Text("desk\u{7}".to_owned())),
                ),
                ("empty".to_owned(), None),
            ],
            value: None,
        };
        assert_eq!(
            show::plain(&head(&detail)),
            format!(
                "0@17 reject\n  \
                   from      user_topic/2@41\n  \
                   time      2026-11-24 06:30:00 UTC\n  \
                   failed    2026-11-24 06:31:00 UTC\n  \
                   attempts  1\n  \
                   revision  {}\n  \
                   error     no id\n  \
                   \u{20}         at all, and a long reason for it\n  \
                   key       7\n  \
                   value     12 B\n\
                 \n\
                 headers\n  \
                   source: desk\u{fffd}\n  \
                   empty: (none)\n",
                dead_letter().revision
            )
        );
    }
}
