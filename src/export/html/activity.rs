//! What processes, threads, tasks and greenlets did when: for each a row of bins. Bins grow with the recording, so that there
//! are never more of them than a screen can show.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use serde::Serialize;

use super::names::Names;
use crate::analysis::keys::KeyBuilder;
use crate::view::{many, time};

/// Bins of a row; the last doubling leaves at least half as many.
const BINS: usize = 512;
/// How long a bin is at first, in nanoseconds.
const FINEST: u64 = 1 << 13;
/// Rows that are kept, some twenty kilobytes each at most, and that are shown.
const MOST: usize = if cfg!(test) { 16 } else { 1 << 10 };
const MOST_SHOWN: usize = if cfg!(test) { 8 } else { 200 };

/// Whose row it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Whose {
    /// A process.
    Process(u32),
    /// A thread of a process.
    Thread(u32, u32),
    /// A task or greenlet of a process, by its id.
    Context(u32, u64),
    /// A kind of them of a process, by the hash of its label.
    Kind(u32, u64),
}

impl Whose {
    fn pid(self) -> u32 {
        match self {
            Whose::Process(pid)
            | Whose::Thread(pid, _)
            | Whose::Context(pid, _)
            | Whose::Kind(pid, _) => pid,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Whose::Process(_) => "process",
            Whose::Thread(..) => "thread",
            Whose::Context(..) | Whose::Kind(..) => "context",
        }
    }
}

/// What somebody did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// It ran, or waited where waits are not told.
    Run,
    /// It waited.
    Wait,
    /// It waited for work.
    Idle,
    /// It collected garbage while it did one of the others.
    Collect,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    run: u64,
    wait: u64,
    idle: u64,
    collect: u64,
    /// The function that took most of it, for at least so long.
    most: u32,
    at_least: u64,
}

impl Bin {
    fn add(&mut self, doing: Doing, function: u32, elapsed_ns: u64) {
        let sum = match doing {
            Doing::Run => &mut self.run,
            Doing::Wait => &mut self.wait,
            Doing::Idle => &mut self.idle,
            Doing::Collect => &mut self.collect,
        };
        *sum = sum.saturating_add(elapsed_ns);
        if doing != Doing::Collect {
            self.vote(function, elapsed_ns);
        }
    }

    /// Who has more than half of all time has votes left in the end, and had at least that much time.
    fn vote(&mut self, function: u32, votes: u64) {
        if self.most == function {
            self.at_least = self.at_least.saturating_add(votes);
        } else if self.at_least >= votes {
            self.at_least -= votes;
        } else {
            (self.most, self.at_least) = (function, votes - self.at_least);
        }
    }

    fn join(&mut self, other: Bin) {
        self.run = self.run.saturating_add(other.run);
        self.wait = self.wait.saturating_add(other.wait);
        self.idle = self.idle.saturating_add(other.idle);
        self.collect = self.collect.saturating_add(other.collect);
        self.vote(other.most, other.at_least);
    }
}

#[derive(Debug)]
struct Row {
    whose: Whose,
    label: Option<String>,
    bins: Vec<Bin>,
    all: Bin,
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Activity {
    start: Option<u64>,
    width: u64,
    rows: Vec<Row>,
    by: HashMap<Whose, usize, KeyBuilder>,
    /// Time of those that have no row.
    without_row_ns: u64,
}

/// Rows by columns, as a page has them.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// How long a bin is, in nanoseconds, and how many there are.
    width: u64,
    bins: usize,
    rows: Vec<ShownRow>,
    /// Rows that have found no room on the page, and the time of those that have found none at all.
    #[serde(skip)]
    pub(super) left_out: usize,
    #[serde(skip)]
    pub(super) without_row_ns: u64,
}

/// One of them. Of what was none at all, there is no list.
#[derive(Debug, Serialize)]
struct ShownRow {
    /// `process`, `thread` or `context`.
    whose: &'static str,
    pid: u32,
    label: u32,
    /// All of it, in nanoseconds: running, waiting, idle, collecting.
    all: [u64; 4],
    /// Thousandths of each bin.
    run: Vec<u64>,
    wait: Vec<u64>,
    idle: Vec<u64>,
    collect: Vec<u64>,
    /// The function that took most of each bin, -1 where there is none, and for how many thousandths at least.
    most: Vec<i64>,
    at_least: Vec<u64>,
}

impl Shown {
    /// Sentences about what has no row.
    pub(super) fn words(&self) -> impl Iterator<Item = String> {
        let left_out = (self.left_out > 0).then(|| {
            format!(
                "the timeline has the busiest rows only; {} of threads, tasks and greenlets are left out",
                many(self.left_out as u64, "quieter one", "quieter ones")
            )
        });
        let without_row = (self.without_row_ns > 0).then(|| {
            format!(
                "there are more threads, tasks and greenlets than the timeline has rows for, which is why {} are in none",
                time(self.without_row_ns)
            )
        });
        left_out.into_iter().chain(without_row)
    }
}

impl Default for Activity {
    fn default() -> Activity {
        Activity {
            start: None,
            width: FINEST,
            rows: Vec::new(),
            by: HashMap::default(),
            without_row_ns: 0,
        }
    }
}

impl Activity {
    /// Time begins now, unless it did before.
    pub(super) fn begin(&mut self, ts: u64) {
        self.start.get_or_insert(ts);
    }

    /// When it began, in nanoseconds since the Unix epoch.
    pub(super) fn start(&self) -> u64 {
        self.start.unwrap_or(0)
    }

    /// Whether somebody has a row.
    pub(super) fn has_row(&self, whose: Whose) -> bool {
        self.by.contains_key(&whose)
    }

    /// Whether somebody else could have one.
    pub(super) fn has_room(&self) -> bool {
        self.rows.len() < MOST
    }

    /// What a row is called.
    pub(super) fn call(&mut self, whose: Whose, label: impl FnOnce() -> String) {
        if let Some(row) = self.row(whose) {
            row.label.get_or_insert_with(label);
        }
    }

    /// Calls rows otherwise, where there is another name for whose they are than they have.
    pub(super) fn name(&mut self, name: impl Fn(Whose, Option<&str>) -> Option<String>) {
        for row in &mut self.rows {
            if let Some(name) = name(row.whose, row.label.as_deref()) {
                row.label = Some(name);
            }
        }
    }

    fn row(&mut self, whose: Whose) -> Option<&mut Row> {
        let next = self.rows.len();
        let at = match self.by.entry(whose) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(_) if next >= MOST => return None,
            Entry::Vacant(fresh) => {
                self.rows.push(Row {
                    whose,
                    label: None,
                    bins: Vec::new(),
                    all: Bin::default(),
                });
                *fresh.insert(next)
            }
        };
        self.rows.get_mut(at)
    }

    /// Somebody did something in a function for so long, until then.
    pub(super) fn did(
        &mut self,
        whose: Whose,
        doing: Doing,
        function: u32,
        elapsed_ns: u64,
        until: u64,
    ) {
        if elapsed_ns == 0 {
            return;
        }
        let start = *self.start.get_or_insert(until.saturating_sub(elapsed_ns));
        let to = until.saturating_sub(start);
        while to.div_ceil(self.width) > BINS as u64 {
            self.widen();
        }
        let width = self.width;
        let Some(row) = self.row(whose) else {
            if doing != Doing::Collect {
                self.without_row_ns = self.without_row_ns.saturating_add(elapsed_ns);
            }
            return;
        };
        row.all.add(doing, function, elapsed_ns);
        let mut from = to.saturating_sub(elapsed_ns);
        while from < to {
            let at = (from / width) as usize;
            let end = (from / width + 1).saturating_mul(width).min(to);
            if row.bins.len() <= at {
                row.bins.resize(at + 1, Bin::default());
            }
            if let Some(bin) = row.bins.get_mut(at) {
                bin.add(doing, function, end - from);
            }
            from = end;
        }
    }

    /// Makes two bins one.
    fn widen(&mut self) {
        self.width = self.width.saturating_mul(2);
        for row in &mut self.rows {
            let joined = row.bins.chunks(2).map(|pair| {
                let mut bins = pair.iter();
                let mut bin = bins.next().copied().unwrap_or_default();
                if let Some(second) = bins.next() {
                    bin.join(*second);
                }
                bin
            });
            row.bins = joined.collect();
        }
    }

    /// The rows for a page, threads and contexts below their processes; the busiest ones where there are too many.
    pub(super) fn shown(
        mut self,
        names: &mut Names,
        process: impl Fn(u32) -> String,
        function: impl Fn(u32) -> String,
    ) -> Shown {
        let busy = |row: &Row| row.all.run.saturating_add(row.all.wait);
        self.rows.sort_by_key(|row| {
            let is_process = matches!(row.whose, Whose::Process(_));
            (!is_process, std::cmp::Reverse(busy(row)), row.whose)
        });
        let left_out = self.rows.len().saturating_sub(MOST_SHOWN);
        self.rows.truncate(MOST_SHOWN);
        self.rows.sort_by_key(|row| {
            let level = match row.whose {
                Whose::Process(_) => 0,
                Whose::Thread(..) => 1,
                Whose::Context(..) | Whose::Kind(..) => 2,
            };
            (
                row.whose.pid(),
                level,
                std::cmp::Reverse(busy(row)),
                row.whose,
            )
        });
        let bins = self
            .rows
            .iter()
            .map(|row| row.bins.len())
            .max()
            .unwrap_or(0);
        let width = self.width;
        let rows = self.rows.into_iter().map(|row| {
            let label = match (&row.label, row.whose) {
                (Some(label), _) => names.number(label),
                (None, Whose::Process(pid)) => names.number(&process(pid)),
                (None, Whose::Thread(_, tid)) => names.number(&format!("thread {tid}")),
                (None, Whose::Context(_, id)) => names.number(&format!("context {id}")),
                (None, Whose::Kind(..)) => names.number("others"),
            };
            let share = |of: fn(&Bin) -> u64| {
                let shares = row.bins.iter().map(|bin| thousandths(of(bin), width));
                let shares: Vec<u64> = shares.collect();
                match shares.iter().any(|it| *it > 0) {
                    true => shares,
                    false => Vec::new(),
                }
            };
            let most = row.bins.iter().map(|bin| match bin.at_least {
                0 => -1,
                _ => i64::from(names.number(&function(bin.most))),
            });
            ShownRow {
                whose: row.whose.word(),
                pid: row.whose.pid(),
                label,
                all: [row.all.run, row.all.wait, row.all.idle, row.all.collect],
                most: most.collect(),
                run: share(|bin| bin.run),
                wait: share(|bin| bin.wait),
                idle: share(|bin| bin.idle),
                collect: share(|bin| bin.collect),
                at_least: share(|bin| bin.at_least),
            }
        });
        Shown {
            width,
            bins,
            rows: rows.collect(),
            left_out,
            without_row_ns: self.without_row_ns,
        }
    }
}

/// What was at all is at least one.
fn thousandths(part: u64, whole: u64) -> u64 {
    let share = u128::from(part) * 1000 / u128::from(whole.max(1));
    u64::try_from(share)
        .unwrap_or(u64::MAX)
        .max(u64::from(part > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREAD: Whose = Whose::Thread(1, 7);

    fn shown(activity: Activity) -> Shown {
        activity.shown(
            &mut Names::default(),
            |pid| format!("process {pid}"),
            |it| format!("f{it}"),
        )
    }

    #[test]
    fn time_falls_into_the_bins_in_which_it_was_spent_and_none_is_missing() {
        let mut activity = Activity::default();
        activity.begin(1_000);
        activity.did(
            THREAD,
            Doing::Run,
            1,
            3 * FINEST / 2,
            1_000 + 3 * FINEST / 2,
        );
        activity.did(THREAD, Doing::Wait, 2, FINEST / 2, 1_000 + 2 * FINEST);
        activity.did(THREAD, Doing::Collect, 2, FINEST / 4, 1_000 + 2 * FINEST);
        let shown = shown(activity);
        let row = &shown.rows[0];
        assert_eq!((shown.width, shown.bins), (FINEST, 2));
        assert_eq!(row.all, [3 * FINEST / 2, FINEST / 2, 0, FINEST / 4]);
        assert_eq!((&row.run, &row.wait), (&vec![1000, 500], &vec![0, 500]));
        assert_eq!((&row.idle, &row.collect), (&vec![], &vec![0, 250]));
    }

    #[test]
    fn a_long_recording_has_as_many_bins_as_a_short_one() {
        let mut activity = Activity::default();
        activity.begin(0);
        let second = 1_000_000_000;
        for number in 1..=1_000 {
            activity.did(THREAD, Doing::Run, 1, second / 2, number * second);
        }
        let shown = shown(activity);
        assert!((BINS / 2..=BINS).contains(&shown.bins), "{}", shown.bins);
        assert_eq!(shown.rows[0].all[0], 500 * second);
        let about = shown.rows[0].run.iter().sum::<u64>() / shown.bins as u64;
        assert!((440..=510).contains(&about), "{about}");
        assert_eq!(shown.rows[0].most[0], 1);
    }

    #[test]
    fn the_function_that_took_most_of_a_bin_is_named_and_one_that_took_least_is_not() {
        let mut bin = Bin::default();
        for (function, votes) in [(1, 10), (2, 30), (3, 5), (2, 30)] {
            bin.vote(function, votes);
        }
        assert_eq!(bin.most, 2);
        assert!(bin.at_least <= 60 && bin.at_least >= 45, "{bin:?}");
    }

    #[test]
    fn ever_more_threads_have_rows_within_a_bound_and_the_others_time_is_counted() {
        let mut activity = Activity::default();
        for tid in 1..=3 * MOST as u32 {
            activity.did(Whose::Thread(1, tid), Doing::Run, 1, 10, 1_000);
        }
        let shown = shown(activity);
        assert_eq!(
            (shown.rows.len(), shown.left_out),
            (MOST_SHOWN, MOST - MOST_SHOWN)
        );
        assert_eq!(shown.without_row_ns, 2 * MOST as u64 * 10);
    }

    #[test]
    fn times_at_the_end_of_the_world_do_no_harm() {
        let mut activity = Activity::default();
        activity.begin(0);
        activity.did(THREAD, Doing::Run, 1, u64::MAX, u64::MAX);
        activity.did(THREAD, Doing::Run, 1, 7, 3);
        assert!(shown(activity).bins <= BINS);
    }
}
