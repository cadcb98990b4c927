//! Who called whom: for each function, which functions called it and which it called, how often, and how long that took.
//!
//! Of a call that ended the caller is certain, as far as the stream has it: a function that is not traced is not there, and
//! what it called counts for the nearest caller that is.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::keys::KeyBuilder;
use super::overhead::{Intervals, Overhead};
use super::pairing::{Pairing, Step};
use crate::event::What;

/// Pairs of caller and callee, some 50 bytes each. Calls of further pairs are counted together.
const MOST_PAIRS: usize = if cfg!(test) { 64 } else { 1 << 17 };

/// The number of no function: a hash of names, of which none is likely to be this.
const NOBODY: u64 = 0;

/// What a caller's calls of a function cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Cost {
    calls: u64,
    cumulative_ns: u64,
    /// The intervals in that time.
    intervals: Intervals,
}

impl Cost {
    fn add(&mut self, other: Cost) {
        self.calls = self.calls.saturating_add(other.calls);
        self.cumulative_ns = self.cumulative_ns.saturating_add(other.cumulative_ns);
        self.intervals += other.intervals;
    }
}

/// A caller and what it called, by the numbers of their functions, in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pair {
    pid: u32,
    /// [`NOBODY`] where no caller is traced.
    caller: u64,
    callee: u64,
}

/// See the head of the module.
#[derive(Debug, Clone, Default)]
pub struct Callers {
    pairs: HashMap<Pair, Cost, KeyBuilder>,
    without_pair: u64,
}

/// A function that called another one, or was called by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relative {
    /// Its number ([`Function::key`](super::functions::Function::key)); `None`: the program itself, or a function that is not
    /// traced.
    pub key: Option<u64>,
    /// Calls and resumptions, those that are open among them.
    pub calls: u64,
    /// Nanoseconds of these calls; recursion counts once, so that those of all callers are the function's cumulative time.
    pub cumulative_ns: u64,
}

/// The relatives of a function, those with most time first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Relatives {
    /// Who called it.
    pub callers: Vec<Relative>,
    /// Whom it called.
    pub callees: Vec<Relative>,
}

impl Callers {
    /// Counts an event with what pairing said of it.
    pub fn take(&mut self, step: &Step<'_>) {
        if let (What::Return { .. }, Some(left), Some(key)) =
            (&step.event.what, &step.finished, step.key)
        {
            let pair = Pair {
                pid: step.event.pid,
                caller: step.caller.map_or(NOBODY, |(caller, _)| caller.number()),
                callee: key.number(),
            };
            let cost = Cost {
                calls: 1,
                cumulative_ns: left.cumulative_ns,
                intervals: left.cumulative_intervals,
            };
            self.add(pair, cost);
        }
    }

    /// Counts the calls that are open, and what they have taken so far: on a copy, because they will be counted when they end.
    pub fn take_open(&mut self, pairing: &Pairing, now: u64) {
        for open in pairing.open() {
            let pair = Pair {
                pid: open.pid,
                caller: pairing.caller(&open).map_or(NOBODY, |it| it.number()),
                callee: open.key.number(),
            };
            let (cumulative_ns, intervals) = match open.outermost {
                true => (now.saturating_sub(open.since), open.intervals),
                false => (0, Intervals::NONE),
            };
            let cost = Cost {
                calls: 1,
                cumulative_ns,
                intervals,
            };
            self.add(pair, cost);
        }
    }

    fn add(&mut self, pair: Pair, cost: Cost) {
        let is_full = self.pairs.len() >= MOST_PAIRS;
        match self.pairs.entry(pair) {
            Entry::Occupied(mut known) => known.get_mut().add(cost),
            Entry::Vacant(_) if is_full => self.without_pair += cost.calls,
            Entry::Vacant(fresh) => {
                fresh.insert(cost);
            }
        }
    }

    /// The relatives of a function, by its number: in one process, or in all of them. What the tracer itself cost is taken out
    /// of their times where that is known.
    pub fn of(&self, key: u64, pid: Option<u32>, overhead: Overhead) -> Relatives {
        let (mut callers, mut callees) = (HashMap::new(), HashMap::new());
        for (pair, cost) in &self.pairs {
            if pid.is_some_and(|pid| pid != pair.pid) {
                continue;
            }
            if pair.callee == key {
                let caller = Some(pair.caller).filter(|it| *it != NOBODY);
                let sum: &mut Cost = callers.entry(caller).or_default();
                sum.add(*cost);
            }
            if pair.caller == key {
                let sum: &mut Cost = callees.entry(Some(pair.callee)).or_default();
                sum.add(*cost);
            }
        }
        let sorted = |sums: HashMap<Option<u64>, Cost>| {
            let relatives = sums.into_iter().map(|(key, cost)| Relative {
                key,
                calls: cost.calls,
                cumulative_ns: overhead.net(cost.cumulative_ns, cost.intervals),
            });
            let mut relatives: Vec<Relative> = relatives.collect();
            relatives.sort_unstable_by_key(|it| {
                let most = |number: u64| std::cmp::Reverse(number);
                (most(it.cumulative_ns), most(it.calls), it.key)
            });
            relatives
        };
        Relatives {
            callers: sorted(callers),
            callees: sorted(callees),
        }
    }

    /// Calls for whose pair there was no room.
    pub fn without_pair(&self) -> u64 {
        self.without_pair
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::functions::Functions;
    use crate::analysis::testing::{call, returned};
    use crate::event::Event;

    struct Fed {
        pairing: Pairing,
        callers: Callers,
        functions: Functions,
    }

    fn fed(events: Vec<Event>) -> Fed {
        let mut fed = Fed {
            pairing: Pairing::new(),
            callers: Callers::default(),
            functions: Functions::new(),
        };
        for mut event in events {
            if let Some(step) = fed.pairing.follow(&mut event) {
                fed.callers.take(&step);
                fed.functions.take(&step);
            }
        }
        fed
    }

    impl Fed {
        fn key(&self, name: &str) -> u64 {
            let mut rows = self.functions.rows().iter();
            let row = rows.find(|row| row.place.function.text == *name);
            row.expect("a row").key
        }

        /// Names, calls and times.
        fn named(&self, relatives: &[Relative]) -> Vec<(String, u64, u64)> {
            let name = |key: Option<u64>| {
                let mut rows = self.functions.rows().iter();
                let row = rows.find(|row| Some(row.key) == key);
                row.map_or("-".to_owned(), |row| row.place.function.text.to_string())
            };
            let relatives = relatives.iter();
            relatives
                .map(|it| (name(it.key), it.calls, it.cumulative_ns))
                .collect()
        }
    }

    fn row(name: &str, calls: u64, ns: u64) -> (String, u64, u64) {
        (name.to_owned(), calls, ns)
    }

    #[test]
    fn callers_and_callees_have_the_calls_and_the_time_of_each() {
        let fed = fed(vec![
            call(1_000, "main"),
            call(2_000, "load"),
            call(2_100, "read"),
            returned(2_400, "read"),
            returned(3_000, "load"),
            call(4_000, "read"),
            returned(4_050, "read"),
            call(5_000, "read"),
            returned(5_150, "read"),
            returned(9_000, "main"),
        ]);
        let of = |name| fed.callers.of(fed.key(name), None, Overhead::Unknown);
        let read = of("read");
        assert_eq!(
            fed.named(&read.callers),
            [row("load", 1, 300), row("main", 2, 200)]
        );
        assert_eq!(read.callees, []);
        let main = of("main");
        assert_eq!(fed.named(&main.callers), [row("-", 1, 8_000)]);
        assert_eq!(
            fed.named(&main.callees),
            [row("load", 1, 1_000), row("read", 2, 200)]
        );
    }

    #[test]
    fn times_of_all_callers_are_the_cumulative_time_whatever_calls_itself() {
        let fed = fed(vec![
            call(0, "f"),
            call(10, "g"),
            call(20, "f"),
            call(30, "f"),
            returned(40, "f"),
            returned(50, "f"),
            returned(70, "g"),
            returned(100, "f"),
            call(200, "g"),
            returned(205, "g"),
        ]);
        for name in ["f", "g"] {
            let relatives = fed.callers.of(fed.key(name), None, Overhead::Unknown);
            let sum: u64 = relatives.callers.iter().map(|it| it.cumulative_ns).sum();
            let rows = fed.functions.rows();
            let function = rows.iter().find(|it| it.place.function.text == *name);
            let function = function.expect("a row");
            assert_eq!(sum, function.cumulative_ns, "{name}");
            let calls: u64 = relatives.callers.iter().map(|it| it.calls).sum();
            assert_eq!(calls, function.calls, "{name}");
        }
    }

    #[test]
    fn calls_that_are_open_count_with_what_they_took_so_far() {
        let fed = fed(vec![call(1_000, "main"), call(2_000, "load")]);
        let mut so_far = fed.callers.clone();
        so_far.take_open(&fed.pairing, 5_000);
        let load = so_far.of(fed.key("load"), None, Overhead::Unknown);
        assert_eq!(fed.named(&load.callers), [row("main", 1, 3_000)]);
        let nobody = fed.callers.of(fed.key("load"), None, Overhead::Unknown);
        assert_eq!(nobody, Relatives::default());
    }

    #[test]
    fn processes_are_told_apart_where_one_is_asked_for() {
        let mut events = Vec::new();
        for pid in [1, 2, 2] {
            for mut event in [call(1_000, "f"), returned(1_000 + u64::from(pid), "f")] {
                (event.pid, event.tid) = (pid, pid);
                events.push(event);
            }
        }
        let fed = fed(events);
        let calls = |pid| {
            let of = fed.callers.of(fed.key("f"), pid, Overhead::Unknown);
            of.callers[0].calls
        };
        assert_eq!([calls(Some(1)), calls(Some(2)), calls(None)], [1, 2, 3]);
    }

    #[test]
    fn pairs_without_room_are_counted() {
        let mut events = Vec::new();
        for number in 0..MOST_PAIRS as u64 + 3 {
            let name = format!("function_{number}");
            events.push(call(10 * number, &name));
            events.push(returned(10 * number + 5, &name));
        }
        let fed = fed(events);
        assert_eq!(fed.callers.pairs.len(), MOST_PAIRS);
        assert_eq!(fed.callers.without_pair(), 3);
    }
}
