//! Trace events as chrome://tracing and Perfetto read them: one JSON object with a list, written as it is made.
//! Calls are pairs of begin and end; collections, imports and calls that the kernel measured are complete events.

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::names;
use super::timeline::{Observer, Timeline};
use crate::analysis::pairing::{Open, Step};
use crate::event::{Event, Place, Plain, Session, What};
use crate::export::{End, Sink};
use crate::probe::{ArgumentKind, Phase};
use crate::text::Foreign;

/// Processes that are named; others have only their numbers.
const MOST_PROCESSES: usize = 1 << 16;

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
}

impl<W: Write> Chrome<W> {
    /// Nothing yet, to be written to `output`.
    pub fn new(output: W) -> Chrome<W> {
        Chrome {
            output,
            session: Session::default(),
            timeline: Timeline::default(),
            lines: Lines::default(),
        }
    }
}

impl Lines {
    fn put(&mut self, ts: u64, pid: u32, tid: u32, phase: &str, more: Value) {
        let start = *self.start.get_or_insert(ts);
        let mut line = Map::new();
        line.insert("ph".to_owned(), phase.into());
        line.insert("pid".to_owned(), pid.into());
        line.insert("tid".to_owned(), tid.into());
        line.insert("ts".to_owned(), microseconds(ts.saturating_sub(start)));
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

    fn complete(&mut self, event: &Event, took: Option<u64>, name: &str, args: &Value) {
        let took = took.unwrap_or(0);
        let more = json!({ "name": name, "cat": event.what.kind(), "dur": microseconds(took), "args": args });
        self.put(
            event.ts.saturating_sub(took),
            event.pid,
            event.tid,
            "X",
            more,
        );
    }

    /// What ended with the time that it took, what is single as an instant.
    fn plain(&mut self, event: &Event, plain: &Plain) {
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
                self.complete(event, plain.duration_ns, &name, &Value::Object(args));
            }
            Phase::Single => self.instant(event, &subject, "t", &Value::Object(args)),
        }
    }

    fn instant(&mut self, event: &Event, name: &str, scope: &str, args: &Value) {
        let more = json!({ "name": name, "cat": event.what.kind(), "s": scope, "args": args });
        self.put(event.ts, event.pid, event.tid, "i", more);
    }
}

fn microseconds(nanoseconds: u64) -> Value {
    (nanoseconds as f64 / 1e3).into()
}

fn arguments(place: &Place, line: Option<i32>) -> Value {
    let mut arguments = json!({ "file": place.file.to_string() });
    if let (Some(line), Value::Object(arguments)) = (line.filter(|&line| line > 0), &mut arguments)
    {
        arguments.insert("line".to_owned(), line.into());
    }
    arguments
}

impl Observer for Lines {
    fn opens(&mut self, open: &Open<'_>, line: Option<i32>, ts: u64, _parent: Option<u32>) -> u32 {
        let name = open.place.name().to_string();
        let more = json!({ "name": name, "cat": "call", "args": arguments(open.place, line) });
        self.put(ts, open.pid, open.tid, "B", more);
        0
    }

    fn closes(&mut self, pid: u32, tid: u32, ts: u64, _tag: u32) {
        self.put(ts, pid, tid, "E", Value::Null);
    }

    fn ran(&mut self, _tag: u32, _elapsed_ns: u64) {}
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
        match &event.what {
            What::Return { place, line, .. } => {
                if let Some(left) = step.finished.filter(|left| left.measured) {
                    let name = place.name().to_string();
                    let args = arguments(place, Some(*line));
                    lines.complete(event, left.inclusive_ns, &name, &args);
                }
            }
            What::GcDone {
                generation,
                collected,
                pause_ns,
            } => {
                let args = json!({ "generation": generation, "collected": collected });
                lines.complete(event, *pause_ns, "garbage collection", &args);
            }
            What::Plain(plain) => lines.plain(event, plain),
            What::Process { change, .. } => lines.instant(event, change.word(), "p", &json!({})),
            What::Lost { count, message, .. } => {
                let args = json!({ "count": count, "message": Foreign::new(message).to_string() });
                lines.instant(event, "events lost", "g", &args);
            }
            What::Call { .. } | What::Context { .. } | What::Line { .. } | What::GcStart { .. } => {
            }
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
        Ok(None)
    }
}
