//! Garbage collections, for interpreters without probes of their own: a C function in `gc.callbacks`, which is the only
//! place where the interpreter says that it collects. It is taken out by identity, whatever else has come into the list.

use core::ffi::{CStr, c_void};
use core::ptr::null_mut;

use pystap_ring::LostKind;

use crate::gil::Guarded;
use crate::live::is_on;
use crate::marks::{self, GC_DONE, GC_START};
use crate::python::{METH_FASTCALL, Method, Owned, Ptr, api, none, number};
use crate::{ring, shards, sums};

static ON_COLLECTION: Method = Method {
    name: c"on_collection".as_ptr(),
    function: on_collection as *const c_void,
    flags: METH_FASTCALL,
    doc: core::ptr::null(),
};

/// The list and our entry in it.
static ENTRY: Guarded<Option<(Owned, Owned)>> = Guarded::new(None);

/// Begins to tell collections. False when the interpreter has no such list.
pub(crate) unsafe fn start() -> bool {
    let module = Owned::take((api().PyImport_ImportModule)(c"gc".as_ptr()));
    let list = module.and_then(|module| module.attribute(c"callbacks"));
    let function = (api().PyCFunction_NewEx)(&raw const ON_COLLECTION, null_mut(), null_mut());
    let (Some(list), Some(function)) = (list, Owned::take(function)) else {
        return false;
    };
    if (api().PyList_Append)(list.as_ptr(), function.as_ptr()) != 0 {
        (api().PyErr_Clear)();
        return false;
    }
    *ENTRY.get() = Some((list, function));
    true
}

/// Ends it.
pub(crate) unsafe fn stop() {
    let Some((list, function)) = (*ENTRY.get()).take() else {
        return;
    };
    let mut at = (api().PyList_Size)(list.as_ptr());
    while at > 0 {
        at -= 1;
        if (api().PyList_GetItem)(list.as_ptr(), at) == function.as_ptr() {
            (api().PyList_SetSlice)(list.as_ptr(), at, at + 1, null_mut());
        }
    }
}

/// Called with `"start"` or `"stop"` and a dictionary of numbers.
unsafe extern "C" fn on_collection(_: Ptr, arguments: *const Ptr, count: isize) -> Ptr {
    let Some(inside) = shards::enter() else {
        shards::outside(|| {
            if is_on() {
                ring::lost_elsewhere(LostKind::Collection);
            }
        });
        return none();
    };
    let shard = inside.shard();
    let is_heard = || ring::is_on(shard) || GC_START.is_raised() || GC_DONE.is_raised();
    if count == 2 && is_on() && is_heard() {
        let (phase, numbers) = (*arguments, *arguments.add(1));
        let of = |name: &CStr| number((api().PyDict_GetItemString)(numbers, name.as_ptr()), 0);
        let phase = (api().PyUnicode_AsUTF8)(phase);
        if phase.is_null() {
            (api().PyErr_Clear)();
        } else if CStr::from_ptr(phase) == c"start" {
            let generation = of(c"generation");
            if sums::is_on(shard) {
                sums::collection_begins();
            } else if ring::is_on(shard) {
                ring::collection_begins(generation);
            } else {
                marks::gc_start(i32::try_from(generation).unwrap_or(-1));
            }
        } else {
            // The interpreter's own mark gives the sum, too.
            let collected = of(c"collected").saturating_add(of(c"uncollectable"));
            if sums::is_on(shard) {
                sums::collection_ends();
            } else if ring::is_on(shard) {
                ring::collection_ends(collected);
            } else {
                marks::gc_done(collected);
            }
        }
    }
    none()
}
