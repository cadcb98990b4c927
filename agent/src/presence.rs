//! Whether this is the process that the agent's state belongs to. The child of a fork has all of it, but no thread of ours
//! and no socket, and not every fork says a word to Python: programs in C fork as they like. So the state has a mark that
//! the kernel wipes in every child that does not share its memory, however it was made.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::process::getpid;

/// Two words: 1 in the process that has claimed them, and 1 while a session is on there.
#[repr(C)]
struct Words {
    claimed: AtomicU32,
    session: AtomicU32,
}

/// Where kernels before 4.14 wipe nothing.
static KEPT: Words = Words {
    claimed: AtomicU32::new(0),
    session: AtomicU32::new(0),
};
static WORDS: AtomicPtr<Words> = AtomicPtr::new(null_mut());
/// The process that has claimed them.
static OWNER: AtomicU32 = AtomicU32::new(0);

/// Bytes that are mapped: a page or more on every machine.
const SIZE: usize = 64 * 1024;

fn words() -> Option<&'static Words> {
    // SAFETY: what is mapped stays mapped.
    unsafe { WORDS.load(Ordering::Acquire).as_ref() }
}

fn wiped_in_children() -> *mut Words {
    // SAFETY: a new mapping, which nobody else knows.
    unsafe {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let Ok(place) = mmap_anonymous(null_mut(), SIZE, access, MapFlags::PRIVATE) else {
            return (&raw const KEPT).cast_mut();
        };
        if madvise(place, SIZE, Advice::LinuxWipeOnFork).is_err() {
            let _ = munmap(place, SIZE);
            return (&raw const KEPT).cast_mut();
        }
        place.cast()
    }
}

/// The state belongs to this process from now on. The caller holds the interpreter's lock.
pub(crate) fn claim() {
    if words().is_none() {
        WORDS.store(wiped_in_children(), Ordering::Release);
    }
    OWNER.store(own_pid(), Ordering::SeqCst);
    if let Some(words) = words() {
        words.claimed.store(1, Ordering::SeqCst);
    }
}

/// Whether a process has claimed the state, and it is another one.
pub(crate) fn is_lost() -> bool {
    words().is_some() && !is_ours()
}

/// Whether this process has claimed the state.
pub(crate) fn is_ours() -> bool {
    words().is_some_and(|words| {
        words.claimed.load(Ordering::SeqCst) == 1
            && (!core::ptr::eq(words, &raw const KEPT) || OWNER.load(Ordering::SeqCst) == own_pid())
    })
}

/// The word that is 1 while a session is on in this process.
pub(crate) fn session() -> *const AtomicU32 {
    words().map_or(&raw const KEPT.session, |words| &raw const words.session)
}

/// In a fork's child: no session is on here. Safe where only system calls are.
pub(crate) fn end_session() {
    if let Some(words) = words() {
        words.session.store(0, Ordering::SeqCst);
    }
}

fn own_pid() -> u32 {
    getpid().as_raw_nonzero().get().unsigned_abs()
}
