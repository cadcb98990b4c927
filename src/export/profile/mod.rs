//! Formats that other programs show: what a stream becomes when all of it is known. Made from recordings, an event at a
//! time; what a format cannot say is left out, nothing is invented.

mod chrome;
mod folded;
mod names;
mod paths;
mod pstats;
mod speedscope;
mod timeline;

use std::io::{self, Write};

use crate::analysis::pairing::{Pairing, Step};
use crate::event::{Event, Session};

pub use chrome::Chrome;
pub use folded::{FlameGraph, Folded};
pub use pstats::Pstats;
pub use speedscope::Speedscope;

/// A format that is made from a stream. Calls come in this order: `event` any number of times, `finish` once.
pub trait Profile {
    /// Takes an event with what pairing said of it.
    ///
    /// # Errors
    ///
    /// What the output answered, for formats that are written as they are made.
    fn event(&mut self, event: &Event, step: &Step<'_>, output: &mut dyn Write) -> io::Result<()>;

    /// Writes the rest. Calls that are still open are ended at the time of the last event. Answers a sentence about what
    /// there was no room for, if there was something.
    ///
    /// # Errors
    ///
    /// What the output answered; `InvalidData` and `QuotaExceeded` with a sentence where the format cannot be made.
    fn finish(
        self: Box<Self>,
        session: &Session,
        pairing: &Pairing,
        output: &mut dyn Write,
    ) -> io::Result<Option<String>>;
}

#[cfg(test)]
mod tests;
