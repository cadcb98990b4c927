//! Profiles for pprof and what reads its format: stacks with what they cost, as Protocol Buffers in a gzip file.
//!
//! Stacks are those of folded ones ([`super::Folded`]). Beside them each sample has labels: its process, its thread, and what
//! runs there, so that readers can tell these apart.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::folded::{Seen, Selection, Time};
use super::names;
use crate::analysis::contexts::{Contexts, Runner};
use crate::analysis::keys::KeyBuilder;
use crate::analysis::overhead::Intervals;
use crate::analysis::pairing::Step;
use crate::event::{ProcessChange, Session, Wait, What};
use crate::export::about::{about, losses};
use crate::export::{ENOUGH, End, Sink};
use crate::protobuf::Message;
use crate::text::Foreign;
use crate::threads::Worker;

/// Stacks that are told apart by thread: some 40 MB. Beyond that they are told apart by process.
const MOST_SAMPLES: usize = 1 << 19;
/// Threads whose labels are remembered, and kinds of labels.
const MOST_THREADS: usize = 1 << 16;
const MOST_LABELS: usize = 1 << 16;
/// Threads, greenlets and tasks of whom it is not known yet what they are; further ones are what is known of them at once.
const MOST_PENDING: u32 = 1 << 16;
/// What the numbers of these have, beside those of labels.
const PENDING: u32 = 1 << 31;
/// Whose a frame is that nothing was told of.
const NOBODY: u32 = u32::MAX;
/// Files whose names are written once; those of others are written once per function.
const MOST_FILES: usize = 1 << 16;

/// How well it is packed: in a third of the time that the usual level takes, and a few percent larger.
const LEVEL: Compression = Compression::new(3);

// Numbers of the fields of the format's messages.
const SAMPLE_TYPE: u32 = 1;
const SAMPLE: u32 = 2;
const MAPPING: u32 = 3;
const LOCATION: u32 = 4;
const FUNCTION: u32 = 5;
const STRING: u32 = 6;
const TIME_NS: u32 = 9;
const DURATION_NS: u32 = 10;
const PERIOD_TYPE: u32 = 11;
const PERIOD: u32 = 12;
const COMMENT: u32 = 13;
const DEFAULT_TYPE: u32 = 14;
const TYPE_NAME: u32 = 1;
const TYPE_UNIT: u32 = 2;
const SAMPLE_STACK: u32 = 1;
const SAMPLE_VALUES: u32 = 2;
const SAMPLE_LABEL: u32 = 3;
const LABEL_KEY: u32 = 1;
const LABEL_TEXT: u32 = 2;
const MAPPING_ID: u32 = 1;
const MAPPING_HAS: [u32; 3] = [7, 8, 9];
const LOCATION_ID: u32 = 1;
const LOCATION_MAPPING: u32 = 2;
const LOCATION_LINE: u32 = 4;
const LINE_FUNCTION: u32 = 1;
const LINE_LINE: u32 = 2;
const FUNCTION_ID: u32 = 1;
const FUNCTION_NAME: u32 = 2;
const FUNCTION_SYSTEM_NAME: u32 = 3;
const FUNCTION_FILE: u32 = 4;
const FUNCTION_LINE: u32 = 5;

/// What samples are measured in.
pub(crate) const NANOSECONDS: &str = "nanoseconds";
/// The same of what is counted.
pub(crate) const COUNT: &str = "count";

/// A profile on its way to the output: whatever is said of it is written at once.
#[derive(Debug)]
pub(crate) struct Profile<W> {
    output: W,
    /// Packs what was said while more is said; nothing ends it.
    packer: Worker<Option<Vec<u8>>, io::Result<Vec<u8>>>,
    message: Message,
    strings: u64,
    functions: u64,
    files: HashMap<String, u64, KeyBuilder>,
    keys: Vec<(&'static str, u64)>,
}

impl<W: Write> Profile<W> {
    /// A profile whose samples have values of these types, each with its unit. A reader shows the one of the number `shown` first.
    pub(crate) fn new(output: W, types: &[(&str, &str)], shown: usize) -> Profile<W> {
        let mut profile = Profile {
            output,
            packer: Worker::new(packing()),
            message: Message::default(),
            strings: 0,
            functions: 0,
            files: HashMap::default(),
            keys: Vec::new(),
        };
        // The first string stands for none.
        profile.string("");
        for (at, (name, unit)) in types.iter().enumerate() {
            let (name, unit) = (profile.string(name), profile.string(unit));
            profile.value_type(SAMPLE_TYPE, name, unit);
            if at == shown {
                profile.message.number(DEFAULT_TYPE, name);
            }
        }
        // Functions are named by it, so that no reader looks for symbols.
        profile.message.message(MAPPING, |mapping| {
            mapping.number(MAPPING_ID, 1);
            for has in MAPPING_HAS {
                mapping.number(has, 1);
            }
        });
        profile
    }

    fn value_type(&mut self, field: u32, name: u64, unit: u64) {
        self.message.message(field, |it| {
            it.number(TYPE_NAME, name);
            it.number(TYPE_UNIT, unit);
        });
    }

    /// Writes a string, and answers its number.
    pub(crate) fn string(&mut self, text: &str) -> u64 {
        self.message.text(STRING, text);
        self.strings += 1;
        self.strings - 1
    }

    /// Writes a function, and answers the number by which it stands on stacks. No line is 0.
    ///
    /// # Errors
    /// The output's.
    pub(crate) fn function(&mut self, name: &str, file: &str, line: u64) -> io::Result<u64> {
        let name = self.string(name);
        let file = match self.files.get(file) {
            Some(&known) => known,
            None => {
                let number = self.string(file);
                if self.files.len() < MOST_FILES {
                    self.files.insert(file.to_owned(), number);
                }
                number
            }
        };
        self.functions += 1;
        let id = self.functions;
        self.message.message(FUNCTION, |function| {
            function.number(FUNCTION_ID, id);
            function.number(FUNCTION_NAME, name);
            function.number(FUNCTION_SYSTEM_NAME, name);
            function.number(FUNCTION_FILE, file);
            function.number(FUNCTION_LINE, line);
        });
        self.message.message(LOCATION, |location| {
            location.number(LOCATION_ID, id);
            location.number(LOCATION_MAPPING, 1);
            location.message(LOCATION_LINE, |it| {
                it.number(LINE_FUNCTION, id);
                it.number(LINE_LINE, line);
            });
        });
        self.hand_on(ENOUGH)?;
        Ok(id)
    }

    /// Writes a sample: its stack, the innermost function first, a value of each type, and labels with the numbers of their texts.
    ///
    /// # Errors
    /// The output's.
    pub(crate) fn sample(
        &mut self,
        stack: impl IntoIterator<Item = u64>,
        values: &[u64],
        labels: &[(&'static str, u64)],
    ) -> io::Result<()> {
        for (key, _) in labels {
            if !self.keys.iter().any(|(known, _)| known == key) {
                let number = self.string(key);
                self.keys.push((key, number));
            }
        }
        let keys = &self.keys;
        self.message.message(SAMPLE, |sample| {
            sample.packed(SAMPLE_STACK, stack);
            sample.packed(SAMPLE_VALUES, values.iter().copied());
            for (key, text) in labels {
                let key = keys.iter().find(|(known, _)| known == key);
                sample.message(SAMPLE_LABEL, |label| {
                    label.number(LABEL_KEY, key.map_or(0, |(_, number)| *number));
                    label.number(LABEL_TEXT, *text);
                });
            }
        });
        self.hand_on(ENOUGH)
    }

    /// Writes something for people.
    pub(crate) fn comment(&mut self, text: &str) {
        let number = self.string(text);
        self.message.number(COMMENT, number);
    }

    /// Writes when it was made, in nanoseconds since the Unix epoch, for how many, and how many lie between two samples, if it is
    /// made of such.
    pub(crate) fn times(&mut self, begun: u64, duration: u64, period: Option<u64>) {
        self.message.number(TIME_NS, begun);
        self.message.number(DURATION_NS, duration);
        if let Some(period) = period {
            let (name, unit) = (self.string("wall"), self.string(NANOSECONDS));
            self.value_type(PERIOD_TYPE, name, unit);
            self.message.number(PERIOD, period);
        }
    }

    fn hand_on(&mut self, beyond: usize) -> io::Result<()> {
        let bytes = self.message.bytes();
        if bytes.len() > beyond {
            let next = Vec::with_capacity(bytes.len());
            let bytes = std::mem::replace(bytes, next);
            let packed = self.packer.give(Some(bytes));
            self.put(packed)?;
        }
        Ok(())
    }

    fn put(&mut self, packed: Option<io::Result<Vec<u8>>>) -> io::Result<()> {
        match packed {
            Some(packed) => self.output.write_all(&packed?),
            None => Ok(()),
        }
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// The output's.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.hand_on(0)?;
        let packed = self.packer.give(None);
        self.put(packed)?;
        match self.packer.finish() {
            Some(packed) => self.output.write_all(&packed?),
            None => Ok(()),
        }
    }
}

/// Makes a gzip file of what it gets, up to nothing; answers what is new of it.
fn packing() -> impl FnMut(Option<Vec<u8>>) -> io::Result<Vec<u8>> + Send {
    let mut file = Some(GzEncoder::new(Vec::new(), LEVEL));
    move |bytes| match (bytes, &mut file) {
        (Some(bytes), Some(file)) => {
            file.write_all(&bytes)?;
            Ok(std::mem::take(file.get_mut()))
        }
        _ => file.take().map_or(Ok(Vec::new()), GzEncoder::finish),
    }
}

/// Collects what the stacks of a recording cost.
#[derive(Debug)]
pub struct Pprof<W> {
    output: W,
    shown: Selection,
    costs: Costs,
    span: Option<(u64, u64)>,
}

/// What was collected.
#[derive(Debug)]
struct Costs {
    session: Session,
    has_waits: bool,
    seen: Seen,
    contexts: Contexts,
    whose: Whose,
    samples: Samples,
}

/// What stacks cost, by the numbers of their innermost frames.
#[derive(Debug, Default)]
struct Samples {
    /// By frame, of whoever had it first, who mostly is the only one.
    first: Vec<(u32, Values)>,
    /// Those of everybody else, and how many there are of both.
    known: HashMap<(u32, u32), Values, KeyBuilder>,
    count: usize,
    /// The frames of those that are somebody's for the time being ([`PENDING`]).
    pending: HashMap<u32, Vec<u32>, KeyBuilder>,
    /// Those for which there was no room there, and how often.
    others: Vec<Values>,
    without_room: u64,
}

impl Samples {
    fn of(&mut self, frame: u32, whose: u32) -> Option<&mut Values> {
        let at = frame as usize;
        let has_room = self.count < MOST_SAMPLES;
        if at >= self.first.len() {
            self.first.resize(at + 1, (NOBODY, Values::default()));
        }
        let first = self.first.get(at).map(|(whose, _)| *whose);
        let is_free = first == Some(NOBODY) && has_room;
        if first == Some(whose) || is_free {
            if is_free {
                self.note(frame, whose);
            }
            let (of, values) = self.first.get_mut(at)?;
            *of = whose;
            return Some(values);
        }
        if has_room || self.known.contains_key(&(frame, whose)) {
            let before = self.known.len();
            self.known.entry((frame, whose)).or_default();
            if self.known.len() > before {
                self.note(frame, whose);
            }
            return self.known.get_mut(&(frame, whose));
        }
        self.without_room += 1;
        if at >= self.others.len() {
            self.others.resize(at + 1, Values::default());
        }
        self.others.get_mut(at)
    }

    /// There is one more.
    fn note(&mut self, frame: u32, whose: u32) {
        self.count += 1;
        if whose & PENDING != 0 {
            self.pending.entry(whose).or_default().push(frame);
        }
    }

    /// What was somebody's for the time being is somebody else's from now on.
    fn give(&mut self, from: u32, to: u32) {
        for frame in self.pending.remove(&from).unwrap_or_default() {
            let Some((first, values)) = self.first.get_mut(frame as usize) else {
                continue;
            };
            let other = match *first == from {
                true => {
                    *first = to;
                    self.known.remove(&(frame, to))
                }
                false => self.known.remove(&(frame, from)),
            };
            let Some(other) = other else {
                continue;
            };
            match *first == to {
                true => {
                    self.count -= 1;
                    values.add(other);
                }
                false => match self.known.entry((frame, to)) {
                    Entry::Occupied(mut known) => {
                        self.count -= 1;
                        known.get_mut().add(other);
                    }
                    Entry::Vacant(free) => {
                        free.insert(other);
                    }
                },
            }
        }
    }

    /// All that are something, in an order of their own.
    fn all(&self) -> impl Iterator<Item = ((u32, u32), &Values)> {
        let first = (0..).zip(&self.first);
        let first = first.map(|(frame, (whose, values))| ((frame, *whose), values));
        let rest = self.known.iter().map(|(key, values)| (*key, values));
        let mut known: Vec<((u32, u32), &Values)> = first.chain(rest).collect();
        known.sort_unstable_by_key(|(key, _)| *key);
        let others = (0..)
            .zip(&self.others)
            .map(|(frame, values)| ((frame, 0), values));
        known
            .into_iter()
            .chain(others)
            .filter(|(_, values)| values.calls | values.run_ns | values.wait_ns > 0)
    }
}

/// What a stack cost.
#[derive(Debug, Clone, Copy, Default)]
struct Values {
    calls: u64,
    run_ns: u64,
    run_intervals: Intervals,
    wait_ns: u64,
}

impl Values {
    fn add(&mut self, other: Values) {
        self.calls += other.calls;
        self.run_ns = self.run_ns.saturating_add(other.run_ns);
        self.run_intervals += other.run_intervals;
        self.wait_ns = self.wait_ns.saturating_add(other.wait_ns);
    }
}

/// Whose samples are, by numbers. 0 is nobody's.
#[derive(Debug, Default)]
struct Whose {
    labels: Vec<Label>,
    by_hash: HashMap<u64, u32, KeyBuilder>,
    /// What runs in a thread, and its number.
    threads: HashMap<(u32, u32), Running, KeyBuilder>,
    /// The thread that was asked for last: mostly it is the next one, too.
    last: Option<((u32, u32), Running)>,
    /// Those of whom it is not known yet what they are: the threads that they ran in, and their numbers meanwhile.
    pending: HashMap<Runner, Vec<(u32, u32)>, KeyBuilder>,
    /// The last such number, and those that are free again.
    numbers: u32,
    free: Vec<u32>,
}

/// A greenlet or task, or none, and the number of its label.
type Running = (Option<NonZeroU64>, u32);

/// A thread, and what runs there.
#[derive(Debug)]
struct Label {
    pid: u32,
    tid: u32,
    context: Option<Arc<str>>,
}

impl Whose {
    /// The number of what runs in a thread.
    fn running(&self, pid: u32, tid: u32) -> u32 {
        self.known((pid, tid)).map_or(0, |(_, number)| number)
    }

    fn known(&self, thread: (u32, u32)) -> Option<Running> {
        match self.last {
            Some((last, running)) if last == thread => Some(running),
            _ => self.threads.get(&thread).copied(),
        }
    }

    /// A thread goes on with this greenlet or task, or with none.
    fn runs(&mut self, (pid, tid): (u32, u32), context: Option<NonZeroU64>, contexts: &Contexts) {
        let known = self.known((pid, tid));
        if let Some(running) = known.filter(|(known, _)| *known == context) {
            self.last = Some(((pid, tid), running));
            return;
        }
        let runner = Runner::of(pid, tid, context);
        let number = match (runner.is_main(), contexts.label(runner)) {
            (true, _) => self.labelled(pid, tid, None),
            (false, Some(kind)) => self.labelled(pid, tid, Some(kind)),
            (false, None) => self
                .pending(runner, tid)
                .unwrap_or_else(|| self.labelled(pid, tid, Some(contexts.label_so_far(runner)))),
        };
        if self.threads.len() >= MOST_THREADS {
            self.threads.clear();
        }
        self.threads.insert((pid, tid), (context, number));
        self.last = Some(((pid, tid), (context, number)));
    }

    /// A thread has ended: the next one of its number is another.
    fn ended(&mut self, thread: (u32, u32)) {
        self.threads.remove(&thread);
        self.last = None;
    }

    /// The number of a thread and what runs there.
    fn labelled(&mut self, pid: u32, tid: u32, context: Option<Arc<str>>) -> u32 {
        let hash = KeyBuilder.hash_one((pid, tid, &context));
        if let Some(&known) = self.by_hash.get(&hash) {
            return known;
        }
        if self.labels.len() >= MOST_LABELS {
            return 0;
        }
        self.labels.push(Label { pid, tid, context });
        let number = self.labels.len() as u32;
        self.by_hash.insert(hash, number);
        number
    }

    /// The number, for the time being, of one of whom it is not known yet what that is; `None` where there are too many.
    fn pending(&mut self, runner: Runner, tid: u32) -> Option<u32> {
        let known = self.pending.get(&runner).map_or(&[][..], Vec::as_slice);
        if let Some((_, number)) = known.iter().find(|(of, _)| *of == tid) {
            return Some(*number);
        }
        let number = match self.free.pop() {
            Some(free) => free,
            None if self.numbers >= MOST_PENDING => return None,
            None => {
                self.numbers += 1;
                PENDING | self.numbers
            }
        };
        self.pending.entry(runner).or_default().push((tid, number));
        Some(number)
    }

    /// It is known by now what somebody is.
    fn settle(&mut self, runner: Runner, kind: &Arc<str>, samples: &mut Samples) {
        for (tid, pending) in self.pending.remove(&runner).unwrap_or_default() {
            let thread = (runner.pid(), tid);
            let number = self.labelled(thread.0, tid, Some(Arc::clone(kind)));
            samples.give(pending, number);
            let last = self.last.as_mut().filter(|(last, _)| *last == thread);
            let running = self.threads.get_mut(&thread);
            for (_, of) in running.into_iter().chain(last.map(|(_, running)| running)) {
                if *of == pending {
                    *of = number;
                }
            }
            self.free.push(pending);
        }
    }

    /// Nothing more will be known of anybody.
    fn settle_all(&mut self, contexts: &Contexts, samples: &mut Samples) {
        let mut all: Vec<(u32, Runner)> = self
            .pending
            .iter()
            .filter_map(|(runner, numbers)| Some((numbers.first()?.1, *runner)))
            .collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        for (_, runner) in all {
            self.settle(runner, &contexts.label_so_far(runner), samples);
        }
    }
}

impl<W: Write> Pprof<W> {
    /// Nothing yet, to be written to `output`. Of `shown` counts whether idleness and the tracer's own cost are wanted.
    pub fn new(output: W, shown: Selection) -> Pprof<W> {
        Pprof {
            output,
            shown,
            costs: Costs {
                session: Session::default(),
                has_waits: false,
                seen: Seen::new(shown),
                contexts: Contexts::default(),
                whose: Whose::default(),
                samples: Samples::default(),
            },
            span: None,
        }
    }
}

impl<W: Write> Sink for Pprof<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        let costs = &mut self.costs;
        costs.session = session.clone();
        costs.has_waits = session.events.iter().any(|kind| kind == Wait::KIND);
        let shown = Selection {
            by_context: false,
            time: match costs.has_waits {
                true => Time::Wall,
                false => Time::Own,
            },
            ..self.shown
        };
        costs.seen = Seen::new(shown).located();
        costs.seen.begin(session);
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let event = step.event;
        let (first, last) = self.span.unwrap_or((event.ts, event.ts));
        self.span = Some((first.min(event.ts), last.max(event.ts)));
        let costs = &mut self.costs;
        if let Some(runner) = costs.contexts.follow(step)
            && let Some(kind) = costs.contexts.label(runner)
        {
            costs.whose.settle(runner, &kind, &mut costs.samples);
        }
        costs.seen.take(step);
        let whose = costs.whose.running(event.pid, event.tid);
        for charge in costs.seen.charges() {
            let Some(values) = costs.samples.of(charge.frame, whose) else {
                continue;
            };
            match charge.is_wait {
                true => values.wait_ns = values.wait_ns.saturating_add(charge.ns),
                false => {
                    values.run_ns = values.run_ns.saturating_add(charge.ns);
                    values.run_intervals += charge.intervals;
                }
            }
        }
        if let What::Process {
            change: ProcessChange::Exit,
            ..
        } = event.what
        {
            costs.whose.ended((event.pid, event.tid));
        }
        if let What::Call { frame, .. } | What::Return { frame, .. } = &event.what {
            let running = step.stack().next();
            let context = running.map_or(frame.context, |open| open.context);
            costs
                .whose
                .runs((event.pid, event.tid), context, &costs.contexts);
            if let Some(called) = costs.seen.called() {
                let whose = costs.whose.running(event.pid, event.tid);
                if let Some(values) = costs.samples.of(called, whose) {
                    values.calls += 1;
                }
            }
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, end: &End<'_>) -> io::Result<Option<String>> {
        let costs = &mut self.costs;
        costs.whose.settle_all(&costs.contexts, &mut costs.samples);
        costs.seen.end();
        let threads = (costs.samples.without_room > 0).then(|| {
            format!(
                "there are more stacks in different threads than are kept ({MOST_SAMPLES}): {} times, time or a call is told of no \
                 thread; record a shorter time, or fewer functions (--function, --module)",
                costs.samples.without_room
            )
        });
        let said: Vec<String> = threads.into_iter().chain(costs.seen.left_out()).collect();
        let (first, last) = self.span.unwrap_or_default();
        let wall_ns = match end.summary {
            Some(summary) if summary.wall_ns > 0 => summary.wall_ns,
            _ => last.saturating_sub(first),
        };
        let mut types = vec![("calls", COUNT), ("wall", NANOSECONDS)];
        if costs.has_waits {
            types.extend([("cpu", NANOSECONDS), ("off-cpu", NANOSECONDS)]);
        }
        let mut profile = Profile::new(&mut self.output, &types, 1);
        let begun = if costs.session.ts > 0 {
            costs.session.ts
        } else {
            first
        };
        profile.times(begun, wall_ns, None);
        for (what, text) in about(&costs.session, end.summary, first, wall_ns) {
            profile.comment(&format!("{what}: {text}"));
        }
        for sentence in losses(end, 0).iter().chain(&said) {
            profile.comment(sentence);
        }
        costs.write(&mut profile)?;
        profile.finish()?;
        Ok((!said.is_empty()).then(|| said.join("; ")))
    }
}

/// What a thread is called in the label of a sample: not by its number alone, which pprof takes for a quantity.
pub(crate) fn thread_label(tid: u32, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{} ({tid})", Foreign::new(name)),
        None => format!("thread {tid}"),
    }
}

impl Costs {
    /// Writes the samples, each frame as what it is.
    fn write<W: Write>(&self, profile: &mut Profile<W>) -> io::Result<()> {
        let (seen, whose, samples) = (&self.seen, &self.whose, &self.samples);
        let overhead = seen.overhead();
        // The function of each name that stands on a stack, and frames with the numbers of their processes, callers and names.
        let mut functions: Vec<u64> = Vec::new();
        let mut frames: Vec<(u32, Option<u32>, u32)> = Vec::new();
        let mut processes: HashMap<u32, u64, KeyBuilder> = HashMap::default();
        for frame in seen.frames() {
            let named = frame.named as usize;
            if named >= functions.len() {
                functions.resize(named + 1, 0);
            }
            if let Some(function @ 0) = functions.get_mut(named) {
                *function = match seen.place(&frame) {
                    Some((place, line)) => {
                        let (name, file) = (place.name().to_string(), place.file.to_string());
                        profile.function(&name, &file, u64::try_from(*line).unwrap_or(0))?
                    }
                    None => profile.function(frame.name, "", 0)?,
                };
            }
            processes.entry(frame.pid).or_insert_with(|| {
                let name = names::process(&self.session, frame.pid);
                profile.string(&name)
            });
            frames.push((frame.pid, frame.caller, frame.named));
        }
        let mut labels: Vec<[Option<u64>; 2]> = vec![[None, None]];
        for label in &whose.labels {
            let name = self.contexts.name(Runner::of(label.pid, label.tid, None));
            let thread = profile.string(&thread_label(
                label.tid,
                name.map(|name| name.text.as_str()),
            ));
            let context = label.context.as_deref();
            let context = context.map(|kind| profile.string(&Foreign::new(kind).to_string()));
            labels.push([Some(thread), context]);
        }
        for (key, values) in samples.all() {
            let Some((pid, ..)) = frames.get(key.0 as usize) else {
                continue;
            };
            let run_ns = overhead.net(values.run_ns, values.run_intervals);
            let numbers = [
                values.calls,
                run_ns.saturating_add(values.wait_ns),
                run_ns,
                values.wait_ns,
            ];
            let numbers = match self.has_waits {
                true => &numbers[..],
                false => &numbers[..2],
            };
            let mut of = Vec::new();
            of.extend(processes.get(pid).map(|process| ("process", *process)));
            if let Some([thread, context]) = labels.get(key.1 as usize) {
                of.extend(thread.map(|thread| ("thread", thread)));
                of.extend(context.map(|context| ("context", context)));
            }
            let mut next = Some(key.0);
            let stack = std::iter::from_fn(|| {
                let (_, caller, named) = frames.get(next? as usize)?;
                next = *caller;
                functions.get(*named as usize).copied()
            });
            profile.sample(stack, numbers, &of)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::pairing::{Pairing, PairingRules};
    use crate::analysis::testing::{call, event, in_context, in_file, named, returned};
    use crate::event::Event;

    /// What a stream costs: calls and time on the clock of each thread and kind of task.
    fn costs(events: Vec<Event>) -> Vec<(u32, Option<String>, u64, u64)> {
        let mut pprof = Pprof::new(Vec::new(), Selection::default());
        pprof.session(&Session::default()).expect("memory");
        let mut pairing = Pairing::with_rules(PairingRules {
            call_on_creation: false,
            greenlets: false,
        });
        for mut event in events {
            if let Some(step) = pairing.follow(&mut event) {
                pprof.step(&step).expect("memory");
            }
        }
        let costs = &mut pprof.costs;
        costs.whose.settle_all(&costs.contexts, &mut costs.samples);
        assert!(costs.whose.pending.is_empty() && costs.samples.pending.is_empty());
        let mut sums = Vec::new();
        for (at, label) in (1..).zip(&costs.whose.labels) {
            let own = costs.samples.all().filter(|((_, whose), _)| *whose == at);
            let (calls, ns) = own.fold((0, 0), |(calls, ns), (_, values)| {
                (calls + values.calls, ns + values.run_ns)
            });
            sums.push((
                label.tid,
                label.context.as_deref().map(str::to_owned),
                calls,
                ns,
            ));
        }
        sums
    }

    /// What every greenlet runs, and says nothing of it.
    fn main(context: u64, event: Event) -> Event {
        let event = in_context(context, event.ts, event);
        in_file("/x/eventlet/greenthread.py", event)
    }

    #[test]
    fn what_a_greenlet_cost_before_it_was_known_what_it_is_is_its_kind_s() {
        let mut events = Vec::new();
        for (context, begin) in [(4, 0), (5, 10_000)] {
            events.extend([
                named(begin, context, "GreenThread-4"),
                main(context, call(begin + 1_000, "main")),
                in_context(context, begin + 2_000, call(begin + 2_000, "consume")),
                in_context(context, begin + 5_000, returned(begin + 5_000, "consume")),
                main(context, returned(begin + 6_000, "main")),
            ]);
        }
        let consume = Some("consume".to_owned());
        assert_eq!(costs(events), [(1, consume, 4, 10_000)]);
    }

    #[test]
    fn of_whom_it_is_never_known_is_what_is_known_at_the_end() {
        let events = vec![
            main(4, call(1_000, "main")),
            main(4, call(2_000, "wait")),
            main(4, returned(5_000, "wait")),
        ];
        let nobody = Some("(unnamed)".to_owned());
        assert_eq!(costs(events), [(1, nobody, 2, 4_000)]);
    }

    #[test]
    fn threads_of_one_number_after_each_other_are_told_apart() {
        let in_thread = |event: Event| Event { tid: 9, ..event };
        let ends = |ts| {
            in_thread(event(
                ts,
                What::Process {
                    change: ProcessChange::Exit,
                    parent: None,
                    command: None,
                },
            ))
        };
        let mut events = Vec::new();
        for (function, begin) in [("first", 0), ("second", 10_000)] {
            events.extend([
                in_thread(call(begin + 1_000, function)),
                in_thread(returned(begin + 3_000, function)),
                ends(begin + 4_000),
            ]);
        }
        let sums = costs(events);
        let kinds: Vec<Option<&str>> = sums.iter().map(|it| it.1.as_deref()).collect();
        assert_eq!(kinds, [Some("first"), Some("second")], "{sums:?}");
    }

    #[test]
    fn endlessly_many_greenlets_of_whom_nothing_is_known_are_held_within_a_bound() {
        // In a thousand processes, so that none has too many stacks.
        let events = (1..=u64::from(MOST_PENDING) + 1_000).map(|context| {
            let pid = 1 + context as u32 % 1_000;
            let event = main(context, call(context * 10, "main"));
            Event {
                pid,
                tid: pid,
                ..event
            }
        });
        let sums = costs(events.collect());
        assert_eq!(sums.len(), 1_000, "{sums:?}");
        let calls: u64 = sums.iter().map(|(.., calls, _)| calls).sum();
        assert_eq!(calls, u64::from(MOST_PENDING) + 1_000);
    }
}
