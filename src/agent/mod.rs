//! The agent from our side: a library (the crate `pystap-agent`) that gives an interpreter the marks that it lacks. This
//! room knows the ways into a process, puts the library where the process sees it, and speaks with it. What its marks say is
//! for the engines: to them its library is one more image.
//!
//! [`AttachMethod`] is the first door: how a process could be entered, found out without touching it. [`Agents`] is the second: the
//! agents of one session, from the first file to the last word.

mod attach;
mod attach_method;
mod control;
mod directory;
mod embedded;
pub mod environment;
mod foreign;
#[doc(hidden)]
pub mod fuzzing;
mod injection;
pub mod install;
mod joining;
mod loaded;
mod numbers;
mod placement;
mod registry;
mod remote;
mod socket;
mod symbols;
mod view;
mod visit;
mod window;

use std::collections::HashSet;
use std::io;

use pystap_agent_protocol as protocol;

pub use attach::{Agents, Attached, remarks};
pub use attach_method::{
    AttachMethod, AttachMethodError, NEWEST, OLDEST, obstacle_of_build, offer, supported,
};
pub use control::{AgentAccount, Joined, Outcome};
pub use embedded::image;
pub use injection::InjectionError;
pub use joining::Untraced;
pub use loaded::{Loaded, waiting};
pub use placement::{PlacementError, Stale, remove_stale};
pub use remote::{Remote, RemoteError};
pub use visit::{serve as visit, visit_through};
pub use window::{WindowError, serve as serve_window};

use crate::probe::{EventKind, Probe};
use crate::python::{self, FileId};
use crate::script::Filters;
use crate::script::filter::Glob;

/// The provider of the agent's marks.
pub const PROVIDER: &str = "pystap";

/// The kinds of events that the agent gives.
pub const KINDS: [&str; 3] = [
    EventKind::Call.name(),
    EventKind::Return.name(),
    EventKind::Gc.name(),
];
/// Names of its marks about functions.
pub const FUNCTIONS: [&str; 2] = Probe::names(Probe::FUNCTIONS);
/// The mark that goes with them: what the context is called in which a function runs.
pub const CONTEXT: &str = Probe::ContextName.name();
/// The marks that stand for CPython's own about collections.
pub const COLLECTIONS: [&str; 2] = Probe::names(Probe::COLLECTIONS);

/// Most bytes of a value as text: one less than a probe of SystemTap copies, where strings have their usual length, because
/// what fills all the room is taken for cut.
const LONGEST_VALUE: u32 = 509;

/// Which values are captured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// Arguments of calls.
    pub arguments: bool,
    /// What is returned.
    pub returns: bool,
    /// Names whose values are left out: globs, matched without case.
    pub hidden: Vec<Glob>,
}

impl Capture {
    /// Whether there is anything to capture.
    pub fn any(&self) -> bool {
        self.arguments || self.returns
    }
}

/// What agents are told to do.
#[derive(Debug, Clone, Default)]
pub struct AgentConfig {
    /// Whether calls are wanted, and the interpreters whose own marks tell them.
    pub functions: Option<HashSet<FileId>>,
    /// Which of [`FUNCTIONS`] are listened to.
    pub marks: Vec<&'static str>,
    /// Whether collections are wanted, and the interpreters whose own marks tell them.
    pub collections: Option<HashSet<FileId>>,
    /// Which functions.
    pub filters: Filters,
    /// Which values.
    pub capture: Capture,
    /// Whether children are traced.
    pub follow: bool,
}

impl AgentConfig {
    /// What the agent of this process is told, and where its children join. Where the interpreter's own marks tell an event,
    /// the agent does not.
    fn for_process(&self, pid: u32, follow: Option<protocol::Follow>) -> protocol::Start {
        let lacks = |own: &Option<HashSet<FileId>>| {
            own.as_ref().is_some_and(|own| {
                own.is_empty() || !python::maps_one_of(pid, own).unwrap_or(false)
            })
        };
        let mut events = Vec::new();
        if lacks(&self.functions) {
            events.push(protocol::Kind::Function);
        }
        if lacks(&self.collections) {
            events.push(protocol::Kind::Gc);
        }
        protocol::Start {
            events,
            filters: filters(&self.filters),
            contexts: true,
            capture: protocol::Capture {
                arguments: self.capture.arguments,
                returns: self.capture.returns,
                limit: LONGEST_VALUE,
                hidden: texts(&self.capture.hidden),
            },
            announce_running: true,
            follow,
        }
    }
}

fn texts(globs: &[Glob]) -> Vec<String> {
    globs.iter().map(|glob| glob.as_str().to_owned()).collect()
}

fn filters(filters: &Filters) -> protocol::Filters {
    protocol::Filters {
        functions: texts(&filters.functions),
        files: texts(&filters.files),
        modules: texts(&filters.modules),
        not_functions: texts(&filters.not_functions),
        not_files: texts(&filters.not_files),
        not_modules: texts(&filters.not_modules),
    }
}

/// What stands for the library in a plan, before it is written out.
pub fn expected_library(
    wanted: &AgentConfig,
) -> (std::path::PathBuf, crate::engine::uprobes::Probed) {
    let path = placement::usual();
    let probed = attach::probed(&path, 0, image(), wanted);
    (path, probed)
}

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
        "pystap's agent could not be put into process {pid}: {reason}; try again, or `pystap agent install` and restart the process"
    )]
    Injection {
        /// The process.
        pid: u32,
        /// Why.
        reason: InjectionError,
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
        "process {pid} has pystap's agent of version {found} loaded, which this pystap ({ours}) cannot speak with, so its calls are not traced; restart the process (after `pystap agent install`, where it was installed)", ours = env!("CARGO_PKG_VERSION")
    )]
    OtherVersion {
        /// The process.
        pid: u32,
        /// The version there.
        found: String,
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
