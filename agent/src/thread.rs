//! The native threads, which have every signal blocked, and the futexes by which others wait for them.

use core::ffi::{c_int, c_long, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering};

use pystap_agent_protocol::THREAD_NAME;
use rustix::thread::futex;

use crate::libc;

/// A running thread. Nobody joins it: that would be a wait without a limit.
pub(crate) struct Native;

impl Native {
    /// Starts one with a stack of so many bytes.
    ///
    /// # Errors
    /// The error number of `pthread_create`.
    pub(crate) fn start(
        body: unsafe extern "C" fn(*mut c_void) -> *mut c_void,
        stack: usize,
    ) -> Result<(), c_int> {
        let mut attributes = libc::ThreadAttributes::NONE;
        let mut thread = 0;
        let all = libc::Signals([0xff; 128]);
        let mut before = libc::Signals([0; 128]);
        // SAFETY: pointers to locals that outlive the calls. The thread inherits the mask, so no signal can come to it
        // before it could block them.
        let error = unsafe {
            libc::pthread_attr_init(&raw mut attributes);
            libc::pthread_attr_setdetachstate(&raw mut attributes, libc::DETACHED);
            libc::pthread_attr_setstacksize(&raw mut attributes, stack);
            libc::pthread_sigmask(libc::SET_MASK, &raw const all, &raw mut before);
            let error =
                libc::pthread_create(&raw mut thread, &raw const attributes, body, null_mut());
            libc::pthread_sigmask(libc::SET_MASK, &raw const before, null_mut());
            libc::pthread_attr_destroy(&raw mut attributes);
            error
        };
        if error == 0 { Ok(()) } else { Err(error) }
    }
}

/// Called first in a new thread: gives it the name by which pystap finds it, and its number.
pub(crate) fn begin() -> u32 {
    let _ = rustix::thread::set_name(THREAD_NAME);
    let number = rustix::thread::gettid().as_raw_nonzero().get();
    number.unsigned_abs()
}

/// How often a thread that is over is looked for.
const MOMENTS: usize = 10_000;

/// Waits until the kernel counts a thread no longer that is about to end: who counts threads (an interpreter that warns of
/// forks with several) would find one too many.
pub(crate) fn until_gone(number: u32) {
    let process = rustix::process::getpid().as_raw_nonzero().get();
    for _ in 0..MOMENTS {
        // SAFETY: asks whether there is such a thread, and sends nothing.
        let found =
            unsafe { libc::syscall(libc::TGKILL, process as c_long, c_long::from(number), 0) };
        if found != 0 {
            return;
        }
        rustix::thread::sched_yield();
    }
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
