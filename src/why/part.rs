//! Parts of calls, added up.

use std::collections::HashMap;
use std::sync::Arc;

use crate::waits::{Reason, Waker};

/// Most parts of one sum that are told apart; where there are more, further ones are told without what they waited on.
const MOST_PARTS: usize = 1024;
/// Most threads that are remembered to have ended the waits of a part.
const MOST_WAKERS: usize = 64;

/// What a thread did with a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Doing {
    /// It ran.
    Running,
    /// It had been woken, and waited for a processor.
    Queued,
    /// Its processor had been taken from it, and it waited for one.
    Preempted,
    /// It was blocked.
    Waiting(Reason),
    /// The thread did something else: the coroutine had given way, or another greenlet ran.
    Parked,
}

impl Doing {
    /// In a word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Doing::Running => "running",
            Doing::Queued | Doing::Preempted => "run-queue",
            Doing::Waiting(reason) => reason.word(),
            Doing::Parked => "parked",
        }
    }
}

/// What tells parts apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Part {
    pub(crate) doing: Doing,
    /// The system call; of what is parked, the function that gave way, where that is known.
    pub(crate) call: Option<Arc<str>>,
    /// What it waited on: a peer, a file.
    pub(crate) on: Option<Arc<str>>,
}

impl Part {
    /// One that nothing more is to be said of.
    pub(crate) fn plain(doing: Doing) -> Part {
        Part {
            doing,
            call: None,
            on: None,
        }
    }
}

/// How much of it there was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) total_ns: u64,
    /// The longest at a time.
    pub(crate) max_ns: u64,
    /// How often.
    pub(crate) times: u64,
    /// Who ended how many of the waits; `None` where it was not told.
    pub(crate) wakers: HashMap<Option<Waker>, u64>,
}

impl Sum {
    fn add(&mut self, other: &Sum) {
        self.total_ns = self.total_ns.saturating_add(other.total_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        self.times += other.times;
        for (waker, times) in &other.wakers {
            self.woken(*waker, *times);
        }
    }

    fn woken(&mut self, waker: Option<Waker>, times: u64) {
        let is_full = self.wakers.len() >= MOST_WAKERS;
        let waker = waker.filter(|waker| !is_full || self.wakers.contains_key(&Some(*waker)));
        *self.wakers.entry(waker).or_default() += times;
    }
}

/// The parts of a call, or of many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    sums: HashMap<Part, Sum>,
}

impl Parts {
    /// One stretch of time. `waker` says who ended it where it was a wait.
    pub(crate) fn add(&mut self, part: Part, ns: u64, waker: Option<Option<Waker>>) {
        let mut sum = Sum {
            total_ns: ns,
            max_ns: ns,
            times: 1,
            wakers: HashMap::new(),
        };
        sum.wakers.extend(waker.map(|waker| (waker, 1)));
        self.take(part, &sum);
    }

    /// All of another one.
    pub(crate) fn merge(&mut self, other: &Parts) {
        for (part, sum) in &other.sums {
            self.take(part.clone(), sum);
        }
    }

    fn take(&mut self, part: Part, sum: &Sum) {
        let is_full = self.sums.len() >= MOST_PARTS && !self.sums.contains_key(&part);
        let part = match is_full {
            // There are few of these.
            true => Part::plain(part.doing),
            false => part,
        };
        self.sums.entry(part).or_default().add(sum);
    }

    /// All of them, the longest first.
    pub(crate) fn sorted(&self) -> Vec<(&Part, &Sum)> {
        let mut sorted: Vec<_> = self.sums.iter().collect();
        sorted.sort_by(|(left, more), (right, less)| {
            less.total_ns.cmp(&more.total_ns).then(left.cmp(right))
        });
        sorted
    }

    /// The whole.
    pub(crate) fn total_ns(&self) -> u64 {
        let totals = self.sums.values().map(|sum| sum.total_ns);
        totals.fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_beyond_the_bound_lose_what_they_waited_on_and_no_time() {
        let mut parts = Parts::default();
        for peer in 0..2 * MOST_PARTS {
            let part = Part {
                doing: Doing::Waiting(Reason::Network),
                call: Some("recvfrom".into()),
                on: Some(format!("peer {peer}").into()),
            };
            let waker = Waker::Thread {
                pid: 1,
                tid: peer as u32,
            };
            parts.add(part, 2, Some(Some(waker)));
        }
        assert_eq!(parts.total_ns(), 4 * MOST_PARTS as u64);
        assert_eq!(parts.sums.len(), MOST_PARTS + 1);
        let (first, sum) = parts.sorted()[0];
        assert_eq!(*first, Part::plain(Doing::Waiting(Reason::Network)));
        assert_eq!(sum.times, MOST_PARTS as u64);
        assert_eq!(sum.wakers.len(), MOST_WAKERS + 1);
        assert_eq!(sum.wakers.values().sum::<u64>(), sum.times);
    }
}
