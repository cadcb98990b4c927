//! What runs on a thread at the moment: a greenlet, an asyncio task, or neither. Each gets a number that is never used
//! again in the session, kept as long as the object lives by a weak reference with a callback.
//!
//! Nothing is imported: a program without greenlet or asyncio has no such objects. Both are asked through their C code
//! only; of objects of classes that the program has defined, only the class's name is read.

use alloc::collections::BTreeMap;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::null_mut;

use crate::gil::Guarded;
use crate::live::{LIVE, is_on};
use crate::marks::{self, CONTEXT_NAME};
use crate::names;
use crate::python::{METH_FASTCALL, Method, Owned, Ptr, api, type_name, type_of, version};
use crate::ring;

/// Positions in the table of greenlet's C API (greenlet.h), the first of which is the type. Up to 1.1 the table has eight entries and ends before the
/// second one, for which greenlet.h has a macro there.
const GET_CURRENT: usize = 4;
const IS_MAIN: usize = 8;
/// The first version with the longer table.
const LONG_TABLE: u32 = 2;

/// How far `stack_stop` is into a greenlet up to 1.1, in words; it is -1 in main ones (`PyGreenlet_MAIN`).
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
}

impl Greenlets {
    #[inline(always)]
    unsafe fn is_main(&self, greenlet: Ptr) -> bool {
        match self.is_main {
            Some(is_main) => is_main(greenlet) != 0,
            None => greenlet.cast::<usize>().add(STACK_STOP).read() == usize::MAX,
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
    greenlets: Option<Greenlets>,
    tasks: Option<Tasks>,
    last: u64,
    known: BTreeMap<usize, Known>,
    /// From a weak reference to its object.
    referents: BTreeMap<usize, usize>,
    on_death: Option<Owned>,
    /// Told of every one that is no more, by its address.
    forget: unsafe fn(usize),
}

static CONTEXTS: Guarded<Contexts> = Guarded::new(Contexts {
    on: false,
    greenlets: None,
    tasks: None,
    last: 0,
    known: BTreeMap::new(),
    referents: BTreeMap::new(),
    on_death: None,
    forget: nobody,
});

fn nobody(_: usize) {}

static ON_DEATH: Method = Method {
    name: c"on_death".as_ptr(),
    function: on_death as *const c_void,
    flags: METH_FASTCALL,
    doc: core::ptr::null(),
};

/// Begins a session. `forget` is called with the address of every greenlet and task that was seen and is no more.
pub(crate) unsafe fn start(on: bool, forget: unsafe fn(usize)) {
    let contexts = CONTEXTS.get();
    (*contexts).on = on;
    (*contexts).last = 0;
    (*contexts).forget = forget;
    (*contexts).on_death = Owned::take((api().PyCFunction_NewEx)(
        &raw const ON_DEATH,
        null_mut(),
        null_mut(),
    ));
    look();
}

/// Ends it, and gives all references back.
pub(crate) unsafe fn stop() {
    let contexts = CONTEXTS.get();
    (*contexts).on = false;
    (*contexts).greenlets = None;
    (*contexts).referents.clear();
    // Taken out before they go, because what goes may run code of the program.
    let known = core::mem::take(&mut (*contexts).known);
    let tasks = (*contexts).tasks.take();
    let on_death = (*contexts).on_death.take();
    drop((known, tasks, on_death));
}

/// Looks whether the program has imported greenlet or asyncio meanwhile.
pub(crate) unsafe fn look() {
    let contexts = CONTEXTS.get();
    if (*contexts).greenlets.is_none() {
        (*contexts).greenlets = find_greenlets();
    }
    if (*contexts).on && (*contexts).tasks.is_none() {
        (*contexts).tasks = find_tasks();
    }
}

unsafe fn loaded(name: &CStr) -> Option<Owned> {
    let modules = (api().PyImport_GetModuleDict)();
    Owned::borrowed((api().PyDict_GetItemString)(modules, name.as_ptr()))
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
    let is_main = if major_version(&greenlet)? < LONG_TABLE {
        None
    } else {
        let is_main = table.add(IS_MAIN).read();
        Some(core::mem::transmute::<
            *mut c_void,
            Option<unsafe extern "C" fn(Ptr) -> c_int>,
        >(is_main)?)
    };
    Some(Greenlets {
        kind: table.read().cast(),
        get_current: core::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn() -> Ptr>>(
            get_current,
        )?,
        is_main,
    })
}

/// The first number of `__version__`.
unsafe fn major_version(module: &Owned) -> Option<u32> {
    let version = module.attribute(c"__version__")?;
    if type_of(version.as_ptr()) != api().PyUnicode_Type {
        return None;
    }
    let text: *const c_char = (api().PyUnicode_AsUTF8)(version.as_ptr());
    if text.is_null() {
        (api().PyErr_Clear)();
        return None;
    }
    let text = CStr::from_ptr(text).to_str().ok()?;
    text.split('.').next()?.parse().ok()
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

/// The type of greenlets, where the program has any.
pub(crate) unsafe fn greenlet_type() -> Option<Ptr> {
    (*CONTEXTS.get()).greenlets.map(|greenlets| greenlets.kind)
}

/// The greenlet that runs, if it is not its thread's main one: its address, which is valid while it runs.
#[inline(always)]
pub(crate) unsafe fn greenlet() -> Option<Ptr> {
    let greenlets = (*CONTEXTS.get()).greenlets?;
    let current = (greenlets.get_current)();
    if current.is_null() {
        (api().PyErr_Clear)();
        return None;
    }
    // The thread holds a reference of its own to what runs on it.
    (api().Py_DecRef)(current);
    (!greenlets.is_main(current)).then_some(current)
}

/// The number of what runs, 0 for neither greenlet nor task. A new one is named first.
pub(crate) unsafe fn current() -> u64 {
    if !(*CONTEXTS.get()).on {
        return 0;
    }
    let Some(object) = greenlet().or_else(|| task()) else {
        return 0;
    };
    let number = number(object);
    // Where calls are added up, all contexts are in one row.
    if ring::tells_events() || CONTEXT_NAME.is_raised() {
        tell_name(object, number);
    }
    number
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
    let known = &(*contexts).known;
    if let Some(known) = known.get(&(object as usize)) {
        return known.number;
    }
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
        (*LIVE.get()).counts.dropped += 1;
        return 0;
    };
    (*contexts).last += 1;
    let number = (*contexts).last;
    (*contexts)
        .referents
        .insert(reference.as_ptr() as usize, object as usize);
    let known = Known {
        number,
        reference,
        is_named: false,
    };
    let before = (*contexts).known.insert(object as usize, known);
    drop(before);
    number
}

unsafe extern "C" fn on_death(_: Ptr, arguments: *const Ptr, count: isize) -> Ptr {
    if count == 1 {
        let contexts = CONTEXTS.get();
        let reference = *arguments as usize;
        if let Some(object) = (*contexts).referents.remove(&reference) {
            let known = &(*contexts).known;
            let is_same = known
                .get(&object)
                .is_some_and(|known| known.reference.as_ptr() as usize == reference);
            if is_same {
                let known = (*contexts).known.remove(&object);
                ((*contexts).forget)(object);
                drop(known);
            }
        }
    }
    crate::python::none()
}

/// Names a context, once.
unsafe fn tell_name(object: Ptr, number: u64) {
    let contexts = CONTEXTS.get();
    let known = &mut (*contexts).known;
    match known.get_mut(&(object as usize)) {
        Some(known) if !known.is_named => known.is_named = true,
        _ => return,
    }
    let name = task_name(object).unwrap_or_else(|| {
        let name = type_name(type_of(object));
        let name = name.rsplit('.').next().unwrap_or(&name);
        format!("{name}-{number}")
    });
    // The kernel shortens what is longer than a page.
    let told = names::beginning(name.as_bytes(), LONGEST_NAME);
    let end = if told.len() < name.len() {
        "\u{2026}"
    } else {
        ""
    };
    let name = CString::new([told, end.as_bytes()].concat()).unwrap_or_default();
    if !ring::is_on() {
        return marks::context_name(number, name.as_ptr());
    }
    let contexts = CONTEXTS.get();
    let known = &mut (*contexts).known;
    if !ring::name_context(number, name.to_bytes())
        && let Some(known) = known.get_mut(&(object as usize))
    {
        known.is_named = false;
    }
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

unsafe fn string(object: &Owned) -> Option<String> {
    if type_of(object.as_ptr()) != api().PyUnicode_Type {
        return None;
    }
    let text: *const c_char = (api().PyUnicode_AsUTF8)(object.as_ptr());
    if text.is_null() {
        (api().PyErr_Clear)();
        return None;
    }
    Some(CStr::from_ptr(text).to_string_lossy().into_owned())
}
