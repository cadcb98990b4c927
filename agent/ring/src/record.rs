//! Records: how they are written down, and what is read of them.

use core::fmt;

/// A frame is entered. The number is its code's, the second word the time.
pub const CALL: u64 = 1;
/// A frame is left.
pub const RETURN: u64 = 2;
/// What follows happens on the thread of this number. The second word is of no account.
pub const THREAD: u64 = 3;
/// What follows happens in the context whose number is the second word; 0 outside of all.
pub const CONTEXT: u64 = 4;
/// A code object, by the number that stands for it from here on.
pub const CODE: u64 = 5;
/// What a context is called: its number and the time, then the text, whose bytes the head's number counts.
pub const CONTEXT_NAME: u64 = 6;
/// A collection of this generation begins. The second word is the time.
pub const GC_START: u64 = 7;
/// It ends. The second word is the time, the third how many objects were collected.
pub const GC_DONE: u64 = 8;
/// Values of the call or return ([`TIMED`], too) after it, as text, whose bytes the head's number counts.
pub const VALUE: u64 = 9;
/// The code object of this number is no more. The second word is of no account.
pub const GONE: u64 = 10;
/// A code object is left, by a call that the agent has measured: as [`RETURN`], and the third word is when it was entered.
pub const TIMED: u64 = 11;
/// Between the record before and the next one, events had no room. The second word is how many had none since the beginning of
/// the ring.
pub const LOST: u64 = 12;
/// What follows happens in the interpreter of this number; in the main one where none is told. The second word is of no account.
pub const INTERPRETER: u64 = 13;
/// Fields of the call after it ([`fields`](crate::fields)), whose bytes the head's number counts.
pub const FIELDS: u64 = 14;

/// With the flag 1: what follows on this thread until a record without it is no call of the program. Calls that do nothing are told,
/// so that it is seen what telling costs: as many as the head's number took as many ticks as the second word says where they
/// were not told.
pub const DRY: u64 = 15;

/// The largest line that fits; a larger one is told as 0.
pub const MOST_LINE: u32 = (1 << 24) - 1;
/// Most words of a record.
pub const MOST_WORDS: usize = 1 << 15;
/// Most bytes of one text in it.
pub const MOST_TEXT: usize = 1 << 16;
/// Words of [`CODE`] before its texts: the head, the first line with the length of the file's name, and the lengths of the
/// other two names.
pub const CODE_FIXED_WORDS: usize = 3;

/// A head.
pub const fn head(kind: u64, flags: u64, line_or_length: u32, number: u32) -> u64 {
    let middle = if line_or_length > MOST_LINE {
        0
    } else {
        line_or_length
    };
    (kind & 15) | (flags & 15) << 4 | (middle as u64) << 8 | (number as u64) << 32
}

/// A code object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code<'a> {
    /// The number that stands for it.
    pub number: u32,
    /// Which of its names are beginnings only: 1 the file's, 2 the name, 4 the qualified name.
    pub flags: u64,
    /// Its first line.
    pub first_line: u32,
    /// The name of its file.
    pub file: &'a [u8],
    /// Its name.
    pub name: &'a [u8],
    /// Its name with classes and outer functions; empty where the interpreter has none.
    pub qualname: &'a [u8],
}

/// What one record says. Texts are bytes: nobody has looked at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// [`CALL`].
    Call {
        /// Number of the code.
        code: u32,
        /// Line, 0 where it is not known.
        line: u32,
        /// Flags of the probes (`agent/src/marks.rs`).
        flags: u8,
        /// Time in ticks.
        time: u64,
    },
    /// [`RETURN`].
    Return {
        /// Number of the code.
        code: u32,
        /// Line, 0 where it is not known.
        line: u32,
        /// Flags of the probes.
        flags: u8,
        /// Time in ticks.
        time: u64,
    },
    /// [`TIMED`].
    Timed {
        /// Number of the code.
        code: u32,
        /// Line, 0 where it is not known.
        line: u32,
        /// Flags of the probes.
        flags: u8,
        /// Time in ticks.
        time: u64,
        /// When it was entered, in ticks.
        began: u64,
    },
    /// [`THREAD`].
    Thread(u32),
    /// [`CONTEXT`].
    Context(u64),
    /// [`INTERPRETER`].
    Interpreter(u32),
    /// [`CODE`].
    Code(Code<'a>),
    /// [`CONTEXT_NAME`].
    ContextName {
        /// Its number.
        context: u64,
        /// Time in ticks.
        time: u64,
        /// What it is called.
        name: &'a [u8],
    },
    /// [`GC_START`].
    GcStart {
        /// Which generation.
        generation: u32,
        /// Time in ticks.
        time: u64,
    },
    /// [`GC_DONE`].
    GcDone {
        /// Objects that were collected.
        collected: u64,
        /// Time in ticks.
        time: u64,
    },
    /// [`VALUE`].
    Value(&'a [u8]),
    /// [`FIELDS`].
    Fields(&'a [u8]),
    /// [`GONE`].
    Gone(u32),
    /// [`LOST`].
    Lost(u64),
    /// [`DRY`] with its flag.
    DryRun {
        /// Ticks that calls took which were not told.
        ticks: u64,
        /// How many these were.
        calls: u32,
    },
    /// [`DRY`] without it.
    DryRunEnds,
}

/// Nothing that a writer of ours writes. What comes behind it cannot be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record in the ring makes no sense")
    }
}

impl core::error::Error for Malformed {}

/// The records in some words, which are the reader's own.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    words: &'a [u64],
}

impl<'a> Records<'a> {
    /// Those in these words.
    pub fn new(words: &'a [u64]) -> Records<'a> {
        Records { words }
    }

    /// The next one; `None` at the end, and before one that is cut.
    ///
    /// # Errors
    /// Once it makes no sense, it goes on doing so.
    pub fn next_record(&mut self) -> Result<Option<Record<'a>>, Malformed> {
        let Some(&first) = self.words.first() else {
            return Ok(None);
        };
        let Some((words, rest)) = self.words.split_at_checked(length(first)?) else {
            return Ok(None);
        };
        let record = read(words).ok_or(Malformed)?;
        self.words = rest;
        Ok(Some(record))
    }

    /// Words that are left.
    pub fn rest(&self) -> usize {
        self.words.len()
    }
}

/// Words of the record with this head.
fn length(head: u64) -> Result<usize, Malformed> {
    let words = match head & 15 {
        CALL | RETURN | THREAD | CONTEXT | INTERPRETER | GC_START | GONE | LOST | DRY => 2,
        GC_DONE | TIMED => 3,
        CODE | CONTEXT_NAME | VALUE | FIELDS => ((head >> 8) & u64::from(MOST_LINE)) as usize,
        _ => return Err(Malformed),
    };
    match (2..=MOST_WORDS).contains(&words) {
        true => Ok(words),
        false => Err(Malformed),
    }
}

fn read(words: &[u64]) -> Option<Record<'_>> {
    let (&head, &second) = (words.first()?, words.get(1)?);
    let number = (head >> 32) as u32;
    let line = (head >> 8) as u32 & MOST_LINE;
    let flags = (head >> 4) as u8 & 15;
    Some(match head & 15 {
        CALL => Record::Call {
            code: number,
            line,
            flags,
            time: second,
        },
        RETURN => Record::Return {
            code: number,
            line,
            flags,
            time: second,
        },
        TIMED => Record::Timed {
            code: number,
            line,
            flags,
            time: second,
            began: *words.get(2)?,
        },
        THREAD => Record::Thread(number),
        GONE => Record::Gone(number),
        LOST => Record::Lost(second),
        DRY if flags & 1 == 0 => Record::DryRunEnds,
        DRY => Record::DryRun {
            ticks: second,
            calls: number,
        },
        CONTEXT => Record::Context(second),
        INTERPRETER => Record::Interpreter(number),
        GC_START => Record::GcStart {
            generation: number,
            time: second,
        },
        GC_DONE => Record::GcDone {
            collected: *words.get(2)?,
            time: second,
        },
        CODE => {
            let third = *words.get(2)?;
            let lengths = [
                (second >> 32) as usize,
                (third & 0xffff_ffff) as usize,
                (third >> 32) as usize,
            ];
            let mut bytes = bytes(words.get(CODE_FIXED_WORDS..)?);
            let mut text = |length: usize| {
                let (text, rest) = bytes.split_at_checked(length)?;
                bytes = rest;
                Some(text)
            };
            Record::Code(Code {
                number,
                flags: u64::from(flags),
                first_line: second as u32,
                file: text(lengths[0])?,
                name: text(lengths[1])?,
                qualname: text(lengths[2])?,
            })
        }
        CONTEXT_NAME => Record::ContextName {
            context: second,
            time: *words.get(2)?,
            name: bytes(words.get(3..)?).get(..number as usize)?,
        },
        VALUE => Record::Value(bytes(words.get(1..)?).get(..number as usize)?),
        FIELDS => Record::Fields(bytes(words.get(1..)?).get(..number as usize)?),
        _ => return None,
    })
}

/// Words as bytes, in the byte order of the machine.
fn bytes(words: &[u64]) -> &[u8] {
    // SAFETY: any eight bytes are a word and the other way round, and bytes may stand anywhere.
    unsafe { core::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
}
