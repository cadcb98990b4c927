//! Calls through `sys.monitoring` (3.12 and later): a tool id of our own, six events, and a C function for each.
//!
//! A callback of code that no filter wants returns `DISABLE`, and the interpreter does not call it again for that
//! instruction. `PY_UNWIND` and `PY_THROW` belong to no instruction: up to 3.14 `DISABLE` from them is an error that also
//! takes the callback away, from 3.15 on they can be disabled for a code object as well. Events are named, because their
//! numbers differ by version.

use core::ffi::{CStr, c_long};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use pystap_agent_protocol::Refused;
use pystap_ring::LostKind;

use crate::calls::{Outcome, entry, exit, unwind};
use crate::codes::Code;
use crate::emit::Details;
use crate::gil::Guarded;
use crate::handling;
use crate::interpreters;
use crate::live::{self, is_on};
use crate::marks::{EXCEPTION, SUSPENSION};
use crate::python::{Method, Object, Owned, Ptr, api, is_free_threaded, number};
use crate::ring;
use crate::shards::{self, Shard};
use crate::states;

/// Tool ids in the order in which they are tried: those without a conventional owner first, a debugger's last.
const TOOL_IDS: [c_long; 6] = [4, 3, 2, 5, 1, 0];

/// The events and who handles them.
const EVENTS: [(&CStr, &Method); 6] = [
    (c"PY_START", &ON_START),
    (c"PY_RESUME", &ON_RESUME),
    (c"PY_RETURN", &ON_RETURN),
    (c"PY_YIELD", &ON_YIELD),
    (c"PY_UNWIND", &ON_UNWIND),
    (c"PY_THROW", &ON_THROW),
];

static ON_START: Method = Method::fast(c"start", on_start);
static ON_RESUME: Method = Method::fast(c"resume", on_resume);
static ON_RETURN: Method = Method::fast(c"return", on_return);
static ON_YIELD: Method = Method::fast(c"yield", on_yield);
static ON_UNWIND: Method = Method::fast(c"unwind", on_unwind);
static ON_THROW: Method = Method::fast(c"throw", on_throw);

/// Who handles them in interpreters within the interpreter, in the same order.
const WITHIN: [&Method; EVENTS.len()] = [
    &START_WITHIN,
    &RESUME_WITHIN,
    &RETURN_WITHIN,
    &YIELD_WITHIN,
    &UNWIND_WITHIN,
    &THROW_WITHIN,
];

static START_WITHIN: Method = Method::fast(c"start", start_within);
static RESUME_WITHIN: Method = Method::fast(c"resume", resume_within);
static RETURN_WITHIN: Method = Method::fast(c"return", return_within);
static YIELD_WITHIN: Method = Method::fast(c"yield", yield_within);
static UNWIND_WITHIN: Method = Method::fast(c"unwind", unwind_within);
static THROW_WITHIN: Method = Method::fast(c"throw", throw_within);

/// What the callbacks need, and what has to be given back.
struct Registered {
    /// `sys.monitoring.DISABLE`, and what `PY_UNWIND` and `PY_THROW` return instead.
    disable: Ptr,
    disable_global: Ptr,
    monitoring: Option<Owned>,
    tool: Option<c_long>,
}

static REGISTERED: Guarded<Registered> = Guarded::new(Registered {
    disable: null_mut(),
    disable_global: null_mut(),
    monitoring: None,
    tool: None,
});

/// `sys.monitoring.DISABLE` from 3.13 on, where all interpreters have the same.
static DISABLE: AtomicPtr<Object> = AtomicPtr::new(null_mut());

/// Switches the events on in the interpreter within the interpreter that the caller runs in, and gives the tool id. Its
/// callbacks get its ticket.
pub(crate) unsafe fn switch_on_within(ticket: &Owned) -> Option<c_long> {
    let monitoring = Owned::borrowed((api().PySys_GetObject)(c"monitoring".as_ptr()))?;
    DISABLE.store(
        monitoring.attribute(c"DISABLE")?.into_ptr(),
        Ordering::Relaxed,
    );
    let tool = take_tool(&monitoring).ok()?;
    let callback = |at: usize| {
        let method = WITHIN.get(at)?;
        let function = (api().PyCFunction_NewEx)(*method, ticket.as_ptr(), null_mut());
        Owned::take(function)
    };
    if register(&monitoring, tool, callback).is_none() {
        unregister(&monitoring, tool);
        return None;
    }
    Some(tool)
}

/// Switches them off there.
pub(crate) unsafe fn switch_off_within(tool: c_long) {
    if let Some(monitoring) = Owned::borrowed((api().PySys_GetObject)(c"monitoring".as_ptr())) {
        unregister(&monitoring, tool);
    }
}

/// Switches the events on, and gives the tool id.
pub(crate) unsafe fn start() -> Result<u32, Refused> {
    let registered = REGISTERED.get();
    let monitoring = Owned::borrowed((api().PySys_GetObject)(c"monitoring".as_ptr()))
        .ok_or_else(|| failed("sys.monitoring"))?;
    let tool = take_tool(&monitoring)?;
    let disable = monitoring.attribute(c"DISABLE");
    let disable = disable.ok_or_else(|| failed("sys.monitoring.DISABLE"))?;
    (*registered).disable = disable.into_ptr();
    let ([major, minor, _], _) = crate::python::version();
    (*registered).disable_global = if (major, minor) >= (3, 15) {
        (*registered).disable
    } else {
        api()._Py_NoneStruct
    };
    (*registered).tool = Some(tool);
    let result = register(&monitoring, tool, |at| match is_free_threaded() {
        true => kept_callback(at),
        false => new_callback(EVENTS.get(at)?.1),
    });
    (*registered).monitoring = Some(monitoring);
    match result {
        Some(()) => Ok(u32::try_from(tool).unwrap_or(0)),
        None => {
            stop();
            Err(failed("the registration with sys.monitoring"))
        }
    }
}

/// What a failed call of the interpreter comes to.
fn failed(what: &str) -> Refused {
    Refused::new(
        alloc::format!("the interpreter refused {what}, so its calls cannot be traced"),
        "look for an audit hook or another tool in the program that forbids it, and trace without that",
    )
}

unsafe fn take_tool(monitoring: &Owned) -> Result<c_long, Refused> {
    let use_tool_id = monitoring.attribute(c"use_tool_id");
    let get_tool = monitoring.attribute(c"get_tool");
    let (Some(use_tool_id), Some(get_tool), Some(name)) =
        (use_tool_id, get_tool, Owned::text("pystap"))
    else {
        return Err(failed("sys.monitoring.use_tool_id"));
    };
    let mut owners = alloc::vec::Vec::new();
    for tool in TOOL_IDS {
        let Some(id) = Owned::integer(tool) else {
            continue;
        };
        if use_tool_id.call(&[&id, &name]).is_some() {
            return Ok(tool);
        }
        let owner = get_tool.call(&[&id]);
        let owner = owner.map(|owner| {
            let text = (api().PyUnicode_AsUTF8)(owner.as_ptr());
            if text.is_null() {
                (api().PyErr_Clear)();
                return alloc::string::String::from("?");
            }
            CStr::from_ptr(text).to_string_lossy().into_owned()
        });
        owners.extend(owner);
    }
    owners.sort();
    Err(Refused::new(
        alloc::format!(
            "all tool ids of sys.monitoring are taken ({}), so the agent cannot register for calls",
            owners.join(", ")
        ),
        "stop one of these tools in the program, or start the program without it",
    ))
}

/// Callbacks first, then events, then the restart: what another tool, or an earlier session with the same id, has
/// disabled for this id would stay so otherwise.
unsafe fn register(
    monitoring: &Owned,
    tool: c_long,
    callback: impl Fn(usize) -> Option<Owned>,
) -> Option<()> {
    let tool = Owned::integer(tool)?;
    let register_callback = monitoring.attribute(c"register_callback")?;
    let events = monitoring.attribute(c"events")?;
    let mut all = 0;
    for (at, (name, _)) in EVENTS.into_iter().enumerate() {
        let event = events.attribute(name)?;
        register_callback.call(&[&tool, &event, &callback(at)?])?;
        all |= number(event.as_ptr(), 0);
    }
    let all = Owned::integer(all)?;
    let set_events = monitoring.attribute(c"set_events")?;
    let restart_events = monitoring.attribute(c"restart_events")?;
    // Both go through all threads, and nothing of the program runs between them.
    states::settle();
    set_events.call(&[&tool, &all])?;
    restart_events.call(&[])?;
    Some(())
}

/// The object through which the interpreter calls one of ours in a free-threaded build, made once: a thread may be about to call
/// it when it is given back, and the interpreter takes no reference to what it calls.
unsafe fn kept_callback(at: usize) -> Option<Owned> {
    static KEPT: Guarded<[Kept; EVENTS.len()]> =
        Guarded::new([const { Kept(null_mut()) }; EVENTS.len()]);
    let kept = (*KEPT.get()).get_mut(at)?;
    if kept.0.is_null() {
        let (_, method) = EVENTS.get(at)?;
        kept.0 = new_callback(method)?.into_ptr();
    }
    Owned::borrowed(kept.0)
}

/// A reference that is never given back.
struct Kept(Ptr);

unsafe fn new_callback(method: &'static Method) -> Option<Owned> {
    Owned::take((api().PyCFunction_NewEx)(method, null_mut(), null_mut()))
}

/// Has code instrumented at once, although none of its frames is on the stack of a thread. The interpreter does that where
/// the events of a single code object change, with all that are on.
pub(crate) unsafe fn instrument(codes: impl Iterator<Item = Owned>) -> Option<()> {
    let registered = REGISTERED.get();
    let monitoring = (*registered).monitoring.as_ref()?;
    let tool = Owned::integer((*registered).tool?)?;
    let event = monitoring.attribute(c"events")?.attribute(c"LINE")?;
    let nothing = Owned::integer(0)?;
    let set_local_events = monitoring.attribute(c"set_local_events")?;
    for code in codes {
        set_local_events.call(&[&tool, &code, &event]);
        set_local_events.call(&[&tool, &code, &nothing]);
    }
    Some(())
}

/// Whether no other tool is in use, which would hear of what is called here.
pub(crate) unsafe fn is_alone() -> bool {
    let registered = REGISTERED.get();
    let monitoring = (*registered).monitoring.as_ref();
    let Some(get_tool) = monitoring.and_then(|it| it.attribute(c"get_tool")) else {
        return false;
    };
    let ours = (*registered).tool;
    TOOL_IDS.into_iter().all(|tool| {
        let name = Owned::integer(tool).and_then(|id| get_tool.call(&[&id]));
        ours == Some(tool) || name.is_some_and(|name| name.as_ptr() == api()._Py_NoneStruct)
    })
}

/// Gives everything back.
pub(crate) unsafe fn stop() {
    let registered = REGISTERED.get();
    if let (Some(monitoring), Some(tool)) =
        ((*registered).monitoring.take(), (*registered).tool.take())
    {
        unregister(&monitoring, tool);
        // A callback can still be about to return it where nothing keeps it out.
        if !is_free_threaded() {
            drop(Owned::take((*registered).disable));
            (*registered).disable = null_mut();
        }
    }
}

/// Each step by itself, so that one that fails leaves the others.
unsafe fn unregister(monitoring: &Owned, tool: c_long) -> Option<()> {
    let tool = Owned::integer(tool)?;
    let nothing = Owned::integer(0)?;
    if let Some(set_events) = monitoring.attribute(c"set_events") {
        states::settle();
        set_events.call(&[&tool, &nothing]);
    }
    if let (Some(register_callback), Some(events), Some(none)) = (
        monitoring.attribute(c"register_callback"),
        monitoring.attribute(c"events"),
        Owned::borrowed(api()._Py_NoneStruct),
    ) {
        for (name, _) in EVENTS {
            if let Some(event) = events.attribute(name) {
                register_callback.call(&[&tool, &event, &none]);
            }
        }
    }
    if let Some(free_tool_id) = monitoring.attribute(c"free_tool_id") {
        // From 3.14 on it goes through all threads, too; audit hooks of the program may have run since.
        states::settle();
        free_tool_id.call(&[&tool]);
    }
    Some(())
}

/// Every callback gets the code object and the offset of the instruction in bytes first.
macro_rules! callback {
    ($name:ident, $within:ident, $lost:ident, $handle:ident, $line:ident, $flags:expr, $unwanted:ident $(, $value:ident)?) => {
        unsafe extern "C" fn $name(_: Ptr, arguments: *const Ptr, count: isize) -> Ptr {
            #[inline(always)]
            unsafe fn heard(shard: Shard, arguments: *const Ptr, count: isize) -> Ptr {
                if count >= 2 && is_on() {
                    let details = |code| Details {
                        line: $line(code, arguments),
                        flags: $flags,
                    };
                    let outcome =
                        $handle(shard, *arguments, null_mut(), $($value(arguments, count),)? details);
                    if outcome == Outcome::Unwanted {
                        // A reference is due, and `DISABLE` is not immortal in every version.
                        let answer = (*REGISTERED.get()).$unwanted;
                        (api().Py_IncRef)(answer);
                        return answer;
                    }
                }
                none_now()
            }
            // Apart, so that builds with the interpreter's lock are not slower for the others.
            #[inline(never)]
            unsafe fn heard_in_own(arguments: *const Ptr, count: isize) -> Ptr {
                match shards::enter_own() {
                    Some(inside) => heard(inside.shard(), arguments, count),
                    None => lose(LostKind::$lost),
                }
            }
            if is_free_threaded() {
                return heard_in_own(arguments, count);
            }
            let begun = handling::begun();
            let answer = heard(Shard::ONLY, arguments, count);
            handling::ended(begun, answer == none_now());
            answer
        }

        unsafe extern "C" fn $within(ticket: Ptr, arguments: *const Ptr, count: isize) -> Ptr {
            if count >= 2 && let Some(inside) = interpreters::enter(ticket) {
                let details = |code| Details {
                    line: $line(code, arguments),
                    flags: $flags,
                };
                let outcome = $handle(
                    inside.shard(), *arguments, null_mut(), $($value(arguments, count),)? details
                );
                if outcome == Outcome::Unwanted {
                    return unwanted_within(Answer::$unwanted);
                }
            }
            none_now()
        }
    };
}

/// What an unwanted event is answered with.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    disable,
    disable_global,
}

/// Neither object is counted where interpreters are seen within another.
#[cold]
unsafe fn unwanted_within(answer: Answer) -> Ptr {
    let ([_, minor, _], _) = crate::python::version();
    if answer == Answer::disable || minor >= 15 {
        DISABLE.load(Ordering::Relaxed)
    } else {
        none_now()
    }
}

/// An event of a thread that has no shard, of whatever function it is.
#[cold]
unsafe fn lose(kind: LostKind) -> Ptr {
    shards::outside(|| {
        if is_on() {
            live::drop_one();
            ring::lost_elsewhere(kind);
        }
    });
    none_now()
}

unsafe fn first(code: *mut Code, _: *const Ptr) -> i32 {
    (*code).told.first_line
}

unsafe fn offset(code: *mut Code, arguments: *const Ptr) -> i32 {
    (*code).line_at(number(*arguments.add(1), 0) as i32)
}

/// What a function returns is the third argument of its event.
unsafe fn returned(arguments: *const Ptr, count: isize) -> Ptr {
    if count < 3 {
        null_mut()
    } else {
        *arguments.add(2)
    }
}

/// Where the frame is, in bytes.
unsafe fn position(arguments: *const Ptr, _: isize) -> i64 {
    number(*arguments.add(1), -1)
}

unsafe fn no_value(_: *const Ptr, _: isize) -> Ptr {
    null_mut()
}

/// `None` is immortal in every version that has `sys.monitoring`.
#[inline(always)]
unsafe fn none_now() -> Ptr {
    api()._Py_NoneStruct
}

callback!(on_start, start_within, Call, entry, first, 0, disable);
callback!(
    on_resume,
    resume_within,
    Call,
    entry,
    offset,
    SUSPENSION,
    disable
);
callback!(
    on_throw,
    throw_within,
    Call,
    entry,
    offset,
    SUSPENSION,
    disable_global
);
callback!(
    on_return,
    return_within,
    Return,
    exit,
    offset,
    0,
    disable,
    returned
);
callback!(
    on_yield,
    yield_within,
    Return,
    exit,
    offset,
    SUSPENSION,
    disable,
    no_value
);
callback!(
    on_unwind,
    unwind_within,
    Return,
    unwind,
    offset,
    EXCEPTION,
    disable_global,
    position
);
