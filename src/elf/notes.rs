//! Walks the records of an ELF note section or segment: owner, type, description, each padded. Knows no particular
//! owner.

use super::Architecture;
use super::reader::Reader;

/// One note record.
pub(super) struct Note<'a> {
    /// The owner's name, without the closing NUL.
    pub(super) owner: &'a [u8],
    /// Its type, which means something only in combination with the owner.
    pub(super) kind: u32,
    /// Its contents.
    pub(super) description: &'a [u8],
    /// Offset of the record from the beginning of the section, in bytes.
    pub(super) position: usize,
}

/// A record that extends past its section. Nothing after it can be found, since its length is wrong.
pub(super) struct CutOff {
    /// Offset of the record from the beginning of the section, in bytes.
    pub(super) position: usize,
}

/// The records in `bytes`, ending after the first truncated one. `alignment` is the section's; as the format has it, 8
/// pads to 8 bytes and everything else to 4.
pub(super) fn notes(
    bytes: &[u8],
    alignment: u64,
    architecture: Architecture,
) -> impl Iterator<Item = Result<Note<'_>, CutOff>> {
    let padding = if alignment == 8 { 8 } else { 4 };
    let mut reader = Reader::new(bytes, architecture);
    std::iter::from_fn(move || {
        if reader.remaining() == 0 {
            return None;
        }
        let position = bytes.len() - reader.remaining();
        let note = read(&mut reader, padding, position);
        if note.is_none() {
            reader.skip(usize::MAX);
        }
        Some(note.ok_or(CutOff { position }))
    })
}

fn read<'a>(reader: &mut Reader<'a>, padding: usize, position: usize) -> Option<Note<'a>> {
    let owner_size = usize::try_from(reader.u32()?).ok()?;
    let description_size = usize::try_from(reader.u32()?).ok()?;
    let kind = reader.u32()?;
    let owner = reader.take(owner_size)?;
    // The header's 12 bytes count towards the alignment of what follows the owner.
    reader.skip(pad(12 + owner_size, padding));
    let description = reader.take(description_size)?;
    reader.skip(pad(description_size, padding));
    Some(Note {
        owner: owner.strip_suffix(b"\0").unwrap_or(owner),
        kind,
        description,
        position,
    })
}

/// Number of bytes that pad `length` to a multiple of `padding`.
fn pad(length: usize, padding: usize) -> usize {
    length.next_multiple_of(padding) - length
}
