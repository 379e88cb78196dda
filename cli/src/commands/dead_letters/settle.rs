//! Sending dead letters back, and dropping them.

use std::process::ExitCode;

use anyhow::Result;
use ureq::http::Method;

use super::Place;
use crate::api::{SettleRequest, Settled};
use crate::ask::{Unasked, agreed};
use crate::client::Body;
use crate::show::{self, GOOD};

/// How many the host does in one call.
const MOST: usize = 10_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which ones, as the list has them: 0@17 0@18
    #[arg(
        value_name = "ID",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    ids: Vec<String>,
    /// All that there are
    #[arg(long)]
    all: bool,
    /// Don't ask
    #[arg(long, short)]
    yes: bool,
}

/// One of the two, in words.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// In the API.
    path: &'static str,
    question: &'static str,
    doing: &'static str,
    done: &'static str,
    /// What has become of them.
    end: &'static str,
    unasked: Unasked,
}

pub(super) const REDRIVE: Way = Way {
    path: "redrive",
    question: "Send back",
    doing: "Sending back",
    done: "Sent back",
    end: ", for it alone",
    unasked: Unasked::Done,
};

pub(super) const DROP: Way = Way {
    path: "drop",
    question: "Drop for good",
    doing: "Dropping",
    done: "Dropped",
    end: " for good",
    unasked: Unasked::Refused,
};

pub(super) fn run(way: Way, args: &Args, place: &Place<'_>) -> Result<ExitCode> {
    let total = if args.all {
        place.list(1, None)?.0.total
    } else {
        args.ids.len() as u64
    };
    let nothing = Settled {
        settled: 0,
        left: 0,
    };
    if total == 0 {
        tell(way, place, &nothing)?;
        return Ok(ExitCode::SUCCESS);
    }
    let question = format!(
        "{} {} of {}?",
        way.question,
        show::several(total, "dead letter"),
        place.name
    );
    if !agreed(args.yes, &question, way.unasked)? {
        anstream::eprintln!("Nothing was done.");
        return Ok(ExitCode::FAILURE);
    }
    let done = if args.all {
        all(way, place, total)?
    } else {
        some(way, place, &args.ids)?
    };
    show::over("")?;
    tell(way, place, &done)?;
    Ok(ExitCode::SUCCESS)
}

/// All that there were: those that fail again meanwhile are left alone, or it
/// would never end.
fn all(way: Way, place: &Place<'_>, total: u64) -> Result<Settled> {
    let request = SettleRequest {
        all: true,
        ..SettleRequest::default()
    };
    let mut done = call(way, place, &request)?;
    while done.left > 0 && done.settled < total {
        progress(way, done.settled, total)?;
        let more = call(way, place, &request)?;
        if more.settled == 0 {
            break;
        }
        done = added(&done, &more);
    }
    Ok(done)
}

fn some(way: Way, place: &Place<'_>, ids: &[String]) -> Result<Settled> {
    let mut done = Settled {
        settled: 0,
        left: 0,
    };
    for part in ids.chunks(MOST) {
        let request = SettleRequest {
            ids: part.to_vec(),
            all: false,
        };
        done = added(&done, &call(way, place, &request)?);
        if ids.len() > MOST {
            progress(way, done.settled, ids.len() as u64)?;
        }
    }
    Ok(done)
}

fn added(before: &Settled, more: &Settled) -> Settled {
    Settled {
        settled: before.settled + more.settled,
        left: more.left,
    }
}

fn call(way: Way, place: &Place<'_>, request: &SettleRequest) -> Result<Settled> {
    let path = format!("{}/{}", place.path, way.path);
    let body = Body::Json(serde_json::to_vec(request)?);
    Ok(place.client.call(Method::POST, &path, body)?.0)
}

fn progress(way: Way, settled: u64, total: u64) -> Result<()> {
    let (settled, total) = (show::count(settled), show::count(total));
    Ok(show::over(&format!("{}: {settled} of {total}", way.doing))?)
}

fn tell(way: Way, place: &Place<'_>, done: &Settled) -> Result<()> {
    let text = if place.json {
        format!("{}\n", serde_json::to_string(done)?)
    } else {
        told(way, place.name, done)
    };
    Ok(show::print(&text)?)
}

fn told(way: Way, name: &str, done: &Settled) -> String {
    let name = show::line(name, 63);
    if done.settled == 0 {
        return format!("{name} has no dead letters.\n");
    }
    let left = match done.left {
        0 => "None is left".to_owned(),
        left => format!("{} left", show::count(left)),
    };
    format!(
        "{} {} of {name}{}. {left}.\n",
        show::styled(GOOD, way.done),
        show::several(done.settled, "dead letter"),
        way.end
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_them_is_said() {
        let told =
            |way, settled, left| show::plain(&told(way, "order", &Settled { settled, left }));
        assert_eq!(
            told(REDRIVE, 1, 1_234),
            "Sent back 1 dead letter of order, for it alone. 1,234 left.\n"
        );
        assert_eq!(
            told(DROP, 25_000, 0),
            "Dropped 25,000 dead letters of order for good. None is left.\n"
        );
        assert_eq!(told(DROP, 0, 0), "order has no dead letters.\n");
    }
}
