//! Fields of a call: values that were asked for by name, as bytes of a record ([`FIELDS`](crate::FIELDS)).
//!
//! One behind the other, each with the number that stands for the field (one byte), what it is (one byte), how many bytes
//! follow (two, in the byte order of the machine), and these.

use alloc::vec::Vec;

use crate::record::MOST_TEXT;

/// Most fields of a session.
pub const MOST_FIELDS: usize = 16;
/// Longest text of one in bytes.
pub const LONGEST: usize = 4096;

/// Bytes before each value.
const HEAD: usize = 4;
/// Bytes that are kept for each field that is still to come: a head, a number, the beginning of a name.
const KEPT: usize = 64;

/// Why a field is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Absent {
    /// The argument has no value.
    Unbound = 0,
    /// There is no such attribute.
    NoAttribute = 1,
    /// The attribute is a property: to read it is to run the program's code.
    Property = 2,
    /// The attribute is computed by another descriptor of the class.
    Computed = 3,
    /// Where attributes are stored is of the program's own making.
    OwnStorage = 4,
    /// It is no dict, or a subclass of it, so it has no keys for us.
    NoDict = 5,
    /// The dict has no such key.
    NoKey = 6,
    /// There are too many keys to look through.
    TooManyKeys = 7,
    /// It is neither list, tuple nor dict, or a subclass, so it has no items for us.
    NoItems = 8,
    /// It has fewer items.
    NoItem = 9,
}

impl Absent {
    /// All of them, by their numbers.
    pub const ALL: [Absent; 10] = [
        Absent::Unbound,
        Absent::NoAttribute,
        Absent::Property,
        Absent::Computed,
        Absent::OwnStorage,
        Absent::NoDict,
        Absent::NoKey,
        Absent::TooManyKeys,
        Absent::NoItems,
        Absent::NoItem,
    ];
}

/// The value of a field. Texts are bytes: nobody has looked at them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer that has room.
    Integer(i64),
    /// A float.
    Float(f64),
    /// A string, or the beginning of one.
    Text {
        /// UTF-8, with surrogates as if they were characters.
        bytes: &'a [u8],
        /// Whether there is more of it.
        is_cut: bool,
    },
    /// Bytes, or the beginning of some.
    Bytes {
        /// They.
        bytes: &'a [u8],
        /// Whether there are more.
        is_cut: bool,
    },
    /// Something else, of which the name of its type is told.
    Other(&'a [u8]),
    /// Nothing, because of this at this part of the path, counted from 0.
    Absent(Absent, u8),
}

mod kind {
    pub(super) const NONE: u8 = 0;
    pub(super) const FALSE: u8 = 1;
    pub(super) const TRUE: u8 = 2;
    pub(super) const INTEGER: u8 = 3;
    pub(super) const FLOAT: u8 = 4;
    pub(super) const TEXT: u8 = 5;
    pub(super) const BYTES: u8 = 6;
    pub(super) const OTHER: u8 = 7;
    pub(super) const ABSENT: u8 = 8;
    /// Of a text or bytes: there are more.
    pub(super) const CUT: u8 = 0x80;
}

/// Fields on their way into a record.
#[derive(Debug, Default)]
pub struct FieldsWriter {
    bytes: Vec<u8>,
    /// How many are still to come.
    left: usize,
}

impl FieldsWriter {
    /// For so many fields.
    pub fn new(count: usize) -> FieldsWriter {
        FieldsWriter {
            bytes: Vec::new(),
            left: count.min(MOST_FIELDS),
        }
    }

    /// How long the next text can be.
    pub fn room(&self) -> usize {
        let others = self.left.saturating_sub(1).saturating_mul(KEPT);
        let taken = self.bytes.len().saturating_add(others).saturating_add(HEAD);
        MOST_TEXT.saturating_sub(taken).min(LONGEST)
    }

    /// Adds one, where it has room.
    pub fn put(&mut self, field: u8, value: Value<'_>) {
        let (number, where_from): ([u8; 8], [u8; 2]);
        let cut = |kind, is_cut| if is_cut { kind | kind::CUT } else { kind };
        let (kind, bytes): (u8, &[u8]) = match value {
            Value::None => (kind::NONE, &[]),
            Value::Bool(false) => (kind::FALSE, &[]),
            Value::Bool(true) => (kind::TRUE, &[]),
            Value::Integer(value) => {
                number = value.to_ne_bytes();
                (kind::INTEGER, &number)
            }
            Value::Float(value) => {
                number = value.to_bits().to_ne_bytes();
                (kind::FLOAT, &number)
            }
            Value::Text { bytes, is_cut } => (cut(kind::TEXT, is_cut), bytes),
            Value::Bytes { bytes, is_cut } => (cut(kind::BYTES, is_cut), bytes),
            Value::Other(name) => (kind::OTHER, name),
            Value::Absent(why, at) => {
                where_from = [why as u8, at];
                (kind::ABSENT, &where_from)
            }
        };
        let room = self.room();
        let bytes = bytes.get(..room).unwrap_or(bytes);
        self.left = self.left.saturating_sub(1);
        let length = (bytes.len() as u16).to_ne_bytes();
        self.bytes.extend_from_slice(&[field, kind]);
        self.bytes.extend_from_slice(&length);
        self.bytes.extend_from_slice(bytes);
    }

    /// What there is; nothing where no field was added.
    pub fn bytes(&self) -> Option<&[u8]> {
        (!self.bytes.is_empty()).then_some(&self.bytes)
    }
}

/// The fields in the bytes of a record, with the numbers that stand for them, up to where they make no sense.
#[derive(Debug, Clone)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Those in these bytes.
    pub fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields(bytes)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u8, Value<'a>);

    fn next(&mut self) -> Option<(u8, Value<'a>)> {
        let (head, rest) = self.0.split_first_chunk::<HEAD>()?;
        let [field, what, length @ ..] = *head;
        let (bytes, rest) = rest.split_at_checked(usize::from(u16::from_ne_bytes(length)))?;
        let is_cut = what & kind::CUT != 0;
        let number = || bytes.try_into().ok().map(u64::from_ne_bytes);
        let value = match what & !kind::CUT {
            kind::NONE => Value::None,
            kind::FALSE => Value::Bool(false),
            kind::TRUE => Value::Bool(true),
            kind::INTEGER => Value::Integer(number()? as i64),
            kind::FLOAT => Value::Float(f64::from_bits(number()?)),
            kind::TEXT => Value::Text { bytes, is_cut },
            kind::BYTES => Value::Bytes { bytes, is_cut },
            kind::OTHER => Value::Other(bytes),
            kind::ABSENT => {
                let &[why, at] = bytes else { return None };
                Value::Absent(*Absent::ALL.get(usize::from(why))?, at)
            }
            _ => return None,
        };
        self.0 = rest;
        Some((field, value))
    }
}
