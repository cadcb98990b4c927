//! The extension module: what is imported, what it offers, and what calls it back for the agent's own upkeep: before and
//! after forks, and at exit.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::mem::transmute;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicU32, Ordering};

use pystap_agent_protocol::{Follow, PROTOCOL};

use crate::codes;
use crate::control::{self, CONTROL};
use crate::fork;
use crate::gil::{self, Guarded};
use crate::live;
use crate::python::{
    self, METH_KEYWORDS, METH_NOARGS, METH_VARARGS, Method, ModuleDefinition, ModuleObject, Owned,
    Ptr, api, exception, is_free_threaded, none,
};
use crate::thread::Native;
use crate::within::{self, Link};
use crate::worker;

/// Version of the package, and of the protocol.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The same for whoever reads our file: `VERSION/PROTOCOL` with a NUL.
#[unsafe(no_mangle)]
#[used]
static pystap_agent_version: [u8; 16] = version_text();

// A constant: what could panic does so in the compiler.
#[allow(clippy::indexing_slicing)]
const fn version_text() -> [u8; 16] {
    let mut text = [0; 16];
    let version = VERSION.as_bytes();
    assert!(version.len() < 12 && PROTOCOL < 100);
    let mut at = 0;
    while at < version.len() {
        text[at] = version[at];
        at += 1;
    }
    text[at] = b'/';
    if PROTOCOL >= 10 {
        at += 1;
        text[at] = b'0' + (PROTOCOL / 10) as u8;
    }
    text[at + 1] = b'0' + (PROTOCOL % 10) as u8;
    text
}

static METHODS: [Method; 3] = [
    Method {
        name: c"start".as_ptr(),
        function: start as *const c_void,
        flags: METH_VARARGS | METH_KEYWORDS,
        doc: c"start(dormant, follow=None)\n\nWait for pystap on a socket.".as_ptr(),
    },
    Method {
        name: c"status".as_ptr(),
        function: status as *const c_void,
        flags: METH_NOARGS,
        doc: c"status()\n\nWhat the agent is doing, as a dictionary.".as_ptr(),
    },
    Method::END,
];

/// It belongs to the interpreter once the module is made.
struct Definition(ModuleObject);
// SAFETY: only the interpreter touches it, under its lock.
unsafe impl Sync for Definition {}

static DEFINITION: Guarded<Definition> =
    Guarded::new(Definition(ModuleObject::new(ModuleDefinition {
        base: [0; 3],
        name: c"_pystap_agent".as_ptr(),
        doc: c"pystap's agent in this process.".as_ptr(),
        size: -1,
        methods: (&raw const METHODS).cast(),
        rest: [0; 4],
    })));

/// `PYTHON_API_VERSION` of every CPython 3.
const API_VERSION: c_int = 1013;

/// Called by the interpreter on import, with its lock held.
#[unsafe(no_mangle)]
unsafe extern "C" fn PyInit__pystap_agent() -> Ptr {
    if let Err(problem) = prepare() {
        raise_import_error(&problem);
        return null_mut();
    }
    let definition = &mut (*DEFINITION.get()).0;
    let module = (api().PyModule_Create2)(definition.start(), API_VERSION);
    // Otherwise the interpreter takes up a lock again for as long as it lives.
    if !module.is_null()
        && is_free_threaded()
        && let Some(set) = api().PyUnstable_Module_SetGIL
    {
        set(module, WITHOUT_LOCK);
    }
    module
}

/// `Py_MOD_GIL_NOT_USED`.
const WITHOUT_LOCK: *mut c_void = core::ptr::without_provenance_mut(1);

/// For who has loaded the library from outside (`--inject ptrace`): 0 until it is ready to be called, then 1, and after
/// each call of [`pystap_agent_enter`] another number, whose last four bits say what became of it.
#[unsafe(no_mangle)]
#[used]
static pystap_agent_state: AtomicU32 = AtomicU32::new(0);

/// The last four bits.
const STARTED: u32 = 2;
const REFUSED: u32 = 3;
const NOT_RUNNING: u32 = 4;
const NO_THREAD: u32 = 5;

/// Called by the dynamic loader when everything is in its place.
#[used]
#[unsafe(link_section = ".init_array")]
static READY: extern "C" fn() = ready;

extern "C" fn ready() {
    pystap_agent_state.store(1, Ordering::SeqCst);
}

fn became(outcome: u32) {
    let before = pystap_agent_state.load(Ordering::SeqCst) >> 4;
    pystap_agent_state.store(before.wrapping_add(1) << 4 | outcome, Ordering::SeqCst);
}

/// What `start` does, on a thread of its own: whoever is made to call this may hold the interpreter's lock or not.
#[unsafe(no_mangle)]
unsafe extern "C" fn pystap_agent_enter() {
    if Native::start(enter, worker::STACK).is_err() {
        became(NO_THREAD);
    }
}

unsafe extern "C" fn enter(_: *mut c_void) -> *mut c_void {
    if python::find().is_err() {
        became(REFUSED);
        return null_mut();
    }
    // Between this look and the next line the interpreter may end as well: then it ends this thread.
    if (api().Py_IsInitialized)() == 0 || (api().Py_IsFinalizing)() != 0 {
        became(NOT_RUNNING);
        return null_mut();
    }
    let state = (api().PyGILState_Ensure)();
    let begun = prepare().and_then(|()| begin(false, None));
    (api().PyErr_Clear)();
    (api().PyGILState_Release)(state);
    became(if begun.is_ok() { STARTED } else { REFUSED });
    null_mut()
}

/// Free-threaded versions in which it is tested.
const FREE_THREADED: [u32; 1] = [13];

/// Finds the interpreter's functions and looks whether it is one that we know.
unsafe fn prepare() -> Result<(), String> {
    let step =
        "trace this program without the agent, or run it with CPython 3.9 to 3.15 as usually built";
    python::find().map_err(|missing| {
        format!(
            "pystap's agent works in CPython 3.9 to 3.15 only, and this interpreter has no {}; {step}",
            missing.to_string_lossy()
        )
    })?;
    let ([major, minor, _], text) = python::version();
    let text = String::from_utf8_lossy(text);
    let implementation = python::implementation();
    let first_words = text.split(" (").next().unwrap_or_default();
    if implementation != "cpython" || major != 3 || !(9..=15).contains(&minor) {
        return Err(format!(
            "pystap's agent works in CPython 3.9 to 3.15 only, and this is {implementation} {first_words}; {step}"
        ));
    }
    if is_free_threaded() && !FREE_THREADED.contains(&minor) {
        return Err(format!(
            "pystap's agent works in free-threaded builds of CPython 3.13 only, and this is one of {first_words}; {step}"
        ));
    }
    Ok(())
}

/// Raises `ImportError` in whatever interpreter this is: PyPy has the function under another name, and not the rest of
/// what [`api`] needs.
unsafe fn raise_import_error(problem: &str) {
    type SetString = unsafe extern "C" fn(Ptr, *const c_char);
    let Ok(problem) = CString::new(problem) else {
        return;
    };
    for (function, kind) in [
        (c"PyErr_SetString", c"PyExc_ImportError"),
        (c"PyPyErr_SetString", c"PyPyExc_ImportError"),
    ] {
        let (function, kind) = (python::symbol(function), python::symbol(kind));
        if !function.is_null() && !kind.is_null() {
            let set_string = transmute::<*mut c_void, SetString>(function);
            set_string(exception(kind.cast()), problem.as_ptr());
            return;
        }
    }
}

unsafe extern "C" fn start(_: Ptr, positional: Ptr, named: Ptr) -> Ptr {
    let argument = |position: isize, name: &CStr| {
        if position < (api().PyTuple_Size)(positional) {
            return (api().PyTuple_GetItem)(positional, position);
        }
        if named.is_null() {
            return null_mut();
        }
        (api().PyDict_GetItemString)(named, name.as_ptr())
    };
    let dormant = argument(0, c"dormant");
    if dormant.is_null() {
        let usage = c"start() needs dormant: True to stay, False to go after one session";
        (api().PyErr_SetString)(exception(api().PyExc_TypeError), usage.as_ptr());
        return null_mut();
    }
    let dormant = (api().PyObject_IsTrue)(dormant);
    if dormant < 0 {
        return null_mut();
    }
    let follow = argument(1, c"follow");
    let follow = if follow.is_null() || follow == api()._Py_NoneStruct {
        None
    } else {
        let text = (api().PyUnicode_AsUTF8)(follow);
        if text.is_null() {
            return null_mut();
        }
        let follow = Follow::parse(&CStr::from_ptr(text).to_string_lossy());
        if follow.is_none() {
            let usage = c"follow is SOCKET:SECRET, as pystap puts it into PYSTAP_AGENT";
            (api().PyErr_SetString)(exception(api().PyExc_ValueError), usage.as_ptr());
            return null_mut();
        }
        follow
    };
    if let Err(problem) = begin(dormant != 0, follow) {
        let problem = CString::new(problem).unwrap_or_default();
        (api().PyErr_SetString)(exception(api().PyExc_RuntimeError), problem.as_ptr());
        return null_mut();
    }
    none()
}

/// Opens the socket, starts the thread, and registers for forks and exit.
unsafe fn begin(dormant: bool, follow: Option<Follow>) -> Result<(), String> {
    if (api().PyInterpreterState_Get)() != (api().PyInterpreterState_Main)() {
        return Err(String::from(
            "pystap's agent was started in a subinterpreter, whose calls it does not see; start it in the main one",
        ));
    }
    fork::settle();
    if fork::is_cut_off() {
        return Err(String::from(
            "this process was forked by C code, of which a free-threaded interpreter does not hear, so pystap's agent cannot work in it; trace the program that it comes from",
        ));
    }
    let _held = gil::hold();
    // In the main interpreter: the slot of codes is that of one.
    codes::leave_out_own();
    register_hooks();
    gil::is_entered();
    within::begin(Link {
        is_running: control::is_running,
        ask: control::ask_for_ring,
    });
    fork::register();
    control::start(dormant, follow).map_err(|reason| {
        format!(
            "pystap's agent cannot wait for pystap: {reason}; the program goes on untraced (it needs sockets, two threads, and \
             close_range(2) of Linux 5.9 or unshare(2): look whether a limit or a seccomp filter forbids one of them)"
        )
    })
}

static BEFORE_FORK: Method = Method {
    name: c"before_fork".as_ptr(),
    function: before_fork as *const c_void,
    flags: METH_NOARGS,
    doc: null(),
};
static AFTER_FORK_IN_PARENT: Method = Method {
    name: c"after_fork_in_parent".as_ptr(),
    function: after_fork_in_parent as *const c_void,
    flags: METH_NOARGS,
    doc: null(),
};
static AFTER_FORK_IN_CHILD: Method = Method {
    name: c"after_fork_in_child".as_ptr(),
    function: after_fork_in_child as *const c_void,
    flags: METH_NOARGS,
    doc: null(),
};
static AT_EXIT: Method = Method {
    name: c"at_exit".as_ptr(),
    function: at_exit as *const c_void,
    flags: METH_NOARGS,
    doc: null(),
};

/// The interpreter that has our hooks. They stay with it: it has no way to take them back, and they do nothing while
/// there is no thread.
static HOOKED: Guarded<usize> = Guarded::new(0);

unsafe fn register_hooks() -> Option<()> {
    let interpreter = (api().PyInterpreterState_Get)() as usize;
    if gil::is_closed() {
        // Another interpreter than the one that has ended, though maybe at the same address.
        *HOOKED.get() = 0;
        gil::open();
    }
    if *HOOKED.get() == interpreter {
        return Some(());
    }
    let function = |method: &'static Method| {
        Owned::take((api().PyCFunction_NewEx)(method, null_mut(), null_mut()))
    };
    // Both are built in, so importing them runs no code of the program.
    let posix = Owned::take((api().PyImport_ImportModule)(c"posix".as_ptr()))?;
    let named = Owned::take((api().PyDict_New)())?;
    for (name, method) in [
        (c"before", &BEFORE_FORK),
        (c"after_in_parent", &AFTER_FORK_IN_PARENT),
        (c"after_in_child", &AFTER_FORK_IN_CHILD),
    ] {
        let function = function(method)?;
        (api().PyDict_SetItemString)(named.as_ptr(), name.as_ptr(), function.as_ptr());
    }
    let nothing = Owned::take((api().PyTuple_New)(0))?;
    let register = posix.attribute(c"register_at_fork")?;
    Owned::take((api().PyObject_Call)(
        register.as_ptr(),
        nothing.as_ptr(),
        named.as_ptr(),
    ))?;
    let atexit = Owned::take((api().PyImport_ImportModule)(c"atexit".as_ptr()))?;
    atexit
        .attribute(c"register")?
        .call(&[&function(&AT_EXIT)?])?;
    *HOOKED.get() = interpreter;
    Some(())
}

unsafe extern "C" fn before_fork(_: Ptr, _: Ptr) -> Ptr {
    fork::before();
    none()
}

unsafe extern "C" fn after_fork_in_parent(_: Ptr, _: Ptr) -> Ptr {
    fork::after_in_parent();
    none()
}

unsafe extern "C" fn after_fork_in_child(_: Ptr, _: Ptr) -> Ptr {
    fork::settle();
    none()
}

unsafe extern "C" fn at_exit(_: Ptr, _: Ptr) -> Ptr {
    let held = gil::hold();
    control::tell_what_is_unseen();
    gil::close();
    drop(held);
    none()
}

unsafe extern "C" fn status(_: Ptr, _: Ptr) -> Ptr {
    fork::settle();
    let _held = gil::hold();
    let Some(dictionary) = Owned::take((api().PyDict_New)()) else {
        return none();
    };
    let set = |name: &CStr, value: Option<Owned>| {
        if let Some(value) = value {
            (api().PyDict_SetItemString)(dictionary.as_ptr(), name.as_ptr(), value.as_ptr());
        }
    };
    let flag = |value: bool| {
        Owned::borrowed(if value {
            api()._Py_TrueStruct
        } else {
            api()._Py_FalseStruct
        })
    };
    let counts = live::counts();
    let count = |value: u64| Owned::integer(i64::try_from(value).unwrap_or(i64::MAX));
    set(c"version", Owned::text(VERSION));
    set(c"protocol", Owned::integer(i64::from(PROTOCOL)));
    set(c"socket", Owned::text(&control::name(&*CONTROL.get())));
    set(c"running", flag(control::is_running()));
    set(c"dormant", flag(control::is_dormant()));
    set(c"session", flag(live::is_on()));
    set(c"entries", count(counts.entries));
    set(c"returns", count(counts.returns));
    set(c"dropped", count(counts.dropped));
    dictionary.into_ptr()
}
