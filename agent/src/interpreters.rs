//! Interpreters within the interpreter (`concurrent.interpreters`, mod_wsgi's default): which there are, each with a place of
//! its own, which is the number of its shard. From 3.12 on one can have a lock of its own, and run while others do; within
//! each, one thread runs at a time, so that what it tells has one writer.
//!
//! An interpreter is asked for something only by a call in its own queue, which whatever thread runs in it next makes
//! (`_PyEval_AddPendingCall`): a thread state of ours would keep it from ending. It is there for as long as its place is taken,
//! because it says itself that it ends (`PyUnstable_AtExit`), and waits until nobody is about to ask.

use core::ffi::{c_int, c_void};
use core::ptr::{without_provenance, without_provenance_mut};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use pystap_ring::MOST_RINGS;
use rustix::event::Timespec;

use crate::live::{self, LIVE};
use crate::python::{Interpreter, Owned, Ptr, api, is_free_threaded, number, version};
use crate::shards::{self, Inside, Shard};
use crate::{gil, presence};

/// How many have a place at a time. The first ring is the main one's.
pub(crate) const MOST: usize = MOST_RINGS as usize - 1;

/// The first version in which all of this can be had. 3.12 shares code objects between interpreters.
const FIRST: u32 = 13;

/// An interpreter, or none.
struct Place {
    /// Its address, while it is there.
    interpreter: AtomicUsize,
    /// Counts the interpreters that had the place, so that what an earlier one has left is not taken for this one's.
    serial: AtomicUsize,
    /// What the program calls it.
    id: AtomicU64,
    /// The session that it takes part in; 0 for none.
    session: AtomicUsize,
    /// Whether something is being switched on or off in it.
    is_busy: AtomicBool,
}

static PLACES: [Place; MOST] = [const {
    Place {
        interpreter: AtomicUsize::new(0),
        serial: AtomicUsize::new(0),
        id: AtomicU64::new(0),
        session: AtomicUsize::new(0),
        is_busy: AtomicBool::new(false),
    }
}; MOST];

/// Whether some thread takes or gives up a place, or asks the interpreters that there are.
static IS_LOCKED: AtomicBool = AtomicBool::new(false);

/// The right to do so, until this goes.
struct Lock;

impl Lock {
    /// Takes it. The caller has the lock of its interpreter, and gives it up while it waits: who has ours may need it. Nothing
    /// when it cannot be had for ten seconds.
    unsafe fn take() -> Option<Lock> {
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 1_000_000,
        };
        for _ in 0..10_000 {
            if !IS_LOCKED.swap(true, Ordering::Acquire) {
                return Some(Lock);
            }
            let _ = gil::without(|| rustix::thread::nanosleep(&moment));
        }
        None
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        IS_LOCKED.store(false, Ordering::Release);
    }
}

/// Who has a place, as one number: for callbacks, which are given it by the interpreter.
#[derive(Clone, Copy)]
pub(crate) struct Ticket {
    /// The number of its place, from 1, which is that of its shard.
    place: usize,
    serial: usize,
}

const PLACE_BITS: u32 = 6;

impl Ticket {
    fn as_number(self) -> usize {
        self.serial << PLACE_BITS | self.place
    }

    fn of_number(number: usize) -> Ticket {
        Ticket {
            place: number & ((1 << PLACE_BITS) - 1),
            serial: number >> PLACE_BITS,
        }
    }

    fn of_place(place: usize) -> Option<Ticket> {
        let serial = at(place)?.serial.load(Ordering::SeqCst);
        Some(Ticket { place, serial })
    }

    /// As an object for its callbacks.
    pub(crate) unsafe fn object(self) -> Option<Owned> {
        Owned::integer(i64::try_from(self.as_number()).ok()?)
    }

    /// Its place, unless another one has that by now.
    #[inline(always)]
    fn find(self) -> Option<&'static Place> {
        let place = at(self.place)?;
        (place.serial.load(Ordering::Relaxed) == self.serial).then_some(place)
    }

    pub(crate) fn shard(self) -> Shard {
        Shard::of_interpreter(self.place)
    }

    pub(crate) fn place(self) -> usize {
        self.place
    }

    /// What the program calls it; 0 where that cannot be told.
    pub(crate) fn id(self) -> u32 {
        let id = self.find().map_or(0, |it| it.id.load(Ordering::Relaxed));
        u32::try_from(id).unwrap_or(0)
    }

    /// It takes part in this session, whose events its callbacks tell from now on; 0 for none.
    pub(crate) fn take_part(self, session: usize) {
        if let Some(place) = self.find() {
            place.session.store(session, Ordering::SeqCst);
        }
    }

    /// Has something done in it by one thread at a time, which runs in it: not if one does it already.
    pub(crate) unsafe fn alone(self, work: impl FnOnce()) {
        let Some(place) = self.find() else { return };
        if !place.is_busy.swap(true, Ordering::SeqCst) {
            work();
            place.is_busy.store(false, Ordering::SeqCst);
        }
    }
}

fn at(place: usize) -> Option<&'static Place> {
    PLACES.get(place.checked_sub(1)?)
}

/// Whether they can be traced in this build.
pub(crate) unsafe fn are_traced() -> bool {
    let ([_, minor, _], _) = version();
    let api = api();
    !is_free_threaded()
        && minor >= FIRST
        && api.PyUnstable_AtExit.is_some()
        && api._PyEval_AddPendingCall.is_some()
        && api.PyModule_GetDef.is_some()
}

/// Whether the caller runs in the main interpreter.
pub(crate) unsafe fn is_main() -> bool {
    (api().PyInterpreterState_Get)() == (api().PyInterpreterState_Main)()
}

/// The interpreter in which the caller runs, which gets a place if it has none: not where none is free. `on_end` is called
/// with its ticket when it ends.
pub(crate) unsafe fn meet(on_end: unsafe fn(Ticket)) -> Option<Ticket> {
    let own = (api().PyInterpreterState_Get)();
    if let Some(known) = known(own) {
        return Some(known);
    }
    let lock = Lock::take()?;
    let place = (1..=MOST)
        .find(|place| at(*place).is_some_and(|it| it.interpreter.load(Ordering::SeqCst) == 0))?;
    let free = at(place)?;
    let serial =
        free.serial.load(Ordering::SeqCst).wrapping_add(1) & (usize::MAX >> (PLACE_BITS + 1));
    free.serial.store(serial, Ordering::SeqCst);
    let id = (api().PyInterpreterState_GetID)(own);
    free.id
        .store(u64::try_from(id).unwrap_or(0), Ordering::SeqCst);
    free.session.store(0, Ordering::SeqCst);
    free.is_busy.store(false, Ordering::SeqCst);
    let ticket = Ticket { place, serial };
    shards::use_for_interpreter(ticket.shard());
    ON_END.store(on_end as usize, Ordering::SeqCst);
    let number = without_provenance_mut(ticket.as_number());
    let at_exit = api().PyUnstable_AtExit?;
    if at_exit(own, ends, number) != 0 {
        (api().PyErr_Clear)();
        return None;
    }
    free.interpreter.store(own as usize, Ordering::SeqCst);
    drop(lock);
    Some(ticket)
}

/// What is called when one ends.
static ON_END: AtomicUsize = AtomicUsize::new(0);

/// The ticket of an interpreter that has a place.
fn known(interpreter: Interpreter) -> Option<Ticket> {
    let is_it = |place: &usize| {
        at(*place).is_some_and(|it| it.interpreter.load(Ordering::SeqCst) == interpreter as usize)
    };
    Ticket::of_place((1..=MOST).find(is_it)?)
}

/// Called by an interpreter that ends, on a thread that runs in it, but for the child of a fork: there the main one ends all
/// others, and they are forgotten already, or with the rest of what is not there.
unsafe extern "C" fn ends(number: *mut c_void) {
    let ticket = Ticket::of_number(number as usize);
    let Some(place) = ticket.find() else { return };
    let own = (api().PyInterpreterState_Get)();
    if presence::is_lost() || own as usize != place.interpreter.load(Ordering::SeqCst) {
        return;
    }
    let on_end = ON_END.load(Ordering::SeqCst);
    if on_end != 0 {
        // SAFETY: what `meet` was given.
        let on_end = core::mem::transmute::<usize, unsafe fn(Ticket)>(on_end);
        on_end(ticket);
    }
    // Whoever asks it has the lock.
    let lock = Lock::take();
    place.serial.fetch_add(1, Ordering::SeqCst);
    place.interpreter.store(0, Ordering::SeqCst);
    drop(lock);
}

/// Has each that there is do this when a thread runs in it next. The caller has the lock of the main interpreter.
pub(crate) unsafe fn ask_all(work: unsafe fn(Ticket)) {
    for place in 1..=MOST {
        ask(place, work);
    }
}

/// The same for one, if there is one in this place.
pub(crate) unsafe fn ask(place: usize, work: unsafe fn(Ticket)) {
    let is_there = || at(place).map_or(0, |it| it.interpreter.load(Ordering::SeqCst));
    if is_there() == 0 {
        return;
    }
    WORK.store(work as usize, Ordering::SeqCst);
    let Some(_lock) = Lock::take() else { return };
    let (interpreter, ticket) = (is_there(), Ticket::of_place(place));
    if interpreter != 0
        && let (Some(add), Some(ticket)) = (api()._PyEval_AddPendingCall, ticket)
    {
        let number = without_provenance_mut(ticket.as_number());
        // By any of its threads.
        add(
            without_provenance::<c_void>(interpreter).cast_mut(),
            asked,
            number,
            0,
        );
    }
}

/// What they are asked to do.
static WORK: AtomicUsize = AtomicUsize::new(0);

/// Made by a thread that runs in an interpreter, between two of its instructions.
unsafe extern "C" fn asked(number: *mut c_void) -> c_int {
    let ticket = Ticket::of_number(number as usize);
    let own = (api().PyInterpreterState_Get)() as usize;
    let work = WORK.load(Ordering::SeqCst);
    let is_there = ticket
        .find()
        .is_some_and(|it| it.interpreter.load(Ordering::SeqCst) == own);
    if work != 0 && is_there && !presence::is_lost() {
        // SAFETY: what `ask` was given.
        let work = core::mem::transmute::<usize, unsafe fn(Ticket)>(work);
        work(ticket);
    }
    0
}

/// A callback begins in the interpreter whose ticket this object is. Nothing where no session is on in which it takes part:
/// one of the last session may be there still.
#[inline(always)]
pub(crate) unsafe fn enter(ticket: Ptr) -> Option<Inside> {
    let ticket = Ticket::of_number(usize::try_from(number(ticket, 0)).unwrap_or(0));
    let place = ticket.find()?;
    let inside = shards::enter_within(ticket.shard());
    let takes_part =
        live::is_here() && (*LIVE.get()).number == place.session.load(Ordering::Relaxed);
    takes_part.then_some(inside)
}

/// In a fork's child: the others are not there, or end before anybody runs in them.
pub(crate) fn begin_in_child() {
    for place in &PLACES {
        place.serial.fetch_add(1, Ordering::SeqCst);
        place.interpreter.store(0, Ordering::SeqCst);
    }
    IS_LOCKED.store(false, Ordering::SeqCst);
}
