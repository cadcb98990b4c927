//! The order of events of several hosts while they come: each host is a lane of batches, and what comes next is the earliest event
//! that heads a lane. As long as one lane is empty, an earlier event may come in it; nobody waits for that longer than `hold`, from
//! when an event was here. What comes later all the same is passed on at once, and counted.
//!
//! Knows no thread and no clock: it is told what time it is.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use crate::event::Event;

/// Events of one host, in the order in which they came.
#[derive(Debug)]
pub(super) struct Arrived {
    /// When the last of them was here.
    pub(super) at: Instant,
    pub(super) events: Vec<Event>,
}

/// One host.
#[derive(Debug, Default)]
struct Lane {
    events: VecDeque<Event>,
    at: Option<Instant>,
    /// The latest time that it has told; it is in order in itself, so that nothing earlier is to be expected.
    reached: u64,
    has_ended: bool,
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    hold: Duration,
    /// The lanes with events, by the times of their heads.
    heads: BinaryHeap<Reverse<(u64, usize)>>,
    /// The latest time that was passed on.
    passed: u64,
    late: u64,
}

/// What can be done now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Events were passed on, as many as asked for: there may be more.
    More,
    /// One of the empty lanes has to tell something first, or this moment has to come, if there is one.
    Wait(Option<Instant>),
    /// All lanes have ended.
    End,
}

impl Lanes {
    /// So many hosts.
    pub(super) fn new(count: usize, hold: Duration) -> Lanes {
        let mut lanes = Vec::new();
        lanes.resize_with(count, Lane::default);
        Lanes {
            lanes,
            hold,
            heads: BinaryHeap::new(),
            passed: 0,
            late: 0,
        }
    }

    /// Those that are empty and have not ended.
    pub(super) fn empty(&self) -> impl Iterator<Item = usize> {
        let lanes = self.lanes.iter().enumerate();
        lanes
            .filter(|(_, lane)| lane.events.is_empty() && !lane.has_ended)
            .map(|(at, _)| at)
    }

    /// Takes events of an empty lane.
    pub(super) fn take(&mut self, at: usize, arrived: Arrived) {
        let Some(lane) = self.lanes.get_mut(at) else {
            return;
        };
        let Some(first) = arrived.events.first() else {
            return;
        };
        if lane.events.is_empty() {
            self.heads.push(Reverse((first.ts, at)));
        }
        lane.at = Some(arrived.at);
        lane.events.extend(arrived.events);
    }

    /// Nothing more comes in a lane.
    pub(super) fn end(&mut self, at: usize) {
        if let Some(lane) = self.lanes.get_mut(at) {
            lane.has_ended = true;
        }
    }

    /// Passes on what need not wait, so many events at most.
    pub(super) fn pass(&mut self, now: Instant, most: usize, out: &mut Vec<Event>) -> Next {
        // Up to where no empty lane can tell anything any longer.
        let mut quiet: Option<u64> = None;
        for lane in self.lanes.iter() {
            if lane.events.is_empty() && !lane.has_ended {
                let reached = lane.reached;
                quiet = Some(quiet.map_or(reached, |it| it.min(reached)));
            }
        }
        while out.len() < most {
            let Some(&Reverse((ts, at))) = self.heads.peek() else {
                return match quiet {
                    None => Next::End,
                    Some(_) => Next::Wait(None),
                };
            };
            let Some(lane) = self.lanes.get_mut(at) else {
                self.heads.pop();
                continue;
            };
            let due = lane.at.map_or(now, |at| at + self.hold);
            if quiet.is_some_and(|reached| ts > reached) && due > now {
                return Next::Wait(Some(due));
            }
            self.heads.pop();
            let Some(event) = lane.events.pop_front() else {
                continue;
            };
            lane.reached = lane.reached.max(event.ts);
            self.late += u64::from(event.ts < self.passed);
            self.passed = self.passed.max(event.ts);
            out.push(event);
            match lane.events.front() {
                Some(next) => self.heads.push(Reverse((next.ts, at))),
                None if !lane.has_ended => {
                    // It is to be asked for more before anything later goes on.
                    return Next::More;
                }
                None => {}
            }
        }
        Next::More
    }

    /// Events that were passed on after a later one, since this was last asked.
    pub(super) fn take_late(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::What;

    const HOLD: Duration = Duration::from_millis(500);

    fn at(ts: u64) -> Event {
        Event {
            ts,
            pid: 1,
            tid: 1,
            interpreter: None,
            what: What::GcStart { generation: 0 },
        }
    }

    fn arrived(at_time: Instant, times: &[u64]) -> Arrived {
        Arrived {
            at: at_time,
            events: times.iter().map(|ts| at(*ts)).collect(),
        }
    }

    /// Everything that can be passed on now, and what comes then.
    fn all(lanes: &mut Lanes, now: Instant) -> (Vec<u64>, Next) {
        let mut out = Vec::new();
        loop {
            let before = out.len();
            let next = lanes.pass(now, usize::MAX, &mut out);
            if next != Next::More || out.len() == before {
                return (out.iter().map(|event| event.ts).collect(), next);
            }
        }
    }

    #[test]
    fn the_earliest_head_goes_first_and_an_empty_lane_is_waited_for() {
        let now = Instant::now();
        let mut lanes = Lanes::new(2, HOLD);
        lanes.take(0, arrived(now, &[10, 30, 50]));
        lanes.take(1, arrived(now, &[20, 30]));
        let (times, next) = all(&mut lanes, now);
        assert_eq!(times, [10, 20, 30, 30]);
        assert_eq!(next, Next::Wait(Some(now + HOLD)));
        assert_eq!(lanes.empty().collect::<Vec<_>>(), [1]);
        lanes.take(1, arrived(now, &[60]));
        assert_eq!(all(&mut lanes, now).0, [50]);
        lanes.end(0);
        assert_eq!(all(&mut lanes, now), (vec![60], Next::Wait(None)));
        lanes.end(1);
        assert_eq!(all(&mut lanes, now), (vec![], Next::End));
    }

    #[test]
    fn a_host_that_says_nothing_holds_nobody_up_for_longer_than_that_and_its_late_events_are_counted()
     {
        let now = Instant::now();
        let mut lanes = Lanes::new(2, HOLD);
        lanes.take(0, arrived(now, &[10, 40]));
        assert_eq!(all(&mut lanes, now), (vec![], Next::Wait(Some(now + HOLD))));
        assert_eq!(all(&mut lanes, now + HOLD).0, [10, 40]);
        lanes.take(1, arrived(now + HOLD, &[20, 30, 50]));
        lanes.take(0, arrived(now + HOLD, &[45]));
        // What is late waits for nobody: earlier than it can come only what is later still.
        assert_eq!(all(&mut lanes, now + HOLD).0, [20, 30, 45]);
        assert_eq!((lanes.take_late(), lanes.take_late()), (2, 0));
    }

    #[test]
    fn what_is_not_later_than_what_an_empty_lane_has_told_need_not_wait() {
        let now = Instant::now();
        let mut lanes = Lanes::new(2, HOLD);
        lanes.take(1, arrived(now, &[100]));
        lanes.take(0, arrived(now, &[10, 90, 110]));
        assert_eq!(all(&mut lanes, now).0, [10, 90, 100]);
    }

    #[test]
    fn no_more_are_passed_on_at_once_than_asked_for() {
        let now = Instant::now();
        let mut lanes = Lanes::new(1, HOLD);
        lanes.take(0, arrived(now, &[1, 2, 3]));
        let mut out = Vec::new();
        assert_eq!(lanes.pass(now, 2, &mut out), Next::More);
        assert_eq!(out.len(), 2);
    }

    proptest! {
        #[test]
        fn whatever_comes_in_time_comes_out_in_order(
            batches in proptest::collection::vec((0..4_usize, 1..6_u64, 1..20_u64), 0..80),
        ) {
            let now = Instant::now();
            let mut lanes = Lanes::new(4, HOLD);
            let mut waiting: Vec<VecDeque<Vec<u64>>> = vec![VecDeque::new(); 4];
            let mut told = [0_u64; 4];
            let mut expected: Vec<u64> = Vec::new();
            for (lane, count, step) in batches {
                let times: Vec<u64> = (1..=count).map(|nth| told[lane] + nth * step).collect();
                told[lane] += count * step;
                expected.extend(&times);
                waiting[lane].push_back(times);
            }
            expected.sort_unstable();
            let mut out = Vec::new();
            loop {
                let empty: Vec<usize> = lanes.empty().collect();
                for lane in empty {
                    match waiting[lane].pop_front() {
                        Some(times) => lanes.take(lane, arrived(now, &times)),
                        None => lanes.end(lane),
                    }
                }
                let mut some = Vec::new();
                let next = lanes.pass(now, 7, &mut some);
                out.extend(some.iter().map(|event| event.ts));
                if next == Next::End {
                    break;
                }
            }
            prop_assert_eq!(out, expected);
            prop_assert_eq!(lanes.take_late(), 0);
        }
    }
}
