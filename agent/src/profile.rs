//! Calls through the profile function of every thread (3.9 to 3.11).
//!
//! `_PyEval_SetProfile` sets it for any thread, without Python noticing: the object that `sys.getprofile` shows stays what
//! it was. A profiler that was there goes on getting its events, from us. New threads are found by the ids of thread
//! states, which only grow: when the newest one is not known, at any event, and ten times a second for those that appear
//! while nothing else runs. The same look finds threads whose profiler the program has set anew.
//!
//! Where a C function is called that may set one, a trace function keeps the place for what comes next: it is called
//! before the profile function at every call and return, puts ours back, and goes. So no call is missed when a program's
//! own profiler comes or goes. What that does not catch is counted: threads that had lost our function when a look found
//! them, or ran before one did, and threads of C code that came and went between two looks, which the ids tell.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ffi::c_int;
use core::ptr::null_mut;

use pystap_agent_protocol::Refused;

use crate::calls::{Outcome, entry, exit, unwind};
use crate::codes::{Code, RESUMABLE};
use crate::emit::Details;
use crate::gil::Guarded;
use crate::handling;
use crate::live::{self, is_on};
use crate::marks::{EXCEPTION, SUSPENSION};
use crate::python::{
    Owned, Ptr, ThreadState, TraceFunction, api, c_function, type_name, type_of, uncollected,
    version,
};
use crate::shards::Shard;
use crate::{states, worker};

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

/// How far `c_tracefunc` and `c_traceobj` are behind these two.
const TRACE: usize = 8;

/// Names of C functions that set a profile function: `sys.setprofile`, and those of cProfile, yappi, pyinstrument and
/// VizTracer.
const SETTERS: [&[u8]; 8] = [
    b"setprofile",
    b"enable",
    b"disable",
    b"setstatprofile",
    b"start",
    b"stop",
    b"pause",
    b"resume",
];

/// The first id of a fork's child, before the worker has one there: the states of its parent's other threads are gone.
const UNKNOWN: u64 = u64::MAX;

/// A profiler that was there before.
struct Chained {
    function: TraceFunction,
    object: Option<Owned>,
}

struct Installed {
    on: bool,
    offsets: (usize, usize),
    minor: u32,
    /// Has [`look`] called as soon as that can be.
    look_soon: fn(),
    /// The ids of the newest thread state that is known, and of the one that was when the session began.
    newest: u64,
    first: u64,
    /// How many were met since.
    met: u64,
    /// By address of the thread state.
    chained: BTreeMap<usize, Chained>,
    /// The trace functions of threads that have ours in its place.
    displaced: BTreeMap<usize, Option<TraceFunction>>,
}

static INSTALLED: Guarded<Installed> = Guarded::new(Installed {
    on: false,
    offsets: (0, 0),
    minor: 0,
    look_soon: nothing,
    newest: 0,
    first: 0,
    met: 0,
    chained: BTreeMap::new(),
    displaced: BTreeMap::new(),
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
    (*installed).newest = u64::MAX;
    (*installed).look_soon = look_soon;
    let is_chained = look();
    begin_to_count();
    Ok(is_chained)
}

/// From now on, new thread states are counted.
unsafe fn begin_to_count() {
    let installed = INSTALLED.get();
    let all = states::all().unwrap_or_default();
    let newest = all.iter().map(|(_, id)| *id).max();
    (*installed).newest = newest.unwrap_or(0);
    (*installed).first = (*installed).newest;
    (*installed).met = 0;
}

/// In a fork's child, where the session goes on and counts anew.
pub(crate) unsafe fn fork() {
    let installed = INSTALLED.get();
    if (*installed).on {
        begin_to_count();
        (*installed).first = UNKNOWN;
    }
}

/// Whether profile functions are set.
pub(crate) unsafe fn is_installed() -> bool {
    (*INSTALLED.get()).on
}

/// Adds what is not known to the counts: how many threads came and went unseen. For the worker, whose new thread state has
/// the newest id.
pub(crate) unsafe fn account() {
    let installed = INSTALLED.get();
    if !(*installed).on {
        return;
    }
    look();
    if (*installed).first == UNKNOWN {
        return begin_to_count();
    }
    let made = (*installed).newest.saturating_sub((*installed).first);
    (*live::counted()).unseen_threads += made.saturating_sub((*installed).met);
    // Counted once.
    (*installed).met = made;
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

unsafe fn set_trace(state: ThreadState, function: Option<TraceFunction>, object: Ptr) {
    // Our reference: the interpreter gives up its own before it takes a new one.
    let _object = Owned::borrowed(object);
    if let Some(set_trace) = api()._PyEval_SetTrace
        && set_trace(state, function, object) < 0
    {
        (api().PyErr_Clear)();
    }
}

/// Trace function and object of a thread.
unsafe fn current_trace(state: ThreadState) -> (Option<TraceFunction>, Ptr) {
    let (function, object) = (*INSTALLED.get()).offsets;
    let state: *const u8 = state.cast();
    (
        state
            .add(function + TRACE)
            .cast::<Option<TraceFunction>>()
            .read(),
        state.add(object + TRACE).cast::<Ptr>().read(),
    )
}

unsafe fn is_lookout(function: Option<TraceFunction>) -> bool {
    function.is_some_and(|function| function as usize == lookout as *const () as usize)
}

/// The profile function of this thread may be another one in a moment: has it put back before the next call or return.
#[cold]
unsafe fn keep_a_lookout() {
    let state = (api().PyThreadState_Get)();
    let (function, object) = current_trace(state);
    if !is_lookout(function) && api()._PyEval_SetTrace.is_some() {
        (*INSTALLED.get())
            .displaced
            .insert(state as usize, function);
        set_trace(state, Some(lookout), object);
    }
}

/// The trace function of a thread whose profile function may have been replaced.
unsafe extern "C" fn lookout(object: Ptr, frame: Ptr, what: c_int, value: Ptr) -> c_int {
    let state = (api().PyThreadState_Get)();
    let before = give_back_the_trace(state);
    let gone = if (*INSTALLED.get()).on {
        put_on(state).1
    } else {
        None
    };
    let result = match before {
        Some(function) => function(object, frame, what, value),
        None => 0,
    };
    drop(gone);
    result
}

unsafe fn give_back_the_trace(state: ThreadState) -> Option<TraceFunction> {
    let before = (*INSTALLED.get())
        .displaced
        .remove(&(state as usize))
        .flatten();
    let (function, object) = current_trace(state);
    if is_lookout(function) {
        set_trace(state, before, object);
    }
    before
}

/// Whether a C function may set a profile function.
unsafe fn may_set_a_profile(function: Ptr) -> bool {
    let Some((name, owner)) = c_function(function) else {
        return false;
    };
    if !matches!(name.first(), Some(b's' | b'e' | b'd' | b'p' | b'r')) {
        return false;
    }
    // Those of regular expressions' matches are called often.
    SETTERS.contains(&name) && (owner.is_null() || !type_name(type_of(owner)).starts_with("re."))
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
    let Some(all) = states::all() else {
        return false;
    };
    let known = (*installed).newest;
    let counts = live::counted();
    for (_, id) in &all {
        if *id > known {
            (*installed).newest = (*installed).newest.max(*id);
            (*installed).met += 1;
        }
    }
    // An object that goes with a thread can have a finalizer, so it goes last.
    let mut gone = Vec::new();
    let is_dead = |state: &usize| !all.iter().any(|(other, _)| *other as usize == *state);
    let dead = (*installed).chained.keys().copied().filter(is_dead);
    for state in dead.collect::<Vec<usize>>() {
        gone.extend((*installed).chained.remove(&state));
    }
    (*installed).displaced.retain(|state, _| !is_dead(state));
    let mut is_chained = false;
    states::with_those_left(&all, |(state, id)| {
        let is_native = state == own && worker::is_current();
        if is_native || is_ours(current(state).0) {
            return;
        }
        if is_lookout(current_trace(state).0) {
            // It has not run since.
        } else if id > known {
            let frame = || Owned::take((api().PyThreadState_GetFrame)(state));
            let runs = uncollected(frame).is_some();
            (*counts).unseen_threads += u64::from(runs);
        } else if known != u64::MAX {
            (*counts).replaced += 1;
        }
        let (chained, before) = put_on(state);
        is_chained |= chained;
        gone.extend(before);
    });
    is_chained
}

/// Sets our function on a thread unless it is there, in front of another if there is one, and says whether there is. What
/// was chained before is for the caller to drop.
unsafe fn put_on(state: ThreadState) -> (bool, Option<Chained>) {
    let (function, object) = current(state);
    if is_ours(function) {
        return (false, None);
    }
    let all = &raw mut (*INSTALLED.get()).chained;
    let before = (&mut (*all)).remove(&(state as usize));
    let Some(function) = function else {
        set(state, Some(alone), null_mut());
        return (false, before);
    };
    let object = Owned::borrowed(object);
    let pointer = object.as_ref().map_or(null_mut(), Owned::as_ptr);
    (&mut (*all)).insert(state as usize, Chained { function, object });
    set(state, Some(chained), pointer);
    (true, before)
}

/// Does something with our function on this thread, which has none otherwise.
pub(crate) unsafe fn on_this_thread<R>(work: impl FnOnce() -> R) -> R {
    let state = (api().PyThreadState_Get)();
    set(state, Some(alone), null_mut());
    let result = work();
    set(state, None, null_mut());
    result
}

/// Gives every thread the profiler back that it had.
pub(crate) unsafe fn stop() {
    let installed = INSTALLED.get();
    if !(*installed).on {
        return;
    }
    (*installed).on = false;
    let mut before = core::mem::take(&mut (*installed).chained);
    states::with_those_left(&states::all().unwrap_or_default(), |(state, _)| {
        give_back_the_trace(state);
        if !is_ours(current(state).0) {
            return;
        }
        match before.get_mut(&(state as usize)) {
            Some(chained) => {
                let object = chained.object.as_ref().map_or(null_mut(), Owned::as_ptr);
                set(state, Some(chained.function), object);
            }
            None => set(state, None, null_mut()),
        }
    });
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
    let result = function(object, frame, what, value);
    // It can have set another one itself, where nobody is told.
    let state = (api().PyThreadState_Get)();
    if result == 0 && (*installed).on && !is_ours(current(state).0) {
        drop(put_on(state));
    }
    result
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
        if what == C_CALL && may_set_a_profile(value) {
            keep_a_lookout();
            if api()._PyEval_SetTrace.is_none() {
                ((*installed).look_soon)();
            }
        }
        return;
    }
    // Calls of C functions, which end above, cost what they do beside that.
    let begun = handling::begun();
    // The frame keeps its code.
    let code = (api().PyFrame_GetCode)(frame);
    (api().Py_DecRef)(code);
    let outcome = if what == CALL {
        entry(Shard::ONLY, code, frame, |code| Details {
            line: (api().PyFrame_GetLineNumber)(frame),
            flags: if is_resumed(code, frame) {
                SUSPENSION
            } else {
                0
            },
        })
    } else if value.is_null() {
        let offset = last_offset(frame);
        unwind(Shard::ONLY, code, frame, offset, |_| Details {
            line: (api().PyFrame_GetLineNumber)(frame),
            flags: EXCEPTION,
        })
    } else {
        exit(Shard::ONLY, code, frame, value, |code| Details {
            line: (api().PyFrame_GetLineNumber)(frame),
            flags: if is_suspended(code, frame) {
                SUSPENSION
            } else {
                0
            },
        })
    };
    handling::ended(begun, outcome == Outcome::Told);
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
