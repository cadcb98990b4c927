//! What is on the stack of each thread, as frames that open and close strictly inside each other.
//!
//! Greenlets switch between whole stacks. A picture in which frames nest can show that only as closing one stack and
//! opening the other, and so it is done: a frame may open and close several times.

use std::collections::HashMap;

use crate::analysis::keys::KeyBuilder;
use crate::analysis::pairing::{FrameId, Open, Step};
use crate::event::What;

/// Threads whose stacks are shown at once; those that were quiet for longest are closed beyond that.
const MAX_THREADS: usize = 4096;

/// Who wants to know.
pub(super) trait Observer {
    /// A frame appears; the answer is its tag. `parent` is the tag of the frame below it.
    fn opens(&mut self, open: &Open<'_>, line: Option<i32>, ts: u64, parent: Option<u32>) -> u32;

    /// The innermost frame disappears.
    fn closes(&mut self, pid: u32, tid: u32, ts: u64, tag: u32);

    /// The innermost frame ran for so long.
    fn ran(&mut self, tag: u32, elapsed_ns: u64);
}

/// The stacks that are shown.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    threads: HashMap<(u32, u32), Shown, KeyBuilder>,
}

#[derive(Debug, Default)]
struct Shown {
    /// Outermost first.
    frames: Vec<(FrameId, u32)>,
    /// Time of the last event. Never goes back, because nothing that is shown can end before it began.
    ts: u64,
}

impl Timeline {
    /// Brings the stack of the event's thread up to date.
    pub(super) fn take(&mut self, step: &Step<'_>, observer: &mut impl Observer) {
        let event = step.event;
        if let What::Process { .. } = event.what {
            let (ts, pid) = (event.ts, event.pid);
            self.threads.retain(|&(owner, tid), shown| {
                if owner == pid {
                    shown.close_to(0, pid, tid, ts, observer);
                }
                owner != pid
            });
            return;
        }
        if event.tid == 0 {
            return;
        }
        let who = (event.pid, event.tid);
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&who) {
            self.forget_quiet_threads(observer);
        }
        let shown = self.threads.entry(who).or_default();
        let elapsed = match shown.ts {
            0 => 0,
            last => event.ts.saturating_sub(last),
        };
        shown.ts = shown.ts.max(event.ts);
        if let Some(&(_, tag)) = shown.frames.last() {
            observer.ran(tag, elapsed);
        }
        if !matches!(event.what, What::Call { .. } | What::Return { .. }) {
            return;
        }
        shown.follow(step, observer);
    }

    /// Closes what is open in the quieter half of the threads; where one of them goes on, its stack opens again.
    fn forget_quiet_threads(&mut self, observer: &mut impl Observer) {
        let mut seen: Vec<u64> = self.threads.values().map(|shown| shown.ts).collect();
        let half = seen.len() / 2;
        let (_, &mut median, _) = seen.select_nth_unstable(half);
        let mut most = half + 1;
        self.threads.retain(|&(pid, tid), shown| {
            let keep = shown.ts > median || most == 0;
            if !keep {
                most -= 1;
                let ts = shown.ts;
                shown.close_to(0, pid, tid, ts, observer);
            }
            keep
        });
    }

    /// Closes everything, at the last time that was seen in each thread.
    pub(super) fn finish(mut self, observer: &mut impl Observer) {
        for ((pid, tid), shown) in &mut self.threads {
            let ts = shown.ts;
            shown.close_to(0, *pid, *tid, ts, observer);
        }
    }
}

impl Shown {
    fn follow(&mut self, step: &Step<'_>, observer: &mut impl Observer) {
        let event = step.event;
        let line = match &event.what {
            What::Call { line, .. } => Some(*line),
            _ => None,
        };
        let mut stack = step.stack();
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
            return self.close_to(known - 1, event.pid, event.tid, ts, observer);
        }
        let mut wanted: Vec<Open<'_>> = step.stack().collect();
        wanted.reverse();
        let common = self
            .frames
            .iter()
            .zip(&wanted)
            .take_while(|((frame, _), open)| *frame == open.frame)
            .count();
        let ts = self.ts;
        self.close_to(common, event.pid, event.tid, ts, observer);
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

    fn close_to(&mut self, keep: usize, pid: u32, tid: u32, ts: u64, observer: &mut impl Observer) {
        while self.frames.len() > keep {
            if let Some((_, tag)) = self.frames.pop() {
                observer.closes(pid, tid, ts, tag);
            }
        }
    }
}
