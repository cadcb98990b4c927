//! Text from outside: names, paths, command lines and messages chosen by a traced program, another user or another
//! tool. Nothing here prints it raw. What a terminal interprets, what reverses or hides text, and what a
//! machine-readable format cannot represent is escaped, in the same way everywhere:
//!
//! - a character becomes `\u{1b}`, a byte that is not UTF-8 `\xff`;
//! - a backslash that would read like one of these becomes `\u{5c}`, every other backslash stays itself.
//!
//! So whatever is shown is one line, is distinct for every text, and can be decoded again.

use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Text from outside. Its only way out is [`fmt::Display`], which escapes it.
#[derive(Clone, Copy)]
pub struct Foreign<'a> {
    bytes: &'a [u8],
    /// A character of the surrounding format, which the text must not contain either.
    separator: Option<char>,
}

impl<'a> Foreign<'a> {
    /// A string, or bytes that may be one.
    pub fn new<T: AsRef<[u8]> + ?Sized>(text: &'a T) -> Foreign<'a> {
        Foreign {
            bytes: text.as_ref(),
            separator: None,
        }
    }

    /// A path.
    pub fn path(path: &'a Path) -> Foreign<'a> {
        Foreign::os(path.as_os_str())
    }

    /// A command-line word or a file name.
    pub fn os(text: &'a OsStr) -> Foreign<'a> {
        Foreign::new(text.as_bytes())
    }

    /// The same for a format in which this character has a meaning: it is escaped too.
    pub fn without(self, separator: char) -> Foreign<'a> {
        Foreign {
            separator: Some(separator),
            ..self
        }
    }
}

impl fmt::Display for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.bytes.utf8_chunks() {
            let text = chunk.valid();
            let mut plain_from = 0;
            for (at, character) in text.char_indices() {
                let after = text.get(at + character.len_utf8()..).unwrap_or_default();
                let reads_like_ours =
                    character == '\\' && (after.starts_with("u{") || after.starts_with('x'));
                if reads_like_ours || obeyed(character) || self.separator == Some(character) {
                    f.write_str(text.get(plain_from..at).unwrap_or_default())?;
                    write!(f, "{}", character.escape_unicode())?;
                    plain_from = at + character.len_utf8();
                }
            }
            f.write_str(text.get(plain_from..).unwrap_or_default())?;
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Foreign<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Foreign({self})")
    }
}

/// Text of ours that may contain foreign text, for the last step before a terminal: newlines stay, and everything else
/// that a terminal interprets is escaped. Text that is known to be foreign is [`Foreign`] before it gets here.
pub fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if obeyed(character) && character != '\n' {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The same for source code, whose tabs stay as well.
pub fn harmless_code(text: &str) -> String {
    let parts: Vec<String> = text.split('\t').map(harmless).collect();
    parts.join("\t")
}

/// The same for text that we have coloured: colour codes stay as well.
pub fn harmless_but_coloured(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        shown.push_str(&harmless(before));
        let end = after.find(|it: char| !it.is_ascii_digit() && it != ';');
        match end.map(|end| after.split_at(end)) {
            Some((code, after)) if after.starts_with('m') => {
                shown.extend(["\x1b[", code]);
                rest = after;
            }
            _ => {
                shown.push_str(&harmless("\x1b["));
                rest = after;
            }
        }
    }
    shown.push_str(&harmless(rest));
    shown
}

/// Whether a character does anything but show itself: control characters; those that join, reverse, hide or separate
/// text (Unicode's default-ignorable and format characters, line and paragraph separators); and noncharacters, which
/// XML cannot represent.
pub fn obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
            | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fdd0}'..='\u{fdef}' | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
        || u32::from(character) & 0xfffe == 0xfffe
}

/// JSON of ours that may contain foreign text, with everything that a terminal interprets escaped as JSON does it: a
/// reader gets the same values back.
pub fn harmless_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        // Outside of strings, JSON has no other such character.
        if obeyed(character) && character != '\n' {
            shown.push_str(&json_escape(character));
        } else {
            shown.push(character);
        }
    }
    shown
}

/// As much of a path as there is room for, in characters: its end says more than its beginning. Nothing where there is hardly any.
pub(crate) fn ending(path: &str, room: usize) -> String {
    const LEAST: usize = 8;
    let long = path.chars().count();
    if room < LEAST.min(long) {
        return String::new();
    }
    if long <= room {
        return path.to_owned();
    }
    let end: String = path.chars().skip(long + 1 - room).collect();
    // Whole names, where one fits.
    match end.find('/') {
        Some(slash) => format!("…{}", end.get(slash..).unwrap_or_default()),
        None => format!("…{end}"),
    }
}

/// As much of a name as there is room for, in characters: its end says more than its beginning.
pub(crate) fn end_of(name: &str, room: usize) -> String {
    let long = name.chars().count();
    match (long <= room, room) {
        (true, _) => name.to_owned(),
        (false, 0) => String::new(),
        (false, _) => {
            let end: String = name.chars().skip(long + 1 - room).collect();
            format!("…{end}")
        }
    }
}

/// A text on one line; of one that is longer than `room` its beginning and its end, which tell statements apart.
pub(crate) fn both_ends(text: &str, room: usize) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let line = words.join(" ");
    let length = line.chars().count();
    if length <= room {
        return line;
    }
    let end = room * 2 / 5;
    let begin = line.chars().take(room.saturating_sub(end + 1));
    let end = line.chars().skip(length - end);
    begin.chain(['\u{2026}']).chain(end).collect()
}

/// A character's JSON escape: one or two UTF-16 units.
pub(crate) fn json_escape(character: char) -> String {
    let mut escaped = String::new();
    for unit in character.encode_utf16(&mut [0; 2]) {
        // Writing to a String cannot fail.
        let _ = write!(escaped, "\\u{unit:04x}");
    }
    escaped
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
