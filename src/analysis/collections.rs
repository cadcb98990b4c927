//! Garbage collections: how many, how long the program stood still for them, and which function was running then.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::histogram::Histogram;
use super::pairing::Step;
use crate::event::hosts::Hosts;
use crate::event::{Place, What};

/// Pauses that are remembered one by one.
const LONGEST: usize = 100;
/// Processes and generations that are told apart, some kilobyte each. What is beyond is counted under process 0, which is
/// none.
const MOST: usize = 1 << 13;
/// Generations that there are in any interpreter, and some more; a mark can say any number.
const GENERATIONS: std::ops::Range<i64> = 0..8;

/// Stands for all processes that are not told apart.
pub const OTHERS: u32 = 0;

/// The collections of one generation in one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Collections that ended.
    pub count: u64,
    /// Objects found unreachable.
    pub collected: u64,
    /// Pauses in nanoseconds, of the collections whose start was seen.
    pub pauses: Histogram,
}

impl Default for Generation {
    fn default() -> Generation {
        Generation {
            count: 0,
            collected: 0,
            pauses: Histogram::fine(),
        }
    }
}

/// One pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// When it began, in nanoseconds since the Unix epoch.
    pub ts: u64,
    /// How long it took, in nanoseconds.
    pub pause_ns: u64,
    /// The process that stood still.
    pub pid: u32,
    /// The thread that collected.
    pub tid: u32,
    /// Its generation, where known.
    pub generation: Option<i64>,
    /// Objects found unreachable.
    pub collected: i64,
    /// The function that was running; `None` when no call was seen that could tell.
    pub within: Option<Arc<Place>>,
}

/// The collections of a stream.
#[derive(Debug, Clone, Default)]
pub struct Collections {
    /// By process and generation; those whose generation is unknown under `None`.
    generations: BTreeMap<(u32, Option<i64>), Generation>,
    /// Longest first.
    longest: Vec<Pause>,
    hosts: Hosts,
}

impl Collections {
    /// No collections.
    pub fn new() -> Collections {
        Collections::default()
    }

    /// Takes note of the hosts of the stream.
    pub fn of_hosts(&mut self, hosts: Hosts) {
        self.hosts = hosts;
    }

    /// The hosts of the stream, where it is of several.
    pub fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// Counts an event with what pairing said of it. Anything but the end of a collection is no matter.
    pub fn take(&mut self, step: &Step<'_>) {
        let event = step.event;
        let What::GcDone {
            generation,
            collected,
            pause_ns,
        } = event.what
        else {
            return;
        };
        let generation = generation.filter(|generation| GENERATIONS.contains(generation));
        let mut whose = (event.pid, generation);
        if self.generations.len() >= MOST && !self.generations.contains_key(&whose) {
            whose.0 = OTHERS;
        }
        let counted = self.generations.entry(whose).or_default();
        counted.count += 1;
        counted.collected = counted
            .collected
            .saturating_add(u64::try_from(collected).unwrap_or(0));
        let Some(pause_ns) = pause_ns else {
            return;
        };
        counted.pauses.add(pause_ns);
        let at = self
            .longest
            .partition_point(|known| known.pause_ns >= pause_ns);
        if at >= LONGEST {
            return;
        }
        self.longest.truncate(LONGEST - 1);
        self.longest.insert(
            at,
            Pause {
                ts: event.ts.saturating_sub(pause_ns),
                pause_ns,
                pid: event.pid,
                tid: event.tid,
                generation,
                collected,
                within: step.caller.map(|(_, place)| Arc::clone(place)),
            },
        );
    }

    /// By process and generation, the unknown generation first. Process [`OTHERS`] is all those that found no room.
    pub fn by_process(&self) -> impl Iterator<Item = (u32, Option<i64>, &Generation)> {
        self.generations
            .iter()
            .map(|(&(pid, generation), counted)| (pid, generation, counted))
    }

    /// By generation, all processes together.
    pub fn by_generation(&self) -> BTreeMap<Option<i64>, Generation> {
        let mut merged: BTreeMap<Option<i64>, Generation> = BTreeMap::new();
        for (&(_, generation), counted) in &self.generations {
            let all = merged.entry(generation).or_default();
            all.count += counted.count;
            all.collected = all.collected.saturating_add(counted.collected);
            all.pauses.merge(&counted.pauses);
        }
        merged
    }

    /// The longest pauses, longest first, at most a hundred.
    pub fn longest(&self) -> &[Pause] {
        &self.longest
    }

    /// All pauses together, in nanoseconds.
    pub fn total_pause_ns(&self) -> u64 {
        self.generations.values().fold(0, |sum: u64, counted| {
            sum.saturating_add(counted.pauses.sum())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::pairing::Pairing;
    use crate::analysis::testing::{call, event, returned};
    use crate::event::Event;

    fn feed(events: Vec<Event>) -> Collections {
        let mut pairing = Pairing::new();
        let mut collections = Collections::new();
        for mut event in events {
            let step = pairing.follow(&mut event).map(|step| {
                collections.take(&step);
            });
            assert_eq!(step, Some(()));
        }
        collections
    }

    fn start(ts: u64, generation: i64) -> Event {
        event(ts, What::GcStart { generation })
    }

    fn done(ts: u64, collected: i64) -> Event {
        let what = What::GcDone {
            generation: None,
            collected,
            pause_ns: None,
        };
        event(ts, what)
    }

    #[test]
    fn collections_are_counted_by_generation_with_their_pauses_and_objects() {
        let collections = feed(vec![
            start(10, 0),
            done(15, 3),
            start(20, 0),
            done(22, 4),
            start(30, 2),
            done(130, 50),
        ]);
        let by = collections.by_generation();
        let young = &by[&Some(0)];
        assert_eq!(
            (young.count, young.collected, young.pauses.sum()),
            (2, 7, 7)
        );
        assert_eq!(by[&Some(2)].pauses.max(), Some(100));
        assert_eq!(collections.total_pause_ns(), 107);
    }

    #[test]
    fn the_longest_pause_comes_first_and_names_the_function_that_ran() {
        let collections = feed(vec![
            call(1, "main"),
            call(2, "load"),
            start(10, 0),
            done(15, 0),
            start(20, 2),
            done(60, 9),
            returned(61, "load"),
            start(70, 1),
            done(80, 0),
        ]);
        let longest: Vec<_> = collections
            .longest()
            .iter()
            .map(|it| {
                (
                    it.ts,
                    it.pause_ns,
                    it.within.as_ref().map(|p| p.function.text.as_str()),
                )
            })
            .collect();
        assert_eq!(
            longest,
            [
                (20, 40, Some("load")),
                (70, 10, Some("main")),
                (10, 5, Some("load"))
            ]
        );
    }

    #[test]
    fn a_collection_that_began_before_tracing_is_counted_without_a_pause() {
        let collections = feed(vec![done(15, 3)]);
        let by = collections.by_generation();
        assert_eq!((by[&None].count, by[&None].pauses.count()), (1, 0));
        assert!(collections.longest().is_empty());
    }

    #[test]
    fn ever_more_processes_and_generations_are_counted_within_a_bound() {
        let mut pairing = Pairing::new();
        let mut collections = Collections::new();
        let many = 3 * MOST as u32;
        for number in 1..=many {
            for mut event in [start(10, i64::from(number)), done(15, 1)] {
                event.pid = number;
                if let Some(step) = pairing.follow(&mut event) {
                    collections.take(&step);
                }
            }
        }
        let rows: Vec<_> = collections.by_process().collect();
        assert!(rows.len() <= MOST + 9, "{}", rows.len());
        let counted: u64 = rows.iter().map(|(_, _, it)| it.count).sum();
        assert_eq!(counted, u64::from(many), "none is missing");
        let others: u64 = rows
            .iter()
            .filter(|(pid, _, _)| *pid == OTHERS)
            .map(|(_, _, it)| it.count)
            .sum();
        assert_eq!(others, u64::from(many) - MOST as u64);
    }

    #[test]
    fn ever_more_collections_keep_the_longest_hundred() {
        let events = (0..1000u64)
            .flat_map(|at| [start(10_000 * at, 0), done(10_000 * at + at * 7 % 1000, 1)])
            .collect();
        let collections = feed(events);
        assert_eq!(collections.longest().len(), LONGEST);
        let pauses: Vec<u64> = collections.longest().iter().map(|it| it.pause_ns).collect();
        assert_eq!(pauses, (900..1000).rev().collect::<Vec<_>>());
    }
}
