//! What an image tells the dynamic linker: which libraries it needs and where to find them. Performs no lookup itself.

use goblin::elf::dynamic::{DT_INIT, DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_STRTAB};

use super::layout::Layout;
use super::reader::Reader;

/// Real programs need a few dozen libraries.
const MOST_LIBRARIES: usize = 1024;
/// Longest string that is accepted; longer ones are not paths.
const LONGEST_STRING: u64 = 16 * 1024;

/// The part of the dynamic table that matters here; empty for a statically linked image.
#[derive(Debug, Default)]
pub(super) struct Dynamic {
    /// `DT_NEEDED`, in order.
    pub(super) needed: Vec<String>,
    /// `DT_RUNPATH`, else `DT_RPATH`, split at colons.
    pub(super) run_paths: Vec<String>,
    /// Address of the function that the dynamic linker calls first (`DT_INIT`).
    pub(super) init: Option<u64>,
}

/// Reads the dynamic table, skipping whatever is damaged.
pub(super) fn dynamic(layout: &Layout) -> Dynamic {
    let Some(table) = layout.dynamic_segment() else {
        return Dynamic::default();
    };
    let mut reader = Reader::new(&table, layout.architecture);
    let entries = std::iter::from_fn(|| Some((reader.address()?, reader.address()?)))
        .take_while(|&(tag, _)| tag != DT_NULL);

    let mut needed = Vec::new();
    let (mut strings, mut run_path, mut old_path, mut init) = (None, None, None, None);
    for (tag, value) in entries {
        match tag {
            DT_NEEDED if needed.len() < MOST_LIBRARIES => needed.push(value),
            DT_STRTAB => strings = Some(value),
            DT_RUNPATH => run_path = Some(value),
            DT_RPATH => old_path = Some(value),
            DT_INIT => init = Some(value),
            _ => {}
        }
    }

    let text = |offset: u64| string_at(layout, strings?, offset);
    // The dynamic linker ignores the older tag when the newer one is present.
    let run_paths = run_path
        .or(old_path)
        .and_then(text)
        .map(|paths| {
            let parts = paths.split(':').filter(|part| !part.is_empty());
            parts.map(String::from).collect()
        })
        .unwrap_or_default();
    Dynamic {
        needed: needed.into_iter().filter_map(text).collect(),
        run_paths,
        init,
    }
}

/// A string of the dynamic string table, whose address is virtual like all addresses in the dynamic table.
fn string_at(layout: &Layout, table: u64, offset: u64) -> Option<String> {
    let start = layout.file_offset(table.checked_add(offset)?, 1)?;
    let bytes = layout.bytes_from(start, LONGEST_STRING)?;
    let string = Reader::new(&bytes, layout.architecture).c_string()?;
    Some(String::from_utf8_lossy(string).into_owned())
}
