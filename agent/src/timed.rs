//! Calls that are told only when they took long enough, where pystap wants no others ([`pystap_ring::timed`]): one record when
//! such a call has ended, nothing for a shorter one.
//!
//! What is paired is what would be told, as for `sums`. Frames that were running before the session are told when they are
//! announced and when they are left, because nobody knows how long they took.

use pystap_agent_protocol::Clock;
use pystap_ring::Place;
use pystap_ring::timed::{Ended, TimedCalls};
use rustix::io::Errno;

use crate::gil::Guarded;
use crate::python::Ptr;
use crate::ring::Times;
use crate::{contexts, ring, thread};

/// Open calls, and which are long enough.
pub(crate) struct Timing {
    calls: TimedCalls,
    clock: Clock,
    /// In ticks of the clock.
    shortest: u64,
}

static TIMING: Guarded<Option<Timing>> = Guarded::new(None);

impl Timing {
    /// One that tells calls of so many ticks of a clock and longer ones.
    ///
    /// # Errors
    /// When there is no memory for open calls.
    pub(crate) fn new(shortest: u64, clock: Clock) -> Result<Timing, Errno> {
        Ok(Timing {
            calls: TimedCalls::new()?,
            clock,
            shortest,
        })
    }
}

/// Measures calls from now on, if there is something to do it with.
pub(crate) unsafe fn begin(timing: Option<Timing>) {
    *TIMING.get() = timing;
}

/// Ends it.
pub(crate) unsafe fn end() {
    drop((*TIMING.get()).take());
}

/// Whether calls are measured here.
#[inline(always)]
pub(crate) unsafe fn is_on() -> bool {
    (*TIMING.get()).is_some()
}

/// A function is entered. The context comes first, because a new one can run finalizers of the program (up to 3.11), and these
/// can end the session.
#[inline(always)]
pub(crate) unsafe fn entered(object: Ptr) {
    let context = contexts::current();
    let Some(timing) = (*TIMING.get()).as_mut() else {
        return;
    };
    let now = ring::time(timing.clock);
    if !timing.calls.entered(place(context), object as usize, now) {
        ring::call_is_lost();
    }
}

/// A function was running before the session began.
pub(crate) unsafe fn was_running(object: Ptr, context: u64) {
    if let Some(timing) = (*TIMING.get()).as_mut()
        && !timing.calls.was_running(place(context), object as usize)
    {
        ring::call_is_lost();
    }
}

/// What is to be told of a call that ends.
pub(crate) enum Left {
    /// Nothing.
    Short,
    /// That it ended, with its times.
    Long(Times),
    /// That it ended: nobody knows when it began.
    Unknown,
}

/// It is left.
#[inline(always)]
pub(crate) unsafe fn left(object: Ptr) -> Left {
    let context = contexts::current();
    let Some(timing) = (*TIMING.get()).as_mut() else {
        return Left::Short;
    };
    let ended = ring::time(timing.clock);
    match timing.calls.left(place(context), object as usize) {
        Ended::Began(began) if ended.saturating_sub(began) >= timing.shortest => {
            Left::Long(Times { began, ended })
        }
        Ended::Began(_) | Ended::HadNoRoom => Left::Short,
        Ended::Unknown => Left::Unknown,
    }
}

#[inline(always)]
fn place(context: u64) -> Place {
    Place {
        thread: thread::current(),
        context,
    }
}
