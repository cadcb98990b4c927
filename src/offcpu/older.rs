//! Frames that are older than a trace: no call of them was seen. Where a thread waits when the trace begins, its stack is read from
//! memory then, and every return whose call was not seen takes a frame off it. Where that does not fit, the frames are forgotten
//! rather than guessed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use pystap_agent_protocol::THREAD_NAME;

use crate::analysis::pairing::Step;
use crate::clock;
use crate::event::{LossStage, Manner, Place as Called, ProcessChange, What};
use crate::process::{Process, threads};
use crate::python::frames::Frame;
use crate::sampling::{Look, Place, PythonOf};
use crate::waits::found_waiting;

/// Most threads of which something is kept.
const MOST_THREADS: usize = 1 << 16;

/// How long stacks of a process are read before what is missing is missing, and how long it is waited in between.
const LONGEST: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_micros(200);

/// A thread, with its process.
type Thread = (u32, u32);

/// What was read of a thread when the trace began.
#[derive(Debug)]
enum Read {
    /// Its stack, the innermost first.
    Frames(Frames),
    /// Python knew nothing of it.
    NoPython,
}

#[derive(Debug)]
struct Frames {
    frames: Vec<Frame>,
    /// When it was read, in nanoseconds since the Unix epoch.
    at: u64,
    /// Whether those are gone whose calls were seen before it was read.
    is_apart: bool,
}

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Older {
    read: HashMap<Thread, Read>,
    /// The threads that there were.
    before: HashSet<Thread>,
    /// The processes that were looked at.
    processes: HashSet<u32>,
}

impl Older {
    /// Reads the stacks of a process's threads that wait.
    pub(super) fn begin(&mut self, pid: u32) {
        let Ok(process) = Process::of(pid) else {
            return;
        };
        let (python, error) = PythonOf::new(&process);
        self.processes.insert(pid);
        let tids = threads(pid).unwrap_or_default();
        let known = tids.iter().map(|tid| (pid, *tid));
        self.before.extend(known.take(MOST_THREADS));
        if error.is_some() {
            // The agent's own threads need no memory to be known.
            let ours = tids.iter().filter(|tid| is_agents(pid, **tid));
            self.read
                .extend(ours.map(|tid| ((pid, *tid), Read::NoPython)));
            return;
        }
        // Who does not wait right now, or not for long enough to be looked at, does a moment later.
        let end = Instant::now() + LONGEST;
        let mut missing = tids.len();
        while missing > 0 && Instant::now() < end {
            let known = &self.read;
            let look = |tid| match known.contains_key(&(pid, tid)) {
                true => (Look::Later, 0),
                // It does not run while it is read, so any moment of that will do.
                false => (python.read(tid, 0), clock::now()),
            };
            for (tid, (look, at)) in found_waiting(pid, look) {
                missing -= usize::from(self.keep((pid, tid), look, at));
            }
            std::thread::park_timeout(PAUSE);
        }
    }

    /// Keeps what was read, and says whether it was something new.
    fn keep(&mut self, thread: Thread, look: Look, at: u64) -> bool {
        let read = match look {
            Look::Stack(mut frames) => {
                for frame in &mut frames {
                    // They go on, nobody tells where.
                    frame.line = None;
                }
                Read::Frames(Frames {
                    frames,
                    at,
                    is_apart: false,
                })
            }
            Look::NoPython => Read::NoPython,
            Look::Later | Look::Unreadable => return false,
        };
        self.read.len() < MOST_THREADS && self.read.insert(thread, read).is_none()
    }

    /// Follows what a thread did.
    pub(super) fn follow(&mut self, step: &Step<'_>) {
        let event = step.event;
        match &event.what {
            What::Call { frame, .. } | What::Return { frame, .. } => {
                let thread = (event.pid, event.tid);
                let Some(read) = self.read.get_mut(&thread) else {
                    return;
                };
                // Of a greenlet or task it is not known whether it had that stack; and an agent tells the frames that it finds.
                let is_known = frame.context.is_some() || frame.manner == Manner::Running;
                let fits = match read {
                    Read::Frames(frames) if !is_known => frames.follow(step),
                    _ => false,
                };
                if !fits {
                    self.read.remove(&thread);
                }
            }
            // Some may have returned.
            What::Lost { stage, .. } if *stage != LossStage::Waits => self.read.clear(),
            What::Process { change, .. } if *change != ProcessChange::Fork => {
                let whole = *change == ProcessChange::Exec || [0, event.pid].contains(&event.tid);
                self.read
                    .retain(|(pid, tid), _| *pid != event.pid || !whole && *tid != event.tid);
            }
            _ => {}
        }
    }

    /// The frames of a thread below those whose calls were seen.
    pub(super) fn below(&mut self, step: &Step<'_>) -> &[Frame] {
        let event = step.event;
        match self.read.get_mut(&(event.pid, event.tid)) {
            Some(Read::Frames(frames)) => {
                frames.come_to(step);
                match frames.is_apart {
                    true => &frames.frames,
                    // Some of them may have been called since.
                    false => &[],
                }
            }
            _ => &[],
        }
    }

    /// Where a thread is in which no call is open that was seen.
    pub(super) fn outside(&self, pid: u32, tid: u32) -> Place {
        let thread = (pid, tid);
        let was_there = match self.processes.contains(&pid) {
            true => self.before.contains(&thread),
            // Others begin with the thread that is called as they are.
            false => pid == tid,
        };
        match self.read.get(&thread) {
            Some(Read::NoPython) => Place::NoPython,
            _ if was_there => Place::Older,
            _ => Place::NoPython,
        }
    }
}

/// Whether a thread is that of an agent.
fn is_agents(pid: u32, tid: u32) -> bool {
    let name = fs::read(format!("/proc/{pid}/task/{tid}/comm"));
    name.is_ok_and(|name| name.trim_ascii_end() == THREAD_NAME.to_bytes())
}

impl Frames {
    /// Takes those off whose calls were seen, once something is told that happened after the stack was read.
    fn come_to(&mut self, step: &Step<'_>) {
        if self.is_apart || step.event.ts <= self.at {
            return;
        }
        self.is_apart = true;
        let open = step.stack().filter(|open| open.since <= self.at).count();
        let seen = open + usize::from(self.has_just_ended(step));
        self.frames.drain(..seen.min(self.frames.len()));
    }

    /// Whether the event is the end of a call that was seen before the stack was read.
    fn has_just_ended(&self, step: &Step<'_>) -> bool {
        let took = step.finished.and_then(|call| call.inclusive_ns);
        took.is_some_and(|took| step.event.ts.saturating_sub(took) <= self.at)
    }

    /// Whether what a thread did fits to the stack that was read.
    fn follow(&mut self, step: &Step<'_>) -> bool {
        self.come_to(step);
        match &step.event.what {
            What::Return { place, .. } if self.is_apart => match step.finished {
                Some(call) => call.inclusive_ns.is_some(),
                None => self.pop(place),
            },
            _ => true,
        }
    }

    fn pop(&mut self, place: &Called) -> bool {
        let Some(frame) = self.frames.first() else {
            return true;
        };
        let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
        let fits = last(&frame.function) == last(&place.name().text);
        if fits {
            self.frames.remove(0);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::pairing::Pairing;
    use crate::analysis::testing::{call, event, returned};
    use crate::event::Event;

    fn frame(function: &str) -> Frame {
        Frame {
            function: function.to_owned(),
            file: "/srv/app.py".to_owned(),
            line: Some(7),
        }
    }

    /// What is below the calls that were seen after each of these events, the stack having been read at 100.
    fn below(functions: &[&str], events: Vec<Event>) -> Vec<String> {
        let mut older = Older::default();
        let (mut pairing, mut seen) = (Pairing::new(), Vec::new());
        for mut event in events {
            let thread = (event.pid, event.tid);
            if seen.is_empty() {
                let frames = Frames {
                    frames: functions.iter().map(|name| frame(name)).collect(),
                    at: 100,
                    is_apart: false,
                };
                older.read.insert(thread, Read::Frames(frames));
            }
            let step = pairing.follow(&mut event).expect("an event");
            older.follow(&step);
            let names = older.below(&step).iter().map(|it| it.function.as_str());
            seen.push(names.collect::<Vec<_>>().join(" "));
        }
        seen
    }

    #[test]
    fn a_return_without_a_call_takes_a_frame_off() {
        let events = vec![
            call(110, "query"),
            returned(120, "query"),
            returned(130, "fetch"),
            call(140, "fetch"),
            returned(150, "fetch"),
            returned(160, "main"),
        ];
        let seen = below(&["Db.fetch", "main"], events);
        assert_eq!(
            seen,
            ["Db.fetch main", "Db.fetch main", "main", "main", "main", ""]
        );
    }

    #[test]
    fn what_was_called_before_the_stack_was_read_is_no_older_frame() {
        let begun = vec![
            call(80, "over"),
            returned(85, "over"),
            call(90, "fetch"),
            call(95, "wait"),
        ];
        // Whatever comes first, a call or the end of one.
        for (next, expected) in [
            (call(110, "query"), "main"),
            (returned(110, "wait"), "main"),
        ] {
            let mut events = begun.clone();
            events.push(next);
            let seen = below(&["wait", "fetch", "main"], events);
            assert_eq!(seen.last().map(String::as_str), Some(expected));
        }
    }

    #[test]
    fn of_what_happened_before_the_stack_was_read_it_says_nothing() {
        let events = vec![call(90, "query"), returned(95, "query"), call(110, "query")];
        let seen = below(&["fetch", "main"], events);
        assert_eq!(seen, ["", "", "fetch main"]);
    }

    #[test]
    fn what_does_not_fit_and_what_may_have_been_lost_is_forgotten() {
        let other = vec![
            call(110, "query"),
            returned(115, "query"),
            returned(120, "else"),
        ];
        assert_eq!(
            below(&["fetch", "main"], other).last().map(String::as_str),
            Some("")
        );
        let lost = |stage| {
            let what = What::Lost {
                count: 1,
                stage,
                message: String::new(),
            };
            vec![call(110, "query"), event(115, what), call(120, "query")]
        };
        let after = |stage| below(&["fetch"], lost(stage)).pop();
        assert_eq!(after(LossStage::Kernel).as_deref(), Some(""));
        assert_eq!(after(LossStage::Waits).as_deref(), Some("fetch"));
    }
}
