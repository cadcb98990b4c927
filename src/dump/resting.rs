//! What of a process waits without a thread of its own: tasks of asyncio, and greenlets.

use std::time::{Duration, Instant};

use super::reading::Reading;
use crate::process;
use crate::process::activity::{self, State, Status, Waits, Watched};
use crate::python::frames::{Parked, PythonThreads, Stacks};

/// How long it may take to look for it.
const LONGEST: Duration = Duration::from_secs(2);
/// Most threads that are asked whether they ran meanwhile, which takes 40 µs each: of a process with more, one is taken to have.
const MOST_THREADS: usize = 1 << 6;

/// Most descriptors that greenlets wait for which are looked up.
const MOST_DESCRIPTORS: usize = 1 << 12;

/// What waits, and how far it can be relied on.
#[derive(Debug)]
pub(crate) struct Resting {
    pub(crate) parked: Parked,
    /// Whether no thread ran while it was looked at.
    pub(super) held_still: bool,
    /// What each entry of greenlets waits for; nothing where that is not known.
    pub(super) awaited: Vec<Watched>,
}

impl Resting {
    /// Looks for it.
    pub(super) fn of(pid: u32, stacks: &Stacks, threads: &PythonThreads) -> Resting {
        let before = asleep(pid);
        let parked = stacks.parked(threads, Instant::now() + LONGEST, None);
        let held_still = before.is_some() && before == asleep(pid);
        let waits = Waits::of(pid);
        let mut room = MOST_DESCRIPTORS;
        let awaited = parked.greenlets.iter().map(|greenlets| {
            let all = &greenlets.descriptors;
            let named = all.get(..all.len().min(room)).unwrap_or_default();
            room -= named.len();
            Watched {
                count: if all.is_empty() { 0 } else { greenlets.count },
                ..waits.several(pid, named)
            }
        });
        Resting {
            awaited: awaited.collect(),
            parked,
            held_still,
        }
    }

    /// How far a stack that was `same` when it was read twice can be relied on.
    pub(super) fn reading(&self, same: bool) -> Reading {
        match same {
            true if self.held_still => Reading::Exact,
            true => Reading::Running,
            false => Reading::Changed,
        }
    }
}

/// How often each thread was switched; `None` where one runs. Threads that Python did not know when it was asked count, too: they may
/// have come to it since.
fn asleep(pid: u32) -> Option<Vec<(u32, u64)>> {
    let tids = process::threads(pid).ok()?;
    if tids.len() > MOST_THREADS {
        return None;
    }
    tids.into_iter()
        .map(|tid| {
            let switches = activity::switches(pid, tid)?;
            let state = Status::of(pid, tid)?.state;
            (state != State::Running).then_some((tid, switches))
        })
        .collect()
}
