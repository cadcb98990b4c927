//! State that each thread has for itself in a free-threaded build, where nothing keeps callbacks apart: *shards*, of which a
//! thread claims one with its first event and leaves it when it ends. In other builds the interpreter's lock keeps callbacks
//! apart, and there is one shard for all; but for interpreters within the interpreter, which may have locks of their own and
//! have a shard each (`interpreters`).
//!
//! What all threads share is written while no callback runs. A callback says when it does ([`enter`]), and whoever ends a
//! session lets none begin, stops the world once, so that every thread knows, and waits for those that are in one still
//! ([`until_empty`]): where a callback asks the interpreter for something, the world may stop in the middle of it.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::ptr::without_provenance;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, compiler_fence};

use pystap_ring::MOST_RINGS;
use rustix::event::Timespec;

use crate::python::{Ptr, api, is_free_threaded};
use crate::{gil, libc, thread};

/// How many there are: the first is that of builds with the interpreter's lock, and in others of threads that have none.
pub(crate) const SHARDS: usize = MOST_RINGS as usize + 1;

/// How long callbacks are waited for, in milliseconds.
const PATIENCE: u32 = 1000;

/// A shard. Callbacks are told theirs, so that nothing asks for it twice, and nothing at all in a build with one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard(usize);

impl Shard {
    /// That of a build with the interpreter's lock.
    pub(crate) const ONLY: Shard = Shard(0);

    /// That of this thread, or of the main interpreter.
    pub(crate) fn own() -> Shard {
        Shard(if is_free_threaded() { current() } else { 0 })
    }

    /// That of an interpreter within the interpreter.
    pub(crate) fn of_interpreter(place: usize) -> Shard {
        Shard(if place < SHARDS { place } else { 0 })
    }

    /// Its number.
    pub(crate) fn number(self) -> usize {
        self.0
    }
}

/// One of something for each shard.
pub(crate) struct PerThread<T>(UnsafeCell<[T; SHARDS]>);

// SAFETY: a shard is its thread's, or, while no callback runs, whose who has the agent's lock; see `get` and `of`.
unsafe impl<T> Sync for PerThread<T> {}

impl<T> PerThread<T> {
    pub(crate) const fn new(values: [T; SHARDS]) -> PerThread<T> {
        PerThread(UnsafeCell::new(values))
    }

    /// Where that of this thread is. The caller has [entered](enter), or has the lock, and keeps no reference into it while
    /// it calls anything that may let the interpreter run other code.
    pub(crate) fn get(&self) -> *mut T {
        self.at(Shard::own())
    }

    /// The same where it is known which that is.
    #[inline(always)]
    pub(crate) fn at(&self, shard: Shard) -> *mut T {
        // SAFETY: numbers of shards are less than there are.
        unsafe { self.0.get().cast::<T>().add(shard.0) }
    }

    /// Where that of a shard is. The caller knows that its thread does not look at it.
    pub(crate) fn of(&self, shard: usize) -> *mut T {
        let shard = if shard < SHARDS { shard } else { 0 };
        // SAFETY: less than there are.
        unsafe { self.0.get().cast::<T>().add(shard) }
    }
}

/// The numbers of those that there are.
pub(crate) fn all() -> core::ops::Range<usize> {
    0..if is_free_threaded() {
        SHARDS
    } else {
        USED.load(Ordering::SeqCst)
    }
}

/// The numbers of those that the main interpreter has.
pub(crate) fn of_main() -> core::ops::Range<usize> {
    0..if is_free_threaded() { SHARDS } else { 1 }
}

/// How many are in use where there is a lock of the interpreter's. They stay in use.
static USED: AtomicUsize = AtomicUsize::new(1);

/// An interpreter within the interpreter has this one from now on.
pub(crate) fn use_for_interpreter(shard: Shard) {
    USED.fetch_max(shard.0 + 1, Ordering::SeqCst);
}

/// A number for each shard that other threads may see.
type Numbers = [AtomicUsize; SHARDS];
const fn zeros() -> Numbers {
    [const { AtomicUsize::new(0) }; SHARDS]
}

/// Which are claimed, a bit for each but the first, and up to which they may be.
static CLAIMED: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicUsize = AtomicUsize::new(0);

/// How many callbacks each is in, one within another. The first counts those of threads that found none free.
static INSIDE: Numbers = zeros();

/// The thread that was told last in each, by its thread pointer; 0 when it has ended since. Also written by a thread that
/// ends, without the interpreter's lock.
static TOLD: Numbers = zeros();

/// The key whose destructor hears that a thread ends, plus one; 0 when there is none. In a free-threaded build, threads have
/// the number of their shard there.
static KEY: AtomicU32 = AtomicU32::new(0);

#[inline(always)]
fn number(of: &Numbers, shard: usize) -> &AtomicUsize {
    of.get(shard).unwrap_or(&of[0])
}

/// Makes sure of the key, and has threads claim shards up to this one from now on. False when a free-threaded build cannot
/// have that.
pub(crate) unsafe fn prepare(last: usize) -> bool {
    if KEY.load(Ordering::Relaxed) == 0 {
        let mut key = 0;
        if libc::pthread_key_create(&raw mut key, Some(on_end_of_thread)) == 0 {
            KEY.store(key + 1, Ordering::Relaxed);
        }
    }
    LAST.store(last.min(SHARDS - 1), Ordering::Relaxed);
    for told in &TOLD {
        told.store(0, Ordering::Relaxed);
    }
    !is_free_threaded() || KEY.load(Ordering::Relaxed) != 0
}

/// The number of this thread's shard; 0 when it has none.
#[inline(always)]
fn current() -> usize {
    match KEY.load(Ordering::Relaxed).checked_sub(1) {
        // SAFETY: a key of ours.
        Some(key) => unsafe { libc::pthread_getspecific(key) as usize },
        None => 0,
    }
}

/// Puts something under the key for this thread. False when there is no memory for it.
fn keep(value: usize) -> bool {
    let key = KEY.load(Ordering::Relaxed).checked_sub(1);
    // SAFETY: a key of ours; what it holds is a number.
    key.is_some_and(|key| unsafe { libc::pthread_setspecific(key, without_provenance(value)) == 0 })
}

/// Runs on every thread that has claimed a shard or was told, when it ends: the next one may get its address.
unsafe extern "C" fn on_end_of_thread(value: *mut c_void) {
    if is_free_threaded() {
        leave(value as usize);
        return;
    }
    for shard in all() {
        let told = number(&TOLD, shard);
        let own = thread::current();
        let _ = told.compare_exchange(own, 0, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn leave(shard: usize) {
    if shard == 0 {
        return;
    }
    number(&TOLD, shard).store(0, Ordering::Relaxed);
    number(&INSIDE, shard).store(0, Ordering::Relaxed);
    CLAIMED.fetch_and(!bit(shard), Ordering::Release);
}

fn bit(shard: usize) -> u64 {
    1 << (shard.wrapping_sub(1) & 63)
}

/// Whether this thread, whose shard that is, is the one that was told last in it.
#[inline(always)]
pub(crate) fn is_told(shard: Shard) -> bool {
    number(&TOLD, shard.0).load(Ordering::Relaxed) == thread::current()
}

/// This thread was told in a shard that it writes. Only one of whose end we hear can be known by its address.
pub(crate) fn set_told(Shard(shard): Shard) {
    let is_heard_of = if is_free_threaded() {
        shard != 0
    } else {
        keep(1)
    };
    let told = if is_heard_of { thread::current() } else { 0 };
    number(&TOLD, shard).store(told, Ordering::Relaxed);
}

/// A callback that runs, until this goes.
pub(crate) struct Inside {
    shard: usize,
}

/// A callback begins. Nothing when all shards are claimed by other threads.
#[inline(always)]
pub(crate) unsafe fn enter() -> Option<Inside> {
    if !is_free_threaded() {
        return Some(Inside { shard: 0 });
    }
    enter_own()
}

/// The same in a free-threaded build.
#[inline(always)]
pub(crate) unsafe fn enter_own() -> Option<Inside> {
    let mut shard = current();
    if shard == 0 || shard > LAST.load(Ordering::Relaxed) {
        shard = claim(shard)?;
    }
    let inside = number(&INSIDE, shard);
    inside.store(inside.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    // What is looked at next is looked at after this: the processor may see to that later, for the world is stopped before
    // anybody relies on it.
    compiler_fence(Ordering::SeqCst);
    Some(Inside { shard })
}

/// The same where a thread may or may not be in a callback, and is to claim nothing.
pub(crate) unsafe fn enter_again() -> Option<Inside> {
    let shard = current();
    (shard != 0).then(|| {
        let inside = number(&INSIDE, shard);
        inside.store(inside.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        Inside { shard }
    })
}

/// The same in an interpreter within the interpreter, which has this shard.
#[inline(always)]
pub(crate) fn enter_within(Shard(shard): Shard) -> Inside {
    let inside = number(&INSIDE, shard);
    // What is looked at next is looked at after this: nothing stops all threads for us here.
    inside.fetch_add(1, Ordering::SeqCst);
    Inside { shard }
}

/// No thread was told in it so far.
pub(crate) fn forget_told(Shard(shard): Shard) {
    number(&TOLD, shard).store(0, Ordering::Relaxed);
}

impl Inside {
    /// Whose state it is to look at.
    #[inline(always)]
    pub(crate) fn shard(&self) -> Shard {
        Shard(self.shard)
    }
}

impl Drop for Inside {
    #[inline(always)]
    fn drop(&mut self) {
        if self.shard != 0 {
            let inside = number(&INSIDE, self.shard);
            let before = inside.load(Ordering::Relaxed);
            inside.store(before.saturating_sub(1), Ordering::Release);
        }
    }
}

/// A callback of a thread that found no shard does something short.
pub(crate) fn outside(work: impl FnOnce()) {
    let inside = number(&INSIDE, 0);
    inside.fetch_add(1, Ordering::SeqCst);
    work();
    // Fewer than that in a fork's child.
    let _ = inside.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |it| it.checked_sub(1));
}

/// Claims a shard for this thread, which gives up the one that it has.
#[cold]
fn claim(before: usize) -> Option<usize> {
    leave(before);
    let last = LAST.load(Ordering::Relaxed);
    let taken = CLAIMED.fetch_update(Ordering::Acquire, Ordering::Relaxed, |claimed| {
        let free = (!claimed).trailing_zeros() as usize;
        (free < last).then(|| claimed | 1 << free)
    });
    let shard = taken
        .ok()
        .map(|claimed| (!claimed).trailing_zeros() as usize + 1);
    let kept = keep(shard.unwrap_or(0));
    if !kept && let Some(shard) = shard {
        leave(shard);
        return None;
    }
    shard
}

/// After no callback is to do anything any longer: waits until none does, for a second at most. The caller has the lock, which
/// is given up for the time. False when there is still one, which the interpreter does not let go on.
pub(crate) unsafe fn until_empty() -> bool {
    while_stopped(|| {});
    let own = Shard::own().0;
    let is_empty = || {
        let mut others = INSIDE
            .iter()
            .enumerate()
            .filter(|(shard, _)| *shard == 0 || *shard != own);
        others.all(|(_, inside)| inside.load(Ordering::SeqCst) == 0)
    };
    for _ in 0..PATIENCE {
        if is_empty() {
            return true;
        }
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        let _ = gil::without(|| rustix::thread::nanosleep(&moment));
    }
    is_empty()
}

/// Does something while no other thread runs in the interpreter, which the caller does: the world is stopped where there is no
/// lock of the interpreter's. What it wrote is known to all others when they go on.
pub(crate) unsafe fn while_stopped(mut work: impl FnMut()) {
    unsafe extern "C" fn first(_: Ptr, work: *mut c_void) -> c_int {
        let work: *mut &mut dyn FnMut() = work.cast();
        (*work)();
        // No further object is wanted.
        0
    }
    // The collector stops the world to visit its objects, of which there are always some.
    match api().PyUnstable_GC_VisitObjects {
        Some(visit) if is_free_threaded() => {
            let mut work: &mut dyn FnMut() = &mut work;
            visit(first, (&raw mut work).cast());
        }
        _ => work(),
    }
}

/// Whether what a shard shares with other threads is being looked at.
static LOCKED: Numbers = zeros();

/// The right to look at what a shard shares, until this goes. Nobody calls anything meanwhile that could wait.
pub(crate) struct Guard {
    shard: Option<usize>,
}

/// Takes it. In a build with the interpreter's lock, that is it.
pub(crate) fn lock(shard: usize) -> Guard {
    if !is_free_threaded() {
        return Guard { shard: None };
    }
    let locked = number(&LOCKED, shard);
    while locked.swap(1, Ordering::Acquire) != 0 {
        rustix::thread::sched_yield();
    }
    Guard { shard: Some(shard) }
}

/// The same for this thread's.
pub(crate) fn lock_own() -> Guard {
    lock(Shard::own().0)
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(shard) = self.shard {
            number(&LOCKED, shard).store(0, Ordering::Release);
        }
    }
}

/// In a fork's child: only this thread is there.
pub(crate) fn begin_in_child() {
    let own = Shard::own().0;
    for shard in all().filter(|shard| *shard == 0 || *shard != own) {
        if shard == 0 && !is_free_threaded() {
            continue;
        }
        number(&INSIDE, shard).store(0, Ordering::Relaxed);
        number(&TOLD, shard).store(0, Ordering::Relaxed);
    }
    for locked in &LOCKED {
        locked.store(0, Ordering::Relaxed);
    }
    let claimed = if own == 0 { 0 } else { bit(own) };
    CLAIMED.store(claimed, Ordering::Relaxed);
}
