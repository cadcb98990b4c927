//! Engines: what arms the probes of a plan and yields events. Presentation is none of their business.
//!
//! An engine runs on threads of its own. What it has to say comes as [`Message`]s over a bounded channel; it never
//! waits for the reader of that channel, and what does not fit is counted as lost.

pub mod stap;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::Receiver;

use crate::event::{Event, LossStage};

use self::stap::diagnostics::Diagnostic;

/// What an engine says while it runs, in order.
#[derive(Debug)]
pub enum Message {
    /// The probes are live for every target that was given at the start.
    Live,
    /// Events, in the order in which they happened within each thread.
    Events(Batch),
    /// Events were lost at this stage since the last such message; 0 when nobody knows how many.
    Lost(LossStage, u64),
    /// So many events are known to be lost in the kernel over the whole session, so far.
    LostInKernel(u64),
    /// Records could not be decoded.
    Unparsed(u64),
    /// This process was asked to be traced, but its marks were not switched on in time.
    NotArmed(u32),
    /// The engine cannot go on; the sentence says why. It should be stopped.
    Failed(String),
    /// The engine's tool said something.
    Diagnostic(Box<Diagnostic>),
    /// The engine has ended; the last message. `clean` is false when it failed.
    Ended {
        /// Whether it ended as it should.
        clean: bool,
    },
}

/// Events on their way to a reader. While a batch lives, its events count as backlog.
#[derive(Debug)]
pub struct Batch {
    events: Vec<Event>,
    backlog: Arc<AtomicUsize>,
}

impl Batch {
    /// A batch whose events count in `backlog` until it is dropped.
    pub fn new(events: Vec<Event>, backlog: &Arc<AtomicUsize>) -> Self {
        backlog.fetch_add(events.len(), Ordering::Relaxed);
        Batch {
            events,
            backlog: Arc::clone(backlog),
        }
    }

    /// The events.
    pub fn events(&mut self) -> &mut [Event] {
        &mut self.events
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.backlog.fetch_sub(self.events.len(), Ordering::Relaxed);
    }
}

/// A running engine.
pub trait Running {
    /// Where its messages come from.
    fn messages(&self) -> &Receiver<Message>;

    /// Traces one more process from now on.
    ///
    /// # Errors
    /// When the engine does not take it.
    fn add_target(&mut self, pid: u32) -> anyhow::Result<()>;

    /// Asks it to end: what was recorded until now still comes, then [`Message::Ended`]. Asked again, it is less
    /// patient.
    fn stop(&mut self);
}
