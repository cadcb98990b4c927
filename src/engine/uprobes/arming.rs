//! Making tasks run into the probes: a counter for each thread and processor, whose children inherit it.
//!
//! # Counters that are exchanged
//!
//! The kernel puts breakpoints into a process when some counter was *made for* one of its tasks. And it lets two tasks
//! exchange their counters when they take turns on a processor and one has inherited all that the other has, without a
//! word of that in the counters. So a child can have counters that were made for its brother, or for a thread of its own.
//! When that one ends, nothing is left that was made for the child: the breakpoints are taken out as they are hit, and what
//! it maps from then on, a program that it becomes included, gets none. (Seen with Linux 6.18 and 7.2: one of three
//! children that had threads and became another program was lost.)
//!
//! So every process has counters of ours alone, which outlive any exchange: targets have those that they were armed with,
//! and each child gets one that was made for it, which is never enabled ([`Descendants`]). Between brothers, and with the
//! parent, nothing is exchanged from the start: a task with a counter that a child does not inherit has more than the child
//! has ([`perf::keep_apart`]). With its own threads a child can exchange until its counter is there, so births are watched
//! for ([`super::fork_watcher`]), and an agent waits for it.
//!
//! # Order
//!
//! One counter for each thread of a target and each processor is opened disabled, gets its filter and its ring, and is
//! then enabled. Children inherit it. *Threads that begin meanwhile* may inherit a counter or not, and nothing tells
//! which. They get counters of their own, and `CounterOwners` ([`crate::perf::owners`]) passes over what comes through inherited
//! ones.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::UprobesError;
use super::processes::Change;
use crate::engine::Children;
use crate::perf::tasks::{Armed, each_thread};
use crate::perf::{self, Counter, Inherit};
use crate::process::Lineage;

/// How processes are armed in this session.
#[derive(Debug)]
pub(super) struct Arming {
    /// Number of the tracepoint.
    pub(super) tracepoint: u64,
    /// Which of its records are wanted.
    pub(super) filter: Option<CString>,
    /// Which children are traced.
    pub(super) inherit: Inherit,
    /// The owners of the rings, by processor.
    pub(super) outputs: Vec<(u32, Arc<OwnedFd>)>,
}

impl Arming {
    /// Arms every thread of a process, or those that were come to when `stopped` says that it is enough.
    ///
    /// # Errors
    /// [`UprobesError::Arm`]; with the reason `ESRCH` when the process is gone.
    pub(super) fn arm(&self, pid: u32, stopped: &dyn Fn() -> bool) -> Result<Armed, UprobesError> {
        each_thread(pid, self.inherit, |thread| match stopped() {
            true => Ok(Vec::new()),
            false => self.thread(thread),
        })
        .map_err(|reason| explained(pid, reason))
    }

    fn thread(&self, task: u32) -> io::Result<Vec<OwnedFd>> {
        let mut counters = Vec::with_capacity(self.outputs.len());
        for (processor, ring) in &self.outputs {
            let counter = Counter {
                tracepoint: self.tracepoint,
                task,
                processor: Some(*processor),
                inherit: self.inherit,
                life: true,
            };
            let counter = counter.open()?;
            if let Some(filter) = &self.filter {
                // Without it the kernel lets too much through, which the session sorts out.
                let _ = perf::set_filter(counter.as_fd(), filter);
            }
            perf::set_output(counter.as_fd(), ring.as_fd())?;
            counters.push(counter);
        }
        for counter in &counters {
            perf::enable(counter.as_fd())?;
        }
        Ok(counters)
    }
}

/// Targets and their children, with what is made for each child.
#[derive(Debug)]
pub(super) struct Descendants {
    /// Number of the tracepoint.
    tracepoint: u64,
    counters: Mutex<HashMap<u32, Vec<OwnedFd>>>,
    /// Told of everything that the kernel tells.
    lineage: Arc<Lineage>,
}

impl Descendants {
    pub(super) fn new(tracepoint: u64, lineage: Arc<Lineage>) -> Descendants {
        Descendants {
            tracepoint,
            counters: Mutex::default(),
            lineage,
        }
    }

    /// A process that was armed itself.
    pub(super) fn armed(&self, pid: u32) {
        self.counters().insert(pid, Vec::new());
    }

    /// Takes note of what happened to some process.
    pub(super) fn take(&self, pid: u32, change: &Change) {
        match change {
            Change::Forked { parent } => {
                self.lineage.forked(*parent, pid);
                let is_ours = self.counters().contains_key(parent);
                if is_ours {
                    self.keep(pid);
                }
            }
            Change::Exited { .. } => {
                self.lineage.ended(pid);
                self.ended(pid);
            }
            Change::Execed { .. } => self.lineage.execed(pid),
            Change::Mapped { python: true, .. } => self.lineage.python(pid),
            Change::Mapped { .. } | Change::Named { .. } => {}
        }
    }

    fn ended(&self, pid: u32) {
        self.counters().remove(&pid);
    }

    /// Nothing is kept any longer.
    pub(super) fn clear(&self) {
        self.counters().clear();
    }

    fn counters(&self) -> MutexGuard<'_, HashMap<u32, Vec<OwnedFd>>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Children for Descendants {
    fn keep(&self, pid: u32) {
        let mut counters = self.counters();
        if counters.contains_key(&pid) {
            return;
        }
        let own = Counter {
            tracepoint: self.tracepoint,
            task: pid,
            processor: None,
            inherit: Inherit::Nothing,
            life: false,
        };
        // One that has ended, or for which there are no descriptors, has what it inherited.
        let made = [own.open(), perf::keep_apart(pid)];
        counters.insert(pid, made.into_iter().flatten().collect());
    }
}

/// Why a process could not be armed, with what to do about it.
pub(super) fn explained(pid: u32, reason: io::Error) -> UprobesError {
    let next = match reason.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::ACCESS) => {
            return UprobesError::Paranoid {
                paranoid: perf::paranoid(),
            };
        }
        Some(Errno::SRCH) => "it has ended; start it again, or trace another one",
        Some(Errno::MFILE | Errno::NFILE) => {
            "it takes a descriptor for each thread and processor; raise the limit with `ulimit -n`"
        }
        Some(Errno::INVAL) => {
            "somebody else may probe the same place with another semaphore (`bpftrace`, `perf probe`); end that first"
        }
        _ => "try again, and report this if it stays",
    };
    UprobesError::Arm { pid, reason, next }
}
