//! Greenlets that wait when a session begins (3.12 and later). The interpreter puts its hooks into the frames on the stacks
//! of threads; those of parked greenlets are on none, and would not be told before their functions are called anew. So
//! the code that they stand in is looked for, in order that `monitoring` can have it instrumented.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ffi::{c_int, c_void};

use crate::libc;
use crate::python::{Owned, Ptr, api, type_of};

/// The most that the program is held up, in nanoseconds, and how many greenlets, and how many objects, are looked at before
/// the clock is.
const PATIENCE: i64 = 15_000_000;
const STEP: usize = 64;
const OBJECTS: usize = 4096;
/// Types that are known not to be those of greenlets.
const TYPES: usize = 64;

/// The code of parked greenlets.
pub(crate) struct Parked {
    /// Each code object once.
    pub(crate) codes: Vec<Owned>,
    /// Greenlets for which there was no time.
    pub(crate) unexamined: usize,
    /// Whether there are more objects than there was time for, and so perhaps more greenlets.
    pub(crate) is_cut: bool,
}

struct Search {
    kind: Ptr,
    others: [usize; TYPES],
    found: Vec<Owned>,
    seen: usize,
    until: i64,
    is_cut: bool,
}

/// Looks at every greenlet; `kind` is their type.
pub(crate) unsafe fn greenlets(kind: Ptr) -> Parked {
    let mut parked = Parked {
        codes: Vec::new(),
        unexamined: 0,
        is_cut: false,
    };
    let getter = Owned::borrowed(kind)
        .and_then(|kind| kind.attribute(c"gr_frame"))
        .and_then(|frame| frame.attribute(c"__get__"));
    let (Some(visit), Some(getter), Some(kind)) = (
        api().PyUnstable_GC_VisitObjects,
        getter,
        Owned::borrowed(kind),
    ) else {
        return parked;
    };
    let mut search = Search {
        kind: kind.as_ptr(),
        others: [0; TYPES],
        found: Vec::new(),
        seen: 0,
        until: libc::monotonic().wrapping_add(PATIENCE),
        is_cut: false,
    };
    visit(note, (&raw mut search).cast());
    let mut codes: BTreeMap<usize, Owned> = BTreeMap::new();
    parked.is_cut = search.is_cut;
    for (at, greenlet) in search.found.iter().enumerate() {
        if at % STEP == STEP - 1 && libc::monotonic() > search.until {
            parked.unexamined = search.found.len() - at;
            break;
        }
        // None while it runs, and before and after.
        let mut next = getter
            .call(&[greenlet, &kind])
            .filter(|frame| frame.as_ptr() != api()._Py_NoneStruct);
        while let Some(frame) = next {
            if let Some(code) = Owned::take((api().PyFrame_GetCode)(frame.as_ptr())) {
                codes.entry(code.as_ptr() as usize).or_insert(code);
            }
            next = Owned::take((api().PyFrame_GetBack)(frame.as_ptr()));
        }
    }
    parked.codes = codes.into_values().collect();
    parked
}

/// Called for every object that the garbage collector knows, which rests meanwhile.
unsafe extern "C" fn note(object: Ptr, search: *mut c_void) -> c_int {
    let search: *mut Search = search.cast();
    (*search).seen += 1;
    if (*search).seen.is_multiple_of(OBJECTS) && libc::monotonic() > (*search).until {
        (*search).is_cut = true;
        return 0;
    }
    let kind = type_of(object);
    let place = kind as usize / 16 % TYPES;
    let others = &mut (*search).others;
    let Some(other) = others.get_mut(place) else {
        return 0;
    };
    if *other != kind as usize {
        if (api().PyType_IsSubtype)(kind, (*search).kind) == 0 {
            *other = kind as usize;
        } else if let Some(greenlet) = Owned::borrowed(object) {
            (*search).found.push(greenlet);
        }
    }
    1
}
