//! The ring through which events are told where pystap has offered one ([`pystap_ring`]); without one they are told by
//! probes. Nothing here waits and nothing asks the kernel, but for the number of a thread when it is first seen.
//!
//! What is told is short because it refers to what was told before: which thread runs, in which context, and what a number
//! stands for. Whatever of that has no room is told again with the next event, and the event itself is counted as lost.

use core::ffi::{CStr, c_char, c_void};
use core::ptr::without_provenance;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use pystap_agent_protocol::Clock;
use pystap_ring::{
    CALL, CONTEXT, GC_DONE, GC_START, GONE, LostKind, Mapping, RETURN, THREAD, TIMED, Writer, head,
    ticks,
};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::gil::Guarded;
use crate::{libc, thread};

/// A function, as it is told of.
pub(crate) struct Function {
    /// What stands for it in the ring; 0 until that is told.
    pub(crate) number: u32,
    /// Its row where calls are added up; 0 until it has one.
    pub(crate) row: u32,
    /// `co_firstlineno`.
    pub(crate) first_line: i32,
    /// Its names as UTF-8 with a NUL.
    pub(crate) filename: *const c_char,
    pub(crate) name: *const c_char,
    /// The name itself before 3.11, where code objects have no other.
    pub(crate) qualname: *const c_char,
    /// Which of them were cut: flags of the mark.
    pub(crate) cut: u64,
}

/// When a call began and ended, in ticks of the ring's clock.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// Of [`Function::cut`], which flags of a record of a code object they are.
const CUT_SHIFT: u32 = 3;

/// A ring that is mapped and not yet in use.
pub(crate) struct Offered {
    mapping: Mapping,
    clock: Clock,
}

impl Offered {
    /// Maps what pystap offers.
    ///
    /// # Errors
    /// What the system says: there may be no room for it, or no counter that may be read.
    pub(crate) fn new(
        offer: pystap_agent_protocol::Ring,
        memory: &OwnedFd,
    ) -> Result<Offered, Errno> {
        let mapping = Mapping::new(memory, offer.words)?;
        let clock = match offer.clock {
            Clock::Ticks if may_read_ticks() => Clock::Ticks,
            Clock::Ticks => return Err(Errno::NOTSUP),
            Clock::Monotonic => Clock::Monotonic,
        };
        Ok(Offered { mapping, clock })
    }
}

/// A process can be forbidden to read the counter, and would be ended for it (`PR_SET_TSC`).
fn may_read_ticks() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        const PR_GET_TSC: core::ffi::c_long = 25;
        const PR_TSC_ENABLE: u32 = 1;
        let mut state = 0_u32;
        // SAFETY: the kernel writes one number.
        let status = unsafe { libc::syscall(libc::PRCTL, PR_GET_TSC, &raw mut state) };
        status == 0 && state == PR_TSC_ENABLE
    }
    #[cfg(target_arch = "aarch64")]
    true
}

struct Ring {
    writer: Writer,
    clock: Clock,
    tells_events: bool,
    /// The context that was told last.
    context: u64,
    /// The number that was given last.
    last: u32,
}

static RING: Guarded<Option<Ring>> = Guarded::new(None);

/// The thread that was told last, by its thread pointer; 0 when it has ended since. Written without the interpreter's
/// lock by a thread that ends.
static TOLD: AtomicUsize = AtomicUsize::new(0);

/// The key whose destructor tells that a thread ends, plus one; 0 when there is none.
static KEY: AtomicU32 = AtomicU32::new(0);

/// Tells through this one from now on, `events` or nothing but the names of functions.
pub(crate) unsafe fn begin(offered: Offered, events: bool) {
    TOLD.store(0, Ordering::Relaxed);
    if KEY.load(Ordering::Relaxed) == 0 {
        let mut key = 0;
        if libc::pthread_key_create(&raw mut key, Some(on_end_of_thread)) == 0 {
            KEY.store(key + 1, Ordering::Relaxed);
        }
    }
    *RING.get() = Some(Ring {
        writer: Writer::new(offered.mapping),
        clock: offered.clock,
        tells_events: events,
        context: 0,
        last: 0,
    });
}

/// Tells nothing any longer.
pub(crate) unsafe fn end() {
    drop((*RING.get()).take());
}

/// Whether there is one, through which events are told, or the names of what is added up.
#[inline(always)]
pub(crate) unsafe fn is_on() -> bool {
    (*RING.get()).is_some()
}

/// Whether there is one through which events are told.
pub(crate) unsafe fn tells_events() -> bool {
    (*RING.get()).as_ref().is_some_and(|ring| ring.tells_events)
}

/// Runs on every thread that was told, when it ends: the next one may get its address.
unsafe extern "C" fn on_end_of_thread(_: *mut c_void) {
    let _ = TOLD.compare_exchange(thread::current(), 0, Ordering::Relaxed, Ordering::Relaxed);
}

/// A call.
#[inline(always)]
pub(crate) unsafe fn call(
    function: *mut Function,
    line: i32,
    flags: u64,
    context: u64,
    text: Option<&[u8]>,
) {
    tell(CALL, LostKind::Call, function, (line, flags), context, text);
}

/// A return.
#[inline(always)]
pub(crate) unsafe fn left(
    function: *mut Function,
    line: i32,
    flags: u64,
    context: u64,
    text: Option<&[u8]>,
) {
    tell(
        RETURN,
        LostKind::Return,
        function,
        (line, flags),
        context,
        text,
    );
}

#[inline(always)]
unsafe fn tell(
    kind: u64,
    lost: LostKind,
    function: *mut Function,
    (line, flags): (i32, u64),
    context: u64,
    text: Option<&[u8]>,
) {
    let Some(ring) = (*RING.get()).as_mut() else {
        return;
    };
    let time = ring.now();
    ring.put(lost, function, context, text, |number| {
        [head(kind, flags, told_line(line), number), time]
    });
}

/// A return with the times of its call.
pub(crate) unsafe fn timed(
    function: *mut Function,
    (line, flags): (i32, u64),
    context: u64,
    text: Option<&[u8]>,
    Times { began, ended }: Times,
) {
    if let Some(ring) = (*RING.get()).as_mut() {
        ring.put(LostKind::Return, function, context, text, |number| {
            [head(TIMED, flags, told_line(line), number), ended, began]
        });
    }
}

/// There was no room to measure a call.
#[cold]
pub(crate) unsafe fn call_is_lost() {
    if let Some(ring) = (*RING.get()).as_mut() {
        ring.writer.count_lost(LostKind::Call);
    }
}

/// A line as it is told: 0 where it is not known.
#[inline(always)]
fn told_line(line: i32) -> u32 {
    u32::try_from(line).unwrap_or(0)
}

/// A collection begins.
pub(crate) unsafe fn collection_begins(generation: i64) {
    if let Some(ring) = (*RING.get()).as_mut() {
        let generation = u32::try_from(generation).unwrap_or(0);
        let record = [head(GC_START, 0, 0, generation), ring.now()];
        ring.collection(record);
    }
}

/// It ends; so many objects were collected.
pub(crate) unsafe fn collection_ends(collected: i64) {
    if let Some(ring) = (*RING.get()).as_mut() {
        let collected = u64::try_from(collected).unwrap_or(0);
        let record = [head(GC_DONE, 0, 0, 0), ring.now(), collected];
        ring.collection(record);
    }
}

/// What a context is called. False when there is no room.
pub(crate) unsafe fn name_context(context: u64, name: &[u8]) -> bool {
    match (*RING.get()).as_mut() {
        // So that it is known where it was seen.
        Some(ring) => {
            let time = ring.now();
            ring.tell_thread() && ring.writer.name_context(context, time, name)
        }
        None => true,
    }
}

/// A code object is no more. What has no room here is forgotten by pystap when the session ends.
pub(crate) unsafe fn forget(function: *const Function) {
    if let Some(ring) = (*RING.get()).as_mut()
        && (*function).number != 0
    {
        ring.writer.put([head(GONE, 0, 0, (*function).number), 0]);
    }
}

/// The time by this clock.
#[inline(always)]
pub(crate) fn time(clock: Clock) -> u64 {
    match clock {
        Clock::Ticks => ticks(),
        Clock::Monotonic => libc::monotonic() as u64,
    }
}

/// Says what the number of a row stands for. False when there is no room.
pub(crate) unsafe fn name_row(function: *const Function, row: u32) -> bool {
    match (*RING.get()).as_mut() {
        Some(ring) => ring.writer.define(&code(function, row)),
        None => false,
    }
}

/// What is told of a function by this number.
unsafe fn code<'a>(function: *const Function, number: u32) -> pystap_ring::Code<'a> {
    let bytes = |text: *const c_char| CStr::from_ptr(text).to_bytes();
    pystap_ring::Code {
        number,
        flags: (*function).cut >> CUT_SHIFT,
        first_line: u32::try_from((*function).first_line).unwrap_or(0),
        file: bytes((*function).filename),
        name: bytes((*function).name),
        qualname: bytes((*function).qualname),
    }
}

impl Ring {
    #[inline(always)]
    fn now(&self) -> u64 {
        time(self.clock)
    }

    /// Tells something of a function, whose record is made of the function's number, after a value that belongs to it.
    #[inline(always)]
    unsafe fn put<const WORDS: usize>(
        &mut self,
        lost: LostKind,
        function: *mut Function,
        context: u64,
        text: Option<&[u8]>,
        record: impl FnOnce(u32) -> [u64; WORDS],
    ) {
        let is_known = self.is_here() && self.context == context && (*function).number != 0;
        let is_told = is_known || (self.tell_where(context) && self.define(function));
        if !is_told {
            return self.writer.count_lost(lost);
        }
        let record = record((*function).number);
        let told = match text {
            None => self.writer.put(record),
            Some(text) => self.writer.put_with_value(record, text),
        };
        if !told {
            self.writer.count_lost(lost);
        }
    }

    /// Whether the thread that was told last is this one.
    #[inline(always)]
    fn is_here(&self) -> bool {
        TOLD.load(Ordering::Relaxed) == thread::current()
    }

    fn collection<const WORDS: usize>(&mut self, record: [u64; WORDS]) {
        if !self.tell_thread() || !self.writer.put(record) {
            self.writer.count_lost(LostKind::Collection);
        }
    }

    /// Says on which thread and in which context the next event is. False when there is no room.
    #[cold]
    fn tell_where(&mut self, context: u64) -> bool {
        if !self.tell_thread() {
            return false;
        }
        if self.context != context {
            if !self.writer.put([head(CONTEXT, 0, 0, 0), context]) {
                return false;
            }
            self.context = context;
        }
        true
    }

    fn tell_thread(&mut self) -> bool {
        if self.is_here() {
            return true;
        }
        let number = rustix::thread::gettid().as_raw_nonzero().get();
        if !(self.writer).put([head(THREAD, 0, 0, number.unsigned_abs()), 0]) {
            return false;
        }
        // Only a thread of whose end we hear can be known by its address.
        let told = KEY
            .load(Ordering::Relaxed)
            .checked_sub(1)
            .is_some_and(|key| {
                // SAFETY: a key of ours; what it holds is not looked at, and only has to be something.
                unsafe { libc::pthread_setspecific(key, without_provenance(1)) == 0 }
            });
        TOLD.store(if told { thread::current() } else { 0 }, Ordering::Relaxed);
        true
    }

    /// Says what the number of a code object stands for, if it has none. False when there is no room.
    #[cold]
    unsafe fn define(&mut self, function: *mut Function) -> bool {
        if (*function).number != 0 {
            return true;
        }
        let Some(number) = self.last.checked_add(1) else {
            return false;
        };
        let is_defined = self.writer.define(&code(function, number));
        if is_defined {
            self.last = number;
            (*function).number = number;
        }
        is_defined
    }
}
