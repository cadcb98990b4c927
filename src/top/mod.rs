//! The live table of hot functions: what is shown ([`State`], a function of snapshots and keys), how ([`view`]), and the
//! keys ([`input`]). Probes nothing: snapshots come from whoever has events.

pub mod input;
mod state;
pub mod view;

pub use state::{Action, Key, State};

use std::collections::HashSet;

use crate::analysis::collections::Collections;
use crate::analysis::functions::Functions;
use crate::analysis::pairing::{Pairing, PairingRules, Step};
use crate::analysis::totals::{Rows, Totals};
use crate::event::{Event, ProcessChange, What};
use crate::view::hot::TableAccount;

/// Processes that are told apart for their number.
const MOST_PROCESSES: usize = 1 << 16;

/// The table at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// What each function of each process has cost.
    pub functions: Functions,
    /// What it was measured over.
    pub account: TableAccount,
    /// Processes that are traced.
    pub processes: usize,
}

/// Adds up a stream as it comes, for tables in its midst. Events may have their durations already.
#[derive(Debug, Default)]
pub struct Tally {
    pairing: Pairing,
    sums: Sums,
    /// What the engine has added up itself.
    totals: Option<Totals>,
}

#[derive(Debug, Default)]
struct Sums {
    functions: Functions,
    collections: Collections,
    /// Processes that are traced; of more than [`MOST_PROCESSES`] the others are not counted.
    processes: HashSet<u32>,
    /// Processes that have ended, as many at most: rows of theirs still come.
    ended: HashSet<u32>,
    /// The process of the last event.
    seen: u32,
    /// Times of the first event since the last reset, and of the last.
    since: u64,
    last: u64,
    lost: u64,
}

impl Tally {
    /// Nothing yet, of interpreters with these rules.
    pub fn new(rules: PairingRules) -> Tally {
        Tally {
            pairing: Pairing::with_rules(rules),
            sums: Sums::default(),
            totals: None,
        }
    }

    /// The same with rows of their own for the kinds of greenlets and tasks.
    pub fn by_context(self) -> Tally {
        Tally {
            sums: Sums {
                functions: Functions::by_context(),
                ..self.sums
            },
            ..self
        }
    }

    /// Counts an event.
    pub fn take(&mut self, event: &Event) {
        let mut event = event.clone();
        if let Some(step) = self.pairing.follow(&mut event) {
            self.sums.add(&event, &step);
        }
    }

    /// Takes what the engine has added up itself; from then on that is the table.
    pub fn take_rows(&mut self, rows: Rows) {
        for row in rows.rows.iter().filter(|row| row.pid != 0) {
            self.sums.see(row.pid);
        }
        self.totals.get_or_insert_default().take(rows);
    }

    /// Counts an event that somebody else has paired.
    pub fn add(&mut self, event: &Event, step: &Step<'_>) {
        self.sums.add(event, step);
    }

    /// What somebody else has paired goes on from where that pairing stands.
    pub fn adopt(&mut self, pairing: Pairing) {
        self.pairing = pairing;
    }

    /// The garbage collections so far.
    pub fn collections(&self) -> &Collections {
        &self.sums.collections
    }

    /// Begins to count anew. Calls that are open stay known.
    pub fn reset(&mut self, now: u64) {
        let Sums {
            functions,
            processes,
            ended,
            last,
            ..
        } = std::mem::take(&mut self.sums);
        self.sums = Sums {
            functions: functions.emptied(),
            processes,
            ended,
            last,
            since: now,
            ..Sums::default()
        };
    }

    /// The table so far, where `now` is the time of the clock that events have, in nanoseconds since the Unix epoch.
    pub fn snapshot(&self, now: u64) -> Snapshot {
        let sums = &self.sums;
        if let Some(totals) = &self.totals {
            let functions = totals.functions();
            return Snapshot {
                account: TableAccount {
                    wall_ns: totals.age_ns(),
                    self_ns: functions.total_self_ns(),
                    gc_ns: totals.collections_ns(),
                    lost: sums.lost,
                    untraced: 0,
                    unpaired: totals.unpaired(),
                    ..without_row(&functions)
                },
                functions,
                processes: sums.processes.len(),
            };
        }
        let now = now.max(sums.last);
        let mut functions = sums.functions.clone();
        functions.take_open(&self.pairing, now);
        Snapshot {
            account: TableAccount {
                wall_ns: match sums.since {
                    0 => 0,
                    since => now.saturating_sub(since),
                },
                self_ns: functions.total_self_ns(),
                gc_ns: sums.collections.total_pause_ns(),
                lost: sums.lost,
                untraced: 0,
                unpaired: self.pairing.unpaired().total(),
                ..without_row(&functions)
            },
            functions,
            processes: sums.processes.len(),
        }
    }
}

/// What of an account is about functions without a row.
pub(crate) fn without_row(functions: &Functions) -> TableAccount {
    let rest = functions.without_row();
    TableAccount {
        without_row: rest.map_or(0, |rest| rest.calls),
        without_row_ns: rest.map_or(0, |rest| rest.self_ns),
        ..TableAccount::default()
    }
}

impl Sums {
    fn add(&mut self, event: &Event, step: &Step<'_>) {
        if self.since == 0 {
            self.since = event.ts;
        }
        self.last = self.last.max(event.ts);
        self.functions.take(event, step);
        self.collections.take(event, step);
        match event.what {
            What::Lost { count, .. } => self.lost = self.lost.saturating_add(count),
            What::Process {
                change: ProcessChange::Exit,
                ..
            } if event.tid == event.pid => {
                self.processes.remove(&event.pid);
                self.seen = 0;
                if self.ended.len() >= MOST_PROCESSES {
                    self.ended.clear();
                }
                self.ended.insert(event.pid);
            }
            _ => {
                if matches!(event.what, What::Process { .. }) {
                    self.ended.remove(&event.pid);
                }
                if event.pid != 0 {
                    self.see(event.pid);
                }
            }
        }
    }

    fn see(&mut self, pid: u32) {
        if std::mem::replace(&mut self.seen, pid) == pid || self.ended.contains(&pid) {
            return;
        }
        if self.processes.len() < MOST_PROCESSES {
            self.processes.insert(pid);
        }
    }
}

#[cfg(test)]
mod tests;
