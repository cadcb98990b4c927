//! PEP 768 from outside: asks a running CPython 3.14 or later to run a Python script of ours. Where the request is
//! written is read from the target itself (`_Py_DebugOffsets`, at the beginning of its runtime state); which field of that
//! table stands where depends on the minor version (Include/internal/pycore_debug_offsets.h).
//!
//! The target is stopped (ptrace) for the microseconds of writing: the word that tells a thread to look has other bits,
//! which the interpreter changes at any time. Every thread is asked, and the first that comes to run bytecode does it, so
//! that a main thread asleep in a system call delays nothing; the others are relieved of it by [`Remote::withdraw`].
//! A stop also ends the waits that a stop ends by Linux's own rules (`epoll_wait`: signal(7)), whereupon CPython looks: so an
//! idle event loop answers at once.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::python::{Interpreter, Version};

/// What the runtime state begins with.
const COOKIE: &[u8; 8] = b"xdebugpy";
/// `_PY_EVAL_PLEASE_STOP_BIT`: makes a thread look for pending requests.
const PLEASE_STOP: u64 = 1 << 5;
/// `PTRACE_EVENT_STOP` of linux/ptrace.h.
const EVENT_STOP: i32 = 128;
/// How long all threads may take to stop. One in an uninterruptible wait (a dead network file system) does not.
const STOPPING: Duration = Duration::from_secs(2);
/// No structure of CPython is larger.
const LARGEST_OFFSET: u64 = 1 << 20;
/// Most threads, and interpreters, that are looked at: the lists are in foreign memory.
const MOST: usize = 1 << 16;
/// No program's memory reaches higher, so that an address and an offset make an address.
const HIGHEST: u64 = u64::MAX >> 1;

/// Why a process cannot be asked to run a script.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The interpreter is older than the interface.
    #[error("its Python has no remote debugging interface, which begins with 3.14")]
    TooOld,
    /// A version whose table is not known.
    #[error(
        "the layout of Python {version} is not known to this pystap, which knows 3.14 and 3.15 and no alpha or beta releases"
    )]
    UnknownLayout {
        /// As the target has it.
        version: String,
    },
    /// Neither section nor cookie.
    #[error(
        "its runtime state cannot be found ({0}), as with an interpreter that was stripped of its sections"
    )]
    NoRuntime(&'static str),
    /// The table makes no sense.
    #[error("its table of offsets makes no sense ({0})")]
    Damaged(&'static str),
    /// Switched off.
    #[error("remote debugging is switched off in it by {by}")]
    Disabled {
        /// The switch, a noun phrase.
        by: String,
    },
    /// Threads without the GIL.
    #[error("it is a free-threaded build, which the agent does not support")]
    FreeThreaded,
    /// Its memory is closed to us.
    #[error("its memory cannot be accessed ({0})")]
    Memory(io::Error),
    /// Somebody else has it by ptrace.
    #[error("process {tracer} traces it already (a debugger, strace), and only one can")]
    Traced {
        /// The other one.
        tracer: u32,
    },
    /// It cannot be stopped.
    #[error("it cannot be stopped for a moment ({0})")]
    Stop(String),
    /// The path of the script has no room.
    #[error("the path of the script is longer than the {limit} bytes that the target has room for")]
    PathTooLong {
        /// Bytes, the final NUL included.
        limit: u64,
    },
    /// It has no thread that could run anything.
    #[error("it has no Python thread")]
    NoThread,
}

/// Byte positions of fields in `_Py_DebugOffsets`.
struct Positions {
    interpreters_head: u64,
    interpreter_id: u64,
    interpreter_next: u64,
    threads_head: u64,
    thread_next: u64,
    /// Where the part about remote debugging begins: `eval_breaker`, `remote_debugger_support`, `remote_debugging_enabled`,
    /// `debugger_pending_call`, `debugger_script_path`, `debugger_script_path_size`, eight bytes each.
    support: u64,
}

/// The positions of a minor version, as they were measured in binaries of 3.14.10 and 3.15.2.
fn positions(minor: u8) -> Option<Positions> {
    let support = match minor {
        14 => 712,
        15 => 840,
        _ => return None,
    };
    Some(Positions {
        interpreters_head: 40,
        interpreter_id: 56,
        interpreter_next: 64,
        threads_head: 72,
        thread_next: 192,
        support,
    })
}

/// What the target's own table says.
#[derive(Debug, Clone, Copy)]
struct Offsets {
    interpreters_head: u64,
    interpreter_id: u64,
    interpreter_next: u64,
    threads_head: u64,
    thread_next: u64,
    eval_breaker: u64,
    support: u64,
    enabled: u64,
    pending_call: u64,
    script_path: u64,
    script_path_size: u64,
}

/// A process that can be asked.
#[derive(Debug)]
pub struct Remote {
    pid: u32,
    memory: File,
    offsets: Offsets,
    interpreter: u64,
}

impl Remote {
    /// Finds out whether a process can be asked, without touching it.
    ///
    /// # Errors
    /// [`RemoteError`]; for what is wrong with each.
    pub fn of(pid: u32, interpreter: &Interpreter) -> Result<Remote, RemoteError> {
        let version = interpreter.version.as_ref();
        if version.is_some_and(|version| (version.major, version.minor) < (3, 14)) {
            return Err(RemoteError::TooOld);
        }
        let offset = interpreter
            .image
            .python_runtime
            .ok_or(RemoteError::NoRuntime("there is no section .PyRuntime"))?;
        let runtime = crate::python::mapped_at(pid, interpreter.file.inode, offset)
            .ok_or(RemoteError::NoRuntime("it is not mapped"))?;
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .map_err(RemoteError::Memory)?;
        Remote::in_memory(pid, memory, runtime, version)
    }

    /// The same, with the process's memory and the address of the runtime state at hand.
    pub(super) fn in_memory(
        pid: u32,
        memory: File,
        runtime: u64,
        version: Option<&Version>,
    ) -> Result<Remote, RemoteError> {
        let mut head = [0; 24];
        read(&memory, runtime, &mut head)?;
        let word = |at: usize| {
            let bytes = head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            u64::from_ne_bytes(bytes.unwrap_or_default())
        };
        if head.get(..8) != Some(COOKIE) {
            return Err(RemoteError::NoRuntime("it does not begin with its cookie"));
        }
        let [major, minor, _, release] = (word(8) as u32).to_be_bytes();
        let positions = positions(minor)
            // The table may still change in an alpha or a beta.
            .filter(|_| major == 3 && matches!(release >> 4, 0xc | 0xf))
            .ok_or_else(|| RemoteError::UnknownLayout {
                version: version.map_or_else(|| format!("{major}.{minor}"), ToString::to_string),
            })?;
        if word(16) != 0 {
            return Err(RemoteError::FreeThreaded);
        }
        let field = |position: u64| number(&memory, runtime + position);
        let support = |index: u64| field(positions.support + 8 * index);
        let offsets = Offsets {
            interpreters_head: field(positions.interpreters_head)?,
            interpreter_id: field(positions.interpreter_id)?,
            interpreter_next: field(positions.interpreter_next)?,
            threads_head: field(positions.threads_head)?,
            thread_next: field(positions.thread_next)?,
            eval_breaker: support(0)?,
            support: support(1)?,
            enabled: support(2)?,
            pending_call: support(3)?,
            script_path: support(4)?,
            script_path_size: support(5)?,
        };
        offsets.check()?;
        let interpreter = main_interpreter(&memory, runtime, &offsets)?;
        let mut enabled = [0; 4];
        read(&memory, interpreter + offsets.enabled, &mut enabled)?;
        if i32::from_ne_bytes(enabled) != 1 {
            return Err(RemoteError::Disabled { by: switch(pid) });
        }
        if let Some(tracer) = tracer(pid) {
            return Err(RemoteError::Traced { tracer });
        }
        Ok(Remote {
            pid,
            memory,
            offsets,
            interpreter,
        })
    }

    /// Asks every thread to run this script, a path as the target sees it.
    ///
    /// # Errors
    /// [`RemoteError`]; then nothing was asked.
    pub fn ask(&self, script: &Path) -> Result<(), RemoteError> {
        let mut path = script.as_os_str().as_bytes().to_vec();
        path.push(0);
        if path.len() as u64 > self.offsets.script_path_size {
            return Err(RemoteError::PathTooLong {
                limit: self.offsets.script_path_size,
            });
        }
        // A thread that ends lets go of whatever it traces, also where a stop came halfway only.
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| self.ask_stopped(&path));
            asking
                .join()
                .unwrap_or_else(|_| Err(RemoteError::Stop("the attempt broke off".to_owned())))
        })
    }

    fn ask_stopped(&self, path: &[u8]) -> Result<(), RemoteError> {
        let stopped = Stopped::all(self.pid)?;
        self.ask_threads(path)?;
        drop(stopped);
        Ok(())
    }

    /// Writes the request; nothing of the process may run meanwhile.
    pub(super) fn ask_threads(&self, path: &[u8]) -> Result<(), RemoteError> {
        let threads = self.threads()?;
        if threads.is_empty() {
            return Err(RemoteError::NoThread);
        }
        for thread in threads {
            let support = thread + self.offsets.support;
            self.write(support + self.offsets.script_path, path)?;
            self.write(support + self.offsets.pending_call, &1_i32.to_ne_bytes())?;
            let breaker = thread + self.offsets.eval_breaker;
            let value = number(&self.memory, breaker)? | PLEASE_STOP;
            self.write(breaker, &value.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Takes back what was asked of threads that have not come to it. Not stopped: a thread that takes the request at this
    /// very moment runs the script, which does nothing a second time.
    pub fn withdraw(&self) {
        for thread in self.threads().unwrap_or_default() {
            let pending = thread + self.offsets.support + self.offsets.pending_call;
            // A process that has ended needs no relief.
            let _ = self.write(pending, &0_i32.to_ne_bytes());
        }
    }

    /// Takes back what another pystap, which is gone, asked of threads that have not come to it: to run the script of
    /// this file name. Whatever else was asked of them stands.
    fn relieve(&self, script: &str) {
        for thread in self.threads().unwrap_or_default() {
            let support = thread + self.offsets.support;
            let room = usize::try_from(self.offsets.script_path_size).unwrap_or(0);
            let mut path = vec![0; room];
            if read(&self.memory, support + self.offsets.script_path, &mut path).is_err() {
                continue;
            }
            let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
            if path.ends_with(script.as_bytes()) {
                let _ = self.write(support + self.offsets.pending_call, &0_i32.to_ne_bytes());
            }
        }
    }

    /// Addresses of the thread states of the main interpreter.
    fn threads(&self) -> Result<Vec<u64>, RemoteError> {
        let mut threads = Vec::new();
        let mut next = number(&self.memory, self.interpreter + self.offsets.threads_head)?;
        while next != 0 {
            threads.push(next);
            if threads.len() > MOST {
                return Err(RemoteError::Damaged("its list of threads has no end"));
            }
            if next > HIGHEST {
                return Err(RemoteError::Damaged("a thread is where no memory is"));
            }
            next = number(&self.memory, next + self.offsets.thread_next)?;
        }
        Ok(threads)
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), RemoteError> {
        self.memory
            .write_all_at(bytes, address)
            .map_err(RemoteError::Memory)
    }
}

/// Takes back the request to run a script of a pystap that is gone, before its file goes: a thread that sleeps for days
/// would complain of the missing file when it wakes. Does nothing where the process has ended.
pub(super) fn relieve(pid: u32, script: &str) {
    let interpreters = Interpreter::of_process(pid).unwrap_or_default();
    if let Some(remote) = interpreters
        .first()
        .and_then(|interpreter| Remote::of(pid, interpreter).ok())
    {
        remote.relieve(script);
    }
}

impl Offsets {
    fn check(&self) -> Result<(), RemoteError> {
        let all = [
            self.interpreters_head,
            self.interpreter_id,
            self.interpreter_next,
            self.threads_head,
            self.thread_next,
            self.eval_breaker,
            self.support,
            self.enabled,
            self.pending_call,
            self.script_path,
        ];
        if all.iter().any(|offset| *offset > LARGEST_OFFSET) {
            return Err(RemoteError::Damaged("an offset is too large"));
        }
        // Without the interface (`--without-remote-debug`) the fields are there and say nothing.
        if self.script_path_size == 0 || self.support == 0 {
            return Err(RemoteError::Disabled {
                by: "its build (configure --without-remote-debug)".to_owned(),
            });
        }
        if self.script_path_size > 1 << 16 {
            return Err(RemoteError::Damaged("the room for a path is too large"));
        }
        Ok(())
    }
}

/// The interpreter with the id 0. New ones come at the head of the list.
fn main_interpreter(memory: &File, runtime: u64, offsets: &Offsets) -> Result<u64, RemoteError> {
    let mut next = number(memory, runtime + offsets.interpreters_head)?;
    for _ in 0..MOST {
        if next == 0 {
            break;
        }
        if next > HIGHEST {
            return Err(RemoteError::Damaged("an interpreter is where no memory is"));
        }
        if number(memory, next + offsets.interpreter_id)? == 0 {
            return Ok(next);
        }
        next = number(memory, next + offsets.interpreter_next)?;
    }
    Err(RemoteError::NoThread)
}

/// Which switch it was, as far as the process still says.
fn switch(pid: u32) -> String {
    const VARIABLE: &[u8] = b"PYTHON_DISABLE_REMOTE_DEBUG=";
    let words = |file: &str| -> Vec<Vec<u8>> {
        let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
    };
    let option = words("cmdline")
        .iter()
        .any(|word| word.ends_with(b"disable-remote-debug"));
    if option {
        return "its option -X disable-remote-debug".to_owned();
    }
    if words("environ")
        .iter()
        .any(|word| word.starts_with(VARIABLE))
    {
        return "PYTHON_DISABLE_REMOTE_DEBUG in its environment (any value does that, 0 as well)"
            .to_owned();
    }
    "-X disable-remote-debug, PYTHON_DISABLE_REMOTE_DEBUG, or its build (configure --without-remote-debug)"
        .to_owned()
}

fn tracer(pid: u32) -> Option<u32> {
    tracer_in(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Who traces a process, from its /proc/PID/status.
pub(super) fn tracer_in(status: &str) -> Option<u32> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))?;
    line.trim().parse().ok().filter(|tracer| *tracer != 0)
}

fn read(memory: &File, address: u64, into: &mut [u8]) -> Result<(), RemoteError> {
    memory
        .read_exact_at(into, address)
        .map_err(RemoteError::Memory)
}

fn number(memory: &File, address: u64) -> Result<u64, RemoteError> {
    let mut bytes = [0; 8];
    read(memory, address, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// The threads of a process, stopped. They go on when this is dropped, and when we die.
struct Stopped {
    /// With the signal that each was about to be given.
    threads: Vec<(Pid, Option<Signal>)>,
}

impl Stopped {
    fn all(pid: u32) -> Result<Stopped, RemoteError> {
        let mut stopped = Stopped {
            threads: Vec::new(),
        };
        // A thread that begins meanwhile is found in the next round, until there is none.
        loop {
            let new: Vec<Pid> = threads(pid)
                .map_err(RemoteError::Memory)?
                .into_iter()
                .filter(|thread| stopped.threads.iter().all(|(known, _)| known != thread))
                .collect();
            if new.is_empty() {
                return Ok(stopped);
            }
            for thread in new {
                stopped.stop(thread)?;
            }
        }
    }

    fn stop(&mut self, thread: Pid) -> Result<(), RemoteError> {
        let refused = |errno: Errno| RemoteError::Stop(errno.desc().to_owned());
        match ptrace::seize(thread, Options::empty()) {
            Ok(()) => {}
            // It has ended.
            Err(Errno::ESRCH) => return Ok(()),
            Err(Errno::EPERM) if is_dead(thread) => return Ok(()),
            Err(errno) => return Err(refused(errno)),
        }
        match ptrace::interrupt(thread) {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Ok(()),
            Err(errno) => return Err(refused(errno)),
        }
        let end = Instant::now() + STOPPING;
        loop {
            let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
            let signal = match waitpid(thread, Some(flags)) {
                Ok(WaitStatus::PtraceEvent(_, _, EVENT_STOP)) => None,
                Ok(WaitStatus::Stopped(_, signal) | WaitStatus::PtraceEvent(_, signal, _)) => {
                    Some(signal)
                }
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
                | Err(Errno::ESRCH | Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) if Instant::now() < end => {
                    std::thread::park_timeout(Duration::from_micros(50));
                    continue;
                }
                Ok(_) | Err(Errno::EINTR) => {
                    return Err(RemoteError::Stop(format!(
                        "thread {thread} is in a wait that nothing interrupts"
                    )));
                }
                Err(errno) => return Err(refused(errno)),
            };
            self.threads.push((thread, signal));
            return Ok(());
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for (thread, signal) in &self.threads {
            // One that was killed meanwhile is gone.
            let _ = ptrace::detach(*thread, *signal);
        }
    }
}

fn is_dead(thread: Pid) -> bool {
    fs::read_to_string(format!("/proc/{thread}/stat")).map_or(true, |stat| {
        let state = stat
            .rsplit_once(") ")
            .map(|(_, rest)| rest.starts_with(['Z', 'X']));
        state.unwrap_or(true)
    })
}

fn threads(pid: u32) -> io::Result<Vec<Pid>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    Ok(names?
        .into_iter()
        .filter_map(|name| name.to_str()?.parse().ok().map(Pid::from_raw))
        .collect())
}
