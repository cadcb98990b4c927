//! From an event of the interpreter to a call that begins or ends: whether it is wanted, the stack that it is on, and the
//! counts. `emit` says the rest where somebody listens.

use core::ptr::null_mut;

use crate::codes::{self, Code};
use crate::emit::{Details, entries_are_heard, returns_are_heard, tell_entry, tell_return};
use crate::live::{self, LIVE};
use crate::python::Ptr;
use crate::shards::Shard;
use crate::timed::Left;
use crate::{stacks, sums, timed};

/// What became of an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was told, or counted where nobody listens.
    Told,
    /// No filter wants this code.
    Unwanted,
}

/// A frame is entered. `frame` is it where that is at hand, else null.
#[inline(always)]
pub(crate) unsafe fn entry(
    shard: Shard,
    object: Ptr,
    frame: Ptr,
    details: impl FnOnce(*mut Code) -> Details,
) -> Outcome {
    let live = LIVE.get();
    if (*live).settings.filtered && codes::wanted(shard, object).is_none() {
        return Outcome::Unwanted;
    }
    let stack = stacks::current(shard, frame, object);
    (*stack).enter(object);
    (*live::counted_in(shard)).entries += 1;
    if sums::is_on(shard) {
        sums::entered(shard, object, false);
    } else if timed::is_on(shard) {
        timed::entered(shard, object);
    } else if entries_are_heard(shard) {
        tell_entry(shard, object, frame, details);
    }
    Outcome::Told
}

/// A frame is left with a value.
#[inline(always)]
pub(crate) unsafe fn exit(
    shard: Shard,
    object: Ptr,
    frame: Ptr,
    value: Ptr,
    details: impl FnOnce(*mut Code) -> Details,
) -> Outcome {
    leave(shard, object, frame, value, || false, details)
}

/// A frame is left by an exception. `offset` is where in its code, in bytes.
#[inline(always)]
pub(crate) unsafe fn unwind(
    shard: Shard,
    object: Ptr,
    frame: Ptr,
    offset: i64,
    details: impl FnOnce(*mut Code) -> Details,
) -> Outcome {
    let was_never_entered = || codes::was_never_entered(object, offset);
    leave(shard, object, frame, null_mut(), was_never_entered, details)
}

#[inline(always)]
unsafe fn leave(
    shard: Shard,
    object: Ptr,
    frame: Ptr,
    value: Ptr,
    was_never_entered: impl FnOnce() -> bool,
    details: impl FnOnce(*mut Code) -> Details,
) -> Outcome {
    let live = LIVE.get();
    if (*live).settings.filtered && codes::wanted(shard, object).is_none() {
        return Outcome::Unwanted;
    }
    let stack = stacks::current(shard, frame, null_mut());
    if !(*stack).leave(
        object,
        was_never_entered,
        &mut (*live::counted_in(shard)).dropped,
    ) {
        return Outcome::Told;
    }
    (*live::counted_in(shard)).returns += 1;
    if sums::is_on(shard) {
        sums::left(shard, object);
    } else if timed::is_on(shard) {
        let times = match timed::left(shard, object) {
            Left::Short => return Outcome::Told,
            Left::Long(times) => Some(times),
            Left::Unknown => None,
        };
        tell_return(shard, object, frame, value, times, details);
    } else if returns_are_heard(shard) {
        tell_return(shard, object, frame, value, None, details);
    }
    Outcome::Told
}
