//! What both sides say of themselves, each in lines of its own of the processors' caches.

use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes before the data: a page wherever this runs.
pub(crate) const HEADER_BYTES: usize = 1 << 16;

/// Kinds of events that are counted when they have no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum LostKind {
    /// A call.
    Call = 0,
    /// A return.
    Return = 1,
    /// A garbage collection's begin or end.
    Collection = 2,
}

/// How many there are.
pub const LOST_KINDS: usize = 3;

/// What is in the first page.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Header {
    /// Of the writer.
    pub(crate) writer: WriterLine,
    /// Of the reader.
    pub(crate) reader: ReaderLine,
    /// Of the writer as well, now and then. All 0 where it says nothing of that.
    pub(crate) handled: HandledLine,
}

#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct WriterLine {
    /// Words written since the beginning.
    pub(crate) written: AtomicU64,
    /// Events that had no room, by kind.
    pub(crate) lost: [AtomicU64; LOST_KINDS],
    /// Those of threads that have no ring, which is told in one of the others'.
    pub(crate) ringless: [AtomicU64; LOST_KINDS],
}

#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct ReaderLine {
    /// Words read since the beginning.
    pub(crate) read: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct HandledLine {
    /// In calm, and in the program as it runs: ticks and events.
    pub(crate) calm: [AtomicU64; 2],
    pub(crate) told: [AtomicU64; 2],
}

/// How long the writer took over events: its own part of them, by its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Handled {
    /// Ticks of the ring's clock that these took together.
    pub ticks: u64,
    /// How many events.
    pub events: u64,
}

impl Handled {
    pub(crate) fn store(self, into: &[AtomicU64; 2]) {
        let [ticks, events] = into;
        ticks.store(self.ticks, Ordering::Relaxed);
        events.store(self.events, Ordering::Relaxed);
    }

    /// The two can be one event apart from each other.
    pub(crate) fn load(from: &[AtomicU64; 2]) -> Handled {
        let [ticks, events] = from;
        Handled {
            ticks: ticks.load(Ordering::Relaxed),
            events: events.load(Ordering::Relaxed),
        }
    }
}
