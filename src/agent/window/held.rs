//! Threads that are stopped.
//!
//! Without `PTRACE_O_EXITKILL`: the threads of a tracer that ends go on. First all are seized, which stops none; then each
//! is interrupted; then their stops are waited for, by when most have come. The busiest are stopped last and let go first:
//! those that sleep do not notice.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::watchdog::Watchdog;
use super::{Target, WindowError, threads};

/// `PTRACE_EVENT_STOP` of linux/ptrace.h.
const EVENT_STOP: i32 = 128;

/// A thread that is stopped, goes on when this is dropped or when we end.
pub(super) struct Stopped {
    pub(super) thread: Pid,
    /// The signal that it was about to be given.
    pub(super) signal: Option<Signal>,
    /// Whether it had been stopped by a signal before, with all its process.
    pub(super) before: bool,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // One that was killed meanwhile is gone.
        let _ = ptrace::detach(self.thread, self.signal);
    }
}

/// Makes us the tracer of a thread, which goes on. False when it has ended.
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

/// Waits for the stop of a thread that was interrupted. `None` when it has ended.
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

/// Interrupts a thread that is seized. False when it has ended.
pub(super) fn interrupt(thread: Pid) -> Result<bool, WindowError> {
    match ptrace::interrupt(thread) {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(errno) => Err(WindowError::Stop(errno.desc().to_owned())),
    }
}

/// All threads of a process, stopped.
pub(super) struct Held {
    /// The idlest first.
    threads: Vec<Stopped>,
    /// When the first was interrupted.
    since: Instant,
    /// After the threads: it watches until the last goes on.
    _watchdog: Watchdog,
}

impl Held {
    /// Stops a process.
    pub(super) fn all(target: Target) -> Result<Held, WindowError> {
        let order = by_activity(target.pid)?;
        let watchdog = Watchdog::start()?;
        let mut seized = HashSet::new();
        let mut new = Vec::new();
        let mut listed = order;
        // A thread that begins meanwhile is found in the next round, until there is none.
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
        let mut held = Held {
            threads: Vec::with_capacity(new.len()),
            since: Instant::now(),
            _watchdog: watchdog,
        };
        loop {
            let mut interrupted = Vec::with_capacity(new.len());
            for thread in new.drain(..) {
                if interrupt(thread)? {
                    interrupted.push(thread);
                }
            }
            for thread in interrupted {
                held.threads.extend(stopped(thread)?);
            }
            // Those of the first list that were running may have started others.
            if count(target.pid) == Some(held.threads.len()) {
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
        // Somebody else may have got its number.
        if held.threads.is_empty() || !target.is_there() {
            return Err(WindowError::Gone);
        }
        Ok(held)
    }
}

impl Held {
    /// Lets all go on. How long the first was stopped.
    pub(super) fn release(self) -> Duration {
        let since = self.since;
        drop(self);
        since.elapsed()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        while let Some(thread) = self.threads.pop() {
            drop(thread);
        }
    }
}

/// The threads of a process, those first that have run least often.
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

/// Who traces a process or thread.
pub(in crate::agent) fn tracer(pid: u32) -> Option<u32> {
    field(pid, "TracerPid:").filter(|tracer| *tracer != 0)
}

fn field<T: std::str::FromStr>(pid: u32, name: &str) -> Option<T> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
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
