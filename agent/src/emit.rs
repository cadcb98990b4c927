//! What a mark of functions says.

use alloc::vec::Vec;
use core::ptr::null;

use crate::codes::{self, Code};
use crate::live::LIVE;
use crate::marks::{self, ANNOUNCED, FUNCTION_ENTRY};
use crate::python::Ptr;
use crate::{capture, contexts};

/// What takes time to find out, and is asked for only where somebody listens.
pub(crate) struct Details {
    /// The line where the frame is.
    pub(crate) line: i32,
    /// Flags of the mark.
    pub(crate) flags: u64,
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
    (*LIVE.get()).counts.entries += 1;
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

/// An entry, for whoever listens. The context comes before the code's record, because a new one can run finalizers of the program (up to 3.11), and
/// these can end the session, which frees the records.
pub(crate) unsafe fn tell_entry(
    object: Ptr,
    frame: Ptr,
    details: impl FnOnce(*mut Code) -> Details,
) {
    let context = contexts::current();
    let Some(code) = codes::wanted(object) else {
        return;
    };
    let details = details(code);
    let capture = (*LIVE.get()).settings.capture;
    let text = if capture.arguments && details.flags == 0 {
        capture::arguments(
            &(&(*code)).parameters,
            frame,
            capture.limit.min((*code).room),
        )
    } else {
        None
    };
    tell(marks::function_entry, code, details, context, text);
}

/// A return, for whoever listens. `value` is null where an exception leaves the frame.
pub(crate) unsafe fn tell_return(
    object: Ptr,
    value: Ptr,
    details: impl FnOnce(*mut Code) -> Details,
) {
    let context = contexts::current();
    let Some(code) = codes::wanted(object) else {
        return;
    };
    let details = details(code);
    let capture = (*LIVE.get()).settings.capture;
    let text = (capture.returns && details.flags == 0 && !value.is_null())
        .then(|| capture::value(value, (*code).hides, capture.limit.min((*code).room)));
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
        cut,
        ..
    } = *code;
    let text = text.as_ref().map_or(null(), |text| text.as_ptr().cast());
    mark(filename, name, line, qualname, context, flags | cut, text);
}
