//! What pairing says of one event.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::calls::{FinishedCall, FrameId, GivenUp, Open, Revised};
use super::thread::Thread;
use crate::analysis::keys::FunctionKey;
use crate::event::{Event, Place};

/// An event with what it meant for the calls of its thread.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// What happened, with the duration where its beginning is known.
    pub event: &'a Event,
    /// The function of a call or return.
    pub key: Option<FunctionKey>,
    /// Whether a call is no first one: a generator or coroutine goes on. Without an agent that is found out, and not said of
    /// the first times.
    pub goes_on: bool,
    /// The frame that a call opened.
    pub entered: Option<FrameId>,
    /// The call that ended, for a return that found one and for a call that the kernel measured.
    pub finished: Option<FinishedCall>,
    /// The function in which it happened: of a call or return its caller, of anything else the function that ran.
    pub caller: Option<(FunctionKey, &'a Arc<Place>)>,
    /// Frames that were given up without a return.
    pub given_up: &'a [GivenUp],
    /// Calls that turned out to be creations of generators, or not to be.
    pub revised: &'a [Revised],
    /// Whose stack it changed, if any.
    pub(super) thread: Option<(u32, u32, &'a Thread)>,
}

impl<'a> Step<'a> {
    /// An event of which nothing is known.
    pub fn new(event: &'a Event) -> Step<'a> {
        Step {
            event,
            key: None,
            goes_on: false,
            entered: None,
            finished: None,
            caller: None,
            given_up: &[],
            revised: &[],
            thread: None,
        }
    }

    /// The same of another form of the event.
    pub(crate) fn with_event(self, event: &'a Event) -> Step<'a> {
        Step { event, ..self }
    }

    /// Frames that are open below the event: a return is as deep as its call, anything else as deep as a call would be in its
    /// place. Counted when it is asked for, because few ask.
    pub fn depth(&self) -> usize {
        let open = self.thread.map_or(0, |(_, _, thread)| thread.depth());
        open.saturating_sub(usize::from(self.entered.is_some()))
    }

    /// The calls that lead to what runs in the thread after the event, innermost first.
    pub fn stack(&self) -> impl Iterator<Item = Open<'a>> + use<'a> {
        stack(self.thread)
    }

    /// The part of that which is of one greenlet or task. Where its outermost call has returned, what runs is what it
    /// interrupted, most likely, and the caller of a task is its loop: neither is of it.
    pub fn stack_of(
        &self,
        context: Option<NonZeroU64>,
    ) -> impl Iterator<Item = Open<'a>> + use<'a> {
        self.stack().take_while(move |open| open.context == context)
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
