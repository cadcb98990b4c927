//! Sums in the process: what each function cost, added up by the agent in memory that pystap reads without asking it. No call
//! is told; only names come through the ring.
//!
//! # Layout
//!
//! The table lies behind the data of the ring, in the same file: a page for what both sides say of the table, then rows of 512
//! bytes. The first row is everybody's who found none, the second is about garbage collections, and each other one is of one
//! code object, whose number in the ring ([`CODE`](crate::CODE)) is that of its row.
//!
//! # Who writes
//!
//! One thread at a time, the one that has the interpreter's lock; in a free-threaded process each thread has a table of its
//! own, and pystap adds them up. A row has a
//! sequence number that is odd while it changes; what a reader reads most of is in its first line.
//!
//! # Open calls
//!
//! count up to now, whenever somebody looks. A row does not say how long they have taken, but how many there are and the sum
//! of the times at which they began: so nothing has to be brought up to date for a reader, not even by a program that sleeps
//! or was killed. The same holds for the time of its own of the call that runs in each thread.
//!
//! # Beginning anew
//!
//! The reader counts up a number; a row whose number is another one has nothing of calls that have ended, and the writer
//! empties it when it changes it next. What calls that are open have is kept.
//!
//! # The same numbers
//!
//! [`Sums`] pairs as pystap does where the agent tells contexts (`src/analysis/pairing`): `tests/integration/ring_sums.rs`
//! feeds both the same programs, and all sums are equal to the nanosecond.

mod calls;
mod memory;
mod reader;
mod row;

pub use calls::{Call, Sums};
pub use memory::{Table, bytes};
pub use reader::{Summed, SumsReader};
pub use row::{BUCKETS, COLLECTIONS, FIRST, MOST_ROWS, NO_ROOM};

/// What makes nanoseconds of a clock's ticks: of times, so that sums of durations have the durations' sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale(u64);

impl Scale {
    /// A clock that counts nanoseconds.
    pub const NANOSECONDS: Scale = Scale(1 << 32);

    /// One of so many nanoseconds per tick, as far as that can be.
    pub fn of_rate(rate: f64) -> Scale {
        Scale((rate * (1_u64 << 32) as f64) as u64)
    }

    /// By what a time is multiplied, in units of 2^-32.
    pub fn multiplier(self) -> u64 {
        self.0
    }

    /// With this multiplier.
    pub fn of_multiplier(multiplier: u64) -> Scale {
        Scale(multiplier)
    }

    /// A time in nanoseconds.
    #[inline(always)]
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.0)) >> 32) as u64
    }
}
