//! The tracer's own cost, taken out of times. Each event of a thread takes some of the thread's time, which lands in whichever
//! function is measured around it: cheap functions that are called often look dear.
//!
//! Between two successive events of a thread lies the cost of about one event: what of the first comes after its time was taken,
//! and what of the second comes before. So a sum of intervals between events has as many costs in it as there are intervals, and a
//! call has as many in its duration as there are events from its call to its return, the return among them. Pairing counts both
//! ([`FinishedCall`](super::pairing::FinishedCall)). What one event costs, the engine has measured when the session began
//! ([`Session::overhead_ns_per_event`]).

use std::num::NonZeroU64;

use crate::event::Session;

/// What is taken out of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overhead {
    /// Nothing: what an event costs was not measured.
    #[default]
    Unknown,
    /// Nothing, because somebody wants to see what was measured.
    Kept,
    /// So many nanoseconds per event.
    Taken(NonZeroU64),
}

impl Overhead {
    /// What can be taken out of the times of a session; nothing where the `raw` ones are wanted.
    pub fn of(session: &Session, raw: bool) -> Overhead {
        match session.overhead_ns_per_event {
            _ if raw => Overhead::Kept,
            Some(cost) => Overhead::Taken(cost),
            None => Overhead::Unknown,
        }
    }

    /// Nanoseconds per event that are taken out; `None` where none are.
    pub fn per_event(self) -> Option<NonZeroU64> {
        match self {
            Overhead::Taken(cost) => Some(cost),
            Overhead::Unknown | Overhead::Kept => None,
        }
    }

    /// A measured time, in nanoseconds, without the cost of the events within. Never below 0: an event costs now more, now less.
    pub fn net(self, measured_ns: u64, events: u64) -> u64 {
        match self.per_event() {
            Some(cost) => measured_ns.saturating_sub(cost.get().saturating_mul(events)),
            None => measured_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_is_the_cost_of_each_event_and_never_more_than_was_measured() {
        let session = Session {
            overhead_ns_per_event: NonZeroU64::new(100),
            ..Session::default()
        };
        let taken = Overhead::of(&session, false);
        assert_eq!(taken.net(1_000, 3), 700);
        assert_eq!(taken.net(1_000, 0), 1_000);
        assert_eq!(taken.net(1_000, 11), 0);
        assert_eq!(taken.net(1_000, u64::MAX), 0);
        for nothing in [
            Overhead::of(&session, true),
            Overhead::of(&Session::default(), false),
        ] {
            assert_eq!(nothing.net(1_000, 3), 1_000);
        }
    }
}
