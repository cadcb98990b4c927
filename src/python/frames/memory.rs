//! The memory of a process, read while it runs.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

/// Addresses above belong to the kernel on every machine.
const HIGHEST: u64 = 1 << 56;
/// Most pieces per system call (`IOV_MAX`).
const PIECES: usize = 1024;

/// Why something could not be read.
#[derive(Debug)]
pub(crate) enum Unread {
    /// There is no memory, or what is there makes no sense.
    Senseless,
    /// The process has ended.
    Ended,
    /// We may not.
    Denied(io::Error),
}

/// What can be read like the memory of a process.
pub(crate) trait Memory {
    /// Fills the buffer with what is at this address.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unread>;

    /// As many bytes as are wanted.
    fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, Unread> {
        let mut bytes = vec![0; length];
        self.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// As many bytes as are wanted at each of these addresses, one after the other.
    fn pieces(&self, addresses: &[u64], length: usize) -> Result<Vec<u8>, Unread> {
        let pieces: Vec<_> = addresses.iter().map(|address| (*address, length)).collect();
        self.gather(&pieces)
    }

    /// These pieces, each an address and how many bytes, one after the other and in as little time as can be.
    fn gather(&self, pieces: &[(u64, usize)]) -> Result<Vec<u8>, Unread> {
        let mut bytes = vec![0; total(pieces)];
        let mut rest = bytes.as_mut_slice();
        for (address, length) in pieces {
            let (into, behind) = rest.split_at_mut(*length);
            self.read(*address, into)?;
            rest = behind;
        }
        Ok(bytes)
    }

    /// Eight bytes.
    fn number(&self, address: u64) -> Result<u64, Unread> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Four bytes.
    fn half(&self, address: u64) -> Result<u32, Unread> {
        let mut bytes = [0; 4];
        self.read(address, &mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }
}

/// The eight bytes at an offset of what was read.
pub(super) fn word(bytes: &[u8], at: u64) -> Result<u64, Unread> {
    let at = usize::try_from(at).map_err(|_| Unread::Senseless)?;
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes
        .map(|bytes| u64::from_ne_bytes(*bytes))
        .ok_or(Unread::Senseless)
}

/// The four bytes at an offset of what was read.
pub(super) fn half(bytes: &[u8], at: u64) -> Result<u32, Unread> {
    let at = usize::try_from(at).map_err(|_| Unread::Senseless)?;
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes
        .map(|bytes| u32::from_ne_bytes(*bytes))
        .ok_or(Unread::Senseless)
}

/// The memory of a process. Opened once: a process that gets the same ID later is not mistaken for it as long as the caller
/// looks at the time of its start afterwards.
pub(crate) struct ProcessMemory {
    pid: Pid,
    /// The second way, where a kernel or a filter of system calls does not have the first.
    file: File,
}

impl ProcessMemory {
    /// The memory of this process.
    ///
    /// # Errors
    ///
    /// When we may not read it, or there is no such process.
    pub(crate) fn open(pid: u32) -> io::Result<ProcessMemory> {
        Ok(ProcessMemory {
            pid: Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?),
            file: File::open(format!("/proc/{pid}/mem"))?,
        })
    }

    fn by_file(&self, address: u64, into: &mut [u8]) -> Result<(), Unread> {
        self.file
            .read_exact_at(into, address)
            .map_err(|error| match error.kind() {
                // Nothing is left of the memory of a process that has ended.
                io::ErrorKind::UnexpectedEof => Unread::Ended,
                io::ErrorKind::PermissionDenied => Unread::Denied(error),
                _ => Unread::Senseless,
            })
    }
}

impl Memory for ProcessMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unread> {
        let there = [piece(address, into.len())?];
        let wanted = into.len();
        match process_vm_readv(self.pid, &mut [IoSliceMut::new(into)], &there) {
            Ok(read) if read == wanted => Ok(()),
            Err(Errno::ENOSYS | Errno::EPERM) => self.by_file(address, into),
            Err(Errno::ESRCH) => Err(Unread::Ended),
            Ok(_) | Err(_) => Err(Unread::Senseless),
        }
    }

    // In one system call: a stack has many frames.
    fn gather(&self, pieces: &[(u64, usize)]) -> Result<Vec<u8>, Unread> {
        let mut bytes = vec![0; total(pieces)];
        let mut rest = bytes.as_mut_slice();
        for pieces in pieces.chunks(PIECES) {
            let wanted = total(pieces);
            let (mut into, behind) = rest.split_at_mut(wanted);
            rest = behind;
            let there: Result<Vec<_>, _> = pieces
                .iter()
                .map(|(at, length)| piece(*at, *length))
                .collect();
            match process_vm_readv(self.pid, &mut [IoSliceMut::new(into)], &there?) {
                Ok(read) if read == wanted => {}
                Err(Errno::ENOSYS | Errno::EPERM) => {
                    for (address, length) in pieces {
                        let (piece, behind) = into.split_at_mut(*length);
                        self.by_file(*address, piece)?;
                        into = behind;
                    }
                }
                Err(Errno::ESRCH) => return Err(Unread::Ended),
                Ok(_) | Err(_) => return Err(Unread::Senseless),
            }
        }
        Ok(bytes)
    }
}

/// How many bytes they are.
fn total(pieces: &[(u64, usize)]) -> usize {
    pieces.iter().map(|(_, length)| length).sum()
}

fn piece(address: u64, length: usize) -> Result<RemoteIoVec, Unread> {
    let end = address.checked_add(length as u64);
    if address == 0 || end.is_none_or(|end| end > HIGHEST) {
        return Err(Unread::Senseless);
    }
    Ok(RemoteIoVec {
        base: usize::try_from(address).map_err(|_| Unread::Senseless)?,
        len: length,
    })
}
