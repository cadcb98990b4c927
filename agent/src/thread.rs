//! The native thread: one, with every signal blocked, and the futexes by which others wait for it.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering};

use alloc::format;

use rustix::fs::Access;
use rustix::thread::futex;

use crate::libc;

/// Its stack in bytes. Hooks of the program (`sys.addaudithook`) can run on it while it switches events on.
const STACK: usize = 1 << 20;

/// A running thread.
pub(crate) struct Native(libc::Thread);

impl Native {
    /// Starts it.
    ///
    /// # Errors
    /// The error number of `pthread_create`.
    pub(crate) fn start(
        body: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
    ) -> Result<Native, c_int> {
        let mut attributes = libc::ThreadAttributes::NONE;
        let mut thread = 0;
        let all = libc::Signals([0xff; 128]);
        let mut before = libc::Signals([0; 128]);
        // SAFETY: pointers to locals that outlive the calls. The thread inherits the mask, so no signal can come to it
        // before it could block them.
        let error = unsafe {
            libc::pthread_attr_init(&raw mut attributes);
            libc::pthread_attr_setstacksize(&raw mut attributes, STACK);
            libc::pthread_sigmask(libc::SET_MASK, &raw const all, &raw mut before);
            let error =
                libc::pthread_create(&raw mut thread, &raw const attributes, body, null_mut());
            libc::pthread_sigmask(libc::SET_MASK, &raw const before, null_mut());
            libc::pthread_attr_destroy(&raw mut attributes);
            error
        };
        if error == 0 {
            Ok(Native(thread))
        } else {
            Err(error)
        }
    }

    /// Leaves it to itself.
    pub(crate) fn forget(self) {
        // SAFETY: it was never joined, for that takes it.
        unsafe { libc::pthread_detach(self.0) };
    }

    /// Waits for its end, until the kernel counts it no longer: the C library says a little earlier that a thread is
    /// over, and who counts threads then (an interpreter that warns of forks with several) would find one too many.
    pub(crate) fn join(self) {
        // SAFETY: it was never joined, for that takes it.
        unsafe { libc::pthread_join(self.0, null_mut()) };
        let number = NUMBER.swap(0, Ordering::SeqCst);
        if number == 0 {
            return;
        }
        let place = format!("/proc/self/task/{number}");
        for _ in 0..MOMENTS {
            if rustix::fs::access(place.as_str(), Access::EXISTS).is_err() {
                return;
            }
            rustix::thread::sched_yield();
        }
    }
}

/// How often a thread that is over is looked for.
const MOMENTS: usize = 10_000;

/// The thread that runs, by the kernel's number.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Called first in a new thread.
pub(crate) fn begin() {
    let number = rustix::thread::gettid().as_raw_nonzero().get();
    NUMBER.store(number.unsigned_abs(), Ordering::SeqCst);
}

/// What tells threads apart that exist at the same time: the thread pointer. Half a nanosecond, where a call of
/// `gettid` would be hundreds and thread-local variables of a loaded library are a call.
#[inline(always)]
pub(crate) fn current() -> usize {
    let pointer: usize;
    // SAFETY: reads a register; with glibc and musl the word at fs:0 is its own address.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        core::arch::asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags, readonly));
        #[cfg(target_arch = "aarch64")]
        core::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, preserves_flags, nomem));
    }
    pointer
}

/// Waits while a word has a value, for so many milliseconds at most.
pub(crate) fn wait_while(word: &AtomicU32, value: u32, milliseconds: i64) {
    let step = futex::Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    // In steps, so that a wait that is interrupted by signals ends in bounded time without a clock.
    for _ in 0..milliseconds / 10 + 1 {
        if word.load(Ordering::SeqCst) != value {
            return;
        }
        let _ = futex::wait(word, futex::Flags::PRIVATE, value, Some(&step));
    }
}

/// Wakes who waits for a word.
pub(crate) fn wake(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX as u32);
}
