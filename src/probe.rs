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

/// An enumeration and its table: each variant stands beside its row.
macro_rules! table {
    (
        $(#[$about:meta])*
        enum $name:ident: $row:ident {
            $($(#[$doc:meta])* $variant:ident => $entry:expr,)+
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl $name {
            /// All, in the order of the table.
            pub const ALL: [$name; [$($name::$variant),+].len()] = [$($name::$variant),+];

            const fn row(self) -> &'static $row {
                const ROWS: &[$row; $name::ALL.len()] = &[$($entry),+];
                &ROWS[self as usize]
            }
        }
    };
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
    /// Arguments by name as text, which follow those by position, a [`Value`](ArgumentKind::Value).
    Keywords,
    /// A Python object, which nobody reads.
    Object,
}

impl ArgumentKind {
    /// Whether a plain event has it as a text.
    pub const fn is_text(self) -> bool {
        matches!(self, ArgumentKind::Text)
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

/// An event that consists of what its probe passes. It has one text or two, and at most one number or flag, which fits
/// in 32 bits.
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
    /// As CPython and the agent spell it.
    name: &'static str,
    arguments: &'static [Argument],
    /// What the agent's probe of this name passes behind these.
    further: &'static [Argument],
    /// What a patch of CPython passes behind the first ones, and no other build.
    patched: &'static [Argument],
    plain: Option<PlainEvent>,
}

/// What most rows have in common.
const USUAL: Row = Row {
    name: "",
    arguments: &[],
    further: &[],
    patched: &[],
    plain: None,
};

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
/// A class, and the module that it belongs to.
const CLASS: &[Argument] = &[argument("class", ArgumentKind::Text), MODULE];

table! {
/// A USDT probe that events are made of. Those that filters on functions and files are about come first, the agent's own last.
enum Probe: Row {
    /// A function begins.
    FunctionEntry => Row {
        name: "function__entry",
        arguments: PLACE,
        further: FRAME,
        patched: &[
            argument("args", ArgumentKind::Value),
            argument("kwargs", ArgumentKind::Keywords),
        ],
        ..USUAL
    },
    /// A function returns.
    FunctionReturn => Row {
        name: "function__return",
        arguments: PLACE,
        further: FRAME,
        ..USUAL
    },
    /// A line begins.
    Line => Row {
        name: "line",
        arguments: PLACE,
        ..USUAL
    },
    /// A garbage collection begins.
    GcStart => Row {
        name: "gc__start",
        arguments: &[argument("generation", ArgumentKind::Number)],
        ..USUAL
    },
    /// It ends.
    GcDone => Row {
        name: "gc__done",
        arguments: &[argument("collected", ArgumentKind::Number)],
        ..USUAL
    },
    /// A module is looked for.
    ImportStart => Row {
        name: "import__find__load__start",
        arguments: &[MODULE],
        plain: Some(PlainEvent {
            name: "import_start",
            label: "import",
            phase: Phase::Start,
            letter: b'I',
            code: 5,
        }),
        ..USUAL
    },
    /// It was found and loaded, or not.
    ImportDone => Row {
        name: "import__find__load__done",
        arguments: &[MODULE, argument("found", ArgumentKind::Flag { unset: "not found" })],
        plain: Some(PlainEvent {
            name: "import_done",
            label: "import",
            phase: Phase::Done(Probe::ImportStart),
            letter: b'i',
            code: 6,
        }),
        ..USUAL
    },
    /// An audit event.
    Audit => Row {
        name: "audit",
        arguments: &[
            Argument {
                field: "name",
                ..argument("event", ArgumentKind::Text)
            },
            argument("arguments", ArgumentKind::Object),
        ],
        plain: Some(PlainEvent {
            name: "audit",
            label: "audit",
            phase: Phase::Single,
            letter: b'A',
            code: 7,
        }),
        ..USUAL
    },
    /// An object is made: with those below, only in builds of Python with a patch.
    InstanceNewStart => Row {
        name: "instance__new__start",
        arguments: CLASS,
        plain: Some(PlainEvent {
            name: "instance_new_start",
            label: "new",
            phase: Phase::Start,
            letter: b'B',
            code: 16,
        }),
        ..USUAL
    },
    /// It was made.
    InstanceNewDone => Row {
        name: "instance__new__done",
        arguments: CLASS,
        plain: Some(PlainEvent {
            name: "instance_new_done",
            label: "new",
            phase: Phase::Done(Probe::InstanceNewStart),
            letter: b'b',
            code: 17,
        }),
        ..USUAL
    },
    /// An object is unmade.
    InstanceDeleteStart => Row {
        name: "instance__delete__start",
        arguments: CLASS,
        plain: Some(PlainEvent {
            name: "instance_delete_start",
            label: "delete",
            phase: Phase::Start,
            letter: b'U',
            code: 18,
        }),
        ..USUAL
    },
    /// It was unmade.
    InstanceDeleteDone => Row {
        name: "instance__delete__done",
        arguments: CLASS,
        plain: Some(PlainEvent {
            name: "instance_delete_done",
            label: "delete",
            phase: Phase::Done(Probe::InstanceDeleteStart),
            letter: b'u',
            code: 19,
        }),
        ..USUAL
    },
    /// What the context is called in which functions run: told by the agent alone.
    ContextName => Row {
        name: "context__name",
        arguments: &[
            argument("context", ArgumentKind::Context),
            argument("name", ArgumentKind::Text),
        ],
        ..USUAL
    },
}
}

impl Probe {
    /// Those that interpreters have, and not only the agent.
    pub const CPYTHONS: [Probe; Probe::ALL.len() - 1] = {
        let [of_cpython @ .., Probe::ContextName] = Probe::ALL else {
            panic!("the agent's own probe is the last one")
        };
        of_cpython
    };
    /// Those about functions that the agent has, too.
    pub const FUNCTIONS: [Probe; 2] = [Probe::FunctionEntry, Probe::FunctionReturn];
    /// Those about objects that are made and unmade, which only patches give.
    pub const INSTANCES: [Probe; 4] = [
        Probe::InstanceNewStart,
        Probe::InstanceNewDone,
        Probe::InstanceDeleteStart,
        Probe::InstanceDeleteDone,
    ];
    /// Those about garbage collections.
    pub const COLLECTIONS: [Probe; 2] = [Probe::GcStart, Probe::GcDone];

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

    /// What a patch of CPython 2.7.9 passes behind the first ones (`marks::passes_arguments`).
    pub const fn patched_arguments(self) -> &'static [Argument] {
        self.row().patched
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

/// A template of a script: its name, and its text.
type Template = (&'static str, &'static str);

/// All about a kind.
struct KindRow {
    /// As it is typed and written.
    name: &'static str,
    /// The probes that it needs, all of them.
    probes: &'static [Probe],
    template: Template,
    /// Whether the agent gives it.
    agent: bool,
}

const CALLS: Template = ("calls", include_str!("../templates/calls.stp.tera"));

table! {
/// What a user asks for with `--events`, in the order in which the kinds are listed.
enum EventKind: KindRow {
    /// A function is called.
    Call => KindRow {
        name: "call",
        probes: &[Probe::FunctionEntry],
        template: CALLS,
        agent: true,
    },
    /// It returns.
    Return => KindRow {
        name: "return",
        probes: &[Probe::FunctionReturn],
        template: CALLS,
        agent: true,
    },
    /// A line runs.
    Line => KindRow {
        name: "line",
        probes: &[Probe::Line],
        template: ("lines", include_str!("../templates/lines.stp.tera")),
        agent: false,
    },
    /// A garbage collection.
    Gc => KindRow {
        name: "gc",
        probes: &Probe::COLLECTIONS,
        template: ("gc", include_str!("../templates/gc.stp.tera")),
        agent: true,
    },
    /// An import.
    Import => KindRow {
        name: "import",
        probes: &[Probe::ImportStart, Probe::ImportDone],
        template: ("imports", include_str!("../templates/imports.stp.tera")),
        agent: false,
    },
    /// An audit event.
    Audit => KindRow {
        name: "audit",
        probes: &[Probe::Audit],
        template: ("audit", include_str!("../templates/audit.stp.tera")),
        agent: false,
    },
    /// An object that is made or unmade.
    Instance => KindRow {
        name: "instance",
        probes: &Probe::INSTANCES,
        template: ("instances", include_str!("../templates/instances.stp.tera")),
        agent: false,
    },
}
}

impl EventKind {
    /// What is traced when nothing is said.
    pub const DEFAULT: [EventKind; 3] = [EventKind::Call, EventKind::Return, EventKind::Gc];

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
