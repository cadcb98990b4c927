//! What an event costs the program in which an agent is: from calls of a function that does nothing, which the agent made as its
//! session began, told and not told (`agent/src/calibration.rs`).
//!
//! The beginnings of two calls in a row are apart by the costs of two events, of a call and of its return, and by what a call
//! takes itself, which is known from those that were not told.

use crate::engine::event_cost::between;

/// Calls at the beginning that are left out: caches are cold, and code is made ready for events.
const COLD: usize = 32;
/// Calls that are looked at, at most.
const MOST: usize = 4096;

/// Calls that are told and are no calls of the program.
#[derive(Debug, Clone)]
pub(super) struct DryRun {
    /// The thread that makes them.
    pub(super) thread: u32,
    /// Ticks that a call took which was not told.
    quiet: f64,
    /// When they began, in ticks.
    began: Vec<u64>,
}

impl DryRun {
    /// One of this thread, where so many calls took so many ticks when they were not told.
    pub(super) fn new(thread: u32, ticks: u64, calls: u32) -> DryRun {
        DryRun {
            thread,
            quiet: ticks as f64 / f64::from(calls.max(1)),
            began: Vec::new(),
        }
    }

    /// A call began.
    pub(super) fn call(&mut self, time: u64) {
        if self.began.len() < MOST {
            self.began.push(time);
        }
    }

    /// Ticks that an event costs: half of what a call and its return cost. `None` where nothing can be said.
    pub(super) fn ticks_per_event(&self) -> Option<f64> {
        let told = between(self.began.get(COLD..)?)?;
        let both = told as f64 - self.quiet;
        (both > 0.0).then_some(both / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many calls, so many ticks apart, of which one takes 40 when it is not told.
    fn dry_run(calls: u64, ticks: u64) -> DryRun {
        let mut dry_run = DryRun::new(7, 32 * 40, 32);
        (0..calls).for_each(|call| dry_run.call(1_000 + call * ticks));
        dry_run
    }

    #[test]
    fn an_event_costs_half_of_what_telling_makes_a_call_longer() {
        assert_eq!(dry_run(192, 240).ticks_per_event(), Some(100.0));
    }

    #[test]
    fn where_telling_makes_nothing_longer_or_calls_are_few_nothing_is_said() {
        assert_eq!(dry_run(192, 40).ticks_per_event(), None);
        assert_eq!(dry_run(COLD as u64 + 20, 240).ticks_per_event(), None);
        assert_eq!(dry_run(0, 0).ticks_per_event(), None);
    }

    #[test]
    fn numbers_that_cannot_be_are_no_panic() {
        let mut dry_run = DryRun::new(7, u64::MAX, 0);
        for time in [u64::MAX, 0].into_iter().cycle().take(2 * MOST) {
            dry_run.call(time);
        }
        assert_eq!(dry_run.began.len(), MOST);
        assert_eq!(dry_run.ticks_per_event(), None);
    }
}
