//! The span of OpenTelemetry's API that is current, by where its Python library keeps it: in a context variable, as the value of a key
//! that begins with its name, and in that a tuple that begins with the numbers of its trace and of itself. It is read and nothing
//! is asked: no code of the program runs, and where something is kept in another way there is none.

use core::ptr::null_mut;

use crate::python::{Owned, Ptr, api, loaded, type_of};
use crate::stored::{beginning_with, stored};

/// `00-TRACE-SPAN-01`.
const LENGTH: usize = 55;

/// The current span as a `traceparent` of W3C.
pub(crate) unsafe fn current() -> Option<[u8; LENGTH]> {
    let module = loaded(c"opentelemetry.context")?;
    let runtime = stored(&module, "_RUNTIME_CONTEXT")?;
    let variable = stored(&runtime, "_current_context")?;
    if type_of(variable.as_ptr()) != api().PyContextVar_Type {
        return None;
    }
    let mut context: Ptr = null_mut();
    if (api().PyContextVar_Get)(variable.as_ptr(), null_mut(), &raw mut context) != 0 {
        (api().PyErr_Clear)();
        return None;
    }
    if context.is_null() {
        return None;
    }
    let span = beginning_with(&Owned::take(context)?, b"current-span-")?;
    let names = stored(&span, "_context")?;
    let names = names.as_ptr();
    let is_tuple = (api().PyType_IsSubtype)(type_of(names), api().PyTuple_Type) != 0;
    if !is_tuple || (api().PyTuple_Size)(names) < 2 {
        return None;
    }
    let [high, low] = words((api().PyTuple_GetItem)(names, 0))?;
    let [_, span] = words((api().PyTuple_GetItem)(names, 1))?;
    // Those of a span that is none.
    ((high | low) != 0 && span != 0).then(|| traceparent([high, low, span]))
}

/// The upper and the lower 64 bits of a number.
unsafe fn words(number: Ptr) -> Option<[u64; 2]> {
    if type_of(number) != api().PyLong_Type {
        return None;
    }
    let shift = Owned::integer(64)?;
    let upper = Owned::take((api().PyNumber_Rshift)(number, shift.as_ptr()))?;
    let of = |number| (api().PyLong_AsUnsignedLongLongMask)(number);
    Some([of(upper.as_ptr()), of(number)])
}

fn traceparent(words: [u64; 3]) -> [u8; LENGTH] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    for (word, place) in words.into_iter().zip([3, 19, 36]) {
        let digits = text.iter_mut().skip(place).take(16);
        for (digit, shift) in digits.zip((0..16).rev()) {
            let value = (word >> (4 * shift)) as u8 & 0xf;
            *digit = if value < 10 {
                b'0' + value
            } else {
                b'a' + value - 10
            };
        }
    }
    text
}
