//! The sink for people: the flow of calls as an indented tree with times, everything else that happened in between.
//!
//! ```text
//!      0.000 ms  -> main  /srv/app.py:10
//!      0.004 ms    -- load  /srv/app.py:3  1.234 ms
//!      1.301 ms  <- main  1.301 ms
//! ```
//!
//! `->` enters a function, `<-` leaves it, `--` is a call that called nothing. `[name]` is the greenlet or task that runs,
//! where the agent tells it; values stand behind the place. Names come from the traced program, so
//! nothing in them reaches the terminal as a control sequence.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::io::{self, Write};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use anstyle::{AnsiColor, Style};

use super::{ENOUGH, End, Held, Sink, counted};
use crate::analysis::contexts::{Contexts, Runner};
use crate::analysis::pairing::Step;
use crate::event::hosts::Hosts;
use crate::event::loss::Losses;
use crate::event::{
    Event, FieldValue, Frame, Manner, Place, Plain, Session, Wait, Waker, What, paths,
};
use crate::probe::{ArgumentKind, Phase};
use crate::text::{Foreign, ending};

/// Deepest indentation, in levels; what is deeper says so by a number.
const MAX_INDENT: usize = 60;
/// A terminal has at most this part of its width for indentation.
const PART_FOR_INDENT: usize = 6;
/// What is left for the duration behind a place, in characters.
const FOR_DURATION: usize = "  12345.678 ms".len();

/// How the flow is shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Write colours. Decided by the caller, who knows the terminal and the user's wish.
    pub colour: bool,
    /// How wide the terminal is, in characters, asked again and again; none where there is no terminal. Indentation and
    /// paths are such that lines of calls fit; nothing else is shortened.
    pub width: Option<fn() -> Option<u16>>,
}

impl Options {
    fn width(self) -> Option<usize> {
        self.width.and_then(|ask| ask()).map(usize::from)
    }
}

/// Writes the flow of calls. The last call is held back to see whether it returns at once: call [`Sink::flush`] when
/// no event is at hand.
#[derive(Debug)]
pub struct Flow<W> {
    output: W,
    options: Options,
    /// How wide the terminal is now.
    width: Option<usize>,
    hosts: Hosts,
    lines: String,
    bytes: Vec<u8>,
    /// A call that may turn out to call nothing.
    held: Option<HeldCall>,
    /// What stands in the lines; and events that were shown and do not stand there yet.
    account: Held,
    not_yet: u64,
    /// Time of the first event.
    start: Option<u64>,
    /// The thread of the lines so far, as long as there is one only.
    only_thread: Option<(u32, u32)>,
    /// Whether there are calls in it, and not only what is told when they have ended.
    shows_calls: bool,
    /// Names of the fields that are read when calls return.
    of_returns: BTreeSet<String>,
    several_threads: bool,
    contexts: Contexts,
    /// What was lost and is not shown yet, a line per second at most; and when.
    losses: Losses,
    lost_at: u64,
}

#[derive(Debug)]
struct HeldCall {
    ts: u64,
    who: (u32, u32),
    interpreter: Option<NonZeroU32>,
    depth: usize,
    place: Arc<Place>,
    line: i32,
    frame: Frame,
}

impl<W: Write> Flow<W> {
    /// A sink that writes to `output`.
    pub fn new(output: W, options: Options) -> Flow<W> {
        Flow {
            output,
            options,
            width: options.width(),
            hosts: Hosts::default(),
            lines: String::new(),
            bytes: Vec::new(),
            held: None,
            account: Held::default(),
            not_yet: 0,
            start: None,
            only_thread: None,
            shows_calls: false,
            of_returns: BTreeSet::new(),
            several_threads: false,
            contexts: Contexts::default(),
            losses: Losses::new(),
            lost_at: 0,
        }
    }

    /// A line up to its content: time, thread when there are several, indentation.
    fn begin(&mut self, ts: u64, who: (u32, u32), depth: usize) {
        let start = *self.start.get_or_insert(ts);
        let (sign, since) = match ts.checked_sub(start) {
            Some(since) => ("", since),
            None => ("-", start - ts),
        };
        let time = format!("{sign}{}", Milliseconds(since));
        self.put(self.dim(), format_args!("{time:>12} ms"));
        if who.0 != 0 && !self.several_threads {
            match self.only_thread {
                None => self.only_thread = Some(who),
                Some(only) => self.several_threads = only != who,
            }
        }
        if self.several_threads {
            let thread = match who {
                (0, _) => String::new(),
                (pid, tid) => {
                    let thread = self.hosts.number(tid);
                    match self.hosts.name(pid) {
                        Some(host) => {
                            let pid = self.hosts.number(pid);
                            format!("{} {pid}/{thread}", Foreign::new(&**host))
                        }
                        None => format!("{pid}/{thread}"),
                    }
                }
            };
            self.put(self.dim(), format_args!("  {thread:<15}"));
        }
        let deepest = match self.width {
            Some(width) => MAX_INDENT.min(width / PART_FOR_INDENT / 2),
            None => MAX_INDENT,
        };
        let _ = write!(self.lines, "  {:1$}", "", 2 * depth.min(deepest));
        if depth > deepest {
            self.put(self.dim(), format_args!("[{depth}] "));
        }
    }

    fn put(&mut self, style: Style, content: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = if self.options.colour && !style.is_plain() {
            write!(self.lines, "{style}{content}{style:#}")
        } else {
            write!(self.lines, "{content}")
        };
    }

    /// How many characters this line has left, on a terminal.
    fn room(&self) -> Option<usize> {
        let line = self.lines.rsplit('\n').next().unwrap_or_default();
        let taken = |line: &str| line.chars().count();
        let taken = match self.options.colour {
            true => taken(&anstream::adapter::strip_str(line).to_string()),
            false => taken(line),
        };
        Some(self.width?.saturating_sub(taken))
    }

    fn dim(&self) -> Style {
        Style::new().dimmed()
    }

    /// A function that is entered, with what the agent tells of it.
    fn place(
        &mut self,
        (pid, interpreter): (u32, Option<NonZeroU32>),
        place: &Place,
        line: i32,
        frame: &Frame,
    ) {
        self.name(pid, interpreter, place, frame.context);
        let dim = self.dim();
        // Python 3.15's own probe has none for a closure.
        let line = match line > 0 {
            true => format!(":{line}"),
            false => String::new(),
        };
        match self.room() {
            Some(room) => {
                let room = room.saturating_sub(2 + line.len() + FOR_DURATION);
                let file = ending(&place.file.to_string(), room);
                if !file.is_empty() {
                    self.put(dim, format_args!("  {file}{line}"));
                }
            }
            None => self.put(dim, format_args!("  {}{line}", &place.file)),
        }
        match frame.manner {
            Manner::Running => self.put(dim, format_args!("  running already")),
            Manner::Suspension => self.put(dim, format_args!("  resumed")),
            Manner::Plain | Manner::Exception => {}
        }
        if let Some(arguments) = &frame.text {
            self.put(dim, format_args!("  {}", arguments));
        }
        self.fields(frame, true);
    }

    /// All fields, or those that are read when calls return.
    fn fields(&mut self, frame: &Frame, all: bool) {
        let dim = self.dim();
        for field in frame.fields.iter().flat_map(|fields| fields.present()) {
            if !all && !self.of_returns.contains(&*field.name) {
                continue;
            }
            let name = Foreign::new(&*field.name);
            match &field.value {
                FieldValue::Text(text) | FieldValue::Bytes(text) => {
                    self.put(dim, format_args!("  {name}='{text}'"));
                }
                value => self.put(dim, format_args!("  {name}={value}")),
            }
        }
    }

    fn interpreter(&mut self, interpreter: Option<NonZeroU32>) {
        if let Some(interpreter) = interpreter {
            let cyan = AnsiColor::Cyan.on_default();
            self.put(cyan, format_args!(" [interpreter {interpreter}]"));
        }
    }

    /// A function, in which interpreter it is if not the main one, and which greenlet or task runs it.
    fn name(
        &mut self,
        pid: u32,
        interpreter: Option<NonZeroU32>,
        place: &Place,
        context: Option<NonZeroU64>,
    ) {
        self.put(Style::new().bold(), format_args!("{}", place.name()));
        self.interpreter(interpreter);
        let Some(context) = context else { return };
        let name = match self.contexts.name(Runner::of(pid, 0, Some(context))) {
            Some(name) => name.to_string(),
            None => format!("{context:#x}"),
        };
        self.put(AnsiColor::Cyan.on_default(), format_args!(" [{name}]"));
    }

    /// How a function is left, and after which time.
    fn left(&mut self, duration_ns: Option<u64>, frame: &Frame) {
        self.duration(duration_ns);
        let dim = self.dim();
        match frame.manner {
            Manner::Exception => {
                self.put(AnsiColor::Red.on_default(), format_args!("  exception"));
            }
            Manner::Suspension => self.put(dim, format_args!("  suspended")),
            Manner::Plain | Manner::Running => {}
        }
        if let Some(value) = &frame.text {
            self.put(dim, format_args!("  = {}", value));
        }
    }

    fn duration(&mut self, duration_ns: Option<u64>) {
        if let Some(duration) = duration_ns {
            let green = AnsiColor::Green.on_default();
            self.put(green, format_args!("  {} ms", Milliseconds(duration)));
        }
    }

    fn release(&mut self) {
        if let Some(held) = self.held.take() {
            self.begin(held.ts, held.who, held.depth);
            self.lines.push_str("-> ");
            self.place(
                (held.who.0, held.interpreter),
                &held.place,
                held.line,
                &held.frame,
            );
            self.lines.push('\n');
            // It stands there, whatever becomes of the lines behind it.
            let stand = self.not_yet.min(1);
            self.account.add(self.lines.len(), stand);
            self.not_yet -= stand;
        }
    }

    /// Shows a return together with the held call when they belong together.
    fn fold(
        &mut self,
        (who, interpreter): ((u32, u32), Option<NonZeroU32>),
        depth: usize,
        place: &Arc<Place>,
        took: Option<u64>,
        frame: &Frame,
    ) -> bool {
        let same = |held: &HeldCall| {
            (held.who, held.interpreter) == (who, interpreter)
                && (held.depth, held.frame.context) == (depth, frame.context)
                && held.place == *place
        };
        let held = match self.held.take() {
            Some(held) if same(&held) => held,
            other => {
                self.held = other;
                return false;
            }
        };
        self.begin(held.ts, who, depth);
        self.lines.push_str("-- ");
        self.place((who.0, interpreter), place, held.line, &held.frame);
        self.left(took, frame);
        self.fields(frame, false);
        true
    }

    fn show(&mut self, event: &Event, depth: usize) {
        let who = (event.pid, event.tid);
        self.contexts.take(event);
        if let What::Return {
            place,
            duration_ns,
            frame,
            ..
        } = &event.what
            && self.fold((who, event.interpreter), depth, place, *duration_ns, frame)
        {
            self.lines.push('\n');
            return;
        }
        self.release();
        // It is named wherever it runs.
        if matches!(event.what, What::Context { .. }) {
            return;
        }
        if let What::Call { place, line, frame } = &event.what {
            self.shows_calls = true;
            self.held = Some(HeldCall {
                ts: event.ts,
                who,
                interpreter: event.interpreter,
                depth,
                place: Arc::clone(place),
                line: *line,
                frame: frame.clone(),
            });
            return;
        }
        self.begin(event.ts, who, depth);
        let cyan = AnsiColor::Cyan.on_default();
        match &event.what {
            What::Call { .. } | What::Context { .. } => {}
            What::Return {
                place,
                duration_ns,
                frame,
                ..
            } => {
                self.lines.push_str("<- ");
                self.name(event.pid, event.interpreter, place, frame.context);
                self.left(*duration_ns, frame);
                // With --min-duration there is nothing of the call before it.
                self.fields(frame, !self.shows_calls);
            }
            What::Line { place, line } => {
                let (function, file) = (place.name(), &place.file);
                self.put(self.dim(), format_args!(" . {function}  {file}:{line}"));
            }
            What::GcStart { generation } => {
                self.put(cyan, format_args!("gc: generation {generation} begins"));
                self.interpreter(event.interpreter);
            }
            What::GcDone {
                generation,
                collected,
                pause_ns,
            } => {
                self.put(cyan, format_args!("gc: "));
                if let Some(generation) = generation {
                    self.put(cyan, format_args!("generation {generation}, "));
                }
                self.put(cyan, format_args!("{collected} unreachable"));
                self.interpreter(event.interpreter);
                self.duration(*pause_ns);
            }
            What::Plain(plain) => self.plain(plain),
            What::Process {
                change,
                parent,
                command,
            } => {
                let pid = self.hosts.process(event.pid);
                self.put(cyan, format_args!("process {pid} {}", change.word()));
                if let Some(parent) = parent {
                    let parent = self.hosts.number(*parent);
                    self.put(cyan, format_args!(", parent {parent}"));
                }
                if let Some(command) = command {
                    self.put(cyan, format_args!(", {}", command));
                }
            }
            What::Wait(wait) => self.wait(wait),
            What::Lost { message, .. } => {
                let red = AnsiColor::Red.on_default();
                self.put(red, format_args!("lost: {}", Foreign::new(message)));
            }
        }
        self.lines.push('\n');
    }

    /// How long it waited and for what; for a processor, where that was more than nothing.
    fn wait(&mut self, wait: &Wait) {
        let cyan = AnsiColor::Cyan.on_default();
        let mut words = format!("waited: {}", wait.word());
        // Writing to a String cannot fail.
        if let Some(call) = &wait.syscall {
            let _ = write!(words, " in {call}");
        }
        if let Some(on) = &wait.on {
            let _ = write!(words, " on {on}");
        }
        match &wait.waker {
            Some(Waker::Thread { tid, name }) => {
                let _ = match name {
                    Some(name) => write!(words, ", woken by {name} ({tid})"),
                    None => write!(words, ", woken by {tid}"),
                };
            }
            Some(Waker::Interrupt) => words.push_str(", woken by an interrupt"),
            None => {}
        }
        self.put(cyan, format_args!("{words}"));
        self.duration(Some(wait.off_ns()));
        if let (Some(time), true) = (wait.runqueue_ns, wait.reason.is_some()) {
            let dim = self.dim();
            self.put(
                dim,
                format_args!("  {} ms of it in the run queue", Milliseconds(time)),
            );
        }
    }

    /// What it is, about what, and how it went, as the table of probes says it.
    fn plain(&mut self, plain: &Plain) {
        let mut words = plain.label().to_owned();
        for (place, (_, text)) in plain.fields().enumerate() {
            let gap = if place == 0 { " " } else { "  " };
            // Writing to a String cannot fail.
            let _ = write!(words, "{gap}{text}");
        }
        if let Some((argument, number)) = plain.number()
            && argument.kind == ArgumentKind::Number
        {
            let _ = write!(words, "  {} {number}", argument.field);
        }
        if let Some(unset) = plain.unset() {
            let _ = write!(words, ": {unset}");
        }
        if plain.phase() == Phase::Start {
            words.push_str(" begins");
        }
        self.put(AnsiColor::Cyan.on_default(), format_args!("{words}"));
        self.duration(plain.duration_ns);
    }

    fn hand_over(&mut self) -> io::Result<()> {
        self.width = self.options.width();
        self.bytes.extend_from_slice(self.lines.as_bytes());
        self.lines.clear();
        self.account.hand_over(&mut self.bytes, &mut self.output)
    }
}

impl<W: Write> Sink for Flow<W> {
    // The flow begins with the first event: what is traced was said on stderr.
    fn session(&mut self, session: &Session) -> io::Result<()> {
        self.hosts = Hosts::of(session);
        let fields = session.fields.iter();
        let of_returns = fields.filter(|(_, paths)| paths::are_of_returns(paths));
        self.of_returns = of_returns.map(|(name, _)| name.clone()).collect();
        Ok(())
    }

    fn step(&mut self, step: &Step<'_>) -> io::Result<()> {
        let is_loss = match &step.event.what {
            What::Lost { count, stage, .. } => {
                self.losses.add(*stage, *count);
                self.lost_at = step.event.ts;
                true
            }
            _ => false,
        };
        let mut lost = Vec::new();
        self.losses.report(step.event.ts, &mut lost);
        for event in &lost {
            self.show(event, 0);
        }
        if !is_loss {
            self.show(step.event, step.depth());
        }
        self.not_yet += counted(step.event);
        let waits = u64::from(self.held.is_some());
        let stand = self.not_yet.saturating_sub(waits);
        self.account.add(self.lines.len(), stand);
        self.not_yet -= stand;
        if self.lines.len() >= ENOUGH {
            self.hand_over()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.release();
        let stand = std::mem::take(&mut self.not_yet);
        self.account.add(self.lines.len(), stand);
        self.hand_over()
    }

    fn unwritten(&self) -> u64 {
        self.account.unwritten
    }

    /// Writes what was held back; the totals are said on stderr.
    fn finish(mut self: Box<Self>, _end: &End<'_>) -> io::Result<Option<String>> {
        let mut lost = Vec::new();
        self.losses.report_rest(self.lost_at, &mut lost);
        for event in &lost {
            self.show(event, 0);
        }
        self.flush()?;
        Ok(None)
    }
}

/// Nanoseconds shown as milliseconds with three decimals.
struct Milliseconds(u64);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0 / 1_000;
        write!(f, "{}.{:03}", micros / 1_000, micros % 1_000)
    }
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
