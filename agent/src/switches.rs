//! Switches of greenlets, where they are wanted: told as calls of greenlet's own `switch`, which is C and has no frame. One
//! begins when a greenlet gives way, in its context, and returns when that goes on.
//!
//! Greenlet has a trace function for each thread, which it calls after each switch. Ours is set when something is first told
//! of a thread, and calls the one that was there; `settrace` is told then as a call that returns at once: from there on switches
//! of that thread are told. The program may set another one. That is noticed with the next event of the thread, and ours set and
//! told anew. When the session has ended, ours takes itself away with the next switch. The child of a fork, in which the session goes on,
//! has inherited its parent's: it gives way to one of the child's own, of which is told as in any other process.

use core::ffi::{c_char, c_long, c_void};
use core::ptr::null_mut;

use crate::gil::Guarded;
use crate::live::is_on;
use crate::python::{METH_FASTCALL, Method, Owned, Ptr, api, c_function, none, number};
use crate::ring::Function;
use crate::shards::{self, Shard};
use crate::{contexts, emit};

/// The file that they are told to be in.
const FILE: *const c_char = c"<greenlet>".as_ptr();

struct Switches {
    /// What is told.
    switch: Function,
    settrace: Function,
    /// Greenlet's `settrace` and `gettrace`, once the program has the library.
    library: Option<(Owned, Owned)>,
}

/// While they are wanted.
static SWITCHES: Guarded<Option<Switches>> = Guarded::new(None);

/// Counts sessions in which they are wanted, in this process: one that goes on after a fork is another one.
static TELLING: Guarded<usize> = Guarded::new(0);

/// What it belongs to is a tuple: the trace function that was there, the count of sessions, and greenlet's `settrace` and `gettrace`.
static ON_SWITCH: Method = Method {
    name: c"on_switch".as_ptr(),
    function: on_switch as *const c_void,
    flags: METH_FASTCALL,
    doc: core::ptr::null(),
};

/// Begins a session, in which switches are wanted. Not in a free-threaded build, in which greenlets are not told apart.
pub(crate) unsafe fn start() {
    let function = |name: *const c_char| Function::new(0, [FILE, name, name]);
    *TELLING.get() += 1;
    *SWITCHES.get() = Some(Switches {
        switch: function(c"greenlet.switch".as_ptr()),
        settrace: function(c"greenlet.settrace".as_ptr()),
        library: None,
    });
}

/// Ends it. No callback runs.
pub(crate) unsafe fn stop() {
    drop((*SWITCHES.get()).take());
}

/// In the child of a fork, in which the session goes on: nothing has been told of this process.
pub(crate) unsafe fn fork() {
    *TELLING.get() += 1;
}

/// Whether switches are still told for whom this counts.
unsafe fn is_told(telling: usize) -> bool {
    is_on() && (*SWITCHES.get()).is_some() && *TELLING.get() == telling
}

/// Something is told of this thread, in this context: has its switches told from now on, if they are not yet.
pub(crate) unsafe fn see(shard: Shard, context: u64) {
    let Some((settrace, gettrace)) = library() else {
        return;
    };
    let Some(before) = gettrace.call(&[]) else {
        return;
    };
    let telling = *TELLING.get();
    // One of ours from another session makes room, and is not called any longer.
    let previous = match owner(before.as_ptr()) {
        Some(owner) if telling_of(owner) == telling => return,
        Some(owner) => Owned::borrowed((api().PyTuple_GetItem)(owner, 0)),
        None => Some(before),
    };
    let (Some(previous), Some(number)) = (previous, Owned::integer(telling as c_long)) else {
        return;
    };
    let Some(tuple) = tuple([&previous, &number, &settrace, &gettrace].map(Owned::as_ptr)) else {
        return;
    };
    let function = (api().PyCFunction_NewEx)(&raw const ON_SWITCH, tuple.as_ptr(), null_mut());
    let Some(function) = Owned::take(function) else {
        return;
    };
    // What was allocated may have had finalizers of the program run, which can end the session, and let another one begin.
    if !is_told(telling) || settrace.call(&[&function]).is_none() || !is_told(telling) {
        return;
    }
    if let Some(switches) = (*SWITCHES.get()).as_mut() {
        let settrace = &raw mut switches.settrace;
        emit::library_call(shard, settrace, context);
        emit::library_return(shard, settrace, context);
    }
}

/// Greenlet's `settrace` and `gettrace`.
unsafe fn library() -> Option<(Owned, Owned)> {
    let again = |it: &Owned| Owned::borrowed(it.as_ptr());
    let switches = (*SWITCHES.get()).as_mut()?;
    if let Some((settrace, gettrace)) = &switches.library {
        return again(settrace).zip(again(gettrace));
    }
    let found = contexts::trace_functions()?;
    let (settrace, gettrace) = (again(&found.0), again(&found.1));
    if let Some(switches) = (*SWITCHES.get()).as_mut() {
        switches.library = Some(found);
    }
    settrace.zip(gettrace)
}

/// A tuple of these.
unsafe fn tuple<const COUNT: usize>(items: [Ptr; COUNT]) -> Option<Owned> {
    let tuple = Owned::take((api().PyTuple_New)(COUNT as isize))?;
    for (at, item) in (0..).zip(items) {
        (api().Py_IncRef)(item);
        (api().PyTuple_SetItem)(tuple.as_ptr(), at, item);
    }
    Some(tuple)
}

/// What a trace function belongs to, if it is ours.
unsafe fn owner(function: Ptr) -> Option<Ptr> {
    let (name, owner) = c_function(function)?;
    core::ptr::eq(name.as_ptr().cast(), ON_SWITCH.name).then_some(owner)
}

unsafe fn telling_of(owner: Ptr) -> usize {
    let number = number((api().PyTuple_GetItem)(owner, 1), 0);
    usize::try_from(number).unwrap_or(0)
}

/// Called after a switch, by what goes on, with what happened and the greenlets before and after.
unsafe extern "C" fn on_switch(own: Ptr, arguments: *const Ptr, count: isize) -> Ptr {
    let item = |at| Owned::borrowed((api().PyTuple_GetItem)(own, at));
    let (Some(previous), Some(settrace), Some(gettrace)) = (item(0), item(2), item(3)) else {
        (api().PyErr_Clear)();
        return none();
    };
    if count != 2 {
        return none();
    }
    let pair = *arguments.add(1);
    // Where the program's function was set upon this one and calls it, there may be another one of ours upon that.
    let current = gettrace.call(&[]);
    if current.is_some_and(|it| owner(it.as_ptr()) == Some(own)) {
        if is_told(telling_of(own)) {
            tell(pair, telling_of(own));
        } else {
            drop(settrace.call(&[&previous]));
        }
    }
    // It comes last, because it is the program's and may do anything.
    if previous.as_ptr() == api()._Py_NoneStruct {
        return none();
    }
    let Some(both) = tuple([*arguments, pair]) else {
        return none();
    };
    // Its exceptions are greenlet's to handle, as without us.
    (api().PyObject_Call)(previous.as_ptr(), both.as_ptr(), null_mut())
}

/// Tells a switch; `pair` are the greenlets before and after.
unsafe fn tell(pair: Ptr, telling: usize) {
    let [before, after] = [0, 1].map(|at| (api().PyTuple_GetItem)(pair, at));
    if before.is_null() || after.is_null() {
        return (api().PyErr_Clear)();
    }
    // The program can call us, too, with anything.
    if !contexts::is_greenlet(before) || !contexts::is_greenlet(after) {
        return;
    }
    let leaves = match contexts::is_alive(before) {
        true => contexts::seen(before),
        // It has ended, and with it all that ran in it.
        false => None,
    };
    let goes_on = contexts::seen(after);
    // To ask asyncio may have had finalizers of the program run, which can end the session, and let another one begin.
    let Some(inside) = shards::enter().filter(|_| is_told(telling)) else {
        return;
    };
    let Some(switches) = (*SWITCHES.get()).as_mut() else {
        return;
    };
    let (shard, switch) = (inside.shard(), &raw mut switches.switch);
    if let Some(context) = leaves {
        emit::library_call(shard, switch, context);
    }
    if let Some(context) = goes_on {
        emit::library_return(shard, switch, context);
    }
}
