//! When, on what and of what versions something was measured.

use std::collections::BTreeMap;
use std::process::Command;
use std::{env, fs, thread};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tidemill_tests::root;

/// What a measurement was made with.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Circumstances {
    /// When it ended, in UTC.
    pub(crate) when: String,
    /// The commit that was measured, with a `+` if files differed from it.
    pub(crate) commit: String,
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    /// Of what was measured, and of what built it.
    pub(crate) versions: BTreeMap<String, String>,
    /// The settings that were not as usual: `BENCH_ROUNDS` and its like.
    pub(crate) settings: BTreeMap<String, String>,
}

impl Circumstances {
    /// Those of now.
    pub(crate) fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let when = Timestamp::now().to_string();
        Self {
            // To the minute.
            when: when.get(..16).unwrap_or(&when).replace('T', " "),
            commit: commit(),
            cores: thread::available_parallelism().map_or(0, usize::from),
            processor: field(&read("/proc/cpuinfo"), "model name").to_owned(),
            memory_gib: gib(field(&read("/proc/meminfo"), "MemTotal")),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            versions: versions(),
            settings: env::vars()
                .filter(|(name, value)| name.starts_with("BENCH_") && !value.is_empty())
                .collect(),
        }
    }

    /// The machine in a line.
    pub(crate) fn machine(&self) -> String {
        format!(
            "{} cores ({}), {} GiB, Linux {}",
            self.cores, self.processor, self.memory_gib, self.kernel
        )
    }
}

fn commit() -> String {
    let hash = says("git", &["rev-parse", "--short=10", "HEAD"]);
    let changed = says("git", &["status", "--porcelain", "--untracked-files=no"]);
    let mark = if changed.is_empty() { "" } else { "+" };
    format!("{hash}{mark}")
}

fn versions() -> BTreeMap<String, String> {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap_or_default();
    let lock = read("Cargo.lock");
    let kafka = |pom: &str| element(&read(pom), "kafka.version").to_owned();
    let rustc = says("rustc", &["-V"]);
    let mut versions = BTreeMap::from([
        (
            "rustc",
            rustc.split(' ').nth(1).unwrap_or_default().to_owned(),
        ),
        ("librdkafka", rdkafka::util::get_rdkafka_version().1),
        ("Kafka", kafka("kafka/pom.xml")),
        ("Kafka Streams", kafka("bench/streams/pom.xml")),
    ]);
    for name in ["wasmtime", "hyper", "tokio", "rdkafka"] {
        versions.insert(name, locked(&lock, name).to_owned());
    }
    let python = read("bench/fastapi/requirements.txt");
    let pins = python.lines().filter_map(|line| line.split_once("=="));
    versions.extend(pins.map(|(name, version)| (name, version.trim().to_owned())));
    let known = versions
        .into_iter()
        .filter(|(_, version)| !version.is_empty());
    known
        .map(|(name, version)| (name.to_owned(), version))
        .collect()
}

/// What a program writes to standard output; nothing if it cannot.
fn says(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output();
    let output = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).trim().to_owned()
}

/// The value of a field in a file of `/proc`.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.split_once(':'))
        .map_or("", |(_, value)| value.trim())
}

/// Whole GiB of a number of kB.
fn gib(kilobytes: &str) -> u64 {
    let number = kilobytes.trim_end_matches(" kB").parse::<u64>();
    number.unwrap_or_default().div_ceil(1 << 20)
}

/// The version of a package in a `Cargo.lock`; the newest, which is the last.
fn locked<'a>(lock: &'a str, name: &str) -> &'a str {
    let package = format!("[[package]]\nname = {name:?}\nversion = \"");
    lock.rsplit_once(package.as_str())
        .and_then(|(_, rest)| rest.split_once('"'))
        .map_or("", |(version, _)| version)
}

/// The content of an element in an XML file that has it once.
fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    xml.split_once(&format!("<{name}>"))
        .and_then(|(_, rest)| rest.split_once('<'))
        .map_or("", |(value, _)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_where_they_are_pinned() {
        let lock = "[[package]]\nname = \"hyper\"\nversion = \"1.9.0\"\n\n\
                    [[package]]\nname = \"hyper-util\"\nversion = \"0.1.20\"\n";
        assert_eq!(locked(lock, "hyper"), "1.9.0");
        assert_eq!(locked(lock, "tokio"), "");
        assert_eq!(element("<a><v>4.2</v></a>", "v"), "4.2");
    }

    #[test]
    fn fields_of_proc_are_read() {
        let cpu = "processor\t: 0\nmodel name\t: Some CPU\n";
        assert_eq!(field(cpu, "model name"), "Some CPU");
        assert_eq!(gib("16384000 kB"), 16);
    }
}
