//! The Python stack of every thread of a process, read from its memory while it runs: nothing stops it, nothing is put into
//! it. CPython 3.8 to 3.15, with the GIL.
//!
//! [`Stacks::of`] finds the runtime state and learns its layout; [`Stacks::threads`] lists the threads that have a thread state;
//! [`Stacks::stack`] reads one stack; [`Stacks::parked`] finds tasks of asyncio that wait and greenlets that are switched out, and
//! theirs. Whoever runs while it is read may change it, so a stack is read twice and says whether it was the same
//! ([`Stack::same`]); the caller knows whether the thread ran meanwhile.
//!
//! The memory is foreign: every number in it may be anything at any moment. Each list, stack, text and table has a bound, and
//! what is followed must be what it should be.

mod alike;
mod attributes;
mod frame;
mod functions;
pub(super) mod fuzzing;
mod generators;
mod glimpse;
mod greenlets;
mod heap;
mod layout;
mod lines;
mod made_up;
mod memory;
mod named;
mod objects;
mod parked;
mod runtime;
mod stack;
mod tasks;
#[cfg(test)]
mod tests;
mod types;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::time::Instant;

pub(crate) use self::frame::Frame;
pub(crate) use self::functions::Made;
pub(crate) use self::glimpse::{Glimpse, Near};
pub(crate) use self::greenlets::Greenlets;
use self::heap::Bounds;
use self::layout::{Layout, Unknown};
use self::memory::{Memory, ProcessMemory, Unread};
use self::objects::Reader;
pub(crate) use self::parked::Parked;
use self::runtime::{Runtime, ThreadState};
pub(crate) use self::tasks::{Awaits, Tasks, is_a_number};
use super::Interpreter;
use crate::elf::Machine;

/// More objects than a process can have while all are looked at in time.
const MOST_OBJECTS: usize = 1 << 25;

/// How often the name of a thread is read until what leads to it holds still.
const NAME_ATTEMPTS: usize = 4;

/// Why there are no stacks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StacksError {
    /// We may not read the memory.
    #[error("its memory may not be read ({0})")]
    Denied(io::Error),
    /// The process has ended.
    #[error("it has ended")]
    Ended,
    /// There is no runtime state.
    #[error(
        "the runtime state of its Python cannot be found, as with an interpreter that was stripped of its symbols"
    )]
    NoRuntime,
    /// The interpreter has not begun, or has finished.
    #[error("its Python is just starting or ending, and has no threads")]
    NoThreads,
    /// Nobody knows the layout.
    #[error(
        "where Python {version} keeps its stacks is not known to this pystap, which knows 3.8 to 3.15 without alpha and beta \
         releases"
    )]
    Version {
        /// As far as it is known.
        version: String,
    },
    /// The machine is not one for which positions are known.
    #[error("where Python before 3.13 keeps its stacks is known to this pystap on x86-64 only")]
    Machine,
    /// A free-threaded build.
    #[error("it is a free-threaded build of Python, whose stacks this pystap does not read")]
    FreeThreaded,
    /// It is not laid out as its version says.
    #[error(
        "its memory is not laid out as that of Python {version} is, as with a debug build (Py_DEBUG) or a patched one"
    )]
    Unfamiliar {
        /// What it should be.
        version: String,
    },
}

impl From<Unread> for StacksError {
    fn from(unread: Unread) -> StacksError {
        match unread {
            Unread::Denied(error) => StacksError::Denied(error),
            Unread::Ended => StacksError::Ended,
            // Whoever calls knows what was expected.
            Unread::Senseless => StacksError::NoRuntime,
        }
    }
}

/// A thread that has Python to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PythonThread {
    /// The kernel's ID of it, as we see it; `None` where none of the process's threads is it: it has just ended.
    pub(crate) task: Option<u32>,
    /// The same in the namespace of the process.
    number: Option<u32>,
    /// The ID of its interpreter, 0 for the main one.
    pub(crate) interpreter: u64,
    state: ThreadState,
}

/// The threads, and the GILs that they share.
#[derive(Debug)]
pub(crate) struct PythonThreads {
    /// In the order of the interpreter's list.
    pub(crate) threads: Vec<PythonThread>,
    /// One, and one more for each interpreter with a GIL of its own.
    pub(crate) gils: Vec<Range<u64>>,
    /// Where the states of the garbage collectors are.
    collectors: Vec<u64>,
}

/// A stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stack {
    /// The innermost first.
    pub(crate) frames: Vec<Frame>,
    /// Whether there are more.
    pub(crate) cut: bool,
    /// Whether reading it twice gave the same.
    pub(crate) same: bool,
    /// The task of asyncio that runs, where that was asked for.
    pub(crate) task: Option<RunningTask>,
}

/// A task of asyncio that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunningTask {
    /// The function of its coroutine.
    pub(crate) coroutine: String,
    /// The place of the frame of its coroutine, by which [`Parked::names`] has its name.
    pub(crate) place: (u64, u64),
}

impl From<stack::Stack> for Stack {
    fn from(read: stack::Stack) -> Stack {
        Stack {
            frames: read.frames.into_iter().map(Frame::from).collect(),
            cut: read.cut,
            same: read.same,
            task: None,
        }
    }
}

/// Reads the stacks of a process.
pub(crate) struct Stacks<M = ProcessMemory> {
    reader: Reader<M>,
    runtime: u64,
    version: String,
}

/// The runtime state of an interpreter in a process, whose layout is known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RuntimeState {
    address: u64,
    layout: Layout,
}

impl RuntimeState {
    /// That of an interpreter of a process.
    ///
    /// # Errors
    ///
    /// [`StacksError`].
    pub(crate) fn of(pid: u32, interpreter: &Interpreter) -> Result<RuntimeState, StacksError> {
        let runtime = Runtime::of(pid, interpreter).ok_or(StacksError::NoRuntime)?;
        let version = interpreter.version.as_ref();
        let layout = Layout::of(&memory(pid)?, runtime.address, version)?;
        let layout = match layout {
            Ok(layout) => layout,
            Err(Unknown::Version(version)) => return Err(StacksError::Version { version }),
            Err(Unknown::FreeThreaded) => return Err(StacksError::FreeThreaded),
            Err(Unknown::Table) => {
                return Err(StacksError::Unfamiliar {
                    version: name(interpreter),
                });
            }
        };
        if !layout.stated && runtime.machine != Machine::X86 {
            return Err(StacksError::Machine);
        }
        Ok(RuntimeState {
            address: runtime.address,
            layout,
        })
    }

    /// How many interpreters there are now, the main one among them; `None` where that cannot be read.
    pub(crate) fn interpreters(self, pid: u32) -> Option<usize> {
        let reader = Reader::new(memory(pid).ok()?, self.layout);
        let found = runtime::threads(&reader, self.address).ok()?;
        Some(found.interpreters)
    }
}

fn memory(pid: u32) -> Result<ProcessMemory, StacksError> {
    ProcessMemory::open(pid).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StacksError::Ended,
        _ => StacksError::Denied(error),
    })
}

/// The version of an interpreter, as far as it is known.
fn name(interpreter: &Interpreter) -> String {
    let version = interpreter.version.as_ref();
    version.map_or_else(|| "unknown".to_owned(), ToString::to_string)
}

impl Stacks {
    /// For an interpreter of a process.
    ///
    /// # Errors
    ///
    /// [`StacksError`].
    pub(crate) fn of(pid: u32, interpreter: &Interpreter) -> Result<Stacks, StacksError> {
        let runtime = RuntimeState::of(pid, interpreter)?;
        Ok(Stacks {
            reader: Reader::new(memory(pid)?, runtime.layout),
            runtime: runtime.address,
            version: name(interpreter),
        })
    }
}

impl<M: Memory> Stacks<M> {
    /// The threads that have Python to run. `tasks` has the process's threads: the kernel's ID of each in the process's own
    /// namespace, and as we see it.
    ///
    /// # Errors
    ///
    /// [`StacksError`].
    pub(crate) fn threads(&self, tasks: &HashMap<u32, u32>) -> Result<PythonThreads, StacksError> {
        let found =
            runtime::threads(&self.reader, self.runtime).map_err(|unread| match unread {
                Unread::Senseless => self.unfamiliar(),
                other => other.into(),
            })?;
        if found.threads.is_empty() {
            return Err(StacksError::NoThreads);
        }
        let owners = runtime::tasks(&self.reader.memory, &found.threads, tasks);
        if owners.iter().all(Option::is_none) {
            return Err(self.unfamiliar());
        }
        let numbers: HashMap<u32, u32> = tasks
            .iter()
            .map(|(inside, task)| (*task, *inside))
            .collect();
        let threads = found.threads.into_iter().zip(owners);
        Ok(PythonThreads {
            threads: threads
                .map(|(state, task)| PythonThread {
                    task,
                    number: task.and_then(|task| numbers.get(&task).copied()),
                    interpreter: state.interpreter,
                    state,
                })
                .collect(),
            gils: found.gils,
            collectors: found.collectors,
        })
    }

    /// The stack of a thread; `None` when it could not be read, because it changed meanwhile or the thread ended.
    pub(crate) fn stack(&self, thread: &PythonThread) -> Option<Stack> {
        let read = stack::read(&self.reader, thread.state.address).ok()?;
        Some(read.into())
    }

    /// The stack that a thread which runs had at one moment, for those who look many times, and `with_task` the task that runs; `None`
    /// where nothing of it can be told.
    pub(crate) fn glimpse(
        &self,
        thread: &PythonThread,
        with_task: bool,
        near: &mut Near,
    ) -> Option<Glimpse<Stack, Frame>> {
        let read = match glimpse::glimpse(&self.reader, thread.state.address, near).ok()?? {
            Glimpse::Whole(read) => read,
            Glimpse::Innermost(frame) => return Some(Glimpse::Innermost(frame.into())),
        };
        let coroutine = match with_task {
            true => stack::coroutine(&self.reader, &read.frames),
            false => None,
        };
        let task = coroutine.map(|frame| RunningTask {
            coroutine: frame.function.name.clone(),
            place: frame.place(),
        });
        Some(Glimpse::Whole(Stack {
            task,
            ..read.into()
        }))
    }

    /// The name that a program has given a thread; `None` where it has not, or it could not be read, because the thread changed
    /// meanwhile. The main thread has none.
    pub(crate) fn name(&self, thread: &PythonThread) -> Option<String> {
        let number = thread.number?;
        let read = || named::name(&self.reader, thread.state.address, number);
        std::iter::repeat_with(read)
            .take(NAME_ATTEMPTS)
            .find_map(Result::ok)?
    }

    /// Frames that the kernel has read, the innermost first: code object, instruction, owner. `None` when one of them is not there
    /// any longer.
    pub(crate) fn named(&self, seen: &[(u64, u64, u8)]) -> Option<Vec<Frame>> {
        let seen = seen
            .iter()
            .map(|frame| stack::Raw::seen(&self.reader.layout, *frame));
        let chain: Vec<stack::Raw> = seen.collect();
        let frames = stack::frames(&self.reader, &chain).ok()?;
        Some(frames.into_iter().map(Frame::from).collect())
    }

    /// Where the kernel finds the stack of a thread that leaves its processor: the numbers of `struct pystap_python`
    /// (tapsets/pystap/waits.stp) in their order. `tasks` as for [`threads`](Stacks::threads).
    pub(crate) fn positions(&self, tasks: &HashMap<u32, u32>) -> Option<Vec<i64>> {
        /// As many as the kernel is told.
        const GILS: usize = 4;
        const NONE: i64 = -1;
        let layout = &self.reader.layout;
        let found = runtime::threads(&self.reader, self.runtime).ok()?;
        let position = |at: u64| i64::try_from(at).ok();
        let (id, id_behind) = match layout.native_thread_id {
            Some(at) => (position(at)?, NONE),
            None => {
                let at = runtime::id_in_structure(&self.reader.memory, &found.threads, tasks)?;
                (position(layout.thread_id)?, position(at)?)
            }
        };
        let mut numbers = vec![
            position(self.runtime.checked_add(layout.interpreters_head)?)?,
            position(layout.interpreter_next)?,
            position(layout.threads_head)?,
            position(layout.thread_next)?,
            id,
            id_behind,
        ];
        numbers.extend(match layout.frames {
            layout::Frames::Objects {
                thread_frame,
                back,
                code,
                last_instruction,
                ..
            } => [
                position(thread_frame)?,
                NONE,
                position(code)?,
                position(back)?,
                position(last_instruction)?,
                4,
                NONE,
            ],
            layout::Frames::Structures {
                thread_frame,
                through,
                code,
                previous,
                instruction,
                owner,
            } => [
                position(thread_frame)?,
                through.map_or(Some(NONE), position)?,
                position(code)?,
                position(previous)?,
                position(instruction)?,
                8,
                position(owner)?,
            ],
        });
        numbers.push(position(layout.frame_size())?);
        let gils = found.gils.iter().map(|gil| position(gil.start));
        let gils: Option<Vec<i64>> = gils.take(GILS).collect();
        let mut gils = gils?;
        gils.resize(GILS, 0);
        numbers.append(&mut gils);
        Some(numbers)
    }

    /// What waits without a thread of its own, as far as it is found by then: all of it, or of at most so many tasks and as many greenlets,
    /// picked by chance, and with the names of tasks.
    pub(crate) fn parked(
        &self,
        threads: &PythonThreads,
        until: Instant,
        most: Option<usize>,
    ) -> Parked {
        let bounds = Bounds {
            until,
            objects: MOST_OBJECTS,
        };
        parked::parked(&self.reader, &threads.collectors, bounds, most)
    }

    /// Tells every function that has been made and can still be called, each code once, as far as they are found by then.
    pub(crate) fn functions(
        &self,
        threads: &PythonThreads,
        until: Instant,
        take: impl FnMut(Made),
    ) {
        let bounds = Bounds {
            until,
            objects: MOST_OBJECTS,
        };
        functions::each(&self.reader, &threads.collectors, bounds, take);
    }

    /// Whether what is known of a thread is still so: for those who keep it for a while.
    pub(crate) fn is_current(&self, thread: &PythonThread) -> bool {
        runtime::is_current(&self.reader, &thread.state)
    }

    /// Forgets what functions were read before, with what was spent on them: for those who read stacks for hours.
    pub(crate) fn forget_functions(&mut self) {
        self.reader.forget_functions();
    }

    /// Which of these threads holds a GIL now.
    pub(crate) fn holder<'a>(
        &self,
        gil: &Range<u64>,
        threads: &'a [PythonThread],
    ) -> Option<&'a PythonThread> {
        let holder = runtime::holder(&self.reader, gil.start)?;
        threads.iter().find(|thread| thread.state.address == holder)
    }

    /// Whether a thread holds a GIL now.
    pub(crate) fn is_holder(&self, gil: &Range<u64>, thread: &PythonThread) -> bool {
        runtime::is_holder(&self.reader, gil.start, thread.state.address)
    }

    /// What else a system call of the process points to, such as what it polls.
    pub(crate) fn bytes(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        self.reader.memory.bytes(address, length).ok()
    }

    /// Whether any stack had the code objects that it should have. Without any the layout is another one.
    pub(crate) fn has_recognised(&self) -> bool {
        self.reader.has_recognised()
    }

    /// The error for a process whose layout is another one.
    pub(crate) fn unfamiliar(&self) -> StacksError {
        StacksError::Unfamiliar {
            version: self.version.clone(),
        }
    }
}
