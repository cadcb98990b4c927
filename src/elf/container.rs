//! An ELF file that is too large to be read whole: headers first, sections on demand, compressed sections inflated
//! while reading. A kernel's debug information takes hundreds of megabytes; checking it takes a few of them.
//!
//! Knows containers and compression. What is in a section is for others to read.
//!
//! Of any ELF file only parts are read, by position (`source`). `debug` walks the headers of units and keeps only the
//! unit that the index of addresses names; gimli resolves one function in it.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::read::ZlibDecoder;
use goblin::container::Ctx;
use goblin::elf::SectionHeader;
use goblin::elf::section_header::{SHF_COMPRESSED, SHN_XINDEX, SHT_NOBITS, SHT_NOTE};
use ruzstd::decoding::StreamingDecoder;
use serde::{Deserialize, Serialize};

use super::layout::parse_header;
use super::reader::Reader;
use super::{Architecture, DebugError, Machine};

/// Size of a 64-bit ELF header; a 32-bit one is shorter.
const HEADER_SIZE: usize = 64;
/// Kernels have a few hundred sections; a file with far more is damaged.
const MOST_SECTIONS: usize = 100_000;
/// Section names take a few kilobytes.
const LONGEST_NAMES: u64 = 16 << 20;
/// `ELFCOMPRESS_ZLIB` and `ELFCOMPRESS_ZSTD`.
const ZLIB: u32 = 1;
const ZSTD: u32 = 2;
/// Magic of the older compressed form; the size follows as a big-endian 64-bit number.
const GNU_ZLIB: &[u8; 4] = b"ZLIB";

/// How a section is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Uncompressed.
    None,
    /// `SHF_COMPRESSED` with zlib.
    Zlib,
    /// `SHF_COMPRESSED` with Zstandard.
    Zstd,
    /// The older GNU form: `.zdebug_info` and the like.
    GnuZlib,
}

/// An open file with its section table.
pub(super) struct Container {
    file: File,
    size: u64,
    sections: Vec<(String, SectionHeader)>,
    pub(super) architecture: Architecture,
}

/// A section and how to read its contents.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored {
    offset: u64,
    /// Size in the file, in bytes.
    stored: u64,
    /// Size after decompression, in bytes.
    pub(super) size: u64,
    pub(super) compression: Compression,
}

impl Container {
    /// Opens a regular file and reads its headers.
    pub(super) fn open(path: &Path) -> Result<Container, DebugError> {
        let file = super::image::open_ordinary(path).map_err(DebugError::Elf)?;
        let unreadable = |reason: io::Error| DebugError::Read {
            what: "headers",
            reason,
        };
        let size = file.metadata().map_err(unreadable)?.len();
        let mut head = vec![0; HEADER_SIZE.min(usize::try_from(size).unwrap_or(HEADER_SIZE))];
        file.read_exact_at(&mut head, 0).map_err(unreadable)?;
        let header = parse_header(path, &head).map_err(DebugError::Elf)?;
        let damaged = |problem: goblin::error::Error| DebugError::Damaged(problem.to_string());
        let container = header.container().map_err(damaged)?;
        let byte_order = header.endianness().map_err(damaged)?;
        let context = Ctx::new(container, byte_order);
        let architecture = Architecture {
            machine: Machine::of(header.e_machine),
            address_size: if container.is_big() { 8 } else { 4 },
            little_endian: byte_order.is_little(),
        };
        let mut opened = Container {
            file,
            size,
            sections: Vec::new(),
            architecture,
        };
        if header.e_shoff == 0 {
            return Err(DebugError::NoSections);
        }
        let entry = SectionHeader::size(context);
        if usize::from(header.e_shentsize) != entry {
            return Err(DebugError::Damaged(format!(
                "its section headers are said to have {} bytes each",
                header.e_shentsize
            )));
        }
        let table = |count: usize| -> Result<Vec<SectionHeader>, DebugError> {
            let bytes = opened.bytes(header.e_shoff, (count * entry) as u64, "section table")?;
            // goblin takes a table at offset 0 to mean that there is none.
            let moved = [[0; 8].as_slice(), &bytes].concat();
            SectionHeader::parse(&moved, 8, count, context)
                .map_err(|_| DebugError::Truncated("section table"))
        };
        // A file with more sections than fit in 16 bits keeps their number in the first, unused header.
        let first = table(1)?.into_iter().next().unwrap_or_default();
        let count = match usize::from(header.e_shnum) {
            0 => usize::try_from(first.sh_size).unwrap_or(usize::MAX),
            count => count,
        };
        if count > MOST_SECTIONS {
            return Err(DebugError::Damaged(format!("it claims {count} sections")));
        }
        let headers = table(count)?;
        let names_index = match u32::from(header.e_shstrndx) {
            SHN_XINDEX => first.sh_link,
            index => index,
        };
        let names = headers
            .get(names_index as usize)
            .ok_or(DebugError::NoSections)?;
        if names.sh_size > LONGEST_NAMES {
            return Err(DebugError::Damaged(
                "its section names are far too long".to_owned(),
            ));
        }
        let names = opened.bytes(names.sh_offset, names.sh_size, "section names")?;
        opened.sections = headers
            .into_iter()
            .map(|header| {
                let name = names.get(header.sh_name..).unwrap_or_default();
                let name = Reader::new(name, architecture)
                    .c_string()
                    .unwrap_or_default();
                (String::from_utf8_lossy(name).into_owned(), header)
            })
            .collect();
        Ok(opened)
    }

    /// Whether the file has this section, in either form, and it is not empty.
    pub(super) fn has(&self, name: &str) -> bool {
        self.header(name).is_some()
    }

    fn header(&self, name: &str) -> Option<(&SectionHeader, bool)> {
        let older = name
            .strip_prefix(".debug_")
            .map(|rest| format!(".zdebug_{rest}"));
        self.sections
            .iter()
            .filter(|(_, header)| header.sh_type != SHT_NOBITS && header.sh_size > 0)
            .find_map(|(found, header)| {
                if found == name {
                    Some((header, false))
                } else {
                    (Some(found) == older.as_ref()).then_some((header, true))
                }
            })
    }

    /// The section, unless it is absent. Reads only its compression header.
    pub(super) fn section(&self, name: &str) -> Result<Option<Stored>, DebugError> {
        let Some((header, older)) = self.header(name) else {
            return Ok(None);
        };
        let end = header.sh_offset.checked_add(header.sh_size);
        if end.is_none_or(|end| end > self.size) {
            return Err(DebugError::Truncated(known_name(name)));
        }
        let plain = Stored {
            offset: header.sh_offset,
            stored: header.sh_size,
            size: header.sh_size,
            compression: Compression::None,
        };
        let inflated = |prefix: u64, size: u64, compression| Stored {
            offset: plain.offset + prefix,
            stored: plain.stored.saturating_sub(prefix),
            size,
            compression,
        };
        if older {
            let prefix = self.bytes(plain.offset, 12, known_name(name))?;
            let (marker, size) = prefix.split_at(4);
            let size: [u8; 8] = size.try_into().unwrap_or_default();
            if marker != GNU_ZLIB {
                return Err(DebugError::Damaged(format!(
                    "{name} is named as compressed and is not"
                )));
            }
            return Ok(Some(inflated(
                12,
                u64::from_be_bytes(size),
                Compression::GnuZlib,
            )));
        }
        if header.sh_flags & u64::from(SHF_COMPRESSED) == 0 {
            return Ok(Some(plain));
        }
        // Elf64_Chdr: type, reserved, size, alignment; Elf32_Chdr has no reserved word and 32-bit numbers.
        let length = if self.architecture.address_size == 8 {
            24
        } else {
            12
        };
        let bytes = self.bytes(plain.offset, length, known_name(name))?;
        let mut reader = Reader::new(&bytes, self.architecture);
        let kind = reader.u32();
        if self.architecture.address_size == 8 {
            reader.skip(4);
        }
        let size = reader.address().unwrap_or_default();
        let compression = match kind {
            Some(ZLIB) => Compression::Zlib,
            Some(ZSTD) => Compression::Zstd,
            other => {
                return Err(DebugError::Damaged(format!(
                    "{name} is compressed in a way that is not known ({})",
                    other.unwrap_or_default()
                )));
            }
        };
        Ok(Some(inflated(length, size, compression)))
    }

    /// The contents and alignment of every note section of a sensible size, whatever its name: `.notes` in a kernel,
    /// `.note.gnu.build-id` in programs.
    pub(super) fn notes(&self) -> Result<Vec<(Vec<u8>, u64)>, DebugError> {
        const LARGEST: u64 = 64 << 10;
        self.sections
            .iter()
            .map(|(_, header)| header)
            .filter(|header| header.sh_type == SHT_NOTE && header.sh_size <= LARGEST)
            .map(|header| {
                let bytes = self.bytes(header.sh_offset, header.sh_size, "notes")?;
                Ok((bytes, header.sh_addralign))
            })
            .collect()
    }

    /// A whole section, inflated; empty when the file has none. Refuses one larger than `limit`.
    pub(super) fn contents(&self, name: &str, limit: u64) -> Result<Vec<u8>, DebugError> {
        let Some(section) = self.section(name)? else {
            return Ok(Vec::new());
        };
        if section.size > limit {
            return Err(DebugError::TooLarge {
                section: known_name(name),
                size: section.size,
            });
        }
        let mut bytes = Vec::new();
        self.stream(&section, name)?
            .take(section.size, &mut bytes)?;
        Ok(bytes)
    }

    /// A stream over a section, from its beginning.
    pub(super) fn stream(&self, section: &Stored, name: &str) -> Result<SectionStream, DebugError> {
        let name = known_name(name);
        let stored = Span {
            file: self
                .file
                .try_clone()
                .map_err(|reason| DebugError::Read { what: name, reason })?,
            at: section.offset,
            end: section.offset + section.stored,
        };
        let source = match section.compression {
            Compression::None => Source::Plain(stored),
            Compression::Zlib | Compression::GnuZlib => {
                Source::Inflated(Box::new(ZlibDecoder::new(BufReader::new(stored))))
            }
            Compression::Zstd => {
                let decoder = StreamingDecoder::new(BufReader::new(stored)).map_err(|error| {
                    DebugError::Read {
                        what: name,
                        reason: io::Error::other(error.to_string()),
                    }
                })?;
                Source::Inflated(Box::new(decoder))
            }
        };
        Ok(SectionStream {
            name,
            position: 0,
            source,
        })
    }

    fn bytes(&self, offset: u64, length: u64, what: &'static str) -> Result<Vec<u8>, DebugError> {
        if offset.checked_add(length).is_none_or(|end| end > self.size) {
            return Err(DebugError::Truncated(what));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.file
            .read_exact_at(&mut bytes, offset)
            .map_err(|reason| DebugError::Read { what, reason })?;
        Ok(bytes)
    }
}

/// The section names that errors can refer to.
fn known_name(name: &str) -> &'static str {
    const NAMES: [&str; 11] = [
        ".debug_info",
        ".debug_abbrev",
        ".debug_aranges",
        ".debug_line",
        ".debug_line_str",
        ".debug_str",
        ".debug_str_offsets",
        ".debug_addr",
        ".symtab",
        ".strtab",
        ".gnu_debugaltlink",
    ];
    NAMES
        .into_iter()
        .find(|known| *known == name)
        .unwrap_or("sections")
}

/// A range of a file, read without moving anyone's file position.
struct Span {
    file: File,
    at: u64,
    end: u64,
}

impl Read for Span {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let read = self
            .file
            .read_at(buffer.get_mut(..wanted).unwrap_or_default(), self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

enum Source {
    Plain(Span),
    Inflated(Box<dyn Read>),
}

/// The contents of a section, read piece by piece.
pub(super) struct SectionStream {
    name: &'static str,
    position: u64,
    source: Source,
}

impl SectionStream {
    /// How far the section has been read, in inflated bytes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Appends the next `length` bytes.
    pub(super) fn take(&mut self, length: u64, into: &mut Vec<u8>) -> Result<(), DebugError> {
        // Do not trust the size that the file claims: the vector grows only by what is really read.
        let read = match &mut self.source {
            Source::Plain(span) => span.take(length).read_to_end(into),
            Source::Inflated(source) => source.take(length).read_to_end(into),
        }
        .map_err(|reason| DebugError::Read {
            what: self.name,
            reason,
        })?;
        self.position += read as u64;
        if read as u64 == length {
            Ok(())
        } else {
            Err(DebugError::Truncated(self.name))
        }
    }

    /// Skips the next `length` bytes.
    pub(super) fn skip(&mut self, length: u64) -> Result<(), DebugError> {
        match &mut self.source {
            Source::Plain(span) => {
                let end = span.at.checked_add(length);
                match end {
                    Some(end) if end <= span.end => span.at = end,
                    _ => return Err(DebugError::Truncated(self.name)),
                }
            }
            Source::Inflated(source) => {
                let passed =
                    io::copy(&mut source.take(length), &mut io::sink()).map_err(|reason| {
                        DebugError::Read {
                            what: self.name,
                            reason,
                        }
                    })?;
                if passed != length {
                    return Err(DebugError::Truncated(self.name));
                }
            }
        }
        self.position += length;
        Ok(())
    }
}
