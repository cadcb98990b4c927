//! The GNU build ID of an image: the linker's fingerprint, which ties debug information and probes to one exact build.

use std::fmt::Write;

use super::layout::Layout;
use super::notes::notes;
use super::{Architecture, Machine};

/// `NT_GNU_BUILD_ID` of the GNU note types.
const BUILD_ID: u32 = 3;
/// Linkers write 16 or 20 bytes; `--build-id=0x…` allows more, but nothing that long is a fingerprint.
const MOST_BYTES: usize = 64;

/// A build ID section has a few dozen bytes.
const LARGEST_SECTION: u64 = 64 << 10;

/// The build ID as lower-case hexadecimal. Note segments are searched first, as the kernel and debuggers do; a file
/// with nothing but debug information has it only in the section.
pub(super) fn build_id(layout: &Layout) -> Option<String> {
    let in_segments = layout.note_segments();
    let in_section = layout.sections(".note.gnu.build-id").filter_map(|section| {
        Some((
            layout.contents(&section, LARGEST_SECTION)?,
            section.alignment,
        ))
    });
    in_segments
        .chain(in_section)
        .find_map(|(bytes, alignment)| build_id_in(&bytes, alignment, layout.architecture))
}

/// The build ID among the records of a note section or segment.
pub(super) fn build_id_in(
    bytes: &[u8],
    alignment: u64,
    architecture: Architecture,
) -> Option<String> {
    notes(bytes, alignment, architecture)
        .flatten()
        .find(|note| note.owner == b"GNU" && note.kind == BUILD_ID)
        .filter(|note| (1..=MOST_BYTES).contains(&note.description.len()))
        .map(|note| hexadecimal(note.description))
}

/// The running kernel's build ID, from the notes in `/sys/kernel/notes`, which are in this machine's byte order.
pub fn kernel_build_id(notes: &[u8]) -> Option<String> {
    let ours = Architecture {
        machine: Machine::Other(0),
        address_size: if cfg!(target_pointer_width = "64") {
            8
        } else {
            4
        },
        little_endian: cfg!(target_endian = "little"),
    };
    build_id_in(notes, 4, ours)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
