//! Stacks of threads that wait, read from outside again and again. Keeps what it learned of a process: which thread has which
//! thread state, and where the GILs are.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::process::{Process, ThreadNames, threads, threads_inside};
use crate::python::frames::{Frame, PythonThread, Stacks, StacksError};
use crate::waits;

/// How often threads are listed anew at most: those that a C library makes known to Python and unknown again change theirs.
const SELDOM: Duration = Duration::from_millis(100);
/// The same while a thread waits that is not known.
const OFTEN: Duration = Duration::from_millis(5);
/// In how many lists a thread has to be without a thread state until it is one that Python knows nothing of.
const LISTS: u32 = 4;
/// What lists may take: a fiftieth of the time, and a tenth while a thread waits that is not known.
const SHARE: u32 = 50;
const GREATER_SHARE: u32 = 10;
/// How often functions are forgotten: their tables may be read only so often (`frames::objects`).
const FORGET: Duration = Duration::from_secs(10);

/// What was read of a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// Its stack, the innermost first.
    Stack(Vec<Frame>),
    /// Python knows nothing of it.
    NoPython,
    /// Not now: it changed meanwhile.
    Later,
    /// Stacks of this process cannot be read.
    Unreadable,
}

/// Keeps the name of a thread, where it is to be had: as Python has it, if it is one of this process's Python.
pub(crate) fn note_name(names: &mut ThreadNames, tid: u32, python: Option<&PythonOf>) {
    match python.filter(|python| !python.is_no_python(tid)) {
        Some(python) => names.of_python(tid, || python.name(tid)),
        None => names.of(tid),
    };
}

/// Reads the stacks of a process.
pub(crate) struct PythonOf {
    pid: u32,
    /// `None` where they cannot be read.
    stacks: Option<Stacks>,
    /// Thread states by the thread that runs them: one, or one for each interpreter.
    states: HashMap<u32, Vec<PythonThread>>,
    gils: Vec<std::ops::Range<u64>>,
    /// Threads that had none, and in how many lists: one that has just begun will have one.
    without: HashMap<u32, u32>,
    listed: Instant,
    /// The same by the clock of waits.
    listed_at: u64,
    /// How long the list took.
    took: Duration,
    forgotten: Instant,
}

impl PythonOf {
    /// For a process. Says why there are no stacks, where there are none.
    pub(crate) fn new(process: &Process) -> (PythonOf, Option<StacksError>) {
        let pid = process.pid;
        let now = Instant::now();
        let mut python = PythonOf {
            pid,
            stacks: None,
            states: HashMap::new(),
            gils: Vec::new(),
            without: HashMap::new(),
            listed: now,
            listed_at: 0,
            took: Duration::ZERO,
            forgotten: now,
        };
        let mut last = StacksError::NoRuntime;
        for interpreter in &process.interpreters {
            match Stacks::of(pid, interpreter) {
                Ok(stacks) => python.stacks = Some(stacks),
                Err(error) => {
                    last = error;
                    continue;
                }
            }
            match python.list() {
                Ok(()) => return (python, None),
                // Just starting: there will be some.
                Err(StacksError::NoThreads) => return (python, None),
                Err(error) => last = error,
            }
        }
        python.stacks = None;
        (python, Some(last))
    }

    fn list(&mut self) -> Result<(), StacksError> {
        let Some(stacks) = &self.stacks else {
            return Ok(());
        };
        self.listed = Instant::now();
        let listed_at = waits::now();
        let tasks = threads(self.pid).map_err(|_| StacksError::Ended)?;
        let found = stacks.threads(&threads_inside(self.pid, &tasks))?;
        self.states.clear();
        for thread in found.threads {
            if let Some(task) = thread.task {
                self.states.entry(task).or_default().push(thread);
            }
        }
        self.gils = found.gils;
        let (states, before) = (&self.states, &self.without);
        self.without = tasks
            .into_iter()
            .filter(|task| !states.contains_key(task))
            .map(|task| (task, before.get(&task).map_or(1, |lists| lists + 1)))
            .collect();
        self.listed_at = listed_at;
        self.took = self.listed.elapsed();
        Ok(())
    }

    /// Brings up to date what is known of the threads, if it is time for that. `unknown` says whether one of those is wanted.
    pub(crate) fn refresh(&mut self, unknown: bool) {
        if self.forgotten.elapsed() > FORGET {
            self.forgotten = Instant::now();
            if let Some(stacks) = &mut self.stacks {
                stacks.forget_functions();
            }
        }
        let pause = match unknown {
            true => OFTEN.max(self.took * GREATER_SHARE),
            false => SELDOM.max(self.took * SHARE),
        };
        if self.listed.elapsed() > pause {
            // What was known before may still be right; whatever is read is checked.
            let _ = self.list();
        }
    }

    /// Whether it is not known what a thread is.
    pub(crate) fn is_unknown(&self, tid: u32) -> bool {
        let lists = self.without.get(&tid).copied().unwrap_or_default();
        self.stacks.is_some() && !self.states.contains_key(&tid) && lists < LISTS
    }

    /// Whether Python knows nothing of a thread, as far as can be told.
    pub(crate) fn is_no_python(&self, tid: u32) -> bool {
        self.stacks.is_some() && !self.states.contains_key(&tid) && !self.is_unknown(tid)
    }

    /// The stack of a thread that has waited since `began`.
    pub(crate) fn read(&self, tid: u32, began: u64) -> Look {
        let Some(stacks) = &self.stacks else {
            return Look::Unreadable;
        };
        let Some(states) = self.states.get(&tid) else {
            // It may have become one of Python's since.
            return match self.listed_at <= began {
                true => Look::Later,
                false => Look::NoPython,
            };
        };
        // What a thread had before this wait may be another's by now.
        if self.listed_at <= began && !states.iter().all(|state| stacks.is_current(state)) {
            return Look::Later;
        }
        let mut frames = Vec::new();
        for state in states {
            match stacks.stack(state) {
                Some(stack) if stack.same => frames.extend(stack.frames),
                _ => return Look::Later,
            }
        }
        Look::Stack(frames)
    }

    /// The name that the program has given a thread, if that can be read.
    fn name(&self, tid: u32) -> Option<String> {
        let state = self.states.get(&tid)?.first()?;
        self.stacks.as_ref()?.name(state)
    }

    /// The process, and where the kernel finds the stacks of its threads ([`Stacks::positions`]); `None` where they cannot be read.
    pub(crate) fn positions(&self) -> Option<Vec<i64>> {
        let tasks = threads(self.pid).ok()?;
        let tasks = threads_inside(self.pid, &tasks);
        let mut numbers = vec![i64::from(self.pid)];
        numbers.append(&mut self.stacks.as_ref()?.positions(&tasks)?);
        Some(numbers)
    }

    /// What the kernel has read of a stack, with names ([`Stacks::named`]).
    pub(crate) fn named(&self, seen: &[(u64, u64, u8)]) -> Option<Vec<Frame>> {
        self.stacks.as_ref()?.named(seen)
    }

    /// Bytes of its memory.
    pub(crate) fn bytes(&self, address: u64, length: usize) -> Option<Vec<u8>> {
        self.stacks.as_ref()?.bytes(address, length)
    }

    /// Whether a futex at this address is that of a GIL.
    pub(crate) fn is_gil(&self, address: u64) -> bool {
        self.gils.iter().any(|gil| gil.contains(&address))
    }
}
