//! The runtime state of an interpreter, `_PyRuntime`: where it is in a process, and from there every thread state.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::layout::{Collector, Gil};
use super::memory::{Memory, Unread, word};
use super::objects::Reader;
use super::stack::added;
use crate::elf;
use crate::python::Interpreter;
use crate::python::process::{loaded_at, mapped_at};

/// Most interpreters and threads that are visited: the lists are in foreign memory.
const MOST_INTERPRETERS: usize = 1 << 10;
const MOST_THREADS: usize = 1 << 16;
/// How often a list is read until it is the same twice.
const ATTEMPTS: usize = 16;
/// What a GIL takes at most (`struct _gil_runtime_state`, 208 bytes on x86-64).
const GIL: u64 = 208;

/// Where the runtime state is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Runtime {
    pub(super) address: u64,
    /// The machine that the interpreter is for.
    pub(super) machine: elf::Machine,
}

impl Runtime {
    /// That of an interpreter in a process; `None` when it cannot be found.
    pub(super) fn of(pid: u32, interpreter: &Interpreter) -> Option<Runtime> {
        let inode = interpreter.file.inode;
        let machine = interpreter.image.architecture.machine;
        let by_section = || mapped_at(pid, inode, interpreter.image.python_runtime?);
        let by_symbol = || {
            let found = elf::variable(&interpreter.reach, "_PyRuntime").ok()??;
            let (offset, first) = found.loaded;
            Some(loaded_at(pid, inode, offset)?.wrapping_add(found.address.wrapping_sub(first)))
        };
        let address = by_section().or_else(by_symbol)?;
        Some(Runtime { address, machine })
    }
}

/// A thread state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ThreadState {
    pub(super) address: u64,
    /// The ID of its interpreter, 0 for the main one.
    pub(super) interpreter: u64,
    /// The address of the C library's structure for it (`pthread_self`).
    thread_id: u64,
    /// The kernel's ID of it, in its own namespace; from 3.11 on.
    native_id: Option<u64>,
}

/// What the runtime state led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) threads: Vec<ThreadState>,
    /// The GILs: where each is.
    pub(super) gils: Vec<Range<u64>>,
    /// Where the states of the garbage collectors are.
    pub(super) collectors: Vec<u64>,
    /// How many interpreters there are, with threads or without.
    pub(super) interpreters: usize,
}

/// Every thread state. Read until it is the same twice, or often enough.
pub(super) fn threads<M: Memory>(reader: &Reader<M>, runtime: u64) -> Result<Found, Unread> {
    let mut last = Err(Unread::Senseless);
    for _ in 0..ATTEMPTS {
        let now = threads_once(reader, runtime);
        match (&last, &now) {
            (Ok(last), Ok(now)) if last == now => return Ok(now.clone()),
            (_, Err(Unread::Ended | Unread::Denied(_))) => return now,
            (Ok(_), Err(_)) => {}
            _ => last = now,
        }
    }
    last
}

fn threads_once<M: Memory>(reader: &Reader<M>, runtime: u64) -> Result<Found, Unread> {
    let (memory, layout) = (&reader.memory, &reader.layout);
    let mut found = Found {
        threads: Vec::new(),
        gils: Vec::new(),
        collectors: Vec::new(),
        interpreters: 0,
    };
    let mut seen = HashSet::new();
    let mut interpreter = memory.number(added(runtime, layout.interpreters_head)?)?;
    while interpreter != 0 {
        if !seen.insert(interpreter) || seen.len() > MOST_INTERPRETERS {
            return Err(Unread::Senseless);
        }
        found.interpreters += 1;
        let id = memory.number(added(interpreter, layout.interpreter_id)?)?;
        let gil = match layout.gil {
            Gil::InRuntime(at) => added(runtime, at)?,
            Gil::OfInterpreter(at) => memory.number(added(interpreter, at)?)?,
        };
        let range = gil..added(gil, GIL)?;
        if gil != 0 && !found.gils.contains(&range) {
            found.gils.push(range);
        }
        let collector = match layout.collector {
            Collector::InRuntime(at) => added(runtime, at)?,
            Collector::InInterpreter(at) => added(interpreter, at)?,
        };
        if !found.collectors.contains(&collector) {
            found.collectors.push(collector);
        }
        let mut thread = memory.number(added(interpreter, layout.threads_head)?)?;
        while thread != 0 {
            if !seen.insert(thread) || found.threads.len() >= MOST_THREADS {
                return Err(Unread::Senseless);
            }
            let bytes = memory.bytes(thread, layout.thread_size() as usize)?;
            // A thread state that was freed meanwhile, or an unknown layout.
            if word(&bytes, layout.thread_interpreter)? != interpreter {
                return Err(Unread::Senseless);
            }
            let native = layout.native_thread_id;
            found.threads.push(ThreadState {
                address: thread,
                interpreter: id,
                thread_id: word(&bytes, layout.thread_id)?,
                native_id: native.map(|at| word(&bytes, at)).transpose()?,
            });
            thread = word(&bytes, layout.thread_next)?;
        }
        interpreter = memory.number(added(interpreter, layout.interpreter_next)?)?;
    }
    Ok(found)
}

/// Whether a thread state is still that of the same thread: its memory may be another's by now.
pub(super) fn is_current<M: Memory>(reader: &Reader<M>, state: &ThreadState) -> bool {
    let layout = &reader.layout;
    let read = || -> Result<bool, Unread> {
        let bytes = reader
            .memory
            .bytes(state.address, layout.thread_size() as usize)?;
        let native = layout.native_thread_id.map(|at| word(&bytes, at));
        let same = word(&bytes, layout.thread_id)? == state.thread_id;
        Ok(same && native.transpose()? == state.native_id)
    };
    read().unwrap_or(false)
}

/// Whether a thread state holds a GIL now.
pub(super) fn is_holder<M: Memory>(reader: &Reader<M>, gil: u64, thread: u64) -> bool {
    let last = gil.checked_add(reader.layout.gil_holder);
    // Most threads were not even the last to hold it.
    last.is_some_and(|last| reader.memory.number(last).ok() == Some(thread))
        && holder(reader, gil) == Some(thread)
}

/// The thread state that holds a GIL now, if any does.
pub(super) fn holder<M: Memory>(reader: &Reader<M>, gil: u64) -> Option<u64> {
    let (memory, layout) = (&reader.memory, &reader.layout);
    let at = |field: u64| gil.checked_add(field);
    let locked = || {
        memory
            .half(at(layout.gil_locked)?)
            .ok()
            .filter(|it| *it == 1)
    };
    let who = || memory.number(at(layout.gil_holder)?).ok();
    for _ in 0..ATTEMPTS {
        locked()?;
        let holder = who();
        locked()?;
        if who() == holder {
            return holder.filter(|holder| *holder != 0);
        }
    }
    None
}

/// Which of the kernel's threads each thread state belongs to. `tasks` has the process's threads by their ID in its own
/// namespace. Up to 3.10 a thread state does not say, but the C library's structure for the thread does, at a place that no
/// header states: it is the one at which all of them have the ID of a thread of the process.
pub(super) fn tasks<M: Memory>(
    memory: &M,
    threads: &[ThreadState],
    tasks: &HashMap<u32, u32>,
) -> Vec<Option<u32>> {
    let task = |id: u64| tasks.get(&u32::try_from(id).ok()?).copied();
    let mut found: Vec<Option<u32>> = threads
        .iter()
        .map(|thread| thread.native_id.and_then(task))
        .collect();
    if found.iter().all(Option::is_some) {
        return found;
    }
    let Some(at) = id_in_structure(memory, threads, tasks) else {
        return found;
    };
    for (thread, found) in threads.iter().zip(&mut found) {
        if found.is_none() {
            let id = thread.thread_id.checked_add(at);
            *found = id
                .and_then(|id| memory.half(id).ok())
                .and_then(|id| task(u64::from(id)));
        }
    }
    found
}

/// Where the C library's structure for a thread has the kernel's ID of it.
pub(super) fn id_in_structure<M: Memory>(
    memory: &M,
    threads: &[ThreadState],
    tasks: &HashMap<u32, u32>,
) -> Option<u64> {
    /// glibc on x86-64; musl and other machines have it elsewhere.
    const USUAL: u64 = 720;
    /// How far it is looked for, and in how many threads.
    const STRUCTURE: u64 = 1 << 10;
    const SAMPLE: usize = 64;
    let sample: Vec<u64> = threads
        .iter()
        .take(SAMPLE)
        .map(|thread| thread.thread_id)
        .collect();
    let matching = |at: u64| {
        let ids: HashSet<u32> = sample
            .iter()
            .filter_map(|structure| memory.half(structure.checked_add(at)?).ok())
            .filter(|id| tasks.contains_key(id))
            .collect();
        ids.len()
    };
    // One that ended meanwhile may be missing.
    let needed = sample.len().saturating_sub(sample.len() / 8).max(1);
    std::iter::once(USUAL)
        .chain((0..STRUCTURE).step_by(4))
        .find(|at| matching(*at) >= needed)
}
