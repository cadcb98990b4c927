//! The live table of hot functions: what is shown ([`State`], a function of snapshots and keys), how ([`view`]), and the
//! keys ([`input`]). Probes nothing: snapshots come from whoever has events.

pub mod input;
mod state;
pub mod view;

pub use state::{Action, Key, State};

use crate::analysis::collections::Collections;
use crate::analysis::functions::Functions;
use crate::analysis::pairing::{Habits, Pairing};
use crate::event::{Event, What};
use crate::view::hot::Account;

/// The table at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// What each function of each process has cost.
    pub functions: Functions,
    /// What it was measured over.
    pub account: Account,
    /// Processes that are traced.
    pub processes: usize,
}

/// Adds up a stream as it comes, for tables in its midst. Events may have their durations already.
#[derive(Debug, Default)]
pub struct Tally {
    pairing: Pairing,
    functions: Functions,
    collections: Collections,
    processes: Vec<u32>,
    /// Times of the first event since the last reset, and of the last.
    since: u64,
    last: u64,
    lost: u64,
}

impl Tally {
    /// Nothing yet, of interpreters with these habits.
    pub fn new(habits: Habits) -> Tally {
        Tally {
            pairing: Pairing::with_habits(habits),
            ..Tally::default()
        }
    }

    /// Counts an event.
    pub fn take(&mut self, event: &Event) {
        if self.since == 0 {
            self.since = event.ts;
        }
        self.last = self.last.max(event.ts);
        if let What::Lost { count, .. } = event.what {
            self.lost = self.lost.saturating_add(count);
        }
        if event.pid != 0
            && self.processes.last() != Some(&event.pid)
            && !self.processes.contains(&event.pid)
        {
            self.processes.push(event.pid);
        }
        let mut event = event.clone();
        if let Some(step) = self.pairing.follow(&mut event) {
            self.functions.take(&event, &step);
            self.collections.take(&event, &step);
        }
        if let What::Process {
            change: crate::event::ProcessChange::Exit,
            ..
        } = event.what
            && event.tid == event.pid
        {
            self.processes.retain(|&pid| pid != event.pid);
        }
    }

    /// The garbage collections so far.
    pub fn collections(&self) -> &Collections {
        &self.collections
    }

    /// Begins to count anew. Calls that are open stay known.
    pub fn reset(&mut self, now: u64) {
        self.functions = Functions::new();
        self.collections = Collections::new();
        self.since = now;
        self.lost = 0;
    }

    /// The table so far, where `now` is the time of the clock that events have, in nanoseconds since the Unix epoch.
    pub fn snapshot(&self, now: u64) -> Snapshot {
        let now = now.max(self.last);
        let mut functions = self.functions.clone();
        functions.take_open(&self.pairing, now);
        Snapshot {
            account: Account {
                wall_ns: match self.since {
                    0 => 0,
                    since => now.saturating_sub(since),
                },
                self_ns: functions.total_self_ns(),
                gc_ns: self.collections.total_pause_ns(),
                lost: self.lost,
                unpaired: self.pairing.unpaired().total(),
            },
            functions,
            processes: self.processes.len(),
        }
    }
}

#[cfg(test)]
mod tests;
