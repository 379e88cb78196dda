//! How long the kernel lets a thread of this process run before another one has a
//! turn.
//!
//! A thread that wakes up runs before one with a longer slice, and waits for one
//! with the same until its slice is over: 1.4 ms on two cores. What wakes up here
//! has a request to answer, which takes microseconds, beside calls that compute for
//! long. So short slices are asked for, which Linux grants since 6.12 and does not
//! hear before (`sched_setattr(2)`, `sched_runtime` of a thread that is not in real
//! time).

#[cfg(target_os = "linux")]
use std::mem::{size_of, zeroed};

/// The shortest slice that there is, in nanoseconds.
#[cfg(target_os = "linux")]
const SLICE: u64 = 100_000;

/// Asks for short slices, for this thread and those that it starts. All else stays
/// as whoever started this process had it.
#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "the C library has no function for these calls, nor does rustix"
)]
pub(super) fn shorten() {
    const SIZE: u32 = size_of::<libc::sched_attr>() as u32;
    // SAFETY: a sched_attr is integers. The kernel writes and reads no more than the
    // size that it is told; thread 0 is this one.
    let set = unsafe {
        let mut attributes: libc::sched_attr = zeroed();
        let got = libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0);
        let policy = attributes.sched_policy.cast_signed();
        if got != 0 || ![libc::SCHED_OTHER, libc::SCHED_BATCH].contains(&policy) {
            return;
        }
        attributes.size = SIZE;
        attributes.sched_runtime = SLICE;
        libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0)
    };
    if set != 0 {
        let error = std::io::Error::last_os_error();
        tracing::debug!("no short slices from the kernel: {error}");
    }
}

/// There is no such thing here.
#[cfg(not(target_os = "linux"))]
pub(super) fn shorten() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::read_to_string;

    /// Whether the kernel hears what it is asked.
    fn hears() -> bool {
        let release = read_to_string("/proc/sys/kernel/osrelease").unwrap();
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
    fn threads_that_are_started_have_short_slices_too() {
        super::shorten();
        let slice = std::thread::spawn(slice).join().unwrap();
        match slice {
            Some(slice) if hears() => assert_eq!(slice, super::SLICE),
            _ => eprintln!("this kernel has none, or does not tell"),
        }
    }
}
