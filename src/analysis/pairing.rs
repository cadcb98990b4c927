//! Which return belongs to which call: the one pairing algorithm. Fills durations into the events of a stream and
//! says how deep each is; shows nothing and keeps no statistics but its own unpaired counts.
//!
//! The marks of a thread do not form a stack:
//!
//! - tracing begins in mid-flight, so there are returns whose call was never seen;
//! - in 3.15 the creation of a generator or coroutine is a call without a return, `throw()` and `close()` make a
//!   return without a call, and a hot class call adds a return of a shim that is no function at all;
//! - greenlets run several stacks in one thread, and no mark says when they switch;
//! - events get lost.
//!
//! So every thread has one list of open frames, oldest first, and a return takes the nearest open frame of its place
//! from wherever it is. Frames above it, *passed over*, stay where they are: a greenlet's frame returns later, a
//! generator's creation never does and is forgotten when too many younger ones were passed over, or with age.
//!
//! A duration is given only where the match is beyond doubt as far as the marks can tell:
//!
//! - Up to 3.11 every call returns, so a frame that was passed over proves that stacks interleave. From then on a
//!   return whose place is open more than once gets no duration, because nothing tells whose it is, and neither do
//!   the others that were open with it.
//! - From 3.15 on a frame that was passed over is taken for a creation, unless the process is known to have
//!   greenlets, and the return that takes it gets no duration: it is most likely a `throw()`.
//!
//! What no algorithm can see: greenlets that run the same function before anything betrayed them look like recursion,
//! and so does a `throw()` into a generator while its creation is the nearest open frame of that function.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::event::{Event, Place, ProcessChange, Text, What};

/// Open frames kept of one thread; the outermost are forgotten beyond that.
const MAX_FRAMES: usize = 4096;
/// Of these, frames that were passed over; the oldest are forgotten beyond that.
const MAX_PASSED_OVER: usize = 512;
/// How long a frame that was passed over is kept, in nanoseconds of event time.
const PASSED_OVER_FOR_NS: u64 = 600_000_000_000;
/// Threads remembered; those unheard of for longest are forgotten beyond that.
const MAX_THREADS: usize = 2048;
/// Places remembered as generators.
const MAX_GENERATORS: usize = 1 << 16;
/// Garbage collections and imports that can be under way in one thread.
const MAX_NESTED: usize = 256;

/// How an interpreter uses its marks, as far as pairing must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Habits {
    /// Creating a generator or coroutine is marked as a call that does not return: from 3.15 on.
    pub call_on_creation: bool,
    /// The process has greenlets: several stacks interleave in one thread.
    pub greenlets: bool,
}

impl Default for Habits {
    /// For a process of which nothing is known: the reading that gives fewer durations and no wrong ones.
    fn default() -> Self {
        Habits {
            call_on_creation: true,
            greenlets: false,
        }
    }
}

/// Calls and returns that found no partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unpaired {
    /// Calls whose callers have returned, and which have not returned themselves (yet).
    pub calls: u64,
    /// Returns whose call was not seen or cannot be told.
    pub returns: u64,
}

impl Unpaired {
    /// Both together, as a summary has it.
    pub fn total(&self) -> u64 {
        self.calls.saturating_add(self.returns)
    }
}

/// Pairs the events of any number of processes. Memory is bounded, whatever is fed.
#[derive(Debug, Default)]
pub struct Pairing {
    threads: HashMap<(u32, u32), Thread>,
    habits: HashMap<u32, Habits>,
    default_habits: Habits,
    /// Places that were seen to be called without returning, from 3.15 on: generators and coroutines.
    generators: HashSet<Arc<Place>>,
    /// Number of losses so far: what was opened before a loss may have been closed by what was lost.
    gaps: u32,
    events: u64,
    unpaired: Unpaired,
}

impl Pairing {
    /// A pairing that has seen nothing and knows no process.
    pub fn new() -> Pairing {
        Pairing::default()
    }

    /// A pairing for processes that share these habits, unless [`Pairing::set_habits`] says otherwise of one.
    pub fn with_habits(habits: Habits) -> Pairing {
        Pairing {
            default_habits: habits,
            ..Pairing::default()
        }
    }

    /// Says how the interpreter of one process behaves. Its children inherit that until they are given their own.
    pub fn set_habits(&mut self, pid: u32, habits: Habits) {
        self.habits.insert(pid, habits);
    }

    /// What found no partner so far.
    pub fn unpaired(&self) -> Unpaired {
        self.unpaired
    }

    /// Takes the next event, fills in its duration where the matching start is known, and answers how many frames
    /// are open below it: a return is as deep as its call, anything else as deep as a call would be in its place.
    ///
    /// `None` for what is an artefact of the interpreter and not something the program did (the return of the shim
    /// behind a class call): it can be left out of whatever is shown.
    pub fn feed(&mut self, event: &mut Event) -> Option<usize> {
        match &event.what {
            What::Return { place, line, .. } if is_shim(place, *line) => return None,
            What::Lost { .. } => {
                self.gaps = self.gaps.wrapping_add(1);
                return Some(0);
            }
            What::Process { change, parent, .. } => {
                self.process(*change, *parent, event.pid, event.tid);
                return Some(0);
            }
            _ => {}
        }
        self.events += 1;
        let habits = match self.habits.get(&event.pid) {
            Some(&habits) => habits,
            None => self.default_habits,
        };
        let who = (event.pid, event.tid);
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&who) {
            self.forget_quiet_threads();
        }
        let thread = self.threads.entry(who).or_default();
        thread.last_seen = self.events;
        let ts = event.ts;
        match &mut event.what {
            What::Call { place, .. } => {
                let depth = thread.depth();
                thread.call(Frame {
                    place: Arc::clone(place),
                    ts,
                    gap: self.gaps,
                    passed_over: None,
                    certain: true,
                });
                Some(depth)
            }
            What::Return {
                place, duration_ns, ..
            } => {
                // A call that the kernel paired itself comes as its return only.
                if duration_ns.is_none() {
                    *duration_ns = Returning {
                        place,
                        ts,
                        habits,
                        gap: self.gaps,
                        generators: &mut self.generators,
                        unpaired: &mut self.unpaired,
                    }
                    .leave(thread);
                }
                Some(thread.depth())
            }
            What::GcStart { generation } => {
                push_bounded(&mut thread.collections, (*generation, ts, self.gaps));
                Some(thread.depth())
            }
            What::GcDone {
                generation,
                pause_ns,
                ..
            } => {
                // Collections have no name to match by, so a start from before a loss proves nothing.
                if let Some((started, at, gap)) = thread.collections.pop()
                    && gap == self.gaps
                {
                    *generation = Some(started);
                    *pause_ns = ts.checked_sub(at);
                }
                Some(thread.depth())
            }
            What::ImportStart { module } => {
                push_bounded(&mut thread.imports, (Arc::clone(module), ts));
                Some(thread.depth())
            }
            What::ImportDone {
                module,
                duration_ns,
                ..
            } => {
                let started = thread.imports.iter().rposition(|(name, _)| name == module);
                if let Some(index) = started {
                    // Imports nest strictly: what began later and has not ended was lost.
                    let mut ended = thread.imports.drain(index..);
                    *duration_ns = ended.next().and_then(|(_, at)| ts.checked_sub(at));
                }
                Some(thread.depth())
            }
            _ => Some(thread.depth()),
        }
    }

    /// How many frames are open in a thread now, as far as was seen.
    pub fn depth(&self, pid: u32, tid: u32) -> usize {
        self.threads.get(&(pid, tid)).map_or(0, Thread::depth)
    }

    /// Forgets one thread: for engines that see threads end.
    pub fn forget_thread(&mut self, pid: u32, tid: u32) {
        self.threads.remove(&(pid, tid));
    }

    fn process(&mut self, change: ProcessChange, parent: Option<u32>, pid: u32, tid: u32) {
        match change {
            ProcessChange::Fork => {
                if let Some(&habits) = parent.and_then(|parent| self.habits.get(&parent)) {
                    self.habits.entry(pid).or_insert(habits);
                }
                // The pid may have been another process's before.
                self.threads.retain(|&(owner, _), _| owner != pid);
            }
            ProcessChange::Exit if tid != 0 && tid != pid => {
                self.forget_thread(pid, tid);
            }
            ProcessChange::Exec | ProcessChange::Exit => {
                self.threads.retain(|&(owner, _), _| owner != pid);
                self.habits.remove(&pid);
            }
        }
    }

    /// Forgets the quieter half, so that the work is spread over many new threads.
    fn forget_quiet_threads(&mut self) {
        let mut seen: Vec<u64> = self.threads.values().map(|it| it.last_seen).collect();
        let half = seen.len() / 2;
        let (_, &mut median, _) = seen.select_nth_unstable(half);
        self.threads.retain(|_, thread| thread.last_seen > median);
    }
}

/// What is open in one thread.
#[derive(Debug, Default)]
struct Thread {
    /// Open frames, oldest first, those that were passed over among them.
    frames: VecDeque<Frame>,
    passed_over: usize,
    /// Frames that were passed over have returned later: several stacks run in this thread.
    interleaved: bool,
    /// Generation, start and number of losses before it.
    collections: Vec<(i64, u64, u32)>,
    imports: Vec<(Arc<Text>, u64)>,
    /// Number of the last event, to find threads that ended unseen.
    last_seen: u64,
}

#[derive(Debug)]
struct Frame {
    place: Arc<Place>,
    ts: u64,
    /// Number of losses before the call.
    gap: u32,
    /// When a frame below returned first.
    passed_over: Option<u64>,
    /// False when this may be another frame of the same place than the one whose call has this time.
    certain: bool,
}

impl Thread {
    fn depth(&self) -> usize {
        self.frames.len() - self.passed_over
    }

    fn call(&mut self, frame: Frame) {
        // Forgetting the innermost instead would make deep recursion match the wrong frames.
        if self.frames.len() >= MAX_FRAMES
            && let Some(oldest) = self.frames.pop_front()
        {
            self.passed_over -= usize::from(oldest.passed_over.is_some());
        }
        self.frames.push_back(frame);
    }

    fn take(&mut self, index: usize) -> Option<Frame> {
        let frame = self.frames.remove(index)?;
        self.passed_over -= usize::from(frame.passed_over.is_some());
        if self.frames.is_empty() {
            self.frames.shrink_to(64);
        }
        Some(frame)
    }

    /// The nearest open frame of a place, passed over or not: to prefer one that was not would make a frame that
    /// was passed over by mistake end an older call of the same function.
    fn nearest(&self, place: &Arc<Place>) -> Option<usize> {
        self.frames
            .iter()
            .rposition(|frame| same(&frame.place, place))
    }

    fn forget_passed_over(&mut self, now: u64) {
        let too_old = |frame: &Frame| {
            frame
                .passed_over
                .is_some_and(|since| now.saturating_sub(since) > PASSED_OVER_FOR_NS)
        };
        let oldest = self.frames.iter().find(|it| it.passed_over.is_some());
        let too_many = self.passed_over > MAX_PASSED_OVER;
        if !too_many && !oldest.is_some_and(too_old) {
            return;
        }
        // A quarter at a time, so that a program that creates generators all day pays for this rarely.
        let mut forget = if too_many { MAX_PASSED_OVER / 4 } else { 0 };
        self.frames.retain(|frame| {
            let keep = frame.passed_over.is_none() || (forget == 0 && !too_old(frame));
            if !keep {
                forget = forget.saturating_sub(1);
            }
            keep
        });
        self.recount();
    }

    fn recount(&mut self) {
        let passed_over = self.frames.iter().filter(|it| it.passed_over.is_some());
        self.passed_over = passed_over.count();
    }
}

/// One return on its way to its call.
struct Returning<'a> {
    place: &'a Arc<Place>,
    ts: u64,
    habits: Habits,
    gap: u32,
    generators: &'a mut HashSet<Arc<Place>>,
    unpaired: &'a mut Unpaired,
}

impl Returning<'_> {
    /// Closes the frame that returns and answers its duration in nanoseconds.
    fn leave(mut self, thread: &mut Thread) -> Option<u64> {
        // Nearly always the frame on top returns, and nothing needs to be looked for.
        let top = thread.frames.len().checked_sub(1);
        let plain = thread
            .frames
            .back()
            .is_some_and(|frame| frame.passed_over.is_none() && same(&frame.place, self.place));
        let index = if plain {
            top
        } else {
            thread.nearest(self.place)
        };
        let Some(index) = index else {
            self.unpaired.returns += 1;
            return None;
        };
        let was_passed_over = thread.frames.get(index)?.passed_over.is_some();
        if !plain && !was_passed_over {
            if self.must_wait(thread, index) {
                self.unpaired.returns += 1;
                return None;
            }
            self.pass_over(thread, index);
        }
        let alone = self.settle_ambiguity(thread, index);
        let frame = thread.take(index)?;
        if !plain {
            thread.forget_passed_over(self.ts);
        }
        let trusted = if was_passed_over {
            self.unpaired.calls = self.unpaired.calls.saturating_sub(1);
            // It returned after all, so it need not have been a creation.
            self.generators.remove(self.place);
            alone && (self.habits.greenlets || !self.habits.call_on_creation)
        } else {
            alone
        };
        if trusted && frame.certain {
            self.ts.checked_sub(frame.ts)
        } else {
            None
        }
    }

    /// Whether this is a generator's return without a call: a plain function that was called later is still open,
    /// and would have to return first.
    fn must_wait(&self, thread: &Thread, index: usize) -> bool {
        self.creations_count()
            && self.generators.contains(self.place)
            && thread.frames.iter().skip(index + 1).any(|above| {
                above.passed_over.is_none()
                    && above.gap == self.gap
                    && !self.generators.contains(&above.place)
            })
    }

    /// Marks what is above the frame that returns. What was called before a loss is not kept: its return was lost.
    fn pass_over(&mut self, thread: &mut Thread, index: usize) {
        let learn = self.creations_count();
        let mut lost = false;
        for frame in thread.frames.iter_mut().skip(index + 1) {
            if frame.passed_over.is_some() {
                continue;
            }
            self.unpaired.calls += 1;
            frame.passed_over = Some(self.ts);
            thread.passed_over += 1;
            if frame.gap != self.gap {
                lost = true;
                continue;
            }
            // Where every call returns, this one will, too: on another stack.
            thread.interleaved |= !self.habits.call_on_creation;
            if learn
                && self.generators.len() < MAX_GENERATORS
                && !self.generators.contains(&frame.place)
            {
                self.generators.insert(Arc::clone(&frame.place));
            }
        }
        if lost {
            let gap = self.gap;
            let mut at = 0;
            thread.frames.retain(|frame| {
                let keep = at <= index || frame.passed_over.is_none() || frame.gap == gap;
                at += 1;
                keep
            });
            thread.recount();
        }
    }

    fn settle_ambiguity(&self, thread: &mut Thread, index: usize) -> bool {
        let stacks = thread.interleaved || self.habits.greenlets;
        let generator = self.creations_count() && self.generators.contains(self.place);
        if !stacks && !generator {
            return true;
        }
        let mut alone = true;
        for (at, frame) in thread.frames.iter_mut().enumerate() {
            if at != index && same(&frame.place, self.place) {
                frame.certain = false;
                alone = false;
            }
        }
        // The nearest call of a generator is the resumption that now ends; only its other calls are in doubt.
        alone || !stacks
    }

    fn creations_count(&self) -> bool {
        self.habits.call_on_creation && !self.habits.greenlets
    }
}

/// The same place: nearly always the same `Arc`, and equal in any case.
fn same(one: &Arc<Place>, other: &Arc<Place>) -> bool {
    Arc::ptr_eq(one, other) || (one.function == other.function && one.file == other.file)
}

/// CPython 3.15 runs a hot `C()` through a piece of code of its own and marks that one's return.
fn is_shim(place: &Place, line: i32) -> bool {
    line == -1 && place.function.text == "__init__" && place.file.text == "__init__"
}

fn push_bounded<T>(open: &mut Vec<T>, item: T) {
    if open.len() >= MAX_NESTED {
        open.remove(0);
    }
    open.push(item);
}

#[cfg(test)]
#[path = "pairing_tests.rs"]
mod tests;
