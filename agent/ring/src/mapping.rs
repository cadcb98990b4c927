//! The memory of a ring as one side has it mapped.

use core::ptr::null_mut;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, fstat,
    ftruncate, memfd_create,
};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use crate::header::{HEADER_BYTES, Header};

/// Fewest words of a ring's data, and most: a page, and 1 GiB.
const FEWEST: u64 = 1 << 9;
const MOST: u64 = 1 << 27;

/// Most rings in one file.
pub const MOST_RINGS: u32 = 64;

/// A file in memory for a ring of so many words: sealed, so that its size is what it is for everybody who maps it, and
/// with all its pages, so that none has to be found while a program waits for it.
///
/// # Errors
/// `EINVAL` for a number of words that no ring has; else what the system says.
pub fn new_memory(words: u64) -> Result<OwnedFd, Errno> {
    new_memory_with(words, 0)
}

/// The same with room for so many bytes behind the data, for [`sums`](crate::sums).
///
/// # Errors
/// As there.
pub fn new_memory_with(words: u64, more: u64) -> Result<OwnedFd, Errno> {
    new_memory_of_many(1, words, more)
}

/// The same for so many rings, each with such room; [`distance`] says where they are.
///
/// # Errors
/// As there.
pub fn new_memory_of_many(count: u32, words: u64, more: u64) -> Result<OwnedFd, Errno> {
    if !is_size(words) || more > MOST || !(1..=MOST_RINGS).contains(&count) {
        return Err(Errno::INVAL);
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create(c"pystap-ring", flags)?;
    let last = match more {
        0 => bytes(words),
        more => end(words) + more,
    };
    let bytes = u64::from(count - 1) * distance(words, more) + last;
    ftruncate(&file, bytes)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
    Ok(file)
}

/// How far apart the rings of one file begin that have so many words each, and room for so many bytes behind them.
pub const fn distance(words: u64, more: u64) -> u64 {
    end(words) + more.next_multiple_of(HEADER_BYTES as u64)
}

/// Where in the file of a ring of so many words something else may begin: at a page, wherever this runs.
pub(crate) const fn end(words: u64) -> u64 {
    bytes(words).next_multiple_of(HEADER_BYTES as u64)
}

pub(crate) fn is_size(words: u64) -> bool {
    words.is_power_of_two() && (FEWEST..=MOST).contains(&words)
}

/// Bytes of the file of a ring with so many words.
const fn bytes(words: u64) -> u64 {
    HEADER_BYTES as u64 + words * 8
}

/// A mapped ring: its header and, twice, one behind the other, its data.
#[derive(Debug)]
pub struct Mapping {
    start: *mut u8,
    words: u64,
}

// SAFETY: the memory is this process's until this is dropped, whichever thread looks at it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps a ring of so many words.
    ///
    /// # Errors
    /// `EINVAL` for a number of words that no ring has, and for a file that others could make shorter, because memory beyond
    /// the end of a file ends whoever touches it; else what the system says.
    pub fn new(file: impl AsFd, words: u64) -> Result<Mapping, Errno> {
        Mapping::at(file, 0, words)
    }

    /// Maps the one that begins so many bytes into the file, a multiple of their [`distance`].
    ///
    /// # Errors
    /// As there.
    pub fn at(file: impl AsFd, begin: u64, words: u64) -> Result<Mapping, Errno> {
        let is_sealed = fcntl_get_seals(&file)?.contains(SealFlags::SHRINK);
        let length = u64::try_from(fstat(&file)?.st_size).unwrap_or(0);
        let is_there = is_size(words)
            && begin
                .checked_add(bytes(words))
                .is_some_and(|end| end <= length);
        if !is_there || !is_sealed {
            return Err(Errno::INVAL);
        }
        let data = (words * 8) as usize;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping.
        let whole = unsafe {
            mmap_anonymous(
                null_mut(),
                HEADER_BYTES + 2 * data,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let mapping = Mapping {
            start: whole.cast(),
            words,
        };
        let fixed = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: in the place of the mapping above, which is large enough for both.
        unsafe {
            mmap(whole, HEADER_BYTES + data, access, fixed, &file, begin)?;
            let again = whole.cast::<u8>().add(HEADER_BYTES + data).cast();
            mmap(
                again,
                data,
                access,
                fixed,
                &file,
                begin + HEADER_BYTES as u64,
            )?;
        }
        Ok(mapping)
    }

    /// Words of data.
    #[inline(always)]
    pub(crate) fn size(&self) -> u64 {
        self.words
    }

    #[inline(always)]
    pub(crate) fn header(&self) -> &Header {
        // SAFETY: mapped as long as this lives, aligned to a page, and made of atomics only.
        unsafe { &*self.start.cast() }
    }

    /// The data, which runs on for twice its size.
    #[inline(always)]
    pub(crate) fn data(&self) -> *mut u64 {
        // SAFETY: the data is behind the header.
        unsafe { self.start.add(HEADER_BYTES).cast() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let length = HEADER_BYTES + 2 * (self.words * 8) as usize;
        // SAFETY: our own mapping, which nobody has beyond this.
        let _ = unsafe { munmap(self.start.cast(), length) };
    }
}
