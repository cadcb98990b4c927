//! Calls that are told only when they took long enough, where pystap wants no others ([`pystap_ring::timed`]): one record when
//! such a call has ended, nothing for a shorter one.
//!
//! What is paired is what would be told, as for `sums`. Frames that were running before the session are told when they are
//! announced and when they are left, because nobody knows how long they took. In a free-threaded build each thread has open calls
//! of its own, as it has a ring.

use alloc::vec::Vec;

use pystap_agent_protocol::Clock;
use pystap_ring::timed::{Ended, TimedCalls};
use pystap_ring::{MOST_RINGS, Place};
use rustix::io::Errno;

use crate::python::{Ptr, is_free_threaded};
use crate::ring::Times;
use crate::shards::{PerThread, SHARDS, Shard};
use crate::{contexts, ring, shards, thread};

/// Open calls, and which are long enough.
pub(crate) struct Timing {
    calls: TimedCalls,
    clock: Clock,
    /// In ticks of the clock.
    shortest: u64,
}

static TIMING: PerThread<Option<Timing>> = PerThread::new([const { None }; SHARDS]);

/// What measures calls where pystap wants long ones alone, one for each ring.
///
/// # Errors
/// When there is no memory for open calls.
pub(crate) fn offered(offer: pystap_agent_protocol::Ring) -> Result<Vec<Timing>, Errno> {
    let Some(shortest) = offer.shortest else {
        return Ok(Vec::new());
    };
    let new = |_| {
        Ok(Timing {
            calls: TimedCalls::new()?,
            clock: offer.clock,
            shortest,
        })
    };
    (0..offer.count.min(MOST_RINGS)).map(new).collect()
}

/// Measures calls from now on, if there is something to do it with. No callback runs.
pub(crate) unsafe fn begin(offered: Vec<Timing>) {
    // The shard of those that have none measures nothing.
    let first = usize::from(is_free_threaded());
    for (at, timing) in offered.into_iter().enumerate() {
        *TIMING.of(first + at) = Some(timing);
    }
}

/// The same for an interpreter within the interpreter, which no other one measures for.
pub(crate) unsafe fn begin_within(shard: Shard, offered: Vec<Timing>) {
    *TIMING.at(shard) = offered.into_iter().next();
}

/// Ends it. No callback runs.
pub(crate) unsafe fn end() {
    for shard in shards::all() {
        drop((*TIMING.of(shard)).take());
    }
}

/// Whether calls are measured here.
#[inline(always)]
pub(crate) unsafe fn is_on(shard: Shard) -> bool {
    (*TIMING.at(shard)).is_some()
}

/// A function is entered. The context comes first, because a new one can run finalizers of the program (up to 3.11), and these
/// can end the session.
#[inline(always)]
pub(crate) unsafe fn entered(shard: Shard, object: Ptr) {
    let context = contexts::current(shard);
    let Some(timing) = (*TIMING.at(shard)).as_mut() else {
        return;
    };
    let now = ring::time(timing.clock);
    if !timing.calls.entered(place(context), object as usize, now) {
        ring::call_is_lost(shard);
    }
}

/// A function was running before the session began.
pub(crate) unsafe fn was_running(shard: Shard, object: Ptr, context: u64) {
    if let Some(timing) = (*TIMING.at(shard)).as_mut()
        && !timing.calls.was_running(place(context), object as usize)
    {
        ring::call_is_lost(shard);
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
pub(crate) unsafe fn left(shard: Shard, object: Ptr) -> Left {
    let context = contexts::current(shard);
    let Some(timing) = (*TIMING.at(shard)).as_mut() else {
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
