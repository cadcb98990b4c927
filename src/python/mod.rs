//! The interpreter of a process or of a command: which file contains it, how to open that very file, its version.
//!
//! Looks at files and at /proc. Starts nothing, selects no targets, and leaves ELF to [`crate::elf`].

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::elf::Image;

mod contents;
mod error;
mod examined;
mod file;
pub(crate) mod foreign;
pub(crate) mod frames;
#[doc(hidden)]
pub mod fuzzing;
pub(crate) mod greenlets;
mod library;
pub(crate) mod maps;
pub mod marks;
pub(crate) mod name;
mod process;
mod remote_debug;
mod started;
pub(crate) mod subinterpreters;
pub mod undecodable;
pub mod version;
#[cfg(test)]
pub(crate) mod waiting;

pub use error::PythonError;
pub use examined::{Examined, FileId};
pub(crate) use process::{beginning, looks_like_python, mapped_at, maps_one_of};
pub(crate) use remote_debug::RemoteDebugSwitch;
pub use version::Version;

/// A file that contains a CPython interpreter, seen from a process that runs it or from the command that will.
#[derive(Debug, Clone)]
pub struct Interpreter {
    /// The path as the process itself sees it, in its own mount namespace and below its own root.
    pub path: PathBuf,
    /// A path by which we can open the very file that is mapped: `path` itself where possible, below `/proc/PID/root`
    /// when the process has other mounts, `/proc/PID/exe` or `/proc/PID/map_files/…` when no path leads to the file any
    /// more. All but the first are valid only while the process lives.
    pub reach: PathBuf,
    /// Device and inode of the file: processes with the same one run the same interpreter.
    pub file: FileId,
    /// Whether the interpreter is the program itself or a library.
    pub kind: InterpreterKind,
    /// Its version, found without running it; `None` when unknown.
    pub version: Option<Version>,
    /// What the file says about probing it.
    pub image: Arc<Image>,
    /// Whether the file at `path` is gone or has been replaced (an upgrade under a running process). What is installed
    /// then says nothing about this process; `reach` leads to the old file.
    pub replaced: bool,
}

/// Where a process has its interpreter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InterpreterKind {
    /// The executable is the interpreter (Debian's `python3.11`).
    Executable,
    /// A shared library is, loaded by a small `python3` (Fedora) or by a program that embeds Python (uwsgi).
    Library,
}

impl fmt::Display for InterpreterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InterpreterKind::Executable => "executable",
            InterpreterKind::Library => "library",
        })
    }
}
