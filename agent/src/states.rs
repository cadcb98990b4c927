//! The thread states of the interpreter that the caller runs in, whose lock it has.
//!
//! That lock does not guard their list. C code may add a state without it, and delete one that it has cleared
//! (`PyThreadState_Delete`); from 3.13 on CPython deletes one of the main interpreter so whenever another interpreter has imported
//! an extension module. What guards the list is a lock of its own, which is in `_PyRuntime` before the list of interpreters.
//!
//! `sys.monitoring` goes through it without (3.12 to 3.15, where there is the interpreter's lock). As states are cleared with the
//! interpreter's lock only, no harm comes of that where none is left that was cleared: see [`settle`].

use core::ffi::c_void;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering};

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use rustix::event::Timespec;

use crate::gil;
use crate::python::{Owned, ThreadState, api, is_free_threaded, version};

/// The first version in which the lock is a byte (`PyMutex`); before, it is an object of the operating system.
const BYTE_FROM: u32 = 13;

/// Words of `_PyRuntime` in which the list of interpreters is: it is in the 5th and 6th up to 3.12, and in the 118th of 3.15.
const fn words(minor: u32) -> usize {
    if minor < BYTE_FROM { 16 } else { 256 }
}

/// How often it is looked for the list, whose head changes while interpreters come and go.
const LOOKS: u32 = 100;

/// How often it is tried to have the lock, in tenths of a millisecond: whoever has it is waiting for a processor.
const TRIES: u32 = 10_000;

/// A tenth of a millisecond.
const MOMENT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000,
};

/// Where the lock is, once it was found.
static LOCK: AtomicPtr<c_void> = AtomicPtr::new(null_mut());

/// The list, which nobody changes until this goes. The caller does nothing meanwhile that could run code of the program.
pub(crate) struct List(Kind);

enum Kind {
    /// Its lowest bit says whether somebody has it.
    Byte(*mut u8),
    /// As `PyThread_allocate_lock` makes them.
    Object(*mut c_void),
}

/// The word of `_PyRuntime` with the lock.
unsafe fn find() -> Option<*mut c_void> {
    let known = LOCK.load(Ordering::Relaxed);
    if !known.is_null() {
        return Some(known);
    }
    let ([_, minor, _], _) = version();
    let runtime: *mut usize = api()._PyRuntime.cast();
    let (newest, main) = (
        api().PyInterpreterState_Head?,
        api().PyInterpreterState_Main,
    );
    let main = main() as usize;
    for _ in 0..LOOKS {
        // The newest interpreter, and the main one.
        let is_list = |at: &usize| {
            runtime.add(at + 1).read_volatile() == main
                && runtime.add(*at).read_volatile() == newest() as usize
        };
        if let Some(at) = (1..words(minor)).find(is_list) {
            let lock = runtime.add(at - 1).cast();
            LOCK.store(lock, Ordering::Relaxed);
            return Some(lock);
        }
        rustix::thread::sched_yield();
    }
    None
}

impl List {
    /// Nothing where this build keeps it elsewhere, or somebody has the lock and does not give it back.
    pub(crate) unsafe fn lock() -> Option<List> {
        let ([_, minor, _], _) = version();
        let place = find()?;
        let kind = match minor < BYTE_FROM {
            true => {
                let object = place.cast::<*mut c_void>().read();
                if object.is_null() {
                    return None;
                }
                Kind::Object(object)
            }
            false => Kind::Byte(place.cast()),
        };
        for turn in 0..TRIES {
            if kind.try_to_take() {
                return Some(List(kind));
            }
            match turn < 100 {
                true => rustix::thread::sched_yield(),
                false => drop(rustix::thread::nanosleep(&MOMENT)),
            }
        }
        None
    }

    /// The newest first.
    pub(crate) fn states(&self) -> impl Iterator<Item = ThreadState> {
        let some = |state: ThreadState| (!state.is_null()).then_some(state);
        // SAFETY: nobody changes the list meanwhile.
        let head =
            unsafe { (api().PyInterpreterState_ThreadHead)((api().PyInterpreterState_Get)()) };
        core::iter::successors(some(head), move |state| {
            // SAFETY: as above.
            some(unsafe { (api().PyThreadState_Next)(*state) })
        })
    }
}

impl Kind {
    /// The interpreter's own functions for that may give up its lock while they wait, in 3.13 and 3.14.
    unsafe fn try_to_take(&self) -> bool {
        match *self {
            Kind::Byte(byte) => {
                let byte = AtomicU8::from_ptr(byte);
                let free = byte.load(Ordering::Relaxed) & !1;
                byte.compare_exchange(free, free | 1, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            }
            Kind::Object(object) => (api().PyThread_acquire_lock)(object, 0) != 0,
        }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: it is ours.
        unsafe {
            match self.0 {
                Kind::Byte(byte) => {
                    let free = AtomicU8::from_ptr(byte).compare_exchange(
                        1,
                        0,
                        Ordering::Release,
                        Ordering::Relaxed,
                    );
                    // Somebody is to be woken.
                    if free.is_err()
                        && let Some(unlock) = api().PyMutex_Unlock
                    {
                        unlock(byte);
                    }
                }
                Kind::Object(object) => (api().PyThread_release_lock)(object),
            }
        }
    }
}

/// A state, and its id, which is greater than those of all that were made before.
pub(crate) type Numbered = (ThreadState, u64);

/// All of them, the newest first. Each but the caller's own may be gone when it is looked at, if it was cleared.
pub(crate) unsafe fn all() -> Option<Vec<Numbered>> {
    let numbered = |state| (state, (api().PyThreadState_GetID)(state));
    Some(List::lock()?.states().map(numbered).collect())
}

/// How many are looked for at a time: few, so that little happens between that and what is done with them; not one by one, because
/// each time goes through the whole list.
const FEW: usize = 32;

/// Does something with each of these that is there still when its turn comes.
pub(crate) unsafe fn with_those_left(all: &[Numbered], mut work: impl FnMut(Numbered)) {
    for few in all.chunks(FEW) {
        let Some(list) = List::lock() else { return };
        let there: BTreeSet<ThreadState> = list.states().collect();
        drop(list);
        let left = few.iter().filter(|(state, _)| there.contains(state));
        left.copied().for_each(&mut work);
    }
}

/// The newest frame of each thread that has any.
pub(crate) unsafe fn frames() -> Option<Vec<Owned>> {
    let frame = |state| Owned::take((api().PyThreadState_GetFrame)(state));
    Some(List::lock()?.states().filter_map(frame).collect())
}

/// How long it is waited for a cleared state to go, in tenths of a millisecond: one that stays is never deleted.
const MOMENTS: u32 = 10_000;

/// Returns, with the interpreter's lock, when no state of the interpreter is there that was cleared: none can go then before that
/// lock is given up. The lock is given up meanwhile, if there is one.
pub(crate) unsafe fn settle() {
    let ([_, minor, _], _) = version();
    if minor < MARKED_FROM || is_free_threaded() {
        return;
    }
    let Some(mark) = Mark::find() else { return };
    for _ in 0..MOMENTS {
        let is_left = List::lock().is_some_and(|list| list.states().any(|it| mark.is_on(it)));
        if !is_left {
            return;
        }
        let _ = gil::without(|| rustix::thread::nanosleep(&MOMENT));
    }
}

/// The first version in which a state says that it was cleared.
const MARKED_FROM: u32 = 12;

/// How a state says so (`_status.cleared`): bits of one of the first halves of words, whose place differs by version. Which, is
/// seen by what clearing changes.
#[derive(Clone, Copy)]
struct Mark {
    place: usize,
    bits: u32,
}

/// Halves of words that are looked at: behind the neighbours in the list and the interpreter.
const FIRST_PLACE: usize = 6;
const PLACES: usize = 6;

impl Mark {
    unsafe fn find() -> Option<Mark> {
        /// As one number; 0 before it was looked for.
        static MARK: AtomicU64 = AtomicU64::new(0);
        let known = MARK.load(Ordering::Relaxed);
        if known != 0 {
            return Mark::of_number(known);
        }
        // Other bits change when the program is asked for something, which does not happen twice at just that moment.
        let (once, again) = (changes()?, changes()?);
        let both = once.iter().zip(again).map(|(once, again)| once & again);
        let mut marks = both.enumerate().filter(|(_, bits)| *bits != 0);
        let mark = match (marks.next(), marks.next()) {
            (Some((at, bits)), None) => Some(Mark {
                place: FIRST_PLACE + at,
                bits,
            }),
            _ => None,
        };
        let number = mark.map_or(u64::MAX, |it| (it.place as u64) << 32 | u64::from(it.bits));
        MARK.store(number, Ordering::Relaxed);
        mark
    }

    fn of_number(number: u64) -> Option<Mark> {
        (number != u64::MAX).then_some(Mark {
            place: (number >> 32) as usize,
            bits: number as u32,
        })
    }

    unsafe fn is_on(self, state: ThreadState) -> bool {
        let value = state.cast::<u32>().add(self.place).read_volatile();
        value & self.bits == self.bits
    }
}

/// The bits that clearing a state sets, which is ours and is deleted then.
unsafe fn changes() -> Option<[u32; PLACES]> {
    let state = (api().PyThreadState_New)((api().PyInterpreterState_Get)());
    if state.is_null() {
        return None;
    }
    let halves = state.cast::<u32>().add(FIRST_PLACE);
    let read = || core::array::from_fn::<u32, PLACES, _>(|at| halves.add(at).read_volatile());
    let before = read();
    (api().PyThreadState_Clear)(state);
    let mut set = read();
    (api().PyThreadState_Delete)(state);
    for (set, before) in set.iter_mut().zip(before) {
        *set &= !before;
    }
    Some(set)
}
