//! What the thread that shows tables and the session's thread tell each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, getpid, kill_process};

use super::Snapshot;
use crate::session::stop::Stopper;

/// What the thread that shows asks for.
#[derive(Debug, Default)]
pub(super) struct Requests {
    table: AtomicBool,
    anew: AtomicBool,
}

impl Requests {
    /// Asks for a table.
    pub(super) fn table(&self) {
        self.table.store(true, Ordering::Relaxed);
    }

    /// Asks to count anew.
    pub(super) fn anew(&self) {
        self.anew.store(true, Ordering::Relaxed);
    }

    /// Whether a table was asked for since this was asked last.
    pub(super) fn take_table(&self) -> bool {
        self.table.swap(false, Ordering::Relaxed)
    }

    /// Whether counting anew was asked for since this was asked last.
    pub(super) fn take_anew(&self) -> bool {
        self.anew.swap(false, Ordering::Relaxed)
    }
}

/// The way back to where an exact table came from.
#[derive(Debug, Clone)]
pub(crate) struct Back {
    stop: Stopper,
    wanted: Arc<AtomicBool>,
}

impl Back {
    /// The way back from a session that this ends.
    pub(crate) fn by(stop: Stopper) -> Back {
        Back {
            stop,
            wanted: Arc::default(),
        }
    }

    /// Ends the session.
    pub(super) fn go(&self) {
        self.wanted.store(true, Ordering::Relaxed);
        self.stop.stop();
    }

    /// Whether somebody went there.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }
}

/// What the thread that shows is given.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) snapshot: Snapshot,
    /// Whether the session is over.
    pub(super) last: bool,
}

/// Ends the session as Ctrl-C would.
pub(crate) fn end_session() {
    let _ = kill_process(getpid(), Signal::INT);
}
