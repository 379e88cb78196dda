//! `tidemill invoke`: one call of a handler by hand. What it would have
//! published and written is shown and not kept.

use std::fs;
use std::io::Read;
use std::process::ExitCode;

use anyhow::{Context, Result};
use ureq::http::Method;

use crate::api::{Bytes, Event, Invoke, Invoked, Message, Request, Row};
use crate::client::{Body, Client, Connection, service_path};
use crate::failure::Failure;
use crate::show::{self, BOLD, DIM, ERROR, GOOD};

/// Characters of a key or value that are shown.
const WIDTH: usize = 160;

const EXAMPLES: &str = "\
Examples:
  tidemill invoke order GET '/orders?limit=2'
  tidemill invoke user POST /users -d '{\"name\":\"Ada\"}'
  tidemill invoke user POST /users -H 'content-type: application/json' -d @user.json
  tidemill invoke order --event user_topic --key 7 --value '{\"id\":7}'
  tidemill invoke order --event user_topic --key 7 --value @event.bin --json

A body or value is the text itself, @FILE, or - for standard input. A body that
is JSON is sent as application/json unless -H says otherwise. An event without
--key has a null key, one without --value is a tombstone.

The handler really runs, on the revision that serves and the state that is
there; its events and rows are printed and dropped. The exit code is 1 if the
outcome is anything but ok.";

/// What `tidemill invoke` takes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = EXAMPLES,
    override_usage = "tidemill invoke [OPTIONS] NAME METHOD PATH [-H 'NAME: VALUE']... [-d BODY]\n       \
                      tidemill invoke [OPTIONS] NAME --event TOPIC [--key KEY] [--value VALUE]"
)]
pub struct Args {
    /// The service
    name: String,
    /// The request's method
    #[arg(required_unless_present = "event", requires = "path", value_parser = method)]
    method: Option<String>,
    /// The request's path and query
    #[arg(value_parser = path)]
    path: Option<String>,
    /// A header field of the request; may be repeated
    #[arg(short = 'H', value_name = "NAME: VALUE", value_parser = field, conflicts_with = "event", help_heading = "Request")]
    headers: Vec<(String, String)>,
    /// The request's body: text, @FILE, or - for standard input
    #[arg(
        short,
        long,
        value_name = "BODY",
        conflicts_with = "event",
        allow_hyphen_values = true,
        help_heading = "Request"
    )]
    data: Option<String>,
    /// Call the event handler, with an event of this topic
    #[arg(
        long,
        value_name = "TOPIC",
        conflicts_with_all = ["method", "path"],
        help_heading = "Event"
    )]
    event: Option<String>,
    /// The event's key
    #[arg(
        long,
        requires = "event",
        conflicts_with = "method",
        allow_hyphen_values = true,
        help_heading = "Event"
    )]
    key: Option<String>,
    /// The event's value: text, @FILE, or - for standard input
    #[arg(
        long,
        requires = "event",
        conflicts_with = "method",
        allow_hyphen_values = true,
        help_heading = "Event"
    )]
    value: Option<String>,
    /// A header of the event; may be repeated
    #[arg(
        long = "header",
        value_name = "NAME=VALUE",
        value_parser = pair,
        requires = "event",
        conflicts_with = "method",
        help_heading = "Event"
    )]
    event_headers: Vec<(String, String)>,
    /// The event's partition: also whose state the handler sees
    #[arg(
        long,
        requires = "event",
        conflicts_with = "method",
        default_value = "0",
        help_heading = "Event"
    )]
    partition: u32,
    /// The event's offset
    #[arg(
        long,
        requires = "event",
        conflicts_with = "method",
        default_value = "0",
        help_heading = "Event"
    )]
    offset: u64,
    /// Print the host's answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let path = format!("{}/invoke", service_path(&args.name)?);
    let client = Client::new(&args.connection);
    let json = args.json;
    let body = serde_json::to_vec(&invoke(args)?)?;
    let (invoked, answer) = client.call::<Invoked>(Method::POST, &path, Body::Json(body))?;
    if json {
        show::print(&format!("{answer}\n"))?;
    } else {
        show::print(&render(&invoked))?;
    }
    Ok(if invoked.outcome == "ok" {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What to send, of what was said on the command line.
fn invoke(args: Args) -> Result<Invoke> {
    if let Some(topic) = args.event {
        let headers = args
            .event_headers
            .into_iter()
            .map(|(name, value)| (name, Bytes::Text(value)))
            .collect();
        return Ok(Invoke::Event(Event {
            topic,
            partition: args.partition,
            offset: args.offset,
            key: args.key.map(Bytes::Text),
            value: args
                .value
                .as_deref()
                .map(content)
                .transpose()?
                .map(Bytes::from),
            headers,
        }));
    }
    let (Some(method), Some(target)) = (args.method, args.path) else {
        return Err(Failure::new("which request?")
            .hint("name a method and a path, or an event with --event")
            .into());
    };
    let body = args.data.as_deref().map(content).transpose()?;
    let mut headers = args.headers;
    let typed = headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let is_json = |body: &Vec<u8>| serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok();
    if !typed && body.as_ref().is_some_and(is_json) {
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
    }
    Ok(Invoke::Request(Request {
        method,
        target,
        headers,
        body: body.map(Bytes::from),
    }))
}

/// The text itself, a file's content after `@`, standard input for `-`.
fn content(argument: &str) -> Result<Vec<u8>> {
    if argument == "-" {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("cannot read standard input")?;
        return Ok(bytes);
    }
    match argument.strip_prefix('@') {
        Some(file) => fs::read(file).with_context(|| format!("cannot read {file}")),
        None => Ok(argument.as_bytes().to_vec()),
    }
}

fn render(invoked: &Invoked) -> String {
    let after = format!(
        "{DIM}in {}, revision {}{DIM:#}\n",
        show::duration(invoked.duration_us),
        show::short(&invoked.revision)
    );
    let mut text = match (&invoked.response, invoked.outcome.as_str()) {
        (Some(response), "ok") => {
            let style = if response.status < 400 { GOOD } else { ERROR };
            format!("{style}{}{style:#} {after}", response.status)
        }
        (_, "ok") => format!("{GOOD}ok{GOOD:#} {after}"),
        (_, outcome) => format!("{ERROR}{}{ERROR:#} {after}", show::line(outcome, 40)),
    };
    if let Some(error) = &invoked.error {
        for line in error.lines() {
            text.push_str(&format!("  {}\n", show::clean(line)));
        }
    }
    if let Some(response) = &invoked.response {
        for (name, value) in &response.headers {
            let (name, value) = (show::line(name, 100), show::line(value, 1_000));
            text.push_str(&format!("{DIM}{name}:{DIM:#} {value}\n"));
        }
        let body = match &response.body {
            Bytes::Text(text) => show::clean(text),
            Bytes::Base64(text) => format!("base64 {}", show::clean(text)),
        };
        if !body.is_empty() {
            text.push_str(&format!("\n{}\n", body.trim_end_matches('\n')));
        }
    }
    text.push_str(&effects(&invoked.published, &invoked.written));
    text
}

fn effects(published: &[Message], written: &[Row]) -> String {
    let mut text = String::new();
    if !published.is_empty() {
        text.push_str(&heading("Published", published.len(), "event"));
        for message in published {
            let key = message
                .key
                .as_ref()
                .map_or_else(|| "(no key)".to_owned(), |key| show::bytes(key, WIDTH));
            text.push_str(&format!(
                "  {BOLD}{}{BOLD:#}  {key}  {}\n",
                show::line(&message.topic, 249),
                value(message.value.as_ref(), "(tombstone)")
            ));
            for (name, header) in &message.headers {
                text.push_str(&format!(
                    "    {DIM}{}:{DIM:#} {}\n",
                    show::line(name, 100),
                    value(header.as_ref(), "(null)")
                ));
            }
        }
    }
    if !written.is_empty() {
        text.push_str(&heading("Written", written.len(), "row"));
        for row in written {
            text.push_str(&format!(
                "  {BOLD}{}{BOLD:#}  {}  {}\n",
                show::line(&row.table, 64),
                show::bytes(&row.key, WIDTH),
                value(row.value.as_ref(), "(deleted)")
            ));
        }
    }
    if text.is_empty() {
        text.push_str(&format!(
            "\n{DIM}Nothing published, nothing written.{DIM:#}\n"
        ));
    }
    text
}

fn heading(what: &str, count: usize, one: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("\n{what}, not committed: {count} {one}{plural}\n")
}

fn value(bytes: Option<&Bytes>, none: &str) -> String {
    bytes.map_or_else(
        || show::styled(DIM, none),
        |bytes| show::bytes(bytes, WIDTH),
    )
}

fn method(text: &str) -> Result<String, String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !text.is_empty() && text.bytes().all(token) {
        Ok(text.to_ascii_uppercase())
    } else {
        Err("write a method, such as GET, and then a path".to_owned())
    }
}

fn path(text: &str) -> Result<String, String> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        Err("a path begins with a slash".to_owned())
    }
}

fn field(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("write 'name: value'".to_owned()),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write name=value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::api::Response;

    #[derive(Debug, Parser)]
    struct Tidemill {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(line: &[&str]) -> Result<Invoke, clap::error::ErrorKind> {
        Tidemill::try_parse_from(["invoke"].iter().chain(line))
            .map(|tidemill| invoke(tidemill.args).expect("it is complete"))
            .map_err(|error| error.kind())
    }

    #[test]
    fn a_request_is_a_method_and_a_path() {
        let Ok(Invoke::Request(request)) = parsed(&[
            "user",
            "post",
            "/users?a=1",
            "-H",
            "X-A: b: c",
            "-d",
            "{\"a\": 1}",
        ]) else {
            panic!("a request");
        };
        assert_eq!(request.method, "POST");
        assert_eq!(request.target, "/users?a=1");
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            request.headers,
            [
                field("X-A", "b: c"),
                field("content-type", "application/json")
            ]
        );
        assert_eq!(request.body, Some(Bytes::Text("{\"a\": 1}".to_owned())));
    }

    #[test]
    fn a_body_that_is_not_json_has_no_type_of_ours() {
        let Ok(Invoke::Request(request)) = parsed(&["user", "PUT", "/a", "-d", "plain"]) else {
            panic!("a request");
        };
        assert_eq!(request.headers, []);
    }

    #[test]
    fn an_event_needs_a_topic_only() {
        let Ok(Invoke::Event(event)) = parsed(&["order", "--event", "t"]) else {
            panic!("an event");
        };
        assert_eq!((event.key, event.value), (None, None), "null stays null");
        let Ok(Invoke::Event(event)) = parsed(&[
            "order",
            "--event",
            "t",
            "--key",
            "-7",
            "--value",
            "",
            "--header",
            "a=b=c",
            "--partition",
            "3",
            "--offset",
            "9",
        ]) else {
            panic!("an event");
        };
        assert_eq!(event.key, Some(Bytes::Text("-7".to_owned())));
        assert_eq!(event.value, Some(Bytes::Text(String::new())));
        assert_eq!(
            event.headers,
            [("a".to_owned(), Bytes::Text("b=c".to_owned()))]
        );
        assert_eq!((event.partition, event.offset), (3, 9));
    }

    #[test]
    fn what_is_neither_is_a_usage_error() {
        for line in [
            &["order"][..],
            &["order", "GET"],
            &["order", "GET", "orders"],
            &["order", "/orders"],
            &["order", "GET", "/a", "--event", "t"],
            &["order", "GET", "/a", "--key", "k"],
            &["order", "--event", "t", "-d", "x"],
            &["order", "GET", "/a", "-H", "nothing"],
        ] {
            assert!(parsed(line).is_err(), "{line:?}");
        }
    }

    fn invoked() -> Invoked {
        Invoked {
            revision: "3f2a9c01b2d4".repeat(6),
            outcome: "ok".to_owned(),
            error: None,
            duration_us: 1_234,
            response: None,
            published: Vec::new(),
            written: Vec::new(),
        }
    }

    #[test]
    fn a_response_is_followed_by_its_effects() {
        let invoked = Invoked {
            response: Some(Response {
                status: 200,
                headers: vec![("content-type".to_owned(), "application/json".to_owned())],
                body: Bytes::Text("{\"id\":7}\n".to_owned()),
            }),
            published: vec![Message {
                topic: "user_topic".to_owned(),
                key: None,
                value: Some(Bytes::Base64("/wA=".to_owned())),
                headers: vec![("h".to_owned(), None)],
            }],
            written: vec![Row {
                table: "orders".to_owned(),
                key: Bytes::Text("7".to_owned()),
                value: None,
            }],
            ..invoked()
        };
        assert_eq!(
            show::plain(&render(&invoked)),
            "200 in 1.23 ms, revision 3f2a9c01b2d4\n\
             content-type: application/json\n\
             \n\
             {\"id\":7}\n\
             \n\
             Published, not committed: 1 event\n  \
               user_topic  (no key)  base64 /wA=\n    \
                 h: (null)\n\
             \n\
             Written, not committed: 1 row\n  \
               orders  7  (deleted)\n"
        );
    }

    #[test]
    fn a_failure_says_why() {
        let invoked = Invoked {
            outcome: "retry".to_owned(),
            error: Some("no such user".to_owned()),
            ..invoked()
        };
        assert_eq!(
            show::plain(&render(&invoked)),
            "retry in 1.23 ms, revision 3f2a9c01b2d4\n  \
               no such user\n\
             \n\
             Nothing published, nothing written.\n"
        );
    }
}
