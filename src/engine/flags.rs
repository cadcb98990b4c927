//! The flags of the agent's probes about calls (`agent/src/marks.rs`), which both engines pass on.

use crate::event::Manner;

/// A generator or coroutine is resumed, or gives way.
const SUSPENSION: u64 = 1;
/// The frame ran already when the session began.
const RUNNING: u64 = 2;
/// An exception leaves the frame.
const EXCEPTION: u64 = 4;

/// The beginning of a name that is too long to be told: of the file, the function and the qualified name.
pub(crate) const CUT_NAMES: [u64; 3] = [8, 16, 32];

/// All that say how a frame is entered or left.
pub(crate) const ALL: u64 = SUSPENSION | RUNNING | EXCEPTION;

/// What they say.
pub(crate) fn manner(flags: u64) -> Manner {
    match flags {
        _ if flags & RUNNING != 0 => Manner::Running,
        _ if flags & EXCEPTION != 0 => Manner::Exception,
        _ if flags & SUSPENSION != 0 => Manner::Suspension,
        _ => Manner::Plain,
    }
}

/// How it is said.
pub(crate) fn of(manner: Manner) -> u64 {
    match manner {
        Manner::Plain => 0,
        Manner::Suspension => SUSPENSION,
        Manner::Running => RUNNING,
        Manner::Exception => EXCEPTION,
    }
}
