//! pystap's agent: a Python extension module that gives an interpreter without function probes the same probes, fired from
//! inside the process. It is loaded into programs of other people, so it takes as little as it can: no Python code runs on
//! its behalf, no thread of the program ever waits for it, and what it has switched on is switched off when the
//! connection to pystap ends.
//!
//! # How it is built
//!
//! With `--profile agent` it has no std, no unwinder and no library that it is linked against. Its references to libc and
//! to the interpreter have no versions and are resolved in the process that it is loaded into, so one file serves any
//! glibc, and interpreters with and without libpython. In other profiles (tests, clippy) it is an ordinary crate with std,
//! because panics unwind there.
//!
//! # What guards its state
//!
//! Everything in a `gil::Guarded` belongs to who holds the interpreter's lock. A free-threaded build has none: what callbacks
//! write is there in a `shards::PerThread`, one for each thread, and the rest belongs to who holds a lock of ours (`gil`).
//! Interpreters within the interpreter may have locks of their own: each has one of the same for itself (`interpreters`).
//! What the native thread needs without that lock is in `control` and belongs to that thread while it runs. Functions
//! that touch either are unsafe, and their callers are callbacks of the interpreter, which hold the lock, or
//! `gil::with`. What CPython guards by another lock than the interpreter's, the list of thread states, is read with that lock
//! (`states`).
//!
//! A panic in a target would end it, so whatever can panic is denied by clippy. The functions of CPython are found by
//! name (`python`), so that another interpreter is refused in words.
//!
//! # Who may touch what
//!
//! Callbacks hold the interpreter's lock, and that guards all state (`gil`); in a free-threaded build each has its thread's
//! (`shards`), and what is shared, such as what is known of a code object (`codes`), is written under short locks on cold paths.
//! One native thread (`control`) has the sockets to itself. A second one (`worker`) takes the lock for it, to switch
//! events on and off, through a gate that is closed before the interpreter ends and during a fork.
//!
//! # Interpreters within the interpreter
//!
//! Which there are is in `interpreters`, and what is switched on in them in `within`. Their callbacks are others than those
//! of the main interpreter, which pays nothing for them, and are given the ticket of the interpreter whose they are. They
//! count themselves in and out (`shards`) around all that others write, so that whoever ends a session knows when none
//! is at it any longer.
//!
//! # Nothing by number
//!
//! The thread with the sockets leaves the program's table of descriptors for one of its own (`descriptors`). Hence the
//! second thread: code of the program can run wherever the interpreter does (an audit hook, a finalizer) and has to
//! find the program's files. Whoever wants something of the first thread connects to its *door*, an abstract socket
//! that listens to its own process only, and closes that connection again. Where the threads have to end for a fork
//! (3.12 warns of others), the sockets are sent into such a connection, and the thread that comes after receives them.
//!
//! # Forks
//!
//! `presence` has a word that the kernel wipes in every child that has its own memory (`MADV_WIPEONFORK`). Callbacks
//! look at it first, so a child tells nothing before it is settled. `fork::settle` does that with the interpreter's
//! lock, at the first of several occasions. State of a thread that is not there any more is not dropped: its
//! descriptors meant something in a table that is gone.
//!
//! # Calls
//!
//! They come from `sys.monitoring` (`monitoring`) or from the profile functions of threads (`profile`) and go through
//! `emit`: is the code wanted (`codes`, kept in the code object's own slot, so that it cannot be stale), on which stack
//! is it (`stacks`, one per thread and one per greenlet, which announces its frames when it is first seen and reports
//! no return without its entry), who runs (`contexts`), which values (`capture`, less what `hidden` leaves out, and `fields`), and
//! last the ring (`ring`) or the probe (`marks`). Where pystap wants sums or long calls only, `sums` or `timed` comes between.
//! Where nobody listens to either, only the first two and the account are left. Where pystap wants to know when greenlets
//! switch, `switches` tells that as calls.
//!
//! # Finalizers
//!
//! Up to 3.11 the interpreter may collect garbage when an object is made, and so run code of the program in the middle
//! of a callback, which may even end the session. Nothing that a session frees is held across such a call, and stacks
//! are used again instead of freed.
#![cfg_attr(panic = "abort", no_std)]

extern crate alloc;

mod asked;
mod calibration;
mod calls;
mod capture;
mod codes;
mod collector;
mod contexts;
mod control;
mod descriptors;
mod emit;
mod fields;
mod filter;
mod fork;
mod gil;
mod handling;
mod hidden;
mod interpreters;
mod libc;
mod live;
mod marks;
mod module;
mod monitoring;
mod names;
mod offered;
mod parked;
mod patience;
mod presence;
mod profile;
mod python;
mod ring;
mod session;
mod shards;
mod span;
mod stacks;
mod states;
mod stored;
mod sums;
mod switches;
mod thread;
mod thread_names;
mod timed;
mod within;
mod worker;

#[cfg(panic = "abort")]
mod alone {
    //! What std would bring.

    use core::alloc::{GlobalAlloc, Layout};
    use core::panic::PanicInfo;

    use crate::libc;

    struct Malloc;

    // SAFETY: malloc's blocks are aligned to two words; for more there is posix_memalign.
    unsafe impl GlobalAlloc for Malloc {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if layout.align() <= 2 * size_of::<usize>() {
                return libc::malloc(layout.size()).cast();
            }
            let mut block = core::ptr::null_mut();
            match libc::posix_memalign(&raw mut block, layout.align(), layout.size()) {
                0 => block.cast(),
                _ => core::ptr::null_mut(),
            }
        }

        unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
            libc::free(block.cast());
        }

        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            if layout.align() <= 2 * size_of::<usize>() {
                return libc::realloc(block.cast(), size).cast();
            }
            // SAFETY: the alignment is that of a layout.
            let new = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !new.is_null() {
                core::ptr::copy_nonoverlapping(block, new, size.min(layout.size()));
                self.dealloc(block, layout);
            }
            new
        }
    }

    #[global_allocator]
    static MALLOC: Malloc = Malloc;

    #[panic_handler]
    fn panic(_: &PanicInfo) -> ! {
        // SAFETY: abort has no conditions.
        unsafe { libc::abort() }
    }

    // What the compiled core library names for unwinding; never called, because nothing unwinds. Hidden, so that nobody
    // else in the process can mean them.
    core::arch::global_asm!(
        ".globl rust_eh_personality, _Unwind_Resume",
        ".hidden rust_eh_personality, _Unwind_Resume",
        "rust_eh_personality:",
        "_Unwind_Resume:",
        #[cfg(target_arch = "x86_64")]
        "ud2",
        #[cfg(target_arch = "aarch64")]
        "brk #1",
    );
}
