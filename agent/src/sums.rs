//! Calls that are added up here, where pystap wants sums and no events ([`pystap_ring::sums`]). Only the names of functions go
//! through the ring.
//!
//! What is paired is what would be told: `stacks` has decided that a return belongs to a call of ours before it comes here.

use pystap_agent_protocol::Clock;
use pystap_ring::Place;
use pystap_ring::sums::{Call, NO_ROOM, Scale, Sums, Table};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::gil::Guarded;
use crate::python::Ptr;
use crate::ring::Function;
use crate::{codes, contexts, ring, thread};

/// A table, and by what its times are.
pub(crate) struct Summing {
    sums: Sums,
    clock: Clock,
    scale: Scale,
}

static SUMMING: Guarded<Option<Summing>> = Guarded::new(None);

impl Summing {
    /// Maps the table that pystap offers behind a ring of so many words.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(
        offer: pystap_agent_protocol::Sums,
        memory: &OwnedFd,
        words: u64,
        clock: Clock,
    ) -> Result<Summing, Errno> {
        Ok(Summing {
            sums: Sums::new(Table::new(memory, words, offer.rows)?)?,
            clock,
            scale: Scale::of_multiplier(offer.multiplier),
        })
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        self.scale.nanoseconds(ring::time(self.clock))
    }

    /// The row of a function; that of all others as long as there is no room for one of its own, or for its name.
    #[inline(always)]
    unsafe fn row(&mut self, function: *mut Function) -> u32 {
        match (*function).row {
            0 => self.new_row(function),
            row => row,
        }
    }

    #[cold]
    unsafe fn new_row(&mut self, function: *mut Function) -> u32 {
        let Some(row) = self.sums.next_row() else {
            return NO_ROOM;
        };
        // Its name first, so that a row that is seen has one.
        if !ring::name_row(function, row) {
            return NO_ROOM;
        }
        let now = self.now();
        self.sums.take_row(now);
        (*function).row = row;
        row
    }
}

/// Adds up from now on, if there is something to do it with.
pub(crate) unsafe fn begin(summing: Option<Summing>) {
    *SUMMING.get() = summing;
}

/// Ends it. What was added up stays where pystap reads it.
pub(crate) unsafe fn end() {
    drop((*SUMMING.get()).take());
}

/// Whether calls are added up and not told.
#[inline(always)]
pub(crate) unsafe fn is_on() -> bool {
    (*SUMMING.get()).is_some()
}

/// A function is entered, or was running before the session began. The context comes first, because a new one can run
/// finalizers of the program (up to 3.11), and these can end the session.
#[inline(always)]
pub(crate) unsafe fn entered(object: Ptr, was_running: bool) {
    let context = contexts::current();
    let Some(code) = codes::wanted(object) else {
        return;
    };
    let Some(summing) = (*SUMMING.get()).as_mut() else {
        return;
    };
    let call = Call {
        function: object as usize,
        row: summing.row(&raw mut (*code).told),
        was_running,
    };
    let now = summing.now();
    summing.sums.entered(place(context), call, now);
}

/// It is left.
#[inline(always)]
pub(crate) unsafe fn left(object: Ptr) {
    let context = contexts::current();
    let Some(summing) = (*SUMMING.get()).as_mut() else {
        return;
    };
    let now = summing.now();
    if !summing.sums.left(place(context), object as usize, now) {
        unmatched(object);
    }
}

/// There was no room for its call when it was entered.
#[cold]
unsafe fn unmatched(object: Ptr) {
    if let Some(code) = codes::wanted(object)
        && let Some(summing) = (*SUMMING.get()).as_mut()
    {
        let row = summing.row(&raw mut (*code).told);
        summing.sums.unmatched(row);
    }
}

/// A collection begins.
pub(crate) unsafe fn collection_begins() {
    if let Some(summing) = (*SUMMING.get()).as_mut() {
        let now = summing.now();
        summing.sums.collection_begins(thread::current(), now);
    }
}

/// It ends.
pub(crate) unsafe fn collection_ends() {
    if let Some(summing) = (*SUMMING.get()).as_mut() {
        let now = summing.now();
        summing.sums.collection_ends(thread::current(), now);
    }
}

#[inline(always)]
fn place(context: u64) -> Place {
    Place {
        thread: thread::current(),
        context,
    }
}
