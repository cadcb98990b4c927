//! Calls under way, each of which becomes a span when it ends.
//!
//! A coroutine or generator that gives way and goes on is one call. Where several of one function gave way below the same caller,
//! nothing tells which of them goes on, and each stretch is a span.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::choice::Choice;
use super::ids::{Firsts, Ids, Linked, SpanId, TraceId};
use super::span::{Span, of_trace};
use crate::analysis::keys::{FunctionKey, KeyBuilder};
use crate::analysis::pairing::FrameId;
use crate::analysis::requests::Ending;
use crate::event::{Fields, Place, Text};

/// Calls under way that are followed; further ones are counted.
const MOST_CALLS: usize = 1 << 16;
/// Bytes of their fields.
const MOST_FIELDS: usize = 16 << 20;
/// Bytes of spans that are held back until it is known which request they are of.
const MOST_HELD: usize = 8 << 20;
/// Greenlets and tasks whose names are kept; all are forgotten beyond that.
const MOST_CONTEXTS: usize = 1 << 16;

/// Where a call runs: its process, its thread, and the greenlet or task.
pub(super) type Track = (u32, u32, Option<NonZeroU64>);

/// A call, as it begins.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) track: Track,
    pub(super) key: FunctionKey,
    pub(super) place: Arc<Place>,
    pub(super) line: i32,
    pub(super) ts: u64,
    pub(super) fields: Option<Arc<Fields>>,
    /// Whether it is a span however short it is.
    pub(super) is_named: bool,
}

/// A call under way, or one that gave way.
#[derive(Debug)]
struct Call {
    called: Called,
    trace: u64,
    parent: Option<SpanId>,
    /// The call that made it.
    caller: Option<SpanId>,
    around: Option<(TraceId, SpanId)>,
    /// The program's own span that it is in.
    within: Option<SpanId>,
    /// Whether a span is below it.
    is_needed: bool,
    /// When it gave way, if it has.
    gave_way: Option<u64>,
    resumptions: u64,
    /// The calls that it made and that gave way.
    waiting: Vec<(FunctionKey, SpanId)>,
}

/// Spans that belong together.
#[derive(Debug)]
struct Trace {
    id: TraceId,
    /// Its first call.
    first: SpanId,
    /// Whether it can still become that of a request.
    is_open: bool,
    calls: usize,
    /// Spans of these processes that were held back.
    held: Vec<(u32, Vec<u8>)>,
}

/// What there was no room for, or no end of.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Missing {
    /// Calls that are no spans because too many were under way.
    pub(super) left_out: u64,
    /// Calls whose returns were not seen.
    pub(super) unseen: u64,
    /// Traces of which spans were written before it was known which request they are of.
    pub(super) early: u64,
    /// Calls without fields, because those of all took too much room.
    pub(super) without_fields: u64,
}

/// See the head of the module.
#[derive(Debug)]
pub(super) struct Calls {
    choice: Choice,
    ids: Ids,
    firsts: Firsts,
    calls: HashMap<SpanId, Call, KeyBuilder>,
    open: HashMap<FrameId, SpanId, KeyBuilder>,
    /// The outermost calls that gave way.
    waiting: HashMap<(Track, FunctionKey), Vec<SpanId>>,
    traces: HashMap<u64, Trace>,
    begun: u64,
    field_bytes: usize,
    held_bytes: usize,
    contexts: HashMap<(u32, NonZeroU64), Arc<Text>>,
    finished: Vec<(u32, Vec<u8>)>,
    pub(super) missing: Missing,
}

impl Calls {
    /// None yet.
    pub(super) fn new(choice: Choice) -> Calls {
        Calls {
            choice,
            ids: Ids::default(),
            firsts: Firsts::default(),
            calls: HashMap::default(),
            open: HashMap::default(),
            waiting: HashMap::new(),
            traces: HashMap::new(),
            begun: 0,
            field_bytes: 0,
            held_bytes: 0,
            contexts: HashMap::new(),
            finished: Vec::new(),
            missing: Missing::default(),
        }
    }

    /// Spans of these processes that were finished since they were asked for.
    pub(super) fn finished(&mut self) -> std::vec::Drain<'_, (u32, Vec<u8>)> {
        self.finished.drain(..)
    }

    /// A greenlet or task has this name.
    pub(super) fn named(&mut self, pid: u32, context: NonZeroU64, name: &Arc<Text>) {
        if self.contexts.len() >= MOST_CONTEXTS {
            self.contexts.clear();
        }
        self.contexts.insert((pid, context), Arc::clone(name));
    }

    /// The call of a frame, if it is followed.
    pub(super) fn of(&self, frame: FrameId) -> Option<SpanId> {
        self.open.get(&frame).copied()
    }

    /// A call of this frame begins, below the call that made it.
    pub(super) fn begins(&mut self, frame: FrameId, mut called: Called, caller: Option<SpanId>) {
        if self.calls.len() >= MOST_CALLS {
            self.missing.left_out += 1;
            return;
        }
        let linked = match (self.choice.link, &called.fields) {
            (Some(link), Some(fields)) => link.find(fields),
            _ => None,
        };
        let id = self.ids.span();
        let whose = caller.and_then(|caller| self.calls.get(&caller));
        let above = whose.map(|call| (call.trace, call.within));
        let own = linked.and_then(|linked| linked.parent);
        let within = own.or(above.and_then(|(_, within)| within));
        let (trace, mut parent, around) =
            self.place(id, above.map(|(trace, _)| trace), caller, linked);
        if let Some((_, of_caller)) = above
            && within != of_caller
        {
            parent = within;
        }
        let bytes = called.fields.as_ref().map_or(0, |it| it.bytes());
        match self.field_bytes.saturating_add(bytes) {
            all if all <= MOST_FIELDS => self.field_bytes = all,
            _ => {
                called.fields = None;
                self.missing.without_fields += 1;
            }
        }
        if let Some(trace) = self.traces.get_mut(&trace) {
            trace.calls += 1;
        }
        // Where it begins another trace it has to be there, and what is around it, too.
        let is_named = called.is_named || around.is_some();
        if let Some(caller) = around.and(caller).and_then(|it| self.calls.get_mut(&it)) {
            caller.is_needed = true;
        }
        let call = Call {
            called: Called { is_named, ..called },
            trace,
            parent,
            caller,
            around,
            within,
            is_needed: false,
            gave_way: None,
            resumptions: 0,
            waiting: Vec::new(),
        };
        self.calls.insert(id, call);
        self.open.insert(frame, id);
    }

    /// In which trace a call is, below which span, and which span of another trace is around it.
    fn place(
        &mut self,
        id: SpanId,
        above: Option<u64>,
        caller: Option<SpanId>,
        linked: Option<Linked>,
    ) -> (u64, Option<SpanId>, Option<(TraceId, SpanId)>) {
        let known = above.and_then(|above| self.traces.get(&above).map(|it| (above, it)));
        let Some((above, trace)) = known else {
            let trace = self.begin_trace(id, linked);
            return (trace, self.outermost(id, linked), None);
        };
        match linked {
            Some(linked) if trace.id != linked.trace && !trace.is_open => {
                let around = caller.map(|caller| (trace.id, caller));
                let trace = self.begin_trace(id, Some(linked));
                (trace, self.outermost(id, Some(linked)), around)
            }
            Some(linked) if trace.is_open => {
                self.link(above, linked);
                (above, caller, None)
            }
            _ => (above, caller, None),
        }
    }

    /// Below what the outermost call of a process is, of what is done for a request.
    fn outermost(&mut self, id: SpanId, linked: Option<Linked>) -> Option<SpanId> {
        let linked = linked?;
        linked.parent.or_else(|| self.firsts.of(linked.trace, id))
    }

    fn begin_trace(&mut self, first: SpanId, linked: Option<Linked>) -> u64 {
        self.begun += 1;
        let trace = Trace {
            id: linked.map_or_else(|| self.ids.trace(), |linked| linked.trace),
            first,
            is_open: self.choice.link.is_some() && linked.is_none(),
            calls: 0,
            held: Vec::new(),
        };
        self.traces.insert(self.begun, trace);
        self.begun
    }

    /// It is known now which request a trace is of.
    fn link(&mut self, number: u64, linked: Linked) {
        let Some(trace) = self.traces.get_mut(&number) else {
            return;
        };
        let first = trace.first;
        (trace.id, trace.is_open) = (linked.trace, false);
        // A span of the program that is current only now is not around what began before.
        let parent = match linked.parent {
            None => self.firsts.of(linked.trace, first),
            Some(_) => None,
        };
        if let Some(call) = self.calls.get_mut(&first) {
            call.parent = parent;
        }
        self.release(number);
    }

    /// Hands on what a trace holds back.
    fn release(&mut self, number: u64) {
        let Some(trace) = self.traces.get_mut(&number) else {
            return;
        };
        for (pid, body) in trace.held.drain(..) {
            self.held_bytes = self.held_bytes.saturating_sub(body.len());
            self.finished.push((pid, of_trace(trace.id, &body)));
        }
    }

    /// A call of this frame goes on, which gave way before. Whether there is the one that it must be.
    pub(super) fn goes_on(
        &mut self,
        frame: FrameId,
        track: Track,
        key: FunctionKey,
        caller: Option<SpanId>,
    ) -> bool {
        let waiting: Vec<SpanId> = match caller {
            None => self.waiting.remove(&(track, key)).unwrap_or_default(),
            Some(caller) => match self.calls.get_mut(&caller) {
                Some(call) => {
                    let of = call.waiting.extract_if(.., |(waits, _)| *waits == key);
                    of.map(|(_, id)| id).collect()
                }
                None => Vec::new(),
            },
        };
        if let [id] = waiting[..]
            && let Some(call) = self.calls.get_mut(&id)
        {
            call.gave_way = None;
            call.resumptions += 1;
            self.open.insert(frame, id);
            return true;
        }
        for id in waiting {
            self.ends_waiting(id);
        }
        false
    }

    /// The call of a frame gives way.
    pub(super) fn gives_way(&mut self, frame: FrameId, ts: u64) {
        let Some(id) = self.open.remove(&frame) else {
            return;
        };
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        call.gave_way = Some(ts);
        let (track, key, caller) = (call.called.track, call.called.key, call.caller);
        match caller {
            None => self.waiting.entry((track, key)).or_default().push(id),
            Some(caller) => match self.calls.get_mut(&caller) {
                Some(caller) => caller.waiting.push((key, id)),
                // It goes on below somebody else, if it does.
                None => self.ends(id, ts, Ending::Suspended, false),
            },
        }
    }

    /// The call of a frame is over. What gave way below it does not go on there.
    pub(super) fn returns(&mut self, frame: FrameId, ts: u64, ending: Ending, doubtful: bool) {
        if let Some(id) = self.open.remove(&frame) {
            self.ends(id, ts, ending, doubtful);
        }
    }

    /// A call returns with these fields: those of its call, and those that are read by then.
    pub(super) fn has_fields(&mut self, frame: FrameId, fields: &Arc<Fields>) {
        let id = self.open.get(&frame);
        let Some(call) = id.and_then(|id| self.calls.get_mut(id)) else {
            return;
        };
        let before = call.called.fields.as_ref().map_or(0, |it| it.bytes());
        let others = self.field_bytes.saturating_sub(before);
        let all = others.saturating_add(fields.bytes());
        if all <= MOST_FIELDS {
            self.field_bytes = all;
            call.called.fields = Some(Arc::clone(fields));
        }
    }

    /// A frame is no longer followed, and what it was is not known.
    pub(super) fn forget(&mut self, frame: FrameId) {
        let Some(id) = self.open.remove(&frame) else {
            return;
        };
        self.missing.unseen += 1;
        self.drop_call(id);
    }

    /// A process has ended, or one thread of it: what gave way there does not go on.
    pub(super) fn ended(&mut self, pid: u32, tid: Option<u32>) {
        let of = |call: &&Call| {
            let (of, thread, _) = call.called.track;
            of == pid && tid.is_none_or(|tid| tid == thread) && call.gave_way.is_some()
        };
        let waiting = self.calls.iter().filter(|(_, call)| of(call));
        let waiting: Vec<SpanId> = waiting.map(|(id, _)| *id).collect();
        for id in waiting {
            self.ends_waiting(id);
        }
        self.waiting
            .retain(|((of, thread, _), _), _| *of != pid || tid.is_some_and(|tid| tid != *thread));
        if tid.is_none() {
            self.contexts.retain(|(of, _), _| *of != pid);
        }
    }

    /// Nothing more comes: everything is over at the last time that was seen. Callers come after what they called.
    pub(super) fn finish(&mut self, ts: u64) {
        let mut rest: Vec<(u64, SpanId)> = (self.calls.iter())
            .map(|(id, call)| (call.called.ts, *id))
            .collect();
        rest.sort_unstable();
        for (_, id) in rest.into_iter().rev() {
            match self.calls.get(&id).map(|call| call.gave_way) {
                Some(Some(since)) => self.ends(id, since, Ending::Suspended, false),
                Some(None) => self.ends(id, ts, Ending::Open, false),
                None => {}
            }
        }
    }

    fn ends_waiting(&mut self, id: SpanId) {
        if let Some(since) = self.calls.get(&id).and_then(|call| call.gave_way) {
            self.ends(id, since, Ending::Suspended, false);
        }
    }

    /// A call is over, and with it what gave way below it, however deep: whoever is called is before its caller.
    fn ends(&mut self, id: SpanId, ts: u64, ending: Ending, doubtful: bool) {
        let (mut below, mut at) = (vec![id], 0);
        while let Some(id) = below.get(at) {
            let waiting = self
                .calls
                .get_mut(id)
                .map(|it| std::mem::take(&mut it.waiting));
            below.extend(waiting.into_iter().flatten().map(|(_, waits)| waits));
            at += 1;
        }
        for waits in below.drain(1..).rev() {
            if let Some(since) = self.calls.get(&waits).and_then(|call| call.gave_way) {
                self.ends_alone(waits, since, Ending::Suspended, false);
            }
        }
        self.ends_alone(id, ts, ending, doubtful);
    }

    fn ends_alone(&mut self, id: SpanId, ts: u64, ending: Ending, doubtful: bool) {
        let Some(call) = self.calls.get(&id) else {
            return;
        };
        let took = ts.saturating_sub(call.called.ts);
        let is_long = self.choice.is_long(took);
        if call.called.is_named || call.is_needed || is_long {
            let (pid, thread, context) = call.called.track;
            let name = |context| {
                let name = self.contexts.get(&(pid, context));
                (context, name.map(|name| name.text.as_str()))
            };
            let body = Span {
                id,
                parent: call.parent,
                around: call.around,
                place: &call.called.place,
                line: call.called.line,
                begin: call.called.ts,
                end: ts,
                ending,
                thread: crate::event::hosts::number(thread),
                context: context.map(name),
                fields: call.called.fields.as_deref(),
                link: self.choice.link,
                resumptions: call.resumptions,
                doubtful,
            }
            .body();
            let (trace, caller) = (call.trace, call.caller);
            if let Some(caller) = caller.and_then(|caller| self.calls.get_mut(&caller)) {
                caller.is_needed = true;
            }
            self.put(trace, pid, body);
        }
        self.drop_call(id);
    }

    /// A span of a trace is finished.
    fn put(&mut self, number: u64, pid: u32, body: Vec<u8>) {
        let Some(trace) = self.traces.get_mut(&number) else {
            return;
        };
        if !trace.is_open {
            self.finished.push((pid, of_trace(trace.id, &body)));
            return;
        }
        self.held_bytes += body.len();
        trace.held.push((pid, body));
        if self.held_bytes > MOST_HELD {
            let open = self.traces.iter_mut().filter(|(_, it)| it.is_open);
            let open: Vec<u64> = open
                .map(|(number, trace)| {
                    trace.is_open = false;
                    *number
                })
                .collect();
            self.missing.early += open.len() as u64;
            for number in open {
                self.release(number);
            }
        }
    }

    fn drop_call(&mut self, id: SpanId) {
        let Some(call) = self.calls.remove(&id) else {
            return;
        };
        let bytes = call.called.fields.as_ref().map_or(0, |it| it.bytes());
        self.field_bytes = self.field_bytes.saturating_sub(bytes);
        for (_, waiting) in call.waiting {
            self.ends_waiting(waiting);
        }
        let Some(trace) = self.traces.get_mut(&call.trace) else {
            return;
        };
        trace.calls -= 1;
        if trace.calls == 0 {
            self.release(call.trace);
            self.traces.remove(&call.trace);
        }
    }

    /// Writes a call that came with its duration when it was over, see [`super::measured`].
    pub(super) fn measured<'a>(&'a mut self, trace: TraceId, pid: u32, mut span: Span<'a>) {
        let name = span
            .context
            .and_then(|(context, _)| self.contexts.get(&(pid, context)));
        let name = name.map(|name| name.text.as_str());
        span.context = span.context.map(|(context, _)| (context, name));
        span.link = self.choice.link;
        self.finished.push((pid, of_trace(trace, &span.body())));
    }

    /// Names for a span and a trace of a call that came so, by what links it.
    pub(super) fn names(&mut self, linked: Option<Linked>) -> (TraceId, SpanId, Option<SpanId>) {
        let id = self.ids.span();
        let trace = linked.map_or_else(|| self.ids.trace(), |linked| linked.trace);
        (trace, id, self.outermost(id, linked))
    }

    /// A name for a span below another one.
    pub(super) fn name(&mut self) -> SpanId {
        self.ids.span()
    }
}
