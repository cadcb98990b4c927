//! The kernel's line about a process, `/proc/PID/stat`, what follows from it, and its threads. A failure to read these (no
//! descriptors left, no memory) does not mean that the process is gone: confusing the two would end a session whose
//! program still runs, and report it as complete.

use std::ffi::OsString;
use std::time::Duration;
use std::{fs, io};

use procfs::process::{ProcState, Process, Stat};
use procfs::{ProcError, ProcResult};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

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

/// How long ago a process began that has this start time; nothing for one that lies ahead.
pub(crate) fn age(start_time: u64) -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    let now = Duration::new(
        u64::try_from(now.tv_sec).unwrap_or(0),
        u32::try_from(now.tv_nsec).unwrap_or(0),
    );
    let ticks = procfs::ticks_per_second().max(1);
    let began = Duration::from_millis(start_time.saturating_mul(1000) / ticks);
    now.saturating_sub(began)
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

/// The same, and a zombie has ended, too: it only waits for its parent.
pub(crate) fn has_ended(pid: u32, started: u64) -> bool {
    stat(pid).is_ok_and(|now| !now.is_some_and(|now| now.starttime == started && is_alive(&now)))
}

/// Whether the first process is an ancestor of the second one.
pub(crate) fn is_ancestor(ancestor: u32, pid: u32) -> bool {
    /// No family is deeper, and a process that changes its parent meanwhile makes no circle of it.
    const DEEPEST: usize = 1 << 10;
    let parent = |pid: &u32| u32::try_from(stat(*pid).ok()??.ppid).ok();
    let line = std::iter::successors(parent(&pid), parent).take(DEEPEST);
    line.take_while(|pid| *pid > 0).any(|pid| pid == ancestor)
}

/// Whether a process is stopped, by a signal or by a debugger.
pub(crate) fn is_stopped(pid: u32) -> bool {
    let state = stat(pid).ok().flatten().and_then(|stat| stat.state().ok());
    matches!(state, Some(ProcState::Stopped | ProcState::Tracing))
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
    // A main thread that has ended before the others is called a zombie, too.
    stat.num_threads > 1
        || stat
            .state()
            .is_ok_and(|state| !matches!(state, ProcState::Zombie | ProcState::Dead))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;
    use crate::python::waiting::{PYTHON, Waiting};

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_zombie_has_ended_although_its_entry_is_there() {
        let mut process = Waiting::python(Path::new(PYTHON), &["x"]);
        let started = start_time(process.pid()).expect("asked").expect("it runs");
        assert!(!has_ended(process.pid(), started));
        assert!(has_ended(process.pid(), started + 1), "another process");
        process.leave_zombie();
        assert!(!is_gone(process.pid(), started), "its entry is there");
        assert!(has_ended(process.pid(), started));
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn a_stopped_process_is_told_from_one_that_waits() {
        let process = Waiting::python(Path::new(PYTHON), &["x"]);
        assert!(!is_stopped(process.pid()));
        let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("an id"), Signal::STOP).expect("it can be stopped");
        let end = Instant::now() + Duration::from_secs(20);
        while !is_stopped(process.pid()) {
            assert!(Instant::now() < end, "never stopped");
            std::thread::yield_now();
        }
    }

    #[test]
    #[ignore = "needs Debian 12's Python 3.11: run by scripts/test-here"]
    fn parents_of_parents_are_ancestors_and_children_are_none() {
        let process = Waiting::python(Path::new(PYTHON), &["x"]);
        let ours = std::process::id();
        assert!(is_ancestor(ours, process.pid()));
        assert!(!is_ancestor(process.pid(), ours));
        assert!(!is_ancestor(ours, ours));
    }
}
