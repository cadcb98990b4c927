//! The ring through which events are told where pystap has offered one ([`pystap_ring`]); without one they are told by
//! probes. In a free-threaded build each thread has one of its own. Nothing here waits and nothing asks the kernel, but for the number of a thread when it is first seen.
//!
//! What is told is short because it refers to what was told before: which thread runs, in which context, and what a number
//! stands for. Whatever of that has no room is told again with the next event, and the event itself is counted as lost.

use alloc::vec::Vec;
use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pystap_agent_protocol::Clock;
use pystap_ring::{
    CALL, CONTEXT, DRY, FIELDS, GC_DONE, GC_START, GONE, Handled, INTERPRETER, LostKind,
    MOST_RINGS, Mapping, RETURN, Ringless, THREAD, TIMED, VALUE, Writer, distance, head, ticks,
};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::gil::Guarded;
use crate::python::is_free_threaded;
use crate::shards::{PerThread, SHARDS, Shard};
use crate::{libc, shards};

/// A function, as it is told of.
pub(crate) struct Function {
    /// What stands for it in the rings; 0 until it has a number.
    number: AtomicU32,
    /// In which rings it was told what that stands for, a bit for each.
    told: AtomicU64,
    /// Its row where calls are added up in one table; 0 until it has one.
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

impl Function {
    /// One that was told nowhere.
    pub(crate) fn new(first_line: i32, [filename, name, qualname]: [*const c_char; 3]) -> Function {
        Function {
            number: AtomicU32::new(0),
            told: AtomicU64::new(0),
            row: 0,
            first_line,
            filename,
            name,
            qualname,
            cut: 0,
        }
    }

    /// What stands for it in this session; the next number if nothing does so far. 0 when there are none left.
    pub(crate) fn number(&self) -> u32 {
        match self.number.load(Ordering::Relaxed) {
            0 => self.new_number(),
            number => number,
        }
    }

    #[cold]
    fn new_number(&self) -> u32 {
        let count = |last: u32| last.checked_add(1);
        let Ok(last) = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) else {
            return 0;
        };
        // Another thread may have been first.
        let number = &self.number;
        let set = number.compare_exchange(0, last + 1, Ordering::Relaxed, Ordering::Relaxed);
        set.map_or_else(|theirs| theirs, |_| last + 1)
    }
}

/// The number that was given last.
static LAST: AtomicU32 = AtomicU32::new(0);

/// Of [`Function::cut`], which flags of a record of a code object they are.
const CUT_SHIFT: u32 = 3;

/// Rings that are mapped and not yet in use.
pub(crate) struct Offered {
    mappings: Vec<Mapping>,
    /// The first of them once more where there are several, for what threads without a ring have lost.
    elsewhere: Option<Mapping>,
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
        let mut mappings = Vec::new();
        for at in 0..offer.count.min(MOST_RINGS) {
            mappings.push(Mapping::at(memory, begin_of(offer, at), offer.words)?);
        }
        let elsewhere = match offer.count {
            1 => None,
            _ => Some(Mapping::new(memory, offer.words)?),
        };
        let clock = match offer.clock {
            Clock::Ticks if may_read_ticks() => Clock::Ticks,
            Clock::Ticks => return Err(Errno::NOTSUP),
            Clock::Monotonic => Clock::Monotonic,
        };
        Ok(Offered {
            mappings,
            elsewhere,
            clock,
        })
    }
}

impl Offered {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.mappings.len()
    }
}

/// Where a ring begins in the memory that is offered.
pub(crate) fn begin_of(offer: pystap_agent_protocol::Ring, at: u32) -> u64 {
    let rows = offer
        .sums
        .and_then(|sums| pystap_ring::sums::bytes(sums.rows));
    u64::from(at) * distance(offer.words, rows.unwrap_or(0))
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
    /// Which bit of [`Function::told`] is this one's.
    bit: u64,
    /// The interpreter whose it is, as long as that is to be told; 0 when it is not.
    interpreter: u32,
}

static RING: PerThread<Option<Ring>> = PerThread::new([const { None }; SHARDS]);

/// The first one as those threads have it that found none free.
static ELSEWHERE: Guarded<Option<Ringless>> = Guarded::new(None);

/// Tells through these from now on, `events` or nothing but the names of functions. No callback runs.
pub(crate) unsafe fn begin(offered: Offered, events: bool) {
    LAST.store(0, Ordering::Relaxed);
    // The shard of those that have none tells nothing.
    let first = usize::from(is_free_threaded());
    for (at, mapping) in offered.mappings.into_iter().enumerate() {
        *RING.of(first + at) = Some(Ring {
            writer: Writer::new(mapping),
            clock: offered.clock,
            tells_events: events,
            context: 0,
            bit: 1 << (at & 63),
            interpreter: 0,
        });
    }
    *ELSEWHERE.get() = offered.elsewhere.map(Ringless::new);
}

/// An interpreter within the interpreter tells through this from now on, which no other one has. Nobody tells of it meanwhile.
pub(crate) unsafe fn begin_within(shard: Shard, offered: Offered, events: bool) {
    *RING.at(shard) = offered.mappings.into_iter().next().map(|mapping| Ring {
        writer: Writer::new(mapping),
        clock: offered.clock,
        tells_events: events,
        context: 0,
        bit: 1 << (shard.number() & 63),
        interpreter: 0,
    });
}

/// What follows in this shard's ring happens in another interpreter than before, which the program calls so.
pub(crate) unsafe fn set_interpreter(shard: Shard, id: u32) {
    if let Some(ring) = (*RING.at(shard)).as_mut() {
        ring.interpreter = id;
        shards::forget_told(shard);
    }
}

/// Tells nothing any longer.
pub(crate) unsafe fn end() {
    for shard in shards::all() {
        drop((*RING.of(shard)).take());
    }
    drop((*ELSEWHERE.get()).take());
}

/// How many rings there are; none where probes tell.
pub(crate) unsafe fn count() -> usize {
    let rings = shards::all().filter(|shard| (*RING.of(*shard)).is_some());
    rings.count()
}

/// An event of a thread that has no ring.
#[cold]
pub(crate) unsafe fn lost_elsewhere(kind: LostKind) {
    if let Some(ringless) = &*ELSEWHERE.get() {
        ringless.count_lost(kind);
    }
}

/// Whether there is one, through which events are told, or the names of what is added up.
#[inline(always)]
pub(crate) unsafe fn is_on(shard: Shard) -> bool {
    (*RING.at(shard)).is_some()
}

/// Whether there is one through which events are told.
pub(crate) unsafe fn tells_events() -> bool {
    (*RING.get()).as_ref().is_some_and(|ring| ring.tells_events)
}

/// A call, with its arguments as text and its fields.
#[inline(always)]
pub(crate) unsafe fn call(
    shard: Shard,
    function: *mut Function,
    place: (i32, u64),
    context: u64,
    values: (Option<&[u8]>, Option<&[u8]>),
) {
    tell(shard, CALL, function, place, context, values);
}

/// A return.
#[inline(always)]
pub(crate) unsafe fn left(
    shard: Shard,
    function: *mut Function,
    place: (i32, u64),
    context: u64,
    values: (Option<&[u8]>, Option<&[u8]>),
) {
    tell(shard, RETURN, function, place, context, values);
}

#[inline(always)]
unsafe fn tell(
    shard: Shard,
    kind: u64,
    function: *mut Function,
    (line, flags): (i32, u64),
    context: u64,
    values: (Option<&[u8]>, Option<&[u8]>),
) {
    let Some(ring) = (*RING.at(shard)).as_mut() else {
        return;
    };
    let lost = match kind {
        CALL => LostKind::Call,
        _ => LostKind::Return,
    };
    let time = ring.now();
    ring.put(shard, lost, function, context, values, |number| {
        [head(kind, flags, told_line(line), number), time]
    });
}

/// A return with the times of its call.
pub(crate) unsafe fn timed(
    shard: Shard,
    function: *mut Function,
    (line, flags): (i32, u64),
    context: u64,
    text: Option<&[u8]>,
    Times { began, ended }: Times,
) {
    if let Some(ring) = (*RING.at(shard)).as_mut() {
        let values = (text, None);
        ring.put(
            shard,
            LostKind::Return,
            function,
            context,
            values,
            |number| [head(TIMED, flags, told_line(line), number), ended, began],
        );
    }
}

/// There was no room to measure a call.
#[cold]
pub(crate) unsafe fn call_is_lost(shard: Shard) {
    if let Some(ring) = (*RING.at(shard)).as_mut() {
        ring.writer.count_lost(LostKind::Call);
    }
}

/// A line as it is told: 0 where it is not known.
#[inline(always)]
fn told_line(line: i32) -> u32 {
    u32::try_from(line).unwrap_or(0)
}

/// The time by the clock of this shard's ring; nothing where there is none.
pub(crate) unsafe fn now(shard: Shard) -> Option<u64> {
    (*RING.at(shard)).as_ref().map(Ring::now)
}

/// What this thread calls from now on is no call of the program; so many calls took so many ticks where none was told. False when there
/// is not plenty of room.
pub(crate) unsafe fn begin_dry_run(ticks: u64, calls: u32) -> bool {
    match (*RING.get()).as_mut() {
        Some(ring) if ring.writer.is_roomy() => {
            ring.tell_thread(Shard::own()) && ring.writer.put([head(DRY, 1, 0, calls), ticks])
        }
        _ => false,
    }
}

/// Says how long events took us, in calm and in the program.
pub(crate) unsafe fn tell_handled(calm: Handled, told: Handled) {
    if let Some(ring) = (*RING.get()).as_ref() {
        ring.writer.tell_handled(calm, told);
    }
}

/// Nothing of that kind comes any more, or came at all. Without room it is not told, and pystap waits for it in vain for a moment.
pub(crate) unsafe fn end_dry_run() {
    if let Some(ring) = (*RING.get()).as_mut() {
        let _ = ring.writer.put([head(DRY, 0, 0, 0), 0]);
    }
}

/// A collection begins.
pub(crate) unsafe fn collection_begins(shard: Shard, generation: i64) {
    if let Some(ring) = (*RING.at(shard)).as_mut() {
        let generation = u32::try_from(generation).unwrap_or(0);
        let record = [head(GC_START, 0, 0, generation), ring.now()];
        ring.collection(shard, record);
    }
}

/// It ends; so many objects were collected.
pub(crate) unsafe fn collection_ends(shard: Shard, collected: i64) {
    if let Some(ring) = (*RING.at(shard)).as_mut() {
        let collected = u64::try_from(collected).unwrap_or(0);
        let record = [head(GC_DONE, 0, 0, 0), ring.now(), collected];
        ring.collection(shard, record);
    }
}

/// What a context is called. False when there is no room.
pub(crate) unsafe fn name_context(context: u64, name: &[u8]) -> bool {
    match (*RING.get()).as_mut() {
        // So that it is known where it was seen.
        Some(ring) => {
            let time = ring.now();
            ring.tell_thread(Shard::own()) && ring.writer.name_context(context, time, name)
        }
        None => true,
    }
}

/// A code object is no more. What has no room here is forgotten by pystap when the session ends.
pub(crate) unsafe fn forget(shard: Shard, function: *const Function) {
    if let Some(ring) = (*RING.at(shard)).as_mut()
        && ring.has_told(function)
    {
        ring.writer.put([head(GONE, 0, 0, (*function).number()), 0]);
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
pub(crate) unsafe fn name_row(shard: Shard, function: *const Function, row: u32) -> bool {
    match (*RING.at(shard)).as_mut() {
        Some(ring) => ring.writer.define(&code(function, row)),
        None => false,
    }
}

/// What tells a function from others: its file, its name and its first line.
pub(crate) unsafe fn name_of(function: *const Function) -> Vec<u8> {
    let text = |text: *const c_char| CStr::from_ptr(text).to_bytes_with_nul();
    let line = (*function).first_line.to_ne_bytes();
    [
        text((*function).filename),
        text((*function).qualname),
        &line,
    ]
    .concat()
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

    /// Tells something of a function, whose record is made of the function's number, after values that belong to it.
    #[inline(always)]
    unsafe fn put<const WORDS: usize>(
        &mut self,
        shard: Shard,
        lost: LostKind,
        function: *mut Function,
        context: u64,
        values: (Option<&[u8]>, Option<&[u8]>),
        record: impl FnOnce(u32) -> [u64; WORDS],
    ) {
        let is_known = shards::is_told(shard) && self.context == context && self.has_told(function);
        let is_told = is_known || (self.tell_where(shard, context) && self.define(function));
        if !is_told {
            return self.writer.count_lost(lost);
        }
        let record = record((*function).number());
        let told = match values {
            (None, None) => self.writer.put(record),
            (Some(text), None) => self.writer.put_with_value(record, text),
            (None, Some(fields)) => self.writer.put_with(record, &[(FIELDS, fields)]),
            (Some(text), Some(fields)) => self
                .writer
                .put_with(record, &[(VALUE, text), (FIELDS, fields)]),
        };
        if !told {
            self.writer.count_lost(lost);
        }
    }

    /// Whether it was told here what the number of a function stands for.
    #[inline(always)]
    unsafe fn has_told(&self, function: *const Function) -> bool {
        (*function).told.load(Ordering::Relaxed) & self.bit != 0
    }

    fn collection<const WORDS: usize>(&mut self, shard: Shard, record: [u64; WORDS]) {
        if !self.tell_thread(shard) || !self.writer.put(record) {
            self.writer.count_lost(LostKind::Collection);
        }
    }

    /// Says on which thread and in which context the next event is. False when there is no room.
    #[cold]
    fn tell_where(&mut self, shard: Shard, context: u64) -> bool {
        if !self.tell_thread(shard) {
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

    fn tell_thread(&mut self, shard: Shard) -> bool {
        if shards::is_told(shard) {
            return true;
        }
        if self.interpreter != 0 {
            if !(self.writer).put([head(INTERPRETER, 0, 0, self.interpreter), 0]) {
                return false;
            }
            self.interpreter = 0;
        }
        let number = rustix::thread::gettid().as_raw_nonzero().get();
        if !(self.writer).put([head(THREAD, 0, 0, number.unsigned_abs()), 0]) {
            return false;
        }
        shards::set_told(shard);
        true
    }

    /// Says what the number of a code object stands for, if that was not told here. False when there is no room.
    #[cold]
    unsafe fn define(&mut self, function: *mut Function) -> bool {
        if self.has_told(function) {
            return true;
        }
        let number = (*function).number();
        let is_defined = number != 0 && self.writer.define(&code(function, number));
        if is_defined {
            (*function).told.fetch_or(self.bit, Ordering::Relaxed);
        }
        is_defined
    }
}
