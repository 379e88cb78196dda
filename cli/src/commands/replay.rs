//! `tidemill replay`: builds a service's state anew from its topics, and shows
//! how far that is.

use std::future::{Future, poll_fn};
use std::io::IsTerminal;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::mpsc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use ureq::http::Method;

use crate::api::{Replay, ReplayRequest};
use crate::client::{Body, Client, Connection, service_path};
use crate::failure::Failure;
use crate::show::{self, BOLD, GOOD};

/// How often the host is asked.
const POLL: Duration = Duration::from_millis(500);
/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(10);
/// How long trouble may last, without an event run again meanwhile, until the
/// replay counts as stopped. A rebalance is such trouble, and so is what a topic
/// that has grown is in until its replay has begun.
const PATIENCE: Duration = Duration::from_secs(3);
/// The exit code after Ctrl-C, as shells have it: 128 and the signal's number.
const INTERRUPTED: i32 = 130;

const EXAMPLES: &str = "\
Examples:
  tidemill replay order              rebuilds the state, and waits until it is done
  tidemill replay order --no-wait    begins, and leaves it to itself
  tidemill replay order --watch      shows one that is under way
  tidemill replay order --partial    also if topics lack their oldest events

The service's events are run again from the beginning of its topics, into the
next generation of its changelog. Nothing is published again. Requests are
answered from the old state until the new one has seen all that the old one has.
It is for a handler that makes other rows than before, and for a topic that has
grown partitions. Ctrl-C ends the watching, not the replay.";

/// What `tidemill replay` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service
    name: String,
    /// Go on although retention has removed events from the topics' beginning
    #[arg(long)]
    partial: bool,
    /// Begin, and don't wait for the end
    #[arg(long)]
    no_wait: bool,
    /// Begin none: show the one that is under way, or was last
    #[arg(long, conflicts_with_all = ["partial", "no_wait"])]
    watch: bool,
    /// Print the host's last answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let path = format!("{}/replay", service_path(&args.name)?);
    let client = Client::new(&args.connection);
    let progress = || client.call::<Replay>(Method::GET, &path, Body::None);
    let (mut replay, mut json) = if args.watch {
        progress()?
    } else {
        let request = ReplayRequest {
            partial: args.partial,
        };
        let body = Body::Json(serde_json::to_vec(&request)?);
        client.call::<Replay>(Method::POST, &path, body)?
    };
    let idle = args.watch && replay.done;
    if !args.no_wait {
        leave_on_interrupt(&args.name);
    }
    let mut screen = Screen::new(&args.name);
    let mut pace = Pace::new(&replay);
    while !replay.done && !pace.is_stopped() && !args.no_wait {
        screen.show(&replay, &pace)?;
        thread::sleep(POLL);
        (replay, json) = match progress() {
            Ok(answer) => answer,
            Err(error) => {
                screen.clear()?;
                anstream::eprintln!("{}", left(&args.name));
                return Err(error);
            }
        };
        pace.note(&replay);
    }
    screen.clear()?;
    let name = &args.name;
    if args.json {
        show::print(&format!("{json}\n"))?;
    } else if idle {
        show::print(&none_under_way(name, &replay))?;
    } else if replay.done {
        let took = (!args.watch).then(|| pace.began.elapsed());
        show::print(&summary(name, &replay, took))?;
    } else if args.no_wait {
        show::print(&begun(name, &replay))?;
    }
    match &replay.trouble {
        Some(trouble) if pace.is_stopped() => Err(stopped(name, &replay, trouble).into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// From now on Ctrl-C ends the process with a word about the replay. At once: the
/// host may be asked just then, and not answer.
fn leave_on_interrupt(name: &str) {
    let message = left(name);
    let (told, listening) = mpsc::channel();
    thread::spawn(move || -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            // It is listened for from the first poll on.
            let mut interrupt = pin!(tokio::signal::ctrl_c());
            let first = poll_fn(|context| Poll::Ready(interrupt.as_mut().poll(context))).await;
            let _ = told.send(());
            match first {
                Poll::Ready(interrupted) => interrupted,
                Poll::Pending => interrupt.await,
            }
        })?;
        anstream::eprintln!("\n{message}");
        std::process::exit(INTERRUPTED);
    });
    // An error if it can't be listened for: then Ctrl-C ends the process without.
    let _ = listening.recv();
}

/// How it goes, since this command began to look.
struct Pace {
    began: Instant,
    /// Events that had been run again before.
    before: u64,
    latest: u64,
    per_second: Option<f64>,
    /// Since when there is trouble and no event was run again.
    stuck: Option<Instant>,
}

impl Pace {
    fn new(replay: &Replay) -> Self {
        let began = Instant::now();
        Self {
            began,
            before: replay.replayed,
            latest: replay.replayed,
            per_second: None,
            stuck: replay.trouble.is_some().then_some(began),
        }
    }

    fn note(&mut self, replay: &Replay) {
        let events = replay.replayed.saturating_sub(self.before) as f64;
        self.per_second = Some(events / self.began.elapsed().as_secs_f64().max(0.001));
        if replay.done || replay.trouble.is_none() || replay.replayed != self.latest {
            self.stuck = None;
        } else {
            self.stuck = self.stuck.or(Some(Instant::now()));
        }
        self.latest = replay.replayed;
    }

    fn is_stopped(&self) -> bool {
        self.stuck.is_some_and(|since| since.elapsed() >= PATIENCE)
    }
}

/// Where progress is written: a line that is written over on a terminal, one now
/// and then elsewhere.
struct Screen<'a> {
    name: &'a str,
    terminal: bool,
    written: Option<Instant>,
}

impl<'a> Screen<'a> {
    fn new(name: &'a str) -> Self {
        Self {
            name,
            terminal: std::io::stderr().is_terminal(),
            written: None,
        }
    }

    fn show(&mut self, replay: &Replay, pace: &Pace) -> std::io::Result<()> {
        let line = progress_line(self.name, replay, pace.per_second);
        if self.terminal {
            show::over(&line)?;
            self.written = Some(Instant::now());
        } else if self.written.is_none_or(|written| written.elapsed() >= LINE) {
            anstream::eprintln!("{line}");
            self.written = Some(Instant::now());
        }
        Ok(())
    }

    fn clear(&mut self) -> std::io::Result<()> {
        match self.written.take() {
            Some(_) => show::over(""),
            None => Ok(()),
        }
    }
}

fn progress_line(name: &str, replay: &Replay, per_second: Option<f64>) -> String {
    let Replay {
        replayed, total, ..
    } = *replay;
    let mut line = format!("Replaying {name}: ");
    if replayed >= total {
        line.push_str(&format!(
            "{} events, changing over to {}",
            show::count(replayed),
            show::line(&replay.changelog, 80)
        ));
        return line;
    }
    let percent = u128::from(replayed) * 100 / u128::from(total);
    line.push_str(&format!(
        "{percent} %, {} of {} events",
        show::count(replayed),
        show::count(total)
    ));
    if let Some(rate) = per_second {
        line.push_str(&format!(", {}/s", show::count(rate as u64)));
        if rate >= 1.0 {
            let left = Duration::from_secs_f64(((total - replayed) as f64 / rate).min(1e9));
            line.push_str(&format!(", about {} left", rough(left)));
        }
    }
    line
}

/// A duration to the second, minute or hour.
fn rough(duration: Duration) -> String {
    match duration.as_secs() + 1 {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds @ 100..6_000 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3_600)),
    }
}

fn begun(name: &str, replay: &Replay) -> String {
    format!(
        "{} a replay of {}, of {} events, into {}\n  watch  tidemill replay {name} --watch\n",
        show::styled(GOOD, "Began"),
        show::styled(BOLD, name),
        show::count(replay.total),
        show::line(&replay.changelog, 249),
    )
}

fn summary(name: &str, replay: &Replay, took: Option<Duration>) -> String {
    let took = took.map_or_else(String::new, |took| {
        format!(
            " in {}",
            show::duration(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
        )
    });
    format!(
        "{} the state of {} from {} events{took}\n  reads  {}, generation {}\n",
        show::styled(GOOD, "Rebuilt"),
        show::styled(BOLD, name),
        show::count(replay.replayed),
        show::line(&replay.changelog, 249),
        replay.generation
    )
}

fn none_under_way(name: &str, replay: &Replay) -> String {
    format!(
        "No replay of {} is under way.\n  reads  {}, generation {}\n",
        show::styled(BOLD, name),
        show::line(&replay.changelog, 249),
        replay.generation
    )
}

fn left(name: &str) -> String {
    format!("The replay of {name} goes on. Watch it again: tidemill replay {name} --watch")
}

fn stopped(name: &str, replay: &Replay, trouble: &str) -> Failure {
    Failure::new(format!(
        "the replay of {name} is stopped, after {} of {} events",
        show::count(replay.replayed),
        show::count(replay.total)
    ))
    .detail(trouble)
    .hint(format!(
        "requests are answered from the old state meanwhile; `tidemill services {name}` shows more"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(replayed: u64, total: u64) -> Replay {
        Replay {
            generation: 2,
            changelog: "order.state.2".to_owned(),
            done: false,
            replayed,
            total,
            trouble: None,
        }
    }

    #[test]
    fn progress_is_percent_events_and_rate() {
        assert_eq!(
            progress_line("order", &replay(0, 1_000_000), None),
            "Replaying order: 0 %, 0 of 1,000,000 events"
        );
        assert_eq!(
            progress_line("order", &replay(999_999, 1_000_000), Some(0.4)),
            "Replaying order: 99 %, 999,999 of 1,000,000 events, 0/s"
        );
        assert_eq!(
            progress_line("order", &replay(250_000, 1_000_000), Some(50_000.0)),
            "Replaying order: 25 %, 250,000 of 1,000,000 events, 50,000/s, about 16 s left"
        );
        for none in [replay(0, 0), replay(7, 5)] {
            assert!(
                progress_line("order", &none, Some(9.0))
                    .ends_with("changing over to order.state.2")
            );
        }
    }

    #[test]
    fn what_is_left_is_rounded_up() {
        for (seconds, shown) in [
            (0, "1 s"),
            (98, "99 s"),
            (99, "2 min"),
            (3_599, "60 min"),
            (6_000, "2 h"),
        ] {
            assert_eq!(rough(Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn the_end_is_a_summary() {
        let done = Replay {
            done: true,
            ..replay(1_234_567, 1_234_567)
        };
        assert_eq!(
            show::plain(&summary(
                "order",
                &done,
                Some(Duration::from_millis(12_340))
            )),
            "Rebuilt the state of order from 1,234,567 events in 12.3 s\n  \
               reads  order.state.2, generation 2\n"
        );
        assert_eq!(
            show::plain(&none_under_way("order", &done)),
            "No replay of order is under way.\n  reads  order.state.2, generation 2\n"
        );
        assert_eq!(
            show::plain(&begun("order", &replay(0, 7))),
            "Began a replay of order, of 7 events, into order.state.2\n  \
               watch  tidemill replay order --watch\n"
        );
    }

    #[test]
    fn trouble_that_passes_is_none() {
        let troubled = |replayed| Replay {
            trouble: Some("a rebalance".to_owned()),
            ..replay(replayed, 9)
        };
        let mut pace = Pace::new(&troubled(0));
        assert!(pace.stuck.is_some() && !pace.is_stopped());
        pace.note(&troubled(1));
        assert!(pace.stuck.is_none());
        pace.note(&troubled(1));
        assert!(pace.stuck.is_some());
        pace.note(&replay(1, 9));
        assert!(pace.stuck.is_none());
    }

    #[test]
    fn trouble_is_shown_with_how_far_it_came() {
        let failure = stopped("order", &replay(5, 7), "Kafka\u{1b} is away").into();
        assert_eq!(
            show::plain(&crate::failure::render(&failure)),
            "error: the replay of order is stopped, after 5 of 7 events\n  \
               Kafka\u{fffd} is away\n\
             hint: requests are answered from the old state meanwhile; `tidemill services order` \
             shows more"
        );
    }
}
