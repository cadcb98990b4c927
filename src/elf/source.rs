//! The bytes of an ELF file, in memory or in a file of which only the requested parts are read. A file may be huge, and
//! its headers may refer to the same gigabyte a thousand times, so the total read from one file is bounded. Files that
//! belong to others are read and never mapped: they may shrink in the meantime.

use std::borrow::Cow;
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Most bytes read from one file, all parts together. An interpreter needs a few hundred kilobytes.
const MOST_READ: u64 = 64 << 20;
/// Bytes read at a time where holes may follow.
const PIECE: u64 = 1 << 20;

/// See the module documentation.
pub(super) struct Source<'a> {
    place: Place<'a>,
    size: u64,
    left: Cell<u64>,
}

enum Place<'a> {
    Memory(&'a [u8]),
    File(&'a File),
}

impl<'a> Source<'a> {
    /// Bytes in memory.
    pub(super) fn memory(bytes: &'a [u8]) -> Source<'a> {
        Source {
            place: Place::Memory(bytes),
            size: bytes.len() as u64,
            left: Cell::new(MOST_READ),
        }
    }

    /// An open regular file.
    pub(super) fn file(file: &'a File) -> io::Result<Source<'a>> {
        Ok(Source {
            size: file.metadata()?.len(),
            place: Place::File(file),
            left: Cell::new(MOST_READ),
        })
    }

    /// Whether there are `length` bytes at `offset`.
    pub(super) fn has(&self, offset: u64, length: u64) -> bool {
        offset
            .checked_add(length)
            .is_some_and(|end| end <= self.size)
    }

    /// The `length` bytes at `offset`; `None` when the file ends before, they cannot be read, or the total bound is
    /// exceeded.
    pub(super) fn read(&self, offset: u64, length: u64) -> Option<Cow<'a, [u8]>> {
        if !self.has(offset, length) {
            return None;
        }
        match self.place {
            Place::Memory(bytes) => {
                let from = usize::try_from(offset).ok()?;
                let to = from.checked_add(usize::try_from(length).ok()?)?;
                bytes.get(from..to).map(Cow::Borrowed)
            }
            Place::File(file) => {
                self.left.set(self.left.get().checked_sub(length)?);
                let mut bytes = vec![0; usize::try_from(length).ok()?];
                file.read_exact_at(&mut bytes, offset).ok()?;
                Some(Cow::Owned(bytes))
            }
        }
    }

    /// The bytes at `offset`, as many of `most` as there are.
    pub(super) fn read_up_to(&self, offset: u64, most: u64) -> Option<Cow<'a, [u8]>> {
        self.read(offset, most.min(self.size.checked_sub(offset)?))
    }

    /// Appends what is stored of a range, without holes, until there are `most` bytes. A NUL separates parts that are
    /// apart in the file.
    pub(super) fn append_stored(&self, offset: u64, length: u64, into: &mut Vec<u8>, most: usize) {
        let end = offset.saturating_add(length).min(self.size);
        let mut at = offset;
        while at < end && into.len() < most {
            let (data, hole) = match self.place {
                Place::Memory(_) => (at, end),
                Place::File(file) => match data_from(file, at) {
                    Some((data, hole)) => (data, hole.min(end)),
                    None => return,
                },
            };
            if data >= end {
                return;
            }
            if data > at {
                into.push(0);
            }
            let room = (most - into.len()) as u64;
            let length = (hole - data).min(PIECE).min(room);
            let Some(bytes) = self.read(data, length) else {
                return;
            };
            into.extend_from_slice(&bytes);
            at = data + length;
        }
        into.push(0);
    }
}

/// The next stored range at or after `at`. Where a file system does not tell, everything counts as stored.
fn data_from(file: &File, at: u64) -> Option<(u64, u64)> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => {
            let hole = seek(file, SeekFrom::Hole(data)).unwrap_or(u64::MAX);
            Some((data, hole.max(data.saturating_add(1))))
        }
        // Only a hole is left up to the end.
        Err(Errno::NXIO) => None,
        Err(_) => Some((at, u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sparse() -> File {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(b"head", 0).expect("written");
        file.write_all_at(b"tail", 512 << 20).expect("written");
        file.set_len(1 << 30).expect("made long");
        file
    }

    #[test]
    fn parts_of_a_file_are_those_of_the_same_bytes_in_memory() {
        let file = tempfile::tempfile().expect("a file");
        let bytes: Vec<u8> = (0..5_000_u32).map(|number| number as u8).collect();
        file.write_all_at(&bytes, 0).expect("written");
        let (file, memory) = (Source::file(&file).expect("a file"), Source::memory(&bytes));
        for (offset, length) in [
            (0, 5_000),
            (17, 900),
            (4_999, 1),
            (5_000, 0),
            (4_999, 2),
            (u64::MAX, 2),
        ] {
            assert_eq!(file.read(offset, length), memory.read(offset, length));
            assert_eq!(
                file.read_up_to(offset, length),
                memory.read_up_to(offset, length)
            );
        }
    }

    #[test]
    fn holes_are_passed_over_and_cost_nothing() {
        let file = sparse();
        let source = Source::file(&file).expect("a file");
        let mut stored = Vec::new();
        source.append_stored(0, 1 << 30, &mut stored, 8 << 20);
        assert!(stored.starts_with(b"head"));
        assert!(
            stored.windows(4).any(|bytes| bytes == b"tail"),
            "found behind a hole"
        );
        assert!(stored.len() < 1 << 20, "{} bytes", stored.len());
    }

    #[test]
    fn what_is_read_of_one_file_altogether_is_bounded() {
        let file = sparse();
        let source = Source::file(&file).expect("a file");
        let read = (0..100)
            .filter(|_| source.read(0, 1 << 20).is_some())
            .count();
        assert_eq!(read as u64, MOST_READ >> 20);
        assert!(source.read(0, 1 << 29).is_none());
        let mut stored = Vec::new();
        source.append_stored(0, 1 << 30, &mut stored, 1 << 20);
        assert!(stored.len() <= 1, "{}", stored.len());
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_only_ends() {
        let file = sparse();
        let source = Source::file(&file).expect("a file");
        file.set_len(2).expect("made short");
        assert!(source.read(0, 4).is_none());
        assert_eq!(source.read(0, 2).as_deref(), Some(b"he".as_slice()));
    }
}
