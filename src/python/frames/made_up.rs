//! An interpreter that was made up, in any layout, for tests and for the fuzz target `stacks`: a runtime state with one thread,
//! in which one function has called itself.

use std::cell::Cell;
use std::collections::HashMap;

use super::Stacks;
use super::layout::{Frames, Gil, Layout};
use super::memory::{Memory, Unread};
use super::objects::Reader;

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
        if let Some((read, place, number)) = self.change
            && self.reads.get() >= read
        {
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
pub(super) const ID: u32 = 4711;

/// An interpreter with one thread, in which `näme` has called itself.
pub(super) fn interpreter(layout: &Layout) -> MadeUp {
    let mut made_up = MadeUp::default();
    made_up.put(page(21), &[0; PAGE as usize]);
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
    ] {
        made_up.put(TYPE_NAMES + at, name.as_bytes());
        made_up.point(its_type + layout.objects.type_name, TYPE_NAMES + at);
    }
    let objects = layout.objects;
    let mut text = |address: u64, text: &str| {
        made_up.point(address + objects.object_type, STR_TYPE);
        made_up.point(address + objects.str_length, text.chars().count() as u64);
        let (state, begin) = match text.is_ascii() {
            true => (0x64_u32, objects.str_ascii),
            false => (0x24, objects.str_other),
        };
        made_up.put(address + objects.str_state, &state.to_ne_bytes());
        let bytes: Vec<u8> = text.chars().map(|it| it as u8).collect();
        made_up.put(address + begin, &bytes);
    };
    text(NAME, "näme");
    text(FILE, "/file.py");
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
    let name = layout.code.qualname.unwrap_or(layout.code.name);
    made_up.point(CODE + name, NAME);
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
    made_up
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
    }
}
