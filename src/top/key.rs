//! The keys of live tables, and the filter that is typed with them.

/// A key, whatever terminal it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Backspace.
    Backspace,
    /// One line up.
    Up,
    /// One line down.
    Down,
    /// One column to the left.
    Left,
    /// One column to the right.
    Right,
    /// A page up.
    PageUp,
    /// A page down.
    PageDown,
    /// To the beginning.
    Home,
    /// To the end.
    End,
    /// Ctrl-C.
    Interrupt,
}

/// A filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Typed {
    /// As far as it was typed.
    pub(crate) text: String,
    /// It is being typed.
    pub(crate) typing: bool,
}

impl Typed {
    /// Follows a key while it is being typed.
    pub(crate) fn key(&mut self, key: Key) {
        match key {
            Key::Enter => self.typing = false,
            Key::Escape => *self = Typed::default(),
            Key::Backspace => {
                self.text.pop();
            }
            Key::Char(character) => self.text.push(character),
            _ => {}
        }
    }
}
