//! The memory through which an agent tells its events to pystap: one ring per process, made by pystap, written by the agent
//! under the interpreter's lock, read by pystap; of a free-threaded process one per thread. No system call and no trap per
//! event.
//!
//! # Layout
//!
//! A page for what both sides say of themselves, then the data: a power of two of 64-bit words. Both sides map the data twice, one mapping
//! behind the other, so that no record is ever cut in two. Positions count words and only grow; the place in the data is the
//! position modulo its size. Words are in the byte order of the machine.
//!
//! Several rings of one size can lie in one file, one behind the other. Each is a ring for itself: what a number stands for is
//! defined in each that uses it.
//!
//! # Records
//!
//! A record is two words or more. The first one is its head: the kind (bits 0 to 3), flags (4 to 7), a line or the length of
//! the whole record in words (8 to 31), and a number (32 to 63). What a number stands for is defined once, before its first
//! use. See [`Record`].
//!
//! Where events had no room, the next record that has some is [`LOST`], so that a reader knows between which events they were.
//! After a loss the writer is silent until an eighth of the ring is free: few long gaps are worth more than many short ones.
//!
//! # Sums
//!
//! Behind the data there may be a table in which the agent adds up calls instead of telling them: [`sums`].
//!
//! # Long calls alone
//!
//! Where only calls of some duration are wanted, the agent measures them itself ([`timed`]) and tells each with one record,
//! [`TIMED`], when it has ended.
//!
//! # Who believes whom
//!
//! The writer is in a process that pystap does not trust, and the memory is that process's to scribble on. The reader copies
//! each word once, believes no length, and takes a ring whose positions make no sense for [`Broken`]. The writer believes the
//! reader: it is given the memory by who traces it. It never waits: what has no room is counted.
#![no_std]

extern crate alloc;

pub mod fields;
mod header;
mod many;
mod mapping;
mod reader;
mod record;
mod slots;
pub mod sums;
#[cfg(test)]
mod tests;
mod ticks;
pub mod timed;
mod writer;

pub use header::{Handled, LOST_KINDS, LostKind};
pub use mapping::{MOST_RINGS, Mapping, distance, new_memory, new_memory_of_many, new_memory_with};
pub use reader::{Broken, Reader};
pub use record::{
    CALL, CODE, CODE_FIXED_WORDS, CONTEXT, CONTEXT_NAME, Code, DRY, FIELDS, GC_DONE, GC_START,
    GONE, INTERPRETER, LOST, MOST_LINE, MOST_TEXT, MOST_WORDS, Malformed, RETURN, Record, Records,
    THREAD, TIMED, VALUE, head,
};
pub use slots::Place;
pub use ticks::{CLOCK_SOURCE, ticks};
pub use writer::{Ringless, Writer};
