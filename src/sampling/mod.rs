//! Where things happened that the kernel tells exactly, by stacks that are read from outside from time to time ([`stacks`]): what
//! a look caught is known, and what none did is shared out among what was caught ([`tally`]).

mod stacks;
mod tally;

pub(crate) use stacks::{Look, PythonOf};
#[cfg(test)]
pub(crate) use tally::MOST_ROWS;
pub(crate) use tally::{Event, Kind, Part, Place, Shares, Sum, Tally, share_of};
