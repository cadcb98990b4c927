//! Whether debug information is present and usable: how many units, which DWARF versions, and one function whose file
//! and line can be resolved. Reads with gimli; the container and its compression are `container`'s business.
//!
//! "The package is installed" proves little: the file may belong to another build, be truncated, or depend on a second
//! file that is missing. Debug information is usable if it can resolve a function.

use std::path::{Path, PathBuf};

use gimli::{EndianSlice, RunTimeEndian};
use serde::{Deserialize, Serialize};

use super::DebugError;
use super::build_id::build_id_in;
use super::container::{Compression, Container};
use super::reader::Reader;

/// No kernel has a larger section among those that are read whole.
const LARGEST_SECTION: u64 = 512 << 20;
/// A single unit has a few megabytes at most.
const LARGEST_UNIT: u64 = 64 << 20;
/// Without an index (`.debug_aranges`) every unit has to be read; in a kernel that takes too long.
const LARGEST_UNINDEXED: u64 = 64 << 20;
/// More units than any program has.
const MOST_UNITS: u64 = 10_000_000;

type Bytes<'a> = EndianSlice<'a, RunTimeEndian>;

/// What a file says about debug information, its own and that of others, without looking into it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Separation {
    /// GNU build ID in lower-case hexadecimal.
    pub build_id: Option<String>,
    /// Whether the file itself contains debug information.
    pub has_debug_information: bool,
    /// `.gnu_debuglink`: name and CRC-32 of the file that contains it.
    pub link: Option<(String, u32)>,
    /// `.gnu_debugaltlink`: path and build ID of a file with what several debug files share (made by `dwz`).
    pub supplement: Option<(String, String)>,
}

impl Separation {
    /// Reads the headers and notes of a file.
    ///
    /// # Errors
    /// [`DebugError`] when it is not a complete ELF file.
    pub fn of(path: &Path) -> Result<Separation, DebugError> {
        Separation::in_container(&Container::open(path)?)
    }

    fn in_container(container: &Container) -> Result<Separation, DebugError> {
        const SMALL: u64 = 64 << 10;
        let link = container.contents(".gnu_debuglink", SMALL)?;
        let supplement = container.contents(".gnu_debugaltlink", SMALL)?;
        let build_id = container
            .notes()?
            .iter()
            .find_map(|(notes, alignment)| build_id_in(notes, *alignment, container.architecture));
        Ok(Separation {
            build_id,
            has_debug_information: container.has(".debug_info"),
            link: debug_link(&link, container),
            supplement: split_at_nul(&supplement)
                .map(|(path, id)| (path, id.iter().map(|byte| format!("{byte:02x}")).collect())),
        })
    }
}

/// Parses a `.gnu_debuglink`: a name, padding to four bytes, and a checksum in the file's byte order.
fn debug_link(bytes: &[u8], container: &Container) -> Option<(String, u32)> {
    let (name, rest) = split_at_nul(bytes)?;
    let padding = (name.len() + 1).next_multiple_of(4) - (name.len() + 1);
    let mut reader = Reader::new(rest.get(padding..)?, container.architecture);
    Some((name, reader.u32()?))
}

fn split_at_nul(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    let name = String::from_utf8_lossy(bytes.get(..end)?).into_owned();
    (!name.is_empty()).then_some((name, bytes.get(end + 1..)?))
}

/// Debug information that was opened and tried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebugInformation {
    /// The file.
    pub path: PathBuf,
    /// Its GNU build ID.
    pub build_id: Option<String>,
    /// How `.debug_info` is stored.
    pub compression: Compression,
    /// Number of compilation units.
    pub units: u64,
    /// DWARF versions that occur, ascending.
    pub versions: Vec<u16>,
    /// A function that was resolved with it.
    pub resolved: Option<Resolved>,
    /// Why no function could be resolved, if none could.
    pub unresolved: Option<String>,
    /// The supplementary file that it depends on.
    pub supplement: Option<Supplement>,
}

/// Where a function is defined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// Its name.
    pub function: String,
    /// Source file, as it was passed to the compiler.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
}

/// A supplementary file (`.gnu_debugaltlink`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supplement {
    /// As the link names it.
    pub name: String,
    /// The build ID that it must have.
    pub build_id: String,
    /// Where it was found; without it (`None`) names are missing.
    pub found: Option<PathBuf>,
}

impl DebugInformation {
    /// Opens the debug information in `path` and tries to resolve one of `functions`, in this order. `supplement` finds
    /// the file of a `.gnu_debugaltlink` by name and build ID.
    ///
    /// # Errors
    /// [`DebugError`]. That no function can be resolved is not an error but [`DebugInformation::unresolved`].
    pub fn examine(
        path: &Path,
        functions: &[&str],
        supplement: impl FnOnce(&str, &str) -> Option<PathBuf>,
    ) -> Result<DebugInformation, DebugError> {
        let container = Container::open(path)?;
        let separation = Separation::in_container(&container)?;
        let Some(section) = container.section(".debug_info")? else {
            return Err(DebugError::NoDebugInformation);
        };
        let supplement = separation.supplement.map(|(name, build_id)| Supplement {
            found: supplement(&name, &build_id),
            name,
            build_id,
        });
        let symbol = symbol(&container, functions)?;
        let index = symbol
            .as_ref()
            .map(|symbol| unit_in_index(&container, symbol.address))
            .transpose()?
            .flatten();
        let walk = Walk::through(&container, index)?;
        let outcome = match &symbol {
            None => Err(format!(
                "its symbol table has none of {}",
                functions.join(", ")
            )),
            Some(symbol) => resolve(&container, &walk, symbol, supplement.as_ref())?,
        };
        let (resolved, unresolved) = match outcome {
            Ok(resolved) => (Some(resolved), None),
            Err(reason) => (None, Some(reason)),
        };
        Ok(DebugInformation {
            path: path.to_owned(),
            build_id: separation.build_id,
            compression: section.compression,
            units: walk.units,
            versions: walk.versions,
            resolved,
            unresolved,
            supplement,
        })
    }
}

/// A function from the symbol table.
struct Symbol {
    name: String,
    address: u64,
}

fn symbol(container: &Container, functions: &[&str]) -> Result<Option<Symbol>, DebugError> {
    let symbols = container.contents(".symtab", LARGEST_SECTION)?;
    let names = container.contents(".strtab", LARGEST_SECTION)?;
    let wide = container.architecture.address_size == 8;
    let entry = if wide { 24 } else { 16 };
    let mut best: Option<(usize, u64)> = None;
    for bytes in symbols.chunks_exact(entry) {
        let mut reader = Reader::new(bytes, container.architecture);
        let name = reader.u32().unwrap_or_default();
        // Elf64_Sym: name, info, other, section, value, size; Elf32_Sym has value and size before info.
        let (info, address) = if wide {
            let info = reader.take(4).and_then(|bytes| bytes.first().copied());
            (info, reader.address())
        } else {
            let address = reader.address();
            reader.skip(4);
            (
                reader.take(1).and_then(|bytes| bytes.first().copied()),
                address,
            )
        };
        let (Some(info), Some(address)) = (info, address) else {
            continue;
        };
        if info & 0xf != 2 || address == 0 {
            continue;
        }
        let Some(name) = names.get(name as usize..) else {
            continue;
        };
        let rank = functions.iter().position(|function| {
            name.strip_prefix(function.as_bytes())
                .is_some_and(|rest| rest.first() == Some(&0))
        });
        if let Some(rank) = rank
            && best.is_none_or(|(found, _)| rank < found)
        {
            best = Some((rank, address));
        }
    }
    Ok(best.and_then(|(rank, address)| {
        Some(Symbol {
            name: (*functions.get(rank)?).to_owned(),
            address,
        })
    }))
}

fn endian(container: &Container) -> RunTimeEndian {
    if container.architecture.little_endian {
        RunTimeEndian::Little
    } else {
        RunTimeEndian::Big
    }
}

/// Offset in `.debug_info` of the unit that covers an address, according to the address index.
fn unit_in_index(container: &Container, address: u64) -> Result<Option<u64>, DebugError> {
    let bytes = container.contents(".debug_aranges", LARGEST_SECTION)?;
    let index = gimli::DebugAranges::new(&bytes, endian(container));
    let mut headers = index.headers();
    while let Some(header) = headers.next()? {
        let mut entries = header.entries();
        while let Some(entry) = entries.next()? {
            if entry.range().begin <= address && address < entry.range().end {
                return Ok(Some(header.debug_info_offset().0 as u64));
            }
        }
    }
    Ok(None)
}

/// One pass over the headers of all units, keeping the units that matter.
struct Walk {
    units: u64,
    versions: Vec<u16>,
    /// The bytes of the unit that the index points to, or of all units when there is no index.
    kept: Vec<Vec<u8>>,
    /// Why no unit was kept.
    unkept: Option<String>,
}

impl Walk {
    fn through(container: &Container, wanted: Option<u64>) -> Result<Walk, DebugError> {
        let mut walk = Walk {
            units: 0,
            versions: Vec::new(),
            kept: Vec::new(),
            unkept: None,
        };
        let Some(section) = container.section(".debug_info")? else {
            return Err(DebugError::NoDebugInformation);
        };
        let all = wanted.is_none() && section.size <= LARGEST_UNINDEXED;
        if wanted.is_none() && !all {
            walk.unkept = Some(
                "it has no index of addresses (.debug_aranges) and is too large to be searched"
                    .to_owned(),
            );
        }
        let mut stream = container.stream(&section, ".debug_info")?;
        while stream.position() < section.size {
            let offset = stream.position();
            let mut head = Vec::new();
            stream.take(4, &mut head)?;
            let mut reader = Reader::new(&head, container.architecture);
            let mut length = u64::from(reader.u32().unwrap_or_default());
            if length == 0xffff_ffff {
                // 64-bit DWARF.
                let mut wide = Vec::new();
                stream.take(8, &mut wide)?;
                length = u64_of(&wide, container);
                head.extend_from_slice(&wide);
            } else if length >= 0xffff_fff0 {
                return Err(DebugError::Damaged(format!(
                    "the unit at {offset:#x} of .debug_info has no valid length"
                )));
            }
            if length > section.size || walk.units >= MOST_UNITS {
                return Err(DebugError::Damaged(format!(
                    "the unit at {offset:#x} of .debug_info is longer than the section"
                )));
            }
            if length < 2 {
                // Linkers pad with zeros between units.
                stream.skip(length)?;
                continue;
            }
            let mut unit = head;
            let version_at = unit.len();
            stream.take(2, &mut unit)?;
            let version = u16_of(unit.get(version_at..).unwrap_or_default(), container);
            walk.units += 1;
            if !walk.versions.contains(&version) {
                walk.versions.push(version);
            }
            if (all || wanted == Some(offset)) && length <= LARGEST_UNIT {
                stream.take(length - 2, &mut unit)?;
                walk.kept.push(unit);
            } else {
                stream.skip(length - 2)?;
            }
        }
        walk.versions.sort_unstable();
        Ok(walk)
    }
}

fn u16_of(bytes: &[u8], container: &Container) -> u16 {
    let bytes = bytes.try_into().unwrap_or_default();
    if container.architecture.little_endian {
        u16::from_le_bytes(bytes)
    } else {
        u16::from_be_bytes(bytes)
    }
}

fn u64_of(bytes: &[u8], container: &Container) -> u64 {
    let bytes = bytes.try_into().unwrap_or_default();
    if container.architecture.little_endian {
        u64::from_le_bytes(bytes)
    } else {
        u64::from_be_bytes(bytes)
    }
}

/// Finds the symbol's function in the units that were kept. The inner error is a human-readable reason.
fn resolve(
    container: &Container,
    walk: &Walk,
    symbol: &Symbol,
    supplement: Option<&Supplement>,
) -> Result<Result<Resolved, String>, DebugError> {
    let endian = endian(container);
    let mut sections = gimli::DwarfSections::<Vec<u8>>::load(|id| match id {
        // Unneeded section names are not looked up; units are added one at a time below.
        gimli::SectionId::DebugAbbrev
        | gimli::SectionId::DebugAddr
        | gimli::SectionId::DebugLine
        | gimli::SectionId::DebugLineStr
        | gimli::SectionId::DebugRanges
        | gimli::SectionId::DebugRngLists
        | gimli::SectionId::DebugStr
        | gimli::SectionId::DebugStrOffsets => container.contents(id.name(), LARGEST_SECTION),
        _ => Ok(Vec::new()),
    })?;
    let shared = match supplement.and_then(|supplement| supplement.found.as_deref()) {
        Some(path) => Container::open(path)?.contents(".debug_str", LARGEST_SECTION)?,
        None => Vec::new(),
    };
    let sup = gimli::DwarfSections::<Vec<u8>>::load(|id| {
        Ok::<_, DebugError>(match id {
            gimli::SectionId::DebugStr => shared.clone(),
            _ => Vec::new(),
        })
    })?;
    for unit in &walk.kept {
        sections.debug_info = gimli::DebugInfo::from(unit.clone());
        let mut dwarf = sections.borrow(|bytes| EndianSlice::new(bytes, endian));
        dwarf.set_sup(sup.borrow(|bytes| EndianSlice::new(bytes, endian)));
        if let Some(found) = definition(&dwarf, symbol)? {
            return Ok(Ok(found));
        }
    }
    Ok(Err(walk.unkept.clone().unwrap_or_else(|| {
        format!(
            "{} is in its symbol table, but no unit says where it was defined",
            symbol.name
        )
    })))
}

/// The entry of the function that begins at the symbol's address, in the single unit of `dwarf`.
fn definition(
    dwarf: &gimli::Dwarf<Bytes<'_>>,
    symbol: &Symbol,
) -> Result<Option<Resolved>, DebugError> {
    let Some(header) = dwarf.units().next()? else {
        return Ok(None);
    };
    let unit = dwarf.unit(header)?;
    let mut entries = unit.entries();
    while let Some(entry) = entries.next_dfs()? {
        if entry.tag() != gimli::DW_TAG_subprogram {
            continue;
        }
        if !begins_at(dwarf, &unit, entry, symbol.address)? {
            continue;
        }
        let number = |name| {
            entry.attr_value(name).and_then(|value| match value {
                gimli::AttributeValue::FileIndex(index) => Some(index),
                value => value.udata_value(),
            })
        };
        let name = match entry.attr_value(gimli::DW_AT_name) {
            Some(name) => Some(dwarf.attr_string(&unit, name)),
            None => None,
        };
        // A name in a missing supplementary file makes the check fail, as it would make a tracer fail.
        let name = match name {
            Some(Ok(name)) if !name.is_empty() => String::from_utf8_lossy(&name).into_owned(),
            Some(_) => return Ok(None),
            None => symbol.name.clone(),
        };
        if let (Some(file), Some(line)) = (
            number(gimli::DW_AT_decl_file),
            number(gimli::DW_AT_decl_line),
        ) && let Some(file) = file_name(dwarf, &unit, file)?
        {
            return Ok(Some(Resolved {
                function: name,
                file,
                line,
            }));
        }
        return in_line_table(dwarf, &unit, symbol, name);
    }
    Ok(None)
}

/// Whether a function begins at this address: in one piece, or in several, as compilers leave it that move what is seldom
/// run away from the rest.
fn begins_at(
    dwarf: &gimli::Dwarf<Bytes<'_>>,
    unit: &gimli::Unit<Bytes<'_>>,
    entry: &gimli::DebuggingInformationEntry<Bytes<'_>>,
    address: u64,
) -> Result<bool, DebugError> {
    if let Some(value) = entry.attr_value(gimli::DW_AT_low_pc)
        && dwarf.attr_address(unit, value)? == Some(address)
    {
        return Ok(true);
    }
    let Some(value) = entry.attr_value(gimli::DW_AT_ranges) else {
        return Ok(false);
    };
    let Some(mut ranges) = dwarf.attr_ranges(unit, value)? else {
        return Ok(false);
    };
    while let Some(range) = ranges.next()? {
        if range.begin == address {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The line-table row for the symbol's address.
fn in_line_table(
    dwarf: &gimli::Dwarf<Bytes<'_>>,
    unit: &gimli::Unit<Bytes<'_>>,
    symbol: &Symbol,
    function: String,
) -> Result<Option<Resolved>, DebugError> {
    let Some(program) = unit.line_program.clone() else {
        return Ok(None);
    };
    let mut rows = program.rows();
    while let Some((_, row)) = rows.next_row()? {
        if row.address() == symbol.address
            && let Some(line) = row.line()
        {
            let index = row.file_index();
            return Ok(file_name(dwarf, unit, index)?.map(|file| Resolved {
                function,
                file,
                line: line.get(),
            }));
        }
    }
    Ok(None)
}

fn file_name(
    dwarf: &gimli::Dwarf<Bytes<'_>>,
    unit: &gimli::Unit<Bytes<'_>>,
    index: u64,
) -> Result<Option<String>, DebugError> {
    let Some(program) = &unit.line_program else {
        return Ok(None);
    };
    let Some(file) = program.header().file(index) else {
        return Ok(None);
    };
    let text = |value| -> Result<String, DebugError> {
        let bytes = dwarf.attr_string(unit, value)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let name = text(file.path_name())?;
    let directory = match file.directory(program.header()) {
        Some(directory) if !name.starts_with('/') => text(directory)?,
        _ => String::new(),
    };
    Ok(Some(match directory.as_str() {
        "" => name,
        directory => format!("{}/{name}", directory.trim_end_matches('/')),
    }))
}
