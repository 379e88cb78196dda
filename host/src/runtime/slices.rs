//! How soon the kernel lets another thread run before one that computes for long.
//!
//! A thread that wakes up runs at once before one with a longer slice, and waits for
//! one with the same until its slice is over: 1.4 ms on two cores. What wakes up here
//! has a request to answer, which takes microseconds. So a thread asks for a long
//! slice while it runs a long call, which Linux heeds since 6.12 and ignores before
//! (`sched_setattr(2)`, `sched_runtime` of a thread that is not in real time).

/// The longest slice that there is, in nanoseconds.
const LONGEST: u64 = 100_000_000;

/// Runs something that others need not wait for.
pub(super) fn standing_back<T>(run: impl FnOnce() -> T) -> T {
    /// Also when it panics.
    struct Back(u64);

    impl Drop for Back {
        fn drop(&mut self) {
            ask_for(self.0);
        }
    }

    let _back = ask_for(LONGEST).map(Back);
    run()
}

/// Asks for a slice, for this thread, and gives what it had. All else stays as
/// whoever started this process had it.
#[cfg(target_os = "linux")]
fn ask_for(slice: u64) -> Option<u64> {
    const SIZE: u32 = size_of::<libc::sched_attr>() as u32;
    // The C library has no function for these calls, nor does rustix.
    // SAFETY: a sched_attr is integers. The kernel writes and reads no more than the
    // size that it is told; thread 0 is this one.
    unsafe {
        let mut attributes: libc::sched_attr = std::mem::zeroed();
        let got = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0);
        let policy = attributes.sched_policy.cast_signed();
        if got != 0 || ![libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&policy) {
            return None;
        }
        let before = std::mem::replace(&mut attributes.sched_runtime, slice);
        attributes.size = SIZE;
        let set = libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0);
        (set == 0).then_some(before)
    }
}

/// There is no such thing here.
#[cfg(not(target_os = "linux"))]
fn ask_for(_: u64) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use std::fs::read_to_string;

    use super::{LONGEST, standing_back};

    /// Whether the kernel heeds what it is asked.
    fn heeds() -> bool {
        let release = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let mut numbers = release.split(|other: char| !other.is_ascii_digit());
        let mut number = || numbers.next().and_then(|text| text.parse().ok());
        (number(), number()) >= (Some(6), Some(12))
    }

    /// What the kernel says of this thread's slice, in ns, if it does.
    fn slice() -> Option<u64> {
        let sched = read_to_string("/proc/thread-self/sched").ok()?;
        let line = sched.lines().find(|line| line.starts_with("se.slice"))?;
        line.split_whitespace().last()?.parse().ok()
    }

    #[test]
    fn a_thread_has_a_long_slice_for_as_long_as_it_stands_back() {
        let before = slice();
        let meanwhile = standing_back(slice);
        assert_eq!(slice(), before);
        match meanwhile {
            Some(meanwhile) if heeds() => assert_eq!(meanwhile, LONGEST),
            _ => assert_eq!(meanwhile, before),
        }
        let panicked = std::panic::catch_unwind(|| standing_back(|| panic!("as it is told to")));
        assert!(panicked.is_err());
        assert_eq!(slice(), before);
    }
}
