//! Hot functions: what each function of each process cost so far. Grows with the number of functions, not of events, and
//! only up to a table that is full: a program can make new functions for ever.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::sync::Arc;

use super::contexts::{Contexts, Runner};
use super::histogram::Histogram;
use super::idle::{Idle, Kind};
use super::keys::{FunctionKey, KeyBuilder};
use super::overhead::{Intervals, Overhead};
use super::pairing::{FinishedCall, FrameId, GivenUp, Open, Pairing, Step};
use crate::event::hosts::{HostName, Hosts, whole_host};
use crate::event::{Frame, Manner, Place, Reason, Text, Wait, What};

/// Rows of a table, some 300 bytes each and at most a kilobyte. Functions that find none are counted in one row for all of
/// them, which is none of [`Functions::rows`]: a row that went for another one would make numbers wrong.
pub const MOST_ROWS: usize = 1 << 16;
/// Rows of those of whom it is not known yet what they are, of all together.
const MOST_PENDING: usize = 1 << 12;

/// How long the threads of a function did not run while it ran itself, in nanoseconds. It is part of its own time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Off {
    /// Blocked.
    pub blocked_ns: u64,
    /// Waiting for a processor, after that or because theirs was taken away.
    pub runqueue_ns: u64,
    /// Blocked for the GIL: part of `blocked_ns`.
    pub gil_ns: u64,
}

impl Off {
    fn add(&mut self, other: Off) {
        self.blocked_ns = self.blocked_ns.saturating_add(other.blocked_ns);
        self.runqueue_ns = self.runqueue_ns.saturating_add(other.runqueue_ns);
        self.gil_ns = self.gil_ns.saturating_add(other.gil_ns);
    }

    fn since(self, earlier: Off) -> Off {
        Off {
            blocked_ns: self.blocked_ns.saturating_sub(earlier.blocked_ns),
            runqueue_ns: self.runqueue_ns.saturating_sub(earlier.runqueue_ns),
            gil_ns: self.gil_ns.saturating_sub(earlier.gil_ns),
        }
    }

    fn of(wait: &Wait) -> Off {
        Off {
            blocked_ns: wait.blocked_ns,
            runqueue_ns: wait.runqueue_ns.unwrap_or_default(),
            gil_ns: match wait.reason {
                Some(Reason::Gil) => wait.blocked_ns,
                _ => 0,
            },
        }
    }
}

/// The intervals between events that the times of a function are made of, with each of which the tracer's cost is in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MadeOf {
    /// [`Function::self_ns`].
    pub own: Intervals,
    /// [`Function::cumulative_ns`].
    pub cumulative: Intervals,
    /// [`Function::timed_ns`].
    pub timed: Intervals,
    /// [`Function::idle_ns`].
    pub idle: Intervals,
    /// [`Function::idle_cumulative_ns`].
    pub idle_cumulative: Intervals,
}

impl MadeOf {
    fn add(&mut self, other: MadeOf) {
        self.own += other.own;
        self.cumulative += other.cumulative;
        self.timed += other.timed;
        self.idle += other.idle;
        self.idle_cumulative += other.idle_cumulative;
    }

    fn since(self, earlier: MadeOf) -> MadeOf {
        MadeOf {
            own: self.own - earlier.own,
            cumulative: self.cumulative - earlier.cumulative,
            timed: self.timed - earlier.timed,
            idle: self.idle - earlier.idle,
            idle_cumulative: self.idle_cumulative - earlier.idle_cumulative,
        }
    }
}

/// What one function of one process cost. Times are in nanoseconds, as they were measured: with the tracer's own cost.
// In this order, so that what a call changes lies together, and what its return changes behind it, in as few lines of the processor's
// cache as can be: most of the time that an event takes is spent on waiting for them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C)]
pub struct Function {
    /// Calls and resumptions.
    pub calls: u64,
    /// Calls and time of all calls whose duration is known at least for a sum.
    pub timed: u64,
    /// Their time: unlike `cumulative_ns` the inner calls of a recursion count, too.
    pub timed_ns: u64,
    /// Time in the function itself.
    pub self_ns: u64,
    /// Time in the function and what it called; recursion counts once.
    pub cumulative_ns: u64,
    /// The first line at which it was entered: where it begins, for all but resumed generators. `i32::MAX` where none is known.
    pub line: i32,
    /// Whether generators or coroutines are among its calls: each resumption is a call then, and what one takes is its time on
    /// the stack.
    pub goes_on: bool,
    /// Whether functions that share name and file may be in this row, because nothing told their lines.
    pub maybe_several: bool,
    /// What its own waiting is.
    pub(super) waiting: Kind,
    /// The intervals of which these times are made.
    pub made_of: MadeOf,
    /// Durations of the calls for which they are likely to be their own ([`FinishedCall::likely`]).
    pub durations: Histogram,
    /// As `durations`, each without the tracer's cost, where that is taken out.
    pub net_durations: Histogram,
    /// Returns whose call was not seen or cannot be told.
    pub unmatched: u64,
    /// Open calls that were given up because a bound was reached: `cumulative_ns` is without them.
    pub given_up: u64,
    /// The process; of rows that were merged, the first one.
    pub pid: u32,
    /// Its host, where the stream is of several: then the process has an identity.
    pub host: Option<HostName>,
    /// How many processes are in this row.
    pub processes: u32,
    /// Waits of its threads, where they are in the stream.
    pub off: Off,
    /// What its greenlets, tasks or threads are; `None` in main threads, and where they are not told apart.
    pub context: Option<Arc<str>>,
    /// The number of the function ([`FunctionKey::number`]), the same in every process and context.
    pub key: u64,
    /// File and name.
    pub place: Arc<Place>,
    /// Idleness in the own time: waiting for work (docs/offcpu.md).
    pub idle_ns: u64,
    /// Idleness in the cumulative time.
    pub idle_cumulative_ns: u64,
}

impl Function {
    /// It was entered at this line, or at one that is not known (-1).
    fn is_at(&mut self, line: i32) {
        if line > 0 {
            self.line = self.line.min(line);
        }
    }

    /// Whether nothing was seen of it but calls that were taken back: it made a generator that nobody ran.
    pub fn never_ran(&self) -> bool {
        let counted = self.calls | self.unmatched | self.timed | self.given_up;
        counted | self.self_ns | self.cumulative_ns == 0
    }

    pub(super) fn new(pid: u32, key: u64, place: &Arc<Place>) -> Function {
        Function {
            pid,
            host: None,
            key,
            processes: 1,
            off: Off::default(),
            context: None,
            place: Arc::clone(place),
            idle_ns: 0,
            idle_cumulative_ns: 0,
            waiting: Kind::of(&place.own_name().text, &place.file.text),
            line: i32::MAX,
            goes_on: false,
            // What is made at run time, as the __init__ of dataclasses, begins at the same line each time.
            maybe_several: place.file.text == "<string>",
            given_up: 0,
            calls: 0,
            made_of: MadeOf::default(),
            net_durations: Histogram::new(),
            unmatched: 0,
            self_ns: 0,
            cumulative_ns: 0,
            timed: 0,
            timed_ns: 0,
            durations: Histogram::new(),
        }
    }

    /// The row of everybody who found none, of no process.
    pub(super) fn rest() -> Box<Function> {
        let nobody = Place {
            file: Text::default(),
            function: Text::default(),
            qualname: None,
            group: None,
        };
        Box::new(Function::new(0, 0, &Arc::new(nobody)))
    }

    /// Time in the function and what it called, where it is known of all of its calls.
    pub fn whole_cumulative_ns(&self) -> Option<u64> {
        (self.given_up == 0).then_some(self.cumulative_ns)
    }

    /// Mean duration of a call; `None` when none has ended.
    pub fn average_ns(&self) -> Option<u64> {
        self.net_average_ns(Overhead::Unknown)
    }

    /// The same without the tracer's cost.
    pub fn net_average_ns(&self, overhead: Overhead) -> Option<u64> {
        let timed_ns = overhead.net(self.timed_ns, self.made_of.timed);
        timed_ns.checked_div(self.timed)
    }

    /// Durations of calls: without the tracer's cost where that is taken out.
    pub fn durations(&self, overhead: Overhead) -> &Histogram {
        match overhead.cost() {
            Some(_) => &self.net_durations,
            None => &self.durations,
        }
    }

    fn left(&mut self, left: &FinishedCall, overhead: Overhead) {
        self.calls += u64::from(left.measured);
        self.self_ns = self.self_ns.saturating_add(left.self_ns);
        self.cumulative_ns = self.cumulative_ns.saturating_add(left.cumulative_ns);
        self.made_of.own += left.self_intervals;
        self.made_of.cumulative += left.cumulative_intervals;
        if let Some(inclusive) = left.inclusive_ns {
            self.timed += 1;
            self.timed_ns = self.timed_ns.saturating_add(inclusive);
            self.made_of.timed += left.inclusive_intervals;
            if left.likely {
                self.durations.add(inclusive);
                if overhead.cost().is_some() {
                    let net = overhead.net(inclusive, left.inclusive_intervals);
                    self.net_durations.add(net);
                }
            }
        }
    }

    /// What it cost since it was like this.
    fn since(&self, earlier: &Function) -> Function {
        Function {
            durations: self.durations.since(&earlier.durations),
            net_durations: self.net_durations.since(&earlier.net_durations),
            made_of: self.made_of.since(earlier.made_of),
            timed_ns: self.timed_ns.saturating_sub(earlier.timed_ns),
            timed: self.timed.saturating_sub(earlier.timed),
            self_ns: self.self_ns.saturating_sub(earlier.self_ns),
            cumulative_ns: self.cumulative_ns.saturating_sub(earlier.cumulative_ns),
            calls: self.calls.saturating_sub(earlier.calls),
            unmatched: self.unmatched.saturating_sub(earlier.unmatched),
            given_up: self.given_up.saturating_sub(earlier.given_up),
            off: self.off.since(earlier.off),
            idle_ns: self.idle_ns.saturating_sub(earlier.idle_ns),
            idle_cumulative_ns: self
                .idle_cumulative_ns
                .saturating_sub(earlier.idle_cumulative_ns),
            context: self.context.clone(),
            host: self.host.clone(),
            place: Arc::clone(&self.place),
            ..*self
        }
    }

    fn merge(&mut self, other: &Function) {
        self.processes += other.processes;
        self.add(other);
    }

    /// Adds what else the function cost in the process.
    fn add(&mut self, other: &Function) {
        self.goes_on |= other.goes_on;
        self.maybe_several |= other.maybe_several;
        self.given_up += other.given_up;
        self.is_at(other.line);
        self.calls += other.calls;
        self.unmatched += other.unmatched;
        self.self_ns = self.self_ns.saturating_add(other.self_ns);
        self.cumulative_ns = self.cumulative_ns.saturating_add(other.cumulative_ns);
        self.timed += other.timed;
        self.timed_ns = self.timed_ns.saturating_add(other.timed_ns);
        self.durations.merge(&other.durations);
        self.net_durations.merge(&other.net_durations);
        self.made_of.add(other.made_of);
        self.off.add(other.off);
        self.idle_ns = self.idle_ns.saturating_add(other.idle_ns);
        self.idle_cumulative_ns = self
            .idle_cumulative_ns
            .saturating_add(other.idle_cumulative_ns);
    }

    /// Own time without the tracer's cost.
    pub fn net_self_ns(&self, overhead: Overhead) -> u64 {
        overhead.net(self.self_ns, self.made_of.own)
    }

    /// Time in the function and what it called without the tracer's cost, where it is known of all of its calls.
    pub fn net_cumulative_ns(&self, overhead: Overhead) -> Option<u64> {
        let whole = self.whole_cumulative_ns()?;
        Some(overhead.net(whole, self.made_of.cumulative))
    }

    /// Idleness in the own time without the tracer's cost.
    pub fn net_idle_ns(&self, overhead: Overhead) -> u64 {
        overhead.net(self.idle_ns, self.made_of.idle)
    }

    /// Idleness in the cumulative time without the tracer's cost.
    pub fn net_idle_cumulative_ns(&self, overhead: Overhead) -> u64 {
        overhead.net(self.idle_cumulative_ns, self.made_of.idle_cumulative)
    }
}

/// The functions of a stream, by process.
#[derive(Debug, Clone, Default)]
pub struct Functions {
    rows: Vec<Function>,
    index: HashMap<(u32, u64), usize, KeyBuilder>,
    /// Everybody who found no row.
    rest: Option<Box<Function>>,
    /// The contexts, where they have rows of their own.
    contexts: Option<Contexts>,
    /// What those cost of whom it is not known yet what they are.
    pending: HashMap<Runner, Vec<(FunctionKey, Function)>, KeyBuilder>,
    pending_rows: usize,
    /// Whether the stream says what threads wait for, so that nothing else is idleness.
    has_waits: bool,
    /// What is taken out of the durations of single calls.
    overhead: Overhead,
    hosts: Hosts,
}

impl Functions {
    /// A table without rows.
    pub fn new() -> Functions {
        Functions::default()
    }

    /// A table without rows, with a row for each kind of greenlet, task or thread in which a function runs.
    pub fn by_context() -> Functions {
        Functions {
            contexts: Some(Contexts::default()),
            ..Functions::default()
        }
    }

    /// The same for a stream in which waits are told.
    pub fn with_waits(self, has_waits: bool) -> Functions {
        Functions { has_waits, ..self }
    }

    /// Has rows to come tell their hosts, where the stream is of several.
    pub fn of_hosts(&mut self, hosts: Hosts) {
        self.hosts = hosts;
    }

    /// Has the durations of calls to come without the tracer's cost, too, beside those that are measured.
    pub fn take_out(&mut self, overhead: Overhead) {
        self.overhead = overhead;
    }

    /// What is taken out.
    pub fn overhead(&self) -> Overhead {
        self.overhead
    }

    /// A table of rows that somebody else has added up, with the keys of their functions. Who called whom is not known then, so
    /// only what is idle by its own name is idleness.
    pub fn of_rows(rows: impl IntoIterator<Item = (u64, Function)>) -> Functions {
        let mut functions = Functions::new();
        for (key, row) in rows {
            let (pid, place) = (row.pid, Arc::clone(&row.place));
            let known = functions.row_of(pid, key, || Function::new(pid, key, &place));
            *known = row;
            if matches!(known.waiting, Kind::Idle(idle) if idle.covers_own_time()) {
                (known.idle_ns, known.idle_cumulative_ns) = (known.self_ns, known.self_ns);
            }
        }
        functions
    }

    /// Another one of the same sort.
    pub fn emptied(&self) -> Functions {
        Functions {
            // Their names are told once.
            contexts: self.contexts.clone(),
            has_waits: self.has_waits,
            overhead: self.overhead,
            hosts: self.hosts.clone(),
            ..Functions::default()
        }
    }

    /// Counts an event with what pairing said of it.
    pub fn take(&mut self, step: &Step<'_>) {
        let event = step.event;
        if let Some(contexts) = &mut self.contexts {
            let told = contexts.follow(step);
            if let Some(runner) = told {
                self.settle(runner);
            }
        }
        let mut waits = false;
        for gone in step.given_up {
            let row = self.row_of_gone(gone);
            row.self_ns = row.self_ns.saturating_add(gone.self_ns);
            row.cumulative_ns = row.cumulative_ns.saturating_add(gone.cumulative_ns);
            row.made_of.own += gone.self_intervals;
            row.made_of.cumulative += gone.cumulative_intervals;
            row.given_up += u64::from(gone.by_bound);
            waits |= row.waiting != Kind::Work;
        }
        if waits && !self.has_waits {
            self.idle_of_gone(step.given_up);
        }
        for revised in step.revised {
            let runner = Runner::of(revised.pid, revised.tid, revised.context);
            let row = self.row_in(runner, revised.key, &revised.place);
            row.calls = match revised.call {
                true => row.calls + 1,
                false => row.calls.saturating_sub(1),
            };
        }
        if let What::Wait(wait) = &event.what {
            if let Some(runs) = step.stack().next() {
                let row = self.row_in(runner_of(&runs), runs.key, runs.place);
                let off = Off::of(wait);
                row.off.add(off);
                if row.waiting != Kind::Work
                    && let Some(idle) =
                        Idle::of_call(runs.place, step.stack().skip(1).map(|it| it.place))
                    && wait.reason.is_some_and(|reason| idle.covers(reason))
                {
                    let idle_ns = off.blocked_ns.saturating_add(off.runqueue_ns);
                    row.idle_ns = row.idle_ns.saturating_add(idle_ns);
                    self.idle_within(idle_ns, Intervals::NONE, step.stack());
                }
            }
            return;
        }
        let Some(key) = step.key else {
            return;
        };
        let runner = |frame: &Frame| Runner::of(event.pid, event.tid, frame.context);
        match &event.what {
            // Without a frame it is the creation of a generator, and no call.
            What::Call { place, line, frame } if step.entered.is_some() => {
                let row = self.row_in(runner(frame), key, place);
                row.calls += 1;
                // It is somewhere in the function.
                if frame.manner != Manner::Running {
                    row.is_at(*line);
                }
                row.goes_on |= step.goes_on;
                row.maybe_several |= *line < 0;
            }
            What::Return {
                place, line, frame, ..
            } => {
                let overhead = self.overhead;
                let row = self.row_in(runner(frame), key, place);
                match &step.finished {
                    Some(left) => {
                        row.left(left, overhead);
                        if left.measured {
                            row.is_at(*line);
                        }
                        if left.measured && frame.idle_ns > 0 {
                            let idle = |of: u64| of.min(frame.idle_ns);
                            row.idle_ns = row.idle_ns.saturating_add(idle(left.self_ns));
                            let cumulative = idle(left.cumulative_ns);
                            row.idle_cumulative_ns =
                                row.idle_cumulative_ns.saturating_add(cumulative);
                            return;
                        }
                        let (waits, own) = (row.waiting != Kind::Work, left.self_ns);
                        if waits
                            && !self.has_waits
                            && Idle::is_of_call(place, step.stack().map(|it| it.place))
                        {
                            let row = self.row_in(runner(frame), key, place);
                            row.idle_ns = row.idle_ns.saturating_add(own);
                            row.made_of.idle += left.self_intervals;
                            // Below another call of the function it is that one's.
                            if left.cumulative_ns > 0 {
                                row.idle_cumulative_ns = row.idle_cumulative_ns.saturating_add(own);
                                row.made_of.idle_cumulative += left.self_intervals;
                            }
                            self.idle_within(own, left.self_intervals, step.stack());
                        }
                    }
                    None => row.unmatched += 1,
                }
            }
            _ => {}
        }
    }

    /// Counts what the calls that are still open have taken so far: for a table in the middle or at the end of a
    /// stream, on a copy, because these calls will be counted when they end. Everybody has rows then, also who is of a kind
    /// that is not known yet.
    pub fn take_open(&mut self, pairing: &Pairing, now: u64) {
        for open in pairing.open() {
            let row = self.row_in(runner_of(&open), open.key, open.place);
            let since = open.runs_since.map_or(0, |since| now.saturating_sub(since));
            let own = open.self_ns.saturating_add(since);
            row.self_ns = row.self_ns.saturating_add(own);
            row.made_of.own += open.self_intervals;
            if open.outermost {
                let so_far = now.saturating_sub(open.since);
                row.cumulative_ns = row.cumulative_ns.saturating_add(so_far);
                row.made_of.cumulative += open.intervals;
            }
            let callers = || {
                let stack = pairing.stack(open.pid, open.tid);
                stack.skip_while(|it| it.frame != open.frame).skip(1)
            };
            if row.waiting != Kind::Work
                && !self.has_waits
                && Idle::is_of_call(open.place, callers().map(|it| it.place))
            {
                let row = self.row_in(runner_of(&open), open.key, open.place);
                row.idle_ns = row.idle_ns.saturating_add(own);
                row.made_of.idle += open.self_intervals;
                if open.outermost {
                    row.idle_cumulative_ns = row.idle_cumulative_ns.saturating_add(own);
                    row.made_of.idle_cumulative += open.self_intervals;
                }
                self.idle_within(own, open.self_intervals, callers());
            }
        }
        let pending: Vec<Runner> = self.pending.keys().copied().collect();
        for runner in pending {
            self.settle_so_far(runner);
        }
    }

    /// Gives somebody rows of whom it is known by now what that is.
    fn settle(&mut self, runner: Runner) {
        let Some(rows) = self.pending.remove(&runner) else {
            return;
        };
        self.pending_rows -= rows.len();
        for (key, cost) in rows {
            self.labelled(runner, key, &cost.place).add(&cost);
        }
    }

    /// The same for one of whom it is not.
    fn settle_so_far(&mut self, runner: Runner) {
        if let Some(contexts) = &mut self.contexts {
            contexts.settle_so_far(runner);
        }
        self.settle(runner);
    }

    /// Counts idleness, made of these intervals, in what led to it.
    fn idle_within<'a>(
        &mut self,
        idle_ns: u64,
        intervals: Intervals,
        stack: impl Iterator<Item = Open<'a>>,
    ) {
        for open in stack.filter(|open| open.outermost) {
            let row = self.row_in(runner_of(&open), open.key, open.place);
            row.idle_cumulative_ns = row.idle_cumulative_ns.saturating_add(idle_ns);
            row.made_of.idle_cumulative += intervals;
        }
    }

    /// Counts the idleness of calls that were given up, as of those that return: the workers of a program that ends never do.
    fn idle_of_gone(&mut self, given_up: &[GivenUp]) {
        let frames = given_up.iter().map(|gone| (gone.frame, gone));
        let frames: HashMap<FrameId, &GivenUp, KeyBuilder> = frames.collect();
        for gone in given_up {
            if self.row_of_gone(gone).waiting == Kind::Work {
                continue;
            }
            let above = |it: &&GivenUp| frames.get(&it.caller).copied();
            let callers = || std::iter::successors(above(&gone), above);
            if !Idle::is_of_call(&gone.place, callers().map(|it| &it.place)) {
                continue;
            }
            let (own, intervals) = (gone.self_ns, gone.self_intervals);
            let row = self.row_of_gone(gone);
            row.idle_ns = row.idle_ns.saturating_add(own);
            row.made_of.idle += intervals;
            // Of those that count for another call of their function, or of which it is not known how long they took, nothing.
            for it in std::iter::once(gone).chain(callers()) {
                if it.cumulative_ns > 0 {
                    let row = self.row_of_gone(it);
                    row.idle_cumulative_ns = row.idle_cumulative_ns.saturating_add(own);
                    row.made_of.idle_cumulative += intervals;
                }
            }
        }
    }

    fn row_of_gone(&mut self, gone: &GivenUp) -> &mut Function {
        let runner = Runner::of(gone.pid, gone.tid, gone.context);
        self.row_in(runner, gone.key, &gone.place)
    }

    /// One row a function and process, in the order in which they were first seen.
    pub fn rows(&self) -> &[Function] {
        &self.rows
    }

    /// Whether all rows are of one process, so that there is nothing to merge.
    pub fn of_one_process(&self) -> bool {
        let first = self.rows.first().map(|row| row.pid);
        self.rows.iter().all(|row| Some(row.pid) == first)
    }

    /// One row a function and host, whatever process it ran in.
    pub fn merged(&self) -> Vec<Function> {
        if self.of_one_process() {
            return self.rows.clone();
        }
        let mut merged: Vec<Function> = Vec::new();
        let mut index: HashMap<(u32, u64), usize, KeyBuilder> = HashMap::default();
        let host = |pid| match self.hosts.is_empty() {
            true => 0,
            false => whole_host(pid),
        };
        let mut keys: Vec<(usize, (u32, u64))> = self
            .index
            .iter()
            .map(|(&(pid, key), &row)| (row, (host(pid), key)))
            .collect();
        keys.sort_unstable();
        for (row, key) in keys {
            let Some(row) = self.rows.get(row) else {
                continue;
            };
            match index.get(&key).and_then(|&at| merged.get_mut(at)) {
                Some(known) => known.merge(row),
                None => {
                    index.insert(key, merged.len());
                    merged.push(row.clone());
                }
            }
        }
        merged
    }

    /// The same, of a table of which nothing else is wanted any more.
    pub fn into_merged(self) -> Vec<Function> {
        match self.of_one_process() {
            true => self.rows,
            false => self.merged(),
        }
    }

    /// What each function cost since the table was like this; those that did nothing have no row.
    pub fn since(&self, earlier: &Functions) -> Functions {
        let mut keys: Vec<_> = self.index.iter().map(|(key, row)| (*row, *key)).collect();
        keys.sort_unstable();
        let mut since = Functions::new();
        since.take_out(self.overhead);
        since.of_hosts(self.hosts.clone());
        for (at, (pid, number)) in keys {
            let Some(row) = self.rows.get(at) else {
                continue;
            };
            let before = earlier.index.get(&(pid, number));
            let row = match before.and_then(|&at| earlier.rows.get(at)) {
                Some(before) => row.since(before),
                None => row.clone(),
            };
            if !row.never_ran() {
                since.row_of(pid, number, || row);
            }
        }
        since.rest = self.rest.as_ref().map(|rest| match &earlier.rest {
            Some(before) => Box::new(rest.since(before)),
            None => rest.clone(),
        });
        since
    }

    /// Own time of all functions together, those without a row among them, in nanoseconds: what the shares of single ones
    /// are of.
    pub fn total_self_ns(&self) -> u64 {
        self.rows
            .iter()
            .chain(self.rest.as_deref())
            .fold(0, |sum: u64, row| sum.saturating_add(row.self_ns))
    }

    /// The same without the tracer's cost.
    pub fn total_net_self_ns(&self, overhead: Overhead) -> u64 {
        let rows = self.rows.iter().chain(self.rest.as_deref());
        rows.fold(0, |sum: u64, row| {
            sum.saturating_add(row.net_self_ns(overhead))
        })
    }

    /// What can be taken out of all these times together.
    pub fn bounded_overhead(&self) -> Overhead {
        let rows = self.rows.iter().chain(self.rest.as_deref());
        let (measured_ns, intervals) = rows.fold((0, Intervals::NONE), |(ns, made_of), row| {
            let worked = row.self_ns.saturating_sub(row.idle_ns);
            let made_of = made_of + (row.made_of.own - row.made_of.idle);
            (worked.saturating_add(ns), made_of)
        });
        self.overhead.bounded(measured_ns, intervals)
    }

    /// Idleness in the own time of all functions, in nanoseconds.
    pub fn total_idle_ns(&self) -> u64 {
        self.total_net_idle_ns(Overhead::Unknown)
    }

    /// The same without the tracer's cost.
    pub fn total_net_idle_ns(&self, overhead: Overhead) -> u64 {
        let rows = self.rows.iter();
        rows.fold(0, |sum: u64, row| {
            sum.saturating_add(row.net_idle_ns(overhead))
        })
    }

    /// The sum of all functions that found no row, because the table was full; `None` where each has one.
    pub fn without_row(&self) -> Option<&Function> {
        self.rest.as_deref()
    }

    /// Counts somebody else's sum of functions without a row.
    pub fn add_without_row(&mut self, row: &Function) {
        self.rest().merge(row);
    }

    fn rest(&mut self) -> &mut Function {
        self.rest.get_or_insert_with(Function::rest)
    }

    /// The row of a function that this one runs.
    fn row_in(&mut self, runner: Runner, key: FunctionKey, place: &Arc<Place>) -> &mut Function {
        let Some(contexts) = self.contexts.as_ref().filter(|_| !runner.is_main()) else {
            return self.row(runner.pid(), key, place);
        };
        if !contexts.is_told(runner) {
            if self.pending_rows < MOST_PENDING {
                return self.pending_row(runner, key, place);
            }
            self.settle_so_far(runner);
        }
        self.labelled(runner, key, place)
    }

    /// The same by what is known of who runs it.
    fn labelled(&mut self, runner: Runner, key: FunctionKey, place: &Arc<Place>) -> &mut Function {
        let label = self.contexts.as_ref().map(|it| it.label_so_far(runner));
        let number = KeyBuilder.hash_one((key.number(), &label));
        let pid = runner.pid();
        self.row_of(pid, number, || Function {
            context: label,
            ..Function::new(pid, key.number(), place)
        })
    }

    fn pending_row(
        &mut self,
        runner: Runner,
        key: FunctionKey,
        place: &Arc<Place>,
    ) -> &mut Function {
        let rows = self.pending.entry(runner).or_default();
        let at = rows.iter().position(|(known, _)| *known == key);
        let at = at.unwrap_or_else(|| {
            self.pending_rows += 1;
            rows.push((key, Function::new(runner.pid(), key.number(), place)));
            rows.len() - 1
        });
        &mut rows[at].1
    }

    fn row(&mut self, pid: u32, key: FunctionKey, place: &Arc<Place>) -> &mut Function {
        let number = key.number();
        self.row_of(pid, number, || Function::new(pid, number, place))
    }

    fn row_of(&mut self, pid: u32, number: u64, new: impl FnOnce() -> Function) -> &mut Function {
        let next = self.rows.len();
        let at = match self.index.entry((pid, number)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(_) if next >= MOST_ROWS => {
                return self.rest.get_or_insert_with(Function::rest);
            }
            Entry::Vacant(fresh) => {
                fresh.insert(next);
                let mut row = new();
                row.host = self.hosts.name(pid).cloned();
                self.rows.push(row);
                next
            }
        };
        &mut self.rows[at]
    }
}

fn runner_of(open: &Open<'_>) -> Runner {
    Runner::of(open.pid, open.tid, open.context)
}

#[cfg(test)]
#[path = "functions_tests.rs"]
mod tests;
