//! From an event of the interpreter to a probe: whether it is wanted, the account, and what the probe says.

use alloc::vec::Vec;
use core::ptr::{null, null_mut};

use crate::codes::{self, Code};
use crate::marks::{self, ANNOUNCED, FUNCTION_ENTRY, FUNCTION_RETURN};
use crate::python::Ptr;
use crate::session::LIVE;
use crate::{capture, contexts, stacks};

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
    (*stack).enter(object);
    (*live).entries += 1;
    if FUNCTION_ENTRY.is_raised() {
        tell_entry(object, frame, details);
    }
    Outcome::Told
}

/// A frame is left with a value.
#[inline(always)]
pub(crate) unsafe fn exit(
    object: Ptr,
    frame: Ptr,
    value: Ptr,
    details: impl FnOnce(*mut Code) -> Details,
) -> Outcome {
    leave(object, frame, value, || false, details)
}

/// A frame is left by an exception. `offset` is where in its code, in bytes.
#[inline(always)]
pub(crate) unsafe fn unwind(
    object: Ptr,
    frame: Ptr,
    offset: i64,
    details: impl FnOnce(*mut Code) -> Details,
) -> Outcome {
    let was_never_entered = || codes::was_never_entered(object, offset);
    leave(object, frame, null_mut(), was_never_entered, details)
}

#[inline(always)]
unsafe fn leave(
    object: Ptr,
    frame: Ptr,
    value: Ptr,
    was_never_entered: impl FnOnce() -> bool,
    details: impl FnOnce(*mut Code) -> Details,
) -> Outcome {
    let live = LIVE.get();
    if (*live).filtered && codes::wanted(object).is_none() {
        return Outcome::Unwanted;
    }
    let stack = stacks::current(frame, null_mut());
    if !(*stack).leave(object, was_never_entered, &mut (*live).dropped) {
        return Outcome::Told;
    }
    (*live).returns += 1;
    if FUNCTION_RETURN.is_raised() {
        tell_return(object, value, details);
    }
    Outcome::Told
}

/// A frame that was running before the session. Says whether it is wanted.
pub(crate) unsafe fn announced(object: Ptr, line: i32) -> bool {
    let context = if FUNCTION_ENTRY.is_raised() {
        contexts::current()
    } else {
        0
    };
    let Some(code) = codes::wanted(object) else {
        return false;
    };
    (*LIVE.get()).entries += 1;
    if FUNCTION_ENTRY.is_raised() {
        let flags = ANNOUNCED;
        tell(
            marks::function_entry,
            code,
            Details { line, flags },
            context,
            None,
        );
    }
    true
}

/// The context comes before the code's record, because a new one can run finalizers of the program (up to 3.11), and
/// these can end the session, which frees the records.
unsafe fn tell_entry(object: Ptr, frame: Ptr, details: impl FnOnce(*mut Code) -> Details) {
    let context = contexts::current();
    let Some(code) = codes::wanted(object) else {
        return;
    };
    let details = details(code);
    let capture = (*LIVE.get()).capture;
    let text = if capture.arguments && details.flags == 0 {
        capture::arguments(code, frame, capture.limit)
    } else {
        None
    };
    tell(marks::function_entry, code, details, context, text);
}

unsafe fn tell_return(object: Ptr, value: Ptr, details: impl FnOnce(*mut Code) -> Details) {
    let context = contexts::current();
    let Some(code) = codes::wanted(object) else {
        return;
    };
    let details = details(code);
    let capture = (*LIVE.get()).capture;
    let text = (capture.returns && details.flags == 0 && !value.is_null())
        .then(|| capture::value(value, (*code).hides, capture.limit));
    tell(marks::function_return, code, details, context, text);
}

unsafe fn tell(
    mark: marks::Function,
    code: *mut Code,
    details: Details,
    context: u64,
    text: Option<Vec<u8>>,
) {
    let Details { line, flags } = details;
    let Code {
        filename,
        name,
        qualname,
        ..
    } = *code;
    let text = text.as_ref().map_or(null(), |text| text.as_ptr().cast());
    mark(filename, name, line, qualname, context, flags, text);
}
