//! Calls that are measured by the agent, so that one record per finished call is enough and short ones cost none
//! ([`TIMED`](crate::TIMED)).
//!
//! They are paired as those that are added up ([`sums`](crate::sums)), and as pystap does where the agent tells contexts: in
//! each context of a thread a return is of the nearest open call of its function, and what is above that has returned unseen.
//! `tests/integration/ring_timed.rs` feeds both the same programs.

use rustix::io::Errno;

use crate::many::{Many, Plain};
use crate::slots::{At, Place, Slots};

/// Open calls of all threads for which there is room.
const CALLS: u32 = 1 << 17;

/// When calls began that were running before anybody looked.
const NOBODY_KNOWS: u64 = u64::MAX;

/// A call that is open.
#[derive(Debug, Clone, Copy)]
struct Open {
    function: usize,
    began: u64,
    /// The call before it on its stack; of one that is free, the next free one.
    below: u32,
}

// SAFETY: numbers.
unsafe impl Plain for Open {}

/// What is known of a call that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// When it began.
    Began(u64),
    /// There was no room for it when it began.
    HadNoRoom,
    /// It was running before anybody looked, or is not one of those that were entered.
    Unknown,
}

impl Ended {
    #[inline(always)]
    fn of(began: u64) -> Ended {
        match began {
            NOBODY_KNOWS => Ended::Unknown,
            began => Ended::Began(began),
        }
    }
}

/// The open calls of one process. There is one at a time, and one thread at a time calls it.
#[derive(Debug)]
pub struct TimedCalls {
    calls: Many<Open>,
    slots: Slots,
    /// The first free call, and the first that was never used.
    free: u32,
    fresh: u32,
}

impl TimedCalls {
    /// None are open.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub fn new() -> Result<TimedCalls, Errno> {
        Ok(TimedCalls {
            calls: Many::new(CALLS)?,
            slots: Slots::new()?,
            free: 0,
            fresh: 1,
        })
    }

    /// A function is entered at this time. False when there is no room for its call.
    #[inline]
    pub fn entered(&mut self, place: Place, function: usize, now: u64) -> bool {
        if !self.slots.go_to(place, true) {
            return false;
        }
        let At { thread, stack } = self.slots.at;
        let new = self.new_call();
        self.slots.threads.at_mut(thread).open += 1;
        let stack = self.slots.stacks.at_mut(stack);
        let Some(new) = new else {
            stack.skipped += 1;
            return false;
        };
        *self.calls.at_mut(new) = Open {
            function,
            began: now,
            below: core::mem::replace(&mut stack.top, new),
        };
        true
    }

    /// A function was running before anybody looked. False when there is no room for its call.
    pub fn was_running(&mut self, place: Place, function: usize) -> bool {
        self.entered(place, function, NOBODY_KNOWS)
    }

    /// A function is left.
    #[inline]
    pub fn left(&mut self, place: Place, function: usize) -> Ended {
        if !self.slots.go_to(place, false) {
            return Ended::Unknown;
        }
        let stack = self.slots.stacks.at(self.slots.at.stack);
        let top = *self.calls.at(stack.top);
        // Nearly always the last call returns.
        if stack.top == 0 || stack.skipped > 0 || top.function != function {
            return self.left_otherwise(function);
        }
        self.take();
        Ended::of(top.began)
    }

    /// A return that is not simply of the last call.
    #[cold]
    fn left_otherwise(&mut self, function: usize) -> Ended {
        let At { thread, stack } = self.slots.at;
        let state = self.slots.stacks.at_mut(stack);
        if state.skipped > 0 {
            state.skipped -= 1;
            self.slots.threads.at_mut(thread).open -= 1;
            return Ended::HadNoRoom;
        }
        let mut found = state.top;
        while found != 0 && self.calls.at(found).function != function {
            found = self.calls.at(found).below;
        }
        if found == 0 {
            return Ended::Unknown;
        }
        while self.slots.stacks.at(stack).top != found {
            self.take();
        }
        let began = self.calls.at(found).began;
        self.take();
        Ended::of(began)
    }

    /// A call that is free, unless the thread has too many, or the stack some for which there was no room: what is above those
    /// has none, either.
    #[inline(always)]
    fn new_call(&mut self) -> Option<u32> {
        if !self.slots.has_room() {
            return None;
        }
        let new = self.free;
        if new != 0 {
            self.free = self.calls.at(new).below;
            return Some(new);
        }
        let new = self.fresh;
        (new < self.calls.count()).then(|| {
            self.fresh += 1;
            new
        })
    }

    /// Takes the last call off the stack.
    #[inline(always)]
    fn take(&mut self) {
        let At { thread, stack } = self.slots.at;
        let stack = self.slots.stacks.at_mut(stack);
        let top = stack.top;
        let call = self.calls.at_mut(top);
        stack.top = core::mem::replace(&mut call.below, self.free);
        self.free = top;
        self.slots.threads.at_mut(thread).open -= 1;
    }
}
