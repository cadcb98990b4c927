//! The binary wire between the stap script and us: records in, typed events out. Knows bytes, keys and names; starts
//! nothing, reads no file and pairs nothing.
//!
//! A record is four 64-bit words in native byte order:
//!
//! | word | content |
//! |---|---|
//! | 0 | magic `0x7A57` (bits 63..48), kind, an ASCII letter (47..40), flags (39..32), value (31..0) |
//! | 1 | nanoseconds since the Unix epoch |
//! | 2 | thread id (63..32), process id (31..0) |
//! | 3 | key of a name, or a payload |
//!
//! Finished calls (`D`) carry a fifth word, the duration; plain events (`src/probe.rs` has their letters) with two texts the
//! key of the second, and their number as their value. What the agent tells has records of its own: calls (`c`), returns
//! (`r`) and finished calls (`d`) carry the context as their fifth word, `d` the duration as its sixth; their flags say how
//! the frame came to run or to stop (1, 2, 4: `src/engine/flags.rs`) and whether a value is behind all that (8), which is
//! a word with its length, its bytes and one newline, cut (16) or unreadable (32). The name of a context (`N`) has the
//! context as its key and is followed by its bytes and one newline.
//!
//! Rows of sums (`H`) carry nine words (calls, returns without a call, own time, inclusive time, calls of known duration and
//! their time, and of calls whose duration is certain the sum, the shortest and the longest), then as many histogram buckets
//! as the flags say (bits of the duration in 63..56, calls below), then a hash of all words before, because a row that lost
//! its end would look like a row. What ends them (`S`) carries the number of rows in its value, in its flags whether more are
//! to come (1), whether everything before is void (2) and whether all rows were asked for (4), the time that the sums cover
//! as its key, and calls and returns without a partner in a fifth word.
//!
//! Sums of waits (`w`) have the number of the system call as their value (-1 outside of all), in their flags whether its first
//! argument is in a GIL (1), is 0 (4), whether the second is (8), and whether nobody saw it begin (16), the number of their stack as their key, and five words: how long
//! a wait lasts that goes on, waits, blocked time, time in the run queue, the longest. Stacks (`k`) have their number as their
//! key, in their value how many frames of Python (31..16) and functions of the kernel (15..0) follow, and in their flags whether
//! there is a stack (0), no Python (1) or nothing that could be read (2), and whether it was cut (4). A frame is two words: its code
//! object, and its instruction with its owner in 63..56. What ends them (`W`) is like `S`, with how often threads were
//! preempted as its key, and for how long and how many waits found no room behind it. All three end with the same hash.
//!
//! Definitions of names (`P`, `T`) are followed by the names' bytes and one newline. A place of the agent (`Q`) has a third
//! name, the qualified one, whose length is a fifth word. Names travel once; events refer to them by a 64-bit hash made in
//! the kernel.
//!
//! The kernel drops what does not fit its buffers, and CPUs overtake each other. So a damaged stretch is skipped up
//! to the next header that makes sense, and an event whose name is not known yet waits, with everything behind it,
//! for a bounded number of records and a bounded time.
//!
//! The sending end is `tapsets/pystap/wire.stp`. The module writes records to its transport, stapio copies them to its
//! standard output, and the decoder reads them there. The version of the wire is in the first record (`V`), and a
//! decoder refuses any other.
//!
//! # Why binary
//!
//! The first design had lines of text with fields between tabs, which are easier to look at. Measured in the guest,
//! formatting the numbers of a record as text cost about a third more per call than writing them as binary words:
//! emitting is most of what a probe costs, and decimal digits are most of a text. Binary also needs no escaping, so a
//! hostile name costs what any other name costs. docs/cost.md has the table that `make cost` prints: these
//! records add 0.73 times as much to a call as a script written by hand that prints lines of text.
//!
//! # Names travel once
//!
//! A place (file and function) is hashed in the kernel (`tapsets/pystap/names.stp`). The table of what was sent has 32
//! 768 slots and no locks: a slot holds the last hash that fell on it, and two low bits say whether the name is defined
//! or refused by the filters. Two names on one slot define each other again and again, which costs time and is never
//! wrong. A known name costs one pass over its bytes, and a filter's regular expressions run once per name, not once
//! per call.
//!
//! What the agent tells is sent by `tapsets/pystap/told.stp`. Its values differ from call to call, so there is nothing
//! to be sent only once. A place with a qualified name is hashed from three strings. Templates have separate probes for
//! the agent (`agent.MARK` beside `python.MARK`), so that CPython's own send and cost no more than before.
//!
//! # Order and loss
//!
//! A record that waits for its name waits at most for 4096 records and for one second. If the definition was lost, the
//! decoder gives the event out without its name, and the reader asks the module to forget what it has sent (`n`).
//!
//! Each processor counts the records that it sent. The sum comes every second and at the end (`Z`) and is compared with
//! what was received. Only the last one, which says that it is the last, completes the account. Without it (staprun was
//! killed, a script ended itself) the summary says `uncounted`.
//!
//! A script that adds up sends rows when it is asked for them; see [`crate::analysis::totals`].
//!
//! # Control
//!
//! Commands go the other way, through the module's procfs file `/proc/systemtap/MODULE/control`, one per write.
//! `tapsets/pystap/targets.stp` and `totals.stp` list them. Those of `targets.stp` are acknowledged by a record (`K`),
//! so that "live" is known and not hoped for.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::num::NonZeroU64;
use std::sync::Arc;

use crate::analysis::histogram::Histogram;
use crate::analysis::totals::{About, Row};
use crate::engine::flags;
use crate::event::allowance::{Allowance, place_bytes, text_bytes};
use crate::event::{Event, Frame, Place, Plain, ProcessChange, Text, What};
use crate::probe::{ArgumentKind, Probe};
use crate::waits::{SummedEnd, SummedKind, SummedPython, SummedStack, SummedWaits};

mod encoder;

#[doc(hidden)]
pub use self::encoder::Encoder;

/// Version of the wire that this decoder understands, as the `V` record carries it.
pub const WIRE_VERSION: u32 = 1;

/// Longest name that can be on the wire, in bytes. A header that promises more is taken for damage.
pub const MAX_TEXT: usize = 0xffff;

const MAGIC: u64 = 0x7A57;
const HEADER: usize = 32;
/// Words of a row between its header and its buckets.
const ROW_WORDS: usize = 9;
/// Flags of the agent's records about a value: it is there, its end is missing, it could not be read. The bits below say how
/// the frame came to run or to stop.
const HAS_TEXT: u8 = 8;
const TEXT_CUT: u8 = 16;
const TEXT_UNREADABLE: u8 = 32;
/// Words of a sum of waits between its header and its hash.
const WAITS_WORDS: usize = 5;
/// Most words of a stack: more than any script sends.
const MAX_STACK_WORDS: usize = 1 << 10;
/// Most buckets that a row has.
const MAX_BUCKETS: u8 = 64;
/// In place of a function's key: all for which there was no room; the garbage collections of a process.
const NO_ROOM: u64 = 0;
const COLLECTIONS: u64 = 1;

/// Records that may wait behind an event whose name is unknown.
const MAX_WAITING: usize = 4096;
/// How much younger than the first waiting record a record may be, in nanoseconds of the records' own time.
const MAX_WAIT_NS: u64 = 1_000_000_000;
/// Bytes of the records that may wait: values travel with them.
const MAX_WAITING_BYTES: usize = 8 << 20;
/// Bytes of the names remembered, for places and for texts each; the oldest is forgotten beyond that.
const MAX_NAMES: usize = 16 << 20;

/// One thing the wire said.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    /// Something happened in a traced process.
    Event(Event),
    /// The probes are live.
    Ready {
        /// Nanoseconds since the Unix epoch.
        ts: u64,
    },
    /// The script obeyed a control command.
    Acknowledged {
        /// Process the command was about; 0 where it was about none.
        pid: u32,
        /// What was done.
        done: Acknowledgement,
    },
    /// Now and then, and last: how many events the script sent so far, to be compared with [`Decoder::received`].
    Totals {
        /// Records sent of the kinds that [`Decoder::received`] counts.
        sent: u64,
        /// Calls that found no room to be measured in (`timed_calls` only).
        unmeasured: u64,
        /// Whether nothing is sent after it.
        last: bool,
    },
    /// The sums of one function in one process.
    Row(Box<Row>),
    /// So many rows were sent since this was last said.
    RowsEnd(RowsEnd),
    /// Waits that were added up.
    Waits(Box<SummedWaits>),
    /// A stack of such waits.
    WaitStack(Box<SummedStack>),
    /// So many of both were sent since this was last said.
    WaitsEnd {
        /// Records that were sent since the last such record.
        count: u32,
        /// Others wait to be asked for.
        more: bool,
        /// All were asked for, not only those that changed.
        all: bool,
        /// What else it says.
        end: SummedEnd,
    },
    /// Something was wrong with the stream; decoding goes on.
    Trouble(Trouble),
}

/// What ends rows of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowsEnd {
    /// Rows that were sent since the last such record.
    pub count: u32,
    /// Others wait to be asked for.
    pub more: bool,
    /// All rows from before are void.
    pub anew: bool,
    /// All rows were asked for, not only those that changed.
    pub all: bool,
    /// Nanoseconds that the sums cover.
    pub age_ns: u64,
    /// Calls and returns that found no partner, since the session began.
    pub unpaired: u64,
}

/// What a control command did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledgement {
    /// The process is traced from now on.
    Added,
    /// The process is not traced any longer.
    Removed,
    /// The script forgot which names it had sent, and will define each again when it is next used.
    NamesForgotten,
    /// Nothing is traced any longer, and everything that was sent before has arrived.
    Silenced,
}

/// What was wrong with the stream. None of these ends decoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// A stretch of bytes made no sense.
    #[error(
        "{bytes} bytes from the kernel made no sense and were skipped, so some events are missing; \
         trace fewer functions or processes, or enlarge the kernel's buffer"
    )]
    Damaged {
        /// Bytes skipped up to the next record that made sense.
        bytes: u64,
    },
    /// The script speaks another version of the wire.
    #[error(
        "the script speaks version {found} of the wire and this program version {WIRE_VERSION}, so events may be \
         read wrongly; use templates and tapsets that came with this very pystap"
    )]
    WrongVersion {
        /// The version that was announced.
        found: u32,
    },
    /// The definition of a name did not arrive; the events that use it were given out without it.
    #[error(
        "the name with key {key:#018x} did not arrive from the kernel, so its events are shown without it; \
         the script has to define its names again"
    )]
    UnknownName {
        /// The key on the wire.
        key: u64,
    },
}

/// The kinds of records, by their letter on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum LineKind {
    Version = b'V',
    Place = b'P',
    NamedPlace = b'Q',
    Text = b'T',
    Call = b'C',
    Return = b'R',
    Line = b'L',
    Finished = b'D',
    ToldCall = b'c',
    ToldReturn = b'r',
    ToldFinished = b'd',
    ContextName = b'N',
    GcStart = b'G',
    GcDone = b'g',
    Fork = b'F',
    Exec = b'X',
    Exit = b'E',
    Ready = b'Y',
    Acknowledged = b'K',
    Totals = b'Z',
    Row = b'H',
    RowsEnd = b'S',
    Waits = b'w',
    WaitStack = b'k',
    WaitsEnd = b'W',
    /// What the table of probes describes, which has its letter.
    Plain = 0,
    /// The same with two texts.
    PlainOfTwo = 1,
}

impl LineKind {
    #[inline]
    fn from_letter(letter: u8) -> Option<LineKind> {
        Some(match letter {
            b'V' => LineKind::Version,
            b'P' => LineKind::Place,
            b'Q' => LineKind::NamedPlace,
            b'T' => LineKind::Text,
            b'C' => LineKind::Call,
            b'R' => LineKind::Return,
            b'L' => LineKind::Line,
            b'D' => LineKind::Finished,
            b'c' => LineKind::ToldCall,
            b'r' => LineKind::ToldReturn,
            b'd' => LineKind::ToldFinished,
            b'N' => LineKind::ContextName,
            b'G' => LineKind::GcStart,
            b'g' => LineKind::GcDone,
            b'F' => LineKind::Fork,
            b'X' => LineKind::Exec,
            b'E' => LineKind::Exit,
            b'Y' => LineKind::Ready,
            b'K' => LineKind::Acknowledged,
            b'Z' => LineKind::Totals,
            b'H' => LineKind::Row,
            b'S' => LineKind::RowsEnd,
            b'w' => LineKind::Waits,
            b'k' => LineKind::WaitStack,
            b'W' => LineKind::WaitsEnd,
            letter => match Probe::of_letter(letter)?.texts().count() {
                2 => LineKind::PlainOfTwo,
                _ => LineKind::Plain,
            },
        })
    }

    /// Flags that may be set in a record of this kind; any other one is a sign of damage.
    fn flags(self) -> u8 {
        match self {
            LineKind::Place => 0b1111,
            LineKind::NamedPlace => 0b11_1111,
            LineKind::Text | LineKind::ContextName => 0b11,
            LineKind::ToldCall | LineKind::ToldReturn | LineKind::ToldFinished => {
                flags::ALL as u8 | HAS_TEXT | TEXT_CUT | TEXT_UNREADABLE
            }
            LineKind::Acknowledged => 0b111,
            LineKind::Totals => 0b1,
            LineKind::RowsEnd | LineKind::WaitStack | LineKind::WaitsEnd => 0b111,
            LineKind::Waits => 0b1_1101,
            LineKind::Row => 0x7f,
            _ => 0,
        }
    }

    /// Whether the script counts this kind in its totals.
    fn counted(self) -> bool {
        matches!(
            self,
            LineKind::Call
                | LineKind::Return
                | LineKind::Line
                | LineKind::Finished
                | LineKind::ToldCall
                | LineKind::ToldReturn
                | LineKind::ToldFinished
                | LineKind::ContextName
                | LineKind::GcStart
                | LineKind::GcDone
                | LineKind::Plain
                | LineKind::PlainOfTwo
                | LineKind::Fork
                | LineKind::Exec
                | LineKind::Exit
        )
    }
}

/// A record of fixed size, taken apart but with its names still keys. Small, because thousands may wait.
#[derive(Debug, Clone)]
struct Record {
    kind: LineKind,
    letter: u8,
    flags: u8,
    value: u32,
    ts: u64,
    who: u64,
    key: u64,
    /// The word behind these: a duration, or the key of a second text.
    fifth: u64,
    context: u64,
    /// The value of a call or return, or the name of a context.
    text: Option<Arc<Text>>,
}

impl Record {
    /// Reads the header at the beginning of `bytes`; `None` when it is too short or makes no sense.
    #[inline]
    fn header(bytes: &[u8]) -> Option<Record> {
        let (words, _) = bytes.as_chunks::<8>();
        let &[word0, word1, word2, word3, ..] = words else {
            return None;
        };
        let word0 = u64::from_ne_bytes(word0);
        if word0 >> 48 != MAGIC {
            return None;
        }
        let letter = (word0 >> 40) as u8;
        let kind = LineKind::from_letter(letter)?;
        let record = Record {
            kind,
            letter,
            flags: (word0 >> 32) as u8,
            value: word0 as u32,
            ts: u64::from_ne_bytes(word1),
            who: u64::from_ne_bytes(word2),
            key: u64::from_ne_bytes(word3),
            fifth: 0,
            context: 0,
            text: None,
        };
        let sound = record.flags & !kind.flags() == 0
            && (!matches!(kind, LineKind::Text | LineKind::ContextName)
                || record.value as usize <= MAX_TEXT)
            && (kind != LineKind::Row || record.flags <= MAX_BUCKETS)
            && (kind != LineKind::WaitStack || record.stack_words() <= MAX_STACK_WORDS);
        sound.then_some(record)
    }

    /// Bytes of the whole record, given what is there of it: as long as the word with the length of its last part is not
    /// there, bytes up to that word.
    #[inline]
    fn size(&self, bytes: &[u8]) -> usize {
        let names = || (self.value >> 16) as usize + (self.value & 0xffff) as usize;
        match self.kind {
            LineKind::Finished | LineKind::PlainOfTwo | LineKind::RowsEnd => HEADER + 8,
            LineKind::Row => HEADER + 8 * (ROW_WORDS + usize::from(self.flags) + 1),
            LineKind::Waits => HEADER + 8 * (WAITS_WORDS + 1),
            LineKind::WaitStack => HEADER + 8 * (self.stack_words() + 1),
            LineKind::WaitsEnd => HEADER + 8 * 3,
            LineKind::Place => HEADER + names() + 1,
            LineKind::NamedPlace => {
                HEADER + 8 + length_at(bytes, HEADER).map_or(0, |qualname| names() + qualname + 1)
            }
            LineKind::Text | LineKind::ContextName => HEADER + self.value as usize + 1,
            LineKind::ToldCall | LineKind::ToldReturn | LineKind::ToldFinished => {
                let words = HEADER + 8 * self.told_words();
                if self.flags & HAS_TEXT == 0 {
                    return words;
                }
                words + 8 + length_at(bytes, words).map_or(0, |length| length + 1)
            }
            _ => HEADER,
        }
    }

    /// Words of the frames and functions of a stack.
    fn stack_words(&self) -> usize {
        2 * (self.value >> 16) as usize + (self.value & 0xffff) as usize
    }

    /// Words between the header of a record of the agent and its value.
    fn told_words(&self) -> usize {
        1 + usize::from(self.kind == LineKind::ToldFinished)
    }

    /// Reads what a record of the agent has behind its header. False when that cannot be right.
    fn read_told(&mut self, bytes: &[u8]) -> bool {
        let word = |number: usize| word_at(bytes, HEADER + 8 * number);
        let Some(context) = word(0) else {
            return false;
        };
        self.context = context;
        if self.kind == LineKind::ToldFinished {
            let Some(duration) = word(1) else {
                return false;
            };
            self.fifth = duration;
        }
        if self.flags & HAS_TEXT == 0 {
            return self.flags & (TEXT_CUT | TEXT_UNREADABLE) == 0;
        }
        let from = HEADER + 8 * self.told_words();
        if length_at(bytes, from).is_none() {
            return false;
        }
        let Some(value) = line_of(bytes, from + 8, self.size(bytes)) else {
            return false;
        };
        self.text = Some(Arc::new(text(
            value,
            self.flags & TEXT_CUT != 0,
            self.flags & TEXT_UNREADABLE != 0,
        )));
        true
    }

    /// Reads the name that follows that of a context.
    fn read_name(&mut self, bytes: &[u8]) -> bool {
        let Some(name) = line_of(bytes, HEADER, self.size(bytes)) else {
            return false;
        };
        let name = text(name, self.flags & 1 != 0, self.flags & 2 != 0);
        self.text = Some(Arc::new(name));
        true
    }

    /// Waits that were added up, given the words behind the header.
    fn waits(&self, words: &[u64]) -> Option<Decoded> {
        let [lasts_ns, waits, blocked_ns, runqueue_ns, max_ns] = *words.first_chunk()?;
        Some(Decoded::Waits(Box::new(SummedWaits {
            kind: SummedKind {
                pid: self.who as u32,
                tid: (self.who >> 32) as u32,
                stack: u32::try_from(self.key).ok()?,
                call: Some(self.value).filter(|call| call.cast_signed() >= 0),
                of_gil: self.flags & 1 != 0,
                zero: [4, 8].map(|flag| self.flags & flag != 0),
                from_before: self.flags & 16 != 0,
            },
            waits,
            blocked_ns,
            runqueue_ns,
            max_ns,
            lasts_ns,
        })))
    }

    /// A stack of waits.
    fn wait_stack(&self, words: &[u64]) -> Option<Decoded> {
        let (frames, functions) = words.split_at_checked(2 * (self.value >> 16) as usize)?;
        let (frames, _) = frames.as_chunks::<2>();
        let frames = frames.iter().map(|&[code, instruction]| {
            let owner = (instruction >> 56) as u8;
            (code, instruction & (u64::MAX >> 8), owner)
        });
        Some(Decoded::WaitStack(Box::new(SummedStack {
            number: u32::try_from(self.key).ok()?,
            pid: self.who as u32,
            python: match self.flags & 3 {
                0 => SummedPython::Frames(frames.collect()),
                1 => SummedPython::None,
                _ => SummedPython::Unreadable,
            },
            functions: functions.to_vec(),
        })))
    }

    /// What ends both.
    fn waits_end(&self, words: &[u64]) -> Option<Decoded> {
        let [preempted_ns, waits_lost] = *words.first_chunk()?;
        Some(Decoded::WaitsEnd {
            count: self.value,
            more: self.flags & 1 != 0,
            all: self.flags & 4 != 0,
            end: SummedEnd {
                anew: self.flags & 2 != 0,
                preempted: self.key,
                preempted_ns,
                waits_lost,
            },
        })
    }

    /// Bytes of the value.
    fn value_bytes(&self) -> usize {
        self.text.as_deref().map_or(0, text_bytes)
    }

    /// What the agent said of a frame.
    fn frame(&self) -> Frame {
        Frame {
            context: NonZeroU64::new(self.context),
            manner: flags::manner(self.flags.into()),
            text: self.text.clone(),
            fields: None,
            idle_ns: 0,
        }
    }
}

/// Turns the bytes of the wire, in chunks of any size, into events.
///
/// Memory is bounded whatever arrives: one incomplete record, a fixed number of waiting records and of bytes in them, a
/// fixed number of bytes of names.
#[derive(Debug)]
pub struct Decoder {
    /// The beginning of a record whose rest has not arrived.
    partial: Vec<u8>,
    places: Names<Place>,
    texts: Names<Text>,
    /// Records behind the first one whose name is unknown, in order.
    waiting: VecDeque<Record>,
    /// Bytes of the values in these.
    waiting_bytes: usize,
    allowance: Allowance,
    /// Bytes skipped since the last record that made sense.
    gap: u64,
    received: u64,
    version_complained: bool,
    max_waiting: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::with_limits(MAX_WAITING, MAX_NAMES)
    }
}

impl Decoder {
    /// A decoder that has seen nothing.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    fn with_limits(max_waiting: usize, max_names: usize) -> Decoder {
        Decoder {
            partial: Vec::new(),
            places: Names::new(max_names),
            texts: Names::new(max_names),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            allowance: Allowance::default(),
            gap: 0,
            received: 0,
            version_complained: false,
            max_waiting,
        }
    }

    /// Records received of the kinds that the script counts in its totals. What is missing to
    /// [`Decoded::Totals`]' `sent` was lost between the probe and us.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Records that wait for the definition of a name. When this stays above 0 while nothing arrives, call
    /// [`Decoder::stop_waiting`].
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Decodes the next bytes of the stream and appends what they said to `out`, in the order of the stream.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Decoded>) {
        if self.partial.is_empty() {
            let used = self.decode(bytes, false, out);
            self.partial.extend_from_slice(rest(bytes, used));
            return;
        }
        let mut joined = std::mem::take(&mut self.partial);
        joined.extend_from_slice(bytes);
        let used = self.decode(&joined, false, out);
        joined.drain(..used.min(joined.len()));
        self.partial = joined;
    }

    /// Gives out everything that waits for a name, without that name: for a stream that has fallen silent.
    pub fn stop_waiting(&mut self, out: &mut Vec<Decoded>) {
        while !self.waiting.is_empty() {
            self.give_up_first(out);
        }
    }

    /// Ends the stream: decodes what an incomplete last record may hide, and gives out everything that waits.
    pub fn finish(&mut self, out: &mut Vec<Decoded>) {
        let left = std::mem::take(&mut self.partial);
        let used = self.decode(&left, true, out);
        self.gap += rest(&left, used).len() as u64;
        self.stop_waiting(out);
        self.close_gap(out);
    }

    /// Decodes whole records and answers how many bytes were used. At the `end` of the stream an incomplete record
    /// is damage, before that its rest is still to come.
    fn decode(&mut self, bytes: &[u8], end: bool, out: &mut Vec<Decoded>) -> usize {
        let mut at = 0;
        loop {
            let here = rest(bytes, at);
            if here.len() < HEADER {
                return at;
            }
            if let Some(record) = Record::header(here) {
                let size = record.size(here);
                if here.len() < size {
                    if !end {
                        return at;
                    }
                } else if self.accept(record, here, out) {
                    at += size;
                    continue;
                }
            }
            self.gap += 1;
            at += 1;
        }
    }

    /// Takes one complete record. False when it is a definition whose bytes cannot be right.
    #[inline]
    fn accept(&mut self, mut record: Record, bytes: &[u8], out: &mut Vec<Decoded>) -> bool {
        let kind = record.kind;
        match kind {
            LineKind::Place | LineKind::NamedPlace | LineKind::Text => {
                return self.define(&record, bytes, out);
            }
            LineKind::ToldCall | LineKind::ToldReturn | LineKind::ToldFinished
                if !record.read_told(bytes) =>
            {
                return false;
            }
            LineKind::ContextName if !record.read_name(bytes) => return false,
            LineKind::Row | LineKind::RowsEnd => return self.sums(&record, bytes, out),
            LineKind::Waits | LineKind::WaitStack | LineKind::WaitsEnd => {
                return self.waits(&record, bytes, out);
            }
            LineKind::Finished | LineKind::PlainOfTwo => {
                let Some(fifth) = word_at(bytes, HEADER) else {
                    return false;
                };
                record.fifth = fifth;
            }
            _ => {}
        }
        self.close_gap(out);
        self.received += u64::from(record.kind.counted());
        if record.kind == LineKind::Acknowledged && record.flags == 3 {
            // The names given up on will be sent again: wait for them instead of showing none.
            self.places.forget_missing();
            self.texts.forget_missing();
        }
        if self.waiting.is_empty() {
            match self.resolve(&record) {
                Ok(decoded) => out.extend(decoded),
                Err(_) => self.wait(record),
            }
            return true;
        }
        let ts = record.ts;
        self.wait(record);
        while self.waited_too_long(ts) {
            self.give_up_first(out);
        }
        true
    }

    /// Rows and what ends them are in no order with events, so they wait for none.
    fn sums(&mut self, record: &Record, bytes: &[u8], out: &mut Vec<Decoded>) -> bool {
        let whole = bytes.get(..record.size(bytes)).unwrap_or_default();
        let (words, _) = whole.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        let Some((&last, before)) = words.split_last() else {
            return false;
        };
        if record.kind == LineKind::RowsEnd {
            self.close_gap(out);
            out.push(Decoded::RowsEnd(RowsEnd {
                count: record.value,
                more: record.flags & 1 != 0,
                anew: record.flags & 2 != 0,
                all: record.flags & 4 != 0,
                age_ns: record.key,
                unpaired: last,
            }));
            return true;
        }
        let Some((numbers, buckets)) = before
            .get(HEADER / 8..)
            .and_then(|numbers| numbers.split_first_chunk::<ROW_WORDS>())
        else {
            return false;
        };
        if row_hash(before) != last {
            return false;
        }
        self.close_gap(out);
        let about = match record.key {
            NO_ROOM => About::NoRoom,
            COLLECTIONS => About::Collections,
            key => About::Function(self.place(key).unwrap_or_else(|_| {
                self.places.give_up(key, nameless_place(), place_bytes);
                out.push(Decoded::Trouble(Trouble::UnknownName { key }));
                Arc::new(nameless_place())
            })),
        };
        let [
            calls,
            unmatched,
            self_ns,
            cumulative_ns,
            timed,
            timed_ns,
            sum,
            shortest,
            longest,
        ] = *numbers;
        let buckets = buckets
            .iter()
            .map(|bucket| ((bucket >> 56) as usize, bucket & (u64::MAX >> 8)));
        out.push(Decoded::Row(Box::new(Row {
            pid: record.who as u32,
            key: record.key,
            about,
            line: record.value as i32 & i32::MAX,
            several_lines: record.value as i32 & i32::MIN != 0,
            calls,
            unmatched,
            self_ns,
            cumulative_ns,
            timed,
            timed_ns,
            durations: Histogram::of_buckets(buckets, sum, shortest, longest),
        })));
        true
    }

    /// Waits that were added up, likewise.
    fn waits(&mut self, record: &Record, bytes: &[u8], out: &mut Vec<Decoded>) -> bool {
        let whole = bytes.get(..record.size(bytes)).unwrap_or_default();
        let (words, _) = whole.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        let Some((last, before)) = words.split_last() else {
            return false;
        };
        let behind = before.get(HEADER / 8..).unwrap_or_default();
        let decoded = match record.kind {
            _ if row_hash(before) != *last => None,
            LineKind::Waits => record.waits(behind),
            LineKind::WaitStack => record.wait_stack(behind),
            _ => record.waits_end(behind),
        };
        let Some(decoded) = decoded else {
            return false;
        };
        self.close_gap(out);
        out.push(decoded);
        true
    }

    fn define(&mut self, record: &Record, bytes: &[u8], out: &mut Vec<Decoded>) -> bool {
        let named = record.kind == LineKind::NamedPlace;
        if named && length_at(bytes, HEADER).is_none() {
            return false;
        }
        let from = if named { HEADER + 8 } else { HEADER };
        let Some(names) = line_of(bytes, from, record.size(bytes)) else {
            return false;
        };
        self.close_gap(out);
        if record.kind == LineKind::Text {
            let text = text(names, record.flags & 1 != 0, record.flags & 2 != 0);
            let text = self.allowance.text(text);
            self.texts.define(record.key, text, text_bytes);
        } else {
            let lengths = [record.value >> 16, record.value & 0xffff].map(|it| it as usize);
            let Some((file, names)) = names.split_at_checked(lengths[0]) else {
                return false;
            };
            let Some((function, qualname)) = names.split_at_checked(lengths[1]) else {
                return false;
            };
            let has = |flag: u8| record.flags & flag != 0;
            let place = Place {
                file: text(file, has(1), has(4)),
                function: text(function, has(2), has(8)),
                qualname: named.then(|| text(qualname, has(16), has(32))),
                group: None,
            };
            let place = self.allowance.place(place);
            self.places.define(record.key, place, place_bytes);
        }
        self.give_out_known(out);
        true
    }

    fn wait(&mut self, record: Record) {
        self.waiting_bytes += record.value_bytes();
        self.waiting.push_back(record);
    }

    fn waited_too_long(&self, now: u64) -> bool {
        self.waiting.front().is_some_and(|first| {
            self.waiting.len() > self.max_waiting
                || self.waiting_bytes > MAX_WAITING_BYTES
                || now.saturating_sub(first.ts) > MAX_WAIT_NS
        })
    }

    fn give_up_first(&mut self, out: &mut Vec<Decoded>) {
        if let Some(first) = self.waiting.front().cloned()
            && let Err(unknown) = self.resolve(&first)
        {
            let key = match unknown {
                Unknown::Place(key) => {
                    self.places.give_up(key, nameless_place(), place_bytes);
                    key
                }
                Unknown::Text(key) => {
                    self.texts.give_up(key, nameless_text(), text_bytes);
                    key
                }
            };
            out.push(Decoded::Trouble(Trouble::UnknownName { key }));
        }
        self.give_out_known(out);
    }

    fn give_out_known(&mut self, out: &mut Vec<Decoded>) {
        while let Some(first) = self.waiting.front().cloned() {
            match self.resolve(&first) {
                Ok(decoded) => out.extend(decoded),
                Err(_) => return,
            }
            self.waiting.pop_front();
            self.waiting_bytes -= first.value_bytes();
        }
    }

    fn close_gap(&mut self, out: &mut Vec<Decoded>) {
        if self.gap > 0 {
            let bytes = std::mem::take(&mut self.gap);
            out.push(Decoded::Trouble(Trouble::Damaged { bytes }));
        }
    }

    /// What a record says, its keys replaced by names; `None` for records that need no word outside.
    #[inline]
    fn resolve(&mut self, record: &Record) -> Result<Option<Decoded>, Unknown> {
        let line = record.value as i32;
        let what = match record.kind {
            LineKind::Call => What::Call {
                place: self.place(record.key)?,
                line,
                frame: Frame::default(),
            },
            LineKind::Return => What::Return {
                place: self.place(record.key)?,
                line,
                duration_ns: None,
                frame: Frame::default(),
            },
            LineKind::Finished => What::Return {
                place: self.place(record.key)?,
                line,
                duration_ns: Some(record.fifth),
                frame: Frame::default(),
            },
            LineKind::ToldCall => What::Call {
                place: self.place(record.key)?,
                line,
                frame: record.frame(),
            },
            LineKind::ToldReturn => What::Return {
                place: self.place(record.key)?,
                line,
                duration_ns: None,
                frame: record.frame(),
            },
            LineKind::ToldFinished => What::Return {
                place: self.place(record.key)?,
                line,
                duration_ns: Some(record.fifth),
                frame: record.frame(),
            },
            LineKind::ContextName => What::Context {
                context: record.key,
                name: record.text.clone().unwrap_or_default(),
            },
            LineKind::Line => What::Line {
                place: self.place(record.key)?,
                line,
            },
            LineKind::GcStart => What::GcStart {
                generation: i64::from(record.value as i32),
            },
            LineKind::GcDone => What::GcDone {
                generation: None,
                collected: record.key as i64,
                pause_ns: None,
            },
            LineKind::Plain | LineKind::PlainOfTwo => match Probe::of_letter(record.letter) {
                Some(probe) => What::Plain(self.plain(probe, record)?),
                None => return Ok(None),
            },
            LineKind::Fork => self.process(record, ProcessChange::Fork)?,
            LineKind::Exec => self.process(record, ProcessChange::Exec)?,
            LineKind::Exit => self.process(record, ProcessChange::Exit)?,
            LineKind::Version => {
                let wrong = record.value != WIRE_VERSION && !self.version_complained;
                self.version_complained |= wrong;
                return Ok(wrong.then_some(Decoded::Trouble(Trouble::WrongVersion {
                    found: record.value,
                })));
            }
            LineKind::Ready => return Ok(Some(Decoded::Ready { ts: record.ts })),
            LineKind::Acknowledged => {
                let done = match record.flags {
                    1 => Acknowledgement::Added,
                    2 => Acknowledgement::Removed,
                    3 => Acknowledgement::NamesForgotten,
                    7 => Acknowledgement::Silenced,
                    // Settings: nobody waits for these.
                    _ => return Ok(None),
                };
                let pid = record.value;
                return Ok(Some(Decoded::Acknowledged { pid, done }));
            }
            LineKind::Totals => {
                return Ok(Some(Decoded::Totals {
                    sent: record.key,
                    unmeasured: u64::from(record.value),
                    last: record.flags & 1 != 0,
                }));
            }
            LineKind::Place
            | LineKind::NamedPlace
            | LineKind::Text
            | LineKind::Row
            | LineKind::RowsEnd
            | LineKind::Waits
            | LineKind::WaitStack
            | LineKind::WaitsEnd => {
                return Ok(None);
            }
        };
        let pid = record.who as u32;
        // The end of a process is told by the last of its threads, which may be any: that of the agent, for one.
        let tid = match record.kind {
            LineKind::Exit => pid,
            _ => (record.who >> 32) as u32,
        };
        Ok(Some(Decoded::Event(Event {
            ts: record.ts,
            pid,
            tid,
            interpreter: None,
            what,
        })))
    }

    /// What the table of probes says that such an event has.
    fn plain(&self, probe: Probe, record: &Record) -> Result<Plain, Unknown> {
        let mut texts = [None, None];
        let keys = [record.key, record.fifth];
        for ((_, text), key) in probe.texts().zip(&mut texts).zip(keys) {
            *text = Some(self.text(key)?);
        }
        let value = record.value as i32;
        Ok(Plain {
            probe,
            texts,
            number: match probe.number_argument().map(|it| it.kind) {
                None => 0,
                Some(ArgumentKind::Flag { .. }) => i32::from(value != 0),
                Some(_) => value,
            },
            duration_ns: None,
        })
    }

    fn process(&mut self, record: &Record, change: ProcessChange) -> Result<What, Unknown> {
        Ok(What::Process {
            change,
            parent: (record.value != 0).then_some(record.value),
            command: match record.key {
                0 => None,
                key => Some(self.text(key)?),
            },
        })
    }

    #[inline]
    fn place(&self, key: u64) -> Result<Arc<Place>, Unknown> {
        self.places.get(key).ok_or(Unknown::Place(key))
    }

    fn text(&self, key: u64) -> Result<Arc<Text>, Unknown> {
        self.texts.get(key).ok_or(Unknown::Text(key))
    }
}

/// A key without a name, with the table it belongs to.
#[derive(Debug, Clone, Copy)]
enum Unknown {
    Place(u64),
    Text(u64),
}

/// The hash that ends a row, over the words before it.
fn row_hash(words: &[u64]) -> u64 {
    words.iter().fold(0, |sum, word| {
        (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

fn rest(bytes: &[u8], from: usize) -> &[u8] {
    bytes.get(from..).unwrap_or_default()
}

fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    let word = rest(bytes, at).first_chunk::<8>()?;
    Some(u64::from_ne_bytes(*word))
}

/// A word that is the length of a text; `None` when it is not there or cannot be one.
fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    let length = usize::try_from(word_at(bytes, at)?).ok()?;
    (length <= MAX_TEXT).then_some(length)
}

/// The text from here to the end of a record, without its newline. `None` when it is none: a C string has no NUL, but every
/// header has some, so that a text that swallowed records is damage.
fn line_of(bytes: &[u8], from: usize, to: usize) -> Option<&[u8]> {
    match bytes.get(from..to)?.split_last() {
        Some((b'\n', line)) if !line.contains(&0) => Some(line),
        _ => None,
    }
}

fn text(bytes: &[u8], cut: bool, unreadable: bool) -> Text {
    let valid = match std::str::from_utf8(bytes) {
        Ok(valid) => valid,
        // The kernel cuts at bytes: half a character at the end of a cut string is the cut's doing, not bad UTF-8.
        Err(error) if cut && error.error_len().is_none() => bytes
            .get(..error.valid_up_to())
            .and_then(|whole| std::str::from_utf8(whole).ok())
            .unwrap_or_default(),
        Err(_) => {
            return Text {
                text: String::from_utf8_lossy(bytes).into_owned(),
                cut,
                replaced: true,
                unreadable,
            };
        }
    };
    Text {
        text: valid.to_owned(),
        cut,
        replaced: false,
        unreadable,
    }
}

fn nameless_text() -> Text {
    Text {
        unreadable: true,
        ..Text::default()
    }
}

fn nameless_place() -> Place {
    Place {
        file: nameless_text(),
        function: nameless_text(),
        qualname: None,
        group: None,
    }
}

/// Names by key. Knows at most `limit` bytes of them and forgets the oldest first; a forgotten key is an unknown one.
#[derive(Debug)]
struct Names<T> {
    by_key: HashMap<u64, Name<T>, BuildHasherDefault<KeyHasher>>,
    /// Keys in the order of their first definition, each once.
    order: VecDeque<u64>,
    bytes: usize,
    limit: usize,
}

#[derive(Debug)]
struct Name<T> {
    value: Arc<T>,
    bytes: usize,
    /// It never arrived; `value` is a stand-in until it does.
    missing: bool,
}

impl<T: PartialEq> Names<T> {
    fn new(limit: usize) -> Names<T> {
        Names {
            by_key: HashMap::default(),
            order: VecDeque::new(),
            bytes: 0,
            limit,
        }
    }

    #[inline]
    fn get(&self, key: u64) -> Option<Arc<T>> {
        self.by_key.get(&key).map(|name| Arc::clone(&name.value))
    }

    /// Keeps the value that is known already when it is the same, so that one place stays one `Arc`.
    fn define(&mut self, key: u64, value: Arc<T>, bytes: fn(&T) -> usize) {
        match self.by_key.get_mut(&key) {
            Some(name) if name.value == value => name.missing = false,
            _ => self.insert(key, value, false, bytes),
        }
    }

    fn give_up(&mut self, key: u64, stand_in: T, bytes: fn(&T) -> usize) {
        self.insert(key, Arc::new(stand_in), true, bytes);
    }

    fn insert(&mut self, key: u64, value: Arc<T>, missing: bool, bytes: fn(&T) -> usize) {
        let bytes = bytes(&value) + size_of::<(u64, Name<T>)>();
        let name = Name {
            value,
            bytes,
            missing,
        };
        self.bytes += bytes;
        match self.by_key.insert(key, name) {
            Some(before) => self.bytes -= before.bytes,
            None => self.order.push_back(key),
        }
        while self.bytes > self.limit
            && self.order.len() > 1
            && let Some(oldest) = self.order.pop_front()
        {
            let gone = self.by_key.remove(&oldest);
            self.bytes -= gone.map_or(0, |gone| gone.bytes);
        }
    }

    fn forget_missing(&mut self) {
        if self.by_key.values().any(|name| name.missing) {
            self.by_key.retain(|_, name| !name.missing);
            self.bytes = self.by_key.values().map(|name| name.bytes).sum();
            self.order.retain(|key| self.by_key.contains_key(key));
        }
    }
}

/// Hashes keys that are hashes already: one folded multiplication, so that a kernel-side hash that is weak in some
/// bits still spreads. The standard SipHash costs several times as much on a path that every event takes.
#[derive(Debug, Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    #[inline]
    fn write_u64(&mut self, key: u64) {
        let product = u128::from(key ^ 0xa076_1d64_78bd_642f) * 0xe703_7ed1_a0b4_28db;
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
