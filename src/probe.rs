//! Probes and event kinds: the one table that every room takes their names from.
//!
//! A probe is a USDT probe ("statically defined tracing"), a place that an interpreter or pystap's agent was built with so that
//! it can be traced there. SystemTap calls it a *mark*, and so do its scripts. An event kind is what a user asks for; it needs
//! all of its probes.
//!
//! Most probes become *plain* events: what the probe passes, under names of its own, and for the end of something the time
//! since its beginning. A plain event is described here ([`PlainEvent`]) and nowhere else: the wire from stap, uprobe records,
//! JSON, recordings, the flow and profiles follow the description. Calls, returns, lines, collections and contexts are told
//! in ways of their own, because pairing, filters and views know them.

mod image;

pub use self::image::{AGENT_PROVIDER, Probed};

/// A USDT probe that events are made of. Those that filters on functions and files are about come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
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

/// What an argument of a probe is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentKind {
    /// The file that a function is in: a pointer to a string that ends with NUL, as all texts are.
    File,
    /// The name of a function.
    Function,
    /// Its name with classes and outer functions.
    Qualname,
    /// Any other text.
    Text,
    /// One that may be missing: the pointer is none, or older builds do not pass it.
    OptionalText,
    /// A number, of as many bytes and with the sign that the probe's note says.
    Number,
    /// A number that is 0 or 1, with what people are told when it is 0.
    Flag {
        /// A clause that follows the texts of the event.
        unset: &'static str,
    },
    /// The number of a greenlet or task.
    Context,
    /// How a frame came to run or to stop: bits, see `engine::flags`.
    Flags,
    /// A value as text, or no pointer.
    Value,
    /// A Python object, which nobody reads.
    Object,
}

impl ArgumentKind {
    /// Whether a plain event has it as a text.
    pub const fn is_text(self) -> bool {
        matches!(self, ArgumentKind::Text | ArgumentKind::OptionalText)
    }

    /// Whether a plain event has it as its number.
    pub const fn is_number(self) -> bool {
        matches!(self, ArgumentKind::Number | ArgumentKind::Flag { .. })
    }
}

/// An argument of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    /// What `pystap marks` calls it.
    pub name: &'static str,
    /// The field of a plain event that it becomes.
    pub field: &'static str,
    /// What it is.
    pub kind: ArgumentKind,
}

/// An argument whose field is called as itself.
const fn argument(name: &'static str, kind: ArgumentKind) -> Argument {
    Argument {
        name,
        field: name,
        kind,
    }
}

/// Where a plain event stands in what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has no duration.
    Single,
    /// Something begins.
    Start,
    /// What this probe said to begin, with the same first text in the same thread, ends: the event has a duration.
    Done(Probe),
}

/// An event that consists of what its probe passes. It has one text or two, of which the first is always there, and at most
/// one number or flag, which fits in 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainEvent {
    /// Its name in JSON (the field `event`).
    pub name: &'static str,
    /// What people are told that it is; the texts follow.
    pub label: &'static str,
    /// Where it stands in what it is about.
    pub phase: Phase,
    /// The letter of its records on the wire from stap, which no other kind of record has.
    pub letter: u8,
    /// Its number in recordings, which no other event has and which never changes. New ones begin at 16.
    pub code: u8,
}

/// All about a probe.
struct Row {
    probe: Probe,
    name: &'static str,
    arguments: &'static [Argument],
    /// What the agent's probe of this name passes behind these.
    further: &'static [Argument],
    plain: Option<PlainEvent>,
}

const PLACE: &[Argument] = &[
    argument("filename", ArgumentKind::File),
    argument("function", ArgumentKind::Function),
    argument("line", ArgumentKind::Number),
];
const FRAME: &[Argument] = &[
    argument("qualname", ArgumentKind::Qualname),
    argument("context", ArgumentKind::Context),
    argument("flags", ArgumentKind::Flags),
    argument("value", ArgumentKind::Value),
];
const MODULE: Argument = argument("module", ArgumentKind::Text);

const PROBES: [Row; Probe::ALL.len()] = [
    Row {
        probe: Probe::FunctionEntry,
        name: "function__entry",
        arguments: PLACE,
        further: FRAME,
        plain: None,
    },
    Row {
        probe: Probe::FunctionReturn,
        name: "function__return",
        arguments: PLACE,
        further: FRAME,
        plain: None,
    },
    Row {
        probe: Probe::Line,
        name: "line",
        arguments: PLACE,
        further: &[],
        plain: None,
    },
    Row {
        probe: Probe::GcStart,
        name: "gc__start",
        arguments: &[argument("generation", ArgumentKind::Number)],
        further: &[],
        plain: None,
    },
    Row {
        probe: Probe::GcDone,
        name: "gc__done",
        arguments: &[argument("collected", ArgumentKind::Number)],
        further: &[],
        plain: None,
    },
    Row {
        probe: Probe::ImportStart,
        name: "import__find__load__start",
        arguments: &[MODULE],
        further: &[],
        plain: Some(PlainEvent {
            name: "import_start",
            label: "import",
            phase: Phase::Start,
            letter: b'I',
            code: 5,
        }),
    },
    Row {
        probe: Probe::ImportDone,
        name: "import__find__load__done",
        arguments: &[
            MODULE,
            argument("found", ArgumentKind::Flag { unset: "not found" }),
        ],
        further: &[],
        plain: Some(PlainEvent {
            name: "import_done",
            label: "import",
            phase: Phase::Done(Probe::ImportStart),
            letter: b'i',
            code: 6,
        }),
    },
    Row {
        probe: Probe::Audit,
        name: "audit",
        arguments: &[
            Argument {
                name: "event",
                field: "name",
                kind: ArgumentKind::Text,
            },
            argument("arguments", ArgumentKind::Object),
        ],
        further: &[],
        plain: Some(PlainEvent {
            name: "audit",
            label: "audit",
            phase: Phase::Single,
            letter: b'A',
            code: 7,
        }),
    },
    Row {
        probe: Probe::ContextName,
        name: "context__name",
        arguments: &[
            argument("context", ArgumentKind::Context),
            argument("name", ArgumentKind::Text),
        ],
        further: &[],
        plain: None,
    },
];

const _: () = {
    let mut at = 0;
    while at < PROBES.len() {
        assert!(PROBES[at].probe as usize == at, "a row for each, in order");
        at += 1;
    }
};

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
    /// Those that interpreters have, and not only the agent.
    pub const CPYTHONS: [Probe; Probe::ALL.len() - 1] = {
        let [of_cpython @ .., Probe::ContextName] = Probe::ALL else {
            panic!("the agent's own probe is the last one")
        };
        of_cpython
    };
    /// Those about functions that the agent has, too.
    pub const FUNCTIONS: [Probe; 2] = [Probe::FunctionEntry, Probe::FunctionReturn];
    /// Those about garbage collections.
    pub const COLLECTIONS: [Probe; 2] = [Probe::GcStart, Probe::GcDone];

    const fn row(self) -> &'static Row {
        const ROWS: &[Row; Probe::ALL.len()] = &PROBES;
        &ROWS[self as usize]
    }

    /// Its name in the notes of an ELF file, as CPython and the agent spell it.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The probe of this name.
    pub fn of_name(name: &str) -> Option<Probe> {
        Probe::ALL.into_iter().find(|probe| probe.name() == name)
    }

    /// The names of these probes.
    pub const fn names<const N: usize>(probes: [Probe; N]) -> [&'static str; N] {
        let mut names = [""; N];
        let mut at = 0;
        while at < N {
            names[at] = probes[at].name();
            at += 1;
        }
        names
    }

    /// The number that stands for it where one byte is enough: its place in [`Probe::ALL`].
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The probe of this number.
    pub fn of_number(number: u8) -> Option<Probe> {
        Probe::ALL.get(usize::from(number)).copied()
    }

    /// What it passes, in order.
    pub const fn arguments(self) -> &'static [Argument] {
        self.row().arguments
    }

    /// What the agent's probe of this name passes behind these.
    pub const fn further_arguments(self) -> &'static [Argument] {
        self.row().further
    }

    /// The plain event that each hit becomes; `None` where events of other kinds are made of it.
    pub const fn plain(self) -> Option<&'static PlainEvent> {
        self.row().plain.as_ref()
    }

    /// The probe whose hits are plain events of this name in JSON.
    pub fn of_event(name: &str) -> Option<Probe> {
        Probe::of_plain(|plain| plain.name == name)
    }

    /// The probe whose hits are plain events with this letter on the wire from stap.
    pub fn of_letter(letter: u8) -> Option<Probe> {
        Probe::of_plain(|plain| plain.letter == letter)
    }

    /// The probe whose hits are plain events with this number in recordings.
    pub fn of_code(code: u8) -> Option<Probe> {
        Probe::of_plain(|plain| plain.code == code)
    }

    fn of_plain(is: impl Fn(&PlainEvent) -> bool) -> Option<Probe> {
        Probe::ALL
            .into_iter()
            .find(|probe| probe.plain().is_some_and(&is))
    }

    /// The arguments that a plain event has as texts, in order.
    pub fn texts(self) -> impl Iterator<Item = &'static Argument> {
        self.arguments().iter().filter(|it| it.kind.is_text())
    }

    /// The argument that a plain event has as its number.
    pub fn number_argument(self) -> Option<&'static Argument> {
        self.arguments().iter().find(|it| it.kind.is_number())
    }

    /// Whether interpreters have it, and not only the agent.
    pub const fn is_cpythons(self) -> bool {
        !matches!(self, Probe::ContextName)
    }

    /// Whether filters on functions and files are about it.
    pub const fn is_filtered(self) -> bool {
        matches!(
            self,
            Probe::FunctionEntry | Probe::FunctionReturn | Probe::Line
        )
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

/// A template of a script: its name, and its text.
type Template = (&'static str, &'static str);

/// All about a kind.
struct KindRow {
    kind: EventKind,
    name: &'static str,
    probes: &'static [Probe],
    template: Template,
    /// Whether the agent gives it.
    agent: bool,
}

const CALLS: Template = ("calls", include_str!("../templates/calls.stp.tera"));

const KINDS: [KindRow; EventKind::ALL.len()] = [
    KindRow {
        kind: EventKind::Call,
        name: "call",
        probes: &[Probe::FunctionEntry],
        template: CALLS,
        agent: true,
    },
    KindRow {
        kind: EventKind::Return,
        name: "return",
        probes: &[Probe::FunctionReturn],
        template: CALLS,
        agent: true,
    },
    KindRow {
        kind: EventKind::Line,
        name: "line",
        probes: &[Probe::Line],
        template: ("lines", include_str!("../templates/lines.stp.tera")),
        agent: false,
    },
    KindRow {
        kind: EventKind::Gc,
        name: "gc",
        probes: &Probe::COLLECTIONS,
        template: ("gc", include_str!("../templates/gc.stp.tera")),
        agent: true,
    },
    KindRow {
        kind: EventKind::Import,
        name: "import",
        probes: &[Probe::ImportStart, Probe::ImportDone],
        template: ("imports", include_str!("../templates/imports.stp.tera")),
        agent: false,
    },
    KindRow {
        kind: EventKind::Audit,
        name: "audit",
        probes: &[Probe::Audit],
        template: ("audit", include_str!("../templates/audit.stp.tera")),
        agent: false,
    },
];

const _: () = {
    let mut at = 0;
    while at < KINDS.len() {
        assert!(KINDS[at].kind as usize == at, "a row for each, in order");
        at += 1;
    }
};

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

    const fn row(self) -> &'static KindRow {
        const ROWS: &[KindRow; EventKind::ALL.len()] = &KINDS;
        &ROWS[self as usize]
    }

    /// As it is typed and written.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The kind of this name.
    pub fn of_name(name: &str) -> Option<EventKind> {
        EventKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The names of all kinds, for people.
    pub fn names() -> String {
        EventKind::ALL.map(EventKind::name).join(", ")
    }

    /// The probes that it needs, all of them.
    pub const fn probes(self) -> &'static [Probe] {
        self.row().probes
    }

    /// Whether it is possible where these probes are, which is where all of its own are.
    pub fn is_possible(self, has: impl Fn(Probe) -> bool) -> bool {
        self.probes().iter().all(|probe| has(*probe))
    }

    /// The template that sends its events.
    pub const fn template(self) -> &'static str {
        self.row().template.0
    }

    /// The text of that template.
    pub const fn template_text(self) -> &'static str {
        self.row().template.1
    }

    /// Whether the agent gives it.
    pub const fn is_agents(self) -> bool {
        self.row().agent
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
