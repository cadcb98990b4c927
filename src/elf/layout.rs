//! The frame of an ELF file: header, sections by name, and which address stands at which file offset. Calls goblin
//! only for headers: goblin's complete parse reads symbols and relocations that nobody here needs, and
//! refuses files over damage in them. Must not interpret what is in a section.

use std::ops::Range;
use std::path::Path;

use goblin::container::Ctx;
use goblin::elf::header::SELFMAG;
use goblin::elf::program_header::{PF_X, PT_DYNAMIC, PT_LOAD, PT_NOTE};
use goblin::elf::section_header::{SHN_UNDEF, SHN_XINDEX, SHT_NOBITS};
use goblin::elf::{Elf, Header, ProgramHeader, SectionHeader};

use super::{Architecture, ElfError, Machine};

/// Headers of a file together with its bytes.
pub(super) struct Layout<'a> {
    bytes: &'a [u8],
    segments: Vec<ProgramHeader>,
    sections: Vec<SectionHeader>,
    section_names: &'a [u8],
    /// Machine, address size and byte order.
    pub(super) architecture: Architecture,
    /// Address of the entry point; 0 for libraries without one.
    pub(super) entry: u64,
}

impl<'a> Layout<'a> {
    /// Reads the headers. The path serves error messages only.
    pub(super) fn parse(path: &Path, bytes: &'a [u8]) -> Result<Self, ElfError> {
        let malformed = |problem: String| ElfError::Malformed {
            path: path.to_path_buf(),
            problem,
        };
        let truncated = |missing: &'static str| ElfError::Truncated {
            path: path.to_path_buf(),
            missing,
        };

        let header = parse_header(path, bytes)?;
        let container = header.container().map_err(|e| malformed(e.to_string()))?;
        let byte_order = header.endianness().map_err(|e| malformed(e.to_string()))?;
        let context = Ctx::new(container, byte_order);
        let architecture = Architecture {
            machine: Machine::of(header.e_machine),
            address_size: if container.is_big() { 8 } else { 4 },
            little_endian: byte_order.is_little(),
        };

        if header.e_phnum > 0 && usize::from(header.e_phentsize) != ProgramHeader::size(context) {
            return Err(malformed(format!(
                "its program headers are said to have {} bytes each",
                header.e_phentsize
            )));
        }
        let offset = usize::try_from(header.e_phoff).unwrap_or(usize::MAX);
        let segments = ProgramHeader::parse(bytes, offset, header.e_phnum.into(), context)
            .map_err(|_| truncated("program headers"))?;

        if header.e_shoff == 0 {
            return Err(ElfError::NoSections {
                path: path.to_path_buf(),
            });
        }
        if usize::from(header.e_shentsize) != SectionHeader::size(context) {
            return Err(malformed(format!(
                "its section headers are said to have {} bytes each",
                header.e_shentsize
            )));
        }
        let offset = usize::try_from(header.e_shoff).unwrap_or(usize::MAX);
        let sections = SectionHeader::parse(bytes, offset, header.e_shnum.into(), context)
            .map_err(|_| truncated("section table"))?;

        // Files with more sections than a 16-bit index can name keep the index in the first, unused section header.
        let names_index = match (u32::from(header.e_shstrndx), sections.first()) {
            (SHN_XINDEX, Some(first)) => first.sh_link,
            (index, _) => index,
        };
        let names_section = sections
            .get(names_index as usize)
            .filter(|_| names_index != SHN_UNDEF)
            .ok_or_else(|| ElfError::NoSections {
                path: path.to_path_buf(),
            })?;
        let section_names =
            contents(bytes, names_section).ok_or_else(|| truncated("section names"))?;

        Ok(Self {
            bytes,
            segments,
            sections,
            section_names,
            architecture,
            entry: header.e_entry,
        })
    }

    /// Every section of this name.
    pub(super) fn sections<'s>(&'s self, name: &'s str) -> impl Iterator<Item = Section<'a>> + 's {
        self.sections
            .iter()
            .filter(move |section| self.is_named(section, name))
            .map(|section| Section {
                address: section.sh_addr,
                file_offset: section.sh_offset,
                alignment: section.sh_addralign,
                contents: contents(self.bytes, section),
            })
    }

    /// The file's part of every note segment, with the segment's alignment.
    pub(super) fn note_segments(&self) -> impl Iterator<Item = (&'a [u8], u64)> + '_ {
        self.segments
            .iter()
            .filter(|segment| segment.p_type == PT_NOTE)
            .filter_map(|segment| {
                let contents = self.slice(segment.p_offset, segment.p_filesz)?;
                Some((contents, segment.p_align))
            })
    }

    /// The dynamic linker's table, when the file has one.
    pub(super) fn dynamic_segment(&self) -> Option<&'a [u8]> {
        self.segments
            .iter()
            .find(|segment| segment.p_type == PT_DYNAMIC)
            .and_then(|segment| self.slice(segment.p_offset, segment.p_filesz))
    }

    /// Where in the file `length` bytes at a virtual address come from. `None` when no loaded segment takes all of them from
    /// the file, as for `.bss`.
    pub(super) fn file_offset(&self, address: u64, length: u64) -> Option<u64> {
        self.segments
            .iter()
            .find_map(|segment| self.offset_within(segment, address, length))
    }

    /// The same for code: only segments that can be executed count.
    pub(super) fn code_offset(&self, address: u64) -> Option<u64> {
        self.segments
            .iter()
            .filter(|segment| segment.p_flags & PF_X != 0)
            .find_map(|segment| self.offset_within(segment, address, 1))
    }

    fn offset_within(&self, segment: &ProgramHeader, address: u64, length: u64) -> Option<u64> {
        if segment.p_type != PT_LOAD {
            return None;
        }
        let into = address.checked_sub(segment.p_vaddr)?;
        if into.checked_add(length)? > segment.p_filesz {
            return None;
        }
        let offset = segment.p_offset.checked_add(into)?;
        (offset.checked_add(length)? <= self.bytes.len() as u64).then_some(offset)
    }

    /// Everything the file holds from an offset on.
    pub(super) fn bytes_from(&self, offset: u64) -> Option<&'a [u8]> {
        self.bytes.get(usize::try_from(offset).ok()?..)
    }

    fn slice(&self, offset: u64, length: u64) -> Option<&'a [u8]> {
        self.bytes.get(range(offset, length)?)
    }

    fn is_named(&self, section: &SectionHeader, name: &str) -> bool {
        self.section_names
            .get(section.sh_name..)
            .and_then(|found| found.strip_prefix(name.as_bytes()))
            .is_some_and(|after| after.first() == Some(&0))
    }
}

/// One section.
pub(super) struct Section<'a> {
    /// Virtual address.
    pub(super) address: u64,
    /// Where its contents begin in the file.
    pub(super) file_offset: u64,
    /// Alignment in bytes.
    pub(super) alignment: u64,
    /// Its bytes; `None` when the file ends before them or does not store them.
    pub(super) contents: Option<&'a [u8]>,
}

fn contents<'a>(bytes: &'a [u8], section: &SectionHeader) -> Option<&'a [u8]> {
    if section.sh_type == SHT_NOBITS {
        return None;
    }
    bytes.get(range(section.sh_offset, section.sh_size)?)
}

fn range(offset: u64, length: u64) -> Option<Range<usize>> {
    let end = offset.checked_add(length)?;
    Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
}

/// The ELF header, or what the file is instead.
pub(super) fn parse_header(path: &Path, bytes: &[u8]) -> Result<Header, ElfError> {
    if let Some(line) = bytes.strip_prefix(b"#!") {
        return Err(script(path, line));
    }
    if bytes.get(..SELFMAG) != Some(goblin::elf::header::ELFMAG.as_slice()) {
        return Err(ElfError::NotElf {
            path: path.to_path_buf(),
        });
    }
    Elf::parse_header(bytes).map_err(|error| match error {
        goblin::error::Error::Malformed(problem) if bytes.len() >= 64 => ElfError::Malformed {
            path: path.to_path_buf(),
            problem,
        },
        _ => ElfError::Truncated {
            path: path.to_path_buf(),
            missing: "header",
        },
    })
}

/// Takes apart the line after `#!` as the kernel does: a program, then everything else as one argument.
fn script(path: &Path, after_marker: &[u8]) -> ElfError {
    /// What the kernel reads of it (`BINPRM_BUF_SIZE`).
    const LINE_LIMIT: usize = 256;
    let line = after_marker
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    let line = String::from_utf8_lossy(line.get(..LINE_LIMIT).unwrap_or(line));
    let line = line.trim();
    let (interpreter, argument) = match line.split_once([' ', '\t']) {
        Some((interpreter, argument)) => (interpreter, Some(argument.trim_start().to_string())),
        None => (line, None),
    };
    ElfError::Script {
        path: path.to_path_buf(),
        interpreter: interpreter.into(),
        argument,
    }
}
