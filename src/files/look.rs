//! The only way to open a path that others control: whatever is there (a FIFO without a writer, a terminal, a link),
//! the open returns at once, and what was opened is checked before a byte is read.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

/// What is expected at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A regular file.
    File,
    /// A directory.
    Directory,
}

/// Opens a path for reading, if it is what is expected. Its last component must not be a symbolic link; earlier ones
/// may be. Never waits for a FIFO or a device, never acquires a controlling terminal. A file system whose server does
/// not answer can still block this: where others may have mounted one, call it in a process that may be left behind.
///
/// # Errors
/// The error from the system, or `InvalidInput` that says what it is instead.
pub fn look(path: &Path, expected: Look) -> io::Result<File> {
    look_at(CWD, path, expected)
}

/// The same, relative to a directory.
///
/// # Errors
/// As [`look`].
pub fn look_at(directory: impl AsFd, path: &Path, expected: Look) -> io::Result<File> {
    let mut flags =
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY;
    if expected == Look::Directory {
        flags |= OFlags::DIRECTORY;
    }
    let file = match openat(directory, path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        // O_NOFOLLOW's error for a link.
        Err(Errno::LOOP) => return Err(unexpected(FileType::Symlink)),
        // The error for a socket.
        Err(Errno::NXIO) => return Err(unexpected(FileType::Socket)),
        Err(error) => return Err(error.into()),
    };
    let found = FileType::from_raw_mode(fstat(&file)?.st_mode);
    let wanted = match expected {
        Look::File => FileType::RegularFile,
        Look::Directory => FileType::Directory,
    };
    if found == wanted {
        Ok(file)
    } else {
        Err(unexpected(found))
    }
}

fn unexpected(found: FileType) -> io::Error {
    let found = match found {
        FileType::Directory => "a directory",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::RegularFile => "a regular file",
        FileType::Unknown => "of an unknown kind",
    };
    io::Error::new(io::ErrorKind::InvalidInput, format!("it is {found}"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use rustix::fs::mkfifoat;

    use super::*;

    #[test]
    fn a_file_is_opened_and_whatever_else_lies_there_is_named_at_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("file"), "text").expect("written");
        std::os::unix::fs::symlink(at("file"), at("link")).expect("made");
        mkfifoat(CWD, at("fifo"), Mode::from(0o600)).expect("made");
        let _socket = UnixListener::bind(at("socket")).expect("bound");
        let mut text = String::new();
        let mut file = look(&at("file"), Look::File).expect("a file");
        file.read_to_string(&mut text).expect("readable");
        assert_eq!(text, "text");
        look(directory.path(), Look::Directory).expect("a directory");
        for (name, word) in [
            ("link", "a symbolic link"),
            ("fifo", "a FIFO"),
            ("socket", "a socket"),
            (".", "a directory"),
        ] {
            let error = look(&at(name), Look::File).expect_err(name);
            assert!(error.to_string().contains(word), "{name}: {error}");
        }
        let terminal = look(Path::new("/dev/null"), Look::File).expect_err("no file");
        assert!(terminal.to_string().contains("a device"), "{terminal}");
        for name in ["file", "link", "fifo", "socket", "missing"] {
            look(&at(name), Look::Directory).expect_err(name);
        }
    }
}
