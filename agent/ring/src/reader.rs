//! The side of pystap.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::header::{Handled, Header, LOST_KINDS};
use crate::mapping::Mapping;

/// The writer's position makes no sense: somebody else has written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ring's positions make no sense")
    }
}

impl core::error::Error for Broken {}

/// Reads a ring.
#[derive(Debug)]
pub struct Reader {
    mapping: Mapping,
    read: u64,
}

impl Reader {
    /// Reads from the beginning.
    pub fn new(mapping: Mapping) -> Reader {
        Reader { mapping, read: 0 }
    }

    fn header(&self) -> &Header {
        self.mapping.header()
    }

    /// Words that are there and not yet taken.
    ///
    /// # Errors
    /// When there cannot be as many.
    pub fn waiting(&self) -> Result<u64, Broken> {
        let written = self.header().writer.written.load(Ordering::Acquire);
        match written.checked_sub(self.read) {
            Some(waiting) if waiting <= self.mapping.size() => Ok(waiting),
            _ => Err(Broken),
        }
    }

    /// Appends what has been written since, but no more than so many words, the last record of which may then be cut. How many
    /// words. Their room is the writer's again when they are [given back](Reader::give_back).
    ///
    /// # Errors
    /// When the positions make no sense.
    pub fn read(&self, most: u64, into: &mut Vec<u64>) -> Result<usize, Broken> {
        let waiting = self.waiting()?.min(most);
        let count = usize::try_from(waiting).map_err(|_| Broken)?;
        let begin = usize::try_from(self.read & (self.mapping.size() - 1)).map_err(|_| Broken)?;
        into.reserve(count);
        for at in begin..begin + count {
            // SAFETY: `begin` is less than the size and `count` no more than it, and the data is readable twice over. The
            // words are the writer's to change at any time, which an atomic load allows.
            let word = unsafe { &*self.mapping.data().add(at).cast::<AtomicU64>() };
            into.push(word.load(Ordering::Relaxed));
        }
        Ok(count)
    }

    /// Gives the room of the next so many words back to the writer.
    pub fn give_back(&mut self, words: usize) {
        self.read = self.read.wrapping_add(words as u64);
        self.header()
            .reader
            .read
            .store(self.read, Ordering::Release);
    }

    /// No more records than this were read.
    pub fn most_records(&self) -> u64 {
        self.read / 2
    }

    /// Events that had no room so far, by [`LostKind`](crate::LostKind), as the writer says.
    pub fn lost(&self) -> [u64; LOST_KINDS] {
        counts(&self.header().writer.lost)
    }

    /// How long the writer took over events, as it says: in calm, and since it tells those of the program. No events where it
    /// does not say.
    pub fn handled(&self) -> (Handled, Handled) {
        let line = &self.header().handled;
        (Handled::load(&line.calm), Handled::load(&line.told))
    }

    /// Those of threads without a ring of their own, of which no record tells.
    pub fn lost_elsewhere(&self) -> [u64; LOST_KINDS] {
        counts(&self.header().writer.ringless)
    }
}

fn counts(counters: &[AtomicU64; LOST_KINDS]) -> [u64; LOST_KINDS] {
    // Whoever sees a count sees the records that were written before it.
    [0, 1, 2].map(|kind: usize| {
        counters
            .get(kind)
            .map_or(0, |it| it.load(Ordering::Acquire))
    })
}
