//! Processes that never outlive the tests that started them.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;
use std::{io, thread};

use rustix::process::{
    Pid, Signal, kill_process, kill_process_group, set_parent_process_death_signal,
};

use crate::folder::target;
use crate::wait::Deadline;

/// A running process, whose output goes to a file. It is killed when this is
/// dropped, and its output is shown if the test has failed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts a command. `log` gets what it writes, after what is there.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let program = command.get_program().to_owned();
        let child = spawn(command).unwrap_or_else(|error| {
            panic!("{} cannot be started: {error}", program.to_string_lossy())
        });
        Self {
            child,
            name: name.to_owned(),
            log: log.to_owned(),
        }
    }

    /// The process's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Sends SIGKILL, also to the processes that it has started, and waits for the
    /// end.
    pub fn kill(&mut self) {
        if self.ended().is_none() {
            let _ = kill_process_group(self.pid(), Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// If it takes too long.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Deadline::usual();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(!deadline.passed(), "{} does not end", self.name);
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What it wrote so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let last = &lines[lines.len().saturating_sub(100)..];
            eprintln!("---- {}:\n{}\n----", self.name, last.join("\n"));
        }
    }
}

/// Runs a command to its end. Gives whether it succeeded, and what it wrote to
/// standard output and to standard error.
///
/// # Panics
/// If it cannot be started.
pub fn run(command: &mut Command) -> (bool, String, String) {
    let program = command.get_program().to_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", program.to_string_lossy()));
    (
        output.status.success(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// Has a new service built soon rather than well: without LTO and most optimisations,
/// which take most of the time. The seeds are built as services are. Its dependencies
/// are built once for all runs if `name` is of the project's folder alone, and that is
/// at the same place in each.
pub fn builds_soon<'a>(command: &'a mut Command, name: &str) -> &'a mut Command {
    command
        .env("CARGO_TARGET_DIR", target().join("new").join(name))
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
}

type Order = (Command, Sender<io::Result<Child>>);

/// Spawns from a thread that lives as long as the test process: the kernel sends
/// the signal at the parent's death when the thread that spawned ends.
fn spawn(command: Command) -> io::Result<Child> {
    static ORDERS: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, orders) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, answer) in orders {
                // What it starts itself is of its group.
                command.process_group(0);
                // SAFETY: prctl is async-signal-safe, and nothing else is called
                // between fork and exec.
                #[allow(unsafe_code, reason = "there is no safe way to it")]
                unsafe {
                    command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
                }
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (sender, answer) = channel();
    orders.lock().unwrap().send((command, sender)).unwrap();
    answer.recv().unwrap()
}
