//! What a session is asked to do: everything that a command line says about it, in the terms of tracing. Knows neither how it
//! was typed nor what this host has.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;

use crate::agent::Capture;
use crate::bundle::Bundle;
use crate::field::Field;
use crate::process::{Identity, Selection};
use crate::script::Filters;
use crate::service::Service;

use super::sought::Sought;

/// A session that somebody wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionRequest {
    /// Which processes.
    pub(crate) targets: TargetRequest,
    /// Event kinds, as they were typed; none for those that are usual.
    pub(crate) events: Vec<String>,
    /// Which functions.
    pub(crate) filters: Filters,
    /// The functions that somebody named, of which it is said when nothing is seen of them.
    pub(crate) sought: Sought,
    /// Only finished calls of at least this length.
    pub(crate) min_duration: Option<Duration>,
    /// Whether those are told, too, that are so long only because they wait for work.
    pub(crate) with_idle: bool,
    /// Whether an engine that can is to add up calls, returns and collections instead of sending them.
    pub(crate) totals: bool,
    /// The field by which functions are told apart, if by any.
    pub(crate) group_by: Option<String>,
    /// Whether waits of threads are told beside what the engine tells.
    pub(crate) waits: bool,
    /// Whether every call is sent all the same, although an engine could add up calls or measure them.
    pub(crate) sends_all: bool,
    /// Whether the agent tells by itself what it can where it gets in, while the rest is probed. Goes with `sends_all`.
    pub(crate) mixes: bool,
    /// Whether the semaphore of Python 3.11's line probe is left alone, although calls are incomplete then.
    pub(crate) spare_line_semaphore: bool,
    /// What is wanted of the agent.
    pub(crate) agent: AgentWishes,
    /// What is wanted of the engine.
    pub(crate) engine: EngineOptions,
    /// A directory of templates and tapsets beside the user's own.
    pub(crate) template_directory: Option<PathBuf>,
    /// When it ends at the latest.
    pub(crate) limits: Limits,
    /// How far it goes.
    pub(crate) purpose: Purpose,
    /// The file that is written; standard output without one.
    pub(crate) output: Option<PathBuf>,
    /// Whether what is told goes somewhere else, and nothing into that.
    pub(crate) goes_elsewhere: bool,
    /// Whether pystap ends with the exit status of the launched command.
    pub(crate) exit_with_command: bool,
}

impl SessionRequest {
    /// Whether we may choose the engine, from all that there are: nothing is asked for that only some of them can do.
    pub(crate) fn leaves_engine_to_us(&self) -> bool {
        let engine = &self.engine;
        let is_for_all = engine.stap.is_none()
            && engine.stap_arguments.is_empty()
            && engine.buffer.is_none()
            && !self.agent.trust_paths
            && !self.spare_line_semaphore
            && self.agent.usage != AgentUsage::Never;
        engine.named.is_none()
            && is_for_all
            && matches!(self.purpose, Purpose::Trace | Purpose::DryRun)
    }
}

/// Which processes are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct TargetRequest {
    /// By their ids.
    pub(crate) pids: Vec<u32>,
    /// By what their command lines have in them.
    pub(crate) pattern: Option<Regex>,
    /// By the name of their service.
    pub(crate) service: Option<String>,
    /// By their interpreter, one of these.
    pub(crate) python: Vec<PathBuf>,
    /// A command that is launched, with its arguments; empty when there is none.
    pub(crate) command: Vec<OsString>,
    /// Whether children are traced too, those that exist and those to come.
    pub(crate) subprocesses: bool,
}

impl TargetRequest {
    /// The selection that finds the processes that run now. `service` is the one that was named.
    pub(crate) fn selection(&self, service: Option<Service>) -> Selection {
        Selection {
            pids: self.pids.clone(),
            pattern: self.pattern.clone(),
            service,
            python: self.python.clone(),
            command: self.command.clone(),
            subprocesses: self.subprocesses,
            parents: Vec::new(),
        }
    }

    /// The selection that finds those which start later; `None` when only children of a target can be. Those of `parents` can
    /// be, which are no targets themselves.
    pub(crate) fn newcomers(
        &self,
        service: Option<Service>,
        parents: &[Identity],
    ) -> Option<Selection> {
        let searches = self.command.is_empty()
            && (self.pattern.is_some()
                || self.service.is_some()
                || (!self.python.is_empty() && self.pids.is_empty()));
        (searches || !parents.is_empty()).then(|| Selection {
            pids: Vec::new(),
            parents: parents.to_vec(),
            ..self.selection(service)
        })
    }
}

/// What the user wants of the agent.
#[derive(Debug, Clone, Default)]
pub(crate) struct AgentWishes {
    /// Whether it is used.
    pub(crate) usage: AgentUsage,
    /// Whether it may be put into running processes by ptrace.
    pub(crate) inject: bool,
    /// Which values it captures.
    pub(crate) capture: Capture,
    /// Whether it tells when greenlets switch, as calls of `greenlet.switch`.
    pub(crate) switches: bool,
    /// Fields of calls, in the order of their names.
    pub(crate) fields: Vec<Field>,
    /// Whether a recipe asks for the fields, and not whoever typed the command. By their nature some are in a few calls only, so that
    /// their absence in others is no news.
    pub(crate) by_recipe: bool,
    /// Names of fields that are left out, because values of such names are.
    pub(crate) hidden_fields: Vec<String>,
    /// Whether it is to be told which greenlet or task runs.
    pub(crate) contexts: bool,
    /// Whether the interpreters' own function probes are armed although a path shows that this ends the program.
    pub(crate) trust_paths: bool,
}

/// When the agent is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum AgentUsage {
    /// Where an interpreter has no function probes.
    #[default]
    Auto,
    /// Nowhere.
    Never,
    /// For all functions.
    Always,
}

/// What is wanted of the engine.
#[derive(Debug, Clone, Default)]
pub(crate) struct EngineOptions {
    /// The name of the one that was asked for; `None` leaves it to us.
    pub(crate) named: Option<String>,
    /// The stap to use instead of that in PATH.
    pub(crate) stap: Option<PathBuf>,
    /// Further arguments for stap when it compiles.
    pub(crate) stap_arguments: Vec<String>,
    /// Buffer per processor in megabytes.
    pub(crate) buffer: Option<u32>,
    /// The bundle whose module is loaded instead of one that is compiled here.
    pub(crate) bundle: Option<PathBuf>,
    /// That bundle, where it was read.
    pub(crate) opened: Option<Arc<Bundle>>,
}

/// When a session ends at the latest.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// After this time.
    pub(crate) duration: Option<Duration>,
    /// After so many events.
    pub(crate) max_events: Option<u64>,
}

/// How far a session goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It traces.
    #[default]
    Trace,
    /// It shows what it would do.
    DryRun,
    /// It compiles what is to be compiled, for later.
    Compile {
        /// For this kernel release instead of the running one.
        kernel: Option<String>,
        /// Into this file, for another host.
        bundle: Option<PathBuf>,
    },
    /// It shows the script alone, which asks no engine.
    Script,
}

impl Purpose {
    /// Whether what is compiled is for another host, so that no process here is of interest.
    pub(crate) fn is_for_elsewhere(&self) -> bool {
        matches!(
            self,
            Purpose::Compile {
                bundle: Some(_),
                ..
            }
        )
    }

    /// Whether nothing more than compiling is wanted.
    pub(crate) fn is_compile(&self) -> bool {
        matches!(self, Purpose::Compile { .. })
    }
}
