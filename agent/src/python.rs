//! The interpreter's C functions, found by name in the process when the module is loaded. By name and not by the linker,
//! for three reasons: some exist in some versions only, others changed their names, and an interpreter that is none of
//! ours can be refused in words instead of by the dynamic linker.
#![allow(non_snake_case)]

use core::ffi::{CStr, c_char, c_int, c_long, c_longlong, c_ulong, c_ulonglong, c_void};
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::libc;

/// What every object begins with, opaque: builds differ. See [`type_of`].
#[repr(C)]
pub(crate) struct Object([u8; 0]);

/// Words of an object before its own fields, the last of which is its type.
const HEAD: usize = 2;
/// The same in a free-threaded build.
const FREE_THREADED_HEAD: usize = 4;

#[inline(always)]
fn head() -> usize {
    if is_free_threaded() {
        FREE_THREADED_HEAD
    } else {
        HEAD
    }
}

/// A pointer to an object.
pub(crate) type Ptr = *mut Object;
/// `PyThreadState`, `PyInterpreterState`, `PyFrameObject`: opaque, for their fields move.
pub(crate) type ThreadState = *mut c_void;
pub(crate) type Interpreter = *mut c_void;
/// `Py_tracefunc`.
pub(crate) type TraceFunction = unsafe extern "C" fn(Ptr, Ptr, c_int, Ptr) -> c_int;
/// `_PyCFunctionFast`.
pub(crate) type FastCall = unsafe extern "C" fn(Ptr, *const Ptr, isize) -> Ptr;

/// `PyMethodDef`.
#[repr(C)]
pub(crate) struct Method {
    pub(crate) name: *const c_char,
    pub(crate) function: *const c_void,
    pub(crate) flags: c_int,
    pub(crate) doc: *const c_char,
}
// SAFETY: made once and never changed.
unsafe impl Sync for Method {}

pub(crate) const METH_VARARGS: c_int = 1;
pub(crate) const METH_KEYWORDS: c_int = 2;
pub(crate) const METH_NOARGS: c_int = 4;
pub(crate) const METH_FASTCALL: c_int = 0x80;

impl Method {
    pub(crate) const END: Method = Method {
        name: core::ptr::null(),
        function: core::ptr::null(),
        flags: 0,
        doc: core::ptr::null(),
    };

    /// A function that takes positional arguments as an array.
    pub(crate) const fn fast(name: &'static CStr, function: FastCall) -> Method {
        Method {
            name: name.as_ptr(),
            function: function as *const c_void,
            flags: METH_FASTCALL,
            doc: core::ptr::null(),
        }
    }
}

/// `PyModuleDef` behind the head of an object, of a module that is made in one step.
#[repr(C)]
pub(crate) struct ModuleDefinition {
    pub(crate) base: [usize; 3],
    pub(crate) name: *const c_char,
    pub(crate) doc: *const c_char,
    pub(crate) size: isize,
    pub(crate) methods: *const Method,
    pub(crate) rest: [usize; 4],
}

/// Such a definition with a head for either kind of build, one reference to it each, for it is static.
#[repr(C)]
pub(crate) struct ModuleObject {
    head: [usize; FREE_THREADED_HEAD],
    definition: ModuleDefinition,
}

impl ModuleObject {
    pub(crate) const fn new(definition: ModuleDefinition) -> ModuleObject {
        ModuleObject {
            // The last two are the head of builds with a lock. In the others, a thread that is nobody's has the object, with
            // local references that never end; the rest of the last two is set in `start`.
            head: [0, (u32::MAX as usize) << 32, 1, 0],
            definition,
        }
    }

    /// Where the object begins for the interpreter that this is.
    pub(crate) fn start(&mut self) -> *mut c_void {
        let unused = FREE_THREADED_HEAD - head();
        if unused == 0 {
            // Shared references.
            self.head[2] = 0;
        }
        // SAFETY: within the head.
        unsafe { (&raw mut self.head).cast::<usize>().add(unused).cast() }
    }
}

macro_rules! functions {
    (required { $($name:ident: fn($($argument:ty),*) $(-> $result:ty)?;)* }
     renamed { $($new:ident or $old:ident: fn($($r_argument:ty),*) $(-> $r_result:ty)?;)* }
     optional { $($maybe:ident: fn($($m_argument:ty),*) $(-> $m_result:ty)?;)* }
     data { $($datum:ident),* }) => {
        /// The functions and objects, under the names that Python's documents give them.
        pub(crate) struct Api {
            $(pub(crate) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            $(pub(crate) $new: unsafe extern "C" fn($($r_argument),*) $(-> $r_result)?,)*
            $(pub(crate) $maybe: Option<unsafe extern "C" fn($($m_argument),*) $(-> $m_result)?>,)*
            $(pub(crate) $datum: Ptr,)*
        }

        impl Api {
            /// Looks all of them up; a name that is missing is the error.
            unsafe fn find() -> Result<Api, &'static CStr> {
                Ok(Api {
                    $($name: core::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(
                        required(named(concat!(stringify!($name), "\0")))?),)*
                    $($new: core::mem::transmute::<*mut c_void, unsafe extern "C" fn($($r_argument),*) $(-> $r_result)?>(
                        required(named(concat!(stringify!($new), "\0")))
                            .or_else(|_| required(named(concat!(stringify!($old), "\0"))))?),)*
                    $($maybe: core::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn($($m_argument),*) $(-> $m_result)?>>(
                        symbol(named(concat!(stringify!($maybe), "\0")))),)*
                    $($datum: required(named(concat!(stringify!($datum), "\0")))?.cast(),)*
                })
            }
        }
    };
}

functions! {
    required {
        PyCapsule_GetPointer: fn(Ptr, *const c_char) -> *mut c_void;
        PyCell_Get: fn(Ptr) -> Ptr;
        PyContextVar_Get: fn(Ptr, Ptr, *mut Ptr) -> c_int;
        PyCode_Addr2Line: fn(Ptr, c_int) -> c_int;
        PyCFunction_NewEx: fn(*const Method, Ptr, Ptr) -> Ptr;
        PyDict_GetItemString: fn(Ptr, *const c_char) -> Ptr;
        PyDict_GetItemWithError: fn(Ptr, Ptr) -> Ptr;
        PyDict_Next: fn(Ptr, *mut isize, *mut Ptr, *mut Ptr) -> c_int;
        PyDict_Size: fn(Ptr) -> isize;
        PyDict_New: fn() -> Ptr;
        PyDict_SetItemString: fn(Ptr, *const c_char, Ptr) -> c_int;
        PyErr_Clear: fn();
        PyErr_Occurred: fn() -> Ptr;
        PyErr_SetString: fn(Ptr, *const c_char);
        PyEval_GetFrame: fn() -> Ptr;
        PyEval_RestoreThread: fn(ThreadState);
        PyEval_SaveThread: fn() -> ThreadState;
        PyFloat_AsDouble: fn(Ptr) -> f64;
        PyFrame_GetBack: fn(Ptr) -> Ptr;
        PyFrame_GetCode: fn(Ptr) -> Ptr;
        PyFrame_GetLineNumber: fn(Ptr) -> c_int;
        PyGILState_Check: fn() -> c_int;
        PyGILState_Ensure: fn() -> c_int;
        PyGILState_Release: fn(c_int);
        PyImport_GetModuleDict: fn() -> Ptr;
        PyImport_ImportModule: fn(*const c_char) -> Ptr;
        PyInterpreterState_Get: fn() -> Interpreter;
        PyInterpreterState_GetID: fn(Interpreter) -> i64;
        PyInterpreterState_Main: fn() -> Interpreter;
        PyInterpreterState_ThreadHead: fn(Interpreter) -> ThreadState;
        PyList_Append: fn(Ptr, Ptr) -> c_int;
        PyList_GetItem: fn(Ptr, isize) -> Ptr;
        PyList_SetSlice: fn(Ptr, isize, isize, Ptr) -> c_int;
        PyList_Size: fn(Ptr) -> isize;
        PyLong_AsLong: fn(Ptr) -> c_long;
        PyLong_AsLongLongAndOverflow: fn(Ptr, *mut c_int) -> c_longlong;
        PyLong_AsUnsignedLongLongMask: fn(Ptr) -> c_ulonglong;
        PyLong_FromLong: fn(c_long) -> Ptr;
        PyMem_Free: fn(*mut c_void);
        PyNumber_Rshift: fn(Ptr, Ptr) -> Ptr;
        PyModule_Create2: fn(*mut c_void, c_int) -> Ptr;
        PyObject_Call: fn(Ptr, Ptr, Ptr) -> Ptr;
        PyObject_CallNoArgs: fn(Ptr) -> Ptr;
        PyObject_GetAttrString: fn(Ptr, *const c_char) -> Ptr;
        PyObject_IsTrue: fn(Ptr) -> c_int;
        PyOS_double_to_string: fn(f64, c_char, c_int, c_int, *mut c_int) -> *mut c_char;
        PySet_Size: fn(Ptr) -> isize;
        PySys_GetObject: fn(*const c_char) -> Ptr;
        PyThread_acquire_lock: fn(*mut c_void, c_int) -> c_int;
        PyThread_get_thread_ident: fn() -> c_ulong;
        PyThread_release_lock: fn(*mut c_void);
        PyThreadState_Clear: fn(ThreadState);
        PyThreadState_Delete: fn(ThreadState);
        PyThreadState_GetFrame: fn(ThreadState) -> Ptr;
        PyThreadState_Get: fn() -> ThreadState;
        PyThreadState_GetID: fn(ThreadState) -> u64;
        PyThreadState_New: fn(Interpreter) -> ThreadState;
        PyThreadState_Next: fn(ThreadState) -> ThreadState;
        PyTuple_GetItem: fn(Ptr, isize) -> Ptr;
        PyTuple_New: fn(isize) -> Ptr;
        PyTuple_Size: fn(Ptr) -> isize;
        PyTuple_SetItem: fn(Ptr, isize, Ptr) -> c_int;
        PyType_GetFlags: fn(Ptr) -> c_ulong;
        PyType_IsSubtype: fn(Ptr, Ptr) -> c_int;
        PyUnicode_AsUTF8: fn(Ptr) -> *const c_char;
        PyUnicode_AsUCS4: fn(Ptr, *mut u32, isize, c_int) -> *mut u32;
        PyUnicode_Compare: fn(Ptr, Ptr) -> c_int;
        PyUnicode_AsUTF8AndSize: fn(Ptr, *mut isize) -> *const c_char;
        PyUnicode_EncodeFSDefault: fn(Ptr) -> Ptr;
        PyUnicode_FromStringAndSize: fn(*const c_char, isize) -> Ptr;
        PyUnicode_GetLength: fn(Ptr) -> isize;
        PyUnicode_InternInPlace: fn(*mut Ptr);
        PyUnicode_ReadChar: fn(Ptr, isize) -> u32;
        PyUnicode_Substring: fn(Ptr, isize, isize) -> Ptr;
        PyWeakref_NewRef: fn(Ptr, Ptr) -> Ptr;
        PyBytes_AsString: fn(Ptr) -> *const c_char;
        PyBytes_Size: fn(Ptr) -> isize;
        Py_AddPendingCall: fn(unsafe extern "C" fn(*mut c_void) -> c_int, *mut c_void) -> c_int;
        Py_DecRef: fn(Ptr);
        Py_GetVersion: fn() -> *const c_char;
        Py_IncRef: fn(Ptr);
        Py_IsInitialized: fn() -> c_int;
    }
    renamed {
        PyUnstable_Code_GetExtra or _PyCode_GetExtra: fn(Ptr, isize, *mut *mut c_void) -> c_int;
        PyUnstable_Code_SetExtra or _PyCode_SetExtra: fn(Ptr, isize, *mut c_void) -> c_int;
        PyUnstable_Eval_RequestCodeExtraIndex or _PyEval_RequestCodeExtraIndex:
            fn(unsafe extern "C" fn(*mut c_void)) -> isize;
        Py_IsFinalizing or _Py_IsFinalizing: fn() -> c_int;
    }
    optional {
        PyFrame_GetVar: fn(Ptr, Ptr) -> Ptr;
        PyGC_Disable: fn() -> c_int;
        PyGC_Enable: fn() -> c_int;
        PyInterpreterState_Head: fn() -> Interpreter;
        PyMutex_Unlock: fn(*mut u8);
        PyModule_GetDef: fn(Ptr) -> *mut c_void;
        PySys_AddAuditHook: fn(unsafe extern "C" fn(*const c_char, Ptr, *mut c_void) -> c_int, *mut c_void) -> c_int;
        PyUnstable_AtExit: fn(Interpreter, unsafe extern "C" fn(*mut c_void), *mut c_void) -> c_int;
        PyUnstable_Module_SetGIL: fn(Ptr, *mut c_void) -> c_int;
        PyUnstable_GC_VisitObjects: fn(unsafe extern "C" fn(Ptr, *mut c_void) -> c_int, *mut c_void);
        _PyEval_AddPendingCall: fn(Interpreter, unsafe extern "C" fn(*mut c_void) -> c_int, *mut c_void, c_int) -> c_int;
        _PyEval_SetProfile: fn(ThreadState, Option<TraceFunction>, Ptr) -> c_int;
        _PyEval_SetTrace: fn(ThreadState, Option<TraceFunction>, Ptr) -> c_int;
        _PyObject_GenericGetAttrWithDict: fn(Ptr, Ptr, Ptr, c_int) -> Ptr;
        _PyObject_GetDictPtr: fn(Ptr) -> *mut Ptr;
        _PyType_Lookup: fn(Ptr, Ptr) -> Ptr;
    }
    data { _PyRuntime, _Py_NoneStruct, _Py_TrueStruct, _Py_FalseStruct, PyExc_RuntimeError, PyExc_TypeError, PyExc_ValueError, PyBytes_Type, PyCFunction_Type, PyCell_Type, PyContextVar_Type,
        PyCoro_Type, PyDict_Type, PyFloat_Type, PyFrozenSet_Type, PyFunction_Type, PyList_Type, PyLong_Type, PyMemberDescr_Type, PyProperty_Type, PySet_Type, PyTuple_Type, PyType_Type, PyUnicode_Type }
}

/// The address of a name in the process, or null.
pub(crate) unsafe fn symbol(name: &CStr) -> *mut c_void {
    libc::dlsym(null_mut(), name.as_ptr())
}

unsafe fn required(name: &'static CStr) -> Result<*mut c_void, &'static CStr> {
    let found = symbol(name);
    if found.is_null() {
        Err(name)
    } else {
        Ok(found)
    }
}

const fn named(text: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(text.as_bytes()) {
        Ok(name) => name,
        Err(_) => c"",
    }
}

/// Written once, before anything can be called that reads it.
struct Found(core::cell::UnsafeCell<MaybeUninit<Api>>);
// SAFETY: see above.
unsafe impl Sync for Found {}

static API: Found = Found(core::cell::UnsafeCell::new(MaybeUninit::uninit()));
static IS_FOUND: AtomicBool = AtomicBool::new(false);
/// Written with the functions.
struct Kind(core::cell::UnsafeCell<bool>);
// SAFETY: as they.
unsafe impl Sync for Kind {}
/// The minor version, found with them.
static MINOR: AtomicU32 = AtomicU32::new(0);
static IS_FREE_THREADED: Kind = Kind(core::cell::UnsafeCell::new(false));

/// Finds the functions, if that was not done yet.
pub(crate) unsafe fn find() -> Result<(), &'static CStr> {
    if !IS_FOUND.load(Ordering::Acquire) {
        let api = Api::find()?;
        (*API.0.get()).write(api);
        let ([_, minor, _], text) = version();
        MINOR.store(minor, Ordering::Relaxed);
        let words = b"free-threading";
        *IS_FREE_THREADED.0.get() = text.windows(words.len()).any(|part| part == words);
        IS_FOUND.store(true, Ordering::Release);
    }
    Ok(())
}

/// The minor version of Python 3, without asking the interpreter, which up to 3.11 writes its text anew each time. Not of
/// [`find`], until which it is 0.
#[inline(always)]
pub(crate) fn minor() -> u32 {
    MINOR.load(Ordering::Relaxed)
}

/// Whether nothing in this interpreter keeps threads apart. Not of [`find`], until which it is false.
#[inline(always)]
pub(crate) fn is_free_threaded() -> bool {
    // SAFETY: written once, before anything can be called that reads it.
    unsafe { *IS_FREE_THREADED.0.get() }
}

/// The functions. Only after [`find`], which the module's initialisation has called.
#[inline(always)]
pub(crate) unsafe fn api() -> &'static Api {
    (*API.0.get()).assume_init_ref()
}

/// `None`, as a new reference.
pub(crate) unsafe fn none() -> Ptr {
    let none = api()._Py_NoneStruct;
    (api().Py_IncRef)(none);
    none
}

/// The exception type that a `PyExc_` pointer points to.
pub(crate) unsafe fn exception(pointer: Ptr) -> Ptr {
    *pointer.cast::<Ptr>()
}

/// A reference that is given up when it goes out of scope, with the interpreter's lock held, or a thread state where there is
/// none.
pub(crate) struct Owned(Ptr);

impl Owned {
    /// Takes over a reference. Null, with an exception set, becomes `None` without one.
    pub(crate) unsafe fn take(object: Ptr) -> Option<Owned> {
        if object.is_null() {
            (api().PyErr_Clear)();
            return None;
        }
        Some(Owned(object))
    }

    /// A further reference to a borrowed object.
    pub(crate) unsafe fn borrowed(object: Ptr) -> Option<Owned> {
        if object.is_null() {
            return None;
        }
        (api().Py_IncRef)(object);
        Some(Owned(object))
    }

    pub(crate) fn as_ptr(&self) -> Ptr {
        self.0
    }

    /// Gives the reference away.
    pub(crate) fn into_ptr(self) -> Ptr {
        let object = self.0;
        core::mem::forget(self);
        object
    }

    /// Calls it with positional arguments. The caller knows whose code that is.
    pub(crate) unsafe fn call(&self, arguments: &[&Owned]) -> Option<Owned> {
        let tuple = Owned::take((api().PyTuple_New)(arguments.len() as isize))?;
        for (at, argument) in arguments.iter().enumerate() {
            (api().Py_IncRef)(argument.0);
            (api().PyTuple_SetItem)(tuple.0, at as isize, argument.0);
        }
        Owned::take((api().PyObject_Call)(self.0, tuple.0, null_mut()))
    }

    /// Text as a string object.
    pub(crate) unsafe fn text(text: &str) -> Option<Owned> {
        Owned::take((api().PyUnicode_FromStringAndSize)(
            text.as_ptr().cast(),
            text.len() as isize,
        ))
    }

    /// The same, the one object of this text by which the interpreter looks up names.
    pub(crate) unsafe fn name(text: &str) -> Option<Owned> {
        let mut object = Owned::text(text)?.into_ptr();
        (api().PyUnicode_InternInPlace)(&raw mut object);
        Owned::take(object)
    }

    /// A number as an integer object.
    pub(crate) unsafe fn integer(value: c_long) -> Option<Owned> {
        Owned::take((api().PyLong_FromLong)(value))
    }

    /// An attribute that is an integer, with `fallback` for anything else.
    pub(crate) unsafe fn integer_attribute(&self, name: &CStr, fallback: c_longlong) -> c_longlong {
        let value = self.attribute(name);
        number(value.as_ref().map_or(null_mut(), Owned::as_ptr), fallback)
    }

    /// An attribute. Only for objects of the interpreter's own types, where that runs no code of the program.
    pub(crate) unsafe fn attribute(&self, name: &CStr) -> Option<Owned> {
        Owned::take((api().PyObject_GetAttrString)(self.0, name.as_ptr()))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: whoever has an `Owned` holds the lock.
        unsafe { (api().Py_DecRef)(self.0) }
    }
}

/// A module that the program has imported.
pub(crate) unsafe fn loaded(name: &CStr) -> Option<Owned> {
    let modules = (api().PyImport_GetModuleDict)();
    Owned::borrowed((api().PyDict_GetItemString)(modules, name.as_ptr()))
}

/// A string, if it is one of the interpreter's own type.
pub(crate) unsafe fn string(object: &Owned) -> Option<alloc::string::String> {
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

/// `tp_name` of a type, which is the same distance into every type of every version.
pub(crate) unsafe fn type_name(kind: Ptr) -> alloc::string::String {
    // Behind the head there is the size of what it is made of.
    let name: *const c_char = kind.cast::<*const c_char>().add(head() + 1).read();
    if name.is_null() {
        return alloc::string::String::from("?");
    }
    CStr::from_ptr(name).to_string_lossy().into_owned()
}

/// Name and `__self__` of a built-in function: of a `PyCFunctionObject`, which begins alike in every version.
#[inline(always)]
pub(crate) unsafe fn c_function(object: Ptr) -> Option<(&'static [u8], Ptr)> {
    if object.is_null() || type_of(object) != api().PyCFunction_Type {
        return None;
    }
    let fields: *const *const Method = object.cast::<*const Method>().add(head());
    let name = (*fields.read()).name;
    let owner: Ptr = fields.add(1).cast::<Ptr>().read();
    (!name.is_null()).then(|| (CStr::from_ptr(name).to_bytes(), owner))
}

/// The type of an object.
pub(crate) unsafe fn type_of(object: Ptr) -> Ptr {
    object.cast::<Ptr>().add(head() - 1).read()
}

/// Major, minor and micro version, and the whole text, e.g. `3.12.1 (main, ...) [GCC ...]`.
pub(crate) unsafe fn version() -> ([u32; 3], &'static [u8]) {
    let text = CStr::from_ptr((api().Py_GetVersion)()).to_bytes();
    let mut numbers = [0_u32; 3];
    let mut rest = text.iter().copied().peekable();
    for number in &mut numbers {
        while let Some(digit) = rest.next_if(u8::is_ascii_digit) {
            *number = number
                .saturating_mul(10)
                .saturating_add(u32::from(digit - b'0'));
        }
        if rest.next_if_eq(&b'.').is_none() {
            break;
        }
    }
    (numbers, text)
}

/// `sys.implementation.name`.
pub(crate) unsafe fn implementation() -> alloc::string::String {
    let name = Owned::borrowed((api().PySys_GetObject)(c"implementation".as_ptr()))
        .and_then(|implementation| implementation.attribute(c"name"));
    let Some(name) = name else {
        return alloc::string::String::from("unknown");
    };
    let text = (api().PyUnicode_AsUTF8)(name.as_ptr());
    if text.is_null() {
        (api().PyErr_Clear)();
        return alloc::string::String::from("unknown");
    }
    CStr::from_ptr(text).to_string_lossy().into_owned()
}

/// Does something that allocates objects without a garbage collection in it, and so without finalizers of the program.
/// 3.11 makes frame objects when they are asked for, and collects when it makes any; before, they are there, and after,
/// collections wait for the next bytecode.
pub(crate) unsafe fn uncollected<R>(work: impl FnOnce() -> R) -> R {
    let was_on = match (api().PyGC_Disable, version().0) {
        (Some(disable), [3, 10 | 11, _]) => disable() != 0,
        _ => false,
    };
    let result = work();
    if was_on && let Some(enable) = api().PyGC_Enable {
        enable();
    }
    result
}

/// What `PyLong_AsLongLong` would give for small numbers, with `fallback` for others.
pub(crate) unsafe fn number(object: Ptr, fallback: c_longlong) -> c_longlong {
    if object.is_null() {
        return fallback;
    }
    let value = (api().PyLong_AsLong)(object);
    if value == -1 && !(api().PyErr_Occurred)().is_null() {
        (api().PyErr_Clear)();
        return fallback;
    }
    value
}
