//! Names that a program has given its threads: `threading.Thread.name`.
//!
//! The outermost function of such a thread is the method of its object that begins it, so the object is that function's first local
//! variable. It knows the thread by the kernel's number, too: a thread state that has just become another thread's may still have the
//! frames of the one before. Of the main thread, and of threads that were not begun by `threading`, nothing is known.

use super::attributes::attribute;
use super::memory::{Memory, Unread};
use super::objects::Reader;
use super::stack::{self, added, object};

/// The method, without and with its class (3.11), the end of its file, and the attributes that have the name and the number.
const BEGINS: [&str; 2] = ["_bootstrap", "Thread._bootstrap"];
const FILE: &str = "threading.py";
const NAME: &str = "_name";
const NUMBER: &str = "_native_id";

/// The name of the thread with this thread state and this number, in its own namespace; `None` where it has none.
pub(super) fn name<M: Memory>(
    reader: &Reader<M>,
    thread: u64,
    number: u32,
) -> Result<Option<String>, Unread> {
    let (memory, layout) = (&reader.memory, &reader.layout);
    let chain = stack::chain(memory, layout, stack::innermost(memory, layout, thread)?)?;
    let outermost = chain.frames.iter().rev().find(|raw| raw.is_of_python());
    let Some(outermost) = outermost.filter(|_| !chain.cut) else {
        return Ok(None);
    };
    let begins = reader.functions(&[outermost.code])?;
    let begins = begins.first().is_some_and(|(function, _)| {
        BEGINS.contains(&&*function.name) && function.file.ends_with(FILE)
    });
    if !begins {
        return Ok(None);
    }
    let object = object(memory.number(added(outermost.address, layout.locals)?)?);
    let its_number = match attribute(reader, object, NUMBER)? {
        Some(its_number) => reader.small_number(memory, its_number)?,
        None => None,
    };
    match attribute(reader, object, NAME)? {
        Some(name) if its_number == Some(number) => Ok(Some(reader.name(name)?)),
        _ => Ok(None),
    }
}
