//! The session as the callbacks see it: whether one is on, what it wants, and its counts. `session` begins and ends it;
//! whatever the interpreter calls reads it and counts. It knows none of those who do.
//!
//! [`is_on`] is one load of a word that the kernel wipes in the child of a fork (`presence`), so that a child that nobody
//! has announced fires nothing. What is to be done there is not decided here: `fork` leaves a hook, which is called when
//! such a child is noticed.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pystap_agent_protocol::Stopped;

use crate::asked::Fields;
use crate::filter::Filter;
use crate::gil::Guarded;
use crate::hidden::Hidden;
use crate::presence;
use crate::shards::{self, PerThread, SHARDS, Shard};

/// Which values are told.
#[derive(Clone, Copy)]
pub(crate) struct Values {
    pub(crate) arguments: bool,
    pub(crate) returns: bool,
    /// Longest text in bytes.
    pub(crate) limit: usize,
}

/// What the session asked for, ready for use.
pub(crate) struct Settings {
    /// Which functions are told; `filtered` when not all.
    pub(crate) filter: Filter,
    pub(crate) filtered: bool,
    /// Whether frames that ran before are announced.
    pub(crate) announces: bool,
    /// Which values are told, and under which names none is.
    pub(crate) capture: Values,
    pub(crate) hidden: Hidden,
    /// Values that are told of calls by name.
    pub(crate) fields: Fields,
    /// Whether the instructions of generators have to be at hand.
    pub(crate) needs_instructions: bool,
}

/// What the callbacks look at.
pub(crate) struct Live {
    /// Counts sessions, from 1.
    pub(crate) number: usize,
    /// Whether a session is on, here or where this process was forked from.
    on: bool,
    /// The word that says whether it is on here, see `presence`.
    here: *const AtomicU32,
    /// Makes the child of a fork that nobody has announced a process of its own.
    settle: unsafe fn(),
    pub(crate) settings: Settings,
}

static NOWHERE: AtomicU32 = AtomicU32::new(0);

const NO_COUNTS: Stopped = Stopped {
    entries: 0,
    returns: 0,
    dropped: 0,
    unseen_threads: 0,
    replaced: 0,
};

pub(crate) static LIVE: Guarded<Live> = Guarded::new(Live {
    number: 0,
    on: false,
    here: &raw const NOWHERE,
    settle: nothing,
    settings: Settings {
        filter: Filter::NONE,
        filtered: false,
        announces: false,
        capture: Values {
            arguments: false,
            returns: false,
            limit: 0,
        },
        hidden: Hidden::NOTHING,
        fields: Fields::NOTHING,
        needs_instructions: false,
    },
});

static COUNTS: PerThread<Stopped> = PerThread::new([NO_COUNTS; SHARDS]);

/// Events of threads that found no shard.
static DROPPED: AtomicU64 = AtomicU64::new(0);

fn nothing() {}

/// What to call when an event comes in the child of a fork that nobody has announced. The caller holds the lock.
pub(crate) unsafe fn when_forked(settle: unsafe fn()) {
    (*LIVE.get()).settle = settle;
}

/// A new session, which is not on yet.
pub(crate) unsafe fn prepare(settings: Settings) {
    let live = LIVE.get();
    (*live).number += 1;
    (*live).settings = settings;
    forget_counts();
}

unsafe fn forget_counts() {
    for shard in shards::all() {
        *COUNTS.of(shard) = NO_COUNTS;
    }
    DROPPED.store(0, Ordering::Relaxed);
}

/// From here on the callbacks tell what they see.
pub(crate) unsafe fn switch_on() {
    let live = LIVE.get();
    (*live).on = true;
    (*live).here = presence::session();
    (*(*live).here).store(1, Ordering::SeqCst);
}

/// From here on they do not. False when there was no session.
pub(crate) unsafe fn switch_off() -> bool {
    let live = LIVE.get();
    if !(*live).on {
        return false;
    }
    (*live).on = false;
    presence::end_session();
    true
}

/// In the child of a fork in which nothing can be switched off: no callback does anything there any longer.
pub(crate) unsafe fn cut_off() {
    (*LIVE.get()).on = false;
    presence::end_session();
}

/// Forgets the names that were asked for.
pub(crate) unsafe fn forget() {
    let settings = &raw mut (*LIVE.get()).settings;
    (*settings).filter = Filter::NONE;
    (*settings).hidden = Hidden::NOTHING;
    (*settings).fields = Fields::NOTHING;
}

/// Without the lock, when the interpreter is ending and nothing in it may be called any longer: the callbacks do nothing
/// from now on.
pub(crate) fn silence() -> Stopped {
    // SAFETY: a word that callbacks read once each, so it matters little when they see it.
    unsafe {
        core::ptr::addr_of_mut!((*LIVE.get()).on).write_volatile(false);
        presence::end_session();
        counts()
    }
}

/// In the child of a fork, where the session goes on: it counts anew.
pub(crate) unsafe fn go_on() {
    let live = LIVE.get();
    forget_counts();
    (*(*live).here).store(1, Ordering::SeqCst);
}

/// Whether a session is on. What callbacks look at first.
#[inline(always)]
pub(crate) unsafe fn is_on() -> bool {
    is_here() || is_on_after_a_fork()
}

/// Whether a session is on, but for the child of a fork that was told to nobody.
#[inline(always)]
pub(crate) unsafe fn is_here() -> bool {
    (*(*LIVE.get()).here).load(Ordering::Relaxed) != 0
}

/// The events of the interpreter are on and the session is not: this is the child of a fork that was told to nobody.
#[cold]
unsafe fn is_on_after_a_fork() -> bool {
    if (*LIVE.get()).on {
        ((*LIVE.get()).settle)();
    }
    (*LIVE.get()).on
}

/// What this thread's callbacks count.
#[inline(always)]
pub(crate) unsafe fn counted_in(shard: Shard) -> *mut Stopped {
    COUNTS.at(shard)
}

/// The same where the shard is not at hand.
pub(crate) unsafe fn counted() -> *mut Stopped {
    COUNTS.get()
}

/// An event came on a thread that found no shard.
pub(crate) fn drop_one() {
    DROPPED.fetch_add(1, Ordering::Relaxed);
}

/// The counts so far.
pub(crate) unsafe fn counts() -> Stopped {
    let mut sum = NO_COUNTS;
    for shard in shards::all() {
        // Its thread may count on meanwhile.
        let counts = COUNTS.of(shard).read_volatile();
        sum.entries += counts.entries;
        sum.returns += counts.returns;
        sum.dropped += counts.dropped;
        sum.unseen_threads += counts.unseen_threads;
        sum.replaced += counts.replaced;
    }
    sum.dropped += DROPPED.load(Ordering::Relaxed);
    sum
}
