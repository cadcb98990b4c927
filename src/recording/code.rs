//! How events become bytes. Every event is a byte of kind and flags, the time since the event before, and what cannot be
//! predicted. Names and threads are defined once and referred to by number.
//!
//! Both sides keep the same small model of the program: the open calls of each thread, and the line at which each
//! function was last entered and left. What the model predicts is a flag and no bytes: a return mostly belongs to the
//! call on top, its duration is the time since then, and lines repeat. The model is allowed to be wrong, it only costs
//! bytes then: nothing that is decoded depends on how good it is.

use std::collections::{HashMap, VecDeque};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use pystap_ring::fields::MOST_FIELDS;

use crate::analysis::keys::KeyBuilder;
use crate::event::allowance::Allowance;
use crate::event::{
    Event, Field, FieldValue, Fields, Float, Frame, LossStage, Manner, Place, Plain, ProcessChange,
    Reason, Text, Wait, Waker, What,
};
use crate::probe::{ArgumentKind, Phase, Probe};

/// Definitions kept at once; both sides begin anew beyond that.
const MAX_PLACES: usize = 1 << 20;
const MAX_TEXTS: usize = 1 << 16;
const MAX_THREADS: usize = 1 << 12;
/// The same in bytes, since version 3: those of the strings, and so many for each.
const PLACE_BYTES: usize = 16 << 20;
const TEXT_BYTES: usize = 4 << 20;
const EACH: usize = 128;
/// Longest string; what the kernel or the agent tell has at most 64 KB.
const LONGEST: usize = 1 << 20;
/// Open calls that the model keeps of a thread, and how many of them it looks through.
const MAX_OPEN: usize = 1024;
const LOOK: usize = 64;
/// Open calls that it keeps of all threads, since version 3; all are forgotten beyond that.
const MAX_ALL_OPEN: usize = 1 << 20;
/// The version since which bytes are counted, too.
const COUNTS_BYTES: u32 = 3;

/// Kinds, in the low four bits of the first byte.
mod kind {
    pub(super) const CALL: u8 = 0;
    pub(super) const RETURN: u8 = 1;
    pub(super) const LINE: u8 = 2;
    pub(super) const GC_START: u8 = 3;
    pub(super) const GC_DONE: u8 = 4;
    // Plain events have those numbers that the table of probes gives them: 5 to 7, and from 16 on.
    pub(super) const PROCESS: u8 = 8;
    pub(super) const LOST: u8 = 9;
    pub(super) const CONTEXT: u8 = 10;
    /// Since version 6.
    pub(super) const WAIT: u8 = 11;
    /// Not an event: the fields of the next one, since version 7; with `FIRST`, how much of it was waiting for work, since version 9.
    pub(super) const FIELDS: u8 = 12;
    /// A plain event whose number does not fit: it is in a byte of its own.
    pub(super) const FURTHER: u8 = 13;
    /// Not an event: what the agent says of the next one.
    pub(super) const FRAME: u8 = 14;
    /// Not an event: the next ones are of another thread.
    pub(super) const THREAD: u8 = 15;
}

/// What there is of a wait.
mod wait {
    pub(super) const RUN_QUEUE: u8 = 0x01;
    pub(super) const INTERRUPT: u8 = 0x02;
    pub(super) const THREAD: u8 = 0x04;
    /// The system call, what it waits on, the name of who woke it.
    pub(super) const TEXTS: [u8; 3] = [0x08, 0x10, 0x20];
}

/// What the value of a field is.
mod field {
    pub(super) const NONE: u8 = 0;
    pub(super) const FALSE: u8 = 1;
    pub(super) const TRUE: u8 = 2;
    pub(super) const INTEGER: u8 = 3;
    pub(super) const FLOAT: u8 = 4;
    pub(super) const TEXT: u8 = 5;
    pub(super) const BYTES: u8 = 6;
    pub(super) const OTHER: u8 = 7;
    pub(super) const ABSENT: u8 = 8;
}

/// The time went backwards.
const BACKWARDS: u8 = 0x80;
/// The line is the one of last time.
const SAME_LINE: u8 = 0x10;
/// The function is that of the call on top.
const ON_TOP: u8 = 0x20;
/// The duration is the time since the model's call.
const AS_TIMED: u8 = 0x40;
/// One field that may be absent is there (a flag of kinds that have no line; of a thread that is defined, since version 5,
/// the interpreter).
const FIRST: u8 = 0x10;
/// Another one is.
const SECOND: u8 = 0x20;
/// How a frame came to run or to stop, in two bits beside `FIRST` (a context) and `SECOND` (a text).
const MANNERS: [Manner; 4] = [
    Manner::Plain,
    Manner::Suspension,
    Manner::Running,
    Manner::Exception,
];
/// Of a text that is defined: another one follows it.
const MORE: u8 = 0x08;

/// What both sides know.
#[derive(Debug, Default)]
struct Model {
    ts: u64,
    threads: Vec<Thread>,
    current: usize,
    lines: Vec<Lines>,
    /// Open calls of all threads.
    open: usize,
    /// As versions before 3 have it: without a bound for all of them together.
    old: bool,
}

#[derive(Debug, Default)]
struct Thread {
    pid: u32,
    tid: u32,
    /// What runs in it, if that is not the main interpreter: then it is another one to us.
    interpreter: Option<NonZeroU32>,
    /// Place and time of open calls.
    open: VecDeque<(u32, u64)>,
}

/// Process, thread, and what runs in it.
type Who = (u32, u32, Option<NonZeroU32>);

#[derive(Debug, Default, Clone, Copy)]
struct Lines {
    entered: i32,
    left: i32,
}

impl Model {
    fn thread(&mut self) -> Option<&mut Thread> {
        self.threads.get_mut(self.current)
    }

    fn lines(&mut self, place: u32) -> &mut Lines {
        let place = place as usize;
        if self.lines.len() <= place {
            self.lines.resize(place + 1, Lines::default());
        }
        &mut self.lines[place]
    }

    fn called(&mut self, place: u32, ts: u64) {
        if self.open >= MAX_ALL_OPEN && !self.old {
            for thread in &mut self.threads {
                thread.open = VecDeque::new();
            }
            self.open = 0;
        }
        let mut open = self.open;
        if let Some(thread) = self.thread() {
            if thread.open.len() >= MAX_OPEN {
                thread.open.pop_front();
                open -= 1;
            }
            thread.open.push_back((place, ts));
            open += 1;
        }
        self.open = open;
    }

    fn forget_threads(&mut self) {
        self.threads.clear();
        self.open = 0;
    }

    fn top(&mut self) -> Option<u32> {
        Some(self.thread()?.open.back()?.0)
    }

    /// Closes the nearest open call of the place and answers when it began.
    fn returned(&mut self, place: u32) -> Option<u64> {
        let open = &mut self.thread()?.open;
        let near = open.iter().rev().take(LOOK);
        let above = near.enumerate().find(|(_, call)| call.0 == place)?.0;
        let (_, since) = open.remove(open.len() - 1 - above)?;
        let room = open.capacity();
        if room > LOOK && open.len() < room / 8 {
            open.shrink_to(room / 4);
        }
        self.open -= 1;
        Some(since)
    }
}

/// Encodes events.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    model: Model,
    places: HashMap<Arc<Place>, u32>,
    /// Numbers of places by their address, to look up one hash less.
    addresses: HashMap<u64, (Arc<Place>, u32), KeyBuilder>,
    texts: HashMap<Arc<Text>, u32>,
    threads: HashMap<Who, usize, KeyBuilder>,
    place_bytes: usize,
    text_bytes: usize,
}

impl Encoder {
    /// Appends an event.
    pub(super) fn event(&mut self, event: &Event, out: &mut Vec<u8>) {
        self.thread(event, out);
        let elapsed = event.ts.wrapping_sub(self.model.ts);
        let (mut first, elapsed) = match elapsed as i64 {
            ..0 => (BACKWARDS, elapsed.wrapping_neg()),
            _ => (0, elapsed),
        };
        self.model.ts = event.ts;
        if let What::Call { frame, .. } | What::Return { frame, .. } = &event.what {
            if let Some(fields) = &frame.fields {
                self.fields(fields, out);
            }
            if frame.idle_ns > 0 {
                out.push(kind::FIELDS | FIRST);
                number(frame.idle_ns, out);
            }
            if frame.context.is_some() || frame.text.is_some() || frame.manner != Manner::Plain {
                self.frame(frame, out);
            }
        }
        // The first byte is completed when its flags are known.
        let head = out.len();
        out.push(0);
        number(elapsed, out);
        first |= match &event.what {
            What::Call { place, line, .. } => {
                let place = self.place(place, out);
                self.model.called(place, event.ts);
                let lines = self.model.lines(place);
                let known = std::mem::replace(&mut lines.entered, *line) == *line;
                kind::CALL | same_line(known, *line, out)
            }
            What::Line { place, line } => {
                let place = self.place(place, out);
                let lines = self.model.lines(place);
                let known = std::mem::replace(&mut lines.left, *line) == *line;
                kind::LINE | same_line(known, *line, out)
            }
            What::Return {
                place,
                line,
                duration_ns,
                ..
            } => {
                let mut flags = 0;
                let top = self.model.top();
                let id = match self.known_place(place) {
                    Some(id) if top == Some(id) => {
                        flags |= ON_TOP;
                        id
                    }
                    _ => self.place(place, out),
                };
                let since = self.model.returned(id);
                let timed = since.and_then(|since| event.ts.checked_sub(since));
                let lines = self.model.lines(id);
                let known = std::mem::replace(&mut lines.left, *line) == *line;
                flags |= same_line(known, *line, out);
                if duration_ns.is_some() && *duration_ns == timed {
                    flags |= AS_TIMED;
                } else {
                    optional(*duration_ns, out);
                }
                kind::RETURN | flags
            }
            What::GcStart { generation } => {
                signed(*generation, out);
                kind::GC_START
            }
            What::GcDone {
                generation,
                collected,
                pause_ns,
            } => {
                let mut flags = 0;
                if let Some(generation) = generation {
                    flags |= FIRST;
                    signed(*generation, out);
                }
                signed(*collected, out);
                if let Some(pause) = pause_ns {
                    flags |= SECOND;
                    number(*pause, out);
                }
                kind::GC_DONE | flags
            }
            What::Plain(plain) => self.plain(plain, out),
            What::Context { context, name } => {
                number(*context, out);
                self.text(name, out);
                kind::CONTEXT
            }
            What::Process {
                change,
                parent,
                command,
            } => {
                out.push(match change {
                    ProcessChange::Fork => 0,
                    ProcessChange::Exec => 1,
                    ProcessChange::Exit => 2,
                });
                let mut flags = 0;
                if let Some(parent) = parent {
                    flags |= FIRST;
                    number(u64::from(*parent), out);
                }
                if let Some(command) = command {
                    flags |= SECOND;
                    self.text(command, out);
                }
                kind::PROCESS | flags
            }
            What::Wait(wait) => self.wait(wait, out),
            What::Lost {
                count,
                stage,
                message,
            } => {
                number(*count, out);
                out.push(match stage {
                    LossStage::Probe => 0,
                    LossStage::Kernel => 1,
                    LossStage::Decoder => 2,
                    LossStage::Output => 3,
                    LossStage::Ring => 4,
                    LossStage::Waits => 5,
                });
                string(message, out);
                kind::LOST
            }
        };
        if let Some(byte) = out.get_mut(head) {
            *byte = first;
        }
    }

    /// A wait: its reason, what else is there as bits, and that; and its first byte.
    fn wait(&mut self, wait: &Wait, out: &mut Vec<u8>) -> u8 {
        let reason = wait
            .reason
            .and_then(|reason| Reason::ALL.iter().position(|it| *it == reason));
        out.push(reason.map_or(0, |place| place as u8 + 1));
        let name = match &wait.waker {
            Some(Waker::Thread { name, .. }) => name.as_ref(),
            _ => None,
        };
        let texts = [wait.syscall.as_ref(), wait.on.as_ref(), name];
        let mut there = match wait.waker {
            None => 0,
            Some(Waker::Interrupt) => wait::INTERRUPT,
            Some(Waker::Thread { .. }) => wait::THREAD,
        };
        if wait.runqueue_ns.is_some() {
            there |= wait::RUN_QUEUE;
        }
        for (text, bit) in texts.iter().zip(wait::TEXTS) {
            there |= if text.is_some() { bit } else { 0 };
        }
        out.push(there);
        number(wait.blocked_ns, out);
        if let Some(time) = wait.runqueue_ns {
            number(time, out);
        }
        if let Some(Waker::Thread { tid, .. }) = wait.waker {
            number(u64::from(tid), out);
        }
        for text in texts.into_iter().flatten() {
            self.text(text, out);
        }
        kind::WAIT
    }

    /// What its probe's row in the table says, and its first byte.
    fn plain(&mut self, plain: &Plain, out: &mut Vec<u8>) -> u8 {
        let code = plain.probe.plain().map_or(kind::FURTHER, |it| it.code);
        let mut first = code;
        if code > kind::CONTEXT {
            out.push(code);
            first = kind::FURTHER;
        }
        for (_, text) in plain.probe.texts().zip(&plain.texts) {
            match text {
                Some(text) => self.text(text, out),
                None => self.text(&Arc::default(), out),
            }
        }
        match plain.number() {
            Some((argument, value)) if matches!(argument.kind, ArgumentKind::Flag { .. }) => {
                first |= if value == 0 { 0 } else { FIRST };
            }
            Some((_, value)) => signed(i64::from(value), out),
            None => {}
        }
        if let Phase::Done(_) = plain.phase() {
            optional(plain.duration_ns, out);
        }
        first
    }

    fn thread(&mut self, event: &Event, out: &mut Vec<u8>) {
        let who = (event.pid, event.tid, event.interpreter);
        let here = self.model.thread();
        if here.is_some_and(|thread| (thread.pid, thread.tid, thread.interpreter) == who) {
            return;
        }
        let head = out.len();
        out.push(kind::THREAD);
        if let Some(&known) = self.threads.get(&who) {
            number(known as u64 + 1, out);
            self.model.current = known;
            return;
        }
        if self.model.threads.len() >= MAX_THREADS {
            self.model.forget_threads();
            self.threads.clear();
        }
        number(0, out);
        number(u64::from(event.pid), out);
        number(u64::from(event.tid), out);
        if let Some(interpreter) = event.interpreter {
            number(u64::from(interpreter.get()), out);
            if let Some(byte) = out.get_mut(head) {
                *byte |= FIRST;
            }
        }
        self.model.current = self.model.threads.len();
        self.threads.insert(who, self.model.current);
        self.model.threads.push(Thread {
            pid: event.pid,
            tid: event.tid,
            interpreter: event.interpreter,
            ..Thread::default()
        });
    }

    fn frame(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        let head = out.len();
        out.push(kind::FRAME);
        let manner = MANNERS.iter().position(|it| *it == frame.manner);
        let mut flags = (manner.unwrap_or(0) as u8) << 6;
        if let Some(context) = frame.context {
            flags |= FIRST;
            number(context.get(), out);
        }
        if let Some(text) = &frame.text {
            flags |= SECOND;
            define(text, 0, out);
        }
        if let Some(byte) = out.get_mut(head) {
            *byte |= flags;
        }
    }

    /// How many, and each with its name and what it is.
    fn fields(&mut self, fields: &Fields, out: &mut Vec<u8>) {
        out.push(kind::FIELDS);
        number(fields.0.len() as u64, out);
        for Field { name, value } in &fields.0 {
            let name = Text {
                text: name.to_string(),
                ..Text::default()
            };
            self.text(&Arc::new(name), out);
            match value {
                FieldValue::None => out.push(field::NONE),
                FieldValue::Bool(false) => out.push(field::FALSE),
                FieldValue::Bool(true) => out.push(field::TRUE),
                FieldValue::Integer(value) => {
                    out.push(field::INTEGER);
                    signed(*value, out);
                }
                FieldValue::Float(value) => {
                    out.push(field::FLOAT);
                    out.extend_from_slice(&value.0.to_bits().to_le_bytes());
                }
                // Each is another one as a rule, so it is not kept to be referred to.
                FieldValue::Text(text) => {
                    out.push(field::TEXT);
                    define(text, 0, out);
                }
                FieldValue::Bytes(text) => {
                    out.push(field::BYTES);
                    define(text, 0, out);
                }
                FieldValue::Other(name) => {
                    out.push(field::OTHER);
                    string(name, out);
                }
                FieldValue::Absent(reason) => {
                    out.push(field::ABSENT);
                    let reason = Text {
                        text: reason.to_string(),
                        ..Text::default()
                    };
                    self.text(&Arc::new(reason), out);
                }
            }
        }
    }

    fn known_place(&mut self, place: &Arc<Place>) -> Option<u32> {
        let address = Arc::as_ptr(place) as usize as u64;
        if let Some((known, id)) = self.addresses.get(&address)
            && Arc::ptr_eq(known, place)
        {
            return Some(*id);
        }
        let id = *self.places.get(place)?;
        self.remember(address, place, id);
        Some(id)
    }

    fn remember(&mut self, address: u64, place: &Arc<Place>, id: u32) {
        if self.addresses.len() >= MAX_TEXTS {
            self.addresses.clear();
        }
        self.addresses.insert(address, (Arc::clone(place), id));
    }

    /// Appends a place: 0 and its definition when it is new, else its number plus one.
    fn place(&mut self, place: &Arc<Place>, out: &mut Vec<u8>) -> u32 {
        if let Some(id) = self.known_place(place) {
            number(u64::from(id) + 1, out);
            return id;
        }
        if self.places.len() >= MAX_PLACES || self.place_bytes > PLACE_BYTES {
            self.places.clear();
            self.addresses.clear();
            self.place_bytes = 0;
        }
        self.place_bytes += size_of_place(place);
        let id = self.places.len() as u32;
        self.places.insert(Arc::clone(place), id);
        self.remember(Arc::as_ptr(place) as usize as u64, place, id);
        number(0, out);
        define(&place.file, 0, out);
        match &place.qualname {
            None => define(&place.function, 0, out),
            Some(qualname) => {
                define(&place.function, MORE, out);
                define(qualname, 0, out);
            }
        }
        id
    }

    /// Appends another text, in the same manner.
    fn text(&mut self, text: &Arc<Text>, out: &mut Vec<u8>) {
        if let Some(&id) = self.texts.get(text) {
            return number(u64::from(id) + 1, out);
        }
        if self.texts.len() >= MAX_TEXTS || self.text_bytes > TEXT_BYTES {
            self.texts.clear();
            self.text_bytes = 0;
        }
        self.text_bytes += EACH + text.text.len();
        self.texts.insert(Arc::clone(text), self.texts.len() as u32);
        number(0, out);
        define(text, 0, out);
    }
}

/// Bytes of a place as both sides count them.
fn size_of_place(place: &Place) -> usize {
    let qualname = place.qualname.as_ref().map_or(0, |name| name.text.len());
    EACH + place.file.text.len() + place.function.text.len() + qualname
}

fn same_line(known: bool, line: i32, out: &mut Vec<u8>) -> u8 {
    if known {
        SAME_LINE
    } else {
        signed(i64::from(line), out);
        0
    }
}

/// Seven bits a byte, the lowest first, the eighth bit on all but the last.
fn number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Small for small numbers of either sign.
fn signed(value: i64, out: &mut Vec<u8>) {
    number(((value << 1) ^ (value >> 63)) as u64, out);
}

fn optional(value: Option<u64>, out: &mut Vec<u8>) {
    match value {
        None => out.push(0),
        Some(value) => {
            out.push(1);
            number(value, out);
        }
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    number(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

fn define(text: &Text, more: u8, out: &mut Vec<u8>) {
    let altered =
        u8::from(text.cut) | u8::from(text.replaced) << 1 | u8::from(text.unreadable) << 2;
    out.push(altered | more);
    string(&text.text, out);
}

/// Why bytes are no events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Undecodable {
    /// They end in the middle of an event.
    Cut,
    /// They do not make sense.
    Damaged,
}

/// Decodes events.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    model: Model,
    places: Vec<Arc<Place>>,
    texts: Vec<Arc<Text>>,
    place_bytes: usize,
    text_bytes: usize,
    allowance: Allowance,
}

impl Decoder {
    /// A decoder of this version of the format.
    pub(super) fn of(version: u32) -> Decoder {
        Decoder {
            model: Model {
                old: version < COUNTS_BYTES,
                ..Model::default()
            },
            ..Decoder::default()
        }
    }

    /// Takes the next event off the bytes. `None` when there are none left.
    pub(super) fn event(&mut self, bytes: &mut &[u8]) -> Result<Option<Event>, Undecodable> {
        let mut first = match bytes.split_first() {
            None => return Ok(None),
            Some((&first, rest)) => {
                *bytes = rest;
                first
            }
        };
        while first & 0x0f == kind::THREAD {
            self.thread(first, bytes)?;
            first = byte(bytes)?;
        }
        let mut fields = None;
        if first == kind::FIELDS {
            fields = Some(Arc::new(self.fields(bytes)?));
            first = byte(bytes)?;
        }
        let mut idle_ns = 0;
        if first == kind::FIELDS | FIRST {
            idle_ns = read_number(bytes)?;
            first = byte(bytes)?;
        }
        let mut frame = Frame::default();
        if first & 0x0f == kind::FRAME {
            frame = self.frame(first, bytes)?;
            first = byte(bytes)?;
        }
        (frame.fields, frame.idle_ns) = (fields, idle_ns);
        let elapsed = read_number(bytes)?;
        let elapsed = match first & BACKWARDS {
            0 => elapsed,
            _ => elapsed.wrapping_neg(),
        };
        let ts = self.model.ts.wrapping_add(elapsed);
        self.model.ts = ts;
        let flag = |flag| first & flag != 0;
        let what = match first & 0x0f {
            kind::CALL => {
                let (id, place) = self.place(bytes)?;
                self.model.called(id, ts);
                let line = self.line(bytes, flag(SAME_LINE), id, |lines| &mut lines.entered)?;
                What::Call { place, line, frame }
            }
            kind::LINE => {
                let (id, place) = self.place(bytes)?;
                let line = self.line(bytes, flag(SAME_LINE), id, |lines| &mut lines.left)?;
                What::Line { place, line }
            }
            kind::RETURN => {
                let (id, place) = if flag(ON_TOP) {
                    let id = self.model.top().ok_or(Undecodable::Damaged)?;
                    let place = self.places.get(id as usize);
                    (id, Arc::clone(place.ok_or(Undecodable::Damaged)?))
                } else {
                    self.place(bytes)?
                };
                let since = self.model.returned(id);
                let line = self.line(bytes, flag(SAME_LINE), id, |lines| &mut lines.left)?;
                let duration_ns = if flag(AS_TIMED) {
                    since.and_then(|since| ts.checked_sub(since))
                } else {
                    read_optional(bytes)?
                };
                What::Return {
                    place,
                    line,
                    duration_ns,
                    frame,
                }
            }
            kind::GC_START => What::GcStart {
                generation: read_signed(bytes)?,
            },
            kind::GC_DONE => What::GcDone {
                generation: when(flag(FIRST), || read_signed(bytes))?,
                collected: read_signed(bytes)?,
                pause_ns: when(flag(SECOND), || read_number(bytes))?,
            },
            kind::CONTEXT => What::Context {
                context: read_number(bytes)?,
                name: self.text(bytes)?,
            },
            kind::PROCESS => What::Process {
                change: match byte(bytes)? {
                    0 => ProcessChange::Fork,
                    1 => ProcessChange::Exec,
                    2 => ProcessChange::Exit,
                    _ => return Err(Undecodable::Damaged),
                },
                parent: when(flag(FIRST), || read_small(bytes))?,
                command: when(flag(SECOND), || self.text(bytes))?,
            },
            kind::WAIT => What::Wait(Box::new(self.wait(bytes)?)),
            kind::LOST => What::Lost {
                count: read_number(bytes)?,
                stage: *LossStage::ALL
                    .get(usize::from(byte(bytes)?))
                    .ok_or(Undecodable::Damaged)?,
                message: read_string(bytes)?,
            },
            kind::FURTHER => {
                let code = byte(bytes)?;
                self.plain(code, first, bytes)?
            }
            code => self.plain(code, first, bytes)?,
        };
        let thread = self.model.thread().ok_or(Undecodable::Damaged)?;
        Ok(Some(Event {
            ts,
            pid: thread.pid,
            tid: thread.tid,
            interpreter: thread.interpreter,
            what,
        }))
    }

    fn wait(&mut self, bytes: &mut &[u8]) -> Result<Wait, Undecodable> {
        let reason = match byte(bytes)?.checked_sub(1) {
            None => None,
            Some(place) => {
                let reason = Reason::ALL.get(usize::from(place));
                Some(*reason.ok_or(Undecodable::Damaged)?)
            }
        };
        let there = byte(bytes)?;
        let has = |bit| there & bit != 0;
        let blocked_ns = read_number(bytes)?;
        let runqueue_ns = when(has(wait::RUN_QUEUE), || read_number(bytes))?;
        let tid = when(has(wait::THREAD), || read_small(bytes))?;
        let [syscall, on, name] = wait::TEXTS;
        let syscall = when(has(syscall), || self.text(bytes))?;
        let on = when(has(on), || self.text(bytes))?;
        let name = when(has(name), || self.text(bytes))?;
        Ok(Wait {
            reason,
            syscall,
            on,
            blocked_ns,
            runqueue_ns,
            waker: match tid {
                Some(tid) => Some(Waker::Thread { tid, name }),
                None => has(wait::INTERRUPT).then_some(Waker::Interrupt),
            },
        })
    }

    fn plain(&mut self, code: u8, first: u8, bytes: &mut &[u8]) -> Result<What, Undecodable> {
        let probe = Probe::of_code(code).ok_or(Undecodable::Damaged)?;
        let mut texts = [None, None];
        for (_, text) in probe.texts().zip(&mut texts) {
            *text = Some(self.text(bytes)?);
        }
        let mut plain = Plain {
            probe,
            texts,
            number: match probe.number_argument().map(|it| it.kind) {
                None => 0,
                Some(ArgumentKind::Flag { .. }) => i32::from(first & FIRST != 0),
                Some(_) => i32::try_from(read_signed(bytes)?).map_err(|_| Undecodable::Damaged)?,
            },
            duration_ns: None,
        };
        if let Phase::Done(_) = plain.phase() {
            plain.duration_ns = read_optional(bytes)?;
        }
        Ok(What::Plain(plain))
    }

    fn frame(&mut self, first: u8, bytes: &mut &[u8]) -> Result<Frame, Undecodable> {
        let context = when(first & FIRST != 0, || read_number(bytes))?;
        let text = when(first & SECOND != 0, || read_text(bytes))?;
        Ok(Frame {
            context: context.and_then(NonZeroU64::new),
            manner: MANNERS
                .get(usize::from(first >> 6))
                .copied()
                .unwrap_or_default(),
            text: text.map(Arc::new),
            fields: None,
            idle_ns: 0,
        })
    }

    fn fields(&mut self, bytes: &mut &[u8]) -> Result<Fields, Undecodable> {
        let count = read_number(bytes)?;
        if count > MOST_FIELDS as u64 {
            return Err(Undecodable::Damaged);
        }
        let mut fields = Vec::new();
        for _ in 0..count {
            let name = self.text(bytes)?;
            let value = match byte(bytes)? {
                field::NONE => FieldValue::None,
                field::FALSE => FieldValue::Bool(false),
                field::TRUE => FieldValue::Bool(true),
                field::INTEGER => FieldValue::Integer(read_signed(bytes)?),
                field::FLOAT => {
                    let (number, rest) = bytes.split_first_chunk().ok_or(Undecodable::Cut)?;
                    *bytes = rest;
                    FieldValue::Float(Float(f64::from_bits(u64::from_le_bytes(*number))))
                }
                field::TEXT => FieldValue::Text(read_text(bytes)?),
                field::BYTES => FieldValue::Bytes(read_text(bytes)?),
                field::OTHER => FieldValue::Other(read_string(bytes)?),
                field::ABSENT => FieldValue::Absent(self.text(bytes)?.text.as_str().into()),
                _ => return Err(Undecodable::Damaged),
            };
            let name = name.text.as_str().into();
            fields.push(Field { name, value });
        }
        Ok(Fields(fields))
    }

    fn thread(&mut self, first: u8, bytes: &mut &[u8]) -> Result<(), Undecodable> {
        let known = read_number(bytes)?;
        if let Some(known) = known.checked_sub(1) {
            self.model.current = usize::try_from(known).unwrap_or(usize::MAX);
            return Ok(());
        }
        if self.model.threads.len() >= MAX_THREADS {
            self.model.forget_threads();
        }
        let (pid, tid) = (read_small(bytes)?, read_small(bytes)?);
        let interpreter = when(first & FIRST != 0, || read_small(bytes))?;
        self.model.current = self.model.threads.len();
        self.model.threads.push(Thread {
            pid,
            tid,
            interpreter: interpreter.and_then(NonZeroU32::new),
            ..Thread::default()
        });
        Ok(())
    }

    fn place(&mut self, bytes: &mut &[u8]) -> Result<(u32, Arc<Place>), Undecodable> {
        let known = read_number(bytes)?;
        if let Some(id) = known.checked_sub(1) {
            let place = usize::try_from(id).ok().and_then(|id| self.places.get(id));
            let place = place.ok_or(Undecodable::Damaged)?;
            return Ok((id as u32, Arc::clone(place)));
        }
        let full = self.place_bytes > PLACE_BYTES && !self.model.old;
        if self.places.len() >= MAX_PLACES || full {
            self.places.clear();
            self.place_bytes = 0;
        }
        let file = read_text(bytes)?;
        let more = bytes.first().is_some_and(|altered| altered & MORE != 0);
        let place = Place {
            file,
            function: read_text(bytes)?,
            qualname: when(more, || read_text(bytes))?,
            group: None,
        };
        self.place_bytes += size_of_place(&place);
        let place = self.allowance.place(place);
        self.places.push(Arc::clone(&place));
        Ok((self.places.len() as u32 - 1, place))
    }

    fn text(&mut self, bytes: &mut &[u8]) -> Result<Arc<Text>, Undecodable> {
        let known = read_number(bytes)?;
        if let Some(id) = known.checked_sub(1) {
            let text = usize::try_from(id).ok().and_then(|id| self.texts.get(id));
            return text.map(Arc::clone).ok_or(Undecodable::Damaged);
        }
        let full = self.text_bytes > TEXT_BYTES && !self.model.old;
        if self.texts.len() >= MAX_TEXTS || full {
            self.texts.clear();
            self.text_bytes = 0;
        }
        let text = read_text(bytes)?;
        self.text_bytes += EACH + text.text.len();
        let text = self.allowance.text(text);
        self.texts.push(Arc::clone(&text));
        Ok(text)
    }

    fn line(
        &mut self,
        bytes: &mut &[u8],
        same: bool,
        place: u32,
        last: fn(&mut Lines) -> &mut i32,
    ) -> Result<i32, Undecodable> {
        let last = last(self.model.lines(place));
        if !same {
            *last = i32::try_from(read_signed(bytes)?).map_err(|_| Undecodable::Damaged)?;
        }
        Ok(*last)
    }
}

fn when<T>(
    there: bool,
    read: impl FnOnce() -> Result<T, Undecodable>,
) -> Result<Option<T>, Undecodable> {
    there.then(read).transpose()
}

fn byte(bytes: &mut &[u8]) -> Result<u8, Undecodable> {
    let (&first, rest) = bytes.split_first().ok_or(Undecodable::Cut)?;
    *bytes = rest;
    Ok(first)
}

fn read_number(bytes: &mut &[u8]) -> Result<u64, Undecodable> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let next = byte(bytes)?;
        value |= u64::from(next & 0x7f) << shift;
        if next & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Undecodable::Damaged)
}

fn read_small(bytes: &mut &[u8]) -> Result<u32, Undecodable> {
    u32::try_from(read_number(bytes)?).map_err(|_| Undecodable::Damaged)
}

fn read_signed(bytes: &mut &[u8]) -> Result<i64, Undecodable> {
    let value = read_number(bytes)?;
    Ok((value >> 1) as i64 ^ -((value & 1) as i64))
}

fn read_optional(bytes: &mut &[u8]) -> Result<Option<u64>, Undecodable> {
    match byte(bytes)? {
        0 => Ok(None),
        1 => read_number(bytes).map(Some),
        _ => Err(Undecodable::Damaged),
    }
}

fn read_string(bytes: &mut &[u8]) -> Result<String, Undecodable> {
    let length = usize::try_from(read_number(bytes)?).map_err(|_| Undecodable::Damaged)?;
    if length > LONGEST {
        return Err(Undecodable::Damaged);
    }
    let (text, rest) = bytes.split_at_checked(length).ok_or(Undecodable::Cut)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).map_err(|_| Undecodable::Damaged)
}

fn read_text(bytes: &mut &[u8]) -> Result<Text, Undecodable> {
    let altered = byte(bytes)?;
    Ok(Text {
        text: read_string(bytes)?,
        cut: altered & 1 != 0,
        replaced: altered & 2 != 0,
        unreadable: altered & 4 != 0,
    })
}
