//! From an event of the interpreter to a mark: whether it is wanted, the account, and what the mark says.

use core::ptr::null;

use crate::codes::{self, Code};
use crate::marks::{self, ANNOUNCED, FUNCTION_ENTRY, FUNCTION_RETURN};
use crate::python::{Ptr, number};
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

/// Where in its code a frame is.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// At its beginning.
    First,
    /// At an offset in bytes, an integer object.
    Object(Ptr),
    /// In this line.
    Line(i32),
}

impl Place {
    unsafe fn line(self, code: *mut Code) -> i32 {
        match self {
            Place::First => (*code).first_line,
            Place::Object(offset) => (*code).line_at(number(offset, 0) as i32),
            Place::Line(line) => line,
        }
    }
}

/// A frame is entered. `frame` is it where that is at hand, else null.
#[inline(always)]
pub(crate) unsafe fn entry(object: Ptr, frame: Ptr, place: Place, flags: u64) -> Outcome {
    let live = LIVE.get();
    if (*live).filtered && codes::wanted(object).is_none() {
        return Outcome::Unwanted;
    }
    let stack = stacks::current(frame, object);
    (*stack).depth += 1;
    (*live).entries += 1;
    if FUNCTION_ENTRY.is_raised() {
        tell_entry(object, place, flags);
    }
    Outcome::Told
}

/// A frame is left.
#[inline(always)]
pub(crate) unsafe fn exit(object: Ptr, frame: Ptr, place: Place, flags: u64) -> Outcome {
    let live = LIVE.get();
    if (*live).filtered && codes::wanted(object).is_none() {
        return Outcome::Unwanted;
    }
    let stack = stacks::current(frame, core::ptr::null_mut());
    if (*stack).depth == 0 {
        // It was entered before the session and not announced.
        return Outcome::Told;
    }
    (*stack).depth -= 1;
    (*live).returns += 1;
    if FUNCTION_RETURN.is_raised() {
        tell_return(object, place, flags);
    }
    Outcome::Told
}

/// A frame that was running before the session. Says whether it is wanted.
pub(crate) unsafe fn announced(object: Ptr, line: i32) -> bool {
    let live = LIVE.get();
    if (*live).filtered && codes::wanted(object).is_none() {
        return false;
    }
    (*live).entries += 1;
    if FUNCTION_ENTRY.is_raised() {
        tell_entry(object, Place::Line(line), ANNOUNCED);
    }
    true
}

unsafe fn tell_entry(object: Ptr, place: Place, flags: u64) {
    let Some(code) = codes::wanted(object) else {
        return;
    };
    let line = place.line(code);
    let Code {
        filename,
        name,
        qualname,
        ..
    } = *code;
    marks::function_entry(filename, name, line, qualname, 0, flags, null());
}

unsafe fn tell_return(object: Ptr, place: Place, flags: u64) {
    let Some(code) = codes::wanted(object) else {
        return;
    };
    let line = place.line(code);
    let Code {
        filename,
        name,
        qualname,
        ..
    } = *code;
    marks::function_return(filename, name, line, qualname, 0, flags, null());
}
