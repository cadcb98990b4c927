//! One return on its way to its call.

use std::collections::HashSet;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::calls::{FinishedCall, FrameId, GivenUp, Revised, Unpaired};
use super::creations::Creations;
use super::kinds::{Around, Entry, Kinds, Returned, Verdict};
use super::rules::PairingRules;
use super::thread::{BUCKETS, Frame, OfCall, Thread, give_up, give_up_by_bound};
use crate::analysis::keys::{KeyBuilder, NameKey};
use crate::analysis::overhead::Intervals;

/// Places remembered as generators, and as functions that switch stacks.
const MAX_GENERATORS: usize = 1 << 16;

/// One return on its way to its call.
pub(super) struct Returning<'a> {
    /// The process and the thread.
    pub(super) whose: (u32, u32),
    pub(super) name: NameKey,
    pub(super) line: i32,
    pub(super) ts: u64,
    pub(super) rules: PairingRules,
    pub(super) gap: u32,
    pub(super) generators: &'a mut HashSet<NameKey, KeyBuilder>,
    pub(super) kinds: &'a mut Kinds,
    pub(super) switchers: &'a mut HashSet<NameKey, KeyBuilder>,
    pub(super) unpaired: &'a mut Unpaired,
    pub(super) given_up: &'a mut Vec<GivenUp>,
    pub(super) revised: &'a mut Vec<Revised>,
    pub(super) found: Option<&'a mut Creations>,
    /// Where that goes which it has of its call.
    pub(super) call: &'a mut Option<OfCall>,
}

impl Returning<'_> {
    /// Closes the frame that returns. `known` is its duration where somebody has paired it before.
    pub(super) fn leave(
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
        let mut plain = thread.frames.back().is_some_and(|frame| {
            frame.passed_over.is_none()
                && frame.id == thread.running
                && frame.name == self.name
                && known.is_none_or(|took| self.took(frame) == Some(took))
        });
        let ran = thread.frame(thread.running).map(|it| (it.name, it.gap));
        let mut corrected = false;
        let index = match known {
            _ if plain => top,
            None if self.rules.greenlets || thread.interleaved => {
                let likeliest = thread.likeliest(self.name);
                corrected = likeliest.is_some_and(|(_, corrected)| corrected);
                likeliest.map(|(index, _)| index)
            }
            None => thread.nearest(self.name),
            Some(took) => {
                let said = thread
                    .frames
                    .iter()
                    .rposition(|frame| frame.name == self.name && self.took(frame) == Some(took));
                if said.is_none() {
                    let begin = self.ts.saturating_sub(took);
                    return Some(thread.measured(begin, took));
                }
                if let Some(index) = said
                    && (self.rules.greenlets || thread.interleaved)
                    && !thread.runs(index)
                {
                    thread.correct(self.name, said);
                }
                said
            }
        };
        let Some(mut index) = index else {
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
                self.leave_in_doubt(thread, index);
                return None;
            }
            self.pass_over(thread, index);
        }
        let mut verdict = match was_passed_over {
            true => Verdict::Doubtful,
            false => self.verdict(thread, index),
        };
        match verdict {
            Verdict::Another if known.is_none() => {
                self.thrown(thread, index);
                return None;
            }
            Verdict::Maker if known.is_none() && self.creations_count() => {
                if let Some(maker) = thread.outer(index) {
                    self.pass_over(thread, maker);
                    (index, plain, verdict) = (maker, false, Verdict::Sure);
                }
            }
            _ => {}
        }
        let (alone, in_line) = self.settle_ambiguity(thread, index);
        let outer = thread.outer(index);
        let mut frame = thread.take(index)?;
        *self.call = Some(frame.taken());
        if frame.entry == Entry::Any
            && let Some(outer) = outer.and_then(|outer| thread.frames.get_mut(outer))
        {
            outer.within.add(frame.within);
        }
        thread.running = thread.resumed_after(&frame, index);
        let stacks = thread.interleaved || self.rules.greenlets;
        if !plain {
            let (whose, given_up) = (self.whose, &mut *self.given_up);
            thread.forget_passed_over(self.ts, stacks, |gone| match stacks {
                true => give_up_by_bound(given_up, whose, gone),
                // Creations of generators, which took no time.
                false => give_up(given_up, whose, gone),
            });
        }
        thread.guessed = stacks.then_some((self.name, frame.parent));
        if !plain && stacks {
            self.learn_switch(ran, corrected);
        }
        let mut summed = true;
        let mut trusted = alone && (verdict == Verdict::Sure || was_passed_over);
        if verdict != Verdict::Sure && !was_passed_over {
            // Of stacks that interleave no sum depends on who has which return.
            summed = stacks;
        }
        if was_passed_over {
            self.unpaired.calls = self.unpaired.calls.saturating_sub(1);
            // It returned after all, so it need not have been a creation.
            if !self.kinds.is_generator(frame.entered()) {
                self.generators.remove(&self.name);
            }
            if self.creations_count() {
                self.revised.push(Revised {
                    pid: self.whose.0,
                    tid: self.whose.1,
                    context: frame.context,
                    key: frame.key,
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
        // What was lost may have been its return and another call.
        let is_whole = frame.gap == self.gap;
        let exact = known.is_some() || (trusted && frame.certain && is_whole);
        let inclusive_ns = if exact || (summed && stacks && is_whole) {
            known.or_else(|| self.took(&frame))
        } else {
            None
        };
        let exact = exact && inclusive_ns.is_some();
        let likely = exact || (in_line && frame.likely && inclusive_ns.is_some());
        Some(finished(thread, &frame, outer, inclusive_ns, exact, likely))
    }

    /// Whether the frame that seems to return is the one that does.
    fn verdict(&mut self, thread: &Thread, index: usize) -> Verdict {
        let Some(frame) = thread.frames.get(index) else {
            return Verdict::Doubtful;
        };
        if frame.entry != Entry::Any {
            return Verdict::Sure;
        }
        if frame.gap != self.gap {
            // Its first run may have been lost, and all else that tells.
            return Verdict::Doubtful;
        }
        let only = thread.buckets.get(self.name.bucket(BUCKETS)) == Some(&1);
        let mut same = thread.frames.iter().filter(|it| it.key == frame.key);
        let alone = only || same.nth(1).is_none();
        let returned = Returned {
            within: frame.within,
            lone: alone && frame.certain,
            around: match only {
                true => Around::Nothing,
                false => thread.around(index),
            },
            line: self.line,
        };
        self.kinds.returned(frame.entered(), returned)
    }

    /// Something was thrown into a generator, and that is what returns: the frame that seemed to was a creation.
    fn thrown(&mut self, thread: &mut Thread, index: usize) {
        self.unpaired.returns += 1;
        if !self.creations_count() {
            return;
        }
        let Some(creator) = index.checked_sub(1) else {
            return;
        };
        if thread.runs(index)
            && let Some(frame) = thread.frames.get(index)
        {
            thread.running = frame.parent;
        }
        self.pass_over(thread, creator);
    }

    /// The same where contexts are told: the nearest frame of the function in its context returns, the one that its duration
    /// says where that is known. When there is none of that duration, the kernel measured the call.
    fn leave_context(
        self,
        thread: &mut Thread,
        context: Option<NonZeroU64>,
        known: Option<u64>,
    ) -> Option<FinishedCall> {
        let found = match known {
            None => thread.returning(self.name, context),
            Some(_) => thread.frames.iter().rposition(|frame| {
                frame.name == self.name && frame.context == context && self.took(frame) == known
            }),
        };
        let Some(index) = found else {
            if let Some(took) = known {
                return Some(thread.measured(self.ts.saturating_sub(took), took));
            }
            self.unpaired.returns += 1;
            return None;
        };
        // What is above it in its context has returned unseen: events were lost.
        let above = |at: usize, frame: &Frame| at > index && frame.context == context;
        if thread.last_of(context) != thread.frames.get(index).map(|frame| frame.id) {
            let (whose, given_up, unpaired) = (self.whose, self.given_up, self.unpaired);
            thread.forget(
                |at, frame| !above(at, frame),
                |gone| {
                    unpaired.calls += 1;
                    give_up(given_up, whose, gone);
                },
            );
        }
        let outer = thread.outer(index);
        let mut frame = thread.take(index)?;
        *self.call = Some(frame.taken());
        let next = [frame.parent, frame.before].into_iter();
        let mut open = next.filter(|id| thread.index_of(*id).is_some());
        thread.running = open.next().unwrap_or(0);
        let took = self.ts.checked_sub(frame.ts);
        let exact = known.is_some() || (frame.certain && frame.gap == self.gap);
        let inclusive_ns = if exact { known.or(took) } else { None };
        let is_known = inclusive_ns.is_some();
        Some(finished(
            thread,
            &frame,
            outer,
            inclusive_ns,
            is_known,
            is_known,
        ))
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
            && self.generators.contains(&self.name)
            && thread.frames.iter().skip(index + 1).any(|above| {
                above.passed_over.is_none()
                    && above.gap == self.gap
                    && !self.generators.contains(&above.name)
            })
    }

    /// A return was given to nothing because something later is still open. Unless that is known to be a call, it may have been
    /// a creation, and then this return ended a call that seems to be open from now on: which one the next returns of the
    /// function end is not known.
    fn leave_in_doubt(&self, thread: &mut Thread, index: usize) {
        let runs = |above: &Frame| {
            above.passed_over.is_none() && above.gap == self.gap && above.entry != Entry::Any
        };
        if thread.frames.iter().skip(index + 1).any(runs) {
            return;
        }
        for frame in &mut thread.frames {
            if frame.name == self.name {
                frame.certain = false;
            }
        }
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
                self.kinds.passed_over(frame.entered());
                if self.generators.len() < MAX_GENERATORS {
                    self.generators.insert(frame.name);
                }
                if let Some(found) = &mut self.found {
                    found.set(frame.id, true);
                }
                self.undo_creation(thread, at);
            }
        }
        if lost {
            let (gap, whose, given_up) = (self.gap, self.whose, &mut *self.given_up);
            thread.forget(
                |at, frame| at <= index || frame.passed_over.is_none() || frame.gap == gap,
                |gone| give_up(given_up, whose, gone),
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
        let (self_ns, self_intervals) = (
            std::mem::take(&mut frame.self_ns),
            std::mem::take(&mut frame.self_intervals),
        );
        let (covered_ns, covered_intervals) = (
            std::mem::take(&mut frame.covered_ns),
            std::mem::take(&mut frame.covered_intervals),
        );
        self.revised.push(Revised {
            pid: self.whose.0,
            tid: self.whose.1,
            context: frame.context,
            key: frame.key,
            place: Arc::clone(&frame.place),
            call: false,
        });
        let mut left_over = GivenUp {
            pid: self.whose.0,
            tid: self.whose.1,
            frame: FrameId(frame.id),
            caller: FrameId(frame.parent),
            key: frame.key,
            place: Arc::clone(&frame.place),
            context: frame.context,
            self_ns,
            self_intervals,
            cumulative_ns: covered_ns,
            cumulative_intervals: covered_intervals,
            by_bound: false,
        };
        if let Some(creator) = parent.and_then(|parent| thread.frames.get_mut(parent)) {
            creator.self_ns = creator.self_ns.saturating_add(self_ns);
            creator.self_intervals += self_intervals;
            (left_over.self_ns, left_over.self_intervals) = (0, Intervals::NONE);
        }
        if let Some(outer) = outer.and_then(|outer| thread.frames.get_mut(outer)) {
            outer.covered_ns = outer.covered_ns.saturating_add(covered_ns);
            outer.covered_intervals += covered_intervals;
            (left_over.cumulative_ns, left_over.cumulative_intervals) = (0, Intervals::NONE);
        }
        if left_over.self_ns > 0 || left_over.cumulative_ns > 0 {
            self.given_up.push(left_over);
        }
    }

    /// Something else than the function that ran returns: it has switched to another stack. Not where it turned out
    /// that another frame ran, and not across a loss.
    fn learn_switch(&mut self, ran: Option<(NameKey, u32)>, corrected: bool) {
        if let Some((key, gap)) = ran
            && key != self.name
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
        let generator = self.creations_count() && self.generators.contains(&self.name);
        if !stacks && !generator {
            return (true, true);
        }
        if thread.buckets.get(self.name.bucket(BUCKETS)) == Some(&1) {
            return (true, true);
        }
        // Creations of generators look like switches, and their runs like calls within them.
        let in_line = stacks
            && !generator
            && !self.rules.call_on_creation
            && self.all_are_callers(thread, index);
        let mut alone = true;
        for (at, frame) in thread.frames.iter_mut().enumerate() {
            if at != index && frame.name == self.name {
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
        if self.switchers.is_empty() || self.switchers.contains(&self.name) {
            return false;
        }
        let open = thread
            .frames
            .iter()
            .filter(|it| it.name == self.name)
            .count();
        let (mut met, mut at) = (1, index);
        while met < open {
            let Some(caller) = thread.parent_of(at) else {
                return false;
            };
            at = caller;
            match thread.frames.get(at).map(|it| it.name) {
                Some(key) if key == self.name => met += 1,
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

/// A frame that has ended now. What it lasted, or has since it was seen to run, is covered by the `outer` call of its function, if there
/// is one.
fn finished(
    thread: &mut Thread,
    frame: &Frame,
    outer: Option<usize>,
    inclusive_ns: Option<u64>,
    exact: bool,
    likely: bool,
) -> FinishedCall {
    let inclusive_intervals = thread.intervals - frame.intervals_before;
    let since_seen = || {
        let ran = frame.was_running && frame.gap == thread.accounted_gap;
        thread.accounted.checked_sub(frame.ts).filter(|_| ran)
    };
    let (mut cumulative_ns, mut cumulative_intervals) = match inclusive_ns.or_else(since_seen) {
        Some(seen_ns) => (seen_ns, inclusive_intervals),
        None => (frame.covered_ns, frame.covered_intervals),
    };
    if let Some(outer) = outer.and_then(|outer| thread.frames.get_mut(outer)) {
        outer.covered_ns = outer.covered_ns.saturating_add(cumulative_ns);
        outer.covered_intervals += cumulative_intervals;
        (cumulative_ns, cumulative_intervals) = (0, Intervals::NONE);
    }
    FinishedCall {
        frame: Some(FrameId(frame.id)),
        key: Some(frame.key),
        line: frame.line,
        inclusive_ns,
        inclusive_intervals,
        exact,
        likely,
        self_ns: frame.self_ns,
        self_intervals: frame.self_intervals,
        cumulative_ns,
        cumulative_intervals,
        outermost: outer.is_none(),
        measured: false,
    }
}
