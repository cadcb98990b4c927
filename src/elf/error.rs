//! Why an ELF image could not be examined. Messages only: nothing here reads files or decides what happens next.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why [`Image::open`](super::Image::open) or [`Image::parse`](super::Image::parse) gave up. Damage that leaves the rest of
/// the file usable is not an error; it is listed in [`Image::damaged`](super::Image::damaged).
#[derive(Debug, Error)]
pub enum ElfError {
    /// The file could not be opened or read.
    #[error(
        "cannot read {}: {reason}, so its marks are unknown; check the path, and run as root if the file is another user's",
        path.display()
    )]
    Unreadable {
        /// The path that was asked for.
        path: PathBuf,
        /// The error from the system.
        reason: io::Error,
    },
    /// A directory, a device, a pipe or a socket.
    #[error(
        "{} is {what}, not an ordinary file, so it holds no marks; give the path of a Python executable or of libpython",
        path.display()
    )]
    NotOrdinary {
        /// The path that was asked for.
        path: PathBuf,
        /// What it is, with its article.
        what: &'static str,
    },
    /// A text file that begins with `#!`, such as the shims that version managers put on the search path.
    #[error(
        "{} is a script that {} runs, not an ELF file, so it holds no marks; give the interpreter that it leads to \
         (behind pyenv's python3, `python3 -c 'import sys; print(sys.executable)'` prints it)",
        path.display(), interpreter.display()
    )]
    Script {
        /// The path that was asked for.
        path: PathBuf,
        /// The program named after `#!`; empty when there is none.
        interpreter: PathBuf,
        /// The rest of that line (`python3` in `#!/usr/bin/env python3`), handed over as one argument.
        argument: Option<String>,
    },
    /// Some other file type.
    #[error("{} is not an ELF file, so it holds no marks; give the path of a Python executable or of libpython", path.display())]
    NotElf {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The file ends before something that its headers promise.
    #[error(
        "{} ends before its {missing}, so its marks are unknown; the file is incomplete: copy or install it again",
        path.display()
    )]
    Truncated {
        /// The path that was asked for.
        path: PathBuf,
        /// What is cut off.
        missing: &'static str,
    },
    /// No section table, or one without names. The notes of marks are in no segment, so nothing else leads to them.
    #[error(
        "{} has no table of named sections, so its marks cannot be found; use a build that `strip` has left it in, \
         such as your distribution's package",
        path.display()
    )]
    NoSections {
        /// The path that was asked for.
        path: PathBuf,
    },
    /// The headers contradict the ELF format.
    #[error(
        "{} is a damaged ELF file ({problem}), so its marks are unknown; install it again from the package it came from",
        path.display()
    )]
    Malformed {
        /// The path that was asked for.
        path: PathBuf,
        /// What is wrong, without a full stop.
        problem: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_one_line_with_the_file_the_consequence_and_a_remedy() {
        let path = || PathBuf::from("/usr/bin/python3.11");
        let errors = [
            ElfError::Unreadable {
                path: path(),
                reason: io::Error::from(io::ErrorKind::PermissionDenied),
            },
            ElfError::NotOrdinary {
                path: path(),
                what: "a pipe",
            },
            ElfError::Script {
                path: path(),
                interpreter: PathBuf::from("/bin/sh"),
                argument: None,
            },
            ElfError::NotElf { path: path() },
            ElfError::Truncated {
                path: path(),
                missing: "header",
            },
            ElfError::NoSections { path: path() },
            ElfError::Malformed {
                path: path(),
                problem: "invalid ELF class 9".to_string(),
            },
        ];
        for error in errors {
            let message = error.to_string();
            let (happened, remedy) = message
                .split_once("; ")
                .expect("a remedy after a semicolon");
            assert!(happened.contains("/usr/bin/python3.11"), "{message}");
            assert!(happened.contains("marks"), "{message}");
            assert!(!remedy.is_empty() && !message.contains('\n'), "{message}");
        }
    }
}

/// Why debug information cannot be used. A clause that fits after "because" or in brackets; the finding that quotes it
/// says what follows from it and what to do.
#[derive(Debug, Error)]
pub enum DebugError {
    /// The file cannot be opened or is not ELF.
    #[error("{}", reason_alone(.0))]
    Elf(ElfError),
    /// It has no section table.
    #[error("it has no table of named sections")]
    NoSections,
    /// Neither here nor in the file that belongs to it.
    #[error("it has no debug information (no .debug_info section)")]
    NoDebugInformation,
    /// It ends early.
    #[error("it ends before its {0}, so it is incomplete")]
    Truncated(&'static str),
    /// It contradicts the format.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// A part of it is larger than is sensible.
    #[error("its {section} has {size} bytes, more than is read")]
    TooLarge {
        /// The section.
        section: &'static str,
        /// Its size, inflated.
        size: u64,
    },
    /// Reading or inflating failed.
    #[error("its {what} cannot be read: {reason}")]
    Read {
        /// Which part.
        what: &'static str,
        /// What the system or the decompressor said.
        reason: std::io::Error,
    },
    /// gimli could not make sense of it.
    #[error("its DWARF cannot be read: {0}")]
    Dwarf(#[from] gimli::Error),
}

/// An [`ElfError`] speaks of marks; here only the reason is wanted.
fn reason_alone(error: &ElfError) -> String {
    match error {
        ElfError::Unreadable { reason, .. } => format!("it cannot be read: {reason}"),
        ElfError::NotOrdinary { what, .. } => format!("it is {what}, not an ordinary file"),
        ElfError::Truncated { missing, .. } => {
            format!("it ends before its {missing}, so it is incomplete")
        }
        ElfError::Malformed { problem, .. } => format!("it is a damaged ELF file: {problem}"),
        _ => "it is not an ELF file".to_owned(),
    }
}
