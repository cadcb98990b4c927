//! How long single functions take: distribution, and the slowest calls with when and from where. For the few functions
//! that somebody asks about, by process.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::histogram::Histogram;
use super::keys::{FunctionKey, KeyBuilder};
use super::pairing::Step;
use crate::event::{Place, What};

/// Functions of which it is remembered whether they were asked for; all are looked at anew beyond that.
const MOST_KNOWN: usize = 1 << 16;
/// Bytes of what is measured, before further functions find no room and are only counted.
const BUDGET: usize = 32 << 20;

/// One call among the slowest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowCall {
    /// When it began, in nanoseconds since the Unix epoch.
    pub ts: u64,
    /// How long it took, in nanoseconds.
    pub duration_ns: u64,
    /// The thread.
    pub tid: u32,
    /// Who called; `None` when that was not seen.
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
    /// Calls that ended without such a duration.
    pub uncertain: u64,
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
        }
    }

    /// Functions, in all processes, that are measured: each with all its buckets and its slowest calls.
    fn most(keep: usize) -> usize {
        let one = size_of::<Latency>() + 65 * 8 + keep * size_of::<SlowCall>();
        BUDGET / one
    }

    /// Counts an event with what pairing said of it. `asks` says whether somebody asked for a function; the answer is
    /// remembered. Returns whether it is the return of one that was asked for.
    pub fn take(&mut self, step: &Step<'_>, asks: impl FnOnce(&Place) -> bool) -> bool {
        let What::Return { place, .. } = &step.event.what else {
            return false;
        };
        let Some(key) = step.key else {
            return false;
        };
        if self.wanted.len() >= MOST_KNOWN && !self.wanted.contains_key(&key) {
            self.wanted.clear();
        }
        let wanted = *self.wanted.entry(key).or_insert_with(|| asks(place));
        if wanted {
            self.measure(step, key, place);
        }
        wanted
    }

    fn measure(&mut self, step: &Step<'_>, key: FunctionKey, place: &Arc<Place>) {
        let event = step.event;
        let keep = self.keep;
        let next = self.rows.len();
        let at = match self.index.entry((event.pid, key)) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(_) if next >= Latencies::most(keep) => {
                self.without_room += 1;
                return;
            }
            Entry::Vacant(fresh) => {
                fresh.insert(next);
                let latency = Latency {
                    place: Arc::clone(place),
                    line: i32::MAX,
                    durations: Histogram::new(),
                    uncertain: 0,
                    slowest: Vec::new(),
                };
                self.rows.push((event.pid, key, latency));
                next
            }
        };
        let Some((_, _, latency)) = self.rows.get_mut(at) else {
            return;
        };
        if let Some(line) = step.finished.map(|it| it.line).filter(|line| *line > 0) {
            latency.line = latency.line.min(line);
        }
        let Some(duration_ns) = step
            .finished
            .filter(|left| left.likely)
            .and_then(|left| left.inclusive_ns)
        else {
            latency.uncertain += 1;
            return;
        };
        latency.durations.add(duration_ns);
        let at = latency
            .slowest
            .partition_point(|known| known.duration_ns >= duration_ns);
        if at >= self.keep {
            return;
        }
        latency.slowest.truncate(self.keep.saturating_sub(1));
        latency.slowest.insert(
            at,
            SlowCall {
                ts: event.ts.saturating_sub(duration_ns),
                duration_ns,
                tid: event.tid,
                caller: step.caller.map(|(_, place)| Arc::clone(place)),
            },
        );
    }

    /// Begins to measure anew. Which functions were asked for stays known.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.index.clear();
        self.without_room = 0;
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
    use crate::analysis::testing::{call, returned};
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

    #[test]
    fn keeping_none_keeps_none() {
        let latencies = of("f", 0, vec![call(0, "f"), returned(5, "f")]);
        let (_, f) = latencies.by_process().next().expect("f");
        assert_eq!((f.slowest.len(), f.durations.count()), (0, 1));
    }
}
