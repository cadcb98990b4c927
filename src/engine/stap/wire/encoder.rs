//! The wire from its other end, as the script in the kernel writes it: for tests and benches. Nothing of pystap itself uses
//! it.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use super::{
    Acknowledgement, COLLECTIONS, HAS_TEXT, LineKind, MAGIC, MAX_TEXT, NO_ROOM, RowsEnd, TEXT_CUT,
    TEXT_UNREADABLE, rest, row_hash,
};
use crate::analysis::totals::{About, Row};
use crate::engine::flags;
use crate::event::{Event, Frame, Place, Plain, ProcessChange, Text, What};
#[cfg(test)]
use crate::waits::{SummedEnd, SummedPython, SummedStack, SummedWaits};

/// Writes the records that the script in the kernel writes.
///
/// Names are defined before their first use. Texts keep their flags; bytes from the first NUL on are left out, as
/// C strings have none.
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
    places: HashMap<Arc<Place>, u64>,
    texts: HashMap<Arc<Text>, u64>,
    /// Keys whose definition was written since names were last forgotten.
    defined: HashSet<u64>,
    next_key: u64,
    sent: u64,
}

impl Encoder {
    /// An encoder that has written nothing.
    pub fn new() -> Encoder {
        Encoder::default()
    }

    /// The bytes written so far; the encoder goes on with an empty buffer and still knows which names it defined.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Bytes written since the last [`Encoder::take`] or [`Encoder::clear`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Empties the buffer but keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// `V`: announces a version of the wire.
    pub fn version(&mut self, version: u32) {
        self.record(LineKind::Version, 0, version, 0, 0, 0);
    }

    /// `Y`: the probes are live.
    pub fn ready(&mut self, ts: u64) {
        self.record(LineKind::Ready, 0, 0, ts, 0, 0);
    }

    /// `K`: a control command was obeyed.
    pub fn acknowledge(&mut self, pid: u32, done: Acknowledgement) {
        let flags = match done {
            Acknowledgement::Added => 1,
            Acknowledgement::Removed => 2,
            Acknowledgement::NamesForgotten => 3,
            Acknowledgement::Silenced => 7,
        };
        self.record(LineKind::Acknowledged, flags, pid, 0, 0, 0);
    }

    /// `Z`: the totals, which count every event written so far; `last` when none follows.
    pub fn totals(&mut self, last: bool) {
        let sent = self.sent;
        self.record(LineKind::Totals, u8::from(last), 0, 0, 0, sent);
    }

    /// `H`: a row of sums.
    pub fn row(&mut self, row: &Row) {
        let key = match &row.about {
            About::Function(place) => self.place(place),
            About::Collections => COLLECTIONS,
            About::NoRoom => NO_ROOM,
        };
        let buckets: Vec<u64> = row
            .durations
            .buckets()
            .filter(|bucket| bucket.count > 0)
            .map(|bucket| u64::from(u64::BITS - bucket.from.leading_zeros()) << 56 | bucket.count)
            .collect();
        let begin = self.bytes.len();
        let who = u64::from(row.pid);
        self.record(
            LineKind::Row,
            buckets.len() as u8,
            row.line as u32 | if row.several_lines { 1 << 31 } else { 0 },
            0,
            who,
            key,
        );
        let numbers = [
            row.calls,
            row.unmatched,
            row.self_ns,
            row.cumulative_ns,
            row.timed,
            row.timed_ns,
            row.durations.sum(),
            row.durations.min().unwrap_or(0),
            row.durations.max().unwrap_or(0),
        ];
        self.sealed(begin, numbers.into_iter().chain(buckets));
    }

    /// Puts these words behind the record that begins there, and the hash of all.
    fn sealed(&mut self, begin: usize, behind: impl IntoIterator<Item = u64>) {
        for word in behind {
            self.bytes.extend_from_slice(&word.to_ne_bytes());
        }
        let (words, _) = rest(&self.bytes, begin).as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        let hash = row_hash(&words);
        self.bytes.extend_from_slice(&hash.to_ne_bytes());
    }

    /// `w`: waits that were added up.
    #[cfg(test)]
    pub(crate) fn waits(&mut self, waits: &SummedWaits) {
        let (begin, kind) = (self.bytes.len(), &waits.kind);
        let [first, second] = kind.zero;
        let flags = [kind.of_gil, false, first, second, kind.from_before];
        let bits = flags.into_iter().enumerate();
        let flags = bits.fold(0, |all, (bit, is)| all | u8::from(is) << bit);
        let who = u64::from(kind.tid) << 32 | u64::from(kind.pid);
        let call = kind.call.unwrap_or(u32::MAX);
        self.record(LineKind::Waits, flags, call, 0, who, kind.stack.into());
        let numbers = [
            waits.lasts_ns,
            waits.waits,
            waits.blocked_ns,
            waits.runqueue_ns,
            waits.max_ns,
        ];
        self.sealed(begin, numbers);
    }

    /// `k`: a stack of waits.
    #[cfg(test)]
    pub(crate) fn wait_stack(&mut self, stack: &SummedStack) {
        let (begin, no_frames) = (self.bytes.len(), Vec::new());
        let (flags, frames) = match &stack.python {
            SummedPython::Frames(frames) => (0, frames),
            SummedPython::None => (1, &no_frames),
            SummedPython::Unreadable => (2, &no_frames),
        };
        let value = (frames.len() << 16 | stack.functions.len()) as u32;
        let (who, number) = (stack.pid.into(), stack.number.into());
        self.record(LineKind::WaitStack, flags, value, 0, who, number);
        let frames = frames
            .iter()
            .flat_map(|&(code, instruction, owner)| [code, instruction | u64::from(owner) << 56]);
        self.sealed(begin, frames.chain(stack.functions.iter().copied()));
    }

    /// `W`: ends both; the flags are those of the record.
    #[cfg(test)]
    pub(crate) fn waits_end(&mut self, count: u32, flags: u8, end: &SummedEnd) {
        let begin = self.bytes.len();
        self.record(LineKind::WaitsEnd, flags, count, 0, 0, end.preempted);
        self.sealed(begin, [end.preempted_ns, end.waits_lost]);
    }

    /// `S`: ends rows of sums.
    pub fn rows_end(&mut self, end: &RowsEnd) {
        let flags = u8::from(end.more) | u8::from(end.anew) << 1 | u8::from(end.all) << 2;
        self.record(LineKind::RowsEnd, flags, end.count, 0, 0, end.age_ns);
        self.bytes.extend_from_slice(&end.unpaired.to_ne_bytes());
    }

    /// Forgets which names were defined, as the script does when it is asked to.
    pub fn forget_names(&mut self) {
        // Keys stand for content on the wire, so a name keeps its key.
        self.defined.clear();
    }

    /// One event. What the wire has no field for (durations other than a return's, `Lost`) is left out.
    pub fn event(&mut self, event: &Event) {
        let ts = event.ts;
        let who = u64::from(event.tid) << 32 | u64::from(event.pid);
        let (kind, value, key) = match &event.what {
            What::Call { place, line, frame } if is_told(place, frame) => {
                return self.told(LineKind::ToldCall, event, place, *line, frame);
            }
            What::Return {
                place,
                line,
                frame,
                duration_ns,
            } if is_told(place, frame) => {
                let kind = match duration_ns {
                    Some(_) => LineKind::ToldFinished,
                    None => LineKind::ToldReturn,
                };
                return self.told(kind, event, place, *line, frame);
            }
            What::Context { context, name } => {
                let (bytes, cut) = wire_bytes(name);
                let flags = u8::from(cut) | u8::from(name.unreadable) << 1;
                self.sent += 1;
                let length = bytes.len() as u32;
                self.record(LineKind::ContextName, flags, length, ts, who, *context);
                self.bytes.extend_from_slice(&bytes);
                self.bytes.push(b'\n');
                return;
            }
            What::Call { place, line, .. } => (LineKind::Call, *line as u32, self.place(place)),
            What::Return {
                place,
                line,
                duration_ns,
                ..
            } => {
                let kind = match duration_ns {
                    Some(_) => LineKind::Finished,
                    None => LineKind::Return,
                };
                (kind, *line as u32, self.place(place))
            }
            What::Line { place, line } => (LineKind::Line, *line as u32, self.place(place)),
            What::GcStart { generation } => (LineKind::GcStart, *generation as u32, 0),
            What::GcDone { collected, .. } => (LineKind::GcDone, 0, *collected as u64),
            What::Plain(plain) => return self.plain(plain, ts, who),
            What::Process {
                change,
                parent,
                command,
            } => {
                let kind = match change {
                    ProcessChange::Fork => LineKind::Fork,
                    ProcessChange::Exec => LineKind::Exec,
                    ProcessChange::Exit => LineKind::Exit,
                };
                let key = command.as_ref().map_or(0, |command| self.text(command));
                (kind, parent.unwrap_or(0), key)
            }
            // The script tells no waits.
            What::Wait(_) | What::Lost { .. } => return,
        };
        self.sent += 1;
        self.record(kind, 0, value, ts, who, key);
        if let What::Return {
            duration_ns: Some(duration),
            ..
        } = event.what
        {
            self.bytes.extend_from_slice(&duration.to_ne_bytes());
        }
    }

    fn plain(&mut self, plain: &Plain, ts: u64, who: u64) {
        let Some(event) = plain.probe.plain() else {
            return;
        };
        let texts = plain.texts.each_ref();
        let [key, second] = texts.map(|text| text.as_ref().map_or(0, |text| self.text(text)));
        self.sent += 1;
        self.lettered(event.letter, 0, plain.number as u32, ts, who, key);
        if plain.probe.texts().count() == 2 {
            self.word(second);
        }
    }

    /// A call or return as the agent tells it.
    fn told(
        &mut self,
        kind: LineKind,
        event: &Event,
        place: &Arc<Place>,
        line: i32,
        frame: &Frame,
    ) {
        let key = self.place(place);
        let value = frame.text.as_ref().map(|value| (wire_bytes(value), value));
        let mut flags = flags::of(frame.manner) as u8;
        if let Some(((_, cut), value)) = &value {
            flags |= HAS_TEXT;
            flags |= if *cut { TEXT_CUT } else { 0 };
            flags |= if value.unreadable { TEXT_UNREADABLE } else { 0 };
        }
        let who = u64::from(event.tid) << 32 | u64::from(event.pid);
        self.sent += 1;
        self.record(kind, flags, line as u32, event.ts, who, key);
        self.word(frame.context.map_or(0, NonZeroU64::get));
        if let What::Return {
            duration_ns: Some(duration),
            ..
        } = event.what
        {
            self.word(duration);
        }
        if let Some(((bytes, _), _)) = value {
            self.word(bytes.len() as u64);
            self.bytes.extend_from_slice(&bytes);
            self.bytes.push(b'\n');
        }
    }

    fn word(&mut self, word: u64) {
        self.bytes.extend_from_slice(&word.to_ne_bytes());
    }

    pub(super) fn record(
        &mut self,
        kind: LineKind,
        flags: u8,
        value: u32,
        ts: u64,
        who: u64,
        key: u64,
    ) {
        self.lettered(kind as u8, flags, value, ts, who, key);
    }

    fn lettered(&mut self, letter: u8, flags: u8, value: u32, ts: u64, who: u64, key: u64) {
        let word0 =
            MAGIC << 48 | u64::from(letter) << 40 | u64::from(flags) << 32 | u64::from(value);
        for word in [word0, ts, who, key] {
            self.bytes.extend_from_slice(&word.to_ne_bytes());
        }
    }

    fn place(&mut self, place: &Arc<Place>) -> u64 {
        let key = match self.places.get(place) {
            Some(&key) => key,
            None => {
                let key = self.new_key();
                self.places.insert(Arc::clone(place), key);
                key
            }
        };
        if self.defined.insert(key) {
            self.define_place(key, place);
        }
        key
    }

    fn text(&mut self, text: &Arc<Text>) -> u64 {
        let key = match self.texts.get(text) {
            Some(&key) => key,
            None => {
                let key = self.new_key();
                self.texts.insert(Arc::clone(text), key);
                key
            }
        };
        if self.defined.insert(key) {
            self.define_text(key, text);
        }
        key
    }

    pub(super) fn define_place(&mut self, key: u64, place: &Place) {
        let (file, file_cut) = wire_bytes(&place.file);
        let (function, function_cut) = wire_bytes(&place.function);
        let flags = u8::from(file_cut)
            | u8::from(function_cut) << 1
            | u8::from(place.file.unreadable) << 2
            | u8::from(place.function.unreadable) << 3;
        let lengths = (file.len() << 16 | function.len()) as u32;
        let mut names = [file, function].concat();
        match &place.qualname {
            None => self.record(LineKind::Place, flags, lengths, 0, 0, key),
            Some(qualname) => {
                let (bytes, cut) = wire_bytes(qualname);
                let flags = flags | u8::from(cut) << 4 | u8::from(qualname.unreadable) << 5;
                self.record(LineKind::NamedPlace, flags, lengths, 0, 0, key);
                self.word(bytes.len() as u64);
                names.extend(bytes);
            }
        }
        self.bytes.extend_from_slice(&names);
        self.bytes.push(b'\n');
    }

    fn define_text(&mut self, key: u64, text: &Text) {
        let (bytes, cut) = wire_bytes(text);
        let flags = u8::from(cut) | u8::from(text.unreadable) << 1;
        self.record(LineKind::Text, flags, bytes.len() as u32, 0, 0, key);
        self.bytes.extend_from_slice(&bytes);
        self.bytes.push(b'\n');
    }

    fn new_key(&mut self) -> u64 {
        self.next_key += 1;
        // Spread over 64 bits like a hash; an odd factor keeps keys distinct and never 0.
        self.next_key.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Whether only the agent can have said that.
fn is_told(place: &Place, frame: &Frame) -> bool {
    place.qualname.is_some() || *frame != Frame::default()
}

/// The bytes a text had before it was decoded, and whether they are cut. What was replaced becomes a byte that
/// UTF-8 never has.
fn wire_bytes(text: &Text) -> (Vec<u8>, bool) {
    let mut bytes = Vec::with_capacity(text.text.len());
    for character in text.text.chars().take_while(|&c| c != '\0') {
        let start = bytes.len();
        if character == char::REPLACEMENT_CHARACTER && text.replaced {
            bytes.push(0xff);
        } else {
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
        if bytes.len() > MAX_TEXT {
            bytes.truncate(start);
            return (bytes, true);
        }
    }
    (bytes, text.cut)
}
