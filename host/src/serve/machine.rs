//! How much memory there is for this process: the machine's, or what its cgroups
//! allow.

use std::path::{Path, PathBuf};

/// Bytes that this process can have at most. If the system does not tell, it is
/// taken for a small one.
pub(super) fn memory() -> u64 {
    const SMALL: u64 = 2 << 30;
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let machine = read(Path::new("/proc/meminfo")).and_then(|text| total(&text));
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = limit_files(&groups);
    let limits = limits
        .iter()
        .filter_map(|path| read(path)?.trim().parse::<u64>().ok());
    limits.chain(machine).min().unwrap_or(SMALL)
}

/// The total of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The files that hold the limits of this process's cgroups and of those above
/// them, by `/proc/self/cgroup`: version 2 has the line `0::/path`, version 1 one
/// for each controller. A container often sees its own group as the root.
fn limit_files(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            one if one.split(',').any(|name| name == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let below = Path::new(path.trim_start_matches('/'));
        let above = below.ancestors();
        files.extend(above.map(|group| Path::new(root).join(group).join(file)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded_by_the_groups_above_too() {
        let files = limit_files("0::/system.slice/tidemill.service\n");
        let expected = [
            "/sys/fs/cgroup/system.slice/tidemill.service/memory.max",
            "/sys/fs/cgroup/system.slice/memory.max",
            "/sys/fs/cgroup/memory.max",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
        let files = limit_files("5:cpu,cpuacct:/a\n4:memory:/a\n");
        let expected = [
            "/sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ];
        assert_eq!(files, expected.map(PathBuf::from));
        assert_eq!(limit_files("garbage"), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_machine_says_what_it_has() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:   16 kB\n"), Some(16 << 10));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(memory() >= 64 << 20);
    }
}
