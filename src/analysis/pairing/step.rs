//! What pairing says of one event, and of the calls that it ended or changed.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::thread::Thread;
use crate::analysis::keys::FunctionKey;
use crate::event::{Event, Place};

/// An event with what it meant for the calls of its thread.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// What happened, with the duration where its beginning is known.
    pub event: &'a Event,
    /// Frames that are open below the event: a return is as deep as its call, anything else as deep as a call would
    /// be in its place.
    pub depth: usize,
    /// The function of a call or return.
    pub key: Option<FunctionKey>,
    /// The frame that a call opened.
    pub entered: Option<FrameId>,
    /// The call that ended, for a return that found one and for a call that the kernel measured.
    pub finished: Option<FinishedCall>,
    /// The function in which it happened: of a call or return its caller, of anything else the function that ran.
    pub caller: Option<&'a Arc<Place>>,
    /// Frames that were given up without a return.
    pub given_up: &'a [GivenUp],
    /// Calls that turned out to be creations of generators, or not to be.
    pub revised: &'a [Revised],
    /// Whose stack it changed, if any.
    pub(super) thread: Option<(u32, u32, &'a Thread)>,
}

impl<'a> Step<'a> {
    /// An event of which nothing is known but how many frames are open below it.
    pub fn new(event: &'a Event, depth: usize) -> Step<'a> {
        Step {
            event,
            depth,
            key: None,
            entered: None,
            finished: None,
            caller: None,
            given_up: &[],
            revised: &[],
            thread: None,
        }
    }

    /// The calls that lead to what runs in the thread after the event, innermost first.
    pub fn stack(&self) -> impl Iterator<Item = Open<'a>> + use<'a> {
        stack(self.thread)
    }
}

/// The calls that lead to what runs in a thread, innermost first.
pub(super) fn stack<'a>(
    of: Option<(u32, u32, &'a Thread)>,
) -> impl Iterator<Item = Open<'a>> + use<'a> {
    let mut next = of.and_then(|(_, _, thread)| thread.index_of(thread.running));
    std::iter::from_fn(move || {
        let ((pid, tid, thread), index) = (of?, next?);
        next = thread.parent_of(index);
        thread.open(pid, tid, index)
    })
}

/// Names an open frame for as long as it is open; later frames have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(pub(super) u64);

/// A call that ended. Times are in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinishedCall {
    /// From call to return; `None` where that cannot be told even for a sum.
    pub inclusive_ns: Option<u64>,
    /// Whether `inclusive_ns` is the duration of this very call. If not, it may have been exchanged with that of
    /// another open call of the same function, which changes no total.
    pub exact: bool,
    /// Whether it is that as far as the lines of callers tell, which follow what can be seen of switches between stacks:
    /// good enough for a distribution. True of whatever is exact.
    pub likely: bool,
    /// Time in which this call ran itself and nothing that it called.
    pub self_ns: u64,
    /// What this call adds to the inclusive time of its function: nothing as long as an outer call of the same
    /// function is open, whose time covers this one's.
    pub cumulative_ns: u64,
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
    /// Its function.
    pub key: FunctionKey,
    /// Its function.
    pub place: Arc<Place>,
    /// The greenlet or task that it ran in.
    pub context: Option<NonZeroU64>,
    /// As in [`FinishedCall`]: time of its own that was seen.
    pub self_ns: u64,
    /// As in [`FinishedCall`]: time up to the end of its process, or else of recursive calls that waited for this one to end.
    pub cumulative_ns: u64,
}

/// An earlier call that is seen in another light now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revised {
    /// Its process.
    pub pid: u32,
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
    /// When it was called, in nanoseconds since the Unix epoch.
    pub since: u64,
    /// Time of its own up to the last event of its thread.
    pub self_ns: u64,
    /// Whether no other call of the function is open below it.
    pub outermost: bool,
    /// Of the call that runs, the time of the last event: what passed since then is its own time, too.
    pub runs_since: Option<u64>,
}
