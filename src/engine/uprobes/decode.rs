//! Records of the perf rings as events. Knows bytes and formats; reads no file and asks no kernel.
//!
//! A record begins with its type, flags and length (`struct perf_event_header`). The raw data of a sample begins with
//! the number of its tracepoint and has the fields that the event's format file lists; strings stand behind the fields,
//! each field saying where and how long.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use foldhash::fast::RandomState;
use perf_event_open_sys::bindings;

use super::fetch::FetchKind;
use super::processes::{Change, Life};
use crate::analysis::keys::KeyBuilder;
use crate::engine::flags;
use crate::event::allowance::{Allowance, place_bytes, text_bytes};
use crate::event::loss::lost;
use crate::event::{Event, Frame, LossStage, Place, Plain, Text, What};
use crate::perf::owners::CounterOwners;
use crate::perf::tracepoints::Tracepoint;
use crate::probe::{Argument, ArgumentKind, Probe};
use crate::python::greenlets;
use crate::python::name::{is_interpreter_command, may_be_library};

/// The number in the field `mark` of a place that only holds up a semaphore.
pub(super) const HOLDS: u8 = u8::MAX;

/// Bytes of the names remembered to be found again by their bytes; all are forgotten when there are more, so that a program
/// that makes names cannot fill our memory. Who still uses one keeps it, within [`Allowance`].
const REMEMBERED: usize = 16 << 20;
/// What the kernel writes in place of a string that it could not read.
const FAULT: &[u8] = b"(fault)";
/// Bytes of `struct perf_event_header`.
const HEADER: usize = 8;

/// The fields that an argument can come in; a name of something else comes as a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    File,
    Function,
    Number,
    Qualname,
    Context,
    Flags,
    Text,
    Keywords,
}

impl Field {
    /// The field of such an argument, given how many texts stand before it; `None` for what nobody reads.
    fn of(kind: ArgumentKind, texts_before: usize) -> Option<Field> {
        Some(match kind {
            ArgumentKind::File => Field::File,
            ArgumentKind::Function => Field::Function,
            ArgumentKind::Text => match texts_before {
                0 => Field::Function,
                _ => Field::File,
            },
            ArgumentKind::Number | ArgumentKind::Flag { .. } => Field::Number,
            ArgumentKind::Qualname => Field::Qualname,
            ArgumentKind::Context => Field::Context,
            ArgumentKind::Flags => Field::Flags,
            ArgumentKind::Value => Field::Text,
            ArgumentKind::Keywords => Field::Keywords,
            ArgumentKind::Object => return None,
        })
    }

    /// What it is read as.
    pub(super) fn kind(self) -> FetchKind {
        match self {
            Field::File | Field::Function | Field::Qualname | Field::Text | Field::Keywords => {
                FetchKind::Text
            }
            Field::Number | Field::Context | Field::Flags => FetchKind::Number,
        }
    }
}

/// The fields that a probe's arguments come in, each with the place of its argument: some images' probes pass `further` ones.
pub(super) fn fields(
    probe: Probe,
    further: &'static [Argument],
) -> impl Iterator<Item = (usize, Field)> {
    let mut texts = 0;
    let arguments = probe.arguments().iter().chain(further).enumerate();
    arguments.filter_map(move |(place, argument)| {
        let field = Field::of(argument.kind, texts)?;
        texts += usize::from(argument.kind.is_text());
        Some((place, field))
    })
}

/// Offsets of the fields in the raw data of a record.
#[derive(Debug, Clone, Copy)]
struct Format {
    mark: usize,
    width: usize,
    file: usize,
    function: usize,
    number: usize,
    /// Where the agent is probed.
    agent: Option<AgentFormat>,
    /// With values only.
    text: Option<usize>,
    /// Where a patched Python is probed that passes arguments.
    keywords: Option<usize>,
}

/// Offsets of the fields that only the agent fills.
#[derive(Debug, Clone, Copy)]
struct AgentFormat {
    qualname: usize,
    context: usize,
    flags: usize,
}

/// What decoding has to say beside events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct DecodeAccount {
    /// Records that the kernel had no room for.
    pub(super) lost: u64,
    /// Records that make no sense.
    pub(super) unreadable: u64,
    /// Times that the kernel silenced a counter because it fired too often.
    pub(super) throttled: u64,
}

/// Turns the bytes of rings into events.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Number of the tracepoint, with which every record's data begins.
    event: u16,
    format: Format,
    names: Names,
    lives: Vec<Life>,
    owners: CounterOwners,
    account: DecodeAccount,
}

impl Decoder {
    /// A decoder for this event; `None` when it lacks a field.
    pub(super) fn new(defined: &Tracepoint) -> Option<Decoder> {
        let offset = |name: &str| {
            let found = defined.fields.iter().find(|(have, _)| have == name);
            found.map(|(_, offset)| *offset)
        };
        Some(Decoder {
            event: u16::try_from(defined.id).ok()?,
            format: Format {
                mark: offset("mark")?,
                width: offset("width")?,
                file: offset("file")?,
                function: offset("function")?,
                number: offset("number")?,
                agent: match offset("qualname") {
                    None => None,
                    Some(qualname) => Some(AgentFormat {
                        qualname,
                        context: offset("context")?,
                        flags: offset("flags")?,
                    }),
                },
                text: offset("text"),
                keywords: offset("keywords"),
            },
            names: Names::new(REMEMBERED, Allowance::default()),
            lives: Vec::new(),
            owners: CounterOwners::default(),
            account: DecodeAccount::default(),
        })
    }

    /// Whether records say with which classes a function is called, as far as the agent made them.
    pub(super) fn knows_classes(&self) -> bool {
        self.format.agent.is_some()
    }

    /// What there was to say since this was last asked.
    pub(super) fn account(&mut self) -> DecodeAccount {
        std::mem::take(&mut self.account)
    }

    /// Where it is told which threads have counters of their own.
    pub(super) fn owners(&mut self) -> &mut CounterOwners {
        &mut self.owners
    }

    /// What became of processes since this was last asked.
    pub(super) fn lives(&mut self) -> Vec<Life> {
        std::mem::take(&mut self.lives)
    }

    /// Decodes whole records, whose clock is so many nanoseconds behind the Unix epoch.
    pub(super) fn decode(&mut self, mut bytes: &[u8], offset: u64, out: &mut Vec<Event>) {
        let lives = self.lives.len();
        while !bytes.is_empty() {
            let size = u16_at(bytes, 6).map_or(0, usize::from);
            let Some((record, rest)) = bytes.split_at_checked(size).filter(|_| size >= HEADER)
            else {
                // Nothing behind it can be found again.
                self.account.unreadable += 1;
                break;
            };
            bytes = rest;
            match self.record(record) {
                Some(Some(mut event)) => {
                    event.ts = event.ts.saturating_add(offset);
                    out.push(event);
                }
                Some(None) => {}
                None => self.account.unreadable += 1,
            }
        }
        for life in self.lives.iter_mut().skip(lives) {
            life.ts = life.ts.saturating_add(offset);
        }
    }

    /// One record; `None` when it makes no sense, `Some(None)` when there is no event in it.
    fn record(&mut self, record: &[u8]) -> Option<Option<Event>> {
        let kind = u32_at(record, 0)?;
        let body = record.get(HEADER..)?;
        match kind {
            bindings::PERF_RECORD_SAMPLE => self.sample(body),
            bindings::PERF_RECORD_LOST => self.lost(record, u64_at(body, 8)?),
            bindings::PERF_RECORD_LOST_SAMPLES => self.lost(record, u64_at(body, 0)?),
            bindings::PERF_RECORD_THROTTLE => {
                self.account.throttled += 1;
                Some(None)
            }
            bindings::PERF_RECORD_FORK
            | bindings::PERF_RECORD_EXIT
            | bindings::PERF_RECORD_COMM
            | bindings::PERF_RECORD_MMAP2 => {
                if kind == bindings::PERF_RECORD_EXIT {
                    self.owners.ended(u32_at(body, 8)?);
                }
                let change = change(kind, record, body)?;
                if let Some((pid, change)) = change {
                    let ts = when(record)?;
                    self.lives.push(Life { ts, pid, change });
                }
                Some(None)
            }
            _ => Some(None),
        }
    }

    /// So many records had no room before this one.
    fn lost(&mut self, record: &[u8], count: u64) -> Option<Option<Event>> {
        self.account.lost = self.account.lost.saturating_add(count);
        let ts = when(record)?;
        // Nobody knows whose they were.
        Some((count > 0).then(|| lost(ts, 0, LossStage::Kernel, count)))
    }

    fn sample(&mut self, body: &[u8]) -> Option<Option<Event>> {
        let (pid, tid) = (u32_at(body, 0)?, u32_at(body, 4)?);
        let ts = u64_at(body, 8)?;
        if self.owners.foreign(tid, u64_at(body, 16)?) {
            return Some(None);
        }
        let length = u32_at(body, 24)? as usize;
        let raw = body.get(28..)?.get(..length)?;
        if u16_at(raw, 0)? != self.event {
            return None;
        }
        let format = self.format;
        let mark = *raw.get(format.mark)?;
        if mark == HOLDS {
            return Some(None);
        }
        let number = || number(raw, format);
        let line = || number().and_then(|line| i32::try_from(line).ok());
        let what = match Probe::of_number(mark)? {
            Probe::FunctionEntry => What::Call {
                place: self.place(raw)?,
                line: line()?,
                frame: self.frame(raw)?,
            },
            Probe::FunctionReturn => What::Return {
                place: self.place(raw)?,
                line: line()?,
                duration_ns: None,
                frame: self.frame(raw)?,
            },
            Probe::Line => What::Line {
                place: self.place(raw)?,
                line: line()?,
            },
            Probe::GcStart => What::GcStart {
                generation: number()?,
            },
            Probe::GcDone => What::GcDone {
                generation: None,
                collected: number()?,
                pause_ns: None,
            },
            Probe::ContextName => What::Context {
                context: u64_at(raw, format.agent?.context)?,
                name: self.text(raw)?,
            },
            probe => What::Plain(self.plain(probe, raw)?),
        };
        Some(Some(Event {
            interpreter: None,
            ts,
            pid,
            tid,
            what,
        }))
    }

    /// What the table of probes says that such an event has.
    fn plain(&mut self, probe: Probe, raw: &[u8]) -> Option<Plain> {
        let mut plain = Plain {
            probe,
            texts: [None, None],
            number: 0,
            duration_ns: None,
        };
        let fields = [self.format.function, self.format.file];
        for ((_, text), field) in probe.texts().zip(&mut plain.texts).zip(fields) {
            *text = Some(self.names.text(string(raw, field)?));
        }
        if let Some(argument) = probe.number_argument() {
            let number = number(raw, self.format)?;
            plain.number = match argument.kind {
                ArgumentKind::Flag { .. } => i32::from(number != 0),
                _ => i32::try_from(number).ok()?,
            };
        }
        Some(plain)
    }

    /// What the agent says of a frame, and its value; nothing where another's mark was hit that says no more than its place.
    fn frame(&self, raw: &[u8]) -> Option<Frame> {
        // Where there is no value, the pointer is none.
        let value = |field: Option<usize>| string(raw, field?).filter(|(bytes, _)| *bytes != FAULT);
        let text = match (value(self.format.text), value(self.format.keywords)) {
            (Some((positional, whole)), Some((named, also))) => Some(self::text(
                &[positional, b" ", named].concat(),
                !(whole && also),
            )),
            (Some((value, whole)), None) => Some(self::text(value, !whole)),
            (None, _) => None,
        };
        let mut frame = Frame {
            text: text.map(Arc::new),
            ..Frame::default()
        };
        if let Some(agent) = self.format.agent {
            frame.manner = flags::manner(u64_at(raw, agent.flags)?);
            frame.context = NonZeroU64::new(u64_at(raw, agent.context)?);
        }
        Some(frame)
    }

    fn place(&mut self, raw: &[u8]) -> Option<Arc<Place>> {
        let mut file = string(raw, self.format.file)?;
        let mut function = string(raw, self.format.function)?;
        let Some(agent) = self.format.agent else {
            return Some(self.names.place(file, function, None));
        };
        let mut qualname = string(raw, agent.qualname).filter(|(bytes, _)| *bytes != FAULT);
        let flags = u64_at(raw, agent.flags)?;
        let names = [Some(&mut file), Some(&mut function), qualname.as_mut()];
        for (name, cut) in names.into_iter().zip(flags::CUT_NAMES) {
            if let Some((_, whole)) = name {
                *whole &= flags & cut == 0;
            }
        }
        Some(self.names.place(file, function, qualname))
    }

    fn text(&mut self, raw: &[u8]) -> Option<Arc<Text>> {
        Some(self.names.text(string(raw, self.format.function)?))
    }
}

/// The bytes of a string without its end, and whether the end was there.
type Raw<'a> = (&'a [u8], bool);

/// Names that were seen, found again by their bytes.
#[derive(Debug)]
struct Names {
    hashes: RandomState,
    /// By a hash of their bytes: of two names with one hash the later is remembered.
    places: HashMap<u64, Arc<Place>, KeyBuilder>,
    texts: HashMap<u64, Arc<Text>, KeyBuilder>,
    /// Bytes of these, and how many there may be.
    bytes: usize,
    budget: usize,
    allowance: Allowance,
}

impl Names {
    fn new(budget: usize, allowance: Allowance) -> Names {
        Names {
            hashes: RandomState::default(),
            places: HashMap::default(),
            texts: HashMap::default(),
            bytes: 0,
            budget,
            allowance,
        }
    }

    fn place(&mut self, file: Raw<'_>, function: Raw<'_>, qualname: Option<Raw<'_>>) -> Arc<Place> {
        let mut hasher = self.hashes.build_hasher();
        for (bytes, whole) in [file, function].into_iter().chain(qualname) {
            hasher.write(bytes);
            hasher.write_usize(bytes.len() << 1 | usize::from(whole));
        }
        let key = hasher.finish();
        if let Some(known) = self.places.get(&key)
            && is_text(&known.file, file)
            && is_text(&known.function, function)
            && match (&known.qualname, qualname) {
                (Some(known), Some(qualname)) => is_text(known, qualname),
                (known, qualname) => known.is_none() && qualname.is_none(),
            }
        {
            return Arc::clone(known);
        }
        let place = self.allowance.place(Place {
            file: text(file.0, !file.1),
            function: text(function.0, !function.1),
            qualname: qualname.map(|(qualname, whole)| text(qualname, !whole)),
            group: None,
        });
        if !place.is_left_out() {
            self.make_room(place_bytes(&place));
            self.places.insert(key, Arc::clone(&place));
        }
        place
    }

    fn text(&mut self, name: Raw<'_>) -> Arc<Text> {
        let (bytes, whole) = name;
        let mut hasher = self.hashes.build_hasher();
        hasher.write(bytes);
        hasher.write_u8(u8::from(whole));
        let key = hasher.finish();
        if let Some(known) = self.texts.get(&key)
            && is_text(known, name)
        {
            return Arc::clone(known);
        }
        let new = self.allowance.text(text(bytes, !whole));
        if !new.is_left_out() {
            self.make_room(text_bytes(&new));
            self.texts.insert(key, Arc::clone(&new));
        }
        new
    }

    fn make_room(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes > self.budget {
            self.places = HashMap::default();
            self.texts = HashMap::default();
            self.bytes = bytes;
        }
    }
}

/// Whether these bytes are what became this text.
fn is_text(known: &Text, (bytes, whole): Raw<'_>) -> bool {
    if known.cut == whole || known.unreadable != (bytes == FAULT && whole) {
        return false;
    }
    known.unreadable
        || match known.replaced {
            false => known.text.as_bytes() == bytes,
            true => String::from_utf8_lossy(bytes) == known.text,
        }
}

/// What became of processes, from a ring that has nothing else; threads are left out.
pub(super) fn changes(mut bytes: &[u8]) -> impl Iterator<Item = (u32, Change)> {
    std::iter::from_fn(move || {
        loop {
            let size = u16_at(bytes, 6).map_or(0, usize::from);
            let (record, rest) = bytes.split_at_checked(size).filter(|_| size >= HEADER)?;
            bytes = rest;
            let kind = u32_at(record, 0)?;
            if matches!(
                kind,
                bindings::PERF_RECORD_FORK | bindings::PERF_RECORD_EXIT
            ) && let Some(Some(change)) = change(kind, record, record.get(HEADER..)?)
            {
                return Some(change);
            }
        }
    })
}

/// What happened to a process; `Some(None)` when it was a thread.
fn change(kind: u32, record: &[u8], body: &[u8]) -> Option<Option<(u32, Change)>> {
    let (pid, second, third) = (u32_at(body, 0)?, u32_at(body, 4)?, u32_at(body, 8)?);
    let change = match kind {
        // Process, its parent, thread, its parent.
        bindings::PERF_RECORD_FORK => (pid != second).then_some(Change::Forked { parent: second }),
        bindings::PERF_RECORD_EXIT => (pid == third).then_some(Change::Exited { parent: second }),
        // Process, thread, name.
        bindings::PERF_RECORD_COMM => {
            let misc = u32::from(u16_at(record, 4)?);
            let name = body.get(8..)?;
            let end = name.iter().position(|byte| *byte == 0)?;
            let name = String::from_utf8_lossy(name.get(..end)?).into_owned();
            (pid == second).then_some(if misc & bindings::PERF_RECORD_MISC_COMM_EXEC == 0 {
                Change::Named { name }
            } else {
                Change::Execed { name }
            })
        }
        // Process, thread, address, length, offset, device, inode; then generation, protection, flags and the path.
        _ => Some(Change::Mapped {
            inode: u64_at(body, 40)?,
            python: is_called(body, b"python", |name| {
                is_interpreter_command(name) || may_be_library(name)
            }),
            greenlets: is_called(body, b"greenlet", greenlets::is_library),
        }),
    };
    Some(change.map(|change| (pid, change)))
}

/// Whether a mapped file is called in this way. The name has this word in it: most files are something else, and there are
/// many.
fn is_called(body: &[u8], word: &[u8], so: impl Fn(&Path) -> bool) -> bool {
    // Behind the numbers stands the path, which ends with a NUL.
    let path = body.get(64..).unwrap_or_default();
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.windows(word.len()).any(|part| part == word) && so(Path::new(OsStr::from_bytes(name)))
}

/// A string in a record.
fn string(raw: &[u8], field: usize) -> Option<Raw<'_>> {
    let place = u32_at(raw, field)?;
    let (offset, length) = ((place & 0xffff) as usize, (place >> 16) as usize);
    let bytes = raw.get(offset..)?.get(..length)?;
    match bytes.split_last() {
        Some((0, text)) => Some((text, true)),
        // Before Linux 5.19 nothing at all stood for a string that could not be read.
        None => Some((FAULT, true)),
        Some(_) => Some((bytes, false)),
    }
}

fn text(bytes: &[u8], cut: bool) -> Text {
    if bytes == FAULT && !cut {
        return Text {
            unreadable: true,
            ..Text::default()
        };
    }
    Text::of_bytes(bytes, cut)
}

/// The number of a record: as many of its bytes as it is wide.
fn number(raw: &[u8], format: Format) -> Option<i64> {
    let value = u64_at(raw, format.number)? as i64;
    let width = *raw.get(format.width)? as i8;
    Some(match width {
        -1 => i64::from(value as i8),
        1 => i64::from(value as u8),
        -2 => i64::from(value as i16),
        2 => i64::from(value as u16),
        -4 => i64::from(value as i32),
        4 => i64::from(value as u32),
        -8 | 8 => value,
        _ => return None,
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Thread and time of each sample in whole records, on the records' clock.
pub(super) fn sampled(mut bytes: &[u8]) -> impl Iterator<Item = (u32, u64)> {
    let records = std::iter::from_fn(move || {
        let size = usize::from(u16_at(bytes, 6)?);
        let (record, rest) = bytes.split_at_checked(size).filter(|_| size >= HEADER)?;
        bytes = rest;
        Some(record)
    });
    records
        .filter(|record| u32_at(record, 0) == Some(bindings::PERF_RECORD_SAMPLE))
        .filter_map(|record| {
            let body = record.get(HEADER..)?;
            Some((u32_at(body, 4)?, u64_at(body, 8)?))
        })
}

/// Every record but a sample ends with who made it, when, and through which counter.
fn when(record: &[u8]) -> Option<u64> {
    u64_at(record, record.len().checked_sub(16)?)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
