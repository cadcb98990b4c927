//! Small ELF images for the tests, built field by field from the ELF specification: either class, either byte order,
//! with as much or as little as a test needs. Uses neither goblin nor the code under test, so that it can contradict
//! them.

use super::{Architecture, Machine};

/// What an image contains. [`Default`] is a 64-bit little-endian x86 library with one code and one data segment.
#[derive(Debug, Clone)]
pub(super) struct Synthetic {
    pub(super) machine: u16,
    pub(super) wide: bool,
    pub(super) little_endian: bool,
    /// Address of `.stapsdt.base`; `None` leaves the section out.
    pub(super) base: Option<u64>,
    /// The whole contents of `.note.stapsdt`.
    pub(super) notes: Vec<u8>,
    pub(super) build_id: Vec<u8>,
    /// Entries of the dynamic table; string values are offsets into [`Synthetic::strings`].
    pub(super) dynamic: Vec<(u64, u64)>,
    pub(super) strings: Vec<u8>,
    pub(super) entry: u64,
    pub(super) with_sections: bool,
}

/// Address of the code segment and its size in the file, in bytes.
pub(super) const CODE: u64 = 0x1_0000;
pub(super) const CODE_SIZE: u64 = 0x100;
/// Address of the data segment, its size in the file, and its size in memory where `.bss` follows.
pub(super) const DATA: u64 = 0x2_0000;
pub(super) const DATA_SIZE: u64 = 0x20;
const DATA_MEMORY: u64 = 0x80;
/// Address of the dynamic string table.
const STRINGS: u64 = 0x3_0000;
/// Address of `.stapsdt.base` unless a test moves it.
pub(super) const BASE: u64 = 0x1_00f0;

impl Default for Synthetic {
    fn default() -> Self {
        Self {
            machine: 62,
            wide: true,
            little_endian: true,
            base: Some(BASE),
            notes: Vec::new(),
            build_id: Vec::new(),
            dynamic: Vec::new(),
            strings: Vec::new(),
            entry: 0,
            with_sections: true,
        }
    }
}

/// The contents of one SystemTap note.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sdt<'a> {
    pub(super) address: u64,
    pub(super) base: u64,
    pub(super) semaphore: u64,
    pub(super) provider: &'a str,
    pub(super) name: &'a str,
    pub(super) arguments: &'a str,
}

impl Default for Sdt<'_> {
    fn default() -> Self {
        Self {
            address: CODE + 0x10,
            base: BASE,
            semaphore: DATA + 2,
            provider: "python",
            name: "line",
            arguments: "8@%rbx",
        }
    }
}

/// A finished image, with the file offsets of what the tests look for.
pub(super) struct Built {
    pub(super) bytes: Vec<u8>,
    pub(super) code_offset: u64,
    pub(super) data_offset: u64,
    pub(super) notes_offset: usize,
    pub(super) section_table_offset: usize,
}

impl Synthetic {
    pub(super) fn aarch64() -> Self {
        Self {
            machine: 183,
            ..Self::default()
        }
    }

    /// Machine, address size and byte order as the code under test should see them.
    pub(super) fn architecture(&self) -> Architecture {
        Architecture {
            machine: match self.machine {
                3 | 62 => Machine::X86,
                183 => Machine::Aarch64,
                other => Machine::Other(other),
            },
            address_size: if self.wide { 8 } else { 4 },
            little_endian: self.little_endian,
        }
    }

    /// Adds a well-formed note.
    pub(super) fn note(self, sdt: Sdt) -> Self {
        let mut description = Vec::new();
        for address in [sdt.address, sdt.base, sdt.semaphore] {
            self.word(&mut description, address);
        }
        for text in [sdt.provider, sdt.name, sdt.arguments] {
            description.extend_from_slice(text.as_bytes());
            description.push(0);
        }
        self.raw_note(b"stapsdt\0", 3, &description)
    }

    /// Adds a note with any owner, type and description.
    pub(super) fn raw_note(mut self, owner: &[u8], kind: u32, description: &[u8]) -> Self {
        let mut notes = std::mem::take(&mut self.notes);
        self.record(&mut notes, owner, kind, description);
        self.notes = notes;
        self
    }

    fn record(&self, out: &mut Vec<u8>, owner: &[u8], kind: u32, description: &[u8]) {
        self.half(out, owner.len() as u64);
        self.half(out, description.len() as u64);
        self.half(out, kind.into());
        for part in [owner, description] {
            out.extend_from_slice(part);
            out.resize(out.len().next_multiple_of(4), 0);
        }
    }

    fn bytes(&self, out: &mut Vec<u8>, value: u64, size: usize) {
        let bytes = value.to_le_bytes();
        let (kept, cut) = bytes.split_at(size);
        assert!(
            cut.iter().all(|&byte| byte == 0),
            "{value:#x} in {size} bytes"
        );
        if self.little_endian {
            out.extend(kept);
        } else {
            out.extend(kept.iter().rev());
        }
    }

    fn quarter(&self, out: &mut Vec<u8>, value: u64) {
        self.bytes(out, value, 2);
    }

    fn half(&self, out: &mut Vec<u8>, value: u64) {
        self.bytes(out, value, 4);
    }

    fn word(&self, out: &mut Vec<u8>, value: u64) {
        self.bytes(out, value, if self.wide { 8 } else { 4 });
    }

    /// Lays out the file: header, program headers, contents, section names, section table.
    pub(super) fn build(&self) -> Built {
        let mut build_id = Vec::new();
        if !self.build_id.is_empty() {
            self.record(&mut build_id, b"GNU\0", 3, &self.build_id);
        }
        let mut dynamic = Vec::new();
        for &(tag, value) in &self.dynamic {
            self.word(&mut dynamic, tag);
            self.word(&mut dynamic, value);
        }

        let (header_size, segment_size, section_size) = if self.wide {
            (64, 56, 64)
        } else {
            (52, 32, 40)
        };
        let segment_count = 5;
        let contents_offset = header_size + segment_count * segment_size;

        // Everything between the program headers and the section table, in order.
        let mut contents = Vec::new();
        let mut place = |bytes: &[u8]| {
            contents.resize(contents.len().next_multiple_of(8), 0);
            let offset = (contents_offset + contents.len()) as u64;
            contents.extend_from_slice(bytes);
            offset
        };
        let code_offset = place(&[0x90; CODE_SIZE as usize]);
        let data_offset = place(&[0; DATA_SIZE as usize]);
        let strings_offset = place(&self.strings);
        let dynamic_offset = place(&dynamic);
        let build_id_offset = place(&build_id);
        let notes_offset = place(&self.notes);
        let names = b"\0.note.stapsdt\0.stapsdt.base\0.shstrtab\0";
        let (name_notes, name_base, name_names) = (1, 15, 29);
        let names_offset = place(names);
        contents.resize(contents.len().next_multiple_of(8), 0);
        let section_table_offset = contents_offset + contents.len();

        let mut sections: Vec<[u64; 6]> = vec![[0; 6]];
        let (progbits, strtab, note) = (1, 3, 7);
        sections.push([
            name_notes,
            note,
            0,
            notes_offset,
            self.notes.len() as u64,
            4,
        ]);
        if let Some(base) = self.base {
            sections.push([name_base, progbits, base, code_offset, 1, 1]);
        }
        sections.push([name_names, strtab, 0, names_offset, names.len() as u64, 1]);

        let mut out = vec![0x7f, b'E', b'L', b'F'];
        out.push(if self.wide { 2 } else { 1 });
        out.push(if self.little_endian { 1 } else { 2 });
        out.push(1);
        out.resize(16, 0);
        self.quarter(&mut out, 3);
        self.quarter(&mut out, self.machine.into());
        self.half(&mut out, 1);
        self.word(&mut out, self.entry);
        self.word(&mut out, header_size as u64);
        let table = if self.with_sections {
            section_table_offset
        } else {
            0
        };
        self.word(&mut out, table as u64);
        self.half(&mut out, 0);
        for value in [header_size, segment_size, segment_count] {
            self.quarter(&mut out, value as u64);
        }
        let count = if self.with_sections {
            sections.len()
        } else {
            0
        };
        self.quarter(&mut out, section_size as u64);
        self.quarter(&mut out, count as u64);
        self.quarter(&mut out, count.saturating_sub(1) as u64);

        let strings_size = self.strings.len() as u64;
        let dynamic_size = dynamic.len() as u64;
        let build_id_size = build_id.len() as u64;
        // Type, flags, offset, address, size in the file, size in memory, alignment.
        let segments: [[u64; 7]; 5] = [
            [1, 5, code_offset, CODE, CODE_SIZE, CODE_SIZE, 1],
            [1, 6, data_offset, DATA, DATA_SIZE, DATA_MEMORY, 1],
            [1, 4, strings_offset, STRINGS, strings_size, strings_size, 1],
            [2, 6, dynamic_offset, 0, dynamic_size, dynamic_size, 8],
            [4, 4, build_id_offset, 0, build_id_size, build_id_size, 4],
        ];
        for [kind, flags, offset, address, size, memory, alignment] in segments {
            self.half(&mut out, kind);
            if self.wide {
                self.half(&mut out, flags);
            }
            for value in [offset, address, address, size, memory] {
                self.word(&mut out, value);
            }
            if !self.wide {
                self.half(&mut out, flags);
            }
            self.word(&mut out, alignment);
        }

        assert_eq!(out.len(), contents_offset);
        out.extend_from_slice(&contents);
        if self.with_sections {
            for [name, kind, address, offset, size, alignment] in sections {
                self.half(&mut out, name);
                self.half(&mut out, kind);
                self.word(&mut out, 0);
                for value in [address, offset, size] {
                    self.word(&mut out, value);
                }
                self.half(&mut out, 0);
                self.half(&mut out, 0);
                self.word(&mut out, alignment);
                self.word(&mut out, 0);
            }
        }
        Built {
            bytes: out,
            code_offset,
            data_offset,
            notes_offset: notes_offset as usize,
            section_table_offset,
        }
    }

    /// Adds dynamic entries for the string table, the needed libraries and `paths`.
    pub(super) fn linked_to(mut self, needed: &[&str], paths: &[(u64, &str)]) -> Self {
        let (dt_needed, dt_strtab) = (1, 5);
        self.strings = vec![0];
        self.dynamic = vec![(dt_strtab, STRINGS)];
        let entries = needed.iter().map(|name| (dt_needed, *name));
        for (tag, text) in entries.chain(paths.iter().copied()) {
            self.dynamic.push((tag, self.strings.len() as u64));
            self.strings.extend_from_slice(text.as_bytes());
            self.strings.push(0);
        }
        self.dynamic.push((0, 0));
        self
    }
}
