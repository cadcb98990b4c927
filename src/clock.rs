//! The clock that events have.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// What `CLOCK_MONOTONIC` is behind the Unix epoch. Taken once, so that time does not jump when somebody sets the clock, and what
/// different sources tell stays comparable.
pub(crate) fn epoch_offset() -> u64 {
    static OFFSET: OnceLock<u64> = OnceLock::new();
    // Of several tries the one in which the least came in between.
    let tries = || {
        (0..8).map(|_| {
            let (before, epoch, after) = (monotonic(), now(), monotonic());
            let took = after.saturating_sub(before);
            (took, epoch.saturating_sub(before + took / 2))
        })
    };
    *OFFSET.get_or_init(|| tries().min().map_or(0, |(_, offset)| offset))
}

/// The host whose clock it is, by its name.
pub(crate) fn host() -> Option<String> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The boot of the host since which the clock runs, by the id that the kernel has for it.
pub(crate) fn boot() -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let boot = text.trim();
    (!boot.is_empty()).then(|| boot.to_owned())
}
