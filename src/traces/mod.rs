//! Calls as spans, for tools that show traces (docs/traces.md): which calls are spans and what belongs together ([`Spans`]), how a
//! span is written ([`span`]), which trace it is of ([`ids`]), whose it is ([`processes`]) and where it goes ([`outlet`]).
//!
//! A span is made when its call ends. It is known before which trace it is of, so that nothing waits for the end of a request,
//! unless a request of the program is looked for: then the spans of a trace are held back until it is found, as far as there is
//! room.

mod calls;
mod choice;
mod ids;
mod measured;
mod outlet;
mod processes;
mod span;
mod spans;
#[cfg(test)]
mod tests;

pub(crate) use choice::Choice;
pub(crate) use ids::Link;
pub(crate) use outlet::{InFile, Post, Sent};
pub(crate) use spans::Spans;
