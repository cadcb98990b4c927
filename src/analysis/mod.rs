//! What follows from a stream of events: pure functions of it, without clocks and without I/O.
//!
//! [`pairing`] says which return belongs to which call; the others add up what it says.

pub mod callers;
pub mod collections;
pub mod contexts;
pub mod found;
pub mod functions;
pub mod histogram;
pub(crate) mod idle;
pub mod idle_calls;
pub mod keys;
pub mod latency;
pub mod lifetimes;
pub mod overhead;
pub mod pairing;
pub mod requests;
pub(crate) mod roles;
#[cfg(test)]
pub(crate) mod testing;
pub mod totals;
