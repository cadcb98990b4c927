//! What can go wrong while targets are selected or a command is launched, each with what to do about it.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::Status;
use crate::python::PythonError;
use crate::service::ServiceError;

/// Why there is no target.
#[derive(Debug, Error)]
pub enum TargetError {
    /// The target's interpreter cannot be used.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// Nothing was selected.
    #[error(
        "no target was named, so there is nothing to trace: use -p PID, --service NAME, --match REGEX, --python PATH or -- COMMAND"
    )]
    Nothing,
    /// The pattern matches no Python process.
    #[error(
        "no Python process has {pattern:?} in its command line, so there is nothing to trace; {runs}; `pystap ps` lists \
         all of them"
    )]
    NoMatch {
        /// The regular expression.
        pattern: String,
        /// The Python programs that run instead.
        runs: String,
    },
    /// The pattern matches only processes that we may not examine.
    #[error(
        "{processes} processes have {pattern:?} in their command lines but are not open to this user, so nothing is \
         traced: run pystap as root (in a container, with CAP_SYS_PTRACE)"
    )]
    MatchesHidden {
        /// The regular expression.
        pattern: String,
        /// How many processes it matches.
        processes: usize,
    },
    /// The user's service configuration cannot be parsed.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// There is no such service.
    #[error("{error}; {runs}")]
    UnknownService {
        /// The services that are known instead.
        error: ServiceError,
        /// The Python programs that run instead.
        runs: String,
    },
    /// The service has no processes.
    #[error(
        "no Python process of service {service:?} runs, so there is nothing to look at; {runs}; `pystap ps` lists all of \
         them"
    )]
    NoService {
        /// Its name.
        service: String,
        /// The Python programs that run instead.
        runs: String,
    },
    /// `-p` and `--python` contradict each other.
    #[error(
        "process {pid} runs {} and not the interpreter that --python names, so it is not a target: leave out \
         --python, or name another process", runs.display()
    )]
    OtherInterpreter {
        /// The process.
        pid: u32,
        /// Its interpreter.
        runs: PathBuf,
    },
    /// /proc as a whole cannot be read.
    #[error(
        "the list of processes cannot be read from /proc ({reason}), so no target can be found: check that /proc is \
         mounted, then try again"
    )]
    Table {
        /// The reason.
        reason: procfs::ProcError,
    },
    /// The command was not found.
    #[error("there is no command {}, so nothing was started: check its spelling and PATH", command.display())]
    CommandNotFound {
        /// As the user typed it.
        command: OsString,
    },
    /// The command exists but is not executable.
    #[error(
        "{} may not be executed, so nothing was started: make it executable with `chmod +x`, or put the interpreter \
         before it, as `-- python3 {}`", path.display(), crate::shell::path(path)
    )]
    NotExecutable {
        /// The file.
        path: PathBuf,
    },
    /// No interpreter can be guessed for a command.
    #[error(
        "{} is not Python and there is no python3 in PATH, so it is not known which interpreter it will use: name \
         that with --python PATH", command.display()
    )]
    NoInterpreter {
        /// As the user typed it.
        command: OsString,
    },
    /// A shim did not answer.
    #[error(
        "the shim {} does not say which interpreter it starts ({reason}), so that cannot be traced: name the \
         interpreter itself with --python PATH", shim.display()
    )]
    Shim {
        /// The shim.
        shim: PathBuf,
        /// What happened instead.
        reason: String,
    },
    /// The holder could not be started or waited for.
    #[error(
        "{} cannot be launched ({reason}), so nothing is traced: start it by hand and name it with -p PID", command.display()
    )]
    Launch {
        /// As the user typed it.
        command: OsString,
        /// The error from the system.
        reason: io::Error,
    },
    /// The holder ended instead of waiting.
    #[error("{} ended before tracing was ready ({status}), so nothing was traced: start it again", command.display())]
    NotHeld {
        /// As the user typed it.
        command: OsString,
        /// How the holder ended.
        status: Status,
    },
    /// pidfd or epoll failed.
    #[error(
        "the end of process {pid} cannot be awaited ({reason}), so tracing would not stop with it: give a --duration, \
         and check that the kernel is 5.3 or later"
    )]
    Watch {
        /// The process.
        pid: u32,
        /// The error from the system.
        reason: io::Error,
    },
    /// The watch itself failed.
    #[error(
        "the end of the traced processes cannot be awaited ({reason}), so tracing would not stop with them: raise the \
         limit on open files (`ulimit -n`), then try again"
    )]
    Watching {
        /// The error from the system.
        reason: io::Error,
    },
}

impl TargetError {
    /// The exit code of pystap for this failure: 1 failed while running, 2 wrong usage, 3 the host or the interpreter
    /// lacks something, 4 no such process or not Python.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            TargetError::Python(error) => error.exit_code(),
            TargetError::MatchesHidden { .. } => 3,
            TargetError::NoMatch { .. }
            | TargetError::NoService { .. }
            | TargetError::OtherInterpreter { .. } => 4,
            TargetError::Service(_) | TargetError::UnknownService { .. } => 2,
            TargetError::Nothing
            | TargetError::CommandNotFound { .. }
            | TargetError::NotExecutable { .. }
            | TargetError::NoInterpreter { .. } => 2,
            TargetError::Table { .. } | TargetError::Shim { .. } | TargetError::Watch { .. } => 3,
            TargetError::Launch { .. }
            | TargetError::NotHeld { .. }
            | TargetError::Watching { .. } => 1,
        }
    }
}
