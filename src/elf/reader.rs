//! Reads numbers and strings from a byte string in the file's byte order. Every read is bounds-checked and returns
//! `None` past the end; nothing here knows what the bytes mean.

use super::Architecture;

/// A position in a byte string.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    architecture: Architecture,
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of `bytes`.
    pub(super) fn new(bytes: &'a [u8], architecture: Architecture) -> Self {
        Self {
            rest: bytes,
            architecture,
        }
    }

    /// Number of bytes that have not been read yet.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `length` bytes.
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    /// Advances by `length` bytes, at most to the end.
    pub(super) fn skip(&mut self, length: usize) {
        self.rest = self.rest.get(length..).unwrap_or_default();
    }

    /// A 32-bit number.
    pub(super) fn u32(&mut self) -> Option<u32> {
        let bytes = self.take(4)?.try_into().ok()?;
        Some(if self.architecture.little_endian {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        })
    }

    /// A number of the file's address size.
    pub(super) fn address(&mut self) -> Option<u64> {
        if self.architecture.address_size == 4 {
            return self.u32().map(u64::from);
        }
        let bytes = self.take(8)?.try_into().ok()?;
        Some(if self.architecture.little_endian {
            u64::from_le_bytes(bytes)
        } else {
            u64::from_be_bytes(bytes)
        })
    }

    /// The bytes up to the next NUL, which is consumed too. `None` when there is no NUL.
    pub(super) fn c_string(&mut self) -> Option<&'a [u8]> {
        let length = self.rest.iter().position(|&byte| byte == 0)?;
        let string = self.take(length)?;
        self.skip(1);
        Some(string)
    }
}
