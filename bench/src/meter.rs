//! What processes use, as the kernel counts it.

use std::fs;
use std::time::Duration;

/// CPU time that a process has spent, its own and the system's for it.
pub(crate) fn cpu(process: u32) -> Duration {
    let fields = stat(process).unwrap();
    let ticks = number(&fields[11]) + number(&fields[12]);
    // The kernel counts in hundredths of a second towards user space.
    Duration::from_millis(ticks * 10)
}

/// CPU time that a process and all that it has started have spent.
pub(crate) fn cpu_of_all(process: u32) -> Duration {
    family(process).into_iter().map(cpu).sum()
}

/// Memory of a process and all that it has started that is resident now, in MB.
/// What they share counts for each of them.
pub(crate) fn memory_of_all(process: u32) -> f64 {
    family(process).into_iter().map(memory).sum()
}

/// A process, its children, and theirs.
fn family(process: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = processes()
        .filter_map(|process| Some((process, stat(process)?.get(1)?.parse().ok()?)))
        .collect();
    let mut family = vec![process];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        let children = parents.iter().filter(|(_, of)| *of == parent);
        family.extend(children.map(|(child, _)| *child));
        next += 1;
    }
    family
}

/// Memory of a process that is resident now, in MB.
pub(crate) fn memory(process: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB");
    number(kilobytes) as f64 / 1024.0
}

/// The broker that this process has started: its child that runs Kafka.
pub(crate) fn broker() -> u32 {
    let own = std::process::id().to_string();
    let runs_kafka = |process: &u32| {
        let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        stat(*process).is_some_and(|fields| fields[1] == own)
            && line
                .split(|byte| *byte == 0)
                .any(|word| word == b"kafka.Kafka")
    };
    processes().find(runs_kafka).expect("a broker was started")
}

/// All that run.
fn processes() -> impl Iterator<Item = u32> {
    let all = fs::read_dir("/proc").unwrap();
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The fields of a process's `stat` behind its name, which may have spaces.
fn stat(process: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, behind) = text.rsplit_once(')')?;
    Some(behind.split_whitespace().map(str::to_owned).collect())
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}
