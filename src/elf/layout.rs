//! The frame of an ELF file: header, sections by name, and which address is at which file offset. Uses goblin only for
//! headers: its complete parse reads symbols and relocations that nobody here needs, and refuses files that have damage
//! in them. Must not interpret the contents of a section.

use std::borrow::Cow;
use std::path::Path;

use goblin::container::Ctx;
use goblin::elf::header::SELFMAG;
use goblin::elf::program_header::{PF_X, PT_DYNAMIC, PT_LOAD, PT_NOTE};
use goblin::elf::section_header::{SHN_UNDEF, SHN_XINDEX, SHT_NOBITS};
use goblin::elf::{Elf, Header, ProgramHeader, SectionHeader};

use super::source::Source;
use super::{Architecture, ElfError, Machine};

/// A 64-bit header fits; a 32-bit one is shorter. A script's first line is read no further than the kernel reads it.
const HEAD: u64 = 512;
/// Section names take a few kilobytes.
const LONGEST_NAMES: u64 = 4 << 20;
/// A note segment has a few hundred bytes, a dynamic table a few thousand; larger segments of either are ignored.
const LARGEST_SEGMENT: u64 = 1 << 20;
const MOST_NOTE_SEGMENTS: usize = 64;

/// The headers of a file together with its bytes.
pub(super) struct Layout<'a> {
    source: Source<'a>,
    segments: Vec<ProgramHeader>,
    sections: Vec<SectionHeader>,
    section_names: Cow<'a, [u8]>,
    /// Machine, address size and byte order.
    pub(super) architecture: Architecture,
    /// Address of the entry point; 0 for libraries without one.
    pub(super) entry: u64,
}

impl<'a> Layout<'a> {
    /// Reads the headers. The path is for error messages only.
    pub(super) fn parse(path: &Path, source: Source<'a>) -> Result<Self, ElfError> {
        let malformed = |problem: String| ElfError::Malformed {
            path: path.to_path_buf(),
            problem,
        };
        let truncated = |missing: &'static str| ElfError::Truncated {
            path: path.to_path_buf(),
            missing,
        };

        let (header, context, segments) = segments(path, &source)?;
        let architecture = Architecture {
            machine: Machine::of(header.e_machine),
            address_size: if context.container.is_big() { 8 } else { 4 },
            little_endian: context.le.is_little(),
        };

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
        let sections = source
            .read(
                header.e_shoff,
                table_size(header.e_shnum, header.e_shentsize),
            )
            .and_then(|bytes| {
                SectionHeader::parse(&behind_room(&bytes), ROOM, header.e_shnum.into(), context)
                    .ok()
            })
            .ok_or_else(|| truncated("section table"))?;

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
        let section_names = stored(&source, names_section)
            .filter(|(_, size)| *size <= LONGEST_NAMES)
            .and_then(|(offset, size)| source.read(offset, size))
            .ok_or_else(|| truncated("section names"))?;

        Ok(Self {
            source,
            segments,
            sections,
            section_names,
            architecture,
            entry: header.e_entry,
        })
    }

    /// Every section with this name.
    pub(super) fn sections<'s>(&'s self, name: &'s str) -> impl Iterator<Item = Section> + 's {
        self.sections
            .iter()
            .filter(move |section| self.is_named(section, name))
            .map(|section| Section {
                address: section.sh_addr,
                file_offset: section.sh_offset,
                alignment: section.sh_addralign,
                size: stored(&self.source, section).map(|(_, size)| size),
            })
    }

    /// The bytes of a section, if it has at most `most`.
    pub(super) fn contents(&self, section: &Section, most: u64) -> Option<Cow<'a, [u8]>> {
        let size = section.size.filter(|size| *size <= most)?;
        self.source.read(section.file_offset, size)
    }

    /// The file contents of every note segment, with the segment's alignment.
    pub(super) fn note_segments(&self) -> impl Iterator<Item = (Cow<'a, [u8]>, u64)> + '_ {
        self.segments
            .iter()
            .filter(|segment| segment.p_type == PT_NOTE)
            .take(MOST_NOTE_SEGMENTS)
            .filter_map(|segment| Some((self.segment(segment)?, segment.p_align)))
    }

    /// The dynamic table, if the file has one.
    pub(super) fn dynamic_segment(&self) -> Option<Cow<'a, [u8]>> {
        let mut segments = self.segments.iter();
        let dynamic = segments.find(|segment| segment.p_type == PT_DYNAMIC)?;
        self.segment(dynamic)
    }

    fn segment(&self, segment: &ProgramHeader) -> Option<Cow<'a, [u8]>> {
        if segment.p_filesz > LARGEST_SEGMENT {
            return None;
        }
        self.source.read(segment.p_offset, segment.p_filesz)
    }

    /// File offset and address of the first segment that is loaded.
    pub(super) fn first_segment(&self) -> Option<(u64, u64)> {
        let mut segments = self.segments.iter();
        let first = segments.find(|segment| segment.p_type == PT_LOAD)?;
        Some((first.p_offset, first.p_vaddr))
    }

    /// File offset of the `length` bytes at a virtual address. `None` when no loaded segment takes all of them from the
    /// file, as for `.bss`.
    pub(super) fn file_offset(&self, address: u64, length: u64) -> Option<u64> {
        self.segments
            .iter()
            .find_map(|segment| self.offset_within(segment, address, length))
    }

    /// The same for code: only executable segments count.
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
        self.source.has(offset, length).then_some(offset)
    }

    /// The file's contents from an offset on, at most `most` bytes.
    pub(super) fn bytes_from(&self, offset: u64, most: u64) -> Option<Cow<'a, [u8]>> {
        self.source.read_up_to(offset, most)
    }

    fn is_named(&self, section: &SectionHeader, name: &str) -> bool {
        self.section_names
            .get(section.sh_name..)
            .and_then(|found| found.strip_prefix(name.as_bytes()))
            .is_some_and(|after| after.first() == Some(&0))
    }
}

/// One section.
pub(super) struct Section {
    /// Virtual address.
    pub(super) address: u64,
    /// Where its contents begin in the file.
    pub(super) file_offset: u64,
    /// Alignment in bytes.
    pub(super) alignment: u64,
    /// Its bytes in the file; `None` when the file ends before them or does not store them.
    pub(super) size: Option<u64>,
}

/// Offset and size of a section's contents in the file.
fn stored(source: &Source<'_>, section: &SectionHeader) -> Option<(u64, u64)> {
    let (offset, size) = (section.sh_offset, section.sh_size);
    (section.sh_type != SHT_NOBITS && source.has(offset, size)).then_some((offset, size))
}

/// Most of what is loaded into memory from a file, without holes and at most `most` bytes: executable segments with
/// `code`, the others without. Needs no section table.
pub(super) fn loaded(
    path: &Path,
    source: &Source<'_>,
    code: bool,
    most: usize,
) -> Result<Vec<u8>, ElfError> {
    let (_, _, segments) = segments(path, source)?;
    let mut bytes = Vec::new();
    let wanted = |it: &&ProgramHeader| it.p_type == PT_LOAD && (it.p_flags & PF_X != 0) == code;
    for segment in segments.iter().filter(wanted) {
        source.append_stored(segment.p_offset, segment.p_filesz, &mut bytes, most);
        if bytes.len() >= most {
            break;
        }
    }
    Ok(bytes)
}

/// The header and the program headers.
fn segments(
    path: &Path,
    source: &Source<'_>,
) -> Result<(Header, Ctx, Vec<ProgramHeader>), ElfError> {
    let malformed = |problem: String| ElfError::Malformed {
        path: path.to_path_buf(),
        problem,
    };
    let truncated = |missing: &'static str| ElfError::Truncated {
        path: path.to_path_buf(),
        missing,
    };
    let head = source
        .read_up_to(0, HEAD)
        .ok_or_else(|| truncated("header"))?;
    let header = parse_header(path, &head)?;
    let container = header.container().map_err(|e| malformed(e.to_string()))?;
    let byte_order = header.endianness().map_err(|e| malformed(e.to_string()))?;
    let context = Ctx::new(container, byte_order);
    if header.e_phnum == 0 {
        return Ok((header, context, Vec::new()));
    }
    if usize::from(header.e_phentsize) != ProgramHeader::size(context) {
        return Err(malformed(format!(
            "its program headers are said to have {} bytes each",
            header.e_phentsize
        )));
    }
    let segments = source
        .read(
            header.e_phoff,
            table_size(header.e_phnum, header.e_phentsize),
        )
        .and_then(|bytes| {
            ProgramHeader::parse(&behind_room(&bytes), ROOM, header.e_phnum.into(), context).ok()
        })
        .ok_or_else(|| truncated("program headers"))?;
    Ok((header, context, segments))
}

fn table_size(entries: u16, size: u16) -> u64 {
    u64::from(entries) * u64::from(size)
}

/// Bytes put before a table, because goblin takes one at offset 0 to be absent.
const ROOM: usize = 8;

fn behind_room(bytes: &[u8]) -> Vec<u8> {
    [[0; ROOM].as_slice(), bytes].concat()
}

/// The ELF header, or an error saying what the file is instead.
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

/// Splits the line after `#!` as the kernel does: a program, then everything else as one argument.
fn script(path: &Path, after_marker: &[u8]) -> ElfError {
    /// How much of the line the kernel reads (`BINPRM_BUF_SIZE`).
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
