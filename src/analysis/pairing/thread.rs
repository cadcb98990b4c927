//! What is open in one thread: its frames, which of them runs, and who called whom.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;

use super::bounded;
use super::calls::{FinishedCall, FrameId, GivenUp, Open};
use super::fields::KeptFields;
use super::kinds::{Around, Entered, Entry, Within};
use super::plain::Begun;
use crate::analysis::keys::{FunctionKey, KeyBuilder, NameKey};
use crate::analysis::overhead::{Edge, Intervals};
use crate::event::Place;

/// Open frames kept of one thread; the outermost are forgotten beyond that. Thousands of greenlets that wait have a dozen
/// each. All threads together have a bound of their own.
pub(super) const MAX_FRAMES: usize = 1 << 15;
/// Of these, frames that were passed over and are taken for creations of generators; the oldest are forgotten beyond that.
pub(super) const MAX_PASSED_OVER: usize = 512;
/// How long a frame that was passed over is kept, in nanoseconds of event time.
pub(super) const PASSED_OVER_FOR_NS: u64 = 600_000_000_000;
/// Finished calls that the kernel measured and whose callers may still finish.
const MAX_SPANS: usize = 4096;
/// Buckets in which open frames are counted by function, to see at a glance that nothing recurs.
pub(super) const BUCKETS: usize = 1024;

/// What is open in one thread.
#[derive(Debug)]
pub(super) struct Thread {
    /// Open frames, oldest first and so by ascending id, those that were passed over among them.
    pub(super) frames: VecDeque<Frame>,
    pub(super) passed_over: usize,
    /// Contexts are told, as pystap's agent does: each has a stack of its own.
    pub(super) contexts: bool,
    /// Frames that were passed over have returned later: several stacks run in this thread.
    pub(super) interleaved: bool,
    last: Last,
    /// The frame that runs since the last call or return; 0 when that is not known.
    pub(super) running: u64,
    /// Time of the last event, up to which own times are accounted for, and number of losses before it.
    pub(super) accounted: u64,
    pub(super) accounted_gap: u32,
    /// What the last event was to the time around it.
    edge: Edge,
    /// What the last event added to the own time of the frame that ran.
    charged: u64,
    charged_intervals: Intervals,
    /// Intervals between two events that were measured so far.
    pub(super) intervals: Intervals,
    /// The last event was a return that was given to one of several frames: their function, and the caller of the
    /// chosen one.
    pub(super) guessed: Option<(NameKey, u64)>,
    /// Open frames by the low bits of the keys of their names.
    pub(super) buckets: Box<[u16; BUCKETS]>,
    /// Calls that the kernel measured: begin and duration, of those whose caller has not ended.
    pub(super) spans: Vec<(u64, u64)>,
    /// Generation, start and number of losses before it.
    pub(super) collections: Vec<(i64, u64, u32)>,
    /// What plain events said to begin and not yet to end.
    pub(super) begun: Vec<Begun>,
    /// Its bytes when they were last counted among those of all threads.
    pub(super) counted: usize,
    /// Number of the last event, to find threads that ended unseen.
    pub(super) last_seen: u64,
}

impl Default for Thread {
    fn default() -> Self {
        Thread {
            frames: VecDeque::new(),
            passed_over: 0,
            contexts: false,
            interleaved: false,
            last: Last::default(),
            running: 0,
            accounted: 0,
            accounted_gap: 0,
            edge: Edge::Ends,
            charged: 0,
            charged_intervals: Intervals::NONE,
            intervals: Intervals::NONE,
            guessed: None,
            buckets: Box::new([0; BUCKETS]),
            spans: Vec::new(),
            collections: Vec::new(),
            begun: Vec::new(),
            counted: 0,
            last_seen: 0,
        }
    }
}

/// The last frames of contexts, as far as they are known without looking. Nearly always it is the context of the event
/// before that is asked for.
#[derive(Debug, Default)]
struct Last {
    /// The context that was asked for last, and its last frame; 0 when that is not known.
    context: Option<NonZeroU64>,
    frame: u64,
    /// Those of the others.
    others: HashMap<Option<NonZeroU64>, u64, KeyBuilder>,
}

impl Last {
    #[inline]
    fn of(&mut self, context: Option<NonZeroU64>) -> Option<u64> {
        if self.context != context {
            self.turn_to(context);
        }
        (self.frame != 0).then_some(self.frame)
    }

    /// 0 for none.
    #[inline]
    fn set(&mut self, context: Option<NonZeroU64>, frame: u64) {
        if self.context != context {
            self.turn_to(context);
        }
        self.frame = frame;
    }

    fn turn_to(&mut self, context: Option<NonZeroU64>) {
        let frame = self.others.remove(&context).unwrap_or(0);
        let before = std::mem::replace(&mut self.frame, frame);
        let context = std::mem::replace(&mut self.context, context);
        if before != 0 {
            self.others.insert(context, before);
        }
    }

    fn clear(&mut self) {
        self.frame = 0;
        self.others.clear();
    }

    fn bytes(&self) -> usize {
        self.others.capacity() * size_of::<(Option<NonZeroU64>, u64)>()
    }
}

/// One call that is open.
#[derive(Debug)]
pub(super) struct Frame {
    /// Number of the call. No two frames have the same.
    pub(super) id: u64,
    pub(super) name: NameKey,
    pub(super) key: FunctionKey,
    /// The line that its call was told with.
    pub(super) line: i32,
    /// Id of the frame that ran when this one was called; that may have ended since.
    pub(super) parent: u64,
    pub(super) place: Arc<Place>,
    pub(super) ts: u64,
    /// Number of losses before the call.
    pub(super) gap: u32,
    /// When a frame below returned first.
    pub(super) passed_over: Option<u64>,
    /// The greenlet or task that it runs in.
    pub(super) context: Option<NonZeroU64>,
    /// False when it began before tracing, and when this may be another frame of the same place than the one whose call has this time.
    pub(super) certain: bool,
    /// Whether it began before tracing: how long it lasts is known from there on.
    pub(super) was_running: bool,
    /// False when it may have changed places with one that is not among its callers.
    pub(super) likely: bool,
    /// What it was, where creations of generators look like calls; and what of its function has returned within it.
    pub(super) entry: Entry,
    pub(super) within: Within,
    /// Time of its own so far, and the intervals between events that it is the sum of.
    pub(super) self_ns: u64,
    pub(super) self_intervals: Intervals,
    /// Inclusive time of ended calls of the same function that this one had (indirectly) called, and the intervals in it.
    pub(super) covered_ns: u64,
    pub(super) covered_intervals: Intervals,
    /// Intervals of the thread before the call.
    pub(super) intervals_before: Intervals,
    /// Open frames that it called. One without runs, or waits for its turn.
    pub(super) called: u32,
    /// Where contexts are told: the last frame of its context before it, or for the first one, what ran when its context
    /// began. That runs again when it has ended and nobody called it.
    pub(super) before: u64,
    /// What its return has of its call.
    pub(super) fields: Option<KeptFields>,
    /// Whether the call told fields for which there was no room.
    pub(super) lacks_fields: bool,
}

/// What a return has of its call.
#[derive(Debug)]
pub(super) struct OfCall {
    /// Its fields, with its place.
    pub(super) fields: Option<(KeptFields, Arc<Place>)>,
    /// Whether that is all that it told: it was seen to begin, and its fields had room.
    pub(super) is_whole: bool,
}

pub(super) fn give_up(given_up: &mut Vec<GivenUp>, (pid, tid): (u32, u32), frame: Frame) {
    given_up.push(GivenUp {
        pid,
        tid,
        frame: FrameId(frame.id),
        caller: FrameId(frame.parent),
        key: frame.key,
        place: frame.place,
        context: frame.context,
        self_ns: frame.self_ns,
        self_intervals: frame.self_intervals,
        cumulative_ns: frame.covered_ns,
        cumulative_intervals: frame.covered_intervals,
        by_bound: false,
    });
}

/// The same because of a bound.
pub(super) fn give_up_by_bound(given_up: &mut Vec<GivenUp>, whose: (u32, u32), frame: Frame) {
    give_up(given_up, whose, frame);
    if let Some(last) = given_up.last_mut() {
        last.by_bound = true;
    }
}

impl Frame {
    /// What its return has of its call.
    pub(super) fn taken(&mut self) -> OfCall {
        let fields = self.fields.take();
        OfCall {
            fields: fields.map(|fields| (fields, Arc::clone(&self.place))),
            is_whole: !self.was_running && !self.lacks_fields,
        }
    }

    pub(super) fn entered(&self) -> Entered<'_> {
        Entered {
            place: &self.place,
            name: self.name,
            key: self.key,
            line: self.line,
        }
    }
}

impl Thread {
    /// Bytes of what grows in it. Room that it keeps for later counts as well.
    #[inline]
    pub(super) fn bytes(&self) -> usize {
        self.frames.capacity() * size_of::<Frame>()
            + self.spans.capacity() * size_of::<(u64, u64)>()
            + self.collections.capacity() * size_of::<(i64, u64, u32)>()
            + self.begun.capacity() * size_of::<Begun>()
            + self.last.bytes()
    }

    #[inline]
    pub(super) fn depth(&self) -> usize {
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

    /// What runs is in this context from now on. `told` where it would be said if it were in another.
    #[inline]
    pub(super) fn switch(&mut self, context: Option<NonZeroU64>, told: bool) {
        self.contexts |= told || context.is_some();
        if !self.contexts
            || self
                .frame(self.running)
                .is_some_and(|it| it.context == context)
        {
            return;
        }
        if let Some(last) = self.last_of(context) {
            self.running = last;
        }
    }

    /// The last frame of a context.
    pub(super) fn last_of(&mut self, context: Option<NonZeroU64>) -> Option<u64> {
        if let Some(last) = self.last.of(context) {
            return Some(last);
        }
        let last = self.frames.iter().rev().find(|it| it.context == context);
        let last = last?.id;
        self.last.set(context, last);
        Some(last)
    }

    /// The frame of a function that returns in a context: its last one as a rule.
    pub(super) fn returning(
        &mut self,
        name: NameKey,
        context: Option<NonZeroU64>,
    ) -> Option<usize> {
        let last = self.last_of(context).and_then(|id| self.index_of(id))?;
        let fits = |frame: &Frame| frame.name == name && frame.context == context;
        match self.frames.get(last).is_some_and(fits) {
            true => Some(last),
            false => self.frames.iter().take(last).rposition(fits),
        }
    }

    /// A call is made in this context. Its first frame was called by none of another context: that one waits, and did not
    /// call it. Answers the frame of that one which ran until now: most likely it goes on when the new context ends, as a
    /// task does that runs a greenlet, or a greenlet that begins another. Outside of all contexts runs the loop that calls
    /// tasks. What `was_running` there before anybody looked was there before the others, which end with it: when it returns,
    /// nothing runs.
    #[inline]
    pub(super) fn begin(&mut self, context: Option<NonZeroU64>, was_running: bool) -> u64 {
        if self.contexts
            && let Some(frame) = self.frame(self.running)
            && frame.context.is_some()
            && frame.context != context
        {
            let interrupted = std::mem::replace(&mut self.running, 0);
            return match context.is_none() && was_running {
                true => 0,
                false => interrupted,
            };
        }
        0
    }

    /// Gives the time since the last event to the frame that ran, as an interval that this one ends.
    #[inline]
    pub(super) fn charge(&mut self, ts: u64, gap: u32, edge: Edge) {
        let last = std::mem::replace(&mut self.edge, edge);
        self.account(ts, gap, Intervals::between(last, edge));
    }

    /// Gives the time since the last event to the frame that ran, as so many intervals.
    #[inline]
    fn account(&mut self, ts: u64, gap: u32, intervals: Intervals) {
        let since = std::mem::replace(&mut self.accounted, ts);
        let known = std::mem::replace(&mut self.accounted_gap, gap) == gap;
        // Who ran while events were lost is anybody's guess, and a clock that steps back measures nothing.
        let elapsed = ts.saturating_sub(since);
        (self.charged, self.charged_intervals) = (0, Intervals::NONE);
        if !known || elapsed == 0 {
            return;
        }
        self.intervals += intervals;
        if let Some(index) = self.index_of(self.running)
            && let Some(frame) = self.frames.get_mut(index)
        {
            frame.self_ns = frame.self_ns.saturating_add(elapsed);
            frame.self_intervals += intervals;
            (self.charged, self.charged_intervals) = (elapsed, intervals);
        }
    }

    /// It ends here, and with it what was called and never returned.
    pub(super) fn end(&mut self, ts: u64, gap: u32) {
        // The kernel told it, and that cost the thread no event.
        self.account(ts, gap, Intervals::NONE);
        let intervals = self.intervals;
        for index in 0..self.frames.len() {
            let covered = self.outer(index).is_some();
            if let Some(frame) = self.frames.get_mut(index)
                && frame.passed_over.is_none()
                && frame.gap == gap
            {
                // What an outer call of the same function lasts covers this one.
                (frame.covered_ns, frame.covered_intervals) = match covered {
                    true => (0, Intervals::NONE),
                    false => (
                        ts.saturating_sub(frame.ts),
                        intervals - frame.intervals_before,
                    ),
                };
            }
        }
    }

    /// Opens a frame, and answers the one that had to go for it.
    pub(super) fn call(&mut self, mut frame: Frame) -> Option<Frame> {
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
            self.count(oldest.name, false);
        }
        self.count(frame.name, true);
        if self.contexts {
            // Of one that is forgotten nothing may be left.
            if let Some(oldest) = &forgotten
                && self.last.of(oldest.context) == Some(oldest.id)
            {
                self.last.set(oldest.context, 0);
            }
            frame.before = self.last_of(frame.context).unwrap_or(frame.before);
            self.last.set(frame.context, frame.id);
        }
        self.frames.push_back(frame);
        forgotten
    }

    pub(super) fn take(&mut self, index: usize) -> Option<Frame> {
        if let Some(caller) = self.parent_of(index)
            && let Some(caller) = self.frames.get_mut(caller)
        {
            caller.called = caller.called.saturating_sub(1);
        }
        let frame = match index + 1 == self.frames.len() {
            true => self.frames.pop_back()?,
            false => self.frames.remove(index)?,
        };
        if self.contexts && self.last.of(frame.context) == Some(frame.id) {
            let before = self.frame(frame.before);
            let is_its = before.is_some_and(|it| it.context == frame.context);
            self.last
                .set(frame.context, if is_its { frame.before } else { 0 });
        }
        self.passed_over -= usize::from(frame.passed_over.is_some());
        self.count(frame.name, false);
        // What a deep recursion took is given back when it is over.
        let room = self.frames.capacity();
        if room > 64 && self.frames.len() < room / 8 {
            self.frames.shrink_to(room / 4);
        }
        Some(frame)
    }

    pub(super) fn count(&mut self, name: NameKey, opened: bool) {
        if let Some(bucket) = self.buckets.get_mut(name.bucket(BUCKETS)) {
            *bucket = if opened {
                bucket.wrapping_add(1)
            } else {
                bucket.wrapping_sub(1)
            };
        }
    }

    /// What of its function a frame was called in. A frame without a line may be of another function of its name: then those
    /// count that have one.
    pub(super) fn around(&self, index: usize) -> Around {
        let outer = match self.frames.get(index) {
            Some(frame) if frame.line <= 0 => {
                let named = |it: &&Frame| it.name == frame.name && it.line > 0;
                let mut below = self.frames.iter().take(index).rev().filter(named);
                below.find(|it| it.entry != Entry::Call)
            }
            _ => self.outer(index).and_then(|outer| self.frames.get(outer)),
        };
        match outer.map(|it| it.entry) {
            Some(Entry::Resumption) => Around::Resumption,
            Some(Entry::Any) => Around::Any,
            Some(Entry::Call) | None => Around::Nothing,
        }
    }

    /// The position of a frame by its id: mostly the last, or its caller.
    #[inline]
    pub(super) fn index_of(&self, id: u64) -> Option<usize> {
        if id == 0 {
            return None;
        }
        for from_last in 1..=2 {
            let index = self.frames.len().checked_sub(from_last)?;
            if self.frames.get(index)?.id == id {
                return Some(index);
            }
        }
        self.frames.binary_search_by_key(&id, |frame| frame.id).ok()
    }

    #[inline]
    pub(super) fn frame(&self, id: u64) -> Option<&Frame> {
        self.frames.get(self.index_of(id)?)
    }

    /// The innermost frame that had been called when the thread ran again from a wait; what is told late may come after further
    /// calls. `None` where calls were lost since, so that it may have returned.
    pub(super) fn waiting(&self, ended: u64, gap: u32) -> Option<&Frame> {
        let mut frame = self.frame(self.running)?;
        while frame.ts > ended {
            frame = self.frame(frame.parent)?;
        }
        (frame.gap == gap).then_some(frame)
    }

    /// The position of a frame's caller, mostly the one before.
    #[inline]
    pub(super) fn parent_of(&self, index: usize) -> Option<usize> {
        let parent = self.frames.get(index)?.parent;
        let before = index.checked_sub(1)?;
        if self.frames.get(before)?.id == parent {
            return Some(before);
        }
        self.index_of(parent)
    }

    /// What runs when a frame, taken from a position, has ended: its caller. When that has ended before it, which
    /// only another stack can do, the next frame that waits there.
    #[inline]
    pub(super) fn resumed_after(&self, ended: &Frame, index: usize) -> u64 {
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
    #[inline]
    pub(super) fn outer(&self, index: usize) -> Option<usize> {
        let frame = self.frames.get(index)?;
        let key = frame.key;
        if self.buckets.get(frame.name.bucket(BUCKETS)) == Some(&1) {
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

    pub(super) fn open(&self, pid: u32, tid: u32, index: usize) -> Option<Open<'_>> {
        let frame = self.frames.get(index)?;
        Some(Open {
            pid,
            tid,
            frame: FrameId(frame.id),
            key: frame.key,
            place: &frame.place,
            context: frame.context,
            fields: frame.fields.as_ref().map(KeptFields::fields),
            since: frame.ts,
            self_ns: frame.self_ns,
            self_intervals: frame.self_intervals,
            intervals: self.intervals - frame.intervals_before,
            outermost: self.outer(index).is_none(),
            runs_since: (frame.id == self.running).then_some(self.accounted),
        })
    }

    /// The nearest open frame of a function, passed over or not: to prefer one that was not would make a frame that
    /// was passed over by mistake end an older call of the same function.
    pub(super) fn nearest(&self, name: NameKey) -> Option<usize> {
        if self.buckets.get(name.bucket(BUCKETS)) == Some(&0) {
            return None;
        }
        self.frames.iter().rposition(|frame| frame.name == name)
    }

    /// A return that does not fit what runs shows that the guess before it was wrong. If a caller of the function that
    /// returns now has an open call of the function that was guessed about, that is the one that ended: the two change
    /// places. `known` is the frame that returns where that is known.
    pub(super) fn correct(&mut self, name: NameKey, known: Option<usize>) -> Option<usize> {
        let (guessed, chosen) = self.guessed?;
        let (called, caller) = (0..self.frames.len()).find_map(|called| {
            let caller = self.parent_of(called)?;
            // Callers are older than what they call: else lines of callers could run in circles.
            let fits = self.frames.get(called)?.name == guessed
                && self.frames.get(called)?.id > chosen
                && self.frames.get(caller)?.name == name
                && known.is_none_or(|known| known == caller);
            fits.then_some((called, caller))
        })?;
        self.frames.get_mut(called)?.parent = chosen;
        let (charged, intervals) = (self.charged, self.charged_intervals);
        if let Some(chosen) = self.index_of(chosen).and_then(|at| self.frames.get_mut(at)) {
            chosen.called += 1;
            chosen.self_ns = chosen.self_ns.saturating_sub(charged);
            chosen.self_intervals = chosen.self_intervals - intervals;
        }
        let ended = self.frames.get_mut(caller)?;
        ended.called = ended.called.saturating_sub(1);
        ended.self_ns = ended.self_ns.saturating_add(charged);
        ended.self_intervals += intervals;
        Some(caller)
    }

    pub(super) fn runs(&self, index: usize) -> bool {
        self.frames
            .get(index)
            .is_some_and(|frame| frame.id == self.running)
    }

    /// The frame that most likely returns where several stacks interleave: the one that runs, else of those that wait
    /// for their turn the one that waits longest, as schedulers have it. And whether that corrected an earlier guess.
    pub(super) fn likeliest(&mut self, name: NameKey) -> Option<(usize, bool)> {
        let running = self.index_of(self.running);
        if let Some(index) = running
            && self.frames.get(index)?.name == name
        {
            return Some((index, false));
        }
        if self.buckets.get(name.bucket(BUCKETS)) == Some(&0) {
            return None;
        }
        if let Some(index) = self.correct(name, None) {
            return Some((index, true));
        }
        let waits = |frame: &Frame| frame.name == name && frame.called == 0;
        let waiting = self.frames.iter().position(waits);
        Some((waiting.or_else(|| self.nearest(name))?, false))
    }

    /// Removes frames for which `keep` says so; who was called by one of them is from then on called by its caller.
    pub(super) fn forget(
        &mut self,
        mut keep: impl FnMut(usize, &Frame) -> bool,
        mut gone: impl FnMut(Frame),
    ) {
        self.last.clear();
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
                self.count(frame.name, false);
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

    /// Forgets frames that were passed over long ago, and where they are taken for creations, too many of them. `stacks` where
    /// they are of other stacks of the thread instead.
    pub(super) fn forget_passed_over(&mut self, now: u64, stacks: bool, gone: impl FnMut(Frame)) {
        let too_old = |frame: &Frame| {
            frame
                .passed_over
                .is_some_and(|since| now.saturating_sub(since) > PASSED_OVER_FOR_NS)
        };
        let oldest = self.frames.iter().find(|it| it.passed_over.is_some());
        // Frames of other stacks wait for their turn, and will return.
        let too_many = self.passed_over > MAX_PASSED_OVER && !stacks;
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
    pub(super) fn measured(&mut self, begin: u64, duration: u64) -> FinishedCall {
        let mut inner: u64 = 0;
        while let Some(&(since, took)) = self.spans.last()
            && since >= begin
        {
            self.spans.pop();
            inner = inner.saturating_add(took);
        }
        bounded::push(&mut self.spans, (begin, duration), MAX_SPANS);
        FinishedCall {
            frame: None,
            key: None,
            line: 0,
            inclusive_ns: Some(duration),
            inclusive_intervals: Intervals::NONE,
            exact: true,
            likely: true,
            self_ns: duration.saturating_sub(inner),
            self_intervals: Intervals::NONE,
            cumulative_ns: duration,
            cumulative_intervals: Intervals::NONE,
            outermost: true,
            measured: true,
        }
    }
}
