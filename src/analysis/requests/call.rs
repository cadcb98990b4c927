//! A call of a request.

use std::num::NonZeroU64;
use std::sync::Arc;

use crate::event::{Fields, Place};

/// Where a call ran: a thread of a process of a recording, or a greenlet or task in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Track {
    /// Number of the recording.
    pub recording: usize,
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The greenlet or task.
    pub context: Option<NonZeroU64>,
}

/// How a call ended, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It returned.
    Returned,
    /// An exception left it.
    Exception,
    /// It gave way, and was not seen to go on; or what went on may have been another.
    Suspended,
    /// The recording ended before it did.
    Open,
    /// Its return was not seen: events were lost, or its process ended.
    Unseen,
}

impl Ending {
    /// The word that JSON has for it.
    pub fn word(self) -> &'static str {
        match self {
            Ending::Returned => "returned",
            Ending::Exception => "exception",
            Ending::Suspended => "suspended",
            Ending::Open => "open",
            Ending::Unseen => "unseen",
        }
    }
}

/// A call of the request. Times are in nanoseconds, moments since the Unix epoch.
#[derive(Debug, Clone)]
pub struct RequestCall {
    /// Where it ran.
    pub track: Track,
    /// Its function.
    pub place: Arc<Place>,
    /// Where it was entered; 0 or less where that is not known.
    pub line: i32,
    /// The call of the request that called it.
    pub parent: Option<usize>,
    /// When it was called.
    pub begin: u64,
    /// When it ended, or was seen last.
    pub end: u64,
    /// Time in which it was on the stack, with what it called: without that in which it had given way.
    pub ran_ns: u64,
    /// Of that, time of calls below it.
    pub(super) below_ns: u64,
    /// Time in which it had given way, as by `await`, and not because a call below it had.
    pub suspended_ns: u64,
    /// How often it gave way and went on.
    pub resumptions: u64,
    /// How it ended.
    pub ending: Ending,
    /// Whether it began before that was recorded.
    pub began_before: bool,
    /// The fields it was called with, where they had room.
    pub fields: Option<Arc<Fields>>,
}

impl RequestCall {
    /// From its beginning to its end.
    pub fn duration_ns(&self) -> u64 {
        self.end.saturating_sub(self.begin)
    }

    /// Time that it spent in none of the calls below it: it ran, or waited.
    pub fn own_ns(&self) -> u64 {
        let own = self.ran_ns.saturating_sub(self.below_ns);
        own.saturating_add(self.suspended_ns)
    }
}
