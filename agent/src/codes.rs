//! What is known of each code object: whether the session wants it, and its names. Kept in the code object itself, in the
//! slot that CPython has for such things (`co_extra`), so that it goes when the code object goes and a new one at the same
//! address knows nothing of it.
//!
//! A slot holds null, or an odd number (a session that does not want the code, or [`OWN`]), or the address of a [`Code`].

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::{CStr, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use pystap_ring::MOST_TEXT;

use crate::capture::{self, Parameter};
use crate::fields::{self, OfFunction};
use crate::live::{self, LIVE};
use crate::marks::{CUT_FILE, CUT_NAME, CUT_QUALNAME};
use crate::names;
use crate::python::{Object, Owned, Ptr, api, is_free_threaded, type_of, version};
use crate::ring::{self, Function};
use crate::shards::{PerThread, SHARDS, Shard};
use crate::{contexts, shards, thread};

/// A code object that a session wants.
pub(crate) struct Code {
    /// The session that wants it.
    session: AtomicUsize,
    /// Of the interpreter that has it.
    shard: Shard,
    /// The code object, which owns this; null when it is no more.
    object: AtomicPtr<Object>,
    /// What is told of it; its names are owned by its strings or by `own`.
    pub(crate) told: Function,
    /// Bytes that a value may have beside them.
    pub(crate) room: usize,
    /// `co_flags`.
    pub(crate) flags: i64,
    /// The last line that was asked for, and its offset in the code: the upper and the lower half.
    pub(crate) line: AtomicU64,
    /// `co_code`, of what can be suspended where the profile function is used.
    pub(crate) instructions: Vec<u8>,
    /// Whether what it returns is left out of what is told.
    pub(crate) hides: bool,
    /// Its parameters, when arguments are told.
    pub(crate) parameters: Vec<Parameter>,
    /// Its fields.
    pub(crate) fields: OfFunction,
    /// Names that are in no string; never read, only kept.
    _own: Vec<Box<[u8]>>,
    before: *mut Code,
    after: *mut Code,
}

/// A generator, a coroutine or an asynchronous generator, by `co_flags`.
pub(crate) const RESUMABLE: i64 = 0x20 | 0x80 | 0x200;

/// What the slots of pystap's own code hold, which no session wants. Sessions count from 1.
const OWN: usize = 1;

/// Of each interpreter, whose lock keeps it apart. In a free-threaded build there is one, written by who has the [`Lock`].
struct Known {
    /// Our slot's number, once it was asked for.
    slot: Option<isize>,
    /// The first of all records.
    first: *mut Code,
    /// Records of code objects that are no more, in a free-threaded build: other threads may look whether one is that of
    /// the code that they run, so it stays a record, and becomes that of the next code object.
    free: *mut Code,
}

/// Records that were asked for lately, each at the place that the address of its code object gives it: to ask the
/// interpreter for a slot is a call.
type Recent = [*mut Code; RECENT];

/// How many, a power of two.
const RECENT: usize = 1024;

/// None outlives its code object, or it is known by its record, see `release`.
static RECENTLY: PerThread<Recent> = PerThread::new([[null_mut(); RECENT]; SHARDS]);

/// The place of a code object among them. Objects are aligned to 16 bytes.
#[inline(always)]
fn place(object: Ptr) -> usize {
    (object as usize >> 4 ^ object as usize >> 12) % RECENT
}

impl Known {
    const NOTHING: Known = Known {
        slot: None,
        first: null_mut(),
        free: null_mut(),
    };
}

static KNOWN: PerThread<Known> = PerThread::new([const { Known::NOTHING }; SHARDS]);

/// Where that is which the interpreter with this shard has.
#[inline(always)]
fn known(shard: Shard) -> *mut Known {
    KNOWN.at(if is_free_threaded() {
        Shard::ONLY
    } else {
        shard
    })
}

/// Whether some slot may hold [`OWN`].
static HAS_OWN: AtomicBool = AtomicBool::new(false);

/// The thread that writes slots and records, by its thread pointer. Free-threaded builds only, where the interpreter lets two
/// threads write the slots of one code object at once.
static WRITER: AtomicUsize = AtomicUsize::new(0);

/// How often a thread tries to be the writer. Whoever is makes no call that waits.
const TRIES: u32 = 1 << 20;

/// The right to write slots and records, until this goes.
struct Lock {
    is_ours: bool,
}

impl Lock {
    /// Nothing when it is not to be had, so that the caller does without.
    fn take() -> Option<Lock> {
        let own = thread::current();
        // Writing a slot calls `release` for what was there.
        if !is_free_threaded() || WRITER.load(Ordering::Relaxed) == own {
            return Some(Lock { is_ours: false });
        }
        for turn in 0..TRIES {
            let taken = WRITER.compare_exchange(0, own, Ordering::Acquire, Ordering::Relaxed);
            if taken.is_ok() {
                return Some(Lock { is_ours: true });
            }
            if turn < 100 {
                core::hint::spin_loop();
            } else {
                rustix::thread::sched_yield();
            }
        }
        None
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.is_ours {
            WRITER.store(0, Ordering::Release);
        }
    }
}

/// In a fork's child: no other thread writes. What one has left half written is left alone.
pub(crate) unsafe fn begin_in_child() {
    let writer = WRITER.swap(0, Ordering::Relaxed);
    if writer != 0 && writer != thread::current() {
        (*known(Shard::ONLY)).first = null_mut();
        (*known(Shard::ONLY)).free = null_mut();
    }
    // Other interpreters are not there. Their code objects keep their records.
    if !is_free_threaded() {
        for shard in shards::all().skip(1) {
            *KNOWN.of(shard) = Known::NOTHING;
        }
    }
}

/// Makes sure of the slot of the interpreter that the caller runs in, whose shard this is. False when it has none left (there
/// are 255).
pub(crate) unsafe fn prepare(shard: Shard) -> bool {
    let known = known(shard);
    if (*known).slot.is_none() {
        let slot = (api().PyUnstable_Eval_RequestCodeExtraIndex)(release);
        (*known).slot = (slot >= 0).then_some(slot);
    }
    (*known).slot.is_some()
}

/// Has sessions leave out the code that starts us, if it is pystap's own (`attach.py`, `sitecustomize.py`), and the line of a
/// `.pth` file that executes it. What a session that runs has seen of it already, it sees to the end.
pub(crate) unsafe fn leave_out_own() -> Option<()> {
    if !prepare(Shard::ONLY) {
        return None;
    }
    let starts = Owned::borrowed((api().PyEval_GetFrame)())?;
    let calls = Owned::take((api().PyFrame_GetBack)(starts.as_ptr()))?;
    if !leave_out_module(
        Shard::ONLY,
        &Owned::take((api().PyFrame_GetCode)(calls.as_ptr()))?,
    ) {
        return None;
    }
    if let Some(executes) = Owned::take((api().PyFrame_GetBack)(calls.as_ptr())) {
        leave_out_module(
            Shard::ONLY,
            &Owned::take((api().PyFrame_GetCode)(executes.as_ptr()))?,
        );
    }
    Some(())
}

/// Has sessions leave out this code and what it defines, if it is a module of pystap's own: one that defines a function
/// `_pystap` which starts an agent, or a line of a `.pth` file that executes such a one. Whether it is.
unsafe fn leave_out_module(shard: Shard, module: &Owned) -> bool {
    if !is_named(module, c"co_name", c"<module>") {
        return false;
    }
    let kind = type_of(module.as_ptr());
    let is_line = is_named(module, c"co_filename", c"<string>");
    let is_ours = constants(module).into_iter().any(|constant| {
        if type_of(constant) == kind {
            Owned::borrowed(constant)
                .is_some_and(|it| is_named(&it, c"co_name", c"_pystap") && starts_us(&it))
        } else {
            is_line && text_of(constant).is_some_and(|text| contains(text, b"_pystap_agent.start("))
        }
    });
    if is_ours {
        leave_out(shard, module.as_ptr());
    }
    is_ours
}

/// Leaves out this code, and the functions and comprehensions within it.
unsafe fn leave_out(shard: Shard, object: Ptr) {
    let known = known(shard);
    let (Some(slot), Some(code)) = ((*known).slot, Owned::borrowed(object)) else {
        return;
    };
    let Some(lock) = Lock::take() else { return };
    let mut kept = null_mut();
    let asked = (api().PyUnstable_Code_GetExtra)(object, slot, &raw mut kept) == 0;
    let is_told = asked && kept as usize & 1 == 0 && !kept.is_null();
    if is_told && (*kept.cast::<Code>()).is_of((*LIVE.get()).number) {
        return;
    }
    if (api().PyUnstable_Code_SetExtra)(object, slot, without_provenance(OWN)) == 0 {
        HAS_OWN.store(true, Ordering::Relaxed);
    } else {
        (api().PyErr_Clear)();
    }
    drop(lock);
    let constants = constants(&code).into_iter();
    for inner in constants.filter(|it| type_of(*it) == type_of(object)) {
        leave_out(shard, inner);
    }
}

/// The constants of a code object, which owns them.
unsafe fn constants(code: &Owned) -> Vec<Ptr> {
    let Some(constants) = code.attribute(c"co_consts") else {
        return Vec::new();
    };
    (0..(api().PyTuple_Size)(constants.as_ptr()))
        .map(|at| (api().PyTuple_GetItem)(constants.as_ptr(), at))
        .collect()
}

/// Whether code has something with the name `start`.
unsafe fn starts_us(code: &Owned) -> bool {
    let Some(names) = code.attribute(c"co_names") else {
        return false;
    };
    (0..(api().PyTuple_Size)(names.as_ptr()))
        .any(|at| text_of((api().PyTuple_GetItem)(names.as_ptr(), at)) == Some(c"start"))
}

unsafe fn is_named(code: &Owned, attribute: &CStr, name: &CStr) -> bool {
    let Some(found) = code.attribute(attribute) else {
        return false;
    };
    text_of(found.as_ptr()) == Some(name)
}

/// The text of a string, which owns it; nothing of anything else.
unsafe fn text_of<'a>(object: Ptr) -> Option<&'a CStr> {
    let text = (api().PyUnicode_AsUTF8)(object);
    if text.is_null() {
        (api().PyErr_Clear)();
        return None;
    }
    Some(CStr::from_ptr(text))
}

fn contains(text: &CStr, part: &[u8]) -> bool {
    text.to_bytes().windows(part.len()).any(|it| it == part)
}

/// A code object that is wanted, whatever the filter says; null for none.
static WANTED: AtomicPtr<Object> = AtomicPtr::new(null_mut());

/// Does something while this code object is wanted, which the main interpreter has. Afterwards it is decided anew.
pub(crate) unsafe fn wanting<R>(object: Ptr, work: impl FnOnce() -> R) -> R {
    WANTED.store(object, Ordering::Relaxed);
    let result = work();
    WANTED.store(null_mut(), Ordering::Relaxed);
    if let Some(slot) = (*known(Shard::ONLY)).slot
        && (api().PyUnstable_Code_SetExtra)(object, slot, null_mut()) != 0
    {
        (api().PyErr_Clear)();
    }
    result
}

/// Whether there is code that no session wants.
pub(crate) fn has_own() -> bool {
    HAS_OWN.load(Ordering::Relaxed)
}

/// The record of a code object, or nothing when the session does not want it.
#[inline(always)]
pub(crate) unsafe fn wanted(shard: Shard, object: Ptr) -> Option<*mut Code> {
    let session = (*LIVE.get()).number;
    let recent = &*RECENTLY.at(shard);
    if let Some(&code) = recent.get(place(object))
        && !code.is_null()
        && (*code).object.load(Ordering::Acquire) == object
        && (*code).is_of(session)
    {
        return Some(code);
    }
    ask(shard, object, session)
}

/// The same where it was not asked for lately.
#[inline(never)]
unsafe fn ask(shard: Shard, object: Ptr, session: usize) -> Option<*mut Code> {
    let slot = (*known(shard)).slot?;
    let Some(lock) = Lock::take() else {
        (*live::counted_in(shard)).dropped += 1;
        return None;
    };
    let kept = kept(object, slot);
    drop(lock);
    match kept {
        Kept::Unwanted(by) if by == session || is_own(by) => None,
        Kept::Wanted(code) if (*code).is_of(session) => {
            if let Some(recent) = (*RECENTLY.at(shard)).get_mut(place(object)) {
                *recent = code;
            }
            Some(code)
        }
        _ => decide(shard, object, slot, session),
    }
}

/// What is in a slot.
enum Kept {
    Nothing,
    /// This session does not want it.
    Unwanted(usize),
    Wanted(*mut Code),
}

/// Whether it is what the slots of pystap's own code hold.
fn is_own(session: usize) -> bool {
    session == OWN >> 1
}

/// The caller has the lock.
unsafe fn kept(object: Ptr, slot: isize) -> Kept {
    let mut kept = null_mut();
    if (api().PyUnstable_Code_GetExtra)(object, slot, &raw mut kept) != 0 {
        (api().PyErr_Clear)();
        return Kept::Unwanted((*LIVE.get()).number);
    }
    match kept as usize {
        0 => Kept::Nothing,
        odd if odd & 1 == 1 => Kept::Unwanted(odd >> 1),
        _ => Kept::Wanted(kept.cast()),
    }
}

#[cold]
unsafe fn decide(shard: Shard, object: Ptr, slot: isize, session: usize) -> Option<*mut Code> {
    // The first call of a function is also when a module may just have been imported.
    contexts::look_soon(shard);
    let live = LIVE.get();
    let Some(mut code) = read(shard, object, session) else {
        (*live::counted_in(shard)).dropped += 1;
        return None;
    };
    let bytes = |text| CStr::from_ptr(text).to_bytes();
    if bytes(code.told.name) == b"<module>"
        && Owned::borrowed(object).is_some_and(|module| leave_out_module(shard, &module))
    {
        return None;
    }
    let names = [bytes(code.told.name), bytes(code.told.qualname)];
    let accepted = object == WANTED.load(Ordering::Relaxed)
        || (*live)
            .settings
            .filter
            .accepts(bytes(code.told.filename), names);
    let code = accepted.then(|| {
        if !(*live).settings.fields.is_empty()
            && let Some(object) = Owned::borrowed(object)
        {
            // First, because this can run finalizers of the program (up to 3.11), and these can end the session.
            let parameters = capture::parameters(&object, code.flags, version().0[1]);
            code.fields = fields::of(&(*live).settings.fields, names, &parameters);
        }
        shorten(shard, &mut code);
        code
    });
    keep(shard, object, slot, session, code)
}

/// Puts what was decided into the slot, unless another thread was first.
unsafe fn keep(
    shard: Shard,
    object: Ptr,
    slot: isize,
    session: usize,
    decided: Option<Box<Code>>,
) -> Option<*mut Code> {
    let Some(lock) = Lock::take() else {
        (*live::counted_in(shard)).dropped += 1;
        return None;
    };
    if is_free_threaded() {
        match kept(object, slot) {
            Kept::Unwanted(by) if by == session => return None,
            Kept::Wanted(code) if (*code).is_of(session) => {
                // What was decided goes when nobody waits for us any longer.
                drop(lock);
                return Some(code);
            }
            _ => {}
        }
    }
    let accepted = decided.is_some();
    let code = decided.map_or(null_mut(), |code| place_of(code));
    let kept = if accepted {
        code.cast()
    } else {
        without_provenance(session << 1 | 1)
    };
    // What was in the slot before is given to `release`.
    if (api().PyUnstable_Code_SetExtra)(object, slot, kept) != 0 {
        (api().PyErr_Clear)();
        if accepted {
            put_away(code);
        }
        (*live::counted_in(shard)).dropped += 1;
        return None;
    }
    if !accepted {
        return None;
    }
    let known = known(shard);
    (*code).before = null_mut();
    (*code).after = (*known).first;
    if !(*known).first.is_null() {
        (*(*known).first).before = code;
    }
    (*known).first = code;
    // From here on others find it.
    (*code).object.store(object, Ordering::Release);
    Some(code)
}

/// Where a new record is from now on. The caller has the lock.
unsafe fn place_of(new: Box<Code>) -> *mut Code {
    let known = known(new.shard);
    let free = (*known).free;
    if free.is_null() {
        return Box::into_raw(new);
    }
    (*known).free = (*free).after;
    let new = *new;
    (*free)
        .session
        .store(new.session.into_inner(), Ordering::Relaxed);
    (*free).told = new.told;
    (*free).room = new.room;
    (*free).flags = new.flags;
    (*free).line = new.line;
    (*free).instructions = new.instructions;
    (*free).hides = new.hides;
    (*free).parameters = new.parameters;
    (*free).fields = new.fields;
    (*free)._own = new._own;
    free
}

/// A record is that of no code object any longer. The caller has the lock.
unsafe fn put_away(code: *mut Code) {
    if !is_free_threaded() {
        drop(Box::from_raw(code));
        return;
    }
    let known = known((*code).shard);
    (*code).object.store(null_mut(), Ordering::Relaxed);
    // All that it has of the program's memory.
    (*code).instructions = Vec::new();
    (*code).parameters = Vec::new();
    (*code).fields = OfFunction::default();
    (*code)._own = Vec::new();
    (*code).before = null_mut();
    (*code).after = (*known).free;
    (*known).free = code;
}

fn without_provenance(value: usize) -> *mut c_void {
    core::ptr::without_provenance_mut(value)
}

unsafe fn read(shard: Shard, object: Ptr, session: usize) -> Option<Box<Code>> {
    let code = Owned::borrowed(object)?;
    let mut own = Vec::new();
    let filename = names::utf8(&code, c"co_filename", &mut own)?;
    let name = names::utf8(&code, c"co_name", &mut own)?;
    let qualname = names::utf8(&code, c"co_qualname", &mut own).unwrap_or(name);
    let length = |text| CStr::from_ptr(text).count_bytes();
    let lengths = [filename, name, qualname].map(length);
    let together = lengths
        .into_iter()
        .fold(lengths.len(), usize::saturating_add);
    let flags = code.integer_attribute(c"co_flags", 0);
    let first_line = i32::try_from(code.integer_attribute(c"co_firstlineno", 0)).unwrap_or(0);
    Some(Box::new(Code {
        session: AtomicUsize::new(session),
        shard,
        object: AtomicPtr::new(null_mut()),
        told: Function::new(first_line, [filename, name, qualname]),
        room: if ring::is_on(shard) {
            MOST_TEXT
        } else {
            ROOM.saturating_sub(together).max(VALUE)
        },
        flags,
        line: AtomicU64::new(NO_LINE),
        instructions: if (*LIVE.get()).settings.needs_instructions && flags & RESUMABLE != 0 {
            instructions(&code)
        } else {
            Vec::new()
        },
        hides: (*LIVE.get())
            .settings
            .hidden
            .has(&CStr::from_ptr(name).to_string_lossy()),
        parameters: if (*LIVE.get()).settings.capture.arguments {
            capture::parameters(&code, flags, version().0[1])
        } else {
            Vec::new()
        },
        fields: OfFunction::default(),
        _own: own,
        before: null_mut(),
        after: null_mut(),
    }))
}

unsafe fn instructions(code: &Owned) -> Vec<u8> {
    let Some(bytes) = code.attribute(c"co_code") else {
        return Vec::new();
    };
    let start = (api().PyBytes_AsString)(bytes.as_ptr());
    let length = (api().PyBytes_Size)(bytes.as_ptr());
    match usize::try_from(length) {
        Ok(length) if !start.is_null() => {
            core::slice::from_raw_parts(start.cast(), length).to_vec()
        }
        _ => Vec::new(),
    }
}

/// Bytes that the strings of one event may have together, with their ends: the kernel gives a uprobe's record a page, and
/// shortens without a word what does not fit. What is kept of them for a value.
const ROOM: usize = 4000;
const VALUE: usize = 256;

/// Shortens the names of a wanted code object until they fit into one event, or one record of a ring. Filters have seen them whole.
unsafe fn shorten(shard: Shard, code: &mut Code) {
    let told = &mut code.told;
    let all = [told.filename, told.name, told.qualname].map(|text| CStr::from_ptr(text).to_bytes());
    let longest = if ring::is_on(shard) {
        Some(MOST_TEXT)
    } else {
        names::longest(all.map(<[u8]>::len), ROOM - VALUE - all.len())
    };
    let Some(longest) = longest else {
        return;
    };
    let Function {
        filename,
        name,
        qualname,
        cut,
        ..
    } = told;
    let fields = [
        (filename, CUT_FILE),
        (name, CUT_NAME),
        (qualname, CUT_QUALNAME),
    ];
    for ((field, flag), whole) in fields.into_iter().zip(all) {
        if whole.len() > longest {
            let mut bytes = names::beginning(whole, longest).to_vec();
            bytes.push(0);
            let bytes = bytes.into_boxed_slice();
            *field = bytes.as_ptr().cast();
            code._own.push(bytes);
            *cut |= flag;
        }
    }
}

/// No offset is that large.
const NO_LINE: u64 = u32::MAX as u64;

impl Code {
    /// Whether this session wants it.
    #[inline(always)]
    fn is_of(&self, session: usize) -> bool {
        self.session.load(Ordering::Relaxed) == session
    }

    /// The line of an offset in bytes into the code, which is where the frame is; the first line where there is none.
    pub(crate) unsafe fn line_at(&self, offset: i32) -> i32 {
        let last = self.line.load(Ordering::Relaxed);
        if last as u32 == offset as u32 {
            return (last >> 32) as i32;
        }
        let object = self.object.load(Ordering::Relaxed);
        let line = (api().PyCode_Addr2Line)(object, offset);
        let line = if line < 0 { self.told.first_line } else { line };
        let both = u64::from(line as u32) << 32 | u64::from(offset as u32);
        self.line.store(both, Ordering::Relaxed);
        line
    }
}

/// Whether a frame that an exception leaves at this offset in bytes was never entered, as far as the interpreter's hooks
/// are concerned. A signal's handler, or an exception from another thread, runs when a frame begins or goes on: in 3.11
/// and from 3.13 on before the hooks are called, while the frame is at its `RESUME`; otherwise after.
pub(crate) unsafe fn was_never_entered(object: Ptr, offset: i64) -> bool {
    let resume: u8 = match version().0 {
        [3, 11, _] => 151,
        [3, 13, _] => 149,
        [3, 14 | 15, _] => 128,
        _ => return false,
    };
    let code = Owned::borrowed(object);
    let Some(bytes) = code.and_then(|code| code.attribute(c"co_code")) else {
        return false;
    };
    let start = (api().PyBytes_AsString)(bytes.as_ptr()).cast::<u8>();
    let length = (api().PyBytes_Size)(bytes.as_ptr()) as i64;
    if start.is_null() || offset < 0 || offset.saturating_add(2) > length {
        return false;
    }
    let at = start.offset(offset as isize);
    // The argument says after what it goes on: nothing, a yield, and those where nothing is run.
    *at == resume && *at.add(1) & 3 < 2
}

/// Called by the interpreter with the contents of a slot that goes, with its lock held where it has one.
unsafe extern "C" fn release(kept: *mut c_void) {
    if kept.is_null() || kept as usize & 1 == 1 {
        return;
    }
    let code: *mut Code = kept.cast();
    // Who cannot have it leaves the record in the list, where it keeps its memory: the code object's, whose names it had, goes.
    let Some(lock) = Lock::take() else { return };
    let object = (*code).object.load(Ordering::Relaxed);
    let shard = match is_free_threaded() {
        true => Shard::own(),
        false => (*code).shard,
    };
    if let Some(recent) = (*RECENTLY.at(shard)).get_mut(place(object))
        && *recent == code
    {
        *recent = null_mut();
    }
    if !(*code).after.is_null() {
        (*(*code).after).before = (*code).before;
    }
    let known = known((*code).shard);
    if !(*code).before.is_null() {
        (*(*code).before).after = (*code).after;
    } else if (*known).first == code {
        (*known).first = (*code).after;
    }
    // Outside of callbacks the rings may go meanwhile, but for that of the main interpreter, whose lock keeps it.
    let is_main = !is_free_threaded() && shard == Shard::ONLY;
    let inside = match is_free_threaded() {
        true => shards::enter_again(),
        false => (!is_main).then(|| shards::enter_within(shard)),
    };
    if is_main || inside.is_some() && live::is_here() {
        ring::forget(shard, &(*code).told);
    }
    drop(inside);
    put_away(code);
    drop(lock);
}

/// Forgets all of those that the interpreter has in which the caller runs, while no callback does.
pub(crate) unsafe fn forget(shard: Shard) {
    // No code object may go meanwhile: what has begun to is not to be given another content.
    shards::while_stopped(|| {
        let known = known(shard);
        let Some(slot) = (*known).slot else { return };
        while !(*known).first.is_null() {
            let before = (*known).first;
            let object = (*before).object.load(Ordering::Relaxed);
            if (api().PyUnstable_Code_SetExtra)(object, slot, null_mut()) != 0
                || (*known).first == before
            {
                (api().PyErr_Clear)();
                return;
            }
        }
    });
}

/// The same where that interpreter ends, which gives its slot back.
pub(crate) unsafe fn end(shard: Shard) {
    forget(shard);
    *known(shard) = Known::NOTHING;
}
