//! The tracer's own cost, taken out of times. Each event of a thread takes some of the thread's time, which lands in whichever
//! function is measured around it: cheap functions that are called often look dear.
//!
//! Between two successive events of a thread lies what of the first comes after its time was taken, and what of the second comes
//! before. How much that is depends on where in a call the two ends of the interval lie. Of what a call and its return cost
//! together, one part lies between their times, within the call: what comes after the call's time, and what comes before the
//! return's. The rest lies in the caller. The two are not alike: an agent has little to do once it has taken the time of a call, and
//! has yet to come to take that of a return.
//!
//! So each end of an interval has half of one of the parts in it. Pairing counts intervals and those of their ends that are within a
//! call ([`Intervals`]), for own time and for the time from a call to its return. Nothing is assumed about how events follow
//! each other, so that the counts are right also of calls that are still open, that switch stacks, or of which events were lost. What
//! the two parts are, the engine has measured when the session began ([`Session::overhead_ns_per_event`],
//! [`Session::overhead_ns_within_call`]); where it knows one number only, an interval costs as much as an event does.

use std::num::NonZeroU64;
use std::ops::{Add, AddAssign, Sub};

use crate::event::{Session, What};

/// What an event is to the time around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Edge {
    /// What follows is within what began, as after a call.
    Begins,
    /// What went before was.
    #[default]
    Ends,
}

impl Edge {
    /// Which of them an event is.
    pub fn of(what: &What) -> Edge {
        match what {
            What::Call { .. } | What::GcStart { .. } => Edge::Begins,
            _ => Edge::Ends,
        }
    }
}

/// Intervals between two events, by what the tracer's cost in them depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Intervals {
    /// How many: so often the cost of about one event is in their time.
    pub count: u64,
    /// Of their ends, two of each, those within a call: after it began, or before it ended.
    pub ends_within: u64,
}

impl Intervals {
    /// No interval.
    pub const NONE: Intervals = Intervals {
        count: 0,
        ends_within: 0,
    };

    /// One, from an event to the next.
    pub fn between(first: Edge, second: Edge) -> Intervals {
        Intervals {
            count: 1,
            ends_within: u64::from(first == Edge::Begins) + u64::from(second == Edge::Ends),
        }
    }
}

impl Add for Intervals {
    type Output = Intervals;

    fn add(self, other: Intervals) -> Intervals {
        Intervals {
            count: self.count.saturating_add(other.count),
            ends_within: self.ends_within.saturating_add(other.ends_within),
        }
    }
}

impl AddAssign for Intervals {
    fn add_assign(&mut self, other: Intervals) {
        *self = *self + other;
    }
}

impl Sub for Intervals {
    type Output = Intervals;

    fn sub(self, other: Intervals) -> Intervals {
        Intervals {
            count: self.count.saturating_sub(other.count),
            ends_within: self.ends_within.saturating_sub(other.ends_within),
        }
    }
}

/// What events cost, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// An event: half of what a call and its return cost.
    per_event: NonZeroU64,
    /// How much of what they cost lies within the call, and how much in its caller.
    within: u64,
    around: u64,
}

impl Cost {
    /// That of an event, and what of a call and its return lies within the call: half of it where that is not known.
    pub fn new(per_event: NonZeroU64, within_call: Option<u64>) -> Cost {
        let both = per_event.get().saturating_mul(2);
        let within = within_call.unwrap_or(per_event.get()).min(both);
        Cost {
            per_event,
            within,
            around: both - within,
        }
    }

    /// An event.
    pub fn per_event(self) -> NonZeroU64 {
        self.per_event
    }

    /// Nanoseconds of a call and its return that lie between their times.
    pub fn within_call(self) -> u64 {
        self.within
    }

    /// So many times that. An event costs something.
    fn times(self, factor: f64) -> Cost {
        let scaled = |number: u64| (number as f64 * factor).round() as u64;
        Cost {
            per_event: NonZeroU64::new(scaled(self.per_event.get())).unwrap_or(NonZeroU64::MIN),
            within: scaled(self.within),
            around: scaled(self.around),
        }
    }

    fn of(self, intervals: Intervals) -> u64 {
        let ends_around =
            (2 * u128::from(intervals.count)).saturating_sub(intervals.ends_within.into());
        let within = u128::from(self.within) * u128::from(intervals.ends_within);
        let around = u128::from(self.around).saturating_mul(ends_around);
        u64::try_from(within.saturating_add(around) / 2).unwrap_or(u64::MAX)
    }
}

/// So much of all times is the tracer's at most: what an event costs is not known better than by some tenths.
const MOST_PART: f64 = 0.9;

/// What is taken out of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overhead {
    /// Nothing: what an event costs was not measured.
    #[default]
    Unknown,
    /// Nothing: these are sums that were made where events happen, which do not say how many of them lie in a time.
    Uncounted,
    /// Nothing, because somebody wants to see what was measured.
    Kept,
    /// What events cost.
    Taken(Cost),
}

impl Overhead {
    /// What can be taken out of the times of a session; nothing where the `raw` ones are wanted.
    pub fn of(session: &Session, raw: bool) -> Overhead {
        match session.overhead_ns_per_event {
            _ if raw => Overhead::Kept,
            Some(per_event) => {
                Overhead::Taken(Cost::new(per_event, session.overhead_ns_within_call))
            }
            None => Overhead::Unknown,
        }
    }

    /// The same when it is known better what events cost.
    pub fn refined(self, cost: Cost) -> Overhead {
        match self {
            Overhead::Kept => Overhead::Kept,
            Overhead::Uncounted => Overhead::Uncounted,
            Overhead::Unknown | Overhead::Taken(_) => Overhead::Taken(cost),
        }
    }

    /// What events cost, where that is taken out.
    pub fn cost(self) -> Option<Cost> {
        match self {
            Overhead::Taken(cost) => Some(cost),
            Overhead::Unknown | Overhead::Uncounted | Overhead::Kept => None,
        }
    }

    /// A measured time, in nanoseconds, without the cost of the events between these intervals. Never below 0: an event costs now
    /// more, now less.
    pub fn net(self, measured_ns: u64, intervals: Intervals) -> u64 {
        match self.cost() {
            Some(cost) => measured_ns.saturating_sub(cost.of(intervals)),
            None => measured_ns,
        }
    }

    /// The same, but no more than most of this time of all functions together. That events cost more than was measured around them
    /// cannot be: what they cost is then less than it is taken to be, as of programs that sleep and find nothing in the
    /// processor's caches each time that they wake.
    pub fn bounded(self, measured_ns: u64, intervals: Intervals) -> Overhead {
        let Some(cost) = self.cost() else { return self };
        let most = measured_ns as f64 * MOST_PART;
        match cost.of(intervals) as f64 {
            taken if taken > most => Overhead::Taken(cost.times(most / taken)),
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(per_event: u64, within_call: Option<u64>) -> Overhead {
        let session = Session {
            overhead_ns_per_event: NonZeroU64::new(per_event),
            overhead_ns_within_call: within_call,
            ..Session::default()
        };
        Overhead::of(&session, false)
    }

    fn intervals(count: u64, ends_within: u64) -> Intervals {
        Intervals { count, ends_within }
    }

    #[test]
    fn what_is_taken_out_is_the_cost_of_each_event_and_never_more_than_was_measured() {
        let taken = taken(100, None);
        for ends_within in 0..6 {
            assert_eq!(taken.net(1_000, intervals(3, ends_within)), 700);
        }
        assert_eq!(taken.net(1_000, Intervals::NONE), 1_000);
        assert_eq!(taken.net(1_000, intervals(11, 3)), 0);
        assert_eq!(taken.net(u64::MAX, intervals(u64::MAX, 0)), 0);
    }

    #[test]
    fn nothing_is_taken_out_where_it_is_not_known_or_not_wanted() {
        let known = Session {
            overhead_ns_per_event: NonZeroU64::new(100),
            ..Session::default()
        };
        for nothing in [
            Overhead::of(&known, true),
            Overhead::of(&Session::default(), false),
        ] {
            assert_eq!(nothing.net(1_000, intervals(3, 1)), 1_000);
        }
    }

    #[test]
    fn what_is_known_better_later_counts_unless_what_was_measured_is_wanted() {
        let better = Cost::new(NonZeroU64::new(150).expect("more than nothing"), Some(90));
        for before in [Overhead::Unknown, taken(100, Some(50))] {
            let refined = before.refined(better);
            assert_eq!(refined, taken(150, Some(90)));
        }
        let kept = Overhead::Kept.refined(better);
        assert_eq!(kept, Overhead::Kept);
    }

    #[test]
    fn what_lies_within_calls_is_taken_out_of_them_and_the_rest_of_their_callers() {
        use Edge::{Begins, Ends};
        // Of 200 for a call and its return, 50 are within.
        let taken = taken(100, Some(50));
        assert_eq!(taken.net(1_000, Intervals::between(Begins, Ends)), 950);
        assert_eq!(taken.net(1_000, Intervals::between(Ends, Begins)), 850);
        assert_eq!(taken.net(1_000, Intervals::between(Begins, Begins)), 900);
        assert_eq!(taken.net(1_000, Intervals::between(Ends, Ends)), 900);
        // A caller of two calls: from its own call to its return are five events.
        let own = Intervals::between(Begins, Begins)
            + Intervals::between(Ends, Begins)
            + Intervals::between(Ends, Ends);
        assert_eq!(taken.net(1_000, own), 1_000 - 50 - 2 * 150);
        let called = Intervals::between(Begins, Ends);
        assert_eq!(
            taken.net(1_000, own + called + called),
            1_000 - 50 - 2 * 200
        );
    }

    #[test]
    fn numbers_that_cannot_be_are_no_panic_and_take_out_no_more_than_both_events_cost() {
        let odd = taken(100, Some(u64::MAX));
        assert_eq!(odd.net(1_000, intervals(1, 2)), 800);
        assert_eq!(odd.net(1_000, intervals(1, u64::MAX)), 0);
        let dear = taken(u64::MAX, Some(0));
        assert_eq!(dear.net(u64::MAX, intervals(u64::MAX, 7)), 0);
        assert_eq!(dear.net(5, intervals(1, 2)), 5);
    }

    #[test]
    fn events_cost_no_more_than_nine_tenths_of_what_was_measured_around_them_all() {
        let cost = taken(1_000, Some(500)).cost().expect("known");
        let of = |measured| {
            let bounded = taken(1_000, Some(500)).bounded(measured, intervals(10, 0));
            bounded.cost().expect("known")
        };
        // Ten intervals around calls: 15 microseconds.
        assert_eq!(of(20_000), cost);
        assert_eq!(of(16_667), cost);
        let halved = of(10_000);
        assert_eq!(halved.of(intervals(10, 0)), 9_000);
        assert_eq!((halved.per_event().get(), halved.within_call()), (600, 300));
        assert_eq!(of(0).per_event().get(), 1);
        for nothing in [Overhead::Unknown, Overhead::Uncounted, Overhead::Kept] {
            assert_eq!(nothing.bounded(0, intervals(10, 0)), nothing);
        }
    }
}
