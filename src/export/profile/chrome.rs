//! Trace events as chrome://tracing and Perfetto read them: one JSON object with a list, written as it is made.
//!
//! Everything that takes time is a complete event, written when it ends: consumers that are told ends by themselves do not
//! know what ends, and below the depth that Perfetto shows they end something else. Each thread, greenlet and task has a
//! track of its own (`tracks.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::names;
use super::timeline::{Ending, Observer, Timeline, Track};
use super::tracks::Tracks;
use crate::analysis::overhead::Intervals;
use crate::analysis::pairing::{Open, Step};
use crate::analysis::roles::Role;
use crate::event::{Event, Fields, Place, Plain, Session, What, json as event_json};
use crate::export::{End, Sink};
use crate::probe::{ArgumentKind, Phase};
use crate::text::Foreign;

/// Processes that are named; others have only their numbers.
const MOST_PROCESSES: usize = 1 << 16;
/// Threads, greenlets and tasks whose roles are found out; others have only their names.
const MOST_LABELS: usize = 1 << 16;

/// Writes trace events.
#[derive(Debug)]
pub struct Chrome<W> {
    output: W,
    session: Session,
    timeline: Timeline,
    lines: Lines,
}

/// Events on their way to the output.
#[derive(Debug, Default)]
struct Lines {
    /// Time that all others are relative to: the format has microseconds in a double, which has no room for both the
    /// year and the nanoseconds.
    start: Option<u64>,
    bytes: Vec<u8>,
    begun: bool,
    /// Processes whose names are written at the end, as many as there is room for.
    pids: BTreeSet<u32>,
    tracks: Tracks,
    /// Calls that are open, by their tags. The timeline bounds how many.
    open: Vec<Option<Slice>>,
    free: Vec<u32>,
    /// Threads, greenlets and tasks, by the numbers of their tracks and processes.
    labels: BTreeMap<(u32, u64), Label>,
}

/// What a thread, greenlet or task is called.
#[derive(Debug)]
struct Label {
    track: Track,
    /// Its own name; threads have their numbers.
    name: Option<String>,
    /// By the calls that have ended: the outermost one ends last.
    role: Role<Arc<Place>>,
}

/// A call that is open.
#[derive(Debug)]
struct Slice {
    place: Arc<Place>,
    line: Option<i32>,
    since: u64,
    fields: Option<Arc<Fields>>,
}

impl<W: Write> Chrome<W> {
    /// Nothing yet, to be written to `output`.
    pub fn new(output: W) -> Chrome<W> {
        Chrome {
            output,
            session: Session::default(),
            timeline: Timeline::by_context(),
            lines: Lines::default(),
        }
    }
}

impl Lines {
    fn put(&mut self, ts: u64, pid: u32, tid: u64, phase: &str, more: Value) {
        let start = *self.start.get_or_insert(ts);
        let mut line = Map::new();
        line.insert("ph".to_owned(), phase.into());
        line.insert("pid".to_owned(), pid.into());
        line.insert("tid".to_owned(), tid.into());
        // What began before the first event has a time before zero.
        let since = match ts.checked_sub(start) {
            Some(since) => microseconds(since),
            None => (-((start - ts) as f64) / 1e3).into(),
        };
        line.insert("ts".to_owned(), since);
        if let Value::Object(more) = more {
            line.extend(more);
        }
        self.write(&Value::Object(line));
        if self.pids.len() < MOST_PROCESSES {
            self.pids.insert(pid);
        }
    }

    fn write(&mut self, line: &Value) {
        self.bytes.extend_from_slice(if self.begun {
            b",\n"
        } else {
            b"{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n"
        });
        self.begun = true;
        // Into memory, and without keys that are not strings: it cannot fail.
        let _ = serde_json::to_writer(&mut self.bytes, line);
    }

    fn name_track(&mut self, pid: u32, tid: u64, name: &str) {
        self.write(&json!({
            "ph": "M", "pid": pid, "tid": tid, "name": "thread_name", "args": { "name": name },
        }));
    }

    /// The number of a track.
    fn tid(&mut self, track: Track) -> u64 {
        let (tid, new) = self.tracks.tid(track);
        if new {
            let name = track.2.map(|context| format!("context {context}"));
            self.label(tid, track, name);
        }
        tid
    }

    fn label(&mut self, tid: u64, track: Track, name: Option<String>) {
        let role = self.labels.remove(&(track.0, tid));
        let role = role.map(|label| label.role);
        if self.labels.len() < MOST_LABELS {
            let label = Label {
                track,
                name,
                role: role.unwrap_or_default(),
            };
            self.labels.insert((track.0, tid), label);
        } else {
            self.name_track(track.0, tid, &whereabouts(track, name.as_deref()));
        }
    }

    /// Names the tracks of threads, greenlets and tasks: what they are for is known in the end.
    fn name_tracks(&mut self) {
        for ((pid, tid), label) in std::mem::take(&mut self.labels) {
            let role = label.role.words(|place| place.name().to_string());
            let name = whereabouts(label.track, label.name.as_deref());
            let name = match role {
                Some(role) => format!("{role}, {name}"),
                None => name,
            };
            self.name_track(pid, tid, &name);
        }
    }

    /// Something that took time, other than the timeline's calls. Where it would cross what its track shows, it has one beside.
    fn complete(
        &mut self,
        (event, took): (&Event, Option<u64>),
        track: Track,
        shown: Option<u32>,
        name: &str,
        args: &Value,
    ) {
        let took = took.unwrap_or(0);
        let begin = event.ts.saturating_sub(took);
        self.tid(track);
        let slice = shown.and_then(|tag| self.open.get(tag as usize)?.as_ref());
        let inside = slice.is_none_or(|it| it.since <= begin);
        let Some((tid, new)) = self.tracks.beside(track, (begin, event.ts), inside) else {
            return;
        };
        if new {
            let name = format!("thread {}, at the same time", track.1);
            self.name_track(track.0, tid, &name);
        }
        let more = json!({ "name": name, "cat": event.what.kind(), "dur": microseconds(took), "args": args });
        self.put(begin, event.pid, tid, "X", more);
    }

    /// What ended with the time that it took, what is single as an instant.
    fn plain(&mut self, event: &Event, plain: &Plain, shown: Option<u32>) {
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
        match plain.phase() {
            Phase::Start => {}
            Phase::Done(_) => {
                let name = format!("{} {subject}", plain.label());
                let track = (event.pid, event.tid, None);
                let args = Value::Object(args);
                self.complete((event, plain.duration_ns), track, shown, &name, &args);
            }
            Phase::Single => self.instant(event, &subject, "t", &Value::Object(args)),
        }
    }

    fn instant(&mut self, event: &Event, name: &str, scope: &str, args: &Value) {
        let more = json!({ "name": name, "cat": event.what.kind(), "s": scope, "args": args });
        self.put(event.ts, event.pid, u64::from(event.tid), "i", more);
    }
}

/// A thread, or who of a thread.
fn whereabouts((pid, thread, context): Track, name: Option<&str>) -> String {
    match (name, context) {
        (Some(name), Some(_)) => format!("{name} of thread {thread}"),
        (Some(name), None) => format!("{name}, thread {thread}"),
        (None, _) if pid == thread => format!("main thread {thread}"),
        (None, _) => format!("thread {thread}"),
    }
}

fn microseconds(nanoseconds: u64) -> Value {
    (nanoseconds as f64 / 1e3).into()
}

fn arguments(place: &Place, line: Option<i32>, fields: Option<&Fields>) -> Value {
    let mut arguments = json!({ "file": place.file.to_string() });
    if let (Some(fields), Value::Object(arguments)) = (fields, &mut arguments)
        && fields.present().next().is_some()
    {
        arguments.insert("fields".to_owned(), event_json::fields(fields));
    }
    if let (Some(line), Value::Object(arguments)) = (line.filter(|&line| line > 0), &mut arguments)
    {
        arguments.insert("line".to_owned(), line.into());
    }
    arguments
}

impl Observer for Lines {
    fn opens(&mut self, open: &Open<'_>, line: Option<i32>, ts: u64, _parent: Option<u32>) -> u32 {
        let slice = Slice {
            place: Arc::clone(open.place),
            line,
            since: ts,
            fields: open.fields.cloned(),
        };
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
        let Some(slice) = self.open.get_mut(tag as usize).and_then(Option::take) else {
            return;
        };
        self.free.push(tag);
        let tid = self.tid(track);
        self.tracks.shown(track, (slice.since, ts));
        // What closes because another greenlet goes on leads to that one's beginning and not to the thread's.
        let leads_here = track.2.is_some() || ending != Ending::Switched;
        if let Some(label) = self.labels.get_mut(&(track.0, tid)).filter(|_| leads_here) {
            let (place, name) = (&slice.place, slice.place.name());
            label
                .role
                .called_by(&name.text, &place.file.text, || Arc::clone(place));
        }
        let mut args = arguments(&slice.place, slice.line, slice.fields.as_deref());
        let ends = match ending {
            Ending::Returned => None,
            Ending::Suspended => Some("suspended"),
            Ending::Switched => Some("another stack goes on, or the return was not seen"),
            Ending::Open => Some("not returned"),
        };
        if let (Some(ends), Value::Object(args)) = (ends, &mut args) {
            args.insert("ends".to_owned(), ends.into());
        }
        let took = microseconds(ts.saturating_sub(slice.since));
        let name = slice.place.name().to_string();
        let more = json!({ "name": name, "cat": "call", "dur": took, "args": args });
        self.put(slice.since, track.0, tid, "X", more);
    }

    fn ran(&mut self, _tag: u32, _elapsed_ns: u64, _intervals: Intervals) {}
}

impl<W: Write> Sink for Chrome<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.session = session.clone();
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let event = step.event;
        let lines = &mut self.lines;
        lines.start.get_or_insert(event.ts);
        self.timeline.take(step, lines);
        let track = (event.pid, event.tid, None);
        let shown = self.timeline.innermost(track);
        match &event.what {
            What::Return {
                place, line, frame, ..
            } => {
                if let Some(left) = step.finished.filter(|left| left.measured) {
                    let name = place.name().to_string();
                    let args = arguments(place, Some(*line), frame.fields.as_deref());
                    let track = (event.pid, event.tid, frame.context);
                    let shown = self.timeline.innermost(track);
                    lines.complete((event, left.inclusive_ns), track, shown, &name, &args);
                }
            }
            What::GcDone {
                generation,
                collected,
                pause_ns,
            } => {
                let args = json!({ "generation": generation, "collected": collected });
                lines.complete(
                    (event, *pause_ns),
                    track,
                    shown,
                    "garbage collection",
                    &args,
                );
            }
            What::Plain(plain) => lines.plain(event, plain, shown),
            What::Process { change, .. } => lines.instant(event, change.word(), "p", &json!({})),
            What::Lost { count, message, .. } => {
                // Some are of no process, and a viewer wants one.
                let target = self.session.targets.first().map(|target| target.pid);
                let mut event = event.clone();
                event.pid = match event.pid {
                    0 => target.or(lines.pids.first().copied()).unwrap_or_default(),
                    pid => pid,
                };
                let args = json!({ "count": count, "message": Foreign::new(message).to_string() });
                lines.instant(&event, "events lost", "g", &args);
            }
            What::Context { context, name } => {
                let track = (event.pid, event.tid, NonZeroU64::new(*context));
                let (tid, _) = lines.tracks.tid(track);
                lines.label(tid, track, Some(name.to_string()));
            }
            What::Wait(wait) => {
                let args = json!({
                    "blocked_ns": wait.blocked_ns,
                    "runqueue_ns": wait.runqueue_ns,
                    "on": wait.on.as_ref().map(ToString::to_string),
                });
                let name = wait.leaf();
                lines.complete((event, Some(wait.off_ns())), track, shown, &name, &args);
            }
            What::Call { .. } | What::Line { .. } | What::GcStart { .. } => {}
        }
        if lines.bytes.len() >= 1 << 16 {
            self.output.write_all(&lines.bytes)?;
            lines.bytes.clear();
        }
        Ok(())
    }

    fn finish(self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
        let Chrome {
            mut output,
            session,
            timeline,
            mut lines,
        } = *self;
        timeline.finish(&mut lines);
        lines.name_tracks();
        for pid in std::mem::take(&mut lines.pids) {
            let name = names::process(&session, pid);
            lines.write(
                &json!({ "ph": "M", "pid": pid, "name": "process_name", "args": { "name": name } }),
            );
        }
        if !lines.begun {
            lines.bytes.extend_from_slice(b"{\"traceEvents\":[");
        }
        let about = json!({
            "pystap": session.pystap, "engine": session.engine, "start_ns": lines.start.unwrap_or(0).to_string(),
        });
        output.write_all(&lines.bytes)?;
        writeln!(output, "],\n\"otherData\":{about}}}")?;
        Ok(match lines.tracks.left_out() {
            0 => None,
            calls => Some(format!(
                "{calls} calls that ran at the same time as others of their thread are left out: there are too many tracks; \
                 a longer --min-duration leaves fewer"
            )),
        })
    }
}
