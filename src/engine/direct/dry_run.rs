//! What an event costs the program in which an agent is: from calls of a function that does nothing, which the agent made as its
//! session began, told and not told (`agent/src/calibration.rs`).
//!
//! The beginnings of two calls in a row are apart by the costs of two events, of a call and of its return, and by what a call
//! takes itself, which is known from those that were not told. The times of a call and of its return are apart by what of these
//! costs lies within the call, and by what its body takes, which cannot be seen without being told; it is taken to be
//! [a small part](BODY) of what a call takes that is not told. The rest of that, to come to the body and back, is the caller's.

use std::num::NonZeroU64;

use super::clock::Clock;
use crate::engine::event_cost::{Cost, intervals, least};

/// Calls at the beginning that are left out: caches are cold, and code is made ready for events.
const COLD: usize = 32;
/// Calls that are looked at, at most.
const MOST: usize = 4096;
/// How much of a call that does nothing lies between where its beginning and its end are told: by samples of stacks, about a tenth
/// of the time of a program that makes only such calls is in them (benches/own-cost).
const BODY: f64 = 0.1;

/// Calls that are told and are no calls of the program.
#[derive(Debug, Clone)]
pub(super) struct DryRun {
    /// The thread that makes them.
    pub(super) thread: u32,
    /// Ticks that a call took which was not told.
    quiet: f64,
    /// When they began, in ticks.
    began: Vec<u64>,
    /// How long those took that have ended, in ticks.
    took: Vec<u64>,
}

impl DryRun {
    /// One of this thread, where so many calls took so many ticks when they were not told.
    pub(super) fn new(thread: u32, ticks: u64, calls: u32) -> DryRun {
        DryRun {
            thread,
            quiet: ticks as f64 / f64::from(calls.max(1)),
            began: Vec::new(),
            took: Vec::new(),
        }
    }

    /// A call began.
    pub(super) fn call(&mut self, time: u64) {
        if self.began.len() < MOST {
            self.began.push(time);
        }
    }

    /// The last one that began has ended.
    pub(super) fn returned(&mut self, time: u64) {
        if self.took.len() < self.began.len()
            && let Some(began) = self.began.last()
        {
            self.took.push(time.saturating_sub(*began));
        }
    }

    /// What an event costs. `None` where nothing can be said.
    pub(super) fn cost(&self, clock: &Clock) -> Option<Cost> {
        let told = least(intervals(self.began.get(COLD..)?))?;
        let both = told as f64 - self.quiet;
        let took = least(self.took.get(COLD..)?.to_vec())?;
        let within = (took as f64 - BODY * self.quiet).clamp(0.0, both.max(0.0));
        let nanoseconds = |ticks: f64| clock.span(ticks).round() as u64;
        Some(Cost {
            per_event: NonZeroU64::new(nanoseconds(both / 2.0))?,
            within_call: Some(nanoseconds(within)),
        })
    }
}

#[cfg(test)]
mod tests {
    use pystap_agent_protocol as protocol;

    use super::*;

    /// So many calls, so many nanoseconds apart, each of which takes so many between its times, and 40 when it is not told.
    fn dry_run(calls: u64, apart: u64, took: u64) -> DryRun {
        let mut dry_run = DryRun::new(7, 32 * 40, 32);
        for call in 0..calls {
            dry_run.call(1_000 + call * apart);
            dry_run.returned(1_000 + call * apart + took);
        }
        dry_run
    }

    /// What an event costs, and what of two lies within a call.
    fn cost(dry_run: &DryRun) -> Option<(u64, u64)> {
        let cost = dry_run.cost(&Clock::new(protocol::Clock::Monotonic))?;
        Some((cost.per_event.get(), cost.within_call?))
    }

    #[test]
    fn an_event_costs_half_of_what_telling_makes_a_call_longer_and_some_of_it_lies_within() {
        assert_eq!(cost(&dry_run(192, 240, 70)), Some((100, 66)));
    }

    #[test]
    fn no_more_lies_within_a_call_than_telling_costs_and_no_less_than_nothing() {
        assert_eq!(cost(&dry_run(192, 240, 235)), Some((100, 200)));
        assert_eq!(cost(&dry_run(192, 240, 3)), Some((100, 0)));
    }

    #[test]
    fn what_comes_between_makes_nothing_dearer() {
        let mut dry_run = dry_run(192, 240, 70);
        for at in [40, 77, 150] {
            dry_run.took[at] = 1_000_000;
        }
        assert_eq!(cost(&dry_run), Some((100, 66)));
    }

    #[test]
    fn where_telling_makes_nothing_longer_or_calls_are_few_nothing_is_said() {
        assert_eq!(cost(&dry_run(192, 40, 10)), None);
        assert_eq!(cost(&dry_run(COLD as u64 + 20, 240, 70)), None);
        assert_eq!(cost(&dry_run(0, 0, 0)), None);
    }

    #[test]
    fn a_return_without_a_call_and_a_call_without_a_return_are_not_paired_with_others() {
        let mut dry_run = DryRun::new(7, 32 * 40, 32);
        dry_run.returned(5);
        dry_run.call(10);
        dry_run.returned(30);
        dry_run.returned(70);
        assert_eq!(dry_run.took, [20]);
    }

    #[test]
    fn numbers_that_cannot_be_are_no_panic() {
        let mut dry_run = DryRun::new(7, u64::MAX, 0);
        for time in [u64::MAX, 0].into_iter().cycle().take(2 * MOST) {
            dry_run.call(time);
            dry_run.returned(time ^ 1);
        }
        assert_eq!((dry_run.began.len(), dry_run.took.len()), (MOST, MOST));
        assert_eq!(cost(&dry_run), None);
    }
}
