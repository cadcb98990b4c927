//! A timeline of slices on rows, as Chrome's format and Perfetto's show it: a row for each thread, greenlet and task
//! (`tracks.rs`), on it the calls, and what else takes time, as slices that nest; single events as instants.
//!
//! What is shown is found out here, once. A [`Pen`] writes it down.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::names;
use super::timeline::{Ending, Observer, Timeline, Track};
use super::tracks::{Row, Tracks};
use crate::analysis::keys::{FunctionKey, KeyBuilder};
use crate::analysis::overhead::Intervals;
use crate::analysis::pairing::{Open, Step};
use crate::analysis::roles::Role;
use crate::event::hosts::Hosts;
use crate::event::{Event, Field, Fields, Manner, Place, Plain, Session, What, json as event_json};
use crate::export::{ENOUGH, End, Held, Sink, counted};
use crate::probe::{ArgumentKind, Phase};
use crate::text::Foreign;

/// Processes that are named; others have only their numbers.
const MOST_PROCESSES: usize = 1 << 16;
/// Threads, greenlets and tasks whose roles are found out; others have only their names.
const MOST_LABELS: usize = 1 << 16;

/// A format of timelines.
pub trait Pen: Debug {
    /// How deep calls nest on one row. Deeper ones are on rows of their own.
    const DEEPEST: usize;

    /// Begins at this time, before anything else.
    fn begin(&mut self, session: &Session, ts: u64);

    /// A process of which something is shown.
    fn process(&mut self, pid: u32, name: &str);

    /// A row of which something is shown, and what it is called until more is known; `of` is the row of its thread, where it is
    /// another one.
    fn appears(&mut self, _row: Row, _of: Option<Row>, _name: &str) {}

    /// What a row is called.
    fn named(&mut self, row: Row, of: Option<Row>, name: &str);

    /// A call begins; what is closed is always what was opened last on its row.
    fn opens(&mut self, row: Row, slice: &Slice);

    /// It ends.
    fn closes(&mut self, row: Row, slice: &Slice, ts: u64, ending: Ending);

    /// Something else that took time, from a begin to an end.
    fn complete(&mut self, row: Row, between: (u64, u64), about: &About<'_>);

    /// Something that took none.
    fn instant(&mut self, of: Scope, ts: u64, about: &About<'_>);

    /// A number of a process, from now on.
    fn count(&mut self, _pid: u32, _ts: u64, _what: &'static str, _number: i64) {}

    /// What was written and was not handed on yet.
    fn bytes(&mut self) -> &mut Vec<u8>;

    /// Nothing more comes.
    fn end(&mut self, _session: &Session) {}
}

/// What is written of something that is no call.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    pub(super) name: &'a str,
    pub(super) category: &'static str,
    /// An object.
    pub(super) args: &'a Value,
}

/// What an instant is of.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// A thread.
    Thread(Row),
    /// A process.
    Process(u32),
    /// All of them; a viewer that wants a process gets this one.
    All(u32),
}

/// A call that is open.
#[derive(Debug)]
pub struct Slice {
    pub(super) key: FunctionKey,
    pub(super) place: Arc<Place>,
    pub(super) line: Option<i32>,
    pub(super) since: u64,
    pub(super) fields: Option<Arc<Fields>>,
    /// Once it has returned: the same, and those that were read by then.
    returned: Option<Arc<Fields>>,
    row: Row,
    /// Of how many slices of its track it is inside.
    depth: usize,
}

/// Writes a timeline.
#[derive(Debug)]
pub struct Slices<W, P> {
    output: W,
    timeline: Timeline,
    shown: Shown<P>,
    held: Held,
}

/// What is on the rows.
#[derive(Debug, Default)]
struct Shown<P> {
    pen: P,
    begun: bool,
    /// Processes that were named, as many as there is room for.
    pids: BTreeSet<u32>,
    session: Session,
    hosts: Hosts,
    tracks: Tracks,
    /// Calls that are open, by their tags. The timeline bounds how many.
    open: Vec<Option<Slice>>,
    free: Vec<u32>,
    /// What returns at the moment, with its fields.
    returned: Option<(FunctionKey, Arc<Fields>)>,
    /// Threads, greenlets and tasks, by the numbers of their rows.
    labels: HashMap<u32, Label, KeyBuilder>,
}

/// What a thread, greenlet or task is called.
#[derive(Debug)]
struct Label {
    track: Track,
    row: Row,
    of: Option<Row>,
    /// Its own name; threads have their numbers.
    name: Option<String>,
    /// By the calls that have ended.
    role: Role<Arc<Place>>,
}

impl<W: Write, P: Pen + Default> Slices<W, P> {
    /// Nothing yet, to be written to `output`.
    pub fn new(output: W) -> Slices<W, P> {
        Slices {
            output,
            timeline: Timeline::by_context(),
            shown: Shown::default(),
            held: Held::default(),
        }
    }
}

impl<P: Pen> Shown<P> {
    fn begin(&mut self, ts: u64) {
        if !std::mem::replace(&mut self.begun, true) {
            self.pen.begin(&self.session, ts);
        }
    }

    fn process(&mut self, pid: u32) {
        if self.pids.len() < MOST_PROCESSES && self.pids.insert(pid) {
            let name = names::process(&self.session, pid);
            self.pen.process(pid, &name);
        }
    }

    /// The row of a track.
    fn row(&mut self, track: Track) -> Row {
        let (row, new) = self.tracks.row(track);
        if new {
            self.process(track.0);
            let name = track.2.map(|context| format!("context {context}"));
            let of = track.2.map(|_| self.row((track.0, track.1, None)));
            self.pen
                .appears(row, of, &whereabouts(&self.hosts, track, name.as_deref()));
            self.label(track, row, of, name);
        }
        row
    }

    fn label(&mut self, track: Track, row: Row, of: Option<Row>, name: Option<String>) {
        let before = self.labels.remove(&row.number);
        if self.labels.len() < MOST_LABELS {
            let label = Label {
                track,
                row,
                of,
                name,
                role: before.map(|label| label.role).unwrap_or_default(),
            };
            self.labels.insert(row.number, label);
        } else {
            self.pen
                .named(row, of, &whereabouts(&self.hosts, track, name.as_deref()));
        }
    }

    /// Names the rows of threads, greenlets and tasks: what they are for is known in the end.
    fn name_rows(&mut self) {
        let mut labels: Vec<Label> = std::mem::take(&mut self.labels).into_values().collect();
        labels.sort_unstable_by_key(|label| (label.row.pid, label.row.tid));
        for label in labels {
            let role = label.role.words(|place| place.name().to_string());
            let name = whereabouts(&self.hosts, label.track, label.name.as_deref());
            let name = match role {
                Some(role) => format!("{role}, {name}"),
                None => name,
            };
            self.pen.named(label.row, label.of, &name);
        }
    }

    /// The row of a call that is inside of so many others of its track.
    fn row_at(&mut self, track: Track, depth: usize) -> Row {
        let of = self.row(track);
        let level = depth / P::DEEPEST;
        if level == 0 {
            return of;
        }
        let (row, new) = self.tracks.deep(track, level);
        if new {
            let name = format!(
                "{}, calls from {} deep",
                whereabouts(&self.hosts, track, None),
                level * P::DEEPEST
            );
            self.pen.named(row, Some(of), &name);
        }
        row
    }

    /// Where there is room for something that took time, other than the timeline's calls: where it would cross what its row
    /// shows, a row beside. `innermost` is the call that is open on its track.
    fn room(&mut self, track: Track, between: (u64, u64), innermost: Option<u32>) -> Option<Row> {
        let of = self.row(track);
        let slice = innermost.and_then(|tag| self.open.get(tag as usize)?.as_ref());
        let inside = slice.is_none_or(|it| it.since <= between.0 && it.depth < P::DEEPEST);
        let (row, new) = self.tracks.beside(track, between, inside)?;
        if new {
            let name = format!("thread {}, at the same time", track.1);
            self.pen.named(row, Some(of), &name);
        }
        Some(row)
    }

    fn complete(
        &mut self,
        (event, took): (&Event, u64),
        innermost: Option<u32>,
        name: &str,
        args: &Value,
    ) {
        let between = (event.ts.saturating_sub(took), event.ts);
        let about = About {
            name,
            category: event.what.kind(),
            args,
        };
        if let Some(row) = self.room((event.pid, event.tid, None), between, innermost) {
            self.pen.complete(row, between, &about);
        }
    }

    fn instant(&mut self, of: Scope, event: &Event, name: &str, args: &Value) {
        let about = About {
            name,
            category: event.what.kind(),
            args,
        };
        self.pen.instant(of, event.ts, &about);
    }

    /// What ended with the time that it took, what is single as an instant.
    fn plain(&mut self, event: &Event, plain: &Plain, innermost: Option<u32>) {
        let subject = plain
            .subject()
            .map_or_else(String::new, |it| it.to_string());
        let mut args = Map::new();
        for (field, text) in plain.fields().skip(1) {
            args.insert(field.to_owned(), text.to_string().into());
        }
        if let Some((argument, number)) = plain.number() {
            let value = match argument.kind {
                ArgumentKind::Flag { .. } => Value::from(number != 0),
                _ => Value::from(number),
            };
            args.insert(argument.field.to_owned(), value);
        }
        let args = Value::Object(args);
        match plain.phase() {
            Phase::Start => {}
            Phase::Done(_) => {
                let name = format!("{} {subject}", plain.label());
                self.complete(
                    (event, plain.duration_ns.unwrap_or(0)),
                    innermost,
                    &name,
                    &args,
                );
            }
            Phase::Single => {
                let row = self.row((event.pid, event.tid, None));
                self.instant(Scope::Thread(row), event, &subject, &args);
            }
        }
    }
}

/// A thread, or who of a thread.
fn whereabouts(hosts: &Hosts, (pid, thread, context): Track, name: Option<&str>) -> String {
    let is_main = pid == thread;
    let thread = hosts.number(thread);
    match (name, context) {
        (Some(name), Some(_)) => format!("{name} of thread {thread}"),
        (Some(name), None) => format!("{name}, thread {thread}"),
        (None, _) if is_main => format!("main thread {thread}"),
        (None, _) => format!("thread {thread}"),
    }
}

impl Slice {
    /// What is written of a call: its file, line and fields, and how it ended where it did not return.
    pub(super) fn args(&self, ending: Ending) -> Value {
        let mut args = json!({ "file": self.place.file.to_string() });
        let Value::Object(object) = &mut args else {
            return args;
        };
        if let Some(fields) = self.fields() {
            object.insert("fields".to_owned(), fields);
        }
        if let Some(line) = self.line.filter(|&line| line > 0) {
            object.insert("line".to_owned(), line.into());
        }
        if let Some(words) = ending.words() {
            object.insert("ends".to_owned(), words.into());
        }
        args
    }

    /// Its fields, if it has some: those of its call while it is open.
    pub(super) fn fields(&self) -> Option<Value> {
        let fields = self.returned.as_deref().or(self.fields.as_deref())?;
        fields.present().next()?;
        Some(event_json::fields(fields))
    }

    /// Those of them that its call did not have.
    pub(super) fn later_fields(&self) -> Option<Value> {
        let returned = self.returned.as_deref()?;
        let is_known = |field: &&Field| {
            let known = self.fields.as_deref().and_then(|it| it.get(&field.name));
            known == Some(&field.value)
        };
        let later = returned.present().filter(|field| !is_known(field));
        let later = Fields(later.cloned().collect());
        later.present().next()?;
        Some(event_json::fields(&later))
    }
}

impl<P: Pen> Observer for Shown<P> {
    fn opens(&mut self, open: &Open<'_>, line: Option<i32>, ts: u64, parent: Option<u32>) -> u32 {
        let around = parent.and_then(|tag| self.open.get(tag as usize)?.as_ref());
        let depth = around.map_or(0, |around| around.depth + 1);
        let row = match around {
            // Mostly as where it was called.
            Some(around) if !depth.is_multiple_of(P::DEEPEST) => around.row,
            _ => self.row_at((open.pid, open.tid, open.context), depth),
        };
        let slice = Slice {
            key: open.key,
            place: Arc::clone(open.place),
            line,
            since: ts,
            fields: open.fields.cloned(),
            returned: None,
            row,
            depth,
        };
        self.pen.opens(row, &slice);
        if let Some(tag) = self.free.pop()
            && let Some(free) = self.open.get_mut(tag as usize)
        {
            *free = Some(slice);
            return tag;
        }
        self.open.push(Some(slice));
        self.open.len() as u32 - 1
    }

    fn closes(&mut self, track: Track, ts: u64, tag: u32, ending: Ending) {
        let Some(mut slice) = self.open.get_mut(tag as usize).and_then(Option::take) else {
            return;
        };
        self.free.push(tag);
        if slice.depth < P::DEEPEST {
            self.tracks.shown(track, (slice.since, ts));
        }
        // What closes because another greenlet goes on leads to that one's beginning and not to the thread's.
        let leads_here = track.2.is_some() || ending != Ending::Switched;
        if let Some(label) = self
            .labels
            .get_mut(&slice.row.number)
            .filter(|_| leads_here)
        {
            let (place, name) = (&slice.place, slice.place.name());
            let ran_ns = ts.saturating_sub(slice.since);
            label
                .role
                .ran(&name.text, &place.file.text, ran_ns, || Arc::clone(place));
        }
        if matches!(ending, Ending::Returned | Ending::Raised)
            && let Some((_, fields)) = self.returned.take_if(|(key, _)| *key == slice.key)
        {
            slice.returned = Some(fields);
        }
        self.pen.closes(slice.row, &slice, ts, ending);
    }

    fn ran(&mut self, _tag: u32, _elapsed_ns: u64, _intervals: Intervals) {}
}

impl<W: Write, P: Pen> Sink for Slices<W, P> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.shown.hosts = Hosts::of(session);
        self.shown.session = session.clone();
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let event = step.event;
        let shown = &mut self.shown;
        shown.begin(event.ts);
        shown.returned = match (&event.what, step.key) {
            (What::Return { frame, .. }, Some(key)) => frame.fields.clone().map(|it| (key, it)),
            _ => None,
        };
        self.timeline.take(step, shown);
        let timeline = &self.timeline;
        let innermost = || timeline.innermost((event.pid, event.tid, None));
        match &event.what {
            What::Return {
                place, line, frame, ..
            } => {
                if let (Some(left), Some(key)) = (step.finished, step.key)
                    && left.measured
                {
                    let track = (event.pid, event.tid, frame.context);
                    let innermost = timeline.innermost(track);
                    let since = event.ts.saturating_sub(left.inclusive_ns.unwrap_or(0));
                    if let Some(row) = shown.room(track, (since, event.ts), innermost) {
                        let slice = Slice {
                            key,
                            place: Arc::clone(place),
                            line: Some(*line),
                            since,
                            fields: frame.fields.clone(),
                            returned: None,
                            row,
                            depth: 0,
                        };
                        let ending = match frame.manner {
                            Manner::Exception => Ending::Raised,
                            _ => Ending::Returned,
                        };
                        shown.pen.opens(row, &slice);
                        shown.pen.closes(row, &slice, event.ts, ending);
                    }
                }
            }
            What::GcDone {
                generation,
                collected,
                pause_ns,
            } => {
                let args = json!({ "generation": generation, "collected": collected });
                let name = "garbage collection";
                shown.complete((event, pause_ns.unwrap_or(0)), innermost(), name, &args);
                shown
                    .pen
                    .count(event.pid, event.ts, "objects collected", *collected);
            }
            What::Plain(plain) => shown.plain(event, plain, innermost()),
            What::Process { change, .. } => {
                shown.process(event.pid);
                shown.instant(Scope::Process(event.pid), event, change.word(), &json!({}));
            }
            What::Lost { count, message, .. } => {
                // Some are of no process, and a viewer wants one.
                let target = shown.session.targets.first().map(|target| target.pid);
                let pid = match event.pid {
                    0 => target.or(shown.pids.first().copied()).unwrap_or_default(),
                    pid => pid,
                };
                shown.process(pid);
                let args = json!({ "count": count, "message": Foreign::new(message).to_string() });
                shown.instant(Scope::All(pid), event, "events lost", &args);
            }
            What::Context { context, name } => {
                let track = (event.pid, event.tid, NonZeroU64::new(*context));
                let row = shown.row(track);
                let of = track.2.map(|_| shown.row((event.pid, event.tid, None)));
                shown.label(track, row, of, Some(name.to_string()));
            }
            What::Wait(wait) => {
                let args = json!({
                    "blocked_ns": wait.blocked_ns,
                    "runqueue_ns": wait.runqueue_ns,
                    "on": wait.on.as_ref().map(ToString::to_string),
                });
                shown.complete((event, wait.off_ns()), innermost(), &wait.leaf(), &args);
            }
            What::Call { .. } | What::Line { .. } | What::GcStart { .. } => {}
        }
        let held = shown.pen.bytes().len();
        self.held.add(held, counted(event));
        match held >= ENOUGH {
            true => self.flush(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.held
            .hand_over(self.shown.pen.bytes(), &mut self.output)
    }

    fn unwritten(&self) -> u64 {
        self.held.unwritten
    }

    fn finish(self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
        let Slices {
            mut output,
            timeline,
            mut shown,
            mut held,
        } = *self;
        shown.begin(shown.session.ts);
        timeline.finish(&mut shown);
        shown.name_rows();
        shown.pen.end(&shown.session);
        held.hand_over(shown.pen.bytes(), &mut output)?;
        Ok(match shown.tracks.left_out() {
            0 => None,
            calls => Some(format!(
                "{calls} calls that ran at the same time as others of their thread are left out: there are too many tracks; \
                 a longer --min-duration leaves fewer"
            )),
        })
    }
}
