//! The agent's own memory for what is open.

use core::marker::PhantomData;
use core::ptr::null_mut;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// What may be all zeros.
///
/// # Safety
/// Of plain numbers only.
pub(crate) unsafe trait Plain: Copy {}

/// So many things, all zeros at first, that take memory only once they are used. Asked of the kernel and not of the program's
/// `malloc`, of whose locks and limits nobody knows here.
#[derive(Debug)]
pub(crate) struct Many<T: Plain> {
    start: *mut T,
    count: u32,
    of: PhantomData<T>,
}

// SAFETY: its memory is its own.
unsafe impl<T: Plain + Send> Send for Many<T> {}

impl<T: Plain> Many<T> {
    pub(crate) fn new(count: u32) -> Result<Many<T>, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let length = count.max(1) as usize * size_of::<T>();
        // SAFETY: a new mapping.
        let start = unsafe { mmap_anonymous(null_mut(), length, access, flags)? };
        Ok(Many {
            start: start.cast(),
            count: count.max(1),
            of: PhantomData,
        })
    }

    /// One of them; the first for a number that is none's.
    #[inline(always)]
    pub(crate) fn at(&self, number: u32) -> &T {
        // SAFETY: there is at least one, and all are numbers.
        unsafe { &*self.start.add(self.place(number)) }
    }

    #[inline(always)]
    pub(crate) fn at_mut(&mut self, number: u32) -> &mut T {
        // SAFETY: as above, and nobody else has them.
        unsafe { &mut *self.start.add(self.place(number)) }
    }

    #[inline(always)]
    fn place(&self, number: u32) -> usize {
        (if number < self.count { number } else { 0 }) as usize
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }
}

impl<T: Plain> Drop for Many<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping.
        let _ = unsafe { munmap(self.start.cast(), self.count as usize * size_of::<T>()) };
    }
}
