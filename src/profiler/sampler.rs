//! The threads of a process, looked at again and again.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::contexts::{self, Names};
use super::stacks::{self, NO_CONTEXT};
use crate::analysis::idle::Idle;
use crate::process::activity::{Runs, State, Status};
use crate::process::{Process, threads, threads_inside};
use crate::python::frames::{Frame, Glimpse, Near, PythonThread, Stack, Stacks, StacksError};
use crate::python::greenlets;
use crate::waits::{Reason, cause_of};

/// How often a thread is looked at for one sample, until what it does can be told: the fewer, the less is told of those who call others
/// all the time.
const ATTEMPTS: usize = 16;
/// How often it is looked at which threads there are, and how often at least which of them have Python: a C library makes threads
/// known to Python that have long been there.
const LISTED: Duration = Duration::from_millis(100);
const LISTED_AT_LEAST: Duration = Duration::from_secs(1);
/// What lists may take: this part of the time.
const SHARE: u32 = 50;
/// In how many lists a thread has to be without a thread state until it is one that Python knows nothing of.
const LISTS: u32 = 4;
/// How often functions are forgotten: their tables may be read only so often (`frames::objects`).
const FORGET: Duration = Duration::from_secs(10);
/// How often a thread is asked for its name in Python.
const NAMES_ASKED: u8 = 16;
/// Most threads of a process.
const MOST_THREADS: usize = 1 << 14;

/// What a thread did at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) pid: u32,
    pub(super) tid: u32,
    /// Its number in [`stacks::Stacks`].
    pub(super) stack: u32,
    /// The kind of greenlet or task that it was in.
    pub(super) context: u32,
    /// Whether it ran, or waited for a processor.
    pub(super) on_cpu: bool,
    /// Whether it waited for work.
    pub(super) idle: bool,
}

/// Where samples go, and what there is beside them.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) samples: Vec<Sample>,
    /// Threads of whose stack nothing could be told.
    pub(super) torn: u64,
    /// Names of threads that were seen for the first time.
    pub(super) names: Vec<(u32, String)>,
}

/// How many files may stay open.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) left: usize,
}

/// A process. Dropped, it is forgotten.
pub(super) struct Sampled {
    pub(super) process: Process,
    stacks: Stacks,
    threads: Vec<Thread>,
    gils: Vec<Range<u64>>,
    listed: Instant,
    /// When it was found out last which threads have Python, and how long that took.
    known: Instant,
    took: Duration,
    /// Something is no longer as it was known to be.
    stale: bool,
    forgotten: Instant,
    /// Whether greenlets and tasks are told apart, and whether it has greenlets, where that is known.
    by_context: bool,
    has_greenlets: bool,
}

/// A thread.
#[derive(Debug)]
struct Thread {
    tid: u32,
    /// One, or one for each interpreter that it runs; none without Python.
    states: Vec<PythonThread>,
    near: Near,
    runs: Runs,
    /// In how many lists it was without.
    without: u32,
    asleep: Option<Asleep>,
    /// How often it is still asked for its name in Python: one that just begins has none yet.
    to_name: u8,
}

/// What is known of a thread as long as it does not run.
#[derive(Debug, Clone, Copy)]
struct Asleep {
    runs: u64,
    stack: u32,
    context: u32,
    idle: bool,
}

/// What came of a look at a thread.
enum Seen {
    On(Stack),
    Waiting(Stack, Option<u64>),
    Torn,
    /// It has ended, or is not what it was.
    Gone,
}

impl Sampled {
    /// A process.
    ///
    /// # Errors
    ///
    /// [`StacksError`], `NoThreads` where its Python is just starting.
    pub(super) fn new(process: Process, files: &mut Files) -> Result<Sampled, StacksError> {
        let mut last = StacksError::NoRuntime;
        let now = Instant::now();
        for interpreter in &process.interpreters {
            let stacks = match Stacks::of(process.pid, interpreter) {
                Ok(stacks) => stacks,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            let mut sampled = Sampled {
                process: process.clone(),
                stacks,
                threads: Vec::new(),
                gils: Vec::new(),
                listed: now,
                known: now,
                took: Duration::ZERO,
                stale: false,
                forgotten: now,
                by_context: false,
                has_greenlets: false,
            };
            let tids = threads(process.pid).map_err(|_| StacksError::Ended)?;
            match sampled.list(tids, files) {
                Ok(()) => return Ok(sampled),
                Err(error) => {
                    sampled.close(files);
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// Gives back its open files.
    pub(super) fn close(self, files: &mut Files) {
        let open = self.threads.iter().filter(|thread| thread.runs.keeps());
        files.left += open.count();
    }

    /// How many threads have Python, and how many have none.
    pub(super) fn count(&self) -> (usize, usize) {
        let with = self.threads.iter().filter(|it| !it.states.is_empty());
        let with = with.count();
        (with, self.threads.len() - with)
    }

    /// Finds out which of these threads have Python.
    fn list(&mut self, mut tids: Vec<u32>, files: &mut Files) -> Result<(), StacksError> {
        let begun = Instant::now();
        self.known = begun;
        let pid = self.process.pid;
        tids.truncate(MOST_THREADS);
        let found = self.stacks.threads(&threads_inside(pid, &tids))?;
        let mut states: HashMap<u32, Vec<PythonThread>> = HashMap::new();
        for thread in found.threads {
            if let Some(task) = thread.task {
                states.entry(task).or_default().push(thread);
            }
        }
        self.gils = found.gils;
        let before = std::mem::take(&mut self.threads).into_iter();
        let mut before: HashMap<u32, Thread> = before.map(|it| (it.tid, it)).collect();
        for tid in tids {
            let mut thread = before.remove(&tid).unwrap_or_else(|| {
                let runs = Runs::of(pid, tid, files.left > 0);
                files.left -= usize::from(runs.keeps());
                Thread {
                    tid,
                    states: Vec::new(),
                    near: Near::default(),
                    runs,
                    without: 0,
                    asleep: None,
                    to_name: NAMES_ASKED,
                }
            });
            thread.states = states.remove(&tid).unwrap_or_default();
            thread.without = match thread.states.is_empty() {
                true => thread.without.saturating_add(1),
                false => 0,
            };
            if thread.states.is_empty() {
                thread.asleep = None;
            }
            self.threads.push(thread);
        }
        files.left += before.values().filter(|it| it.runs.keeps()).count();
        self.stale = false;
        self.look_for_greenlets();
        self.took = begun.elapsed();
        Ok(())
    }

    /// Brings up to date which threads there are, if it is time for that.
    ///
    /// # Errors
    ///
    /// [`StacksError`]: then it is no longer what it was.
    pub(super) fn refresh(&mut self, files: &mut Files) -> Result<(), StacksError> {
        if self.forgotten.elapsed() > FORGET {
            self.forgotten = Instant::now();
            self.stacks.forget_functions();
        }
        if self.listed.elapsed() < LISTED.max(self.took * SHARE) {
            return Ok(());
        }
        self.listed = Instant::now();
        let tids = threads(self.process.pid).map_err(|_| StacksError::Ended)?;
        let is_new = tids.len() != self.threads.len()
            || tids
                .iter()
                .zip(&self.threads)
                .any(|(tid, it)| *tid != it.tid);
        let awaited = |it: &Thread| it.states.is_empty() && it.without < LISTS;
        if is_new
            || self.stale
            || self.known.elapsed() > LISTED_AT_LEAST
            || self.threads.iter().any(awaited)
        {
            return self.list(tids, files);
        }
        Ok(())
    }

    fn look_for_greenlets(&mut self) {
        if self.by_context && !self.has_greenlets {
            self.has_greenlets = greenlets::are_in(self.process.pid);
        }
    }

    /// Takes a sample of each thread, with the greenlet or task that it is in where `names` has those of its tasks that are known.
    pub(super) fn sample(
        &mut self,
        stacks: &mut stacks::Stacks,
        names: Option<&HashMap<u32, Names>>,
        into: &mut Samples,
    ) {
        let pid = self.process.pid;
        if self.by_context != names.is_some() {
            self.by_context = names.is_some();
            self.look_for_greenlets();
            // What they were in is not known.
            self.threads.iter_mut().for_each(|it| it.asleep = None);
        }
        let has_greenlets = self.has_greenlets;
        let named = names.and_then(|names| names.get(&pid));
        let look = Look {
            pid,
            stacks: &self.stacks,
            gils: &self.gils,
            by_context: self.by_context,
        };
        for thread in &mut self.threads {
            if thread.states.is_empty() {
                continue;
            }
            let tid = thread.tid;
            let runs = thread.runs.now();
            if let Some(asleep) = thread.asleep
                && Some(asleep.runs) == runs
            {
                into.samples.push(Sample {
                    pid,
                    tid,
                    stack: asleep.stack,
                    context: asleep.context,
                    on_cpu: false,
                    idle: asleep.idle,
                });
                continue;
            }
            thread.asleep = None;
            let (stack, waits) = match look.at(thread, runs, &mut into.names) {
                Seen::On(stack) => (stack, None),
                Seen::Waiting(stack, runs) => (stack, Some(runs)),
                Seen::Torn => {
                    into.torn += 1;
                    continue;
                }
                Seen::Gone => {
                    self.stale = true;
                    continue;
                }
            };
            let idle = waits.is_some() && look.is_idle(tid, &stack);
            let context = match look.by_context {
                true => contexts::on_thread(&stack, named, has_greenlets),
                false => None,
            };
            let context = context.map_or(NO_CONTEXT, |kind| stacks.context(&kind));
            let stack = stacks.number(stack.frames);
            if let Some(Some(runs)) = waits {
                thread.asleep = Some(Asleep {
                    runs,
                    stack,
                    context,
                    idle,
                });
            }
            into.samples.push(Sample {
                pid,
                tid,
                stack,
                context,
                on_cpu: waits.is_none(),
                idle,
            });
        }
    }
}

/// A look at threads of a process.
struct Look<'a> {
    pid: u32,
    stacks: &'a Stacks,
    gils: &'a [Range<u64>],
    by_context: bool,
}

impl Look<'_> {
    /// What a thread does that has begun to run so often.
    fn at(
        &self,
        thread: &mut Thread,
        mut runs: Option<u64>,
        names: &mut Vec<(u32, String)>,
    ) -> Seen {
        // The function that it was in at first, if it is not known what called that; and what was seen behind that.
        let mut looked_for: Option<Frame> = None;
        let mut instead = None;
        for _ in 0..ATTEMPTS {
            let before = runs;
            let Some(status) = Status::of(self.pid, thread.tid) else {
                return Seen::Gone;
            };
            if thread.to_name > 0 {
                let name = thread.states.first();
                let name = name.and_then(|state| self.stacks.name(state));
                thread.to_name = match name {
                    Some(_) => 0,
                    None => thread.to_name - 1,
                };
                names.push((thread.tid, name.unwrap_or(status.name)));
            }
            if !thread.states.iter().all(|it| self.stacks.is_current(it)) {
                return Seen::Gone;
            }
            let read = match self.read(&thread.states, &mut thread.near) {
                Some(Glimpse::Whole(stack)) => Some(stack),
                Some(Glimpse::Innermost(frame)) => {
                    looked_for.get_or_insert(frame);
                    None
                }
                None => None,
            };
            let seen = match (status.state, read) {
                (State::Other(_), _) => return Seen::Gone,
                (State::Running, Some(stack)) => Seen::On(stack),
                (State::Running, None) => continue,
                (State::Stopped, Some(stack)) => Seen::Waiting(stack, None),
                (_, read) => {
                    runs = thread.runs.now();
                    match read {
                        // What slept all the while did not change.
                        Some(stack) if runs.is_some() && runs == before => {
                            Seen::Waiting(stack, runs)
                        }
                        _ => continue,
                    }
                }
            };
            match (&looked_for, &seen) {
                (Some(frame), Seen::On(stack)) if !stands_in(stack, frame) => {
                    instead = instead.or(Some(seen));
                }
                // Who waits by now is in that function no more.
                (Some(_), Seen::Waiting(..)) => return instead.unwrap_or(seen),
                _ => return seen,
            }
        }
        instead.unwrap_or(Seen::Torn)
    }

    /// What a thread stands in.
    fn read(&self, states: &[PythonThread], near: &mut Near) -> Option<Glimpse<Stack, Frame>> {
        let mut all: Option<Stack> = None;
        for state in states {
            let stack = match self.stacks.glimpse(state, self.by_context, near)? {
                Glimpse::Whole(stack) => stack,
                innermost @ Glimpse::Innermost(_) => return Some(innermost),
            };
            match &mut all {
                None => all = Some(stack),
                Some(all) => {
                    all.frames.extend(stack.frames);
                    all.cut |= stack.cut;
                    all.task = all.task.take().or(stack.task);
                }
            }
        }
        all.map(Glimpse::Whole)
    }

    /// Whether a thread waits for work here.
    fn is_idle(&self, tid: u32, stack: &Stack) -> bool {
        let names = stack.frames.iter().map(|it| (&*it.function, &*it.file));
        // The reason is dear, and matters in few places.
        let Some(idle) = Idle::of_stack(names) else {
            return false;
        };
        let cause = cause_of(self.pid, tid);
        let for_gil = self.gils.iter().any(|gil| gil.contains(&cause.argument));
        let reason = match cause.reason {
            Reason::Lock if for_gil => Reason::Gil,
            reason => reason,
        };
        idle.covers(reason)
    }
}

/// Whether this function is the innermost of a stack.
fn stands_in(stack: &Stack, function: &Frame) -> bool {
    let innermost = stack.frames.first();
    innermost.is_some_and(|it| (&it.function, &it.file) == (&function.function, &function.file))
}
