//! Which functions are generators, where that does not show: the creation of a generator (or a coroutine) looks like a call,
//! and what is thrown into one is a return without a call. So "made, and then another one is closed" looks like a call that
//! returns, and "made, run, closed" like a recursion.
//!
//! What tells them apart:
//!
//! - A function that is entered where it was left before is a generator, and goes on. Its first line is entered twice for each
//!   one that is made: a return may end the second of these, and never the first. Where it was called in another call of its
//!   function, that one may have made it and end itself.
//! - A function that returns while no other call of it is open in its thread, and did not call itself, is plain: of a generator
//!   that ran, the creation would be open as well. So is one of which an odd number of calls nest and all return, or that
//!   returns from deep within itself again and again: a generator makes two calls, and few have something thrown into many.
//! - What is thrown into a generator that never ran returns from its first line.
//! - A function that shares variables (closures, methods that call `super()`) is entered without a line, but for generators that
//!   run: these are only made without one.
//!
//! Until one of these has been seen, returns of a function that was called within itself are in doubt. What nothing shows, and
//! is taken for what it looks like: something is thrown into a generator that was made before tracing began, or that never ran,
//! as the first that is seen of its function; into an older one, while two newer ones were made in the same call and neither
//! has run; into one that shares variables and that is only ever run once and closed where it was made.

use std::collections::HashMap;
use std::hash::BuildHasher;

use crate::analysis::keys::{FunctionKey, KeyBuilder, NameKey};
use crate::event::Place;

/// Functions of which something is remembered. Others are in doubt where they are called within themselves.
const MOST: usize = 1 << 16;
/// Returns of calls within calls within calls, in one that still goes on, after which a function is taken for a recursion.
const DEEP: u8 = 8;

/// What an entry into a function was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// A call that returns.
    Call,
    /// A generator that goes on.
    Resumption,
    /// One of these, or the creation of a generator, or its first run.
    Any,
}

/// Whether a return ends the call that it seems to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Sure,
    Doubtful,
    /// It ends something that has no call, and what seemed to be one was the creation of a generator.
    Another,
    /// What seemed to be a call was the creation of a generator by one that ran, and that one ends.
    Maker,
}

/// The nearest call of a function that encloses another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Around {
    Nothing,
    Resumption,
    /// A call of which nothing is known.
    Any,
}

/// Which function was entered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entered<'a> {
    pub(super) place: &'a Place,
    pub(super) name: NameKey,
    pub(super) key: FunctionKey,
    /// 0 or less where it is not known: functions that share variables are told so, but for generators only their creation.
    pub(super) line: i32,
}

/// A call that seems to return, of which is not known what it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Returned {
    /// What has happened within it.
    pub(super) within: Within,
    /// Whether no other call of the function is or was open in the thread meanwhile.
    pub(super) lone: bool,
    /// What it was called in.
    pub(super) around: Around,
    /// The line that was left.
    pub(super) line: i32,
}

/// Calls of a function within one of its calls, that returned: the lowest bit says whether their number is odd, the others how
/// deep they nested, up to a bound. In one byte, because each open call has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Within(u8);

impl Within {
    const ODD: u8 = 1;
    const DEEPEST: u8 = u8::MAX >> 1;

    /// One more has returned, with what was within it.
    pub(super) fn add(&mut self, inner: Within) {
        let depth = self.depth().max(inner.depth().saturating_add(1));
        // Itself, and those within it.
        let odd = self.is_odd() ^ !inner.is_odd();
        self.0 = depth.min(Within::DEEPEST) << 1 | u8::from(odd);
    }

    fn depth(self) -> u8 {
        self.0 >> 1
    }

    fn is_odd(self) -> bool {
        self.0 & Within::ODD != 0
    }

    fn is_nothing(self) -> bool {
        self.depth() == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Unknown,
    Plain,
    /// A call did not return, as that of a generator that is made.
    Suspect,
    Generator,
}

#[derive(Debug)]
struct Function {
    sort: Sort,
    /// Whether it has no name of its own: then all of it may be in one line, and nothing in it runs when it is closed.
    anonymous: bool,
    /// Whether it was left at another line than its first.
    has_lines: bool,
    /// Returns from deep within itself.
    deep: u8,
    /// Entries at the first line that no first run has used up: two for each.
    entries: u32,
}

/// What is known of functions. Those without a line are one for each name, and never known to be plain.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    functions: HashMap<u64, Function, KeyBuilder>,
}

impl Kinds {
    /// A function is entered; `goes_on` where it was left before.
    pub(super) fn entered(&mut self, it: Entered<'_>, goes_on: bool) -> Entry {
        let Some(function) = self.function(it) else {
            return Entry::Any;
        };
        if goes_on {
            let sort = std::mem::replace(&mut function.sort, Sort::Generator);
            if sort == Sort::Plain {
                // It ran without having been made at its line.
                self.suspect(it.without_line());
            }
            return Entry::Resumption;
        }
        if function.sort == Sort::Plain {
            return Entry::Call;
        }
        function.entries = function.entries.saturating_add(1);
        Entry::Any
    }

    /// What a return is that seems to end an entry of which nothing is known.
    pub(super) fn returned(&mut self, entered: Entered<'_>, it: Returned) -> Verdict {
        let leaf = it.within.is_nothing();
        let Some(function) = self.functions.get_mut(&entered.id()) else {
            return match leaf {
                true => Verdict::Sure,
                false => Verdict::Doubtful,
            };
        };
        if entered.line <= 0 {
            return function.without_line(it.around);
        }
        let at_entry = it.line == entered.line;
        let never_ran = at_entry && function.has_lines && !function.anonymous;
        function.has_lines |= !at_entry;
        match function.sort {
            Sort::Plain => return Verdict::Sure,
            _ if leaf && function.anonymous => return Verdict::Sure,
            _ if never_ran => {
                function.entries = function.entries.saturating_sub(1);
                return function.other();
            }
            Sort::Unknown => {
                let plain = function.is_plain(it);
                // What returns from its first line may be a generator that never ran.
                if plain && !(at_entry && leaf) {
                    function.sort = Sort::Plain;
                }
                if it.lone {
                    (function.entries, function.deep) = (0, 0);
                }
                if plain {
                    return Verdict::Sure;
                }
            }
            Sort::Suspect | Sort::Generator => {}
        }
        if !leaf {
            return Verdict::Doubtful;
        }
        if at_entry {
            return Verdict::Sure;
        }
        if let Some(verdict) = function.first_run(it.around) {
            return verdict;
        }
        let other = function.other();
        match self.was_made_without_line(entered) {
            true => Verdict::Sure,
            false => other,
        }
    }

    /// A call did not return although one below it did.
    pub(super) fn passed_over(&mut self, entered: Entered<'_>) {
        if self.function(entered).is_some() {
            self.suspect(entered.id());
        }
    }

    /// Whether it was seen to go on.
    pub(super) fn is_generator(&self, entered: Entered<'_>) -> bool {
        let function = self.functions.get(&entered.id());
        function.is_some_and(|it| it.sort == Sort::Generator)
    }

    /// A function may be a generator.
    fn suspect(&mut self, id: u64) {
        if let Some(function) = self.functions.get_mut(&id)
            && function.sort != Sort::Generator
        {
            // What was a call until now was not counted.
            function.entries += u32::from(function.sort == Sort::Plain);
            function.sort = Sort::Suspect;
        }
    }

    /// Whether this is the first run of a generator whose creation had no line.
    fn was_made_without_line(&mut self, entered: Entered<'_>) -> bool {
        let id = entered.without_line();
        let Some(made) = self.functions.get_mut(&id).filter(|it| it.entries > 0) else {
            return false;
        };
        made.entries -= 1;
        self.suspect(id);
        if let Some(function) = self.functions.get_mut(&entered.id()) {
            function.entries = function.entries.saturating_sub(1);
        }
        true
    }

    fn function(&mut self, entered: Entered<'_>) -> Option<&mut Function> {
        let id = entered.id();
        if self.functions.len() >= MOST && !self.functions.contains_key(&id) {
            return None;
        }
        Some(self.functions.entry(id).or_insert_with(|| Function {
            sort: Sort::Unknown,
            anonymous: entered.place.function.text.starts_with('<'),
            has_lines: false,
            deep: 0,
            entries: 0,
        }))
    }
}

impl Entered<'_> {
    fn id(self) -> u64 {
        match self.line {
            1.. => self.key.number(),
            _ => self.without_line(),
        }
    }

    fn without_line(self) -> u64 {
        KeyBuilder.hash_one((self.name, 0_u32))
    }
}

impl Function {
    /// Something else returned. Only who is known to be a generator has made one.
    fn other(&self) -> Verdict {
        match self.sort {
            Sort::Generator => Verdict::Another,
            _ => Verdict::Doubtful,
        }
    }

    /// What the return is of a function without a line. A generator that is made without one runs with one.
    fn without_line(&mut self, around: Around) -> Verdict {
        match self.sort {
            Sort::Suspect => Verdict::Doubtful,
            _ if around != Around::Nothing => Verdict::Doubtful,
            _ => {
                self.entries = self.entries.saturating_sub(1);
                Verdict::Sure
            }
        }
    }

    /// What a return is that would end a first run; `None` where that cannot be.
    fn first_run(&mut self, around: Around) -> Option<Verdict> {
        match (self.entries, around) {
            // It was made before, or it was made now by the one that ends. Both leave as many behind.
            (2.., Around::Resumption) | (3.., Around::Any) => {
                self.entries -= 2;
                Some(Verdict::Doubtful)
            }
            (2.., _) => {
                self.entries -= 2;
                Some(Verdict::Sure)
            }
            (_, Around::Resumption) => Some(Verdict::Maker),
            _ => None,
        }
    }

    /// Whether this return tells that it is no generator.
    fn is_plain(&mut self, it: Returned) -> bool {
        if it.within.is_nothing() {
            return it.lone;
        }
        self.deep += u8::from(it.within.depth() >= 2);
        self.deep >= DEEP || (it.lone && !it.within.is_odd())
    }
}
