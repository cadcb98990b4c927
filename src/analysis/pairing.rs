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
//!   greenlets, and the return that takes it gets no duration: it is most likely a `throw()`.
//!
//! Where pystap's agent makes the events, none of this is needed: it reports no creations, every return has its call, and it
//! says which greenlet or task runs (`context`). Each context then has a stack of its own, and the match is exact. A task's
//! first frame is called by the frame that runs outside of any task, which is its loop's.
//!
//! What no algorithm can see: greenlets that run the same function before anything betrayed them look like recursion,
//! and so does a `throw()` into a generator while its creation is the nearest open frame of that function.
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
//! to the outer one, which discards it when it ends and passes it on when it never does. *Callers* are links between
//! frames. When greenlets interleave, a return is given to the frame that runs, or else to the one that waits longest;
//! a return that does not fit shows that the guess before it was wrong, and the two frames change places. Totals do not
//! depend on these guesses.
//!
//! A recording in which creations look like calls is read twice: the first reading finds them, the second leaves them
//! out ([`Creations`], one bit per call).

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;

use super::keys::{FunctionKey, KeyBuilder, Keys};
use crate::event::{Event, Manner, Place, Plain, ProcessChange, Text, What};
use crate::probe::{Phase, Probe};

/// Open frames kept of one thread; the outermost are forgotten beyond that.
const MAX_FRAMES: usize = 4096;
/// Of these, frames that were passed over; the oldest are forgotten beyond that.
const MAX_PASSED_OVER: usize = 512;
/// How long a frame that was passed over is kept, in nanoseconds of event time.
const PASSED_OVER_FOR_NS: u64 = 600_000_000_000;
/// Threads remembered; those unheard of for longest are forgotten beyond that.
const MAX_THREADS: usize = 2048;
/// Bytes of what is open in all threads together; the quieter half of them is forgotten beyond that. Names are shared and
/// have a bound of their own.
const MAX_HELD: usize = 64 << 20;
/// Processes whose rules are known, beyond those that were set.
const MAX_RULES: usize = 1 << 16;
/// Places remembered as generators, and as functions that switch stacks.
const MAX_GENERATORS: usize = 1 << 16;
/// Garbage collections, and imports and the like, that can be under way in one thread.
const MAX_NESTED: usize = 256;
/// Finished calls that the kernel measured and whose callers may still finish.
const MAX_SPANS: usize = 4096;
/// Buckets in which open frames are counted by function, to see at a glance that nothing recurs.
const BUCKETS: usize = 256;

/// How an interpreter uses its marks, as far as pairing must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairingRules {
    /// Creating a generator or coroutine is marked as a call that does not return: from 3.15 on.
    pub call_on_creation: bool,
    /// The process has greenlets: several stacks interleave in one thread.
    pub greenlets: bool,
}

impl Default for PairingRules {
    /// For a process of which nothing is known: the reading that gives fewer durations and no wrong ones.
    fn default() -> Self {
        PairingRules {
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

/// What an event meant for the calls of its thread.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Frames that are open below the event: a return is as deep as its call, anything else as deep as a call would
    /// be in its place.
    pub depth: usize,
    /// The function of a call or return.
    pub key: Option<FunctionKey>,
    /// The frame that a call opened.
    pub entered: Option<FrameId>,
    /// The call that ended, for a return that found one and for a call that the kernel measured.
    pub finished: Option<FinishedCall>,
    /// The function in which it happened: of a call or return the caller, of anything else the function that ran.
    pub within: Option<&'a Arc<Place>>,
    /// Frames that were given up without a return.
    pub given_up: &'a [GivenUp],
    /// Calls that turned out to be creations of generators, or not to be.
    pub revised: &'a [Revised],
    /// Whose stack it changed, if any.
    thread: Option<(u32, u32, &'a Thread)>,
}

impl<'a> Step<'a> {
    /// The calls that lead to what runs in the thread after the event, innermost first.
    pub fn stack(&self) -> impl Iterator<Item = Open<'a>> + use<'a> {
        stack(self.thread)
    }
}

fn stack<'a>(of: Option<(u32, u32, &'a Thread)>) -> impl Iterator<Item = Open<'a>> + use<'a> {
    let mut next = of.and_then(|(_, _, thread)| thread.index_of(thread.running));
    std::iter::from_fn(move || {
        let ((pid, tid, thread), index) = (of?, next?);
        next = thread.parent_of(index);
        thread.open(pid, tid, index)
    })
}

/// Calls that turned out to be creations of generators, by their number in the stream: what a first reading of a
/// recording finds out for a second one. A bit a call, for as many calls as there is room.
#[derive(Debug, Clone, Default)]
pub struct Creations {
    bits: Vec<u64>,
    full: bool,
}

impl Creations {
    /// Calls of which this can be known: 64 MB of bits.
    pub const MOST: u64 = 1 << 29;

    /// Whether there were creations behind the last call of which it can be known.
    pub fn is_full(&self) -> bool {
        self.full
    }

    fn set(&mut self, call: u64, is: bool) {
        if call >= Creations::MOST {
            self.full |= is;
            return;
        }
        let (word, bit) = ((call / 64) as usize, 1 << (call % 64));
        if is && self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if let Some(word) = self.bits.get_mut(word) {
            *word = if is { *word | bit } else { *word & !bit };
        }
    }

    fn contains(&self, call: u64) -> bool {
        let word = self
            .bits
            .get(usize::try_from(call / 64).unwrap_or(usize::MAX));
        word.is_some_and(|word| word & (1 << (call % 64)) != 0)
    }
}

/// Names an open frame for as long as it is open; later frames have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId(u64);

/// A call that ended. Times are in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FinishedCall {
    /// From call to return; `None` where that cannot be told even for a sum.
    pub inclusive_ns: Option<u64>,
    /// Whether `inclusive_ns` is the duration of this very call. If not, it may have been exchanged with that of
    /// another open call of the same function, which changes no total.
    pub exact: bool,
    /// Whether it is that as far as the lines of callers tell, which follow what can be seen of switches between stacks:
    /// good enough for a distribution. True of whatever is exact.
    pub likely: bool,
    /// Time in which this call ran itself and nothing that it called.
    pub self_ns: u64,
    /// What this call adds to the inclusive time of its function: nothing as long as an outer call of the same
    /// function is open, whose time covers this one's.
    pub cumulative_ns: u64,
    /// Whether no outer call of the same function is open.
    pub outermost: bool,
    /// Whether the kernel paired it, so that there was no event for its call.
    pub measured: bool,
}

/// A frame that is no longer followed although no return was seen: its process ended, too many were open, events were
/// lost, or it was the creation of a generator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// Its process.
    pub pid: u32,
    /// Its function.
    pub key: FunctionKey,
    /// Its function.
    pub place: Arc<Place>,
    /// The greenlet or task that it ran in.
    pub context: Option<NonZeroU64>,
    /// As in [`FinishedCall`]: time of its own that was seen.
    pub self_ns: u64,
    /// As in [`FinishedCall`]: time up to the end of its process, or else of recursive calls that waited for this one to end.
    pub cumulative_ns: u64,
}

/// An earlier call that is seen in another light now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revised {
    /// Its process.
    pub pid: u32,
    /// Its function.
    pub key: FunctionKey,
    /// Its function.
    pub place: Arc<Place>,
    /// Whether it was a call after all. If not, it only created a generator.
    pub call: bool,
}

/// A call that has not returned yet.
#[derive(Debug, Clone, Copy)]
pub struct Open<'a> {
    /// Its process.
    pub pid: u32,
    /// Its thread.
    pub tid: u32,
    /// Its name while it is open.
    pub frame: FrameId,
    /// Its function.
    pub key: FunctionKey,
    /// Its function.
    pub place: &'a Arc<Place>,
    /// The greenlet or task that it runs in.
    pub context: Option<NonZeroU64>,
    /// When it was called, in nanoseconds since the Unix epoch.
    pub since: u64,
    /// Time of its own up to the last event of its thread.
    pub self_ns: u64,
    /// Whether no other call of the function is open below it.
    pub outermost: bool,
    /// Of the call that runs, the time of the last event: what passed since then is its own time, too.
    pub runs_since: Option<u64>,
}

/// Pairs the events of any number of processes. Memory is bounded, whatever is fed.
#[derive(Debug, Default)]
pub struct Pairing {
    threads: HashMap<(u32, u32), Thread, KeyBuilder>,
    rules: HashMap<u32, PairingRules>,
    default_habits: PairingRules,
    /// Bytes of what is open in the threads.
    held: usize,
    keys: Keys,
    /// Functions that were seen to be called without returning, from 3.15 on: generators and coroutines.
    generators: HashSet<FunctionKey, KeyBuilder>,
    /// Functions that were seen to switch to another stack: something else than what they called returned next.
    switchers: HashSet<FunctionKey, KeyBuilder>,
    /// Number of losses so far: what was opened before a loss may have been closed by what was lost.
    gaps: u32,
    events: u64,
    calls: u64,
    unpaired: Unpaired,
    given_up: Vec<GivenUp>,
    revised: Vec<Revised>,
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
            default_habits: rules,
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

    /// What a first reading found out.
    pub fn into_creations(self) -> Creations {
        self.found.unwrap_or_default()
    }

    /// Says how the interpreter of one process behaves. Its children inherit that until they are given their own.
    pub fn set_rules(&mut self, pid: u32, rules: PairingRules) {
        self.rules.insert(pid, rules);
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
        self.follow(event).map(|step| step.depth)
    }

    /// As [`Pairing::feed`], with everything that views want to know.
    ///
    /// A return that has its duration already (from a recording, or from a kernel that paired it) keeps it: the call
    /// that it says is the one that ends, and if that was never seen, the kernel measured it.
    pub fn follow(&mut self, event: &mut Event) -> Option<Step<'_>> {
        self.given_up.clear();
        if self.given_up.capacity() > 2 * MAX_FRAMES {
            self.given_up = Vec::new();
        }
        self.revised.clear();
        match &event.what {
            What::Return { place, line, .. } if is_shim(place, *line) => return None,
            What::Lost { .. } => {
                self.gaps = self.gaps.wrapping_add(1);
                return Some(self.nothing());
            }
            What::Process { change, parent, .. } => {
                self.process(*change, *parent, event.pid, event.tid, event.ts);
                return Some(self.nothing());
            }
            _ => {}
        }
        self.events += 1;
        let rules = match self.rules.get(&event.pid) {
            Some(&rules) => rules,
            None => self.default_habits,
        };
        let who = (event.pid, event.tid);
        let too_many = self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&who);
        if too_many || self.held > MAX_HELD {
            self.forget_quiet_threads();
        }
        let thread = self.threads.entry(who).or_default();
        let before = thread.bytes();
        thread.last_seen = self.events;
        let ts = event.ts;
        thread.charge(ts, self.gaps);
        if let What::Call { frame, .. } | What::Return { frame, .. } = &event.what {
            thread.switch(frame.context);
        }
        let mut step = Step {
            depth: 0,
            key: None,
            entered: None,
            finished: None,
            within: None,
            given_up: &[],
            revised: &[],
            thread: None,
        };
        let mut caller = None;
        match &mut event.what {
            What::Call { place, .. }
                if self
                    .known
                    .as_ref()
                    .is_some_and(|it| it.contains(self.calls + 1)) =>
            {
                self.calls += 1;
                step.depth = thread.depth();
                step.key = Some(self.keys.of(place));
            }
            What::Call { place, frame, .. } => {
                self.calls += 1;
                thread.begin(frame.context);
                step.depth = thread.depth();
                let key = self.keys.of(place);
                caller = Some(thread.running);
                let frame = Frame {
                    id: self.calls,
                    key,
                    parent: thread.running,
                    place: Arc::clone(place),
                    ts,
                    gap: self.gaps,
                    passed_over: None,
                    context: frame.context,
                    certain: frame.manner != Manner::Running,
                    likely: true,
                    self_ns: 0,
                    covered_ns: 0,
                    called: 0,
                };
                if let Some(oldest) = thread.call(frame) {
                    give_up(&mut self.given_up, event.pid, oldest);
                }
                step.key = Some(key);
                step.entered = Some(FrameId(self.calls));
            }
            What::Return {
                place,
                duration_ns,
                frame,
                ..
            } => {
                let key = self.keys.of(place);
                step.key = Some(key);
                step.finished = Returning {
                    pid: event.pid,
                    key,
                    ts,
                    rules,
                    gap: self.gaps,
                    generators: &mut self.generators,
                    switchers: &mut self.switchers,
                    unpaired: &mut self.unpaired,
                    given_up: &mut self.given_up,
                    revised: &mut self.revised,
                    found: self.found.as_mut(),
                }
                .leave(thread, frame.context, *duration_ns);
                if duration_ns.is_none()
                    && let Some(left) = &step.finished
                    && left.exact
                {
                    *duration_ns = left.inclusive_ns;
                }
                step.depth = thread.depth();
            }
            What::GcStart { generation } => {
                push_bounded(&mut thread.collections, (*generation, ts, self.gaps));
                step.depth = thread.depth();
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
                step.depth = thread.depth();
            }
            What::Plain(plain) => {
                thread.plain(plain, ts);
                step.depth = thread.depth();
            }
            _ => step.depth = thread.depth(),
        }
        self.held = self.held + thread.bytes() - before;
        let within = caller.unwrap_or(thread.running);
        step.within = thread.frame(within).map(|frame| &frame.place);
        step.given_up = &self.given_up;
        step.revised = &self.revised;
        step.thread = Some((event.pid, event.tid, thread));
        Some(step)
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

    fn nothing(&self) -> Step<'_> {
        Step {
            depth: 0,
            key: None,
            entered: None,
            finished: None,
            within: None,
            given_up: &self.given_up,
            revised: &[],
            thread: None,
        }
    }

    /// How many frames are open in a thread now, as far as was seen.
    pub fn depth(&self, pid: u32, tid: u32) -> usize {
        self.threads.get(&(pid, tid)).map_or(0, Thread::depth)
    }

    /// Forgets one thread: for engines that see threads end.
    pub fn forget_thread(&mut self, pid: u32, tid: u32) {
        if let Some(thread) = self.threads.remove(&(pid, tid)) {
            self.held -= thread.bytes();
            for frame in thread.frames {
                give_up(&mut self.given_up, pid, frame);
            }
        }
    }

    fn forget_process(&mut self, pid: u32) {
        let (given_up, held) = (&mut self.given_up, &mut self.held);
        self.threads.retain(|&(owner, _), thread| {
            if owner == pid {
                *held -= thread.bytes();
                for frame in thread.frames.drain(..) {
                    give_up(given_up, pid, frame);
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
                if let Some(thread) = self.threads.get_mut(&(pid, tid)) {
                    thread.end(ts, self.gaps);
                }
                self.forget_thread(pid, tid);
            }
            ProcessChange::Exec | ProcessChange::Exit => {
                for ((owner, _), thread) in &mut self.threads {
                    if *owner == pid {
                        thread.end(ts, self.gaps);
                    }
                }
                self.forget_process(pid);
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
        self.threads.retain(|&(pid, _), thread| {
            let keep = thread.last_seen > median;
            if !keep {
                *held -= thread.bytes();
                for frame in thread.frames.drain(..) {
                    give_up(given_up, pid, frame);
                }
            }
            keep
        });
    }
}

/// What is open in one thread.
#[derive(Debug)]
struct Thread {
    /// Open frames, oldest first and so by ascending id, those that were passed over among them.
    frames: VecDeque<Frame>,
    passed_over: usize,
    /// Contexts were told: each has a stack of its own.
    contexts: bool,
    /// Frames that were passed over have returned later: several stacks run in this thread.
    interleaved: bool,
    /// The frame that runs since the last call or return; 0 when that is not known.
    running: u64,
    /// Time of the last event, up to which own times are accounted for, and number of losses before it.
    accounted: u64,
    accounted_gap: u32,
    /// What the last event added to the own time of the frame that ran.
    charged: u64,
    /// The last event was a return that was given to one of several frames: their function, and the caller of the
    /// chosen one.
    guessed: Option<(FunctionKey, u64)>,
    /// Open frames by the low bits of their function's key.
    buckets: Box<[u16; BUCKETS]>,
    /// Calls that the kernel measured: begin and duration, of those whose caller has not ended.
    spans: Vec<(u64, u64)>,
    /// Generation, start and number of losses before it.
    collections: Vec<(i64, u64, u32)>,
    /// What plain events said to begin and not yet to end.
    begun: Vec<Begun>,
    /// Number of the last event, to find threads that ended unseen.
    last_seen: u64,
}

impl Default for Thread {
    fn default() -> Self {
        Thread {
            frames: VecDeque::new(),
            passed_over: 0,
            contexts: false,
            interleaved: false,
            running: 0,
            accounted: 0,
            accounted_gap: 0,
            charged: 0,
            guessed: None,
            buckets: Box::new([0; BUCKETS]),
            spans: Vec::new(),
            collections: Vec::new(),
            begun: Vec::new(),
            last_seen: 0,
        }
    }
}

#[derive(Debug)]
struct Frame {
    /// Number of the call. No two frames have the same.
    id: u64,
    key: FunctionKey,
    /// Id of the frame that ran when this one was called; that may have ended since.
    parent: u64,
    place: Arc<Place>,
    ts: u64,
    /// Number of losses before the call.
    gap: u32,
    /// When a frame below returned first.
    passed_over: Option<u64>,
    /// The greenlet or task that it runs in.
    context: Option<NonZeroU64>,
    /// False when it began before tracing, and when this may be another frame of the same place than the one whose call has this time.
    certain: bool,
    /// False when it may have changed places with one that is not among its callers.
    likely: bool,
    /// Time of its own so far.
    self_ns: u64,
    /// Inclusive time of ended calls of the same function that this one had (indirectly) called.
    covered_ns: u64,
    /// Open frames that it called. One without runs, or waits for its turn.
    called: u32,
}

fn give_up(given_up: &mut Vec<GivenUp>, pid: u32, frame: Frame) {
    given_up.push(GivenUp {
        pid,
        key: frame.key,
        place: frame.place,
        context: frame.context,
        self_ns: frame.self_ns,
        cumulative_ns: frame.covered_ns,
    });
}

/// Something that a plain event said to begin.
#[derive(Debug)]
struct Begun {
    probe: Probe,
    subject: Option<Arc<Text>>,
    ts: u64,
}

impl Thread {
    /// Notes what begins, and gives what ends its duration.
    fn plain(&mut self, plain: &mut Plain, ts: u64) {
        match plain.phase() {
            Phase::Single => {}
            Phase::Start => {
                let subject = plain.subject().map(Arc::clone);
                let probe = plain.probe;
                push_bounded(&mut self.begun, Begun { probe, subject, ts });
            }
            Phase::Done(start) => {
                let same = |it: &Begun| it.probe == start && it.subject.as_ref() == plain.subject();
                let Some(index) = self.begun.iter().rposition(same) else {
                    return;
                };
                let began = self.begun.get(index).map(|it| it.ts);
                plain.duration_ns = began.and_then(|began| ts.checked_sub(began));
                // These nest strictly: what began later and has not ended was lost.
                let mut place = 0;
                self.begun.retain(|it| {
                    place += 1;
                    place <= index || it.probe != start
                });
            }
        }
    }

    /// Bytes of what grows in it. Room that it keeps for later counts as well.
    fn bytes(&self) -> usize {
        self.frames.capacity() * size_of::<Frame>()
            + self.spans.capacity() * size_of::<(u64, u64)>()
            + self.collections.capacity() * size_of::<(i64, u64, u32)>()
            + self.begun.capacity() * size_of::<Begun>()
    }

    fn depth(&self) -> usize {
        if !self.contexts {
            return self.frames.len() - self.passed_over;
        }
        let mut next = self.index_of(self.running);
        let mut depth = 0;
        while let Some(index) = next {
            depth += 1;
            next = self.parent_of(index);
        }
        depth
    }

    /// What runs is in this context from now on.
    fn switch(&mut self, context: Option<NonZeroU64>) {
        self.contexts |= context.is_some();
        if !self.contexts
            || self
                .frame(self.running)
                .is_some_and(|it| it.context == context)
        {
            return;
        }
        let last = self.frames.iter().rev().find(|it| it.context == context);
        if let Some(last) = last {
            self.running = last.id;
        }
    }

    /// A call is made in this context. Its first frame was called by none of another context: that one waits, and did not
    /// call it. Outside of all contexts runs the loop that calls tasks.
    fn begin(&mut self, context: Option<NonZeroU64>) {
        if self.contexts
            && let Some(frame) = self.frame(self.running)
            && frame.context.is_some()
            && frame.context != context
        {
            self.running = 0;
        }
    }

    /// Gives the time since the last event to the frame that ran.
    fn charge(&mut self, ts: u64, gap: u32) {
        let since = std::mem::replace(&mut self.accounted, ts);
        let known = std::mem::replace(&mut self.accounted_gap, gap) == gap;
        // Who ran while events were lost is anybody's guess, and a clock that steps back measures nothing.
        let elapsed = ts.saturating_sub(since);
        self.charged = 0;
        if known
            && elapsed > 0
            && let Some(index) = self.index_of(self.running)
            && let Some(frame) = self.frames.get_mut(index)
        {
            frame.self_ns = frame.self_ns.saturating_add(elapsed);
            self.charged = elapsed;
        }
    }

    /// It ends here, and with it what was called and never returned.
    fn end(&mut self, ts: u64, gap: u32) {
        self.charge(ts, gap);
        for index in 0..self.frames.len() {
            let covered = self.outer(index).is_some();
            if let Some(frame) = self.frames.get_mut(index)
                && frame.passed_over.is_none()
                && frame.gap == gap
            {
                // What an outer call of the same function lasts covers this one.
                frame.covered_ns = match covered {
                    true => 0,
                    false => ts.saturating_sub(frame.ts),
                };
            }
        }
    }

    /// Opens a frame, and answers the one that had to go for it.
    fn call(&mut self, frame: Frame) -> Option<Frame> {
        if let Some(caller) = self.index_of(self.running)
            && let Some(caller) = self.frames.get_mut(caller)
        {
            caller.called += 1;
        }
        self.running = frame.id;
        self.guessed = None;
        // Forgetting the innermost instead would make deep recursion match the wrong frames.
        let forgotten = if self.frames.len() >= MAX_FRAMES {
            self.frames.pop_front()
        } else {
            None
        };
        if let Some(oldest) = &forgotten {
            self.passed_over -= usize::from(oldest.passed_over.is_some());
            self.count(oldest.key, false);
        }
        self.count(frame.key, true);
        self.frames.push_back(frame);
        forgotten
    }

    fn take(&mut self, index: usize) -> Option<Frame> {
        if let Some(caller) = self.parent_of(index)
            && let Some(caller) = self.frames.get_mut(caller)
        {
            caller.called = caller.called.saturating_sub(1);
        }
        let frame = self.frames.remove(index)?;
        self.passed_over -= usize::from(frame.passed_over.is_some());
        self.count(frame.key, false);
        // What a deep recursion took is given back when it is over.
        let room = self.frames.capacity();
        if room > 64 && self.frames.len() < room / 8 {
            self.frames.shrink_to(room / 4);
        }
        Some(frame)
    }

    fn count(&mut self, key: FunctionKey, opened: bool) {
        if let Some(bucket) = self.buckets.get_mut(key.bucket(BUCKETS)) {
            *bucket = if opened {
                bucket.wrapping_add(1)
            } else {
                bucket.wrapping_sub(1)
            };
        }
    }

    /// The position of a frame by its id, mostly the last.
    fn index_of(&self, id: u64) -> Option<usize> {
        if id == 0 {
            return None;
        }
        let last = self.frames.len().checked_sub(1)?;
        if self.frames.get(last)?.id == id {
            return Some(last);
        }
        self.frames.binary_search_by_key(&id, |frame| frame.id).ok()
    }

    fn frame(&self, id: u64) -> Option<&Frame> {
        self.frames.get(self.index_of(id)?)
    }

    /// The position of a frame's caller, mostly the one before.
    fn parent_of(&self, index: usize) -> Option<usize> {
        let parent = self.frames.get(index)?.parent;
        let before = index.checked_sub(1)?;
        if self.frames.get(before)?.id == parent {
            return Some(before);
        }
        self.index_of(parent)
    }

    /// What runs when a frame, taken from a position, has ended: its caller. When that has ended before it, which
    /// only another stack can do, the next frame that waits there.
    fn resumed_after(&self, ended: &Frame, index: usize) -> u64 {
        if ended.parent == 0 || self.index_of(ended.parent).is_some() {
            return ended.parent;
        }
        let below = self.frames.iter().take(index).rev();
        below
            .filter(|frame| frame.passed_over.is_none())
            .map(|frame| frame.id)
            .next()
            .unwrap_or(0)
    }

    /// The nearest frame of the same function among the callers of a frame.
    fn outer(&self, index: usize) -> Option<usize> {
        let key = self.frames.get(index)?.key;
        if self.buckets.get(key.bucket(BUCKETS)) == Some(&1) {
            return None;
        }
        let mut at = index;
        while let Some(parent) = self.parent_of(at) {
            if self.frames.get(parent)?.key == key {
                return Some(parent);
            }
            at = parent;
        }
        None
    }

    fn open(&self, pid: u32, tid: u32, index: usize) -> Option<Open<'_>> {
        let frame = self.frames.get(index)?;
        Some(Open {
            pid,
            tid,
            frame: FrameId(frame.id),
            key: frame.key,
            place: &frame.place,
            context: frame.context,
            since: frame.ts,
            self_ns: frame.self_ns,
            outermost: self.outer(index).is_none(),
            runs_since: (frame.id == self.running).then_some(self.accounted),
        })
    }

    /// The nearest open frame of a function, passed over or not: to prefer one that was not would make a frame that
    /// was passed over by mistake end an older call of the same function.
    fn nearest(&self, key: FunctionKey) -> Option<usize> {
        if self.buckets.get(key.bucket(BUCKETS)) == Some(&0) {
            return None;
        }
        self.frames.iter().rposition(|frame| frame.key == key)
    }

    /// A return that does not fit what runs shows that the guess before it was wrong. If a caller of the function that
    /// returns now has an open call of the function that was guessed about, that is the one that ended: the two change
    /// places. `known` is the frame that returns where that is known.
    fn correct(&mut self, key: FunctionKey, known: Option<usize>) -> Option<usize> {
        let (guessed, chosen) = self.guessed?;
        let (called, caller) = (0..self.frames.len()).find_map(|called| {
            let caller = self.parent_of(called)?;
            // Callers are older than what they call: else lines of callers could run in circles.
            let fits = self.frames.get(called)?.key == guessed
                && self.frames.get(called)?.id > chosen
                && self.frames.get(caller)?.key == key
                && known.is_none_or(|known| known == caller);
            fits.then_some((called, caller))
        })?;
        self.frames.get_mut(called)?.parent = chosen;
        let charged = self.charged;
        if let Some(chosen) = self.index_of(chosen).and_then(|at| self.frames.get_mut(at)) {
            chosen.called += 1;
            chosen.self_ns = chosen.self_ns.saturating_sub(charged);
        }
        let ended = self.frames.get_mut(caller)?;
        ended.called = ended.called.saturating_sub(1);
        ended.self_ns = ended.self_ns.saturating_add(charged);
        Some(caller)
    }

    fn runs(&self, index: usize) -> bool {
        self.frames
            .get(index)
            .is_some_and(|frame| frame.id == self.running)
    }

    /// The frame that most likely returns where several stacks interleave: the one that runs, else of those that wait
    /// for their turn the one that waits longest, as schedulers have it. And whether that corrected an earlier guess.
    fn likeliest(&mut self, key: FunctionKey) -> Option<(usize, bool)> {
        let running = self.index_of(self.running);
        if let Some(index) = running
            && self.frames.get(index)?.key == key
        {
            return Some((index, false));
        }
        if self.buckets.get(key.bucket(BUCKETS)) == Some(&0) {
            return None;
        }
        if let Some(index) = self.correct(key, None) {
            return Some((index, true));
        }
        let waits = |frame: &Frame| frame.key == key && frame.called == 0;
        let waiting = self.frames.iter().position(waits);
        Some((waiting.or_else(|| self.nearest(key))?, false))
    }

    /// Removes frames for which `keep` says so; who was called by one of them is from then on called by its caller.
    fn forget(&mut self, mut keep: impl FnMut(usize, &Frame) -> bool, mut gone: impl FnMut(Frame)) {
        let mut moved: HashMap<u64, u64, KeyBuilder> = HashMap::default();
        let frames = std::mem::take(&mut self.frames);
        for (index, mut frame) in frames.into_iter().enumerate() {
            if let Some(&grandparent) = moved.get(&frame.parent) {
                frame.parent = grandparent;
            }
            if keep(index, &frame) {
                self.frames.push_back(frame);
            } else {
                moved.insert(frame.id, frame.parent);
                self.count(frame.key, false);
                gone(frame);
            }
        }
        if let Some(&parent) = moved.get(&self.running) {
            self.running = parent;
        }
        let mut called: HashMap<u64, u32, KeyBuilder> = HashMap::default();
        for frame in &self.frames {
            *called.entry(frame.parent).or_default() += 1;
        }
        for frame in &mut self.frames {
            frame.called = called.get(&frame.id).copied().unwrap_or(0);
        }
        self.passed_over = self
            .frames
            .iter()
            .filter(|frame| frame.passed_over.is_some())
            .count();
    }

    fn forget_passed_over(&mut self, now: u64, gone: impl FnMut(Frame)) {
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
        self.forget(
            |_, frame| {
                let keep = frame.passed_over.is_none() || (forget == 0 && !too_old(frame));
                if !keep {
                    forget = forget.saturating_sub(1);
                }
                keep
            },
            gone,
        );
    }

    /// A call that the kernel measured, from `begin` for `duration`: calls that it made have been reported before it.
    fn measured(&mut self, begin: u64, duration: u64) -> FinishedCall {
        let mut inner: u64 = 0;
        while let Some(&(since, took)) = self.spans.last()
            && since >= begin
        {
            self.spans.pop();
            inner = inner.saturating_add(took);
        }
        push_bounded_to(&mut self.spans, (begin, duration), MAX_SPANS);
        FinishedCall {
            inclusive_ns: Some(duration),
            exact: true,
            likely: true,
            self_ns: duration.saturating_sub(inner),
            cumulative_ns: duration,
            outermost: true,
            measured: true,
        }
    }
}

/// One return on its way to its call.
struct Returning<'a> {
    pid: u32,
    key: FunctionKey,
    ts: u64,
    rules: PairingRules,
    gap: u32,
    generators: &'a mut HashSet<FunctionKey, KeyBuilder>,
    switchers: &'a mut HashSet<FunctionKey, KeyBuilder>,
    unpaired: &'a mut Unpaired,
    given_up: &'a mut Vec<GivenUp>,
    revised: &'a mut Vec<Revised>,
    found: Option<&'a mut Creations>,
}

impl Returning<'_> {
    /// Closes the frame that returns. `known` is its duration where somebody has paired it before.
    fn leave(
        mut self,
        thread: &mut Thread,
        context: Option<NonZeroU64>,
        known: Option<u64>,
    ) -> Option<FinishedCall> {
        if thread.contexts {
            return self.leave_context(thread, context, known);
        }
        // Nearly always the frame on top returns, and nothing needs to be looked for.
        let top = thread.frames.len().checked_sub(1);
        let plain = thread.frames.back().is_some_and(|frame| {
            frame.passed_over.is_none()
                && frame.id == thread.running
                && frame.key == self.key
                && known.is_none_or(|took| self.took(frame) == Some(took))
        });
        let ran = thread.frame(thread.running).map(|it| (it.key, it.gap));
        let mut corrected = false;
        let index = match known {
            _ if plain => top,
            None if self.rules.greenlets || thread.interleaved => {
                let likeliest = thread.likeliest(self.key);
                corrected = likeliest.is_some_and(|(_, corrected)| corrected);
                likeliest.map(|(index, _)| index)
            }
            None => thread.nearest(self.key),
            Some(took) => {
                let said = thread
                    .frames
                    .iter()
                    .rposition(|frame| frame.key == self.key && self.took(frame) == Some(took));
                if said.is_none() {
                    let begin = self.ts.saturating_sub(took);
                    return Some(thread.measured(begin, took));
                }
                if let Some(index) = said
                    && (self.rules.greenlets || thread.interleaved)
                    && !thread.runs(index)
                {
                    thread.correct(self.key, said);
                }
                said
            }
        };
        let Some(index) = index else {
            self.unpaired.returns += 1;
            self.other_stack(thread);
            if thread.interleaved || self.rules.greenlets {
                self.learn_switch(ran, corrected);
            }
            return None;
        };
        let was_passed_over = thread.frames.get(index)?.passed_over.is_some();
        if !plain && !was_passed_over {
            if known.is_none() && self.must_wait(thread, index) {
                self.unpaired.returns += 1;
                return None;
            }
            self.pass_over(thread, index);
        }
        // What was lost may have gone from above the frame, never from below it.
        let (alone, in_line) = self.settle_ambiguity(thread, index);
        let outer = thread.outer(index);
        let frame = thread.take(index)?;
        thread.running = thread.resumed_after(&frame, index);
        if !plain {
            let (pid, given_up) = (self.pid, &mut *self.given_up);
            thread.forget_passed_over(self.ts, |gone| give_up(given_up, pid, gone));
        }
        let stacks = thread.interleaved || self.rules.greenlets;
        thread.guessed = stacks.then_some((self.key, frame.parent));
        if !plain && stacks {
            self.learn_switch(ran, corrected);
        }
        let mut summed = true;
        let mut trusted = alone;
        if was_passed_over {
            self.unpaired.calls = self.unpaired.calls.saturating_sub(1);
            // It returned after all, so it need not have been a creation.
            self.generators.remove(&self.key);
            if self.creations_count() {
                self.revised.push(Revised {
                    pid: self.pid,
                    key: self.key,
                    place: Arc::clone(&frame.place),
                    call: true,
                });
            }
            if let Some(found) = &mut self.found {
                found.set(frame.id, false);
            }
            summed = self.rules.greenlets || !self.rules.call_on_creation;
            trusted &= summed;
        }
        let exact = known.is_some() || (trusted && frame.certain);
        let inclusive_ns = if exact || (summed && stacks) {
            known.or_else(|| self.took(&frame))
        } else {
            None
        };
        let mut cumulative_ns = inclusive_ns.unwrap_or(frame.covered_ns);
        let outermost = outer.is_none();
        if let Some(outer) = outer
            && let Some(outer) = thread.frames.get_mut(outer)
        {
            outer.covered_ns = outer.covered_ns.saturating_add(cumulative_ns);
            cumulative_ns = 0;
        }
        let exact = exact && inclusive_ns.is_some();
        Some(FinishedCall {
            inclusive_ns,
            exact,
            likely: exact || (in_line && frame.likely && inclusive_ns.is_some()),
            self_ns: frame.self_ns,
            cumulative_ns,
            outermost,
            measured: false,
        })
    }

    /// The same where contexts are told: the nearest frame of the function in its context returns, the one that its duration
    /// says where that is known. When there is none of that duration, the kernel measured the call.
    fn leave_context(
        self,
        thread: &mut Thread,
        context: Option<NonZeroU64>,
        known: Option<u64>,
    ) -> Option<FinishedCall> {
        let found = thread.frames.iter().rposition(|frame| {
            frame.key == self.key
                && frame.context == context
                && known.is_none_or(|took| self.took(frame) == Some(took))
        });
        let Some(index) = found else {
            if let Some(took) = known {
                return Some(thread.measured(self.ts.saturating_sub(took), took));
            }
            self.unpaired.returns += 1;
            return None;
        };
        // What is above it in its context has returned unseen: events were lost.
        let above = |at: usize, frame: &Frame| at > index && frame.context == context;
        let mut frames = thread.frames.iter().enumerate();
        if frames.any(|(at, frame)| above(at, frame)) {
            let (pid, given_up, unpaired) = (self.pid, self.given_up, self.unpaired);
            thread.forget(
                |at, frame| !above(at, frame),
                |gone| {
                    unpaired.calls += 1;
                    give_up(given_up, pid, gone);
                },
            );
        }
        let outer = thread.outer(index);
        let frame = thread.take(index)?;
        thread.running = match thread.index_of(frame.parent) {
            Some(_) => frame.parent,
            None => 0,
        };
        let took = self.ts.checked_sub(frame.ts);
        let exact = known.is_some() || (frame.certain && frame.gap == self.gap);
        let inclusive_ns = if exact { known.or(took) } else { None };
        let mut cumulative_ns = inclusive_ns.unwrap_or(frame.covered_ns);
        let outermost = outer.is_none();
        if let Some(outer) = outer
            && let Some(outer) = thread.frames.get_mut(outer)
        {
            outer.covered_ns = outer.covered_ns.saturating_add(cumulative_ns);
            cumulative_ns = 0;
        }
        Some(FinishedCall {
            inclusive_ns,
            exact: inclusive_ns.is_some(),
            likely: inclusive_ns.is_some(),
            self_ns: frame.self_ns,
            cumulative_ns,
            outermost,
            measured: false,
        })
    }

    /// A return whose call was not seen, while calls that were seen have not returned: it is from another stack, which
    /// had begun before tracing did. Where calls may stay open or go missing, it proves nothing.
    fn other_stack(&self, thread: &mut Thread) {
        let every_call_returns = !self.rules.call_on_creation && self.gap == 0;
        thread.interleaved |= every_call_returns && thread.index_of(thread.running).is_some();
        if thread.interleaved || self.rules.greenlets {
            thread.running = 0;
            thread.guessed = None;
        }
    }

    fn took(&self, frame: &Frame) -> Option<u64> {
        self.ts.checked_sub(frame.ts)
    }

    /// Whether this is a generator's return without a call: a plain function that was called later is still open,
    /// and would have to return first.
    fn must_wait(&self, thread: &Thread, index: usize) -> bool {
        self.creations_count()
            && self.generators.contains(&self.key)
            && thread.frames.iter().skip(index + 1).any(|above| {
                above.passed_over.is_none()
                    && above.gap == self.gap
                    && !self.generators.contains(&above.key)
            })
    }

    /// Marks what is above the frame that returns. What was called before a loss is not kept: its return was lost.
    fn pass_over(&mut self, thread: &mut Thread, index: usize) {
        let learn = self.creations_count();
        let mut lost = false;
        // From the top, so that what is taken for a creation hands its time down as often as needed.
        for at in (index + 1..thread.frames.len()).rev() {
            let Some(frame) = thread.frames.get_mut(at) else {
                continue;
            };
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
            thread.interleaved |= !self.rules.call_on_creation;
            if learn {
                if self.generators.len() < MAX_GENERATORS {
                    self.generators.insert(frame.key);
                }
                if let Some(found) = &mut self.found {
                    found.set(frame.id, true);
                }
                self.undo_creation(thread, at);
            }
        }
        if lost {
            let (gap, pid, given_up) = (self.gap, self.pid, &mut *self.given_up);
            thread.forget(
                |at, frame| at <= index || frame.passed_over.is_none() || frame.gap == gap,
                |gone| give_up(given_up, pid, gone),
            );
        }
    }

    /// The creation of a generator ran no code: what passed since then was its creator's time, and what the
    /// generator's function spent in calls since then is covered by no outer call.
    fn undo_creation(&mut self, thread: &mut Thread, at: usize) {
        let (outer, parent) = (thread.outer(at), thread.parent_of(at));
        let Some(frame) = thread.frames.get_mut(at) else {
            return;
        };
        let (self_ns, covered_ns) = (
            std::mem::take(&mut frame.self_ns),
            std::mem::take(&mut frame.covered_ns),
        );
        self.revised.push(Revised {
            pid: self.pid,
            key: frame.key,
            place: Arc::clone(&frame.place),
            call: false,
        });
        let mut left_over = GivenUp {
            pid: self.pid,
            key: frame.key,
            place: Arc::clone(&frame.place),
            context: frame.context,
            self_ns,
            cumulative_ns: covered_ns,
        };
        if let Some(creator) = parent.and_then(|parent| thread.frames.get_mut(parent)) {
            creator.self_ns = creator.self_ns.saturating_add(self_ns);
            left_over.self_ns = 0;
        }
        if let Some(outer) = outer.and_then(|outer| thread.frames.get_mut(outer)) {
            outer.covered_ns = outer.covered_ns.saturating_add(covered_ns);
            left_over.cumulative_ns = 0;
        }
        if left_over.self_ns > 0 || left_over.cumulative_ns > 0 {
            self.given_up.push(left_over);
        }
    }

    /// Something else than the function that ran returns: it has switched to another stack. Not where it turned out
    /// that another frame ran, and not across a loss.
    fn learn_switch(&mut self, ran: Option<(FunctionKey, u32)>, corrected: bool) {
        if let Some((key, gap)) = ran
            && key != self.key
            && gap == self.gap
            && !corrected
            && self.switchers.len() < MAX_GENERATORS
        {
            self.switchers.insert(key);
        }
    }

    /// Whether the frame that returns is beyond doubt, and whether it is so by the lines of callers. What it may have
    /// been exchanged with is in doubt from now on.
    fn settle_ambiguity(&self, thread: &mut Thread, index: usize) -> (bool, bool) {
        let stacks = thread.interleaved || self.rules.greenlets;
        let generator = self.creations_count() && self.generators.contains(&self.key);
        if !stacks && !generator {
            return (true, true);
        }
        if thread.buckets.get(self.key.bucket(BUCKETS)) == Some(&1) {
            return (true, true);
        }
        let in_line = stacks && !generator && self.all_are_callers(thread, index);
        let mut alone = true;
        for (at, frame) in thread.frames.iter_mut().enumerate() {
            if at != index && frame.key == self.key {
                frame.certain = false;
                frame.likely &= in_line;
                alone = false;
            }
        }
        // The nearest call of a generator is the resumption that now ends; only its other calls are in doubt.
        (alone || !stacks, alone || in_line)
    }

    /// Whether all other open frames of the function that returns are among its callers, with nothing between them that
    /// switches stacks: a recursion. Until switches were seen, every line of callers is in doubt.
    fn all_are_callers(&self, thread: &Thread, index: usize) -> bool {
        if self.switchers.is_empty() || self.switchers.contains(&self.key) {
            return false;
        }
        let open = thread.frames.iter().filter(|it| it.key == self.key).count();
        let (mut met, mut at) = (1, index);
        while met < open {
            let Some(caller) = thread.parent_of(at) else {
                return false;
            };
            at = caller;
            match thread.frames.get(at).map(|it| it.key) {
                Some(key) if key == self.key => met += 1,
                Some(key) if self.switchers.contains(&key) => return false,
                _ => {}
            }
        }
        true
    }

    fn creations_count(&self) -> bool {
        self.rules.call_on_creation && !self.rules.greenlets
    }
}

/// CPython 3.15 runs a hot `C()` through a piece of code of its own and marks that one's return.
fn is_shim(place: &Place, line: i32) -> bool {
    line == -1 && place.function.text == "__init__" && place.file.text == "__init__"
}

fn push_bounded<T>(open: &mut Vec<T>, item: T) {
    push_bounded_to(open, item, MAX_NESTED);
}

fn push_bounded_to<T>(open: &mut Vec<T>, item: T, most: usize) {
    if open.len() >= most {
        // Half at a time: whoever has as much open will go on.
        open.drain(..most / 2);
    }
    open.push(item);
}

#[cfg(test)]
#[path = "pairing_tests.rs"]
mod tests;
