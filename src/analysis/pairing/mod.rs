//! Which return belongs to which call: the one pairing algorithm. Fills durations into the events of a stream and
//! says how deep each is; shows nothing and keeps no statistics but its own unpaired counts.
//!
//! The events of a thread do not form a stack:
//!
//! - tracing begins in mid-flight, so there are returns whose call was never seen;
//! - in 3.15 the creation of a generator or coroutine is a call without a return, `throw()` and `close()` make a
//!   return without a call, and a hot class call adds a return of a shim that is no function at all;
//! - greenlets run several stacks in one thread, and no event says when they switch;
//! - events get lost.
//!
//! So every thread has one list of open frames, oldest first, and a return takes the nearest open frame of its place
//! from wherever it is. Frames above it, *passed over*, stay where they are: a greenlet's frame returns later, a
//! generator's creation never does and is forgotten when too many younger ones were passed over, or with age.
//!
//! A duration is given only where the match is beyond doubt as far as events can tell:
//!
//! - Up to 3.11 every call returns, so a frame that was passed over proves that stacks interleave. From then on a
//!   return whose place is open more than once gets no duration, because nothing tells whose it is, and neither do
//!   the others that were open with it.
//! - From 3.15 on a frame that was passed over is taken for a creation, unless the process is known to have
//!   greenlets, and the return that takes it gets no duration: it is most likely a `throw()`. What is thrown into a
//!   generator never takes its creation for its call, and a function that calls itself is in doubt until it is known to be
//!   no generator ([`kinds`]).
//!
//! Where pystap's agent makes the events, none of this is needed: it reports no creations, every return has its call, and it
//! says which greenlet or task runs (`context`). Each context then has a stack of its own, and the match is exact. A task's
//! first frame is called by the frame that runs outside of any task, which is its loop's.
//!
//! What no algorithm can see: greenlets that run the same function before anything betrayed them look like recursion.
//!
//! Distributions are content with less than that: a recursion under greenlets ([`FinishedCall::likely`]). Functions that switch
//! stacks betray themselves, because something else than what they called returns next. Where all open calls of a function
//! are callers of the one that returns, and no such function is among those between them, they are taken for one stack.
//!
//! Beside durations there are times that views add up, and these ask for less. The time between two events of a thread
//! is the own time of the frame that runs in between, whatever stack that is on. When stacks interleave, it does not
//! matter for a sum which of two calls of one function a return is given to: the total stays the same. And who calls
//! whom is followed by links between frames and not by their order, so each greenlet keeps its own line of callers.
//!
//! # Steps
//!
//! Each event is answered with a [`Step`]: the call that ended, what it took itself, what it adds to the inclusive time
//! of its function, who called. Whoever adds up steps needs no stacks of its own.
//!
//! *Own time* is given out in slices: the time between two events of a thread belongs to the frame that runs in
//! between. No moment is counted twice, whatever stacks interleave, and a frame that turns out to be the creation of a
//! generator hands its slices to its creator. *Inclusive time* counts recursion once: an inner call hands its duration
//! to the outer one, which discards it when it ends and passes it on when it never does. With each time go the intervals between
//! events that it is the sum of ([`FinishedCall::self_intervals`]), because each event costs the thread time that is the
//! tracer's and no function's: see [`super::overhead`]. *Callers* are links between
//! frames. When greenlets interleave, a return is given to the frame that runs, or else to the one that waits longest;
//! a return that does not fit shows that the guess before it was wrong, and the two frames change places. Totals do not
//! depend on these guesses.
//!
//! A recording in which creations look like calls is read twice: the first reading finds them, the second leaves them
//! out ([`Creations`], one bit per call).

mod bounded;
mod calls;
mod creations;
mod fields;
mod groups;
mod kinds;
mod plain;
mod returning;
mod rules;
mod step;
mod thread;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use self::bounded::MAX_NESTED;
use self::fields::FieldsRoom;
use self::groups::Groups;
use self::kinds::{Entered, Entry, Kinds, Within};
use self::returning::Returning;
use self::step::stack;
use self::thread::{Frame, MAX_FRAMES, OfCall, Thread, give_up, give_up_by_bound};
use super::keys::{KeyBuilder, Keys, NameKey};
use super::overhead::{Edge, Intervals};
use crate::event::hosts::whole_host;
use crate::event::{Event, LossStage, Manner, Place, ProcessChange, What};

pub use calls::{FinishedCall, FrameId, GivenUp, Open, Revised, Unpaired};
pub use creations::Creations;
pub use rules::PairingRules;
pub use step::Step;

/// Threads remembered; those unheard of for longest are forgotten beyond that.
const MAX_THREADS: usize = 2048;
/// Bytes of what is open in all threads together; the quieter half of them is forgotten beyond that. Names are shared and
/// have a bound of their own.
const MAX_HELD: usize = 64 << 20;
/// Processes that have rules of their own; further ones have those of all others.
const MAX_RULES: usize = 1 << 16;

/// Pairs the events of any number of processes. Memory is bounded, whatever is fed.
#[derive(Debug, Default)]
pub struct Pairing {
    threads: HashMap<(u32, u32), Thread, KeyBuilder>,
    rules: HashMap<u32, PairingRules, KeyBuilder>,
    default_rules: PairingRules,
    /// Bytes of what is open in the threads.
    held: usize,
    keys: Keys,
    /// Functions that were seen to be called without returning, from 3.15 on: generators and coroutines.
    generators: HashSet<NameKey, KeyBuilder>,
    /// What is known of functions where creations look like calls.
    kinds: Kinds,
    /// Functions that were seen to switch to another stack: something else than what they called returned next.
    switchers: HashSet<NameKey, KeyBuilder>,
    /// Number of losses so far, and of those that only one process had: what was opened before a loss may have been closed by
    /// what was lost.
    gaps: u32,
    gaps_of: HashMap<u32, u32, KeyBuilder>,
    events: u64,
    calls: u64,
    unpaired: Unpaired,
    given_up: Vec<GivenUp>,
    revised: Vec<Revised>,
    fields: FieldsRoom,
    /// By which field functions are told apart, if by any.
    groups: Option<Groups>,
    /// What a first reading has found out.
    known: Option<Creations>,
    /// What this reading finds out.
    found: Option<Creations>,
}

impl Pairing {
    /// A pairing that has seen nothing and knows no process.
    pub fn new() -> Pairing {
        Pairing::default()
    }

    /// A pairing for processes that share these rules, unless [`Pairing::set_rules`] says otherwise of one.
    pub fn with_rules(rules: PairingRules) -> Pairing {
        Pairing {
            default_rules: rules,
            ..Pairing::default()
        }
    }

    /// A pairing for the first of two readings of one stream; see [`Pairing::into_creations`].
    pub fn first_reading(rules: PairingRules) -> Pairing {
        Pairing {
            found: Some(Creations::default()),
            ..Pairing::with_rules(rules)
        }
    }

    /// A pairing for the second of two readings: what the first one found to be creations are no calls.
    pub fn second_reading(rules: PairingRules, creations: Creations) -> Pairing {
        Pairing {
            known: Some(creations),
            ..Pairing::with_rules(rules)
        }
    }

    /// The same, with a function of its own for each value that a field has in its calls.
    pub fn grouped(self, field: &str) -> Pairing {
        Pairing {
            groups: Some(Groups::new(field)),
            ..self
        }
    }

    /// Calls whose values of the field by which functions are told apart are one, because there were too many.
    pub fn without_group(&self) -> u64 {
        self.groups.as_ref().map_or(0, Groups::without_room)
    }

    /// Whether a first reading has found anything out so far. As long as it has not, all that it says is what a second reading says.
    pub fn has_found_creations(&self) -> bool {
        self.found.as_ref().is_some_and(Creations::has_any)
    }

    /// What a first reading found out.
    pub fn into_creations(self) -> Creations {
        self.found.unwrap_or_default()
    }

    /// Says how the interpreter of one process behaves, or that of all processes of a host. Children inherit what was said of their
    /// parents until they are given their own.
    pub fn set_rules(&mut self, pid: u32, rules: PairingRules) {
        if self.rules.len() < MAX_RULES || self.rules.contains_key(&pid) {
            self.rules.insert(pid, rules);
        }
    }

    /// The rules of a process: its own, those of its host, or those of all.
    fn rules_of(&self, pid: u32) -> PairingRules {
        let of_host = || match whole_host(pid) {
            0 => None,
            host => self.rules.get(&host),
        };
        let own = self.rules.get(&pid).or_else(of_host);
        own.copied().unwrap_or(self.default_rules)
    }

    /// The rules of processes of which nothing else was said.
    pub fn default_rules(&self) -> PairingRules {
        self.default_rules
    }

    /// What found no partner so far.
    pub fn unpaired(&self) -> Unpaired {
        self.unpaired
    }

    /// Calls whose fields their returns do not have, because those of all open calls took too much room.
    pub fn without_fields(&self) -> u64 {
        self.fields.left_out()
    }

    /// Takes the next event, fills in its duration where the matching start is known, and answers how many frames
    /// are open below it: a return is as deep as its call, anything else as deep as a call would be in its place.
    ///
    /// `None` for what is an artefact of the interpreter and not something the program did (the return of the shim
    /// behind a class call): it can be left out of whatever is shown.
    pub fn feed(&mut self, event: &mut Event) -> Option<usize> {
        self.follow(event).map(|step| step.depth())
    }

    /// As [`Pairing::feed`], with everything that views want to know.
    ///
    /// A return that has its duration already (from a recording, or from a kernel that paired it) keeps it: the call
    /// that it says is the one that ends, and if that was never seen, the kernel measured it.
    pub fn follow<'a>(&'a mut self, event: &'a mut Event) -> Option<Step<'a>> {
        self.given_up.clear();
        if self.given_up.capacity() > 2 * MAX_FRAMES {
            self.given_up = Vec::new();
        }
        self.revised.clear();
        match &event.what {
            What::Return { place, line, .. } if is_shim(place, *line) => return None,
            // Of calls nothing is missing then.
            What::Lost {
                stage: LossStage::Waits,
                ..
            } => return Some(Step::new(event)),
            What::Lost { .. } => {
                self.lose(event.pid);
                return Some(Step::new(event));
            }
            // It changes no stack, and its time is that of what runs: the next call or return charges it.
            What::Wait(_) => {
                let thread = self.threads.get(&(event.pid, event.tid));
                let running =
                    thread.and_then(|thread| thread.waiting(event.ts, self.gap(event.pid)));
                return Some(Step {
                    caller: running.map(|frame| (frame.key, &frame.place)),
                    thread: thread.map(|thread| (event.pid, event.tid, thread)),
                    ..Step::new(event)
                });
            }
            What::Process { change, parent, .. } => {
                self.process(*change, *parent, event.pid, event.tid, event.ts);
                return Some(Step {
                    given_up: &self.given_up,
                    ..Step::new(event)
                });
            }
            _ => {}
        }
        self.events += 1;
        let rules = self.rules_of(event.pid);
        let gap = self.gap(event.pid);
        let who = (event.pid, event.tid);
        let too_many = self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&who);
        if too_many || self.held > MAX_HELD {
            self.forget_quiet_threads();
        }
        let thread = self.threads.entry(who).or_default();
        thread.last_seen = self.events;
        let ts = event.ts;
        thread.charge(ts, gap, Edge::of(&event.what));
        let (mut entered, mut finished) = (None, None);
        let mut function = None;
        let mut goes_on = false;
        let mut caller = None;
        match &mut event.what {
            What::Call { place, line, frame }
                if self
                    .known
                    .as_ref()
                    .is_some_and(|it| it.contains(self.calls + 1)) =>
            {
                self.calls += 1;
                let at = self.keys.named(place);
                thread.switch(frame.context, self.keys.tells(at.0));
                let called = self.keys.called(at, *line, frame.manner);
                if rules.call_on_creation {
                    let entered = Entered {
                        place,
                        name: called.name,
                        key: called.function,
                        line: *line,
                    };
                    self.kinds.entered(entered, false);
                    self.kinds.passed_over(entered);
                }
                function = Some(called.function);
            }
            What::Call { place, line, frame } => {
                self.calls += 1;
                let at = self.keys.named(place);
                thread.switch(frame.context, self.keys.tells(at.0));
                let interrupted = thread.begin(frame.context, frame.manner == Manner::Running);
                let called = self.keys.called(at, *line, frame.manner);
                goes_on = called.goes_on;
                caller = Some(thread.running);
                let entry = match rules.call_on_creation && frame.context.is_none() {
                    true => {
                        let entered = Entered {
                            place,
                            name: called.name,
                            key: called.function,
                            line: *line,
                        };
                        self.kinds.entered(entered, goes_on)
                    }
                    false => Entry::Call,
                };
                let mut key = called.function;
                let fields = frame.fields.as_ref();
                if let (Some(fields), Some(groups)) = (fields, &mut self.groups)
                    && let Some(group) = groups.of((called.name, key), place, fields)
                {
                    (*place, key) = group;
                }
                let fields = fields.map(|fields| self.fields.keep(fields));
                let lacks_fields = matches!(fields, Some(None));
                let frame = Frame {
                    id: self.calls,
                    name: called.name,
                    key,
                    line: *line,
                    parent: thread.running,
                    place: Arc::clone(place),
                    ts,
                    gap,
                    passed_over: None,
                    context: frame.context,
                    certain: frame.manner != Manner::Running,
                    was_running: frame.manner == Manner::Running,
                    likely: true,
                    entry,
                    within: Within::default(),
                    self_ns: 0,
                    self_intervals: Intervals::NONE,
                    covered_ns: 0,
                    covered_intervals: Intervals::NONE,
                    intervals_before: thread.intervals,
                    called: 0,
                    before: interrupted,
                    fields: fields.flatten(),
                    lacks_fields,
                };
                if let Some(oldest) = thread.call(frame) {
                    give_up_by_bound(&mut self.given_up, (event.pid, event.tid), oldest);
                }
                function = Some(key);
                entered = Some(FrameId(self.calls));
            }
            What::Return {
                place,
                line,
                duration_ns,
                frame,
            } => {
                let at = self.keys.named(place);
                let (slot, name) = at;
                thread.switch(frame.context, self.keys.tells(slot));
                let mut call = None;
                finished = Returning {
                    whose: (event.pid, event.tid),
                    name,
                    line: *line,
                    ts,
                    rules,
                    gap,
                    generators: &mut self.generators,
                    kinds: &mut self.kinds,
                    switchers: &mut self.switchers,
                    unpaired: &mut self.unpaired,
                    given_up: &mut self.given_up,
                    revised: &mut self.revised,
                    found: self.found.as_mut(),
                    call: &mut call,
                }
                .leave(thread, frame.context, *duration_ns);
                if let Some(OfCall { fields, is_whole }) = call {
                    match fields {
                        Some((fields, called)) => {
                            frame.fields = Some(fields.with(frame.fields.take()));
                            if called.group.is_some() {
                                *place = called;
                            }
                        }
                        // What the return tells is not all that there was: nobody is to take it for that.
                        None if !is_whole => frame.fields = None,
                        None => {}
                    }
                }
                // Which frame it is tells more than the line, which may be in a function within it.
                function = finished.as_ref().and_then(|it| it.key);
                match function {
                    Some(key) => {
                        let exact = finished.is_some_and(|it| it.exact);
                        self.keys.left(at, key, *line, exact);
                    }
                    None => function = Some(self.keys.around(name, *line)),
                }
                if duration_ns.is_none()
                    && let Some(left) = &finished
                    && left.exact
                {
                    *duration_ns = left.inclusive_ns;
                }
            }
            What::GcStart { generation } => {
                let began = (*generation, ts, gap);
                bounded::push(&mut thread.collections, began, MAX_NESTED);
            }
            What::GcDone {
                generation,
                pause_ns,
                ..
            } => {
                // Collections have no name to match by, so a start from before a loss proves nothing.
                if let Some((started, at, before)) = thread.collections.pop()
                    && before == gap
                {
                    *generation = Some(started);
                    *pause_ns = ts.checked_sub(at);
                }
            }
            What::Plain(plain) => {
                plain::pair(&mut thread.begun, plain, ts);
            }
            _ => {}
        }
        let bytes = thread.bytes();
        self.held = self.held + bytes - std::mem::replace(&mut thread.counted, bytes);
        let caller = caller.unwrap_or(thread.running);
        Some(Step {
            event,
            key: function,
            goes_on,
            entered,
            finished,
            caller: thread.frame(caller).map(|frame| (frame.key, &frame.place)),
            given_up: &self.given_up,
            revised: &self.revised,
            thread: Some((who.0, who.1, thread)),
        })
    }

    /// The calls of a thread that lead to what runs in it now, innermost first.
    pub fn stack(&self, pid: u32, tid: u32) -> impl Iterator<Item = Open<'_>> {
        let thread = self.threads.get(&(pid, tid));
        stack(thread.map(|thread| (pid, tid, thread)))
    }

    /// Every call that has not returned yet and is not taken for the creation of a generator.
    pub fn open(&self) -> impl Iterator<Item = Open<'_>> {
        self.threads.iter().flat_map(|(&(pid, tid), thread)| {
            (0..thread.frames.len())
                .filter(|&index| {
                    let frame = thread.frames.get(index);
                    frame.is_some_and(|frame| frame.passed_over.is_none() || thread.interleaved)
                })
                .filter_map(move |index| thread.open(pid, tid, index))
        })
    }

    /// The function that made an open call; `None` where that was not seen.
    pub fn caller(&self, open: &Open<'_>) -> Option<super::keys::FunctionKey> {
        let thread = self.threads.get(&(open.pid, open.tid))?;
        let caller = thread.parent_of(thread.index_of(open.frame.0)?)?;
        thread.frames.get(caller).map(|frame| frame.key)
    }

    /// How many frames are open in a thread now, as far as was seen.
    pub fn depth(&self, pid: u32, tid: u32) -> usize {
        self.threads.get(&(pid, tid)).map_or(0, Thread::depth)
    }

    /// Forgets one thread: for engines that see threads end.
    pub fn forget_thread(&mut self, pid: u32, tid: u32) {
        if let Some(thread) = self.threads.remove(&(pid, tid)) {
            self.held -= thread.counted;
            for frame in thread.frames {
                give_up(&mut self.given_up, (pid, tid), frame);
            }
        }
    }

    /// Something of a process was lost, of any of its host, or (0) of any.
    fn lose(&mut self, pid: u32) {
        let is_known = self.gaps_of.len() < MAX_RULES || self.gaps_of.contains_key(&pid);
        let gaps = match pid != 0 && is_known {
            true => self.gaps_of.entry(pid).or_default(),
            false => &mut self.gaps,
        };
        *gaps = gaps.wrapping_add(1);
    }

    /// Number of losses that a process may have had part in.
    fn gap(&self, pid: u32) -> u32 {
        let of = |pid| self.gaps_of.get(&pid).copied().unwrap_or(0);
        let of_host = match whole_host(pid) {
            0 => 0,
            host => of(host),
        };
        self.gaps.wrapping_add(of(pid)).wrapping_add(of_host)
    }

    fn forget_process(&mut self, pid: u32) {
        let (given_up, held) = (&mut self.given_up, &mut self.held);
        self.threads.retain(|&(owner, tid), thread| {
            if owner == pid {
                *held -= thread.counted;
                for frame in thread.frames.drain(..) {
                    give_up(given_up, (pid, tid), frame);
                }
            }
            owner != pid
        });
    }

    fn process(&mut self, change: ProcessChange, parent: Option<u32>, pid: u32, tid: u32, ts: u64) {
        match change {
            ProcessChange::Fork => {
                if let Some(&rules) = parent.and_then(|parent| self.rules.get(&parent))
                    && self.rules.len() < MAX_RULES
                {
                    self.rules.entry(pid).or_insert(rules);
                }
                // The pid may have been another process's before.
                self.forget_process(pid);
            }
            ProcessChange::Exit if tid != 0 && tid != pid => {
                let gap = self.gap(pid);
                if let Some(thread) = self.threads.get_mut(&(pid, tid)) {
                    thread.end(ts, gap);
                }
                self.forget_thread(pid, tid);
            }
            ProcessChange::Exec | ProcessChange::Exit => {
                let gap = self.gap(pid);
                for ((owner, _), thread) in &mut self.threads {
                    if *owner == pid {
                        thread.end(ts, gap);
                    }
                }
                self.forget_process(pid);
                self.gaps_of.remove(&pid);
                self.rules.remove(&pid);
            }
        }
    }

    /// Forgets the quieter half, so that the work is spread over many new threads.
    fn forget_quiet_threads(&mut self) {
        let mut seen: Vec<u64> = self.threads.values().map(|it| it.last_seen).collect();
        let half = seen.len() / 2;
        let (_, &mut median, _) = seen.select_nth_unstable(half);
        let (given_up, held) = (&mut self.given_up, &mut self.held);
        self.threads.retain(|&whose, thread| {
            let keep = thread.last_seen > median;
            if !keep {
                *held -= thread.counted;
                for frame in thread.frames.drain(..) {
                    give_up_by_bound(given_up, whose, frame);
                }
            }
            keep
        });
    }
}

/// CPython 3.15 runs a hot `C()` through a piece of code of its own and marks that one's return.
fn is_shim(place: &Place, line: i32) -> bool {
    line == -1 && place.function.text == "__init__" && place.file.text == "__init__"
}

#[cfg(test)]
mod generators_tests;
#[cfg(test)]
mod tests;
