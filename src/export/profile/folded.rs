//! Stacks with the time that was spent in each: as text, one line per stack, and as a flame graph. Time is own time on the
//! clock, waiting included, unless [`Time`] says otherwise; a flame's width is the time that a function and what it called took.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::sync::Arc;

use super::flames::{self, Caption, separable};
use super::names;
use super::paths::{Frame, Paths};
use super::timeline::{Ending, Observer, Timeline, Track};
use crate::analysis::contexts::{Contexts, Runner};
use crate::analysis::idle::Idle;
use crate::analysis::keys::{FunctionKey, KeyBuilder};
use crate::analysis::overhead::{Intervals, Overhead};
use crate::analysis::pairing::{Open, Step};
use crate::event::{Place, Session, Wait, What};
use crate::export::{End, Sink};
use crate::text::Foreign;
use crate::view;

/// Which time is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Time {
    /// Own time on the clock, with waits in it.
    #[default]
    Own,
    /// Own time without waits.
    Cpu,
    /// Waits alone, their reasons above the functions that waited.
    Off,
    /// Own time without waits, and waits with their reasons above it.
    Wall,
}

/// What of a stream is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Selection {
    /// Whether the kind of greenlet or task is below its stacks.
    pub by_context: bool,
    /// Which time.
    pub time: Time,
    /// Whether threads that wait for work are shown, too.
    pub idle: bool,
    /// Whether times are shown as they were measured.
    pub raw_times: bool,
}

impl Time {
    fn title(self) -> &'static str {
        match self {
            Time::Own => "Time by stack",
            Time::Cpu => "CPU time by stack",
            Time::Off => "Off-CPU time by stack",
            Time::Wall => "Time by stack, with waits",
        }
    }

    fn shows_waits(self) -> bool {
        matches!(self, Time::Off | Time::Wall)
    }
}

/// The ways through the program that a stream shows.
#[derive(Debug, Default)]
pub(in crate::export) struct Seen {
    session: Session,
    timeline: Timeline,
    ways: Ways,
    raw_times: bool,
    overhead: Overhead,
}

/// How the time until an event was spent in its thread, in nanoseconds: it ran first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::export) struct Spent {
    /// The innermost frame of its stack.
    pub(in crate::export) frame: u32,
    /// Running, or waiting where waits are not told.
    pub(in crate::export) run_ns: u64,
    /// Waiting, work apart.
    pub(in crate::export) wait_ns: u64,
    /// Waiting for work.
    pub(in crate::export) idle_ns: u64,
}

/// Time that a frame was given for an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Charge {
    /// The number of the frame.
    pub(super) frame: u32,
    pub(super) ns: u64,
    /// The intervals between events that it is made of.
    pub(super) intervals: Intervals,
    /// Whether its thread waited.
    pub(super) is_wait: bool,
}

/// What a frame is: a function, where it is no reason of a wait or kind of task, and the line where it begins.
pub(super) type Located = Option<(Arc<Place>, i32)>;

#[derive(Debug, Default)]
struct Ways {
    paths: Paths,
    /// What contexts are, where that is to be below their stacks, as far as it is known now; and what was found out before.
    contexts: Option<Contexts>,
    learned: Contexts,
    time: Time,
    /// How frames are idle, by their number, and how long they were.
    idle: Vec<Option<Idle>>,
    idle_ns: u64,
    idle_intervals: Intervals,
    /// The same by frame, and which frames are reasons of waits.
    idle_by_frame: HashMap<u32, u64, KeyBuilder>,
    leaves: HashSet<u32, KeyBuilder>,
    /// How the time until the event was spent, and what of it which frames were given.
    spent: Option<Spent>,
    charges: Vec<Charge>,
    /// The frame of the call that the event tells first.
    called: Option<u32>,
    /// What frames are, by the numbers of their names, where that is wanted.
    located: Option<Vec<Located>>,
    /// Whether that is shown.
    with_idle: bool,
    /// Whether waits are told, so that it is known when they were.
    knows_waits: bool,
}

impl Ways {
    /// How a frame is idle, where that is not to be shown.
    fn idle(&self, tag: u32) -> Option<Idle> {
        let idle = self.idle.get(tag as usize).copied().flatten();
        idle.filter(|_| !self.with_idle)
    }

    /// Takes note of a frame that is looked at for the first time.
    fn note_idle(&mut self, node: u32, place: &Place, parent: Option<u32>) {
        let at = node as usize;
        if at >= self.idle.len() {
            let caller = parent.and_then(|parent| self.idle.get(parent as usize).copied());
            let idle = Idle::of(&place.name().text, &place.file.text, caller.flatten());
            self.idle.resize(at + 1, None);
            self.idle[at] = idle;
        }
    }

    /// The frame below the stacks of a context.
    fn context(&mut self, open: &Open<'_>) -> Option<u32> {
        let contexts = self.contexts.as_ref()?;
        let runner = Runner::of(open.pid, open.tid, open.context);
        if runner.is_main() {
            return None;
        }
        let label = self.learned.label(runner);
        let label = label.unwrap_or_else(|| contexts.label_so_far(runner));
        let name = || separable(Foreign::new(&*label).to_string());
        let key = KeyBuilder.hash_one(&label);
        Some(self.paths.node(open.pid, None, key, name))
    }

    /// A frame for a reason above a function, and for how long.
    fn leaf(&mut self, pid: u32, tag: u32, name: String, elapsed_ns: u64) {
        if elapsed_ns > 0 {
            let key = KeyBuilder.hash_one(&name);
            let node = self.paths.node(pid, Some(tag), key, || separable(name));
            self.charge(node, elapsed_ns, Intervals::NONE, true);
            self.leaves.insert(node);
        }
    }

    fn charge(&mut self, frame: u32, ns: u64, intervals: Intervals, is_wait: bool) {
        self.paths.ran(frame, ns, intervals);
        if ns > 0 {
            self.charges.push(Charge {
                frame,
                ns,
                intervals,
                is_wait,
            });
        }
    }

    /// The frame of a call that was measured, of which nobody knows from where it was called.
    fn measured(&mut self, pid: u32, key: FunctionKey, place: &Arc<Place>, line: i32) -> u32 {
        let name = || separable(names::function(place, line));
        let node = self.paths.node(pid, None, key.number(), name);
        self.locate(node, place, line);
        node
    }

    /// Takes note of the function of a frame.
    fn locate(&mut self, node: u32, place: &Arc<Place>, line: i32) {
        let Some(located) = &mut self.located else {
            return;
        };
        let named = self.paths.named(node) as usize;
        if named >= located.len() {
            located.resize(named + 1, None);
        }
        if let Some(free @ None) = located.get_mut(named).filter(|_| named > 0) {
            *free = Some((Arc::clone(place), line));
        }
    }

    /// A frame was idle.
    fn idled(&mut self, tag: u32, elapsed_ns: u64) {
        self.idle_ns = self.idle_ns.saturating_add(elapsed_ns);
        let of_frame = self.idle_by_frame.entry(tag).or_default();
        *of_frame = of_frame.saturating_add(elapsed_ns);
    }

    /// A frame ran for so long, and then it waited or was idle.
    fn spent(&mut self, frame: u32, run_ns: u64, wait_ns: u64, idle_ns: u64) {
        self.spent = Some(Spent {
            frame,
            run_ns,
            wait_ns,
            idle_ns,
        });
    }
}

impl Observer for Ways {
    fn opens(&mut self, open: &Open<'_>, line: Option<i32>, _ts: u64, parent: Option<u32>) -> u32 {
        let name = || separable(names::function(open.place, line.unwrap_or(0)));
        let parent = parent.or_else(|| self.context(open));
        let node = self.paths.node(open.pid, parent, open.key.number(), name);
        self.note_idle(node, open.place, parent);
        self.locate(node, open.place, line.unwrap_or(0));
        node
    }

    fn closes(&mut self, _track: Track, _ts: u64, _tag: u32, _ending: Ending) {}

    fn ran(&mut self, tag: u32, elapsed_ns: u64, intervals: Intervals) {
        let idle = self.idle(tag).filter(|_| !self.knows_waits);
        if idle.is_some_and(Idle::covers_own_time) {
            self.idled(tag, elapsed_ns);
            self.idle_intervals += intervals;
            return self.spent(tag, 0, 0, elapsed_ns);
        }
        self.spent(tag, elapsed_ns, 0, 0);
        if self.time != Time::Off {
            self.charge(tag, elapsed_ns, intervals, false);
        }
    }

    fn waited(&mut self, pid: u32, tag: u32, elapsed_ns: u64, wait: &Wait) {
        // What of the wait was before is not this function's.
        let queued = wait.runqueue_ns.unwrap_or_default().min(elapsed_ns);
        let blocked = wait.blocked_ns.min(elapsed_ns - queued);
        let idle = self.idle(tag).zip(wait.reason);
        let run_ns = elapsed_ns - queued - blocked;
        if idle.is_some_and(|(idle, reason)| idle.covers(reason)) {
            if self.time != Time::Cpu {
                self.idled(tag, blocked + queued);
            }
            self.ran(tag, run_ns, Intervals::NONE);
            return self.spent(tag, run_ns, 0, blocked + queued);
        }
        if self.time == Time::Own {
            return self.ran(tag, elapsed_ns, Intervals::NONE);
        }
        self.ran(tag, run_ns, Intervals::NONE);
        self.spent(tag, run_ns, blocked + queued, 0);
        if self.time.shows_waits() {
            self.leaf(pid, tag, wait.leaf(), blocked);
            self.leaf(pid, tag, Wait::run_queue_leaf(), queued);
        }
    }
}

/// `frame;frame;frame NANOSECONDS`, outermost first: what flame graph tools read.
#[derive(Debug)]
pub struct Folded<W> {
    output: W,
    seen: Seen,
}

impl Seen {
    pub(in crate::export) fn new(shown: Selection) -> Seen {
        Seen {
            ways: Ways {
                time: shown.time,
                with_idle: shown.idle,
                contexts: shown.by_context.then(Contexts::default),
                ..Ways::default()
            },
            raw_times: shown.raw_times,
            ..Seen::default()
        }
    }

    /// The same, which remembers what frames are.
    pub(super) fn located(mut self) -> Seen {
        self.ways.located = Some(Vec::new());
        self
    }

    /// With what a first reading has found out about contexts.
    fn knowing(mut self, learned: Contexts) -> Seen {
        self.ways.learned = learned;
        self
    }

    pub(in crate::export) fn begin(&mut self, session: &Session) {
        self.session = session.clone();
        self.overhead = Overhead::of(session, self.raw_times);
        self.ways.knows_waits = session.events.iter().any(|kind| kind == Wait::KIND);
    }

    /// Takes the tracer's cost out of what was seen.
    pub(super) fn end(&mut self) {
        let ways = &mut self.ways;
        self.overhead = ways.paths.bound(self.overhead);
        let overhead = self.overhead;
        ways.paths.take_out(overhead);
        ways.idle_ns = overhead.net(ways.idle_ns, std::mem::take(&mut ways.idle_intervals));
    }

    /// What is to be said about what is not shown.
    pub(super) fn left_out(&self) -> Option<String> {
        let idle_ns = self.ways.idle_ns;
        let idle = (idle_ns > 0).then(|| {
            format!(
                "{} in which threads waited for work (hubs of event loops, workers of pools) are left out; --idle shows them",
                view::time(idle_ns)
            )
        });
        let tracer = view::overhead_said(self.overhead, &self.session);
        let said = idle.into_iter().chain(self.ways.paths.left_out());
        let said: Vec<String> = said.chain(tracer).collect();
        (!said.is_empty()).then(|| said.join("; "))
    }

    /// The frames, callers before what they called.
    pub(in crate::export) fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        let ways = &self.ways;
        (0..).zip(ways.paths.nodes()).map(move |(at, node)| Frame {
            idle_ns: ways.idle_by_frame.get(&at).copied().unwrap_or(0),
            is_wait: ways.leaves.contains(&at),
            ..node
        })
    }

    /// What the event that was taken last gave to which frames.
    pub(super) fn charges(&self) -> &[Charge] {
        &self.ways.charges
    }

    /// The frame of the call that it was the beginning of; or its end, of one that was measured.
    pub(super) fn called(&self) -> Option<u32> {
        self.ways.called
    }

    /// What is taken out of times.
    pub(super) fn overhead(&self) -> Overhead {
        self.overhead
    }

    /// What a frame is.
    pub(super) fn place(&self, frame: &Frame<'_>) -> &Located {
        let located = self.ways.located.as_ref();
        located
            .and_then(|all| all.get(frame.named as usize))
            .unwrap_or(&None)
    }

    /// What a frame is called.
    pub(in crate::export) fn name(&self, frame: u32) -> &str {
        self.ways.paths.name_at(frame)
    }

    /// A sentence about stacks for which there was no room.
    pub(in crate::export) fn without_room(&self) -> Option<String> {
        self.ways.paths.left_out()
    }

    /// Takes an event. Answers how the time until then was spent in its thread, where its stack is known.
    pub(in crate::export) fn take(&mut self, step: &Step<'_>) -> Option<Spent> {
        let (event, ways) = (step.event, &mut self.ways);
        if let Some(contexts) = &mut ways.contexts {
            contexts.take(event);
        }
        ways.spent = None;
        ways.charges.clear();
        self.timeline.take(step, ways);
        let thread = (event.pid, event.tid, None);
        let entered = step.entered.and_then(|_| self.timeline.innermost(thread));
        ways.called = entered;
        let is_wanted = ways.time == Time::Own || ways.located.is_some();
        // Of a call that the kernel measured nobody knows from where it was called.
        if let What::Return {
            place, line, frame, ..
        } = &event.what
            && let (Some(left), Some(key)) = (step.finished, step.key)
            && left.measured
            && is_wanted
        {
            let idle = match ways.with_idle {
                true => 0,
                false => frame.idle_ns.min(left.self_ns),
            };
            let node = ways.measured(event.pid, key, place, *line);
            ways.called = Some(node);
            // Nor what of it was waiting.
            if ways.time == Time::Own {
                if idle > 0 {
                    ways.idled(node, idle);
                }
                ways.charge(node, left.self_ns - idle, left.self_intervals, false);
            }
        }
        ways.spent
    }
}

impl<W: Write> Folded<W> {
    /// Nothing yet, to be written to `output`.
    pub fn new(output: W, shown: Selection) -> Folded<W> {
        Folded {
            output,
            seen: Seen::new(shown),
        }
    }

    /// With what greenlets, tasks and threads are by a first reading: it shows below their first calls.
    pub fn knowing(self, learned: Contexts) -> Folded<W> {
        let seen = self.seen.knowing(learned);
        Folded { seen, ..self }
    }
}

impl<W: Write> Sink for Folded<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.seen.begin(session);
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        self.seen.take(step);
        Ok(())
    }

    fn finish(mut self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
        self.seen.end();
        let Seen { session, ways, .. } = &self.seen;
        ways.paths.write(session, &mut self.output)?;
        Ok(self.seen.left_out())
    }
}

/// An SVG to look at in a browser, where it can be zoomed and searched.
#[derive(Debug)]
pub struct FlameGraph<W> {
    output: W,
    seen: Seen,
    min_width: f64,
}

impl<W: Write> FlameGraph<W> {
    /// Nothing yet, to be written to `output`. What takes less than `min_width` percent of the time will not be drawn.
    pub fn new(output: W, min_width: f64, shown: Selection) -> FlameGraph<W> {
        FlameGraph {
            output,
            seen: Seen::new(shown),
            min_width,
        }
    }

    /// With what greenlets, tasks and threads are by a first reading: it shows below their first calls.
    pub fn knowing(self, learned: Contexts) -> FlameGraph<W> {
        let seen = self.seen.knowing(learned);
        FlameGraph { seen, ..self }
    }
}

impl<W: Write> Sink for FlameGraph<W> {
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.seen.begin(session);
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        self.seen.take(step);
        Ok(())
    }

    fn finish(mut self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
        self.seen.end();
        let Seen { session, ways, .. } = &self.seen;
        let paths = &ways.paths;
        let (lines, percent) = paths.drawn(session, self.min_width);
        if lines.is_empty() {
            let idle = (ways.idle_ns > 0).then_some(
                "all of the time in it is idleness (hubs of event loops, workers of pools that wait for work), so there is nothing to \
                 draw; --idle shows it",
            );
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                idle.unwrap_or("there are no calls in it that took time, so there is nothing to draw; record with `--events call,return`"),
            ));
        }
        let only = session.targets.first();
        let only = only.filter(|_| session.targets.len() == 1);
        let caption = Caption {
            title: ways.time.title(),
            subtitle: only.map(|target| names::process(session, target.pid)),
            min_width: percent,
        };
        flames::draw(&lines, caption, &mut self.output)?;
        let coarser = (percent > self.min_width).then(|| {
            format!(
                "there are too many deep stacks for one picture, so it is drawn with --min-width {percent}; \
                 `--format folded` has all of them"
            )
        });
        let said: Vec<String> = coarser.into_iter().chain(self.seen.left_out()).collect();
        Ok((!said.is_empty()).then(|| said.join("; ")))
    }
}
