//! The side of the agent: calls and returns as they happen, paired and added up.

use core::sync::atomic::Ordering;

use rustix::io::Errno;

use super::memory::Table;
use super::row::{COLLECTIONS, FIRST, NO_ROOM, add, down, subtract, up};
use crate::many::{Many, Plain};
use crate::slots::{At, Place, Slots};

/// Open calls of all threads for which there is room.
const FRAMES: u32 = 1 << 17;

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// What tells the function from others while it is open.
    pub function: usize,
    /// Its row.
    pub row: u32,
    /// Whether it was running before anybody looked, so that nobody knows when it began.
    pub was_running: bool,
}

/// One call that is open.
#[derive(Debug, Clone, Copy)]
struct Frame {
    function: usize,
    row: u32,
    stack: u32,
    /// The frame before it on its stack; of one that is free, the next free one.
    below: u32,
    /// What ran when it was called; 0 also when that has ended.
    parent: u32,
    /// The nearest frame of its function among its callers.
    outer: u32,
    /// What ran when its context began, and runs again when that ends, unless it has ended: then it has been used again.
    interrupted: u32,
    interrupted_use: u32,
    /// How often it was used.
    uses: u32,
    /// Open frames whose parent it is.
    called: u32,
    was_running: bool,
    began: u64,
    /// Time of its own so far.
    own: u64,
    /// Inclusive time of ended inner calls of its function.
    covered: u64,
}

// SAFETY: numbers.
unsafe impl Plain for Frame {}

/// Adds up what one process does. There is one at a time, and one thread at a time calls it.
#[derive(Debug)]
pub struct Sums {
    table: Table,
    frames: Many<Frame>,
    slots: Slots,
    /// The first free frame, and the first that was never used.
    free: u32,
    fresh: u32,
    /// Where and when a collection began.
    collecting: Option<(usize, u64)>,
}

impl Sums {
    /// Writes a table into which nobody else writes.
    ///
    /// # Errors
    /// When there is no memory for open calls.
    pub fn new(table: Table) -> Result<Sums, Errno> {
        table.header().writer.used.store(FIRST, Ordering::Release);
        Ok(Sums {
            table,
            frames: Many::new(FRAMES)?,
            slots: Slots::new()?,
            free: 0,
            fresh: 1,
            collecting: None,
        })
    }

    /// The row that the next function would have; `None` when the table is full.
    pub fn next_row(&self) -> Option<u32> {
        let next = self.table.header().writer.used.load(Ordering::Relaxed);
        (next < self.table.rows()).then_some(next)
    }

    /// Gives a function the next row, now that its name is known to the reader.
    pub fn take_row(&mut self, now: u64) {
        let writer = &self.table.header().writer;
        if writer.first.load(Ordering::Relaxed) == 0 {
            writer.first.store(now, Ordering::Relaxed);
        }
        let next = writer.used.load(Ordering::Relaxed);
        if next < self.table.rows() {
            writer.used.store(next + 1, Ordering::Release);
        }
    }

    /// A function is entered.
    #[inline]
    pub fn entered(&mut self, place: Place, call: Call, now: u64) {
        let epoch = self.epoch();
        if !self.slots.go_to(place, true) {
            return self.skip(call.row, epoch);
        }
        let At { thread, stack } = self.slots.at;
        let mut running = self.stop(thread, epoch, now);
        running = self.switch(running, stack);
        let mut interrupted = 0;
        // The first frame of a context was called by none of another, which waits; it was by the loop outside of all.
        if running != 0 {
            let ran_on = self.frames.at(running).stack;
            if ran_on != stack && self.slots.stacks.at(ran_on).context != 0 {
                // What was running outside of all before anybody looked was there before the others, which end with it: when
                // it returns, nothing runs.
                let was_first = call.was_running && place.context == 0;
                interrupted = if was_first { 0 } else { running };
                running = 0;
            }
        }
        let Some(new) = self.new_frame() else {
            let runs = if running == 0 { interrupted } else { running };
            self.slots.stacks.at_mut(stack).skipped += 1;
            self.slots.threads.at_mut(thread).open += 1;
            self.run(thread, runs, epoch, now);
            return self.skip(call.row, epoch);
        };
        let interrupted_use = self.frames.at(interrupted).uses;
        let outer = match self.table.row(call.row).open.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.outer(running, call.row, call.function),
        };
        let state = self.slots.stacks.at_mut(stack);
        let below = core::mem::replace(&mut state.top, new);
        let frame = self.frames.at_mut(new);
        *frame = Frame {
            function: call.function,
            row: call.row,
            stack,
            below,
            parent: running,
            outer,
            interrupted,
            interrupted_use,
            uses: frame.uses,
            called: 0,
            was_running: call.was_running,
            began: now,
            own: 0,
            covered: 0,
        };
        if running != 0 {
            self.frames.at_mut(running).called += 1;
        }
        let state = self.slots.threads.at_mut(thread);
        state.open += 1;
        state.running = new;
        state.since = now;
        self.table.row(call.row).change(epoch, |row| {
            add(&row.calls, 1);
            up(&row.open);
            up(&row.running);
            subtract(&row.own_open, now);
            if outer == 0 {
                up(&row.outermost);
                add(&row.outermost_since, now);
            }
        });
    }

    /// A function is left. Whether its call is known; if not, it is for the caller to say whose row has one more
    /// [`unmatched`](Sums::unmatched).
    #[inline]
    pub fn left(&mut self, place: Place, function: usize, now: u64) -> bool {
        let epoch = self.epoch();
        if !self.slots.go_to(place, false) {
            return false;
        }
        let At { thread, stack } = self.slots.at;
        let (top, skipped) = {
            let stack = self.slots.stacks.at(stack);
            (stack.top, stack.skipped)
        };
        let frame = self.frames.at(top);
        // Nearly always the call that runs returns.
        let is_plain = self.slots.threads.at(thread).running == top
            && frame.function == function
            && skipped == 0
            && top != 0;
        if !is_plain {
            return self.left_otherwise(function, epoch, now);
        }
        self.close(top, epoch, now);
        true
    }

    /// A return that is not simply of the call that runs.
    #[cold]
    fn left_otherwise(&mut self, function: usize, epoch: u32, now: u64) -> bool {
        let At { thread, stack } = self.slots.at;
        let running = self.stop(thread, epoch, now);
        let running = self.switch(running, stack);
        self.run(thread, running, epoch, now);
        let state = self.slots.stacks.at_mut(stack);
        if state.skipped > 0 {
            state.skipped -= 1;
            self.slots.threads.at_mut(thread).open -= 1;
            return true;
        }
        let mut found = state.top;
        while found != 0 && self.frames.at(found).function != function {
            found = self.frames.at(found).below;
        }
        if found == 0 {
            return false;
        }
        // What is above it in its context has returned unseen.
        loop {
            let top = self.slots.stacks.at(stack).top;
            if top == found || top == 0 {
                break;
            }
            add(&self.table.header().writer.unpaired, 1);
            self.give_up(top, epoch, now);
        }
        self.stop(thread, epoch, now);
        self.run(thread, found, epoch, now);
        self.close(found, epoch, now);
        true
    }

    /// A return whose call was not seen, of a function with this row.
    pub fn unmatched(&mut self, row: u32) {
        let epoch = self.epoch();
        add(&self.table.header().writer.unpaired, 1);
        let row = self.table.row(row);
        row.change(epoch, |row| add(&row.unmatched, 1));
    }

    /// A garbage collection begins.
    pub fn collection_begins(&mut self, thread: usize, now: u64) {
        self.collecting = Some((thread, now));
    }

    /// It ends.
    pub fn collection_ends(&mut self, thread: usize, now: u64) {
        let epoch = self.epoch();
        let began = self.collecting.take().filter(|(on, _)| *on == thread);
        self.table.row(COLLECTIONS).change(epoch, |row| {
            add(&row.calls, 1);
            if let Some(took) = began.and_then(|(_, began)| now.checked_sub(began)) {
                row.took(took);
            }
        });
    }

    #[inline(always)]
    fn epoch(&self) -> u32 {
        self.table.header().reader.epoch.load(Ordering::Relaxed)
    }

    /// Counts a call that is paired with nothing.
    #[cold]
    fn skip(&mut self, row: u32, epoch: u32) {
        add(&self.table.header().writer.lost, 1);
        self.table.row(row).change(epoch, |row| add(&row.calls, 1));
    }

    /// A frame that is free, unless the thread has too many, or the stack some that are skipped: what is above those is too.
    #[inline(always)]
    fn new_frame(&mut self) -> Option<u32> {
        if !self.slots.has_room() {
            return None;
        }
        let new = self.free;
        if new != 0 {
            self.free = self.frames.at(new).below;
            return Some(new);
        }
        let new = self.fresh;
        (new < self.frames.count()).then(|| {
            self.fresh += 1;
            new
        })
    }

    /// What is in a context when its stack has its turn: its last frame, unless it has none yet.
    #[inline(always)]
    fn switch(&self, running: u32, stack: u32) -> u32 {
        if self.frames.at(running).stack == stack && running != 0 {
            return running;
        }
        match self.slots.stacks.at(stack).top {
            0 => running,
            top => top,
        }
    }

    /// Gives the call that runs its time until now. Nothing runs after that; what did.
    #[inline(always)]
    fn stop(&mut self, thread: u32, epoch: u32, now: u64) -> u32 {
        let state = self.slots.threads.at_mut(thread);
        let (running, since) = (core::mem::take(&mut state.running), state.since);
        if running != 0 {
            let frame = self.frames.at_mut(running);
            frame.own = frame.own.wrapping_add(now.wrapping_sub(since));
            self.table.row(frame.row).change(epoch, |row| {
                add(&row.own_open, now);
                down(&row.running);
            });
        }
        running
    }

    /// Has a call run from now on, when none does.
    #[inline(always)]
    fn run(&mut self, thread: u32, running: u32, epoch: u32, now: u64) {
        let state = self.slots.threads.at_mut(thread);
        state.running = running;
        state.since = now;
        if running != 0 {
            let row = self.table.row(self.frames.at(running).row);
            row.change(epoch, |row| {
                up(&row.running);
                subtract(&row.own_open, now);
            });
        }
    }

    /// The nearest frame of this function, this frame and its callers.
    #[inline(always)]
    fn outer(&self, mut at: u32, row: u32, function: usize) -> u32 {
        while at != 0 {
            let frame = self.frames.at(at);
            // Functions that found no room share a row.
            if frame.row == row && (row != NO_ROOM || frame.function == function) {
                return at;
            }
            at = frame.parent;
        }
        0
    }

    /// Closes the last frame of a stack, which runs until now.
    #[inline(always)]
    fn close(&mut self, top: u32, epoch: u32, now: u64) {
        let At { thread, stack } = self.slots.at;
        let frame = *self.frames.at(top);
        let next = match frame.parent {
            0 if frame.interrupted != 0
                && self.frames.at(frame.interrupted).uses == frame.interrupted_use =>
            {
                frame.interrupted
            }
            parent => parent,
        };
        self.take(top, stack, thread, 0, epoch);
        // Of one that was running before, since it was seen.
        let took = now.saturating_sub(frame.began);
        if frame.outer != 0 {
            let outer = self.frames.at_mut(frame.outer);
            outer.covered = outer.covered.wrapping_add(took);
        }
        let since = self.slots.threads.at(thread).since;
        self.table.row(frame.row).change(epoch, |row| {
            let own = frame.own.wrapping_add(now.wrapping_sub(since));
            add(&row.own, own);
            // What it had before, without what was taken off when it began to run.
            add(&row.own_open, now.wrapping_sub(own));
            down(&row.running);
            down(&row.open);
            if frame.outer == 0 {
                add(&row.inclusive, took);
                down(&row.outermost);
                subtract(&row.outermost_since, frame.began);
            }
            if !frame.was_running {
                row.took(took);
            }
        });
        self.run(thread, next, epoch, now);
    }

    /// A frame that will not be followed any longer, the last of its stack: what is known of it counts.
    #[cold]
    fn give_up(&mut self, top: u32, epoch: u32, now: u64) {
        let At { thread, stack } = self.slots.at;
        if self.slots.threads.at(thread).running == top {
            self.stop(thread, epoch, now);
            let caller = self.frames.at(top).parent;
            self.run(thread, caller, epoch, now);
        }
        let frame = *self.frames.at(top);
        self.take(top, stack, thread, frame.parent, epoch);
        self.table.row(frame.row).change(epoch, |row| {
            add(&row.own, frame.own);
            subtract(&row.own_open, frame.own);
            add(&row.inclusive, frame.covered);
            down(&row.open);
            if frame.outer == 0 {
                down(&row.outermost);
                subtract(&row.outermost_since, frame.began);
            }
        });
    }

    /// Takes the last frame off its stack. What it called and is still open has `heir` for its caller from now on.
    #[inline(always)]
    fn take(&mut self, top: u32, stack: u32, thread: u32, heir: u32, epoch: u32) {
        let frame = self.frames.at_mut(top);
        let (below, parent, called) = (frame.below, frame.parent, frame.called);
        frame.uses = frame.uses.wrapping_add(1);
        frame.parent = 0;
        frame.stack = 0;
        frame.below = self.free;
        self.free = top;
        self.slots.stacks.at_mut(stack).top = below;
        self.slots.threads.at_mut(thread).open -= 1;
        if parent != 0 {
            let parent = self.frames.at_mut(parent);
            parent.called = parent.called.wrapping_sub(1);
        }
        if called > 0 {
            self.bequeath(top, thread, heir, epoch);
        }
    }

    /// Frames of other contexts that it called have another caller from now on, and with that perhaps another outer call.
    #[cold]
    fn bequeath(&mut self, gone: u32, thread: u32, heir: u32, epoch: u32) {
        for at in 1..self.fresh {
            if self.frames.at(at).stack != 0 && self.frames.at(at).parent == gone {
                self.frames.at_mut(at).parent = heir;
                if heir != 0 {
                    self.frames.at_mut(heir).called += 1;
                }
            }
        }
        for at in 1..self.fresh {
            let frame = *self.frames.at(at);
            if frame.stack == 0 || self.slots.stacks.at(frame.stack).thread != thread {
                continue;
            }
            let outer = self.outer(frame.parent, frame.row, frame.function);
            self.frames.at_mut(at).outer = outer;
            if (frame.outer == 0) != (outer == 0) {
                self.table.row(frame.row).change(epoch, |row| {
                    if outer == 0 {
                        up(&row.outermost);
                        add(&row.outermost_since, frame.began);
                    } else {
                        down(&row.outermost);
                        subtract(&row.outermost_since, frame.began);
                    }
                });
            }
        }
    }
}
