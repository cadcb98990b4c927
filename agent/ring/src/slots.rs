//! Threads, and the stacks that take turns in them, found by what they are called. Both tables have an end; a slot of which
//! nothing is open is anybody's.

use crate::many::{Many, Plain};

/// Threads that have calls open, at most; a power of two.
const THREADS: u32 = 2048;
/// Their stacks, one for each context; a power of two.
const STACKS: u32 = 1 << 14;
/// Most open calls of one thread.
const OF_THREAD: u32 = 1 << 15;
/// Places where one is looked for.
const PROBED: u32 = 32;

/// Where something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What tells the thread from others that there are at the same time; not 0.
    pub thread: usize,
    /// The number of the greenlet or task; 0 outside of both.
    pub context: u64,
}

impl Place {
    /// No thread is called so.
    pub(crate) const NOWHERE: Place = Place {
        thread: 0,
        context: 0,
    };
}

/// What runs in a thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thread {
    /// The frame that runs, 0 when none is known to, and since when it does.
    pub(crate) running: u32,
    pub(crate) since: u64,
    /// Open calls, those among them for which there was no room.
    pub(crate) open: u32,
    name: usize,
}

// SAFETY: numbers.
unsafe impl Plain for Thread {}

/// The open calls of one context in one thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stack {
    /// The number of the context; 0 outside of all.
    pub(crate) context: u64,
    /// Its last frame, 0 when there is none.
    pub(crate) top: u32,
    /// Calls above that one for which there was no room.
    pub(crate) skipped: u32,
    /// The slot of its thread.
    pub(crate) thread: u32,
}

// SAFETY: numbers.
unsafe impl Plain for Stack {}

/// Where something happens: the slots of a thread and a stack. The first of each table is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) thread: u32,
    pub(crate) stack: u32,
}

impl At {
    /// The slots that are nobody's.
    pub(crate) const NOBODY: At = At {
        thread: 0,
        stack: 0,
    };
}

/// All threads and stacks.
#[derive(Debug)]
pub(crate) struct Slots {
    pub(crate) threads: Many<Thread>,
    pub(crate) stacks: Many<Stack>,
    /// Where the last event was.
    pub(crate) at: At,
    place: Place,
}

/// Where looking begins.
fn begin(name: u64) -> u32 {
    (name.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// The places where something is looked for in a table of so many.
fn places(begin: u32, count: u32) -> impl Iterator<Item = u32> {
    (0..PROBED).map(move |by| 1 + (begin.wrapping_add(by) & (count - 1)))
}

impl Slots {
    pub(crate) fn new() -> Result<Slots, rustix::io::Errno> {
        Ok(Slots {
            threads: Many::new(THREADS + 1)?,
            stacks: Many::new(STACKS + 1)?,
            at: At::NOBODY,
            place: Place::NOWHERE,
        })
    }

    /// Makes this the place where things happen, with slots of its own if it `claims` some. False when it has none.
    #[inline(always)]
    pub(crate) fn go_to(&mut self, place: Place, claims: bool) -> bool {
        place == self.place || self.change(place, claims)
    }

    #[cold]
    fn change(&mut self, place: Place, claims: bool) -> bool {
        let found = self.find(place.thread, place.context, claims);
        self.place = found.map_or(Place::NOWHERE, |_| place);
        self.at = found.unwrap_or(At::NOBODY);
        found.is_some()
    }

    /// Whether there may be one more call, unless the thread has too many, or the stack some for which there was no room: what
    /// is above those has none, either.
    #[inline(always)]
    pub(crate) fn has_room(&self) -> bool {
        let At { thread, stack } = self.at;
        self.stacks.at(stack).skipped == 0 && self.threads.at(thread).open < OF_THREAD
    }

    /// The slots of a context in a thread; `None` when there are none, and where it `claims` some, when there is no room.
    fn find(&mut self, name: usize, context: u64, claims: bool) -> Option<At> {
        let thread = self.thread(name, claims)?;
        let stack = self.stack(thread, context, claims)?;
        Some(At { thread, stack })
    }

    fn thread(&mut self, name: usize, claims: bool) -> Option<u32> {
        let mut free = None;
        for place in places(begin(name as u64), THREADS) {
            let thread = self.threads.at(place);
            if thread.name == name && thread.open > 0 {
                return Some(place);
            }
            if thread.open == 0 {
                free.get_or_insert(place);
            }
        }
        let place = free.filter(|_| claims)?;
        *self.threads.at_mut(place) = Thread {
            running: 0,
            since: 0,
            open: 0,
            name,
        };
        Some(place)
    }

    fn stack(&mut self, thread: u32, context: u64, claims: bool) -> Option<u32> {
        let mut free = None;
        // The bits that count are those in the middle of the product: what is higher does not reach them.
        for place in places(begin(context ^ u64::from(thread) << 24), STACKS) {
            let stack = self.stacks.at(place);
            let is_open = stack.top != 0 || stack.skipped > 0;
            if is_open && stack.thread == thread && stack.context == context {
                return Some(place);
            }
            if !is_open {
                free.get_or_insert(place);
            }
        }
        let place = free.filter(|_| claims)?;
        *self.stacks.at_mut(place) = Stack {
            context,
            top: 0,
            skipped: 0,
            thread,
        };
        Some(place)
    }
}
