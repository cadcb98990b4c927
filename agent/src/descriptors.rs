//! Descriptors that are certainly ours. The thread that has the sockets has a table of descriptors of its own, so numbers
//! mean nothing to the program there and the program's closing of everything reaches none of them; a child inherits none.
//!
//! The one exception is the time of a fork for which that thread has to end: its sockets then wait, sent and not received,
//! in one socket of the program's table. That one is known by its inode, which no two sockets share, and looked at before
//! each use.

use alloc::vec::Vec;
use core::ffi::c_long;
use core::mem::MaybeUninit;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RawDir, fstat};
use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::libc;

/// `SYS_close_range`, the same number everywhere, and `CLOSE_RANGE_UNSHARE`.
const CLOSE_RANGE: c_long = 436;
const UNSHARE: c_long = 2;

/// Gives the calling thread a table of its own, with nothing in it.
///
/// # Errors
/// Where the kernel can do it in neither way: before 5.9, and with `unshare` forbidden.
pub(crate) unsafe fn leave_the_programs() -> Result<(), Errno> {
    // Copies nothing that it would only close again.
    if libc::syscall(CLOSE_RANGE, 0 as c_long, c_long::from(u32::MAX), UNSHARE) == 0 {
        return Ok(());
    }
    unshare_unsafe(UnshareFlags::FILES)?;
    close_all()
}

/// Closes all that the calling thread's table has, which is nobody else's.
unsafe fn close_all() -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(c"/proc/thread-self/fd", flags, Mode::empty())?;
    let own = directory.as_raw_fd();
    let mut all: Vec<i32> = Vec::new();
    let mut buffer = [MaybeUninit::<u8>::uninit(); 2048];
    let mut entries = RawDir::new(&directory, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = core::str::from_utf8(entry.file_name().to_bytes()).unwrap_or_default();
        all.extend(name.parse::<i32>().ok().filter(|number| *number != own));
    }
    for number in all {
        drop(OwnedFd::from_raw_fd(number));
    }
    Ok(())
}

/// A socket in the program's table.
pub(crate) struct Kept {
    number: i32,
    identity: (u64, u64),
}

impl Kept {
    /// Takes over one that was just made.
    pub(crate) fn new(socket: OwnedFd) -> Result<Kept, Errno> {
        let identity = identity(&socket)?;
        Ok(Kept {
            number: socket.into_raw_fd(),
            identity,
        })
    }

    /// It, if its number still means it.
    pub(crate) fn get(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: asking what a number means does no harm whatever it means.
        let socket = unsafe { BorrowedFd::borrow_raw(self.number) };
        (identity(socket) == Ok(self.identity)).then_some(socket)
    }

    /// Closes it, if its number still means it.
    pub(crate) fn close(self) {
        if self.get().is_some() {
            // SAFETY: it is ours.
            drop(unsafe { OwnedFd::from_raw_fd(self.number) });
        }
    }
}

fn identity(socket: impl AsFd) -> Result<(u64, u64), Errno> {
    let status = fstat(socket)?;
    Ok((status.st_dev, status.st_ino))
}

/// Most descriptors in a message.
const MOST: usize = 16;

/// Sends one byte with descriptors.
pub(crate) fn send(socket: impl AsFd, word: u8, with: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(with)) {
        return Err(Errno::MSGSIZE);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(&[word])], &mut ancillary, flags)?;
    Ok(())
}

/// Receives one byte, with descriptors; nothing at the end of the connection.
pub(crate) fn receive(socket: impl AsFd) -> Result<Option<(u8, Vec<OwnedFd>)>, Errno> {
    let mut word = [0];
    let (length, descriptors) = receive_packet(socket, &mut word)?;
    Ok((length > 0).then_some((word[0], descriptors)))
}

/// Receives one packet, with descriptors; of length 0 at the end of the connection, and longer than the buffer when it did
/// not fit.
pub(crate) fn receive_packet(
    socket: impl AsFd,
    buffer: &mut [u8],
) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC | RecvFlags::TRUNC;
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut ancillary,
        flags,
    )?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok((received.bytes, descriptors))
}
