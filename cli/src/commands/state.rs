//! `tidemill state`: the tables of a service's state, and their rows.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Result;
use serde::de::IgnoredAny;
use ureq::http::Method;

use crate::api::{Bytes, StateRow, StateRows, StateTable, StateTables};
use crate::client::{Body, Client, Connection, encode, service_path};
use crate::failure::Failure;
use crate::show::{self, Align, BOLD, DIM};

/// Characters of a key that are shown on a terminal.
const KEY: usize = 60;
/// Characters of a value that are shown on a terminal.
const VALUE: usize = 120;

const EXAMPLES: &str = "\
Examples:
  tidemill state order                               the tables
  tidemill state order by-id                       their first rows
  tidemill state order by-id --prefix 2026-
  tidemill state order by-id --start a --end n --limit 1000
  tidemill state order by-id --reverse --json | jq -c '.rows[]'

Rows come in order of key, then shard: a key has a row in each shard that wrote
one. What is shown is committed, as this host has it. JSON is shown compact;
what is not UTF-8 as base64; rows of a log by the place of their event. On a
terminal long keys and values are cut; through a pipe they are whole.";

/// What `tidemill state` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service
    name: String,
    /// Show the rows of this table
    table: Option<String>,
    /// Only keys that begin like this
    #[arg(
        long,
        value_name = "TEXT",
        requires = "table",
        allow_hyphen_values = true
    )]
    prefix: Option<String>,
    /// From this key on
    #[arg(
        long,
        value_name = "KEY",
        requires = "table",
        allow_hyphen_values = true
    )]
    start: Option<String>,
    /// Up to this key, without it
    #[arg(
        long,
        value_name = "KEY",
        requires = "table",
        allow_hyphen_values = true
    )]
    end: Option<String>,
    /// The most rows
    #[arg(long, value_name = "N", requires = "table", default_value = "100",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// From the highest key down
    #[arg(long, requires = "table")]
    reverse: bool,
    /// Print the host's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = format!("{}/state", service_path(&args.name)?);
    let client = Client::new(&args.connection);
    let (text, json, more) = if let Some(table) = &args.table {
        let path = format!("{path}/{}?{}", checked(table)?, query(args));
        let (found, json) = client.call::<StateRows>(Method::GET, &path, Body::None)?;
        let cut = std::io::stdout().is_terminal();
        (rows(&found.rows, cut), json, found.more)
    } else {
        let (found, json) = client.call::<StateTables>(Method::GET, &path, Body::None)?;
        (tables(&found.tables), json, false)
    };
    if args.json {
        show::print(&format!("{json}\n"))?;
    } else {
        show::print(&text)?;
        if more {
            let option = if args.reverse { "--end" } else { "--start" };
            anstream::eprintln!(
                "{DIM}There are more rows: raise --limit (1,000 at most), or go on from the last \
                 key with {option}.{DIM:#}"
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A table's name, if it can be one.
fn checked(table: &str) -> Result<&str> {
    let valid = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    if (1..=64).contains(&table.len()) && table.bytes().all(valid) {
        return Ok(table);
    }
    Err(Failure::new(format!("{table:?} cannot be a table's name"))
        .hint("a table's name is 1 to 64 of a-z, 0-9, - and _")
        .into())
}

fn query(args: &Args) -> String {
    let mut query = format!("limit={}", args.limit);
    for (name, value) in [
        ("prefix", &args.prefix),
        ("start", &args.start),
        ("end", &args.end),
    ] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    if args.reverse {
        query.push_str("&reverse=true");
    }
    query
}

fn tables(tables: &[StateTable]) -> String {
    if tables.is_empty() {
        return "No table has rows yet.\n".to_owned();
    }
    let head = [("TABLE", Align::Left), ("ROWS", Align::Right)];
    let rows: Vec<Vec<String>> = tables
        .iter()
        .map(|table| {
            let more = if table.more { "over " } else { "" };
            vec![
                show::styled(BOLD, &show::line(&table.table, 64)),
                format!("{more}{}", show::count(table.rows)),
            ]
        })
        .collect();
    show::table(&head, &rows)
}

fn rows(rows: &[StateRow], cut: bool) -> String {
    if rows.is_empty() {
        return "No rows.\n".to_owned();
    }
    let head = [
        ("SHARD", Align::Right),
        ("KEY", Align::Left),
        ("VALUE", Align::Left),
    ];
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let (key, value) = match logged(row) {
                Some((place, value)) => (place, Bytes::Text(value)),
                None => (shown(&row.key, cut.then_some(KEY)), row.value.clone()),
            };
            vec![
                row.shard.to_string(),
                key,
                shown(&value, cut.then_some(VALUE)),
            ]
        })
        .collect();
    show::table(&head, &rows)
}

/// Bytes on one line: JSON compact, other text escaped, the rest as base64. What
/// is wider than this many characters is cut, and its size is said.
fn shown(bytes: &Bytes, width: Option<usize>) -> String {
    let (mark, text, size) = match bytes {
        Bytes::Text(text) if text.is_empty() => return show::styled(DIM, "(empty)"),
        Bytes::Text(text) => {
            let compact = compact(text);
            let text_shown = show::escaped(compact.as_deref().unwrap_or(text));
            (String::new(), text_shown, text.len())
        }
        Bytes::Base64(text) => {
            let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
            let size = (text.len() / 4 * 3).saturating_sub(padding);
            let mark = format!("{} ", show::styled(DIM, "base64"));
            (mark, show::escaped(text), size)
        }
    };
    match width {
        Some(width) if text.chars().count() > width => {
            let start: String = text.chars().take(width.saturating_sub(1)).collect();
            let size = show::size(size as u64);
            format!("{mark}{start}… {}", show::styled(DIM, &format!("({size})")))
        }
        _ => format!("{mark}{text}"),
    }
}

/// JSON without the spaces between its parts, every digit as it was; none if the
/// text is no JSON.
fn compact(text: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(text).ok()?;
    let (mut string, mut escape) = (false, false);
    let kept = text.chars().filter(|char| {
        if string {
            match char {
                _ if escape => escape = false,
                '\\' => escape = true,
                '"' => string = false,
                _ => {}
            }
            return true;
        }
        string = *char == '"';
        !matches!(char, ' ' | '\t' | '\n' | '\r')
    });
    Some(kept.collect())
}

/// The place of the event and the value of a row of a log (the SDK's `Log`). Its
/// key is partition (4 bytes), topic, a zero byte and offset (8 bytes), its value
/// a time (8 bytes) and JSON, numbers big-endian. It is in its partition's shard.
fn logged(row: &StateRow) -> Option<(String, String)> {
    let key = row.key.clone().decode().ok()?;
    let (partition, rest) = key.split_first_chunk()?;
    let (rest, offset) = rest.split_last_chunk()?;
    let (partition, offset) = (u32::from_be_bytes(*partition), u64::from_be_bytes(*offset));
    let topic = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?;
    tidemill_manifest::check_topic(topic).ok()?;
    if partition != row.shard {
        return None;
    }
    let value = row.value.clone().decode().ok()?;
    let (_, json) = value.split_first_chunk::<8>()?;
    let json = std::str::from_utf8(json).ok()?;
    serde_json::from_str::<IgnoredAny>(json).ok()?;
    Some((format!("{topic}/{partition}@{offset}"), json.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(shard: u32, key: &[u8], value: &[u8]) -> StateRow {
        StateRow {
            shard,
            key: key.to_vec().into(),
            value: value.to_vec().into(),
        }
    }

    #[test]
    fn tables_are_listed_with_their_rows() {
        let table = |table: &str, rows, more| StateTable {
            table: table.to_owned(),
            rows,
            more,
        };
        assert_eq!(
            show::plain(&tables(&[
                table("by_user", 1_234, false),
                table("orders", 100_000, true)
            ])),
            "TABLE            ROWS\n\
             by_user         1,234\n\
             orders   over 100,000\n"
        );
        assert_eq!(tables(&[]), "No table has rows yet.\n");
    }

    #[test]
    fn rows_are_shown_by_key_and_shard() {
        let found = [
            row(0, b"de", b"{\n  \"n\": 1.0,\n  \"a b\": \"c \\\" d\"\n}"),
            row(3, b"de", b"plain  text"),
            row(0, &[0xff, 0], b""),
        ];
        assert_eq!(
            show::plain(&rows(&found, true)),
            "SHARD  KEY          VALUE\n    \
                 0  de           {\"n\":1.0,\"a b\":\"c \\\" d\"}\n    \
                 3  de           plain  text\n    \
                 0  base64 /wA=  (empty)\n"
        );
    }

    #[test]
    fn a_row_of_a_log_is_shown_by_the_place_of_its_event() {
        let key = [&[0, 0, 0, 2][..], b"user_topic\0", &41u64.to_be_bytes()].concat();
        let value = [&1_795_501_800_000u64.to_be_bytes()[..], b"{\"id\":7}"].concat();
        assert_eq!(
            show::plain(&rows(&[row(2, &key, &value)], true)),
            "SHARD  KEY              VALUE\n    \
                 2  user_topic/2@41  {\"id\":7}\n"
        );
        for (key, value) in [
            (&key[..], &b"{\"id\":7}"[..]),
            (&key[1..], &value[..]),
            (b"user_topic/2@41", &value[..]),
        ] {
            assert_eq!(logged(&row(2, key, value)), None);
        }
    }

    #[test]
    fn a_value_cannot_steer_the_terminal() {
        let hostile = "\u{1b}]0;owned\u{7}\n\u{9b}2J\u{202e}";
        let text = rows(&[row(0, hostile.as_bytes(), hostile.as_bytes())], false);
        let expected = "\\u001b]0;owned\\u0007\\n\\u009b2J\\u202e";
        assert_eq!(
            show::plain(&text).lines().nth(1),
            Some(&*format!("    0  {expected}  {expected}"))
        );
        // JSON allows those from 7f on in its strings.
        let json = "{\"a\": \"\u{9b}2J\"}";
        assert_eq!(
            shown(&Bytes::Text(json.to_owned()), None),
            "{\"a\":\"\\u009b2J\"}"
        );
    }

    #[test]
    fn only_a_terminal_cuts_and_says_the_size() {
        let long = Bytes::Text(format!("\"{}\"", "x".repeat(4_998)));
        let cut = show::plain(&shown(&long, Some(10)));
        assert_eq!(cut, "\"xxxxxxxx… (5.00 kB)");
        assert_eq!(shown(&long, None).len(), 5_000);
        let bytes = Bytes::from(vec![0xff; 100]);
        assert_eq!(show::plain(&shown(&bytes, Some(5))), "base64 ////… (100 B)");
    }

    #[test]
    fn what_is_asked_for_is_percent_encoded() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let read = |line: &[&str]| {
            let line = ["state", "order", "by-id"].iter().chain(line);
            <Line as clap::Parser>::parse_from(line).args
        };
        assert_eq!(query(&read(&[])), "limit=100");
        assert_eq!(
            query(&read(&[
                "--prefix",
                "eu/ä&b",
                "--start",
                "a",
                "--end",
                "-z",
                "--limit",
                "7",
                "--reverse"
            ])),
            "limit=7&prefix=eu%2F%C3%A4%26b&start=a&end=-z&reverse=true"
        );
        assert!(checked("by_user-2").is_ok());
        for table in ["", "..", "a/b", "A"] {
            assert!(checked(table).is_err(), "{table}");
        }
    }
}
