//! pystap's patterns over the names of functions, files and modules: what is typed, what it matches, and its parts for
//! those who write it in another language (a SystemTap expression, a kernel filter). pystap and its agent share this, so
//! that both decide alike. Works without std, because the agent has none.
//!
//! # Grammar
//!
//! A pattern always covers the whole name. It works on bytes, not on characters.
//!
//! | Pattern | Matches |
//! |---|---|
//! | `*` | any bytes, including none; `/` and `.` are bytes like any other, so it crosses directories |
//! | `?` | exactly one byte, whatever it is |
//! | `[a-z_]` | one of these bytes: single ones and ranges, both ends included |
//! | `[!a-z]`, `[^a-z]` | one byte that is none of these |
//! | `\x` | the character `x` itself, also inside brackets |
//! | anything else | itself |
//!
//! Inside brackets only ASCII is allowed, for a member is one byte; a `]` that comes first is a member, and so is a `-`
//! that is first, last or escaped. Other characters outside ASCII may be spelled out; `?` then stands for one *byte* of
//! them. Case counts, except in a [`Glob::caseless`] pattern.
//!
//! # Modules
//!
//! A [`Glob::module`] pattern is one over dotted names, matched against file names, because that is what a frame has. A
//! file belongs to the module `a.b.c` if its name is `a/b/c.py` or `a/b/c/__init__.py`, or ends in one of these after a
//! slash, or is `<frozen a.b.c>`. A dot of the pattern, also one that `*`, `?` or brackets stand for, is a dot of the
//! module's name and thus a slash of the path; an escaped dot remains a dot. `a.*` is everything below the package `a`,
//! and its own `__init__.py`. Where the import path begins cannot be known from a file name: `os` also matches
//! `/srv/app/os.py`.
#![no_std]

extern crate alloc;

mod error;
mod set;

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::error::Fault;
pub use crate::error::GlobError;
pub use crate::set::ByteSet;

/// Longest pattern in bytes: no string that a probe reads with stap's usual settings is longer.
pub const LONGEST_PATTERN: usize = 510;

/// A pattern over the bytes of a name; the crate's documentation has the grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    pattern: String,
    /// The pattern matches what one of these matches: one for plain patterns, several for modules.
    alternatives: Vec<Vec<Token>>,
}

/// A part of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// This byte.
    Byte(u8),
    /// Any one byte (`?`).
    Any,
    /// One byte of a set (brackets).
    One(Box<ByteSet>),
    /// Any bytes, including none (`*`); never follows another one.
    Many,
}

/// What becomes of the plain characters and the sets of a pattern.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// They stay as they are.
    Plain,
    /// They are in lower case.
    Caseless,
    /// Dots that are not escaped are slashes.
    Path,
}

impl Glob {
    /// A pattern over function names or file names.
    ///
    /// # Errors
    ///
    /// [`GlobError`] says where the pattern is wrong and why.
    pub fn new(pattern: &str) -> Result<Glob, GlobError> {
        Glob::read(pattern, Reading::Plain)
    }

    /// A pattern in which case does not matter. It matches names in lower case: give it what [`lower`] returns.
    ///
    /// # Errors
    ///
    /// [`GlobError`] says where the pattern is wrong and why.
    pub fn caseless(pattern: &str) -> Result<Glob, GlobError> {
        Glob::read(pattern, Reading::Caseless)
    }

    fn read(pattern: &str, reading: Reading) -> Result<Glob, GlobError> {
        let tokens = parse(pattern, reading).map_err(|fault| GlobError::new(pattern, fault))?;
        Ok(Glob {
            pattern: pattern.to_owned(),
            alternatives: Vec::from([tokens]),
        })
    }

    /// A pattern over dotted module names, which matches the names of their files.
    ///
    /// # Errors
    ///
    /// [`GlobError`] says where the pattern is wrong and why.
    pub fn module(pattern: &str) -> Result<Glob, GlobError> {
        Ok(Glob {
            pattern: pattern.to_owned(),
            alternatives: module_files(pattern).map_err(|fault| GlobError::new(pattern, fault))?,
        })
    }

    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// Whether the pattern matches the whole of `name`. This is what the pattern means; everything else follows it.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.alternatives.iter().any(|tokens| covers(tokens, name))
    }

    /// The parts of the pattern, once per alternative: it matches what one of them matches.
    pub fn alternatives(&self) -> impl Iterator<Item = &[Token]> {
        self.alternatives.iter().map(Vec::as_slice)
    }

    /// The one name that the pattern matches, if it has no wildcards. To compare for equality is exact for any bytes and
    /// cheaper than a regular expression.
    pub fn literal(&self) -> Option<Vec<u8>> {
        let [tokens] = self.alternatives.as_slice() else {
            return None;
        };
        tokens
            .iter()
            .map(|token| match token {
                Token::Byte(byte) => Some(*byte),
                Token::Any | Token::One(_) | Token::Many => None,
            })
            .collect()
    }
}

/// A name as [`Glob::caseless`] patterns match it.
pub fn lower(name: &str) -> String {
    name.chars().flat_map(lower_character).collect()
}

/// Lower case character by character, so that a part of a name becomes what it becomes in the whole; both forms of the
/// small sigma are one.
fn lower_character(character: char) -> core::char::ToLowercase {
    match character {
        'ς' => 'σ',
        other => other,
    }
    .to_lowercase()
}

/// Goes back to the last `*` only, which is enough, so the time is at most the product of both lengths.
fn covers(tokens: &[Token], name: &[u8]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match (tokens.get(at), name.get(read)) {
            (None, None) => return true,
            (Some(Token::Many), _) => {
                at += 1;
                retry = Some((at, read));
                continue;
            }
            (Some(Token::Byte(wanted)), Some(byte)) => wanted == byte,
            (Some(Token::Any), Some(_)) => true,
            (Some(Token::One(set)), Some(byte)) => set.contains(*byte),
            (None, Some(_)) | (Some(_), None) => false,
        };
        if step {
            (at, read) = (at + 1, read + 1);
            continue;
        }
        match retry {
            Some((after, from)) if from < name.len() => {
                retry = Some((after, from + 1));
                (at, read) = (after, from + 1);
            }
            _ => return false,
        }
    }
}

/// What the names of the files of a module match.
fn module_files(pattern: &str) -> Result<Vec<Vec<Token>>, Fault> {
    let dotted = parse(pattern, Reading::Plain)?;
    check_module(pattern)?;
    let path = parse(pattern, Reading::Path)?;

    let mut alternatives = Vec::new();
    let below_anything: &[Token] = &[Token::Many, Token::Byte(b'/')];
    // A `*` at an end of the pattern covers what could be there besides.
    let prefixes = match path.first() {
        Some(Token::Many) => &[&[][..]][..],
        _ => &[&[][..], below_anything][..],
    };
    let suffixes = match path.last() {
        Some(Token::Many) => &[".py"][..],
        _ => &[".py", "/__init__.py"][..],
    };
    for prefix in prefixes {
        for suffix in suffixes {
            alternatives.push([prefix, &path[..], &bytes(suffix)].concat());
        }
    }
    let frozen = |name: &[Token]| [&bytes("<frozen "), name, &bytes(">")].concat();
    alternatives.push(frozen(&dotted));
    if let [package @ .., Token::Byte(b'.'), Token::Many] = dotted.as_slice() {
        alternatives.push(frozen(package));
    }
    Ok(alternatives)
}

/// Refuses what can only be a mistake in a module pattern.
fn check_module(pattern: &str) -> Result<(), Fault> {
    let mut after_dot = true;
    let mut empty = None;
    let mut column = 0;
    for character in pattern.chars() {
        column += 1;
        if character == '/' {
            return Err(Fault::SlashInModule { column });
        }
        if character == '.' && after_dot {
            empty.get_or_insert(column);
        }
        after_dot = character == '.';
    }
    match empty.or(after_dot.then_some(column)) {
        Some(column) => Err(Fault::EmptyName { column }),
        None => Ok(()),
    }
}

fn bytes(text: &str) -> Vec<Token> {
    text.bytes().map(Token::Byte).collect()
}

fn parse(pattern: &str, reading: Reading) -> Result<Vec<Token>, Fault> {
    if pattern.is_empty() {
        return Err(Fault::Empty);
    }
    if pattern.len() > LONGEST_PATTERN {
        return Err(Fault::TooLong {
            length: pattern.len(),
        });
    }
    if let Some(at) = pattern.chars().position(|character| character == '\0') {
        return Err(Fault::Nul { column: at + 1 });
    }
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut rest = pattern.chars().enumerate();
    while let Some((at, character)) = rest.next() {
        match character {
            '*' => {
                if tokens.last() != Some(&Token::Many) {
                    tokens.push(Token::Many);
                }
            }
            '?' => tokens.push(Token::Any),
            '[' => {
                let set = parse_brackets(at + 1, &mut rest, reading)?;
                tokens.push(Token::One(Box::new(set)));
            }
            '\\' => match rest.next() {
                Some((_, escaped)) => push_character(escaped, reading, &mut tokens),
                None => return Err(Fault::TrailingBackslash),
            },
            '.' if reading == Reading::Path => tokens.push(Token::Byte(b'/')),
            plain => push_character(plain, reading, &mut tokens),
        }
    }
    Ok(tokens)
}

fn push_character(character: char, reading: Reading, tokens: &mut Vec<Token>) {
    let mut push = |character: char| {
        let mut buffer = [0; 4];
        let bytes = character.encode_utf8(&mut buffer).bytes();
        tokens.extend(bytes.map(Token::Byte));
    };
    if reading == Reading::Caseless {
        lower_character(character).for_each(push);
    } else {
        push(character);
    }
}

/// What stands between `[`, which is at column `opened`, and its `]`; `rest` is left after the latter.
fn parse_brackets(
    opened: usize,
    rest: &mut impl Iterator<Item = (usize, char)>,
    reading: Reading,
) -> Result<ByteSet, Fault> {
    // (column, character, escaped), up to the closing bracket. A `]` that comes first is a member.
    let mut members: Vec<(usize, char, bool)> = Vec::new();
    let mut negated = false;
    let mut begun = false;
    let mut closed = false;
    while let Some((at, character)) = rest.next() {
        match character {
            '!' | '^' if !begun && !negated => {
                negated = true;
                continue;
            }
            ']' if begun => {
                closed = true;
                break;
            }
            '\\' => match rest.next() {
                Some((at, escaped)) => members.push((at + 1, escaped, true)),
                None => break,
            },
            member => members.push((at + 1, member, false)),
        }
        begun = true;
    }
    if !closed {
        return Err(Fault::UnclosedBracket { column: opened });
    }
    let byte = |column: usize, character: char| match u8::try_from(character) {
        Ok(byte) if byte.is_ascii() => Ok(byte),
        _ => Err(Fault::WideInBrackets { column, character }),
    };
    let mut set = ByteSet::NONE;
    let mut members = members.as_slice();
    while let [(column, first, _), more @ ..] = members {
        let from = byte(*column, *first)?;
        if let [(_, '-', false), (to_column, last, _), after @ ..] = more {
            let to = byte(*to_column, *last)?;
            if to < from {
                return Err(Fault::BackwardRange {
                    column: *column,
                    from: *first,
                    to: *last,
                });
            }
            set = set.with(from, to);
            members = after;
        } else {
            set = set.with(from, from);
            members = more;
        }
    }
    // Before the complement: `[!A]` is what is neither `A` nor `a`.
    if reading == Reading::Caseless {
        set = set.lower();
    }
    if negated {
        set = set.complement();
    }
    Ok(match reading {
        Reading::Path => set.dot_as_slash(),
        Reading::Plain | Reading::Caseless => set,
    })
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::indexing_slicing)]
mod tests;
