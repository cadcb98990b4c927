//! Where things happened that the kernel tells exactly, by stacks that are read from outside from time to time ([`stacks`]): what
//! a look caught is known, and what none did is shared out among what was caught ([`tally`]).
//!
//! Beside that, what a wait was about that the kernel's events do not tell ([`Explainer`]).

mod explainer;
mod on;
mod stacks;
mod tally;

pub(crate) use explainer::Explainer;
pub(crate) use stacks::{Look, PythonOf, note_name};
#[cfg(test)]
pub(crate) use tally::MOST_ROWS;
pub(crate) use tally::{Event, Kind, Part, Place, Shares, Sum, Tally, share_of};
