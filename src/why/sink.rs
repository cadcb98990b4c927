//! Makes stretches of calls from the events of an engine, and writes what came of them.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::begun::{Begun, Calls};
use super::results::Unsplit;
use super::settling::{End as EndOfCall, Greenlets, Stretch, TRAMPOLINE};
use super::split::Parked;
use super::watcher::Watcher;
use super::{json, table};
use crate::analysis::keys::FunctionKey;
use crate::analysis::lifetimes::{Lifetimes, Whose};
use crate::analysis::pairing::{FinishedCall, FrameId, GivenUp, Pairing, PairingRules, Step};
use crate::event::{Frame, Manner, Place, ProcessChange, Session, What};
use crate::export::intervals::{self, Intervals};
use crate::export::latencies::asked_for;
use crate::export::{End, Sink};
use crate::script::filter::Glob;

/// Functions through which greenlets give way, with the ends of their files. Those of greenlet itself the agent tells: that a
/// greenlet gives way, as a call that returns when it goes on, and that this is told of its thread from now on. Those of eventlet
/// and gevent say what for. Names with classes are of Python 3.11 and later: before, these functions are not told from others of
/// their name.
pub(crate) const INTERNAL: [(&str, &str); 17] = [
    (SWITCH, GREENLET),
    (SETTRACE, GREENLET),
    (TRAMPOLINE, "/eventlet/hubs/__init__.py"),
    ("sleep", "/eventlet/greenthread.py"),
    ("Semaphore.acquire", "/eventlet/semaphore.py"),
    ("Event.wait", "/eventlet/event.py"),
    ("Waiter.wait", "/eventlet/queue.py"),
    ("sleep", "/gevent/hub.py"),
    ("SocketMixin.connect", "/gevent/_socketcommon.py"),
    ("SocketMixin.recv", "/gevent/_socketcommon.py"),
    ("SocketMixin.recv_into", "/gevent/_socketcommon.py"),
    ("SocketMixin.send", "/gevent/_socketcommon.py"),
    ("SocketMixin.sendall", "/gevent/_socketcommon.py"),
    ("socket.accept", "/gevent/_socket3.py"),
    ("SSLSocket.read", "/gevent/ssl.py"),
    ("SSLSocket.write", "/gevent/ssl.py"),
    ("SSLSocket.do_handshake", "/gevent/ssl.py"),
];
const SWITCH: &str = "greenlet.switch";
const SETTRACE: &str = "greenlet.settrace";
const GREENLET: &str = "<greenlet>";

/// Functions of which it is remembered what they are; all are looked at anew beyond that.
const MOST_KNOWN: usize = 1 << 16;
/// Greenlets with open calls. The older half of the calls is followed no longer beyond that.
const MOST_CONTEXTS: usize = 1 << 14;
/// Times that are kept in which a greenlet with open calls was switched out, of one and of all: beyond that the younger half.
const MOST_PARKED: usize = 1 << 14;
const MOST_PARKED_IN_ALL: usize = 1 << 20;

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Functions, as they were asked for.
    pub(crate) wanted: Vec<Glob>,
    /// How far tables are apart; none but the last otherwise.
    pub(crate) interval: Option<Duration>,
    /// Whether calls are written one by one.
    pub(crate) each: bool,
    pub(crate) json: bool,
}

/// What a function is to us.
#[derive(Debug, Clone, Copy)]
struct Known {
    is_wanted: bool,
    internal: Option<&'static str>,
}

/// A greenlet or task, or a thread outside of them.
type Context = (u32, u32, Option<NonZeroU64>);

/// What is known of a context in which calls are open.
#[derive(Debug, Default)]
struct Inside {
    /// How many calls are open.
    open: usize,
    /// Functions through which it gives way that are open, the innermost last, and when they were called, by the scheduler's clock.
    within: Vec<(FrameId, &'static str, u64)>,
    parked: Vec<Parked>,
    /// From when on all of these times are kept.
    kept_from: u64,
    /// When it was first told of them, if calls were open before.
    told_from: Option<u64>,
}

impl Inside {
    /// When a call that began then was switched out.
    fn parked_since(&self, from: u64) -> Result<Vec<Parked>, Unsplit> {
        if self.told_from.is_some_and(|told| from <= told) {
            return Err(Unsplit::Greenlets);
        }
        if from < self.kept_from {
            return Err(Unsplit::TooMuch);
        }
        let first = self.parked.partition_point(|it| it.ended <= from);
        Ok(self.parked.get(first..).unwrap_or_default().to_vec())
    }

    /// Forgets the older half of these times. How many that are.
    fn halve(&mut self) -> usize {
        let half = self.parked.len().div_ceil(2);
        if let Some(last) = self.parked.drain(..half).next_back() {
            self.kept_from = self.kept_from.max(last.ended);
        }
        half
    }
}

/// See the head of the module.
pub(crate) struct Why<W> {
    output: W,
    watcher: Rc<Watcher>,
    options: Options,
    intervals: Intervals,
    known: HashMap<FunctionKey, Known>,
    /// In place of times it keeps the numbers of calls.
    lifetimes: Lifetimes,
    calls: Calls,
    /// The frames of calls that are open, those that nobody follows among them, with where they are.
    open: HashMap<FrameId, Context>,
    contexts: HashMap<Context, Inside>,
    parked: usize,
    /// What the scheduler's clock is behind that of events.
    offset: u64,
    start: u64,
}

impl<W: Write> Why<W> {
    /// Nothing yet.
    pub(crate) fn new(output: W, watcher: Rc<Watcher>, options: Options) -> Why<W> {
        Why {
            output,
            watcher,
            intervals: Intervals::new(options.interval),
            options,
            known: HashMap::new(),
            lifetimes: Lifetimes::default(),
            calls: Calls::default(),
            open: HashMap::new(),
            contexts: HashMap::new(),
            parked: 0,
            offset: crate::clock::epoch_offset(),
            start: 0,
        }
    }

    fn known(&mut self, key: FunctionKey, place: &Place) -> Known {
        if self.known.len() >= MOST_KNOWN && !self.known.contains_key(&key) {
            self.known.clear();
        }
        let wanted = &self.options.wanted;
        *self.known.entry(key).or_insert_with(|| Known {
            is_wanted: is_wanted(wanted, place),
            internal: internal(place),
        })
    }

    fn entered(&mut self, step: &Step<'_>, key: FunctionKey, frame: &Frame, known: Known) {
        let (event, Some(id)) = (step.event, step.entered) else {
            return;
        };
        let context = (event.pid, event.tid, frame.context);
        if known.internal == Some(SETTRACE) {
            self.switches_are_told(event.pid, event.tid, event.ts);
        }
        if let Some(name) = known.internal
            && let Some(inside) = self.contexts.get_mut(&context)
            && inside.within.len() < MOST_PARKED
        {
            let at = event.ts.saturating_sub(self.offset);
            inside.within.push((id, name, at));
        }
        if !known.is_wanted {
            return;
        }
        match frame.manner {
            Manner::Suspension => {
                self.lifetimes.goes_on(whose(step, key, frame), id);
                let call = self.lifetimes.since(id);
                if let Some(begun) = call.and_then(|number| self.calls.get_mut(number)) {
                    (begun.frame, begun.is_parked) = (id, false);
                }
            }
            Manner::Running => return,
            _ => self.begins(step, key, id),
        }
        if self.contexts.len() >= MOST_CONTEXTS && !self.contexts.contains_key(&context) {
            self.give_up_older(event.ts);
        }
        if self.open.insert(id, context).is_none() {
            self.contexts.entry(context).or_default().open += 1;
        }
        let at = event.ts.saturating_sub(self.offset);
        let mut state = self.watcher.state();
        state.settling.opens(id, event.pid, event.tid, at);
        if !state.settling.watches(event.pid) {
            drop(state);
            self.watcher.add_soon(event.pid);
        }
    }

    /// A call begins.
    fn begins(&mut self, step: &Step<'_>, key: FunctionKey, id: FrameId) {
        let event = step.event;
        let What::Call { place, line, .. } = &event.what else {
            return;
        };
        let number = self.calls.begins(Begun {
            pid: event.pid,
            tid: event.tid,
            frame: id,
            key,
            place: Arc::clone(place),
            line: *line,
            at: event.ts,
            stretches: 0,
            is_parked: false,
            is_outermost: true,
            unsplit: None,
        });
        self.lifetimes.begins(id, number);
        let older = self.calls.too_many();
        self.give_up(older, event.ts);
    }

    /// Follows these no longer: nobody will hear of their ends.
    fn give_up(&mut self, gone: BTreeMap<u64, Begun>, now: u64) {
        if gone.is_empty() {
            return;
        }
        let frames = gone.values().map(|call| call.frame).collect();
        self.lifetimes.give_up(&frames);
        for frame in frames {
            self.shuts(frame);
        }
        let mut state = self.watcher.state();
        for (number, call) in gone {
            state.settling.gives_up(number);
            let lasted = now.saturating_sub(call.at);
            let results = &mut state.settling.results;
            results.gave_up(call.key, &call.place, call.line, lasted);
        }
    }

    /// Follows the older half of the calls that are open no longer, which may be those of greenlets that nobody goes on with.
    fn give_up_older(&mut self, now: u64) {
        let mut frames: Vec<FrameId> = self.open.keys().copied().collect();
        // Later frames have higher numbers.
        frames.sort_unstable();
        frames.truncate(frames.len().div_ceil(2));
        let numbers = frames.iter().filter_map(|it| self.lifetimes.since(*it));
        let older = self.calls.these(numbers);
        for frame in frames {
            self.shuts(frame);
        }
        self.give_up(older, now);
    }

    /// Pairing follows a frame no longer.
    fn was_given_up(&mut self, gone: &GivenUp, now: u64) {
        self.shuts(gone.frame);
        let number = self.lifetimes.ends(gone.frame);
        let Some((number, call)) =
            number.and_then(|number| Some((number, self.calls.ends(number)?)))
        else {
            return;
        };
        let settling = &mut self.watcher.state().settling;
        settling.gives_up(number);
        // If not, it was no call, or the loss of its end is told of.
        if gone.by_bound {
            let lasted = now.saturating_sub(call.at);
            let results = &mut settling.results;
            results.gave_up(call.key, &call.place, call.line, lasted);
        }
    }

    /// A frame is open no longer. With the last one of a context goes what is known of that.
    fn shuts(&mut self, frame: FrameId) {
        let Some(context) = self.open.remove(&frame) else {
            return;
        };
        self.watcher.state().settling.closes(frame);
        if let Some(inside) = self.contexts.get_mut(&context) {
            inside.open -= 1;
            if inside.open == 0 {
                self.parked -= inside.parked.len();
                self.contexts.remove(&context);
            }
        }
    }

    fn left(&mut self, step: &Step<'_>, key: FunctionKey, frame: &Frame, known: Known) {
        let event = step.event;
        let finished = step.finished.as_ref();
        if known.internal.is_some() {
            self.came_back(step, frame, known);
        }
        if !known.is_wanted {
            return;
        }
        let (What::Return { place, .. }, Some(finished)) = (&event.what, finished) else {
            self.uncertain(step, key);
            return;
        };
        let Some(id) = finished.frame else {
            self.uncertain(step, key);
            return;
        };
        let call = self.lifetimes.since(id);
        let gives_way = frame.manner == Manner::Suspension;
        match gives_way {
            true => self.lifetimes.gives_way(whose(step, key, frame), id),
            false => {
                self.lifetimes.ends(id);
            }
        }
        let parked = self.closes(id, event.ts, finished);
        let Some(number) = call else {
            if !gives_way {
                self.uncertain(step, key);
            }
            return;
        };
        let Some(begun) = self.calls.get_mut(number) else {
            return;
        };
        begun.stretches += 1;
        (begun.is_parked, begun.is_outermost) = (gives_way, finished.outermost);
        let to = event.ts.saturating_sub(self.offset);
        let took = finished.inclusive_ns.filter(|_| finished.exact);
        if took.is_none() {
            begun.unsplit = begun.unsplit.or(Some(Unsplit::Uncertain));
        }
        let parked = match parked {
            Ok(parked) => parked,
            Err(why) => {
                begun.unsplit = begun.unsplit.or(Some(why));
                Vec::new()
            }
        };
        let mut stretch = Stretch {
            call: number,
            pid: event.pid,
            tid: event.tid,
            from: to.saturating_sub(took.unwrap_or_default()),
            to,
            in_context: frame.context.is_some(),
            parked,
            end: None,
            is_inner: false,
        };
        if !gives_way {
            let (began, stretches, unsplit) = (begun.at, begun.stretches, begun.unsplit);
            self.calls.ends(number);
            if !finished.outermost {
                let mut state = self.watcher.state();
                state.settling.results.recursive(key, place, finished.line);
                if stretches > 1 {
                    stretch.is_inner = true;
                    state.settling.take(stretch);
                }
                return;
            }
            let is_sure = unsplit != Some(Unsplit::Uncertain);
            stretch.end = Some(EndOfCall {
                key,
                place: Arc::clone(place),
                line: finished.line,
                began,
                duration_ns: is_sure.then(|| event.ts.saturating_sub(began)),
                stretches,
                unsplit,
            });
        }
        self.watcher.state().settling.take(stretch);
    }

    /// A call ended of which nothing else is known.
    fn uncertain(&mut self, step: &Step<'_>, key: FunctionKey) {
        let event = step.event;
        let What::Return { place, line, .. } = &event.what else {
            return;
        };
        let to = event.ts.saturating_sub(self.offset);
        self.watcher.state().settling.take(Stretch {
            call: self.calls.number(),
            pid: event.pid,
            tid: event.tid,
            from: to,
            to,
            in_context: false,
            parked: Vec::new(),
            is_inner: false,
            end: Some(EndOfCall {
                key,
                place: Arc::clone(place),
                line: step.finished.map_or(*line, |finished| finished.line),
                began: event.ts,
                duration_ns: None,
                stretches: 1,
                unsplit: Some(Unsplit::Uncertain),
            }),
        });
    }

    /// Switches of this thread are told from now on: of the calls that are open it is not known whether some were not.
    fn switches_are_told(&mut self, pid: u32, tid: u32, ts: u64) {
        let at = ts.saturating_sub(self.offset);
        let of_thread = |context: &Context| context.0 == pid && context.1 == tid;
        let contexts = self.contexts.iter_mut();
        for (_, inside) in contexts.filter(|(context, _)| of_thread(context)) {
            inside.told_from = Some(at);
        }
        let told = Greenlets::Told;
        self.watcher.state().settling.greenlets(pid, told);
    }

    /// A function returned through which its greenlet may have given way.
    fn came_back(&mut self, step: &Step<'_>, frame: &Frame, known: Known) {
        let event = step.event;
        let context = (event.pid, event.tid, frame.context);
        let Some(inside) = self.contexts.get_mut(&context) else {
            return;
        };
        let finished = step.finished.as_ref();
        let by = match finished.and_then(|finished| finished.frame) {
            Some(id) => {
                let at = inside.within.iter().position(|(open, ..)| *open == id);
                // What was above it has not returned, and will not.
                inside.within.truncate(at.unwrap_or(inside.within.len()));
                inside.within.last().copied()
            }
            None => None,
        };
        if known.internal != Some(SWITCH) {
            return;
        }
        let ended = event.ts.saturating_sub(self.offset);
        let took = finished.and_then(|finished| finished.inclusive_ns.filter(|_| finished.exact));
        let Some(took) = took else {
            inside.kept_from = inside.kept_from.max(ended);
            return;
        };
        self.parked += 1;
        inside.parked.push(Parked {
            began: ended.saturating_sub(took),
            ended,
            by: by.map(|(_, name, _)| name.into()),
            called: by.map_or(0, |(.., called)| called),
            on: None,
        });
        if inside.parked.len() > MOST_PARKED {
            self.parked -= inside.halve();
        }
        if self.parked > MOST_PARKED_IN_ALL {
            for inside in self.contexts.values_mut() {
                self.parked -= inside.halve();
            }
        }
    }

    /// A call no longer runs: when its greenlet was switched out.
    fn closes(
        &mut self,
        id: FrameId,
        ts: u64,
        finished: &FinishedCall,
    ) -> Result<Vec<Parked>, Unsplit> {
        let from = ts
            .saturating_sub(finished.inclusive_ns.unwrap_or_default())
            .saturating_sub(self.offset);
        let context = self.open.get(&id);
        let inside = context.and_then(|context| self.contexts.get(context));
        let parked = inside.map_or(Err(Unsplit::TooMuch), |inside| inside.parked_since(from));
        self.shuts(id);
        parked
    }

    /// Forgets what is open, of all processes or of one.
    fn forget(&mut self, of: Option<u32>) {
        let stays = |(pid, ..): &Context| of.is_some_and(|of| of != *pid);
        self.open.retain(|_, context| stays(context));
        self.contexts.retain(|context, _| stays(context));
        let contexts = self.contexts.values();
        self.parked = contexts.map(|inside| inside.parked.len()).sum();
        self.watcher.state().settling.closes_all(of);
    }

    fn write_told(&mut self) -> io::Result<()> {
        if !self.options.each {
            return Ok(());
        }
        let told = self.watcher.told();
        if told.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        {
            let names = self.watcher.state().names.known();
            for call in &told {
                match self.options.json {
                    true => text.push_str(&json::call(call, &names).to_string()),
                    false => text.push_str(&table::call(call, self.start, &names)),
                }
                text.push('\n');
            }
        }
        intervals::write(&mut self.output, &text, self.options.json)
    }

    /// Everything so far; `open` are the calls that go on.
    fn page(&self, kind: &str, now: u64, wall_ns: u64, open: &HashMap<FunctionKey, u64>) -> String {
        let state = self.watcher.state();
        let (results, names, account) = (
            state.settling.results.clone(),
            state.names.known(),
            state.account,
        );
        let (notes, untold) = (state.notes.clone(), state.settling.untold);
        // Whoever listens to the scheduler needs it back.
        drop(state);
        let page = table::Page {
            results: &results,
            names: &names,
            account,
            open,
            notes: &notes,
            untold,
            start: self.start,
        };
        match self.options.json {
            true => format!("{}\n", json::page(kind, now, wall_ns, &page)),
            false => table::page(&page),
        }
    }

    fn open(&self, pairing: &Pairing) -> HashMap<FunctionKey, u64> {
        let mut open = self.calls.parked();
        for call in pairing.open().filter(|call| call.outermost) {
            if is_wanted(&self.options.wanted, call.place) {
                *open.entry(call.key).or_default() += 1;
            }
        }
        open
    }
}

impl<W: Write> Sink for Why<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.start = session.ts;
        self.intervals.begin(session.ts);
        for target in &session.targets {
            if !self.watcher.state().settling.watches(target.pid) {
                self.watcher.add(target.pid);
            }
        }
        Ok(())
    }

    fn rules(&mut self, pid: u32, rules: PairingRules) -> io::Result<()> {
        if rules.greenlets {
            let hidden = Greenlets::Hidden;
            self.watcher.state().settling.greenlets(pid, hidden);
        }
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        match &step.event.what {
            What::Call { place, frame, .. } => {
                if let Some(key) = step.key {
                    let known = self.known(key, place);
                    self.entered(step, key, frame, known);
                }
            }
            What::Return { place, frame, .. } => {
                if let Some(key) = step.key {
                    let known = self.known(key, place);
                    self.left(step, key, frame, known);
                }
            }
            What::Lost { .. } => self.forget(None),
            What::Process { change, .. } => {
                let event = step.event;
                let whole = [0, event.pid].contains(&event.tid);
                match change {
                    ProcessChange::Fork => {
                        // The number may have been another process's before.
                        let gone = self.calls.of_ended(event.pid, None);
                        self.give_up(gone, event.ts);
                        self.watcher.state().settling.begins(event.pid);
                        self.watcher.add_soon(event.pid);
                    }
                    ProcessChange::Exit if !whole => {
                        let gone = self.calls.of_ended(event.pid, Some(event.tid));
                        self.give_up(gone, event.ts);
                    }
                    ProcessChange::Exec | ProcessChange::Exit if whole => {
                        let gone = self.calls.of_ended(event.pid, None);
                        self.give_up(gone, event.ts);
                        self.lifetimes.forget_process(event.pid);
                        self.forget(Some(event.pid));
                        self.watcher.anew(event.pid);
                        if *change == ProcessChange::Exit {
                            let at = event.ts.saturating_sub(self.offset);
                            self.watcher.state().settling.ended(event.pid, at);
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
        // After the others: of what ended with its process, these say nothing new.
        for gone in step.given_up {
            self.was_given_up(gone, step.event.ts);
        }
        Ok(())
    }

    fn tick(&mut self, now: u64, pairing: &Pairing) -> io::Result<()> {
        self.write_told()?;
        let Some(passed) = self.intervals.passed(now) else {
            return Ok(());
        };
        let text = self.page("interval", now, passed.nanoseconds, &self.open(pairing));
        intervals::write(&mut self.output, &text, self.options.json)
    }

    fn finish(mut self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>> {
        self.watcher.end();
        self.write_told()?;
        let Some(summary) = end.summary else {
            return Ok(None);
        };
        let open = self.open(end.pairing);
        let text = self.page("summary", summary.ts, summary.wall_ns, &open);
        intervals::write(&mut self.output, &text, self.options.json)?;
        Ok(None)
    }
}

fn whose(step: &Step<'_>, key: FunctionKey, frame: &Frame) -> Whose {
    Whose {
        pid: step.event.pid,
        tid: step.event.tid,
        context: frame.context,
        key,
    }
}

/// Whether a function was asked for: none that is told to know when greenlets switch.
fn is_wanted(wanted: &[Glob], place: &Place) -> bool {
    place.file.text != GREENLET && asked_for(wanted, place)
}

/// The name of a function through which greenlets give way.
fn internal(place: &Place) -> Option<&'static str> {
    let (function, file) = (&place.function.text, &place.file.text);
    let qualified = place.qualname.as_ref().map(|name| &name.text);
    let is = |name: &str| function == name || qualified.is_some_and(|it| it == name);
    let mut internal = INTERNAL.iter();
    let found = internal.find(|(name, end)| is(name) && file.ends_with(end));
    found.map(|(name, _)| *name)
}

#[cfg(test)]
#[path = "sink_tests.rs"]
mod tests;
