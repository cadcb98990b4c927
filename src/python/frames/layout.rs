//! Where the structures of CPython have the fields that lead to stacks.
//!
//! From 3.13 on the interpreter says that itself, in a table at the beginning of its runtime state (`_Py_DebugOffsets`,
//! Include/internal/pycore_runtime.h in 3.13, pycore_debug_offsets.h later); only the order of that table is known here. For
//! 3.8 to 3.12 the positions are those that a C compiler gives the structures of the version's own headers, which
//! `tests/builds/structures` prints for every interpreter whose headers are here: the same for all releases of a minor
//! version that were looked at, 64-bit, with the GIL, and without Py_DEBUG or Py_TRACE_REFS.
//!
//! Nothing here is taken for granted: what is read by these positions must have the types that it should have
//! ([`super::objects`]), or it is refused.

use super::lines::LineTable;
use super::memory::{Memory, Unread};
use crate::python::Version;

/// No structure of CPython is larger.
const LARGEST: u64 = 1 << 20;
/// Those that are read as a whole.
const LARGEST_READ: u64 = 1 << 10;
/// The cookie at the beginning of the table.
const COOKIE: &[u8; 8] = b"xdebugpy";

/// Why the layout of an interpreter is not known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// None that this pystap knows has this version.
    Version(String),
    /// It has no GIL, which changes everything else, too.
    FreeThreaded,
    /// Its table makes no sense.
    Table,
}

/// Positions of fields, in bytes from the beginning of their structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Whether the interpreter states it.
    pub(super) stated: bool,
    pub(super) interpreters_head: u64,
    pub(super) interpreter_next: u64,
    pub(super) interpreter_id: u64,
    pub(super) threads_head: u64,
    /// Where the lists of the garbage collector are.
    pub(super) collector: Collector,
    /// Within its state: whether it collects right now.
    pub(super) collecting: u64,
    pub(super) gil: Gil,
    /// Within the GIL: who holds it, or held it last, and whether somebody does.
    pub(super) gil_holder: u64,
    pub(super) gil_locked: u64,
    pub(super) thread_next: u64,
    pub(super) thread_interpreter: u64,
    pub(super) thread_id: u64,
    pub(super) native_thread_id: Option<u64>,
    pub(super) frames: Frames,
    pub(super) generators: Generators,
    /// Where a frame has its local variables, and a code object a tuple of their names.
    pub(super) locals: u64,
    pub(super) local_names: u64,
    pub(super) code: Code,
    pub(super) objects: Objects,
    pub(super) attributes: Attributes,
}

/// Where the GIL is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gil {
    /// In the runtime state.
    InRuntime(u64),
    /// Where a field of the interpreter points.
    OfInterpreter(u64),
}

/// Where the garbage collector's state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collector {
    /// In the runtime state.
    InRuntime(u64),
    /// In the interpreter.
    InInterpreter(u64),
}

/// How frames are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frames {
    /// Objects, up to 3.10.
    Objects {
        thread_frame: u64,
        back: u64,
        code: u64,
        last_instruction: u64,
        /// Bytes of that which the instruction is counted in.
        unit: i64,
        line: u64,
        trace: u64,
    },
    /// Structures of the interpreter, from 3.11 on.
    Structures {
        /// In the thread state: the frame, or what points to it, with the position of the frame there.
        thread_frame: u64,
        through: Option<u64>,
        code: u64,
        previous: u64,
        instruction: u64,
        owner: u64,
    },
}

impl Frames {
    /// Where a thread state has its innermost frame, or what points to that; and where it is there.
    pub(super) fn innermost(&self) -> (u64, Option<u64>) {
        match *self {
            Frames::Objects { thread_frame, .. } => (thread_frame, None),
            Frames::Structures {
                thread_frame,
                through,
                ..
            } => (thread_frame, through),
        }
    }
}

/// Generators, coroutines and asynchronous generators, which begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generators {
    /// In a generator: its frame, or (up to 3.10) what points to it.
    pub(super) frame: u64,
    pub(super) states: States,
    pub(super) top: Top,
}

/// What says what a generator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum States {
    /// Up to 3.9: a byte in the generator that says whether it runs. Instructions before the first say that it has not begun.
    Running(u64),
    /// A byte in the frame (3.10) or the generator, and what it says of one that has not begun and one that waits.
    Byte {
        at: u64,
        created: i8,
        suspended: i8,
        /// From 3.13 on: how it says, beside that, that an `await` or `yield from` waits for another object: the lowest and
        /// the highest such value.
        awaits: Option<(i8, i8)>,
    },
}

/// How the top of a frame's stack of values is found, by positions in the frame. What a coroutine awaits is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Top {
    /// What points behind it, and how many bytes before that what is awaited is: from 3.15 on there is something in between.
    Pointer { at: u64, back: u64 },
    /// How many values there are, and what points to the first.
    Depth { depth: u64, stack: u64 },
    /// How many values there are, local variables among them, and where the first is in the frame.
    Inside { depth: u64, stack: u64 },
}

/// A code object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) filename: u64,
    pub(super) name: u64,
    pub(super) qualname: Option<u64>,
    pub(super) first_line: u64,
    pub(super) lines: u64,
    pub(super) table: LineTable,
    /// Its instructions, where they are in it, and the first of them that counts (in units of two bytes): a frame that has
    /// not come so far is not complete.
    pub(super) instructions: Option<u64>,
    pub(super) first_traceable: Option<u64>,
    /// Its instructions, where they are a `bytes` that it points to.
    pub(super) bytecode: Option<u64>,
}

/// Objects of other types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Objects {
    pub(super) object_type: u64,
    pub(super) type_name: u64,
    /// How large the type's objects are, and which type it derives from. These have never moved.
    pub(super) type_size: u64,
    pub(super) type_base: u64,
    pub(super) bytes_size: u64,
    pub(super) bytes_value: u64,
    pub(super) tuple_items: u64,
    pub(super) str_length: u64,
    pub(super) str_state: u64,
    /// Where the characters of a `str` are, if they are ASCII; otherwise 16 bytes later, and up to 3.11 24.
    pub(super) str_ascii: u64,
    pub(super) str_other: u64,
}

const OBJECTS: Objects = Objects {
    object_type: 8,
    type_name: 24,
    type_size: 32,
    type_base: 256,
    bytes_size: 16,
    bytes_value: 32,
    tuple_items: 24,
    str_length: 16,
    str_state: 32,
    str_ascii: 48,
    str_other: 72,
};

/// How instances keep their attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// In a dictionary (up to 3.10).
    Dictionary,
    /// In values that are pointed to, or in a dictionary (3.11).
    Apart,
    /// The same, and one bit says which (3.12).
    Marked,
    /// In values at its own end, or in a dictionary (from 3.13 on).
    Within,
}

/// Where the attributes of instances are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) kept: Kept,
    /// Where a type has the keys of its instances.
    pub(super) keys: u64,
}

/// Where the attributes of instances are, in no table of any interpreter: those of the headers, which `tests/builds/structures`
/// prints, too.
const fn attributes(minor: u8) -> Attributes {
    let (kept, keys) = match minor {
        9 => (Kept::Dictionary, 864),
        ..=10 => (Kept::Dictionary, 872),
        11 => (Kept::Apart, 872),
        12 => (Kept::Marked, 880),
        13 | 14 => (Kept::Within, 880),
        _ => (Kept::Within, 888),
    };
    Attributes { kept, keys }
}

/// 3.9 and 3.8, which differ in the runtime state and the interpreter alone.
const OLD: Layout = Layout {
    stated: false,
    interpreters_head: 32,
    interpreter_next: 0,
    interpreter_id: 24,
    threads_head: 8,
    collector: Collector::InInterpreter(616),
    collecting: 200,
    gil: Gil::InRuntime(352),
    gil_holder: 8,
    gil_locked: 16,
    thread_next: 8,
    thread_interpreter: 16,
    thread_id: 176,
    native_thread_id: None,
    frames: Frames::Objects {
        thread_frame: 24,
        back: 24,
        code: 32,
        last_instruction: 104,
        unit: 1,
        line: 108,
        trace: 80,
    },
    generators: Generators {
        frame: 16,
        states: States::Running(24),
        top: Top::Pointer { at: 72, back: 8 },
    },
    locals: 360,
    local_names: 72,
    code: Code {
        filename: 104,
        name: 112,
        qualname: None,
        first_line: 40,
        lines: 120,
        table: LineTable::Lnotab,
        instructions: None,
        first_traceable: None,
        bytecode: Some(48),
    },
    objects: OBJECTS,
    attributes: attributes(9),
};

/// The positions of 3.8 to 3.12.
fn table(minor: u8) -> Option<Layout> {
    Some(match minor {
        8 => Layout {
            interpreter_id: 16,
            collector: Collector::InRuntime(344),
            gil: Gil::InRuntime(1152),
            attributes: attributes(8),
            ..OLD
        },
        9 => OLD,
        10 => Layout {
            frames: Frames::Objects {
                thread_frame: 24,
                back: 24,
                code: 32,
                last_instruction: 96,
                unit: 2,
                line: 100,
                trace: 72,
            },
            generators: Generators {
                frame: 16,
                states: States::Byte {
                    at: 108,
                    created: -2,
                    suspended: -1,
                    awaits: None,
                },
                top: Top::Depth {
                    depth: 80,
                    stack: 64,
                },
            },
            locals: 352,
            code: Code {
                table: LineTable::Ranges,
                ..OLD.code
            },
            attributes: attributes(10),
            ..OLD
        },
        11 => Layout {
            interpreters_head: 40,
            interpreter_id: 48,
            threads_head: 16,
            collector: Collector::InInterpreter(648),
            gil: Gil::InRuntime(360),
            thread_id: 152,
            native_thread_id: Some(160),
            frames: Frames::Structures {
                thread_frame: 56,
                through: Some(8),
                code: 32,
                previous: 48,
                instruction: 56,
                owner: 69,
            },
            generators: Generators {
                frame: 80,
                states: States::Byte {
                    at: 75,
                    created: -2,
                    suspended: -1,
                    awaits: None,
                },
                top: Top::Inside {
                    depth: 64,
                    stack: 72,
                },
            },
            locals: 72,
            local_names: 96,
            code: Code {
                filename: 112,
                name: 120,
                qualname: Some(128),
                first_line: 72,
                lines: 136,
                table: LineTable::Locations,
                instructions: Some(184),
                first_traceable: Some(168),
                bytecode: None,
            },
            attributes: attributes(11),
            ..OLD
        },
        12 => Layout {
            interpreters_head: 40,
            interpreter_id: 8,
            threads_head: 72,
            collector: Collector::InInterpreter(112),
            gil: Gil::OfInterpreter(384),
            thread_id: 136,
            native_thread_id: Some(144),
            frames: Frames::Structures {
                thread_frame: 56,
                through: Some(0),
                code: 0,
                previous: 8,
                instruction: 56,
                owner: 70,
            },
            generators: Generators {
                frame: 72,
                states: States::Byte {
                    at: 67,
                    created: -2,
                    suspended: -1,
                    awaits: None,
                },
                top: Top::Inside {
                    depth: 64,
                    stack: 72,
                },
            },
            locals: 72,
            local_names: 96,
            code: Code {
                filename: 112,
                name: 120,
                qualname: Some(128),
                first_line: 68,
                lines: 136,
                table: LineTable::Locations,
                instructions: Some(192),
                first_traceable: Some(176),
                bytecode: None,
            },
            objects: Objects {
                str_ascii: 40,
                str_other: 56,
                ..OBJECTS
            },
            attributes: attributes(12),
            ..OLD
        },
        _ => return None,
    })
}

/// Byte positions in `_Py_DebugOffsets` that differ between versions: where its parts begin.
struct Parts {
    thread_next: u64,
    thread_id: u64,
    frame: u64,
    code: u64,
    object: u64,
    type_name: u64,
    tuple: u64,
    bytes: u64,
    string: u64,
    /// Where in the part about the garbage collector it is said where its state says that it collects.
    collecting: u64,
    /// Of the interpreter's part: where the fields about its GIL begin, which come four after that about its garbage
    /// collector.
    gil: u64,
    /// The part about generators, which 3.13 does not have.
    generator: Option<u64>,
}

fn parts(minor: u8) -> Option<Parts> {
    Some(match minor {
        13 => Parts {
            gil: 112,
            generator: None,
            thread_next: 168,
            thread_id: 192,
            frame: 224,
            code: 272,
            object: 352,
            type_name: 376,
            tuple: 400,
            bytes: 512,
            string: 536,
            collecting: 576,
        },
        14 => Parts {
            gil: 120,
            generator: Some(664),
            thread_next: 192,
            thread_id: 216,
            frame: 248,
            code: 312,
            object: 400,
            type_name: 424,
            tuple: 448,
            bytes: 592,
            string: 616,
            collecting: 656,
        },
        15 => Parts {
            gil: 120,
            generator: Some(792),
            thread_next: 192,
            thread_id: 240,
            frame: 312,
            code: 376,
            object: 464,
            type_name: 488,
            tuple: 544,
            bytes: 688,
            string: 712,
            collecting: 760,
        },
        _ => return None,
    })
}

/// What the state of a generator says, from 3.13 on.
fn states(minor: u8, at: u64) -> States {
    let (created, suspended, awaits) = match minor {
        13 | 14 => (-3, -2, (-1, -1)),
        _ => (0, 1, (2, 3)),
    };
    States::Byte {
        at,
        created,
        suspended,
        awaits: Some(awaits),
    }
}

impl Layout {
    /// The layout of the interpreter of this version, whose runtime state is at this address.
    pub(super) fn of(
        memory: &impl Memory,
        runtime: u64,
        version: Option<&Version>,
    ) -> Result<Result<Layout, Unknown>, Unread> {
        let mut head = [0; 24];
        memory.read(runtime, &mut head)?;
        if head.first_chunk() == Some(COOKIE) {
            return Layout::told(memory, runtime);
        }
        let unknown = || {
            let version = version.map_or_else(|| "unknown".to_owned(), ToString::to_string);
            Unknown::Version(version)
        };
        let known = version.filter(|version| version.major == 3 && version.pre.is_none());
        let known = known.and_then(|version| table(version.minor));
        Ok(known.ok_or_else(unknown))
    }

    /// The layout that the interpreter states itself.
    fn told(memory: &impl Memory, runtime: u64) -> Result<Result<Layout, Unknown>, Unread> {
        let version = memory.number(runtime + 8)? as u32;
        let [major, minor, micro, release] = version.to_be_bytes();
        // The table may still change in an alpha or a beta.
        let finished = major == 3 && matches!(release >> 4, 0xc | 0xf);
        let Some(parts) = parts(minor).filter(|_| finished) else {
            let version = Version::from_hex(version)
                .map_or_else(|| format!("{major}.{minor}.{micro}"), |it| it.to_string());
            return Ok(Err(Unknown::Version(version)));
        };
        if memory.number(runtime + 16)? != 0 {
            return Ok(Err(Unknown::FreeThreaded));
        }
        let field = |position: u64| memory.number(runtime + position);
        // `_gil` itself, `enabled`, `locked` and the holder, all from the beginning of the interpreter.
        let gil = field(parts.gil + 8)?;
        let within = |position: u64| Ok(field(position)?.wrapping_sub(gil));
        let generators = match parts.generator {
            Some(part) => Generators {
                frame: field(part + 16)?,
                states: states(minor, field(part + 24)?),
                top: Top::Pointer {
                    at: field(parts.frame + 48)?,
                    back: if minor < 15 { 8 } else { 16 },
                },
            },
            // The headers of 3.13.
            None => Generators {
                frame: 72,
                states: states(minor, 67),
                top: Top::Inside {
                    depth: 64,
                    stack: field(parts.frame + 32)?,
                },
            },
        };
        let layout = Layout {
            stated: true,
            interpreters_head: field(40)?,
            interpreter_id: field(56)?,
            interpreter_next: field(64)?,
            threads_head: field(72)?,
            collector: Collector::InInterpreter(field(parts.gil - 32)?),
            collecting: field(parts.collecting)?,
            gil: Gil::OfInterpreter(field(parts.gil)?),
            gil_locked: within(parts.gil + 24)?,
            gil_holder: within(parts.gil + 32)?,
            thread_next: field(parts.thread_next)?,
            thread_interpreter: field(parts.thread_next + 8)?,
            thread_id: field(parts.thread_id)?,
            native_thread_id: Some(field(parts.thread_id + 8)?),
            frames: Frames::Structures {
                thread_frame: field(parts.thread_next + 16)?,
                through: None,
                previous: field(parts.frame + 8)?,
                code: field(parts.frame + 16)?,
                instruction: field(parts.frame + 24)?,
                owner: field(parts.frame + 40)?,
            },
            generators,
            locals: field(parts.frame + 32)?,
            local_names: field(parts.code + 56)?,
            code: Code {
                filename: field(parts.code + 8)?,
                name: field(parts.code + 16)?,
                qualname: Some(field(parts.code + 24)?),
                lines: field(parts.code + 32)?,
                first_line: field(parts.code + 40)?,
                table: LineTable::Locations,
                instructions: Some(field(parts.code + 72)?),
                first_traceable: None,
                bytecode: None,
            },
            objects: Objects {
                object_type: field(parts.object + 8)?,
                type_name: field(parts.type_name)?,
                type_size: OBJECTS.type_size,
                type_base: OBJECTS.type_base,
                bytes_size: field(parts.bytes + 8)?,
                bytes_value: field(parts.bytes + 16)?,
                tuple_items: field(parts.tuple + 8)?,
                str_state: field(parts.string + 8)?,
                str_length: field(parts.string + 16)?,
                str_ascii: field(parts.string + 24)?,
                str_other: field(parts.string + 24)?.saturating_add(16),
            },
            attributes: attributes(minor),
        };
        Ok(match layout.makes_sense() {
            true => Ok(layout),
            false => Err(Unknown::Table),
        })
    }

    /// Whether no structure is larger than those of CPython are.
    fn makes_sense(&self) -> bool {
        let (Gil::InRuntime(gil) | Gil::OfInterpreter(gil)) = self.gil;
        let (Collector::InRuntime(collector) | Collector::InInterpreter(collector)) =
            self.collector;
        let large = [
            self.interpreters_head,
            self.interpreter_next,
            self.interpreter_id,
            self.threads_head,
            gil,
            collector,
            self.collecting,
            self.gil_holder,
            self.gil_locked,
        ];
        let thread = [
            self.thread_next,
            self.thread_interpreter,
            self.thread_id,
            self.native_thread_id.unwrap_or_default(),
        ];
        let frame = match self.frames {
            Frames::Objects { .. } => [0; 5],
            Frames::Structures {
                thread_frame,
                code,
                previous,
                instruction,
                owner,
                ..
            } => [thread_frame, code, previous, instruction, owner],
        };
        let (States::Running(state) | States::Byte { at: state, .. }) = self.generators.states;
        let (Top::Pointer { at: top, .. }
        | Top::Depth { stack: top, .. }
        | Top::Inside { stack: top, .. }) = self.generators.top;
        let generators = [self.generators.frame, state, top];
        let objects = [
            self.code.filename,
            self.code.name,
            self.code.qualname.unwrap_or_default(),
            self.code.first_line,
            self.code.lines,
            self.code.instructions.unwrap_or_default(),
            self.locals,
            self.local_names,
            self.objects.tuple_items,
            self.objects.object_type,
            self.objects.type_name,
            self.objects.bytes_size,
            self.objects.bytes_value,
            self.objects.str_length,
            self.objects.str_state,
            self.objects.str_ascii,
        ];
        large.iter().all(|at| *at < LARGEST)
            && frame
                .iter()
                .chain(&generators)
                .chain(&objects)
                .chain(&thread)
                .all(|at| *at < LARGEST_READ)
    }

    /// Bytes of a thread state that have all that is read of it when threads are listed.
    pub(super) fn thread_size(&self) -> u64 {
        let native = self.native_thread_id.unwrap_or_default();
        let last = self.thread_next.max(self.thread_interpreter);
        last.max(self.thread_id).max(native) + 8
    }

    /// Bytes of a frame that have all that is read of it.
    pub(super) fn frame_size(&self) -> u64 {
        match self.frames {
            Frames::Objects {
                back,
                code,
                last_instruction,
                line,
                trace,
                ..
            } => [back, code, trace, last_instruction, line],
            Frames::Structures {
                code,
                previous,
                instruction,
                owner,
                ..
            } => [code, previous, instruction, owner, 0],
        }
        .into_iter()
        .max()
        .unwrap_or_default()
            + 8
    }

    /// Bytes of a code object that have all that is read of it.
    pub(super) fn code_size(&self) -> u64 {
        let code = &self.code;
        [
            code.filename,
            code.name,
            code.qualname.unwrap_or_default(),
            code.first_line,
            code.lines,
            code.first_traceable.unwrap_or_default(),
            self.objects.object_type,
        ]
        .into_iter()
        .max()
        .unwrap_or_default()
            + 8
    }
}

/// The layouts of 3.8 to 3.12, for [`made_up`](super::made_up).
pub(super) fn known() -> Vec<Layout> {
    (8..=12).filter_map(table).collect()
}
