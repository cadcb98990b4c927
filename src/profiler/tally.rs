//! Adds samples up, and makes rows of the sums.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::parked::Extent;
use super::sampler::Sample;
use super::stacks::{Function, NO_CONTEXT, Stacks};

/// Most sums: what is beyond is added up by thread, and then by process.
const MOST_SUMS: usize = if cfg!(test) { 64 } else { 1 << 18 };
const MOST_NAMES: usize = 1 << 14;
/// Who is on no thread: greenlets and tasks that wait; and what they are called beside threads.
pub(super) const NO_THREAD: u32 = 0;
pub(super) const PARKED: &str = "greenlets and tasks that wait";
/// The stack of what has no room.
const NO_ROOM: u32 = 0;

/// What has a row of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// A function.
    Function {
        /// Of one process.
        process: bool,
        /// In one kind of greenlets or tasks.
        context: bool,
    },
    /// A thread.
    Thread,
}

impl By {
    /// A function, whatever runs it.
    pub(crate) const FUNCTION: By = By::Function {
        process: false,
        context: false,
    };
}

/// By what rows are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Samples in the function itself.
    Own,
    /// Samples with the function on the stack.
    Total,
    /// Of these, in which the thread ran.
    OnCpu,
    /// Of these, in which it waited.
    Waiting,
    /// The name.
    Name,
}

/// Numbers of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Counts {
    pub(crate) on_cpu: u64,
    pub(crate) waiting: u64,
}

impl Counts {
    pub(super) fn add(&mut self, other: Counts) {
        self.on_cpu = self.on_cpu.saturating_add(other.on_cpu);
        self.waiting = self.waiting.saturating_add(other.waiting);
    }

    /// All of them.
    pub(crate) fn all(self) -> u64 {
        self.on_cpu.saturating_add(self.waiting)
    }
}

/// What has a sum of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) pid: u32,
    pub(super) tid: u32,
    pub(super) stack: u32,
    /// The kind of greenlet or task.
    pub(super) context: u32,
    pub(super) idle: bool,
}

/// Adds up.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    sums: HashMap<Key, Counts, RandomState>,
    names: HashMap<u32, String>,
    torn: u64,
}

impl Tally {
    pub(super) fn take(&mut self, sample: &Sample) {
        let counts = Counts {
            on_cpu: u64::from(sample.on_cpu),
            waiting: u64::from(!sample.on_cpu),
        };
        let key = Key {
            pid: sample.pid,
            tid: sample.tid,
            stack: sample.stack,
            context: sample.context,
            idle: sample.idle,
        };
        self.add(key, counts);
    }

    /// Adds samples of one thread on one stack.
    pub(super) fn add(&mut self, key: Key, counts: Counts) {
        let by_thread = Key {
            stack: NO_ROOM,
            context: NO_CONTEXT,
            ..key
        };
        let by_process = Key {
            tid: 0,
            ..by_thread
        };
        let is_full = self.sums.len() >= MOST_SUMS;
        let is_overfull = self.sums.len() >= 2 * MOST_SUMS;
        match self.sums.entry(key) {
            Entry::Vacant(place) if !is_full => *place.insert(counts) = counts,
            Entry::Occupied(mut sum) => sum.get_mut().add(counts),
            Entry::Vacant(_) => {
                let rest = if is_overfull { by_process } else { by_thread };
                self.sums.entry(rest).or_default().add(counts);
            }
        }
    }

    pub(super) fn take_torn(&mut self, torn: u64) {
        self.torn = self.torn.saturating_add(torn);
    }

    pub(super) fn name(&mut self, tid: u32, name: String) {
        if self.names.len() < MOST_NAMES || self.names.contains_key(&tid) {
            self.names.insert(tid, name);
        }
    }

    /// All sums, in no order.
    pub(super) fn sums(&self) -> impl Iterator<Item = (&Key, &Counts)> {
        self.sums.iter()
    }

    /// Names of threads.
    pub(super) fn names(&self) -> impl Iterator<Item = (u32, &str)> {
        self.names.iter().map(|(tid, name)| (*tid, name.as_str()))
    }

    /// Counts anew.
    pub(super) fn anew(&mut self) {
        self.sums.clear();
        self.torn = 0;
    }
}

/// What there is at a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// Samples a second that are wanted.
    pub(crate) rate: u32,
    /// Over how long, in nanoseconds.
    pub(crate) wall_ns: u64,
    /// How often samples were taken, and how often there was no time for it.
    pub(crate) ticks: u64,
    pub(crate) missed: u64,
    pub(crate) processes: usize,
    /// Threads that have Python, and those that have none.
    pub(crate) threads: usize,
    pub(crate) without_python: usize,
    /// Whether greenlets and tasks are told apart, and how many of them there are; `None` where they are not.
    pub(crate) contexts: Option<Extent>,
    pub(super) tally: Tally,
    pub(super) stacks: Stacks,
}

/// A row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Of one process, where these are told apart.
    pub(crate) pid: Option<u32>,
    /// The thread, where these are told apart, and its name.
    pub(crate) thread: Option<(u32, String)>,
    /// The kind of greenlets or tasks, where these are told apart; `None` outside of them.
    pub(crate) context: Option<Arc<str>>,
    /// The function; of a thread the one that it was seen in most.
    pub(crate) function: Arc<Function>,
    /// How many others it was seen in.
    pub(crate) others: usize,
    pub(crate) own: Counts,
    pub(crate) total: Counts,
    /// Samples of its own in which a thread waited for work.
    pub(crate) idle: u64,
}

impl Row {
    /// Whether most of its own samples are idleness.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle > self.own.all() / 2
    }
}

/// Who was seen next to a function on stacks, with the samples in which it was; those with most first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Relatives {
    /// Who called it; `None` where it is the outermost function.
    pub(crate) callers: Vec<(Option<Arc<Function>>, u64)>,
    /// Whom it called.
    pub(crate) callees: Vec<(Option<Arc<Function>>, u64)>,
}

/// The rows of a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
    /// Samples in it, and those that were left out as idleness.
    pub(crate) samples: u64,
    pub(crate) idle: u64,
}

impl Snapshot {
    /// How far samples of a thread are apart, in nanoseconds.
    pub(crate) fn gap_ns(&self) -> f64 {
        match self.ticks {
            0 => 1e9 / f64::from(self.rate.max(1)),
            ticks => self.wall_ns as f64 / ticks as f64,
        }
    }

    /// About how long so many samples took, in nanoseconds.
    pub(crate) fn time_ns(&self, samples: u64) -> u64 {
        (samples as f64 * self.gap_ns()).round() as u64
    }

    /// Samples that nobody is told of, because the stack changed while it was read.
    pub(crate) fn torn(&self) -> u64 {
        self.tally.torn
    }

    /// How many samples there are, idleness included.
    pub(crate) fn samples(&self) -> u64 {
        let sums = self.tally.sums.values();
        sums.fold(0, |all, it| all.saturating_add(it.all()))
    }

    /// About how long threads waited for work, in nanoseconds.
    pub(crate) fn idle_ns(&self) -> u64 {
        let idle = self.tally.sums.iter().filter(|(key, _)| key.idle);
        self.time_ns(idle.fold(0, |all, (_, it)| all.saturating_add(it.all())))
    }

    /// What a thread is called, if it is known.
    pub(super) fn thread_name(&self, tid: u32) -> Option<&str> {
        let name = self.tally.names.get(&tid).map(String::as_str);
        name.filter(|name| !name.is_empty())
    }

    /// A table; what is idleness only where it is wanted.
    pub(crate) fn rows(&self, by: By, with_idle: bool, order: Order, reversed: bool) -> Rows {
        let mut rows = match by {
            By::Function { process, context } => self.of_functions(process, context, with_idle),
            By::Thread => self.of_threads(with_idle),
        };
        let name = |row: &Row| {
            let function = row.function.as_ref().clone();
            (function, row.context.clone(), row.pid, row.thread.clone())
        };
        rows.rows.sort_by(|one, other| {
            let number = |row: &Row| match order {
                Order::Own => row.own.all(),
                Order::Total => row.total.all(),
                Order::OnCpu => row.total.on_cpu,
                Order::Waiting => row.total.waiting,
                Order::Name => 0,
            };
            let key = |row: &Row| (Reverse(number(row)), Reverse(row.total.all()));
            let by_name = || name(one).cmp(&name(other));
            key(one).cmp(&key(other)).then_with(by_name)
        });
        if order == Order::Name {
            rows.rows.sort_by_cached_key(name);
        }
        if reversed {
            rows.rows.reverse();
        }
        rows
    }

    /// What is to be shown, and how much is not.
    fn shown(&self, with_idle: bool, rows: &mut Rows) -> Vec<(Key, Counts)> {
        let mut shown = Vec::with_capacity(self.tally.sums.len());
        for (key, counts) in &self.tally.sums {
            if key.idle && !with_idle {
                rows.idle = rows.idle.saturating_add(counts.all());
            } else {
                rows.samples = rows.samples.saturating_add(counts.all());
                shown.push((*key, *counts));
            }
        }
        shown
    }

    fn of_functions(&self, by_process: bool, by_context: bool, with_idle: bool) -> Rows {
        let mut rows = Rows::default();
        type Sum = (Counts, Counts, u64);
        let mut sums: HashMap<(u32, u32, u32), Sum, RandomState> = HashMap::default();
        let mut once = HashSet::<u32, RandomState>::default();
        for (key, counts) in self.shown(with_idle, &mut rows) {
            let pid = if by_process { key.pid } else { 0 };
            let context = if by_context { key.context } else { NO_CONTEXT };
            let functions = self.stacks.of(key.stack);
            if let Some(innermost) = functions.first() {
                let sum = sums.entry((pid, context, *innermost)).or_default();
                sum.0.add(counts);
                sum.2 += idle_of(&key, counts);
            }
            once.clear();
            for function in functions {
                // A function that calls itself was on the stack once.
                if once.insert(*function) {
                    let sum = sums.entry((pid, context, *function)).or_default();
                    sum.1.add(counts);
                }
            }
        }
        let made = sums
            .into_iter()
            .filter_map(|((pid, context, function), sums)| {
                Some(Row {
                    pid: by_process.then_some(pid),
                    thread: None,
                    context: self.stacks.kind(context).cloned(),
                    function: Arc::clone(self.stacks.named(function)?),
                    others: 0,
                    own: sums.0,
                    total: sums.1,
                    idle: sums.2,
                })
            });
        rows.rows = made.collect();
        rows
    }

    /// Who called the function of a row and whom it called, as far as the row goes.
    pub(crate) fn relatives(&self, of: &Row, by: By, with_idle: bool) -> Relatives {
        let Some(number) = self.stacks.number_of(&of.function) else {
            return Relatives::default();
        };
        let in_context = matches!(by, By::Function { context: true, .. });
        type Sums = HashMap<Option<u32>, u64, RandomState>;
        let (mut callers, mut callees) = (Sums::default(), Sums::default());
        let mut once = HashSet::<Option<u32>, RandomState>::default();
        for (key, counts) in self.shown(with_idle, &mut Rows::default()) {
            let is_other = of.pid.is_some_and(|pid| pid != key.pid)
                || in_context && self.stacks.kind(key.context) != of.context.as_ref();
            let stack = self.stacks.of(key.stack);
            if is_other || !stack.contains(&number) {
                continue;
            }
            // Innermost first, so who called it comes behind it. What is on a stack twice counts once.
            let outer = stack.iter().skip(1).copied().map(Some);
            let called_by = stack.iter().zip(outer.chain([None]));
            once.clear();
            for (_, caller) in called_by.filter(|(callee, _)| **callee == number) {
                if once.insert(caller) {
                    *callers.entry(caller).or_default() += counts.all();
                }
            }
            once.clear();
            let calls = stack.iter().zip(stack.iter().skip(1));
            for (callee, _) in calls.filter(|(_, caller)| **caller == number) {
                if once.insert(Some(*callee)) {
                    *callees.entry(Some(*callee)).or_default() += counts.all();
                }
            }
        }
        let named = |sums: Sums| {
            let named = sums.into_iter().map(|(number, samples)| {
                let function = number.and_then(|number| self.stacks.named(number));
                (function.cloned(), samples)
            });
            let mut named: Vec<_> = named.collect();
            named.sort_by(|(one, of_one), (other, of_other)| {
                of_other.cmp(of_one).then_with(|| one.cmp(other))
            });
            named
        };
        Relatives {
            callers: named(callers),
            callees: named(callees),
        }
    }

    fn of_threads(&self, with_idle: bool) -> Rows {
        type Functions = HashMap<u32, u64, RandomState>;
        let mut rows = Rows::default();
        let mut sums: HashMap<(u32, u32), (Counts, u64, Functions), RandomState> =
            HashMap::default();
        for (key, counts) in self.shown(with_idle, &mut rows) {
            let (sum, idle, functions) = sums.entry((key.pid, key.tid)).or_default();
            sum.add(counts);
            *idle += idle_of(&key, counts);
            if let Some(innermost) = self.stacks.of(key.stack).first() {
                *functions.entry(*innermost).or_default() += counts.all();
            }
        }
        let made = sums
            .into_iter()
            .map(|((pid, tid), (counts, idle, functions))| {
                let most = functions
                    .iter()
                    .max_by_key(|(number, count)| (**count, Reverse(**number)));
                let most = most.and_then(|(number, _)| self.stacks.named(*number));
                let nothing = || {
                    Arc::new(Function {
                        name: "(no frames)".to_owned(),
                        file: String::new(),
                    })
                };
                Row {
                    pid: Some(pid),
                    thread: Some((tid, self.tally.names.get(&tid).cloned().unwrap_or_default())),
                    context: None,
                    function: most.map_or_else(nothing, Arc::clone),
                    others: functions.len().saturating_sub(1),
                    own: counts,
                    total: counts,
                    idle,
                }
            });
        rows.rows = made.collect();
        rows
    }
}

/// Samples among these in which a thread waited for work.
fn idle_of(key: &Key, counts: Counts) -> u64 {
    match key.idle {
        true => counts.all(),
        false => 0,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::python::frames::Frame;

    /// What was seen: thread, stack from the innermost on, whether on the processor, whether idle, how often.
    type Seen<'a> = (u32, &'a [&'a str], bool, bool, u64);

    pub(in super::super) fn snapshot(seen: &[Seen<'_>]) -> Snapshot {
        let (mut stacks, mut tally) = (Stacks::default(), Tally::default());
        for (tid, names, on_cpu, idle, count) in seen {
            let frames = names.iter().map(|name| Frame {
                function: (*name).to_owned(),
                file: "/srv/app.py".to_owned(),
                line: Some(7),
            });
            let stack = stacks.number(frames.collect());
            for _ in 0..*count {
                tally.take(&Sample {
                    pid: 1,
                    tid: *tid,
                    stack,
                    context: NO_CONTEXT,
                    on_cpu: *on_cpu,
                    idle: *idle,
                });
            }
        }
        tally.name(7, "worker".to_owned());
        Snapshot {
            rate: 100,
            wall_ns: 1_000_000_000,
            ticks: 100,
            processes: 1,
            threads: 2,
            tally,
            stacks,
            ..Snapshot::default()
        }
    }

    #[test]
    fn a_function_counts_where_it_is_innermost_and_once_on_a_stack_that_has_it_twice() {
        let snapshot = snapshot(&[
            (7, &["f", "g", "f", "main"], true, false, 3),
            (7, &["g", "main"], false, false, 2),
            (8, &["select", "main"], false, true, 90),
        ]);
        let rows = snapshot.rows(By::FUNCTION, false, Order::Own, false);
        assert_eq!((rows.samples, rows.idle), (5, 90));
        let seen: Vec<_> = rows
            .rows
            .iter()
            .map(|row| (row.function.name.as_str(), row.own.all(), row.total))
            .collect();
        let counts = |on_cpu, waiting| Counts { on_cpu, waiting };
        assert_eq!(
            seen,
            [
                ("f", 3, counts(3, 0)),
                ("g", 2, counts(3, 2)),
                ("main", 0, counts(3, 2))
            ]
        );
        assert_eq!(snapshot.time_ns(3), 30_000_000);
        let all = snapshot.rows(By::FUNCTION, true, Order::Total, false);
        assert_eq!((all.samples, all.idle), (95, 0));
        assert_eq!(all.rows[0].function.name, "main");
    }

    #[test]
    fn callers_and_callees_are_who_was_seen_next_to_a_function() {
        let snapshot = snapshot(&[
            (7, &["read", "load", "main"], true, false, 3),
            (7, &["read", "main"], false, false, 2),
            (7, &["read", "read", "load", "main"], true, false, 1),
            (7, &["main"], true, false, 4),
            (8, &["read", "worker"], false, true, 90),
        ]);
        let rows = snapshot.rows(By::FUNCTION, false, Order::Own, false);
        let of = |name: &str| {
            let mut rows = rows.rows.iter();
            let row = rows.find(|row| row.function.name == name).expect("a row");
            let Relatives { callers, callees } = snapshot.relatives(row, By::FUNCTION, false);
            let named = |of: Vec<(Option<Arc<Function>>, u64)>| -> Vec<(String, u64)> {
                let name =
                    |it: Option<Arc<Function>>| it.map_or("-".to_owned(), |it| it.name.clone());
                of.into_iter()
                    .map(|(it, samples)| (name(it), samples))
                    .collect()
            };
            (named(callers), named(callees))
        };
        let row = |name: &str, samples: u64| (name.to_owned(), samples);
        assert_eq!(
            of("read"),
            (
                vec![row("load", 4), row("main", 2), row("read", 1)],
                vec![row("read", 1)]
            )
        );
        assert_eq!(
            of("main"),
            (vec![row("-", 10)], vec![row("load", 4), row("read", 2)])
        );
    }

    #[test]
    fn a_thread_has_the_function_that_it_was_seen_in_most() {
        let snapshot = snapshot(&[
            (7, &["f", "main"], true, false, 3),
            (7, &["g", "main"], false, false, 2),
        ]);
        let rows = snapshot.rows(By::Thread, false, Order::Own, false);
        let row = &rows.rows[0];
        assert_eq!((row.function.name.as_str(), row.others), ("f", 1));
        assert_eq!(row.thread, Some((7, "worker".to_owned())));
        assert_eq!(row.own.all(), 5);
    }

    #[test]
    fn what_has_no_room_is_counted_all_the_same() {
        let mut tally = Tally::default();
        for tid in 0..3 * MOST_SUMS as u32 {
            let sample = Sample {
                pid: 1,
                tid,
                stack: 1,
                context: NO_CONTEXT,
                on_cpu: true,
                idle: false,
            };
            tally.take(&sample);
        }
        let all: u64 = tally.sums.values().map(|it| it.all()).sum();
        assert_eq!(all, 3 * MOST_SUMS as u64);
        assert!(tally.sums.len() <= 2 * MOST_SUMS + 1);
    }
}
