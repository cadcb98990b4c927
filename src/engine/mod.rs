//! Engines: what arms the probes of a plan and yields events. Presentation is none of their business.
//!
//! An engine runs on threads of its own. What it has to say comes as [`Message`]s over a bounded channel; it never
//! waits for the reader of that channel, and what does not fit is counted as lost.
//!
//! Events of several processors go through `reorder` first, which holds them back for some milliseconds.

pub(crate) mod abilities;
pub(crate) mod all;
#[doc(hidden)]
pub mod direct;
pub mod event_cost;
mod flags;
pub(crate) mod lifecycle;
pub mod merged;
pub mod reorder;
pub mod stap;
pub mod uprobes;
pub(crate) mod waits;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender};

use crate::analysis::pairing::PairingRules;
use crate::analysis::totals::Rows;
use crate::event::allowance::text_bytes;
use crate::event::{Event, LossStage, Wait, What};
use crate::process::Identity;
use crate::waits::Summed;
use event_cost::{Cost, EventCost};

/// What an engine says while it runs, in order.
#[derive(Debug)]
pub enum Message {
    /// The probes are live for every target that was given at the start.
    Live,
    /// Events, in the order in which they happened within each thread.
    Events(Batch),
    /// Sums that the engine has made itself, because it was asked for them.
    Rows(Box<Rows>),
    /// Waits that the engine has added up, because it was asked for them.
    Waits(Box<Summed>),
    /// What events have cost in the program so far, on the average.
    EventCost(Cost),
    /// This process has mapped greenlet's library, before the events that follow.
    Greenlets(u32),
    /// How the interpreter of a process behaves, before the events that follow.
    Rules(u32, PairingRules),
    /// Events were lost at this stage since the last such message; 0 when nobody knows how many.
    Lost(LossStage, u64),
    /// So many events are known to be lost in the kernel over the whole session, so far.
    LostInKernel(u64),
    /// So many events came too late to be put in their order.
    Late(u64),
    /// Records could not be decoded.
    Unparsed(u64),
    /// This process was asked to be traced, but its marks were not switched on in time.
    NotArmed(u32),
    /// The engine cannot go on; the sentence says why. It should be stopped.
    Failed(String),
    /// So many events are known to have been skipped by probes over the whole session, so far.
    Skipped(u64),
    /// The engine's tool said something: how much that matters, and what, in a sentence for people.
    Said(Weight, String),
    /// The engine has ended; the last message. `clean` is false when it failed.
    Ended {
        /// Whether it ended as it should.
        clean: bool,
    },
}

/// How much it matters what an engine's tool says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// It cannot go on.
    Error,
    /// People should know.
    Warning,
    /// The same, but nobody knows the words: once the engine was asked to end, they are of no interest.
    Unknown,
    /// For those who look for it.
    Detail,
}

/// Most bytes of events that wait for a slow reader of ours, their values included; more are dropped and counted. Some
/// 250 000 events without values.
const BACKLOG: usize = 20 << 20;

/// Where an engine puts what it has to say. Never waits.
#[derive(Debug, Clone)]
pub struct EventSender {
    messages: Sender<Message>,
    backlog: Arc<AtomicUsize>,
}

impl EventSender {
    /// A sender into this channel.
    pub fn new(messages: Sender<Message>) -> EventSender {
        EventSender {
            messages,
            backlog: Arc::new(AtomicUsize::new(0)),
        }
    }

    /// Says something.
    pub fn say(&self, message: Message) {
        // Nobody listens any longer: then nobody misses it.
        let _ = self.messages.send(message);
    }

    /// Whether more events would be lost, because nobody takes the ones before.
    pub fn is_full(&self) -> bool {
        self.backlog.load(Ordering::Relaxed) > BACKLOG
    }

    /// Passes events on, or says that they are lost because nobody takes the ones before.
    pub fn events(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        if self.is_full() {
            self.say(Message::Lost(LossStage::Output, events.len() as u64));
        } else {
            self.say(Message::Events(Batch::new(events, &self.backlog)));
        }
    }
}

/// Events on their way to a reader. While a batch lives, its bytes count as backlog.
#[derive(Debug)]
pub struct Batch {
    events: Vec<Event>,
    bytes: usize,
    backlog: Arc<AtomicUsize>,
}

impl Batch {
    /// A batch whose bytes count in `backlog` until it is dropped.
    pub fn new(events: Vec<Event>, backlog: &Arc<AtomicUsize>) -> Self {
        let bytes = events.iter().map(bytes_of).sum();
        backlog.fetch_add(bytes, Ordering::Relaxed);
        Batch {
            events,
            bytes,
            backlog: Arc::clone(backlog),
        }
    }

    /// The events.
    pub fn events(&mut self) -> &mut [Event] {
        &mut self.events
    }

    /// The events, which are no backlog any longer.
    fn into_events(mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.backlog.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes of an event and what it has for itself: names are shared and have a bound of their own.
fn bytes_of(event: &Event) -> usize {
    let value = match &event.what {
        What::Call { frame, .. } | What::Return { frame, .. } => frame.text.as_deref(),
        What::Context { name, .. } => Some(&**name),
        // Its texts are shared.
        What::Wait(_) => return size_of::<Event>() + size_of::<Wait>(),
        _ => None,
    };
    let fields = event.fields().map_or(0, |fields| fields.bytes());
    size_of::<Event>() + value.map_or(0, text_bytes) + fields
}

/// What can be wanted of an engine that adds up in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The sums that changed; they come as [`Message::Rows`] or [`Message::Waits`].
    Sums,
    /// The same, for somebody who adds up what is new in them: an engine that can tells rows of a process that has ended once,
    /// says so ([`Rows::left`]), and forgets them. What has the number of the process next begins at 0.
    LastSums,
    /// To begin anew.
    Anew,
}

/// Keeps the children of traced processes traced; shared with whoever hears of a child before the engine does.
pub trait Children: std::fmt::Debug + Send + Sync {
    /// There is this child. When this returns, whatever the child becomes is traced.
    fn keep(&self, pid: u32);

    /// The memory through which the agent of this process is to tell its events, where this engine reads such; made anew each
    /// time. The threads of a `free_threaded` one tell through a ring each.
    ///
    /// # Errors
    /// What the system says.
    fn ring(&self, _process: Identity, _free_threaded: bool) -> io::Result<Option<RingOffer>> {
        Ok(None)
    }

    /// One more, for an interpreter within the interpreter of this process, while there is room for it.
    ///
    /// # Errors
    /// What the system says.
    fn ring_within(&self, _process: Identity) -> io::Result<Option<RingOffer>> {
        Ok(None)
    }
}

/// A ring for an agent.
#[derive(Debug)]
pub struct RingOffer {
    /// What the agent has to know of it.
    pub ring: pystap_agent_protocol::Ring,
    /// Its memory.
    pub memory: OwnedFd,
}

/// Why an engine does not trace one more process, as the engine says it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct AddTargetError(Box<dyn std::error::Error + Send + Sync>);

impl AddTargetError {
    /// What an engine ran into.
    pub fn new(reason: impl std::error::Error + Send + Sync + 'static) -> AddTargetError {
        AddTargetError(Box::new(reason))
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
    fn add_target(&mut self, pid: u32) -> Result<(), AddTargetError>;

    /// Where it wants to be told of children. Engines that see to them by themselves have nothing here.
    fn children(&self) -> Option<Arc<dyn Children>> {
        None
    }

    /// Wants something of the sums in the kernel. Engines that hold none have nothing to do.
    fn wish(&mut self, _wish: Wish) {}

    /// What an event of this engine takes of the thread in which it happens.
    fn event_cost(&self) -> EventCost {
        EventCost::Unknown
    }

    /// The session hears that a process was born of one of its own (`is_new`), or became another program.
    fn hears_of(&mut self, _pid: u32, _is_new: bool) {}

    /// Whether it tells only what is beside the events of others: without any of those the session has not begun, and has ended.
    fn accompanies(&self) -> bool {
        false
    }

    /// What to say when it has ended although nobody asked, and has not said why: a sentence with the next step.
    fn silent_end(&self) -> &'static str {
        "the engine ended without saying why, so tracing ended; try again, and report this if it stays"
    }

    /// Asks it to end: what was recorded until now still comes, then [`Message::Ended`]. Asked again, it is less
    /// patient.
    fn stop(&mut self);
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;

    use super::*;
    use crate::event::{Frame, Place, Text};

    /// A call with a value of so many bytes.
    fn call(value: usize) -> Event {
        let text = "x".repeat(value);
        let value = Text {
            text,
            ..Text::default()
        };
        Event {
            ts: 1,
            pid: 1,
            tid: 1,
            interpreter: None,
            what: What::Call {
                place: Arc::new(Place {
                    file: Text::default(),
                    function: Text::default(),
                    qualname: None,
                    group: None,
                }),
                line: 1,
                frame: Frame {
                    text: Some(Arc::new(value)),
                    ..Frame::default()
                },
            },
        }
    }

    #[test]
    fn what_waits_is_counted_in_bytes_so_that_long_values_do_not_fill_memory() {
        let (sender, messages) = unbounded();
        let sender = EventSender::new(sender);
        let rounds = 2 * BACKLOG / (100 * 4_096);
        for _ in 0..rounds {
            sender.events((0..100).map(|_| call(4_096)).collect());
        }
        assert!(sender.backlog.load(Ordering::Relaxed) <= BACKLOG + 100 * 5_000);
        let (mut there, mut lost) = (0, 0);
        let mut waiting: Vec<Message> = messages.try_iter().collect();
        for message in &mut waiting {
            match message {
                Message::Events(batch) => there += batch.events().len(),
                Message::Lost(LossStage::Output, count) => lost += *count as usize,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(
            there + lost,
            100 * rounds,
            "each is there or counted as lost"
        );
        assert!(there * 4_096 <= BACKLOG && lost > 0);
        drop(waiting);
        assert_eq!(sender.backlog.load(Ordering::Relaxed), 0);
    }
}
