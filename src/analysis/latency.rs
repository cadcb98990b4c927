//! How long single functions take: distribution, and the slowest calls with when and from where. For the few functions
//! that somebody asks about, by process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::histogram::Histogram;
use super::keys::{FunctionKey, KeyBuilder};
use super::lifetimes::{Lifetimes, Whose};
use super::overhead::Overhead;
use super::pairing::Step;
use crate::event::hosts::Hosts;
use crate::event::{Frame, Manner, Place, ProcessChange, What};

/// Functions of which it is remembered whether they were asked for; all are looked at anew beyond that.
const MOST_KNOWN: usize = 1 << 16;
/// Bytes of what is measured, before further functions find no room and are only counted.
const BUDGET: usize = 32 << 20;

/// One call among the slowest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowCall {
    /// When it began, in nanoseconds since the Unix epoch.
    pub ts: u64,
    /// How long it took, in nanoseconds, as measured.
    pub duration_ns: u64,
    /// The same without the tracer's own cost, where that is taken out.
    pub net_ns: u64,
    /// The thread.
    pub tid: u32,
    /// The nearest function that is traced and that led to it; `None` when none was seen. Whether it called itself, or
    /// functions that are not traced lie between, see [`Latencies::callers_may_be_indirect`].
    pub caller: Option<Arc<Place>>,
}

/// One function of one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// File and name.
    pub place: Arc<Place>,
    /// The first line at which a call that ended was entered; `i32::MAX` where none is known.
    pub line: i32,
    /// Durations of the calls for which they are likely to be their own (`FinishedCall::likely`), in nanoseconds.
    pub durations: Histogram,
    /// The same without the tracer's own cost, where that is taken out.
    pub net_durations: Histogram,
    /// Calls that ended without such a duration.
    pub uncertain: u64,
    /// Open calls that were given up because a bound was reached, and which will never be known to have ended.
    pub given_up: u64,
    /// Whether it gives way and goes on, as generators and coroutines do: `durations` are the times on the stack.
    pub goes_on: bool,
    /// Whether functions that share name and file may be in this, because nothing told their lines.
    pub maybe_several: bool,
    /// Nanoseconds from the first call to the end, across the times that it gave way.
    pub lifetimes: Histogram,
    /// Ends of which the first call is not known.
    pub endings_only: u64,
    /// Slowest first.
    pub slowest: Vec<SlowCall>,
}

/// The latencies of the functions that were asked for.
#[derive(Debug, Clone)]
pub struct Latencies {
    /// Slow calls kept a function and process.
    keep: usize,
    /// What was found out about functions: whether they were asked for.
    wanted: HashMap<FunctionKey, bool, KeyBuilder>,
    /// In the order in which they were first seen.
    rows: Vec<(u32, FunctionKey, Latency)>,
    index: HashMap<(u32, FunctionKey), usize, KeyBuilder>,
    /// Calls of functions that found no room.
    without_room: u64,
    lifetimes: Lifetimes,
    overhead: Overhead,
    hosts: Hosts,
    is_filtered: bool,
    /// What was measured of all calls, and that without the tracer's own cost, in nanoseconds.
    measured_ns: u64,
    net_ns: u64,
}

impl Latency {
    /// Durations of calls: without the tracer's cost where that is taken out.
    pub fn durations(&self, overhead: Overhead) -> &Histogram {
        match overhead.cost() {
            Some(_) => &self.net_durations,
            None => &self.durations,
        }
    }
}

impl Latencies {
    /// Nothing yet; `keep` slowest calls are kept of each function in each process.
    pub fn new(keep: usize) -> Latencies {
        Latencies {
            keep,
            wanted: HashMap::default(),
            rows: Vec::new(),
            index: HashMap::default(),
            without_room: 0,
            lifetimes: Lifetimes::default(),
            overhead: Overhead::Unknown,
            hosts: Hosts::default(),
            is_filtered: false,
            measured_ns: 0,
            net_ns: 0,
        }
    }

    /// Has the durations of calls to come without the tracer's cost, too; the slowest ones are those by these.
    pub fn take_out(&mut self, overhead: Overhead) {
        self.overhead = overhead;
    }

    /// What is taken out.
    pub fn overhead(&self) -> Overhead {
        self.overhead
    }

    /// Takes note of the hosts of the stream.
    pub fn of_hosts(&mut self, hosts: Hosts) {
        self.hosts = hosts;
    }

    /// The hosts of the stream, where it is of several.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Takes note of whether the stream has some calls only: those of functions that were named, or long ones.
    pub fn of_filtered(&mut self, is_filtered: bool) {
        self.is_filtered = is_filtered;
    }

    /// Whether functions that are not in the stream may lie between a call and what is told as its caller.
    pub fn callers_may_be_indirect(&self) -> bool {
        self.is_filtered
    }

    /// Percent of the durations of all calls that were taken out.
    pub fn taken_out_percent(&self) -> f64 {
        let taken = self.measured_ns.saturating_sub(self.net_ns);
        taken as f64 * 100.0 / self.measured_ns.max(1) as f64
    }

    /// Functions, in all processes, that are measured: each with all its buckets and its slowest calls.
    fn most(keep: usize) -> usize {
        let one = size_of::<Latency>() + 3 * 65 * 8 + keep * size_of::<SlowCall>();
        BUDGET / one
    }

    /// Counts an event with what pairing said of it. `asks` says whether somebody asked for a function; the answer is
    /// remembered. Returns whether it is about one that was asked for.
    pub fn take(&mut self, step: &Step<'_>, asks: impl Fn(&Place) -> bool) -> bool {
        for gone in step.given_up.iter().filter(|gone| gone.by_bound) {
            if asks(&gone.place)
                && let Some(latency) = self.row(gone.pid, gone.key, &gone.place)
            {
                latency.given_up += 1;
            }
        }
        let (What::Call { place, .. } | What::Return { place, .. }) = &step.event.what else {
            if let What::Process {
                change: ProcessChange::Exec | ProcessChange::Exit,
                ..
            } = step.event.what
                && [0, step.event.pid].contains(&step.event.tid)
            {
                self.lifetimes.forget_process(step.event.pid);
            }
            return false;
        };
        let Some(key) = step.key else {
            return false;
        };
        if self.wanted.len() >= MOST_KNOWN && !self.wanted.contains_key(&key) {
            self.wanted.clear();
        }
        let wanted = *self.wanted.entry(key).or_insert_with(|| asks(place));
        if !wanted {
            return false;
        }
        let event = step.event;
        match &event.what {
            What::Call { line, frame, .. } => self.entered(step, key, *line, frame),
            What::Return { frame, .. } => {
                let manner = frame.manner;
                let whole = self.left(step, key, frame);
                self.measure(step, key, place, manner, whole);
            }
            _ => {}
        }
        true
    }

    fn entered(&mut self, step: &Step<'_>, key: FunctionKey, line: i32, frame: &Frame) {
        let at = self.index.get(&(step.event.pid, key));
        if let Some((_, _, latency)) = at.and_then(|at| self.rows.get_mut(*at)) {
            latency.goes_on |= step.goes_on;
            latency.maybe_several |= line < 0;
        }
        self.lifetimes.entered(step, key, frame);
    }

    /// Of what ends, the time since its first call.
    fn left(&mut self, step: &Step<'_>, key: FunctionKey, frame: &Frame) -> Option<u64> {
        let finished = step.finished.as_ref()?;
        let id = finished.frame?;
        if frame.manner == Manner::Suspension {
            let whose = Whose::of(step, key, frame);
            self.lifetimes.gives_way(whose, id);
            return None;
        }
        let since = self.lifetimes.ends(id).filter(|_| finished.likely)?;
        step.event.ts.checked_sub(since)
    }

    /// The row of a function, if there is room for one.
    fn row(&mut self, pid: u32, key: FunctionKey, place: &Arc<Place>) -> Option<&mut Latency> {
        let next = self.rows.len();
        let at = match self.index.entry((pid, key)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(_) if next >= Latencies::most(self.keep) => {
                self.without_room += 1;
                return None;
            }
            Entry::Vacant(fresh) => {
                fresh.insert(next);
                let latency = Latency {
                    place: Arc::clone(place),
                    line: i32::MAX,
                    durations: Histogram::fine(),
                    net_durations: Histogram::fine(),
                    uncertain: 0,
                    given_up: 0,
                    goes_on: false,
                    maybe_several: place.file.text == "<string>",
                    lifetimes: Histogram::fine(),
                    endings_only: 0,
                    slowest: Vec::new(),
                };
                self.rows.push((pid, key, latency));
                next
            }
        };
        self.rows.get_mut(at).map(|(_, _, latency)| latency)
    }

    fn measure(
        &mut self,
        step: &Step<'_>,
        key: FunctionKey,
        place: &Arc<Place>,
        manner: Manner,
        whole: Option<u64>,
    ) {
        let (event, keep, overhead) = (step.event, self.keep, self.overhead);
        let Some(latency) = self.row(event.pid, key, place) else {
            return;
        };
        match (manner, whole) {
            (Manner::Suspension, _) => latency.goes_on = true,
            (_, Some(whole)) => latency.lifetimes.add(whole),
            (_, None) => latency.endings_only += 1,
        }
        if let Some(finished) = &step.finished {
            latency.maybe_several |= !finished.measured && finished.line < 0;
        }
        if let Some(line) = step.finished.map(|it| it.line).filter(|line| *line > 0) {
            latency.line = latency.line.min(line);
        }
        let finished = step.finished.filter(|left| left.likely);
        let Some((left, duration_ns)) = finished.and_then(|left| Some((left, left.inclusive_ns?)))
        else {
            latency.uncertain += 1;
            return;
        };
        let net_ns = overhead.net(duration_ns, left.inclusive_intervals);
        latency.durations.add(duration_ns);
        if overhead.cost().is_some() {
            latency.net_durations.add(net_ns);
        }
        let at = latency
            .slowest
            .partition_point(|known| known.net_ns >= net_ns);
        if at < keep {
            latency.slowest.truncate(keep.saturating_sub(1));
            latency.slowest.insert(
                at,
                SlowCall {
                    ts: event.ts.saturating_sub(duration_ns),
                    duration_ns,
                    net_ns,
                    tid: event.tid,
                    caller: step.caller.map(|(_, place)| Arc::clone(place)),
                },
            );
        }
        self.measured_ns = self.measured_ns.saturating_add(duration_ns);
        self.net_ns = self.net_ns.saturating_add(net_ns);
    }

    /// Begins to measure anew. Which functions were asked for stays known.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.index.clear();
        self.without_room = 0;
        (self.measured_ns, self.net_ns) = (0, 0);
    }

    /// Returns of functions that were asked for and are not measured, because too many others are.
    pub fn without_room(&self) -> u64 {
        self.without_room
    }

    /// What was measured, by process, and of each in an order that is always the same.
    pub fn by_process(&self) -> impl Iterator<Item = (u32, &Latency)> {
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_unstable_by_key(|(pid, key, _)| (*pid, *key));
        rows.into_iter().map(|(pid, _, latency)| (*pid, latency))
    }

    /// Whether anything was measured.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::pairing::Pairing;
    use crate::analysis::testing::{call, in_context, named, returned, told};
    use crate::event::Event;

    fn of(function: &str, keep: usize, events: Vec<Event>) -> Latencies {
        let mut pairing = Pairing::new();
        let mut latencies = Latencies::new(keep);
        for mut event in events {
            if let Some(step) = pairing.follow(&mut event) {
                latencies.take(&step, |place| place.function.text == function);
            }
        }
        latencies
    }

    #[test]
    fn the_slowest_calls_are_kept_with_their_time_and_caller() {
        let latencies = of(
            "f",
            2,
            vec![
                call(0, "main"),
                call(10, "f"),
                returned(15, "f"),
                call(20, "slow"),
                call(21, "f"),
                returned(61, "f"),
                returned(62, "slow"),
                call(70, "f"),
                returned(77, "f"),
                returned(80, "main"),
            ],
        );
        let found: Vec<_> = latencies.by_process().collect();
        assert_eq!(found.len(), 1, "nobody asked for main and slow");
        let (pid, f) = found[0];
        assert_eq!((pid, f.durations.count(), f.durations.sum()), (1, 3, 52));
        let slowest: Vec<_> = f
            .slowest
            .iter()
            .map(|it| {
                (
                    it.ts,
                    it.duration_ns,
                    it.caller.as_ref().map(|p| p.function.text.as_str()),
                )
            })
            .collect();
        assert_eq!(slowest, [(21, 40, Some("slow")), (70, 7, Some("main"))]);
    }

    #[test]
    fn a_return_without_a_call_is_counted_as_uncertain_and_not_as_fast() {
        let latencies = of("f", 2, vec![returned(5, "f")]);
        let (_, f) = latencies.by_process().next().expect("f");
        assert_eq!((f.uncertain, f.durations.count()), (1, 0));
    }

    #[test]
    fn ever_more_functions_are_measured_within_a_budget_and_the_others_are_counted() {
        let mut pairing = Pairing::new();
        let mut latencies = Latencies::new(1_000);
        let most = Latencies::most(1_000);
        let all = most + 70_000;
        for number in 0..all {
            let name = number.to_string();
            for mut event in [call(0, &name), returned(5, &name)] {
                if let Some(step) = pairing.follow(&mut event) {
                    latencies.take(&step, |_| true);
                }
            }
        }
        assert_eq!(latencies.by_process().count(), most);
        assert_eq!(latencies.without_room(), (all - most) as u64);
        assert!(latencies.wanted.len() <= MOST_KNOWN);
        latencies.clear();
        assert_eq!(latencies.without_room(), 0);
    }

    /// A coroutine or generator is called, gives way, goes on and ends in a context.
    fn begins(context: u64, ts: u64, name: &str) -> Event {
        in_context(context, ts, told(name, 10, Manner::Plain, call(ts, name)))
    }

    fn gives_way(context: u64, ts: u64, name: &str) -> Event {
        let event = told(name, 12, Manner::Suspension, returned(ts, name));
        in_context(context, ts, event)
    }

    fn goes_on(context: u64, ts: u64, name: &str) -> Event {
        let event = told(name, 12, Manner::Suspension, call(ts, name));
        in_context(context, ts, event)
    }

    fn ends(context: u64, ts: u64, name: &str) -> Event {
        let event = told(name, 14, Manner::Plain, returned(ts, name));
        in_context(context, ts, event)
    }

    /// Calls and their sum on the stack, the same from first call to end, and ends without a beginning.
    fn both(name: &str, events: Vec<Event>) -> ((u64, u64), (u64, u64), u64) {
        let latencies = of(name, 0, events);
        let (_, found) = latencies.by_process().next().expect("it was called");
        let sums = |it: &Histogram| (it.count(), it.sum());
        let (each, whole) = (sums(&found.durations), sums(&found.lifetimes));
        (each, whole, found.endings_only)
    }

    #[test]
    fn coroutines_of_many_tasks_are_measured_from_their_first_call_to_their_end() {
        let mut events = vec![named(0, 1, "Task-1"), named(0, 2, "Task-2")];
        events.extend([
            begins(1, 100, "handle"),
            gives_way(1, 110, "handle"),
            begins(2, 120, "handle"),
            gives_way(2, 125, "handle"),
            goes_on(1, 300, "handle"),
            gives_way(1, 301, "handle"),
            goes_on(2, 400, "handle"),
            ends(2, 420, "handle"),
            goes_on(1, 900, "handle"),
            ends(1, 903, "handle"),
        ]);
        let on_stack = 10 + 5 + 1 + 20 + 3;
        assert_eq!(both("handle", events), ((5, on_stack), (2, 803 + 300), 0));
    }

    #[test]
    fn coroutines_that_await_others_of_their_function_go_on_in_the_opposite_order() {
        let events = vec![
            begins(1, 100, "walk"),
            begins(1, 200, "walk"),
            gives_way(1, 210, "walk"),
            gives_way(1, 220, "walk"),
            goes_on(1, 500, "walk"),
            goes_on(1, 510, "walk"),
            ends(1, 520, "walk"),
            ends(1, 530, "walk"),
        ];
        let (_, whole, unknown) = both("walk", events);
        assert_eq!((whole, unknown), ((2, 430 + 320), 0));
    }

    #[test]
    fn generators_of_one_function_that_take_turns_are_not_guessed_about() {
        let events = vec![
            begins(1, 100, "items"),
            gives_way(1, 110, "items"),
            begins(1, 120, "items"),
            gives_way(1, 130, "items"),
            goes_on(1, 140, "items"),
            ends(1, 150, "items"),
            goes_on(1, 900, "items"),
            ends(1, 990, "items"),
            // Both are gone.
            begins(1, 1_000, "items"),
            gives_way(1, 1_010, "items"),
            goes_on(1, 1_100, "items"),
            ends(1, 1_200, "items"),
        ];
        let (_, whole, unknown) = both("items", events);
        assert_eq!((whole, unknown), ((1, 200), 2));
    }

    #[test]
    fn what_goes_on_elsewhere_than_where_it_gave_way_puts_others_into_doubt() {
        let events = vec![
            begins(1, 100, "items"),
            gives_way(1, 110, "items"),
            // It is the one from before, in another task.
            goes_on(2, 200, "items"),
            ends(2, 210, "items"),
            // What goes on in the first task is another one.
            goes_on(1, 300, "items"),
            ends(1, 310, "items"),
        ];
        let (_, whole, unknown) = both("items", events);
        assert_eq!((whole.0, unknown), (0, 2));
    }

    #[test]
    fn ever_more_that_gives_way_and_never_goes_on_is_held_within_a_bound() {
        let mut lifetimes = Lifetimes::default();
        let (mut pairing, mut key) = (Pairing::new(), None);
        let mut event = call(0, "f");
        if let Some(step) = pairing.follow(&mut event) {
            key = step.key.zip(step.entered);
        }
        let (key, frame) = key.expect("a call");
        for number in 0..600_000 {
            let whose = Whose {
                pid: 1,
                tid: 1,
                context: std::num::NonZeroU64::new(1 + number),
                key,
            };
            lifetimes.begins(frame, number);
            lifetimes.gives_way(whose, frame);
        }
        assert!(lifetimes.len() <= 1 << 18);
    }

    #[test]
    fn keeping_none_keeps_none() {
        let latencies = of("f", 0, vec![call(0, "f"), returned(5, "f")]);
        let (_, f) = latencies.by_process().next().expect("f");
        assert_eq!((f.slowest.len(), f.durations.count()), (0, 1));
    }
}
