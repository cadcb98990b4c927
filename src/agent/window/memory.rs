//! The memory of another process. Accesses many small pieces at once: one system call per piece would take most of a
//! window.

use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use super::WindowError;

/// Most pieces per system call (`IOV_MAX`).
const PIECES: usize = 1024;

/// The memory of a process.
#[derive(Debug)]
pub(in crate::agent) struct Memory {
    /// `None` where a file stands in for a process.
    pid: Option<Pid>,
    file: File,
}

impl Memory {
    /// Opens the memory for reading and, if requested, writing.
    pub(in crate::agent) fn open(pid: u32, writable: bool) -> std::io::Result<Memory> {
        let file = OpenOptions::new()
            .read(true)
            .write(writable)
            .open(format!("/proc/{pid}/mem"))?;
        let pid = i32::try_from(pid).map_err(std::io::Error::other)?;
        Ok(Memory {
            pid: Some(Pid::from_raw(pid)),
            file,
        })
    }

    /// A file whose bytes stand in for the memory of a process.
    pub(in crate::agent) fn of_file(file: File) -> Memory {
        Memory { pid: None, file }
    }

    pub(in crate::agent) fn read(&self, address: u64, into: &mut [u8]) -> Result<(), WindowError> {
        self.file.read_exact_at(into, address).map_err(closed)
    }

    /// As much as one read returns.
    pub(in crate::agent) fn read_some(
        &self,
        address: u64,
        into: &mut [u8],
    ) -> Result<usize, WindowError> {
        self.file.read_at(into, address).map_err(closed)
    }

    pub(in crate::agent) fn number(&self, address: u64) -> Result<u64, WindowError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    pub(in crate::agent) fn write(&self, address: u64, bytes: &[u8]) -> Result<(), WindowError> {
        self.file.write_all_at(bytes, address).map_err(closed)
    }

    /// The eight bytes at each of these addresses.
    pub(super) fn numbers(&self, addresses: &[u64]) -> Result<Vec<u64>, WindowError> {
        let mut numbers = Vec::with_capacity(addresses.len());
        for addresses in addresses.chunks(PIECES) {
            let mut bytes = vec![0; addresses.len() * 8];
            let there: Vec<RemoteIoVec> = addresses.iter().map(|at| piece(*at, 8)).collect();
            let read = self.pid.map_or(Err(Errno::ENOSYS), |pid| {
                process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes)], &there)
            });
            match read {
                Ok(length) if length == bytes.len() => {}
                // Not built into this kernel, or not a process.
                Err(Errno::ENOSYS) => {
                    for (at, into) in addresses.iter().zip(bytes.chunks_mut(8)) {
                        self.read(*at, into)?;
                    }
                }
                Ok(_) => return Err(WindowError::Memory(Errno::EFAULT.desc().to_owned())),
                Err(errno) => return Err(WindowError::Memory(errno.desc().to_owned())),
            }
            let words = bytes.chunks_exact(8);
            numbers
                .extend(words.map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())));
        }
        Ok(numbers)
    }

    /// Writes all these pieces, in order.
    pub(super) fn write_all(&self, pieces: &[(u64, &[u8])]) -> Result<(), WindowError> {
        for pieces in pieces.chunks(PIECES) {
            let here: Vec<IoSlice<'_>> = pieces.iter().map(|(_, it)| IoSlice::new(it)).collect();
            let there: Vec<RemoteIoVec> =
                pieces.iter().map(|(at, it)| piece(*at, it.len())).collect();
            let length: usize = pieces.iter().map(|(_, it)| it.len()).sum();
            let written = self.pid.map_or(Err(Errno::ENOSYS), |pid| {
                process_vm_writev(pid, &here, &there)
            });
            match written {
                Ok(written) if written == length => {}
                Err(Errno::ENOSYS) => {
                    for (at, bytes) in pieces {
                        self.write(*at, bytes)?;
                    }
                }
                Ok(_) => return Err(WindowError::Memory(Errno::EFAULT.desc().to_owned())),
                Err(errno) => return Err(WindowError::Memory(errno.desc().to_owned())),
            }
        }
        Ok(())
    }
}

fn piece(address: u64, length: usize) -> RemoteIoVec {
    RemoteIoVec {
        base: usize::try_from(address).unwrap_or(usize::MAX),
        len: length,
    }
}

fn closed(reason: std::io::Error) -> WindowError {
    WindowError::Memory(reason.to_string())
}
