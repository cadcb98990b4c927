//! The way in that has to be asked for (`--inject ptrace`): two calls in the process. The first loads the library
//! (`dlopen`); the second makes it start its own thread, which waits for the interpreter's lock as any thread of a C
//! extension does, and becomes an agent that waits for us. How a call is made, and where it does no harm, is the
//! business of [`super::window`].
//!
//! All of this is done on a thread: a place for a call may have to be waited for, and the session goes on meanwhile.
//!
//! The second call is the library's own `pystap_agent_enter`. Addresses come from the memory of the process
//! ([`super::symbols`]), not from files.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, bounded};
use procfs::process::{MMPermissions, MMapPath, MemoryMap, Process};

use super::loaded::Loaded;
use super::socket;
use super::symbols::Symbols;
use super::window::{self, Call, Done, Job, Memory, Place, Reached, Target, WindowError};
use crate::python::{Interpreter, maps};
use crate::threads;

/// How long to look for a point for a call.
const SEARCH: Duration = Duration::from_secs(10);
/// How long a call may take, and how long the new thread may take to get the interpreter's lock.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to check whether something has happened.
const LOOK: Duration = Duration::from_millis(2);
/// `RTLD_NOW`, and what glibc's private variant needs in addition.
const NOW: u64 = 2;
const PRIVATE: u64 = 0x8000_0000;
/// `mov $15, %rax; syscall`: what a signal handler returns to.
const RESTORER: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
/// Most bytes of the C library that are searched for it.
const LARGEST: u64 = 16 << 20;
/// The interpreter's loop, the function that starts the agent, and the variable that holds its result.
const LOOP: &str = "_PyEval_EvalFrameDefault";
const START: &str = "pystap_agent_enter";
const STATE: &str = "pystap_agent_state";

/// Why the agent did not get in.
#[derive(Debug, thiserror::Error)]
pub enum InjectionError {
    /// No thread could be made to call anything.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The machine is not x86-64.
    #[error("calls are put into processes of x86-64 machines only, and this is another one")]
    Machine,
    /// The CPU guards its stack.
    #[error("it has a shadow stack, which a call that is put in would not match")]
    ShadowStack,
    /// A function is missing.
    #[error("{0} is not found in it, so it is no CPython with glibc as usually built")]
    Missing(&'static str),
    /// The dynamic loader refused the library.
    #[error(
        "its dynamic loader refused the library; its mounts (noexec), a security module (SELinux, AppArmor) or an old C library can be why"
    )]
    Load,
    /// The call did not return.
    #[error("the call that loads the library has not ended within {seconds} s; it goes on by itself", seconds = PATIENCE.as_secs())]
    Slow,
    /// It is a different library.
    #[error("it has the library of another pystap loaded; restart it")]
    Other,
    /// It did not get the interpreter's lock.
    #[error("its interpreter did not give its lock within {seconds} s (a long call in C); the agent starts when it does, and goes after 30 s without a visitor", seconds = PATIENCE.as_secs())]
    Busy,
    /// The interpreter is not running yet, or is shutting down.
    #[error("its interpreter is not running any longer, or not yet")]
    NotRunning,
    /// The agent refused.
    #[error("the agent did not start in it; it is no CPython 3.9 to 3.15 with its GIL")]
    Refused,
    /// No thread could be started.
    #[error("it could not start a thread for the agent (a limit of its user or control group)")]
    NoThread,
}

/// An agent that is being injected. Dropping this cancels it; a process that was already sent into a call makes that
/// call.
#[derive(Debug)]
pub(super) struct Injection {
    cancelled: Arc<AtomicBool>,
    result: Receiver<Result<String, InjectionError>>,
    thread: Option<JoinHandle<()>>,
}

impl Injection {
    /// Starts the injection.
    ///
    /// # Errors
    /// [`InjectionError`], as far as it can be known at once.
    pub(super) fn begin(
        pid: u32,
        interpreter: &Interpreter,
        library: &Path,
    ) -> Result<Injection, InjectionError> {
        let entrance = Entrance::new(pid, interpreter)?;
        let library = library.to_owned();
        let cancelled = Arc::new(AtomicBool::new(false));
        let (sender, result) = bounded(1);
        let flag = Arc::clone(&cancelled);
        let thread = threads::spawn(move || {
            let _ = sender.send(entrance.bring(&library, &|| flag.load(Ordering::Relaxed)));
        })
        .map_err(|reason| InjectionError::Window(WindowError::Helper(reason.to_string())))?;
        Ok(Injection {
            cancelled,
            result,
            thread: Some(thread),
        })
    }

    /// The result, once: the name of the agent's socket.
    pub(super) fn result(&self) -> Option<Result<String, InjectionError>> {
        match self.result.try_recv() {
            Ok(result) => Some(result),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(InjectionError::Window(
                WindowError::Helper("its thread broke off".to_owned()),
            ))),
        }
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A process, and the addresses in it that a call needs.
struct Entrance {
    target: Target,
    memory: Memory,
    /// `dlopen`, and the flags for it.
    open: (u64, u64),
    restorer: u64,
    code: Option<(u64, u64)>,
}

impl Entrance {
    fn new(pid: u32, interpreter: &Interpreter) -> Result<Entrance, InjectionError> {
        if !cfg!(target_arch = "x86_64") {
            return Err(InjectionError::Machine);
        }
        let target = Target::now(pid)?;
        if let Some(tracer) = window::tracer(pid) {
            return Err(WindowError::Traced { tracer }.into());
        }
        if has_shadow_stack(pid) {
            return Err(InjectionError::ShadowStack);
        }
        // Nothing is written here, but a user who may not write may not stop it either.
        let closed = |reason: std::io::Error| WindowError::Memory(reason.to_string());
        let memory = Memory::open(pid, true).map_err(closed)?;
        let maps = maps(pid)?;
        let symbols = |base: Option<u64>| base.and_then(|base| Symbols::at(&memory, base));
        let libc = symbols(base(&maps, |map| is_called(map, "libc")))
            .ok_or(InjectionError::Missing("the C library"))?;
        let libdl = symbols(base(&maps, |map| is_called(map, "libdl")));
        let open = libc.find("dlopen").map(|(at, _)| (at, NOW));
        let open = open
            .or_else(|| Some((libdl?.find("dlopen")?.0, NOW)))
            .or_else(|| Some((libc.find("__libc_dlopen_mode")?.0, NOW | PRIVATE)))
            .ok_or(InjectionError::Missing("dlopen"))?;
        let restorer = maps
            .iter()
            .filter(|map| is_called(map, "libc") && map.perms.contains(MMPermissions::EXECUTE))
            .find_map(|map| restorer(&memory, map.address))
            .ok_or(InjectionError::Missing("the end of signal handlers"))?;
        let code = symbols(base(&maps, |map| map.inode == interpreter.file.inode));
        let code = code.and_then(|code| code.find(LOOP));
        Ok(Entrance {
            target,
            open,
            restorer,
            code,
            memory,
        })
    }

    /// Injects the agent. Returns the name of its socket.
    fn bring(
        &self,
        library: &Path,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<String, InjectionError> {
        if Loaded::of_process(self.target.pid).is_none() {
            self.load(library, cancelled)?;
        }
        let found = maps(self.target.pid)?;
        let loaded = Loaded::of_process(self.target.pid).ok_or(InjectionError::Load)?;
        let library = base(&found, |map| map.inode == loaded.inode)
            .and_then(|base| Symbols::at(&self.memory, base))
            .ok_or(InjectionError::Other)?;
        let (Some((start, _)), Some((state_at, _))) = (library.find(START), library.find(STATE))
        else {
            return Err(InjectionError::Other);
        };
        let state = |memory: &Memory| Ok::<_, WindowError>(memory.number(state_at)? as u32);
        // The loader may still be busy on that thread. It first maps the whole file, so until it has mapped the data in
        // its place, the address leads to other bytes of the file, or behind its end.
        self.wait(cancelled, InjectionError::Slow, || {
            if !is_writable(&maps(self.target.pid)?, state_at) {
                return Ok(None);
            }
            Ok((state(&self.memory)? != 0).then_some(()))
        })?;
        let before = state(&self.memory)?;
        self.call(start, b"", 0, cancelled)?;
        let after = self.wait(cancelled, InjectionError::Busy, || {
            let now = state(&self.memory)?;
            Ok((now != before).then_some(now))
        })?;
        match after & 0xf {
            2 => {}
            3 => return Err(InjectionError::Refused),
            4 => return Err(InjectionError::NotRunning),
            _ => return Err(InjectionError::NoThread),
        }
        let sockets = socket::of_process(self.target.pid).unwrap_or_default();
        sockets.into_iter().next().ok_or(InjectionError::Refused)
    }

    /// Makes the process load the library.
    fn load(&self, library: &Path, cancelled: &dyn Fn() -> bool) -> Result<(), InjectionError> {
        use std::os::unix::ffi::OsStrExt;
        let (open, how) = self.open;
        let reached = self.call(open, library.as_os_str().as_bytes(), how, cancelled)?;
        let mut late = false;
        self.wait(cancelled, InjectionError::Slow, || {
            if Loaded::of_process(self.target.pid).is_some() {
                return Ok(Some(()));
            }
            // Checked once more after the call was seen to be over.
            if std::mem::replace(&mut late, self.is_over(reached)) {
                return Err(InjectionError::Load);
            }
            Ok(None)
        })
    }

    /// Whether a call has been seen to return: its thread waits somewhere above it, or is gone.
    fn is_over(&self, reached: Reached) -> bool {
        match Place::of(self.target.pid, reached.thread) {
            Some(Place::Call { stack, .. }) => stack >= reached.stack,
            Some(Place::Running | Place::Elsewhere) => false,
            None => true,
        }
    }

    fn call(
        &self,
        function: u64,
        text: &[u8],
        number: u64,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Reached, InjectionError> {
        let call = Call {
            target: self.target,
            function,
            text: text.to_vec(),
            number,
            restorer: self.restorer,
            code: self.code,
            seconds: SEARCH.as_secs(),
        };
        match window::run(&Job::Call(call), SEARCH, cancelled)? {
            Done::Called(reached) => Ok(reached),
            Done::Requested { .. } => Err(window::mistaken().into()),
        }
    }

    /// Calls `look` until it returns something.
    fn wait<T>(
        &self,
        cancelled: &dyn Fn() -> bool,
        late: InjectionError,
        mut look: impl FnMut() -> Result<Option<T>, InjectionError>,
    ) -> Result<T, InjectionError> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if cancelled() {
                return Err(WindowError::Cancelled.into());
            }
            if !self.target.is_there() {
                return Err(WindowError::Gone.into());
            }
            if Instant::now() >= end {
                return Err(late);
            }
            std::thread::park_timeout(LOOK);
        }
    }
}

fn maps(pid: u32) -> Result<Vec<MemoryMap>, InjectionError> {
    let process = i32::try_from(pid).ok().and_then(|it| Process::new(it).ok());
    let maps = process.and_then(|process| maps::of(&process).ok());
    Ok(maps.ok_or(WindowError::Gone)?.into_iter().collect())
}

/// Whether an address lies in memory that the process may write.
fn is_writable(maps: &[MemoryMap], address: u64) -> bool {
    let there = maps
        .iter()
        .find(|map| (map.address.0..map.address.1).contains(&address));
    there.is_some_and(|map| map.perms.contains(MMPermissions::WRITE))
}

/// The address at which the first wanted file is mapped.
fn base(maps: &[MemoryMap], wanted: impl Fn(&MemoryMap) -> bool) -> Option<u64> {
    let first = maps.iter().find(|map| map.offset == 0 && wanted(map))?;
    Some(first.address.0)
}

/// Whether a file is one of glibc's libraries: `libc.so.6`, or `libc-2.31.so`.
fn is_called(map: &MemoryMap, library: &str) -> bool {
    let MMapPath::Path(path) = &map.pathname else {
        return false;
    };
    let name = path.file_name().and_then(|name| name.to_str());
    // For a library that was replaced.
    let name = name.map(|name| name.strip_suffix(" (deleted)").unwrap_or(name));
    name.and_then(|name| name.strip_prefix(library))
        .is_some_and(|rest| rest.starts_with(".so.") || rest.starts_with("-2."))
}

/// The address in this code range where a signal handler returns.
fn restorer(memory: &Memory, (from, to): (u64, u64)) -> Option<u64> {
    let mut code = vec![0; usize::try_from(to.checked_sub(from)?.min(LARGEST)).ok()?];
    let read = memory.read_some(from, &mut code).ok()?;
    code.truncate(read);
    let at = code.windows(RESTORER.len()).position(|it| it == RESTORER)?;
    Some(from + at as u64)
}

/// Whether the CPU checks returns against a shadow stack.
fn has_shadow_stack(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .any(|line| line.starts_with("x86_Thread_features:") && line.contains("shstk"))
}
