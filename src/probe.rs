//! Probes and event kinds: the one table that every room takes their names from.
//!
//! A probe is a USDT probe ("statically defined tracing"), a place that an interpreter or pystap's agent was built with so that
//! it can be traced there. SystemTap calls it a *mark*, and so do its scripts. An event kind is what a user asks for; it needs
//! all of its probes.

mod image;

pub use self::image::{AGENT_PROVIDER, Probed};

/// A USDT probe that events are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Probe {
    /// A function begins.
    FunctionEntry,
    /// A function returns.
    FunctionReturn,
    /// A line begins.
    Line,
    /// A garbage collection begins.
    GcStart,
    /// It ends.
    GcDone,
    /// A module is looked for.
    ImportStart,
    /// It was found and loaded, or not.
    ImportDone,
    /// An audit event.
    Audit,
    /// What the context is called in which functions run: told by the agent alone.
    ContextName,
}

impl Probe {
    /// Every probe.
    pub const ALL: [Probe; 9] = [
        Probe::FunctionEntry,
        Probe::FunctionReturn,
        Probe::Line,
        Probe::GcStart,
        Probe::GcDone,
        Probe::ImportStart,
        Probe::ImportDone,
        Probe::Audit,
        Probe::ContextName,
    ];
    /// Those about functions that the agent has, too.
    pub const FUNCTIONS: [Probe; 2] = [Probe::FunctionEntry, Probe::FunctionReturn];
    /// Those about garbage collections.
    pub const COLLECTIONS: [Probe; 2] = [Probe::GcStart, Probe::GcDone];

    /// Its name in the notes of an ELF file, as CPython and the agent spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Probe::FunctionEntry => "function__entry",
            Probe::FunctionReturn => "function__return",
            Probe::Line => "line",
            Probe::GcStart => "gc__start",
            Probe::GcDone => "gc__done",
            Probe::ImportStart => "import__find__load__start",
            Probe::ImportDone => "import__find__load__done",
            Probe::Audit => "audit",
            Probe::ContextName => "context__name",
        }
    }

    /// The probe of this name.
    pub fn of_name(name: &str) -> Option<Probe> {
        Probe::ALL.into_iter().find(|probe| probe.name() == name)
    }

    /// Whether interpreters have it, and not only the agent.
    pub const fn is_cpythons(self) -> bool {
        !matches!(self, Probe::ContextName)
    }
}

/// What a user asks for with `--events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// A function is called.
    Call,
    /// It returns.
    Return,
    /// A line runs.
    Line,
    /// A garbage collection.
    Gc,
    /// An import.
    Import,
    /// An audit event.
    Audit,
}

impl EventKind {
    /// Every kind, in the order in which they are listed.
    pub const ALL: [EventKind; 6] = [
        EventKind::Call,
        EventKind::Return,
        EventKind::Line,
        EventKind::Gc,
        EventKind::Import,
        EventKind::Audit,
    ];
    /// What is traced when nothing is said.
    pub const DEFAULT: [EventKind; 3] = [EventKind::Call, EventKind::Return, EventKind::Gc];

    /// As it is typed and written.
    pub const fn name(self) -> &'static str {
        match self {
            EventKind::Call => "call",
            EventKind::Return => "return",
            EventKind::Line => "line",
            EventKind::Gc => "gc",
            EventKind::Import => "import",
            EventKind::Audit => "audit",
        }
    }

    /// The kind of this name.
    pub fn of_name(name: &str) -> Option<EventKind> {
        EventKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The probes that it needs, all of them.
    pub const fn probes(self) -> &'static [Probe] {
        match self {
            EventKind::Call => &[Probe::FunctionEntry],
            EventKind::Return => &[Probe::FunctionReturn],
            EventKind::Line => &[Probe::Line],
            EventKind::Gc => &[Probe::GcStart, Probe::GcDone],
            EventKind::Import => &[Probe::ImportStart, Probe::ImportDone],
            EventKind::Audit => &[Probe::Audit],
        }
    }

    /// The template that sends its events.
    pub const fn template(self) -> &'static str {
        match self {
            EventKind::Call | EventKind::Return => "calls",
            EventKind::Line => "lines",
            EventKind::Gc => "gc",
            EventKind::Import => "imports",
            EventKind::Audit => "audit",
        }
    }

    /// Whether the agent gives it.
    pub const fn is_agents(self) -> bool {
        matches!(self, EventKind::Call | EventKind::Return | EventKind::Gc)
    }
}
