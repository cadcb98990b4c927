//! The kernel's line about a process, `/proc/PID/stat`, what follows from it, and its threads. A failure to read these (no
//! descriptors left, no memory) does not mean that the process is gone: confusing the two would end a session whose
//! program still runs, and report it as complete.

use std::ffi::OsString;
use std::{fs, io};

use procfs::process::{ProcState, Process, Stat};
use procfs::{ProcError, ProcResult};
use rustix::io::Errno;

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

/// The threads of a process at this moment; none when it has ended. The whole list is read before anybody looks at one of
/// them: a thread that begins later may be in a list that is read in pieces.
///
/// # Errors
///
/// As [`stat()`].
pub(crate) fn threads(pid: u32) -> io::Result<Vec<u32>> {
    let read = || -> io::Result<Vec<OsString>> {
        let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
        entries.map(|entry| Ok(entry?.file_name())).collect()
    };
    match read() {
        Ok(names) => Ok(names
            .into_iter()
            .filter_map(|name| name.to_str()?.parse().ok())
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
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
