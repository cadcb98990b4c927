//! Tables in which agents add up calls, as rows of the table that is shown. Nothing is asked of the programs.
//!
//! A process that ends, or becomes another program, leaves its rows to whatever has its number next: functions of one number
//! are one row. So are code objects of one name, file and first line, as everywhere in pystap.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use pystap_agent_protocol as protocol;
use pystap_ring::sums::{COLLECTIONS, FIRST, NO_ROOM, Scale, Summed, SumsReader};

use super::clock;
use super::decode::Decoder;
use crate::analysis::functions::MOST_ROWS;
use crate::analysis::histogram::Histogram;
use crate::analysis::keys::{KeyBuilder, Keys};
use crate::analysis::totals::{About, Row, Rows};
use crate::event::Manner;

/// What stands for the collections of a process in place of a function's key.
const COLLECTIONS_KEY: u64 = 1;

/// The table of one agent.
#[derive(Debug)]
pub(super) struct Table {
    reader: SumsReader,
    kind: protocol::Clock,
    scale: Scale,
    /// How far the reader came when it was last looked at: names of functions before this one are in the ring.
    end: u32,
}

impl Table {
    /// One that counts from its beginning, by this clock.
    pub(super) fn new(reader: SumsReader, kind: protocol::Clock, scale: Scale) -> Table {
        Table {
            reader,
            kind,
            scale,
            end: FIRST,
        }
    }

    /// Calls for which there was no room so far, as the agent says.
    pub(super) fn lost(&self) -> u64 {
        self.reader.lost()
    }

    /// The functions that there are now are those of which is told: their names are looked for next.
    pub(super) fn look(&mut self) {
        self.end = self.reader.end();
    }

    /// The time by the clock of its writer.
    pub(super) fn now(&self) -> u64 {
        self.scale.nanoseconds(clock::time(self.kind))
    }
}

/// Rows by process and function.
type ByFunction = HashMap<(u32, u64), Row, KeyBuilder>;

/// What all agents of a session have added up.
#[derive(Debug, Default)]
pub(super) struct Tables {
    keys: Keys,
    /// Rows of processes that have ended, and which of them were not passed on since.
    ended: ByFunction,
    fresh: HashSet<(u32, u64), KeyBuilder>,
    /// The rows that there are in the table that is shown.
    shown: HashSet<(u32, u64), KeyBuilder>,
    unpaired: u64,
    /// When the first of them began, by the clock of events, and whether somebody has begun anew since.
    began: Option<u64>,
    is_anew: bool,
    /// Functions whose names did not come.
    pub(super) nameless: u64,
}

impl Tables {
    /// What there is of these processes and those before.
    pub(super) fn rows<'a>(
        &mut self,
        running: impl Iterator<Item = (u32, &'a Table, &'a Decoder)>,
        now: u64,
    ) -> Rows {
        let mut rows = ByFunction::default();
        let mut unpaired = self.unpaired;
        for (pid, table, names) in running {
            unpaired = unpaired.saturating_add(table.reader.unpaired());
            self.read(pid, (table, names), now, &mut rows);
        }
        for (who, row) in &mut rows {
            if let Some(ended) = self.ended.get(who) {
                add(row, ended);
            }
        }
        for who in std::mem::take(&mut self.fresh) {
            if let Some(ended) = self.ended.get(&who)
                && let Entry::Vacant(row) = rows.entry(who)
            {
                row.insert(ended.clone());
            }
        }
        Rows {
            anew: false,
            by_function: true,
            age_ns: self.began.map_or(0, |began| now.saturating_sub(began)),
            unpaired,
            left: Vec::new(),
            rows: rows.into_values().collect(),
        }
    }

    /// Forgets what processes have left that have no table any longer. Which these are.
    pub(super) fn forget(&mut self, has_table: impl Fn(u32) -> bool) -> Vec<u32> {
        let mut left: Vec<u32> = self.ended.keys().map(|(pid, _)| *pid).collect();
        left.sort_unstable();
        left.dedup();
        // What is of no process stays: it is everybody's.
        left.retain(|pid| *pid != 0 && !has_table(*pid));
        let is_left = |pid: &u32| left.binary_search(pid).is_ok();
        self.ended.retain(|(pid, _), _| !is_left(pid));
        self.shown.retain(|(pid, _)| !is_left(pid));
        if !left.is_empty() {
            // Each process has places of its own, and workers come and go for weeks.
            self.keys.let_go();
        }
        left
    }

    /// A process has ended, or has another table: what it left is all.
    pub(super) fn leave(&mut self, pid: u32, left: (&Table, &Decoder), now: u64) {
        let mut rows = ByFunction::default();
        self.read(pid, left, now, &mut rows);
        self.unpaired = self.unpaired.saturating_add(left.0.reader.unpaired());
        for (who, row) in rows {
            self.fresh.insert(who);
            match self.ended.entry(who) {
                Entry::Occupied(known) => add(known.into_mut(), &row),
                Entry::Vacant(vacant) => {
                    vacant.insert(row);
                }
            }
        }
    }

    /// All sums are 0 from now on.
    pub(super) fn begin_anew<'a>(
        &mut self,
        running: impl Iterator<Item = &'a mut Table>,
        now: u64,
    ) -> Rows {
        for table in running {
            table.reader.begin_anew();
        }
        self.ended.clear();
        self.fresh.clear();
        self.shown.clear();
        self.began = Some(now);
        self.is_anew = true;
        Rows {
            anew: true,
            by_function: true,
            unpaired: self.unpaired,
            ..Rows::default()
        }
    }

    /// Adds what a table says, with its open calls counted up to now.
    fn read(
        &mut self,
        pid: u32,
        (table, names): (&Table, &Decoder),
        now: u64,
        rows: &mut ByFunction,
    ) {
        let tables_now = table.now();
        if let Some(first) = table.reader.first()
            && !self.is_anew
        {
            let began = now.saturating_sub(tables_now.saturating_sub(first));
            self.began = Some(self.began.map_or(began, |it| it.min(began)));
        }
        for number in [NO_ROOM, COLLECTIONS].into_iter().chain(FIRST..table.end) {
            // One that never holds still is shown as it was before.
            let Some(summed) = table.reader.row(number, tables_now) else {
                continue;
            };
            if is_nothing(&summed) {
                continue;
            }
            let (who, about, line) = match number {
                NO_ROOM => ((0, 0), About::NoRoom, 0),
                COLLECTIONS => ((pid, COLLECTIONS_KEY), About::Collections, 0),
                _ => {
                    let Some((place, line)) = names.known(number) else {
                        self.nameless += 1;
                        continue;
                    };
                    let at = self.keys.named(place);
                    let key = self.keys.called(at, line, Manner::Plain).function;
                    (
                        (pid, key.number()),
                        About::Function(Arc::clone(place)),
                        line,
                    )
                }
            };
            let row = as_row(who, about, line, &summed);
            match rows.entry(self.room(who)) {
                Entry::Occupied(known) => add(known.into_mut(), &row),
                Entry::Vacant(vacant) => {
                    let (pid, key) = *vacant.key();
                    let about = match (pid, key) {
                        (0, 0) => About::NoRoom,
                        _ => row.about,
                    };
                    vacant.insert(Row {
                        pid,
                        key,
                        about,
                        ..row
                    });
                }
            }
        }
    }

    /// Whose row something is in: its own, or that of all those for whom there is none left.
    fn room(&mut self, who: (u32, u64)) -> (u32, u64) {
        // One is kept for those.
        if self.shown.contains(&who) || self.shown.len() + 1 < MOST_ROWS {
            self.shown.insert(who);
            return who;
        }
        (0, 0)
    }
}

fn is_nothing(summed: &Summed) -> bool {
    summed.calls | summed.unmatched | summed.self_ns | summed.cumulative_ns | summed.timed == 0
}

fn as_row((pid, key): (u32, u64), about: About, line: i32, summed: &Summed) -> Row {
    let buckets = summed.buckets.iter().copied().enumerate();
    Row {
        pid,
        key,
        about,
        line: if line > 0 { line } else { i32::MAX },
        several_lines: line <= 0,
        calls: summed.calls,
        unmatched: summed.unmatched,
        self_ns: summed.self_ns,
        cumulative_ns: summed.cumulative_ns,
        timed: summed.timed,
        timed_ns: summed.timed_ns,
        durations: Histogram::of_buckets(buckets, summed.timed_ns, summed.shortest, summed.longest),
    }
}

/// Adds the numbers of another row of the same function.
fn add(row: &mut Row, other: &Row) {
    row.line = row.line.min(other.line);
    row.several_lines |= other.several_lines;
    let numbers = [
        (&mut row.calls, other.calls),
        (&mut row.unmatched, other.unmatched),
        (&mut row.self_ns, other.self_ns),
        (&mut row.cumulative_ns, other.cumulative_ns),
        (&mut row.timed, other.timed),
        (&mut row.timed_ns, other.timed_ns),
    ];
    for (sum, more) in numbers {
        *sum = sum.saturating_add(more);
    }
    row.durations.merge(&other.durations);
}
