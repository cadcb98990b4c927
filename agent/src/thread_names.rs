//! What Python calls its threads: `threading` has an object for each that it started, and the object a name. Both are read where
//! they are stored, so no code of the program runs and nothing is made that the interpreter's collector knows.
//!
//! A thread is told once, as context 0 of itself. Not in a free-threaded build, where others change what is read here.

use alloc::collections::BTreeMap;
use alloc::string::String;

use crate::gil::Guarded;
use crate::python::{api, is_free_threaded, loaded, string, type_of};
use crate::stored;

/// Most threads that are known; then all are told anew.
const MOST: usize = 4096;
/// A thread has its name only some steps after it began, and some have none. It is asked with each of so many events first, and then
/// with ever fewer.
const FIRST_LOOKS: u32 = 64;
const LAST_LOOK: u32 = 1 << 12;

struct Threads {
    /// The number of the thread that was asked last (`PyThreadState_GetID`), and whether nothing is left to do there.
    last: (u64, bool),
    /// How many events of those that have no name yet; `None` for the others.
    seen: BTreeMap<u64, Option<u32>>,
}

static THREADS: Guarded<Threads> = Guarded::new(Threads {
    last: (0, true),
    seen: BTreeMap::new(),
});

/// Begins a session, or ends it.
pub(crate) unsafe fn forget() {
    let threads = &mut *THREADS.get();
    // Numbers begin with 1, or 0 up to 3.11.
    threads.last = (u64::MAX, true);
    threads.seen.clear();
}

/// The name of the thread that runs, if it is to be told now.
#[inline(always)]
pub(crate) unsafe fn to_tell() -> Option<String> {
    if is_free_threaded() {
        return None;
    }
    let number = (api().PyThreadState_GetID)((api().PyThreadState_Get)());
    match (*THREADS.get()).last == (number, true) {
        true => None,
        false => look(number),
    }
}

/// The thread that runs is not the program's, and is not asked for its name.
pub(crate) unsafe fn is_ours() {
    let number = (api().PyThreadState_GetID)((api().PyThreadState_Get)());
    let threads = &mut *THREADS.get();
    threads.seen.insert(number, None);
    threads.last = (number, true);
}

/// It could not be told.
pub(crate) unsafe fn was_not_told() {
    let threads = &mut *THREADS.get();
    threads.seen.insert(threads.last.0, Some(0));
    threads.last.1 = false;
}

#[inline(never)]
unsafe fn look(number: u64) -> Option<String> {
    let threads = &mut *THREADS.get();
    if threads.seen.len() >= MOST && !threads.seen.contains_key(&number) {
        threads.seen.clear();
    }
    let seen = threads.seen.entry(number).or_insert(Some(0));
    let Some(events) = seen else {
        threads.last = (number, true);
        return None;
    };
    *events += 1;
    let is_last = *events >= LAST_LOOK;
    if *events > FIRST_LOOKS && !events.is_power_of_two() {
        threads.last = (number, false);
        return None;
    }
    let name = name();
    if name.is_some() || is_last {
        *seen = None;
    }
    threads.last = (number, seen.is_none());
    name
}

/// What `threading` calls this thread.
unsafe fn name() -> Option<String> {
    let module = loaded(c"threading")?;
    let all = stored::stored(&module, "_active")?;
    if type_of(all.as_ptr()) != api().PyDict_Type {
        return None;
    }
    let thread = stored::of_number(&all, (api().PyThread_get_thread_ident)() as i64)?;
    string(&stored::stored(&thread, "_name")?)
}
