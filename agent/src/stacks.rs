//! The stacks that frames are on: one for each thread. Knows of each how many told frames are on it, so that no return
//! is told whose entry was not, and announces the frames that are already there when a stack is first seen.
//!
//! The first event of a session on a stack is the moment to announce: it is on that thread, which is whose frames these
//! are to whoever listens. Frames below it that the session wants were there before the session began, for otherwise
//! their entries would have been that first event.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use core::ptr::null_mut;

use crate::emit;
use crate::gil::Guarded;
use crate::python::{Owned, Ptr, api};
use crate::session::LIVE;
use crate::thread;

/// A stack.
pub(crate) struct Stack {
    /// Frames on it whose entries were told.
    pub(crate) depth: u64,
}

struct Stacks {
    /// The thread that had the last event, and its stack.
    thread: usize,
    current: *mut Stack,
    /// By thread pointer. A thread that ends leaves its stack to the next one at the same address; both are empty then.
    all: BTreeMap<usize, Box<Stack>>,
}

static STACKS: Guarded<Stacks> = Guarded::new(Stacks {
    thread: 0,
    current: null_mut(),
    all: BTreeMap::new(),
});

/// Forgets all of them.
pub(crate) unsafe fn forget() {
    let stacks = STACKS.get();
    (*stacks).thread = 0;
    (*stacks).current = null_mut();
    (*stacks).all.clear();
}

/// The stack that an event is on. `entering` is the code whose frame is being entered, if one is: that frame is on the
/// stack already and is not announced. `frame` is the current frame where it is at hand, else null.
#[inline(always)]
pub(crate) unsafe fn current(frame: Ptr, entering: Ptr) -> *mut Stack {
    let stacks = STACKS.get();
    if thread::current() == (*stacks).thread {
        return (*stacks).current;
    }
    switch(frame, entering)
}

#[cold]
unsafe fn switch(frame: Ptr, entering: Ptr) -> *mut Stack {
    let stacks = STACKS.get();
    let thread = thread::current();
    let mut is_new = false;
    let stack: *mut Stack = &raw mut **(*stacks).all.entry(thread).or_insert_with(|| {
        is_new = true;
        Box::new(Stack { depth: 0 })
    });
    (*stacks).thread = thread;
    (*stacks).current = stack;
    if is_new && (*LIVE.get()).announces {
        announce(stack, frame, entering);
    }
    stack
}

/// Tells the frames on the stack, the outermost first.
unsafe fn announce(stack: *mut Stack, frame: Ptr, entering: Ptr) {
    let mut codes = alloc::vec::Vec::new();
    let mut next = if frame.is_null() {
        Owned::borrowed((api().PyEval_GetFrame)())
    } else {
        Owned::borrowed(frame)
    };
    let mut innermost = true;
    while let Some(frame) = next {
        let code = Owned::take((api().PyFrame_GetCode)(frame.as_ptr()));
        let is_entered = core::mem::take(&mut innermost)
            && code.as_ref().is_some_and(|code| code.as_ptr() == entering);
        if !is_entered && let Some(code) = code {
            codes.push((code, (api().PyFrame_GetLineNumber)(frame.as_ptr())));
        }
        next = Owned::take((api().PyFrame_GetBack)(frame.as_ptr()));
    }
    for (code, line) in codes.iter().rev() {
        if emit::announced(code.as_ptr(), *line) {
            (*stack).depth += 1;
        }
    }
}
