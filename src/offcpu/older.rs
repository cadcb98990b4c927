//! Frames that are older than a trace: no call of them was seen. Where a thread waits when the trace begins, its stack is read from
//! memory then, and every return whose call was not seen takes a frame off it. Where that does not fit, the frames are forgotten
//! rather than guessed. Of a thread in which no call is open that was seen, it is known so whether it is outside of Python, in calls
//! that are older, or whether nobody knows.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use pystap_agent_protocol::THREAD_NAME;

use crate::analysis::keys::FunctionKey;
use crate::analysis::pairing::Step;
use crate::clock;
use crate::event::{LossStage, Manner, Place as Called, ProcessChange, What};
use crate::process::{Process, threads};
use crate::python::frames::Frame;
use crate::sampling::{Look, Place, PythonOf};
use crate::waits::found_waiting;

/// Most threads and processes of which something is kept.
const MOST_THREADS: usize = 1 << 16;
const MOST_PROCESSES: usize = 1 << 16;

/// How long stacks are read before what is missing is missing, and how long it is waited in between.
const LONGEST: Duration = Duration::from_millis(50);
const PAUSE: Duration = Duration::from_micros(200);

/// A stack of so many frames may have more; and a thread in which so many calls are open has lost the first of them to a bound.
const DEEP: usize = 1 << 10;

/// A thread, with its process.
type Thread = (u32, u32);

/// What is known of a thread below the calls of it that were seen.
#[derive(Debug)]
enum Read {
    /// Its stack, the innermost first.
    Frames(Frames),
    /// Python knew nothing of it, and no call of it was seen.
    Foreign,
    /// Nothing: it is outside of Python when none of them is open. With the call that was seen last to be made from there.
    Empty(Option<FunctionKey>),
    /// Calls or returns may be missing. When the call that was made from outside of Python before ends, it is there again.
    Missing(Option<FunctionKey>),
}

#[derive(Debug)]
struct Frames {
    frames: Vec<Frame>,
    /// When it was read, in nanoseconds since the Unix epoch.
    at: u64,
    /// Whether those are gone whose calls were seen before it was read.
    is_apart: bool,
    /// Whether there may be more outside of them.
    has_more: bool,
}

/// See the head of the module.
#[derive(Debug, Default)]
pub(super) struct Older {
    read: HashMap<Thread, Read>,
    /// The threads that there were.
    before: HashSet<Thread>,
    /// The processes that were looked at.
    processes: HashSet<u32>,
    /// The processes that began in the trace.
    forked: HashSet<u32>,
    /// The processes of which calls are missing, threads of which nothing is kept included; and whether they may be of any.
    missing: HashSet<u32>,
    any_missing: bool,
}

impl Older {
    /// Reads the stacks of the threads of processes that wait.
    pub(super) fn begin(&mut self, pids: impl Iterator<Item = u32>) {
        let mut readable: Vec<(u32, PythonOf)> = Vec::new();
        for pid in pids {
            let Ok(process) = Process::of(pid) else {
                continue;
            };
            let (python, error) = PythonOf::new(&process);
            self.processes.insert(pid);
            let tids = threads(pid).unwrap_or_default();
            let known = tids.iter().map(|tid| (pid, *tid));
            self.before.extend(known.take(MOST_THREADS));
            match error {
                None => readable.push((pid, python)),
                // The agent's own threads need no memory to be known.
                Some(_) => {
                    let ours = tids.iter().filter(|tid| is_agents(pid, **tid));
                    self.read
                        .extend(ours.map(|tid| ((pid, *tid), Read::Foreign)));
                }
            }
        }
        // Who does not wait right now, or not for long enough to be looked at, does a moment later. Nobody is told anything
        // meanwhile, so that has one end for all of them, and each has its turn.
        let end = Instant::now() + LONGEST;
        loop {
            readable.retain(|(pid, python)| {
                self.look(*pid, python);
                self.misses_any(*pid)
            });
            if readable.is_empty() || Instant::now() >= end {
                break;
            }
            std::thread::park_timeout(PAUSE);
        }
    }

    /// Reads those threads of a process that wait now and were not read before.
    fn look(&mut self, pid: u32, python: &PythonOf) {
        let known = &self.read;
        let look = |tid| match known.contains_key(&(pid, tid)) {
            true => (Look::Later, 0),
            // It does not run while it is read, so any moment of that will do.
            false => (python.read(tid, 0), clock::now()),
        };
        for (tid, (look, at)) in found_waiting(pid, look) {
            self.keep((pid, tid), look, at);
        }
    }

    /// Whether a thread of a process still runs that was there at first and was not read.
    fn misses_any(&self, pid: u32) -> bool {
        let tids = threads(pid).unwrap_or_default().into_iter();
        let mut threads = tids.map(|tid| (pid, tid));
        threads.any(|it| self.before.contains(&it) && !self.read.contains_key(&it))
    }

    fn keep(&mut self, thread: Thread, look: Look, at: u64) {
        let read = match look {
            Look::Stack(frames) if frames.is_empty() => Read::Empty(None),
            Look::Stack(mut frames) => {
                for frame in &mut frames {
                    // They go on, nobody tells where.
                    frame.line = None;
                }
                Read::Frames(Frames {
                    has_more: frames.len() >= DEEP,
                    frames,
                    at,
                    is_apart: false,
                })
            }
            Look::NoPython => Read::Foreign,
            Look::Later | Look::Unreadable => return,
        };
        if self.read.len() < MOST_THREADS {
            self.before.insert(thread);
            self.read.entry(thread).or_insert(read);
        }
    }

    /// Follows what a thread did.
    pub(super) fn follow(&mut self, step: &Step<'_>) {
        let event = step.event;
        match &event.what {
            What::Call { frame, .. } | What::Return { frame, .. } => {
                let thread = (event.pid, event.tid);
                self.given_up(thread, step);
                // Of a greenlet or task it is not known whether it had that stack; and an agent tells the frames that it finds.
                let is_known = frame.context.is_some() || frame.manner == Manner::Running;
                self.called(thread, step, is_known);
            }
            // Some may have returned.
            What::Lost { stage, .. } if *stage != LossStage::Waits => self.lose(event.pid),
            What::Process { change, parent, .. } => match change {
                ProcessChange::Fork => {
                    // The number may have been another process's before.
                    self.forget(event.pid, None);
                    if parent.is_some() && self.forked.len() < MOST_PROCESSES {
                        self.forked.insert(event.pid);
                    }
                }
                ProcessChange::Exit if ![0, event.pid].contains(&event.tid) => {
                    self.forget(event.pid, Some(event.tid));
                }
                ProcessChange::Exit => self.forget(event.pid, None),
                ProcessChange::Exec => {
                    self.forget(event.pid, None);
                    // It begins anew, with all its threads.
                    if self.forked.len() < MOST_PROCESSES {
                        self.forked.insert(event.pid);
                    }
                }
            },
            _ => {}
        }
    }

    /// The pairing has forgotten calls because they were too many: some of the thread that makes further ones, or whole threads, and
    /// it does not say which.
    fn given_up(&mut self, thread: Thread, step: &Step<'_>) {
        let forgotten = || step.given_up.iter().filter(|gone| gone.by_bound);
        if forgotten().all(|gone| gone.pid == thread.0)
            && forgotten().count() == 1
            && step.depth() >= DEEP
        {
            if let Some(read) = self.read.get_mut(&thread) {
                read.lose();
            }
            return;
        }
        let mut of: Vec<u32> = forgotten().map(|gone| gone.pid).collect();
        of.dedup();
        for pid in of {
            self.lose(pid);
        }
    }

    /// Follows a call or return of a thread.
    fn called(&mut self, thread: Thread, step: &Step<'_>, is_known: bool) {
        let is_call = matches!(step.event.what, What::Call { .. });
        let Some(read) = self.read.get_mut(&thread) else {
            if self.unread(thread) == Place::NoPython && self.read.len() < MOST_THREADS {
                // Whoever began in the trace calls for the first time from outside of Python.
                let read = match is_call {
                    true => Read::Empty(step.key.filter(|_| !is_known)),
                    false => Read::Missing(None),
                };
                self.read.insert(thread, read);
            }
            return;
        };
        let is_outermost = || step.stack().nth(usize::from(is_call)).is_none();
        match read {
            Read::Frames(frames) => match !is_known && frames.follow(step) {
                true if frames.is_over() && is_outermost() && !is_call => {
                    *read = Read::Empty(step.key);
                }
                true => {}
                false => {
                    self.read.remove(&thread);
                }
            },
            Read::Foreign if is_call => *read = Read::Empty(step.key.filter(|_| !is_known)),
            Read::Foreign => *read = Read::Missing(None),
            Read::Empty(outermost) if is_outermost() => match (is_call, step.finished) {
                // One in a greenlet or task is called from there as well, but others go on when it ends.
                (true, _) if !is_known => *outermost = step.key,
                (true, _) => {}
                (false, None) => *read = Read::Missing(*outermost),
                (false, Some(_)) => {}
            },
            Read::Missing(outermost) if !is_call && !is_known && is_outermost() => {
                if step.key.is_some() && *outermost == step.key {
                    *read = Read::Empty(*outermost);
                }
            }
            Read::Empty(_) | Read::Missing(_) => {}
        }
    }

    /// Calls or returns of a process are missing, or (0) of any.
    fn lose(&mut self, pid: u32) {
        let is_kept = self.missing.len() < MOST_PROCESSES || self.missing.contains(&pid);
        match pid != 0 && is_kept {
            true => {
                self.missing.insert(pid);
            }
            false => self.any_missing = true,
        }
        let of_it = |it: &Thread| pid == 0 || it.0 == pid;
        for (_, read) in self.read.iter_mut().filter(|(thread, _)| of_it(thread)) {
            read.lose();
        }
    }

    /// A thread has ended, or a whole process, or what it was.
    fn forget(&mut self, pid: u32, tid: Option<u32>) {
        let goes_on = |it: &Thread| it.0 != pid || tid.is_some_and(|tid| it.1 != tid);
        self.read.retain(|thread, _| goes_on(thread));
        match tid {
            Some(tid) => {
                self.before.remove(&(pid, tid));
            }
            None => {
                if self.processes.remove(&pid) {
                    self.before.retain(goes_on);
                }
                self.forked.remove(&pid);
                self.missing.remove(&pid);
            }
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
        match self.read.get(&(pid, tid)) {
            Some(Read::Foreign | Read::Empty(_)) => Place::NoPython,
            Some(Read::Missing(_)) => Place::NotSeen,
            Some(Read::Frames(_)) => Place::Older,
            None => self.unread((pid, tid)),
        }
    }

    /// The same of a thread of which nothing is kept.
    fn unread(&self, thread: Thread) -> Place {
        let (pid, tid) = thread;
        if self.any_missing || self.missing.contains(&pid) {
            return Place::NotSeen;
        }
        let was_there = match self.processes.contains(&pid) {
            true => self.before.contains(&thread),
            // A fork begins with the thread that is called as it is. Others were found when they had run for a while.
            false => pid == tid || !self.forked.contains(&pid),
        };
        match was_there {
            true => Place::Older,
            false => Place::NoPython,
        }
    }
}

/// Whether a thread is that of an agent.
fn is_agents(pid: u32, tid: u32) -> bool {
    let name = fs::read(format!("/proc/{pid}/task/{tid}/comm"));
    name.is_ok_and(|name| name.trim_ascii_end() == THREAD_NAME.to_bytes())
}

impl Read {
    /// Some calls or returns are missing.
    fn lose(&mut self) {
        *self = match self {
            // That one of those began to call just then is less likely than that it goes on as it did.
            Read::Foreign => return,
            Read::Frames(_) => Read::Missing(None),
            Read::Empty(outermost) | Read::Missing(outermost) => Read::Missing(*outermost),
        };
    }
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

    /// Whether all of them have returned.
    fn is_over(&self) -> bool {
        self.is_apart && !self.has_more && self.frames.is_empty()
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
                    has_more: false,
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

    /// Where a thread is in which no call is open, after these events, of what is known of it first.
    fn outside(mut older: Older, events: Vec<Event>) -> Place {
        let (mut pairing, mut thread) = (Pairing::new(), (1, 1));
        for mut event in events {
            let step = pairing.follow(&mut event).expect("an event");
            older.follow(&step);
            if step.event.tid != 0 {
                thread = (step.event.pid, step.event.tid);
            }
        }
        older.outside(thread.0, thread.1)
    }

    fn known(read: Look) -> Older {
        let mut older = Older::default();
        older.processes.insert(1);
        older.keep((1, 1), read, 100);
        older
    }

    fn lost(pid: u32) -> Event {
        let what = What::Lost {
            count: 1,
            stage: LossStage::Kernel,
            message: String::new(),
        };
        Event {
            pid,
            tid: 0,
            ..event(200, what)
        }
    }

    #[test]
    fn who_calls_from_outside_of_python_is_there_again_after_the_return() {
        let request = || vec![call(110, "handle"), returned(120, "handle")];
        for look in [Look::NoPython, Look::Stack(Vec::new())] {
            assert_eq!(outside(known(look.clone()), Vec::new()), Place::NoPython);
            assert_eq!(outside(known(look.clone()), request()), Place::NoPython);
            let surprising = [request(), vec![returned(130, "main")]].concat();
            assert_eq!(outside(known(look), surprising), Place::NotSeen);
        }
        let read = Look::Stack(vec![frame("main")]);
        assert_eq!(outside(known(read.clone()), request()), Place::Older);
        let over = [request(), vec![returned(130, "main")]].concat();
        assert_eq!(outside(known(read), over), Place::NoPython);
        let deep = Look::Stack(vec![frame("main"); DEEP]);
        let returns = (0..DEEP as u64).map(|it| returned(130 + it, "main"));
        assert_eq!(outside(known(deep), returns.collect()), Place::Older);
    }

    #[test]
    fn after_a_loss_nobody_knows_until_what_was_called_from_outside_returns() {
        let request = |at, name| vec![call(at, name), returned(at + 10, name)];
        let empty = || known(Look::Stack(Vec::new()));
        let first = [request(110, "handle"), vec![lost(1)]].concat();
        assert_eq!(outside(empty(), first.clone()), Place::NotSeen);
        let inner = [first.clone(), request(210, "query")].concat();
        assert_eq!(outside(empty(), inner.clone()), Place::NotSeen);
        let whole = [inner, request(230, "handle")].concat();
        assert_eq!(outside(empty(), whole), Place::NoPython);
        // Of another process, it is none of this; and of any, it is.
        for (pid, expected) in [(2, Place::NoPython), (0, Place::NotSeen)] {
            let events = [request(110, "handle"), vec![lost(pid)]].concat();
            assert_eq!(outside(empty(), events), expected);
        }
    }

    #[test]
    fn threads_of_processes_that_were_found_running_may_be_in_older_calls() {
        let thread = |event: Event| Event { tid: 7, ..event };
        let request = || vec![thread(call(110, "handle")), thread(returned(120, "handle"))];
        assert_eq!(outside(Older::default(), request()), Place::Older);
        let forked = |parent| {
            let change = ProcessChange::Fork;
            let what = What::Process {
                change,
                parent,
                command: None,
            };
            [vec![event(50, what)], request()].concat()
        };
        assert_eq!(outside(Older::default(), forked(Some(9))), Place::NoPython);
        assert_eq!(outside(Older::default(), forked(None)), Place::Older);
    }

    #[test]
    fn what_the_pairing_forgets_is_missing() {
        let mut events = vec![call(1, "first")];
        // More threads than are followed.
        for tid in 2..5_000 {
            events.push(Event {
                tid,
                ..call(u64::from(tid), "other")
            });
        }
        let mut older = known(Look::NoPython);
        let mut pairing = Pairing::new();
        for event in &mut events {
            let step = pairing.follow(event).expect("an event");
            older.follow(&step);
        }
        assert_eq!(pairing.depth(1, 1), 0);
        assert_eq!(older.outside(1, 1), Place::NotSeen);
    }

    #[test]
    fn who_takes_the_number_of_one_that_has_ended_is_new() {
        let ended = |tid| {
            let what = What::Process {
                change: ProcessChange::Exit,
                parent: None,
                command: None,
            };
            Event {
                tid,
                ..event(200, what)
            }
        };
        let mut older = known(Look::Later);
        older.before.insert((1, 7));
        assert_eq!(older.outside(1, 7), Place::Older);
        let (mut pairing, mut event) = (Pairing::new(), ended(7));
        older.follow(&pairing.follow(&mut event).expect("an event"));
        assert_eq!(older.outside(1, 7), Place::NoPython);
    }
}
