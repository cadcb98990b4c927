//! The stacks that frames are on: one for each thread, and one for each greenlet besides. Knows which reported
//! frames are on each, so that no return is reported whose entry was not, and announces the frames that are already there when a
//! stack is first seen.
//!
//! The first event of a session on a stack is the moment to announce: it is on that thread, which is whose frames these
//! are to whoever listens. Frames below it that the session wants were there before the session began, for otherwise
//! their entries would have been that first event.
//!
//! Stacks are never freed, only used again: a callback may hold one while a finalizer of the program runs inside an
//! allocation and another thread ends the session.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ptr::null_mut;

use crate::live::LIVE;
use crate::python::{Owned, Ptr, api, uncollected};
use crate::shards::{PerThread, SHARDS, Shard};
use crate::{contexts, emit, shards, thread};

/// A stack.
pub(crate) struct Stack {
    /// The code objects of the frames on it whose entries were told, the innermost last; only compared.
    frames: Vec<Ptr>,
}

impl Stack {
    /// A frame's entry is told.
    #[inline(always)]
    pub(crate) fn enter(&mut self, code: Ptr) {
        self.frames.push(code);
    }

    /// Whether the return of a frame is to be told: when its entry was. `was_never_entered` is asked when the innermost
    /// frame is another one; if it cannot say, frames whose returns the interpreter has not told are given up for that
    /// which returns. `lost` is told how many.
    #[inline(always)]
    pub(crate) fn leave(
        &mut self,
        code: Ptr,
        was_never_entered: impl FnOnce() -> bool,
        lost: &mut u64,
    ) -> bool {
        if self.frames.last() == Some(&code) {
            self.frames.pop();
            return true;
        }
        self.find(code, was_never_entered, lost)
    }

    /// A generator that a signal ends before it goes on, and one that was not announced, are on no stack of ours.
    #[cold]
    fn find(
        &mut self,
        code: Ptr,
        was_never_entered: impl FnOnce() -> bool,
        lost: &mut u64,
    ) -> bool {
        let Some(at) = self.frames.iter().rposition(|other| *other == code) else {
            return false;
        };
        if was_never_entered() {
            return false;
        }
        *lost += (self.frames.len() - at - 1) as u64;
        self.frames.truncate(at);
        true
    }
}

struct Stacks {
    /// The thread that had the last event, its greenlet if that is not its main one, and the stack.
    thread: usize,
    greenlet: Ptr,
    current: *mut Stack,
    /// By thread pointer. A thread that ends leaves its stack to the next one at the same address; both are empty then.
    threads: BTreeMap<usize, *mut Stack>,
    /// By address, taken out when the greenlet dies.
    greenlets: BTreeMap<usize, *mut Stack>,
    free: Vec<*mut Stack>,
}

impl Stacks {
    const NONE: Stacks = Stacks {
        thread: 0,
        greenlet: null_mut(),
        current: null_mut(),
        threads: BTreeMap::new(),
        greenlets: BTreeMap::new(),
        free: Vec::new(),
    };
}

static STACKS: PerThread<Stacks> = PerThread::new([const { Stacks::NONE }; SHARDS]);

/// Forgets all of them, while no callback runs.
pub(crate) unsafe fn forget() {
    for shard in shards::all() {
        forget_in(STACKS.of(shard));
    }
}

/// The same for those of one interpreter within the interpreter.
pub(crate) unsafe fn forget_within(shard: Shard) {
    forget_in(STACKS.at(shard));
}

unsafe fn forget_in(stacks: *mut Stacks) {
    (*stacks).thread = 0;
    (*stacks).current = null_mut();
    let all = core::mem::take(&mut (*stacks).threads)
        .into_values()
        .chain(core::mem::take(&mut (*stacks).greenlets).into_values());
    (*stacks).free.extend(all);
}

/// Forgets the stack of a greenlet that is no more.
pub(crate) unsafe fn forget_greenlet(greenlet: usize) {
    let stacks = STACKS.get();
    if let Some(stack) = (*stacks).greenlets.remove(&greenlet) {
        (*stacks).free.push(stack);
        if (*stacks).current == stack {
            (*stacks).thread = 0;
        }
    }
}

/// The stack that an event is on. `entering` is the code whose frame is being entered, if one is: that frame is on the
/// stack already and is not announced. `frame` is the current frame where it is at hand, else null.
#[inline(always)]
pub(crate) unsafe fn current(shard: Shard, frame: Ptr, entering: Ptr) -> *mut Stack {
    let stacks = STACKS.at(shard);
    let greenlet = contexts::greenlet(shard).unwrap_or(null_mut());
    if thread::current() == (*stacks).thread && greenlet == (*stacks).greenlet {
        return (*stacks).current;
    }
    switch(shard, greenlet, frame, entering)
}

#[cold]
unsafe fn switch(shard: Shard, greenlet: Ptr, frame: Ptr, entering: Ptr) -> *mut Stack {
    if !greenlet.is_null() {
        // So that its death is noticed.
        contexts::number(greenlet);
    }
    let stacks = STACKS.at(shard);
    let thread = thread::current();
    let (all, key) = if greenlet.is_null() {
        (&raw mut (*stacks).threads, thread)
    } else {
        (&raw mut (*stacks).greenlets, greenlet as usize)
    };
    let known = (&(*all)).get(&key).copied();
    let stack = known.unwrap_or_else(|| {
        let stack = (*stacks)
            .free
            .pop()
            .unwrap_or_else(|| Box::into_raw(Box::new(Stack { frames: Vec::new() })));
        let frames = &mut (*stack).frames;
        frames.clear();
        (*all).insert(key, stack);
        stack
    });
    (*stacks).thread = thread;
    (*stacks).greenlet = greenlet;
    (*stacks).current = stack;
    if known.is_none() && (*LIVE.get()).settings.announces {
        uncollected(|| announce(shard, stack, frame, entering));
    }
    stack
}

/// Tells the frames on the stack, the outermost first.
unsafe fn announce(shard: Shard, stack: *mut Stack, frame: Ptr, entering: Ptr) {
    let mut codes = Vec::new();
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
        if emit::announced(shard, code.as_ptr(), *line) {
            (*stack).enter(code.as_ptr());
        }
    }
}
