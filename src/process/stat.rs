//! The kernel's line about a process, `/proc/PID/stat`, and what follows from it. That it cannot be read (no descriptors
//! left, no memory) does not say that the process is gone: whoever took the one for the other would end a session whose
//! program still runs, and call that the whole truth.

use procfs::process::{ProcState, Process, Stat};
use procfs::{ProcError, ProcResult};

/// What the kernel says of a process now; `None` when there is none. Asks for nothing that a process can hold back, as it can
/// its arguments by holding a lock on its memory.
///
/// # Errors
///
/// It could not be asked, so the process may be there.
pub(crate) fn stat(pid: u32) -> ProcResult<Option<Stat>> {
    // No process has a larger number.
    let Ok(pid) = i32::try_from(pid) else {
        return Ok(None);
    };
    match Process::new(pid).and_then(|process| process.stat()) {
        Ok(stat) => Ok(Some(stat)),
        Err(ProcError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// When a process was started, in clock ticks since boot: with its number, what tells it from all others of this boot.
///
/// # Errors
///
/// As [`stat`].
pub(crate) fn start_time(pid: u32) -> ProcResult<Option<u64>> {
    Ok(stat(pid)?.map(|stat| stat.starttime))
}

/// Whether it is certain that the process which has this number and was started then has ended.
pub(crate) fn is_gone(pid: u32, started: u64) -> bool {
    start_time(pid).is_ok_and(|now| now != Some(started))
}

/// Whether a process is there and has not ended; one that only waits to be reaped has. One that cannot be asked may well be
/// there.
#[must_use]
pub fn runs(pid: u32) -> bool {
    stat(pid).map_or(true, |stat| stat.is_some_and(|stat| is_alive(&stat)))
}

/// The same of a process that is not about to end either.
#[must_use]
pub fn goes_on(pid: u32) -> bool {
    /// `PF_EXITING` of linux/sched.h: set before anything of the process is given back.
    const EXITING: u32 = 0x4;
    stat(pid).map_or(true, |stat| {
        stat.is_some_and(|stat| is_alive(&stat) && stat.flags & EXITING == 0)
    })
}

fn is_alive(stat: &Stat) -> bool {
    stat.state()
        .is_ok_and(|state| !matches!(state, ProcState::Zombie | ProcState::Dead))
}
