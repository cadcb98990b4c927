//! Why calls of a function took so long: each call ([`crate::analysis::pairing`]) joined with the waits of its thread
//! ([`crate::waits`]), split into parts that add up to the whole.
//!
//! Two sources are brought together. The engine tells calls and returns of the functions that were named, and the scheduler tells
//! when their threads had no processor, and why. Both have the clock of the kernel, but neither waits for the other: a call is split
//! only when the scheduler's events have been taken in past its end (`log`, `settling`). What either source lost is nowhere
//! guessed: a call that touches such a time is counted as unsplit.
//!
//! `split` divides one stretch of time, `part` adds up what comes of it, `log` keeps what threads did as long as a call may need
//! it, `settling` puts stretches together to calls, `sink` makes stretches of events of the calls that have `begun`, and `watcher`
//! listens to the scheduler.

mod begun;
mod json;
mod log;
mod part;
mod results;
mod settling;
mod sink;
mod split;
mod table;
mod watcher;

pub(crate) use sink::{INTERNAL, Options, Why};
pub(crate) use watcher::Watcher;
