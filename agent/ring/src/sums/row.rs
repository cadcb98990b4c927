//! What is in the table.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Most rows of a table.
pub const MOST_ROWS: u32 = 1 << 14;
/// The row of all functions that found none.
pub const NO_ROOM: u32 = 0;
/// The row of the garbage collections.
pub const COLLECTIONS: u32 = 1;
/// The first row of a function.
pub const FIRST: u32 = 2;
/// Durations in nanoseconds are counted by their number of bits; the last bucket holds a day and more.
pub const BUCKETS: usize = 48;

/// What both sides say of the table, each in a line of its own of the processors' caches.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Header {
    pub(super) writer: WriterLine,
    pub(super) reader: ReaderLine,
}

#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct WriterLine {
    /// Rows that are in use begin before this one.
    pub(super) used: AtomicU32,
    /// When the first function was given a row, in nanoseconds of the writer's scale; 0 until then.
    pub(super) first: AtomicU64,
    /// Calls for which there was no room to be paired.
    pub(super) lost: AtomicU64,
    /// Calls and returns that found no partner.
    pub(super) unpaired: AtomicU64,
}

#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct ReaderLine {
    /// How often everything began anew.
    pub(super) epoch: AtomicU32,
}

/// One row. The first line is read as a whole.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Row {
    /// Odd while the line changes.
    pub(super) sequence: AtomicU32,
    /// Since which beginning it counts what has ended.
    pub(super) epoch: AtomicU32,
    pub(super) calls: AtomicU64,
    /// Time of its own of calls that have ended, and of those that are open. Of one that runs it is less by the time since when:
    /// it lacks what the clock says now.
    pub(super) own: AtomicU64,
    pub(super) own_open: AtomicU64,
    /// Inclusive time of calls that have ended.
    pub(super) inclusive: AtomicU64,
    /// Calls that run now; open calls that no other of the function has (indirectly) called, and the sum of the times at which
    /// they began.
    pub(super) running: AtomicU32,
    pub(super) outermost: AtomicU32,
    pub(super) outermost_since: AtomicU64,
    pub(super) timed_ns: AtomicU64,

    /// Of calls whose duration is known, as `timed_ns`: all bits of the shortest the other way round, so that 0 is of nothing
    /// yet.
    pub(super) not_shortest: AtomicU64,
    pub(super) longest: AtomicU64,
    pub(super) unmatched: AtomicU64,
    /// Open calls: tells the writer at a glance that nothing recurs.
    pub(super) open: AtomicU32,
    pub(super) spare: [AtomicU32; 9],
    pub(super) buckets: [AtomicU64; BUCKETS],
}

// The first line is one line of the processor's cache, and so is each eight of the other words.
const _: () = assert!(size_of::<Row>() == 512 && core::mem::offset_of!(Row, not_shortest) == 64);

/// Adds to a word that only we write.
#[inline(always)]
pub(super) fn add(word: &AtomicU64, number: u64) {
    word.store(
        word.load(Ordering::Relaxed).wrapping_add(number),
        Ordering::Relaxed,
    );
}

#[inline(always)]
pub(super) fn subtract(word: &AtomicU64, number: u64) {
    word.store(
        word.load(Ordering::Relaxed).wrapping_sub(number),
        Ordering::Relaxed,
    );
}

/// Counts one more.
#[inline(always)]
pub(super) fn up(word: &AtomicU32) {
    word.store(
        word.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Relaxed,
    );
}

/// And one less.
#[inline(always)]
pub(super) fn down(word: &AtomicU32) {
    word.store(
        word.load(Ordering::Relaxed).wrapping_sub(1),
        Ordering::Relaxed,
    );
}

impl Row {
    /// Changes it, so that a reader sees all of it in the first line or nothing.
    #[inline(always)]
    pub(super) fn change(&self, epoch: u32, change: impl FnOnce(&Row)) {
        let sequence = self.sequence.load(Ordering::Relaxed) & !1;
        self.sequence.store(sequence | 1, Ordering::Relaxed);
        fence(Ordering::Release);
        if self.epoch.load(Ordering::Relaxed) != epoch {
            self.begin_anew(epoch);
        }
        change(self);
        self.sequence
            .store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// Forgets what has ended.
    #[cold]
    fn begin_anew(&self, epoch: u32) {
        self.epoch.store(epoch, Ordering::Relaxed);
        let ended = [
            &self.calls,
            &self.own,
            &self.inclusive,
            &self.timed_ns,
            &self.not_shortest,
            &self.longest,
            &self.unmatched,
        ];
        for word in ended.into_iter().chain(&self.buckets) {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// A call of this duration has ended.
    #[inline(always)]
    pub(super) fn took(&self, nanoseconds: u64) {
        let bits = (u64::BITS - nanoseconds.leading_zeros()) as usize;
        if !nanoseconds > self.not_shortest.load(Ordering::Relaxed) {
            self.not_shortest.store(!nanoseconds, Ordering::Relaxed);
        }
        if nanoseconds > self.longest.load(Ordering::Relaxed) {
            self.longest.store(nanoseconds, Ordering::Relaxed);
        }
        add(&self.timed_ns, nanoseconds);
        if let Some(bucket) = self.buckets.get(bits.min(BUCKETS - 1)) {
            add(bucket, 1);
        }
    }
}
