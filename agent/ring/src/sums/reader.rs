//! The side of pystap. The memory is the program's to scribble on: every word is copied once, each number has an end, and
//! nothing is looked for by what was read.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use super::memory::Table;
use super::row::{BUCKETS, FIRST, Row};

/// How often a row is read until it is the same before and after.
const TRIES: usize = 64;
/// The largest number that is believed: more calls, or nanoseconds, than there can be, and so small that adding up some
/// thousands of them overflows nowhere.
const MOST: u64 = 1 << 50;

/// What is known of one function, or of whatever a row is about, up to a moment. Times are in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summed {
    /// Calls and resumptions.
    pub calls: u64,
    /// Returns whose call was not seen.
    pub unmatched: u64,
    /// Time in the function itself.
    pub self_ns: u64,
    /// Time in the function and what it called; recursion counts once.
    pub cumulative_ns: u64,
    /// Calls that have ended and of which it is known when they began, and their time.
    pub timed: u64,
    /// See above.
    pub timed_ns: u64,
    /// The shortest of them, and the longest; 0 when there is none.
    pub shortest: u64,
    /// See above.
    pub longest: u64,
    /// How many of them have so many bits.
    pub buckets: [u64; BUCKETS],
}

/// The first line of a row, as it was at one moment.
#[derive(Debug, Clone, Copy)]
struct Line {
    epoch: u32,
    calls: u64,
    own: u64,
    own_open: u64,
    inclusive: u64,
    running: u32,
    outermost: u32,
    outermost_since: u64,
}

/// Reads a table.
#[derive(Debug)]
pub struct SumsReader {
    table: Table,
    epoch: u32,
}

impl SumsReader {
    /// Of a table that counts from its beginning.
    pub fn new(table: Table) -> SumsReader {
        SumsReader { table, epoch: 0 }
    }

    /// Rows of functions: those from [`FIRST`] to before this one.
    pub fn end(&self) -> u32 {
        let used = self.table.header().writer.used.load(Ordering::Acquire);
        used.clamp(FIRST, self.table.rows())
    }

    /// When the first function had its first call, in nanoseconds of the writer's scale; `None` before.
    pub fn first(&self) -> Option<u64> {
        let first = self.table.header().writer.first.load(Ordering::Relaxed);
        (first != 0).then_some(first)
    }

    /// Calls for which there was no room so far, as the writer says.
    pub fn lost(&self) -> u64 {
        self.table.header().writer.lost.load(Ordering::Relaxed)
    }

    /// Calls and returns that found no partner so far, as the writer says.
    pub fn unpaired(&self) -> u64 {
        let unpaired = &self.table.header().writer.unpaired;
        unpaired.load(Ordering::Relaxed).min(MOST)
    }

    /// All sums are 0 from now on. Open calls stay known, and count in full when they end.
    pub fn begin_anew(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
        let reader = &self.table.header().reader;
        reader.epoch.store(self.epoch, Ordering::Relaxed);
    }

    /// What a row says, with what is open counted up to `now`, in nanoseconds of the writer's scale. `None` when it does not
    /// hold still long enough to be read: there may be more luck the next time.
    pub fn row(&self, number: u32, now: u64) -> Option<Summed> {
        let row = self.table.row(number);
        let whole = || {
            let line = line(row);
            self.summed(row, &line, now)
        };
        // Of one that changes all the time only the first line is of one moment; what has ended since is in the rest already.
        let in_parts = || still(row, || line(row)).map(|line| self.summed(row, &line, now));
        still(row, whole).or_else(in_parts)
    }

    fn summed(&self, row: &Row, line: &Line, now: u64) -> Summed {
        let is_of_now = line.epoch == self.epoch;
        let ended = |number: u64| if is_of_now { number.min(MOST) } else { 0 };
        let word = |word: &AtomicU64| ended(word.load(Ordering::Relaxed));
        let open = |count: u32, before: u64| {
            let sum = u64::from(count).wrapping_mul(now).wrapping_add(before);
            // They may have begun a moment after `now`.
            if sum.cast_signed() < 0 {
                0
            } else {
                sum.min(MOST)
            }
        };
        let mut buckets = [0; BUCKETS];
        for (bucket, count) in buckets.iter_mut().zip(&row.buckets) {
            *bucket = word(count);
        }
        let timed = buckets
            .iter()
            .fold(0_u64, |sum, it| sum.saturating_add(*it));
        let shortest = row.not_shortest.load(Ordering::Relaxed);
        let began = line.outermost_since.wrapping_neg();
        Summed {
            calls: ended(line.calls),
            unmatched: word(&row.unmatched),
            self_ns: (ended(line.own) + open(line.running, line.own_open)).min(MOST),
            cumulative_ns: (ended(line.inclusive) + open(line.outermost, began)).min(MOST),
            timed: timed.min(MOST),
            timed_ns: word(&row.timed_ns),
            shortest: if shortest == 0 { 0 } else { ended(!shortest) },
            longest: word(&row.longest),
            buckets,
        }
    }
}

/// Reads what was the same before and after.
fn still<T>(row: &Row, read: impl Fn() -> T) -> Option<T> {
    for _ in 0..TRIES {
        let sequence = row.sequence.load(Ordering::Acquire);
        let read = read();
        fence(Ordering::Acquire);
        if sequence & 1 == 0 && row.sequence.load(Ordering::Relaxed) == sequence {
            return Some(read);
        }
        core::hint::spin_loop();
    }
    None
}

fn line(row: &Row) -> Line {
    let word = |word: &AtomicU64| word.load(Ordering::Relaxed);
    Line {
        epoch: row.epoch.load(Ordering::Relaxed),
        calls: word(&row.calls),
        own: word(&row.own),
        own_open: word(&row.own_open),
        inclusive: word(&row.inclusive),
        running: row.running.load(Ordering::Relaxed),
        outermost: row.outermost.load(Ordering::Relaxed),
        outermost_since: word(&row.outermost_since),
    }
}
