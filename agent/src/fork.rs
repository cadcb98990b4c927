//! Forks, of every kind. The children have the agent's state and none of its threads and sockets; see `presence` for how
//! that is noticed.
//!
//! *Python's own* (`os.fork`) call us before and after. Where the interpreter warns of forks with several threads (3.12)
//! and ours are all that there are beside the one that forks, they end before and begin again after. *Forks in C* are
//! announced by the C library (`pthread_atfork`), where nothing may be done but wait, a moment, until no thread of ours is
//! in the interpreter. What is left to do in a child, which needs the interpreter, is done at the first occasion: an event,
//! a call of the module, or a call that was put into the interpreter's queue before the fork. Until then the child tells
//! nothing. A child that another system call made (`clone`) is noticed by its first event.
//!
//! In a free-threaded build, a child that the interpreter was not told of is left alone for good: to switch something on or off
//! there, it would have to stop threads that are not there.
//!
//! `vfork` and `posix_spawn` share the memory until the child executes another program; it runs no Python.

use core::ffi::{CStr, c_int, c_void};
use core::mem::transmute;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io;

use crate::descriptors::Kept;
use crate::gil::{self, Guarded};
use crate::python::{self, api};
use crate::{codes, control, live, presence, shards, thread, thread_names, within};

/// How long a fork waits for our threads to be out of the interpreter, in milliseconds: one of Python, and one of C.
const PYTHON: i64 = 1000;
const C: i64 = 100;

/// Forks of Python that are under way.
static UNDER_WAY: AtomicU32 = AtomicU32::new(0);
/// The thread that began the last of them, by its thread pointer.
static FORKER: AtomicUsize = AtomicUsize::new(0);
static REGISTERED: AtomicBool = AtomicBool::new(false);

/// Our sockets while there is no thread for them.
static PARKED: Guarded<Option<Kept>> = Guarded::new(None);

/// Whether this is the child of a fork that the interpreter was not told of, in a free-threaded build.
static CUT_OFF: AtomicBool = AtomicBool::new(false);

/// `__register_atfork`; `pthread_atfork` is no symbol of the shared C library.
type Register = unsafe extern "C" fn(
    Option<unsafe extern "C" fn()>,
    Option<unsafe extern "C" fn()>,
    Option<unsafe extern "C" fn()>,
    *mut c_void,
) -> c_int;

/// Has the C library tell us of forks, from now on in this process and its children. The library that we are is never
/// unloaded.
pub(crate) unsafe fn register() {
    if REGISTERED.swap(true, Ordering::SeqCst) {
        return;
    }
    live::when_forked(settle);
    let name: &CStr = c"__register_atfork";
    let found = python::symbol(name);
    if !found.is_null() {
        let register = transmute::<*mut c_void, Register>(found);
        register(Some(prepare), Some(parent), Some(child), null_mut());
    }
}

/// Before any fork, on the thread that forks, whatever it holds.
unsafe extern "C" fn prepare() {
    gil::keep_out();
    if UNDER_WAY.load(Ordering::SeqCst) > 0 || !control::is_running() || gil::is_closed() {
        return;
    }
    // Who has the interpreter's lock keeps ours out.
    if gil::is_inside() && (python::is_free_threaded() || (api().PyGILState_Check)() == 0) {
        gil::until_out(C);
    }
    // Before the fork, because the queue has a lock of its own, which a child could find taken for ever.
    (api().Py_AddPendingCall)(settle_now, null_mut());
}

unsafe extern "C" fn parent() {
    gil::let_in();
}

/// In the child nothing is done but stores.
unsafe extern "C" fn child() {
    gil::forget_the_thread();
    presence::end_session();
}

unsafe extern "C" fn settle_now(_: *mut c_void) -> c_int {
    settle();
    0
}

/// Before a fork of Python's. The caller holds the interpreter's lock, which is given up while a thread of ours needs it.
pub(crate) unsafe fn before() {
    settle();
    let _held = gil::hold();
    UNDER_WAY.fetch_add(1, Ordering::SeqCst);
    FORKER.store(thread::current(), Ordering::SeqCst);
    let ([_, minor, _], _) = python::version();
    if minor >= 12 && control::is_running() && (*PARKED.get()).is_none() && no_others_run() {
        let parked = control::park();
        *PARKED.get() = parked;
    }
    gil::keep_out();
    if gil::is_inside() {
        gil::without(|| gil::until_out(PYTHON));
    }
}

/// From 3.13 on the interpreter counts threads only after this, to warn of those that a child would miss; a main thread
/// that forks starts ours a little later there, when it goes on with its bytecode. (Another thread that forks is a second
/// one anyway.)
pub(crate) unsafe fn after_in_parent() {
    let _ = UNDER_WAY.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |forks| {
        forks.checked_sub(1)
    });
    gil::let_in();
    let _held = gil::hold();
    if (*PARKED.get()).is_none() {
        return;
    }
    let ([_, minor, _], _) = python::version();
    let is_main = rustix::thread::gettid() == rustix::process::getpid();
    if minor >= 13 && is_main && (api().Py_AddPendingCall)(resume, null_mut()) == 0 {
        return;
    }
    resume(null_mut());
}

/// Starts our threads again. The caller holds the interpreter's lock.
unsafe extern "C" fn resume(_: *mut c_void) -> c_int {
    settle();
    let _held = gil::hold();
    if UNDER_WAY.load(Ordering::SeqCst) == 0
        && let Some(parked) = (*PARKED.get()).take()
    {
        control::resume(parked);
    }
    0
}

/// Makes this process one of its own if it is the child of one with an agent. The caller holds the interpreter's lock.
pub(crate) unsafe fn settle() {
    if !presence::is_lost() {
        return;
    }
    let was_under_way = UNDER_WAY.swap(0, Ordering::SeqCst) > 0;
    let knows = was_under_way && FORKER.load(Ordering::SeqCst) == thread::current();
    gil::forget_the_thread();
    shards::begin_in_child();
    thread_names::forget();
    codes::begin_in_child();
    within::begin_in_child();
    let _held = gil::hold();
    if let Some(parked) = (*PARKED.get()).take() {
        parked.close();
    }
    presence::claim();
    if python::is_free_threaded() && !knows {
        // The interpreter waits for ever for threads that it believes to be there, when it is to stop them all.
        CUT_OFF.store(true, Ordering::SeqCst);
        live::cut_off();
        control::forget_in_child();
    } else {
        control::begin_in_child();
    }
}

/// Whether no session can begin in this process any longer.
pub(crate) fn is_cut_off() -> bool {
    CUT_OFF.load(Ordering::SeqCst)
}

/// Whether the process has no threads but the caller and ours, as the interpreter will find it: where it cannot count
/// either, it does not warn.
fn no_others_run() -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut text = [0; 512];
    let Ok(file) = rustix::fs::open(c"/proc/self/stat", flags, Mode::empty()) else {
        return false;
    };
    let length = io::read(&file, &mut text).unwrap_or(0);
    let text = core::str::from_utf8(text.get(..length).unwrap_or_default()).unwrap_or_default();
    let fields = text.rsplit_once(')').map(|(_, fields)| fields);
    // The number of threads is the 20th field, and the state is the third.
    let threads = fields.and_then(|fields| fields.split_ascii_whitespace().nth(17));
    threads == Some("3")
}
