//! The keys of live tables, what they do, and the filter that is typed with them.

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

/// Keys and what they do. Tables look keys up in such rows, and help shows the same rows, so that none is missing there.
#[derive(Debug)]
pub(crate) struct Binding<C: 'static> {
    /// Each of them does it.
    pub(crate) keys: &'static [Key],
    /// What they are called in help.
    pub(crate) shown: &'static str,
    /// What they do, in help.
    pub(crate) does: &'static str,
    /// What they do.
    pub(crate) command: C,
}

/// Binds keys, by these words in help, to what they do.
pub(crate) const fn bind<C: Copy>(
    keys: &'static [Key],
    shown: &'static str,
    does: &'static str,
    command: C,
) -> Binding<C> {
    Binding {
        keys,
        shown,
        does,
        command,
    }
}

/// What a key does, if anything.
pub(crate) fn command<C: Copy>(bindings: &[Binding<C>], key: Key) -> Option<C> {
    let mut bound = bindings.iter();
    let bound = bound.find(|it| it.keys.contains(&key));
    bound.map(|it| it.command)
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
