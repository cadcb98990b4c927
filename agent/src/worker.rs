//! The second native thread: it does what needs the interpreter, for the first, which has the sockets (`control`). Two,
//! because code of the program can run wherever the interpreter does (an audit hook, a finalizer), and that code may open
//! and close files: it has to find the program's descriptors, and the first thread has its own.

use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::thread::futex;

use crate::thread::{self, Native, wake};

/// Its stack in bytes. Hooks of the program (`sys.addaudithook`) can run on it while it switches events on.
pub(crate) const STACK: usize = 1 << 20;

/// Nothing to do; a job; to leave; no thread.
const WAITING: u32 = 0;
const JOB: u32 = 1;
const LEAVE: u32 = 2;
const GONE: u32 = 3;

static ORDER: AtomicU32 = AtomicU32::new(GONE);
/// The thread pointer of the thread, and the kernel's number.
static THREAD: AtomicUsize = AtomicUsize::new(0);
static NUMBER: AtomicU32 = AtomicU32::new(0);

type Work = *mut dyn FnMut();
struct Slot(UnsafeCell<Option<Work>>);
// SAFETY: whoever gives a job writes it before the order and waits until it is done.
unsafe impl Sync for Slot {}
static WORK: Slot = Slot(UnsafeCell::new(None));

/// Starts it.
pub(crate) fn start() -> Result<(), Errno> {
    ORDER.store(WAITING, Ordering::SeqCst);
    Native::start(body, STACK).map_err(|error| {
        ORDER.store(GONE, Ordering::SeqCst);
        Errno::from_raw_os_error(error)
    })
}

/// Has it do something, and waits for that. Called by the other native thread only.
pub(crate) fn run(work: &mut dyn FnMut()) {
    if ORDER.load(Ordering::SeqCst) == GONE {
        return;
    }
    // SAFETY: the thread is done with it when this returns.
    unsafe {
        *WORK.0.get() = Some(core::mem::transmute::<*mut (dyn FnMut() + '_), Work>(work));
    }
    order(JOB);
    until_not(JOB);
}

/// Has it leave, and waits until it is about to.
pub(crate) fn dismiss() {
    if ORDER.load(Ordering::SeqCst) != GONE {
        order(LEAVE);
        until_not(LEAVE);
    }
}

/// The kernel's number of the thread that runs or ran last.
pub(crate) fn number() -> u32 {
    NUMBER.load(Ordering::SeqCst)
}

/// Whether the caller is that thread.
pub(crate) fn is_current() -> bool {
    THREAD.load(Ordering::Relaxed) == thread::current()
}

/// In a fork's child: it is not there.
pub(crate) fn forget() {
    ORDER.store(GONE, Ordering::SeqCst);
    THREAD.store(0, Ordering::SeqCst);
}

fn order(what: u32) {
    ORDER.store(what, Ordering::SeqCst);
    wake(&ORDER);
}

/// Without a limit: only our two threads wait so, for each other.
fn until_not(value: u32) {
    while ORDER.load(Ordering::SeqCst) == value {
        let _ = futex::wait(&ORDER, futex::Flags::PRIVATE, value, None);
    }
}

unsafe extern "C" fn body(_: *mut c_void) -> *mut c_void {
    NUMBER.store(thread::begin(), Ordering::SeqCst);
    THREAD.store(thread::current(), Ordering::SeqCst);
    loop {
        until_not(WAITING);
        if ORDER.load(Ordering::SeqCst) != JOB {
            break;
        }
        if let Some(work) = (*WORK.0.get()).take() {
            (*work)();
        }
        order(WAITING);
    }
    THREAD.store(0, Ordering::SeqCst);
    order(GONE);
    null_mut()
}
