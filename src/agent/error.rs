//! Why an agent does not trace a process, each with what to do about it.

use std::io;

use super::attach_method::AttachMethodError;
use super::injection::InjectionError;
use super::numbers;
use super::placement::PlacementError;
use super::remote::RemoteError;

/// Why an agent does not trace a process.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// No file.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// No way in.
    #[error("pystap's agent cannot get into process {pid}: {reason}")]
    AttachMethod {
        /// The process.
        pid: u32,
        /// Why, with the next step.
        reason: AttachMethodError,
    },
    /// The request could not be made.
    #[error(
        "process {pid} could not be asked to load pystap's agent: {reason}; nothing was changed in it, so try again, or restart it under pystap as `-- COMMAND`"
    )]
    Remote {
        /// The process.
        pid: u32,
        /// Why.
        reason: RemoteError,
    },
    /// No call could be put in, or it did not do what it should.
    #[error(
        "pystap's agent could not be put into process {pid}: {reason}; try again, or `pystap agent install --python PATH` and restart the process"
    )]
    Injection {
        /// The process.
        pid: u32,
        /// Why.
        reason: InjectionError,
    },
    /// It is stopped, so that it runs nothing.
    #[error(
        "process {pid} is stopped (by SIGSTOP, Ctrl-Z or a debugger), so pystap's agent did not begin in it; let it go on (`kill -CONT {pid}`, or end the debugger) and try again"
    )]
    Stopped {
        /// The process.
        pid: u32,
    },
    /// It took the request, and did not run the script.
    #[error(
        "process {pid} took the request to load pystap's agent and did not run it: an audit hook of the program forbids it (event cpython.remote_debugger_script; the program's standard error says so); allow it there, or start the program as `pystap trace -- COMMAND`"
    )]
    Vetoed {
        /// The process.
        pid: u32,
    },
    /// It was asked and has run nothing.
    #[error(
        "process {pid} has run no Python code for {seconds} s (all its threads wait in system calls), so pystap's agent was not loaded and the request was withdrawn; give it something to do, such as a request, and try again"
    )]
    NeverRan {
        /// The process.
        pid: u32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Its agent is there, and said nothing more.
    #[error(
        "process {pid} is not traced: the agent in it did not begin within {seconds} s; look whether the process is stopped or busy in C code, and start it again"
    )]
    Unresponsive {
        /// The process.
        pid: u32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Loading failed in the target.
    #[error(
        "process {pid} could not load pystap's agent ({reason}), so its calls cannot be traced; {next}"
    )]
    Load {
        /// The process.
        pid: u32,
        /// The exception there.
        reason: String,
        /// What to do.
        next: &'static str,
    },
    /// The agent does not want to.
    #[error(
        "process {pid} is not traced; the agent in it says: \u{201c}{}; {}\u{201d}", numbers::ours(*pid, reason), numbers::ours(*pid, next)
    )]
    Refused {
        /// The process.
        pid: u32,
        /// The agent's reason.
        reason: String,
        /// The agent's advice.
        next: String,
    },
    /// A version that we do not speak with.
    #[error(
        "process {pid} has pystap's agent of version {found} loaded, which this pystap ({ours}) cannot speak with, so its calls are not traced; restart the process (after `pystap agent install --python PATH`, where it was installed)", ours = env!("CARGO_PKG_VERSION")
    )]
    OtherVersion {
        /// The process.
        pid: u32,
        /// The version there.
        found: String,
    },
    /// It sees none of the libraries that are probed.
    #[error(
        "process {pid} is not traced: it sees other files than those of this session (a container), or another agent waits in it than those that are probed; end this session and begin another one"
    )]
    OutOfReach {
        /// The process.
        pid: u32,
    },
    /// The connection ended.
    #[error(
        "pystap's agent in process {pid} closed the connection without an answer, so its calls are not traced; look whether the process still runs, and try again"
    )]
    Silent {
        /// The process.
        pid: u32,
    },
    /// Somebody else answers.
    #[error(
        "what answers for pystap's agent of process {pid} is not trusted ({reason}), so its calls are not traced; look who it is with `ss -xlp`"
    )]
    Stranger {
        /// The process.
        pid: u32,
        /// Why.
        reason: &'static str,
    },
    /// It was forked by other code than Python's, and its parent's agent answers.
    #[error(
        "process {pid} is not traced: process {parent} forked it in C (as uwsgi does), and the agent in it, a copy of that of {parent}, has not begun anew; it does when the main thread of {pid} runs Python code, so give it something to do, such as a request, and try again, or let the workers load the program themselves (uwsgi: lazy-apps = true)"
    )]
    ForkedInC {
        /// The process.
        pid: u32,
        /// The one whose agent answers.
        parent: u32,
    },
    /// Whether its interpreter's own marks are armed cannot be told.
    #[error(
        "process {pid} is not traced by pystap's agent, because it cannot be told whether the probes of its interpreter are armed, and its calls would be told twice: {reason}; try again"
    )]
    Unclear {
        /// The process.
        pid: u32,
        /// Why.
        reason: crate::python::PythonError,
    },
    /// More than a packet holds.
    #[error(
        "the filters are longer than the 64 KB that pystap's agent can be told, so nothing is traced; use fewer or shorter ones"
    )]
    TooManyFilters,
    /// Anything else that the system refuses.
    #[error(
        "{what} ({reason}), so pystap's agent cannot be used; try again, and report this if it stays"
    )]
    System {
        /// What failed, a clause.
        what: &'static str,
        /// The reason.
        reason: io::Error,
    },
}
