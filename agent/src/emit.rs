//! From an event of the interpreter to a mark: whether it is wanted, the account, and what the mark says.

use core::ptr::{null, null_mut};

use crate::codes::{self, Code};
use crate::marks::{self, ANNOUNCED, FUNCTION_ENTRY, FUNCTION_RETURN};
use crate::python::Ptr;
use crate::session::LIVE;
use crate::stacks;

/// What became of an event.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was told, or counted where nobody listens.
    Told,
    /// No filter wants this code.
    Unwanted,
}

/// What takes time to find out, and is asked for only where somebody listens.
pub(crate) struct Details {
    /// The line where the frame is.
    pub(crate) line: i32,
    /// Flags of the mark.
    pub(crate) flags: u64,
}

/// A frame is entered. `frame` is it where that is at hand, else null.
#[inline(always)]
pub(crate) unsafe fn entry(
    object: Ptr,
    frame: Ptr,
    details: impl FnOnce(*mut Code) -> Details,
) -> Outcome {
    let live = LIVE.get();
    if (*live).filtered && codes::wanted(object).is_none() {
        return Outcome::Unwanted;
    }
    let stack = stacks::current(frame, object);
    (*stack).depth += 1;
    (*live).entries += 1;
    if FUNCTION_ENTRY.is_raised()
        && let Some(code) = codes::wanted(object)
    {
        tell(marks::function_entry, code, details(code));
    }
    Outcome::Told
}

/// A frame is left.
#[inline(always)]
pub(crate) unsafe fn exit(
    object: Ptr,
    frame: Ptr,
    details: impl FnOnce(*mut Code) -> Details,
) -> Outcome {
    let live = LIVE.get();
    if (*live).filtered && codes::wanted(object).is_none() {
        return Outcome::Unwanted;
    }
    let stack = stacks::current(frame, null_mut());
    if (*stack).depth == 0 {
        // It was entered before the session and not announced.
        return Outcome::Told;
    }
    (*stack).depth -= 1;
    (*live).returns += 1;
    if FUNCTION_RETURN.is_raised()
        && let Some(code) = codes::wanted(object)
    {
        tell(marks::function_return, code, details(code));
    }
    Outcome::Told
}

/// A frame that was running before the session. Says whether it is wanted.
pub(crate) unsafe fn announced(object: Ptr, line: i32) -> bool {
    let live = LIVE.get();
    let Some(code) = codes::wanted(object) else {
        return false;
    };
    (*live).entries += 1;
    if FUNCTION_ENTRY.is_raised() {
        let flags = ANNOUNCED;
        tell(marks::function_entry, code, Details { line, flags });
    }
    true
}

unsafe fn tell(mark: marks::Function, code: *mut Code, details: Details) {
    let Details { line, flags } = details;
    let Code {
        filename,
        name,
        qualname,
        ..
    } = *code;
    mark(filename, name, line, qualname, 0, flags, null());
}
