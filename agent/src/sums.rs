//! Calls that are added up here, where pystap wants sums and no events ([`pystap_ring::sums`]). Only the names of functions go
//! through the ring. In a free-threaded build each thread has a table of its own, beside its ring.
//!
//! What is paired is what would be told: `stacks` has decided that a return belongs to a call of ours before it comes here.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use pystap_agent_protocol::Clock;
use pystap_ring::sums::{Call, NO_ROOM, Scale, Sums, Table};
use pystap_ring::{MOST_RINGS, Place};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::python::{Ptr, is_free_threaded};
use crate::ring::Function;
use crate::shards::{PerThread, SHARDS, Shard};
use crate::{codes, contexts, ring, shards, thread};

/// A table, and by what its times are.
pub(crate) struct Summing {
    sums: Sums,
    clock: Clock,
    scale: Scale,
    /// Rows by the number of their function, where each thread has a table.
    rows: Vec<u32>,
    /// Rows by their functions' names, where one interpreter has the table after another: each imports the same modules anew.
    named: BTreeMap<Vec<u8>, u32>,
}

/// Most of them; functions with larger numbers have the row of all others.
const MOST_NUMBERS: usize = 1 << 18;

static SUMMING: PerThread<Option<Summing>> = PerThread::new([const { None }; SHARDS]);

/// The tables that pystap offers, mapped, one behind each ring.
///
/// # Errors
/// What the system says.
pub(crate) fn offered(
    offer: pystap_agent_protocol::Ring,
    memory: &OwnedFd,
) -> Result<Vec<Summing>, Errno> {
    let Some(sums) = offer.sums else {
        return Ok(Vec::new());
    };
    let mut all = Vec::new();
    for at in 0..offer.count.min(MOST_RINGS) {
        let table = Table::at(memory, ring::begin_of(offer, at), offer.words, sums.rows)?;
        all.push(Summing {
            sums: Sums::new(table)?,
            clock: offer.clock,
            scale: Scale::of_multiplier(sums.multiplier),
            rows: Vec::new(),
            named: BTreeMap::new(),
        });
    }
    Ok(all)
}

impl Summing {
    #[inline(always)]
    fn now(&self) -> u64 {
        self.scale.nanoseconds(ring::time(self.clock))
    }

    /// The row of a function; that of all others as long as there is no room for one of its own, or for its name.
    #[inline(always)]
    unsafe fn row(&mut self, shard: Shard, function: *mut Function) -> u32 {
        if shard != Shard::ONLY && is_free_threaded() {
            return self.own_row(shard, function);
        }
        match (*function).row {
            0 => {
                (*function).row = self.new_row(shard, function);
                (*function).row
            }
            row => row,
        }
    }

    /// The same where a function has another row for each thread.
    unsafe fn own_row(&mut self, shard: Shard, function: *mut Function) -> u32 {
        let number = (*function).number() as usize;
        if let Some(row) = self.rows.get(number)
            && *row != 0
        {
            return *row;
        }
        if number >= MOST_NUMBERS {
            return NO_ROOM;
        }
        if self.rows.len() <= number {
            self.rows.resize(number + 1, 0);
        }
        let new = self.new_row(shard, function);
        if let Some(row) = self.rows.get_mut(number) {
            *row = new;
        }
        new
    }

    #[cold]
    unsafe fn new_row(&mut self, shard: Shard, function: *mut Function) -> u32 {
        if is_free_threaded() || shard == Shard::ONLY {
            return self.next_row(shard, function);
        }
        let name = ring::name_of(function);
        if let Some(row) = self.named.get(&name) {
            return *row;
        }
        let row = self.next_row(shard, function);
        if row != NO_ROOM {
            self.named.insert(name, row);
        }
        row
    }

    unsafe fn next_row(&mut self, shard: Shard, function: *mut Function) -> u32 {
        let Some(row) = self.sums.next_row() else {
            return NO_ROOM;
        };
        // Its name first, so that a row that is seen has one.
        if !ring::name_row(shard, function, row) {
            return NO_ROOM;
        }
        let now = self.now();
        self.sums.take_row(now);
        row
    }
}

/// Adds up from now on, if there is something to do it with. No callback runs.
pub(crate) unsafe fn begin(offered: Vec<Summing>) {
    // The shard of those that have none adds up nothing.
    let first = usize::from(is_free_threaded());
    for (at, summing) in offered.into_iter().enumerate() {
        *SUMMING.of(first + at) = Some(summing);
    }
}

/// An interpreter within the interpreter adds up in this table from now on, which no other one has.
pub(crate) unsafe fn begin_within(shard: Shard, offered: Vec<Summing>) {
    *SUMMING.at(shard) = offered.into_iter().next();
}

/// Ends it. What was added up stays where pystap reads it. No callback runs.
pub(crate) unsafe fn end() {
    for shard in shards::all() {
        drop((*SUMMING.of(shard)).take());
    }
}

/// Whether calls are added up and not told.
#[inline(always)]
pub(crate) unsafe fn is_on(shard: Shard) -> bool {
    (*SUMMING.at(shard)).is_some()
}

/// A function is entered, or was running before the session began. The context comes first, because a new one can run
/// finalizers of the program (up to 3.11), and these can end the session.
#[inline(always)]
pub(crate) unsafe fn entered(shard: Shard, object: Ptr, was_running: bool) {
    let context = contexts::current(shard);
    let Some(code) = codes::wanted(shard, object) else {
        return;
    };
    let Some(summing) = (*SUMMING.at(shard)).as_mut() else {
        return;
    };
    let call = Call {
        function: object as usize,
        row: summing.row(shard, &raw mut (*code).told),
        was_running,
    };
    let now = summing.now();
    summing.sums.entered(place(context), call, now);
}

/// It is left.
#[inline(always)]
pub(crate) unsafe fn left(shard: Shard, object: Ptr) {
    let context = contexts::current(shard);
    let Some(summing) = (*SUMMING.at(shard)).as_mut() else {
        return;
    };
    let now = summing.now();
    if !summing.sums.left(place(context), object as usize, now) {
        unmatched(shard, object);
    }
}

/// There was no room for its call when it was entered.
#[cold]
unsafe fn unmatched(shard: Shard, object: Ptr) {
    if let Some(code) = codes::wanted(shard, object)
        && let Some(summing) = (*SUMMING.at(shard)).as_mut()
    {
        let row = summing.row(shard, &raw mut (*code).told);
        summing.sums.unmatched(row);
    }
}

/// A collection begins.
pub(crate) unsafe fn collection_begins(shard: Shard) {
    if let Some(summing) = (*SUMMING.at(shard)).as_mut() {
        let now = summing.now();
        summing.sums.collection_begins(thread::current(), now);
    }
}

/// It ends.
pub(crate) unsafe fn collection_ends(shard: Shard) {
    if let Some(summing) = (*SUMMING.at(shard)).as_mut() {
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
