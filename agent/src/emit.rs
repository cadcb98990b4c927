//! What is said of calls and returns, through the ring or by a probe.

use alloc::vec::Vec;
use core::ptr::{null, null_mut};

use pystap_ring::fields::FieldsWriter;

use crate::codes::{self, Code};
use crate::live::{self, LIVE};
use crate::marks::{self, ANNOUNCED, FUNCTION_ENTRY, FUNCTION_RETURN, SUSPENSION};
use crate::python::Ptr;
use crate::ring::{self, Function, Times};
use crate::shards::Shard;
use crate::{capture, contexts, fields, sums, timed};

/// Whether somebody listens to entries.
#[inline(always)]
pub(crate) unsafe fn entries_are_heard(shard: Shard) -> bool {
    ring::is_on(shard) || FUNCTION_ENTRY.is_raised()
}

/// Whether somebody listens to returns.
#[inline(always)]
pub(crate) unsafe fn returns_are_heard(shard: Shard) -> bool {
    ring::is_on(shard) || FUNCTION_RETURN.is_raised()
}

/// Which of the two is told, by which probe where there is no ring.
#[derive(Clone, Copy)]
enum Side {
    Entry,
    /// With what was measured of its call, if that was done here; only through the ring.
    Return(Option<Times>),
}

/// What takes time to find out, and is asked for only where somebody listens.
pub(crate) struct Details {
    /// The line where the frame is.
    pub(crate) line: i32,
    /// Flags of the mark.
    pub(crate) flags: u64,
}

/// A frame that was running before the session. Says whether it is wanted.
pub(crate) unsafe fn announced(shard: Shard, object: Ptr, line: i32) -> bool {
    let context = if entries_are_heard(shard) {
        contexts::current(shard)
    } else {
        0
    };
    let Some(code) = codes::wanted(shard, object) else {
        return false;
    };
    (*live::counted_in(shard)).entries += 1;
    if sums::is_on(shard) {
        sums::entered(shard, object, true);
    } else if entries_are_heard(shard) {
        timed::was_running(shard, object, context);
        let flags = ANNOUNCED;
        tell(
            shard,
            Side::Entry,
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
#[inline(always)]
pub(crate) unsafe fn tell_entry(
    shard: Shard,
    object: Ptr,
    frame: Ptr,
    details: impl FnOnce(*mut Code) -> Details,
) {
    let context = contexts::current(shard);
    let Some(code) = codes::wanted(shard, object) else {
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
    // Apart, so that a call without them costs one look.
    if !(*code).fields.at_entry.is_empty() && details.flags & !SUSPENSION == 0 {
        let fields = Fields::Entry(frame);
        return tell_with_fields(shard, code, fields, details, context, text);
    }
    tell(shard, Side::Entry, code, details, context, text);
}

/// Which fields are read, of the frame where it is at hand, else null.
#[derive(Clone, Copy)]
enum Fields {
    Entry(Ptr),
    /// With what is returned.
    Return(Ptr, Ptr),
}

/// An entry or a return with its fields, which are told through the ring alone.
#[inline(never)]
unsafe fn tell_with_fields(
    shard: Shard,
    code: *mut Code,
    fields: Fields,
    details: Details,
    context: u64,
    text: Option<Vec<u8>>,
) {
    let read = match fields {
        Fields::Entry(frame) => fields::read(shard, &(*code).fields.at_entry, frame, null_mut()),
        Fields::Return(frame, value) => {
            fields::read(shard, &(*code).fields.at_return, frame, value)
        }
    };
    let bytes = read.as_ref().and_then(FieldsWriter::bytes);
    let values = (text.as_deref().map(without_end), bytes);
    let Details { line, flags } = details;
    let function = &raw mut (*code).told;
    match fields {
        Fields::Entry(_) => ring::call(shard, function, (line, flags), context, values),
        Fields::Return(..) => ring::left(shard, function, (line, flags), context, values),
    }
}

/// The end of a text is for those who read strings.
fn without_end(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\0").unwrap_or(text)
}

/// A return, for whoever listens, with what was measured of its call. `frame` is it where that is at hand, else null; `value` is
/// null where an exception leaves the frame.
#[inline(always)]
pub(crate) unsafe fn tell_return(
    shard: Shard,
    object: Ptr,
    frame: Ptr,
    value: Ptr,
    times: Option<Times>,
    details: impl FnOnce(*mut Code) -> Details,
) {
    let context = contexts::current(shard);
    let Some(code) = codes::wanted(shard, object) else {
        return;
    };
    let details = details(code);
    let capture = (*LIVE.get()).settings.capture;
    let text = (capture.returns && details.flags == 0 && !value.is_null())
        .then(|| capture::value(value, (*code).hides, capture.limit.min((*code).room)));
    // Apart, as above. Where the agent measures calls itself, no fields are asked for.
    if !(*code).fields.at_return.is_empty()
        && details.flags == 0
        && !value.is_null()
        && times.is_none()
    {
        let fields = Fields::Return(frame, value);
        return tell_with_fields(shard, code, fields, details, context, text);
    }
    tell(shard, Side::Return(times), code, details, context, text);
}

/// A C function of a library, which has no frame, is called in this context.
pub(crate) unsafe fn library_call(shard: Shard, function: *mut Function, context: u64) {
    if entries_are_heard(shard) && !(sums::is_on(shard) || timed::is_on(shard)) {
        (*live::counted_in(shard)).entries += 1;
        tell_function(shard, Side::Entry, function, (0, 0), context, None);
    }
}

/// It returns.
pub(crate) unsafe fn library_return(shard: Shard, function: *mut Function, context: u64) {
    if returns_are_heard(shard) && !(sums::is_on(shard) || timed::is_on(shard)) {
        (*live::counted_in(shard)).returns += 1;
        tell_function(shard, Side::Return(None), function, (0, 0), context, None);
    }
}

#[inline(always)]
unsafe fn tell(
    shard: Shard,
    side: Side,
    code: *mut Code,
    details: Details,
    context: u64,
    text: Option<Vec<u8>>,
) {
    let Details { line, flags } = details;
    let function = &raw mut (*code).told;
    tell_function(shard, side, function, (line, flags), context, text);
}

#[inline(always)]
unsafe fn tell_function(
    shard: Shard,
    side: Side,
    function: *mut Function,
    (line, flags): (i32, u64),
    context: u64,
    text: Option<Vec<u8>>,
) {
    if ring::is_on(shard) {
        let text = text.as_deref().map(without_end);
        return match side {
            Side::Entry => ring::call(shard, function, (line, flags), context, (text, None)),
            Side::Return(None) => {
                ring::left(shard, function, (line, flags), context, (text, None));
            }
            Side::Return(Some(times)) => {
                ring::timed(shard, function, (line, flags), context, text, times);
            }
        };
    }
    let Function {
        filename,
        name,
        qualname,
        cut,
        ..
    } = *function;
    let text = text.as_ref().map_or(null(), |text| text.as_ptr().cast());
    let mark: marks::Function = match side {
        Side::Entry => marks::function_entry,
        Side::Return(_) => marks::function_return,
    };
    mark(filename, name, line, qualname, context, flags | cut, text);
}
