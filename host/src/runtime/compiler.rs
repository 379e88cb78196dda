//! Compiling, in a process of its own: what takes too long or too much memory,
//! or breaks the compiler, ends there.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::component::LoadError;
use super::engine;

/// Memory that compiling may take: a large language runtime needs half a
/// gigabyte.
const MEMORY: u64 = 4 << 30;
/// What the compiler says of a component that is not valid is cut here.
const MESSAGE: usize = 4 << 10;
/// How often it is looked whether the compiler has ended.
const LOOK: Duration = Duration::from_millis(5);
/// How much the serving threads go before the compiler's.
const NICE: i32 = 3;

/// Where components are compiled.
#[derive(Clone, Copy, Debug)]
pub enum Compiler {
    /// In this process, for as long as it takes: for tests.
    Here,
    /// In a process of its own, for at most so long.
    Apart(Duration),
}

impl Compiler {
    /// Compiles a component into a file.
    pub(super) fn compile(
        self,
        engine: &wasmtime::Engine,
        bytes: &[u8],
        output: &Path,
    ) -> Result<(), LoadError> {
        match self {
            Compiler::Here => {
                let compiled = precompile(engine, bytes).map_err(LoadError::NotValid)?;
                std::fs::write(output, compiled).map_err(LoadError::Compiler)
            }
            Compiler::Apart(limit) => apart(bytes, output, limit),
        }
    }
}

fn apart(bytes: &[u8], output: &Path, limit: Duration) -> Result<(), LoadError> {
    let input = output.with_extension("input");
    let compiled = spawn(bytes, &input, output, limit).map_err(LoadError::Compiler);
    let _ = std::fs::remove_file(&input);
    let mut child = compiled?;
    let status = wait(&mut child, limit).map_err(LoadError::Compiler)?;
    let Some(status) = status else {
        return Err(LoadError::CompileTime(limit));
    };
    if status.success() {
        return Ok(());
    }
    let mut message = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(MESSAGE as u64).read_to_end(&mut message);
    }
    let message = String::from_utf8_lossy(&message).trim().to_owned();
    Err(match status.code() {
        Some(NOT_VALID) => LoadError::NotValid(message),
        _ => LoadError::Compiler(ended(status, &message)),
    })
}

/// The compiler's exit code for a component that is not valid.
const NOT_VALID: i32 = 3;

fn ended(status: ExitStatus, message: &str) -> std::io::Error {
    let most = MEMORY >> 30;
    std::io::Error::other(format!(
        "it ended with {status}, and may use {most} GiB of memory: {message}"
    ))
}

/// Starts the compiler: this very program, whatever has become of its file.
fn spawn(bytes: &[u8], input: &Path, output: &Path, limit: Duration) -> std::io::Result<Child> {
    std::fs::write(input, bytes)?;
    let program = if cfg!(target_os = "linux") {
        "/proc/self/exe".into()
    } else {
        std::env::current_exe()?
    };
    Command::new(program)
        .arg("compile")
        .arg(output)
        .arg(limit.as_secs().saturating_add(1).to_string())
        // It is told nothing that it does not need, such as tokens.
        .env_clear()
        .stdin(File::open(input)?)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
}

/// Waits for the end; none if it does not come in time, and is made.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// The compiler's process: compiles what it reads from standard input into a
/// file. Whatever becomes of its parent, it ends after `limit` and some.
#[must_use]
pub fn run(output: &Path, limit: u64) -> ExitCode {
    bound(limit);
    let mut bytes = Vec::new();
    let read = std::io::stdin().read_to_end(&mut bytes);
    let done = read.map_err(|error| (1, error.to_string())).and_then(|_| {
        let engine = engine::compiling_engine().map_err(|error| (1, format!("{error:#}")))?;
        let compiled = precompile(&engine, &bytes).map_err(|why| (NOT_VALID, why))?;
        std::fs::write(output, compiled).map_err(|error| (1, error.to_string()))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, why)) => {
            let why = why.as_bytes();
            let _ = std::io::stderr().write_all(why.get(..MESSAGE).unwrap_or(why));
            ExitCode::from(u8::try_from(code).unwrap_or(1))
        }
    }
}

fn bound(limit: u64) {
    // What this system does not know stays unbounded, and its parent watches.
    let _ = rlimit::setrlimit(rlimit::Resource::DATA, MEMORY, MEMORY);
    let _ = rlimit::setrlimit(rlimit::Resource::CORE, 0, 0);
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let seconds = limit.saturating_mul(cores);
    let _ = rlimit::setrlimit(rlimit::Resource::CPU, seconds, seconds);
    let _ = rustix::process::nice(NICE);
}

fn precompile(engine: &wasmtime::Engine, bytes: &[u8]) -> Result<Vec<u8>, String> {
    engine
        .precompile_component(bytes)
        .map_err(|cause| format!("{cause:#}"))
}
