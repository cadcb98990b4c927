//! The interpreter's lock: what it guards, and how the native thread takes it.
//!
//! A free-threaded build has none. There, callbacks have state of their own each (`shards`), and for the rest there is a lock
//! of ours ([`hold`]), which is taken where the interpreter's would be had: by whatever calls the module, by hooks of forks, and
//! by the native thread. Callbacks do not take it.
//!
//! Taking it from a thread that Python does not know is safe only while the interpreter lives. After that, CPython ends
//! such a thread (up to 3.13), hangs it (3.14) or crashes (when all is torn down). So there is a gate: before the
//! interpreter ends, a function that it calls at exit closes the gate, and waits, without the lock, for the native thread
//! to be out.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use crate::python::{api, is_free_threaded};
use crate::thread::{self, wait_while, wake};
use crate::worker;

/// What belongs to who holds the interpreter's lock, or ours where there is none.
pub(crate) struct Guarded<T>(UnsafeCell<T>);

// SAFETY: the lock is the promise of `get`'s callers.
unsafe impl<T> Sync for Guarded<T> {}

impl<T> Guarded<T> {
    pub(crate) const fn new(value: T) -> Guarded<T> {
        Guarded(UnsafeCell::new(value))
    }

    /// Where it is. The caller holds the lock, and keeps no reference into it while it calls anything that may let the
    /// interpreter run other code.
    #[inline(always)]
    pub(crate) const fn get(&self) -> *mut T {
        self.0.get()
    }
}

/// The thread that has our lock, by its thread pointer, and whether somebody has it.
static HOLDER: AtomicUsize = AtomicUsize::new(0);
static IS_HELD: AtomicU32 = AtomicU32::new(0);

/// Our lock, until this goes.
pub(crate) struct Held {
    is_ours: bool,
}

/// Takes our lock where there is no other. The caller has a thread state, which is given up while it waits.
pub(crate) unsafe fn hold() -> Held {
    let own = thread::current();
    if !is_free_threaded() || HOLDER.load(Ordering::Relaxed) == own {
        return Held { is_ours: false };
    }
    while !take() {
        let state = (api().PyEval_SaveThread)();
        wait_while(&IS_HELD, 1, 100);
        (api().PyEval_RestoreThread)(state);
    }
    Held { is_ours: true }
}

fn take() -> bool {
    let taken = IS_HELD.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
    if taken.is_ok() {
        HOLDER.store(thread::current(), Ordering::Relaxed);
    }
    taken.is_ok()
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.is_ours {
            HOLDER.store(0, Ordering::Relaxed);
            IS_HELD.store(0, Ordering::Release);
            wake(&IS_HELD);
        }
    }
}

static CLOSED: AtomicBool = AtomicBool::new(false);
/// Whether Python code called us before its interpreter said that it is initialized, as 3.15 does only after it has
/// imported `site`; until it has said so.
static BEGINS: AtomicBool = AtomicBool::new(false);
/// 1 while the native thread takes or has the lock.
static INSIDE: AtomicU32 = AtomicU32::new(0);

/// Forks that are under way: nobody of ours goes in.
static HELD: AtomicU32 = AtomicU32::new(0);

/// How long the native thread waits for a fork to be over, in steps of ten milliseconds. One that never ends was a fork of
/// which we were told the beginning only.
const STEPS: u32 = 500;

/// Runs something with the lock, unless the interpreter is ending. Called by the native thread that has the sockets; the
/// other one does it.
pub(crate) fn with<R>(work: impl FnOnce() -> R) -> Option<R> {
    let mut work = Some(work);
    let mut result = None;
    worker::run(&mut || {
        if let Some(work) = work.take() {
            result = enter(work);
        }
    });
    result
}

fn enter<R>(work: impl FnOnce() -> R) -> Option<R> {
    INSIDE.store(1, Ordering::SeqCst);
    for _ in 0..STEPS {
        let held = HELD.load(Ordering::SeqCst);
        if held == 0 {
            break;
        }
        INSIDE.store(0, Ordering::SeqCst);
        wake(&INSIDE);
        wait_while(&HELD, held, 0);
        INSIDE.store(1, Ordering::SeqCst);
    }
    // SAFETY: the interpreter lives as long as the gate is open, and `close` waits for us.
    let result = unsafe {
        if CLOSED.load(Ordering::SeqCst) || !is_alive() || (api().Py_IsFinalizing)() != 0 {
            None
        } else {
            let state = (api().PyGILState_Ensure)();
            let held = hold();
            let result = work();
            drop(held);
            (api().PyGILState_Release)(state);
            Some(result)
        }
    };
    INSIDE.store(0, Ordering::SeqCst);
    wake(&INSIDE);
    result
}

/// Whether there is an interpreter. One that is not initialized has ended, unless it has not been so far.
unsafe fn is_alive() -> bool {
    if (api().Py_IsInitialized)() != 0 {
        BEGINS.store(false, Ordering::SeqCst);
        return true;
    }
    BEGINS.load(Ordering::SeqCst)
}

/// An interpreter lives, for the caller runs in it.
pub(crate) unsafe fn is_entered() {
    if (api().Py_IsInitialized)() == 0 && (api().Py_IsFinalizing)() == 0 {
        BEGINS.store(true, Ordering::SeqCst);
    }
}

/// Keeps the native thread out for the time of a fork: a child in which it had the lock could never run Python again.
pub(crate) fn keep_out() {
    HELD.fetch_add(1, Ordering::SeqCst);
}

/// Whether it takes or has the lock.
pub(crate) fn is_inside() -> bool {
    INSIDE.load(Ordering::SeqCst) == 1
}

/// Waits until it is out, for so many milliseconds at most.
pub(crate) fn until_out(milliseconds: i64) {
    wait_while(&INSIDE, 1, milliseconds);
}

/// Lets it in again.
pub(crate) fn let_in() {
    let _ = HELD.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |held| {
        held.checked_sub(1)
    });
    wake(&HELD);
}

/// Whether the gate is closed.
pub(crate) fn is_closed() -> bool {
    CLOSED.load(Ordering::SeqCst)
}

/// Opens the gate: an interpreter lives, for the caller runs in it.
pub(crate) fn open() {
    CLOSED.store(false, Ordering::SeqCst);
}

/// Closes the gate. The caller holds the lock; it is given up while the native thread is inside, for two seconds at most.
pub(crate) unsafe fn close() {
    CLOSED.store(true, Ordering::SeqCst);
    if INSIDE.load(Ordering::SeqCst) == 0 {
        return;
    }
    without(|| wait_while(&INSIDE, 1, 2000));
}

/// In a fork's child: the native thread is not there any longer, wherever it was.
pub(crate) fn forget_the_thread() {
    INSIDE.store(0, Ordering::SeqCst);
    HELD.store(0, Ordering::SeqCst);
    HOLDER.store(0, Ordering::SeqCst);
    IS_HELD.store(0, Ordering::SeqCst);
}

/// Whether the program waits for our native thread to be out: it forks, or ends.
pub(crate) fn is_awaited() -> bool {
    CLOSED.load(Ordering::SeqCst) || HELD.load(Ordering::SeqCst) > 0
}

/// Runs something without the lock, which the caller holds.
pub(crate) unsafe fn without<R>(work: impl FnOnce() -> R) -> R {
    let was_held = is_free_threaded() && HOLDER.load(Ordering::Relaxed) == thread::current();
    drop(Held { is_ours: was_held });
    let state = (api().PyEval_SaveThread)();
    let result = work();
    (api().PyEval_RestoreThread)(state);
    if was_held {
        // Whoever called us lets go of it.
        core::mem::forget(hold());
    }
    result
}
