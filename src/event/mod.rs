//! The event schema: what a traced program did, as typed values. The crate's public face; does no I/O of its own.
//!
//! [`json`] is how events are written and read, [`loss`] keeps account of what did not arrive, [`allowance`] bounds what
//! names take, [`json_schema`] is the schema for everybody else.

pub mod allowance;
#[cfg(test)]
pub(crate) mod arbitrary;
mod fields;
pub mod hosts;
pub mod json;
pub mod loss;
pub(crate) mod paths;
mod plain;
mod text;
mod wait;

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use crate::text::both_ends;

pub use fields::{Field, FieldValue, Fields, Float};
pub use plain::Plain;
pub use text::Text;
pub use wait::{Reason, Wait, Waker};

/// The JSON Schema (draft 2020-12) of one line of a stream, in version [`SCHEMA_VERSION`].
pub fn json_schema() -> &'static str {
    include_str!("schema.json")
}

/// Version of the schema. Fields are added within a version, never renamed.
pub const SCHEMA_VERSION: u32 = 1;

/// Where a function is: what a mark's first two arguments say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// File name as the interpreter has it (`co_filename`).
    pub file: Text,
    /// Function name (`co_name`: without class, `<module>` for module code).
    pub function: Text,
    /// Name with classes and outer functions (`co_qualname`); only the agent tells it.
    pub qualname: Option<Text>,
    /// The value of a field by which calls of the function are told apart, where somebody asked for that.
    pub group: Option<Arc<Group>>,
}

/// Calls of a function with one value of a field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Group {
    /// The field.
    pub field: String,
    /// The value, as people see it.
    pub value: String,
    /// What to call the function with it.
    name: Text,
}

impl Group {
    /// Longest value in a name, in characters.
    pub(crate) const SHOWN: usize = 100;

    /// A value in one line, whatever a statement looks like; of a long one its beginning and its end.
    pub(crate) fn shown(value: &str) -> String {
        both_ends(value, Group::SHOWN)
    }

    /// Of this function. `nth` says the how manieth of the values it is that are shown alike, from 1.
    pub fn new(place: &Place, field: &str, value: &str, nth: usize) -> Group {
        let own = place.own_name();
        let shown = Group::shown(value);
        let number = match nth {
            0 | 1 => String::new(),
            nth => format!(" #{nth}"),
        };
        Group {
            field: field.to_owned(),
            value: value.to_owned(),
            name: Text {
                text: format!("{} [{field}={shown}{number}]", own.text),
                ..own.clone()
            },
        }
    }
}

impl Place {
    /// What to call the function: with its classes where they are known, and with the value by which its calls are told apart.
    pub fn name(&self) -> &Text {
        match &self.group {
            Some(group) => &group.name,
            None => self.own_name(),
        }
    }

    /// The same without that value.
    pub fn own_name(&self) -> &Text {
        self.qualname.as_ref().unwrap_or(&self.function)
    }

    /// What stands for every place for whose names there was no room, see [`allowance`].
    pub fn left_out() -> Place {
        Place {
            file: Text::left_out(),
            function: Text::left_out(),
            qualname: None,
            group: None,
        }
    }

    /// Whether there was no room for its names, see [`allowance`].
    pub fn is_left_out(&self) -> bool {
        self.function.is_left_out()
    }
}

/// What the agent says of a call or return beyond its place. The interpreter's own marks say nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// The greenlet or asyncio task that runs, by an id that is unique in its process; `None` outside of them.
    pub context: Option<NonZeroU64>,
    /// How the frame came to run, or to stop.
    pub manner: Manner,
    /// The arguments of a call, or the value that a return gives back, as JSON and perhaps cut; only with `--capture`.
    pub text: Option<Arc<Text>>,
    /// Fields of the call; only with `--field`, and only of functions that have one.
    pub fields: Option<Arc<Fields>>,
    /// Of a return, nanoseconds of its duration in which its thread waited for work; only with `--min-duration`, and only where
    /// without these it would have been too short. 0 elsewhere.
    pub idle_ns: u64,
}

/// How a frame came to run, or to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Manner {
    /// Called, or returned; or nobody knows.
    #[default]
    Plain,
    /// A generator or coroutine was resumed, or gave way by `yield` or `await`.
    Suspension,
    /// It ran already when tracing began: the time is not that of the call.
    Running,
    /// An exception left it.
    Exception,
}

/// One thing that happened in a traced process.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Nanoseconds since the Unix epoch.
    pub ts: u64,
    /// Process id, in the initial pid namespace. 0 where none applies. In a stream of several hosts an identity ([`hosts`]).
    pub pid: u32,
    /// Thread id, in the initial pid namespace, or its identity. 0 where none applies.
    pub tid: u32,
    /// The interpreter within the interpreter in which it happened, by the number that the program has for it; `None` in the
    /// main one. Only the agent tells it, of calls, returns and collections.
    pub interpreter: Option<NonZeroU32>,
    /// What happened.
    pub what: What,
}

/// The kinds of events with their own fields.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A frame was entered (or, for generators, resumed). `line` is the frame's line at that moment.
    Call {
        /// The function.
        place: Arc<Place>,
        /// Line number.
        line: i32,
        /// What the agent knows of it.
        frame: Frame,
    },
    /// A frame was left.
    Return {
        /// The function.
        place: Arc<Place>,
        /// The line that was left.
        line: i32,
        /// Time since the matching call; `None` when that was not seen.
        duration_ns: Option<u64>,
        /// What the agent knows of it.
        frame: Frame,
    },
    /// A line is about to run.
    Line {
        /// The function.
        place: Arc<Place>,
        /// Line number.
        line: i32,
    },
    /// A garbage collection began.
    GcStart {
        /// Generation, 0 to 2.
        generation: i64,
    },
    /// A garbage collection ended.
    GcDone {
        /// Generation, from the matching start.
        generation: Option<i64>,
        /// Objects found unreachable (collected and uncollectable).
        collected: i64,
        /// Time since the matching start.
        pause_ns: Option<u64>,
    },
    /// What the table of probes describes: imports, audit events (PEP 578).
    Plain(Plain),
    /// A greenlet or asyncio task is about to be named in calls for the first time.
    Context {
        /// Its id, as in [`Frame::context`].
        context: u64,
        /// Its name.
        name: Arc<Text>,
    },
    /// A traced process began, became another program, or ended.
    Process {
        /// Which of these.
        change: ProcessChange,
        /// Parent process, where known.
        parent: Option<u32>,
        /// Thread name (`comm`), where known.
        command: Option<Arc<Text>>,
    },
    /// A thread runs again that had waited.
    Wait(Box<Wait>),
    /// Events were lost.
    Lost {
        /// How many; 0 when only the fact is known.
        count: u64,
        /// At which stage.
        stage: LossStage,
        /// A sentence for people: what was lost and what would help.
        message: String,
    },
}

impl What {
    /// The kind's name: the `event` field in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            What::Call { .. } => "call",
            What::Return { .. } => "return",
            What::Line { .. } => "line",
            What::GcStart { .. } => "gc_start",
            What::GcDone { .. } => "gc_done",
            What::Plain(plain) => plain.name(),
            What::Context { .. } => "context",
            What::Process { .. } => "process",
            What::Wait(_) => Wait::KIND,
            What::Lost { .. } => "lost",
        }
    }
}

/// What happened to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessChange {
    /// It was started by a traced process.
    Fork,
    /// It became another program.
    Exec,
    /// It ended.
    Exit,
}

impl ProcessChange {
    /// The word that JSON has for it.
    pub fn word(self) -> &'static str {
        match self {
            ProcessChange::Fork => "fork",
            ProcessChange::Exec => "exec",
            ProcessChange::Exit => "exit",
        }
    }
}

/// Where on their way events were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LossStage {
    /// The probe handler did not run (`skipped` in stap's words).
    Probe,
    /// The kernel's buffers were full.
    Kernel,
    /// The memory through which the agent tells its events was full.
    Ring,
    /// What arrived was damaged and could not be decoded.
    Decoder,
    /// The reader of our output was slower than the events; the target was not made to wait.
    Output,
    /// Waits of threads are not told, because the kernel's buffers for the scheduler's events were full. Calls are not touched.
    Waits,
}

impl LossStage {
    /// Every stage. Recordings have its place in this list, so that others are added at the end.
    pub const ALL: [LossStage; 6] = [
        LossStage::Probe,
        LossStage::Kernel,
        LossStage::Decoder,
        LossStage::Output,
        LossStage::Ring,
        LossStage::Waits,
    ];

    /// The word that JSON has for it.
    pub fn word(self) -> &'static str {
        match self {
            LossStage::Probe => "probe",
            LossStage::Kernel => "kernel",
            LossStage::Ring => "ring",
            LossStage::Decoder => "decoder",
            LossStage::Output => "output",
            LossStage::Waits => "waits",
        }
    }
}

impl Event {
    /// The fields of a call or return.
    pub fn fields(&self) -> Option<&Arc<Fields>> {
        match &self.what {
            What::Call { frame, .. } | What::Return { frame, .. } => frame.fields.as_ref(),
            _ => None,
        }
    }

    /// Whether something in it has no name because there was no room for it, see [`allowance`].
    pub fn is_nameless(&self) -> bool {
        match &self.what {
            What::Call { place, .. } | What::Return { place, .. } | What::Line { place, .. } => {
                place.is_left_out()
            }
            What::Plain(plain) => plain.fields().any(|(_, text)| text.is_left_out()),
            What::Context { name, .. } => name.is_left_out(),
            What::Process { command, .. } => command.as_ref().is_some_and(|it| it.is_left_out()),
            What::Wait(wait) => wait.texts().any(|text| text.is_left_out()),
            What::GcStart { .. } | What::GcDone { .. } | What::Lost { .. } => false,
        }
    }
}

/// What ran and with what: the first line of every stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Session {
    /// Nanoseconds since the Unix epoch.
    pub ts: u64,
    /// Version of pystap.
    pub pystap: String,
    /// `stap` or `uprobes`.
    pub engine: String,
    /// Why this engine, or what it does to the target beyond probing; sentences.
    pub notes: Vec<String>,
    /// The processes that are traced at the start.
    pub targets: Vec<SessionTarget>,
    /// What is armed.
    pub armed: Vec<ArmedMark>,
    /// Event kinds that were asked for.
    pub events: Vec<String>,
    /// The fields of calls that were asked for, with their paths.
    pub fields: BTreeMap<String, String>,
    /// Which functions are traced, in words; `None` for all.
    pub filter: Option<String>,
    /// The host on which it ran, by its name; its clock is that of all times.
    pub host: Option<String>,
    /// The boot of the host, by the id that the kernel has for it.
    pub boot: Option<String>,
    /// The hosts of a stream that was merged from those of several: its processes are known by identities ([`hosts`]).
    pub hosts: Vec<SessionHost>,
    /// Nanoseconds that an event takes of the thread in which it happens, measured by the engine at the beginning, or of a recording that has
    /// an end what is known there; `None` where it cannot tell, and where not every event comes.
    pub overhead_ns_per_event: Option<NonZeroU64>,
    /// Nanoseconds of what a call and its return take together that lie between their times; the rest lies in the caller. `None`
    /// where only what an event takes is known: then it is taken to be as much.
    pub overhead_ns_within_call: Option<u64>,
}

/// One of the hosts whose streams were merged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionHost {
    /// Its name, as it was typed or as its own stream has it; no other one has it.
    pub name: String,
    /// Its boot, by the id that its kernel has for it.
    pub boot: Option<String>,
    /// The pystap there.
    pub pystap: Option<String>,
    /// Nanoseconds by which its clock is ahead of the one that all times of the stream have: they were taken off its times. `None`
    /// where that was not measured, and nothing was taken off.
    pub clock_ahead_ns: Option<i64>,
    /// By how many nanoseconds that may be wrong, where known.
    pub clock_within_ns: Option<u64>,
}

/// One process at the start of a session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionTarget {
    /// Process id in the initial pid namespace, or its identity ([`hosts`]).
    pub pid: u32,
    /// Command line, arguments separated by blanks.
    pub command: String,
    /// Python version, where known (`3.15.0`).
    pub python: Option<String>,
}

/// One mark of one image that is armed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArmedMark {
    /// Image as the kernel was told.
    pub image: String,
    /// Its build id.
    pub build_id: Option<String>,
    /// `provider:name`.
    pub mark: String,
    /// Number of sites.
    pub sites: usize,
}

/// What came of it: the last line of every stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Nanoseconds since the Unix epoch.
    pub ts: u64,
    /// Events written.
    pub delivered: u64,
    /// Events lost in the kernel or on the way out.
    pub lost: u64,
    /// Probe hits whose handler did not run.
    pub skipped: u64,
    /// Records that could not be decoded.
    pub unparsed: u64,
    /// Whether more may be lost than these numbers say, because nobody could count it.
    pub uncounted: bool,
    /// Events whose function, module or command is told as [`Text::left_out`], because too many names were in use.
    pub nameless: u64,
    /// Calls that ended and were not written because their duration is not known, where only long ones were asked for.
    pub untimed: u64,
    /// Calls that were not written because they were long only by waiting for work.
    pub idle_calls: u64,
    /// How long that was, each moment once, in nanoseconds.
    pub idle_calls_ns: u64,
    /// Events written after a later one, because they came too late to be put in their order.
    pub unordered: u64,
    /// Processes of the session that ran without being traced, as far as is known.
    pub untraced_processes: u64,
    /// How long processes of the session ran without being traced, all together, at least; also those that were traced later.
    pub untraced_ns: u64,
    /// Returns without a call and calls without a return, as far as pairing saw.
    pub unpaired: u64,
    /// Wall time of the session in nanoseconds.
    pub wall_ns: u64,
    /// Why it ended, a word: `interrupted`, `terminated`, `targets_ended`, `duration`, `max_events`, `output_closed`,
    /// `output_failed`, `engine_failed`.
    pub ended: String,
    /// Exit status of a launched command: its code, or 128 + signal.
    pub command_status: Option<i32>,
    /// What events cost in the program as it ran, on the average, where the engine has found out: as
    /// [`Session::overhead_ns_per_event`], which is what they cost in calm.
    pub overhead_ns_per_event: Option<NonZeroU64>,
    /// The same as [`Session::overhead_ns_within_call`].
    pub overhead_ns_within_call: Option<u64>,
}
