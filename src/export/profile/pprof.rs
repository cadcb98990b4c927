//! Profiles for pprof and what reads its format: stacks with what they cost, as Protocol Buffers in a gzip file.
//!
//! Stacks are those of folded ones ([`super::Folded`]). Beside them each sample has labels: its process, its thread, and what
//! runs there, so that readers can tell these apart.

use std::collections::HashMap;
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
use crate::event::{Session, Wait, What};
use crate::export::about::{about, losses};
use crate::export::{ENOUGH, End, Sink};
use crate::protobuf::Message;
use crate::text::Foreign;

/// Stacks that are told apart by thread: some 40 MB. Beyond that they are told apart by process.
const MOST_SAMPLES: usize = 1 << 19;
/// Threads whose labels are remembered, and kinds of labels.
const MOST_THREADS: usize = 1 << 16;
const MOST_LABELS: usize = 1 << 16;
/// Files whose names are written once; those of others are written once per function.
const MOST_FILES: usize = 1 << 16;

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
pub(crate) struct Profile<W: Write> {
    output: GzEncoder<W>,
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
            output: GzEncoder::new(output, Compression::default()),
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
            self.output.write_all(bytes)?;
            bytes.clear();
        }
        Ok(())
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// The output's.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.hand_on(0)?;
        self.output.finish().map(drop)
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
    /// And by the number of whose they are.
    known: HashMap<(u32, u32), Values, KeyBuilder>,
    /// Those for which there was no room there, and how often.
    others: Vec<Values>,
    without_room: u64,
}

impl Samples {
    fn of(&mut self, frame: u32, whose: u32) -> Option<&mut Values> {
        let key = (frame, whose);
        if self.known.len() < MOST_SAMPLES || self.known.contains_key(&key) {
            return Some(self.known.entry(key).or_default());
        }
        self.without_room += 1;
        let at = frame as usize;
        if at >= self.others.len() {
            self.others.resize(at + 1, Values::default());
        }
        self.others.get_mut(at)
    }

    /// All that are something, in an order of their own.
    fn all(&self) -> impl Iterator<Item = ((u32, u32), &Values)> {
        let mut known: Vec<(u32, u32)> = self.known.keys().copied().collect();
        known.sort_unstable();
        let known = known
            .into_iter()
            .filter_map(|key| Some((key, self.known.get(&key)?)));
        let others = (0..)
            .zip(&self.others)
            .map(|(frame, values)| ((frame, 0), values));
        known
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

/// Whose samples are, by numbers. 0 is nobody's.
#[derive(Debug, Default)]
struct Whose {
    labels: Vec<Label>,
    by_hash: HashMap<u64, u32, KeyBuilder>,
    /// What runs in a thread, and its number.
    threads: HashMap<(u32, u32), Running, KeyBuilder>,
    /// The thread that was asked for last: mostly it is the next one, too.
    last: Option<((u32, u32), Running)>,
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
        let kind = match runner.is_main() {
            true => None,
            false => Some(contexts.label_so_far(runner)),
        };
        let hash = KeyBuilder.hash_one((pid, tid, &kind));
        let number = match self.by_hash.get(&hash) {
            Some(&known) => known,
            None if self.labels.len() >= MOST_LABELS => 0,
            None => {
                self.labels.push(Label {
                    pid,
                    tid,
                    context: kind,
                });
                let number = self.labels.len() as u32;
                self.by_hash.insert(hash, number);
                number
            }
        };
        if self.threads.len() >= MOST_THREADS {
            self.threads.clear();
        }
        self.threads.insert((pid, tid), (context, number));
        self.last = Some(((pid, tid), (context, number)));
    }
}

impl<W: Write> Pprof<W> {
    /// Nothing yet, to be written to `output`; `contexts` is what greenlets, tasks and threads are by a first reading. Of `shown`
    /// counts whether idleness and the tracer's own cost are wanted.
    pub fn new(output: W, shown: Selection, contexts: Contexts) -> Pprof<W> {
        Pprof {
            output,
            shown,
            costs: Costs {
                session: Session::default(),
                has_waits: false,
                seen: Seen::new(shown),
                contexts,
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
