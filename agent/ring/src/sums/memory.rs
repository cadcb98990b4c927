//! Memory of the table.

use core::ptr::null_mut;

use rustix::fd::AsFd;
use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::row::{FIRST, Header, MOST_ROWS, Row};
use crate::mapping::{end, is_size};

/// Bytes before the first row: a page wherever this runs.
const HEADER_BYTES: usize = 1 << 16;

/// Bytes of a table of so many rows; `None` for a number that no table has.
pub fn bytes(rows: u32) -> Option<u64> {
    let is_some = rows > FIRST && rows <= MOST_ROWS;
    is_some.then(|| HEADER_BYTES as u64 + u64::from(rows) * size_of::<Row>() as u64)
}

/// A table as one side has it mapped.
#[derive(Debug)]
pub struct Table {
    start: *mut u8,
    length: usize,
    rows: u32,
}

// SAFETY: the memory is this process's until this is dropped, whichever thread looks at it.
unsafe impl Send for Table {}

impl Table {
    /// Maps the table of so many rows that lies behind a ring of so many words, which was [made](crate::new_memory_with) with
    /// room for its [`bytes`].
    ///
    /// # Errors
    /// `EINVAL` for a number of rows that no table has, and for a file that is too short or that others could make shorter;
    /// else what the system says.
    pub fn new(file: impl AsFd, words: u64, rows: u32) -> Result<Table, Errno> {
        Table::at(file, 0, words, rows)
    }

    /// Maps that of the ring which begins so many bytes into the file.
    ///
    /// # Errors
    /// As there.
    pub fn at(file: impl AsFd, ring: u64, words: u64, rows: u32) -> Result<Table, Errno> {
        if !is_size(words) {
            return Err(Errno::INVAL);
        }
        let begin = ring.checked_add(end(words)).ok_or(Errno::INVAL)?;
        let bytes = bytes(rows).ok_or(Errno::INVAL)?;
        let is_sealed = fcntl_get_seals(&file)?.contains(SealFlags::SHRINK);
        let there = u64::try_from(fstat(&file)?.st_size).unwrap_or(0);
        if !is_sealed || begin.checked_add(bytes).is_none_or(|end| end > there) {
            return Err(Errno::INVAL);
        }
        let length = usize::try_from(bytes).map_err(|_| Errno::INVAL)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping.
        let start = unsafe { mmap(null_mut(), length, access, MapFlags::SHARED, &file, begin)? };
        Ok(Table {
            start: start.cast(),
            length,
            rows,
        })
    }

    /// How many rows there are.
    #[inline(always)]
    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    #[inline(always)]
    pub(super) fn header(&self) -> &Header {
        // SAFETY: mapped as long as this lives, aligned to a page, and made of atomics only.
        unsafe { &*self.start.cast() }
    }

    /// A row; the first for a number that is none's.
    #[inline(always)]
    pub(super) fn row(&self, number: u32) -> &Row {
        let number = if number < self.rows { number } else { 0 };
        // SAFETY: one of those that are mapped, made of atomics only.
        unsafe {
            let rows: *const Row = self.start.add(HEADER_BYTES).cast();
            &*rows.add(number as usize)
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: our own mapping, which nobody has beyond this.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}
