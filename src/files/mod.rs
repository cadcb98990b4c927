//! Paths that others have a hand in. [`strict()`] says whether anybody but root (or, without root, this user) could ever
//! put something else where a path leads; [`look()`] opens what may be anything and anybody's, without being kept waiting.
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

/// What a file is, in words, where it is no ordinary one.
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

/// Opens what a descriptor stands for once more, for us alone. Of a descriptor of `O_PATH` that is the very file that was
/// looked at, whatever its name leads to by now.
fn reopen(found: impl AsFd, flags: OFlags) -> io::Result<File> {
    let name = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    Ok(rustix::fs::open(name, flags, Mode::empty())?.into())
}
