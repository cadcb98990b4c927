//! Paths that others can influence. [`strict()`] says whether anyone but root (or, without root, this user) could ever
//! make a path lead elsewhere; [`look()`] opens what may be anything and belong to anyone, without being made to wait.
//!
//! [`reading`] and [`writing`] open the paths that our user names; [`Stream`] writes to what nobody may be reading.

mod look;
pub mod reading;
mod stream;
mod strict;
pub mod writing;

pub use look::{Look, look, look_at};
pub use stream::Stream;
pub use strict::{Lax, strict, strict_for};

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{FileType, Mode, OFlags};

/// What a file is, in words, if it is not a regular one.
fn special(kind: FileType) -> Option<&'static str> {
    Some(match kind {
        FileType::RegularFile => return None,
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::BlockDevice => "a disk",
        FileType::CharacterDevice => "a device",
        _ => "no ordinary file",
    })
}

/// Reopens what a descriptor refers to, for us alone. For an `O_PATH` descriptor that is the very file that was
/// checked, whatever its name leads to by now.
fn reopen(found: impl AsFd, flags: OFlags) -> io::Result<File> {
    let name = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    Ok(rustix::fs::open(name, flags, Mode::empty())?.into())
}
