//! Calls through the profile function of every thread (3.9 to 3.11).
//!
//! `_PyEval_SetProfile` sets it for any thread, without Python noticing: the object that `sys.getprofile` shows stays what
//! it was. A profiler that was there goes on getting its events, from us. New threads are found by the ids of thread
//! states, which only grow: when the newest one is not known, at any event, and ten times a second for those that appear
//! while nothing else runs. The same look finds threads whose profiler the program has set anew; a call of
//! `sys.setprofile` has the native thread look at once, which takes it some milliseconds to get the lock.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ffi::c_int;
use core::ptr::null_mut;

use pystap_agent_protocol::Refused;

use crate::calls::{entry, exit, unwind};
use crate::codes::{Code, RESUMABLE};
use crate::emit::Details;
use crate::gil::Guarded;
use crate::live::is_on;
use crate::marks::{EXCEPTION, SUSPENSION};
use crate::python::{Owned, Ptr, ThreadState, TraceFunction, api, thread_states, version};
use crate::worker;

/// `PyTrace_CALL`, `PyTrace_RETURN` and `PyTrace_C_CALL`.
const CALL: c_int = 0;
const RETURN: c_int = 3;
const C_CALL: c_int = 4;

/// Opcodes of 3.9 to 3.11.
const YIELD_FROM: u8 = 72;
const YIELD_VALUE: u8 = 86;
const RESUME: u8 = 151;

/// How far `c_profilefunc` and `c_profileobj` are into a `PyThreadState`, by the headers of each version, equal for all
/// its releases on 64-bit machines. Looked at before use, see `check`.
const fn offsets(minor: u32) -> (usize, usize) {
    if minor < 11 { (56, 72) } else { (64, 80) }
}

/// A profiler that was there before.
struct Chained {
    function: TraceFunction,
    object: Option<Owned>,
}

struct Installed {
    on: bool,
    offsets: (usize, usize),
    minor: u32,
    /// `sys.setprofile`, after which a thread's function is another one.
    set_profile: Option<Owned>,
    /// What is called then: it has [`look`] called as soon as that can be.
    look_soon: fn(),
    /// The id of the newest thread state that is known.
    newest: u64,
    /// By address of the thread state.
    chained: BTreeMap<usize, Chained>,
}

static INSTALLED: Guarded<Installed> = Guarded::new(Installed {
    on: false,
    offsets: (0, 0),
    minor: 0,
    set_profile: None,
    look_soon: nothing,
    newest: 0,
    chained: BTreeMap::new(),
});

fn nothing() {}

/// Sets our function on all threads. Says whether one had a profiler.
pub(crate) unsafe fn start(look_soon: fn()) -> Result<bool, Refused> {
    let installed = INSTALLED.get();
    let ([_, minor, _], _) = version();
    (*installed).minor = minor;
    (*installed).offsets = offsets(minor);
    let ready = api()._PyEval_SetProfile.is_some() && check();
    if !ready {
        return Err(Refused::new(
            "this build of the interpreter keeps the profile functions of its threads elsewhere than the releases do, so the agent cannot set its own",
            "trace with a usual build of the same version",
        ));
    }
    (*installed).on = true;
    (*installed).newest = 0;
    (*installed).look_soon = look_soon;
    (*installed).set_profile = Owned::borrowed((api().PySys_GetObject)(c"setprofile".as_ptr()));
    Ok(look())
}

/// Whether the offsets are right: a function that is set can be read there. On the thread that asks, which has no frames.
unsafe fn check() -> bool {
    let state = (api().PyThreadState_Get)();
    let before = current(state);
    if before.0.is_some() {
        return false;
    }
    set(state, Some(alone), null_mut());
    let seen = current(state);
    set(state, None, null_mut());
    seen.0
        .is_some_and(|function| function as usize == alone as *const () as usize)
        && seen.1.is_null()
        && current(state).0.is_none()
}

unsafe fn set(state: ThreadState, function: Option<TraceFunction>, object: Ptr) {
    if let Some(set_profile) = api()._PyEval_SetProfile
        && set_profile(state, function, object) < 0
    {
        (api().PyErr_Clear)();
    }
}

/// Profile function and object of a thread.
unsafe fn current(state: ThreadState) -> (Option<TraceFunction>, Ptr) {
    let (function, object) = (*INSTALLED.get()).offsets;
    let state: *const u8 = state.cast();
    (
        state.add(function).cast::<Option<TraceFunction>>().read(),
        state.add(object).cast::<Ptr>().read(),
    )
}

unsafe fn is_ours(function: Option<TraceFunction>) -> bool {
    function.is_some_and(|function| {
        let function = function as usize;
        function == alone as *const () as usize || function == chained as *const () as usize
    })
}

/// Sets our function on all threads that do not have it. Says whether one had another.
pub(crate) unsafe fn look() -> bool {
    let installed = INSTALLED.get();
    if !(*installed).on {
        return false;
    }
    let own = (api().PyThreadState_Get)();
    let Some(states) = thread_states() else {
        return false;
    };
    for state in &states {
        (*installed).newest = (*installed).newest.max((api().PyThreadState_GetID)(*state));
    }
    // An object that goes with a thread can have a finalizer, so it goes last.
    let mut gone = Vec::new();
    let alive = |state: &usize| states.iter().any(|other| *other as usize == *state);
    let dead: Vec<usize> = (*installed)
        .chained
        .keys()
        .copied()
        .filter(|state| !alive(state))
        .collect();
    for state in dead {
        gone.extend((*installed).chained.remove(&state));
    }
    let mut is_chained = false;
    for state in states {
        let (function, object) = current(state);
        let is_native = state == own && worker::is_current();
        if is_native || is_ours(function) {
            continue;
        }
        gone.extend((*installed).chained.remove(&(state as usize)));
        match function {
            None => set(state, Some(alone), null_mut()),
            Some(function) => {
                is_chained = true;
                let object = Owned::borrowed(object);
                let pointer = object.as_ref().map_or(null_mut(), Owned::as_ptr);
                (*installed)
                    .chained
                    .insert(state as usize, Chained { function, object });
                set(state, Some(chained), pointer);
            }
        }
    }
    is_chained
}

/// Gives every thread the profiler back that it had.
pub(crate) unsafe fn stop() {
    let installed = INSTALLED.get();
    if !(*installed).on {
        return;
    }
    (*installed).on = false;
    (*installed).set_profile = None;
    let mut before = core::mem::take(&mut (*installed).chained);
    // Whoever is in the way for so long is only waiting for a processor.
    let states = (0..100).find_map(|_| thread_states()).unwrap_or_default();
    for state in states {
        if !is_ours(current(state).0) {
            continue;
        }
        match before.get_mut(&(state as usize)) {
            Some(chained) => {
                let object = chained.object.as_ref().map_or(null_mut(), Owned::as_ptr);
                set(state, Some(chained.function), object);
            }
            None => set(state, None, null_mut()),
        }
    }
    drop(before);
}

/// The profile function of a thread that had none.
unsafe extern "C" fn alone(_: Ptr, frame: Ptr, what: c_int, value: Ptr) -> c_int {
    event(frame, what, value);
    0
}

/// The profile function of a thread that had one.
unsafe extern "C" fn chained(_: Ptr, frame: Ptr, what: c_int, value: Ptr) -> c_int {
    event(frame, what, value);
    let installed = INSTALLED.get();
    let state = (api().PyThreadState_Get)() as usize;
    let Some((function, object)) = (*installed).chained.get(&state).map(|chained| {
        let object = chained.object.as_ref().map_or(null_mut(), Owned::as_ptr);
        (chained.function, object)
    }) else {
        return 0;
    };
    function(object, frame, what, value)
}

#[inline(always)]
unsafe fn event(frame: Ptr, what: c_int, value: Ptr) {
    let installed = INSTALLED.get();
    if !is_on() {
        return;
    }
    let head = (api().PyInterpreterState_ThreadHead)((api().PyInterpreterState_Get)());
    if (api().PyThreadState_GetID)(head) > (*installed).newest {
        look();
    }
    if what != CALL && what != RETURN {
        let set_profile = (*installed).set_profile.as_ref().map(Owned::as_ptr);
        if what == C_CALL && Some(value) == set_profile {
            ((*installed).look_soon)();
        }
        return;
    }
    // The frame keeps its code.
    let code = (api().PyFrame_GetCode)(frame);
    (api().Py_DecRef)(code);
    if what == CALL {
        entry(code, frame, |code| Details {
            line: (api().PyFrame_GetLineNumber)(frame),
            flags: if is_resumed(code, frame) {
                SUSPENSION
            } else {
                0
            },
        });
    } else if value.is_null() {
        let offset = last_offset(frame);
        unwind(code, frame, offset, |_| Details {
            line: (api().PyFrame_GetLineNumber)(frame),
            flags: EXCEPTION,
        });
    } else {
        exit(code, frame, value, |code| Details {
            line: (api().PyFrame_GetLineNumber)(frame),
            flags: if is_suspended(code, frame) {
                SUSPENSION
            } else {
                0
            },
        });
    }
}

/// The offset of the last instruction in bytes.
unsafe fn last_offset(frame: Ptr) -> i64 {
    let frame = Owned::borrowed(frame);
    frame.map_or(-1, |frame| frame.integer_attribute(c"f_lasti", -1))
}

/// The offset of the last instruction, and the opcodes and arguments from there on.
unsafe fn position(code: *mut Code, frame: Ptr) -> (i64, Option<[u8; 4]>) {
    let offset = last_offset(frame);
    let all: &[u8] = &(&(*code)).instructions;
    let instructions = usize::try_from(offset).ok().and_then(|at| {
        let end = at.checked_add(4)?;
        <[u8; 4]>::try_from(all.get(at..end)?).ok()
    });
    (offset, instructions)
}

/// Whether a frame that is entered was suspended before. Up to 3.10 it has executed something; in 3.11 the first entry is
/// at `RESUME 0`.
unsafe fn is_resumed(code: *mut Code, frame: Ptr) -> bool {
    if (*code).flags & RESUMABLE == 0 {
        return false;
    }
    let (offset, instructions) = position(code, frame);
    if (*INSTALLED.get()).minor < 11 {
        offset >= 0
    } else {
        !matches!(instructions, Some([RESUME, 0, ..]))
    }
}

/// Whether a frame that is left with a value will go on: it stands at a yield, or just before `YIELD_FROM`, where up to
/// 3.10 it is put back to.
unsafe fn is_suspended(code: *mut Code, frame: Ptr) -> bool {
    (*code).flags & RESUMABLE != 0
        && matches!(
            position(code, frame).1,
            Some([YIELD_VALUE | YIELD_FROM, ..] | [_, _, YIELD_FROM, _])
        )
}
