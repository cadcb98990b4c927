//! What pairing says of single calls: that are open, that ended, that were given up, that were something else.

use std::num::NonZeroU64;
use std::sync::Arc;

use crate::analysis::keys::FunctionKey;
use crate::analysis::overhead::Intervals;
use crate::event::{Fields, Place};

/// Names an open frame for as long as it is open; later frames have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(pub(super) u64);

/// A call that ended. Times are in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinishedCall {
    /// Its name while it was open; `None` where the kernel measured it.
    pub frame: Option<FrameId>,
    /// Its function; `None` where no call was seen, because the kernel measured it.
    pub key: Option<FunctionKey>,
    /// Where it was entered: where its function begins, for all but resumed generators. 0 or less where that is not known.
    pub line: i32,
    /// From call to return; `None` where that cannot be told even for a sum.
    pub inclusive_ns: Option<u64>,
    /// Intervals between events of the thread from call to return: the tracer's cost is in `inclusive_ns` with each. None where
    /// the kernel measured it.
    pub inclusive_intervals: Intervals,
    /// Whether `inclusive_ns` is the duration of this very call. If not, it may have been exchanged with that of
    /// another open call of the same function, which changes no total.
    pub exact: bool,
    /// Whether it is that as far as the lines of callers tell, which follow what can be seen of switches between stacks:
    /// good enough for a distribution. True of whatever is exact.
    pub likely: bool,
    /// Time in which this call ran itself and nothing that it called.
    pub self_ns: u64,
    /// Intervals between two events of which `self_ns` is the sum.
    pub self_intervals: Intervals,
    /// What this call adds to the inclusive time of its function: nothing as long as an outer call of the same
    /// function is open, whose time covers this one's. Of one that began before tracing, its time since then.
    pub cumulative_ns: u64,
    /// The intervals in it.
    pub cumulative_intervals: Intervals,
    /// Whether no outer call of the same function is open.
    pub outermost: bool,
    /// Whether the kernel paired it, so that there was no event for its call.
    pub measured: bool,
}

/// A frame that is no longer followed although no return was seen: its process ended, too many were open, events were
/// lost, or it was the creation of a generator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// Its process.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// Its name while it was open.
    pub frame: FrameId,
    /// The frame that called it, which may have ended or be given up with it; one that there is nowhere where nobody knows.
    pub caller: FrameId,
    /// Its function.
    pub key: FunctionKey,
    /// Its function.
    pub place: Arc<Place>,
    /// The greenlet or task that it ran in.
    pub context: Option<NonZeroU64>,
    /// As in [`FinishedCall`]: time of its own that was seen.
    pub self_ns: u64,
    /// As in [`FinishedCall`].
    pub self_intervals: Intervals,
    /// As in [`FinishedCall`]: time up to the end of its process, or else of recursive calls that waited for this one to end.
    pub cumulative_ns: u64,
    /// As in [`FinishedCall`].
    pub cumulative_intervals: Intervals,
    /// Whether it had to go because a bound was reached (docs/limits.md), so that what it took will never be known.
    pub by_bound: bool,
}

/// An earlier call that is seen in another light now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revised {
    /// Its process.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// The greenlet or task that it was made in.
    pub context: Option<NonZeroU64>,
    /// Its function.
    pub key: FunctionKey,
    /// Its function.
    pub place: Arc<Place>,
    /// Whether it was a call after all. If not, it only created a generator.
    pub call: bool,
}

/// A call that has not returned yet.
#[derive(Debug, Clone, Copy)]
pub struct Open<'a> {
    /// Its process.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// Its name while it is open.
    pub frame: FrameId,
    /// Its function.
    pub key: FunctionKey,
    /// Its function.
    pub place: &'a Arc<Place>,
    /// The greenlet or task that it runs in.
    pub context: Option<NonZeroU64>,
    /// Its fields, where they have room.
    pub fields: Option<&'a Arc<Fields>>,
    /// When it was called, in nanoseconds since the Unix epoch.
    pub since: u64,
    /// Time of its own up to the last event of its thread.
    pub self_ns: u64,
    /// Intervals between two events of which that is the sum.
    pub self_intervals: Intervals,
    /// Intervals between events of its thread since it was called.
    pub intervals: Intervals,
    /// Whether no other call of the function is open below it.
    pub outermost: bool,
    /// Of the call that runs, the time of the last event: what passed since then is its own time, too.
    pub runs_since: Option<u64>,
}

/// Calls and returns that found no partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpaired {
    /// Calls whose callers have returned, and which have not returned themselves (yet).
    pub calls: u64,
    /// Returns whose call was not seen or cannot be told.
    pub returns: u64,
}

impl Unpaired {
    /// Both together, as a summary has it.
    pub fn total(&self) -> u64 {
        self.calls.saturating_add(self.returns)
    }
}
