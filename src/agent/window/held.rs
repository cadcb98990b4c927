//! Stopped threads.
//!
//! Without `PTRACE_O_EXITKILL`: when a tracer ends, its threads continue.
//!
//! # Stopping thousands
//!
//! Waiting until each of thousands of threads has reached its stop takes long: every sleeping one has to be scheduled
//! for it. It is not necessary. `PTRACE_INTERRUPT` sets a flag of the thread (`TIF_SIGPENDING`, with
//! `JOBCTL_TRAP_STOP`) that the kernel checks whenever it is about to return to user space, and then stops the thread.
//! So a thread that is in the kernel at that moment, asleep, preempted or on its way, runs no further instruction of
//! the program until its tracer is gone. Only a thread that is on a CPU in user mode does, until the kernel has
//! interrupted it there. That is certain once another thread has run on that CPU: so we run on each of them once
//! ([`visit`]). If we may not run on some of them, we wait for each stop.
//!
//! The busiest threads are stopped last, because sleeping ones do not notice.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use super::target::threads;
use super::watchdog::Watchdog;
use super::{Target, WindowError};

/// `PTRACE_EVENT_STOP` of linux/ptrace.h.
const EVENT_STOP: i32 = 128;

/// A stopped thread, which continues when this is dropped or when we end.
pub(super) struct Stopped {
    pub(super) thread: Pid,
    /// The signal that it was about to receive.
    pub(super) signal: Option<Signal>,
    /// Whether a signal had already stopped it along with its whole process.
    pub(super) before: bool,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // A thread that was killed in the meantime is gone.
        let _ = ptrace::detach(self.thread, self.signal);
    }
}

/// Makes us the tracer of a thread, which keeps running. False when it has ended.
pub(super) fn seize(thread: Pid) -> Result<bool, WindowError> {
    match ptrace::seize(thread, Options::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(Errno::EPERM) if is_dead(thread) => Ok(false),
        Err(errno) => Err(match tracer(u32::try_from(thread.as_raw()).unwrap_or(0)) {
            Some(tracer) => WindowError::Traced { tracer },
            None => WindowError::Stop(errno.desc().to_owned()),
        }),
    }
}

/// Waits for an interrupted thread to stop. `None` when it has ended.
pub(super) fn stopped(thread: Pid) -> Result<Option<Stopped>, WindowError> {
    loop {
        let (signal, before) = match waitpid(thread, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::PtraceEvent(_, signal, EVENT_STOP)) => (None, signal != Signal::SIGTRAP),
            Ok(WaitStatus::Stopped(_, signal) | WaitStatus::PtraceEvent(_, signal, _)) => {
                (Some(signal), false)
            }
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
            | Err(Errno::ESRCH | Errno::ECHILD) => return Ok(None),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(errno) => return Err(WindowError::Stop(errno.desc().to_owned())),
        };
        return Ok(Some(Stopped {
            thread,
            signal,
            before,
        }));
    }
}

/// Interrupts a seized thread. False when it has ended.
pub(super) fn interrupt(thread: Pid) -> Result<bool, WindowError> {
    match ptrace::interrupt(thread) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(errno) => Err(WindowError::Stop(errno.desc().to_owned())),
    }
}

/// All threads of a process, none of which runs. They continue when this process ends, which it should do at once.
pub(super) struct Held {
    /// When the first thread was interrupted.
    since: Instant,
}

impl Held {
    /// Stops a process. The watchdog watches from here to the end of this process.
    pub(super) fn all(target: Target) -> Result<Held, WindowError> {
        let mut listed = by_activity(target.pid)?;
        let processors = processors();
        std::mem::forget(Watchdog::start()?);
        let mut seized = HashSet::new();
        let mut new = Vec::new();
        // Threads that start meanwhile are found in the next round, until there are none.
        loop {
            let before = new.len();
            for thread in listed {
                if !seized.contains(&thread) && seize(thread)? {
                    seized.insert(thread);
                    new.push(thread);
                }
            }
            if new.len() == before {
                break;
            }
            listed = threads(target.pid)?;
        }
        let since = Instant::now();
        loop {
            let mut interrupted = Vec::with_capacity(new.len());
            for thread in new.drain(..) {
                if interrupt(thread)? {
                    interrupted.push(thread);
                }
            }
            if !processors.as_deref().is_some_and(visit) {
                for thread in interrupted {
                    // It stays stopped.
                    std::mem::forget(stopped(thread)?);
                }
            }
            // Threads of the first list that were running may have started others. An ended thread is counted until we
            // have reaped it, or end.
            if count(target.pid).is_some_and(|count| count <= seized.len()) {
                break;
            }
            for thread in threads(target.pid)? {
                if !seized.contains(&thread) && seize(thread)? {
                    seized.insert(thread);
                    new.push(thread);
                }
            }
            if new.is_empty() {
                break;
            }
        }
        // Its ID may have been reused.
        if seized.is_empty() || !target.is_there() {
            return Err(WindowError::Gone);
        }
        Ok(Held { since })
    }

    /// How long the first thread has been stopped.
    pub(super) fn so_long(&self) -> Duration {
        self.since.elapsed()
    }
}

/// The CPUs that are online; `None` where the kernel does not say.
fn processors() -> Option<Vec<usize>> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    numbers(text.trim())
}

/// Parses a list in the kernel's format: `0-3,8`.
fn numbers(text: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= CpuSet::MAX_CPU {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// Runs on each of these CPUs once. False where that is not possible.
fn visit(processors: &[usize]) -> bool {
    processors.iter().all(|processor| {
        let mut only = CpuSet::new();
        if *processor < CpuSet::MAX_CPU {
            only.set(*processor);
        }
        // Returns once we are there.
        sched_setaffinity(None, &only).is_ok() && sched_getcpu() == *processor
    })
}

/// The threads of a process, the least active first.
fn by_activity(pid: u32) -> Result<Vec<Pid>, WindowError> {
    let mut threads: Vec<(u64, Pid)> = threads(pid)?
        .into_iter()
        .map(|thread| {
            let runs = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat"))
                .ok()
                .and_then(|text| text.split_whitespace().nth(2)?.parse().ok());
            (runs.unwrap_or(0), thread)
        })
        .collect();
    threads.sort_by_key(|(runs, _)| *runs);
    Ok(threads.into_iter().map(|(_, thread)| thread).collect())
}

/// How many threads a process has.
fn count(pid: u32) -> Option<usize> {
    field(pid, "Threads:")
}

/// The tracer of a process or thread.
pub(in crate::agent) fn tracer(pid: u32) -> Option<u32> {
    tracer_in(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// The tracer of a process, from its /proc/PID/status.
pub(in crate::agent) fn tracer_in(status: &str) -> Option<u32> {
    field_in(status, "TracerPid:").filter(|tracer| *tracer != 0)
}

fn field<T: std::str::FromStr>(pid: u32, name: &str) -> Option<T> {
    field_in(
        &fs::read_to_string(format!("/proc/{pid}/status")).ok()?,
        name,
    )
}

fn field_in<T: std::str::FromStr>(status: &str, name: &str) -> Option<T> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

fn is_dead(thread: Pid) -> bool {
    fs::read_to_string(format!("/proc/{thread}/stat")).map_or(true, |stat| {
        let state = stat
            .rsplit_once(") ")
            .map(|(_, rest)| rest.starts_with(['Z', 'X']));
        state.unwrap_or(true)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_listed_as_the_kernel_does() {
        assert_eq!(numbers("0"), Some(vec![0]));
        assert_eq!(numbers("0-2,8,10-11"), Some(vec![0, 1, 2, 8, 10, 11]));
        assert_eq!(numbers(""), None);
        assert_eq!(numbers("0-x"), None);
        assert_eq!(numbers("0-99999"), None);
    }

    #[test]
    fn a_processor_is_visited_where_it_is_there() {
        std::thread::spawn(|| {
            assert!(visit(&[sched_getcpu()]));
            assert!(!visit(&[CpuSet::MAX_CPU - 1]));
        })
        .join()
        .expect("no panic");
    }
}
