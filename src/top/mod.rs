//! The live table of hot functions: what is shown ([`State`], a function of snapshots and keys), how ([`view`]), and the
//! keys ([`input`]); and how it comes from a session to a terminal or into a file ([`Live`]). Probes and pairs nothing.

mod activity;
mod batch;
pub(crate) mod fitting;
pub(crate) mod follow;
pub(crate) mod help;
pub mod input;
mod key;
mod live;
pub(crate) mod look;
pub(crate) mod pane;
pub(crate) mod requests;
pub(crate) mod screen;
mod state;
pub(crate) mod terminal;
pub mod view;

pub(crate) use activity::{Activity, BARS};
pub use batch::Batch;
pub use key::Key;
pub(crate) use key::{Binding, Typed, bind, command};
pub use live::{Live, Shown};
pub(crate) use requests::Back;
pub use state::{Action, State};
pub(crate) use view::selected;

use std::collections::HashSet;
use std::io;

use crate::analysis::callers::Callers;
use crate::analysis::collections::Collections;
use crate::analysis::functions::Functions;
use crate::analysis::overhead::{Cost, Overhead};
use crate::analysis::pairing::{Pairing, Step};
use crate::analysis::totals::{Rows, Totals};
use crate::event::hosts::Hosts;
use crate::event::{ProcessChange, Session, What};
use crate::export::{End, Sink};
use crate::view::hot::TableAccount;

/// Processes that are told apart for their number.
const MOST_PROCESSES: usize = 1 << 16;

/// The table at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// What each function of each process has cost.
    pub functions: Functions,
    /// Who called whom; `None` where nobody asked, or where that is not known, because the engine has added up itself.
    pub callers: Option<Callers>,
    /// What it was measured over.
    pub account: TableAccount,
    /// Processes that are traced.
    pub processes: usize,
}

impl Snapshot {
    /// What happened since this one.
    fn since(&self, earlier: &Snapshot) -> Snapshot {
        let functions = self.functions.since(&earlier.functions);
        let (now, before) = (&self.account, &earlier.account);
        Snapshot {
            account: TableAccount {
                wall_ns: now.wall_ns.saturating_sub(before.wall_ns),
                gc_ns: now.gc_ns.saturating_sub(before.gc_ns),
                lost: now.lost.saturating_sub(before.lost),
                unpaired: now.unpaired.saturating_sub(before.unpaired),
                untraced: now.untraced,
                has_waits: now.has_waits,
                filtered: now.filtered,
                with_idle: now.with_idle,
                ..TableAccount::of(&functions)
            },
            functions,
            callers: None,
            processes: self.processes,
        }
    }
}

/// Adds up a stream as it comes, for tables in its midst.
#[derive(Debug, Default)]
pub struct Tally {
    sums: Sums,
    /// What the engine has added up itself.
    totals: Option<Totals>,
    has_waits: bool,
    filtered: bool,
    /// Whether times are to be shown as they were measured.
    raw_times: bool,
}

#[derive(Debug, Default)]
struct Sums {
    functions: Functions,
    /// Where they are asked for.
    callers: Option<Callers>,
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
    /// Nothing yet.
    pub fn new() -> Tally {
        Tally::default()
    }

    /// The same with rows of their own for the kinds of greenlets and tasks.
    pub fn by_context() -> Tally {
        Tally {
            sums: Sums {
                functions: Functions::by_context(),
                ..Sums::default()
            },
            ..Tally::default()
        }
    }

    /// The same of a stream in which waits are told.
    pub fn with_waits(self, has_waits: bool) -> Tally {
        let functions = self.sums.functions.with_waits(has_waits);
        Tally {
            has_waits,
            sums: Sums {
                functions,
                ..self.sums
            },
            ..self
        }
    }

    /// The same with times as they were measured, where those are `wanted`.
    pub fn with_raw_times(self, wanted: bool) -> Tally {
        Tally {
            raw_times: wanted,
            ..self
        }
    }

    /// The same with who called whom.
    pub fn with_callers(mut self) -> Tally {
        self.sums.callers = Some(Callers::default());
        self
    }

    /// Takes note of what the stream is about: whether functions are missing from it, and what can be taken out of times.
    pub fn begin(&mut self, session: &Session) {
        self.filtered = session.filter.is_some();
        let overhead = Overhead::of(session, self.raw_times);
        self.sums.functions.take_out(overhead);
        self.sums.functions.of_hosts(Hosts::of(session));
    }

    /// Takes out of times what events have really cost so far.
    pub fn event_cost(&mut self, cost: Cost) {
        let functions = &mut self.sums.functions;
        let overhead = functions.overhead();
        functions.take_out(overhead.refined(cost));
    }

    /// Counts an event with what pairing said of it.
    pub fn take(&mut self, step: &Step<'_>) {
        self.sums.add(step);
    }

    /// Takes what the engine has added up itself; from then on that is the table.
    pub fn take_rows(&mut self, rows: Rows) {
        for row in rows.rows.iter().filter(|row| row.pid != 0) {
            self.sums.see(row.pid);
        }
        self.totals.get_or_insert_default().take(rows);
    }

    /// The garbage collections so far.
    pub fn collections(&self) -> &Collections {
        &self.sums.collections
    }

    /// Begins to count anew. Calls that are open stay known.
    pub fn reset(&mut self, now: u64) {
        let Sums {
            functions,
            callers,
            processes,
            ended,
            last,
            ..
        } = std::mem::take(&mut self.sums);
        self.sums = Sums {
            functions: functions.emptied(),
            callers: callers.map(|_| Callers::default()),
            processes,
            ended,
            last,
            since: now,
            ..Sums::default()
        };
    }

    /// The table of what the engine has added up itself, where it does.
    pub fn snapshot_of_rows(&self) -> Option<Snapshot> {
        let totals = self.totals.as_ref()?;
        let mut functions = totals.functions();
        // Nobody has counted events.
        functions.take_out(match self.raw_times {
            true => Overhead::Kept,
            false => Overhead::Uncounted,
        });
        Some(Snapshot {
            account: TableAccount {
                wall_ns: totals.age_ns(),
                gc_ns: totals.collections_ns(),
                lost: self.sums.lost,
                untraced: 0,
                unpaired: totals.unpaired(),
                filtered: self.filtered,
                ..TableAccount::of(&functions)
            },
            functions,
            callers: None,
            processes: self.sums.processes.len(),
        })
    }

    /// The table so far with the calls that are open, where `now` is the time of the clock that events have, in nanoseconds
    /// since the Unix epoch.
    pub fn snapshot(&self, pairing: &Pairing, now: u64) -> Snapshot {
        if let Some(snapshot) = self.snapshot_of_rows() {
            return snapshot;
        }
        let sums = &self.sums;
        let now = now.max(sums.last);
        let mut functions = sums.functions.clone();
        functions.take_open(pairing, now);
        let mut callers = sums.callers.clone();
        if let Some(callers) = &mut callers {
            callers.take_open(pairing, now);
        }
        Snapshot {
            account: TableAccount {
                wall_ns: match sums.since {
                    0 => 0,
                    since => now.saturating_sub(since),
                },
                gc_ns: sums.collections.total_pause_ns(),
                lost: sums.lost,
                untraced: 0,
                unpaired: pairing.unpaired().total(),
                has_waits: self.has_waits,
                filtered: self.filtered,
                ..TableAccount::of(&functions)
            },
            functions,
            callers,
            processes: sums.processes.len(),
        }
    }
}

impl Sink for Tally {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.begin(session);
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        self.take(step);
        Ok(())
    }

    fn finish(self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
        Ok(None)
    }
}

impl Sums {
    fn add(&mut self, step: &Step<'_>) {
        let event = step.event;
        if self.since == 0 {
            self.since = event.ts;
        }
        self.last = self.last.max(event.ts);
        self.functions.take(step);
        if let Some(callers) = &mut self.callers {
            callers.take(step);
        }
        self.collections.take(step);
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
