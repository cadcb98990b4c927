//! Texts that come from traced processes.

use std::borrow::Cow;
use std::fmt;

use crate::text::Foreign;

/// A string that came out of the traced process, with what happened to it on the way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Text {
    /// The text; invalid UTF-8 stands as U+FFFD.
    pub text: String,
    /// The string was longer than what the probe could copy; `text` is its beginning.
    pub cut: bool,
    /// Some bytes were not UTF-8 and were replaced.
    pub replaced: bool,
    /// The pointer could not be read; `text` is empty.
    pub unreadable: bool,
}

/// What a name is told as for which there was no room, see [`allowance`](super::allowance).
const LEFT_OUT: &str = "[name left out]";

impl Text {
    /// What these bytes say. `cut` where they are the beginning of more.
    pub fn of_bytes(bytes: &[u8], cut: bool) -> Text {
        let text = String::from_utf8_lossy(bytes);
        Text {
            replaced: matches!(text, Cow::Owned(_)),
            text: text.into_owned(),
            cut,
            unreadable: false,
        }
    }

    /// What stands for every name for which there was no room, see [`allowance`](super::allowance).
    pub fn left_out() -> Text {
        Text {
            text: LEFT_OUT.to_owned(),
            ..Text::default()
        }
    }

    /// Whether it is that.
    pub fn is_left_out(&self) -> bool {
        self.text == LEFT_OUT
    }
}

/// As people see it: escaped like everything foreign, with a mark where it was cut. `text` is for programs.
impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unreadable {
            return f.write_str("[unreadable]");
        }
        Foreign::new(&self.text).fmt(f)?;
        f.write_str(if self.cut { "..." } else { "" })
    }
}
