//! Where time goes: what `perf` sees of a system while it is loaded.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command};

use crate::report::slug;

/// Sampling goes on until this is dropped.
pub(crate) struct Profile(Option<Child>);

/// The folder for what is sampled, if something is: `BENCH_PERF`.
pub(crate) fn samples() -> Option<OsString> {
    env::var_os("BENCH_PERF")
}

/// Begins to sample a process, if it is Tidemill's and that is asked for. What is
/// measured says how the file is called.
pub(crate) fn profile(process: u32, system: &str, measured: &str) -> Profile {
    let folder = samples().filter(|_| system.starts_with("Tidemill"));
    Profile(folder.map(|folder| {
        let name = slug(&format!("{measured} {system}"));
        let file = PathBuf::from(folder).join(name).with_extension("data");
        let mut perf = Command::new("perf");
        perf.args(["record", "-q", "-F", "997", "--call-graph", "fp"]);
        perf.args(["-p", &process.to_string(), "-o"]).arg(file);
        perf.spawn().unwrap()
    }))
}

impl Drop for Profile {
    fn drop(&mut self) {
        if let Some(perf) = &mut self.0 {
            let process = perf.id().to_string();
            // So that it writes what it has.
            let _ = Command::new("kill").args(["-INT", &process]).status();
            let _ = perf.wait();
        }
    }
}
