//! Types of objects, told by their names and by what they derive from.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use foldhash::fast::RandomState;

use super::layout::Layout;
use super::memory::{Memory, Unread};
use super::stack::added;

/// Longest name of a type that is read, in bytes.
const LONGEST_NAME: usize = 256;
/// Most types that are kept at a time, and the longest line of ancestors.
const MOST_TYPES: usize = 1 << 16;
const ANCESTORS: usize = 64;
/// How far `tp_iternext` is behind `tp_name`, the same in every version.
const ITERNEXT: u64 = 200;
/// No object that matters here is larger.
const LARGEST: u64 = 1 << 10;

/// What an object is, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A task of asyncio, as its module in C makes them.
    Task,
    /// A generator, a coroutine or an asynchronous generator.
    Generator,
    /// What stands for a generator while it is awaited; its first field is that generator.
    Wrapper,
    /// What awaits a future; its first field is that future.
    OfFuture,
    /// A greenlet. The size of its type is that of the library's own.
    Greenlet,
    /// An object that stands for a frame, or (up to 3.10) is one.
    Frame,
    /// A function that was written in Python.
    Function,
    Text,
    Number,
    Other,
}

/// A type.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Type {
    pub(super) kind: Kind,
    /// As it calls itself: with its module where it was written in C.
    pub(super) name: String,
    /// Bytes of the fields that the kind is known for.
    pub(super) size: u64,
    /// Whether its objects have next values, as everything has that is awaited.
    pub(super) iterates: bool,
}

/// Types that were looked at.
#[derive(Default)]
pub(super) struct Types {
    known: RefCell<HashMap<u64, Rc<Type>, RandomState>>,
}

impl Types {
    /// The type at this address.
    pub(super) fn at<M: Memory>(
        &self,
        memory: &M,
        layout: &Layout,
        address: u64,
    ) -> Result<Rc<Type>, Unread> {
        if let Some(known) = self.known.borrow().get(&address) {
            return Ok(Rc::clone(known));
        }
        let found = Rc::new(read(memory, layout, address)?);
        let mut known = self.known.borrow_mut();
        if known.len() >= MOST_TYPES {
            known.clear();
        }
        known.insert(address, Rc::clone(&found));
        Ok(found)
    }

    /// The type of an object.
    pub(super) fn of<M: Memory>(
        &self,
        memory: &M,
        layout: &Layout,
        object: u64,
    ) -> Result<Rc<Type>, Unread> {
        let address = memory.number(added(object, layout.objects.object_type)?)?;
        self.at(memory, layout, address)
    }
}

fn read<M: Memory>(memory: &M, layout: &Layout, address: u64) -> Result<Type, Unread> {
    let at = &layout.objects;
    let name_of = |its_type: u64| name(memory, memory.number(added(its_type, at.type_name)?)?);
    let own = name_of(address)?;
    let next = added(added(address, at.type_name)?, ITERNEXT)?;
    let iterates = memory.number(next).is_ok_and(|it| it != 0);
    let (mut ancestor, mut called) = (address, own.clone());
    for _ in 0..ANCESTORS {
        let kind = kind(&called);
        if kind != Kind::Other {
            let size = memory.number(added(ancestor, at.type_size)?)?;
            return Ok(Type {
                kind,
                name: own,
                size: size.min(LARGEST),
                iterates,
            });
        }
        ancestor = memory.number(added(ancestor, at.type_base)?)?;
        if ancestor == 0 {
            break;
        }
        called = name_of(ancestor)?;
    }
    Ok(Type {
        kind: Kind::Other,
        name: own,
        size: 0,
        iterates,
    })
}

fn kind(name: &str) -> Kind {
    match name {
        "_asyncio.Task" => Kind::Task,
        "coroutine" | "generator" | "async_generator" => Kind::Generator,
        "coroutine_wrapper"
        | "async_generator_asend"
        | "async_generator_athrow"
        | "anext_awaitable" => Kind::Wrapper,
        "_asyncio.FutureIter" => Kind::OfFuture,
        "greenlet.greenlet" => Kind::Greenlet,
        "frame" => Kind::Frame,
        "function" => Kind::Function,
        "str" => Kind::Text,
        "int" => Kind::Number,
        _ => Kind::Other,
    }
}

/// A text that ends with a zero. Not read beyond its page before it is known to go on there.
fn name<M: Memory>(memory: &M, address: u64) -> Result<String, Unread> {
    const PAGE: u64 = 4096;
    let mut text = Vec::new();
    while text.len() < LONGEST_NAME {
        let at = added(address, text.len() as u64)?;
        let rest = (PAGE - at % PAGE) as usize;
        let bytes = memory.bytes(at, rest.min(LONGEST_NAME - text.len()))?;
        let end = bytes.iter().position(|byte| *byte == 0);
        text.extend_from_slice(bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default());
        if end.is_some() {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}
