//! Patterns that cannot be used, and why.

use alloc::string::String;
use core::fmt;

use crate::LONGEST_PATTERN;

/// A pattern that cannot be used. Its text says where the pattern is wrong, why, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobError {
    pattern: String,
    fault: Fault,
}

/// What is wrong with it. Columns count characters, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Empty,
    /// In bytes.
    TooLong {
        length: usize,
    },
    Nul {
        column: usize,
    },
    UnclosedBracket {
        column: usize,
    },
    /// A range such as `z-a`.
    BackwardRange {
        column: usize,
        from: char,
        to: char,
    },
    /// A character of several bytes.
    WideInBrackets {
        column: usize,
        character: char,
    },
    TrailingBackslash,
    SlashInModule {
        column: usize,
    },
    /// Nothing between two dots, or at an end.
    EmptyName {
        column: usize,
    },
}

impl GlobError {
    pub(crate) fn new(pattern: &str, fault: Fault) -> GlobError {
        GlobError {
            pattern: pattern.into(),
            fault,
        }
    }

    /// The pattern as it was given.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }
}

impl core::error::Error for GlobError {}

impl fmt::Display for GlobError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pattern = &self.pattern;
        match self.fault {
            Fault::Empty => formatter.write_str(
                "the pattern is empty and would match nothing, so it cannot be used; write `*` for everything",
            ),
            Fault::TooLong { length } => write!(
                formatter,
                "the pattern has {length} bytes, more than any name a probe can read, so it would match nothing; shorten it to {LONGEST_PATTERN} with `*`"
            ),
            Fault::Nul { column } => write!(
                formatter,
                "the pattern {pattern:?} has a NUL at column {column}, which no name contains, so it cannot be used; leave it out"
            ),
            Fault::UnclosedBracket { column } => write!(
                formatter,
                "the pattern {pattern:?} opens a bracket at column {column} that is never closed, so it cannot be used; close it, or write `\\[` for a plain bracket"
            ),
            Fault::BackwardRange { column, from, to } => write!(
                formatter,
                "the pattern {pattern:?} has the backward range `{from}-{to}` at column {column}, which no byte is in, so it cannot be used; write `{to}-{from}`"
            ),
            Fault::WideInBrackets { column, character } => write!(
                formatter,
                "the pattern {pattern:?} has {character:?} in brackets at column {column}, but brackets stand for one byte and it takes several, so it cannot be used; write `*` there or spell it out without brackets"
            ),
            Fault::TrailingBackslash => write!(
                formatter,
                "the pattern {pattern:?} ends with a backslash that has nothing to escape, so it cannot be used; write `\\\\` for a plain backslash"
            ),
            Fault::SlashInModule { column } => write!(
                formatter,
                "the module pattern {pattern:?} has a slash at column {column}, so it matches no module name; write dots between packages, or filter by file instead"
            ),
            Fault::EmptyName { column } => write!(
                formatter,
                "the module pattern {pattern:?} has an empty name at column {column}, so it matches no module; take the extra dot out"
            ),
        }
    }
}
