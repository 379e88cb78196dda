//! What `tidemill dev` shows: a head, then lines as things happen. Plain text that
//! scrolls, so that it is as right in a pipe as on a terminal.

use std::cell::Cell;
use std::time::Duration;

use anstyle::Style;
use anyhow::{Error, Result};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use super::cargo::Diagnostic;
use super::cycle::Served;
use super::host::Host;
use super::{Dirty, Service, shown};
use crate::api::{Level, LogLine};
use crate::commands::logs;
use crate::failure;
use crate::project::Project;
use crate::show::{self, BAD, BOLD, DIM, FINE};

pub(super) struct Screen {
    /// Names of the services, by number, as wide as the widest.
    names: Vec<String>,
    zone: TimeZone,
    /// Whether somebody reads what is printed.
    read: Cell<bool>,
}

/// Styles that tell services apart.
const COLOURS: [Style; 4] = [
    color(anstyle::AnsiColor::Cyan),
    color(anstyle::AnsiColor::Magenta),
    color(anstyle::AnsiColor::Blue),
    color(anstyle::AnsiColor::Yellow),
];

const fn color(color: anstyle::AnsiColor) -> Style {
    Style::new().fg_color(Some(anstyle::Color::Ansi(color)))
}

impl Screen {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Screen {
        let names: Vec<&str> = names.collect();
        let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
        let styled = names.iter().zip(COLOURS.iter().cycle());
        Screen {
            names: styled
                .map(|(name, style)| show::styled(*style, &format!("{name:width$}")))
                .collect(),
            zone: TimeZone::system(),
            read: Cell::new(true),
        }
    }

    /// Whether somebody reads what is printed.
    pub(super) fn is_read(&self) -> bool {
        self.read.get()
    }

    fn print(&self, text: &str) -> Result<()> {
        let read_on = show::print_on(text)?;
        self.read.set(self.read.get() && read_on);
        Ok(())
    }

    /// A line about a service, of now.
    fn now(&self, service: usize, text: &str) -> Result<()> {
        let time = ZonedDateTime::now().with_time_zone(self.zone.clone());
        self.at(&clock(&time), service, text)
    }

    fn at(&self, time: &str, service: usize, text: &str) -> Result<()> {
        let name = self.names.get(service).map_or("", String::as_str);
        self.print(&format!("{DIM}{time}{DIM:#} {name}  {text}\n"))
    }

    /// Where everything is.
    pub(super) fn header(&self, host: &Host, projects: &[&Project]) -> Result<()> {
        let mut fields = Vec::new();
        let admin = format!("http://{}", host.connection.admin);
        match host.http() {
            Some(http) => {
                let broker = match host.kafka() {
                    Some(servers) => format!("Kafka at {servers}"),
                    None => "an embedded broker, in memory".to_owned(),
                };
                fields.push(("services", format!("http://{http}")));
                fields.push(("docs", format!("http://{http}/docs")));
                fields.push(("admin", admin));
                let note = format!("started here, and stopped at the end; {broker}");
                fields.push(("host", note));
            }
            None => fields.push(("host", format!("{admin}, which ran already"))),
        }
        let mut watched = Vec::new();
        for project in projects {
            let folders: Vec<String> = project.packages.iter().map(|dir| shown(dir)).collect();
            watched.push((
                project.manifest.name.as_str(),
                format!(
                    "{}\n{DIM}{}{DIM:#}",
                    connections(project),
                    folders.join(", ")
                ),
            ));
        }
        self.print(&format!(
            "\n  {BOLD}Tidemill dev{BOLD:#}\n\n{}\n{}\n  {DIM}Saves are deployed as they come. Ctrl-C stops it.{DIM:#}\n\n",
            show::fields(&fields),
            show::fields(&watched)
        ))
    }

    /// A cycle begins.
    pub(super) fn begins(&self, service: usize, dirty: &Dirty, project: &Project) -> Result<()> {
        let text = match &dirty.file {
            None => "building".to_owned(),
            Some(file) => {
                let file = file
                    .strip_prefix(&project.dir)
                    .map_or_else(|_| shown(file), |file| file.display().to_string());
                format!("{file} has changed")
            }
        };
        self.now(service, &show::styled(DIM, &text))
    }

    /// Cargo says how far it is.
    pub(super) fn cargo(&self, service: usize, line: &str) -> Result<()> {
        self.now(service, &show::styled(DIM, &plain(line)))
    }

    /// What the compiler says, as it looks on its own.
    pub(super) fn diagnostic(&self, diagnostic: &Diagnostic) -> Result<()> {
        self.print(&diagnostic.rendered)?;
        if diagnostic.rendered.ends_with("\n\n") {
            return Ok(());
        }
        self.print("\n")
    }

    /// A new revision serves.
    pub(super) fn serving(
        &self,
        number: usize,
        served: &Served,
        new: bool,
        more: &str,
    ) -> Result<()> {
        let revision = show::styled(DIM, &show::short(&served.deployed.revision));
        let after = format!("serving after {}", seconds(served.rest));
        let after = match new {
            true => show::styled(FINE, &after),
            false => "nothing new to serve".to_owned(),
        };
        self.now(
            number,
            &match served.built {
                Some(built) => format!("built in {}, {after}  {revision}", seconds(built)),
                None => format!("{after}  {revision}"),
            },
        )?;
        self.print(more)
    }

    /// The compiler has said why, by now.
    pub(super) fn does_not_compile(
        &self,
        number: usize,
        service: &Service,
        took: Duration,
    ) -> Result<()> {
        let what = format!("does not compile ({})", seconds(took));
        self.stays(number, service, &what)
    }

    /// A cycle came to nothing.
    pub(super) fn failed(
        &self,
        number: usize,
        service: &Service,
        error: &Error,
        what: &str,
    ) -> Result<()> {
        self.print(&format!("{}\n", failure::render(error)))?;
        self.stays(number, service, what)
    }

    fn stays(&self, number: usize, service: &Service, what: &str) -> Result<()> {
        let what = show::styled(BAD, what);
        let text = match &service.serving {
            Some(revision) => format!("{what}; {} serves on", show::short(revision)),
            None => format!("{what}; nothing serves yet"),
        };
        self.now(number, &text)
    }

    /// A line of the log of a service. What the host does as usual is not said.
    pub(super) fn line(&self, service: usize, line: &LogLine) -> Result<()> {
        if !is_news(line) {
            return Ok(());
        }
        let time = line.timestamp.parse::<Timestamp>();
        let time = time.unwrap_or_else(|_| Timestamp::now());
        let time = clock(&time.to_zoned_datetime(self.zone.clone()));
        self.at(&time, service, &logs::said(line))
    }

    /// Something about the log of a service.
    pub(super) fn note(&self, service: usize, text: &str) -> Result<()> {
        self.now(service, &show::styled(DIM, text))
    }

    /// What the host that was started says about itself.
    pub(super) fn host(&self, line: &LogLine) -> Result<()> {
        print_host(line)
    }

    /// Ctrl-C.
    pub(super) fn ends(&self, host: bool) {
        if host {
            // That nobody reads it is no reason not to end.
            let _ = self.print(&format!("\n{DIM}Stopping the host.{DIM:#}\n"));
        }
    }
}

/// What a host says about itself, if it is trouble.
pub(super) fn print_host(line: &LogLine) -> Result<()> {
    // Who deploys hears of a refusal itself.
    let refused = line.event.as_deref() == Some("deploy.refused");
    if line.level >= Level::Warn && !refused {
        show::print(&format!("{}\n", logs::said(line)))?;
    }
    Ok(())
}

/// Whether a line is one of a guest, of an invocation, or about trouble.
fn is_news(line: &LogLine) -> bool {
    let known = ["guest.line", "request.answered", "event.ran"];
    let event = line.event.as_deref();
    line.level >= Level::Warn || event.is_some_and(|event| known.contains(&event))
}

/// What a service answers and consumes.
fn connections(project: &Project) -> String {
    let manifest = &project.manifest;
    let routes = manifest.http.iter().flat_map(|http| &http.routes);
    let routes: Vec<String> = routes.map(ToString::to_string).collect();
    let topics = manifest.subscribe.iter().map(|one| one.topic.as_str());
    let topics: Vec<&str> = topics.collect();
    match (routes.is_empty(), topics.is_empty()) {
        (_, true) => routes.join(" "),
        (true, false) => format!("← {}", topics.join(" ")),
        (false, false) => format!("{} ← {}", routes.join(" "), topics.join(" ")),
    }
}

/// The time of day, here, to the millisecond.
fn clock(time: &ZonedDateTime) -> String {
    time.strftime("%H:%M:%S%.3f").to_string()
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// A line of cargo's without its colours and its margin.
fn plain(line: &str) -> String {
    let text = anstream::adapter::strip_str(line).to_string();
    show::line(text.trim(), 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: &str, event: &str) -> LogLine {
        let text = format!(
            r#"{{"timestamp":"2026-11-24T13:06:41.123456Z","level":"{level}","event":"{event}","message":"m"}}"#
        );
        serde_json::from_str(&text).expect("a line")
    }

    #[test]
    fn what_handlers_do_and_what_goes_wrong_is_news() {
        assert!(is_news(&line("debug", "guest.line")));
        assert!(is_news(&line("info", "request.answered")));
        assert!(is_news(&line("warn", "event.failed")));
        assert!(!is_news(&line("info", "partitions.assigned")));
    }

    #[test]
    fn times_are_short() {
        assert_eq!(seconds(Duration::from_millis(1_234)), "1.23 s");
        let time = Timestamp::UNIX_EPOCH.to_zoned_datetime(TimeZone::UTC);
        assert_eq!(clock(&time), "00:00:00.000");
        assert_eq!(
            plain("\u{1b}[32m   Compiling\u{1b}[0m a v1"),
            "Compiling a v1"
        );
    }
}
