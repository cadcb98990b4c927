//! Where events go: one sink per format behind one trait, live and for recordings, and the output that they write to.
//! Pairs nothing: every event comes with what pairing says of it. Outputs are opened before probes are armed, so that a bad
//! path costs no trace.

pub(crate) mod about;
pub mod flow;
pub(crate) mod html;
pub(crate) mod intervals;
pub mod json;
pub mod latencies;
mod output;
pub mod parquet;
pub mod pauses;
pub mod profile;

use std::io::{self, Write};

use crate::analysis::overhead::Cost;
use crate::analysis::pairing::{Pairing, PairingRules, Step};
use crate::analysis::totals::Rows;
use crate::engine::Wish;
use crate::event::{Event, Session, Summary, What};

pub use output::{OpenError, Output};

/// A format, or a view: whatever is made of a stream, live or from a recording. Calls come in this order: `session` once,
/// then `step` any number of times, `finish` once.
///
/// Every method fails with the error of the output. [`is_closed`] tells the one that is no failure: the reader of a
/// pipe went away, which ends a session cleanly.
pub trait Sink {
    /// Writes what ran and with what.
    ///
    /// # Errors
    ///
    /// What the output answered.
    fn session(&mut self, _session: &Session) -> io::Result<()> {
        Ok(())
    }

    /// Takes note that one process is paired by rules of its own from now on.
    ///
    /// # Errors
    ///
    /// What the output answered.
    fn rules(&mut self, _pid: u32, _rules: PairingRules) -> io::Result<()> {
        Ok(())
    }

    /// What events have cost in the program so far: truer than what the session said.
    fn event_cost(&mut self, _cost: Cost) {}

    /// Takes one event with what pairing says of it.
    ///
    /// # Errors
    ///
    /// What the output answered.
    fn step(&mut self, step: &Step<'_>) -> io::Result<()>;

    /// Says that it is `now`, in nanoseconds since the Unix epoch, and what is open: about ten times a second while probes
    /// are live, with events or without. For what is shown at intervals.
    ///
    /// # Errors
    ///
    /// What the output answered.
    fn tick(&mut self, _now: u64, _pairing: &Pairing) -> io::Result<()> {
        Ok(())
    }

    /// Takes sums that the engine has made itself, in place of events.
    fn rows(&mut self, _rows: Rows) {}

    /// What it wants of an engine that makes sums, at the moment.
    fn wish(&mut self) -> Option<Wish> {
        None
    }

    /// Events that it was given and that its output did not take; known once a call has failed.
    fn unwritten(&self) -> u64 {
        0
    }

    /// Hands on what is held back for efficiency: for moments without events.
    ///
    /// # Errors
    ///
    /// What the output answered.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Writes what came of it, and everything that was held back. Answers a sentence about what there was no room for, if
    /// there was something.
    ///
    /// # Errors
    ///
    /// What the output answered; `InvalidData` and `QuotaExceeded` with a sentence where the format cannot be made, see
    /// [`is_a_sentence`].
    fn finish(self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>>;
}

/// What a stream ended with.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// What came of it; `None` of a recording that was cut.
    pub summary: Option<&'a Summary>,
    /// The calls that are still open.
    pub pairing: &'a Pairing,
}

impl<'a> End<'a> {
    /// The end of a stream that was not cut.
    pub fn new(summary: &'a Summary, pairing: &'a Pairing) -> End<'a> {
        End {
            summary: Some(summary),
            pairing,
        }
    }
}

/// Whether a sink failed only because nobody reads its output any longer.
pub fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Whether a sink says with it in a sentence why it cannot go on, and its output has nothing to do with it: a file system's quota is an
/// error with a number.
pub fn is_a_sentence(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::InvalidData, io::ErrorKind::QuotaExceeded];
    kinds.contains(&error.kind()) && error.raw_os_error().is_none()
}

/// Which events stand where in what a sink has collected, so that it is known which of them were written.
#[derive(Debug, Default)]
struct Held {
    /// How many events end at a position, ascending.
    ends: Vec<(usize, u64)>,
    unwritten: u64,
}

impl Held {
    /// So many events end where the collected text ends now.
    fn add(&mut self, end: usize, events: u64) {
        if events > 0 {
            self.ends.push((end, events));
        }
    }

    /// Writes and empties `buffer`. It is emptied even when that fails, so that an output that is gone costs no memory.
    fn hand_over(&mut self, buffer: &mut Vec<u8>, output: &mut impl Write) -> io::Result<()> {
        let mut rest = buffer.as_slice();
        let result = loop {
            if rest.is_empty() {
                break output.flush();
            }
            match output.write(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let written = buffer.len() - rest.len();
        let missing = self.ends.iter().filter(|(end, _)| *end > written);
        self.unwritten += missing.map(|(_, events)| events).sum::<u64>();
        self.ends.clear();
        buffer.clear();
        result
    }
}

/// How many events an account of events counts for this one: the losses that it tells are counted elsewhere.
fn counted(event: &Event) -> u64 {
    u64::from(!matches!(event.what, What::Lost { .. }))
}

/// What sinks collect before they write it, in bytes.
const ENOUGH: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sink_says_is_told_from_the_quota_of_a_file_system() {
        let said = io::Error::new(io::ErrorKind::QuotaExceeded, "there is too much");
        assert!(is_a_sentence(&said));
        let quota = io::Error::from_raw_os_error(rustix::io::Errno::DQUOT.raw_os_error());
        assert_eq!(quota.kind(), io::ErrorKind::QuotaExceeded);
        assert!(!is_a_sentence(&quota));
        assert!(!is_a_sentence(&io::ErrorKind::StorageFull.into()));
    }

    #[test]
    fn a_reader_that_went_away_is_told_from_a_full_disk() {
        assert!(is_closed(&io::ErrorKind::BrokenPipe.into()));
        assert!(!is_closed(&io::ErrorKind::StorageFull.into()));
    }
}
