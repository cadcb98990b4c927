//! PEP 768 from outside: asks a running CPython 3.14 or later to run a Python script of ours. Where to write the
//! request is read from the target itself (`_Py_DebugOffsets`, at the beginning of its runtime state); the position of
//! each field in that table depends on the minor version (Include/internal/pycore_debug_offsets.h).
//!
//! The target is stopped for the moment of writing, in a window ([`super::window`]). Every thread is asked, and the first that
//! comes to run bytecode does it, so that a main thread asleep in a system call delays nothing; the others are relieved of
//! it by [`Remote::withdraw`]. A stop also ends the waits that a stop ends by Linux's own rules (`epoll_wait`: signal(7)),
//! whereupon CPython looks: so an idle event loop answers at once.
//!
//! What another debugger has asked for is left alone. What was asked of threads that do not come to it is taken back in
//! another window, if there is any such thread.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::window::{
    self, Done, HIGHEST, Job, Memory, Offsets, Request, Target, WindowError, Wish, tracer,
};
use crate::python::{Interpreter, RemoteDebugSwitch, Version};

/// The cookie at the start of the runtime state.
const COOKIE: &[u8; 8] = b"xdebugpy";
/// No structure of CPython is larger.
const LARGEST_OFFSET: u64 = 1 << 20;
/// Most interpreters that are visited: the list is in foreign memory.
const MOST: usize = 1 << 16;

/// Why a process cannot be asked to run a script.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The interpreter is older than the interface.
    #[error("its Python has no remote debugging interface, which begins with 3.14")]
    TooOld,
    /// The table of this version is not known.
    #[error(
        "the layout of Python {version} is not known to this pystap, which knows 3.14 and 3.15 and no alpha or beta releases"
    )]
    UnknownLayout {
        /// As the target states it.
        version: String,
    },
    /// There is neither section nor cookie.
    #[error(
        "its runtime state cannot be found ({0}), as with an interpreter that was stripped of its sections"
    )]
    NoRuntime(&'static str),
    /// The table makes no sense.
    #[error("its table of offsets makes no sense ({0})")]
    Damaged(&'static str),
    /// Remote debugging is switched off.
    #[error("remote debugging is switched off in it by {by}")]
    Disabled {
        /// The switch, a noun phrase.
        by: String,
    },
    /// It is a free-threaded build.
    #[error("it is a free-threaded build, which the agent does not support")]
    FreeThreaded,
    /// We may not access its memory.
    #[error("its memory cannot be accessed ({0})")]
    Memory(io::Error),
    /// It could not be stopped, or not asked.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The path of the script is too long.
    #[error("the path of the script is longer than the {limit} bytes that the target has room for")]
    PathTooLong {
        /// Bytes, the final NUL included.
        limit: u64,
    },
}

/// Byte positions of fields in `_Py_DebugOffsets`.
struct Positions {
    interpreters_head: u64,
    interpreter_id: u64,
    interpreter_next: u64,
    threads_head: u64,
    thread_next: u64,
    /// Where the remote-debugging part begins: `eval_breaker`, `remote_debugger_support`, `remote_debugging_enabled`,
    /// `debugger_pending_call`, `debugger_script_path`, `debugger_script_path_size`, eight bytes each.
    support: u64,
}

/// The positions of a minor version, as measured in binaries of 3.14.10 and 3.15.2.
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

/// A process that can be asked.
#[derive(Debug)]
pub struct Remote {
    target: Target,
    memory: Memory,
    offsets: Offsets,
    interpreter: u64,
    /// The script that was asked for.
    asked: Option<Vec<u8>>,
}

impl Remote {
    /// Determines whether a process can be asked, without touching it.
    ///
    /// # Errors
    /// [`RemoteError`]; for what is wrong with each.
    pub fn of(pid: u32, interpreter: &Interpreter) -> Result<Remote, RemoteError> {
        let version = interpreter.version.as_ref();
        if version.is_some_and(|version| (version.major, version.minor) < (3, 14)) {
            return Err(RemoteError::TooOld);
        }
        let target = Target::now(pid)?;
        let offset = interpreter
            .image
            .python_runtime
            .ok_or(RemoteError::NoRuntime("there is no section .PyRuntime"))?;
        let runtime = crate::python::mapped_at(pid, interpreter.file.inode, offset)
            .ok_or(RemoteError::NoRuntime("it is not mapped"))?;
        let memory = Memory::open(pid, true).map_err(RemoteError::Memory)?;
        Remote::in_memory(target, memory, runtime, version)
    }

    /// The same, with the process's memory and the address of the runtime state given.
    pub(super) fn in_memory(
        target: Target,
        memory: Memory,
        runtime: u64,
        version: Option<&Version>,
    ) -> Result<Remote, RemoteError> {
        let pid = target.pid;
        let mut head = [0; 24];
        memory.read(runtime, &mut head)?;
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
        let field = |position: u64| memory.number(runtime + position);
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
        check(&offsets)?;
        let interpreter = main_interpreter(&memory, runtime, &offsets)?;
        let mut enabled = [0; 4];
        memory.read(interpreter + offsets.enabled, &mut enabled)?;
        if i32::from_ne_bytes(enabled) != 1 {
            return Err(RemoteError::Disabled { by: switch(pid) });
        }
        if let Some(tracer) = tracer(pid) {
            return Err(WindowError::Traced { tracer }.into());
        }
        Ok(Remote {
            target,
            memory,
            offsets,
            interpreter,
            asked: None,
        })
    }

    /// Asks every thread to run this script, a path as the target sees it. Returns how long the target was stopped, and
    /// the script that another debugger has asked for, if it has asked some threads: those are left alone.
    ///
    /// # Errors
    /// [`RemoteError`]; then nothing was asked.
    pub fn ask(&mut self, script: &Path) -> Result<(Duration, Option<String>), RemoteError> {
        let script = script.as_os_str().as_bytes();
        let mut path = script.to_vec();
        path.push(0);
        if path.len() as u64 > self.offsets.script_path_size {
            return Err(RemoteError::PathTooLong {
                limit: self.offsets.script_path_size,
            });
        }
        // Also after an attempt that failed halfway.
        self.asked = Some(script.to_vec());
        match self.request(Wish::Run(path))? {
            Done::Requested { other, stopped } => Ok((stopped, other)),
            Done::Called(_) => Err(window::mistaken().into()),
        }
    }

    /// Whether a thread has taken the request: it ran the script, or something kept it from that.
    pub fn was_taken(&self) -> bool {
        let wish = |script: &Vec<u8>| self.wishing(Wish::Withdraw(script.clone()));
        let request = self.asked.as_ref().map(wish);
        request.is_some_and(|request| request.was_taken(&self.memory))
    }

    /// Withdraws the request from threads that have not run it yet.
    pub fn withdraw(&self) {
        if let Some(script) = &self.asked {
            self.relieve(script);
        }
    }

    /// Withdraws from threads that have not run it yet the request to run the script whose path has this suffix. Other
    /// requests stand. The process is stopped for it only if needed: a thread that ends frees the memory that is
    /// written to.
    fn relieve(&self, script: &[u8]) {
        let wish = Wish::Withdraw(script.to_vec());
        // A process that has ended needs no relief.
        if self.wishing(wish.clone()).is_pending(&self.memory) {
            let _ = self.request(wish);
        }
    }

    pub(super) fn wishing(&self, wish: Wish) -> Request {
        Request {
            target: self.target,
            interpreter: self.interpreter,
            offsets: self.offsets,
            wish,
        }
    }

    fn request(&self, wish: Wish) -> Result<Done, WindowError> {
        let job = Job::Request(self.wishing(wish));
        window::run(&job, Duration::ZERO, &|| false)
    }
}

/// Withdraws a request to run a script of a pystap that is gone, before its file is removed: a thread that sleeps for
/// days would complain about the missing file when it wakes. Does nothing if the process has ended.
pub(super) fn relieve(pid: u32, script: &str) {
    let interpreters = Interpreter::of_process(pid).unwrap_or_default();
    if let Some(remote) = interpreters
        .first()
        .and_then(|interpreter| Remote::of(pid, interpreter).ok())
    {
        remote.relieve(script.as_bytes());
    }
}

/// Whether the table makes sense.
fn check(offsets: &Offsets) -> Result<(), RemoteError> {
    let all = [
        offsets.interpreters_head,
        offsets.interpreter_id,
        offsets.interpreter_next,
        offsets.threads_head,
        offsets.thread_next,
        offsets.eval_breaker,
        offsets.support,
        offsets.enabled,
        offsets.pending_call,
        offsets.script_path,
    ];
    if all.iter().any(|offset| *offset > LARGEST_OFFSET) {
        return Err(RemoteError::Damaged("an offset is too large"));
    }
    // Without the interface (`--without-remote-debug`) the fields are there and say nothing.
    if offsets.script_path_size == 0 || offsets.support == 0 {
        return Err(RemoteError::Disabled {
            by: "its build (configure --without-remote-debug)".to_owned(),
        });
    }
    if offsets.script_path_size > 1 << 16 {
        return Err(RemoteError::Damaged("the room for a path is too large"));
    }
    Ok(())
}

/// The interpreter with ID 0. New ones are added at the head of the list.
fn main_interpreter(memory: &Memory, runtime: u64, offsets: &Offsets) -> Result<u64, RemoteError> {
    let mut next = memory.number(runtime + offsets.interpreters_head)?;
    for _ in 0..MOST {
        if next == 0 {
            break;
        }
        if next > HIGHEST {
            return Err(RemoteError::Damaged("an interpreter is where no memory is"));
        }
        if memory.number(next + offsets.interpreter_id)? == 0 {
            return Ok(next);
        }
        next = memory.number(next + offsets.interpreter_next)?;
    }
    Err(WindowError::NoThread.into())
}

/// What is to be said of a process that lets us in although its command line says that it should not.
pub(super) fn ignored(pid: u32) -> Option<String> {
    let switch = RemoteDebugSwitch::of_process(pid)?;
    (switch == RemoteDebugSwitch::Misspelt).then(|| {
        format!(
            "process {pid} was started with {switch}, which its Python ignores, so that debuggers and pystap's agent can come in; to keep them out, start it with {}",
            RemoteDebugSwitch::Option
        )
    })
}

/// Which switch it was, as far as the process still shows it.
fn switch(pid: u32) -> String {
    match RemoteDebugSwitch::of_process(pid) {
        Some(RemoteDebugSwitch::Variable) => {
            "PYTHON_DISABLE_REMOTE_DEBUG in its environment (any value does that, 0 as well)"
                .to_owned()
        }
        Some(option) => format!("its option {option}"),
        None => {
            "-X disable-remote-debug, PYTHON_DISABLE_REMOTE_DEBUG, or its build (configure --without-remote-debug)"
                .to_owned()
        }
    }
}
