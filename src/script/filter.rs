//! Filters on names: globs, what they match, and the same language as a SystemTap regular expression. Also the one place
//! in which text from outside becomes a SystemTap string literal. Decides nothing about which filter applies to what.
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
//! rather than too little, and [`Glob::matches`] has the last word in user space. [`Glob::is_exact_in_stap`] tells.

mod ftrace;

use std::fmt::Write as _;

use thiserror::Error;

pub use self::ftrace::FtraceGlob;

/// Longest pattern in bytes: no string that a probe reads with stap's usual settings is longer.
pub const LONGEST_PATTERN: usize = 510;

/// Wildcards for single bytes that an expression may have after a `*`: each can double the number of states, and stap
/// writes some hundred lines of C for every state. Further ones are widened to `.*`.
const SINGLE_WILDCARDS: usize = 6;

/// A pattern that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum GlobError {
    /// Nothing was given.
    #[error(
        "the pattern is empty and would match nothing, so it cannot be used; write `*` for everything"
    )]
    Empty,
    /// Longer than [`LONGEST_PATTERN`].
    #[error(
        "the pattern has {length} bytes, more than any name a probe can read, so it would match nothing; shorten it to {LONGEST_PATTERN} with `*`"
    )]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A NUL byte.
    #[error(
        "the pattern {pattern:?} has a NUL at column {column}, which no name contains, so it cannot be used; leave it out"
    )]
    Nul {
        /// The pattern.
        pattern: String,
        /// Column of the NUL in characters, from 1.
        column: usize,
    },
    /// A `[` without its `]`.
    #[error(
        "the pattern {pattern:?} opens a bracket at column {column} that is never closed, so it cannot be used; close it, or write `\\[` for a plain bracket"
    )]
    UnclosedBracket {
        /// The pattern.
        pattern: String,
        /// Column of the bracket in characters, from 1.
        column: usize,
    },
    /// A range such as `z-a`.
    #[error(
        "the pattern {pattern:?} has the backward range `{from}-{to}` at column {column}, which no byte is in, so it cannot be used; write `{to}-{from}`"
    )]
    BackwardRange {
        /// The pattern.
        pattern: String,
        /// Column of the range in characters, from 1.
        column: usize,
        /// Its first end.
        from: char,
        /// Its second end.
        to: char,
    },
    /// A character of several bytes between brackets.
    #[error(
        "the pattern {pattern:?} has {character:?} in brackets at column {column}, but brackets stand for one byte and it takes several, so it cannot be used; write `*` there or spell it out without brackets"
    )]
    WideInBrackets {
        /// The pattern.
        pattern: String,
        /// Column of the character, from 1.
        column: usize,
        /// The character.
        character: char,
    },
    /// A backslash with nothing after it.
    #[error(
        "the pattern {pattern:?} ends with a backslash that has nothing to escape, so it cannot be used; write `\\\\` for a plain backslash"
    )]
    TrailingBackslash {
        /// The pattern.
        pattern: String,
    },
    /// A module pattern that looks like a path.
    #[error(
        "the module pattern {pattern:?} has a slash at column {column}, so it matches no module name; write dots between packages, or filter by file instead"
    )]
    SlashInModule {
        /// The pattern.
        pattern: String,
        /// Column of the slash in characters, from 1.
        column: usize,
    },
    /// A module pattern with nothing between two dots, or at an end.
    #[error(
        "the module pattern {pattern:?} has an empty name at column {column}, so it matches no module; take the extra dot out"
    )]
    EmptyName {
        /// The pattern.
        pattern: String,
        /// Column of the place in characters, from 1.
        column: usize,
    },
}

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

/// A pattern over the bytes of a name.
///
/// `*` stands for any bytes, none included; `?` for exactly one byte; `[a-z]` for one of these and `[!a-z]` (or `[^a-z]`)
/// for one that is none of these; a backslash takes the next character as it is. `/` and `.` are bytes like others: `*`
/// goes across directories. A pattern always covers the whole name, and case counts. Characters outside ASCII may be
/// spelled out; `?` then stands for one *byte* of them.
///
/// A **module pattern** ([`Glob::module`]) is a pattern over dotted names, matched against file names, because that is
/// what a frame has. A file belongs to the module `a.b.c` when its name is, or ends after a slash in, `a/b/c.py` or
/// `a/b/c/__init__.py`, or when it is `<frozen a.b.c>`. A dot of the pattern, also one that `*`, `?` or brackets stand for,
/// is a dot of the module's name and so a slash of the path. `a.*` is everything below the package `a`, and its own
/// `__init__.py`. Where the import path begins cannot be known from a file name: `os` also matches `/srv/app/os.py`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    pattern: String,
    /// The pattern matches what one of these matches; one for plain globs, several for module patterns.
    alternatives: Vec<Vec<Token>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Byte(u8),
    One(ByteSet),
    Many,
}

/// A set of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ByteSet([u64; 4]);

impl ByteSet {
    const NONE: ByteSet = ByteSet([0; 4]);
    const ALL: ByteSet = ByteSet([u64::MAX; 4]);

    fn contains(self, byte: u8) -> bool {
        let [a, b, c, d] = self.0;
        let word = match byte >> 6 {
            0 => a,
            1 => b,
            2 => c,
            _ => d,
        };
        word >> (byte & 63) & 1 == 1
    }

    fn with(self, first: u8, last: u8) -> ByteSet {
        let mut words = self.0;
        for byte in first..=last {
            if let Some(word) = words.get_mut(usize::from(byte >> 6)) {
                *word |= 1 << (byte & 63);
            }
        }
        ByteSet(words)
    }

    fn complement(self) -> ByteSet {
        ByteSet(self.0.map(|word| !word))
    }

    /// The same set with a slash where it has a dot.
    fn dot_as_slash(self) -> ByteSet {
        let mut set = ByteSet::NONE;
        for byte in 0..=u8::MAX {
            let seen = match byte {
                b'.' => false,
                b'/' => self.contains(b'.'),
                _ => self.contains(byte),
            };
            if seen {
                set = set.with(byte, byte);
            }
        }
        set
    }
}

impl Glob {
    /// A pattern over function names or file names.
    ///
    /// # Errors
    ///
    /// [`GlobError`] says where the pattern is wrong and why.
    pub fn new(pattern: &str) -> Result<Glob, GlobError> {
        Ok(Glob {
            pattern: pattern.to_owned(),
            alternatives: vec![parse(pattern)?],
        })
    }

    /// A pattern over dotted module names, which matches the names of their files.
    ///
    /// # Errors
    ///
    /// [`GlobError`] says where the pattern is wrong and why.
    pub fn module(pattern: &str) -> Result<Glob, GlobError> {
        let dotted = parse(pattern)?;
        check_module(pattern)?;

        let escaped = escaped_dots(pattern);
        let mut dots = 0;
        let path: Vec<Token> = dotted
            .iter()
            .map(|token| match token {
                Token::Byte(b'.') => {
                    let separates = !escaped.get(dots).copied().unwrap_or(false);
                    dots += 1;
                    Token::Byte(if separates { b'/' } else { b'.' })
                }
                // `?` and `*` stand for a dot already where they stand for a slash.
                Token::One(set) if *set != ByteSet::ALL => Token::One(set.dot_as_slash()),
                other => other.clone(),
            })
            .collect();

        let mut prefixes = vec![vec![]];
        if path.first() != Some(&Token::Many) {
            prefixes.push(vec![Token::Many, Token::Byte(b'/')]);
        }
        let mut suffixes = vec![bytes(".py")];
        if path.last() != Some(&Token::Many) {
            suffixes.push(bytes("/__init__.py"));
        }
        let mut alternatives = Vec::new();
        for prefix in &prefixes {
            for suffix in &suffixes {
                alternatives.push([prefix.as_slice(), &path, suffix].concat());
            }
        }

        let frozen = |name: &[Token]| [&bytes("<frozen "), name, &bytes(">")].concat();
        alternatives.push(frozen(&dotted));
        if let [package @ .., Token::Byte(b'.'), Token::Many] = dotted.as_slice() {
            alternatives.push(frozen(package));
        }
        Ok(Glob {
            pattern: pattern.to_owned(),
            alternatives,
        })
    }

    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// Whether the pattern matches the whole of `name`. This is what the pattern means; everything else follows it.
    pub fn matches(&self, name: &[u8]) -> bool {
        self.alternatives
            .iter()
            .any(|tokens| matches_tokens(tokens, name))
    }

    /// The one name that the pattern matches, when it has no wildcards. Comparing for equality is exact for any bytes and
    /// cheaper than a regular expression.
    pub fn literal(&self) -> Option<Vec<u8>> {
        let [tokens] = self.alternatives.as_slice() else {
            return None;
        };
        tokens
            .iter()
            .map(|token| match token {
                Token::Byte(byte) => Some(*byte),
                Token::One(_) | Token::Many => None,
            })
            .collect()
    }

    /// The pattern as a regular expression for stap's `=~`, anchored at both ends; it has no byte above 127. Put it into a
    /// script through [`stap_str`]. It matches whatever [`Glob::matches`] does, and more where
    /// [`Glob::is_exact_in_stap`] is false.
    pub fn to_stap_regex(&self) -> String {
        let written: Vec<String> = self
            .alternatives
            .iter()
            .map(|tokens| {
                let mut text = String::new();
                for token in widen(tokens).0 {
                    token.write_stap(&mut text);
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
    pub fn is_exact_in_stap(&self) -> bool {
        self.alternatives.iter().all(|tokens| !widen(tokens).1)
    }
}

impl Token {
    /// The token as a part of a regular expression; 128 and above must be all in or all out.
    fn write_stap(&self, text: &mut String) {
        match self {
            Token::Many => text.push_str(".*"),
            Token::Byte(byte) => {
                if b".[]{}()\\*+?|^$".contains(byte) {
                    text.push('\\');
                }
                text.push(char::from(*byte));
            }
            Token::One(set) => {
                let high = set.contains(u8::MAX);
                let ascii =
                    |wanted: bool| (1..=127).filter(move |byte| set.contains(*byte) == wanted);
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
                Token::One(high)
            }
            Token::Many => {
                singles.get_or_insert(0_usize);
                Token::Many
            }
            other => other.clone(),
        };
        let next = match (&next, &mut singles) {
            (Token::One(_), Some(count)) => {
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

/// Whether the tokens match all of `name`. Goes back to the last `*` only, which is enough, so the time is at most the
/// product of both lengths.
fn matches_tokens(tokens: &[Token], name: &[u8]) -> bool {
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

fn bytes(text: &str) -> Vec<Token> {
    text.bytes().map(Token::Byte).collect()
}

fn parse(pattern: &str) -> Result<Vec<Token>, GlobError> {
    if pattern.is_empty() {
        return Err(GlobError::Empty);
    }
    if pattern.len() > LONGEST_PATTERN {
        return Err(GlobError::TooLong {
            length: pattern.len(),
        });
    }
    if let Some(at) = pattern.chars().position(|character| character == '\0') {
        return Err(GlobError::Nul {
            pattern: pattern.to_owned(),
            column: at + 1,
        });
    }
    let mut tokens = Vec::new();
    let mut rest = pattern.chars().enumerate();
    while let Some((at, character)) = rest.next() {
        match character {
            '*' => {
                if tokens.last() != Some(&Token::Many) {
                    tokens.push(Token::Many);
                }
            }
            '?' => tokens.push(Token::One(ByteSet::ALL)),
            '[' => tokens.push(Token::One(parse_brackets(pattern, at, &mut rest)?)),
            '\\' => match rest.next() {
                Some((_, escaped)) => push_character(escaped, &mut tokens),
                None => {
                    return Err(GlobError::TrailingBackslash {
                        pattern: pattern.to_owned(),
                    });
                }
            },
            plain => push_character(plain, &mut tokens),
        }
    }
    Ok(tokens)
}

fn push_character(character: char, tokens: &mut Vec<Token>) {
    let mut buffer = [0; 4];
    tokens.extend(bytes(character.encode_utf8(&mut buffer)));
}

/// What stands between `[`, which is at character `opened`, and its `]`; `rest` is left after the latter.
fn parse_brackets(
    pattern: &str,
    opened: usize,
    rest: &mut impl Iterator<Item = (usize, char)>,
) -> Result<ByteSet, GlobError> {
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
        return Err(GlobError::UnclosedBracket {
            pattern: pattern.to_owned(),
            column: opened + 1,
        });
    }
    let byte = |column: usize, character: char| match u8::try_from(character) {
        Ok(byte) if byte.is_ascii() => Ok(byte),
        _ => Err(GlobError::WideInBrackets {
            pattern: pattern.to_owned(),
            column,
            character,
        }),
    };
    let mut set = ByteSet::NONE;
    let mut members = members.as_slice();
    while let [(column, first, _), more @ ..] = members {
        let from = byte(*column, *first)?;
        if let [(_, '-', false), (to_column, last, _), after @ ..] = more {
            let to = byte(*to_column, *last)?;
            if to < from {
                return Err(GlobError::BackwardRange {
                    pattern: pattern.to_owned(),
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
    Ok(if negated { set.complement() } else { set })
}

/// Refuses what can only be a mistake in a module pattern.
fn check_module(pattern: &str) -> Result<(), GlobError> {
    if let Some(at) = pattern.chars().position(|character| character == '/') {
        return Err(GlobError::SlashInModule {
            pattern: pattern.to_owned(),
            column: at + 1,
        });
    }
    let mut after_dot = true;
    let mut columns = 0;
    for character in pattern.chars() {
        columns += 1;
        if character == '.' && after_dot {
            return Err(GlobError::EmptyName {
                pattern: pattern.to_owned(),
                column: columns,
            });
        }
        after_dot = character == '.';
    }
    if after_dot {
        return Err(GlobError::EmptyName {
            pattern: pattern.to_owned(),
            column: columns,
        });
    }
    Ok(())
}

/// For every dot of the pattern outside brackets, whether a backslash stands before it.
fn escaped_dots(pattern: &str) -> Vec<bool> {
    let mut result = Vec::new();
    let mut characters = pattern.chars().enumerate();
    while let Some((at, character)) = characters.next() {
        match character {
            '.' => result.push(false),
            '\\' => {
                if let Some((_, '.')) = characters.next() {
                    result.push(true);
                }
            }
            '[' => {
                // It was parsed before, so it is well formed; only its end is of interest.
                let _ = parse_brackets(pattern, at, &mut characters);
            }
            _ => {}
        }
    }
    result
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
    literal(text, false)
}

/// As [`stap_str`], for a literal that is the format of `printf` or `sprintf`: every `%` stands for itself.
///
/// # Errors
///
/// [`LiteralError`] for text with a NUL.
pub fn stap_format(text: &str) -> Result<String, LiteralError> {
    literal(text.as_bytes(), true)
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

fn literal(text: &[u8], format: bool) -> Result<String, LiteralError> {
    let mut result = String::with_capacity(text.len() + 2);
    result.push('"');
    for byte in text {
        match byte {
            0 => {
                return Err(LiteralError {
                    text: String::from_utf8_lossy(text).into_owned(),
                });
            }
            b'%' if format => result.push_str("%%"),
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
