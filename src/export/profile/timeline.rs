//! What is on the stack of each thread, as frames that open and close strictly inside each other.
//!
//! Greenlets switch between whole stacks. A picture in which frames nest can show that only as closing one stack and
//! opening the other, and so it is done: a frame may open and close several times.

use std::collections::HashMap;
use std::num::NonZeroU64;

use crate::analysis::keys::KeyBuilder;
use crate::analysis::overhead::{Edge, Intervals};
use crate::analysis::pairing::{FrameId, Open, Step};
use crate::event::{Manner, ProcessChange, Wait, What};

/// Threads whose stacks are shown at once; those that were quiet for longest are closed beyond that.
const MAX_THREADS: usize = 4096;
/// The same where each greenlet and task has a stack of its own.
const MAX_CONTEXTS: usize = 1 << 16;
/// Frames that are shown at once in all of them.
const MAX_SHOWN: usize = 1 << 20;

/// A thread, or one greenlet or task in it.
pub(super) type Track = (u32, u32, Option<NonZeroU64>);

/// Why a frame disappears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It returned.
    Returned,
    /// An exception left it.
    Raised,
    /// It gave way, and will go on.
    Suspended,
    /// Another stack of its thread is shown now, or its return was never seen.
    Switched,
    /// Nothing more is known of it, and it had not returned.
    Open,
}

impl Ending {
    /// The same in words; `None` where it returned.
    pub(super) fn words(self) -> Option<&'static str> {
        match self {
            Ending::Returned => None,
            Ending::Raised => Some("raised"),
            Ending::Suspended => Some("suspended"),
            Ending::Switched => Some("another stack goes on, or the return was not seen"),
            Ending::Open => Some("not returned"),
        }
    }
}

/// Who wants to know.
pub(super) trait Observer {
    /// A frame appears; the answer is its tag. `parent` is the tag of the frame below it.
    fn opens(&mut self, open: &Open<'_>, line: Option<i32>, ts: u64, parent: Option<u32>) -> u32;

    /// The innermost frame of a track disappears.
    fn closes(&mut self, track: Track, ts: u64, tag: u32, ending: Ending);

    /// The innermost frame ran for so long, in these intervals between events.
    fn ran(&mut self, tag: u32, elapsed_ns: u64, intervals: Intervals);

    /// The same, and at the end of that its thread waited; perhaps since before.
    fn waited(&mut self, _pid: u32, tag: u32, elapsed_ns: u64, _wait: &Wait) {
        self.ran(tag, elapsed_ns, Intervals::NONE);
    }
}

/// The stacks that are shown.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    tracks: HashMap<Track, Shown, KeyBuilder>,
    /// Whether greenlets and tasks have stacks of their own, which stay while others run.
    by_context: bool,
    /// Frames in all of them.
    frames: usize,
}

#[derive(Debug, Default)]
struct Shown {
    /// Outermost first.
    frames: Vec<(FrameId, u32)>,
    /// Time of the last event. Never goes back, because nothing that is shown can end before it began.
    ts: u64,
    /// What the last event was that the thread made itself.
    edge: Edge,
}

impl Timeline {
    /// Stacks of greenlets and tasks beside those of threads.
    pub(super) fn by_context() -> Timeline {
        Timeline {
            by_context: true,
            ..Timeline::default()
        }
    }

    /// Brings the stack of the event's thread up to date.
    pub(super) fn take(&mut self, step: &Step<'_>, observer: &mut impl Observer) {
        let event = step.event;
        if let What::Process { change, .. } = event.what {
            let ends = |track: &Track| match change {
                ProcessChange::Exit if event.tid != 0 && event.tid != event.pid => {
                    (track.0, track.1) == (event.pid, event.tid)
                }
                _ => track.0 == event.pid,
            };
            let frames = &mut self.frames;
            self.tracks.retain(|track, shown| {
                let ends = ends(track);
                if ends {
                    *frames -= shown.frames.len();
                    let ts = shown.ts.max(event.ts);
                    // What ran until then was in its innermost frame; of an id that is used again nobody knows.
                    if let Some(&(_, tag)) = shown.frames.last()
                        && change != ProcessChange::Fork
                    {
                        observer.ran(tag, ts - shown.ts, Intervals::NONE);
                    }
                    shown.close_to(0, *track, ts, Ending::Open, observer);
                }
                !ends
            });
            return;
        }
        if event.tid == 0 {
            return;
        }
        let context = match &event.what {
            What::Call { frame, .. } | What::Return { frame, .. } if self.by_context => {
                frame.context
            }
            _ => None,
        };
        let track = (event.pid, event.tid, context);
        let most = match self.by_context {
            true => MAX_CONTEXTS,
            false => MAX_THREADS,
        };
        // Threads wait of which no call is known.
        if matches!(event.what, What::Wait(_)) && !self.tracks.contains_key(&track) {
            return;
        }
        let too_many = self.tracks.len() >= most && !self.tracks.contains_key(&track);
        if too_many || self.frames > MAX_SHOWN {
            self.forget_quiet(observer);
        }
        let shown = self.tracks.entry(track).or_default();
        let elapsed = match shown.ts {
            0 => 0,
            last => event.ts.saturating_sub(last),
        };
        shown.ts = shown.ts.max(event.ts);
        if let Some(&(_, tag)) = shown.frames.last() {
            match &event.what {
                // Of a call that may have returned in a loss.
                What::Wait(_) if step.caller.is_none() => {
                    observer.ran(tag, elapsed, Intervals::NONE);
                }
                What::Wait(wait) => observer.waited(event.pid, tag, elapsed, wait),
                what if elapsed > 0 => {
                    let interval = Intervals::between(shown.edge, Edge::of(what));
                    observer.ran(tag, elapsed, interval);
                }
                _ => observer.ran(tag, 0, Intervals::NONE),
            }
        }
        if !matches!(event.what, What::Wait(_)) {
            shown.edge = Edge::of(&event.what);
        }
        if !matches!(event.what, What::Call { .. } | What::Return { .. }) {
            return;
        }
        let before = shown.frames.len();
        shown.follow(step, track, self.by_context, observer);
        self.frames = self.frames + shown.frames.len() - before;
    }

    /// The tag of the innermost frame that a track shows.
    pub(super) fn innermost(&self, track: Track) -> Option<u32> {
        let (_, tag) = self.tracks.get(&track)?.frames.last()?;
        Some(*tag)
    }

    /// Closes what is open in the quieter half of the stacks; where one of them goes on, it opens again.
    fn forget_quiet(&mut self, observer: &mut impl Observer) {
        let mut seen: Vec<u64> = self.tracks.values().map(|shown| shown.ts).collect();
        let half = seen.len() / 2;
        if seen.is_empty() {
            return;
        }
        let (_, &mut median, _) = seen.select_nth_unstable(half);
        let mut most = half + 1;
        let frames = &mut self.frames;
        self.tracks.retain(|track, shown| {
            let keep = shown.ts > median || most == 0;
            if !keep {
                most -= 1;
                *frames -= shown.frames.len();
                let ts = shown.ts;
                shown.close_to(0, *track, ts, Ending::Switched, observer);
            }
            keep
        });
    }

    /// Closes everything, at the last time that was seen in each thread.
    pub(super) fn finish(mut self, observer: &mut impl Observer) {
        let mut last: HashMap<(u32, u32), u64, KeyBuilder> = HashMap::default();
        for ((pid, tid, _), shown) in &self.tracks {
            let last = last.entry((*pid, *tid)).or_default();
            *last = shown.ts.max(*last);
        }
        for (track, shown) in &mut self.tracks {
            let last = last.get(&(track.0, track.1));
            let ts = last.map_or(shown.ts, |last| shown.ts.max(*last));
            shown.close_to(0, *track, ts, Ending::Open, observer);
        }
    }
}

impl Shown {
    fn follow(
        &mut self,
        step: &Step<'_>,
        track: Track,
        by_context: bool,
        observer: &mut impl Observer,
    ) {
        let event = step.event;
        let (line, ending) = match &event.what {
            What::Call { line, .. } => (Some(*line), Ending::Switched),
            What::Return { frame, .. } => match frame.manner {
                Manner::Suspension => (None, Ending::Suspended),
                Manner::Exception => (None, Ending::Raised),
                Manner::Plain | Manner::Running => (None, Ending::Returned),
            },
            _ => (None, Ending::Returned),
        };
        let (_, _, context) = track;
        let mine = |open: &Open<'_>| !by_context || open.context == context;
        let mut stack = step.stack().filter(mine);
        let top = stack.next();
        let known = self.frames.len();
        // Nearly always one frame has come or gone.
        let same = |at: usize, open: Option<&Open<'_>>| {
            let shown = at.checked_sub(1).and_then(|at| self.frames.get(at));
            shown.map(|(frame, _)| *frame) == open.map(|open| open.frame)
        };
        if step.entered.is_some() {
            let below = stack.next();
            if same(known, below.as_ref())
                && let Some(top) = top
            {
                return self.open(&top, line, observer);
            }
        } else if same(known, top.as_ref()) {
            return;
        } else if known > 0 && same(known - 1, top.as_ref()) {
            let ts = self.ts;
            let ending = match step.finished {
                Some(_) => ending,
                None => Ending::Switched,
            };
            return self.close_to(known - 1, track, ts, ending, observer);
        }
        let mut wanted: Vec<Open<'_>> = step.stack().filter(mine).collect();
        wanted.reverse();
        let common = self
            .frames
            .iter()
            .zip(&wanted)
            .take_while(|((frame, _), open)| *frame == open.frame)
            .count();
        let ts = self.ts;
        self.close_to(common, track, ts, Ending::Switched, observer);
        for open in wanted.iter().skip(common) {
            let newest = step.entered == Some(open.frame);
            self.open(open, line.filter(|_| newest), observer);
        }
    }

    fn open(&mut self, open: &Open<'_>, line: Option<i32>, observer: &mut impl Observer) {
        let parent = self.frames.last().map(|(_, tag)| *tag);
        let tag = observer.opens(open, line, self.ts, parent);
        self.frames.push((open.frame, tag));
    }

    fn close_to(
        &mut self,
        keep: usize,
        track: Track,
        ts: u64,
        ending: Ending,
        observer: &mut impl Observer,
    ) {
        while self.frames.len() > keep {
            if let Some((_, tag)) = self.frames.pop() {
                observer.closes(track, ts, tag, ending);
            }
        }
    }
}
