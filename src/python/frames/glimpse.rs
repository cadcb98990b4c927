//! The stack that a thread which runs had at one moment.
//!
//! Reading takes some microseconds, in which a program calls and returns. Who waits for a stack that holds still sees the functions
//! that work in C, and never those that call others all the time. So it is not waited for: the pages that the innermost frames were in
//! before are read again, all of them at once ([`Near`]), because a program calls in the same places over and over. What is not in them is
//! read behind that, and then the whole stack once more. What is gone by then must have been read at once, and what called it must still be
//! there. If not, only the innermost function is told.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::iter::repeat_with;

use super::layout::Layout;
use super::memory::{Memory, Unread};
use super::objects::Reader;
use super::stack::{
    Chain, Frame, Raw, Stack, Window, again, chain, chain_by, frames, innermost, parsed,
};

const PAGE: u64 = 4096;
/// Most pages that are read at once: each takes a little longer.
const PAGES: usize = 4;
/// How often what is still there is read, until it is of one moment itself.
const READINGS: usize = 4;

/// Pages that the innermost frames of a thread were in, and what leads to them, in the order in which they were found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Near(Vec<u64>);

impl Near {
    fn note(&mut self, page: u64) {
        if self.0.contains(&page) {
            return;
        }
        if self.0.len() == PAGES {
            self.0.remove(0);
        }
        self.0.push(page);
    }
}

/// What was seen of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Glimpse<S, F> {
    /// It as it was at one moment.
    Whole(S),
    /// Its innermost frame. What is around it may be of another moment.
    Innermost(F),
}

/// Reads the stack of a thread. Names are looked up behind that: a function that goes away meanwhile, and whose place another takes, has
/// the other's name.
pub(super) fn glimpse<M: Memory>(
    reader: &Reader<M>,
    thread: u64,
    near: &mut Near,
) -> Result<Option<Glimpse<Stack, Frame>>, Unread> {
    let (memory, layout) = (&reader.memory, &reader.layout);
    let Ok(pages) = Pages::read(memory, &near.0) else {
        // One of them is there no longer.
        near.0.clear();
        return Ok(None);
    };
    let mut first = pages.chain(layout, thread);
    let missing = pages.missing.into_inner();
    let returned = match &mut first {
        Ok(first) => first.drop_returned(),
        Err(_) => 0,
    };
    let read_at_once = |frames: usize| {
        let first_missing = missing.first();
        first_missing.is_none_or(|(depth, _)| *depth > returned + frames)
    };
    let mut torn = |frames: usize| {
        // So that they are read at once the next time.
        let needed = missing
            .iter()
            .filter(|(depth, _)| *depth <= frames.saturating_add(returned));
        needed.take(PAGES).for_each(|(_, page)| near.note(*page));
    };
    let first = match first {
        Ok(first) => first,
        Err(error) => {
            torn(usize::MAX);
            return Err(error);
        }
    };
    let same = first.is_whole() && again(reader, thread, &first.frames);
    if !same {
        let later = repeat_with(|| chain(memory, layout, innermost(memory, layout, thread)?));
        let mut later = later.take(READINGS);
        let gone = later.find_map(|later| gone(&first, &later.ok()?));
        if !gone.is_some_and(read_at_once) {
            torn(gone.unwrap_or(usize::MAX));
            let innermost = first.frames.get(..1).unwrap_or_default();
            return Ok(frames(reader, innermost)?.pop().map(Glimpse::Innermost));
        }
    }
    Ok(Some(Glimpse::Whole(Stack {
        frames: frames(reader, &first.frames)?,
        cut: first.cut,
        same,
    })))
}

/// Pages that were read at once, and whatever else is asked for.
struct Pages<'a, M> {
    memory: &'a M,
    pages: &'a [u64],
    bytes: Vec<u8>,
    /// Pages that something else was read from, and how many frames had been begun by then.
    missing: RefCell<Vec<(usize, u64)>>,
    begun: Cell<usize>,
}

impl<'a, M: Memory> Pages<'a, M> {
    fn read(memory: &'a M, pages: &'a [u64]) -> Result<Pages<'a, M>, Unread> {
        Ok(Pages {
            memory,
            pages,
            bytes: memory.pieces(pages, PAGE as usize)?,
            missing: RefCell::default(),
            begun: Cell::new(0),
        })
    }

    /// The frames of a thread.
    fn chain(&self, layout: &Layout, thread: u64) -> Result<Chain, Unread> {
        let mut window = Window::default();
        let mut bytes = vec![0; layout.frame_size() as usize];
        chain_by(innermost(self, layout, thread)?, |address| {
            self.begun.set(self.begun.get() + 1);
            match self.find(address, &mut bytes) {
                true => parsed(layout, address, &bytes),
                false => window.raw(self.memory, layout, address),
            }
        })
    }

    /// What was read of this address on; false where it was not, which is noted.
    fn find(&self, mut address: u64, mut into: &mut [u8]) -> bool {
        while !into.is_empty() {
            let page = address & !(PAGE - 1);
            let number = self.pages.iter().position(|it| *it == page);
            let from = number.and_then(|number| {
                let at = number * PAGE as usize + (address - page) as usize;
                self.bytes.get(at..(number + 1) * PAGE as usize)
            });
            let Some(from) = from else {
                self.missing.borrow_mut().push((self.begun.get(), page));
                return false;
            };
            let (now, later) = into.split_at_mut(from.len().min(into.len()));
            now.copy_from_slice(from.get(..now.len()).unwrap_or_default());
            into = later;
            address = page.wrapping_add(PAGE);
        }
        true
    }
}

impl<M: Memory> Memory for Pages<'_, M> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unread> {
        match self.find(address, into) {
            true => Ok(()),
            false => self.memory.read(address, into),
        }
    }
}

/// How many frames of the first of two readings are gone, if the others are still there.
fn gone(first: &Chain, second: &Chain) -> Option<usize> {
    let places = second.frames.iter().enumerate();
    let places: HashMap<u64, usize> = places.map(|(at, frame)| (frame.address, at)).collect();
    let still_there = |(gone, frame): (usize, &Raw)| {
        let still = second.frames.get(*places.get(&frame.address)?..)?;
        let is_in_place = still.first().is_some_and(|it| frame.is_in_place(it));
        is_in_place.then_some((gone, still))
    };
    let (gone, still) = first.frames.iter().enumerate().find_map(still_there)?;
    let callers = first.frames.get(gone..)?;
    let all = callers.len() == still.len() || first.cut || second.cut;
    let mut pairs = callers.iter().zip(still);
    let are_there = all && pairs.all(|(it, now)| it.is_in_place(now));
    (first.is_whole() && are_there).then_some(gone)
}

impl Chain {
    /// Whether nothing is missing. A generator that runs has been resumed by somebody; one that has not is suspended, and was read behind
    /// the word that says which frame is the innermost.
    fn is_whole(&self) -> bool {
        self.cut || self.frames.last().is_none_or(|it| !it.is_of_generator())
    }

    /// Leaves out frames that had returned before they were read, behind the word that says which is the innermost; and says how many
    /// they were. From 3.14 on such a frame has no code.
    fn drop_returned(&mut self) -> usize {
        let returned = |frame: &&Raw| frame.is_of_python() && frame.code == 0;
        let returned = self.frames.iter().take_while(returned).count();
        self.frames.drain(..returned);
        returned
    }
}

impl Raw {
    /// Whether the same call is there, at whatever instruction.
    fn is_in_place(&self, other: &Raw) -> bool {
        let call = |it: &Raw| (it.address, it.next, it.code, it.owner);
        call(self) == call(other)
    }
}
