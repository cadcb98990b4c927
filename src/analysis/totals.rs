//! Sums that an engine has made itself, in the kernel or in the program: rows as they arrive, and the table that they make. A row
//! replaces what was known of its function and process; nothing is paired here.
//!
//! # Sums in the kernel
//!
//! With stap, `pystap top` moves no events. The plan puts the template `top` in the place of `calls` and `gc`, and
//! `tapsets/pystap/totals.stp` does in the kernel what [`super::pairing`] and [`super::functions`] do here: it keeps a
//! list of open calls per thread, and a row of sums with a log2 histogram per function and process. With the engine `direct`
//! the agent does it in the program (`pystap_ring::sums`, and below). With uprobe events, with `--no-kernel-totals` and for
//! recordings, the sums are made in user space.
//!
//! | | user space | kernel |
//! |---|---|---|
//! | who pairs | `analysis/pairing/` | `totals.stp`, by the same rules; a wrong guess between greenlets is not corrected later |
//! | what travels | two records per call | rows that changed, when a table is due |
//! | who adds up | `analysis/functions.rs` | `totals.stp`; this module keeps the newest row of each function |
//! | bounds | 65 536 rows, 64 MB of open calls, 2 048 threads | 16 384 rows, 32 768 open calls, 2 048 threads: some 12 MB while it runs |
//!
//! *Contexts.* Where the agent tells them, nothing is guessed. A thread's list of open calls is several stacks, told
//! apart by the context in each frame, as in the pairing. `pystap_switch` makes the last frame of a context the one
//! that runs, and a return closes the nearest call of its function in its context. The agent's functions are told apart
//! by their qualified names, so the address of that name stands for the name of a frame. `--min-duration`
//! (`timed_calls.stp`) does the same with a shorter list: at most 512 open calls of all contexts per thread; more are
//! counted as skipped.
//!
//! *Asking.* The table wishes for sums when one is due. The session hands the wish to the engine
//! ([`Running::wish`](crate::engine::Running::wish)), which writes `s1` to the module's control file. The module first
//! counts every open call up to now, then sends the rows that changed (`H`) and a record that ends them (`S`) with
//! their number. If some are missing, the next question is for all rows (`s0`). Rows are whole sums and not
//! differences, so a lost one costs freshness and no numbers. Too many rows for one handler are sent in parts (`s2`
//! goes on). At the end of a session (`q`) all rows come once more; what is missing then is reported as lost. A reset
//! (`z0`) begins anew in the kernel.
//!
//! *Names and addresses.* An entry hashes both of its names, whole, every time: an address that was freed and used
//! again for the name of another code object is simply another name. A return needs no names as long as it belongs to
//! the call that runs: that call keeps its code object alive, so equal addresses are equal names. Two functions of one
//! name in one file share a row, as everywhere in pystap.
//!
//! *Full.* A function that finds no row is counted in the one row that is for all others, in the kernel as in user
//! space. The table says "table full", how many calls are in no row, and their own time. Such calls are paired all the
//! same, by addresses, so that their time is not taken for their caller's. Threads and calls for which there is no room
//! are counted as lost. Rows of processes that have ended stay.
//!
//! *The same numbers.* `tests/integration/kernel_sums.rs` compiles the C code of the tapset as a program, under gcc's
//! sanitizers, and feeds it and [`super::pairing`] the same events. For programs with recursion, generators,
//! exceptions, threads and contexts that take turns, every sum must be equal to the nanosecond.
//!
//! # Sums in the program
//!
//! There nothing has to be asked for: the table is memory that pystap reads, and a wish is answered with all rows. Names come
//! through the ring. Each code object has a row, and those of one function are added here, told apart by their lines as where
//! pystap adds up itself ([`Rows::by_function`]). What a full table has no room for is treated as above, and
//! `tests/integration/ring_sums.rs` proves the numbers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::functions::{Function, Functions, MOST_ROWS};
use super::histogram::Histogram;
use super::keys::{FunctionKey, KeyBuilder};
use crate::event::Place;

/// What the numbers of a row are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// A function.
    Function(Arc<Place>),
    /// The garbage collections of the process: only calls and their time are counted.
    Collections,
    /// Every function, of any process, that found no row of its own in the kernel's table.
    NoRoom,
}

/// One row, as it stands since the beginning or since everything began anew. Calls that are open are in the times already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The process; 0 where it is about no single one.
    pub pid: u32,
    /// What identifies the function on the wire.
    pub key: u64,
    /// What it is about.
    pub about: About,
    /// See [`Function::line`].
    pub line: i32,
    /// Whether it was entered at several lines, or at one that nobody knows: functions of one name are one row, and so is a
    /// generator that goes on.
    pub several_lines: bool,
    /// See [`Function::calls`].
    pub calls: u64,
    /// See [`Function::unmatched`].
    pub unmatched: u64,
    /// See [`Function::self_ns`].
    pub self_ns: u64,
    /// See [`Function::cumulative_ns`].
    pub cumulative_ns: u64,
    /// See [`Function::timed`].
    pub timed: u64,
    /// See [`Function::timed_ns`].
    pub timed_ns: u64,
    /// See [`Function::durations`].
    pub durations: Histogram,
}

/// Rows that arrived together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows {
    /// All rows from before are void.
    pub anew: bool,
    /// Whether keys are those of functions ([`FunctionKey`]), so that functions of one name in one file have a row each; else
    /// they are one.
    pub by_function: bool,
    /// Nanoseconds from the first mark that was seen, or from when everything began anew, until these rows.
    pub age_ns: u64,
    /// Calls and returns that found no partner, since the session began.
    pub unpaired: u64,
    /// Processes whose rows are told for the last time ([`Wish::LastSums`](crate::engine::Wish::LastSums)).
    pub left: Vec<u32>,
    /// Those that changed.
    pub rows: Vec<Row>,
}

/// The table.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    rows: Vec<Row>,
    index: HashMap<(u32, u64), usize, KeyBuilder>,
    by_function: bool,
    age_ns: u64,
    unpaired: u64,
}

impl Totals {
    /// Takes rows in. The kernel has room for [`MOST_ROWS`] at most; a stream that says more is not believed.
    pub fn take(&mut self, arrived: Rows) {
        if arrived.anew {
            self.rows.clear();
            self.index.clear();
        }
        self.by_function = arrived.by_function;
        self.age_ns = arrived.age_ns;
        self.unpaired = arrived.unpaired;
        for row in arrived.rows {
            let next = self.rows.len();
            match self.index.entry((row.pid, row.key)) {
                Entry::Occupied(known) => {
                    if let Some(known) = self.rows.get_mut(*known.get()) {
                        *known = row;
                    }
                }
                Entry::Vacant(fresh) if next < MOST_ROWS => {
                    fresh.insert(next);
                    self.rows.push(row);
                }
                Entry::Vacant(_) => {}
            }
        }
    }

    /// The functions.
    pub fn functions(&self) -> Functions {
        let functions = self.rows.iter().filter_map(|row| {
            let About::Function(place) = &row.about else {
                return None;
            };
            let key = match self.by_function {
                true => row.key,
                false => FunctionKey::of(place).number(),
            };
            let function = Function {
                line: row.line,
                maybe_several: row.several_lines,
                calls: row.calls,
                unmatched: row.unmatched,
                self_ns: row.self_ns,
                cumulative_ns: row.cumulative_ns,
                timed: row.timed,
                timed_ns: row.timed_ns,
                durations: row.durations.clone(),
                ..Function::new(row.pid, key, place)
            };
            Some((key, function))
        });
        let mut functions = Functions::of_rows(functions);
        for row in self.rows.iter().filter(|row| row.about == About::NoRoom) {
            functions.add_without_row(&Function {
                calls: row.calls,
                self_ns: row.self_ns,
                cumulative_ns: row.cumulative_ns,
                ..*Function::rest()
            });
        }
        functions
    }

    /// Nanoseconds that the sums cover.
    pub fn age_ns(&self) -> u64 {
        self.age_ns
    }

    /// Calls and returns that found no partner.
    pub fn unpaired(&self) -> u64 {
        self.unpaired
    }

    /// Nanoseconds in garbage collections.
    pub fn collections_ns(&self) -> u64 {
        self.sum(&About::Collections, |row| row.timed_ns)
    }

    fn sum(&self, about: &About, number: impl Fn(&Row) -> u64) -> u64 {
        let rows = self.rows.iter().filter(|row| row.about == *about);
        rows.fold(0, |sum, row| sum.saturating_add(number(row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::place;

    fn row(pid: u32, key: u64, about: About, calls: u64) -> Row {
        Row {
            pid,
            key,
            about,
            line: 3,
            several_lines: false,
            calls,
            unmatched: 0,
            self_ns: 10 * calls,
            cumulative_ns: 20 * calls,
            timed: calls,
            timed_ns: 20 * calls,
            durations: Histogram::of_buckets([(5, calls)], 20 * calls, 20, 20),
        }
    }

    fn rows(rows: Vec<Row>) -> Rows {
        Rows {
            age_ns: 1_000,
            unpaired: 2,
            rows,
            ..Rows::default()
        }
    }

    #[test]
    fn a_row_replaces_the_one_from_before_and_is_told_apart_by_process() {
        let mut totals = Totals::default();
        let of = |name| About::Function(place(name));
        totals.take(rows(vec![row(1, 4, of("f"), 1), row(2, 4, of("f"), 5)]));
        totals.take(rows(vec![row(1, 4, of("f"), 3), row(1, 8, of("g"), 1)]));
        let functions = totals.functions();
        let calls: Vec<_> = functions
            .rows()
            .iter()
            .map(|it| (it.pid, it.calls))
            .collect();
        assert_eq!(calls, [(1, 3), (2, 5), (1, 1)]);
        let merged = functions.merged();
        assert_eq!((merged[0].calls, merged[0].processes), (8, 2));
        assert_eq!(merged[0].durations.quantile(0.95), Some(20));
        assert_eq!((totals.age_ns(), totals.unpaired()), (1_000, 2));
    }

    #[test]
    fn what_is_no_function_is_counted_beside_the_table() {
        let mut totals = Totals::default();
        totals.take(rows(vec![
            row(1, 1, About::Collections, 2),
            row(2, 1, About::Collections, 1),
            row(0, 0, About::NoRoom, 7),
        ]));
        assert!(totals.functions().rows().is_empty());
        assert_eq!(totals.collections_ns(), 60);
        let functions = totals.functions();
        let rest = functions.without_row().expect("a row without a function");
        assert_eq!((rest.calls, rest.self_ns), (7, 70));
    }

    #[test]
    fn beginning_anew_leaves_nothing() {
        let mut totals = Totals::default();
        totals.take(rows(vec![row(1, 4, About::Function(place("f")), 1)]));
        totals.take(Rows {
            anew: true,
            ..Rows::default()
        });
        assert!(totals.functions().rows().is_empty());
        assert_eq!(totals.age_ns(), 0);
    }
}
