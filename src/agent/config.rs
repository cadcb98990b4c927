//! What agents are told to do.

use std::collections::HashSet;

use pystap_agent_protocol as protocol;

use crate::field::Field;
use crate::probe::{AGENT_PROVIDER, Probe};
use crate::python::{self, FileId, PythonError};
use crate::script::Filters;
use crate::script::filter::Glob;

/// The provider of the agent's marks.
pub const PROVIDER: &str = AGENT_PROVIDER;

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
    /// Which fields, in the order of their names.
    pub fields: Vec<Field>,
    /// Whether children are traced.
    pub follow: bool,
    /// Whether switches of greenlets are told, as calls.
    pub switches: bool,
}

impl AgentConfig {
    /// The interpreters that need no agent, because their own marks tell all of this.
    pub(crate) fn told_by_marks(&self) -> HashSet<FileId> {
        match (&self.functions, &self.collections) {
            (Some(functions), Some(collections)) => {
                functions.intersection(collections).copied().collect()
            }
            (Some(files), None) | (None, Some(files)) => files.clone(),
            (None, None) => HashSet::new(),
        }
    }

    /// What the agent of this process is told, and where its children join. Where the interpreter's own marks tell an event,
    /// the agent does not.
    ///
    /// # Errors
    /// When it cannot be told whose marks those are: a process that cannot be asked may well have them.
    pub(super) fn for_process(
        &self,
        pid: u32,
        follow: Option<protocol::Follow>,
    ) -> Result<protocol::Start, PythonError> {
        let lacks = |own: &Option<HashSet<FileId>>| match own {
            None => Ok(false),
            Some(own) if own.is_empty() => Ok(true),
            Some(own) => python::maps_one_of(pid, own).map(|has| !has),
        };
        let mut events = Vec::new();
        if lacks(&self.functions)? {
            events.push(protocol::Kind::Function);
        }
        if lacks(&self.collections)? {
            events.push(protocol::Kind::Gc);
        }
        Ok(protocol::Start {
            events,
            filters: filters(&self.filters),
            contexts: true,
            switches: self.switches,
            capture: protocol::Capture {
                arguments: self.capture.arguments,
                returns: self.capture.returns,
                limit: LONGEST_VALUE,
                hidden: texts(&self.capture.hidden),
            },
            fields: self.fields.iter().map(field).collect(),
            announce_running: true,
            follow,
            ring: None,
        })
    }
}

fn field(field: &Field) -> protocol::Field {
    protocol::Field {
        argument: field.argument.clone(),
        path: field.path.clone(),
        at_return: field.at_return,
        functions: texts(&field.functions),
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
