//! The kernel's line about a process, `/proc/PID/stat`, and what follows from it. A failure to read it (no descriptors
//! left, no memory) does not mean that the process is gone: confusing the two would end a session whose program still
//! runs, and report it as complete.

use procfs::process::{ProcState, Process, Stat};
use procfs::{ProcError, ProcResult};

/// What the kernel says of a process now; `None` when there is none. Reads nothing that a process can withhold, as it
/// can its arguments by holding its memory lock.
///
/// # Errors
///
/// When it could not be read, so the process may exist.
pub(crate) fn stat(pid: u32) -> ProcResult<Option<Stat>> {
    // No process has a larger ID.
    let Ok(pid) = i32::try_from(pid) else {
        return Ok(None);
    };
    match Process::new(pid).and_then(|process| process.stat()) {
        Ok(stat) => Ok(Some(stat)),
        Err(ProcError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// When a process was started, in clock ticks since boot: together with its ID, unique within this boot.
///
/// # Errors
///
/// As [`stat`].
pub(crate) fn start_time(pid: u32) -> ProcResult<Option<u64>> {
    Ok(stat(pid)?.map(|stat| stat.starttime))
}

/// Whether the process with this ID and start time has certainly ended.
pub(crate) fn is_gone(pid: u32, started: u64) -> bool {
    start_time(pid).is_ok_and(|now| now != Some(started))
}

/// Whether a process exists and has not ended; a zombie has ended. A process that cannot be read counts as existing.
#[must_use]
pub fn runs(pid: u32) -> bool {
    stat(pid).map_or(true, |stat| stat.is_some_and(|stat| is_alive(&stat)))
}

/// The same, and the process has not begun to exit.
#[must_use]
pub fn goes_on(pid: u32) -> bool {
    /// `PF_EXITING` of linux/sched.h: set before the process releases anything.
    const EXITING: u32 = 0x4;
    stat(pid).map_or(true, |stat| {
        stat.is_some_and(|stat| is_alive(&stat) && stat.flags & EXITING == 0)
    })
}

fn is_alive(stat: &Stat) -> bool {
    stat.state()
        .is_ok_and(|state| !matches!(state, ProcState::Zombie | ProcState::Dead))
}
