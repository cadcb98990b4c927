//! What is switched on, and off again, in interpreters within the interpreter (`interpreters`), always on a thread that runs in
//! them. How the agent comes into one:
//!
//! - One that is made while the agent is there: making it has the built-in module `posix` executed in it, whose definition says
//!   what is to be run then. The agent adds a function to that list, and nothing else: no code of ours runs while no interpreter
//!   is made.
//! - Those that there are when the agent comes: by an audit hook, which is added only if there is one. Audit hooks stay.
//! - Those that it knows already when a session begins or ends: by a call in their queue.
//!
//! Each tells through a ring of its own, which pystap is asked for when it comes to that, and which the next one has after it.

use core::ffi::{c_char, c_int, c_long, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use alloc::boxed::Box;

use crate::gil::Guarded;
use crate::interpreters::{self, MOST, Ticket};
use crate::live::{self, LIVE};
use crate::offered::Offered;
use crate::python::{Ptr, api};
use crate::shards::{self, PerThread, SHARDS};
use crate::thread::{wait_while, wake};
use crate::{codes, collector, gil, monitoring, ring, stacks, sums, timed};

/// Who speaks with pystap.
pub(crate) struct Link {
    /// Whether there is anybody who does.
    pub(crate) is_running: fn() -> bool,
    /// Has pystap asked for the ring of a place, or told that one is missing (0). False when that cannot be done.
    pub(crate) ask: fn(usize) -> bool,
}

/// Written once, before anything reads it.
static LINK: Guarded<Link> = Guarded::new(Link {
    is_running: || false,
    ask: |_| false,
});

/// How long an interpreter waits for its ring, in milliseconds. If it has waited in vain once in a session, none does again.
const PATIENCE: i64 = 500;

/// What is on in one.
struct State {
    /// The session that has been switched on, and the one for which that was tried last; 0 for none.
    entered: usize,
    tried: usize,
    tool: Option<c_long>,
    collections: bool,
}

impl State {
    const NOTHING: State = State {
        entered: 0,
        tried: 0,
        tool: None,
        collections: false,
    };
}

/// By shard, and each its interpreter's, whose lock keeps it.
static STATES: PerThread<State> = PerThread::new([const { State::NOTHING }; SHARDS]);

/// The session that is to be on in all of them; 0 for none.
static WANTED: AtomicUsize = AtomicUsize::new(0);
/// Of that session: whether calls, and collections, are wanted, whether they are told or added up, and how many rings pystap has.
static CALLS: AtomicBool = AtomicBool::new(false);
static COLLECTIONS: AtomicBool = AtomicBool::new(false);
static TOLD: AtomicBool = AtomicBool::new(false);
static RINGS: AtomicUsize = AtomicUsize::new(0);
/// Whether one has waited in vain, and whether pystap knows that some calls are not seen.
static IS_IMPATIENT: AtomicBool = AtomicBool::new(false);
static IS_MISSING: AtomicBool = AtomicBool::new(false);

/// Whether a ring came for the interpreter of this place after it had done without.
static TRY_AGAIN: [AtomicBool; MOST] = [const { AtomicBool::new(false) }; MOST];

/// Where the question for a ring is: not put, put, or answered; or nobody waits for the answer any longer.
static ANSWERS: [AtomicU32; MOST] = [const { AtomicU32::new(NONE) }; MOST];
const NONE: u32 = 0;
const ASKED: u32 = 1;
const ANSWERED: u32 = 2;
const LATE: u32 = 3;

/// What pystap has answered, until it is taken.
static GIVEN: [AtomicPtr<Offered>; MOST] = [const { AtomicPtr::new(null_mut()) }; MOST];

/// What a session wants.
pub(crate) struct Wanted {
    pub(crate) calls: bool,
    pub(crate) collections: bool,
    /// Whether events are told, and not added up.
    pub(crate) told: bool,
    /// How many rings there are for it.
    pub(crate) rings: u32,
}

/// A session begins, which is not on yet. No callback runs.
pub(crate) unsafe fn prepare(wanted: &Wanted) {
    CALLS.store(wanted.calls, Ordering::SeqCst);
    COLLECTIONS.store(wanted.collections, Ordering::SeqCst);
    TOLD.store(wanted.told, Ordering::SeqCst);
    RINGS.store(wanted.rings as usize, Ordering::SeqCst);
    IS_IMPATIENT.store(false, Ordering::SeqCst);
    IS_MISSING.store(false, Ordering::SeqCst);
    forget_given();
}

/// It is on: each interpreter that there is, and each that comes, takes part.
pub(crate) unsafe fn start() -> bool {
    if RINGS.load(Ordering::SeqCst) == 0 || !interpreters::are_traced() {
        return false;
    }
    WANTED.store((*LIVE.get()).number, Ordering::SeqCst);
    interpreters::ask_all(settle);
    true
}

/// It is off: each takes it back when a thread runs in it next.
pub(crate) unsafe fn stop() {
    if WANTED.swap(0, Ordering::SeqCst) != 0 {
        interpreters::ask_all(settle);
    }
}

/// What nobody has taken. No callback runs.
pub(crate) unsafe fn forget_given() {
    for (given, answer) in GIVEN.iter().zip(&ANSWERS) {
        drop(taken(given));
        answer.store(NONE, Ordering::SeqCst);
    }
}

fn taken(given: &AtomicPtr<Offered>) -> Option<Box<Offered>> {
    let given = given.swap(null_mut(), Ordering::SeqCst);
    // SAFETY: it comes from a box, and nobody else has it now.
    (!given.is_null()).then(|| unsafe { Box::from_raw(given) })
}

/// In a fork's child: no interpreter is there but the main one.
pub(crate) unsafe fn begin_in_child() {
    interpreters::begin_in_child();
    for shard in shards::all().skip(1) {
        *STATES.of(shard) = State::NOTHING;
    }
    forget_given();
}

/// pystap gives a ring for a place, or has none. Called by the thread with the sockets.
pub(crate) fn give(place: u32, offered: Option<Offered>) {
    let at = (place as usize).wrapping_sub(1);
    let (Some(given), Some(answer)) = (GIVEN.get(at), ANSWERS.get(at)) else {
        return;
    };
    if let Some(offered) = offered {
        let before = given.swap(Box::into_raw(Box::new(offered)), Ordering::SeqCst);
        if !before.is_null() {
            // SAFETY: it comes from a box, and nobody else has it now.
            drop(unsafe { Box::from_raw(before) });
        }
    }
    let before = answer.swap(ANSWERED, Ordering::SeqCst);
    wake(answer);
    if before == LATE {
        if let Some(again) = TRY_AGAIN.get(at) {
            again.store(true, Ordering::SeqCst);
        }
        // SAFETY: `with` gives the lock.
        gil::with(|| unsafe { interpreters::ask(place as usize, settle) });
    }
}

/// Does in an interpreter what is to be done, on a thread that runs in it.
unsafe fn settle(ticket: Ticket) {
    let state = STATES.at(ticket.shard());
    let again = TRY_AGAIN.get(ticket.place().wrapping_sub(1));
    if again.is_some_and(|again| again.swap(false, Ordering::SeqCst)) {
        (*state).tried = 0;
    }
    let wanted = WANTED.load(Ordering::SeqCst);
    if (*state).entered != wanted && (*state).tried != wanted
        || wanted == 0 && (*state).entered != 0
    {
        ticket.alone(|| switch(ticket, wanted));
    }
}

unsafe fn switch(ticket: Ticket, wanted: usize) {
    let state = STATES.at(ticket.shard());
    if (*state).entered != 0 {
        leave(ticket);
    }
    (*state).tried = wanted;
    if wanted == 0 {
        return;
    }
    if !has_ring(ticket, wanted) || !join(ticket) {
        is_missing();
    }
    // What was to be switched off meanwhile.
    if (*state).entered != 0 && WANTED.load(Ordering::SeqCst) != wanted {
        leave(ticket);
    }
}

/// Whether it has a ring for this session. Asks for one, once for each place in a session, and waits for it, without the
/// interpreter's lock.
unsafe fn has_ring(ticket: Ticket, session: usize) -> bool {
    if take_ring(ticket, session) {
        return true;
    }
    let Some(answer) = ANSWERS.get(ticket.place().wrapping_sub(1)) else {
        return false;
    };
    if ticket.place() > RINGS.load(Ordering::SeqCst) {
        return false;
    }
    // There was none to be had, or it is on its way: whoever asks for ever is no agent that pystap knows.
    let is_first = answer.compare_exchange(NONE, ASKED, Ordering::SeqCst, Ordering::SeqCst);
    if is_first.is_err() {
        return false;
    }
    if !((*LINK.get()).ask)(ticket.place()) {
        answer.store(NONE, Ordering::SeqCst);
        return false;
    }
    if !IS_IMPATIENT.load(Ordering::SeqCst) {
        gil::without(|| wait_while(answer, ASKED, PATIENCE));
    }
    let is_late = answer
        .compare_exchange(ASKED, LATE, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok();
    if is_late {
        IS_IMPATIENT.store(true, Ordering::SeqCst);
        return false;
    }
    take_ring(ticket, session)
}

/// Has it tell through the ring of its place, where there is one: as the interpreter before it, or a new one.
unsafe fn take_ring(ticket: Ticket, session: usize) -> bool {
    let shard = ticket.shard();
    // Whoever ends the session waits until this goes.
    let _inside = shards::enter_within(shard);
    if !live::is_here() || (*LIVE.get()).number != session {
        return false;
    }
    if !ring::is_on(shard) {
        let given = GIVEN.get(ticket.place().wrapping_sub(1)).and_then(taken);
        let Some(given) = given else { return false };
        let Offered { ring, sums, timing } = *given;
        ring::begin_within(shard, ring, TOLD.load(Ordering::SeqCst));
        sums::begin_within(shard, sums);
        timed::begin_within(shard, timing);
    }
    ring::set_interpreter(shard, ticket.id());
    codes::prepare(shard)
}

/// Switches on what the session wants.
unsafe fn join(ticket: Ticket) -> bool {
    let state = STATES.at(ticket.shard());
    let Some(object) = ticket.object() else {
        return false;
    };
    (*state).entered = (*state).tried;
    ticket.take_part((*state).entered);
    if COLLECTIONS.load(Ordering::SeqCst) {
        (*state).collections = collector::start_within(&object);
    }
    if CALLS.load(Ordering::SeqCst) {
        (*state).tool = monitoring::switch_on_within(&object);
        return (*state).tool.is_some();
    }
    true
}

/// Switches it off.
unsafe fn leave(ticket: Ticket) {
    let shard = ticket.shard();
    let state = STATES.at(shard);
    (*state).entered = 0;
    ticket.take_part(0);
    if let Some(tool) = (*state).tool.take() {
        monitoring::switch_off_within(tool);
    }
    if core::mem::take(&mut (*state).collections) {
        collector::stop_within();
    }
    codes::forget(shard);
}

/// An interpreter ends: what there is of it is not looked at any longer.
unsafe fn end(ticket: Ticket) {
    let shard = ticket.shard();
    *STATES.at(shard) = State::NOTHING;
    codes::end(shard);
    let inside = shards::enter_within(shard);
    if live::is_here() {
        stacks::forget_within(shard);
    }
    drop(inside);
}

/// Has pystap know, once in a session, that some calls are not seen.
unsafe fn is_missing() {
    if WANTED.load(Ordering::SeqCst) != 0 && !IS_MISSING.swap(true, Ordering::SeqCst) {
        ((*LINK.get()).ask)(0);
    }
}

/// Takes part in the interpreter that the caller runs in.
unsafe fn enter() {
    match interpreters::meet(end) {
        Some(ticket) => settle(ticket),
        None => is_missing(),
    }
}

/// A module's definition, from its object's head on, in words: where it says what is run to make one.
const SLOTS: usize = 9;
/// Words of one of these, the first of which says what it is; the last is 0.
type Slot = [usize; 2];
/// What says that a function is run when the module is executed (`Py_mod_exec`): up to 3.14, and from then on.
const EXECUTE: [usize; 2] = [2, 85];
/// Most that are copied.
const MOST_SLOTS: usize = 30;

/// What our list is made of, written once.
struct Slots(core::cell::UnsafeCell<[Slot; MOST_SLOTS + 2]>);
// SAFETY: see above.
unsafe impl Sync for Slots {}
static LIST: Slots = Slots(core::cell::UnsafeCell::new([[0; 2]; MOST_SLOTS + 2]));

/// From now on the agent comes into each interpreter that is made. The caller runs in the main interpreter.
pub(crate) unsafe fn begin(link: Link) {
    static HAS_BEGUN: AtomicBool = AtomicBool::new(false);
    if !interpreters::are_traced() || HAS_BEGUN.swap(true, Ordering::SeqCst) {
        return;
    }
    *LINK.get() = link;
    add_to_posix();
    // The newest is the head, and the main one the last.
    let has_others = api()
        .PyInterpreterState_Head
        .is_some_and(|head| head() != (api().PyInterpreterState_Main)());
    if has_others && let Some(add) = api().PySys_AddAuditHook {
        add(on_audit, null_mut());
        (api().PyErr_Clear)();
    }
}

unsafe fn add_to_posix() -> Option<()> {
    let modules = (api().PyImport_GetModuleDict)();
    let posix = (api().PyDict_GetItemString)(modules, c"posix".as_ptr());
    if posix.is_null() {
        return None;
    }
    let definition: *mut *const Slot = (api().PyModule_GetDef?)(posix).cast();
    if definition.is_null() {
        (api().PyErr_Clear)();
        return None;
    }
    let theirs = definition.add(SLOTS);
    let mut slot = *theirs;
    if slot.is_null() {
        return None;
    }
    let ours: &mut [Slot; MOST_SLOTS + 2] = &mut *LIST.0.get();
    let mut execute = None;
    // The last stays 0.
    for place in ours.iter_mut().take(MOST_SLOTS) {
        // What is said about it is in the rest of the word.
        let kind = (*slot)[0] & 0xffff;
        if kind == 0 {
            *place = [execute?, on_execution as *const c_void as usize];
            // For threads that are about to make one: they see the old list or the new one, which both stay.
            AtomicPtr::from_ptr(theirs.cast::<*mut Slot>())
                .store(LIST.0.get().cast(), Ordering::SeqCst);
            return Some(());
        }
        if EXECUTE.contains(&kind) {
            execute = Some(kind);
        }
        *place = *slot;
        slot = slot.add(1);
    }
    None
}

/// Run in each interpreter that is made.
unsafe extern "C" fn on_execution(_: Ptr) -> c_int {
    if !interpreters::is_main() && ((*LINK.get()).is_running)() {
        enter();
    }
    0
}

/// Run whenever an interpreter says what it is about to do.
unsafe extern "C" fn on_audit(_: *const c_char, _: Ptr, _: *mut c_void) -> c_int {
    if WANTED.load(Ordering::Relaxed) != 0
        && !interpreters::is_main()
        && ((*LINK.get()).is_running)()
        && has_monitoring()
    {
        enter();
    }
    0
}

/// Whether the interpreter is whole: it begins without, and is without again when it is about to end.
unsafe fn has_monitoring() -> bool {
    let monitoring = (api().PySys_GetObject)(c"monitoring".as_ptr());
    !monitoring.is_null() && monitoring != api()._Py_NoneStruct
}
