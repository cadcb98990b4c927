//! How long coroutines and generators take from their first call to their end, across all the times that they give way:
//! what people mean by the latency of a handler. Only the agent says who gives way and who goes on.
//!
//! What goes on is found among what gave way in the same greenlet, task or thread. Coroutines that await each other go on in
//! the opposite order. Where two of one function gave way and neither did so within the other, nothing tells which of them goes
//! on, and the time of both is not known.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;

use super::keys::{FunctionKey, KeyBuilder};
use super::pairing::{FrameId, Step};
use crate::event::{Frame, Manner};

/// Calls that are open, and such as gave way. When there are more, all are forgotten, and their times are not known.
const MOST: usize = 1 << 18;

/// A function in a greenlet or task, or outside of them in a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Whose {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The greenlet or task.
    pub context: Option<NonZeroU64>,
    /// The function.
    pub key: FunctionKey,
}

impl Whose {
    /// That of the function whose call or return this is.
    pub fn of(step: &Step<'_>, key: FunctionKey, frame: &Frame) -> Whose {
        Whose {
            pid: step.event.pid,
            tid: step.event.tid,
            context: frame.context,
            key,
        }
    }
}

/// What is under way.
#[derive(Debug, Clone, Default)]
pub struct Lifetimes {
    /// When the calls that run were called first.
    open: HashMap<FrameId, u64, KeyBuilder>,
    gave_way: HashMap<Whose, Vec<Waiting>, KeyBuilder>,
    waiting: usize,
    /// Of functions that went on and nobody knows since when: the last such call. What gave way before it may be what it was.
    strayed: HashMap<(u32, FunctionKey), FrameId, KeyBuilder>,
}

/// Something that gave way.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// When it was called first, where that is beyond doubt.
    since: Option<u64>,
    /// The call or resumption that gave way.
    run: FrameId,
}

impl Lifetimes {
    /// Takes note of a call, which begins something or has it go on.
    pub fn entered(&mut self, step: &Step<'_>, key: FunctionKey, frame: &Frame) {
        let Some(entered) = step.entered else {
            return;
        };
        match frame.manner {
            Manner::Suspension => self.goes_on(Whose::of(step, key, frame), entered),
            Manner::Running => {}
            _ => self.begins(entered, step.event.ts),
        }
    }

    /// It is called for the first time.
    pub fn begins(&mut self, frame: FrameId, ts: u64) {
        if self.open.len() >= MOST {
            self.open.clear();
        }
        self.open.insert(frame, ts);
    }

    /// When the call that runs in this frame was called first.
    pub fn since(&self, frame: FrameId) -> Option<u64> {
        self.open.get(&frame).copied()
    }

    /// It goes on.
    pub fn goes_on(&mut self, whose: Whose, frame: FrameId) {
        let waiting = self.gave_way.get_mut(&whose);
        let (last, empty) = match waiting {
            Some(waiting) => (waiting.pop(), waiting.is_empty()),
            None => (None, false),
        };
        if empty {
            self.gave_way.remove(&whose);
        }
        let Some(last) = last else {
            if self.strayed.len() >= MOST {
                self.forget();
            }
            self.strayed.insert((whose.pid, whose.key), frame);
            return;
        };
        self.waiting -= 1;
        let strayed = self.strayed.get(&(whose.pid, whose.key));
        if let Some(since) = last.since
            && strayed.is_none_or(|strayed| *strayed < last.run)
        {
            self.begins(frame, since);
        }
    }

    /// It gives way, to go on later.
    pub fn gives_way(&mut self, whose: Whose, frame: FrameId) {
        if self.waiting >= MOST {
            self.forget();
        }
        let since = self.open.remove(&frame);
        let waiting = self.gave_way.entry(whose).or_default();
        let mut own = Waiting { since, run: frame };
        // What gave way since this one ran did so within it. The others could go on as well as this one.
        for other in waiting.iter_mut().filter(|other| other.run < frame) {
            (other.since, own.since) = (None, None);
        }
        waiting.push(own);
        self.waiting += 1;
    }

    /// It ends: when it was called first.
    pub fn ends(&mut self, frame: FrameId) -> Option<u64> {
        self.open.remove(&frame)
    }

    /// The calls that run in these frames, or gave way in them, are of no interest any longer.
    pub fn give_up(&mut self, frames: &HashSet<FrameId>) {
        self.open.retain(|frame, _| !frames.contains(frame));
        self.gave_way.retain(|_, waiting| {
            waiting.retain(|it| !frames.contains(&it.run));
            !waiting.is_empty()
        });
        self.waiting = self.gave_way.values().map(Vec::len).sum();
    }

    /// A process has ended.
    pub fn forget_process(&mut self, pid: u32) {
        self.gave_way.retain(|whose, _| whose.pid != pid);
        self.waiting = self.gave_way.values().map(Vec::len).sum();
        self.strayed.retain(|(owner, _), _| *owner != pid);
    }

    /// How many are waiting.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.gave_way.len().max(self.waiting)
    }

    fn forget(&mut self) {
        self.gave_way.clear();
        self.strayed.clear();
        self.open.clear();
        self.waiting = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::pairing::Pairing;
    use crate::analysis::testing::{call, place};

    #[test]
    fn what_was_given_up_is_kept_no_longer_and_the_others_are() {
        let mut pairing = Pairing::new();
        let mut frame = || {
            let entered = pairing.follow(&mut call(1, "f")).and_then(|it| it.entered);
            entered.expect("it is open")
        };
        let frames = [frame(), frame(), frame()];
        let whose = Whose {
            pid: 1,
            tid: 1,
            context: None,
            key: FunctionKey::of(&place("f")),
        };
        let mut lifetimes = Lifetimes::default();
        for (frame, ts) in frames.into_iter().zip(1..) {
            lifetimes.begins(frame, ts);
        }
        lifetimes.gives_way(whose, frames[2]);
        lifetimes.give_up(&HashSet::from([frames[0], frames[2]]));
        assert_eq!(lifetimes.len(), 0);
        assert_eq!(frames.map(|it| lifetimes.since(it)), [None, Some(2), None]);
    }
}
