//! Divides a stretch of a thread's time by what the thread did. Nothing is left over and nothing counts twice.

use std::sync::Arc;

use super::part::{Doing, Part, Parts};
use crate::waits::{Reason, Waker};

/// A time in which a thread had no processor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Off {
    /// When it left the processor.
    pub(super) began: u64,
    /// Until when it was blocked; the beginning, if it was preempted. From then on it waited for a processor.
    pub(super) woken: u64,
    /// When it got one.
    pub(super) ended: u64,
    /// Why; `None` if it was preempted.
    pub(super) wait: Option<Waited>,
}

/// What a thread waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waited {
    pub(super) reason: Reason,
    /// The system call.
    pub(super) call: Option<Arc<str>>,
    /// A peer, a file.
    pub(super) on: Option<Arc<str>>,
    /// Who ended it, where that was told.
    pub(super) waker: Option<Waker>,
}

/// A time in which something else had the thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parked {
    pub(super) began: u64,
    pub(super) ended: u64,
    /// The function that gave way, and when it was called.
    pub(super) by: Option<Arc<str>>,
    pub(super) called: u64,
    /// What it waited on, where that is known.
    pub(super) on: Option<Arc<str>>,
}

/// Adds up the parts of a thread's time from one moment to another. `parked` and `offs` are each in the order of time, and do not
/// overlap among themselves.
pub(super) fn split(from: u64, to: u64, parked: &[Parked], offs: &[Off], parts: &mut Parts) {
    let mut at = from;
    for parked in parked {
        let (began, ended) = (parked.began.clamp(at, to.max(at)), parked.ended.min(to));
        if ended <= began {
            continue;
        }
        on_thread(at, began, offs, parts);
        let part = Part {
            call: parked.by.clone(),
            on: parked.on.clone(),
            ..Part::plain(Doing::Parked)
        };
        parts.add(part, ended - began, None);
        at = ended;
    }
    on_thread(at, to, offs, parts);
}

/// The same while nothing is parked.
fn on_thread(from: u64, to: u64, offs: &[Off], parts: &mut Parts) {
    let first = offs.partition_point(|off| off.ended <= from);
    let (mut at, mut running) = (from, 0);
    for off in offs.iter().skip(first).take_while(|off| off.began < to) {
        // Clocks may differ by some nanoseconds: what is outside of the stretch is not of it.
        let began = off.began.max(at);
        let woken = off.woken.clamp(began, to);
        let ended = off.ended.clamp(woken, to);
        running += began - at;
        at = ended;
        if let Some(wait) = &off.wait
            && woken > began
        {
            let part = Part {
                doing: Doing::Waiting(wait.reason),
                call: wait.call.clone(),
                on: wait.on.clone(),
            };
            parts.add(part, woken - began, Some(wait.waker));
        }
        if ended > woken {
            let doing = match off.wait {
                Some(_) => Doing::Queued,
                None => Doing::Preempted,
            };
            parts.add(Part::plain(doing), ended - woken, None);
        }
    }
    running += to.saturating_sub(at);
    if running > 0 {
        parts.add(Part::plain(Doing::Running), running, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(began: u64, woken: u64, ended: u64, reason: Reason) -> Off {
        let wait = Some(Waited {
            reason,
            call: None,
            on: None,
            waker: Some(Waker::Interrupt),
        });
        Off {
            began,
            woken,
            ended,
            wait,
        }
    }

    fn preempted(began: u64, ended: u64) -> Off {
        Off {
            began,
            woken: began,
            ended,
            wait: None,
        }
    }

    /// Each part with its time, how often and the longest.
    fn parts(from: u64, to: u64, parked: &[(u64, u64)], offs: &[Off]) -> Vec<(&'static str, u64)> {
        let parked: Vec<Parked> = parked
            .iter()
            .map(|&(began, ended)| Parked {
                began,
                ended,
                by: None,
                called: 0,
                on: None,
            })
            .collect();
        let mut parts = Parts::default();
        split(from, to, &parked, offs, &mut parts);
        assert_eq!(parts.total_ns(), to - from, "{parts:?}");
        let sorted = parts.sorted().into_iter();
        sorted
            .map(|(part, sum)| (part.doing.word(), sum.total_ns))
            .collect()
    }

    #[test]
    fn waits_queues_and_running_add_up() {
        let offs = [
            wait(0, 5, 9, Reason::Disk),
            wait(110, 150, 153, Reason::Network),
            preempted(160, 162),
            wait(170, 171, 171, Reason::Gil),
            wait(300, 400, 400, Reason::Lock),
        ];
        let expected = [
            ("running", 54),
            ("network", 40),
            ("run-queue", 3),
            ("run-queue", 2),
            ("gil", 1),
        ];
        assert_eq!(parts(100, 200, &[], &offs), expected);
        assert_eq!(parts(200, 300, &[], &offs), [("running", 100)]);
        assert_eq!(parts(200, 200, &[], &offs), []);
    }

    #[test]
    fn what_reaches_beyond_the_stretch_counts_within_it_only() {
        let offs = [wait(90, 120, 130, Reason::Pipe)];
        assert_eq!(
            parts(100, 110, &[], &offs),
            [("pipe", 10)],
            "it ends within the wait"
        );
        assert_eq!(
            parts(100, 125, &[], &offs),
            [("pipe", 20), ("run-queue", 5)]
        );
        assert_eq!(parts(125, 130, &[], &offs), [("run-queue", 5)]);
        assert_eq!(parts(130, 131, &[], &offs), [("running", 1)]);
        // Two of which each says that it was alone count once.
        let offs = [
            wait(100, 120, 130, Reason::Pipe),
            wait(110, 125, 140, Reason::Lock),
        ];
        assert_eq!(
            parts(100, 150, &[], &offs),
            [("run-queue", 20), ("pipe", 20), ("running", 10)]
        );
    }

    #[test]
    fn what_others_did_while_a_greenlet_was_parked_is_theirs() {
        let offs = [
            wait(105, 110, 110, Reason::Disk),
            wait(130, 160, 161, Reason::Poll),
            wait(185, 190, 190, Reason::Lock),
        ];
        assert_eq!(
            parts(100, 200, &[(50, 60), (120, 180), (195, 300)], &offs),
            [("parked", 65), ("running", 25), ("disk", 5), ("lock", 5)]
        );
        assert_eq!(parts(100, 200, &[(100, 200)], &offs), [("parked", 100)]);
    }
}
