//! How long our own part of an event takes: of calls that do nothing, one after the other, and then of every so many events of the
//! program. There, other things are in the processor's caches, and the same steps can take many times as long; so does what
//! the interpreter does around them. pystap knows by that what events really cost.
//!
//! Only with the interpreter's lock, which guards all of this.

use pystap_ring::Handled;

use crate::gil::Guarded;
use crate::ring;
use crate::shards::Shard;

/// Every how many events of the program one is timed: few enough to cost nothing, and a prime number, so that it is not always the
/// same in what a program does in turns.
const EVERY: u32 = 61;
/// What took so many times as long as in calm was interrupted: the processor was somebody else's, or a finalizer of the program ran.
const LONGEST: u64 = 64;
/// How often the clock is read to learn how long that takes.
const READINGS: u64 = 32;

struct Handling {
    /// Events until one is timed, and from there to the next; 0 where none is.
    left: u32,
    every: u32,
    /// Ticks that [`READINGS`] of the clock take.
    reading: u64,
    /// The calmest batch, and the one that is under way or, later, what the program's events took.
    calm: Handled,
    told: Handled,
}

const NOTHING: Handled = Handled {
    ticks: 0,
    events: 0,
};

static HANDLING: Guarded<Handling> = Guarded::new(Handling {
    left: 0,
    every: 0,
    reading: 0,
    calm: NOTHING,
    told: NOTHING,
});

/// An event begins to be handled. What [`ended`] is to be given; 0 where it is not timed.
#[inline(always)]
pub(crate) unsafe fn begun() -> u64 {
    let handling = HANDLING.get();
    let left = (*handling).left.wrapping_sub(1);
    (*handling).left = left;
    if left == 0 {
        return ring::now(Shard::ONLY).unwrap_or(0);
    }
    0
}

/// It was handled, and told unless nobody wanted it.
#[inline(always)]
pub(crate) unsafe fn ended(begun: u64, is_told: bool) {
    if begun != 0 {
        add(begun, is_told);
    }
}

#[cold]
unsafe fn add(begun: u64, is_told: bool) {
    let handling = HANDLING.get();
    let (Some(now), true) = (ring::now(Shard::ONLY), (*handling).every > 0) else {
        return;
    };
    (*handling).left = (*handling).every;
    let took = now.saturating_sub(begun);
    let calm = (*handling).calm;
    let is_calm = (*handling).every == 1;
    if !is_told || (!is_calm && took > longest(calm, (*handling).reading)) {
        return;
    }
    (*handling).told.ticks += took;
    (*handling).told.events += 1;
    if !is_calm {
        let told = net((*handling).told, (*handling).reading);
        ring::tell_handled(net(calm, (*handling).reading), told);
    }
}

/// Ticks beyond which an event was interrupted.
fn longest(calm: Handled, reading: u64) -> u64 {
    (LONGEST * calm.ticks) / calm.events.max(1) + reading / READINGS
}

/// Without what the clock took: between two readings lies about what one takes.
fn net(handled: Handled, reading: u64) -> Handled {
    let ticks = handled.events.saturating_mul(reading) / READINGS;
    Handled {
        ticks: handled.ticks.saturating_sub(ticks),
        ..handled
    }
}

/// None is timed until [`go_on`], and nothing is known of calm.
pub(crate) unsafe fn prepare() {
    end();
    let handling = HANDLING.get();
    (*handling).calm = NOTHING;
    let first = ring::now(Shard::ONLY);
    let mut last = first;
    for _ in 0..READINGS {
        last = ring::now(Shard::ONLY);
    }
    let both = first.zip(last);
    (*handling).reading = both.map_or(0, |(first, last)| last.saturating_sub(first));
}

/// Times each event of a batch that is nobody's, which happens twice: the first time what times them is in no cache.
pub(crate) unsafe fn in_calm(mut batch: impl FnMut()) {
    let handling = HANDLING.get();
    (*handling).every = 1;
    (*handling).left = 1;
    for _ in 0..2 {
        (*handling).told = NOTHING;
        batch();
    }
    (*handling).every = 0;
    let (calm, batch) = ((*handling).calm, (*handling).told);
    // Of batches of one length the shortest.
    if batch.events > 0 && (calm.events != batch.events || batch.ticks < calm.ticks) {
        (*handling).calm = batch;
    }
    (*handling).told = NOTHING;
}

/// Times some of the program's events from now on, if it is known what they take in calm.
pub(crate) unsafe fn go_on() {
    let handling = HANDLING.get();
    (*handling).told = NOTHING;
    if (*handling).calm.events > 0 {
        (*handling).every = EVERY;
        (*handling).left = EVERY;
    }
}

/// Times none any longer.
pub(crate) unsafe fn end() {
    let handling = HANDLING.get();
    (*handling).every = 0;
    (*handling).told = NOTHING;
}
