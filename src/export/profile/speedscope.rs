//! The file format of speedscope: one evented profile per thread.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Value, json};

use super::names;
use super::timeline::{Ending, Observer, Timeline, Track};
use crate::analysis::keys::{FunctionKey, KeyBuilder};
use crate::analysis::overhead::Intervals;
use crate::analysis::pairing::{Open, Step};
use crate::analysis::roles::Role;
use crate::event::hosts::Hosts;
use crate::event::{Place, Session, What};
use crate::export::{End, Sink};

/// Bytes of what is kept until the end, more than the page can show anyway.
const BUDGET: usize = 128 << 20;
/// What a function and a thread cost beside what is counted of them.
const EACH: usize = 160;

/// Collects what each thread did. The format has a thread's events in one place, so they wait until the end.
#[derive(Debug)]
pub struct Speedscope<W> {
    output: W,
    session: Session,
    timeline: Timeline,
    threads: Threads,
}

#[derive(Debug, Default)]
struct Threads {
    /// Each as it is written.
    frames: Vec<String>,
    places: Vec<Arc<Place>>,
    by_key: HashMap<u64, u32, KeyBuilder>,
    profiles: BTreeMap<(u32, u32), Thread>,
    start: Option<u64>,
    bytes: usize,
    /// More than there is room for.
    full: bool,
}

#[derive(Debug, Default)]
struct Thread {
    /// Time and frame; a frame that closes is its number's complement.
    events: Vec<(u64, i32)>,
    /// Begin, end and frame of calls that the kernel measured.
    measured: Vec<(u64, u64, u32)>,
    /// When those that are open were opened, the innermost last.
    open: Vec<u64>,
    /// What it is for, by the calls that have ended. Its function is a number of `places`.
    role: Role<u32>,
}

impl<W: Write> Speedscope<W> {
    /// Nothing yet, to be written to `output`.
    pub fn new(output: W) -> Speedscope<W> {
        Speedscope {
            output,
            session: Session::default(),
            timeline: Timeline::default(),
            threads: Threads::default(),
        }
    }
}

impl Threads {
    fn frame(&mut self, key: FunctionKey, place: &Arc<Place>, line: Option<i32>) -> u32 {
        let next = self.frames.len() as u32;
        let frame = *self.by_key.entry(key.number()).or_insert(next);
        if frame == next {
            let mut about = json!({
                "name": place.name().to_string(), "file": place.file.to_string(),
            });
            if let (Some(line), Value::Object(about)) = (line.filter(|&line| line > 0), &mut about)
            {
                about.insert("line".to_owned(), line.into());
            }
            let about = about.to_string();
            self.bytes += about.len() + EACH;
            self.frames.push(about);
            self.places.push(Arc::clone(place));
        }
        frame
    }

    fn thread(&mut self, pid: u32, tid: u32) -> &mut Thread {
        self.profiles.entry((pid, tid)).or_insert_with(|| {
            self.bytes += EACH;
            Thread::default()
        })
    }

    /// Whether there is room for so many bytes more. If not, there will be no file, and nothing is kept any longer.
    fn has_room(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        if self.bytes > BUDGET && !self.full {
            self.full = true;
            self.profiles = BTreeMap::new();
            self.frames = Vec::new();
            self.places = Vec::new();
            self.by_key = HashMap::default();
        }
        !self.full
    }
}

impl Observer for Threads {
    fn opens(&mut self, open: &Open<'_>, line: Option<i32>, ts: u64, _parent: Option<u32>) -> u32 {
        if !self.has_room(size_of::<(u64, i32)>()) {
            return 0;
        }
        let frame = self.frame(open.key, open.place, line);
        let thread = self.thread(open.pid, open.tid);
        thread.events.push((ts, frame as i32));
        thread.open.push(ts);
        frame
    }

    fn closes(&mut self, (pid, tid, _): Track, ts: u64, tag: u32, ending: Ending) {
        if !self.has_room(size_of::<(u64, i32)>()) {
            return;
        }
        let place = self.places.get(tag as usize).map(Arc::clone);
        let thread = self.thread(pid, tid);
        thread.events.push((ts, !(tag as i32)));
        let since = thread.open.pop().unwrap_or(ts);
        // What closes because another greenlet goes on leads to that one's beginning and not to the thread's.
        if let Some(place) = place.filter(|_| !matches!(ending, Ending::Switched)) {
            let name = place.name();
            thread.role.ran(
                &name.text,
                &place.file.text,
                ts.saturating_sub(since),
                || tag,
            );
        }
    }

    fn ran(&mut self, _tag: u32, _elapsed_ns: u64, _intervals: Intervals) {}
}

impl Thread {
    /// Calls that the kernel measured, as what opens and closes: they were reported when they ended.
    fn nest(&mut self) {
        self.measured
            .sort_unstable_by_key(|&(begin, end, _)| (begin, std::cmp::Reverse(end)));
        let mut open: Vec<(u64, u32)> = Vec::new();
        let mut events = Vec::with_capacity(2 * self.measured.len());
        for &(begin, end, frame) in &self.measured {
            while let Some(&(ends, above)) = open.last()
                && ends <= begin
            {
                open.pop();
                events.push((ends, !(above as i32)));
            }
            // What does not fit into the call around it was measured across a change of the clock.
            let end = open.last().map_or(end, |&(ends, _)| end.min(ends));
            events.push((begin, frame as i32));
            open.push((end, frame));
        }
        events.extend(
            open.into_iter()
                .rev()
                .map(|(ends, frame)| (ends, !(frame as i32))),
        );
        self.events.append(&mut events);
    }
}

impl<W: Write> Sink for Speedscope<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.session = session.clone();
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let event = step.event;
        let threads = &mut self.threads;
        threads.start.get_or_insert(event.ts);
        self.timeline.take(step, threads);
        if let What::Return { place, line, .. } = &event.what
            && let (Some(left), Some(key)) = (step.finished, step.key)
            && let Some(took) = left.inclusive_ns
            && left.measured
        {
            // What is measured is turned into what opens and closes at the end.
            if !threads.has_room(size_of::<(u64, u64, u32)>() + 2 * size_of::<(u64, i32)>()) {
                return Ok(());
            }
            let begin = event.ts.saturating_sub(took);
            threads.start = threads.start.map(|start| start.min(begin));
            let frame = threads.frame(key, place, Some(*line));
            let thread = threads.thread(event.pid, event.tid);
            thread.measured.push((begin, event.ts, frame));
        }
        Ok(())
    }

    fn finish(self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
        let Speedscope {
            mut output,
            session,
            timeline,
            mut threads,
        } = *self;
        timeline.finish(&mut threads);
        if threads.full {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!(
                    "there are more calls in it than speedscope can show ({} MB of them), so nothing was written; use \
                     `--format chrome` for a timeline of this size, `--format flamegraph` for all stacks in one \
                     picture, or record a shorter time",
                    BUDGET >> 20
                ),
            ));
        }
        let start = threads.start.unwrap_or(0);
        let exporter = format!("pystap {}", env!("CARGO_PKG_VERSION"));
        write!(
            output,
            "{{\"$schema\":\"https://www.speedscope.app/file-format-schema.json\",\"exporter\":{},\"name\":{},\
             \"shared\":{{\"frames\":[{}]}},\"profiles\":[",
            Value::from(exporter),
            Value::from(title(&session)),
            threads.frames.join(","),
        )?;
        for (at, ((pid, tid), thread)) in threads.profiles.iter_mut().enumerate() {
            thread.nest();
            let last = thread
                .events
                .last()
                .map_or(0, |&(ts, _)| ts.saturating_sub(start));
            let first = thread
                .events
                .first()
                .map_or(0, |&(ts, _)| ts.saturating_sub(start));
            let places = &threads.places;
            let role = std::mem::take(&mut thread.role).words(|tag| {
                let place = places.get(tag as usize);
                place.map_or_else(String::new, |place| place.name().to_string())
            });
            let process = names::process(&session, *pid);
            let tid = Hosts::of(&session).number(*tid);
            let name = match role.filter(|role| !role.is_empty()) {
                Some(role) => format!("{role}, thread {tid}, {process}"),
                None => format!("thread {tid}, {process}"),
            };
            write!(
                output,
                "{}\n{{\"type\":\"evented\",\"name\":{},\"unit\":\"nanoseconds\",\"startValue\":{first},\
                 \"endValue\":{last},\"events\":[",
                if at > 0 { "," } else { "" },
                Value::from(name),
            )?;
            for (at, &(ts, frame)) in thread.events.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                let (kind, frame) = if frame < 0 {
                    ('C', !frame)
                } else {
                    ('O', frame)
                };
                let ts = ts.saturating_sub(start);
                write!(
                    output,
                    "{comma}{{\"type\":\"{kind}\",\"frame\":{frame},\"at\":{ts}}}"
                )?;
            }
            write!(output, "]}}")?;
        }
        writeln!(output, "]}}")?;
        Ok(None)
    }
}

fn title(session: &Session) -> String {
    match session.targets.first() {
        Some(target) => names::process(session, target.pid),
        None => "pystap".to_owned(),
    }
}
