//! What runs on a thread at the moment: a greenlet, an asyncio task, or neither. Each gets a number that is never used
//! again in the session, kept as long as the object lives by a weak reference with a callback.
//!
//! Nothing is imported: a program without greenlet or asyncio has no such objects. Both are asked through their C code
//! only; of objects of classes that the program has defined, only the class's name is read.

use alloc::collections::BTreeMap;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use core::ffi::{CStr, c_int, c_long, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::live::{self, is_on};
use crate::marks::{self, CONTEXT_NAME};
use crate::names;
use crate::python::{
    METH_FASTCALL, Method, Owned, Ptr, api, c_function, is_free_threaded, loaded, minor, string,
    type_name, type_of, version,
};
use crate::ring;
use crate::shards::{self, PerThread, SHARDS, Shard};
use crate::thread_names;

/// Positions in the table of greenlet's C API (greenlet.h), the first of which is the type. Up to 1.1 the table has eight entries
/// and ends before the others, for which greenlet.h has macros there.
const GET_CURRENT: usize = 4;
const IS_MAIN: usize = 8;
const IS_ACTIVE: usize = 10;
/// The first version with the longer table.
const LONG_TABLE: u32 = 2;

/// How far `stack_start` is into a greenlet up to 1.1, in words, which is null in those that have ended or not begun
/// (`PyGreenlet_ACTIVE`), and `stack_stop`, which is -1 in main ones (`PyGreenlet_MAIN`).
const STACK_START: usize = 2;
const STACK_STOP: usize = 3;

/// Most bytes of a context's name.
const LONGEST_NAME: usize = 1000;

/// What greenlet offers.
#[derive(Clone, Copy)]
pub(crate) struct Greenlets {
    kind: Ptr,
    get_current: unsafe extern "C" fn() -> Ptr,
    /// From 2.0 on.
    is_main: Option<unsafe extern "C" fn(Ptr) -> c_int>,
    is_active: Option<unsafe extern "C" fn(Ptr) -> c_int>,
}

impl Greenlets {
    #[inline(always)]
    unsafe fn is_main(&self, greenlet: Ptr) -> bool {
        match self.is_main {
            Some(is_main) => is_main(greenlet) > 0,
            None => greenlet.cast::<usize>().add(STACK_STOP).read() == usize::MAX,
        }
    }

    unsafe fn is_active(&self, greenlet: Ptr) -> bool {
        match self.is_active {
            Some(is_active) => is_active(greenlet) > 0,
            None => greenlet.cast::<usize>().add(STACK_START).read() != 0,
        }
    }
}

/// What asyncio's C module offers.
struct Tasks {
    get_running_loop: Owned,
    /// A dictionary from loops to tasks, up to 3.13.
    current_tasks: Option<Owned>,
    /// A function of a loop, from 3.14 on.
    current_task: Option<Owned>,
    /// The class `_asyncio.Task` itself.
    task: Owned,
}

/// A greenlet or task that was seen.
struct Known {
    number: u64,
    reference: Owned,
    is_named: bool,
}

struct Contexts {
    /// Whether the session wants numbers.
    on: bool,
    /// What [`IMPORTS`] was when this thread looked.
    looked: u64,
    greenlets: Option<Greenlets>,
    tasks: Option<Tasks>,
    known: BTreeMap<usize, Known>,
    /// From a weak reference to its object.
    referents: BTreeMap<usize, usize>,
    on_death: Option<Owned>,
    /// Told of every one that is no more, by its address.
    forget: unsafe fn(usize),
    /// Told of every number that is asked for.
    asked: Option<Asked>,
}

/// What is told that something is told of a context; may run finalizers of the program (up to 3.11).
pub(crate) type Asked = unsafe fn(Shard, u64);

impl Contexts {
    const NONE: Contexts = Contexts {
        on: false,
        looked: 0,
        greenlets: None,
        tasks: None,
        known: BTreeMap::new(),
        referents: BTreeMap::new(),
        on_death: None,
        forget: nobody,
        asked: None,
    };
}

/// Of each thread in a free-threaded build. A task can die on another one than it ran on, so what is known of tasks is also
/// that thread's, under the lock of the shard.
static CONTEXTS: PerThread<Contexts> = PerThread::new([const { Contexts::NONE }; SHARDS]);

/// The number that was given last.
static LAST: AtomicU64 = AtomicU64::new(0);

/// How often the program may have imported something, where each thread looks for itself.
static IMPORTS: AtomicU64 = AtomicU64::new(0);

fn nobody(_: usize) {}

static ON_DEATH: Method = Method {
    name: c"on_death".as_ptr(),
    function: on_death as *const c_void,
    flags: METH_FASTCALL,
    doc: core::ptr::null(),
};

/// Begins a session. `forget` is called with the address of every greenlet and task that was seen and is no more, `asked` with
/// every number that is asked for. No callback runs.
pub(crate) unsafe fn start(on: bool, forget: unsafe fn(usize), asked: Option<Asked>) {
    LAST.store(0, Ordering::Relaxed);
    thread_names::forget();
    for shard in shards::of_main() {
        let contexts = CONTEXTS.of(shard);
        (*contexts).on = on;
        // As if nobody had looked.
        (*contexts).looked = u64::MAX;
        (*contexts).forget = forget;
        (*contexts).asked = asked;
        let number = Owned::integer(shard as c_long);
        let number = number.as_ref().map_or(null_mut(), Owned::as_ptr);
        (*contexts).on_death = Owned::take((api().PyCFunction_NewEx)(
            &raw const ON_DEATH,
            number,
            null_mut(),
        ));
    }
    if !is_free_threaded() {
        look();
    }
}

/// Ends it, and gives all references back. No callback runs.
pub(crate) unsafe fn stop() {
    thread_names::forget();
    for shard in shards::of_main() {
        let contexts = CONTEXTS.of(shard);
        (*contexts).on = false;
        (*contexts).asked = None;
        (*contexts).greenlets = None;
        let guard = shards::lock(shard);
        (*contexts).referents.clear();
        // Taken out before they go, because what goes may run code of the program.
        let known = core::mem::take(&mut (*contexts).known);
        drop(guard);
        let tasks = (*contexts).tasks.take();
        let on_death = (*contexts).on_death.take();
        drop((known, tasks, on_death));
    }
}

/// The program may have imported something: looks for greenlet and asyncio, on each thread. Not within the interpreter:
/// nobody has the contexts of such.
pub(crate) unsafe fn look_soon(shard: Shard) {
    if is_free_threaded() {
        IMPORTS.fetch_add(1, Ordering::Relaxed);
    } else if shard == Shard::ONLY {
        look();
    }
}

/// Looks whether the program has imported greenlet or asyncio meanwhile.
unsafe fn look() {
    let contexts = CONTEXTS.get();
    // Not in a free-threaded build: the dead ones would have to be heard of by the thread on whose stack they were.
    if (*contexts).greenlets.is_none() && !is_free_threaded() {
        (*contexts).greenlets = find_greenlets();
    }
    if (*contexts).on && (*contexts).tasks.is_none() {
        (*contexts).tasks = find_tasks();
    }
}

unsafe fn find_greenlets() -> Option<Greenlets> {
    // The capsule is an attribute of the package, which is put there when its C module is complete.
    let greenlet = loaded(c"greenlet")?;
    let capsule = greenlet.attribute(c"_C_API")?;
    let table = (api().PyCapsule_GetPointer)(capsule.as_ptr(), c"greenlet._C_API".as_ptr());
    if table.is_null() {
        (api().PyErr_Clear)();
        return None;
    }
    let table: *const *mut c_void = table.cast();
    let get_current = table.add(GET_CURRENT).read();
    let is_long = major_version(&greenlet)? >= LONG_TABLE;
    let asks = |at: usize| {
        let function = if is_long {
            table.add(at).read()
        } else {
            null_mut()
        };
        core::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn(Ptr) -> c_int>>(function)
    };
    let (is_main, is_active) = (asks(IS_MAIN), asks(IS_ACTIVE));
    if is_long && (is_main.is_none() || is_active.is_none()) {
        return None;
    }
    Some(Greenlets {
        kind: table.read().cast(),
        get_current: core::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn() -> Ptr>>(
            get_current,
        )?,
        is_main,
        is_active,
    })
}

/// The first number of `__version__`.
unsafe fn major_version(module: &Owned) -> Option<u32> {
    let version = string(&module.attribute(c"__version__")?)?;
    version.split('.').next()?.parse().ok()
}

unsafe fn find_tasks() -> Option<Tasks> {
    let asyncio = loaded(c"_asyncio")?;
    let ([_, minor, _], _) = version();
    let (current_tasks, current_task) = if minor < 12 {
        // The Python module shares it with the C one.
        (loaded(c"asyncio.tasks")?.attribute(c"_current_tasks"), None)
    } else if minor < 14 {
        (asyncio.attribute(c"_current_tasks"), None)
    } else {
        (None, asyncio.attribute(c"current_task"))
    };
    if current_tasks.is_none() && current_task.is_none() {
        return None;
    }
    Some(Tasks {
        get_running_loop: asyncio.attribute(c"_get_running_loop")?,
        current_tasks,
        current_task,
        task: asyncio.attribute(c"Task")?,
    })
}

/// Whether the program has imported greenlet.
pub(crate) unsafe fn has_greenlets() -> bool {
    loaded(c"greenlet").is_some()
}

/// The type of greenlets, where the program has any.
pub(crate) unsafe fn greenlet_type() -> Option<Ptr> {
    (*CONTEXTS.get()).greenlets.map(|greenlets| greenlets.kind)
}

/// The greenlet that runs, if it is not its thread's main one: its address, which is valid while it runs.
#[inline(always)]
pub(crate) unsafe fn greenlet(shard: Shard) -> Option<Ptr> {
    let greenlets = (*CONTEXTS.at(shard)).greenlets?;
    let current = (greenlets.get_current)();
    if current.is_null() {
        (api().PyErr_Clear)();
        return None;
    }
    // The thread holds a reference of its own to what runs on it.
    (api().Py_DecRef)(current);
    (!greenlets.is_main(current)).then_some(current)
}

/// The greenlet that goes on when another one ends, and the frame in which it waits; none where it does not.
pub(crate) struct Parent {
    pub(crate) greenlet: Owned,
    pub(crate) frame: Option<Owned>,
}

/// The parent of a greenlet. Not on 3.9, where a collection could come in between.
pub(crate) unsafe fn parent(shard: Shard, greenlet: &Owned) -> Option<Parent> {
    if minor() < 10 {
        return None;
    }
    let kind = Owned::borrowed((*CONTEXTS.at(shard)).greenlets?.kind)?;
    let get = |name, of: &Owned| {
        let getter = kind.attribute(name)?.attribute(c"__get__")?;
        let got = getter.call(&[of, &kind])?;
        (got.as_ptr() != api()._Py_NoneStruct).then_some(got)
    };
    let greenlet = get(c"parent", greenlet)?;
    let frame = get(c"gr_frame", &greenlet);
    Some(Parent { greenlet, frame })
}

/// The number of what runs, 0 for neither greenlet nor task. A new one is named first.
#[inline(always)]
pub(crate) unsafe fn current(shard: Shard) -> u64 {
    if (*CONTEXTS.at(shard)).on {
        current_number(shard)
    } else {
        0
    }
}

unsafe fn current_number(shard: Shard) -> u64 {
    let contexts = CONTEXTS.at(shard);
    if is_free_threaded() && (*contexts).tasks.is_none() {
        let imports = IMPORTS.load(Ordering::Relaxed);
        if core::mem::replace(&mut (*contexts).looked, imports) != imports {
            look();
        }
    }
    let tells_names = ring::tells_events() || CONTEXT_NAME.is_raised();
    if tells_names
        && let Some(name) = thread_names::to_tell()
        && !tell_this(0, &name)
    {
        thread_names::was_not_told();
    }
    let mut current = 0;
    if let Some(object) = greenlet(shard).or_else(|| task()) {
        current = number(object);
        // Where calls are added up, all contexts are in one row.
        if tells_names {
            tell_name(object, current);
        }
    }
    if let Some(asked) = (*CONTEXTS.at(shard)).asked {
        asked(shard, current);
    }
    current
}

/// The number of what runs in a greenlet, if something was told of it: 0 for neither greenlet nor task.
pub(crate) unsafe fn seen(greenlet: Ptr) -> Option<u64> {
    let known = |object: Ptr| {
        let known = &(*CONTEXTS.get()).known;
        known.get(&(object as usize)).map(|known| known.number)
    };
    match (*CONTEXTS.get()).greenlets?.is_main(greenlet) {
        true => Some(task().and_then(known).unwrap_or(0)),
        false => known(greenlet),
    }
}

/// Whether an object is a greenlet. Of no other may anything be asked: greenlet sets an exception then, and up to 1.1 nobody checks.
pub(crate) unsafe fn is_greenlet(object: Ptr) -> bool {
    let greenlets = (*CONTEXTS.get()).greenlets;
    greenlets
        .is_some_and(|greenlets| (api().PyType_IsSubtype)(type_of(object), greenlets.kind) != 0)
}

/// Whether a greenlet has begun and not ended.
pub(crate) unsafe fn is_alive(greenlet: Ptr) -> bool {
    let greenlets = (*CONTEXTS.get()).greenlets;
    greenlets.is_some_and(|greenlets| greenlets.is_active(greenlet))
}

/// Greenlet's `settrace` and `gettrace`, where the program has imported it.
pub(crate) unsafe fn trace_functions() -> Option<(Owned, Owned)> {
    (*CONTEXTS.get()).greenlets?;
    let greenlet = loaded(c"greenlet")?;
    let function = |name: &CStr| {
        let function = greenlet.attribute(name)?;
        let is_it = c_function(function.as_ptr()).is_some_and(|it| it.0 == name.to_bytes());
        is_it.then_some(function)
    };
    function(c"settrace").zip(function(c"gettrace"))
}

/// The asyncio task that runs, borrowed from its loop.
unsafe fn task() -> Option<Ptr> {
    let tasks = (*CONTEXTS.get()).tasks.as_ref()?;
    let running = Owned::take((api().PyObject_CallNoArgs)(tasks.get_running_loop.as_ptr()))?;
    if running.as_ptr() == api()._Py_NoneStruct {
        return None;
    }
    if let Some(current) = &tasks.current_tasks {
        let task = (api().PyDict_GetItemWithError)(current.as_ptr(), running.as_ptr());
        if task.is_null() {
            (api().PyErr_Clear)();
            return None;
        }
        return Some(task);
    }
    let task = tasks.current_task.as_ref()?.call(&[&running])?;
    (task.as_ptr() != api()._Py_NoneStruct).then(|| task.as_ptr())
}

/// The number of an object, a new one if it has none yet.
pub(crate) unsafe fn number(object: Ptr) -> u64 {
    let contexts = CONTEXTS.get();
    let guard = shards::lock_own();
    let known = &(*contexts).known;
    if let Some(known) = known.get(&(object as usize)) {
        return known.number;
    }
    drop(guard);
    let on_death = (*contexts)
        .on_death
        .as_ref()
        .map_or(null_mut(), Owned::as_ptr);
    // This allocates what garbage collection looks after, so until 3.11 it can run finalizers of the program.
    let reference = Owned::take((api().PyWeakref_NewRef)(object, on_death));
    let contexts = CONTEXTS.get();
    if !is_on() {
        return 0;
    }
    let Some(reference) = reference else {
        (*live::counted()).dropped += 1;
        return 0;
    };
    let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    let guard = shards::lock_own();
    (*contexts)
        .referents
        .insert(reference.as_ptr() as usize, object as usize);
    let known = Known {
        number,
        reference,
        is_named: false,
    };
    let before = (*contexts).known.insert(object as usize, known);
    drop(guard);
    drop(before);
    number
}

/// Of a session of callbacks, or of none: what it looks at is under the shard's lock.
unsafe extern "C" fn on_death(shard: Ptr, arguments: *const Ptr, count: isize) -> Ptr {
    if count == 1 {
        let shard = usize::try_from(crate::python::number(shard, 0)).unwrap_or(0);
        let contexts = CONTEXTS.of(shard);
        let guard = shards::lock(shard);
        let reference = *arguments as usize;
        let mut gone = None;
        if let Some(object) = (*contexts).referents.remove(&reference) {
            let known = &(*contexts).known;
            let is_same = known
                .get(&object)
                .is_some_and(|known| known.reference.as_ptr() as usize == reference);
            if is_same {
                gone = (*contexts).known.remove(&object);
                ((*contexts).forget)(object);
            }
        }
        drop(guard);
        drop(gone);
    }
    crate::python::none()
}

/// Names a context, once.
unsafe fn tell_name(object: Ptr, number: u64) {
    let contexts = CONTEXTS.get();
    let guard = shards::lock_own();
    let known = &mut (*contexts).known;
    match known.get_mut(&(object as usize)) {
        Some(known) if !known.is_named => known.is_named = true,
        _ => return,
    }
    drop(guard);
    let name = task_name(object).unwrap_or_else(|| {
        let name = type_name(type_of(object));
        let name = name.rsplit('.').next().unwrap_or(&name);
        format!("{name}-{number}")
    });
    let is_told = tell_this(number, &name);
    let contexts = CONTEXTS.get();
    let guard = shards::lock_own();
    let known = &mut (*contexts).known;
    if !is_told && let Some(known) = known.get_mut(&(object as usize)) {
        known.is_named = false;
    }
    drop(guard);
}

/// Says what a context is called. False when there is no room.
unsafe fn tell_this(number: u64, name: &str) -> bool {
    // The kernel shortens what is longer than a page.
    let told = names::beginning(name.as_bytes(), LONGEST_NAME);
    let end = if told.len() < name.len() {
        "\u{2026}"
    } else {
        ""
    };
    let name = CString::new([told, end.as_bytes()].concat()).unwrap_or_default();
    if ring::is_on(Shard::own()) {
        return ring::name_context(number, name.to_bytes());
    }
    marks::context_name(number, name.as_ptr());
    true
}

/// What `get_name` of a task gives, if it is asyncio's own and the name is a string. A name that nobody has chosen is only a
/// number, so the coroutine's comes with it.
unsafe fn task_name(object: Ptr) -> Option<String> {
    let task = (*CONTEXTS.get()).tasks.as_ref()?.task.as_ptr();
    if type_of(object) != task {
        return None;
    }
    let object = Owned::borrowed(object)?;
    let name = string(&object.attribute(c"get_name")?.call(&[])?)?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    if !name.strip_prefix("Task-").is_some_and(is_number) {
        return Some(name);
    }
    Some(match coroutine_name(&object) {
        Some(coroutine) => format!("{name} ({coroutine})"),
        None => name,
    })
}

/// The qualified name of a task's coroutine, if that is of the interpreter's own kind.
unsafe fn coroutine_name(task: &Owned) -> Option<String> {
    let coroutine = task.attribute(c"get_coro")?.call(&[])?;
    if type_of(coroutine.as_ptr()) != api().PyCoro_Type {
        return None;
    }
    string(&coroutine.attribute(c"__qualname__")?)
}
