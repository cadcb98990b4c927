//! What the thread that shows tables and the session's thread tell each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Signal, getpid, kill_process};

use super::{Snapshot, State};
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

/// The way from an exact table to samples.
#[derive(Debug, Clone)]
pub(crate) struct Back {
    stop: Stopper,
    left: Arc<Mutex<Option<State>>>,
}

impl Back {
    /// The way out of a session that this ends.
    pub(crate) fn by(stop: Stopper) -> Back {
        Back {
            stop,
            left: Arc::default(),
        }
    }

    /// Ends the session, whose table was this.
    pub(super) fn go(&self, table: &State) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        // A session that is told twice to end does so in a hurry.
        if left.is_none() {
            *left = Some(table.anew());
            self.stop.stop();
        }
    }

    /// The table that somebody left in this way, without its rows; `None` where nobody did.
    pub(crate) fn left(&self) -> Option<State> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.take()
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
