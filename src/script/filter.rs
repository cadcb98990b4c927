//! Filters on names: globs (`pystap_glob` has their grammar and what they match) as SystemTap regular expressions and as
//! filters of the kernel's events. Also the one place in which text from outside becomes a SystemTap string literal.
//! Decides nothing about which filter applies to what.
//!
//! What was found out about stap's regular expressions (`=~`), by compiling the C code that stap 4.8 and 5.6 generate and
//! feeding it every byte:
//!
//! * `.` is any byte, newlines and bytes of 128 and more included; so is what a negated class leaves over;
//! * one byte of 128 or more *in the expression* makes both versions die of a segmentation fault, however it is written;
//! * `(?:…)?` does not match what it should in either version, plain groups do;
//! * the upper end of a range in brackets is taken as it stands, a backslash included.
//!
//! A byte of 128 or more in a glob therefore becomes "any such byte" in the expression: the kernel lets too much through
//! rather than too little, and [`Glob::matches`] has the last word in user space. [`is_exact_in_stap`] tells.

mod ftrace;

use std::fmt::Write as _;

use thiserror::Error;

use pystap_glob::{ByteSet, Token};

pub use self::ftrace::{FtraceGlob, ftrace_glob};
pub use pystap_glob::{Glob, GlobError, LONGEST_PATTERN};

/// Wildcards for single bytes that an expression may have after a `*`: each can double the number of states, and stap
/// writes some hundred lines of C for every state. Further ones are widened to `.*`.
const SINGLE_WILDCARDS: usize = 6;

/// Text that no SystemTap literal can hold.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{text:?} contains a NUL byte, which ends a string in SystemTap, so no script was made; take it out"
)]
pub struct LiteralError {
    /// The text; what is not UTF-8 in it is replaced.
    pub text: String,
}

/// A path that no probe point can name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "SystemTap cannot name the file {path:?} because of the {character:?} in it, so its marks cannot be armed; trace it through a link to it with a plain name, named with --python"
)]
pub struct PathError {
    /// The path.
    pub path: String,
    /// The first character of it that is in the way.
    pub character: char,
}

/// The pattern as a regular expression for stap's `=~`, anchored at both ends; it has no byte above 127. Put it into a
/// script through [`stap_str`]. It matches whatever [`Glob::matches`] does, and more where [`is_exact_in_stap`] is false.
pub fn stap_regex(glob: &Glob) -> String {
    let written: Vec<String> = glob
        .alternatives()
        .map(|tokens| {
            let mut text = String::new();
            for token in widen(tokens).0 {
                write_stap(&token, &mut text);
            }
            text
        })
        .collect();
    match written.as_slice() {
        [one] => format!("^{one}$"),
        several => format!("^({})$", several.join("|")),
    }
}

/// Whether the regular expression matches exactly what the pattern matches. If not, the kernel lets more through and
/// events must be checked once more with [`Glob::matches`]; totals that are counted in the kernel may be too large.
pub fn is_exact_in_stap(glob: &Glob) -> bool {
    glob.alternatives().all(|tokens| !widen(tokens).1)
}

/// A part of a pattern as a part of a regular expression; 128 and above must be all in or all out.
fn write_stap(token: &Token, text: &mut String) {
    match token {
        Token::Many => text.push_str(".*"),
        Token::Any => text.push('.'),
        Token::Byte(byte) => {
            if b".[]{}()\\*+?|^$".contains(byte) {
                text.push('\\');
            }
            text.push(char::from(*byte));
        }
        Token::One(set) => {
            let high = set.contains(u8::MAX);
            let ascii = |wanted: bool| (1..=127).filter(move |byte| set.contains(*byte) == wanted);
            if !high {
                text.push('[');
                write_class(ascii(true), text);
                text.push(']');
            } else if ascii(false).next().is_none() {
                text.push('.');
            } else {
                text.push_str("[^");
                write_class(ascii(false), text);
                text.push(']');
            }
        }
    }
}

/// The inside of brackets for ascending bytes. Ranges never end in a character that is special there.
fn write_class(members: impl Iterator<Item = u8>, text: &mut String) {
    let special = |byte: u8| b"[]\\^-".contains(&byte);
    let mut run: Option<(u8, u8)> = None;
    let flush = |run: Option<(u8, u8)>, text: &mut String| {
        let Some((first, last)) = run else { return };
        if special(first) {
            text.push('\\');
        }
        text.push(char::from(first));
        if last > first + 1 {
            text.push('-');
        }
        if last > first {
            text.push(char::from(last));
        }
    };
    for byte in members {
        run = match run {
            Some((first, last))
                if last.checked_add(1) == Some(byte) && !special(byte) && !special(first) =>
            {
                Some((first, byte))
            }
            before => {
                flush(before, text);
                Some((byte, byte))
            }
        };
    }
    flush(run, text);
}

/// The tokens as the kernel can have them: bytes of 128 and more stand for each other, and only so many wildcards for
/// single bytes follow a `*`. Says whether anything was widened by that.
fn widen(tokens: &[Token]) -> (Vec<Token>, bool) {
    let high = ByteSet::NONE.with(128, 255);
    let mut widened = false;
    let mut singles = None;
    let mut result: Vec<Token> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let next = match token {
            Token::Byte(byte) if *byte >= 128 => {
                widened = true;
                Token::One(Box::new(high))
            }
            Token::Many => {
                singles.get_or_insert(0_usize);
                Token::Many
            }
            other => other.clone(),
        };
        let next = match (&next, &mut singles) {
            (Token::Any | Token::One(_), Some(count)) => {
                *count += 1;
                if *count > SINGLE_WILDCARDS {
                    widened = true;
                    Token::Many
                } else {
                    next
                }
            }
            _ => next,
        };
        if !(next == Token::Many && result.last() == Some(&Token::Many)) {
            result.push(next);
        }
    }
    (result, widened)
}

/// `text` as a SystemTap string literal, quotes included. The only way for text from outside into a script.
///
/// Quotes, backslashes, control characters and bytes above 127 are written as three octal digits after a backslash, which
/// the script passes on to the C compiler. It does not do so for the paths of probe points: these go through
/// [`stap_path`].
///
/// # Errors
///
/// [`LiteralError`] for text with a NUL.
pub fn stap_str(text: &str) -> Result<String, LiteralError> {
    stap_bytes(text.as_bytes())
}

/// As [`stap_str`], for text that need not be UTF-8.
///
/// # Errors
///
/// [`LiteralError`] for text with a NUL.
pub fn stap_bytes(text: &[u8]) -> Result<String, LiteralError> {
    literal(text)
}

/// `path` as the string of a probe point, `process("…")`, quotes included.
///
/// stap reads these differently from other strings: octal escapes stay as they are, `\"` and `\\` are undone,
/// other bytes are taken raw, and `*`, `?`, `[` and `{` make the path a pattern that no escape turns off (seen with 4.8).
///
/// # Errors
///
/// [`PathError`] for a path that no probe point can name.
pub fn stap_path(path: &str) -> Result<String, PathError> {
    if let Some(character) = path
        .chars()
        .find(|character| character.is_control() || "*?[{".contains(*character))
    {
        return Err(PathError {
            path: path.to_owned(),
            character,
        });
    }
    Ok(format!(
        "\"{}\"",
        path.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}

fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

fn literal(text: &[u8]) -> Result<String, LiteralError> {
    let mut result = String::with_capacity(text.len() + 2);
    result.push('"');
    for byte in text {
        match byte {
            0 => {
                return Err(LiteralError {
                    text: String::from_utf8_lossy(text).into_owned(),
                });
            }
            plain if is_plain(*plain) => result.push(char::from(*plain)),
            // Writing to a String does not fail.
            other => {
                let _ = write!(result, "\\{other:03o}");
            }
        }
    }
    result.push('"');
    Ok(result)
}

#[cfg(test)]
mod tests;
