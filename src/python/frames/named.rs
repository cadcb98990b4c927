//! Names that a program has given its threads: `threading.Thread.name`.
//!
//! The outermost function of such a thread is the method of its object that begins it, so the object is that function's first local
//! variable. Of the main thread, and of threads that were not begun by `threading`, nothing is known.

use super::attributes::attribute;
use super::memory::{Memory, Unread};
use super::objects::Reader;
use super::stack::{self, added};

/// The method, without and with its class (3.11), the end of its file, and the attribute that has the name.
const BEGINS: [&str; 2] = ["_bootstrap", "Thread._bootstrap"];
const FILE: &str = "threading.py";
const NAME: &str = "_name";
/// References in frames have flags in their lowest bits from 3.14 on; no object has any there.
const FLAGS: u64 = 7;

/// The name of the thread with this thread state; `None` where it has none.
pub(super) fn name<M: Memory>(reader: &Reader<M>, thread: u64) -> Result<Option<String>, Unread> {
    let (memory, layout) = (&reader.memory, &reader.layout);
    let (chain, cut) = stack::chain(memory, layout, stack::innermost(reader, thread)?)?;
    let outermost = chain.iter().rev().find(|raw| raw.is_of_python());
    let Some(outermost) = outermost.filter(|_| !cut) else {
        return Ok(None);
    };
    let begins = reader.functions(&[outermost.code])?;
    let begins = begins.first().is_some_and(|(function, _)| {
        BEGINS.contains(&&*function.name) && function.file.ends_with(FILE)
    });
    if !begins {
        return Ok(None);
    }
    let object = memory.number(added(outermost.address, layout.locals)?)? & !FLAGS;
    match attribute(reader, object, NAME)? {
        Some(name) => Ok(Some(reader.name(name)?)),
        None => Ok(None),
    }
}
