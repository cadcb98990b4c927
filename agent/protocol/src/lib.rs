//! What pystap and its agent say to each other: JSON objects over a `SOCK_SEQPACKET` socket, one per packet, told apart by
//! their `type`. Neither side knows more of the other than this. Works without std, because the agent has none.
#![no_std]

extern crate alloc;

use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::CStr;
use core::fmt;

use serde::{Deserialize, Serialize};

/// Version of the messages and of the marks' arguments. Both sides refuse another one.
pub const PROTOCOL: u32 = 6;

/// What the name of an agent's socket begins with, in the abstract namespace, after the NUL: sixteen hexadecimal digits
/// follow.
pub const SOCKET_PREFIX: &str = "pystap-agent/";

/// What the agent's threads are called (`comm`). The descriptors of its sockets are in their tables, not in the program's.
pub const THREAD_NAME: &CStr = c"pystap-agent";

/// Largest packet in bytes.
pub const LARGEST_PACKET: usize = 64 * 1024;

/// How the agent sees calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// `sys.monitoring`, Python 3.12 and later.
    Monitoring,
    /// A profile function on every thread, Python 3.9 to 3.11.
    Profile,
}

/// Who the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the agent.
    pub protocol: u32,
    /// Version of the agent's package.
    pub version: String,
    /// Major, minor and micro version of the interpreter.
    pub python: [u32; 3],
    /// `sys.implementation.name`.
    pub implementation: String,
    /// Process id in the agent's own pid namespace.
    pub pid: u32,
    /// How calls are seen.
    pub way: Way,
    /// Whether a session is on already; [`ToAgent::Start`] would be refused.
    pub busy: bool,
    /// Whether the agent stays when the session ends.
    pub dormant: bool,
    /// Whether it is a free-threaded build, in which each thread tells through a ring of its own.
    #[serde(default)]
    pub free_threaded: bool,
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromAgent {
    /// The first message on a connection that pystap made.
    Hello(Hello),
    /// The first message on a connection that the agent made, of a fork's child or a launched command.
    Joined(Joined),
    /// It waits no longer for an answer to [`Joined`], and traces nothing. A connection that ends without it ended with its
    /// program, or because that became another one.
    GaveUp {},
    /// The answer to [`ToAgent::Start`]: events are on.
    Started(Started),
    /// Nothing was switched on, or the connection is not wanted.
    Refused(Refused),
    /// While a session is on: what of [`Stopped`] is not known has grown to this. Told when there is some, and before the
    /// interpreter ends, because nobody may be there to answer [`ToAgent::Stop`].
    Unseen {
        /// [`Stopped::unseen_threads`].
        threads: u64,
        /// [`Stopped::replaced`].
        replaced: u64,
    },
    /// While a session is on: an interpreter within the interpreter is to tell through a ring of its own.
    WantsRing {
        /// What stands for the ring, from 1 to [`Ring::more`]. 0 where one is missing: the calls of some interpreter are not
        /// seen, or not from its first on.
        place: u32,
    },
    /// The answer to [`ToAgent::Stop`]: events are off.
    Stopped(Stopped),
}

/// What pystap says.
// A handful are made in a session.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// Switch events on.
    Start(Start),
    /// The answer to [`FromAgent::WantsRing`]. The descriptor of the memory comes with the packet.
    Ring {
        /// What stands for it.
        place: u32,
        /// The ring, where there is one.
        ring: Option<Ring>,
    },
    /// Switch them off. Closing the connection does the same, without an account.
    Stop {},
}

/// A process that connects by itself, because it follows from a traced one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Process id of the parent, as `getppid` gives it.
    pub parent: u32,
    /// The secret of the [`Follow`] that told it to join: for a fork's child the one in its parent's [`Start`], for a
    /// launched process the one in its environment.
    pub secret: String,
    /// Who it is; `pid` is the new process.
    #[serde(flatten)]
    pub hello: Hello,
}

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Entries and returns of Python functions.
    Function,
    /// Garbage collections, for interpreters without marks of their own.
    Gc,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Kinds of events.
    pub events: Vec<Kind>,
    /// Which functions.
    #[serde(default)]
    pub filters: Filters,
    /// Whether the running greenlet or task is told.
    #[serde(default)]
    pub contexts: bool,
    /// Whether switches of greenlets are told, as calls of `greenlet.switch` in the file `<greenlet>`; with contexts only.
    #[serde(default)]
    pub switches: bool,
    /// Whether values are told.
    #[serde(default)]
    pub capture: Capture,
    /// Fields of calls. They are told through a ring alone, and each by its place among these.
    #[serde(default)]
    pub fields: Vec<Field>,
    /// Whether frames that run already are announced; if not, their returns are kept back.
    #[serde(default)]
    pub announce_running: bool,
    /// Where the children of forks join.
    #[serde(default)]
    pub follow: Option<Follow>,
    /// The memory through which events are told, whose descriptor comes with the packet; by probes where there is none.
    #[serde(default)]
    pub ring: Option<Ring>,
}

/// Rings (the crate `pystap-ring`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ring {
    /// How many lie in the memory, one behind the other. One, but for a free-threaded build: there it is how many threads
    /// can tell at the same time.
    #[serde(default = "one")]
    pub count: u32,
    /// Words of the data of one.
    pub words: u64,
    /// What its times are.
    pub clock: Clock,
    /// The table behind the data of each in which calls and collections are added up instead of being told; none where they are told.
    #[serde(default)]
    pub sums: Option<Sums>,
    /// The shortest call that is told, in ticks of the clock, when it has ended; every call is told where there is none, when it
    /// begins and when it ends.
    #[serde(default)]
    pub shortest: Option<u64>,
    /// How many more the agent may ask for ([`FromAgent::WantsRing`]), one for each interpreter within the interpreter.
    #[serde(default)]
    pub more: u32,
}

fn one() -> u32 {
    1
}

/// A table of sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sums {
    /// Its rows.
    pub rows: u32,
    /// By what a time of the ring's clock is multiplied to have nanoseconds, in units of 2^-32.
    pub multiplier: u64,
}

/// A clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Clock {
    /// The processor's counter, which the kernel of this machine trusts itself.
    Ticks,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    Monotonic,
}

/// Where a process that follows from a traced one joins, and what it shows there. Equal for all children of one process,
/// and known to them and that process only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    /// Name of a socket (abstract, without its NUL).
    pub socket: String,
    /// What the new process says in [`Joined`].
    pub secret: String,
}

impl Follow {
    /// It as one text, `SOCKET:SECRET`: the value of `PYSTAP_AGENT` and of `start(follow=…)`.
    pub fn parse(text: &str) -> Option<Follow> {
        let (socket, secret) = text.rsplit_once(':')?;
        let is_whole = !socket.is_empty() && !secret.is_empty();
        is_whole.then(|| Follow {
            socket: socket.into(),
            secret: secret.into(),
        })
    }
}

impl fmt::Display for Follow {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.socket, self.secret)
    }
}

impl fmt::Debug for Follow {
    /// Without the secret, which belongs into no log.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Follow({})", self.socket)
    }
}

/// Which functions are wanted: those that every list which is not empty accepts, and no `not_` list has. The patterns are
/// pystap's globs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filters {
    /// Function names, with their classes or without.
    pub functions: Vec<String>,
    /// File names.
    pub files: Vec<String>,
    /// Dotted modules, matched against file names.
    pub modules: Vec<String>,
    /// Function names that are not wanted, with their classes or without.
    pub not_functions: Vec<String>,
    /// File names that are not wanted.
    pub not_files: Vec<String>,
    /// Dotted modules that are not wanted.
    pub not_modules: Vec<String>,
}

/// Which values are told. They can be secrets: nothing is, unless it is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capture {
    /// Arguments on entry.
    pub arguments: bool,
    /// Values on return.
    pub returns: bool,
    /// Longest text of a value in bytes; 0 is the agent's own limit.
    pub limit: u32,
    /// Names (pystap's globs, matched without case) whose values are left out: of parameters, of keys in dictionaries,
    /// and of functions for what they return.
    pub hidden: Vec<String>,
}

/// In the place of an argument, the span of OpenTelemetry's API that is current, as a `traceparent`. No argument can be called so.
pub const CURRENT_SPAN: &str = "<current span>";

/// In the place of an argument, what the call returns; read when it does. A word of Python's, so no argument can be called so.
pub const RETURNED: &str = "return";

/// In the place of an argument, who called, as `NAME (FILE:LINE)`: the nearest function that is in none of the files which the
/// path names (each a key, pystap's globs). No argument can be called so.
pub const CALLER: &str = "<caller>";

/// A value that is told of each call of a function with such an argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The name of the argument with which its path begins.
    pub argument: String,
    /// The way from there.
    #[serde(default)]
    pub path: Vec<Part>,
    /// Whether it is read when a value is returned, and not when the call begins.
    #[serde(default)]
    pub at_return: bool,
    /// Of which functions (pystap's globs, for names with their classes or without); of all that are wanted where none is
    /// named.
    #[serde(default)]
    pub functions: Vec<String>,
}

/// A part of a path.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// An attribute that is stored in the object, or a plain value of its class.
    Attribute(String),
    /// What a dict has for this string.
    Key(String),
    /// What a list or tuple has at this place, counted from its end where it is negative; or a dict for this number.
    Number(i64),
}

/// Events are on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// The tool id of `sys.monitoring`, where that is used.
    pub tool_id: Option<u32>,
    /// Python threads at that moment.
    pub threads: u32,
    /// Whether there was a profiler, which goes on getting its events.
    pub chained_profiler: bool,
    /// Wanted frames that were running at that moment.
    pub already_running: u64,
    /// Whether interpreters within the interpreter are traced, too.
    #[serde(default)]
    pub interpreters: bool,
    /// What the user should know, each a sentence.
    pub warnings: Vec<String>,
}

/// Why nothing was switched on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// What is in the way.
    pub reason: String,
    /// What to do about it.
    pub next_step: String,
}

impl Refused {
    /// A refusal in two sentences.
    pub fn new(reason: impl Into<String>, next_step: impl Into<String>) -> Refused {
        Refused {
            reason: reason.into(),
            next_step: next_step.into(),
        }
    }
}

/// Events are off. The account covers the time since [`Started`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Entries of wanted functions, announced ones included.
    pub entries: u64,
    /// Returns from them.
    pub returns: u64,
    /// Events that were seen and not told, because what they need could not be had.
    pub dropped: u64,
    /// Threads whose calls were not seen, or not from the first: C code made them, and they came, and perhaps went, when
    /// nobody could look. (3.9 to 3.11.)
    #[serde(default)]
    pub unseen_threads: u64,
    /// How often a thread was found without the agent's profile function: the program had set its own. (3.9 to 3.11.)
    #[serde(default)]
    pub replaced: u64,
}

/// A message as a packet.
///
/// # Errors
///
/// What serde says; only a fault in the types here makes it fail.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(message)
}

/// A packet as a message.
///
/// # Errors
///
/// What serde says of a packet that is no such message.
pub fn decode<'a, M: Deserialize<'a>>(packet: &'a [u8]) -> Result<M, serde_json::Error> {
    serde_json::from_slice(packet)
}
