//! Garbage collections, for interpreters without probes of their own: a C function in `gc.callbacks`, which is the only
//! place where the interpreter says that it collects. It is taken out by identity, whatever else has come into the list.

use core::ffi::{CStr, c_void};
use core::ptr::null_mut;

use pystap_ring::LostKind;

use crate::gil::Guarded;
use crate::live::is_on;
use crate::marks::{self, GC_DONE, GC_START};
use crate::python::{METH_FASTCALL, Method, Owned, Ptr, api, c_function, none, number};
use crate::shards::Shard;
use crate::{interpreters, ring, shards, sums};

static ON_COLLECTION: Method = Method {
    name: c"on_collection".as_ptr(),
    function: on_collection as *const c_void,
    flags: METH_FASTCALL,
    doc: core::ptr::null(),
};

/// The same in an interpreter within the interpreter, whose ticket it gets.
static WITHIN: Method = Method {
    name: c"on_collection_within".as_ptr(),
    function: on_collection_within as *const c_void,
    flags: METH_FASTCALL,
    doc: core::ptr::null(),
};

/// The list and our entry in it.
static ENTRY: Guarded<Option<(Owned, Owned)>> = Guarded::new(None);

/// Begins to tell collections. False when the interpreter has no such list.
pub(crate) unsafe fn start() -> bool {
    *ENTRY.get() = add(&ON_COLLECTION, null_mut());
    (*ENTRY.get()).is_some()
}

unsafe fn callbacks() -> Option<Owned> {
    let module = Owned::take((api().PyImport_ImportModule)(c"gc".as_ptr()));
    module?.attribute(c"callbacks")
}

unsafe fn add(method: &'static Method, owner: Ptr) -> Option<(Owned, Owned)> {
    let list = callbacks()?;
    let function = Owned::take((api().PyCFunction_NewEx)(method, owner, null_mut()))?;
    if (api().PyList_Append)(list.as_ptr(), function.as_ptr()) != 0 {
        (api().PyErr_Clear)();
        return None;
    }
    Some((list, function))
}

/// The same in the interpreter within the interpreter that the caller runs in, whose ticket this is.
pub(crate) unsafe fn start_within(ticket: &Owned) -> bool {
    add(&WITHIN, ticket.as_ptr()).is_some()
}

/// Ends it there.
pub(crate) unsafe fn stop_within() {
    if let Some(list) = callbacks() {
        let is_ours = |entry| {
            c_function(entry)
                .is_some_and(|(name, _)| core::ptr::eq(name.as_ptr().cast(), WITHIN.name))
        };
        take_out(&list, is_ours);
    }
}

/// Ends it.
pub(crate) unsafe fn stop() {
    let Some((list, function)) = (*ENTRY.get()).take() else {
        return;
    };
    take_out(&list, |entry| entry == function.as_ptr());
}

unsafe fn take_out(list: &Owned, is_ours: impl Fn(Ptr) -> bool) {
    let mut at = (api().PyList_Size)(list.as_ptr());
    while at > 0 {
        at -= 1;
        if is_ours((api().PyList_GetItem)(list.as_ptr(), at)) {
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
    if is_on() {
        tell(inside.shard(), arguments, count);
    }
    none()
}

unsafe extern "C" fn on_collection_within(ticket: Ptr, arguments: *const Ptr, count: isize) -> Ptr {
    if let Some(inside) = interpreters::enter(ticket) {
        tell(inside.shard(), arguments, count);
    }
    none()
}

unsafe fn tell(shard: Shard, arguments: *const Ptr, count: isize) {
    let is_heard = || ring::is_on(shard) || GC_START.is_raised() || GC_DONE.is_raised();
    if count == 2 && is_heard() {
        let (phase, numbers) = (*arguments, *arguments.add(1));
        let of = |name: &CStr| number((api().PyDict_GetItemString)(numbers, name.as_ptr()), 0);
        let phase = (api().PyUnicode_AsUTF8)(phase);
        if phase.is_null() {
            (api().PyErr_Clear)();
        } else if CStr::from_ptr(phase) == c"start" {
            let generation = of(c"generation");
            if sums::is_on(shard) {
                sums::collection_begins(shard);
            } else if ring::is_on(shard) {
                ring::collection_begins(shard, generation);
            } else {
                marks::gc_start(i32::try_from(generation).unwrap_or(-1));
            }
        } else {
            // The interpreter's own mark gives the sum, too.
            let collected = of(c"collected").saturating_add(of(c"uncollectable"));
            if sums::is_on(shard) {
                sums::collection_ends(shard);
            } else if ring::is_on(shard) {
                ring::collection_ends(shard, collected);
            } else {
                marks::gc_done(collected);
            }
        }
    }
}
