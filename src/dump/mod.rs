//! What every thread of a process does right now: its Python stack ([`crate::python::frames`]) joined with what the kernel
//! says of it ([`crate::process::activity`]). The process is never stopped, and nothing is put into it.
//!
//! It runs on while it is looked at. So a thread's stack and its wait are read between two looks at how often it was switched:
//! if it slept all the while, they belong together and are exact ([`Reading::Exact`]). If it ran, the stack was read twice
//! and was the same ([`Reading::Running`]). A thread that does neither after several attempts is marked
//! ([`Reading::Changed`]).

mod json;
mod reading;
mod resting;
#[cfg(test)]
mod tests;
mod text;

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant};

pub(crate) use json::document;
pub(crate) use reading::Reading;
pub(crate) use resting::Resting;
pub(crate) use text::page;

use crate::analysis::roles;
use crate::process::activity::{self, Call, Clocks, State, Status, Wait, Waits};
use crate::process::{Process, start_time, threads, threads_inside};
use crate::python::Version;
use crate::python::frames::{Frame, PythonThread, PythonThreads, Stacks, StacksError};

/// What is typed for a dump.
const COMMAND: &str = "pystap dump";
/// How often a thread that does not hold still is looked at.
const ATTEMPTS: usize = 24;
/// Most threads of a process that are shown; the rest is counted.
const MOST_THREADS: usize = 1 << 14;
/// Most frames of a process that are kept: what is beyond is cut.
const MOST_FRAMES: usize = 1 << 20;
/// How long a process may take: one that makes it take longer gets no more attempts, and then no more stacks.
const LONGEST: Duration = Duration::from_secs(8);

/// A process at one moment, or as near to one as it lets itself be seen.
#[derive(Debug)]
pub(crate) struct Dump {
    pub(crate) pid: u32,
    pub(crate) program: String,
    pub(crate) command: Vec<String>,
    pub(crate) version: Option<Version>,
    /// The main thread first, then by ID.
    pub(crate) threads: Vec<Thread>,
    /// Threads beyond the most that are shown.
    pub(crate) more_threads: usize,
    /// What waits without a thread; `None` where that was not asked for.
    pub(crate) resting: Option<Resting>,
    /// How long it took.
    pub(crate) took: Duration,
}

/// A thread.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) tid: u32,
    /// The kernel's name of it.
    pub(crate) name: String,
    pub(crate) state: State,
    pub(crate) call: Call,
    /// What it waits for; `None` while it runs, and where the kernel does not say.
    pub(crate) wait: Option<WaitsFor>,
    /// For how long it has been asleep, where that is known.
    pub(crate) asleep: Option<Duration>,
    /// `None` for a thread that Python knows nothing of.
    pub(crate) python: Option<Python>,
}

/// What of a thread is Python's.
#[derive(Debug)]
pub(crate) struct Python {
    /// The ID of its interpreter, 0 for the main one.
    pub(crate) interpreter: u64,
    /// Whether it held the GIL.
    pub(crate) holds_gil: bool,
    /// The innermost first.
    pub(crate) frames: Vec<Frame>,
    /// Whether there are more.
    pub(crate) cut: bool,
    pub(crate) reading: Reading,
}

/// What a thread or greenlet with this stack, the innermost first, is for; `None` where that is not known, or the outermost
/// functions are not among them.
fn role(frames: &[Frame], cut: bool) -> Option<String> {
    let names = frames.iter().map(|it| (&*it.function, &*it.file));
    (!cut).then(|| roles::role(names)).flatten()
}

/// What a thread waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WaitsFor {
    /// The GIL, and the thread that held it then.
    Gil { held_by: Option<u32> },
    /// A lock, or something else that threads make of a word in memory.
    Lock { address: u64 },
    /// What the kernel knows.
    Kernel(Wait),
}

/// Why there is nothing to show of a process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DumpError {
    /// It has ended.
    #[error(
        "process {pid} ended while it was being looked at, so there is nothing to show: name one that still runs (`pystap \
         ps` lists them)"
    )]
    Ended { pid: u32 },
    /// We may not read its memory.
    #[error("process {pid} does not let its memory be read, so its stacks are not shown: {remedy}")]
    Denied { pid: u32, remedy: String },
    /// Its stacks cannot be read.
    #[error(
        "the stacks of process {pid} cannot be shown: {reason}; `pystap ps` says whether its calls can be traced instead"
    )]
    Stacks { pid: u32, reason: StacksError },
    /// The process's threads cannot be listed.
    #[error(
        "the threads of process {pid} cannot be listed ({reason}), so nothing of it is shown: check that /proc is mounted, then \
         try again"
    )]
    Threads { pid: u32, reason: std::io::Error },
}

impl DumpError {
    /// The exit code of pystap for this failure.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            DumpError::Ended { .. } => 4,
            DumpError::Denied { .. } | DumpError::Stacks { .. } => 3,
            DumpError::Threads { .. } => 1,
        }
    }
}

impl Dump {
    /// Looks at a process, and with `tasks` at what waits in it without a thread.
    ///
    /// # Errors
    ///
    /// [`DumpError`].
    pub(crate) fn of(process: &Process, tasks: bool) -> Result<Dump, DumpError> {
        let begin = Instant::now();
        let pid = process.pid;
        let failed = |reason| explained(process, reason, COMMAND);
        let (stacks, tids, found) = python_of(process)?;
        let observer = Observer {
            pid,
            stacks: &stacks,
            found: &found,
            waits: Waits::of(pid),
            end: begin + LONGEST,
        };
        let mut by_task: HashMap<u32, Vec<&PythonThread>> = HashMap::new();
        for thread in &found.threads {
            if let Some(task) = thread.task {
                by_task.entry(task).or_default().push(thread);
            }
        }
        let mut room = MOST_FRAMES;
        let (mut threads, mut moments) = (Vec::new(), Vec::new());
        for &tid in tids.iter().take(MOST_THREADS) {
            let states = by_task.get(&tid).map(Vec::as_slice).unwrap_or_default();
            if let Some((mut thread, moment)) = observer.thread(tid, states) {
                if let Some(python) = &mut thread.python {
                    python.cut |= python.frames.len() > room;
                    python.frames.truncate(room);
                    room -= python.frames.len();
                }
                threads.push(thread);
                moments.push(moment);
            }
        }
        let resting = tasks.then(|| Resting::of(pid, &stacks, &found));
        if start_time(pid).is_ok_and(|now| now != Some(process.start_time)) || threads.is_empty() {
            return Err(DumpError::Ended { pid });
        }
        let has_stacks = |thread: &Thread| {
            let python = thread.python.as_ref();
            python.is_some_and(|it| it.reading != Reading::Changed || !it.frames.is_empty())
        };
        if !stacks.has_recognised() && !threads.iter().any(has_stacks) {
            return Err(failed(stacks.unfamiliar()));
        }
        add_times(&mut threads, &moments);
        Ok(Dump {
            pid,
            program: process.program(),
            command: process.command_line.clone(),
            version: process
                .interpreters
                .first()
                .and_then(|interpreter| interpreter.version.clone()),
            resting,
            more_threads: tids.len().saturating_sub(MOST_THREADS),
            threads,
            took: begin.elapsed(),
        })
    }
}

/// Finds the interpreter that has threads, the process's threads with the main one first, and which of them have Python to run.
fn python_of(process: &Process) -> Result<(Stacks, Vec<u32>, PythonThreads), DumpError> {
    let pid = process.pid;
    let mut last = StacksError::NoRuntime;
    for interpreter in &process.interpreters {
        let stacks = match Stacks::of(pid, interpreter) {
            Ok(stacks) => stacks,
            Err(error) => {
                last = error;
                continue;
            }
        };
        let mut tasks = threads(pid).map_err(|reason| DumpError::Threads { pid, reason })?;
        if tasks.is_empty() {
            return Err(DumpError::Ended { pid });
        }
        tasks.sort_unstable_by_key(|tid| (*tid != pid, *tid));
        match stacks.threads(&threads_inside(pid, &tasks)) {
            Ok(found) => return Ok((stacks, tasks, found)),
            Err(error) => last = error,
        }
    }
    Err(explained(process, last, COMMAND))
}

/// When a thread was looked at: what is needed to say for how long it has been asleep.
#[derive(Debug)]
struct Moment {
    processor: u32,
    started: u64,
    last_run: Option<(f64, Instant)>,
}

/// Looks at the threads of a process.
struct Observer<'a> {
    pid: u32,
    stacks: &'a Stacks,
    found: &'a PythonThreads,
    waits: Waits,
    end: Instant,
}

impl Observer<'_> {
    /// A thread; `None` when it has ended. `states` are its thread states: one, or one for each interpreter that it runs.
    fn thread(&self, tid: u32, states: &[&PythonThread]) -> Option<(Thread, Moment)> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let last_chance = attempt >= ATTEMPTS || Instant::now() > self.end;
            let before = activity::switches(self.pid, tid);
            let status = Status::of(self.pid, tid)?;
            let call = Call::of(self.pid, tid);
            let wait = self.wait(tid, status.state, &call);
            let waits = matches!(status.state, State::Sleeping | State::Disk);
            let last_run = waits.then(|| activity::last_run(self.pid, tid)).flatten();
            let read: Vec<_> = states
                .iter()
                .map(|state| (self.stacks.stack(state), self.holds_gil(state)))
                .collect();
            let held_still = before.is_some() && activity::switches(self.pid, tid) == before;
            let same = read
                .iter()
                .all(|(stack, _)| stack.as_ref().is_some_and(|stack| stack.same));
            let reading = match status.state {
                _ if !same => Reading::Changed,
                State::Running => Reading::Running,
                _ if held_still && call != Call::Running => Reading::Exact,
                _ => Reading::Changed,
            };
            if reading == Reading::Changed && !last_chance {
                continue;
            }
            let python = states.first().map(|first| {
                let mut python = Python {
                    interpreter: first.interpreter,
                    holds_gil: read.iter().any(|(_, holds)| *holds),
                    frames: Vec::new(),
                    cut: false,
                    reading,
                };
                for stack in read.into_iter().filter_map(|(stack, _)| stack) {
                    python.frames.extend(stack.frames);
                    python.cut |= stack.cut;
                }
                python
            });
            let name = states.first().and_then(|state| self.stacks.name(state));
            let moment = Moment {
                processor: status.processor,
                started: status.started,
                last_run,
            };
            return Some((
                Thread {
                    tid,
                    name: name.unwrap_or(status.name),
                    state: status.state,
                    wait,
                    call,
                    asleep: None,
                    python,
                },
                moment,
            ));
        }
    }

    fn holds_gil(&self, thread: &PythonThread) -> bool {
        let mut gils = self.found.gils.iter();
        gils.any(|gil| self.stacks.is_holder(gil, thread))
    }

    fn wait(&self, tid: u32, state: State, call: &Call) -> Option<WaitsFor> {
        if state == State::Running {
            return None;
        }
        let memory = |address, length| self.stacks.bytes(address, length);
        let wait = self.waits.explain(tid, call, &memory)?;
        Some(match wait {
            Wait::Futex(address) => {
                let gil = self.found.gils.iter().find(|gil| gil.contains(&address));
                match gil {
                    Some(gil) => WaitsFor::Gil {
                        held_by: self
                            .stacks
                            .holder(gil, &self.found.threads)
                            .and_then(|holder| holder.task)
                            // It has just got it.
                            .filter(|holder| *holder != tid),
                    },
                    None => WaitsFor::Lock { address },
                }
            }
            wait => WaitsFor::Kernel(wait),
        })
    }
}

/// Adds for how long threads have been asleep.
fn add_times(threads: &mut [Thread], moments: &[Moment]) {
    let asleep = moments.iter().filter(|moment| moment.last_run.is_some());
    let clocks = Clocks::of(asleep.map(|moment| moment.processor));
    let now = ticks();
    for (thread, moment) in threads.iter_mut().zip(moments) {
        let asleep = moment
            .last_run
            .and_then(|(last, seen)| clocks.asleep(moment.processor, last, seen));
        // No thread sleeps for longer than there has been one: then the clocks are not what they should be.
        let age = now.and_then(|now| now.checked_sub(moment.started));
        let age =
            age.map(|age| Duration::from_millis(age.saturating_add(2) * 1000 / ticks_a_second()));
        thread.asleep = asleep.filter(|asleep| age.is_some_and(|age| *asleep <= age));
    }
}

fn ticks_a_second() -> u64 {
    rustix::param::clock_ticks_per_second().max(1)
}

/// Clock ticks since boot.
fn ticks() -> Option<u64> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).ok()?;
    let rest = u64::try_from(now.tv_nsec).ok()? * ticks_a_second() / 1_000_000_000;
    seconds.checked_mul(ticks_a_second())?.checked_add(rest)
}

/// What is wrong with a process, and what to do about it: `command` needs its stacks.
pub(crate) fn explained(process: &Process, reason: StacksError, command: &str) -> DumpError {
    let pid = process.pid;
    match reason {
        StacksError::Ended => DumpError::Ended { pid },
        // A process that has begun to exit has no memory any more.
        StacksError::NoRuntime | StacksError::NoThreads if !crate::process::goes_on(pid) => {
            DumpError::Ended { pid }
        }
        StacksError::Denied(_)
            if start_time(pid).is_ok_and(|now| now != Some(process.start_time)) =>
        {
            DumpError::Ended { pid }
        }
        StacksError::Denied(_) => DumpError::Denied {
            pid,
            remedy: remedy(pid, command),
        },
        reason => DumpError::Stacks { pid, reason },
    }
}

/// What lets us read the memory of a process.
fn remedy(pid: u32, command: &str) -> String {
    if rustix::process::geteuid().is_root() {
        return "it is closed even to root here, so give pystap CAP_SYS_PTRACE (in a container: `--cap-add SYS_PTRACE`), or run \
                it on the host"
            .to_owned();
    }
    let yama = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let because = match yama.trim() {
        "" | "0" => String::new(),
        scope => format!(
            " (kernel.yama.ptrace_scope is {scope} here, so your own processes are closed, too)"
        ),
    };
    format!("run it as root, `sudo {command} -p {pid}`{because}")
}
