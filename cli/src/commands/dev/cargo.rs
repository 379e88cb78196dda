//! Cargo, as a process that can be stopped, and what it says.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;

use super::News;
use crate::commands::build::component_of;
use crate::project;

/// A build that takes longer shows how far it is, and so often.
const LONG: Duration = Duration::from_secs(2);

/// Stops a build, now or before it has begun.
#[derive(Clone, Default)]
pub(super) struct Cancel(Arc<Mutex<Stage>>);

#[derive(Default)]
enum Stage {
    #[default]
    Waiting,
    /// Cargo leads a group of processes: the compilers are in it.
    Running(Pid),
    Cancelled,
}

impl Cancel {
    /// Has the build end, and what it started. What is deployed already stays.
    pub(super) fn cancel(&self) {
        let mut stage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Stage::Running(group) = *stage {
            // It may have ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
        *stage = Stage::Cancelled;
    }

    pub(super) fn is_cancelled(&self) -> bool {
        let stage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(*stage, Stage::Cancelled)
    }

    /// Starts a process; none if there is to be none any more.
    fn start(&self, command: &mut Command) -> std::io::Result<Option<Child>> {
        let mut stage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*stage, Stage::Cancelled) {
            return Ok(None);
        }
        let child = command.process_group(0).spawn()?;
        *stage = Stage::Running(Pid::from_child(&child));
        Ok(Some(child))
    }

    /// The process has ended: its number may be another's from now on.
    fn ended(&self) {
        let mut stage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*stage, Stage::Running(_)) {
            *stage = Stage::Waiting;
        }
    }
}

/// What the compiler has to say.
pub(super) struct Diagnostic {
    pub(super) is_error: bool,
    /// As it is shown, with colours.
    pub(super) rendered: String,
}

/// What came of a build that was not cancelled.
pub(super) struct Run {
    pub(super) worked: bool,
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) artifact: Option<PathBuf>,
    /// What cargo said itself.
    pub(super) words: String,
    pub(super) took: Duration,
}

/// Runs cargo; none if it was cancelled.
pub(super) fn run(
    mut command: Command,
    dir: &Path,
    cancel: &Cancel,
    service: usize,
    tell: &Sender<News>,
) -> Result<Option<Run>> {
    command
        .arg("--message-format=json-diagnostic-rendered-ansi")
        // What is no terminal's is dropped on the way out.
        .env("CARGO_TERM_COLOR", "always")
        .env("CARGO_TERM_PROGRESS_WHEN", "never")
        .stderr(Stdio::piped());
    let began = Instant::now();
    let started = cancel
        .start(&mut command)
        .map_err(|error| project::not_started("cargo", &error))?;
    let Some(mut cargo) = started else {
        return Ok(None);
    };
    let words = cargo.stderr.take().map(|stderr| {
        let tell = tell.clone();
        thread::spawn(move || listen(stderr, service, began, &tell))
    });
    let mut diagnostics = Vec::new();
    let mut artifact = None;
    if let Some(output) = cargo.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            artifact = component_of(&line, dir).or(artifact);
            diagnostics.extend(diagnostic(&line));
        }
    }
    let status = cargo.wait().context("cannot wait for cargo")?;
    cancel.ended();
    let words = words.and_then(|words| words.join().ok());
    if cancel.is_cancelled() {
        return Ok(None);
    }
    Ok(Some(Run {
        worked: status.success(),
        diagnostics,
        artifact,
        words: words.unwrap_or_default(),
        took: began.elapsed(),
    }))
}

/// What cargo says beside the compiler. It is told as it comes when the build takes
/// long, and returned for a build that fails without the compiler.
fn listen(stderr: impl Read, service: usize, began: Instant, tell: &Sender<News>) -> String {
    let mut words = String::new();
    let mut told = began;
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        if told.elapsed() > LONG {
            told = Instant::now();
            let _ = tell.send(News::Cargo(service, line.clone()));
        }
        words.push_str(&line);
        words.push('\n');
    }
    words
}

#[derive(Deserialize)]
struct Message {
    message: Compiler,
}

#[derive(Deserialize)]
struct Compiler {
    level: String,
    rendered: Option<String>,
    spans: Vec<serde::de::IgnoredAny>,
    code: Option<serde::de::IgnoredAny>,
}

/// What the compiler says in a line of cargo's, but for its summary at the end.
fn diagnostic(line: &str) -> Option<Diagnostic> {
    let Message { message } = serde_json::from_str(line).ok()?;
    let is_error = message.level.starts_with("error");
    let is_summary = message.spans.is_empty() && message.code.is_none();
    let counts = |text: &str| text.contains("aborting due to") || text.contains("emitted");
    let rendered = message.rendered?;
    if !is_error && message.level != "warning" || is_summary && counts(&rendered) {
        return None;
    }
    Some(Diagnostic { is_error, rendered })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(level: &str, text: &str, spans: &str) -> Option<bool> {
        let line = format!(
            r#"{{"reason":"compiler-message","message":{{"level":"{level}","rendered":"{text}",
            "spans":[{spans}],"code":null,"message":""}}}}"#
        );
        diagnostic(&line).map(|diagnostic| diagnostic.is_error)
    }

    #[test]
    fn the_compilers_summary_is_left_out() {
        assert_eq!(said("error", "mismatched types", "{}"), Some(true));
        assert_eq!(said("warning", "unused variable", "{}"), Some(false));
        assert_eq!(said("error", "linking failed", ""), Some(true));
        assert_eq!(said("error", "aborting due to 2 previous errors", ""), None);
        assert_eq!(said("warning", "1 warning emitted", ""), None);
        assert_eq!(said("failure-note", "for more about it", ""), None);
        assert!(diagnostic(r#"{"reason":"build-finished","success":true}"#).is_none());
    }

    #[test]
    fn a_build_that_was_cancelled_before_it_began_does_not_begin() {
        let cancel = Cancel::default();
        cancel.cancel();
        let (tell, _) = std::sync::mpsc::channel();
        let command = Command::new("cargo-that-is-not-there");
        let ran = run(command, Path::new("/"), &cancel, 0, &tell).expect("no error");
        assert!(ran.is_none());
    }

    #[test]
    fn what_is_cancelled_ends_with_all_that_it_started() {
        let cancel = Cancel::default();
        let (tell, _) = std::sync::mpsc::channel();
        let mut command = Command::new("sh");
        // The pipe ends when the last process that has it does.
        command.args(["-c", "sleep 600 & echo begun >&2; wait"]);
        command.stdout(Stdio::piped());
        let canceller = cancel.clone();
        let ran = thread::spawn(move || run(command, Path::new("/"), &cancel, 0, &tell));
        while !matches!(
            *canceller.0.lock().expect("nobody panicked"),
            Stage::Running(_)
        ) {
            thread::yield_now();
        }
        canceller.cancel();
        let ran = ran.join().expect("it ends").expect("without an error");
        assert!(ran.is_none());
    }
}
