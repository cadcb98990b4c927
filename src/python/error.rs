//! What can go wrong while looking for an interpreter, each with what to do about it.

use std::error::Error;
use std::path::PathBuf;

use thiserror::Error;

/// Why there is no usable interpreter.
#[derive(Debug, Error)]
pub enum PythonError {
    /// No such process.
    #[error("there is no process {pid}, so it cannot be traced: look for its id with `pystap ps`")]
    NoProcess {
        /// The process ID that was asked for.
        pid: u32,
    },
    /// The process ended while it was being examined, or is a zombie.
    #[error(
        "process {pid} ended while it was being looked at, so there is nothing left to trace: name one that still \
         runs, or start it under pystap as `-- COMMAND`"
    )]
    Ended {
        /// Its process ID.
        pid: u32,
    },
    /// A kernel thread, which has no executable.
    #[error(
        "process {pid} is the kernel thread {name}, which runs no Python: name a Python process, for example one that \
         `pystap ps` lists"
    )]
    KernelThread {
        /// Its process ID.
        pid: u32,
        /// The kernel's name for it.
        name: String,
    },
    /// The process does not run Python.
    #[error(
        "process {pid} runs {}, which is not Python and has loaded no libpython, so there is nothing to trace in it: \
         name a Python process, for example one that `pystap ps` lists", executable.display()
    )]
    NotPython {
        /// Its process ID.
        pid: u32,
        /// Its executable, as the process sees it.
        executable: PathBuf,
    },
    /// The process runs a Python other than CPython.
    #[error(
        "process {pid} runs {implementation} ({}), and only CPython can be traced, so there is nothing to trace in it: \
         run the program with CPython", executable.display()
    )]
    OtherPython {
        /// Its process ID.
        pid: u32,
        /// The name of that implementation.
        implementation: &'static str,
        /// Its executable, as the process sees it.
        executable: PathBuf,
    },
    /// The file is a Python other than CPython.
    #[error(
        "{} is {implementation}, and only CPython can be traced, so nothing was started: run the program with CPython", path.display()
    )]
    OtherPythonFile {
        /// The file.
        path: PathBuf,
        /// The name of that implementation.
        implementation: &'static str,
    },
    /// /proc does not let us see the process's files.
    #[error(
        "process {pid} belongs to another user or is protected, so its interpreter cannot be found: run pystap as \
         root (in a container, with CAP_SYS_PTRACE)"
    )]
    Permission {
        /// Its process ID.
        pid: u32,
    },
    /// /proc contained something unexpected.
    #[error(
        "what /proc says about process {pid} cannot be read ({reason}), so its interpreter cannot be found: check \
         that /proc is mounted, then try again"
    )]
    Proc {
        /// Its process ID.
        pid: u32,
        /// The reason.
        reason: procfs::ProcError,
    },
    /// No such file, or not readable.
    #[error(
        "{} cannot be read ({reason}), so it cannot be used as an interpreter: check the path, for example with `ls \
         -lL {}`", path.display(), crate::shell::path(path)
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error from the system.
        reason: std::io::Error,
    },
    /// Examining the process takes too long to find out what it runs.
    #[error(
        "process {pid} does not let itself be looked at in time, so it is not traced: its program may be on a file system \
         whose server does not answer; try again when that does"
    )]
    Slow {
        /// The process.
        pid: u32,
    },
    /// The file is a script: a version manager's shim, or a program written in Python.
    #[error(
        "{} is a script and not the interpreter itself, so it has no probes to look at: name the interpreter that it \
         starts", path.display()
    )]
    Script {
        /// The script.
        path: PathBuf,
    },
    /// The file is a program or a library, but contains no Python.
    #[error(
        "{} is not Python and needs no libpython, so there is nothing to trace in it: name an interpreter, for \
         example /usr/bin/python3", path.display()
    )]
    NotPythonFile {
        /// The file.
        path: PathBuf,
    },
    /// The program needs a libpython that cannot be found.
    #[error(
        "{} needs {library}, which is in none of the directories the dynamic linker searches, so its interpreter \
         cannot be examined: install that library, or set LD_LIBRARY_PATH as the program will have it", path.display()
    )]
    NoLibrary {
        /// The program.
        path: PathBuf,
        /// The library it needs.
        library: String,
    },
    /// The file contains Python, but its ELF structure cannot be read.
    #[error(transparent)]
    Image(Box<dyn Error + Send + Sync>),
}

impl PythonError {
    /// The exit code of pystap for this failure: 2 wrong usage, 3 the host or the interpreter lacks something, 4 no
    /// such process or not Python.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            PythonError::NoProcess { .. }
            | PythonError::Ended { .. }
            | PythonError::KernelThread { .. }
            | PythonError::NotPython { .. }
            | PythonError::NotPythonFile { .. } => 4,
            PythonError::OtherPython { .. }
            | PythonError::OtherPythonFile { .. }
            | PythonError::Permission { .. }
            | PythonError::Proc { .. }
            | PythonError::NoLibrary { .. }
            | PythonError::Slow { .. }
            | PythonError::Image(_) => 3,
            PythonError::Unreadable { reason, .. } => match reason.kind() {
                std::io::ErrorKind::PermissionDenied => 3,
                _ => 2,
            },
            PythonError::Script { .. } => 2,
        }
    }
}
