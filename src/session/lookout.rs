//! Which processes of a session have something that may come at any time: greenlet's library, interpreters within their
//! interpreter. An engine that sees it says so with the events, and because not each can, it is looked again and again. To read
//! what a process has mapped can take for ever, and a target may see to that: the session waits a moment only, and does not
//! ask that process again.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use crate::process::{Budget, within};

/// How often to look, and at how many processes each time: one look reads what a process has mapped.
const OFTEN: Duration = Duration::from_secs(1);
const AT_A_TIME: usize = 32;
/// How long a look may hold the session up. One process that does not answer costs this once.
const BUDGET: Budget = Budget {
    each: Duration::from_millis(500),
    all: Duration::from_secs(1),
};
/// Processes that do not answer, after which nobody is asked any more: each costs a thread, which waits for it.
const MOST_STUCK: usize = 16;

/// Those that are known, and who comes next.
#[derive(Debug, Default)]
pub(crate) struct Lookout {
    known: HashSet<u32>,
    stuck: HashSet<u32>,
    /// The last process that was looked at.
    last: u32,
    looked: Option<Instant>,
    said: bool,
}

impl Lookout {
    /// Whether it is time to look.
    pub(crate) fn is_due(&self) -> bool {
        self.looked.is_none_or(|at| at.elapsed() >= OFTEN)
    }

    /// Which of some processes have it, of those that were not known to: of many, each has its turn.
    pub(crate) fn look(
        &mut self,
        all: &BTreeSet<u32>,
        has: impl Fn(u32) -> bool + Send + Sync + 'static,
    ) -> Vec<u32> {
        self.looked = Some(Instant::now());
        self.known.retain(|pid| all.contains(pid));
        self.stuck.retain(|pid| all.contains(pid));
        if self.stuck.len() >= MOST_STUCK {
            return Vec::new();
        }
        let behind = all.range(self.last.saturating_add(1)..);
        let before = all.range(..=self.last);
        let (known, stuck) = (&self.known, &self.stuck);
        let next = behind.chain(before);
        let next = next.filter(|pid| !known.contains(pid) && !stuck.contains(pid));
        let turn: Vec<u32> = next.copied().take(AT_A_TIME).collect();
        self.last = turn.last().copied().unwrap_or(self.last);
        let looked = within(BUDGET, turn, (), move |pid, ()| has(*pid).then_some(*pid));
        self.stuck.extend(looked.stuck);
        let found: Vec<u32> = looked.done.into_iter().flatten().collect();
        self.known.extend(&found);
        found
    }

    /// Takes note of what an engine says of a process. False where it was known.
    pub(crate) fn take(&mut self, pid: u32) -> bool {
        self.known.insert(pid)
    }

    /// True when this is asked for the first time.
    pub(crate) fn is_first(&mut self) -> bool {
        !std::mem::replace(&mut self.said, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_once_and_looked_at_until_it_has_it() {
        let mut lookout = Lookout::default();
        assert!(lookout.is_due());
        let all = BTreeSet::from([3, 7]);
        assert!(lookout.look(&all, |_| false).is_empty());
        assert!(!lookout.is_due());
        assert_eq!(lookout.look(&all, |pid| pid == 7), [7]);
        assert_eq!(lookout.look(&all, |pid| pid >= 3), [3]);
        assert!(lookout.look(&all, |_| true).is_empty());
        assert!(!lookout.take(7), "it is known");
        // Another process got the number of one that has ended.
        lookout.look(&BTreeSet::from([3]), |_| false);
        assert_eq!(lookout.look(&all, |_| true), [7]);
        assert!(lookout.take(9), "an engine saw it first");
        assert!(lookout.look(&BTreeSet::from([9]), |_| true).is_empty());
        assert!(lookout.is_first() && !lookout.is_first());
    }

    #[test]
    fn of_many_processes_each_has_its_turn() {
        let mut lookout = Lookout::default();
        let all: BTreeSet<u32> = (1..=3 * AT_A_TIME as u32 + 5).collect();
        let mut found = BTreeSet::new();
        for _ in 0..4 {
            let looked = lookout.look(&all, |pid| pid % 2 == 0);
            assert!(looked.len() <= AT_A_TIME);
            found.extend(looked);
        }
        let even: BTreeSet<u32> = all.iter().copied().filter(|pid| pid % 2 == 0).collect();
        assert_eq!(found, even);
    }

    #[test]
    fn a_process_that_does_not_answer_holds_nobody_up_for_long_and_is_not_asked_again() {
        let (answer, never) = crossbeam_channel::bounded::<()>(0);
        let has = move |pid: u32| match pid {
            5 => never.recv().is_ok(),
            _ => true,
        };
        let mut lookout = Lookout::default();
        let all = BTreeSet::from([3, 5, 7]);
        let begun = Instant::now();
        let mut found: BTreeSet<u32> = lookout.look(&all, has.clone()).into_iter().collect();
        found.extend(lookout.look(&all, has));
        assert!(begun.elapsed() < Duration::from_secs(20), "it waits");
        assert_eq!(found, BTreeSet::from([3, 7]));
        assert_eq!(lookout.stuck, HashSet::from([5]));
        drop(answer);
    }
}
