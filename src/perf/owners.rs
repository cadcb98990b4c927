//! Which counter speaks for a task that has two of them.

use std::collections::HashMap;

use foldhash::fast::RandomState;

/// Counters and the tasks that inherited them, where a task has two of each.
///
/// A thread that begins while its process is being armed may inherit counters, all or some of them, or none, and
/// nothing tells. So it is given its own, and what comes through others is passed over; for its children likewise.
#[derive(Debug, Default)]
pub(crate) struct CounterOwners {
    /// Counters by number, with the late thread that each was made for.
    made_for: HashMap<u64, u32, RandomState>,
    /// The late thread whose counters speak for a thread.
    speaks: HashMap<u32, u32, RandomState>,
}

impl CounterOwners {
    /// A thread that began while its process was armed, with the counters that were made for it.
    pub(crate) fn add(&mut self, thread: u32, counters: &[u64]) {
        self.speaks.insert(thread, thread);
        self.made_for
            .extend(counters.iter().map(|counter| (*counter, thread)));
    }

    /// A thread ended; another one may get its id.
    pub(crate) fn ended(&mut self, thread: u32) {
        self.speaks.remove(&thread);
    }

    /// A counter is closed.
    pub(crate) fn forget(&mut self, counter: u64) {
        self.made_for.remove(&counter);
    }

    /// Whether a record of this thread through this counter is the second one of its kind.
    pub(crate) fn foreign(&mut self, thread: u32, counter: u64) -> bool {
        if self.made_for.is_empty() {
            return false;
        }
        match (self.speaks.get(&thread), self.made_for.get(&counter)) {
            (Some(speaker), Some(late)) => speaker != late,
            (Some(_), None) => true,
            (None, Some(late)) => {
                self.speaks.insert(thread, *late);
                false
            }
            (None, None) => false,
        }
    }
}
