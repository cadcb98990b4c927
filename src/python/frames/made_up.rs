//! An interpreter that was made up, in any layout, for tests and for the fuzz target `stacks`: a runtime state with one thread,
//! in which one function has called itself, one task, which awaits a future, and one greenlet, which is switched out.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::attributes;
use super::functions::Made;
use super::glimpse::Near;
use super::heap::Bounds;
use super::layout::{Collector, Frames, Gil, Kept, Layout, States, Top};
use super::memory::{Memory, Unread};
use super::objects::Reader;
use super::{Parked, Stacks};

/// Where the made-up interpreter begins; every structure has a page of its own from there on.
pub(super) const BEGIN: u64 = 0x7000_0000_0000;
pub(super) const PAGE: u64 = 0x1000;
/// Reads that any look at a damaged memory may take.
pub(super) const MOST_READS: usize = 2_000_000;

/// A memory that was made up.
#[derive(Default)]
pub(super) struct MadeUp {
    pub(super) bytes: Vec<u8>,
    pub(super) reads: Cell<usize>,
    /// What changes at the read of this number.
    pub(super) change: Option<(usize, usize, u64)>,
    /// The word that is another one at each read.
    pub(super) restless: Option<usize>,
}

impl MadeUp {
    pub(super) fn put(&mut self, address: u64, bytes: &[u8]) {
        let at = (address - BEGIN) as usize;
        let end = at + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end.next_multiple_of(PAGE as usize), 0);
        }
        self.bytes[at..end].copy_from_slice(bytes);
    }

    pub(super) fn point(&mut self, address: u64, number: u64) {
        self.put(address, &number.to_ne_bytes());
    }
}

impl Memory for MadeUp {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unread> {
        self.reads.set(self.reads.get() + 1);
        assert!(self.reads.get() < MOST_READS, "it reads on and on");
        let at = address.checked_sub(BEGIN).ok_or(Unread::Senseless)? as usize;
        let end = at.checked_add(into.len()).ok_or(Unread::Senseless)?;
        into.copy_from_slice(self.bytes.get(at..end).ok_or(Unread::Senseless)?);
        let restless = self
            .restless
            .map(|place| (0, place, 8 * self.reads.get() as u64));
        let changes = [self.change, restless].into_iter().flatten();
        for (_, place, number) in changes.filter(|(read, ..)| self.reads.get() >= *read) {
            let change = number.to_ne_bytes();
            for (offset, byte) in into.iter_mut().enumerate() {
                if let Some(changed) = (at + offset)
                    .checked_sub(place)
                    .and_then(|offset| change.get(offset))
                {
                    *byte = *changed;
                }
            }
        }
        Ok(())
    }
}

/// Addresses of the made-up interpreter's structures.
pub(super) const fn page(number: u64) -> u64 {
    BEGIN + number * PAGE
}
pub(super) const RUNTIME: u64 = page(0);
pub(super) const INTERPRETER: u64 = page(2);
pub(super) const THREAD: u64 = page(4);
pub(super) const STRUCTURE: u64 = page(6);
pub(super) const FRAME: u64 = page(8);
pub(super) const CALLER: u64 = page(9);
pub(super) const CODE: u64 = page(10);
pub(super) const CODE_TYPE: u64 = page(12);
pub(super) const STR_TYPE: u64 = page(13);
pub(super) const BYTES_TYPE: u64 = page(14);
pub(super) const NAME: u64 = page(15);
pub(super) const FILE: u64 = page(16);
pub(super) const LINES: u64 = page(17);
pub(super) const CFRAME: u64 = page(18);
pub(super) const TYPE_NAMES: u64 = page(19);
pub(super) const GIL: u64 = page(20);
/// A task, right behind the links of the garbage collector's list.
pub(super) const TASK: u64 = page(22) + 16;
pub(super) const COROUTINE: u64 = page(23);
pub(super) const OF_FUTURE: u64 = page(24);
pub(super) const FUTURE: u64 = page(25);
pub(super) const TASK_TYPE: u64 = page(26);
pub(super) const COROUTINE_TYPE: u64 = page(27);
pub(super) const OF_FUTURE_TYPE: u64 = page(28);
pub(super) const FUTURE_TYPE: u64 = page(29);
/// The frame of the coroutine, where that is an object, its values and its instructions.
pub(super) const COROUTINE_FRAME: u64 = page(30);
pub(super) const VALUES: u64 = page(31);
pub(super) const BYTECODE: u64 = page(32);
/// A greenlet, on the same list as the task; its fields, where it has them elsewhere; and the object for its frame, which
/// from 3.11 on is not the frame.
pub(super) const GREENLET: u64 = page(33) + 16;
pub(super) const FIELDS: u64 = page(34);
pub(super) const GREENLET_TYPE: u64 = page(35);
pub(super) const FRAME_OBJECT: u64 = page(36);
pub(super) const FRAME_TYPE: u64 = page(37);
pub(super) const GREENLET_FRAME: u64 = page(38);
/// An object with one attribute, the keys of which its type keeps, and its values or its dictionary, where it has these elsewhere.
pub(super) const INSTANCE: u64 = page(39) + 64;
pub(super) const INSTANCE_TYPE: u64 = page(40);
pub(super) const KEYS: u64 = page(41);
pub(super) const ELSEWHERE: u64 = page(42);
pub(super) const INT_TYPE: u64 = page(43);
/// How many pages there are.
pub(super) const PAGES: u64 = 44;
/// Where the made-up task has its coroutine; its name is behind it.
const COROUTINE_AT: u64 = 112;
pub(super) const ID: u32 = 4711;

/// An interpreter with one thread, in which `näme` has called itself.
pub(super) fn interpreter(layout: &Layout) -> MadeUp {
    let mut made_up = MadeUp::default();
    made_up.put(page(PAGES - 1), &[0; PAGE as usize]);
    made_up.point(RUNTIME + layout.interpreters_head, INTERPRETER);
    made_up.point(INTERPRETER + layout.threads_head, THREAD);
    let gil = match layout.gil {
        Gil::InRuntime(at) => RUNTIME + at,
        Gil::OfInterpreter(at) => {
            made_up.point(INTERPRETER + at, GIL);
            GIL
        }
    };
    made_up.put(gil + layout.gil_locked, &1_u32.to_ne_bytes());
    made_up.point(gil + layout.gil_holder, THREAD);
    made_up.point(THREAD + layout.thread_interpreter, INTERPRETER);
    made_up.point(THREAD + layout.thread_id, STRUCTURE);
    if let Some(at) = layout.native_thread_id {
        made_up.point(THREAD + at, u64::from(ID));
    }
    made_up.put(STRUCTURE + 720, &ID.to_ne_bytes());

    for (its_type, name, at) in [
        (CODE_TYPE, "code\0", 0),
        (STR_TYPE, "str\0", 16),
        (BYTES_TYPE, "bytes\0", 32),
        (TASK_TYPE, "_asyncio.Task\0", 64),
        (COROUTINE_TYPE, "coroutine\0", 96),
        (OF_FUTURE_TYPE, "_asyncio.FutureIter\0", 128),
        (FUTURE_TYPE, "_asyncio.Future\0", 160),
        (GREENLET_TYPE, "greenlet.greenlet\0", 192),
        (FRAME_TYPE, "frame\0", 224),
        (INT_TYPE, "int\0", 232),
    ] {
        made_up.put(TYPE_NAMES + at, name.as_bytes());
        made_up.point(its_type + layout.objects.type_name, TYPE_NAMES + at);
    }
    let objects = layout.objects;
    text(&mut made_up, layout, NAME, "näme");
    text(&mut made_up, layout, FILE, "/file.py");
    // One line for every two bytes, in each of the three forms.
    let (table, count): (&[u8], u64) = match layout.code.table {
        super::lines::LineTable::Locations => (&[0x80, 0, 0, 0xd8, 0, 0, 0xd8, 0, 0], 9),
        super::lines::LineTable::Ranges => (&[2, 0, 2, 1, 2, 1], 6),
        super::lines::LineTable::Lnotab => (&[2, 1, 2, 1], 4),
    };
    made_up.point(LINES + objects.object_type, BYTES_TYPE);
    made_up.point(LINES + objects.bytes_size, count);
    made_up.put(LINES + objects.bytes_value, table);
    made_up.point(CODE + objects.object_type, CODE_TYPE);
    made_up.point(CODE + layout.code.filename, FILE);
    for at in [Some(layout.code.name), layout.code.qualname] {
        at.into_iter().for_each(|at| made_up.point(CODE + at, NAME));
    }
    made_up.point(CODE + layout.code.lines, LINES);
    made_up.put(CODE + layout.code.first_line, &40_u32.to_ne_bytes());

    match layout.frames {
        Frames::Objects {
            thread_frame,
            back,
            code,
            last_instruction,
            unit,
            ..
        } => {
            made_up.point(THREAD + thread_frame, FRAME);
            made_up.point(FRAME + back, CALLER);
            for (frame, at) in [(FRAME, 2), (CALLER, 4)] {
                made_up.point(frame + code, CODE);
                let position = (at / unit) as i32;
                made_up.put(frame + last_instruction, &position.to_ne_bytes());
            }
        }
        Frames::Structures {
            thread_frame,
            through,
            code,
            previous,
            instruction,
            ..
        } => {
            match through {
                Some(at) => {
                    made_up.point(THREAD + thread_frame, CFRAME);
                    made_up.point(CFRAME + at, FRAME);
                }
                None => made_up.point(THREAD + thread_frame, FRAME),
            }
            made_up.point(FRAME + previous, CALLER);
            let begin = CODE + layout.code.instructions.expect("they have addresses");
            for (frame, at) in [(FRAME, 2), (CALLER, 4)] {
                made_up.point(frame + code, CODE);
                made_up.point(frame + instruction, begin + at);
            }
        }
    }
    add_task(&mut made_up, layout);
    add_greenlet(&mut made_up, layout);
    add_instance(&mut made_up, layout);
    made_up
}

/// A `str`, of characters below U+0100.
pub(super) fn text(made_up: &mut MadeUp, layout: &Layout, address: u64, text: &str) {
    let objects = layout.objects;
    made_up.point(address + objects.object_type, STR_TYPE);
    made_up.point(address + objects.str_length, text.chars().count() as u64);
    let (state, begin) = match text.is_ascii() {
        true => (0x64_u32, objects.str_ascii),
        false => (0x24, objects.str_other),
    };
    made_up.put(address + objects.str_state, &state.to_ne_bytes());
    let bytes: Vec<u8> = text.chars().map(|it| it as u8).collect();
    made_up.put(address + begin, &bytes);
}

/// The state of the collector, and where in it the head of the list is on which the task is.
pub(super) const HEAD: u64 = 24;
pub(super) fn collector(layout: &Layout) -> u64 {
    match layout.collector {
        Collector::InRuntime(at) => RUNTIME + at,
        Collector::InInterpreter(at) => INTERPRETER + at,
    }
}

/// A task of one coroutine, which awaits a future.
fn add_task(made_up: &mut MadeUp, layout: &Layout) {
    let head = collector(layout) + HEAD;
    for (from, to) in [
        (head, TASK - 16),
        (TASK - 16, GREENLET - 16),
        (GREENLET - 16, head),
    ] {
        made_up.point(from, to);
        made_up.point(to + 8, from);
    }
    let object_type = layout.objects.object_type;
    for (object, its_type) in [
        (TASK, TASK_TYPE),
        (COROUTINE, COROUTINE_TYPE),
        (OF_FUTURE, OF_FUTURE_TYPE),
        (FUTURE, FUTURE_TYPE),
    ] {
        made_up.point(object + object_type, its_type);
    }
    made_up.point(TASK_TYPE + layout.objects.type_size, 200);
    made_up.point(TASK + COROUTINE_AT, COROUTINE);
    made_up.point(TASK + COROUTINE_AT + 8, NAME);
    made_up.point(OF_FUTURE + 16, FUTURE);

    let generators = layout.generators;
    let frame = match layout.frames {
        Frames::Objects {
            code,
            last_instruction,
            unit,
            ..
        } => {
            made_up.point(COROUTINE + generators.frame, COROUTINE_FRAME);
            made_up.point(COROUTINE_FRAME + code, CODE);
            let position = (2 / unit) as i32;
            made_up.put(COROUTINE_FRAME + last_instruction, &position.to_ne_bytes());
            COROUTINE_FRAME
        }
        Frames::Structures {
            code,
            instruction,
            owner,
            ..
        } => {
            let frame = COROUTINE + generators.frame;
            let begin = CODE + layout.code.instructions.expect("they have addresses");
            made_up.point(frame + code, CODE);
            made_up.point(frame + instruction, begin + 2);
            made_up.put(frame + owner, &[1]);
            // It is resumed behind an await.
            made_up.put(begin + 5, &[3]);
            frame
        }
    };
    if let Some(at) = layout.code.bytecode {
        made_up.point(CODE + at, BYTECODE);
        made_up.put(BYTECODE + layout.objects.bytes_value + 4, &[72]);
    }
    if let States::Byte { suspended, .. } = generators.states {
        doing(made_up, layout, suspended);
    }
    let values = match generators.top {
        Top::Pointer { at, back } => {
            made_up.point(frame + at, VALUES + back);
            VALUES
        }
        Top::Depth { depth, stack } => {
            made_up.put(frame + depth, &1_u32.to_ne_bytes());
            made_up.point(frame + stack, VALUES);
            VALUES
        }
        Top::Inside { depth, stack } => {
            made_up.put(frame + depth, &3_u32.to_ne_bytes());
            frame + stack + 16
        }
    };
    made_up.point(values, OF_FUTURE);
}

/// A greenlet of one function, which is switched out: as of 2.0 and later from Python 3.11 on, as of 1.x before.
fn add_greenlet(made_up: &mut MadeUp, layout: &Layout) {
    let object_type = layout.objects.object_type;
    made_up.point(GREENLET + object_type, GREENLET_TYPE);
    made_up.point(FRAME_OBJECT + object_type, FRAME_TYPE);
    let (fields, size, at, behind) = match layout.frames {
        Frames::Objects { .. } => (GREENLET, 152, 16, 56),
        Frames::Structures { .. } => (FIELDS, 40, 56, 48),
    };
    made_up.point(GREENLET_TYPE + layout.objects.type_size, size);
    made_up.point(GREENLET + 32, if size == 40 { FIELDS } else { COPY });
    for (field, value) in [STACK, STACK + 4096, COPY, 512].into_iter().enumerate() {
        made_up.point(fields + at + field as u64 * 8, value);
    }
    made_up.point(fields + at + behind, FRAME_OBJECT);
    match layout.frames {
        Frames::Objects {
            code,
            last_instruction,
            unit,
            ..
        } => {
            made_up.point(FRAME_OBJECT + code, CODE);
            let position = (4 / unit) as i32;
            made_up.put(FRAME_OBJECT + last_instruction, &position.to_ne_bytes());
        }
        Frames::Structures {
            code, instruction, ..
        } => {
            made_up.point(FRAME_OBJECT + 24, GREENLET_FRAME);
            let begin = CODE + layout.code.instructions.expect("they have addresses");
            made_up.point(GREENLET_FRAME + code, CODE);
            made_up.point(GREENLET_FRAME + instruction, begin + 4);
        }
    }
}

/// An object the file of which is its attribute `näme`.
fn add_instance(made_up: &mut MadeUp, layout: &Layout) {
    made_up.point(INSTANCE + layout.objects.object_type, INSTANCE_TYPE);
    made_up.point(INSTANCE_TYPE + layout.objects.type_size, 32);
    made_up.point(INSTANCE_TYPE + layout.attributes.keys, KEYS);
    if layout.attributes.kept == Kept::Dictionary {
        made_up.point(INSTANCE_TYPE + 288, 16);
        made_up.point(INSTANCE + 16, ELSEWHERE);
        made_up.point(ELSEWHERE + 32, KEYS);
        // Eight places of a byte each, one of which is taken: the hash of the key, the key, the value.
        made_up.point(KEYS + 8, 8);
        made_up.point(KEYS + 32, 1);
        made_up.point(KEYS + 40 + 8 + 8, NAME);
        made_up.point(KEYS + 40 + 8 + 16, FILE);
        return;
    }
    // Eight places, and keys that are shared.
    made_up.put(KEYS + 8, &[3, 3, 2]);
    made_up.point(KEYS + 24, 1);
    made_up.point(KEYS + 32 + 8, NAME);
    let (flags, values) = match layout.attributes.kept {
        Kept::Within => {
            made_up.put(INSTANCE + 32, &[1; 4]);
            (1 << 2 | 1 << 4, INSTANCE + 40)
        }
        Kept::Marked => {
            made_up.point(INSTANCE - 24, ELSEWHERE - 1);
            (1 << 4, ELSEWHERE)
        }
        _ => {
            made_up.point(INSTANCE - 32, ELSEWHERE);
            (1 << 4, ELSEWHERE)
        }
    };
    made_up.point(INSTANCE_TYPE + 168, flags);
    made_up.point(values, FILE);
}

/// The lowest address of the greenlet's stack, and where what of it had to make room is.
const STACK: u64 = 0x7fff_0000_0000;
const COPY: u64 = page(1);

/// Has the coroutine say that it does this.
pub(super) fn doing(made_up: &mut MadeUp, layout: &Layout, state: i8) {
    let at = match (layout.generators.states, layout.frames) {
        (States::Running(at), _) => COROUTINE + at,
        (States::Byte { at, .. }, Frames::Objects { .. }) => COROUTINE_FRAME + at,
        (States::Byte { at, .. }, Frames::Structures { .. }) => COROUTINE + at,
    };
    made_up.put(at, &state.to_ne_bytes());
}

/// What waits without a thread in interpreters with these collectors; of at most so many tasks and greenlets, with names.
pub(super) fn parked(stacks: &Stacks<MadeUp>, collectors: &[u64], most: Option<usize>) -> Parked {
    let bounds = Bounds {
        until: Instant::now() + Duration::from_secs(3600),
        objects: 4096,
    };
    super::parked::parked(&stacks.reader, collectors, bounds, most)
}

/// The functions of interpreters with these collectors.
pub(super) fn functions(stacks: &Stacks<MadeUp>, collectors: &[u64]) -> Vec<Made> {
    let bounds = Bounds {
        until: Instant::now() + Duration::from_secs(3600),
        objects: 4096,
    };
    let mut all = Vec::new();
    super::functions::each(&stacks.reader, collectors, bounds, |made| all.push(made));
    all
}

pub(super) fn stacks(memory: MadeUp, layout: Layout) -> Stacks<MadeUp> {
    Stacks {
        reader: Reader::new(memory, layout),
        runtime: RUNTIME,
        version: "3.99".to_owned(),
    }
}

pub(super) fn tasks() -> HashMap<u32, u32> {
    HashMap::from([(ID, ID + 1)])
}

/// Looks at everything that there is, as `pystap dump` does.
pub(super) fn look_at(made_up: MadeUp, layout: Layout) {
    let stacks = stacks(made_up, layout);
    if let Ok(found) = stacks.threads(&tasks()) {
        for gil in &found.gils {
            let _ = stacks.holder(gil, &found.threads);
        }
        for thread in found.threads.iter().take(8) {
            let _ = stacks.stack(thread);
        }
        let _ = parked(&stacks, &found.collectors, Some(8));
        for thread in found.threads.iter().take(8) {
            let mut near = Near::default();
            for _ in 0..2 {
                let _ = stacks.glimpse(thread, true, &mut near);
            }
            let _ = stacks.name(thread);
        }
        functions(&stacks, &found.collectors);
    }
    let _ = attributes::attribute(&stacks.reader, INSTANCE, "näme");
}
