//! Trace events as chrome://tracing and Perfetto read them: one JSON object with a list, written as it is made.
//!
//! Everything that takes time is a complete event, written when it ends: consumers that are told ends by themselves do not
//! know what ends, and below the depth that Perfetto shows they end something else.

use serde_json::{Map, Value, json};

use super::slices::{About, Pen, Scope, Slice, Slices};
use super::timeline::Ending;
use super::tracks::Row;
use crate::event::Session;

/// Writes trace events.
pub type Chrome<W> = Slices<W, Json>;

/// Events on their way to the output.
#[derive(Debug, Default)]
pub struct Json {
    /// Time that all others are relative to: the format has microseconds in a double, which has no room for both the
    /// year and the nanoseconds.
    start: u64,
    bytes: Vec<u8>,
    begun: bool,
}

impl Json {
    fn put(&mut self, ts: u64, (pid, tid): (u32, u64), phase: &str, more: Value) {
        let mut line = Map::new();
        line.insert("ph".to_owned(), phase.into());
        line.insert("pid".to_owned(), pid.into());
        line.insert("tid".to_owned(), tid.into());
        // What began before the first event has a time before zero.
        let since = match ts.checked_sub(self.start) {
            Some(since) => microseconds(since),
            None => (-((self.start - ts) as f64) / 1e3).into(),
        };
        line.insert("ts".to_owned(), since);
        if let Value::Object(more) = more {
            line.extend(more);
        }
        self.write(&Value::Object(line));
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
}

fn microseconds(nanoseconds: u64) -> Value {
    (nanoseconds as f64 / 1e3).into()
}

impl Pen for Json {
    const DEEPEST: usize = usize::MAX;

    fn begin(&mut self, _session: &Session, ts: u64) {
        self.start = ts;
    }

    fn process(&mut self, pid: u32, name: &str) {
        self.write(
            &json!({ "ph": "M", "pid": pid, "name": "process_name", "args": { "name": name } }),
        );
    }

    fn named(&mut self, row: Row, _of: Option<Row>, name: &str) {
        self.write(&json!({
            "ph": "M", "pid": row.pid, "tid": row.tid, "name": "thread_name", "args": { "name": name },
        }));
    }

    fn opens(&mut self, _row: Row, _slice: &Slice) {}

    fn closes(&mut self, row: Row, slice: &Slice, ts: u64, ending: Ending) {
        let took = microseconds(ts.saturating_sub(slice.since));
        let name = slice.place.name().to_string();
        let more = json!({ "name": name, "cat": "call", "dur": took, "args": slice.args(ending) });
        self.put(slice.since, (row.pid, row.tid), "X", more);
    }

    fn complete(&mut self, row: Row, (begin, end): (u64, u64), about: &About<'_>) {
        let took = microseconds(end.saturating_sub(begin));
        let more =
            json!({ "name": about.name, "cat": about.category, "dur": took, "args": about.args });
        self.put(begin, (row.pid, row.tid), "X", more);
    }

    fn instant(&mut self, of: Scope, ts: u64, about: &About<'_>) {
        let (of, scope) = match of {
            Scope::Thread(row) => ((row.pid, row.tid), "t"),
            Scope::Process(pid) => ((pid, u64::from(pid)), "p"),
            Scope::All(pid) => ((pid, u64::from(pid)), "g"),
        };
        let more =
            json!({ "name": about.name, "cat": about.category, "s": scope, "args": about.args });
        self.put(ts, of, "i", more);
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    fn end(&mut self, session: &Session) {
        if !self.begun {
            self.bytes.extend_from_slice(b"{\"traceEvents\":[");
        }
        let about = json!({
            "pystap": session.pystap, "engine": session.engine, "start_ns": self.start.to_string(),
        });
        self.bytes
            .extend_from_slice(format!("],\n\"otherData\":{about}}}\n").as_bytes());
    }
}
