//! Functions and stacks by number, each kept once.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::python::frames::Frame;

/// Most functions, most bytes of their names, most stacks, and most of their frames together. What is beyond has no function, or
/// no stack but its innermost function.
const MOST_FUNCTIONS: usize = 1 << 16;
const MOST_BYTES: usize = 32 << 20;
const MOST_STACKS: usize = 1 << 16;
const MOST_FRAMES: usize = 1 << 21;
/// The function for which there is no room, and the stack that is nothing but that.
const NO_ROOM: u32 = 0;
/// Most kinds of greenlets and tasks. What is beyond is of one kind.
const MOST_CONTEXTS: usize = 1 << 12;
/// What is in none of them, and that one kind.
pub(super) const NO_CONTEXT: u32 = 0;
const OTHERS: u32 = 1;

/// A function.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) file: String,
}

/// See the head of the module.
#[derive(Debug, Clone)]
pub(super) struct Stacks {
    functions: HashMap<Arc<Function>, u32, RandomState>,
    names: Vec<Arc<Function>>,
    bytes: usize,
    stacks: HashMap<Arc<[u32]>, u32, RandomState>,
    all: Vec<Arc<[u32]>>,
    frames: usize,
    contexts: HashMap<Arc<str>, u32, RandomState>,
    kinds: Vec<Arc<str>>,
}

impl Default for Stacks {
    fn default() -> Stacks {
        let no_room = Arc::new(Function {
            name: "(no room)".to_owned(),
            file: String::new(),
        });
        let mut stacks = Stacks {
            functions: HashMap::default(),
            names: vec![no_room],
            bytes: 0,
            stacks: HashMap::default(),
            all: Vec::new(),
            frames: 0,
            contexts: HashMap::default(),
            kinds: vec!["".into(), "(others)".into()],
        };
        stacks.keep([NO_ROOM].into());
        stacks
    }
}

impl Stacks {
    /// The number of a stack, the innermost frame first.
    pub(super) fn number(&mut self, frames: Vec<Frame>) -> u32 {
        let functions = frames.into_iter().map(|frame| {
            self.function(Function {
                name: frame.function,
                file: frame.file,
            })
        });
        let functions = functions.collect();
        self.stack(functions)
    }

    /// The number of a stack of functions by their numbers, the innermost first.
    pub(super) fn stack(&mut self, functions: Vec<u32>) -> u32 {
        if let Some(number) = self.stacks.get(functions.as_slice()) {
            return *number;
        }
        if self.all.len() < MOST_STACKS && self.frames + functions.len() <= MOST_FRAMES {
            return self.keep(functions.into());
        }
        let innermost: Vec<u32> = functions.into_iter().take(1).collect();
        match self.stacks.get(innermost.as_slice()) {
            Some(number) => *number,
            // As many as there are functions.
            None if self.all.len() < MOST_STACKS + MOST_FUNCTIONS => self.keep(innermost.into()),
            None => NO_ROOM,
        }
    }

    fn keep(&mut self, functions: Arc<[u32]>) -> u32 {
        let number = self.all.len() as u32;
        self.frames += functions.len();
        self.stacks.insert(Arc::clone(&functions), number);
        self.all.push(functions);
        number
    }

    /// The number of a function.
    pub(super) fn function(&mut self, function: Function) -> u32 {
        if let Some(number) = self.functions.get(&function) {
            return *number;
        }
        let bytes = function.name.len() + function.file.len();
        if self.names.len() >= MOST_FUNCTIONS || self.bytes + bytes > MOST_BYTES {
            return NO_ROOM;
        }
        self.bytes += bytes;
        let number = self.names.len() as u32;
        let function = Arc::new(function);
        self.names.push(Arc::clone(&function));
        self.functions.insert(function, number);
        number
    }

    /// The number of a function that is known.
    pub(super) fn number_of(&self, function: &Function) -> Option<u32> {
        self.functions.get(function).copied()
    }

    /// The functions of a stack, the innermost first.
    pub(super) fn of(&self, number: u32) -> &[u32] {
        self.all.get(number as usize).map_or(&[], |it| it)
    }

    /// The number of a kind of greenlets or tasks.
    pub(super) fn context(&mut self, kind: &str) -> u32 {
        if let Some(number) = self.contexts.get(kind) {
            return *number;
        }
        if self.kinds.len() >= MOST_CONTEXTS {
            return OTHERS;
        }
        let number = self.kinds.len() as u32;
        let kind: Arc<str> = kind.into();
        self.kinds.push(Arc::clone(&kind));
        self.contexts.insert(kind, number);
        number
    }

    /// A kind of greenlets or tasks by its number; `None` for none.
    pub(super) fn kind(&self, number: u32) -> Option<&Arc<str>> {
        self.kinds
            .get(number as usize)
            .filter(|_| number != NO_CONTEXT)
    }

    /// Kinds from this number on.
    pub(super) fn kinds_since(&self, number: usize) -> &[Arc<str>] {
        self.kinds.get(number..).unwrap_or_default()
    }

    /// Functions and stacks from these numbers on, in the order of their numbers.
    pub(super) fn since(
        &self,
        functions: usize,
        stacks: usize,
    ) -> (&[Arc<Function>], &[Arc<[u32]>]) {
        let functions = self.names.get(functions..).unwrap_or_default();
        (functions, self.all.get(stacks..).unwrap_or_default())
    }

    /// A function by its number.
    pub(super) fn named(&self, function: u32) -> Option<&Arc<Function>> {
        self.names.get(function as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(names: &[&str]) -> Vec<Frame> {
        let frames = names.iter().map(|name| Frame {
            function: (*name).to_owned(),
            file: "/a.py".to_owned(),
            line: Some(7),
        });
        frames.collect()
    }

    #[test]
    fn the_same_stack_has_the_same_number_wherever_its_lines_are() {
        let mut stacks = Stacks::default();
        let one = stacks.number(frames(&["f", "main"]));
        let mut other = frames(&["f", "main"]);
        other[0].line = None;
        assert_eq!(stacks.number(other), one);
        assert_ne!(stacks.number(frames(&["main"])), one);
        let names: Vec<&str> = stacks
            .of(one)
            .iter()
            .filter_map(|function| Some(stacks.named(*function)?.name.as_str()))
            .collect();
        assert_eq!(names, ["f", "main"]);
    }

    #[test]
    fn what_has_no_room_keeps_its_innermost_function_and_then_nothing() {
        let mut stacks = Stacks::default();
        let f = stacks.number(frames(&["f"]));
        stacks.frames = MOST_FRAMES;
        assert_eq!(stacks.number(frames(&["f", "main"])), f);
        stacks.bytes = MOST_BYTES;
        assert_eq!(stacks.number(frames(&["g"])), NO_ROOM);
    }
}
